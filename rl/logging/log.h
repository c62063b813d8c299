// Log lines on stderr, with the time. The one place that knows spdlog.
#pragma once

#include <string>

namespace mantissa {

/// A rank other than 0 of several says nothing but warnings; they begin with its number where `name` is true.
void set_log_rank(int rank, bool name);
void log_info(const std::string& text);
void log_warning(const std::string& text);

/// While it lives nothing is said: for work that would repeat what has been said.
class LogPause {
 public:
  LogPause();
  ~LogPause();
  LogPause(const LogPause&) = delete;
  LogPause& operator=(const LogPause&) = delete;

 private:
  const int level_;  // of spdlog, before
};

}  // namespace mantissa
