// libFuzzer target: the same bytes as a run's YAML file, as a model's config.json, and as the value of an override.
// What is refused throws Error; a config that is accepted prints as one that is accepted.
#include "core/error.h"
#include "nn/formats/hf_config.h"
#include "rl/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mantissa;
  const std::string input(reinterpret_cast<const char*>(data), size);
  try {
    parse_hf_config(input, "fuzz");
  } catch (const Error&) {
  }
  try {
    parse_run_config("", "fuzz", {input});
  } catch (const Error&) {
  }
  std::string resolved;
  try {
    resolved = format_run_config(parse_run_config(input, "fuzz", {}));
  } catch (const Error&) {
    return 0;
  }
  parse_run_config(resolved, "resolved", {});
  return 0;
}
