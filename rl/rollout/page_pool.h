// PagePool: who holds which page of the KV cache. Ids and reference counts only; the memory is the runner's. Invariant:
// a page is either on the free list with no references, or held by refs(page) >= 1 sequences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mantissa {

class PagePool {
 public:
  explicit PagePool(int64_t pages);

  int64_t total() const { return int64_t(refs_.size()); }
  int64_t free() const { return int64_t(free_.size()); }
  int64_t peak_used() const { return peak_used_; }
  int refs(int32_t page) const { return refs_[size_t(page)]; }

  /// A free page, with one reference. Throws when there is none: the scheduler makes room first.
  int32_t allocate();
  /// One more holder of a page in use.
  void share(int32_t page);
  /// One holder less; the last one frees the page.
  void release(int32_t page);

 private:
  std::vector<int> refs_;
  std::vector<int32_t> free_;  // a stack: recently used pages are warm
  int64_t peak_used_ = 0;
};

}  // namespace mantissa
