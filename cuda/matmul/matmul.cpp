// Matrix products on CUDA: fp16, bf16, fp32 (true fp32, no TF32), always fp32 accumulation. Forward products of 16-bit
// types under Match::kExact are exact_products.cpp's; the rest is cuBLASLt's, and a split of K adds its parts in fp32,
// in a fixed order. A plan (layouts and algorithm) is made once per shape. Where exec.deterministic asks for the same
// bits in every run the library's first choice is taken; else the fastest of its candidates, measured once per size
// class of shapes (checkpoints keep what was measured).
#include <algorithm>
#include <map>
#include <mutex>
#include <sstream>

#include "core/low_rank.h"
#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/matmul/chained.h"
#include "cuda/matmul/exact_choice.h"
#include "cuda/matmul/exact_products.h"

namespace mantissa::cuda_kernels {
namespace {

using cuda::capturing;

constexpr int kCandidates = 8;
constexpr int kMeasurements = 3;
constexpr int kPeerParts = 4;
/// Every micro-batch has its own token count and so its own plans: a long run would keep hundreds of thousands.
constexpr size_t kMaxPlans = 4096;
/// Largest output copied aside to measure a product that adds to it.
constexpr size_t kMeasureBytes = size_t(1) << 30;

class Products {
 public:
  /// False where the library has no algorithm for a product with a bias.
  bool run(Exec& exec, const Product& p) {
    const bool measured = !exec.deterministic;
    const std::lock_guard lock(mutex_);
    if (plans_.size() >= kMaxPlans) plans_.clear();  // what was measured stays in classes_
    const ProductKey key = key_of(p, measured);
    auto it = plans_.find(key);
    if (it == plans_.end()) it = plans_.emplace(key, make_plan(exec, p, measured)).first;
    if (!it->second) return false;
    it->second->launch(exec, p, p.c);
    return true;
  }

  /// A line for each class: its key and the library's description of the algorithm.
  std::string measured() {
    const std::lock_guard lock(mutex_);
    std::ostringstream out;
    for (const auto& [key, algorithm] : classes_) {
      for (int64_t value : key) out << value << ' ';
      for (uint64_t word : algorithm.data) out << word << ' ';
      out << '\n';
    }
    return out.str();
  }
  void restore(std::istream& in) {
    const std::lock_guard lock(mutex_);
    ProductKey key;
    cublasLtMatmulAlgo_t algorithm;
    const auto read = [&](auto& values) {
      for (auto& value : values) in >> value;
    };
    classes_.clear();
    while (read(key), read(algorithm.data), in) classes_.insert_or_assign(key, algorithm);
    plans_.clear();
  }

 private:
  /// Null where the library has no algorithm for a product with a bias.
  std::unique_ptr<LibraryPlan> make_plan(Exec& exec, const Product& p, bool measured) {
    auto plan = std::make_unique<LibraryPlan>(p);
    const ProductKey shapes = class_of(key_of(p, measured));
    if (const auto known = measured ? classes_.find(shapes) : classes_.end(); known != classes_.end())
      if (plan->take(known->second)) return plan;
    const auto found = plan->candidates(p, measured ? kCandidates : 1, true);
    check(p.bias || !found.empty(), "[matmul] cuBLASLt has no algorithm for M=", p.rows, " N=", p.columns,
          " K=", p.depth, " ", name_of(p.type), " -> ", name_of(p.out_type));
    if (found.empty()) return nullptr;
    plan->take(found[measured && found.size() > 1 && !capturing(exec) ? fastest(exec, *plan, found, p) : 0]);
    if (measured && !capturing(exec)) classes_.emplace(shapes, plan->algorithm());
    return plan;
  }

  /// Index of the candidate with the least time, each the best of a few runs. Waits for the device.
  size_t fastest(Exec& exec, LibraryPlan& plan, const std::vector<cublasLtMatmulHeuristicResult_t>& found,
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
    std::vector<float> ms;
    for (const auto& candidate : found) {
      plan.take(candidate);
      ms.push_back(measure(exec, kMeasurements, [&] { plan.launch(exec, p, c); }));
    }
    return size_t(std::min_element(ms.begin(), ms.end()) - ms.begin());
  }

  std::mutex mutex_;
  std::map<ProductKey, std::unique_ptr<LibraryPlan>> plans_;
  std::map<ProductKey, cublasLtMatmulAlgo_t> classes_;  // measured
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
  } else if (is_exact(exec, p)) {
    run_exact_product(exec, p);
  } else if (exec.match == Match::kPeer) {
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
  if (is_exact(exec, p)) return run_exact_product(exec, p);
  const bool peer = exec.match == Match::kPeer;
  if (peer || !products().run(exec, p)) product_in_parts(exec, p, peer ? kPeerParts : 1, c, bias);
}

// ---- two products in one chain

bool run_chained(Exec& exec, const ChainedProduct& p) {
  const bool serves = exec.match != Match::kPeer && chained_product_serves(exec, p);
  if (serves) run_chained_product(exec, p);
  return serves;
}

void matmul_scaled(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, Trans trans, double scale) {
  if (c.numel() == 0) return;
  ChainedProduct p{exact_of(product_of(c, a, b, trans, false)), trans};
  p.scale = float(scale);
  if (!run_chained(exec, p)) scaled_by_matmul(exec, c, a, b, trans, scale);
}

void matmul_low_rank(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias, LowRankTerm& term) {
  if (c.numel() == 0) return;
  Product p = product_of(c, a, b, Trans::kNT, false);
  if (bias.defined()) p.bias = bias.raw();
  ChainedProduct both{exact_of(p), Trans::kNT, term.up.size(1), term.u.raw(), term.up.raw(), term.parts};
  both.down = term.down.defined() ? term.down.raw() : nullptr;
  both.down_scale = float(term.scale);
  if (!run_chained(exec, both)) low_rank_by_matmul(exec, c, a, b, bias, term);
}

void matmul_two(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& u, const Tensor& v) {
  if (c.numel() == 0) return;
  const Product p = product_of(c, a, b, Trans::kNN, false);
  if (!run_chained(exec, {exact_of(p), Trans::kNN, v.size(0), u.raw(), v.raw(), {{0, p.columns}}}))
    two_by_matmul(exec, c, a, b, u, v);
}

}  // namespace

std::string measured_products() {
  const std::string fast = products().measured(), exact = measured_exact_products();
  return fast.empty() && exact.empty() ? "" : str(library_version(), '\n', exact, "other\n", fast);
}
void restore_measured_products(const std::string& text) {
  const std::string head = library_version() + '\n', middle = "other\n";
  if (!text.starts_with(head)) return;
  const size_t at = text.find(middle, head.size() - 1);  // not there: written before there were exact choices
  const bool both = at != std::string::npos;
  restore_exact_products(both ? text.substr(head.size(), at - head.size()) : "");
  std::istringstream fast(text.substr(both ? at + middle.size() : head.size()));
  products().restore(fast);
}

void register_matmul(Kernels& table) {
  table.matmul = matmul;
  table.matmul_bias = matmul_bias;
  table.matmul_low_rank = matmul_low_rank;
  table.matmul_scaled = matmul_scaled;
  table.matmul_two = matmul_two;
}

}  // namespace mantissa::cuda_kernels
