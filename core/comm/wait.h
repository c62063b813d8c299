// Wait: how long a rank waits for others at the start of a run, and what it says about that meanwhile.
#pragma once

#include <algorithm>
#include <string>

#include "core/comm/place.h"
#include "core/comm/socket.h"
#include "core/notice.h"

namespace mantissa {

class Wait {
 public:
  /// Begins. After `quiet` a rank says whom it waits for, once.
  Wait(std::string who, std::chrono::milliseconds patience, std::chrono::milliseconds quiet)
      : who_(std::move(who)),
        limit_(str(", for up to ", double(patience.count()) / 1000, " s (", kPatienceVariable, " in the environment)")),
        quiet_(quiet),
        end_(deadline_in(patience)),
        speak_(deadline_in(quiet)) {}

  Deadline end() const { return end_; }
  bool over() const { return std::chrono::steady_clock::now() >= end_; }
  /// From now on it waits for others, of whom it has said nothing; no longer than before.
  void turn_to_others() {
    said_ = false;
    speak_ = deadline_in(quiet_);
  }

  /// Says, where it is time to, for whom and why.
  void say(const std::string& whom, const std::string& reason = "") {
    if (said_ || over() || std::chrono::steady_clock::now() < speak_) return;
    said_ = true;
    notice(str(who_, " waits for ", whom, limit_, reason.empty() ? "" : ": ", reason));
  }
  [[noreturn]] void give_up(const std::string& whom, const std::string& reason) const {
    fail("[comm] ", who_, " waited for ", whom, limit_, ": ", reason);
  }
  /// The socket of attempt(deadline), which is made again where its deadline was only the time to say something.
  template <class Attempt, class Whom>
  Socket socket(const Attempt& attempt, const Whom& whom) {
    for (;;) {
      const bool waiting = !said_ && !over();
      try {
        return attempt(waiting ? std::min(speak_, end_) : end_);
      } catch (const Error& e) {
        say(whom());
        if (!waiting || !said_) give_up(whom(), e.what());
      }
    }
  }

 private:
  const std::string who_, limit_;
  const std::chrono::milliseconds quiet_;
  const Deadline end_;
  Deadline speak_;
  bool said_ = false;
};

}  // namespace mantissa
