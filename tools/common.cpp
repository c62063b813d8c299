#include "tools/common.h"

#include <chrono>
#include <cstdio>
#include <filesystem>

#include "core/text.h"
#include "nn/formats/peft.h"
#include "rl/logging/log.h"

namespace mantissa {
namespace {

constexpr std::chrono::seconds kProgressInterval{10};

}  // namespace

void ModelFlags::fields(Arguments& args) {
  args.field("model", model,
             "Hugging Face directory, .gguf file, RUN/checkpoints/step_N, builtin:NAME or random:CONFIG.json");
  args.required();
  args.field("adapter", adapter,
             "low-rank updates of the model: a PEFT directory, or RUN/checkpoints/step_N of a run that trained them");
  args.choice("device", device, {"auto", "cpu", "cuda"}, "auto takes a GPU when there is one");
  args.choice("precision", precision, {"fp16", "bf16", "fp32"}, "type of weights and activations");
}

std::unique_ptr<Model> ModelFlags::load(Shard shard, Sharding sharding) const {
  Backend& where = backend();
  std::unique_ptr<Model> loaded = load_model(model, where, dtype(), false, shard, Placement::kDevice, sharding);
  for (const std::string& notice : loaded->notices) log_info(notice);
  log_info(str(model, ": ", loaded->config.architecture, ", ", loaded->params.layout.numel() / 1000000.0,
               " million parameters in ", precision, " on ", where.description()));
  if (adapter.empty()) return loaded;
  load_adapter(*loaded, adapter);
  log_info(str(adapter, ": adapter of ", loaded->adapter->config.text()));
  return loaded;
}

EnginePrecision ModelFlags::engine(const Model& loaded) const {
  const PrecisionConfig both{.train = precision, .rollout = precision};
  return both.engine(both.resolve_match(*loaded.backend, loaded.config, loaded.adapter.get()));
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

std::string progress_line(const EngineStats& stats, double seconds) {
  std::string line = str(stats.finished, " of ", stats.sequences, " samples");
  if (stats.finished == 0) return str(line, ", ", stats.decode_tokens, " tokens decoded");
  const auto left = (long long)(seconds * double(stats.sequences - stats.finished) / double(stats.finished));
  char eta[64];
  std::snprintf(eta, sizeof eta, " | eta %02lld:%02lld:%02lld", left / 3600, left / 60 % 60, left % 60);
  return line + eta;
}

GenerateOptions generate_options(const Engine& engine, const RolloutConfig& rollout, StopRule stop, int64_t seed) {
  using Clock = std::chrono::steady_clock;
  // A generation begins where another number of samples is asked for, or fewer of them are finished.
  struct Progress {
    Clock::time_point start = Clock::now(), next = start + kProgressInterval;
    int64_t finished = 0;
  };
  const auto progress = [&engine, at = Progress()]() mutable {
    const EngineStats& stats = engine.stats();
    if (stats.finished < at.finished || stats.decode_steps == 0) at = Progress();
    at.finished = stats.finished;
    if (Clock::now() < at.next) return false;
    log_info(progress_line(stats, std::chrono::duration<double>(Clock::now() - at.start).count()));
    at.next = Clock::now() + kProgressInterval;
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
