// A choice is made once per class of shapes, by time, and every algorithm of the library is checked for every exact
// shape that it serves. Since all choices give the same bits, measuring costs no reproducibility, and
// train.deterministic need not forbid it.
//
// Token counts of micro-batches are new in every step. So a check of an algorithm that is chosen already waits for
// nothing where there are many rows: until its result is known, what the algorithm computes is computed anew, on the
// device, if the check has failed there.
#include "cuda/matmul/exact_products.h"

#include <bit>
#include <map>
#include <mutex>
#include <sstream>

#include "cuda/device.h"
#include "cuda/matmul/exact_choice.h"

namespace mantissa::cuda_kernels {
namespace {

constexpr size_t kMaxPlans = Verdicts::kPlaces;  // so that no place serves two of them

struct ExactPlan {
  std::unique_ptr<LibraryPlan> library;  // null: the own kernel
  int kernel = 0;
  int verdict = -1;  // of the check that is under way; none: negative
};

/// Shapes that share a choice. Few rows are decode's, whose sizes are few; else there are two sizes per power of two.
ProductKey shapes_of(const Product& p) {
  ProductKey key = class_of(key_of(p, false));
  if (p.rows > kFewRows) {
    const int64_t step = int64_t(std::bit_floor(uint64_t(p.rows))) / 2;
    key[0] = (p.rows + step - 1) / step * step;
  }
  return key;
}

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
    if (it->second.verdict >= 0 && !settle(exec, p, it->second)) return;
    launch(exec, p, it->second);
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
  static void launch(Exec& exec, const Product& p, const ExactPlan& plan) {
    if (plan.library)
      plan.library->launch(exec, p, p.c);
    else
      run_exact_kernel(exec, exact_of(p), plan.kernel);
  }

  /// What the check of a plan has shown by now. True: the plan may be launched; false: p is done without it.
  bool settle(Exec& exec, const Product& p, ExactPlan& plan) {
    const Verdicts::State state = verdicts_.state(plan.verdict);
    if (state == Verdicts::State::kPassed) {
      plan.verdict = -1;
      return true;
    }
    if (cuda::capturing(exec)) {  // a graph outlives the check
      run_exact_kernel(exec, exact_of(p), exact_kernel_for(exec, exact_of(p)));
    } else if (state == Verdicts::State::kPending) {
      launch(exec, p, plan);
      repair_product(exec, exact_of(p), verdicts_.on_device(plan.verdict));
    } else {
      classes_.erase(shapes_of(p));
      bool done = false;
      plan = make_plan(exec, p, done);
      return !done;
    }
    return false;
  }

  /// `done`: the last check has left the product where it belongs.
  ExactPlan make_plan(Exec& exec, const Product& p, bool& done) {
    const auto known = classes_.find(shapes_of(p));
    if (known != classes_.end() && !known->second.algorithm)
      if (exact_kernel_serves(exec, exact_of(p), known->second.kernel)) return {nullptr, known->second.kernel};
    Checks checks(exec, p);
    if (known != classes_.end() && known->second.algorithm) {
      if (auto plan = std::make_unique<LibraryPlan>(p); plan->take(*known->second.algorithm)) {
        if (p.rows > kFewRows) {
          const int verdict = verdicts_.open(exec);
          checks.start(*plan, verdicts_, verdict);
          done = true;
          return {std::move(plan), 0, verdict};
        }
        if (done = checks.pass(*plan); done) return {std::move(plan), 0};
      }
    }
    const Choice choice = classes_[shapes_of(p)] = fastest_exact(exec, p, checks);
    if (!choice.algorithm) return {nullptr, choice.kernel};
    auto plan = std::make_unique<LibraryPlan>(p);
    plan->take(*choice.algorithm);
    return {std::move(plan), 0};
  }

  std::mutex mutex_;
  Verdicts verdicts_;
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
