#include "rl/config.h"

#include <set>

namespace mantissa {

EnginePrecision PrecisionConfig::engine(const RolloutConfig& rollout_config) const {
  const Dtype compute = rollout_dtype();
  return {.kv_cache = kv_cache == "auto" ? compute : parse_precision(kv_cache),
          .lm_head = head_dtype(compute),
          .residual = residual_dtype(compute),
          .rounding = parse_rounding(rollout_config.rounding)};
}

void PrecisionConfig::validate() const {
  for (const auto& [key, name] : {std::pair("kv_cache", &kv_cache), std::pair("lm_head", &lm_head)})
    check(*name == "auto" || *name == "fp32" || rollout != "fp32", "precision.", key, ": ", *name,
          " beside an fp32 rollout loses what fp32 is for; use auto or fp32");
}

Recompute TrainConfig::recompute_tier() const {
  if (recompute == "elementwise") return Recompute::kElementwise;
  if (recompute == "mlp") return Recompute::kMlp;
  if (recompute == "full") return Recompute::kFull;
  return Recompute::kNone;
}

void RunSection::fields(Fields& f) {
  f.field("name", name, "name of the run, and of its directory under runs/");
  f.field("output_dir", output_dir, "where the run writes; empty: runs/<name>");
  f.field("seed", seed, "the one seed: data order, sampling, initialisation", at_least(0));
  f.choice("device", device, {"auto", "cpu", "cuda"}, "auto takes a GPU when there is one");
}

void ModelSection::fields(Fields& f) {
  f.field("path", path, "Hugging Face directory, .gguf file or builtin:<name>");
  f.field("lora_rank", lora_rank, "rank of trained low-rank updates; 0 = all weights are trained", at_least(0));
  f.field("lora_alpha", lora_alpha, "the update is scaled by lora_alpha / lora_rank", at_least(0));
}

void DistributedConfig::fields(Fields& f) {
  f.field("gpus", gpus, "processes that share the run, one a GPU", at_least(1));
}

void PrecisionConfig::fields(Fields& f) {
  const std::vector<std::string> types{"fp16", "bf16", "fp32"}, types_or_auto{"auto", "fp16", "bf16", "fp32"};
  f.choice("train", train, types, "weights, activations and their gradients in training");
  f.choice("rollout", rollout, types, "weights and activations in rollouts");
  f.choice("kv_cache", kv_cache, types_or_auto, "auto: as rollout");
  f.choice("lm_head", lm_head, types_or_auto,
           "inputs of the head's product (logits are fp32); auto: as train / rollout");
  f.choice("residual", residual, {"compute", "fp32"}, "residual stream");
}

void TrainConfig::fields(Fields& f) {
  f.choice("mode", mode, {"grpo", "sft"}, "reinforcement learning, or supervised warm start");
  f.field("steps", steps, "training steps: rollouts (grpo) or batches (sft)", between(0, 1 << 30));
  f.field("prompts_per_step", prompts_per_step, "prompts of a rollout, or examples of a batch", between(1, 1 << 20));
  f.field("mini_batch_size", mini_batch_size, "sequences per optimizer step", between(1, 1 << 30));
  f.field("epochs", epochs, "passes over each rollout", between(1, 1 << 20));
  f.field("micro_batch_tokens", micro_batch_tokens, "tokens packed into one forward and backward", at_least(1));
  f.choice("recompute", recompute, {"none", "elementwise", "mlp", "full"}, "what backward makes again");
  f.field("head_chunk", head_chunk, "tokens whose logits exist at once; 0 chooses for the device", at_least(0));
  f.field("deterministic", deterministic, "same inputs, same bits");
  f.field("inject_overflow_step", inject_overflow_step, "for tests: one weight is infinite during this step",
          at_least(-1));
  f.field("inject_overflow_parameter", inject_overflow_parameter, "which");
}

void EvalConfig::fields(Fields& f) {
  f.field("every", every, "steps between evaluations; 0 = never", at_least(0));
  f.field("before_training", before_training, "also before the first step");
  f.field("files", files, "JSONL files, read with the keys and template of data");
  f.field("limit", limit, "first problems only; 0 = all", at_least(0));
  f.field("n", n, "samples per problem", between(1, 65536));
  f.field("temperature", temperature, "sampling temperature; 0 = greedy", between(0, 100));
  f.field("top_p", top_p, "nucleus", between(1e-6, 1));
}

void CheckpointConfig::fields(Fields& f) {
  f.field("every", every, "steps between checkpoints; 0 = only at the end or when stopped", at_least(0));
  f.field("keep", keep, "checkpoints kept; 0 = all", at_least(0));
  f.field("export_model", export_model, "write output_dir/model (Hugging Face) at the end");
}

void LoggingConfig::fields(Fields& f) {
  f.field("samples", samples, "completions written to samples.jsonl a step", at_least(0));
  f.field("tensorboard", tensorboard, "also write the metrics as event files, in output_dir/tensorboard");
}

std::vector<std::string> missing_features(const RunConfig& config) {
  std::vector<std::string> missing;
  if (config.model.lora_rank > 0)
    missing.push_back(str("model.lora_rank ", config.model.lora_rank,
                          ": low-rank updates (LoRA) are not there yet; 0 trains all weights"));
  if (config.distributed.gpus > 1)
    missing.push_back(
        str("distributed.gpus ", config.distributed.gpus, ": a run on several GPUs is not there yet; 1 trains on one"));
  return missing;
}

void RunConfig::validate() const {
  check(!model.path.empty(), "model.path: required, got an empty string");
  check(!run.name.empty() || !run.output_dir.empty(), "run.name: required when run.output_dir is empty");
  check(!data.files.empty(), "data.files: at least one file is required");
  check(eval.every == 0 || !eval.files.empty(), "eval.files: required when eval.every is not 0, got none");
  if (train.mode == "grpo") {
    const int64_t sequences = train.prompts_per_step * rollout.n;
    check(sequences % train.mini_batch_size == 0,
          "train.mini_batch_size: must divide train.prompts_per_step * rollout.n = ", sequences, ", got ",
          train.mini_batch_size);
    check(rollout.sampling.temperature >= kMinTemperature, "rollout.temperature: must be at least ", kMinTemperature,
          " in training, got ", rollout.sampling.temperature);
    algorithm.validate(rollout.n);
    check(algorithm.overlong_buffer <= rollout.sampling.max_new_tokens, "algorithm.overlong_buffer: must not exceed ",
          "rollout.max_new_tokens = ", rollout.sampling.max_new_tokens, ", got ", algorithm.overlong_buffer);
  } else {
    check(train.prompts_per_step % train.mini_batch_size == 0,
          "train.mini_batch_size: must divide train.prompts_per_step = ", train.prompts_per_step, ", got ",
          train.mini_batch_size);
  }
  check(eval.temperature == 0 || eval.temperature >= kMinTemperature,
        "eval.temperature: must be 0 (greedy) or at least ", kMinTemperature, ", got ", eval.temperature);
  check(!data.answer_key.empty() || reward.kind != "math" || (train.mode == "sft" && eval.files.empty()),
        "data.answer_key: required by reward.kind math, got an empty string");
  precision.validate();
  reward.validate();
}

}  // namespace mantissa
