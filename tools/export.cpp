// export: a model in another format: a Hugging Face directory or a GGUF file, with tokenizer and chat template; or an
// adapter as a PEFT directory, or added to its model.
#include <strings.h>

#include <cmath>

#include "core/registry.h"
#include "nn/formats/gguf_writer.h"
#include "nn/formats/peft.h"
#include "rl/logging/log.h"
#include "rl/rollout/engine.h"
#include "rl/train/batcher.h"
#include "rl/train/logprobs.h"
#include "tools/common.h"
#include "tools/programs.h"

namespace mantissa {
namespace {

constexpr int kSamples = 8;
constexpr int64_t kSampleTokens = 64;

/// Log-probs of samples under a model.
std::vector<float> logprobs_of(const Model& model, const Prompt& prompt, const std::vector<Completion>& samples) {
  std::vector<TrainSequence> sequences;
  for (const Completion& sample : samples) sequences.push_back({.prompt = &prompt, .completion = &sample});
  Exec exec(*model.backend);
  const Dtype dtype = model.params.compute.dtype();
  std::vector<float> all;
  for (const MiniBatch& mini : make_mini_batches(sequences, int64_t(sequences.size()), 1 << 20))
    for (const TrainBatch& batch : mini.micro) {
      Tape tape(exec, false);
      const DeviceBatch sent(exec.backend(), batch);
      const std::vector<float> logprobs =
          to_host<float>(batch_logprobs(tape, model, sent, {.lm_head = dtype, .residual = dtype}).logprobs.value());
      all.insert(all.end(), logprobs.begin(), logprobs.end());
    }
  return all;
}

/// Adds the adapter to the model's weights, and says how far that moves the log-probs of what the two write together,
/// both sides in `dtype`; what a quantised `type` rounds after that is left out. `model` is fp32.
void merge(Model& model, const std::string& path, const std::string& adapter, Dtype dtype, const std::string& type) {
  const std::unique_ptr<Model> pair = load_model(path, cpu(), dtype, false);
  put_adapter(*pair, adapter);
  Prompt prompt;
  prompt.ids = {model.config.bos_id >= 0        ? model.config.bos_id
                : !model.config.eos_ids.empty() ? model.config.eos_ids.front()
                                                : 0};
  const Request request{.prompt = &prompt, .n = kSamples};
  const int64_t tokens = std::min(kSampleTokens, model.config.max_positions - 1);
  RolloutConfig rollout;
  rollout.sampling.max_new_tokens = tokens;
  Engine engine(*pair, rollout, {.kv_cache = dtype, .lm_head = dtype, .residual = dtype});
  GenerateOptions options;
  options.sampling = rollout.sampling;
  const std::vector<Completion> samples = engine.generate({&request, 1}, options).front();
  const std::vector<float> together = logprobs_of(*pair, prompt, samples);

  Exec exec(cpu());
  merge_adapter(exec, model, model.params.compute, model.params.compute);
  model.adapter.reset();
  pair->adapter.reset();
  Tensor rounded = pair->params.compute.flat();
  MANTISSA_RUN(exec, cast, rounded, model.params.compute.flat());
  check_finite(*pair, pair->params.compute, adapter + " added to " + path);
  const std::vector<float> merged = logprobs_of(*pair, prompt, samples);
  double sum = 0, most = 0;
  for (size_t i = 0; i < merged.size(); ++i) {
    const double moved = std::abs(double(merged[i]) - double(together[i]));
    sum += moved;
    most = std::max(most, moved);
  }
  log_info(str("merged in ", name_of(dtype), ": log-probs of ", merged.size(),
               " tokens that model and adapter wrote move by ", sum / double(merged.size()), " on average, by ", most,
               " at most", type.starts_with('q') ? "; rounding to " + type + ", which comes on top, is left out" : ""));
}

}  // namespace

int export_main(int argc, char** argv) {
  std::string path, adapter, output, type = "f16";
  bool merged = false;
  Arguments args(
      "export",
      "Writes a model as a Hugging Face directory or, where --output ends in .gguf, as a GGUF file for llama.cpp. "
      "Tokenizer and chat template go with it. Values are rounded once, to --type. With --adapter it writes the "
      "adapter as a PEFT directory (fp32), or with --merge the model with the adapter added to its weights.");
  args.field("model", path, "Hugging Face directory, .gguf file, RUN/checkpoints/step_N or builtin:NAME");
  args.required();
  args.stands_for("model.path");
  args.field("adapter", adapter, "PEFT directory, or RUN/checkpoints/step_N of a run that trained an adapter");
  args.not_empty();
  args.stands_for("lora.init");
  args.field("merge", merged, "add the adapter to the weights; says how far that moves log-probs");
  args.field("output", output, "a directory that is new or empty, or FILE.gguf");
  args.required();
  args.not_empty();
  args.choice("type", type, {"f32", "f16", "bf16", "q8_0", "q4_0"},
              "of the weights; q8_0 and q4_0 (8.5 and 4.5 bits) for GGUF alone");
  if (!args.parse(argc, argv)) return 0;
  const std::string extension = std::filesystem::path(output).extension();
  check(std::filesystem::path(output).filename() != ".gguf", "--output ", output,
        ": a GGUF file has a name before .gguf");
  const bool gguf = extension == ".gguf";
  check(gguf || strcasecmp(extension.c_str(), ".gguf") != 0, "--output ", output, ": a GGUF file's name ends in .gguf");
  check(gguf || !type.starts_with('q'), "--type ", type, ": only a .gguf file can hold it, got --output ", output);
  check(!merged || !adapter.empty(), "--merge: needs --adapter");
  check(merged || adapter.empty() || !gguf, "--adapter without --merge writes a PEFT directory, got --output ", output);
  check(merged || adapter.empty() || !args.given("type"), "--type ", type,
        ": is that of a model's weights; an adapter without --merge is written in fp32");
  check_outputs({{"--output", output, gguf ? OutputKind::kGguf : OutputKind::kDirectory}}, {path, adapter});

  const Dtype dtype = type == "f32" ? Dtype::kF32 : type == "bf16" ? Dtype::kBF16 : Dtype::kF16;
  const std::unique_ptr<Model> model = load_model(path, cpu(), Dtype::kF32, false);
  put_adapter(*model, adapter);
  if (merged) merge(*model, path, adapter, dtype, type);
  if (model->adapter) {
    save_adapter(*model, output);
    log_info(str(adapter, " -> ", output));
    return 0;
  }
  if (gguf) {
    for (const std::string& note : save_gguf(*model, output, type)) log_info(note);
  } else {
    save_hf(*model, output, dtype);
  }
  log_info(str(path, " -> ", output, " in ", type));
  return 0;
}

}  // namespace mantissa
