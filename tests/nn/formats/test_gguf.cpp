// GGUF: block formats against gguf-py's values, config and names, Llama's row order, tokenizers, and files that lie.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/random.h"
#include "core/registry.h"
#include "core/safetensors.h"
#include "nn/formats/gguf.h"
#include "nn/formats/gguf_blocks.h"
#include "nn/formats/hf.h"
#include "nn/model.h"
#include "rl/text/tokenizer.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/message.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

std::span<const std::byte> bytes_of(const std::string& image) {
  return std::as_bytes(std::span(image));
}

std::string refusal(const std::string& image) {
  return message_of([&] { parse_gguf(bytes_of(image), "test.gguf"); });
}

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

// ---- tokenizers -------------------------------------------------------------------------------------------

/// A tiny model whose embedding has a row per token.
GgufBuilder with_tokens(const std::vector<std::string>& tokens, const std::vector<int32_t>& types) {
  GgufBuilder b = tiny_gguf("llama");
  for (auto& t : b.tensors)
    if (t.name == "token_embd.weight") t.extents[1] = tokens.size(), t.data.resize(tokens.size() * 32 * 4);
  b.set("tokenizer.ggml.tokens", tokens);
  b.set_numbers("tokenizer.ggml.token_type", GgufBuilder::kI32, types);
  return b;
}

GgufBuilder byte_level_gguf(const std::string& pre) {
  GgufBuilder b = with_tokens({"<|end|>", "1", "2", "12", "a", "b", "Ġ", "ab", "Ġab", "<user>", "[PAD]"},
                              {3, 1, 1, 1, 1, 1, 1, 1, 1, 4, 5});
  b.set("tokenizer.ggml.model", "gpt2");
  b.set("tokenizer.ggml.pre", pre);
  b.set("tokenizer.ggml.merges", std::vector<std::string>{"1 2", "a b", "Ġ ab"});
  b.set("tokenizer.ggml.bos_token_id", 0u);
  b.set("tokenizer.ggml.eos_token_id", 0u);
  b.set("tokenizer.chat_template", "{{ messages }}");
  return b;
}

TEST(Gguf, ByteLevelTokenizer) {
  const std::string image = byte_level_gguf("smollm").image();
  const GgufModel model = parse_gguf(bytes_of(image), "test.gguf");
  EXPECT_EQ(model.config.eos_ids, std::vector<int32_t>{0});
  EXPECT_EQ(model.config.bos_id, 0);
  EXPECT_EQ(model.tokenizer.chat_template, "{{ messages }}");
  const auto config = nlohmann::json::parse(model.tokenizer.tokenizer_config_json);
  EXPECT_EQ(config["eos_token"], "<|end|>");
  EXPECT_EQ(config["chat_template"], "{{ messages }}");

  const auto smollm = Tokenizer::from_json(model.tokenizer.tokenizer_json, "test");
  EXPECT_EQ(smollm->encode("12 ab<user>b<|end|>", true), (std::vector<int32_t>{1, 2, 8, 9, 5, 0}));  // digits apart
  EXPECT_EQ(smollm->decode({8, 9, 0}, true), " ab<user>");
  EXPECT_EQ(smollm->vocab_size(), 10);  // trailing unused rows are no tokens

  const auto tokenizer = [](GgufBuilder b) {
    const std::string built = b.image();
    return Tokenizer::from_json(parse_gguf(bytes_of(built), "test.gguf").tokenizer.tokenizer_json, "test");
  };
  EXPECT_EQ(tokenizer(byte_level_gguf("gpt-2"))->encode("12 ab"), (std::vector<int32_t>{3, 8}));
  EXPECT_EQ(tokenizer(byte_level_gguf("qwen2"))->encode("12", true), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(tokenizer(byte_level_gguf("llama-bpe"))->encode("12", true), (std::vector<int32_t>{0, 3}));
  GgufBuilder no_bos = byte_level_gguf("llama-bpe");
  no_bos.set_flag("tokenizer.ggml.add_bos_token", false);
  no_bos.set_flag("tokenizer.ggml.add_eos_token", true);
  EXPECT_EQ(tokenizer(no_bos)->encode("12", true), (std::vector<int32_t>{3, 0}));

  EXPECT_NE(refusal(byte_level_gguf("tekken").image()).find("\"tekken\" is not known; known are gpt-2, smollm"),
            std::string::npos);
}

/// A role makes no token special that the file calls ordinary text.
TEST(Gguf, RolesOfOrdinaryTokens) {
  const auto read = [](const GgufBuilder& b) {
    const std::string image = b.image();
    const GgufModel model = parse_gguf(bytes_of(image), "test.gguf");
    return std::pair(Tokenizer::from_files(model.tokenizer),
                     nlohmann::json::parse(model.tokenizer.tokenizer_config_json));
  };
  using Ids = std::vector<int32_t>;
  GgufBuilder b = byte_level_gguf("gpt-2");
  b.set("tokenizer.ggml.padding_token_id", 2u);
  b.set("tokenizer.ggml.unknown_token_id", 9u);
  const auto [padded, config] = read(b);
  EXPECT_EQ(padded->encode("12<user>"), (Ids{3, 9}));  // not 1, 2, 9
  EXPECT_FALSE(config.contains("pad_token"));
  EXPECT_EQ(config["unk_token"], "<user>");
  EXPECT_EQ(config["bos_token"], "<|end|>");

  b.erase("tokenizer.ggml.bos_token_id");
  b.set("tokenizer.ggml.bos_token_id", 4u);
  b.set_flag("tokenizer.ggml.add_bos_token", true);
  EXPECT_EQ(read(b).first->encode("ab", true), (Ids{4, 7}));
  b.erase("tokenizer.chat_template");
  b.set("tokenizer.chat_template", "{{ bos_token }}");
  expect_message(refusal(b.image()), {"bos_token_id 4", "ordinary text", "type 1"});
  b.erase("tokenizer.ggml.token_type");  // nothing is said of any token
  EXPECT_EQ(read(b).second["bos_token"], "a");
}

TEST(Gguf, OnlyCausalAttention) {
  for (const bool causal : {true, false}) {
    GgufBuilder b = tiny_gguf("llama");
    b.set_flag("llama.attention.causal", causal);
    const std::string said = refusal(b.image());
    EXPECT_EQ(said, causal ? "" : "test.gguf: llama.attention.causal = false is not supported");
  }
}

TEST(Gguf, SentencePieceTokenizer) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a", "▁ab"};
  std::vector<int32_t> types = {2, 3, 3, 1, 1, 1, 1, 1, 1};
  std::vector<float> scores = {0, 0, 0, -5, -6, -7, -2, -1, -3};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    tokens.push_back(name);
    types.push_back(6);
    scores.push_back(0);
  }
  GgufBuilder b = with_tokens(tokens, types);
  b.set("tokenizer.ggml.model", "llama");
  b.set_numbers("tokenizer.ggml.scores", GgufBuilder::kF32, scores);
  b.set("tokenizer.ggml.bos_token_id", 1u);
  const std::string image = b.image();
  const GgufModel model = parse_gguf(bytes_of(image), "test.gguf");
  const auto merges = nlohmann::json::parse(model.tokenizer.tokenizer_json)["model"]["merges"];
  const auto expected = nlohmann::json::parse(R"([["▁","a"],["a","b"],["▁","ab"],["▁a","b"]])");
  EXPECT_EQ(merges, expected);
  const auto tokenizer = Tokenizer::from_json(model.tokenizer.tokenizer_json, "test");
  EXPECT_EQ(tokenizer->encode("ab", true), (std::vector<int32_t>{1, 8}));
  EXPECT_EQ(tokenizer->encode("a\n"), (std::vector<int32_t>{7, 9 + 10}));  // a byte outside the vocabulary
  EXPECT_EQ(tokenizer->decode({8, 7}), "ab a");
}

TEST(Gguf, SmolLm2) {
  const std::filesystem::path root(MANTISSA_SOURCE_DIR);
  const auto file = root / "models/SmolLM2-135M-Instruct.Q4_1.gguf",
             golden = root / "../shared/golden/smollm2_gguf.jsonl";
  if (!std::filesystem::exists(file) || !std::filesystem::exists(golden))
    GTEST_SKIP() << "needs " << file << " (tools/get_model.sh smollm2) and " << golden;
  const GgufModel model = open_gguf(file.string());
  EXPECT_EQ(model.config.layers, 30);
  EXPECT_EQ(model.config.vocab_size, 49152);
  const auto tokenizer = Tokenizer::from_json(model.tokenizer.tokenizer_json, "SmolLM2");
  std::ifstream lines(golden);
  int compared = 0;
  for (std::string line; std::getline(lines, line); ++compared) {
    const auto record = nlohmann::json::parse(line);
    EXPECT_EQ(tokenizer->encode(record["text"].get<std::string>()), record["ids"].get<std::vector<int32_t>>());
  }
  EXPECT_GT(compared, 0);
}

// ---- lies -------------------------------------------------------------------------------------------------

struct Lie {
  const char* part;  // of the message
  std::function<void(GgufBuilder&)> tell;
};

TEST(Gguf, RefusesLies) {
  using B = GgufBuilder;
  const std::string huge = B::bytes(uint64_t(1) << 60);
  const Lie lies[] = {
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
  for (const Lie& lie : lies) {
    GgufBuilder b = tiny_gguf("llama");
    lie.tell(b);
    const std::string message = refusal(b.image());
    EXPECT_NE(message.find(lie.part), std::string::npos) << "expected \"" << lie.part << "\" in \"" << message << '"';
    EXPECT_EQ(message.rfind("test.gguf: ", 0), 0u) << message;
  }
}

TEST(Gguf, RefusesLyingTokenizers) {
  using B = GgufBuilder;
  const Lie lies[] = {
      {"must be gpt2 or llama", [](B& b) { b.erase("tokenizer.ggml.model"), b.set("tokenizer.ggml.model", "bert"); }},
      {"are the same text",
       [](B& b) {
         b.erase("tokenizer.ggml.tokens"), b.set("tokenizer.ggml.tokens", std::vector<std::string>(11, "a"));
       }},
      {"must hold 1 entries",
       [](B& b) { b.erase("tokenizer.ggml.tokens"), b.set("tokenizer.ggml.tokens", std::vector<std::string>{"a"}); }},
      {"must not exceed the 11 rows",
       [](B& b) {
         b.erase("tokenizer.ggml.tokens"), b.set("tokenizer.ggml.tokens", std::vector<std::string>(12, "a"));
       }},
      {"eos_token_id\" must be below the 10 tokens",
       [](B& b) { b.erase("tokenizer.ggml.eos_token_id"), b.set("tokenizer.ggml.eos_token_id", 10u); }},
      {"must be UTF-8", [](B& b) { b.erase("tokenizer.chat_template"), b.set("tokenizer.chat_template", "\xff"); }},
      {"merges\" must be an array of strings",
       [](B& b) { b.erase("tokenizer.ggml.merges"), b.set("tokenizer.ggml.merges", "a b"); }},
      {"add_bos_token is set",
       [](B& b) { b.erase("tokenizer.ggml.bos_token_id"), b.set_flag("tokenizer.ggml.add_bos_token", true); }},
      {"scores\" is missing", [](B& b) { b.erase("tokenizer.ggml.model"), b.set("tokenizer.ggml.model", "llama"); }},
  };
  EXPECT_EQ(refusal(byte_level_gguf("smollm").image()), "");
  for (const Lie& lie : lies) {
    GgufBuilder b = byte_level_gguf("smollm");
    lie.tell(b);
    const std::string message = refusal(b.image());
    EXPECT_NE(message.find(lie.part), std::string::npos) << "expected \"" << lie.part << "\" in \"" << message << '"';
  }
}

TEST(Gguf, EveryTruncationIsRefused) {
  const std::string image = byte_level_gguf("smollm").image();
  for (size_t size = 0; size < image.size(); size += size < 4096 ? 1 : 509)
    ASSERT_NE(refusal(image.substr(0, size)), "") << size << " of " << image.size() << " bytes";
}

TEST(Gguf, MutationsEndInAnErrorOrAModel) {
  const std::string image = byte_level_gguf("smollm").image();
  const size_t header = image.find("blk.0.ffn_down.weight") + 80;
  RandomStream random(1, 2);
  for (int round = 0; round < 5000; ++round) {
    std::string mutated = image;
    for (uint32_t edits = 1 + random.below(3); edits > 0; --edits)
      mutated[random.below(uint32_t(header))] = char(random.below(4) == 0 ? 0xff : random.next());
    refusal(mutated);
  }
}

}  // namespace
}  // namespace mantissa
