// Device memory: a caching allocator. Segments come from cudaMalloc and are never given back while the program fits;
// requests take the smallest free block that holds them and leave the rest; neighbours that are free become one block.
// A warm training step therefore calls no CUDA function for its tensors. Blocks are reused in stream order: everything
// runs on one stream, so a block may be handed out again as soon as its last handle is gone.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "core/backend.h"

namespace mantissa::cuda {

class CachingAllocator {
 public:
  /// `what` names the pool in errors.
  CachingAllocator(std::string what, size_t device_bytes);
  ~CachingAllocator();
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;

  /// A block of at least `bytes` bytes, 256-byte aligned; null when the device has no room for it.
  std::byte* take(size_t bytes);
  void give_back(std::byte* block);
  /// Gives segments without a block in use back to the device. Waits for it.
  void release_unused();

  size_t in_use() const;
  size_t peak() const;
  size_t reserved() const;  // in use and cached
  void reset_peak();
  /// For errors: what is held, in how many blocks, the largest ones, the largest free block.
  std::string summary() const;

 private:
  struct Block {
    size_t bytes;
    std::byte* segment;  // start of the segment it lies in
    bool free;
  };
  using Blocks = std::map<std::byte*, Block>;

  bool grow(size_t bytes);
  void insert_free(Blocks::iterator block) { free_.insert({block->second.bytes, block->first}); }
  void erase_free(Blocks::iterator block) { free_.erase({block->second.bytes, block->first}); }

  const std::string what_;
  const size_t segment_bytes_;  // size of an ordinary segment
  mutable std::mutex mutex_;
  Blocks blocks_;                                 // by address, free and used
  std::set<std::pair<size_t, std::byte*>> free_;  // by size, then address: the same requests get the same blocks
  std::map<std::byte*, size_t> segments_;
  size_t in_use_ = 0, peak_ = 0, reserved_ = 0;
};

}  // namespace mantissa::cuda
