#include "core/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "core/backend.h"
#include "core/file.h"
#include "core/parallel.h"
#include "core/registry.h"

namespace mantissa {
namespace {

using Json = nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors is read and written in place");

constexpr size_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr size_t kChunkBytes = size_t(16) << 20;
constexpr const char* kMetadataKey = "__metadata__";

/// Bytes of one element; 0 for a name that is not in the format, or is packed below a byte.
size_t item_size(std::string_view dtype) {
  static constexpr std::pair<std::string_view, size_t> kSizes[] = {
      {"F64", 8},  {"F32", 4},     {"F16", 2},     {"BF16", 2},    {"I64", 8}, {"I32", 4},
      {"I16", 2},  {"I8", 1},      {"U64", 8},     {"U32", 4},     {"U16", 2}, {"U8", 1},
      {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"C64", 8}};
  for (const auto& [name, size] : kSizes)
    if (name == dtype) return size;
  return 0;
}

std::optional<Dtype> floating_dtype(std::string_view dtype) {
  if (dtype == "F32") return Dtype::kF32;
  if (dtype == "F16") return Dtype::kF16;
  if (dtype == "BF16") return Dtype::kBF16;
  if (dtype == "F64") return Dtype::kF64;
  return {};
}

std::string_view format_name(Dtype d) {
  switch (d) {
    case Dtype::kF32:
      return "F32";
    case Dtype::kF16:
      return "F16";
    case Dtype::kBF16:
      return "BF16";
    case Dtype::kF64:
      return "F64";
    case Dtype::kI32:
      return "I32";
    case Dtype::kU8:
      return "U8";
  }
  return "";
}

/// A non-negative integer of the header; JSON's floats, strings and negative numbers are refused.
uint64_t header_integer(const Json& value, const std::string& what) {
  check(value.is_number_unsigned(), what, " must be a non-negative integer, got ", value.dump());
  return value.get<uint64_t>();
}

/// Parses the header. Depth is bounded by the format, and a name may come once: a parser that keeps the last (or the
/// first) of two would disagree with other readers about what the file holds.
Json parse_header(std::string_view text, const std::string& where) {
  check(!text.empty() && text.front() == '{', where, ": the header must start with '{'");
  check(text.find('\0') == text.npos, where, ": the header must be JSON without zero bytes");
  std::vector<std::set<std::string>> names;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    check(depth <= 3, where, ": the header is nested too deeply");
    if (event == Json::parse_event_t::object_start) names.emplace_back();
    if (event == Json::parse_event_t::object_end) names.pop_back();
    if (event == Json::parse_event_t::key)
      check(names.back().insert(value.get<std::string>()).second, where, ": \"", value.get<std::string>(),
            "\" stands twice in the header");
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Json::exception& e) {
    fail(where, ": the header is not valid JSON: ", e.what());
  }
}

template <class From, class To>
void convert_loop(const std::byte* from, To* to, int64_t count) {
  parallel_for(count, 32768, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      From value;
      std::memcpy(&value, from + i * int64_t(sizeof(From)), sizeof(From));
      if constexpr (std::is_same_v<From, double>)
        to[i] = To(value);
      else
        to[i] = round_to<To>(to_float(value));
    }
  });
}

}  // namespace

void convert_floats(const void* from, Dtype from_dtype, void* to, Dtype to_dtype, int64_t count) {
  if (from_dtype == to_dtype) {
    if (count > 0) std::memcpy(to, from, size_t(count) * size_of(to_dtype));
    return;
  }
  dispatch_floating(from_dtype, [&](auto from_tag) {
    dispatch_floating(to_dtype, [&](auto to_tag) {
      using From = typename decltype(from_tag)::type;
      using To = typename decltype(to_tag)::type;
      if constexpr (std::is_same_v<From, double> && sizeof(To) == 2)
        fail("[convert] fp64 values go to fp32 or fp64, asked for ", name_of(to_dtype));
      else
        convert_loop<From, To>(static_cast<const std::byte*>(from), static_cast<To*>(to), count);
    });
  });
}

Safetensors::Safetensors(const std::filesystem::path& path)
    : file_(std::make_unique<MappedFile>(path)), where_(path.string()) {
  parse(file_->bytes());
}

Safetensors::Safetensors(std::span<const std::byte> image, std::string where) : where_(std::move(where)) {
  parse(image);
}

Safetensors::~Safetensors() = default;
Safetensors::Safetensors(Safetensors&&) noexcept = default;

void Safetensors::parse(std::span<const std::byte> image) {
  uint64_t header_bytes = 0;
  check(image.size() >= sizeof(header_bytes), where_, ": a safetensors file has at least 8 bytes, got ", image.size());
  std::memcpy(&header_bytes, image.data(), sizeof(header_bytes));
  image = image.subspan(sizeof(header_bytes));
  check(header_bytes <= image.size() && header_bytes <= kMaxHeader, where_, ": the header claims ", header_bytes,
        " bytes, ", image.size(), " follow (limit ", kMaxHeader, ")");
  const Json header = parse_header({reinterpret_cast<const char*>(image.data()), size_t(header_bytes)}, where_);
  const std::span<const std::byte> data = image.subspan(size_t(header_bytes));

  struct Range {
    uint64_t begin, end;
    const std::string* name;
  };
  std::vector<Range> ranges;
  for (const auto& [name, fields] : header.items()) {
    const std::string what = where_ + ": \"" + name + "\"";
    if (name == kMetadataKey && fields.is_null()) continue;
    check(fields.is_object(), what, " must be an object");
    if (name == kMetadataKey) {
      for (const auto& [key, value] : fields.items()) {
        check(value.is_string(), what, ": the value of \"", key, "\" must be a string");
        metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    for (const char* key : {"dtype", "shape", "data_offsets"})
      check(fields.contains(key), what, " lacks \"", key, "\"");
    check(fields.size() == 3, what, " has keys other than dtype, shape and data_offsets");
    const Json &dtype = fields["dtype"], &shape = fields["shape"], &offsets = fields["data_offsets"];

    Entry entry;
    check(dtype.is_string() && item_size(dtype.get<std::string>()) > 0, what, ": unknown dtype ", dtype.dump());
    entry.dtype = dtype.get<std::string>();
    uint64_t bytes = item_size(entry.dtype);
    check(shape.is_array(), what, ": shape must be an array");
    for (const Json& extent : shape) {
      const uint64_t n = header_integer(extent, what + ": an extent of the shape");
      // Saturating at "more than any file": a product that wraps around must not come out equal to the byte range.
      check(n == 0 || bytes <= uint64_t(std::numeric_limits<int64_t>::max()) / n, what,
            ": the shape has more elements than a file can hold");
      bytes *= n;
      entry.shape.push_back(int64_t(n));
    }
    check(offsets.is_array() && offsets.size() == 2, what, ": data_offsets must be [begin, end]");
    const uint64_t begin = header_integer(offsets[0], what + ": data_offsets[0]");
    const uint64_t end = header_integer(offsets[1], what + ": data_offsets[1]");
    check(begin <= end && end <= data.size(), what, ": data_offsets [", begin, ", ", end, ") leave the data of ",
          data.size(), " bytes");
    check(end - begin == bytes, what, ": dtype and shape need ", bytes, " bytes, data_offsets give ", end - begin);
    entry.data = data.subspan(size_t(begin), size_t(bytes));
    ranges.push_back({begin, end, &entries_.emplace(name, std::move(entry)).first->first});
  }

  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  uint64_t covered = 0;
  for (const Range& r : ranges) {
    check(r.begin >= covered, where_, ": \"", *r.name, "\" overlaps the tensor before it (begins at ", r.begin,
          ", data is taken up to ", covered, ")");
    check(r.begin == covered, where_, ": bytes [", covered, ", ", r.begin, ") of the data belong to no tensor");
    covered = r.end;
  }
  check(covered == data.size(), where_, ": bytes [", covered, ", ", data.size(), ") of the data belong to no tensor");
}

const Safetensors::Entry& Safetensors::at(const std::string& name) const {
  const auto it = entries_.find(name);
  check(it != entries_.end(), where_, ": there is no tensor \"", name, "\"");
  return it->second;
}

Shape Safetensors::shape(const std::string& name) const {
  const Entry& entry = at(name);
  check(entry.shape.size() <= Shape::kMaxRank, where_, ": \"", name, "\" has ", entry.shape.size(),
        " dimensions, at most ", Shape::kMaxRank, " are supported");
  Shape shape;
  for (const int64_t extent : entry.shape) shape.push_back(extent);
  return shape;
}

void Safetensors::read(const std::string& name, Tensor& out) const {
  const Entry& entry = at(name);
  const int64_t count = int64_t(entry.data.size() / item_size(entry.dtype));
  check(count == out.numel(), where_, ": \"", name, "\" has ", count, " elements, ", out.numel(), " were asked for");
  read_values(name, entry, entry.data, out);
}

void Safetensors::read_rows(const std::string& name, int64_t first, Tensor& out) const {
  const Shape whole = shape(name), rows = out.shape();
  check(whole.rank() >= 1 && rows.rank() == whole.rank() && first >= 0 && first + rows[0] <= whole[0] &&
            whole.numel() * rows[0] == rows.numel() * whole[0],
        where_, ": \"", name, "\" has shape ", whole, ", rows from ", first, " on of shape ", rows, " were asked for");
  const Entry& entry = at(name);
  const size_t row = whole[0] == 0 ? 0 : entry.data.size() / size_t(whole[0]);
  read_values(name, entry, entry.data.subspan(size_t(first) * row, size_t(rows[0]) * row), out);
}

void Safetensors::read_values(const std::string& name, const Entry& entry, std::span<const std::byte> data,
                              Tensor& out) const {
  const int64_t count = out.numel();
  const std::optional<Dtype> floating = floating_dtype(entry.dtype);
  if (floating && is_floating(out.dtype())) {
    check(*floating != Dtype::kF64 || !is_16bit(out.dtype()), where_, ": \"", name, "\" is F64 and cannot be read as ",
          name_of(out.dtype()));
    convert_floats(data.data(), *floating, out.raw(), out.dtype(), count);
  } else if (out.dtype() == Dtype::kI32 && (entry.dtype == "I32" || entry.dtype == "I64")) {
    int32_t* to = out.data<int32_t>();
    const size_t size = item_size(entry.dtype);
    for (int64_t i = 0; i < count; ++i) {
      int64_t wide = 0;
      int32_t narrow = 0;
      std::memcpy(size == 8 ? static_cast<void*>(&wide) : &narrow, data.data() + size_t(i) * size, size);
      if (size == 4) wide = narrow;
      check(wide == int32_t(wide), where_, ": \"", name, "\" holds ", wide, ", which does not fit int32");
      to[i] = int32_t(wide);
    }
  } else {
    fail(where_, ": \"", name, "\" is ", entry.dtype, " and cannot be read as ", name_of(out.dtype()));
  }
  if (file_) file_->release(data);
}

namespace {

/// All that stands before the data.
std::string format_header(const std::string& where, std::span<const TensorSpec> specs,
                          const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  size_t offset = 0;
  for (const TensorSpec& spec : specs) {
    check(!header.contains(spec.name), where, ": two tensors are called \"", spec.name, "\"");
    const size_t bytes = size_t(spec.shape.numel()) * size_of(spec.dtype);
    std::vector<int64_t> shape;
    for (int i = 0; i < spec.shape.rank(); ++i) shape.push_back(spec.shape[i]);
    header[spec.name] = {
        {"dtype", format_name(spec.dtype)}, {"shape", shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data starts on 8 bytes
  const uint64_t bytes = text.size();
  return std::string(reinterpret_cast<const char*>(&bytes), sizeof bytes) + text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> specs,
                                     const std::map<std::string, std::string>& metadata)
    : where_(path.string()), specs_(std::move(specs)), file_(path) {
  file_.write(format_header(where_, specs_, metadata));
}

void SafetensorsWriter::write(const Tensor& tensor) {
  check(!complete(), where_, ": all ", specs_.size(), " tensors are written already");
  const TensorSpec& spec = specs_[next_++];
  check(tensor.shape() == spec.shape, where_, ": \"", spec.name, "\" has shape ", spec.shape, ", got ", tensor.shape());
  const size_t from = size_of(tensor.dtype()), to = size_of(spec.dtype);
  const int64_t most = int64_t(kChunkBytes / std::max(from, to));
  for (int64_t begin = 0; begin < tensor.numel(); begin += most) {
    const int64_t count = std::min(most, tensor.numel() - begin);
    host_.resize(size_t(count) * from);
    tensor.backend().copy_to_host(host_.data(), static_cast<const std::byte*>(tensor.raw()) + size_t(begin) * from,
                                  host_.size());
    if (spec.dtype == tensor.dtype()) {
      file_.write(host_.data(), host_.size());
      continue;
    }
    rounded_.resize(size_t(count) * to);
    convert_floats(host_.data(), tensor.dtype(), rounded_.data(), spec.dtype, count);
    file_.write(rounded_.data(), rounded_.size());
  }
}

void SafetensorsWriter::commit() {
  check(complete(), where_, ": ", specs_.size(), " tensors belong to it, ", next_, " are written");
  file_.commit();
}

SharedSafetensors::SharedSafetensors(const std::filesystem::path& path, std::vector<TensorSpec> specs, bool header)
    : where_(path.string()), specs_(std::move(specs)), file_(path) {
  const std::string text = format_header(where_, specs_, {});
  size_t at = text.size();
  for (const TensorSpec& spec : specs_) {
    begins_.push_back(at);
    at += size_t(spec.shape.numel()) * size_of(spec.dtype);
  }
  if (header) file_.write(0, text.data(), text.size());
}

void SharedSafetensors::write(size_t index, int64_t first, const Tensor& values) {
  const TensorSpec& spec = specs_[index];
  check(values.dtype() == spec.dtype && first >= 0 && first + values.numel() <= spec.shape.numel(), where_, ": \"",
        spec.name, "\" has ", spec.shape.numel(), " elements of ", name_of(spec.dtype), ", got ", values.numel(),
        " of ", name_of(values.dtype()), " from ", first);
  const size_t at = begins_[index] + size_t(first) * size_of(spec.dtype);
  const auto* from = static_cast<const std::byte*>(values.raw());
  if (&values.backend() == &cpu()) return file_.write(at, from, values.bytes());
  for (size_t done = 0; done < values.bytes(); done += host_.size()) {
    host_.resize(std::min(kChunkBytes, values.bytes() - done));
    values.backend().copy_to_host(host_.data(), from + done, host_.size());
    file_.write(at + done, host_.data(), host_.size());
  }
}

void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       std::optional<Dtype> dtype, const std::map<std::string, std::string>& metadata) {
  const auto stored = [&](const Tensor& t) { return dtype && is_floating(t.dtype()) ? *dtype : t.dtype(); };
  std::vector<const NamedTensor*> order;
  for (const NamedTensor& t : tensors) order.push_back(&t);
  std::stable_sort(order.begin(), order.end(), [&](const NamedTensor* a, const NamedTensor* b) {
    return size_of(stored(a->tensor)) > size_of(stored(b->tensor));
  });
  std::vector<TensorSpec> specs;
  for (const NamedTensor* t : order) specs.push_back({t->name, t->tensor.shape(), stored(t->tensor)});
  SafetensorsWriter file(path, std::move(specs), metadata);
  for (const NamedTensor* t : order) file.write(t->tensor);
  file.commit();
}

}  // namespace mantissa
