#include "nn/formats/gguf_file.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "core/content.h"

namespace mantissa {
namespace {

enum Type : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64, kTypes };
constexpr const char* kTypeNames[] = {"uint8",   "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
                                      "boolean", "string", "array",  "uint64", "int64",  "float64"};
constexpr size_t kTypeBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

template <class T>
T load(std::span<const std::byte> bytes, size_t index = 0) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

/// Text fit for a message: a lying file must not flood or garble it.
std::string shown(std::string_view text) {
  std::string out(text.substr(0, 64));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 32 || c == 127) c = '?';
  return '"' + out + (text.size() > 64 ? "...\"" : "\"");
}

std::string foreign(std::span<const std::byte> image) {
  const std::string found =
      foreign_content({reinterpret_cast<const char*>(image.data()), std::min<size_t>(image.size(), 64)});
  return found.empty() ? found : "; it is " + found;
}

}  // namespace

/// A position in the file that only moves over bytes that are there.
class GgufFile::Cursor {
 public:
  Cursor(std::span<const std::byte> image, const std::string& where) : image_(image), where_(where) {}

  size_t position() const { return position_; }
  size_t left() const { return image_.size() - position_; }

  std::span<const std::byte> take(uint64_t bytes, std::string_view what) {
    check(bytes <= left(), where_, ": the file ends inside ", what, ": ", bytes, " bytes needed at offset ", position_,
          ", ", left(), " left");
    const auto part = image_.subspan(position_, size_t(bytes));
    position_ += size_t(bytes);
    return part;
  }
  template <class T>
  T number(std::string_view what) {
    return load<T>(take(sizeof(T), what));
  }
  std::string_view text(std::string_view what) {
    const uint64_t length = number<uint64_t>(what);
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  /// A count of things of at least `each` bytes.
  uint64_t count(size_t each, std::string_view what) {
    const uint64_t n = number<uint64_t>(what);
    check(n <= left() / each, where_, ": ", what, " ", n, " cannot fit in the ", left(), " bytes left in the file");
    return n;
  }

 private:
  std::span<const std::byte> image_;
  const std::string& where_;
  size_t position_ = 0;
};

GgufFile::GgufFile(std::span<const std::byte> image, std::string where) : where_(std::move(where)) {
  Cursor in(image, where_);
  const auto magic = in.take(4, "the magic number");
  check(std::memcmp(magic.data(), "GGUF", 4) == 0, where_, ": not a GGUF file: it does not start with \"GGUF\"",
        foreign(image));
  const uint32_t version = in.number<uint32_t>("the version");
  check(version == 2 || version == 3, where_, ": GGUF version must be 2 or 3 (little-endian), got ", version);
  // The smallest entries: empty name, rank 1; empty key, one-byte value.
  const uint64_t tensors = in.count(8 + 4 + 8 + 4 + 8, "the tensor count");
  const uint64_t keys = in.count(8 + 4 + 1, "the metadata count");
  for (uint64_t i = 0; i < keys; ++i) {
    const std::string key(in.text("a metadata key"));
    const Value value = read_value(in, key);
    check(values_.emplace(key, value).second, where_, ": metadata ", shown(key), " appears twice");
  }
  read_tensors(in, tensors);
}

GgufFile::Value GgufFile::read_value(Cursor& in, const std::string& key) const {
  const std::string what = "metadata " + shown(key);
  Value value{in.number<uint32_t>(what), false, 1, {}};
  if (value.type == kArray) {
    value.array = true;
    value.type = in.number<uint32_t>(what);
    check(value.type != kArray, where_, ": ", what, ": arrays of arrays are not supported");
  }
  check(value.type < kTypes, where_, ": ", what, ": type must be below ", int(kTypes), ", got ", value.type);
  const bool strings = value.type == kString;
  const size_t each = strings ? 8 : kTypeBytes[value.type];
  if (value.array) value.count = in.count(each, what + " array length");
  if (!strings) {
    value.payload = in.take(value.count * each, what);
    return value;
  }
  Cursor walk = in;  // the strings must lie inside the file before anyone trusts their number
  for (uint64_t i = 0; i < value.count; ++i) walk.text(what);
  value.payload = in.take(walk.position() - in.position(), what);
  return value;
}

void GgufFile::read_tensors(Cursor& in, uint64_t count) {
  struct Pending {
    std::string_view name;
    Shape shape;
    const BlockFormat* format;
    uint64_t offset, bytes;
  };
  std::vector<Pending> pending;
  pending.reserve(size_t(count));
  for (uint64_t i = 0; i < count; ++i) {
    Pending t{};
    t.name = in.text("a tensor name");
    const std::string what = "tensor " + shown(t.name);
    const uint32_t rank = in.number<uint32_t>(what);
    check(rank >= 1 && rank <= uint32_t(Shape::kMaxRank), where_, ": ", what, ": rank must be 1 to ", Shape::kMaxRank,
          ", got ", rank);
    uint64_t extents[Shape::kMaxRank] = {}, elements = 1;
    for (uint32_t d = 0; d < rank; ++d) {
      extents[d] = in.number<uint64_t>(what);
      check(extents[d] >= 1 && extents[d] <= (uint64_t(1) << 60) / elements, where_, ": ", what,
            ": extents must be at least 1 and their product below 2^60, got extent ", extents[d]);
      elements *= extents[d];
    }
    for (uint32_t d = rank; d-- > 0;) t.shape.push_back(int64_t(extents[d]));
    const uint32_t type = in.number<uint32_t>(what);
    t.format = block_format(type);
    check(t.format != nullptr, where_, ": ", what, ": type ", type, " is not supported; known are ",
          block_format_names());
    check(extents[0] % uint64_t(t.format->elements) == 0, where_, ": ", what, ": rows of ", t.format->name,
          " are multiples of ", t.format->elements, ", got ", extents[0]);
    t.bytes = elements / uint64_t(t.format->elements) * uint64_t(t.format->bytes);
    t.offset = in.number<uint64_t>(what);
    pending.push_back(t);
  }

  const int64_t alignment = integer("general.alignment", 32);
  check(alignment >= 1 && alignment <= 1 << 20 && (alignment & (alignment - 1)) == 0, where_,
        ": general.alignment must be a power of two up to 2^20, got ", alignment);
  const size_t unit = size_t(alignment);
  const size_t padding = (unit - in.position() % unit) % unit;
  if (!pending.empty()) in.take(padding, "the padding before the data");
  const auto data = in.take(in.left(), "the data");

  std::sort(pending.begin(), pending.end(), [](const Pending& a, const Pending& b) { return a.offset < b.offset; });
  uint64_t end = 0;
  for (const Pending& t : pending) {
    const std::string what = "tensor " + shown(t.name);
    check(t.offset % unit == 0, where_, ": ", what, ": offset must be a multiple of ", unit, ", got ", t.offset);
    check(t.offset >= end, where_, ": ", what, ": starts at ", t.offset, " inside another tensor that ends at ", end);
    check(t.offset <= data.size() && t.bytes <= data.size() - t.offset, where_, ": ", what, ": ", t.bytes,
          " bytes at offset ", t.offset, " leave the data of ", data.size(), " bytes");
    end = t.offset + t.bytes;
    const Tensor entry{t.shape, t.format, data.subspan(size_t(t.offset), size_t(t.bytes))};
    check(tensors_.emplace(t.name, entry).second, where_, ": ", what, " appears twice");
  }
}

// ---- metadata ---------------------------------------------------------------------------------------------

const GgufFile::Value* GgufFile::find(std::string_view key, bool required) const {
  const auto it = values_.find(key);
  check(it != values_.end() || !required, where_, ": metadata \"", key, "\" is missing");
  return it == values_.end() ? nullptr : &it->second;
}

const GgufFile::Value& GgufFile::expect(std::string_view key, const Value& value, bool array,
                                        std::initializer_list<uint32_t> types, const char* what) const {
  const bool fits = value.array == array && std::find(types.begin(), types.end(), value.type) != types.end();
  check(fits, where_, ": metadata \"", key, "\" must be ", what, ", got ", value.array ? "an array of " : "",
        kTypeNames[value.type]);
  return value;
}

int64_t GgufFile::integer(std::string_view key, std::optional<int64_t> otherwise) const {
  const Value* found = find(key, !otherwise);
  if (found == nullptr) return *otherwise;
  const Value& v = expect(key, *found, false, {kU8, kI8, kU16, kI16, kU32, kI32, kU64, kI64}, "an integer");
  const auto bytes = v.payload;
  int64_t value = 0;
  switch (v.type) {
    case kU8:
      value = load<uint8_t>(bytes);
      break;
    case kI8:
      value = load<int8_t>(bytes);
      break;
    case kU16:
      value = load<uint16_t>(bytes);
      break;
    case kI16:
      value = load<int16_t>(bytes);
      break;
    case kU32:
      value = load<uint32_t>(bytes);
      break;
    case kI32:
      value = load<int32_t>(bytes);
      break;
    default:
      value = load<int64_t>(bytes);
      break;  // a uint64 above the signed range shows as negative
  }
  check(value >= 0, where_, ": metadata \"", key, "\" must be from 0 to 2^63 - 1, got ", value);
  return value;
}

double GgufFile::real(std::string_view key, std::optional<double> otherwise) const {
  const Value* found = find(key, !otherwise);
  if (found == nullptr) return *otherwise;
  const Value& v = expect(key, *found, false, {kF32, kF64}, "a floating-point number");
  if (v.type == kF64) return load<double>(v.payload);
  // The decimal the writer meant: 1e-05f is 1e-05, not 9.99999974737875e-06.
  char decimal[32];
  const float stored = load<float>(v.payload);
  const auto written = std::to_chars(decimal, decimal + sizeof(decimal), stored);
  double value = double(stored);
  std::from_chars(decimal, written.ptr, value);
  return value;
}

bool GgufFile::flag(std::string_view key, bool otherwise) const {
  const Value* found = find(key, false);
  return found == nullptr ? otherwise : load<uint8_t>(expect(key, *found, false, {kBool}, "a boolean").payload) != 0;
}

std::string_view GgufFile::text(std::string_view key, std::optional<std::string_view> otherwise) const {
  const Value* found = find(key, !otherwise);
  if (found == nullptr) return *otherwise;
  const auto bytes = expect(key, *found, false, {kString}, "a string").payload.subspan(8);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::vector<std::string_view> GgufFile::texts(std::string_view key) const {
  const Value& v = expect(key, *find(key, true), true, {kString}, "an array of strings");
  std::vector<std::string_view> out;
  out.reserve(size_t(v.count));
  Cursor in(v.payload, where_);
  for (uint64_t i = 0; i < v.count; ++i) out.push_back(in.text(key));
  return out;
}

std::vector<float> GgufFile::reals(std::string_view key) const {
  const Value& v = expect(key, *find(key, true), true, {kF32}, "an array of float32");
  std::vector<float> out(size_t(v.count));
  for (size_t i = 0; i < out.size(); ++i) out[i] = load<float>(v.payload, i);
  return out;
}

std::vector<int32_t> GgufFile::integers(std::string_view key) const {
  const Value& v = expect(key, *find(key, true), true, {kI32, kU32}, "an array of int32");
  std::vector<int32_t> out(size_t(v.count));
  for (size_t i = 0; i < out.size(); ++i) out[i] = load<int32_t>(v.payload, i);
  return out;
}

}  // namespace mantissa
