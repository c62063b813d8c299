#include "rl/logging/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "core/error.h"

namespace mantissa {

std::string json_quoted(const std::string& text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\')
      out += '\\', out += char(c);
    else if (c < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", c);
      out += escape;
    } else
      out += char(c);
  }
  return out + "\"";
}

std::string to_json_line(const Metrics& metrics) {
  std::string line = "{";
  for (const auto& [name, value] : metrics.values()) {
    char number[32] = "null";
    if (std::isfinite(value)) std::snprintf(number, sizeof number, "%.9g", value);
    line += (line.size() > 1 ? ", " : "") + json_quoted(name) + ": " + number;
  }
  return line + "}";
}

LineFile::LineFile(std::filesystem::path path, int64_t keep) : path_(std::move(path)), bytes_(keep) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  check(fd_ >= 0, path_.string(), ": cannot be written: ", std::strerror(errno));
  const int64_t size = ::lseek(fd_, 0, SEEK_END);
  if (size < keep || ::ftruncate(fd_, keep) != 0 || ::lseek(fd_, 0, SEEK_END) != keep) {
    const std::string reason =
        size < keep ? str("it holds ", size, " bytes, the checkpoint saw ", keep) : std::strerror(errno);
    ::close(fd_);
    fail(path_.string(), ": cannot be cut to the checkpoint: ", reason);
  }
}

LineFile::~LineFile() {
  ::close(fd_);
}

void LineFile::write(const std::string& line) {
  const std::string text = line + "\n";
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::write(fd_, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    check(n > 0, path_.string(), ": cannot be written: ", std::strerror(errno));
    done += size_t(n);
  }
  bytes_ += int64_t(text.size());
}

void LineFile::sync() {
  check(::fdatasync(fd_) == 0, path_.string(), ": cannot be written: ", std::strerror(errno));
}

double Timer::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

Timer::~Timer() {
  const double before = metrics_.get(name_);
  metrics_.set(name_, (std::isnan(before) ? 0.0 : before) + seconds());
}

}  // namespace mantissa
