#include "core/rehearsal.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "core/kernels.h"
#include "core/low_rank.h"
#include "core/registry.h"

namespace mantissa {
namespace {

constexpr size_t kHeld = size_t(1) << 20;  // blocks up to this have memory behind them

int64_t round_up(int64_t n, int64_t step) {
  return (n + step - 1) / step * step;
}

bool on_cuda(const Exec& exec) {
  return exec.backend().name() == "cuda";
}

void borrow(Exec& exec, int64_t bytes) {
  Scratch scratch(exec);
  if (bytes > 0) scratch.take<char>(bytes);
}

// ---- temporary memory of kernels, as in core/cpu/matmul.cpp, cuda/matmul/, cuda/attention/cudnn.cpp -----------------

void matmul(Exec& exec, Tensor& c, const Tensor& a, const Tensor&, Trans trans, bool) {
  const int64_t rows = c.rows(), columns = c.size(-1), depth = trans == Trans::kTN ? a.rows() : a.size(-1);
  const bool peer = exec.match == Match::kPeer;
  if (on_cuda(exec)) return borrow(exec, (int64_t(32) << 20) + (peer ? 4 * rows * columns : 0));
  constexpr int64_t kBlock = 2048, kDepth = 384, kFewRows = 32, kPeerElements = 1 << 22;
  const int64_t k = std::min(depth, kDepth), m = std::min(rows, kBlock), n = std::min(columns, kBlock);
  int64_t floats = rows <= kFewRows ? round_up(rows, 16) * depth : (m + n) * k;
  if (rows > kFewRows && is_16bit(c.dtype()) && depth > kDepth) floats += m * n;
  if (peer && columns > 0) floats += 4 * std::clamp<int64_t>(kPeerElements / columns, kFewRows, rows) * columns;
  borrow(exec, 4 * floats);
}

void matmul_bias(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, const Tensor&) {
  matmul(exec, c, a, b, Trans::kNT, false);
}

void attention_bwd(Exec& exec, Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                   const Tensor& offsets, int64_t longest, Heads heads) {
  if (!on_cuda(exec)) {
    const int64_t threads = std::max(1u, std::thread::hardware_concurrency()), ratio = heads.query / heads.kv;
    const int64_t width = round_up(heads.size, 16), tile = kAttentionTile * width;
    return borrow(
        exec,
        4 * threads * (7 * tile + 4 * width + 2 * kAttentionTile * kAttentionTile + longest * ratio * (width + 2)));
  }
  // cuDNN's deterministic backward holds the gradients of the scores of as many sequences as fit into 1 GiB.
  const int64_t length = round_up(longest, 128), scores = heads.query * length * length * 2;
  const int64_t sequences =
      std::clamp<int64_t>(offsets.numel() - 1, 1, std::max<int64_t>(1, (int64_t(1) << 30) / scores));
  if (exec.deterministic && scores <= int64_t(4) << 30) borrow(exec, sequences * scores);
}

template <class... A>
void silence(void (*&entry)(A...)) {
  entry = [](A...) {};
}

Kernels silent_kernels() {
  Kernels k{};
  // Every member, in order: the compiler counts them.
  auto& [fill, cast, binary, unary, add_bias, bias_bwd, swiglu_fwd, swiglu_bwd, sum, segment_sum, segment_expand,
         gather_rows, scatter_rows, copy_columns, dropout, find_nonfinite, find_difference, product, product_bias,
         low_rank, scaled, two, rms_norm_fwd, add_rms_norm_fwd, rms_norm_bwd, qk_norm_fwd, qk_norm_bwd, rope, rope_kv,
         attention_fwd, attention_back, kv_write, kv_copy, attention_decode, rope_attention_decode, route, route_bwd,
         route_given, same_routes, group_rows, grouped_matmul, combine_rows, combine_rows_bwd, embedding_fwd,
         embedding_bwd, logprob_fwd, logprob_bwd, sample, grad_stats, step_decide, adamw] = k;
  [](auto&... entry) { (silence(entry), ...); }(
      fill, cast, binary, unary, add_bias, bias_bwd, swiglu_fwd, swiglu_bwd, sum, segment_sum, segment_expand,
      gather_rows, scatter_rows, copy_columns, dropout, find_nonfinite, find_difference, rms_norm_fwd, add_rms_norm_fwd,
      rms_norm_bwd, qk_norm_fwd, qk_norm_bwd, rope, rope_kv, attention_fwd, kv_write, kv_copy, attention_decode,
      rope_attention_decode, route, route_bwd, route_given, same_routes, group_rows, grouped_matmul, combine_rows,
      combine_rows_bwd, embedding_fwd, embedding_bwd, logprob_fwd, logprob_bwd, sample, grad_stats, step_decide, adamw);
  product = matmul;
  product_bias = matmul_bias;
  low_rank = low_rank_by_matmul;
  scaled = scaled_by_matmul;
  two = two_by_matmul;
  attention_back = attention_bwd;
  return k;
}

/// Bytes handed out, and the most so far; storages share it.
struct Count {
  size_t in_use = 0, peak = 0;
  void take(size_t bytes) { peak = std::max(peak, in_use += bytes); }
};

/// Zeroed memory; of a large block nothing but addresses, until somebody writes there.
std::shared_ptr<void> addresses(size_t bytes) {
  void* block = nullptr;
  if (bytes <= kHeld) {
    block = std::calloc(1, std::max<size_t>(bytes, 1));
  } else {
    block = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED) block = nullptr;
  }
  check(block != nullptr, "[rehearsal] the system has no ", bytes, " bytes of addresses");
  return {block, [bytes](void* p) { bytes <= kHeld ? std::free(p) : void(munmap(p, bytes)); }};
}

struct NoGraph : Graph {
  void replay() override {}
};

}  // namespace

struct Rehearsal::Impl {
  Impl(std::string of, size_t bytes) : name(std::move(of)), capacity(bytes), kernels(silent_kernels()) {}
  const std::string name;
  const size_t capacity;
  const Kernels kernels;
  std::shared_ptr<Count> tensors = std::make_shared<Count>(), graphs = std::make_shared<Count>();
  bool capturing = false;
};

Rehearsal::Rehearsal(std::string name, size_t capacity) : impl_(std::make_unique<Impl>(std::move(name), capacity)) {}

Rehearsal::~Rehearsal() = default;

const std::string& Rehearsal::name() const {
  return impl_->name;
}

const Kernels& Rehearsal::kernels() const {
  return impl_->kernels;
}

namespace {

/// Addresses that are counted, rounded to `counted` bytes, for as long as they are held.
std::shared_ptr<void> counted_addresses(size_t bytes, size_t counted, const std::shared_ptr<Count>& count) {
  count->take(counted);
  std::shared_ptr<void> memory = addresses(bytes);
  void* const block = memory.get();
  return {block, [count, counted, memory](void*) { count->in_use -= counted; }};
}

}  // namespace

/// A host's state has the CPU's backend, as on a device; where that is the CPU it is memory as any other.
std::shared_ptr<Storage> Rehearsal::allocate_host(size_t bytes) {
  std::shared_ptr<void> memory =
      name() == "cpu" ? counted_addresses(bytes, block_bytes(bytes), impl_->tensors) : addresses(bytes);
  return std::make_shared<Storage>(cpu(), memory.get(), bytes, memory);
}

std::shared_ptr<Storage> Rehearsal::allocate(size_t bytes) {
  std::shared_ptr<void> memory =
      counted_addresses(bytes, block_bytes(bytes), impl_->capturing ? impl_->graphs : impl_->tensors);
  return std::make_shared<Storage>(*this, memory.get(), bytes, memory);
}

void Rehearsal::copy_from_host(void* dst, const void* src, size_t bytes) {
  if (bytes > 0 && bytes <= kHeld) std::memcpy(dst, src, bytes);
}

void Rehearsal::copy_to_host(void* dst, const void* src, size_t bytes) {
  if (bytes > 0 && bytes <= kHeld) std::memcpy(dst, src, bytes);
}

void Rehearsal::zero(void* dst, size_t bytes) {
  if (bytes > 0 && bytes <= kHeld) std::memset(dst, 0, bytes);
}

std::unique_ptr<Graph> Rehearsal::capture(Exec&, const std::function<void()>& body) {
  if (impl_->name == "cuda") {
    impl_->capturing = true;
    body();
    impl_->capturing = false;
  }
  return std::make_unique<NoGraph>();
}

size_t Rehearsal::graph_bytes() const {
  if (impl_->graphs->peak == 0) return 0;
  constexpr int64_t kStep = int64_t(2) << 20;  // segments as in cuda/memory.cpp
  const int64_t segment = std::clamp(round_up(int64_t(impl_->capacity) / 128, kStep), 16 * kStep, int64_t(1) << 30);
  return size_t(round_up(int64_t(impl_->graphs->peak), segment));
}

MemoryInfo Rehearsal::memory() const {
  const size_t graphs = graph_bytes();
  return {
      .in_use = impl_->tensors->in_use + graphs, .peak = impl_->tensors->peak + graphs, .capacity = impl_->capacity};
}

void Rehearsal::reset_peak() {
  impl_->tensors->peak = impl_->tensors->in_use;
}

size_t Rehearsal::block_bytes(size_t bytes) const {
  size_t step = 256;  // cuda/memory.cpp; on the CPU eight sizes to a power of two (core/cpu/cpu.cpp)
  if (impl_->name == "cpu") step = std::max(step, std::bit_floor(std::max<size_t>(bytes, 1)) / 8);
  return std::max(step, (bytes + step - 1) / step * step);
}

bool is_rehearsal(const Backend& backend) {
  return dynamic_cast<const Rehearsal*>(&backend) != nullptr;
}

std::string Rehearsal::description() const {
  return impl_->name + ", rehearsed";
}

}  // namespace mantissa
