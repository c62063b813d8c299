#include "cuda/matmul/exact_choice.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <memory>

#include "cuda/device.h"

namespace mantissa::cuda_kernels {
namespace {

using cuda::stream;

constexpr int kCandidates = 8;
/// For few rows the library offers algorithms that are slow or split K; those that it has for so many serve them, too.
constexpr int64_t kNeighbours[] = {128, 256};
/// So many are measured as in a step, the fastest at first sight.
constexpr int kFinalists = 6;
constexpr int kRounds = 7;
/// Times this near each other are equal.
constexpr float kTie = 1.02f;
/// Largest operand made up for a check.
constexpr int64_t kCheckBytes = int64_t(1) << 30;
constexpr unsigned long long kUnknown = ~0ull;

/// What fills the device's cache with other things. Does nothing where there is no room for it.
class ColdCache {
 public:
  explicit ColdCache(Exec& exec) : exec_(exec) {
    int device = 0, bytes = 0;
    MANTISSA_CUDA(cudaGetDevice(&device));
    MANTISSA_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device));
    try {
      other_ = exec.empty({int64_t(bytes)}, Dtype::kF16);  // twice its size
    } catch (const Error&) {                               // then the cache stays warm
    }
  }
  void clear() {
    if (other_.defined()) MANTISSA_CUDA(cudaMemsetAsync(other_.raw(), 0, other_.bytes(), stream(exec_)));
  }

 private:
  Exec& exec_;
  Tensor other_;
};

bool same(const cublasLtMatmulAlgo_t& a, const cublasLtMatmulAlgo_t& b) {
  return std::memcmp(a.data, b.data, sizeof a.data) == 0;
}

/// What the library offers for this product, and for more rows where it has few; then the own kernels.
std::vector<Choice> all_choices(Exec& exec, const LibraryPlan& plan, const Product& p) {
  std::vector<Choice> all;
  const auto add = [&](const LibraryPlan& from, const Product& like) {
    for (const auto& candidate : from.candidates(like, kCandidates, false)) {
      const bool known =
          std::any_of(all.begin(), all.end(), [&](const Choice& c) { return same(*c.algorithm, candidate.algo); });
      if (!known) all.push_back({candidate.algo, 0});
    }
  };
  add(plan, p);
  for (const int64_t rows : kNeighbours)
    if (p.rows < rows) {
      Product like = p;
      like.rows = rows;
      add(LibraryPlan(like), like);
    }
  for (int kernel = 1; p.rows <= kFewRows && kernel < exact_kernels(); ++kernel)
    if (exact_kernel_serves(exec, exact_of(p), kernel)) all.push_back({{}, kernel});
  return all;
}

}  // namespace

std::vector<float> measure_in_turn(Exec& exec, const std::vector<std::function<void()>>& ways) {
  ColdCache cache(exec);
  std::vector<float> best(ways.size(), std::numeric_limits<float>::infinity());
  for (int round = 0; round < kRounds; ++round)
    for (size_t i = 0; i < ways.size(); ++i) {
      cache.clear();
      best[i] = std::min(best[i], milliseconds(exec, [&] {
                           run_short_kernel(exec);
                           ways[i]();
                         }));
    }
  return best;
}

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

// ---- verdicts -------------------------------------------------------------------------------------------------------

Verdicts::Verdicts() {
  void *device = nullptr, *host = nullptr;
  MANTISSA_CUDA(cudaMalloc(&device, kPlaces * sizeof(*device_)));
  MANTISSA_CUDA(cudaMallocHost(&host, kPlaces * sizeof(*host_)));
  device_ = static_cast<unsigned long long*>(device);
  host_ = static_cast<unsigned long long*>(host);
}

int Verdicts::open(Exec& exec) {
  const int place = int(opened_++ % kPlaces);
  if (place == 0) MANTISSA_CUDA(cudaStreamSynchronize(stream(exec)));  // what was sent before has come
  host_[place] = kUnknown;
  MANTISSA_CUDA(cudaMemsetAsync(on_device(place), 0, sizeof(*device_), stream(exec)));
  return place;
}

void Verdicts::send(Exec& exec, int place) {
  MANTISSA_CUDA(
      cudaMemcpyAsync(host_ + place, on_device(place), sizeof(*device_), cudaMemcpyDeviceToHost, stream(exec)));
}

Verdicts::State Verdicts::state(int place) const {
  const unsigned long long differing = std::atomic_ref(host_[place]).load();
  return differing == kUnknown ? State::kPending : differing == 0 ? State::kPassed : State::kFailed;
}

// ---- checks ---------------------------------------------------------------------------------------------------------

Checks::Checks(Exec& exec, const Product& p) : exec_(exec), real_(p), made_up_(p) {
  const int64_t bytes = 2 * std::max(p.rows, p.columns) * p.depth;
  if (bytes > kCheckBytes) return;
  try {
    b_ = exec.empty({p.columns * p.depth}, p.type);
    if (p.bias) bias_ = exec.zeros({p.columns}, p.out_type);
    a_ = exec.empty({p.rows * p.depth}, p.type);
  } catch (const Error&) {
    return;  // no room: the real operands have to do
  }
  fill_cancelling(exec, a_.raw(), p.rows, p.depth, p.type, true);
  fill_cancelling(exec, b_.raw(), p.columns, p.depth, p.type, false);
  made_up_.a = a_.raw();
  made_up_.b = b_.raw();
  if (p.bias) made_up_.bias = bias_.raw();
}

bool Checks::passes(const LibraryPlan& plan, const Product& p) {
  plan.launch(exec_, p, p.c);
  return differing_elements(exec_, exact_of(p)) == 0;
}

bool Checks::pass(const LibraryPlan& plan) {
  return (!a_.defined() || passes(plan, made_up_)) && passes(plan, real_);
}

void Checks::start(const LibraryPlan& plan, Verdicts& verdicts, int place) {
  const auto compare = [&](const Product& p) {
    plan.launch(exec_, p, p.c);
    count_differing_elements(exec_, exact_of(p), verdicts.on_device(place));
  };
  if (a_.defined()) compare(made_up_);
  compare(real_);
  verdicts.send(exec_, place);
  repair_product(exec_, exact_of(real_), verdicts.on_device(place));
}

// ---- the choice -----------------------------------------------------------------------------------------------------

Choice fastest_exact(Exec& exec, const Product& p, Checks& checks) {
  const std::vector<Choice> all = all_choices(exec, LibraryPlan(p), p);
  std::vector<std::unique_ptr<LibraryPlan>> plans(all.size());
  std::vector<std::function<void()>> runs(all.size());
  std::vector<std::pair<float, size_t>> order;  // by a first look, without regard to bits
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].algorithm) {
      plans[i] = std::make_unique<LibraryPlan>(p);
      if (!plans[i]->take(*all[i].algorithm)) continue;
      runs[i] = [&exec, &p, plan = plans[i].get()] { plan->launch(exec, p, p.c); };
    } else {
      runs[i] = [&exec, &p, kernel = all[i].kernel] { run_exact_kernel(exec, exact_of(p), kernel); };
    }
    order.emplace_back(measure(exec, 3, runs[i]), i);
  }
  std::sort(order.begin(), order.end());
  std::vector<size_t> finalists;
  for (const auto& [ms, i] : order) {
    if (finalists.size() == kFinalists) break;
    if (!plans[i] || checks.pass(*plans[i])) finalists.push_back(i);
  }
  if (finalists.empty()) return {{}, exact_kernel_for(exec, exact_of(p))};
  std::sort(finalists.begin(), finalists.end());
  std::vector<std::function<void()>> ways;
  for (const size_t i : finalists) ways.push_back(runs[i]);
  const std::vector<float> best = measure_in_turn(exec, ways);
  const float fastest = *std::min_element(best.begin(), best.end());
  size_t first = 0;
  while (best[first] > fastest * kTie) ++first;
  return all[finalists[first]];
}

}  // namespace mantissa::cuda_kernels
