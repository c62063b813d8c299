// Hugging Face directories: every spelling of config.json, what is refused and how, and weights that survive the trip.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/random.h"
#include "core/registry.h"
#include "nn/formats/hf.h"
#include "nn/formats/hf_config.h"
#include "nn/model.h"
#include "nn/rope.h"
#include "tests/support/message.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(MANTISSA_SOURCE_DIR) / "tests" / "golden";

/// A valid Llama config.json with `extra` members; a later member of the same name wins.
std::string config_with(const std::string& extra = "", const std::string& type = "llama") {
  return R"({"model_type": ")" + type +
         R"(", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "max_position_embeddings": 128)" +
         (extra.empty() ? "" : ", ") + extra + "}";
}

ModelConfig parsed(const std::string& extra = "", const std::string& type = "llama") {
  return parse_hf_config(config_with(extra, type), "config.json");
}

void expect_message(const std::string& message, std::initializer_list<const char*> parts) {
  for (const char* part : parts)
    EXPECT_NE(message.find(part), std::string::npos) << "\"" << message << "\" lacks \"" << part << "\"";
}

void expect_refused(const std::string& extra, std::initializer_list<const char*> parts,
                    const std::string& type = "llama") {
  const std::string message = message_of([&] { parsed(extra, type); });
  expect_message(message, {"config.json"});
  expect_message(message, parts);
}

TEST(HfConfig, Defaults) {
  const ModelConfig llama = parsed();
  EXPECT_EQ(llama.heads.kv, 4);
  EXPECT_EQ(llama.heads.size, 8);
  EXPECT_EQ(llama.norm_eps, 1e-6);
  EXPECT_EQ(llama.rope.theta, 10000.0);
  EXPECT_FALSE(llama.tied_head || llama.qkv_bias || llama.qk_norm);
  EXPECT_TRUE(llama.eos_ids.empty());
  EXPECT_EQ(llama.bos_id, -1);
  EXPECT_TRUE(parsed("", "qwen2").qkv_bias);
  EXPECT_TRUE(parsed("", "qwen3").qk_norm);
  EXPECT_EQ(parsed("", "qwen3").heads.size, 128);
  EXPECT_EQ(parsed(R"("head_dim": 16, "num_key_value_heads": 2)", "qwen3").heads.row(), (4 + 2 * 2) * 16);
  EXPECT_EQ(parsed(R"("num_key_value_heads": null, "head_dim": null)").heads.size, 8);
}

/// Random spellings of rope: transformers' frequencies (tests/golden/make_model_files_golden.py), or refused.
TEST(HfConfig, RopeAsTransformers) {
  std::ifstream file(std::string(MANTISSA_SOURCE_DIR) + "/tests/golden/rope_configs.jsonl");
  int equal = 0, refused = 0;
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json row = nlohmann::json::parse(line);
    ModelConfig config;
    const std::string message = message_of([&] { config = parse_hf_config(row[0].dump(), "config.json"); });
    if (!message.empty()) {
      EXPECT_NE(message.find("rope"), std::string::npos) << message;
      ++refused;
      continue;
    }
    ASSERT_FALSE(row[1].is_null()) << line;
    const std::vector<double> frequencies = rope_frequencies(config.rope, config.heads.size);
    ASSERT_EQ(frequencies.size(), row[1].size());
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const double want = row[1][i];
      EXPECT_NEAR(frequencies[i], want, 2e-7 * want + 1e-9) << line;
    }
    ++equal;
  }
  EXPECT_GE(equal, 90);
  EXPECT_LE(refused, 60);
}

TEST(HfConfig, RopeInBothSpellings) {
  const ModelConfig old_plain = parsed(R"("rope_theta": 5e5, "rope_scaling": null)");
  const ModelConfig new_plain = parsed(R"("rope_parameters": {"rope_type": "default", "rope_theta": 500000})");
  EXPECT_EQ(old_plain.rope.theta, 500000.0);
  EXPECT_EQ(new_plain.rope.theta, 500000.0);
  EXPECT_EQ(new_plain.rope.kind, RopeConfig::Kind::kDefault);

  const std::string llama3 = R"("factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 64)";
  for (const std::string& spelling :
       {R"("rope_theta": 1e4, "rope_scaling": {"rope_type": "llama3", )" + llama3 + "}",
        R"("rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3", )" + llama3 + "}"}) {
    const RopeConfig rope = parsed(spelling).rope;
    EXPECT_EQ(rope.kind, RopeConfig::Kind::kLlama3);
    EXPECT_EQ(rope.factor, 8.0);
    EXPECT_EQ(rope.original_max_positions, 64);
  }
  const RopeConfig linear = parsed(R"("rope_scaling": {"type": "linear", "factor": 2})").rope;
  EXPECT_EQ(linear.kind, RopeConfig::Kind::kLinear);
  EXPECT_EQ(rope_frequencies(linear, 8)[0], 0.5);
}

TEST(HfConfig, RopeInBothObjects) {
  // transformers 5: rope_scaling replaces rope_parameters, its theta too, unless it is null or empty.
  const std::vector<std::string> scalings = {"null", "{}", R"({"type": "linear", "factor": 2})",
                                             R"({"rope_type": "linear", "factor": 2, "rope_theta": 3e4})",
                                             R"({"rope_type": "default"})"};
  for (const bool theta : {false, true})
    for (size_t i = 0; i < scalings.size(); ++i) {
      const std::string both = std::string(theta ? R"("rope_theta": 7e4, )" : "") +
                               R"("rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4},
                                  "rope_scaling": )" +
                               scalings[i];
      const RopeConfig rope = parsed(both).rope;
      EXPECT_EQ(rope.theta, i < 2 ? 5e5 : i == 3 ? 3e4 : theta ? 7e4 : 1e4) << both;
      EXPECT_EQ(rope.kind, i == 4 ? RopeConfig::Kind::kDefault : RopeConfig::Kind::kLinear) << both;
      EXPECT_EQ(rope.factor, i < 2 ? 4 : i < 4 ? 2 : 1) << both;
    }
  expect_refused(R"("rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "yarn", "factor": 4})",
                 {"rope_scaling", "yarn"});
  const RopeConfig llama3 =
      parsed(R"("rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4})")
          .rope;
  EXPECT_EQ(llama3.original_max_positions, 128);  // max_position_embeddings
}

TEST(HfConfig, StopTokens) {
  EXPECT_EQ(parsed(R"("eos_token_id": 3, "bos_token_id": 1)").eos_ids, std::vector<int32_t>{3});
  EXPECT_EQ(parsed(R"("eos_token_id": [3, 5, 3])").eos_ids, (std::vector<int32_t>{3, 5}));
  EXPECT_EQ(parsed(R"("bos_token_id": 1)").bos_id, 1);
  ModelConfig config = parsed(R"("eos_token_id": 3)");
  add_generation_config(config, R"({"eos_token_id": [7, 3]})", "generation_config.json");
  EXPECT_EQ(config.eos_ids, (std::vector<int32_t>{3, 7}));
  expect_message(
      message_of([&] { add_generation_config(config, R"({"eos_token_id": 64})", "generation_config.json"); }),
      {"generation_config.json", "eos_token_id", "64"});
  expect_refused(R"("eos_token_id": "2")", {"eos_token_id", "\"2\""});
  expect_refused(R"("eos_token_id": [-1])", {"eos_token_id"});
}

TEST(HfConfig, RefusesWhatItDoesNotCompute) {
  expect_message(message_of([] { parsed("", "mixtral"); }), {"model_type", "mixtral", "qwen3"});
  expect_refused(R"("hidden_act": "gelu")", {"hidden_act", "gelu"});
  expect_refused(R"("mlp_bias": true)", {"mlp_bias"});
  expect_refused(R"("quantization_config": {"quant_method": "gptq"})", {"quantization_config"});
  expect_refused(R"("rope_scaling": {"rope_type": "yarn", "factor": 4})", {"rope_scaling", "rope_type", "yarn"});
  expect_refused(R"("rope_parameters": {"rope_type": "dynamic", "factor": 4})", {"rope_parameters", "dynamic"});
  expect_refused(R"("rope_scaling": {"rope_type": "llama3", "factor": 4})", {"low_freq_factor", "missing"});
  expect_refused(R"("rope_scaling": {"rope_type": "linear"})", {"factor", "missing"});
  expect_refused(R"("rope_parameters": {"full_attention": {"rope_theta": 1e4}})", {"full_attention"});
  expect_refused(R"("partial_rotary_factor": 0.5)", {"partial_rotary_factor"});
  expect_refused(R"("use_sliding_window": true, "sliding_window": 32, "max_window_layers": 1)", {"use_sliding_window"},
                 "qwen2");
  expect_refused(R"("layer_types": ["full_attention", "sliding_attention"])", {"layer_types", "sliding_attention"});
  expect_refused(R"("layer_types": ["full_attention"])", {"layer_types", "must name 2 layers, got 1"});
  expect_refused(R"("use_sliding_window": true, "max_window_layers": 1)", {"use_sliding_window"}, "qwen2");  // 4096
  parsed(R"("use_sliding_window": true, "sliding_window": null, "max_window_layers": 1)", "qwen2");
  parsed(R"("use_sliding_window": true, "sliding_window": 32, "max_window_layers": 1)", "llama");  // knows no window
  // A window that no layer uses is fine (Qwen2 writes one).
  parsed(R"("use_sliding_window": false, "sliding_window": 32, "max_window_layers": 1)");
  parsed(R"("use_sliding_window": true, "sliding_window": 32, "max_window_layers": 28)");
}

TEST(HfConfig, RefusesWrongSizesAndTypes) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "max_position_embeddings", "num_key_value_heads", "head_dim"}) {
    for (const char* value : {"0", "-1", "1.5", "\"8\"", "[8]", "true", "1e30", "99999999999999999999", "4294967296"})
      expect_refused("\"" + std::string(key) + "\": " + value, {key});
  }
  expect_refused(R"("num_key_value_heads": 3)", {"num_key_value_heads", "divide", "3"});
  expect_refused(R"("num_attention_heads": 5)", {"num_attention_heads", "divide", "5"});
  expect_refused(R"("head_dim": 12)", {"head_dim", "multiple of 8", "12"});
  expect_refused(R"("rms_norm_eps": 0)", {"rms_norm_eps"});
  expect_refused(R"("rms_norm_eps": "1e-6")", {"rms_norm_eps", "number"});
  expect_refused(R"("rope_theta": -1)", {"rope_theta"});
  expect_refused(R"("tie_word_embeddings": 1)", {"tie_word_embeddings", "true or false"});
  expect_message(message_of([] { parse_hf_config("{\"model_type\": \"llama\"}", "c.json"); }),
                 {"c.json", "vocab_size", "missing"});
  expect_message(message_of([] { parse_hf_config("[1]", "c.json"); }), {"c.json", "object"});
  expect_message(message_of([] { parse_hf_config("{", "c.json"); }), {"c.json", "JSON"});
  expect_message(message_of([] { parse_hf_config(std::string(100000, '['), "c.json"); }), {"c.json", "nested"});
}

TEST(HfConfig, SurvivesMutations) {
  const std::string good = read_file(kGolden / "llama3" / "config.json");
  parse_hf_config(good, "good");
  RandomStream random(2, 0);
  static constexpr char kAlphabet[] = "0123456789[]{},:\"-e.\\ \xff";
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = good;
    for (uint32_t edits = 1 + random.below(3); edits > 0; --edits) {
      const size_t at = random.below(uint32_t(text.size()));
      if (random.below(2))
        text[at] = kAlphabet[random.below(sizeof(kAlphabet) - 1)];
      else
        text.erase(at, 1 + random.below(20));
    }
    refused += !message_of([&] { parse_hf_config(text, "mutated"); }).empty();
  }
  EXPECT_GT(refused, 1000);
}

TEST(HfConfig, WhatIsWrittenIsRead) {
  for (const char* name : {"llama3", "qwen2", "qwen3", "qwen3_moe", "qwen3_moe_mixed"}) {
    const ModelConfig config = read_hf_config(kGolden / name);
    ModelConfig back = parse_hf_config(format_hf_config(config, Dtype::kF16), "written");
    add_generation_config(back, format_generation_config(config), "written");
    EXPECT_EQ(format_hf_config(back, Dtype::kF16), format_hf_config(config, Dtype::kF16));
    EXPECT_EQ(back.eos_ids, config.eos_ids);
    EXPECT_EQ(back.rope.kind, config.rope.kind);
    EXPECT_EQ(back.qkv_bias, config.qkv_bias);
    for (int64_t i = 0; i < config.layers; ++i) EXPECT_EQ(back.experts.in_layer(i), config.experts.in_layer(i));
    EXPECT_EQ(back.experts.normalise, config.experts.normalise);
  }
}

TEST(HfConfig, MixturesOfExperts) {
  const auto moe = [](const std::string& more) {
    return parsed("\"num_experts_per_tok\": 2, \"moe_intermediate_size\": 16" + more, "qwen3_moe");
  };
  const ModelConfig c = moe(R"(, "num_experts": 4, "mlp_only_layers": [1], "decoder_sparse_step": 2)");
  EXPECT_TRUE(c.qk_norm);
  EXPECT_FALSE(c.experts.normalise);  // transformers' default
  EXPECT_EQ(c.experts.count, 4);
  EXPECT_FALSE(c.experts.in_layer(0) || c.experts.in_layer(1) || c.experts.in_layer(2));
  EXPECT_TRUE(c.experts.in_layer(3));
  EXPECT_EQ(moe(R"(, "num_local_experts": 4)").experts.count, 4);  // transformers 5
  EXPECT_EQ(parsed("", "qwen3").experts.count, 0);
  const auto refused = [&](const char* keys, std::initializer_list<const char*> parts) {
    expect_message(message_of([&] { moe(str(", ", keys)); }), parts);
  };
  refused(R"("num_local_experts": null)", {"num_experts", "missing"});
  refused(R"("num_experts": 4, "num_local_experts": 8)", {"num_local_experts", "4", "8"});
  refused(R"("num_experts": 0)", {"num_experts", "between 1", "0"});
  refused(R"("num_experts": 1)", {"num_experts_per_tok", "between 1 and 1", "2"});
  refused(R"("num_experts": 131073)", {"num_experts", "131073"});
  refused(R"("num_experts": 4, "decoder_sparse_step": 0)", {"decoder_sparse_step", "0"});
  refused(R"("num_experts": 4, "mlp_only_layers": ["x"])", {"mlp_only_layers", "x"});
  refused(R"("num_experts": 4, "output_router_logits": true)", {"output_router_logits"});
  refused(R"("num_experts": 4, "shared_expert_intermediate_size": 64)", {"shared_expert_intermediate_size", "64"});
  // A window of this model is that of every layer.
  refused(R"("num_experts": 4, "use_sliding_window": true, "sliding_window": 32)", {"use_sliding_window"});
}

/// The tensors of one of the golden models, to be tampered with and written elsewhere.
struct Directory {
  std::map<std::string, Tensor> tensors;
  explicit Directory(const char* name) : source(kGolden / name) {
    const Safetensors file(source / "model.safetensors");
    for (const auto& [tensor, entry] : file.entries()) {
      Tensor t(cpu(), file.shape(tensor), Dtype::kF32);
      file.read(tensor, t);
      tensors[tensor] = t;
    }
  }
  std::vector<NamedTensor> list(size_t part = 0, size_t parts = 1) const {
    std::vector<NamedTensor> out;
    size_t i = 0;
    for (const auto& [name, tensor] : tensors)
      if (i++ % parts == part) out.push_back({name, tensor});
    return out;
  }
  void write_config(const fs::path& to) const {
    fs::create_directories(to);
    fs::copy(source / "config.json", to / "config.json");
  }
  void write(const fs::path& to, std::optional<Dtype> dtype = {}) const {
    write_config(to);
    write_safetensors(to / "model.safetensors", list(), dtype, {{"format", "pt"}});
  }
  fs::path source;
};

std::unique_ptr<Model> load(const fs::path& path, Dtype compute = Dtype::kF32, bool master = false) {
  return load_model(path.string(), cpu(), compute, master);
}

void expect_same_bits(const Tensor& a, const Tensor& b) {
  ASSERT_EQ(a.dtype(), b.dtype());
  ASSERT_EQ(a.shape(), b.shape());
  EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.bytes()), 0);
}

TEST(HfWeights, ShardedEqualsSingle) {
  const TempDir dir;
  const Directory source("qwen3_moe");
  source.write_config(dir / "m");
  std::string map;
  for (size_t part = 0; part < 2; ++part) {
    const std::string file = "model-" + std::to_string(part) + ".safetensors";
    write_safetensors(dir / "m" / file, source.list(part, 2));
    for (const NamedTensor& t : source.list(part, 2))
      map += (map.empty() ? "\"" : ", \"") + t.name + "\": \"" + file + "\"";
  }
  const fs::path index = dir / "m" / "model.safetensors.index.json";
  write_file(index, "{\"metadata\": {}, \"weight_map\": {" + map + "}}");
  expect_same_bits(load(dir / "m")->params.compute.flat(), load(kGolden / "qwen3_moe")->params.compute.flat());

  write_file(index, R"({"weight_map": {"model.norm.weight": "../m/model-0.safetensors"}})");
  expect_message(message_of([&] { load(dir / "m"); }), {"index.json", "model.norm.weight", "same directory"});
  write_file(index, "{\"weight_map\": {" + map + ", \"extra\": \"model-0.safetensors\"}}");
  expect_message(message_of([&] { load(dir / "m"); }), {"index.json", "extra", "is not in"});
  write_file(index, "{\"weight_map\": {" + map + ", \"extra\": \"model-2.safetensors\"}}");
  expect_message(message_of([&] { load(dir / "m"); }), {"model-2.safetensors", "No such file"});
  write_file(index, "{}");
  expect_message(message_of([&] { load(dir / "m"); }), {"index.json", "weight_map", "missing"});
}

/// The config of a golden model with other values.
void change_config(const fs::path& file, const std::string& from, const std::string& to) {
  std::string text = read_file(file);
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  write_file(file, text.replace(at, from.size(), to));
}

TEST(HfWeights, TiedConfigBesideAHead) {
  const TempDir dir;
  Directory d("llama3");
  Tensor& embedding = d.tensors["model.embed_tokens.weight"];
  for (const bool same : {true, false}) {
    Tensor head(cpu(), embedding.shape(), Dtype::kF32);
    std::memcpy(head.raw(), embedding.raw(), embedding.bytes());
    if (!same) head.data<float>()[5] += 0.5f;
    d.tensors["lm_head.weight"] = head;
    const fs::path place = dir / (same ? "same" : "other");
    d.write(place);
    const bool tied = read_file(place / "config.json").find("\"tie_word_embeddings\": true") != std::string::npos;
    if (!tied) change_config(place / "config.json", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    const auto model = load(place);
    EXPECT_EQ(model->config.tied_head, same);
    EXPECT_EQ(model->notices.size(), same ? 0u : 1u);
    if (!same) {
      expect_message(model->notices[0], {"lm_head.weight", "not tied"});
      save_hf(*model, dir / "saved", Dtype::kF32);
      EXPECT_FALSE(load(dir / "saved")->config.tied_head);
      EXPECT_TRUE(load(dir / "saved")->notices.empty());
    }
  }
}

TEST(HfWeights, BiasesOfAttention) {
  const TempDir dir;
  Directory d("llama3");
  const auto bias = [&](const std::string& part, float value) {
    for (int layer = 0; d.tensors.contains(str("model.layers.", layer, ".self_attn.", part, "_proj.weight")); ++layer) {
      const std::string name = str("model.layers.", layer, ".self_attn.", part, "_proj.");
      Tensor t(cpu(), {d.tensors[name + "weight"].size(0)}, Dtype::kF32);
      for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = value;
      d.tensors[name + "bias"] = t;
    }
  };
  for (const char* part : {"q", "k", "v"}) bias(part, 0.25f);
  bias("o", 0);
  d.write(dir / "m");
  change_config(dir / "m/config.json", "\"attention_bias\": false", "\"attention_bias\": true");
  const auto model = load(dir / "m");
  EXPECT_TRUE(model->config.qkv_bias);
  save_hf(*model, dir / "saved", Dtype::kF32);
  EXPECT_NE(read_file(dir / "saved/config.json").find("\"attention_bias\": true"), std::string::npos);
  EXPECT_TRUE(Safetensors(dir / "saved/model.safetensors").entries().contains("model.layers.0.self_attn.o_proj.bias"));
  expect_same_bits(load(dir / "saved")->params.compute.flat(), model->params.compute.flat());
  bias("o", 1);
  fs::remove_all(dir / "m");
  d.write(dir / "m");
  change_config(dir / "m/config.json", "\"attention_bias\": false", "\"attention_bias\": true");
  expect_message(message_of([&] { load(dir / "m"); }), {"o_proj.bias", "must be zero"});
}

TEST(HfWeights, WhatIsNoModelIsNamed) {
  const TempDir dir;
  const Directory d("llama3");
  d.write(dir / "lfs");
  write_file(dir / "lfs/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n");
  expect_message(message_of([&] { load(dir / "lfs"); }), {"model.safetensors", "git-lfs pointer"});
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors.index.json"}) {
    fs::remove_all(dir / "lfs");
    d.write(dir / "lfs");
    if (std::string(name).ends_with("index.json")) fs::remove(dir / "lfs/model.safetensors");
    write_file(dir / "lfs" / name, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n");
    expect_message(message_of([&] { load(dir / "lfs"); }), {name, "git-lfs pointer"});
  }
  fs::create_directories(dir / "adapter");
  write_file(dir / "adapter/adapter_config.json", "{}");
  expect_message(message_of([&] { load(dir / "adapter"); }), {"adapter", "base model"});
  expect_message(message_of([&] { load_tokenizer_files((dir / "adapter").string()); }), {"adapter", "base model"});
  fs::rename(dir / "adapter/adapter_config.json", dir / "adapter/adapter_model.safetensors");
  expect_message(message_of([&] { load(dir / "adapter"); }), {"adapter_model.safetensors", "base model"});
  fs::create_directories(dir / "folder");
  write_file(dir / "folder/q8.gguf", "GGUF\x03");
  expect_message(message_of([&] { load(dir / "folder"); }), {"no config.json", "name its file q8.gguf"});
  write_file(dir / "alone.safetensors", "x");
  expect_message(message_of([&] { load(dir / "alone.safetensors"); }), {"name the directory that holds it"});
  write_file(dir / "weights", "\x1f\x8b zipped");
  expect_message(message_of([&] { load(dir / "weights"); }), {"neither", "gzip"});
  for (const char* name : {"UPPER.GGUF", "no_ending"}) {
    write_file(dir / name, "GGUF\x03");
    expect_message(message_of([&] { load(dir / name); }), {name, "the file ends"});
  }
}

TEST(HfWeights, MissingUnusedAndMisshapenTensorsAreNamed) {
  const TempDir dir;
  {
    Directory d("qwen2");
    d.tensors.erase("model.layers.1.self_attn.k_proj.bias");
    d.write(dir / "missing");
    expect_message(message_of([&] { load(dir / "missing"); }),
                   {"missing", "model.layers.1.self_attn.k_proj.bias", "is missing"});
  }
  {
    Directory d("qwen2");
    d.tensors["model.layers.7.mlp.down_proj.weight"] = d.tensors["model.norm.weight"];
    d.write(dir / "unused");
    expect_message(message_of([&] { load(dir / "unused"); }), {"model.layers.7.mlp.down_proj.weight", "not used"});
  }
  {
    Directory d("qwen2");
    Tensor& t = d.tensors["model.layers.0.mlp.up_proj.weight"];
    t = t.view({t.size(1), t.size(0)});
    d.write(dir / "shape");
    expect_message(message_of([&] { load(dir / "shape"); }),
                   {"model.layers.0.mlp.up_proj.weight", "must have shape [48,32]", "got [32,48]"});
  }
  {
    Directory d("qwen3");  // tied: a head of its own and old rope buffers are known ballast
    d.tensors["lm_head.weight"] = d.tensors["model.embed_tokens.weight"];
    d.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = Tensor(cpu(), {8}, Dtype::kF32);
    d.write(dir / "ballast");
    expect_same_bits(load(dir / "ballast")->params.compute.flat(), load(kGolden / "qwen3")->params.compute.flat());
  }
  expect_message(message_of([&] { load(dir / "nowhere"); }), {"nowhere", "does not exist"});
  fs::create_directories(dir / "empty");
  expect_message(message_of([&] { load(dir / "empty"); }), {"config.json", "No such file"});
  Directory("qwen3").write_config(dir / "no_weights");
  expect_message(message_of([&] { load(dir / "no_weights"); }), {"neither model.safetensors nor"});
  expect_message(message_of([] { load("builtin:../x"); }), {"builtin:../x", "MANTISSA_BUILTIN"});
  expect_message(message_of([] { load("builtin:nothing"); }), {"nothing", "MANTISSA_BUILTIN"});
}

TEST(HfWeights, EveryFileTypeIsRoundedOnce) {
  const TempDir dir;
  const Directory source("llama3");
  const std::unique_ptr<Model> exact = load(kGolden / "llama3");
  for (const Dtype file_type : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    const fs::path path = dir / std::string(name_of(file_type));
    source.write(path, file_type);
    for (const Dtype compute : {Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kF64}) {
      const std::unique_ptr<Model> model = load(path, compute, true);
      // The master has the file's precision, whatever the compute type; padding stays zero in both.
      const std::vector<float> want = to_host_float(exact->params.compute.flat());
      const std::vector<float> master = to_host_float(model->params.master.flat());
      const std::vector<float> got = to_host_float(model->params.compute.flat());
      for (size_t i = 0; i < want.size(); ++i) {
        float stored = want[i];
        if (file_type == Dtype::kF16) stored = to_float(half_from_float(stored));
        if (file_type == Dtype::kBF16) stored = to_float(bfloat16_from_float(stored));
        ASSERT_EQ(master[i], stored);
        if (compute == Dtype::kF16) stored = to_float(half_from_float(stored));
        if (compute == Dtype::kBF16) stored = to_float(bfloat16_from_float(stored));
        ASSERT_EQ(got[i], stored);
      }
      EXPECT_EQ(model->params.master.flat().same_as(model->params.compute.flat()), !is_16bit(compute));
    }
  }
}

TEST(HfWeights, ValuesBeyondTheTypeAreRefused) {
  const TempDir dir;
  const std::unique_ptr<Model> model = load(kGolden / "qwen3", Dtype::kF32, true);
  model->params.compute[model->decoder->params().final_norm].data<float>()[3] = 1e5f;
  save_hf(*model, dir / "large", Dtype::kF32);
  load(dir / "large", Dtype::kBF16);
  expect_message(message_of([&] { load(dir / "large", Dtype::kF16); }),
                 {"large", "model.norm.weight", "fp16", "65504"});
}

TEST(HfWeights, SavedIsLoadedBitForBit) {
  const TempDir dir;
  for (const char* name : {"llama3", "qwen2", "qwen3", "qwen3_moe", "qwen3_moe_mixed"}) {
    const std::unique_ptr<Model> model = load(kGolden / name, Dtype::kF16, true);
    model->tokenizer.tokenizer_json = "{\"not\": \"read here\"}";
    model->tokenizer.chat_template = "{{ messages }}";
    save_hf(*model, dir / name, Dtype::kF32);  // the masters, not the rounded copy
    const std::unique_ptr<Model> back = load(dir / name, Dtype::kF16, true);
    expect_same_bits(model->params.compute.flat(), back->params.compute.flat());
    expect_same_bits(model->params.master.flat(), back->params.master.flat());
    EXPECT_EQ(back->tokenizer.tokenizer_json, model->tokenizer.tokenizer_json);
    EXPECT_EQ(back->tokenizer.chat_template, model->tokenizer.chat_template);
    EXPECT_EQ(back->config.eos_ids, model->config.eos_ids);
    EXPECT_THROW(save_hf(*model, dir / name, Dtype::kF32), Error);  // not over an older one
    // The same names as transformers wrote.
    const auto names = [](const fs::path& directory) { return open_hf_weights(directory)->names(); };
    EXPECT_EQ(names(dir / name), names(kGolden / name));
  }
}

TEST(HfWeights, SavedInSeveralFilesTheyAreLoadedBitForBit) {
  const TempDir dir;
  const std::unique_ptr<Model> model = load(kGolden / "qwen3", Dtype::kF16, true);
  const auto widest = [&] {
    int64_t bytes = 0;
    for (const ParamInfo& p : model->params.layout.params()) bytes = std::max(bytes, 4 * p.shape.numel());
    return bytes;
  }();
  for (const int64_t limit : {int64_t(1), widest, 3 * widest}) {
    const std::filesystem::path to = dir / str("saved_", limit);
    save_hf(*model, to, Dtype::kF32, single_comm(), limit);
    EXPECT_FALSE(std::filesystem::exists(to / "model.safetensors"));
    size_t files = 0, tensors = 0;
    for (const auto& entry : std::filesystem::directory_iterator(to)) {
      if (entry.path().extension() != ".safetensors") continue;
      ++files;
      const Safetensors file(entry.path());
      size_t bytes = 0;
      for (const auto& [name, t] : file.entries()) bytes += t.data.size();
      EXPECT_TRUE(bytes <= size_t(limit) || file.entries().size() == 1) << entry.path();
      tensors += file.entries().size();
    }
    EXPECT_EQ(files == tensors, limit == 1);
    EXPECT_GT(files, 1u);
    const std::unique_ptr<Model> back = load(to, Dtype::kF16, true);
    expect_same_bits(model->params.compute.flat(), back->params.compute.flat());
    expect_same_bits(model->params.master.flat(), back->params.master.flat());
  }
}

TEST(HfTokenizer, TemplateIsFoundWhereverItIs) {
  EXPECT_EQ(parse_chat_template(R"({"chat_template": "a"})", "t"), "a");
  EXPECT_EQ(parse_chat_template(R"({"chat_template": [{"name": "rag", "template": "x"},
                                                      {"name": "default", "template": "b"}]})",
                                "t"),
            "b");
  EXPECT_EQ(parse_chat_template("{}", "t"), "");
  EXPECT_THROW(parse_chat_template(R"({"chat_template": 3})", "t"), Error);
  const TempDir dir;
  write_file(dir / "tokenizer_config.json", R"({"chat_template": "old"})");
  EXPECT_EQ(load_tokenizer_files(dir.path().string()).chat_template, "old");
  write_file(dir / "chat_template.jinja", "new");
  EXPECT_EQ(load_tokenizer_files(dir.path().string()).chat_template, "new");
  EXPECT_EQ(load_tokenizer_files(dir.path().string()).tokenizer_json, "");
}

TEST(RandomModel, DependsOnTheSeedAlone) {
  const ModelConfig config = parsed(R"("head_dim": 16, "tie_word_embeddings": true)", "qwen3");
  const auto a = random_model(config, cpu(), Dtype::kF32, false, 1);
  const auto b = random_model(config, cpu(), Dtype::kF16, true, 1);
  const auto c = random_model(config, cpu(), Dtype::kF32, false, 2);
  expect_same_bits(a->params.compute.flat(), b->params.master.flat());
  EXPECT_NE(to_host_float(a->params.compute.flat()), to_host_float(c->params.compute.flat()));
  for (const float w : to_host_float(a->params.compute[a->decoder->params().final_norm])) EXPECT_EQ(w, 1.0f);
  double square = 0;
  const std::vector<float> e = to_host_float(a->params.compute[a->decoder->params().embedding]);
  for (const float w : e) square += double(w) * w;
  EXPECT_NEAR(std::sqrt(square / double(e.size())), 0.02, 0.001);
}

TEST(ParamLayout, UnitsArePaddedAndDecayStandsApart) {
  ParamLayout layout;
  const int unit = layout.add_unit("u"), next = layout.add_unit("v");
  const ParamId norm = layout.add(unit, "norm", {5}, false), matrix = layout.add(unit, "matrix", {3, 50}, true);
  const ParamId last = layout.add(next, "last", {1}, true);
  layout.finish(3);
  EXPECT_EQ(layout[matrix].offset, 0);
  EXPECT_EQ(layout[norm].offset, 256);
  EXPECT_EQ(layout.extent(unit).decay_end, 256);
  EXPECT_EQ(layout.extent(unit).end, 384);  // 3 ranks of 128
  EXPECT_EQ(layout[last].offset, 384);
  EXPECT_EQ(layout.numel(), 768);
  EXPECT_EQ(layout.find("last").index, last.index);
  EXPECT_THROW(layout.find("first"), Error);
  EXPECT_THROW(layout.add(unit, "late", {1}, true), Error);
}

}  // namespace
}  // namespace mantissa
