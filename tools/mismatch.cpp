// mismatch: how far rollout and training are apart on the same tokens. Rollouts are sampled by the engine in
// one precision and rounding (mu), then scored by the training path (pi_old) as a training step would before
// its update.
#include <optional>

#include "core/file.h"
#include "rl/batcher.h"
#include "rl/log.h"
#include "rl/mismatch.h"
#include "rl/score.h"
#include "rl/stop.h"
#include "tools/common.h"
#include "tools/json_lines.h"
#include "tools/programs.h"

namespace mantissa {
namespace {

/// Log-probs of the rollouts from both sides, sequence by sequence: sequence s owns [offsets[s],
/// offsets[s+1]).
struct Sides {
  std::vector<float> rollout, old;
  std::vector<int32_t> offsets{0};
};

/// Loads weights in the training type, and a rollout copy when that type is another.
std::unique_ptr<Model> load(const std::string& path, Exec& exec, const PrecisionConfig& precision) {
  const Dtype train = precision.train_dtype(), rollout = precision.rollout_dtype();
  auto model = load_model(path, exec.backend(), train, train != rollout);
  if (train != rollout) {
    model->weights.rollout = ParamBuffer(exec, model->weights.layout, rollout);
    refresh_copies(exec, model->weights);
  }
  return model;
}

/// Scores all samples by the training path, in the packing of an update.
Sides score_rollouts(Exec& exec, const Model& model, const std::vector<Prompt>& prompts,
                     const std::vector<std::vector<Completion>>& completions, int64_t batch_tokens,
                     const ScoreOptions& options) {
  std::vector<TrainSequence> sequences;
  for (size_t i = 0; i < prompts.size(); ++i)
    for (const Completion& completion : completions[i])
      sequences.push_back({.prompt = &prompts[i], .completion = &completion});
  Sides sides;
  for (const MiniBatch& mini : make_mini_batches(sequences, int64_t(sequences.size()), batch_tokens))
    for (const TrainBatch& batch : mini.micro) {
      Tape tape(exec, false);
      const std::vector<float> old =
          to_host<float>(score_batch(tape, model, batch, options).logprobs.value());
      const int32_t start = int32_t(sides.old.size());
      sides.old.insert(sides.old.end(), old.begin(), old.end());
      sides.rollout.insert(sides.rollout.end(), batch.rollout_logprobs.begin(), batch.rollout_logprobs.end());
      for (size_t s = 1; s < batch.response_offsets.size(); ++s)
        sides.offsets.push_back(start + batch.response_offsets[s]);
    }
  return sides;
}

/// A line a sequence: what a plot of pi against mu, and of log(pi / mu) against length, needs.
void write_points(AtomicFile& file, const Sides& sides) {
  for (size_t s = 0; s + 1 < sides.offsets.size(); ++s) {
    const size_t begin = size_t(sides.offsets[s]), length = size_t(sides.offsets[s + 1]) - begin;
    const std::span<const float> rollout = std::span(sides.rollout).subspan(begin, length);
    const std::span<const float> old = std::span(sides.old).subspan(begin, length);
    double log_ratio = 0;
    for (size_t t = 0; t < length; ++t) log_ratio += double(old[t]) - rollout[t];
    file.write(JsonObject()
                   .add("length", int64_t(length))
                   .add("log_ratio", log_ratio)
                   .add("rollout_logprobs", rollout)
                   .add("old_logprobs", old)
                   .str() +
               "\n");
  }
}

}  // namespace

int mismatch_main(int argc, char** argv) {
  ModelFlags flags;
  DataConfig data;
  data.answer_key = "";
  RolloutConfig rollout;
  PrecisionConfig precision;
  std::string train = "auto", points;
  int64_t seed = 0, batch_tokens = 4096;
  Arguments args(
      "mismatch",
      "Samples n responses a prompt, scores them again by the training path and compares the log-probs: KL a "
      "token and a sequence, probability differences, slope of log(pi/mu) against length.");
  flags.fields(args);
  args.choice("train_precision", train, {"auto", "fp16", "bf16", "fp32"},
              "of the training path; auto: --precision");
  std::set<std::string> skipped = {"train", "rollout"};
  args.section(precision, skipped);
  args.field("data", data.files, "JSON lines of problems");
  args.required();
  skipped = kTrainingDataKeys;
  skipped.insert("answer_key");
  args.section(data, skipped);
  args.section(rollout);
  args.field("batch_tokens", batch_tokens, "tokens packed into one scoring pass", between(1, 1 << 24));
  args.field("seed", seed, "of the random numbers", at_least(0));
  args.field("points", points, "file for one line a sequence: log-probs of both sides");
  if (!args.parse(argc, argv)) return 0;
  precision.rollout = flags.precision;
  precision.train = train == "auto" ? flags.precision : train;
  std::optional<AtomicFile> points_file;
  if (!points.empty()) points_file.emplace(points);

  Exec exec(flags.backend());
  const std::unique_ptr<Model> model = load(flags.model, exec, precision);
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(model->tokenizer);
  const PromptSet set = make_prompts(data, *tokenizer, model->tokenizer, false);
  Engine engine(exec, *model, rollout, precision.engine(rollout));
  std::vector<Request> requests;
  for (const Prompt& prompt : set.prompts) requests.push_back({.prompt = &prompt, .n = int(rollout.n)});
  log_info(
      str(set.prompts.size(), " prompts, ", rollout.n, " samples each, on ", exec.backend().description()));
  const auto completions =
      engine.generate(requests, generate_options(engine, rollout, stop_ids(model->config, *tokenizer), seed));

  // Greedy rollouts report log-probs at temperature 1 (rl/types.h).
  const Dtype compute = precision.train_dtype();
  const Sides sides = score_rollouts(exec, *model, set.prompts, completions, batch_tokens,
                                     {.temperature = rollout.temperature > 0 ? rollout.temperature : 1.0,
                                      .lm_head = precision.head_dtype(compute),
                                      .residual = precision.residual_dtype(compute)});
  const MismatchStats stats = mismatch_stats(sides.rollout, sides.old, sides.offsets);
  if (points_file) {
    write_points(*points_file, sides);
    points_file->commit();
  }
  JsonObject line;
  line.add("model", flags.model).add("rollout", precision.rollout).add("train", precision.train);
  line.add("kv_cache", precision.kv_cache)
      .add("lm_head", precision.lm_head)
      .add("residual", precision.residual);
  line.add("rounding", rollout.rounding).add("temperature", rollout.temperature);
  line.add("sequences", stats.sequences).add("tokens", stats.tokens);
  for (const auto& [name, value] : mismatch_metrics(stats)) line.add(name, value);
  print(line);
  return 0;
}

}  // namespace mantissa
