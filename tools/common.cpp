#include "tools/common.h"

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>

#include "core/content.h"
#include "core/file.h"
#include "core/text.h"
#include "nn/formats/peft.h"
#include "rl/logging/log.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kProgressInterval{10};
constexpr std::string_view kRandomModel = "random:";

/// A file that is there is replaced by one of its kind alone.
void check_file_output(const char* flag, const std::string& path, OutputKind kind) {
  struct Form {
    const char* name;
    std::string_view first;  // bytes, from `at` on
    size_t at = 0;
  };
  static const std::map<OutputKind, Form> kForms = {{OutputKind::kJsonLines, {"JSON lines", "{"}},
                                                    {OutputKind::kTables, {"tables in Markdown", "|"}},
                                                    {OutputKind::kGguf, {"a GGUF file", "GGUF"}},
                                                    {OutputKind::kSafetensors, {"a safetensors file", "{", 8}}};
  const AtomicFile probe(path);  // fails early where nothing can be written
  const auto form = kForms.find(kind);
  const std::string head = head_of(path);
  if (form == kForms.end() || head.empty()) return;
  const auto& [name, first, at] = form->second;
  check(head.size() > at && std::string_view(head).substr(at).starts_with(first), flag, " ", path,
        ": is there and not ", name, ", which would replace it; delete it or choose another name");
}

}  // namespace

void ModelFlags::fields(Arguments& args) {
  args.field("model", model,
             "Hugging Face directory, .gguf file, RUN/checkpoints/step_N, builtin:NAME or random:CONFIG.json");
  args.required();
  args.stands_for("model.path");
  args.field("adapter", adapter,
             "low-rank updates of the model: a PEFT directory, or RUN/checkpoints/step_N of a run that trained them");
  args.not_empty();
  args.stands_for("lora.init");
  args.choice("device", device, {"auto", "cpu", "cuda"}, "auto takes a GPU when there is one");
  args.choice("precision", precision, {"fp16", "bf16", "fp32"}, "type of weights and activations");
}

std::unique_ptr<Model> ModelFlags::load(Shard shard, Sharding sharding) const {
  Backend& where = backend();
  std::unique_ptr<Model> loaded = load_model(model, where, dtype(), false, shard, Placement::kDevice, sharding);
  for (const std::string& notice : loaded->notices) log_info(notice);
  log_info(str(model, ": ", loaded->config.architecture, ", ", loaded->params.layout.whole().parameters() / 1000000.0,
               " million parameters in ", precision, " on ", where.description()));
  if (adapter.empty()) return loaded;
  put_adapter(*loaded, adapter);
  log_info(str(adapter, ": adapter of ", loaded->adapter->config.text()));
  return loaded;
}

void put_adapter(Model& model, const std::string& adapter) {
  if (adapter.empty()) return;
  try {
    load_adapter(model, adapter);
  } catch (const Error& e) {
    fail("--adapter: ", e.what());
  }
}

EnginePrecision ModelFlags::engine(const Model& loaded) const {
  const PrecisionConfig both{.train = precision, .rollout = precision};
  return both.engine(both.resolve_match(*loaded.backend, loaded.config, loaded.adapter.get()));
}

void say_unread_flags(const Arguments& args, const std::vector<std::string>& flags, const std::string& why) {
  std::vector<std::string> given;
  for (const std::string& flag : flags)
    if (args.given(flag)) given.push_back("--" + flag);
  if (!given.empty()) log_info(str(join(given), ": without effect ", why));
}

void say_unread_flags(const Arguments& args, const RolloutConfig& rollout) {
  if (rollout.sampling.temperature == 0)
    say_unread_flags(args, {"top-p", "top-k", "seed"}, "with --temperature 0, which takes the likeliest token");
  if (rollout.sampling.stop.empty()) say_unread_flags(args, {"keep-stop"}, "without --stop");
  if (rollout.cache_tokens > 0) say_unread_flags(args, {"memory-fraction"}, "with --cache-tokens");
  if (rollout.sampling.temperature == 0 && args.given("n") && rollout.n > 1)
    log_info(str("--n ", rollout.n, ": all samples of a prompt are the same with --temperature 0"));
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

std::string work_line(const EngineStats& stats) {
  return str(stats.prefill_tokens, " tokens prefilled, ", stats.decode_tokens, " decoded in ", stats.decode_steps,
             " steps, ", stats.preemptions, " preemptions");
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

void check_outputs(const std::vector<Output>& outputs, std::vector<std::string> inputs) {
  inputs.push_back("/dev/stdout");
  for (const auto& [flag, path, kind] : outputs) {
    if (path.empty()) continue;
    for (const std::string& other : inputs) {
      if (other.empty()) continue;
      const std::string read = other.starts_with(kRandomModel) ? other.substr(kRandomModel.size()) : other;
      std::error_code ignored;
      const fs::path at = fs::weakly_canonical(fs::absolute(path), ignored),
                     there = fs::weakly_canonical(fs::absolute(read), ignored);
      const bool same = at.empty() ? path == read : at == there;  // empty: a pipe, say
      check(!same && !fs::equivalent(path, read, ignored), flag, " ", path, ": is also ", other,
            ", which this command reads or writes");
      const fs::path inside = at.lexically_relative(there);
      check(!file_exists(path) || inside.empty() || *inside.begin() == "..", flag, " ", path, ": is a file of ", other,
            ", which this command reads; choose another name");
    }
    if (kind == OutputKind::kDirectory)
      check_vacant(path);
    else
      check_file_output(flag, path, kind);
    inputs.push_back(path);
  }
}

}  // namespace mantissa
