// What may compute a product under Match::kExact, whether it has the definition's bits (cuda/matmul/exact.h), and which
// is fastest.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "cuda/matmul/exact.h"
#include "cuda/matmul/library.h"

namespace mantissa::cuda_kernels {

/// An algorithm of the library, or the number of an own kernel.
struct Choice {
  std::optional<cublasLtMatmulAlgo_t> algorithm;
  int kernel = 0;
};

ExactProduct exact_of(const Product& p);

/// Least milliseconds of each of several ways to one result, nearly as they would take them in a step: in turn, each
/// time with nothing of theirs in the cache, and behind another kernel, whose time is in it. Waits for the device.
std::vector<float> measure_in_turn(Exec& exec, const std::vector<std::function<void()>>& ways);

/// Results of checks that nobody waits for: numbers of differing elements, counted on the device and sent to the host.
/// A place serves again after kPlaces others.
class Verdicts {
 public:
  static constexpr int kPlaces = 4096;
  enum class State { kPending, kPassed, kFailed };

  Verdicts();
  /// A place whose number is zero on the device and unknown on the host.
  int open(Exec& exec);
  unsigned long long* on_device(int place) const { return device_ + place; }
  /// Sends the number, as it is when the device comes to it.
  void send(Exec& exec, int place);
  State state(int place) const;

 private:
  unsigned long long *device_ = nullptr, *host_ = nullptr;
  int64_t opened_ = 0;
};

/// The checks of one product's algorithms: on the operands at hand, which may be all zeros, and on numbers whose sums
/// leave nothing but their rounding. Both write to the product's c, the real operands last.
class Checks {
 public:
  Checks(Exec& exec, const Product& p);

  /// Waits for the device.
  bool pass(const LibraryPlan& plan);
  /// Does not wait. c has the definition's bits in any case: it is computed anew, on the device, where they differ.
  void start(const LibraryPlan& plan, Verdicts& verdicts, int place);

 private:
  bool passes(const LibraryPlan& plan, const Product& p);

  Exec& exec_;
  const Product real_;
  Product made_up_;
  Tensor a_, b_, bias_;  // of made_up_; undefined where there is no room
};

/// The fastest of those that pass, an own kernel where none does. Waits for the device; writes to c. Near ties go to
/// the one that is listed first, so that one start chooses as another does.
Choice fastest_exact(Exec& exec, const Product& p, Checks& checks);

}  // namespace mantissa::cuda_kernels
