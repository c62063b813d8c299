// GGUF: block formats against gguf-py's values, config and names, Llama's row order, and files that lie.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/file.h"
#include "core/registry.h"
#include "core/safetensors.h"
#include "nn/formats/gguf.h"
#include "nn/formats/gguf_blocks.h"
#include "nn/formats/hf.h"
#include "nn/model.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

std::vector<float> read_floats(const GgufModel& model, const std::string& name) {
  Tensor out(cpu(), model.tensors->shape(name), Dtype::kF32);
  model.tensors->read(name, out);
  return to_host<float>(out);
}

// ---- blocks -----------------------------------------------------------------------------------------------

TEST(Gguf, BlocksEqualTheReference) {
  const Safetensors golden(std::filesystem::path(MANTISSA_SOURCE_DIR) / "tests/golden/gguf_blocks.safetensors");
  const std::pair<const char*, uint32_t> types[] = {{"F32", 0},   {"F16", 1},   {"Q4_0", 2}, {"Q4_1", 3},
                                                    {"Q5_0", 6},  {"Q5_1", 7},  {"Q8_0", 8}, {"Q4_K", 12},
                                                    {"Q5_K", 13}, {"Q6_K", 14}, {"BF16", 30}};
  for (const auto& [name, type] : types) {
    SCOPED_TRACE(name);
    const BlockFormat* format = block_format(type);
    ASSERT_NE(format, nullptr);
    EXPECT_STREQ(format->name, name);
    const auto& blocks = golden.at(std::string(name) + ".blocks");
    const auto& values = golden.at(std::string(name) + ".values");
    ASSERT_EQ(blocks.shape[1], format->bytes);
    ASSERT_EQ(values.shape[1], format->elements);
    std::vector<float> out(size_t(values.shape[0] * values.shape[1]));
    format->unpack(blocks.data.data(), blocks.shape[0], out.data());
    ASSERT_EQ(out.size() * sizeof(float), values.data.size());
    for (size_t i = 0; i < out.size(); ++i) {
      float expected;
      std::memcpy(&expected, values.data.data() + i * sizeof(float), sizeof(float));
      ASSERT_EQ(out[i], expected) << "element " << i;
    }
  }
  EXPECT_EQ(block_format(10), nullptr);  // Q2_K
}

// ---- model ------------------------------------------------------------------------------------------------

TEST(Gguf, ConfigAndNames) {
  const std::string image = tiny_gguf("llama").image();
  const GgufModel model = parse_gguf(bytes_of(image), "test.gguf");
  const ModelConfig& c = model.config;
  EXPECT_EQ(c.architecture, "llama");
  EXPECT_EQ(c.vocab_size, 8);
  EXPECT_EQ(c.width, 32);
  EXPECT_EQ(c.layers, 1);
  EXPECT_EQ(c.feed_forward, 64);
  EXPECT_EQ(c.max_positions, 64);
  EXPECT_EQ(c.heads.query, 2);
  EXPECT_EQ(c.heads.kv, 1);
  EXPECT_EQ(c.heads.size, 16);
  EXPECT_EQ(c.norm_eps, 1e-5);  // the decimal, not the float next to it
  EXPECT_EQ(c.rope.theta, 500000.0);
  EXPECT_TRUE(c.tied_head);
  EXPECT_FALSE(c.qkv_bias);
  EXPECT_FALSE(c.qk_norm);
  EXPECT_EQ(model.tensors->names().size(), 11u);
  EXPECT_EQ(model.tensors->shape("model.layers.0.mlp.down_proj.weight"), (Shape{32, 64}));
  EXPECT_TRUE(model.tensors->contains("model.embed_tokens.weight"));
  EXPECT_TRUE(model.tokenizer.tokenizer_json.empty());
  EXPECT_THROW(model.tensors->shape("blk.0.attn_q.weight"), Error);
}

TEST(Gguf, OtherArchitectures) {
  GgufBuilder b = tiny_gguf("qwen2");
  b.floats("output.weight", {32, 8}, std::vector<float>(256, 1.0f));
  for (const auto& [name, rows] : {std::pair("q", 32), {"k", 16}, {"v", 16}})
    b.floats(std::string("blk.0.attn_") + name + ".bias", {uint64_t(rows)}, std::vector<float>(size_t(rows), 2.0f));
  b.floats("blk.0.extra.weight", {32}, std::vector<float>(32, 1.0f));
  const std::string image = b.image();
  const GgufModel qwen2 = parse_gguf(bytes_of(image), "test.gguf");
  EXPECT_TRUE(qwen2.config.qkv_bias);
  EXPECT_FALSE(qwen2.config.tied_head);
  EXPECT_TRUE(qwen2.tensors->contains("lm_head.weight"));
  EXPECT_TRUE(qwen2.tensors->contains("model.layers.0.self_attn.k_proj.bias"));
  EXPECT_TRUE(qwen2.tensors->contains("blk.0.extra.weight"));                          // for the unused-tensor check
  EXPECT_EQ(read_floats(qwen2, "model.layers.0.self_attn.q_proj.weight")[33], 33.1f);  // rows in place

  GgufBuilder q3 = tiny_gguf("qwen3");
  q3.set("qwen3.attention.key_length", 24u);
  for (auto& t : q3.tensors)
    if (t.name == "blk.0.attn_q.weight") t.extents[1] = 48, t.data.resize(32 * 48 * 4);
  const std::string image3 = q3.image();
  const GgufModel qwen3 = parse_gguf(bytes_of(image3), "test.gguf");
  EXPECT_TRUE(qwen3.config.qk_norm);
  EXPECT_EQ(qwen3.config.heads.size, 24);
}

TEST(Gguf, LlamaRowsReturnToHalves) {
  // llama.cpp's converter: [heads, 2, D/2] -> [heads, D/2, 2]. File row r holds 32 r + 0.1 in its first column.
  const std::string image = tiny_gguf("llama").image();
  const GgufModel model = parse_gguf(bytes_of(image), "test.gguf");
  for (const auto& [name, heads] : {std::pair("q", 2), {"k", 1}}) {
    const auto values = read_floats(model, std::string("model.layers.0.self_attn.") + name + "_proj.weight");
    int file_row = 0;
    for (int h = 0; h < heads; ++h)
      for (int j = 0; j < 8; ++j)
        for (int half = 0; half < 2; ++half, ++file_row) {
          const int row = h * 16 + half * 8 + j;
          EXPECT_EQ(values[size_t(row) * 32], float(file_row * 32) + 0.1f) << name << " row " << row;
          EXPECT_EQ(values[size_t(row) * 32 + 31], float(file_row * 32 + 31) + 0.1f);
        }
  }
  EXPECT_EQ(read_floats(model, "model.layers.0.self_attn.v_proj.weight")[32], 32.1f);
}

TEST(Gguf, QuantisedWeightsAreFp16First) {
  GgufBuilder b = tiny_gguf("llama");
  // Q4_1, d = 1 + 2^-10 and m = 8: 15 d + m needs more than fp16's 11 bits.
  std::string block = GgufBuilder::bytes(uint16_t(0x3c01)) + GgufBuilder::bytes(uint16_t(0x4800));
  block += std::string(16, '\xff');
  for (auto& t : b.tensors) {
    if (t.name != "blk.0.attn_v.weight") continue;
    t.type = 3;
    t.data.clear();
    for (int row = 0; row < 16; ++row) t.data += block;
  }
  const std::string image = b.image();
  const GgufModel model = parse_gguf(bytes_of(image), "test.gguf");
  const float exact = 15.0f * (1.0f + 0x1p-10f) + 8.0f, half = to_float(half_from_float(exact));
  ASSERT_NE(exact, half);
  const std::string name = "model.layers.0.self_attn.v_proj.weight";
  EXPECT_EQ(read_floats(model, name)[7], half);
  Tensor narrow(cpu(), model.tensors->shape(name), Dtype::kBF16);
  model.tensors->read(name, narrow);
  EXPECT_EQ(narrow.data<BFloat16>()[7].bits, bfloat16_from_float(half).bits);
  EXPECT_EQ(read_floats(model, "model.norm.weight")[1], 1.1f);  // stored in fp32: kept
  Tensor small(cpu(), {8}, Dtype::kF32);
  EXPECT_THROW(model.tensors->read(name, small), Error);
}

TEST(Gguf, LinearRopeUnderAllKeys) {
  struct Row {
    const char* type;          // rope.scaling.type, null: not given
    float factor, old_factor;  // 0: not given
    double want;               // 1: no scaling
  };
  for (const Row& row : {Row{nullptr, 0, 0, 1},
                         {nullptr, 2, 0, 2},
                         {nullptr, 0, 2, 2},
                         {"linear", 4, 2, 4},
                         {"linear", 0, 3, 3},
                         {"none", 2, 0, 1},
                         {"none", 0, 2, 1},
                         {"linear", 0, 0, 1}}) {
    GgufBuilder b = tiny_gguf("llama");
    if (row.type) b.set("llama.rope.scaling.type", row.type);
    if (row.factor != 0) b.set("llama.rope.scaling.factor", row.factor);
    if (row.old_factor != 0) b.set("llama.rope.scale_linear", row.old_factor);
    const std::string image = b.image();
    const RopeConfig rope = parse_gguf(bytes_of(image), "test.gguf").config.rope;
    EXPECT_EQ(rope.kind == RopeConfig::Kind::kLinear ? rope.factor : 1, row.want);
  }
}

TEST(Gguf, SplitFilesAreNamed) {
  GgufBuilder b = tiny_gguf("llama");
  b.set("split.no", 0u);
  b.set("split.count", 2u);
  EXPECT_NE(refusal(b.image()).find("part 1 of 2"), std::string::npos) << refusal(b.image());
  EXPECT_NE(refusal("\x1f\x8b\x08 zipped, and then some").find("gzip"), std::string::npos);
}

TEST(Gguf, BiasesSurviveExport) {
  for (const char* architecture : {"llama", "qwen2"}) {
    const TempDir dir;
    GgufBuilder b = tiny_gguf(architecture);
    const bool biases = std::string(architecture) == "llama";
    if (biases)
      for (const auto& [name, rows] : {std::pair("q", 32), {"k", 16}, {"v", 16}})
        b.floats(std::string("blk.0.attn_") + name + ".bias", {uint64_t(rows)}, std::vector<float>(size_t(rows), 2.0f));
    write_file(dir / "model", b.image());  // found by its first bytes
    const auto model = load_model((dir / "model").string(), cpu(), Dtype::kF32, false);
    EXPECT_EQ(model->config.qkv_bias, biases);
    save_hf(*model, dir / "saved", Dtype::kF32);
    const auto back = load_model((dir / "saved").string(), cpu(), Dtype::kF32, false);
    EXPECT_TRUE(back->config.qkv_bias);  // a Qwen2 has biases in transformers: zeros here
    for (const NamedTensor& t : hf_views(back->config, back->decoder->params(), back->params.compute)) {
      if (t.name.ends_with("q_proj.bias")) {
        EXPECT_EQ(t.tensor.data<float>()[0], biases ? 2.0f : 0.0f);
      }
    }
  }
}

TEST(Gguf, Llama3RopeFactors) {
  // The factors as the converter writes them, from the rule's own words.
  std::vector<float> factors;
  for (int i = 0; i < 8; ++i) {
    const double wavelength = 2 * M_PI * std::pow(500000.0, i / 8.0);
    const double smooth = (8192 / wavelength - 1.0) / 3.0;
    factors.push_back(wavelength < 2048 ? 1.0f : wavelength > 8192 ? 32.0f : float(1 / ((1 - smooth) / 32 + smooth)));
  }
  const auto with = [&](std::vector<float> values) {
    GgufBuilder b = tiny_gguf("llama");
    b.floats("rope_freqs.weight", {values.size()}, values);
    return b.image();
  };
  const std::string image = with(factors);
  const GgufModel model = parse_gguf(bytes_of(image), "test.gguf");
  EXPECT_EQ(model.config.rope.kind, RopeConfig::Kind::kLlama3);
  EXPECT_EQ(model.config.rope.factor, 32.0);
  EXPECT_EQ(model.config.rope.original_max_positions, 8192);
  EXPECT_FALSE(model.tensors->contains("rope_freqs.weight"));

  const std::string ones = with(std::vector<float>(8, 1.0f));
  EXPECT_EQ(parse_gguf(bytes_of(ones), "test.gguf").config.rope.kind, RopeConfig::Kind::kDefault);
  factors[0] = 1.01f;
  EXPECT_NE(refusal(with(factors)).find("rope_freqs.weight[0]"), std::string::npos);
  EXPECT_NE(refusal(with({1.0f, 2.0f})).find("rope_freqs.weight"), std::string::npos);
}

TEST(Gguf, OnlyCausalAttention) {
  for (const bool causal : {true, false}) {
    GgufBuilder b = tiny_gguf("llama");
    b.set_flag("llama.attention.causal", causal);
    const std::string said = refusal(b.image());
    EXPECT_EQ(said, causal ? "" : "test.gguf: llama.attention.causal = false is not supported");
  }
}

// ---- lies -------------------------------------------------------------------------------------------------

TEST(Gguf, RefusesLies) {
  using B = GgufBuilder;
  const std::string huge = B::bytes(uint64_t(1) << 60);
  const GgufLie lies[] = {
      {"version must be 2 or 3", [](B& b) { b.version = 1; }},
      {"version must be 2 or 3", [](B& b) { b.version = 0x03000000; }},
      {"appears twice", [](B& b) { b.set("general.architecture", "llama"); }},
      {"architecture\" is missing", [](B& b) { b.erase("general.architecture"); }},
      {"must be llama, qwen2, qwen3 or qwen3moe",
       [](B& b) { b.erase("general.architecture"), b.set("general.architecture", "gpt2"); }},
      {"must be a string", [](B& b) { b.erase("general.architecture"), b.set("general.architecture", 1u); }},
      {"must be an integer", [](B& b) { b.erase("llama.block_count"), b.set("llama.block_count", 1.0f); }},
      {"must be an integer, got an array of int32",
       [](B& b) { b.erase("llama.block_count"), b.set_numbers<int32_t>("llama.block_count", B::kI32, {1}); }},
      {"must be at most 2^24", [](B& b) { b.erase("llama.block_count"), b.set("llama.block_count", 1u << 31); }},
      {"head_count must be positive",
       [](B& b) { b.erase("llama.attention.head_count"), b.set("llama.attention.head_count", 0u); }},
      {"expert_count", [](B& b) { b.set("llama.expert_count", 8u); }},
      {"rope.scaling.type must be none or linear", [](B& b) { b.set("llama.rope.scaling.type", "yarn"); }},
      {"rope.scaling.attn_factor must be 1, got 0.5", [](B& b) { b.set("llama.rope.scaling.attn_factor", 0.5f); }},
      {"dimension_count", [](B& b) { b.set("llama.rope.dimension_count", 8u); }},
      {"the file ends inside metadata \"x\"", [&](B& b) { b.raw("x", B::kString, huge); }},
      {"cannot fit", [&](B& b) { b.raw("x", B::kArray, B::bytes(uint32_t(B::kU32)) + huge); }},
      {"cannot fit", [&](B& b) { b.raw("x", B::kArray, B::bytes(uint32_t(B::kString)) + huge); }},
      {"arrays of arrays", [](B& b) { b.raw("x", B::kArray, B::bytes(uint32_t(B::kArray)) + B::bytes(uint64_t(0))); }},
      {"type must be below", [](B& b) { b.raw("x", 13, ""); }},
      {"alignment must be a power of two", [](B& b) { b.set("general.alignment", 0u); }},
      {"alignment must be a power of two", [](B& b) { b.set("general.alignment", 48u); }},
      {"rank must be 1 to 4", [](B& b) { b.tensors[0].extents = {}; }},
      {"rank must be 1 to 4", [](B& b) { b.tensors[0].extents = {32, 8, 1, 1, 1}; }},
      {"extents must be at least 1", [](B& b) { b.tensors[0].extents = {32, 0}; }},
      {"extents must be at least 1", [](B& b) { b.tensors[0].extents = {uint64_t(1) << 32, uint64_t(1) << 32}; }},
      {"type 10 is not supported", [](B& b) { b.tensors[0].type = 10; }},
      {"rows of Q4_0 are multiples of 32", [](B& b) { b.tensors[0].type = 2, b.tensors[0].extents = {40, 8}; }},
      {"leave the data", [](B& b) { b.tensors.back().extents = {32, 1 << 20}; }},
      {"leave the data", [](B& b) { b.tensors.back().shift = 1 << 20; }},
      {"multiple of 32", [](B& b) { b.tensors.back().shift = 4; }},
      {"inside another tensor", [](B& b) { b.tensors.back().shift = -32; }},
      {"appears twice", [](B& b) { b.tensors[1].name = b.tensors[2].name; }},
      {"token_embd.weight is missing", [](B& b) { b.tensors[0].name = "x"; }},
      {"token_embd.weight must be a matrix", [](B& b) { b.tensors[0].extents = {256}; }},
      {"q_proj.weight must have 2 heads of 16 rows", [](B& b) { b.tensors[3].extents = {32, 16}; }},
  };
  EXPECT_EQ(refusal(tiny_gguf("llama").image()), "");
  for (const GgufLie& lie : lies) {
    GgufBuilder b = tiny_gguf("llama");
    lie.tell(b);
    const std::string message = refusal(b.image());
    EXPECT_NE(message.find(lie.part), std::string::npos) << "expected \"" << lie.part << "\" in \"" << message << '"';
    EXPECT_EQ(message.rfind("test.gguf: ", 0), 0u) << message;
  }
}

}  // namespace
}  // namespace mantissa
