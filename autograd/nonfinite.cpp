#include "autograd/nonfinite.h"

#include <algorithm>

namespace mantissa {
namespace {

/// The expert that element `index` of a grouped tensor belongs to.
int64_t expert_of(const Observation& seen, int64_t index) {
  const std::vector<int32_t> bounds = to_host<int32_t>(seen.groups);
  const int64_t count = int64_t(bounds.size()) - 1, row = index / seen.tensor.size(-1), rows = seen.tensor.rows();
  if (seen.parameter) return rows % count == 0 ? seen.first_group + row / (rows / count) : -1;
  if (rows != bounds.back()) return -1;
  return seen.first_group + (std::upper_bound(bounds.begin(), bounds.end(), row) - bounds.begin() - 1);
}

}  // namespace

std::string NonFiniteReport::text() const {
  if (!found) return "all tensors are finite";
  return str(expert >= 0 ? str("expert ", expert, " of ") : "", scope, scope.empty() ? "" : " ", op,
             backward ? " backward: " : " forward: ", value, " at element ", index, " of ", name_of(dtype), " ", shape);
}

int64_t position_of_nonfinite(Exec& exec, const Tensor& values) {
  if (values.numel() == 0) return -1;
  Tensor position = exec.empty({1}, Dtype::kI32);
  MANTISSA_RUN(exec, find_nonfinite, position, values);
  return to_host<int32_t>(position)[0];
}

Observer find_first_nonfinite(Exec& exec, NonFiniteReport& report) {
  return [&exec, &report](const Observation& seen) {
    if (report.found) return;
    const int64_t index = position_of_nonfinite(exec, seen.tensor);
    if (index < 0) return;
    const Tensor element = seen.tensor.view({seen.tensor.numel()}).slice(index, index + 1);
    report = {true,
              std::string(seen.scope),
              std::string(seen.op),
              seen.backward,
              seen.tensor.dtype(),
              seen.tensor.shape(),
              seen.groups.defined() ? expert_of(seen, index) : -1,
              index,
              double(to_host_float(element)[0])};
  };
}

}  // namespace mantissa
