// What several programs share: the flags that choose a model and where it runs, and opening both.
#pragma once

#include "nn/model.h"
#include "rl/config.h"
#include "rl/text/tokenizer.h"
#include "tools/arguments.h"
#include "tools/device.h"

namespace mantissa {

struct ModelFlags {
  std::string model;
  std::string device = "auto";
  std::string precision = "fp16";

  /// --model (required), --device, --precision.
  void fields(Arguments& args);
  Backend& backend() const { return open_device(device); }
  Dtype dtype() const { return parse_precision(precision); }
  /// Weights in that precision; says so on stderr.
  std::unique_ptr<Model> load() const;
};

/// The model's tokenizer; throws where it has none.
std::unique_ptr<Tokenizer> open_tokenizer(const TokenizerFiles& files);

/// The options of a generation by `engine`: sampling and length of `rollout`, the model's stop ids, seed. Says on
/// stderr twice a minute how far it is.
GenerateOptions generate_options(const Engine& engine, const RolloutConfig& rollout, std::vector<int32_t> stop_ids,
                                 int64_t seed);

/// Throws where a file that is to be written (flag and path; empty: none) is one that is read, another one that is
/// written, or standard output.
void check_outputs(const std::vector<std::pair<const char*, std::string>>& outputs, std::vector<std::string> inputs);

/// "stop", "length".
inline const char* finish_name(Finish finish) {
  return finish == Finish::kStop ? "stop" : "length";
}

/// Keys of DataConfig that only training reads, and `files`, which programs spell --data: not flags of theirs.
inline const std::set<std::string> kTrainingDataKeys = {"files", "solution_key", "shuffle", "strip_calculator_marks",
                                                        "response_format"};

}  // namespace mantissa
