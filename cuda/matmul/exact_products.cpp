// A choice is made once per class of shapes, by time, and every algorithm of the library is checked for every exact
// shape that it serves: on the operands at hand, which may be all zeros, and on numbers whose sums leave nothing but
// their rounding. Since all choices give the same bits, measuring costs no reproducibility, and train.deterministic
// need not forbid it.
#include "cuda/matmul/exact_products.h"

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>

#include "cuda/device.h"
#include "cuda/matmul/exact.h"

namespace mantissa::cuda_kernels {
namespace {

constexpr int kCandidates = 8;
constexpr int kMeasurements = 3;
constexpr size_t kMaxPlans = 4096;  // as for other products
/// Own kernels are worth measuring up to so many rows.
constexpr int64_t kFewRows = 256;
/// For few rows the library offers algorithms that are slow or split K; those that it has for so many serve them, too.
constexpr int64_t kNeighbours[] = {128, 256};
/// Largest operand made up for a check.
constexpr int64_t kCheckBytes = int64_t(1) << 30;

ExactProduct exact_of(const Product& p) {
  return {.rows = p.rows,
          .columns = p.columns,
          .depth = p.depth,
          .type = p.type,
          .out_type = p.out_type,
          .c_stride = p.c_stride,
          .a = p.a,
          .b = p.b,
          .bias = p.bias,
          .c = p.c};
}

/// An algorithm of the library, or the number of an own kernel.
struct Choice {
  std::optional<cublasLtMatmulAlgo_t> algorithm;
  int kernel = 0;
};

struct ExactPlan {
  std::unique_ptr<LibraryPlan> library;  // null: the own kernel
  int kernel = 0;
};

/// The checks of one product's algorithms, and what they need.
class Checks {
 public:
  Checks(Exec& exec, const Product& p) : exec_(exec), real_(p), made_up_(p) {
    const int64_t bytes = 2 * std::max(p.rows, p.columns) * p.depth;
    if (bytes > kCheckBytes) return;
    try {
      a_ = exec.empty({p.rows * p.depth}, p.type);
      b_ = exec.empty({p.columns * p.depth}, p.type);
      if (p.bias) bias_ = exec.zeros({p.columns}, p.out_type);
    } catch (const Error&) {
      a_ = {};  // no room: the real operands have to do
      return;
    }
    fill_cancelling(exec, a_.raw(), p.rows, p.depth, p.type, true);
    fill_cancelling(exec, b_.raw(), p.columns, p.depth, p.type, false);
    made_up_.a = a_.raw();
    made_up_.b = b_.raw();
    if (p.bias) made_up_.bias = bias_.raw();
  }

  /// Writes to the product's c.
  bool pass(const LibraryPlan& plan) { return (!a_.defined() || passes(plan, made_up_)) && passes(plan, real_); }

 private:
  bool passes(const LibraryPlan& plan, const Product& p) {
    plan.launch(exec_, p, p.c);
    return differing_elements(exec_, exact_of(p)) == 0;
  }

  Exec& exec_;
  const Product real_;
  Product made_up_;
  Tensor a_, b_, bias_;
};

class ExactProducts {
 public:
  void run(Exec& exec, const Product& p) {
    const std::lock_guard lock(mutex_);
    if (plans_.size() >= kMaxPlans) plans_.clear();  // what was measured stays in classes_
    const ProductKey key = key_of(p, false);
    auto it = plans_.find(key);
    if (it == plans_.end()) {
      if (cuda::capturing(exec)) return run_exact_kernel(exec, exact_of(p), exact_kernel_for(exec, exact_of(p)));
      bool done = false;
      it = plans_.emplace(key, make_plan(exec, p, done)).first;
      if (done) return;
    }
    if (it->second.library)
      it->second.library->launch(exec, p, p.c);
    else
      run_exact_kernel(exec, exact_of(p), it->second.kernel);
  }

  /// A line for each class: its key, the own kernel or -1, and the library's description of the algorithm.
  std::string measured() {
    const std::lock_guard lock(mutex_);
    std::ostringstream out;
    for (const auto& [key, choice] : classes_) {
      for (int64_t value : key) out << value << ' ';
      out << (choice.algorithm ? -1 : choice.kernel);
      for (uint64_t word : choice.algorithm.value_or(cublasLtMatmulAlgo_t{}).data) out << ' ' << word;
      out << '\n';
    }
    return out.str();
  }
  void restore(const std::string& lines) {
    const std::lock_guard lock(mutex_);
    std::istringstream in(lines);
    ProductKey key;
    int kernel = 0;
    cublasLtMatmulAlgo_t algorithm;
    const auto read = [&](auto& values) {
      for (auto& value : values) in >> value;
    };
    classes_.clear();
    while (read(key), in >> kernel, read(algorithm.data), in)
      classes_[key] = kernel < 0 ? Choice{algorithm, 0} : Choice{{}, kernel};
    plans_.clear();
  }

 private:
  /// `done`: the last check has left the product where it belongs.
  ExactPlan make_plan(Exec& exec, const Product& p, bool& done) {
    const ProductKey shapes = class_of(key_of(p, false));
    Checks checks(exec, p);
    if (const auto known = classes_.find(shapes); known != classes_.end()) {
      if (!known->second.algorithm) {
        if (exact_kernel_serves(exec, exact_of(p), known->second.kernel)) return {nullptr, known->second.kernel};
      } else if (auto plan = std::make_unique<LibraryPlan>(p); plan->take(*known->second.algorithm)) {
        if (done = checks.pass(*plan); done) return {std::move(plan), 0};
      }
    }
    ExactPlan best{nullptr, exact_kernel_for(exec, exact_of(p))};
    float best_ms = std::numeric_limits<float>::infinity();
    auto plan = std::make_unique<LibraryPlan>(p);
    std::optional<cublasLtMatmulAlgo_t> fastest;
    for (const cublasLtMatmulAlgo_t& algorithm : algorithms(*plan, p)) {
      if (!plan->take(algorithm)) continue;
      if (!checks.pass(*plan)) continue;
      const float ms = measure(exec, kMeasurements, [&] { plan->launch(exec, p, p.c); });
      if (ms < best_ms) best_ms = ms, fastest = algorithm;
    }
    for (int kernel = 1; p.rows <= kFewRows && kernel < exact_kernels(); ++kernel) {
      if (!exact_kernel_serves(exec, exact_of(p), kernel)) continue;
      const float ms = measure(exec, kMeasurements, [&] { run_exact_kernel(exec, exact_of(p), kernel); });
      if (ms < best_ms) best_ms = ms, fastest.reset(), best.kernel = kernel;
    }
    if (fastest && plan->take(*fastest)) best.library = std::move(plan);
    classes_[shapes] = {fastest, best.kernel};
    return best;
  }

  /// What the library offers for this product, and for more rows where it has few.
  static std::vector<cublasLtMatmulAlgo_t> algorithms(const LibraryPlan& plan, const Product& p) {
    std::vector<cublasLtMatmulAlgo_t> all;
    const auto add = [&](const LibraryPlan& from, const Product& like) {
      for (const auto& candidate : from.candidates(like, kCandidates, false)) all.push_back(candidate.algo);
    };
    add(plan, p);
    for (const int64_t rows : kNeighbours)
      if (p.rows < rows) {
        Product like = p;
        like.rows = rows;
        add(LibraryPlan(like), like);
      }
    return all;
  }

  std::mutex mutex_;
  std::map<ProductKey, ExactPlan> plans_;
  std::map<ProductKey, Choice> classes_;  // measured
};

ExactProducts& exact_products() {
  static auto& all = *new ExactProducts;  // never destroyed: the driver may be gone first
  return all;
}

}  // namespace

void run_exact_product(Exec& exec, const Product& p) {
  exact_products().run(exec, p);
}
std::string measured_exact_products() {
  return exact_products().measured();
}
void restore_exact_products(const std::string& lines) {
  exact_products().restore(lines);
}

}  // namespace mantissa::cuda_kernels
