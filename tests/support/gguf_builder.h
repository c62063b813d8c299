// Builds GGUF images in memory, right or wrong in one place at a time, and asks the reader about them.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nn/formats/gguf.h"
#include "tests/support/message.h"

namespace mantissa {

class GgufBuilder {
 public:
  enum Type : uint32_t { kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9 };

  template <class T>
  static std::string bytes(T value) {
    std::string out(sizeof(T), '\0');
    std::memcpy(out.data(), &value, sizeof(T));
    return out;
  }
  static std::string text(std::string_view s) { return bytes(uint64_t(s.size())) + std::string(s); }

  /// A value as it stands in the file.
  void raw(const std::string& key, uint32_t type, const std::string& payload) {
    keys_.emplace_back(key, bytes(type) + payload);
  }
  void set(const std::string& key, uint32_t value) { raw(key, kU32, bytes(value)); }
  void set(const std::string& key, float value) { raw(key, kF32, bytes(value)); }
  void set_flag(const std::string& key, bool value) { raw(key, kBool, bytes(uint8_t(value))); }
  void set(const std::string& key, std::string_view value) { raw(key, kString, text(value)); }
  void set(const std::string& key, const std::vector<std::string>& values) {
    std::string payload = bytes(uint32_t(kString)) + bytes(uint64_t(values.size()));
    for (const std::string& v : values) payload += text(v);
    raw(key, kArray, payload);
  }
  template <class T>
  void set_numbers(const std::string& key, uint32_t type, const std::vector<T>& values) {
    std::string payload = bytes(type) + bytes(uint64_t(values.size()));
    for (const T v : values) payload += bytes(v);
    raw(key, kArray, payload);
  }
  void erase(const std::string& key) {
    std::erase_if(keys_, [&](const auto& k) { return k.first == key; });
  }

  struct Tensor {
    std::string name;
    std::vector<uint64_t> extents;  // fastest first
    uint32_t type;
    std::string data;
    int64_t shift = 0;  // added to the right offset
  };
  void tensor(const std::string& name, std::vector<uint64_t> extents, uint32_t type, std::string data) {
    tensors.push_back({name, std::move(extents), type, std::move(data)});
  }
  void floats(const std::string& name, std::vector<uint64_t> extents, const std::vector<float>& values) {
    tensor(name, std::move(extents), 0, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }

  std::vector<Tensor> tensors;
  uint32_t version = 3;
  size_t alignment = 32;

  std::string image() const {
    std::string out = "GGUF" + bytes(version) + bytes(uint64_t(tensors.size())) + bytes(uint64_t(keys_.size()));
    for (const auto& [key, value] : keys_) out += text(key) + value;
    std::string data;
    for (const Tensor& t : tensors) {
      out += text(t.name) + bytes(uint32_t(t.extents.size()));
      for (const uint64_t e : t.extents) out += bytes(e);
      out += bytes(t.type) + bytes(uint64_t(int64_t(data.size()) + t.shift));
      data += t.data;
      pad(data);
    }
    pad(out);
    return out + data;
  }

 private:
  void pad(std::string& s) const { s.resize((s.size() + alignment - 1) / alignment * alignment, '\0'); }
  std::vector<std::pair<std::string, std::string>> keys_;
};

/// A whole model: one layer, width 32, heads 2/1 of 16, feed-forward 64, vocabulary 8, no tokenizer. Element i of each
/// tensor, as it stands in the file, is i + 0.1.
inline GgufBuilder tiny_gguf(const std::string& architecture) {
  GgufBuilder b;
  const std::string p = architecture + ".";
  b.set("general.architecture", architecture);
  b.set(p + "block_count", 1u);
  b.set(p + "context_length", 64u);
  b.set(p + "embedding_length", 32u);
  b.set(p + "feed_forward_length", 64u);
  b.set(p + "attention.head_count", 2u);
  b.set(p + "attention.head_count_kv", 1u);
  b.set(p + "attention.layer_norm_rms_epsilon", 1e-5f);
  b.set(p + "rope.freq_base", 500000.0f);
  const auto matrix = [&](const std::string& name, uint64_t columns, uint64_t rows) {
    std::vector<float> values(columns * rows);
    for (size_t i = 0; i < values.size(); ++i) values[i] = float(i) + 0.1f;
    b.floats(name, rows == 1 ? std::vector<uint64_t>{columns} : std::vector<uint64_t>{columns, rows}, values);
  };
  matrix("token_embd.weight", 32, 8);
  matrix("output_norm.weight", 32, 1);
  matrix("blk.0.attn_norm.weight", 32, 1);
  matrix("blk.0.attn_q.weight", 32, 32);
  matrix("blk.0.attn_k.weight", 32, 16);
  matrix("blk.0.attn_v.weight", 32, 16);
  matrix("blk.0.attn_output.weight", 32, 32);
  matrix("blk.0.ffn_norm.weight", 32, 1);
  matrix("blk.0.ffn_gate.weight", 32, 64);
  matrix("blk.0.ffn_up.weight", 32, 64);
  matrix("blk.0.ffn_down.weight", 64, 32);
  return b;
}

inline std::span<const std::byte> bytes_of(const std::string& image) {
  return std::as_bytes(std::span(image));
}

/// What the reader says against an image, as the file test.gguf; "" where it takes it.
inline std::string refusal(const std::string& image) {
  return message_of([&] { parse_gguf(bytes_of(image), "test.gguf"); });
}

struct GgufLie {
  const char* part;  // of the message
  std::function<void(GgufBuilder&)> tell;
};

}  // namespace mantissa
