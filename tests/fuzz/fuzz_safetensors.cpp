// libFuzzer target: whatever the bytes, the reader refuses them with an Error or holds tensors it can read.
#include <cstddef>
#include <cstdint>

#include "core/backend.h"
#include "core/registry.h"
#include "core/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mantissa;
  try {
    const Safetensors file({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
    for (const auto& [name, entry] : file.entries()) {
      try {
        Tensor out(cpu(), file.shape(name), Dtype::kF32);
        file.read(name, out);
      } catch (const Error&) {
        // a dtype or rank that the file may hold and this program does not read
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
