// libFuzzer target: the input is a tokenizer.json, then a line feed, then text. A file that is refused throws
// Error; one that loads must encode and decode the text within the matcher's bounds.
#include "core/error.h"
#include "rl/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\n'), input.size());
  try {
    const auto tokenizer = mantissa::Tokenizer::from_json(input.substr(0, end), "fuzz");
    tokenizer->decode(tokenizer->encode(std::string_view(input).substr(end), true));
  } catch (const mantissa::Error&) {
  }
  return 0;
}
