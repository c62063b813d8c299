// Backend: what a device has to provide; core/cpu and cuda/ are the two. A missing kernel is a null entry, reported as
// "[op] no kernel registered for cuda". Programs find backends by name in core/registry.h.
//
// core/backend and core/tensor know each other, alone among the files: a tensor asks its backend for memory, and a
// backend's Exec hands out tensors.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace mantissa {

class Conveyor;
struct Kernels;

/// How sums are made. kExact: a row's bits depend on the row alone, so a token's log-prob is the same in rollout and in
/// training; on the CPU one fp32 FMA chain over ascending k, rounded once at the store, on CUDA as docs/numerics.md has
/// it. kFast: whatever is fastest (on the CPU the same as kExact). kPeer imitates a separate rollout engine, for all
/// types alike: K split in 4 partial chains added in order, attention probabilities rounded to the compute type before
/// P.V, logits rounded to the compute type.
enum class Match : uint8_t { kExact, kFast, kPeer };

/// What Match::kExact may depend on: types of weights and activations, of the cache and of the head's operands, the
/// shape of attention, and whether weights have low-rank updates.
struct ExactNeeds {
  Dtype compute, kv_cache, lm_head;
  int head_size = 0;
  int query_heads = 0, kv_heads = 0;
  int64_t adapter = 0;  // of a low-rank update, whose sums two products share: divides all its layers' inputs; 0: none
};

struct MemoryInfo {
  size_t in_use = 0;    // bytes handed out now
  size_t peak = 0;      // highest in_use since the last reset_peak()
  size_t capacity = 0;  // bytes of the device
};

class Exec;

/// Recorded kernels (Backend::capture), to be run again at a fraction of the launches' cost.
class Graph {
 public:
  virtual ~Graph() = default;
  /// Runs them in stream order, on what the same addresses hold now.
  virtual void replay() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const std::string& name() const = 0;  // "cpu", "cuda"
  virtual const Kernels& kernels() const = 0;

  /// Storage of at least `bytes` bytes, 256-byte aligned. Throws Error naming the request and what is held.
  virtual std::shared_ptr<Storage> allocate(size_t bytes) = 0;
  virtual void copy_from_host(void* dst, const void* src, size_t bytes) = 0;  // in stream order; src is free at return
  virtual void copy_to_host(void* dst, const void* src, size_t bytes) = 0;    // waits for the stream
  /// Device-to-device, in stream order.
  virtual void copy(void* dst, const void* src, size_t bytes) = 0;
  /// Sets bytes to zero (the number 0 in every type), in stream order.
  virtual void zero(void* dst, size_t bytes) = 0;
  virtual void synchronize() = 0;
  /// Zeroed host memory, of the CPU's backend, that copies of this device reach at full speed beside kernels.
  virtual std::shared_ptr<Storage> allocate_host(size_t bytes);
  /// Host memory's way through this device, beside the exec's kernels from here on (core/conveyor.h).
  virtual std::unique_ptr<Conveyor> conveyor(Exec& exec, int slots);
  /// Records the kernels that `body` runs on the exec's stream, without running them; null where the backend has no
  /// graphs. Scalars and addresses are recorded as they are: whatever changes between replays must be device data, in
  /// tensors that outlive the graph; memory that body takes and gives back stays reserved. Body must have run once with
  /// these shapes (that sizes the scratch arena and chooses the plans of matrix products), and copies nothing from or
  /// to the host. Graphs of one backend share their memory: they are replayed one after the other.
  virtual std::unique_ptr<Graph> capture(Exec& exec, const std::function<void()>& body) {
    (void)exec, (void)body;
    return nullptr;
  }
  virtual MemoryInfo memory() const = 0;
  virtual void reset_peak() = 0;
  /// What was chosen by measurement so far, as text (empty: nothing), and its return, so that a resumed run keeps the
  /// same choices. Text of another device or library version is ignored.
  virtual std::string measured_choices() const { return {}; }
  virtual void restore_measured_choices(const std::string& text) { (void)text; }
  /// Why rollout and training differ here under Match::kExact, as a clause that names the cause; empty: they do not.
  virtual std::string exact_obstacle(const ExactNeeds& needs) const {
    (void)needs;
    return "the kernels of " + name() + " are not exact";
  }
  /// One line for logs and results: device name, cores or SMs, instruction set or driver.
  virtual std::string description() const = 0;
};

/// How and where to run kernels: first argument of every one. Cheap to make; not shared between threads.
class Exec {
 public:
  explicit Exec(Backend& backend) : backend_(&backend) {}

  Backend& backend() const { return *backend_; }
  const Kernels& kernels() const { return backend_->kernels(); }
  Tensor empty(Shape shape, Dtype dtype) const { return Tensor(*backend_, shape, dtype); }
  Tensor zeros(Shape shape, Dtype dtype);
  /// The block that Scratch lends from at present (null before the first use): a graph keeps it alive.
  const std::shared_ptr<Storage>& scratch() const { return scratch_; }

  bool deterministic = true;  // same inputs, same bits
  Match match = Match::kExact;
  void* stream = nullptr;  // the backend's own handle; null is its default

 private:
  friend class Scratch;
  Backend* backend_;
  std::shared_ptr<Storage> scratch_;
  size_t scratch_used_ = 0;
  std::vector<std::shared_ptr<Storage>> outgrown_scratch_;  // blocks that some Scratch may still point into
};

/// Temporary memory of one kernel call: taken from the Exec's arena, given back when the object dies. An arena that is
/// too small grows: a new block; the old one lives until the outermost Scratch dies.
class Scratch {
 public:
  explicit Scratch(Exec& exec) : exec_(exec), start_(exec.scratch_used_) {}
  ~Scratch() {
    exec_.scratch_used_ = start_;
    if (start_ == 0) exec_.outgrown_scratch_.clear();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// `count` uninitialised elements, 256-byte aligned.
  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(take_bytes(size_t(count) * sizeof(T)));
  }

 private:
  void* take_bytes(size_t bytes);
  Exec& exec_;
  size_t start_;
};

}  // namespace mantissa
