// Activity: what a rank is doing, in words, for whoever has to say where a run ended (watchdog.h). The main thread
// writes, a heartbeat thread reads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

namespace mantissa {

class Activity {
 public:
  struct Snapshot {
    std::string phase, collective;
    uint64_t changes = 0;  // grows whenever this rank moves on
  };

  /// Begins a phase and names it: "rollout", "update of step 3".
  void phase(std::string_view name) {
    const std::lock_guard lock(mutex_);
    phase_ = name;
    ++changes_;
    if (on_phase_) on_phase_();
  }
  /// Called by the main thread in every new phase, under this object's lock; empty: nobody is told.
  void on_phase(std::function<void()> told) {
    const std::lock_guard lock(mutex_);
    on_phase_ = std::move(told);
  }
  /// The collective now begun, or last begun where the device works it off: "all_reduce of 4096 fp32, number 17".
  void collective(std::string name) {
    const std::lock_guard lock(mutex_);
    collective_ = std::move(name);
    ++changes_;
  }
  /// Sign of life inside a long phase.
  void beat() { ++changes_; }

  Snapshot read() const {
    const std::lock_guard lock(mutex_);
    return {phase_, collective_, changes_};
  }

 private:
  mutable std::mutex mutex_;
  std::string phase_ = "start", collective_ = "none yet";
  std::function<void()> on_phase_;
  std::atomic<uint64_t> changes_{0};
};

}  // namespace mantissa
