#include "tools/common.h"

#include <chrono>
#include <filesystem>

#include "rl/logging/log.h"

namespace mantissa {
namespace {

constexpr std::chrono::seconds kProgressInterval{30};

}  // namespace

void ModelFlags::fields(Arguments& args) {
  args.field("model", model, "Hugging Face directory, .gguf file, builtin:NAME or random:CONFIG.json");
  args.required();
  args.choice("device", device, {"auto", "cpu", "cuda"}, "auto takes a GPU when there is one");
  args.choice("precision", precision, {"fp16", "bf16", "fp32"}, "type of weights and activations");
}

std::unique_ptr<Model> ModelFlags::load() const {
  Backend& where = backend();
  std::unique_ptr<Model> loaded = load_model(model, where, dtype(), false);
  for (const std::string& notice : loaded->notices) log_info(notice);
  log_info(str(model, ": ", loaded->config.architecture, ", ", loaded->weights.layout.numel() / 1000000.0,
               " million parameters in ", precision, " on ", where.description()));
  return loaded;
}

EnginePrecision ModelFlags::engine(const RolloutConfig& rollout) const {
  return PrecisionConfig{.train = precision, .rollout = precision}.engine(rollout);
}

StopRule stop_rule(const Model& model, const Tokenizer* tokenizer, const SamplingConfig& sampling) {
  check(tokenizer || sampling.stop.empty(), "--stop needs a tokenizer, which ", model.tokenizer.where, " lacks");
  if (!tokenizer) return StopRule(model.config.eos_ids);
  return StopRule(stop_ids(model.config, *tokenizer), *tokenizer, sampling.stop, sampling.keep_stop);
}

const char* finish_name(Finish finish) {
  switch (finish) {
    case Finish::kStop:
      return "stop";
    case Finish::kLength:
      return "length";
    case Finish::kStopString:
      return "stop_string";
  }
  return "";
}

GenerateOptions generate_options(const Engine& engine, const RolloutConfig& rollout, StopRule stop, int64_t seed) {
  using Clock = std::chrono::steady_clock;
  const auto progress = [&engine, next = Clock::now() + kProgressInterval]() mutable {
    if (Clock::now() >= next) {
      log_info(str(engine.stats().decode_tokens, " tokens decoded"));
      next = Clock::now() + kProgressInterval;
    }
    return false;
  };
  return {.sampling = rollout.sampling,
          .stop = std::move(stop),
          .keys = {.seed = uint64_t(seed), .step = 0},
          .cancelled = progress};
}

void check_outputs(const std::vector<std::pair<const char*, std::string>>& outputs, std::vector<std::string> inputs) {
  namespace fs = std::filesystem;
  inputs.push_back("/dev/stdout");
  for (const auto& [flag, path] : outputs) {
    if (path.empty()) continue;
    for (const std::string& other : inputs) {
      std::error_code ignored;
      check(fs::weakly_canonical(path, ignored) != fs::weakly_canonical(other, ignored) &&
                !fs::equivalent(path, other, ignored),
            flag, " ", path, ": is also ", other, ", which this command reads or writes");
    }
    inputs.push_back(path);
  }
}

}  // namespace mantissa
