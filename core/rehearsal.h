// Rehearsal: a backend that counts memory and computes nothing. The code of a run works on it as on a device and asks
// it for the same blocks at the same moments, so that its peak is known before anything is loaded (rl/estimate.h).
//
// Kernels return at once, and large blocks are addresses without memory behind them: they read as zeros, and large
// copies are dropped. Small blocks hold what is copied to them. Where a kernel of the real device takes temporary
// memory that matters, its entry here takes about as much.
#pragma once

#include <memory>

#include "core/backend.h"

namespace mantissa {

class Rehearsal : public Backend {
 public:
  /// Of the device `name` ("cpu", "cuda") with `capacity` bytes.
  Rehearsal(std::string name, size_t capacity);
  ~Rehearsal() override;

  const std::string& name() const override;
  const Kernels& kernels() const override;
  std::shared_ptr<Storage> allocate(size_t bytes) override;
  std::shared_ptr<Storage> allocate_host(size_t bytes) override;
  void copy_from_host(void* dst, const void* src, size_t bytes) override;
  void copy_to_host(void* dst, const void* src, size_t bytes) override;
  void copy(void*, const void*, size_t) override {}
  void zero(void* dst, size_t bytes) override;
  void synchronize() override {}
  /// On cuda body runs once more, on memory of the graphs' own; replaying does nothing.
  std::unique_ptr<Graph> capture(Exec& exec, const std::function<void()>& body) override;
  MemoryInfo memory() const override;
  void reset_peak() override;
  /// What a request of `bytes` adds to memory(), rounded as that device's allocator does.
  size_t block_bytes(size_t bytes) const;
  std::string exact_obstacle(const ExactNeeds&) const override { return {}; }
  std::string description() const override;
  /// Bytes that recorded graphs keep for themselves, part of memory().
  size_t graph_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// What kernels would work on need not be read then.
bool is_rehearsal(const Backend& backend);

}  // namespace mantissa
