// mismatch: how far rollout and training are apart on the same tokens. Rollouts are sampled by the engine in one
// precision and mode (mu), then scored by the training path (pi_old) as a training step would before its update.
// With --matrix it measures every combination of the given types and sets them side by side.
#include <chrono>
#include <map>
#include <optional>
#include <utility>

#include "core/file.h"
#include "nn/formats/peft.h"
#include "rl/data/prompt_template.h"
#include "rl/logging/log.h"
#include "rl/train/batcher.h"
#include "rl/train/logprobs.h"
#include "tools/common.h"
#include "tools/mismatch_cells.h"
#include "tools/mismatch_report.h"
#include "tools/programs.h"

namespace mantissa {
namespace {

using Completions = std::vector<std::vector<Completion>>;

struct MismatchFlags {
  ModelFlags model;
  DataConfig data;
  RolloutConfig rollout;
  Cell base;
  std::string points, table;
  std::vector<std::string> matrix;
  int64_t seed = 0, batch_tokens = 4096;

  /// False when --help was asked for. Throws on flags that do not fit together.
  bool parse(int argc, char** argv) {
    data.answer_key = "";
    std::string train = "auto";
    Arguments args("mismatch",
                   "Samples n responses a prompt, scores them again by the training path and compares the log-probs: "
                   "KL a token and a sequence, probability differences, slope of log(pi/mu) against length. One JSON "
                   "line a combination of types; --matrix precision=fp16,bf16,fp32 measures several.");
    model.fields(args);
    args.choice("train_precision", train, {"auto", "fp16", "bf16", "fp32"}, "of the training path; auto: --precision");
    args.field("matrix", matrix,
               "AXIS=VALUE[,VALUE...]: all combinations; AXIS is precision (rollout and train alike), rollout, "
               "train, kv_cache, lm_head, residual or match");
    args.section("precision", base.precision, {"train", "rollout", "on_difference"});
    args.field("data", data.files, "JSON lines of problems");
    args.required();
    args.stands_for("data.files");
    std::set<std::string> unused = kTrainingDataKeys;
    unused.insert("answer_key");
    args.section("data", data, unused);
    args.section("rollout", rollout);
    args.field("batch_tokens", batch_tokens, "tokens packed into one scoring pass", between(1, 1 << 24));
    args.field("seed", seed, "of the random numbers", at_least(0));
    args.field("points", points, "file for one line a sequence: log-probs of both sides");
    args.not_empty();
    args.field("table", table, "file for the results as tables in Markdown");
    args.not_empty();
    if (!args.parse(argc, argv)) return false;
    say_unread_flags(args, rollout);
    const std::pair<std::string, std::string> flags[] = {{"precision", "precision"}, {"train", "train-precision"},
                                                         {"kv_cache", "kv-cache"},   {"lm_head", "lm-head"},
                                                         {"residual", "residual"},   {"match", "match"}};
    for (const auto& [axis, flag] : flags)
      for (const std::string& text : matrix)
        check(!text.starts_with(axis + '=') || !args.given(flag), "--matrix ", axis, " and --", flag,
              " exclude each other");
    base.precision.rollout = model.precision;
    base.precision.train = train == "auto" ? model.precision : train;
    std::vector<std::string> inputs = data.files;
    inputs.insert(inputs.end(), {model.model, model.adapter, data.prompt_template});
    check_outputs({{"--points", points, OutputKind::kJsonLines}, {"--table", table, OutputKind::kTables}}, inputs);
    return true;
  }
};

/// Loads weights in the training type, and a rollout copy when that type is another.
std::unique_ptr<Model> load(const ModelFlags& flags, Exec& exec, const PrecisionConfig& precision) {
  const Dtype train = precision.train_dtype(), rollout = precision.rollout_dtype();
  auto model = load_model(flags.model, exec.backend(), train, train != rollout);
  if (train != rollout) {
    model->params.rollout = ParamBuffer(exec, model->params.layout, rollout);
    refresh_copies(exec, model->params);
  }
  put_adapter(*model, flags.adapter);
  return model;
}

/// Scores all samples by the training path, in the packing of an update.
LogprobSides score_rollouts(Exec& exec, const Model& model, const std::vector<Prompt>& prompts,
                            const Completions& completions, int64_t batch_tokens, const LogprobOptions& options) {
  std::vector<TrainSequence> sequences;
  for (size_t i = 0; i < prompts.size(); ++i)
    for (const Completion& completion : completions[i])
      sequences.push_back({.prompt = &prompts[i], .completion = &completion});
  LogprobSides sides;
  for (MiniBatch& mini : make_mini_batches(sequences, int64_t(sequences.size()), batch_tokens))
    for (TrainBatch& batch : mini.micro) {
      Tape tape(exec, false);
      const DeviceBatch sent(exec.backend(), batch);
      batch.old_logprobs = to_host<float>(batch_logprobs(tape, model, sent, options).logprobs.value());
      sides.add(batch);
    }
  return sides;
}

class Mismatch {
 public:
  Mismatch(const MismatchFlags& flags, std::vector<Cell> cells)
      : flags_(flags), cells_(std::move(cells)), exec_(flags.model.backend()) {
    if (!flags.points.empty()) points_.emplace(flags.points);
    if (!flags.table.empty()) table_.emplace(flags.table);
  }

  void run() {
    const MeasuredOn on{flags_.model.model, flags_.model.adapter, flags_.data.files,
                        flags_.rollout.sampling.temperature, flags_.seed};
    std::vector<Measured> measured;
    use_model(cells_.front().precision);
    cells_ = workable(cells_, [&](const PrecisionConfig& precision) {
      if (precision.match != "auto") check_drafts(flags_.rollout, resolve(precision));
    });
    for (Cell cell : cells_) {
      const auto start = std::chrono::steady_clock::now();
      use_model(cell.precision);
      match_ = resolve(cell.precision);
      const std::string asked = std::exchange(cell.precision.match, name_of(match_));
      exec_.match = match_ == Match::kExact ? Match::kExact : Match::kFast;
      const LogprobSides sides = score(cell, rollout(cell, asked));
      Measured& m = measured.emplace_back(measure(cell, sides));
      m.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      print_line(m, on);
      log_info(summary_of(m));
      if (points_) write_points(*points_, cell, sides);
    }
    if (points_) points_->commit();
    if (!table_) return;
    table_->write(format_tables(measured));
    table_->commit();
  }

 private:
  Match resolve(const PrecisionConfig& precision) const {
    return precision.resolve_match(exec_.backend(), model_->config, model_->adapter.get());
  }

  void use_model(const PrecisionConfig& precision) {
    const std::string types = precision.train + " " + precision.rollout;
    if (types == loaded_) return;
    model_.reset();  // never two models at once
    model_ = load(flags_.model, exec_, precision);
    loaded_ = types;
  }

  /// The samples of a cell's rollout side, made once; `asked`: its match as it was given.
  const Completions& rollout(const Cell& cell, const std::string& asked) {
    const auto [it, fresh] = rollouts_.try_emplace(cell.rollout_side());
    if (!fresh) return it->second;
    const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(*model_);
    if (prompts_.empty()) {
      note_unknown_markers(flags_.data, model_->tokenizer, *tokenizer);
      prompts_ = make_prompts(flags_.data, *tokenizer, model_->tokenizer, model_->config.max_positions, false).prompts;
    }
    const RolloutConfig side = asked == "auto" ? under_auto(match_, flags_.rollout) : flags_.rollout;
    Engine engine(*model_, side, cell.precision.engine(match_));
    log_info(str(prompts_.size(), " prompts, ", side.n, " samples each, on ", exec_.backend().description()));
    it->second = engine.generate(
        requests_for(prompts_, side.n),
        generate_options(engine, side, stop_rule(*model_, tokenizer.get(), side.sampling), flags_.seed));
    log_info(work_line(engine.stats()));
    return it->second;
  }

  LogprobSides score(const Cell& cell, const Completions& completions) {
    const Dtype compute = cell.precision.train_dtype();
    const double temperature = flags_.rollout.sampling.temperature;
    // Greedy rollouts report log-probs at temperature 1 (rl/types.h).
    return score_rollouts(exec_, *model_, prompts_, completions, flags_.batch_tokens,
                          {.temperature = temperature > 0 ? temperature : 1.0,
                           .lm_head = cell.precision.head_dtype(compute),
                           .residual = cell.precision.residual_dtype(compute)});
  }

  const MismatchFlags& flags_;
  std::vector<Cell> cells_;
  Exec exec_;  // of the training path
  std::optional<AtomicFile> points_, table_;
  std::unique_ptr<Model> model_;
  std::string loaded_;  // types of model_
  Match match_ = Match::kFast;
  std::vector<Prompt> prompts_;
  std::map<std::string, Completions> rollouts_;  // by rollout side
};

}  // namespace

int mismatch_main(int argc, char** argv) {
  MismatchFlags flags;
  if (!flags.parse(argc, argv)) return 0;
  const auto valid = [](const PrecisionConfig& precision) { precision.validate(); };
  Mismatch(flags, workable(make_cells(flags.base, flags.matrix), valid)).run();
  return 0;
}

}  // namespace mantissa
