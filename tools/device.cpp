#include "tools/device.h"

#include <charconv>
#include <cstdlib>

#include "core/registry.h"
#ifdef MANTISSA_WITH_CUDA
#include "cuda/backend.h"
#endif

namespace mantissa {
namespace {

/// The number behind "cuda:", or the rank's.
int device_number(const std::string& name, int local_rank) {
  const size_t colon = name.find(':');
  if (colon == std::string::npos) {
    const int devices = visible_devices();
    if (local_rank < 0 || devices <= 1) return 0;
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    check(local_rank < devices, "rank number ", local_rank, " of this machine has no GPU: there are ", devices,
          visible ? str(" (CUDA_VISIBLE_DEVICES=", visible, ")") : std::string());
    return local_rank;
  }
  int number = 0;
  const char *begin = name.data() + colon + 1, *end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(begin, end, number);
  check(name.starts_with("cuda:") && error == std::errc() && stop == end && number >= 0,
        "device must be auto, cpu, cuda or cuda:N, got \"", name, "\"");
  return number;
}

void look_for_cuda([[maybe_unused]] int device) {
#ifdef MANTISSA_WITH_CUDA
  if (const std::string reason = cuda_unavailable(device); reason.empty())
    register_cuda_backend(device);
  else
    set_unavailable("cuda", reason);
#else
  set_unavailable("cuda", "this program was built without CUDA");
#endif
}

}  // namespace

int visible_devices() {
#ifdef MANTISSA_WITH_CUDA
  return cuda_device_count();
#else
  return 0;
#endif
}

Backend& open_device(const std::string& name, int local_rank) {
  if (name != "cpu") {
    static const bool looked = (look_for_cuda(device_number(name, local_rank)), true);
    (void)looked;
  }
  return find_backend(name);
}

}  // namespace mantissa
