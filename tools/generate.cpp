// generate: prompts -> samples by the rollout engine, as text or as JSON lines.
#include <algorithm>
#include <iostream>

#include "rl/data/prompt_template.h"
#include "rl/logging/log.h"
#include "rl/text/unicode.h"
#include "tools/common.h"
#include "tools/json_lines.h"
#include "tools/programs.h"

namespace mantissa {
namespace {

/// Prompts of --prompt or --input: a text under the prompt template, or {"ids": [...]} as it is.
class PromptReader {
 public:
  /// `tokenizer` may be null: then only ids will do.
  PromptReader(const DataConfig& data, const Tokenizer* tokenizer, const TokenizerFiles& files)
      : data_(data), tokenizer_(tokenizer), files_(files), template_(data, files) {}

  Prompt from_text(const std::string& text, int64_t id, const std::string& where) const {
    check(tokenizer_ != nullptr, where, ": a text needs a tokenizer, which ", files_.where, " lacks; give \"ids\"");
    check(to_valid_utf8(text) == text, where, ": is not valid UTF-8");
    Prompt prompt;
    prompt.id = id;
    prompt.text = template_.apply(text);
    prompt.ids = tokenizer_->encode(prompt.text, template_.adds_special());
    check(!prompt.ids.empty(), where, ": the prompt has no tokens");
    return prompt;
  }

  std::vector<Prompt> from_file(const std::string& path) const {
    std::vector<Prompt> prompts;
    for (JsonLines lines(path); lines.next();) {
      check(!lines.has("ids") || !lines.has(data_.prompt_key), lines.where(), ": has both \"", data_.prompt_key,
            "\" and \"ids\": a prompt is given by one of them");
      check(lines.has("ids") || lines.has(data_.prompt_key), lines.where(), ": has neither \"", data_.prompt_key,
            "\" nor \"ids\" (--prompt-key names the key of the prompt)");
      if (lines.has("ids")) {
        prompts.emplace_back().ids = lines.ids("ids");
        prompts.back().id = int64_t(prompts.size()) - 1;
        check(!prompts.back().ids.empty(), lines.where(), ": \"ids\" must not be empty");
      } else {
        prompts.push_back(from_text(lines.text(data_.prompt_key), int64_t(prompts.size()), lines.where()));
      }
    }
    return prompts;
  }

 private:
  const DataConfig& data_;
  const Tokenizer* tokenizer_;
  const TokenizerFiles& files_;
  PromptTemplate template_;
};

}  // namespace

int generate_main(int argc, char** argv) {
  ModelFlags flags;
  DataConfig data;
  data.prompt_key = "prompt";
  RolloutConfig rollout;
  rollout.n = 1;
  rollout.sampling.max_new_tokens = 256;
  std::string prompt, input;
  int64_t seed = 0;
  bool as_json = false;
  Arguments args(
      "generate",
      "Samples of a prompt (--prompt) or of each line of a file (--input; {\"prompt\": text} or {\"ids\": "
      "[...]}): their text, or with --json a line each: {\"prompt\", \"sample\", \"text\", \"finish\", \"ids\", "
      "\"logprobs\"}.");
  flags.fields(args);
  args.field("prompt", prompt, "the prompt");
  args.field("input", input, "JSON lines of prompts; - is standard input");
  args.not_empty();
  std::set<std::string> unused = kTrainingDataKeys;
  unused.insert({"answer_key", "limit", "max_prompt_tokens", "overlong_prompts"});
  args.section("data", data, unused);
  args.section("rollout", rollout);
  args.field("seed", seed, "of the random numbers", at_least(0));
  args.field("json", as_json, "a line of JSON for each sample, with its ids and log-probs");
  if (!args.parse(argc, argv)) return 0;
  check(args.given("prompt") != args.given("input"), "generate: give --prompt or --input, one of them");
  check(args.given("input") || !args.given("prompt_key"), "--prompt-key: belongs to --input, got --prompt");
  say_unread_flags(args, rollout);

  const std::unique_ptr<Model> model = flags.load();
  const bool has_tokenizer = !model->tokenizer.tokenizer_json.empty();
  const std::unique_ptr<Tokenizer> tokenizer = has_tokenizer ? open_tokenizer(*model) : nullptr;
  check(as_json || tokenizer, model->tokenizer.where, ": there is no tokenizer to make text with; --json prints ids");
  const PromptReader reader(data, tokenizer.get(), model->tokenizer);
  const std::vector<Prompt> prompts =
      args.given("prompt") ? std::vector{reader.from_text(prompt, 0, "--prompt")} : reader.from_file(input);

  if (args.given("input") && std::ranges::all_of(prompts, [](const Prompt& p) { return p.text.empty(); }))
    say_unread_flags(args, {"template", "chat-template", "chat-template-kwargs", "system", "prompt-key"},
                     "where every line has \"ids\"");
  else
    note_unknown_markers(data, model->tokenizer, *tokenizer);

  const EnginePrecision precision = flags.engine(*model);
  Engine engine(*model, under_auto(precision.match, rollout), precision);
  const auto options = generate_options(engine, rollout, stop_rule(*model, tokenizer.get(), rollout.sampling), seed);
  const auto completions = engine.generate(requests_for(prompts, rollout.n), options);

  for (size_t i = 0; i < prompts.size(); ++i)
    for (size_t j = 0; j < completions[i].size(); ++j) {
      const Completion& c = completions[i][j];
      if (!as_json) {
        std::cout << c.text << '\n';
        continue;
      }
      JsonObject line;
      line.add("prompt", prompts[i].id).add("sample", int64_t(j));
      if (tokenizer) line.add("text", c.text);
      print(line.add("finish", finish_name(c.finish)).add("ids", c.ids).add("logprobs", c.rollout_logprobs));
    }
  log_info(work_line(engine.stats()));
  return 0;
}

}  // namespace mantissa
