// The CPU backend: memory, and the table of kernels.
//
// Freed blocks are kept in lists by size class, so that a training step, once warm, takes no page fault and no system
// call for its tensors. Classes are eight to a power of two (at most 1/8 wasted above 2 KiB). Blocks from 2 MiB on ask
// for huge pages: fewer TLB misses in the matrix products.
#include "core/cpu/cpu.h"

#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "core/cpu/kernels.h"
#include "core/cpu/simd.h"

namespace mantissa {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kHugePage = size_t(2) << 20;

/// Hands out and caches blocks. Storages share it, so it outlives tensors that outlive the backend.
class BlockCache {
 public:
  explicit BlockCache(size_t capacity) { info_.capacity = capacity; }
  ~BlockCache() { release_cached(); }

  /// The class a request falls in: a multiple of 256 and of an eighth of the power of two below it.
  static size_t class_of(size_t bytes) {
    const size_t step = std::max(kAlignment, std::bit_floor(std::max<size_t>(bytes, 1)) / 8);
    return std::max(step, (bytes + step - 1) / step * step);
  }

  std::byte* take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    check(bytes <= info_.capacity && class_of(bytes) <= info_.capacity - info_.in_use, "[cpu memory] asked for ", bytes,
          " bytes: ", info_.in_use, " of ", info_.capacity, " bytes are in use");
    const size_t size = class_of(bytes);
    std::byte* block = nullptr;
    if (auto list = free_.find(size); list != free_.end() && !list->second.empty()) {
      block = list->second.back();
      list->second.pop_back();
      cached_ -= size;
    } else {
      if (size > info_.capacity - info_.in_use - cached_) release_cached();
      block = make(size);
      if (!block) {
        release_cached();
        block = make(size);
      }
      check(block != nullptr, "[cpu memory] the system refused ", size, " bytes; ", info_.in_use, " bytes are in use");
    }
    info_.in_use += size;
    info_.peak = std::max(info_.peak, info_.in_use);
    return block;
  }

  void give_back(std::byte* block, size_t bytes) {
    const size_t size = class_of(bytes);
    const std::lock_guard lock(mutex_);
    free_[size].push_back(block);
    cached_ += size;
    info_.in_use -= size;
  }

  MemoryInfo info() const {
    const std::lock_guard lock(mutex_);
    return info_;
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    info_.peak = info_.in_use;
  }

 private:
  static std::byte* make(size_t size) {
    void* block = std::aligned_alloc(size < kHugePage ? kAlignment : kHugePage,
                                     size < kHugePage ? size : (size + kHugePage - 1) / kHugePage * kHugePage);
    if (block && size >= kHugePage) madvise(block, size, MADV_HUGEPAGE);  // a wish: failure changes nothing
    return static_cast<std::byte*>(block);
  }
  void release_cached() {
    for (auto& [size, blocks] : free_)
      for (std::byte* block : blocks) std::free(block);
    free_.clear();
    cached_ = 0;
  }

  mutable std::mutex mutex_;
  std::map<size_t, std::vector<std::byte*>> free_;
  size_t cached_ = 0;
  MemoryInfo info_;
};

class CpuBackend : public Backend {
 public:
  CpuBackend() : cache_(std::make_shared<BlockCache>(size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGESIZE)))) {
    if (const char* level = std::getenv("MANTISSA_SIMD")) limit_simd(level);
    cpu_kernels::register_elementwise(kernels_);
    cpu_kernels::register_cast(kernels_);
    cpu_kernels::register_matmul(kernels_);
    cpu_kernels::register_norm(kernels_);
    cpu_kernels::register_attention(kernels_);
    cpu_kernels::register_moe(kernels_);
    cpu_kernels::register_vocab(kernels_);
    cpu_kernels::register_sampling(kernels_);
    cpu_kernels::register_optim(kernels_);
  }

  const std::string& name() const override { return name_; }
  const Kernels& kernels() const override { return kernels_; }
  std::string exact_obstacle(const ExactNeeds&) const override { return {}; }  // every row is a chain of its own

  std::shared_ptr<Storage> allocate(size_t bytes) override {
    std::byte* block = cache_->take(bytes);
    std::shared_ptr<void> owner(
        block, [cache = cache_, bytes](void* p) { cache->give_back(static_cast<std::byte*>(p), bytes); });
    return std::make_shared<Storage>(*this, block, bytes, std::move(owner));
  }
  void copy_from_host(void* dst, const void* src, size_t bytes) override { copy(dst, src, bytes); }
  void copy_to_host(void* dst, const void* src, size_t bytes) override { copy(dst, src, bytes); }
  void copy(void* dst, const void* src, size_t bytes) override {
    if (bytes > 0) std::memmove(dst, src, bytes);  // an empty tensor's pointer may be null
  }
  void zero(void* dst, size_t bytes) override {
    if (bytes > 0) std::memset(dst, 0, bytes);
  }
  void synchronize() override {}
  MemoryInfo memory() const override { return cache_->info(); }
  void reset_peak() override { cache_->reset_peak(); }
  std::string description() const override { return str("cpu, ", omp_get_max_threads(), " threads, ", simd_level()); }

 private:
  const std::string name_ = "cpu";
  Kernels kernels_{};
  std::shared_ptr<BlockCache> cache_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend() {
  return std::make_unique<CpuBackend>();
}

}  // namespace mantissa
