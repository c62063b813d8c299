#include "core/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace mantissa {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail_system(const char* what, const fs::path& path) {
  const int code = errno;
  fail("cannot ", what, " ", path.string(), ": ", std::strerror(code));
}

/// A descriptor that is closed on every way out.
struct Descriptor {
  int fd;
  explicit Descriptor(int fd) : fd(fd) {}
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
};

/// Size of an open regular file; anything else (a directory, a pipe) has no content to trust.
size_t regular_size(int fd, const fs::path& path) {
  struct stat info;
  if (::fstat(fd, &info) != 0) fail_system("read", path);
  check(S_ISREG(info.st_mode), path.string(), " is not a regular file");
  return size_t(info.st_size);
}

void sync_directory(const fs::path& path) {
  const fs::path directory = path.empty() ? fs::path(".") : path;
  Descriptor d(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (d.fd < 0 || ::fsync(d.fd) != 0) fail_system("flush directory", directory);
}

/// Writes everything, however often the system takes only a part or a signal comes between.
void write_all(int fd, const void* data, size_t bytes, const fs::path& path) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::write(fd, p, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_system("write", path);
    p += n;
    bytes -= size_t(n);
  }
}

fs::path partial_of(const fs::path& path) {
  fs::path partial = path;
  partial += ".partial";
  return partial;
}

}  // namespace

std::string read_file(const fs::path& path, size_t limit) {
  Descriptor d(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (d.fd < 0) fail_system("open", path);
  const size_t size = regular_size(d.fd, path);
  check(size <= limit, path.string(), " has ", size, " bytes, at most ", limit, " are expected here");
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = ::read(d.fd, text.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_system("read", path);
    check(n > 0, path.string(), " became shorter while it was read");
    done += size_t(n);
  }
  return text;
}

MappedFile::MappedFile(const fs::path& path) {
  Descriptor d(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (d.fd < 0) fail_system("open", path);
  size_ = regular_size(d.fd, path);
  if (size_ == 0) return;  // an empty map is an error of mmap, not of the file
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, d.fd, 0);
  if (p == MAP_FAILED) fail_system("map", path);
  data_ = static_cast<std::byte*>(p);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

void MappedFile::release(std::span<const std::byte> part) const {
  // Whole pages inside the part only: its neighbours may still be needed. A hint, so its result does not
  // matter.
  const size_t page = size_t(::sysconf(_SC_PAGESIZE));
  const size_t begin = (size_t(part.data() - data_) + page - 1) / page * page;
  const size_t end = (size_t(part.data() - data_) + part.size()) / page * page;
  if (begin < end) ::madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

DirectoryLock::DirectoryLock(const fs::path& path) {
  fd_ = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd_ < 0) fail_system("open", path);
  // Some network file systems have no locks: nothing is refused for that.
  if (::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  ::close(fd_);
  fail(path.string(), ": another process is using this directory; wait for it or choose another one");
}

DirectoryLock::~DirectoryLock() {
  ::close(fd_);
}

fs::path replaceable(const fs::path& path) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  const fs::file_status status = fs::status(path, error);
  check(!fs::exists(status) || fs::is_regular_file(status), path.string(),
        ": is there and no regular file: nothing can be written in its place");
  if (!real.empty()) return real;
  const fs::path target = fs::read_symlink(path, error);  // of a link to what is not there yet
  return error ? path : path.parent_path() / target;
}

void check_vacant(const fs::path& path) {
  std::error_code error;
  check(!fs::exists(path, error) || (fs::is_directory(path, error) && fs::is_empty(path, error)), path.string(),
        " exists already and is not an empty directory; nothing was written");
}

AtomicFile::AtomicFile(const fs::path& path) : path_(replaceable(path)), partial_(partial_of(path_)) {
  fd_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_system("create", partial_);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(partial_.c_str());
}

bool read_line(std::istream& in, std::string& line, size_t limit, const std::string& where) {
  line.clear();
  try {
    std::streambuf& buffer = *in.rdbuf();
    for (int c = buffer.sbumpc(); c != std::char_traits<char>::eof(); c = buffer.sbumpc()) {
      if (c == '\n') return true;
      check(line.size() < limit, where, ": a line has at most ", limit, " bytes");
      line.push_back(char(c));
    }
  } catch (const std::ios_base::failure& e) {
    fail(where, ": cannot be read: ", e.what());
  }
  return !line.empty();
}

void AtomicFile::write(const void* data, size_t bytes) {
  write_all(fd_, data, bytes, partial_);
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) fail_system("flush", partial_);
  if (::rename(partial_.c_str(), path_.c_str()) != 0) fail_system("rename to", path_);
  ::close(fd_);
  fd_ = -1;
  sync_directory(path_.parent_path());
}

AtomicDirectory::AtomicDirectory(fs::path path) : path_(std::move(path)) {
  if (!path_.has_filename()) path_ = path_.parent_path();  // "runs/x/" names the same directory as "runs/x"
  partial_ = partial_of(path_);
  check_vacant(path_);
  std::error_code error;
  fs::remove_all(partial_, error);
  fs::create_directories(partial_, error);
  check(!error, "cannot create ", partial_.string(), ": ", error.message());
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(partial_, ignored);
}

void AtomicDirectory::commit() {
  sync_directory(partial_);
  if (::rename(partial_.c_str(), path_.c_str()) != 0) fail_system("rename to", path_);
  committed_ = true;
  sync_directory(path_.parent_path());
}

SharedFile::SharedFile(fs::path path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_system("create", path_);
}

SharedFile::~SharedFile() {
  ::close(fd_);
}

void SharedFile::write(size_t at, const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd_, p, bytes, off_t(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_system("write", path_);
    p += n;
    at += size_t(n);
    bytes -= size_t(n);
  }
}

void SharedFile::flush() {
  if (::fsync(fd_) != 0) fail_system("flush", path_);
}

GrowingFile::GrowingFile(fs::path path, int64_t keep) : path_(std::move(path)), bytes_(keep) {
  Descriptor d(::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  if (d.fd < 0) fail_system("write", path_);
  const int64_t size = ::lseek(d.fd, 0, SEEK_END);
  check(size < 0 || size >= keep, path_.string(), ": must hold the ", keep, " bytes it is cut to, got ", size);
  if (size < 0 || ::ftruncate(d.fd, keep) != 0 || ::lseek(d.fd, 0, SEEK_END) != keep) fail_system("cut", path_);
  fd_ = std::exchange(d.fd, -1);
}

GrowingFile::~GrowingFile() {
  ::close(fd_);
}

void GrowingFile::write(std::string_view bytes) {
  write_all(fd_, bytes.data(), bytes.size(), path_);
  bytes_ += int64_t(bytes.size());
}

void GrowingFile::sync() {
  if (::fdatasync(fd_) != 0) fail_system("flush", path_);
}

void write_file(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace mantissa
