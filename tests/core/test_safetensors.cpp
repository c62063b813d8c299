// The safetensors reader against files that lie in every way, and the writer against the reader.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "core/backend.h"
#include "core/file.h"
#include "core/random.h"
#include "core/registry.h"
#include "core/safetensors.h"
#include "tests/support/message.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

std::string image_of(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string image(8, '\0');
  std::memcpy(image.data(), &length, 8);
  return image + header + std::string(data_bytes, '\x01');
}

std::span<const std::byte> bytes_of(const std::string& image) {
  return std::as_bytes(std::span(image));
}

/// The message with which an image is refused; empty when it is read.
std::string refusal(const std::string& image) {
  return message_of([&] { Safetensors(bytes_of(image), "test.safetensors"); });
}

void expect_refused(const std::string& header, size_t data_bytes, const std::string& part) {
  const std::string message = refusal(image_of(header, data_bytes));
  EXPECT_NE(message.find(part), std::string::npos) << "header " << header << "\nmessage \"" << message << "\"";
  EXPECT_NE(message.find("test.safetensors"), std::string::npos) << message;
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

TEST(Safetensors, ReadsWhatTheFormatAllows) {
  const std::string header = R"({"__metadata__":{"format":"pt"},"a":)" + entry("F32", "[2,1]", "[0,8]") +
                             R"(,"scalar":)" + entry("I64", "[]", "[8,16]") + R"(,"none":)" +
                             entry("F16", "[0,3]", "[16,16]") + R"(,"flag":)" + entry("BOOL", "[1]", "[16,17]") +
                             "}   ";
  const std::string image = image_of(header, 17);
  const Safetensors file(bytes_of(image), "x");
  EXPECT_EQ(file.entries().size(), 4u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.shape("a"), (Shape{2, 1}));
  EXPECT_EQ(file.shape("scalar").numel(), 1);
  EXPECT_EQ(file.shape("none").numel(), 0);
  EXPECT_EQ(refusal(image_of("{}", 0)), "");
}

TEST(Safetensors, RefusesLyingHeaders) {
  const auto one = [](const std::string& e) { return R"({"t":)" + e + "}"; };
  expect_refused("", 0, "must start with '{'");
  expect_refused("[]", 0, "must start with '{'");
  expect_refused(std::string("{}\0", 3), 0, "zero bytes");
  EXPECT_EQ(refusal(image_of(R"({"__metadata__": null})", 0)), "");
  expect_refused("{\"t\":", 0, "not valid JSON");
  expect_refused("{\"t\":[[[[[[[[1]]]]]]]]}", 0, "nested too deeply");
  expect_refused(one("3"), 0, "must be an object");
  expect_refused(R"({"t":{"dtype":"F32","shape":[1]}})", 4, "lacks \"data_offsets\"");
  expect_refused(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})", 4, "keys other than");
  expect_refused(one(entry("F33", "[1]", "[0,4]")), 4, "unknown dtype");
  expect_refused(R"({"t":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype");
  expect_refused(one(entry("F32", "[-1]", "[0,4]")), 4, "non-negative integer");
  expect_refused(one(entry("F32", "[1.5]", "[0,4]")), 4, "non-negative integer");
  expect_refused(one(entry("F32", "\"1\"", "[0,4]")), 4, "shape must be an array");
  expect_refused(one(entry("F32", "[4294967296,4294967296,4]", "[0,4]")), 4, "more elements than a file can hold");
  expect_refused(one(entry("F32", "[1]", "[0,4,8]")), 4, "[begin, end]");
  expect_refused(one(entry("F32", "[1]", "[4,0]")), 4, "leave the data");
  expect_refused(one(entry("F32", "[2]", "[0,8]")), 4, "leave the data");
  expect_refused(one(entry("F32", "[1]", "[18446744073709551615,3]")), 4, "leave the data");
  expect_refused(one(entry("F32", "[2]", "[0,4]")), 4, "need 8 bytes, data_offsets give 4");
  expect_refused(R"({"a":)" + entry("F32", "[2]", "[0,8]") + R"(,"b":)" + entry("F32", "[2]", "[4,12]") + "}", 12,
                 "overlaps");
  expect_refused(R"({"a":)" + entry("F32", "[1]", "[0,4]") + R"(,"b":)" + entry("F32", "[1]", "[8,12]") + "}", 12,
                 "belong to no tensor");
  expect_refused(one(entry("F32", "[1]", "[0,4]")), 9, "belong to no tensor");
  expect_refused(R"({"t":)" + entry("F32", "[1]", "[0,4]") + R"(,"t":)" + entry("F32", "[1]", "[0,4]") + "}", 4,
                 "stands twice");
  expect_refused(R"({"__metadata__":{"k":3}})", 0, "must be a string");

  EXPECT_NE(refusal("").find("at least 8 bytes"), std::string::npos);
  EXPECT_NE(refusal("\x01\0\0").find("at least 8 bytes"), std::string::npos);
  EXPECT_NE(refusal(std::string(8, '\xff')).find("the header claims 18446744073709551615 bytes"), std::string::npos);
}

TEST(Safetensors, SurvivesMutations) {
  const std::string good = image_of(R"({"__metadata__":{"a":"b"},"w":)" + entry("F32", "[2,3]", "[0,24]") + R"(,"v":)" +
                                        entry("BF16", "[4]", "[24,32]") + "}",
                                    32);
  ASSERT_EQ(refusal(good), "");
  RandomStream random(1, 0);
  static constexpr char kAlphabet[] = "0123456789[]{},:\"-eF\\ \xff";
  int refused = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string image = good;
    for (uint32_t edits = 1 + random.below(4); edits > 0; --edits) {
      const size_t at = random.below(uint32_t(image.size()));
      switch (random.below(4)) {
        case 0:
          image[at] = char(random.below(256));
          break;
        case 1:
          image[at] = kAlphabet[random.below(sizeof(kAlphabet) - 1)];
          break;
        case 2:
          image.erase(at, 1 + random.below(8));
          break;
        case 3:
          image.insert(at, 1, kAlphabet[random.below(sizeof(kAlphabet) - 1)]);
          break;
      }
      if (image.empty()) break;
    }
    try {
      const Safetensors file(bytes_of(image), "mutated");
      for (const auto& [name, e] : file.entries()) {  // what it accepts, it can read
        if (e.shape.size() > 4 || e.data.empty()) continue;
        const std::byte* end = bytes_of(image).data() + image.size();
        ASSERT_LE(e.data.data() + e.data.size(), end);
      }
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 3000);  // the data bytes are free to change
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string good = image_of(R"({"w":)" + entry("F32", "[2,3]", "[0,24]") + "}", 24);
  for (size_t n = 0; n < good.size(); ++n) EXPECT_NE(refusal(good.substr(0, n)), "") << n << " bytes";
}

TEST(Safetensors, WritesWhatItReads) {
  const TempDir dir;
  const std::vector<float> a = {1.0f, -2.5f, 65519.0f, 1e-7f, 3.14159274f, -0.0f};
  const std::vector<double> d = {0.1, -1e300};
  const std::vector<int32_t> i = {-7, 2147483647};
  const std::vector<NamedTensor> tensors = {{"a", tensor_from<float>(cpu(), a, {2, 3})},
                                            {"i", tensor_from<int32_t>(cpu(), i, {2})},
                                            {"d", tensor_from<double>(cpu(), d, {2, 1})}};
  write_safetensors(dir / "x.safetensors", tensors, {}, {{"step", "12"}});
  const Safetensors file(dir / "x.safetensors");
  EXPECT_EQ(file.metadata().at("step"), "12");
  for (const NamedTensor& t : tensors) {
    EXPECT_EQ(file.shape(t.name), t.tensor.shape());
    Tensor back(cpu(), t.tensor.shape(), t.tensor.dtype());
    file.read(t.name, back);
    EXPECT_EQ(std::memcmp(back.raw(), t.tensor.raw(), back.bytes()), 0) << t.name;
  }

  // Rounded while written equals rounded while read.
  write_safetensors(dir / "h.safetensors", std::span(tensors).first(1), Dtype::kF16);
  const Safetensors half(dir / "h.safetensors");
  EXPECT_EQ(half.at("a").dtype, "F16");
  Tensor from_half(cpu(), {2, 3}, Dtype::kF16), from_float(cpu(), {2, 3}, Dtype::kF16);
  half.read("a", from_half);
  file.read("a", from_float);
  EXPECT_EQ(std::memcmp(from_half.raw(), from_float.raw(), from_half.bytes()), 0);
  for (size_t k = 0; k < a.size(); ++k) EXPECT_EQ(from_half.data<Half>()[k].bits, half_from_float(a[k]).bits);

  EXPECT_FALSE(std::filesystem::exists(dir / "x.safetensors.partial"));
}

TEST(Safetensors, WriterTakesTensorsOneByOne) {
  const TempDir dir;
  std::vector<float> values((size_t(9) << 20) + 3);  // several pieces
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(i % 4001) / 64.0f;
  const int64_t count = int64_t(values.size());
  const std::vector<NamedTensor> tensors = {{"a", tensor_from<float>(cpu(), values, {count})},
                                            {"b", tensor_from<float>(cpu(), std::span(values).first(6), {2, 3})}};
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
    SafetensorsWriter writer(dir / "w.safetensors", {{"a", {count}, dtype}, {"b", {2, 3}, dtype}});
    writer.write(tensors[0].tensor);
    EXPECT_FALSE(writer.complete());
    EXPECT_THROW(writer.commit(), Error);
    writer.write(tensors[1].tensor);
    EXPECT_THROW(writer.write(tensors[1].tensor), Error);
    writer.commit();
    const Safetensors file(dir / "w.safetensors");
    for (const NamedTensor& t : tensors) {
      Tensor back(cpu(), t.tensor.shape(), dtype), expected(cpu(), t.tensor.shape(), dtype);
      file.read(t.name, back);
      convert_floats(t.tensor.raw(), Dtype::kF32, expected.raw(), dtype, expected.numel());
      EXPECT_EQ(std::memcmp(back.raw(), expected.raw(), back.bytes()), 0) << t.name;
    }
  }
  EXPECT_THROW(SafetensorsWriter(dir / "x.safetensors", {{"a", {2}, Dtype::kF32}, {"a", {3}, Dtype::kF32}}), Error);
  SafetensorsWriter other(dir / "x.safetensors", {{"b", {3, 2}, Dtype::kF32}});
  EXPECT_THROW(other.write(tensors[1].tensor), Error);  // of another shape
}

TEST(Safetensors, ReadChecksTypeAndSize) {
  const TempDir dir;
  const std::vector<double> d = {0.1};
  const std::vector<NamedTensor> tensors = {{"d", tensor_from<double>(cpu(), d, {1})}};
  write_safetensors(dir / "x.safetensors", tensors);
  const Safetensors file(dir / "x.safetensors");
  Tensor half(cpu(), {1}, Dtype::kF16), many(cpu(), {2}, Dtype::kF32), one(cpu(), {1}, Dtype::kF32);
  EXPECT_THROW(file.read("d", half), Error);  // two roundings
  EXPECT_THROW(file.read("d", many), Error);
  EXPECT_THROW(file.read("e", one), Error);
  file.read("d", one);
  EXPECT_EQ(one.data<float>()[0], 0.1f);
}

TEST(File, NothingIsLeftOfWhatWasNotCommitted) {
  const TempDir dir;
  {
    AtomicFile file(dir / "a");
    file.write("half");
    AtomicDirectory directory(dir / "d");
    write_file(directory.partial() / "b", "half");
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  {
    AtomicDirectory directory(dir / "d");
    write_file(directory.partial() / "b", "whole");
    directory.commit();
  }
  EXPECT_EQ(read_file(dir / "d" / "b"), "whole");
  EXPECT_THROW(AtomicDirectory(dir / "d"), Error);  // not empty
  EXPECT_THROW(read_file(dir / "d" / "b", 4), Error);
  EXPECT_THROW(read_file(dir / "d"), Error);
  EXPECT_THROW(MappedFile(dir / "missing"), Error);
}

TEST(File, ADiskThatIsFullIsAnError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const TempDir dir;
  std::filesystem::create_symlink("/dev/full", dir / "x.partial");
  try {
    write_file(dir / "x", "text");
    FAIL() << "written to a full disk";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("No space left"), std::string::npos) << e.what();
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "x"));
}

}  // namespace
}  // namespace mantissa
