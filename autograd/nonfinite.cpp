#include "autograd/nonfinite.h"

namespace mantissa {

std::string NonFiniteReport::text() const {
  if (!found) return "all tensors are finite";
  return str(scope, scope.empty() ? "" : " ", op, backward ? " backward: " : " forward: ", value, " at element ", index,
             " of ", name_of(dtype), " ", shape);
}

Observer find_first_nonfinite(Exec& exec, NonFiniteReport& report) {
  return [&exec, &report](const Observation& seen) {
    if (report.found || seen.tensor.numel() == 0) return;
    Tensor position = exec.empty({1}, Dtype::kI32);
    MANTISSA_RUN(exec, find_nonfinite, position, seen.tensor);
    const int64_t index = to_host<int32_t>(position)[0];
    if (index < 0) return;
    const Tensor element = seen.tensor.view({seen.tensor.numel()}).slice(index, index + 1);
    report = {true,
              std::string(seen.scope),
              std::string(seen.op),
              seen.backward,
              seen.tensor.dtype(),
              seen.tensor.shape(),
              index,
              double(to_host_float(element)[0])};
  };
}

}  // namespace mantissa
