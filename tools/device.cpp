#include "tools/device.h"

#ifdef MANTISSA_WITH_CUDA
#include "cuda/backend.h"
#endif

namespace mantissa {
namespace {

void look_for_cuda() {
#ifdef MANTISSA_WITH_CUDA
  if (const std::string reason = cuda_unavailable(); reason.empty())
    register_cuda_backend();
  else
    set_unavailable("cuda", reason);
#else
  set_unavailable("cuda", "this program was built without CUDA");
#endif
}

}  // namespace

Backend& open_device(const std::string& name) {
  if (name != "cpu") {
    static const bool looked = (look_for_cuda(), true);
    (void)looked;
  }
  return find_backend(name);
}

}  // namespace mantissa
