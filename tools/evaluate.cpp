// evaluate: avg@n, pass@k and maj@n of a model on one or several sets of problems; --keep writes the problems whose
// pass rate lies in a range.
//
// --dump is also how an evaluation carries on after it was killed (tools/evaluation_dump.h). On the CPU samples do not
// depend on what else is in a batch, so the results are those of an evaluation that was never interrupted; on a GPU a
// product's last bits may, and so may a sample.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>

#include "core/file.h"
#include "rl/data/prompt_template.h"
#include "rl/evaluate.h"
#include "rl/logging/log.h"
#include "tools/common.h"
#include "tools/evaluation_dump.h"
#include "tools/json_lines.h"
#include "tools/programs.h"

namespace mantissa {
namespace {

struct EvaluateFlags {
  ModelFlags model;
  DataConfig data;
  RewardConfig reward;
  RolloutConfig rollout;
  int64_t seed = 0;
  std::string keep, output, dump;
  bool resume = false;

  /// False when --help was asked for. Throws on flags that do not fit together.
  bool parse(int argc, char** argv) {
    rollout.sampling.temperature = 0.6;
    rollout.sampling.top_p = 0.95;
    Arguments args("evaluate",
                   "Samples n responses to every problem and grades them: avg@n, pass@k (unbiased), maj@n with "
                   "bootstrap intervals, one line a file of --data, and one for all where there are several. A sanity "
                   "set is what --keep 0.2:0.8 leaves.");
    model.fields(args);
    args.field("data", data.files, "JSON lines of problems; each file is a set");
    args.required();
    args.stands_for("data.files");
    args.section("data", data, kTrainingDataKeys);
    args.section("rollout", rollout);
    args.section("reward", reward, {"max_failed_steps"});
    args.field("seed", seed, "of the random numbers", at_least(0));
    args.field(
        "keep", keep,
        "LOW:HIGH, ends included: write problems with such a pass rate to --output; truncated answers count by their text");
    args.not_empty();
    args.field("output", output, "file of --keep: their lines of the data, unchanged");
    args.not_empty();
    args.field("dump", dump, "file for one line a problem: responses, extracted answers, rewards");
    args.not_empty();
    args.field("resume", resume, "carry on with the problems that --dump does not hold yet");
    if (!args.parse(argc, argv)) return false;
    say_unread_flags(args, rollout);
    reward.validate();
    check(!data.answer_key.empty() || !reads_gold(reward), "--answer-key: required by --kind ", reward.kind,
          ", got an empty string");
    check(keep.empty() == output.empty(), "evaluate: --keep and --output belong together");
    check(!resume || !dump.empty(), "evaluate: --resume needs the --dump of the evaluation to carry on");
    if (const std::string again = repeated_file(data.files); !again.empty()) fail("--data: ", again);
    std::vector<std::string> inputs = data.files;
    inputs.insert(inputs.end(), {model.model, model.adapter, data.prompt_template, reward.path});
    check_outputs({{"--output", output, OutputKind::kJsonLines}, {"--dump", dump, OutputKind::kAppended}}, inputs);
    return true;
  }
};

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

/// Copies the lines of a data file whose pass rate lies in the range, as they are; returns how many. A problem with an
/// answer that could not be graded has no pass rate.
int64_t write_kept(AtomicFile& out, const std::string& file, const Results& results, const Range& range) {
  int64_t row = 0, written = 0;
  for (JsonLines lines(file); lines.next(); ++row) {
    const auto it = results.find(row);
    if (it == results.end() || it->second.ungraded() > 0) continue;
    if (it->second.pass_rate() < range.low || it->second.pass_rate() > range.high) continue;
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
  line.add("model", flags.model);
  if (!flags.adapter.empty()) line.add("adapter", flags.adapter);
  line.add("precision", flags.precision).add("set", set).add("problems", s.problems);
  line.add("n", s.samples);
  add_interval(line, str("avg@", s.samples), s.avg, s.avg_interval);
  add_interval(line, str("maj@", s.samples), s.majority, s.majority_interval);
  for (int64_t k = 1; k < s.samples; k *= 2) line.add(str("pass@", k), pass_at(problems, k));
  add_interval(line, str("pass@", s.samples), s.pass, s.pass_interval);
  line.add("mean_reward", s.mean_reward).add("mean_length", s.mean_length).add("truncated", s.truncated);
  return line;
}

/// One file of --data: its problems, and the results so far.
struct ProblemSet {
  std::string name, file, settings = {};
  PromptSet prompts = {};
  Results results = {};  // those of --dump at first

  /// The problems without a result, or with an answer that could not be graded.
  std::vector<Prompt> left() const {
    std::vector<Prompt> out;
    for (const Prompt& prompt : prompts.prompts) {
      const auto it = results.find(prompt.id);
      if (it == results.end() || it->second.ungraded() > 0) out.push_back(prompt);
    }
    return out;
  }
};

class Evaluation {
 public:
  explicit Evaluation(const EvaluateFlags& flags) : flags_(flags) {
    // Opened first: an unwritable place costs no evaluation.
    if (!flags.keep.empty()) range_ = parse_keep(flags.keep);
    if (!flags.output.empty()) output_.emplace(flags.output);
    if (!flags.dump.empty()) dump_.emplace(flags.dump, flags.resume);
    model_ = flags.model.load();
    tokenizer_ = open_tokenizer(*model_);
    load_sets();
  }

  void run() {
    const EnginePrecision precision = flags_.model.engine(*model_);
    Engine engine(*model_, under_auto(precision.match, flags_.rollout), precision);
    std::vector<ProblemResult> all;
    for (ProblemSet& set : sets_) {
      JsonObject line = evaluate(engine, set);
      const std::vector<ProblemResult> problems = values_of(set.results);
      all.insert(all.end(), problems.begin(), problems.end());
      if (output_) line.add("kept", keep(set));
      print(line);
    }
    if (sets_.size() > 1) print(summary_line(flags_.model, "all", all));
    if (output_) output_->commit();
  }

 private:
  void load_sets() {
    const std::vector<std::string>& files = flags_.data.files;
    const std::vector<std::string> names = set_names(files);
    note_unknown_markers(flags_.data, model_->tokenizer, *tokenizer_);
    for (size_t i = 0; i < names.size(); ++i) {
      ProblemSet& set = sets_.emplace_back(ProblemSet{.name = names[i], .file = files[i]});
      DataConfig one = flags_.data;
      one.files = {set.file};
      set.prompts = make_prompts(one, *tokenizer_, model_->tokenizer, model_->config.max_positions, false,
                                 [&](const Record& record) { check_gold(flags_.reward, record.answer, record.where); });
      set.settings = settings_of(flags_.model, flags_.rollout, flags_.reward, set.prompts.prompts, flags_.seed);
      if (dump_) set.results = dump_->take(set.name, set.settings);
      log_info(str(set.name, ": ", set.prompts.prompts.size(), " problems, ", set.prompts.overlong,
                   " left out as longer than ", set.prompts.longest, " tokens; ", flags_.rollout.n, " samples each",
                   set.results.empty() ? std::string() : str("; ", set.results.size(), " are in ", dump_->path())));
    }
  }

  /// Samples and grades what is left of a set; its line of results.
  JsonObject evaluate(Engine& engine, ProblemSet& set) {
    const auto start = std::chrono::steady_clock::now();
    const GenerateOptions options = generate_options(
        engine, flags_.rollout, stop_rule(*model_, tokenizer_.get(), flags_.rollout.sampling), flags_.seed);
    const std::vector<Prompt> left = set.left();
    // With a dump a kill costs a few batches of the engine at most.
    const size_t chunk =
        dump_ ? size_t(std::max<int64_t>(1, 4 * flags_.rollout.max_batch / flags_.rollout.n)) : left.size();
    Metrics counters;
    int64_t sampled = 0;
    for (size_t begin = 0; begin < left.size();) {
      const auto part = std::span(left).subspan(begin, std::min(chunk, left.size() - begin));
      for (const RolloutGroup& group :
           sample_and_grade(engine, part, int(flags_.rollout.n), options, {.one = flags_.reward}, counters)) {
        const ProblemResult result = problem_result(group);
        if (dump_) dump_->write(set.name, set.settings, group, result);
        set.results[result.row] = result;
        sampled += result.tokens;
      }
      begin += part.size();
      if (begin < left.size()) log_info(str(set.name, ": ", begin, " of ", left.size(), " problems"));
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    JsonObject line = summary_line(flags_.model, set.name, values_of(set.results));
    line.add("overlong", set.prompts.overlong).add("seconds", seconds).add("tokens_per_s", double(sampled) / seconds);
    const auto known = [](const auto& entry) { return !entry.second.statuses.empty(); };
    for (const GradeStatus status : kGradeStatuses) {
      if (!std::ranges::all_of(set.results, known)) break;  // lines of a dump by an earlier version
      int64_t count = 0;
      for (const auto& [row, result] : set.results) count += std::ranges::count(result.statuses, status);
      line.add(std::string("verifier/") + status_name(status), count);
    }
    say_ungraded(set);
    return line;
  }

  /// Warns of answers that could not be graded; throws where there are no others.
  void say_ungraded(const ProblemSet& set) const {
    int64_t ungraded = 0, problems = 0, samples = 0;
    std::string reason;
    for (const auto& [row, result] : set.results) {
      samples += result.samples;
      if (result.ungraded() == 0) continue;
      ungraded += result.ungraded();
      ++problems;
      reason = result.failure;
    }
    if (ungraded == 0) return;
    check(ungraded < samples, set.name, ": none of the ", samples, " answers could be graded: ", reason);
    log_warning(str(set.name, ": ", ungraded, " of ", samples, " answers could not be graded and count as wrong",
                    output_ ? str("; --keep leaves out their problems, ", problems) : std::string(), ": ", reason));
  }

  /// Writes what --keep keeps of a set; returns how many problems.
  int64_t keep(const ProblemSet& set) {
    const int64_t kept = write_kept(*output_, set.file, set.results, range_);
    if (kept == 0) log_warning(str(set.name, ": no problem has a pass rate in --keep ", flags_.keep));
    return kept;
  }

  const EvaluateFlags& flags_;
  Range range_;
  std::optional<AtomicFile> output_;
  std::optional<EvaluationDump> dump_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<ProblemSet> sets_;
};

}  // namespace

int evaluate_main(int argc, char** argv) {
  EvaluateFlags flags;
  if (flags.parse(argc, argv)) Evaluation(flags).run();
  return 0;
}

}  // namespace mantissa
