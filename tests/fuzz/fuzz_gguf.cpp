// libFuzzer target: whatever the bytes, the reader refuses them with an Error or holds tensors it can read.
#include <cstddef>
#include <cstdint>

#include "core/registry.h"
#include "nn/formats/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mantissa;
  try {
    const GgufModel model = parse_gguf({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
    for (const std::string& name : model.tensors->names()) {
      try {
        Tensor out(cpu(), model.tensors->shape(name), Dtype::kF16);
        model.tensors->read(name, out);
      } catch (const Error&) {
        // a vector of a block type whose rows are permuted
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
