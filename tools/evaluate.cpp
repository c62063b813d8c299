// evaluate: avg@k, pass@k and maj@k of a model on problems; --keep writes the problems whose pass rate lies
// in a range.
#include <charconv>
#include <chrono>
#include <optional>

#include "core/file.h"
#include "rl/evaluate.h"
#include "rl/log.h"
#include "rl/stop.h"
#include "tools/common.h"
#include "tools/json_lines.h"
#include "tools/programs.h"

namespace mantissa {
namespace {

/// "0.2:0.8", ends included.
Range parse_keep(const std::string& text) {
  Range range;
  const char *begin = text.data(), *end = begin + text.size();
  const auto low = std::from_chars(begin, end, range.low);
  const bool colon = low.ec == std::errc() && low.ptr != end && *low.ptr == ':';
  const auto high = colon ? std::from_chars(low.ptr + 1, end, range.high) : low;
  check(colon && high.ec == std::errc() && high.ptr == end && 0 <= range.low && range.low <= range.high &&
            range.high <= 1,
        "--keep must be LOW:HIGH with 0 <= LOW <= HIGH <= 1: got \"", text, "\"");
  return range;
}

std::string dump_line(const RolloutGroup& group) {
  std::vector<std::string> responses, extracted, finish;
  std::vector<float> rewards;
  std::vector<int32_t> lengths;
  for (const RolloutSample& s : group.samples) {
    responses.push_back(s.completion.text);
    extracted.push_back(s.extracted);
    finish.push_back(finish_name(s.completion.finish));
    rewards.push_back(float(s.reward));
    lengths.push_back(int32_t(s.completion.ids.size()));
  }
  return JsonObject()
      .add("row", group.prompt.id)
      .add("prompt", group.prompt.text)
      .add("answer", group.prompt.answer)
      .add("pass_rate", pass_rate(group))
      .add("rewards", rewards)
      .add("extracted", extracted)
      .add("finish", finish)
      .add("lengths", lengths)
      .add("responses", responses)
      .str();
}

/// Copies the lines of the data files whose row is kept, as they are; returns how many.
int64_t write_kept(AtomicFile& out, const std::vector<std::string>& files, const std::set<int64_t>& kept) {
  int64_t row = 0, written = 0;
  for (const std::string& file : files)
    for (JsonLines lines(file); lines.next(); ++row) {
      if (!kept.contains(row)) continue;
      out.write(lines.line() + "\n");
      ++written;
    }
  return written;
}

}  // namespace

int evaluate_main(int argc, char** argv) {
  ModelFlags flags;
  DataConfig data;
  RewardConfig reward;
  RolloutConfig rollout;
  rollout.temperature = 0.6;
  rollout.top_p = 0.95;
  std::string keep, output, dump;
  int64_t seed = 0;
  Arguments args(
      "evaluate",
      "Samples n responses to every problem and grades them: avg@n, pass@k (unbiased), maj@n in one line. A "
      "sanity set is what --keep 0.2:0.8 leaves.");
  flags.fields(args);
  args.field("data", data.files, "JSON lines of problems");
  args.required();
  args.section(data, kTrainingDataKeys);
  args.section(rollout);
  args.section(reward);
  args.field("seed", seed, "of the random numbers", at_least(0));
  args.field("keep", keep, "LOW:HIGH, ends included: write problems with such a pass rate to --output");
  args.field("output", output, "file of --keep: their lines of the data, unchanged");
  args.field("dump", dump, "file for one line a problem: responses, extracted answers, rewards");
  if (!args.parse(argc, argv)) return 0;
  check(keep.empty() == output.empty(), "evaluate: --keep and --output belong together");
  const Range range = keep.empty() ? Range() : parse_keep(keep);
  std::optional<AtomicFile> output_file, dump_file;  // opened first: an unwritable place costs no evaluation
  if (!output.empty()) output_file.emplace(output);
  if (!dump.empty()) dump_file.emplace(dump);

  const std::unique_ptr<Model> model = flags.load();
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(model->tokenizer);
  const PromptSet set = make_prompts(data, *tokenizer, model->tokenizer, false);
  log_info(str(set.prompts.size(), " problems, ", set.overlong, " left out as longer than ",
               data.max_prompt_tokens, " tokens; ", rollout.n, " samples each"));

  Exec exec(*model->backend);
  const PrecisionConfig precision{.train = flags.precision, .rollout = flags.precision};
  Engine engine(exec, *model, rollout, precision.engine(rollout));
  const auto start = std::chrono::steady_clock::now();
  const EvalResult result =
      evaluate_prompts(engine, *tokenizer, set.prompts, int(rollout.n),
                       generate_options(engine, rollout, stop_ids(model->config, *tokenizer), seed), reward);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  std::set<int64_t> kept;
  for (const RolloutGroup& group : result.groups) {
    if (dump_file) dump_file->write(dump_line(group) + "\n");
    const double rate = pass_rate(group);
    if (rate >= range.low && rate <= range.high) kept.insert(group.prompt.id);
  }
  if (dump_file) dump_file->commit();
  JsonObject line;
  line.add("model", flags.model)
      .add("precision", flags.precision)
      .add("problems", int64_t(result.groups.size()));
  line.add("overlong", set.overlong).add("n", rollout.n).add(str("avg@", rollout.n), result.avg);
  line.add(str("maj@", rollout.n), result.majority);
  for (int64_t k = 1; k < rollout.n; k *= 2) line.add(str("pass@", k), result.pass_at(k));
  line.add(str("pass@", rollout.n), result.pass).add("mean_length", result.mean_length);
  line.add("truncated", result.truncated).add("seconds", seconds);
  line.add("tokens_per_s", result.mean_length * double(result.groups.size() * size_t(rollout.n)) / seconds);
  if (output_file) {
    line.add("kept", write_kept(*output_file, data.files, kept));
    output_file->commit();
  }
  print(line);
  return 0;
}

}  // namespace mantissa
