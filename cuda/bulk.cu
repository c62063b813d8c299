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

namespace {

/// Dimensions are counted from the innermost: width, rows, matrices.
template <int kDimensions>
CUtensorMap encode(const void* data, Dtype type, const int64_t (&sizes)[kDimensions], int box_rows, Read read) {
  cuuint64_t size[kDimensions], stride[kDimensions];  // bytes from one to the next, of the outer ones
  cuuint32_t box[kDimensions], step[kDimensions];
  cuuint64_t bytes = 2;
  for (int i = 0; i < kDimensions; ++i) {
    size[i] = cuuint64_t(sizes[i]);
    stride[i] = bytes *= size[i];
    box[i] = i == 0 ? kBoxDepth : i == 1 ? cuuint32_t(box_rows) : 1;
    step[i] = 1;
  }
  CUtensorMap map;
  const CUresult result = encode_function()(
      &map, type == Dtype::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kDimensions,
      const_cast<void*>(data), size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      read == Read::kOnce ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B : CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(result == CUDA_SUCCESS, "[tensor map] cuTensorMapEncodeTiled failed with ", int(result), " for ", sizes[1],
        " rows of ", sizes[0]);
  return map;
}

}  // namespace

CUtensorMap box_map(const void* data, Dtype type, int64_t rows, int64_t width, int box_rows, Read read) {
  return encode<2>(data, type, {width, rows}, box_rows, read);
}
CUtensorMap box_map(const void* data, Dtype type, int64_t count, int64_t rows, int64_t width, int box_rows, Read read) {
  return encode<3>(data, type, {width, rows, count}, box_rows, read);
}

}  // namespace mantissa::cuda
