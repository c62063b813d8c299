// What a file holds in place of what was wanted, told by its first bytes, for messages.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace mantissa {

/// "a git-lfs pointer (...)", "gzip-compressed", "Parquet" ...: empty for anything else. `head`: the first bytes.
std::string foreign_content(std::string_view head);
/// The first bytes of a file, empty when it cannot be read.
std::string head_of(const std::filesystem::path& path, size_t bytes = 256);
/// Throws where foreign_content knows the file: "PATH: is gzip-compressed; wanted is `wanted`".
void check_content(const std::filesystem::path& path, std::string_view wanted);
/// The end of a message about a line of a JSON-lines file that holds no JSON object: that every line has to hold one,
/// and what the file seems to be instead (an array, a document over several lines), or what makes such lines.
std::string json_lines_hint(std::string_view line);

}  // namespace mantissa
