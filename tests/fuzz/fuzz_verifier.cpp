// libFuzzer target: the input is a gold answer, a line feed, a response. Grading never throws and always gives a
// status; an answer equals itself.
#include <cstdlib>
#include <string_view>

#include "rl/reward/math/compare.h"
#include "rl/reward/math/spelling.h"
#include "rl/reward/reward.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mantissa;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\n'), input.size());
  const std::string_view gold = input.substr(0, end), response = input.substr(end);
  const Grade marked = grade({}, response, gold);
  if (marked.reason.empty() || marked.correct > !marked.extracted.empty()) std::abort();
  const MathVerdict verdict = math_equal(response, gold);
  if (verdict.reason.empty()) std::abort();
  if (!text_key(gold).empty() && !math_equal(gold, gold).equal) std::abort();
  return 0;
}
