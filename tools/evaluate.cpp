// evaluate: avg@n, pass@k and maj@n of a model on one or several sets of problems; --keep writes the problems
// whose pass rate lies in a range.
//
// --dump is also how an evaluation goes on after it was killed: a problem's line is written when its samples
// are graded, and --resume reads the lines that are there instead of sampling these problems again. On the
// CPU samples do not depend on what else is in a batch, so the results are those of an evaluation that was
// never interrupted; on a GPU a product's last bits may, and so a sample.
#include <charconv>
#include <chrono>
#include <cstdio>
#include <map>
#include <optional>

#include "core/file.h"
#include "core/hash.h"
#include "rl/evaluate.h"
#include "rl/logging/log.h"
#include "rl/text/stop.h"
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

/// The keys and values of a config section as text.
class SettingsText final : public Fields {
 public:
  explicit SettingsText(std::set<std::string> skipped) : skipped_(std::move(skipped)) {}
  void field(const char* key, bool& value, const Help&) override { add(key, value); }
  void field(const char* key, int64_t& value, const Help&, Range) override { add(key, value); }
  void field(const char* key, double& value, const Help&, Range) override { add(key, value); }
  void field(const char* key, std::string& value, const Help&) override { add(key, value); }
  void choice(const char* key, std::string& value, const std::vector<std::string>&, const Help&) override {
    add(key, value);
  }
  void field(const char* key, std::vector<std::string>& value, const Help&) override {
    for (const std::string& v : value) add(key, v);
  }
  const std::string& text() const { return text_; }

 private:
  template <class T>
  void add(const char* key, const T& value) {
    if (!skipped_.contains(key)) text_ += str(key, '=', value, '\n');
  }
  std::set<std::string> skipped_;
  std::string text_;
};

/// Hash of what decides the samples and grades of a set, as 16 hexadecimal digits.
std::string settings_of(const ModelFlags& flags, RolloutConfig rollout, RewardConfig reward,
                        const std::vector<Prompt>& prompts, int64_t seed) {
  SettingsText text({"max_batch", "cache_tokens", "memory_fraction"});
  rollout.fields(text);
  reward.fields(text);
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx",
                (unsigned long long)hash64(
                    str(flags.model, '\n', flags.precision, '\n', text.text(), seed, '\n', data_hash(prompts))));
  return digits;
}

std::string dump_line(const std::string& set, const std::string& settings, const RolloutGroup& group,
                      const ProblemResult& result) {
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
      .add("set", set)
      .add("row", group.prompt.id)
      .add("settings", settings)
      .add("prompt", group.prompt.text)
      .add("answer", group.prompt.answer)
      .add("samples", result.samples)
      .add("correct", result.correct)
      .add("pass_rate", result.pass_rate())
      .add("majority", result.majority)
      .add("reward", result.reward)
      .add("tokens", result.tokens)
      .add("truncated", result.truncated)
      .add("rewards", rewards)
      .add("extracted", extracted)
      .add("finish", finish)
      .add("lengths", lengths)
      .add("responses", responses)
      .str();
}

using Results = std::map<int64_t, ProblemResult>;  // by row

/// The dump of an interrupted evaluation, less the line that it was killed in, and where to go on writing.
struct Dump {
  std::string path;
  std::optional<GrowingFile> file;
  std::map<std::string, Results> known;  // by set
  std::map<std::string, std::string> settings, where;

  void open(bool resume) {
    int64_t whole = 0;
    std::error_code none;
    const auto size = std::filesystem::file_size(path, none);
    check(resume || none || size == 0, "--dump ", path,
          ": holds an earlier evaluation; --resume goes on with it, delete it to start anew");
    if (resume && file_exists(path)) whole = int64_t(read_file(path, size_t(4) << 30).rfind('\n')) + 1;
    file.emplace(path, whole);
    if (whole == 0) return;
    for (JsonLines lines(path); lines.next();) {
      const std::string set = lines.text("set");
      const auto [it, fresh] = settings.emplace(set, lines.text("settings"));
      check(it->second == lines.text("settings"), lines.where(), ": was made by other settings than the line before");
      where[set] = lines.where();
      known[set][lines.integer("row")] = {.row = lines.integer("row"),
                                          .samples = lines.integer("samples"),
                                          .correct = lines.integer("correct"),
                                          .truncated = lines.integer("truncated"),
                                          .tokens = lines.integer("tokens"),
                                          .reward = lines.number("reward"),
                                          .majority = lines.number("majority")};
    }
  }

  /// What is known of a set; an error when it was made by other settings.
  Results take(const std::string& set, const std::string& now) {
    const auto it = settings.find(set);
    if (it == settings.end()) return {};
    check(it->second == now, where[set],
          ": was made with another model, precision, sampling, reward, seed or data; --resume goes on with "
          "the same only");
    return known[set];
  }
};

/// Copies the lines of a data file whose pass rate lies in the range, as they are; returns how many.
int64_t write_kept(AtomicFile& out, const std::string& file, const Results& results, const Range& range) {
  int64_t row = 0, written = 0;
  for (JsonLines lines(file); lines.next(); ++row) {
    const auto it = results.find(row);
    if (it == results.end() || it->second.pass_rate() < range.low || it->second.pass_rate() > range.high) continue;
    out.write(lines.line() + "\n");
    ++written;
  }
  return written;
}

std::vector<ProblemResult> values_of(const Results& results) {
  std::vector<ProblemResult> values;
  for (const auto& [row, result] : results) values.push_back(result);
  return values;
}

void add_interval(JsonObject& line, const std::string& name, double value, const Interval& interval) {
  const float ends[] = {float(interval.low), float(interval.high)};
  line.add(name, value).add(name + "/interval", std::span<const float>(ends));
}

/// The results of a set, or of all together.
JsonObject summary_line(const ModelFlags& flags, const std::string& set, std::span<const ProblemResult> problems) {
  const EvalSummary s = summarize(problems);
  JsonObject line;
  line.add("model", flags.model).add("precision", flags.precision).add("set", set).add("problems", s.problems);
  line.add("n", s.samples);
  add_interval(line, str("avg@", s.samples), s.avg, s.avg_interval);
  add_interval(line, str("maj@", s.samples), s.majority, s.majority_interval);
  for (int64_t k = 1; k < s.samples; k *= 2) line.add(str("pass@", k), pass_at(problems, k));
  add_interval(line, str("pass@", s.samples), s.pass, s.pass_interval);
  line.add("mean_reward", s.mean_reward).add("mean_length", s.mean_length).add("truncated", s.truncated);
  return line;
}

}  // namespace

int evaluate_main(int argc, char** argv) {
  ModelFlags flags;
  DataConfig data;
  RewardConfig reward;
  RolloutConfig rollout;
  rollout.sampling.temperature = 0.6;
  rollout.sampling.top_p = 0.95;
  std::string keep, output;
  Dump dump;
  bool resume = false;
  int64_t seed = 0;
  Arguments args("evaluate",
                 "Samples n responses to every problem and grades them: avg@n, pass@k (unbiased), maj@n with bootstrap "
                 "intervals, one line a file of --data, and one for all where there are several. A sanity set is what "
                 "--keep 0.2:0.8 leaves.");
  flags.fields(args);
  args.field("data", data.files, "JSON lines of problems; each file is a set");
  args.required();
  args.section(data, kTrainingDataKeys);
  args.section(rollout);
  args.section(reward);
  args.field("seed", seed, "of the random numbers", at_least(0));
  args.field("keep", keep, "LOW:HIGH, ends included: write problems with such a pass rate to --output");
  args.field("output", output, "file of --keep: their lines of the data, unchanged");
  args.field("dump", dump.path, "file for one line a problem: responses, extracted answers, rewards");
  args.field("resume", resume, "go on with the problems that --dump does not hold yet");
  if (!args.parse(argc, argv)) return 0;
  reward.validate();
  check(keep.empty() == output.empty(), "evaluate: --keep and --output belong together");
  check(!resume || !dump.path.empty(), "evaluate: --resume needs the --dump of the evaluation to go on with");
  const Range range = keep.empty() ? Range() : parse_keep(keep);
  std::vector<std::string> inputs = data.files;
  inputs.push_back(flags.model);
  check_outputs({{"--output", output}, {"--dump", dump.path}}, inputs);
  std::optional<AtomicFile> output_file;  // opened first: an unwritable place costs no evaluation
  if (!output.empty()) output_file.emplace(output);
  if (!dump.path.empty()) dump.open(resume);

  const std::unique_ptr<Model> model = flags.load();
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(model->tokenizer);
  const std::vector<std::string> names = set_names(data.files);
  std::vector<PromptSet> sets;
  std::vector<Results> results;
  std::vector<std::string> settings;
  for (size_t i = 0; i < names.size(); ++i) {
    DataConfig one = data;
    one.files = {data.files[i]};
    sets.push_back(make_prompts(one, *tokenizer, model->tokenizer, model->config.max_positions, false));
    settings.push_back(settings_of(flags, rollout, reward, sets[i].prompts, seed));
    results.push_back(dump.take(names[i], settings[i]));
    log_info(str(names[i], ": ", sets[i].prompts.size(), " problems, ", sets[i].overlong, " left out as longer than ",
                 sets[i].longest, " tokens; ", rollout.n, " samples each",
                 results[i].empty() ? std::string() : str("; ", results[i].size(), " are in ", dump.path)));
  }

  const PrecisionConfig precision{.train = flags.precision, .rollout = flags.precision};
  Engine engine(*model, rollout, precision.engine(rollout));
  const GenerateOptions options = generate_options(engine, rollout, stop_ids(model->config, *tokenizer), seed);
  // What a kill may cost: a few batches of the engine.
  const size_t chunk = dump.file ? size_t(std::max<int64_t>(1, 4 * rollout.max_batch / rollout.n)) : size_t(-1);
  std::vector<ProblemResult> all;
  for (size_t i = 0; i < names.size(); ++i) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<Prompt> left;
    for (Prompt& prompt : sets[i].prompts)
      if (!results[i].contains(prompt.id)) left.push_back(std::move(prompt));
    Metrics verifier;
    int64_t sampled = 0;
    for (size_t begin = 0; begin < left.size(); begin += std::min(chunk, left.size() - begin)) {
      const auto part = std::span(left).subspan(begin, std::min(chunk, left.size() - begin));
      for (const RolloutGroup& group :
           sample_and_grade(engine, *tokenizer, part, int(rollout.n), options, reward, verifier)) {
        const ProblemResult result = problem_result(group);
        if (dump.file) dump.file->write_line(dump_line(names[i], settings[i], group, result));
        results[i][result.row] = result;
        sampled += result.tokens;
      }
      if (begin + part.size() < left.size())
        log_info(str(names[i], ": ", begin + part.size(), " of ", left.size(), " problems"));
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const std::vector<ProblemResult> problems = values_of(results[i]);
    all.insert(all.end(), problems.begin(), problems.end());
    JsonObject line = summary_line(flags, names[i], problems);
    line.add("overlong", sets[i].overlong).add("seconds", seconds).add("tokens_per_s", double(sampled) / seconds);
    for (const auto& [name, value] : verifier.values()) line.add(name, int64_t(value));
    if (output_file) {
      const int64_t kept = write_kept(*output_file, data.files[i], results[i], range);
      if (kept == 0) log_warning(str(names[i], ": no problem has a pass rate in --keep ", keep));
      line.add("kept", kept);
    }
    print(line);
  }
  if (names.size() > 1) print(summary_line(flags, "all", all));
  if (output_file) output_file->commit();
  return 0;
}

}  // namespace mantissa
