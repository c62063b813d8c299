// How metrics leave the program: a flat JSON object per step, files that grow by whole lines, and a timer.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "rl/types.h"

namespace mantissa {

/// Text as a JSON string.
std::string json_quoted(const std::string& text);
/// {"step": 3, "critic/score/mean": 0.5, ...}: floats with 9 digits, what is not finite as null.
std::string to_json_line(const Metrics& metrics);

/// A file that grows by whole lines, each handed to the system before write() returns. On resume it is cut to what it
/// held at the checkpoint, so that a repeated step does not appear twice.
class LineFile {
 public:
  /// Opens for appending, cut to `keep` bytes (0 empties it). Throws Error with the path and the system's reason.
  LineFile(std::filesystem::path path, int64_t keep);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;
  void write(const std::string& line);
  /// Returns when all lines are on the disk.
  void sync();
  int64_t bytes() const { return bytes_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  int64_t bytes_ = 0;
};

/// Adds the seconds of its life to a metric: Timer timer(metrics, "timing_s/gen").
class Timer {
 public:
  Timer(Metrics& metrics, std::string name)
      : metrics_(metrics), name_(std::move(name)), start_(std::chrono::steady_clock::now()) {}
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  double seconds() const;

 private:
  Metrics& metrics_;
  std::string name_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace mantissa
