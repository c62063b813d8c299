#include "cuda/memory.h"

#include <algorithm>
#include <vector>

#include "cuda/device.h"

namespace mantissa::cuda {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kSegmentStep = size_t(2) << 20;
/// Blocks up to this live in segments of their own kind: small tensors that stay must not split the large blocks that
/// activations come and go in. They are carved from the end of a free block, large ones from its start.
constexpr size_t kSmall = size_t(1) << 20;

size_t round_up(size_t n, size_t step) {
  return (n + step - 1) / step * step;
}

std::string gigabytes(size_t bytes) {
  std::ostringstream out;
  out.precision(3);
  out << double(bytes) / 1e9 << " GB";
  return out.str();
}

}  // namespace

CachingAllocator::CachingAllocator(std::string what, size_t device_bytes)
    : what_(std::move(what)),
      segment_bytes_(std::clamp(round_up(device_bytes / 128, kSegmentStep), size_t(32) << 20, size_t(1) << 30)) {}

CachingAllocator::~CachingAllocator() {
  for (const auto& [start, bytes] : segments_) cudaFree(start);  // the context may be gone: nothing to report to
}

std::byte* CachingAllocator::take(size_t bytes) {
  const std::lock_guard lock(mutex_);
  const size_t size = std::max(kAlignment, round_up(bytes, kAlignment));
  auto fit = free_.lower_bound({size, nullptr});
  if (fit == free_.end()) {
    if (!grow(size)) return nullptr;
    fit = free_.lower_bound({size, nullptr});
  }
  auto block = blocks_.find(fit->second);
  free_.erase(fit);
  const size_t rest = block->second.bytes - size;
  std::byte* const segment = block->second.segment;
  if (rest > 0 && size <= kSmall) {  // from the end
    block->second.bytes = rest;
    insert_free(block);
    block = blocks_.emplace(block->first + rest, Block{size, segment, false}).first;
  } else {
    block->second.bytes = size;
    block->second.free = false;
    if (rest > 0) insert_free(blocks_.emplace(block->first + size, Block{rest, segment, true}).first);
  }
  in_use_ += size;
  peak_ = std::max(peak_, in_use_);
  return block->first;
}

void CachingAllocator::give_back(std::byte* address) {
  const std::lock_guard lock(mutex_);
  auto block = blocks_.find(address);
  in_use_ -= block->second.bytes;
  block->second.free = true;
  const auto joins = [&](Blocks::iterator other) {
    return other->second.free && other->second.segment == block->second.segment;
  };
  if (const auto next = std::next(block); next != blocks_.end() && joins(next)) {
    erase_free(next);
    block->second.bytes += next->second.bytes;
    blocks_.erase(next);
  }
  if (block != blocks_.begin())
    if (const auto before = std::prev(block); joins(before)) {
      erase_free(before);
      before->second.bytes += block->second.bytes;
      blocks_.erase(block);
      block = before;
    }
  insert_free(block);
}

/// A new segment with one free block of at least `bytes`: an ordinary one when there is room, else what is asked for.
bool CachingAllocator::grow(size_t bytes) {
  const size_t exact = round_up(bytes, kSegmentStep);
  for (const size_t size : {std::max(exact, segment_bytes_), exact}) {
    void* start = nullptr;
    const cudaError_t error = cudaMalloc(&start, size);
    if (error == cudaSuccess) {
      auto* segment = static_cast<std::byte*>(start);
      segments_[segment] = size;
      reserved_ += size;
      insert_free(blocks_.emplace(segment, Block{size, segment, true}).first);
      return true;
    }
    (void)cudaGetLastError();
    if (error != cudaErrorMemoryAllocation)
      fail_call(error, "cudaMalloc", __FILE__, __LINE__);  // an earlier kernel's, say
  }
  return false;
}

void CachingAllocator::release_unused() {
  const std::lock_guard lock(mutex_);
  std::erase_if(segments_, [&](const auto& segment) {
    const auto block = blocks_.find(segment.first);
    if (!block->second.free || block->second.bytes != segment.second) return false;
    erase_free(block);
    blocks_.erase(block);
    reserved_ -= segment.second;
    MANTISSA_CUDA(cudaFree(segment.first));
    return true;
  });
}

size_t CachingAllocator::in_use() const {
  const std::lock_guard lock(mutex_);
  return in_use_;
}
size_t CachingAllocator::peak() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}
size_t CachingAllocator::reserved() const {
  const std::lock_guard lock(mutex_);
  return reserved_;
}
void CachingAllocator::reset_peak() {
  const std::lock_guard lock(mutex_);
  peak_ = in_use_;
}

std::string CachingAllocator::summary() const {
  const std::lock_guard lock(mutex_);
  std::vector<size_t> used;
  for (const auto& [address, block] : blocks_)
    if (!block.free) used.push_back(block.bytes);
  const size_t shown = std::min<size_t>(used.size(), 5);
  std::partial_sort(used.begin(), used.begin() + int64_t(shown), used.end(), std::greater());
  std::string text = str(what_, " hold ", gigabytes(in_use_), " in ", used.size(), " blocks");
  if (shown > 0) {
    text += " (largest ";
    for (size_t i = 0; i < shown; ++i) text += (i ? ", " : "") + gigabytes(used[i]);
    text += ")";
  }
  if (!free_.empty())
    text += str(" and keep ", gigabytes(reserved_ - in_use_), " free, at most ", gigabytes(free_.rbegin()->first),
                " in one piece");
  return text;
}

}  // namespace mantissa::cuda
