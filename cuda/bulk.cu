#include "cuda/bulk.cuh"

namespace mantissa::cuda {
namespace {

/// How to encode a tensor map: a function of the driver, null where it has none.
PFN_cuTensorMapEncodeTiled_v12000 encode_function() {
  static const PFN_cuTensorMapEncodeTiled_v12000 function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found);
#endif
    return PFN_cuTensorMapEncodeTiled_v12000(error == cudaSuccess && found == cudaDriverEntryPointSuccess ? entry
                                                                                                          : nullptr);
  }();
  return function;
}

}  // namespace

bool has_box_copies(const DeviceFacts& device) {
  return device.major == 9 && encode_function();
}

CUtensorMap box_map(const void* data, Dtype type, int64_t rows, int64_t width, int box_rows) {
  CUtensorMap map;
  const cuuint64_t size[2] = {cuuint64_t(width), cuuint64_t(rows)}, stride[1] = {cuuint64_t(width) * 2};
  const cuuint32_t box[2] = {kBoxDepth, cuuint32_t(box_rows)}, step[2] = {1, 1};
  const CUresult result = encode_function()(
      &map, type == Dtype::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
      const_cast<void*>(data), size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(result == CUDA_SUCCESS, "[matmul] cuTensorMapEncodeTiled failed with ", int(result), " for ", rows, " rows of ",
        width);
  return map;
}

}  // namespace mantissa::cuda
