#include "rl/rollout/page_pool.h"

#include <algorithm>

#include "core/error.h"

namespace mantissa {

PagePool::PagePool(int64_t pages) : refs_(size_t(pages), 0), free_(size_t(pages)) {
  for (size_t i = 0; i < free_.size(); ++i) free_[i] = int32_t(free_.size() - 1 - i);  // page 0 goes first
}

int32_t PagePool::allocate() {
  check(!free_.empty(), "[block pool] all ", total(), " pages are in use");
  const int32_t page = free_.back();
  free_.pop_back();
  refs_[size_t(page)] = 1;
  peak_used_ = std::max(peak_used_, total() - free());
  return page;
}

void PagePool::share(int32_t page) {
  check(refs(page) > 0, "[block pool] page ", page, " is shared but nobody holds it");
  ++refs_[size_t(page)];
}

void PagePool::release(int32_t page) {
  check(refs(page) > 0, "[block pool] page ", page, " is released but nobody holds it");
  if (--refs_[size_t(page)] == 0) free_.push_back(page);
}

}  // namespace mantissa
