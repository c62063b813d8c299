#include "rl/logging/tensorboard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "core/error.h"

namespace mantissa {
namespace {

static_assert(std::endian::native == std::endian::little, "records are little endian");

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

uint32_t masked(uint32_t crc) {
  return std::rotr(crc, 15) + 0xa282ead8u;
}

void varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += char(value | 0x80);
  out += char(value);
}

// Fields of a message, by the wire types of protobuf: 0 varint, 1 eight bytes, 2 length and bytes, 5 four
// bytes.
void put_integer(std::string& out, int field, int64_t value) {
  varint(out, uint64_t(field) << 3);
  varint(out, uint64_t(value));
}
void put_double(std::string& out, int field, double value) {
  varint(out, uint64_t(field) << 3 | 1);
  put(out, value);
}
void put_float(std::string& out, int field, float value) {
  varint(out, uint64_t(field) << 3 | 5);
  put(out, value);
}
void put_bytes(std::string& out, int field, std::string_view bytes) {
  varint(out, uint64_t(field) << 3 | 2);
  varint(out, bytes.size());
  out += bytes;
}

std::string event_at(int64_t step) {
  std::string event;
  put_double(event, 1, std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  put_integer(event, 2, step);
  return event;
}

constexpr const char* kEvents = "events.out.tfevents.";

/// Files are read in the order of their names: later ones need later times, also where the clock was set back.
std::filesystem::path new_file_in(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  check(!error, directory.string(), ": cannot be made: ", error.message());
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  int64_t milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  for (const auto& entry : std::filesystem::directory_iterator(directory, error))
    if (const std::string name = entry.path().filename(); name.starts_with(kEvents))
      milliseconds = std::max(milliseconds, int64_t(std::atoll(name.c_str() + std::strlen(kEvents))) + 1);
  return directory / str(kEvents, milliseconds, ".mantissa");
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t x = i;
      for (int bit = 0; bit < 8; ++bit) x = (x >> 1) ^ (x & 1 ? 0x82f63b78u : 0u);
      table[i] = x;
    }
    return table;
  }();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = kTable[(crc ^ uint8_t(c)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

EventFile::EventFile(const std::filesystem::path& directory, int64_t first_step) : file_(new_file_in(directory)) {
  std::string version = event_at(0);
  put_bytes(version, 3, "brain.Event:2");
  record(version);
  std::string session, start = event_at(first_step);
  put_integer(session, 1, 1);  // START
  put_bytes(start, 7, session);
  record(start);
}

void EventFile::record(const std::string& event) {
  std::string text;
  put(text, uint64_t(event.size()));
  put(text, masked(crc32c(text)));
  text += event;
  put(text, masked(crc32c(event)));
  file_.write(text);
}

void EventFile::write(const Metrics& metrics) {
  std::string summary;
  for (const auto& [name, value] : metrics.values()) {
    if (name == "step" || !std::isfinite(value)) continue;
    std::string scalar;
    put_bytes(scalar, 1, name);
    put_float(scalar, 2, float(value));
    put_bytes(summary, 1, scalar);
  }
  std::string event = event_at(int64_t(metrics.get("step")));
  put_bytes(event, 5, summary);
  record(event);
}

}  // namespace mantissa
