// Files: whole-file reads with a limit, read-only maps, and writes that either happen completely or not at all (written
// aside, flushed to the disk, renamed). Every error names the file and what the system said.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <istream>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

namespace mantissa {

/// False also where the system does not let us look.
inline bool file_exists(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}
/// The content of a regular file. One of more than `limit` bytes is an error.
std::string read_file(const std::filesystem::path& path, size_t limit = size_t(256) << 20);

/// The next line without its line feed; false at the end. One longer than `limit` bytes is an error, before it is read
/// whole, and so is a read that fails; both name `where`.
bool read_line(std::istream& in, std::string& line, size_t limit, const std::string& where);
/// The file that a write to `path` replaces: the path itself, or what it links to. Throws for a directory or device.
std::filesystem::path replaceable(const std::filesystem::path& path);

/// Throws where a directory cannot be made at `path` since something else than an empty one is there.
void check_vacant(const std::filesystem::path& path);

/// A read-only memory map of a whole regular file.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// Tells the system that `part` was read for the last time: the pages that lie wholly in it stop counting as this
  /// process's memory. Reading them again is allowed, and fetches them from the file.
  void release(std::span<const std::byte> part) const;

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// A file written as "<path>.partial" and renamed to its name by commit(), else removed. Links: see replaceable().
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Flushes to the disk and renames; the directory entry is on the disk when it returns.
  void commit();

 private:
  std::filesystem::path path_, partial_;
  int fd_ = -1;
};

/// A directory filled as "<path>.partial" and renamed to its name by commit(), else removed. `path` must not exist yet,
/// or be an empty directory. What a killed process has left under the partial name is removed first. Throws Error
/// naming the path, and the rule or what the system said.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(std::filesystem::path path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  /// Where to write until commit(). Files inside are flushed by their writers (AtomicFile does).
  const std::filesystem::path& partial() const { return partial_; }
  void commit();

 private:
  std::filesystem::path path_, partial_;
  bool committed_ = false;
};

/// A file that several processes write at once, each at places of its own. Nothing is renamed: it belongs into an
/// AtomicDirectory, which one of them commits when all have flushed.
class SharedFile {
 public:
  /// Opens it, made where it is missing.
  explicit SharedFile(std::filesystem::path path);
  ~SharedFile();
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;

  void write(size_t at, const void* data, size_t bytes);
  /// Returns when what was written is on the disk.
  void flush();

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

/// Holds a directory for this process; leaves nothing in it. Throws Error when another process holds it already, where
/// the file system tells: not every network file system does.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::filesystem::path& path);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int fd_ = -1;
};

/// A file that grows, each piece handed to the system before write() returns. On resume it is cut to what it held at a
/// checkpoint, so that what is written again does not stand in it twice.
class GrowingFile {
 public:
  /// Opens for appending, after cutting to `keep` bytes (0 empties it); a file that holds fewer is an error.
  explicit GrowingFile(std::filesystem::path path, int64_t keep = 0);
  ~GrowingFile();
  GrowingFile(const GrowingFile&) = delete;
  GrowingFile& operator=(const GrowingFile&) = delete;

  void write(std::string_view bytes);
  void write_line(const std::string& line) { write(line + '\n'); }
  /// Returns when everything is on the disk.
  void sync();
  int64_t bytes() const { return bytes_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  int64_t bytes_ = 0;
};

/// AtomicFile in one call.
void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace mantissa
