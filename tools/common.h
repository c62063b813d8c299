// What several programs share: the flags that choose a model and where it runs, how they generate, and checks of files.
#pragma once

#include "nn/model.h"
#include "rl/config.h"
#include "rl/text/model_tokenizer.h"
#include "tools/arguments.h"
#include "tools/device.h"

namespace mantissa {

struct ModelFlags {
  std::string model;
  std::string adapter;  // empty: none
  std::string device = "auto";
  std::string precision = "fp16";

  /// --model (required), --adapter, --device, --precision.
  void fields(Arguments& args);
  Backend& backend() const { return open_device(device); }
  Dtype dtype() const { return parse_precision(precision); }
  /// An engine that computes in that precision throughout, with training's bits where the device can (precision.h).
  EnginePrecision engine(const Model& loaded) const;
  /// Weights in that precision, and the adapter's; says so on stderr. `shard`: for an optimizer of several processes.
  std::unique_ptr<Model> load(Shard shard = {}, Sharding sharding = Sharding::kOptimizer) const;
};

/// Puts the adapter of --adapter, which errors name, on the model; none where it is empty.
void put_adapter(Model& model, const std::string& adapter);

/// "12 of 64 samples | eta 00:01:20", after so many seconds of a generation.
std::string progress_line(const EngineStats& stats, double seconds);
/// "99 tokens prefilled, 512 decoded in 40 steps, 0 preemptions": of a generation that is over.
std::string work_line(const EngineStats& stats);
/// The options of a generation by `engine`: sampling and length of `rollout`, `stop`, seed. Says on stderr every ten
/// seconds how far it is.
GenerateOptions generate_options(const Engine& engine, const RolloutConfig& rollout, StopRule stop, int64_t seed);

/// Says which of these flags are given, where they are without effect: "--top-k: without effect `why`".
void say_unread_flags(const Arguments& args, const std::vector<std::string>& flags, const std::string& why);
/// The same of a section `rollout`, whose flags switch each other off.
void say_unread_flags(const Arguments& args, const RolloutConfig& rollout);

/// The stop ids of a model and the strings of --stop. Without a tokenizer: no strings, and of the ids those
/// of config.json alone.
StopRule stop_rule(const Model& model, const Tokenizer* tokenizer, const SamplingConfig& sampling);

/// What a program writes, told by its first bytes where it replaces what is there.
enum class OutputKind : uint8_t { kJsonLines, kTables, kGguf, kSafetensors, kAppended, kDirectory };
struct Output {
  const char* flag;
  std::string path;  // empty: none
  OutputKind kind;
};
/// Throws where an output is also read (a file or directory of `inputs`, of which some may be empty; a file in such a
/// directory), written twice, or standard output; where it would replace a file of another kind or a directory with
/// something in it; and where nothing can be written. To be called before any work is done.
void check_outputs(const std::vector<Output>& outputs, std::vector<std::string> inputs);

/// "stop", "length", "stop_string".
const char* finish_name(Finish finish);

/// Keys of DataConfig that only training reads, and `files`, which programs spell --data: not flags of theirs.
inline const std::set<std::string> kTrainingDataKeys = {"files", "solution_key", "shuffle", "strip_calculator_marks",
                                                        "response_format"};

}  // namespace mantissa
