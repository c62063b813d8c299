// Matrix products by cuBLASLt: fp16, bf16, fp32 (true fp32, no TF32), always fp32 accumulation; a split of K
// adds its parts in fp32, in a fixed order. A plan (layouts and algorithm) is made once per shape. Where
// exec.deterministic asks for the same bits in every run the library's first choice is taken; else the
// fastest of its candidates, measured once per size class of shapes (checkpoints keep what was measured).
//
// cuBLASLt counts columns first, so c[M,N] row-major is computed as c^T[N,M] = op(b)^T . op(a)^T: its A is
// our b.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <map>
#include <mutex>
#include <sstream>
#include <vector>

#include "cuda/device.h"
#include "cuda/kernels.h"

namespace mantissa::cuda_kernels {
namespace {

using cuda::capturing;
using cuda::stream;

constexpr size_t kWorkspaceBytes = size_t(64) << 20;
constexpr int kCandidates = 8;
constexpr int kMeasurements = 3;
constexpr int kPeerParts = 4;
/// Every micro-batch has its own token count and so its own plans: a long run would keep hundreds of thousands.
constexpr size_t kMaxPlans = 4096;
/// Largest output copied aside to measure a product that adds to it.
constexpr size_t kMeasureBytes = size_t(1) << 30;

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

/// One product as the library sees it. Leading dimensions are row lengths in elements.
struct Product {
  int64_t rows, columns, depth;  // M, N, K
  Trans trans;
  Dtype type, out_type;
  int64_t a_stride, b_stride, c_stride;
  bool accumulate;
  const void *a, *b;
  void* c;
  const void* bias = nullptr;  // [columns] of out_type, added before the rounding
};

/// Bytes, at most 16, that a pointer is a multiple of: candidates must not assume more.
uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return uint32_t(std::min<uintptr_t>(16, address & (~address + 1)));
}

/// Everything the choice of an algorithm depends on.
using Key = std::array<int64_t, 14>;
Key key_of(const Product& p, bool measured) {
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
          alignment_of(p.c) * 2 + measured,
          p.bias ? alignment_of(p.bias) : 0};
}

/// Eight sizes per power of two.
int64_t size_class(int64_t n) {
  const int64_t step = std::max<int64_t>(1, int64_t(std::bit_floor(uint64_t(n))) / 8);
  return (n + step - 1) / step * step;
}
/// Shapes that share a measurement: token counts differ from one micro-batch to the next.
Key class_of(Key key) {
  for (int i : {0, 1, 2, 6, 7, 8}) key[size_t(i)] = size_class(key[size_t(i)]);
  return key;
}

template <class Handle>
using Destroy = cublasStatus_t (*)(Handle);
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroy<cublasLtMatrixLayout_t>>;
using Description = std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroy<cublasLtMatmulDesc_t>>;
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Destroy<cublasLtMatmulPreference_t>>;

Layout make_layout(Dtype type, int64_t rows, int64_t columns, int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  MANTISSA_LT(cublasLtMatrixLayoutCreate(&layout, data_type(type), uint64_t(rows), uint64_t(columns), stride));
  return Layout(layout, cublasLtMatrixLayoutDestroy);
}

struct Plan {
  Description description{nullptr, cublasLtMatmulDescDestroy};
  Layout a{nullptr, cublasLtMatrixLayoutDestroy},
      b = Layout(nullptr, cublasLtMatrixLayoutDestroy),
      c = Layout(nullptr, cublasLtMatrixLayoutDestroy);  // the library's A, B and C = D
  cublasLtMatmulAlgo_t algorithm{};
  size_t workspace = 0;
  bool known = true;  // false: the library has none
};

class Products {
 public:
  /// False where the library has no algorithm for a product with a bias.
  bool run(Exec& exec, const Product& p) {
    const bool measured = !exec.deterministic;
    const std::lock_guard lock(mutex_);
    if (plans_.size() >= kMaxPlans) plans_.clear();  // what was measured stays in classes_
    auto [it, made] = plans_.try_emplace(key_of(p, measured));
    if (made) {
      try {
        make_plan(exec, it->second, p, measured);
      } catch (...) {
        plans_.erase(it);
        throw;
      }
    }
    if (!it->second.known) return false;
    launch(exec, it->second, it->second.algorithm, it->second.workspace, p, p.c);
    return true;
  }

  /// "cuBLASLt VERSION", then a line for each class: its key and the library's description of the algorithm.
  std::string measured() {
    const std::lock_guard lock(mutex_);
    if (classes_.empty()) return {};
    std::ostringstream out;
    out << version_line();
    for (const auto& [key, algorithm] : classes_) {
      for (int64_t value : key) out << value << ' ';
      for (uint64_t word : algorithm.data) out << word << ' ';
      out << '\n';
    }
    return out.str();
  }
  void restore(const std::string& text) {
    if (!text.starts_with(version_line())) return;
    const std::lock_guard lock(mutex_);
    std::istringstream in(text.substr(version_line().size()));
    Key key;
    cublasLtMatmulAlgo_t algorithm;
    const auto read = [&](auto& values) {
      for (auto& value : values) in >> value;
    };
    classes_.clear();
    while (read(key), read(algorithm.data), in) classes_.insert_or_assign(key, algorithm);
    plans_.clear();
  }

 private:
  static std::string version_line() { return str("cuBLASLt ", cublasLtGetVersion(), '\n'); }

  cublasLtHandle_t handle() {
    if (!handle_) MANTISSA_LT(cublasLtCreate(&handle_));
    return handle_;
  }

  void launch(Exec& exec, const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, size_t workspace, const Product& p,
              void* c) {
    Scratch scratch(exec);
    void* space = workspace > 0 ? scratch.take<std::byte>(int64_t(workspace)) : nullptr;
    if (p.bias)
      MANTISSA_LT(cublasLtMatmulDescSetAttribute(plan.description.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias,
                                                 sizeof(p.bias)));
    const float alpha = 1.0f, beta = p.accumulate ? 1.0f : 0.0f;
    MANTISSA_LT(cublasLtMatmul(handle(), plan.description.get(), &alpha, p.b, plan.a.get(), p.a, plan.b.get(), &beta, c,
                               plan.c.get(), c, plan.c.get(), &algorithm, space, workspace, stream(exec)));
  }

  void make_plan(Exec& exec, Plan& plan, const Product& p, bool measured) {
    // Stored row-major op(x) transposed is what column-major reads: our kNT has the library's A transposed.
    const bool a_transposed = p.trans == Trans::kNT, b_transposed = p.trans == Trans::kTN;
    cublasLtMatmulDesc_t description = nullptr;
    MANTISSA_LT(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    plan.description.reset(description);
    const cublasOperation_t a_op = a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                            b_op = b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    MANTISSA_LT(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &a_op, sizeof(a_op)));
    MANTISSA_LT(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSB, &b_op, sizeof(b_op)));
    if (p.bias) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      const cudaDataType_t type = data_type(p.out_type);
      MANTISSA_LT(
          cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue)));
      MANTISSA_LT(
          cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof(type)));
      MANTISSA_LT(
          cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias, sizeof(p.bias)));
    }
    plan.a = a_transposed ? make_layout(p.type, p.depth, p.columns, p.b_stride)
                          : make_layout(p.type, p.columns, p.depth, p.b_stride);
    plan.b = b_transposed ? make_layout(p.type, p.rows, p.depth, p.a_stride)
                          : make_layout(p.type, p.depth, p.rows, p.a_stride);
    plan.c = make_layout(p.out_type, p.columns, p.rows, p.c_stride);

    const Key shapes = class_of(key_of(p, measured));
    if (const auto known = measured ? classes_.find(shapes) : classes_.end(); known != classes_.end()) {
      cublasLtMatmulHeuristicResult_t result;
      if (cublasLtMatmulAlgoCheck(handle(), plan.description.get(), plan.a.get(), plan.b.get(), plan.c.get(),
                                  plan.c.get(), &known->second, &result) == CUBLAS_STATUS_SUCCESS &&
          result.workspaceSize <= kWorkspaceBytes) {
        plan.algorithm = known->second;
        plan.workspace = result.workspaceSize;
        return;
      }
    }
    const std::vector<cublasLtMatmulHeuristicResult_t> found = candidates(plan, p, measured ? kCandidates : 1);
    plan.known = !found.empty();
    if (found.empty()) return;
    const size_t best = measured && found.size() > 1 && !capturing(exec) ? fastest(exec, plan, found, p) : 0;
    plan.algorithm = found[best].algo;
    plan.workspace = found[best].workspaceSize;
    if (measured && !capturing(exec)) classes_.emplace(shapes, plan.algorithm);
  }

  std::vector<cublasLtMatmulHeuristicResult_t> candidates(const Plan& plan, const Product& p, int count) {
    cublasLtMatmulPreference_t preference = nullptr;
    MANTISSA_LT(cublasLtMatmulPreferenceCreate(&preference));
    const Preference owner(preference, cublasLtMatmulPreferenceDestroy);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      MANTISSA_LT(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    // Parts of a split K meet in fp32 in the workspace; schemes that meet in the output's type are out.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.c));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,  // the bias is read as the output is written
        p.bias ? std::min(alignment_of(p.c), alignment_of(p.bias)) : alignment_of(p.c));
    std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<size_t>(count));
    int returned = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle(), plan.description.get(), plan.a.get(), plan.b.get(), plan.c.get(),
                                       plan.c.get(), preference, count, found.data(), &returned);
    found.resize(size_t(returned));
    std::erase_if(found, [](const auto& r) { return r.state != CUBLAS_STATUS_SUCCESS; });
    check(p.bias || (status == CUBLAS_STATUS_SUCCESS && !found.empty()),
          "[matmul] cuBLASLt has no algorithm for M=", p.rows, " N=", p.columns, " K=", p.depth, " ", name_of(p.type),
          " -> ", name_of(p.out_type), ": ", cublasLtGetStatusString(status));
    return found;
  }

  /// Index of the candidate with the least time, each the best of a few runs. Waits for the device.
  size_t fastest(Exec& exec, const Plan& plan, const std::vector<cublasLtMatmulHeuristicResult_t>& found,
                 const Product& p) {
    void* c = p.c;
    Tensor aside;  // what is added to must not be added to now
    if (p.accumulate) {
      const size_t bytes = size_t(p.rows * p.c_stride) * size_of(p.out_type);
      if (bytes > kMeasureBytes) return 0;
      try {
        aside = exec.zeros({int64_t(bytes / sizeof(float)) + 1}, Dtype::kF32);
      } catch (const Error&) {
        return 0;  // no room to measure
      }
      c = aside.raw();
    }
    Events events;
    size_t best = 0;
    float best_ms = std::numeric_limits<float>::infinity();
    for (size_t i = 0; i < found.size(); ++i) {
      for (int run = 0; run <= kMeasurements; ++run) {
        MANTISSA_CUDA(cudaEventRecord(events.start, stream(exec)));
        launch(exec, plan, found[i].algo, found[i].workspaceSize, p, c);
        MANTISSA_CUDA(cudaEventRecord(events.end, stream(exec)));
        MANTISSA_CUDA(cudaEventSynchronize(events.end));
        float ms = 0;
        MANTISSA_CUDA(cudaEventElapsedTime(&ms, events.start, events.end));
        if (run > 0 && ms < best_ms) best_ms = ms, best = i;
      }
    }
    return best;
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

  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;  // lives as long as the process
  std::map<Key, Plan> plans_;
  std::map<Key, cublasLtMatmulAlgo_t> classes_;  // measured
};

Products& products() {
  static auto& all = *new Products;  // never destroyed: the driver may be gone first
  return all;
}

const void* moved(const void* p, int64_t elements, Dtype type) {
  return static_cast<const std::byte*>(p) + elements * int64_t(size_of(type));
}

/// In `parts` pieces of K, summed in fp32 one after the other, then c or the bias, rounded once.
void product_in_parts(Exec& exec, const Product& p, int parts, Tensor& c, const Tensor& bias = {}) {
  Scratch scratch(exec);
  const int64_t count = p.rows * p.columns, part = (p.depth + parts - 1) / parts;
  Product step = p;
  step.c = scratch.take<float>(count);
  step.out_type = Dtype::kF32;
  step.c_stride = p.columns;
  step.accumulate = false;
  step.bias = nullptr;
  for (int64_t k = 0; k < p.depth; k += part) {
    step.depth = std::min(part, p.depth - k);
    step.a = moved(p.a, p.trans == Trans::kTN ? k * p.a_stride : k, p.type);
    step.b = moved(p.b, p.trans == Trans::kNT ? k : k * p.b_stride, p.type);
    products().run(exec, step);
    step.accumulate = true;
  }
  const Tensor sums(std::make_shared<Storage>(exec.backend(), step.c, size_t(count) * sizeof(float), nullptr), 0,
                    c.shape(), Dtype::kF32);
  if (bias.defined())
    MANTISSA_RUN(exec, add_bias, c, sums, bias);
  else if (p.accumulate)
    MANTISSA_RUN(exec, binary, c, sums, c, Binary::kAdd);
  else
    MANTISSA_RUN(exec, cast, c, sums);
}

Product product_of(const Tensor& c, const Tensor& a, const Tensor& b, Trans trans, bool accumulate) {
  return {.rows = c.rows(),
          .columns = c.size(-1),
          .depth = trans == Trans::kTN ? a.rows() : a.size(-1),
          .trans = trans,
          .type = a.dtype(),
          .out_type = c.dtype(),
          .a_stride = a.size(-1),
          .b_stride = b.size(-1),
          .c_stride = c.size(-1),
          .accumulate = accumulate,
          .a = a.raw(),
          .b = b.raw(),
          .c = c.raw()};
}

void matmul(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, Trans trans, bool accumulate) {
  if (c.numel() == 0) return;
  const Product p = product_of(c, a, b, trans, accumulate);
  if (p.depth == 0) {
    if (!accumulate) MANTISSA_RUN(exec, fill, c, 0.0);
  } else if (exec.rounding == Rounding::kPeer) {
    product_in_parts(exec, p, kPeerParts, c);
  } else if (accumulate && c.dtype() != Dtype::kF32) {
    product_in_parts(exec, p, 1, c);  // some of the library's kernels round the product before they add it
  } else {
    products().run(exec, p);
  }
}

void matmul_bias(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias) {
  if (c.numel() == 0) return;
  Product p = product_of(c, a, b, Trans::kNT, false);
  check(p.depth > 0, "[matmul_bias] K must be positive");
  p.bias = bias.raw();
  const bool peer = exec.rounding == Rounding::kPeer;
  if (peer || !products().run(exec, p)) product_in_parts(exec, p, peer ? kPeerParts : 1, c, bias);
}

}  // namespace

std::string measured_products() {
  return products().measured();
}
void restore_measured_products(const std::string& text) {
  products().restore(text);
}

void register_matmul(Kernels& table) {
  table.matmul = matmul;
  table.matmul_bias = matmul_bias;
}

}  // namespace mantissa::cuda_kernels
