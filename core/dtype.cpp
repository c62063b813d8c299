#include "core/dtype.h"

namespace mantissa {

std::string_view name_of(Dtype d) {
  switch (d) {
    case Dtype::kF32:
      return "fp32";
    case Dtype::kF16:
      return "fp16";
    case Dtype::kBF16:
      return "bf16";
    case Dtype::kF64:
      return "fp64";
    case Dtype::kI32:
      return "int32";
    case Dtype::kU8:
      return "uint8";
  }
  return "?";
}

Dtype parse_precision(std::string_view name) {
  for (Dtype d : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    if (name == name_of(d)) return d;
  fail("precision must be one of fp16, bf16, fp32: got \"", name, "\"");
}

}  // namespace mantissa
