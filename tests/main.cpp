// The test program. Registers the CUDA backend where it can be used, so that every test that runs on all
// backends meets it.
#include <gtest/gtest.h>

#ifdef MANTISSA_WITH_CUDA
#include "cuda/backend.h"
#endif

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
#ifdef MANTISSA_WITH_CUDA
  if (!GTEST_FLAG_GET(list_tests) && mantissa::cuda_unavailable().empty()) mantissa::register_cuda_backend();
#endif
  return RUN_ALL_TESTS();
}
