#include "cuda/matmul/library.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "cuda/device.h"

namespace mantissa::cuda_kernels {
namespace {

using cuda::stream;

constexpr size_t kWorkspaceBytes = size_t(64) << 20;

void check_lt(cublasStatus_t status, const char* call) {
  check(status == CUBLAS_STATUS_SUCCESS, "[matmul] ", call, " failed: ", cublasLtGetStatusString(status));
}
#define MANTISSA_LT(call) check_lt((call), #call)

cudaDataType_t data_type(Dtype d) {
  switch (d) {
    case Dtype::kF32:
      return CUDA_R_32F;
    case Dtype::kF16:
      return CUDA_R_16F;
    case Dtype::kBF16:
      return CUDA_R_16BF;
    case Dtype::kF64:
      fail("[matmul] fp64 runs on the CPU only");
    default:
      fail("[matmul] expected fp32, fp16 or bf16: got ", name_of(d));
  }
}

/// Lives as long as the process: the driver may be gone before statics are.
cublasLtHandle_t handle() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t made = nullptr;
    MANTISSA_LT(cublasLtCreate(&made));
    return made;
  }();
  return handle;
}

/// Bytes, at most 16, that a pointer is a multiple of: candidates must not assume more.
uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return uint32_t(std::min<uintptr_t>(16, address & (~address + 1)));
}

struct Events {
  cudaEvent_t start = nullptr, end = nullptr;
  Events() {
    MANTISSA_CUDA(cudaEventCreate(&start));
    MANTISSA_CUDA(cudaEventCreate(&end));
  }
  ~Events() {
    cudaEventDestroy(start);
    cudaEventDestroy(end);
  }
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;
};

}  // namespace

ProductKey key_of(const Product& p, bool mark) {
  return {p.rows,
          p.columns,
          p.depth,
          int64_t(p.trans),
          int64_t(p.type),
          int64_t(p.out_type),
          p.a_stride,
          p.b_stride,
          p.c_stride,
          p.accumulate,
          alignment_of(p.a),
          alignment_of(p.b),
          alignment_of(p.c) * 2 + mark,
          p.bias ? alignment_of(p.bias) : 0};
}

int64_t size_class(int64_t n) {
  const int64_t step = std::max<int64_t>(1, int64_t(std::bit_floor(uint64_t(n))) / 8);
  return (n + step - 1) / step * step;
}

ProductKey class_of(ProductKey key) {
  for (int i : {0, 1, 2, 6, 7, 8}) key[size_t(i)] = size_class(key[size_t(i)]);
  return key;
}

LibraryPlan::Layout LibraryPlan::make_layout(Dtype type, int64_t rows, int64_t columns, int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  MANTISSA_LT(cublasLtMatrixLayoutCreate(&layout, data_type(type), uint64_t(rows), uint64_t(columns), stride));
  return Layout(layout, cublasLtMatrixLayoutDestroy);
}

// Stored row-major op(x) transposed is what column-major reads: our kNT has the library's A transposed.
LibraryPlan::LibraryPlan(const Product& p)
    : a_(p.trans == Trans::kNT ? make_layout(p.type, p.depth, p.columns, p.b_stride)
                               : make_layout(p.type, p.columns, p.depth, p.b_stride)),
      b_(p.trans == Trans::kTN ? make_layout(p.type, p.rows, p.depth, p.a_stride)
                               : make_layout(p.type, p.depth, p.rows, p.a_stride)),
      c_(make_layout(p.out_type, p.columns, p.rows, p.c_stride)) {
  cublasLtMatmulDesc_t description = nullptr;
  MANTISSA_LT(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  description_.reset(description);
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    MANTISSA_LT(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, p.trans == Trans::kNT ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, p.trans == Trans::kTN ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (!p.bias) return;
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(p.out_type));
  set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
}

std::vector<cublasLtMatmulHeuristicResult_t> LibraryPlan::candidates(const Product& p, int count, bool split) const {
  cublasLtMatmulPreference_t preference = nullptr;
  MANTISSA_LT(cublasLtMatmulPreferenceCreate(&preference));
  const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Destroy<cublasLtMatmulPreference_t>> owner(
      preference, cublasLtMatmulPreferenceDestroy);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    MANTISSA_LT(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  // Schemes whose parts meet in the output's type are out.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      uint32_t(split ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : CUBLASLT_REDUCTION_SCHEME_NONE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.c));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,  // the bias is read as the output is written
      p.bias ? std::min(alignment_of(p.c), alignment_of(p.bias)) : alignment_of(p.c));
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<size_t>(count));
  int returned = 0;
  if (cublasLtMatmulAlgoGetHeuristic(handle(), description_.get(), a_.get(), b_.get(), c_.get(), c_.get(), preference,
                                     count, found.data(), &returned) != CUBLAS_STATUS_SUCCESS)
    returned = 0;
  found.resize(size_t(returned));
  std::erase_if(found, [&](const auto& r) {
    uint32_t parts = 1;
    size_t written = 0;
    cublasLtMatmulAlgoConfigGetAttribute(&r.algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts, sizeof(parts), &written);
    return r.state != CUBLAS_STATUS_SUCCESS || (!split && parts > 1);
  });
  return found;
}

bool LibraryPlan::take(const cublasLtMatmulAlgo_t& algorithm) {
  cublasLtMatmulHeuristicResult_t result;
  if (cublasLtMatmulAlgoCheck(handle(), description_.get(), a_.get(), b_.get(), c_.get(), c_.get(), &algorithm,
                              &result) != CUBLAS_STATUS_SUCCESS ||
      result.workspaceSize > kWorkspaceBytes)
    return false;
  algorithm_ = algorithm;
  workspace_ = result.workspaceSize;
  return true;
}

void LibraryPlan::take(const cublasLtMatmulHeuristicResult_t& candidate) {
  algorithm_ = candidate.algo;
  workspace_ = candidate.workspaceSize;
}

void LibraryPlan::launch(Exec& exec, const Product& p, void* c) const {
  Scratch scratch(exec);
  void* space = workspace_ > 0 ? scratch.take<std::byte>(int64_t(workspace_)) : nullptr;
  if (p.bias)
    MANTISSA_LT(
        cublasLtMatmulDescSetAttribute(description_.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias, sizeof(p.bias)));
  const float alpha = 1.0f, beta = p.accumulate ? 1.0f : 0.0f;
  MANTISSA_LT(cublasLtMatmul(handle(), description_.get(), &alpha, p.b, a_.get(), p.a, b_.get(), &beta, c, c_.get(), c,
                             c_.get(), &algorithm_, space, workspace_, stream(exec)));
}

std::string library_version() {
  return str("cuBLASLt ", cublasLtGetVersion());
}

float milliseconds(Exec& exec, const std::function<void()>& body) {
  Events events;
  MANTISSA_CUDA(cudaEventRecord(events.start, stream(exec)));
  body();
  MANTISSA_CUDA(cudaEventRecord(events.end, stream(exec)));
  MANTISSA_CUDA(cudaEventSynchronize(events.end));
  float ms = 0;
  MANTISSA_CUDA(cudaEventElapsedTime(&ms, events.start, events.end));
  return ms;
}

float measure(Exec& exec, int runs, const std::function<void()>& body) {
  milliseconds(exec, body);
  float best = std::numeric_limits<float>::infinity();
  for (int run = 0; run < runs; ++run) best = std::min(best, milliseconds(exec, body));
  return best;
}

}  // namespace mantissa::cuda_kernels
