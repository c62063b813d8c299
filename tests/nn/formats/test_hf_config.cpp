// config.json of Hugging Face directories: every spelling of it, what is refused and how.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/random.h"
#include "nn/formats/hf.h"
#include "nn/formats/hf_config.h"
#include "nn/rope.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(MANTISSA_SOURCE_DIR) / "tests" / "golden";

/// A valid Llama config.json with `extra` members, which replace those of the same name.
std::string config_with(const std::string& extra = "", const std::string& type = "llama") {
  auto json = nlohmann::json::parse(R"({"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
      "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128})");
  json["model_type"] = type;
  json.update(nlohmann::json::parse("{" + extra + "}"));
  return json.dump();
}

ModelConfig parsed(const std::string& extra = "", const std::string& type = "llama") {
  return parse_hf_config(config_with(extra, type), "config.json");
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
  EXPECT_EQ(config.bos_id, -1);
  add_generation_config(config, R"({"bos_token_id": 1})", "generation_config.json");
  EXPECT_EQ(config.bos_id, 1);
  add_generation_config(config, R"({"bos_token_id": 5})", "generation_config.json");
  EXPECT_EQ(config.bos_id, 5);
  EXPECT_NE(format_generation_config(config).find(R"("bos_token_id": 5)"), std::string::npos);
  expect_message(
      message_of([&] { add_generation_config(config, R"({"eos_token_id": 64})", "generation_config.json"); }),
      {"generation_config.json", "eos_token_id", "64"});
  expect_refused(R"("eos_token_id": "2")", {"eos_token_id", "\"2\""});
  expect_refused(R"("eos_token_id": [-1])", {"eos_token_id"});
}

TEST(HfConfig, RefusesWhatItDoesNotCompute) {
  expect_message(message_of([] { parsed("", "mixtral"); }), {"model_type", "mixtral", "qwen3"});
  EXPECT_EQ(message_of([] { parse_hf_config(R"({"a": {"b": 1, "b": 1}})", "config.json"); }),
            "config.json: key \"b\" appears twice");
  expect_refused(R"("hidden_act": "gelu")", {"hidden_act", "gelu"});
  expect_refused(R"("mlp_bias": true)", {"mlp_bias"});
  expect_refused(R"("is_causal": false)", {"is_causal = false"});
  EXPECT_EQ(parsed(R"("is_causal": true)").layers, parsed(R"("is_causal": null)").layers);
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

}  // namespace
}  // namespace mantissa
