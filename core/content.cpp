#include "core/content.h"

#include <fstream>

#include "core/error.h"

namespace mantissa {

std::string foreign_content(std::string_view head) {
  static constexpr std::pair<std::string_view, const char*> kKnown[] = {
      {"version https://git-lfs.github.com/spec/", "a git-lfs pointer, not the file itself (git lfs pull fetches it)"},
      {"\x1f\x8b", "gzip-compressed (gunzip it first)"},
      {"\x28\xb5\x2f\xfd", "zstd-compressed (unzstd it first)"},
      {"\xfd"
       "7zXZ",
       "xz-compressed (unxz it first)"},
      {"BZh", "bzip2-compressed (bunzip2 it first)"},
      {"PK\x03\x04", "a zip archive"},
      {"PAR1", "Parquet (tools/to_jsonl.py makes JSON lines of it)"},
      {"ARROW1", "Arrow"},
      {"\x80\x02", "a Python pickle"},
      {"\x93NUMPY", "a NumPy array"},
      {"SQLite format 3", "an SQLite database"},
      {"\x89HDF", "HDF5"},
      {"GGUF", "a GGUF model"},
      {"\xff\xfe", "UTF-16 text (UTF-8 is read)"},
      {"\xfe\xff", "UTF-16 text (UTF-8 is read)"},
  };
  for (const auto& [mark, name] : kKnown)
    if (head.starts_with(mark)) return name;
  return {};
}

std::string head_of(const std::filesystem::path& path, size_t bytes) {
  std::string head(bytes, '\0');
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return {};
  std::ifstream in(path, std::ios::binary);
  in.read(head.data(), std::streamsize(bytes));
  head.resize(size_t(in.gcount()));
  return head;
}

void check_content(const std::filesystem::path& path, std::string_view wanted) {
  const std::string found = foreign_content(head_of(path));
  check(found.empty(), path.string(), ": is ", found, "; wanted is ", wanted);
}

std::string json_lines_hint(std::string_view line) {
  const size_t first = line.find_first_not_of(" \t\r");
  const std::string_view text = first == std::string_view::npos ? std::string_view() : line.substr(first);
  const size_t last = text.find_last_not_of(" \t\r");
  const std::string_view whole = text.substr(0, last == std::string_view::npos ? 0 : last + 1);
  const bool goes_on = !whole.empty() && std::string_view("{[,:").find(whole.back()) != std::string_view::npos;
  const char* seems = text.starts_with('[')
                          ? "; this file seems to be one JSON array, of which tools/to_jsonl.py makes such lines"
                      : !text.starts_with('{') ? "; tools/to_jsonl.py makes such lines of CSV, Parquet and JSON arrays"
                      : goes_on && !whole.ends_with("},") ? "; this file seems to be one document over several lines"
                                                          : "";
  return std::string(" (wanted are JSON lines: one object a line") + seems + ")";
}

}  // namespace mantissa
