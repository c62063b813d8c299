// Metrics as TensorBoard reads them: a TFRecord file of Event messages (Protocol Buffers), written here byte by byte:
// two small formats, both open, and no library to depend on.
//
//   record   u64 length | u32 masked crc of these 8 bytes | data | u32 masked crc of data     (little endian)
//   crc      CRC-32C; masked: rotated right by 15, plus 0xa282ead8
//   Event    1 wall_time double | 2 step int64 | 3 file_version string | 5 Summary | 7 SessionLog
//   Summary  1 repeated Value {1 tag string, 2 simple_value float}
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "core/file.h"
#include "rl/types.h"

namespace mantissa {

/// CRC-32C (Castagnoli) of the bytes.
uint32_t crc32c(std::string_view bytes);

class EventFile {
 public:
  /// Opens <directory>/events.out.tfevents.<time>.mantissa. Tells TensorBoard to drop the events that earlier files of
  /// the directory hold from `first_step` on: a resumed run writes them again. Throws Error naming the path, with what
  /// the system said.
  EventFile(const std::filesystem::path& directory, int64_t first_step);

  /// One event: every finite metric but "step", which is the event's own.
  void write(const Metrics& metrics);

 private:
  void record(const std::string& event);
  GrowingFile file_;
};

}  // namespace mantissa
