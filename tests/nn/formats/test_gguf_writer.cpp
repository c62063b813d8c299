// GGUF, the way out: what is written is read back here bit for bit, with the tokenizer that was there; block formats
// against worked numbers.
#include "nn/formats/gguf_writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/file.h"
#include "core/registry.h"
#include "core/safetensors.h"
#include "nn/formats/gguf.h"
#include "nn/formats/gguf_blocks.h"
#include "nn/formats/gguf_file.h"
#include "nn/formats/gguf_names.h"
#include "nn/formats/hf.h"
#include "rl/text/chat.h"
#include "rl/text/stop.h"
#include "rl/text/tokenizer.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/message.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;
const fs::path kGolden = fs::path(MANTISSA_SOURCE_DIR) / "tests/golden";

std::vector<float> weights_of(const Model& model) {
  return to_host_float(model.params.compute.flat());
}

/// The weights that a file of `type` gives: as they are, or through the block format row by row, and then through fp16.
float stored(float value, const std::string& type) {
  if (type == "f16") return to_float(half_from_float(value));
  if (type == "bf16") return to_float(bfloat16_from_float(value));
  return value;
}

class GgufWriter : public testing::Test {
 protected:
  std::unique_ptr<Model> load(const fs::path& path) { return load_model(path.string(), cpu(), Dtype::kF32, false); }
  TempDir dir_;
};

TEST_F(GgufWriter, ReadsBackBitForBit) {
  for (const char* name : {"qwen2", "qwen3", "qwen3_moe"})
    for (const char* type : {"f32", "f16", "bf16"}) {
      SCOPED_TRACE(testing::Message() << name << " " << type);
      const auto model = load(kGolden / name);
      const fs::path file = dir_.path() / "model.gguf";
      save_gguf(*model, file, type);
      const auto back = load(file);
      EXPECT_EQ(back->config.architecture, model->config.architecture);
      EXPECT_EQ(back->config.norm_eps, model->config.norm_eps);
      EXPECT_EQ(back->config.eos_ids, model->config.eos_ids);
      EXPECT_EQ(back->config.tied_head, model->config.tied_head);
      const auto views = [](const Model& m) { return hf_views(m.config, m.decoder->params(), m.params.compute); };
      const auto before = views(*model), after = views(*back);
      ASSERT_EQ(before.size(), after.size());
      for (size_t t = 0; t < before.size(); ++t) {
        const std::vector<float> expected = to_host_float(before[t].tensor), found = to_host_float(after[t].tensor);
        const bool vector = before[t].tensor.shape().rank() == 1 || before[t].name.ends_with("mlp.gate.weight");
        for (size_t i = 0; i < expected.size(); ++i)
          ASSERT_EQ(found[i], vector ? expected[i] : stored(expected[i], type))  // vectors and routers are F32
              << before[t].name << " " << i;
      }
    }
}

TEST_F(GgufWriter, LlamaRowsAndQuantisedWeightsSurviveASecondTrip) {
  GgufBuilder builder = tiny_gguf("llama");
  const fs::path first = dir_.path() / "first.gguf", second = dir_.path() / "second.gguf";
  write_file(first, builder.image());
  const auto model = load(first);
  for (const char* type : {"f32", "q8_0", "q4_0"}) {
    SCOPED_TRACE(type);
    save_gguf(*model, second, type);
    const auto back = load(second);
    if (std::string(type) == "f32") {
      EXPECT_EQ(weights_of(*back), weights_of(*model));
    } else {
      const auto scale = [](const std::vector<float>& v) { return std::abs(*std::max_element(v.begin(), v.end())); };
      const std::vector<float> before = weights_of(*model), after = weights_of(*back);
      double error = 0;
      for (size_t i = 0; i < before.size(); ++i) error = std::max(error, double(std::abs(before[i] - after[i])));
      EXPECT_LT(error, scale(before) / (type[1] == '8' ? 127 : 8));
      EXPECT_GT(error, 0);
    }
  }
}

TEST_F(GgufWriter, RowOrdersAreInverse) {
  for (int64_t row = 0; row < 48; ++row) {
    EXPECT_EQ(halved_row(interleaved_row(row, 16), 16), row);
    EXPECT_EQ(interleaved_row(halved_row(row, 16), 16), row);
  }
  EXPECT_EQ(interleaved_row(8, 16), 1);  // the second half's first row follows the first half's
  EXPECT_EQ(expert_name(hf_name_of("blk.2.ffn_up_exps.weight"), 17), "model.layers.2.mlp.experts.17.up_proj.weight");
  EXPECT_EQ(gguf_name_of("model.layers.2.mlp.experts.17.up_proj.weight"), "blk.2.ffn_up_exps.weight");
  for (const char* name : {"blk.1.ffn_gate_inp.weight", "token_embd.weight", "blk.11.ffn_gate.weight",
                           "blk.0.attn_q.bias", "output.weight"})
    EXPECT_EQ(gguf_name_of(hf_name_of(name)), name);
  EXPECT_EQ(hf_name_of("blk.3.attn_k_norm.weight"), "model.layers.3.self_attn.k_norm.weight");
  EXPECT_EQ(hf_name_of("blk.3.unknown.weight"), "blk.3.unknown.weight");
}

TEST_F(GgufWriter, TheTokenizerIsTheSame) {
  const auto model = load("builtin:arithmetic");
  const fs::path file = dir_.path() / "model.gguf";
  const auto notes = save_gguf(*model, file, "f16");
  ASSERT_EQ(notes.size(), 1u);  // its patterns have no name in llama.cpp
  EXPECT_NE(notes[0].find("default"), std::string::npos);
  const auto back = load(file);
  EXPECT_EQ(back->tokenizer.tokenizer_json, model->tokenizer.tokenizer_json);
  const auto here = Tokenizer::from_json(model->tokenizer.tokenizer_json, "here"),
             there = Tokenizer::from_json(back->tokenizer.tokenizer_json, "there");
  EXPECT_EQ(there->encode("12+30-5= 37. \\boxed{37}"), here->encode("12+30-5= 37. \\boxed{37}"));
  EXPECT_EQ(weights_of(*back), weights_of(*model));
  // What llama.cpp reads: the special token, then bytes; rows without a token are unused.
  const std::string image = read_file(file);
  const GgufFile parsed(std::as_bytes(std::span(image)), "model.gguf");
  EXPECT_EQ(parsed.texts("tokenizer.ggml.tokens")[0], "<|endoftext|>");
  EXPECT_EQ(parsed.integers("tokenizer.ggml.token_type")[0], 3);
  EXPECT_EQ(parsed.integers("tokenizer.ggml.token_type")[271], 5);
  EXPECT_EQ(parsed.texts("tokenizer.ggml.merges")[0], ", Ġ");
  EXPECT_EQ(parsed.integer("tokenizer.ggml.eos_token_id"), 0);
}

/// A model of tests/golden with a byte-level tokenizer: <s> 3, </s> 4, <end> 5 and <pad> 6 are special, c 7 is not.
struct Named {
  std::string config = R"("bos_token_id": 4, "eos_token_id": 4)", generation = "", names = "", chat = "";
  std::string front = "<s>";  // what the post-processor adds
  std::string old = "";       // added_tokens.json

  void write(const fs::path& dir) const {
    fs::create_directories(dir);
    fs::copy(kGolden / "qwen2/model.safetensors", dir / "model.safetensors");
    std::string model = read_file(kGolden / "qwen2/config.json");
    for (const std::string old : {R"("bos_token_id": null,)", R"("eos_token_id": 2,)"})
      model.erase(model.find(old), old.size());
    write_file(dir / "config.json", model.insert(1, config + ","));
    if (!generation.empty()) write_file(dir / "generation_config.json", "{" + generation + "}");
    const std::map<std::string, int> ids = {{"<s>", 3}, {"</s>", 4}, {"<end>", 5}, {"<pad>", 6}};
    std::string added;
    for (const auto& [token, id] : ids)
      added += str(added.empty() ? "" : ",", R"({"id": )", id, R"(, "content": ")", token,
                   R"(", "special": true, "normalized": false})");
    const std::string post = front.empty()
                                 ? "null"
                                 : str(R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": ")", front,
                                       R"(", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
                               "special_tokens": {")",
                                       front, R"(": {"id": ")", front, R"(", "ids": [)", ids.at(front),
                                       R"(], "tokens": [")", front, R"("]}}})");
    write_file(dir / "tokenizer.json", str(R"({"version": "1.0", "added_tokens": [)", added, R"(], "normalizer": null,
                 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "decoder": {"type": "ByteLevel"},
                 "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "<s>": 3, "</s>": 4, "<end>": 5, "<pad>": 6,
                 "c": 7}, "merges": []}, "post_processor": )",
                                           post, "}"));
    write_file(dir / "tokenizer_config.json",
               str(R"({"tokenizer_class": "PreTrainedTokenizerFast")", names.empty() ? "" : ",", names, "}"));
    if (!chat.empty()) write_file(dir / "chat_template.jinja", chat);
    if (!old.empty()) write_file(dir / "added_tokens.json", old);
  }
};

class GgufRoles : public GgufWriter {
 protected:
  struct Written {
    std::map<std::string, int64_t> ids;
    std::vector<std::string> tokens;  // that are not unused, with their types: "a 1"
    std::string notes;
  };
  /// Writes the model, and expects that what is read back, with and without tokenizer.json, gives the same prompts,
  /// texts and stops as the directory, and the same ids where the file `can` say them.
  Written written(const Named& named, bool can = true) {
    const fs::path source = dir_.path() / str("source", ++count_), file = dir_.path() / "roles.gguf";
    named.write(source);
    const auto model = load(source);
    Written out;
    for (const std::string& note : save_gguf(*model, file, "f32")) out.notes += note + "\n";
    std::string image = read_file(file);
    const GgufFile parsed(std::as_bytes(std::span(image)), "roles.gguf");
    for (const char* role : {"bos", "eos", "eot", "eom", "unknown", "padding"}) {
      const std::string key = str("tokenizer.ggml.", role, "_token_id");
      if (parsed.has(key)) out.ids[role] = parsed.integer(key);
    }
    const auto tokens = parsed.texts("tokenizer.ggml.tokens");
    const auto types = parsed.integers("tokenizer.ggml.token_type");
    for (size_t i = 0; i < tokens.size(); ++i)
      if (types[i] != 5) out.tokens.push_back(str(tokens[i], " ", types[i]));
    out.ids["add_bos"] = parsed.flag("tokenizer.ggml.add_bos_token", true);
    for (const bool json : {true, false}) {
      if (!json) image.replace(image.find("tokenizer.huggingface.json"), 26, "tokenizer.of_somebody_else");
      write_file(file, image);
      const auto back = load(file);
      const auto here = Tokenizer::from_files(model->tokenizer), there = Tokenizer::from_files(back->tokenizer);
      const std::string text = "a bc<pad></s>a <think> <|tool|>c <image><end>";
      const std::vector<int32_t> ids = here->encode(text);
      EXPECT_EQ(there->encode(text), ids);
      EXPECT_EQ(there->decode(ids), here->decode(ids));
      EXPECT_EQ(there->decode(ids, true), here->decode(ids, true));
      if (json || can) {
        EXPECT_EQ(there->encode(text, true), here->encode(text, true));
      }
      const auto stops = [](const Model& m, const Tokenizer& t) {
        const std::vector<int32_t> ids = stop_ids(m.config, t);
        return std::set<int32_t>(ids.begin(), ids.end());
      };
      EXPECT_EQ(stops(*back, *there), stops(*model, *here));
      if (named.chat.empty()) continue;
      const std::string prompt = ChatTemplate::of_model(model->tokenizer).apply({{"user", "a"}});
      EXPECT_EQ(ChatTemplate::of_model(back->tokenizer).apply({{"user", "a"}}), prompt);
      EXPECT_EQ(there->encode(prompt), here->encode(prompt));
    }
    return out;
  }
  int count_ = 0;
};

TEST_F(GgufRoles, AreThoseOfTheTokenizer) {
  using Ids = std::map<std::string, int64_t>;
  const std::string chat = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}";
  // config.json of the DeepSeek-R1 distillations: its bos_token_id is the token that ends a text.
  Named named{
      .generation = R"("bos_token_id": 3)", .names = R"("bos_token": "<s>", "eos_token": "</s>")", .chat = chat};
  EXPECT_EQ(written(named).ids, (Ids{{"bos", 3}, {"eos", 4}, {"add_bos", 1}}));
  named.config = R"("bos_token_id": null, "eos_token_id": 4)";
  named.generation = "";
  EXPECT_EQ(written(named).ids, (Ids{{"bos", 3}, {"eos", 4}, {"add_bos", 1}}));
  named.config = R"("eos_token_id": [4, 5])";
  named.names = R"("bos_token": {"content": "<s>"}, "eos_token": "<end>", "pad_token": "<pad>", "unk_token": "</s>")";
  EXPECT_EQ(written(named).ids,
            (Ids{{"bos", 3}, {"eos", 5}, {"eot", 4}, {"unknown", 4}, {"padding", 6}, {"add_bos", 1}}));
  named.names = R"("bos_token": "<s>", "eos_token": "</s>", "pad_token": "c")";  // a name makes a token special
  EXPECT_EQ(written(named).ids, (Ids{{"bos", 3}, {"eos", 4}, {"eot", 5}, {"padding", 7}, {"add_bos", 1}}));
  EXPECT_EQ(written(named).notes, "");
}

TEST_F(GgufRoles, FallBackToWhatIsAddedAndToTheConfig) {
  using Ids = std::map<std::string, int64_t>;
  EXPECT_EQ(written({.chat = "a"}).ids, (Ids{{"bos", 3}, {"eos", 4}, {"add_bos", 1}}));
  Named named{.names = R"("bos_token": null)", .front = ""};
  EXPECT_EQ(written(named).ids, (Ids{{"bos", 4}, {"eos", 4}, {"add_bos", 0}}));
  EXPECT_EQ(written(named).notes, "");

  // What a file cannot say is said.
  named = {.names = R"("bos_token": "<s>")", .front = "<pad>"};
  const Written other = written(named, false);
  EXPECT_EQ(other.ids, (Ids{{"bos", 3}, {"eos", 4}, {"add_bos", 0}}));
  expect_message(other.notes, {"adds tokens", "add_bos_token"});
  const auto notes = [&](const Named& source) {
    const fs::path dir = dir_.path() / str("noted", ++count_);
    source.write(dir);
    const auto all = save_gguf(*load(dir), dir_.path() / "x.gguf", "f32");
    return all.empty() ? "" : all.front();
  };
  expect_message(notes({.chat = "{{ bos_token }}", .front = ""}), {"reads bos_token", "token 4"});
  expect_message(notes({.names = R"("eos_token": "<pad>")"}), {"token 6", "eos_token"});
  named = {.config = R"("eos_token_id": [3, 4, 5])", .names = R"("eos_token": "<pad>")"};
  expect_message(message_of([&] { notes(named); }), {"places for 3", "has 4"});
}

/// Types as llama.cpp has them: 1 normal, 3 control, 4 user-defined.
TEST_F(GgufRoles, TokensThatStandInOtherFilesThanTokenizerJson) {
  using Tokens = std::vector<std::string>;
  const auto behind_pad = [](const Written& w) { return Tokens(w.tokens.begin() + 7, w.tokens.end()); };
  const std::string chat = "<|tool|>{{ messages[0].content }}<think>c{{ eos_token }}";
  Named named{.names = R"("eos_token": "</s>", "added_tokens_decoder": {"7": {"content": "c", "normalized": false},
                          "8": {"content": "<|tool|>", "special": true}, "9": {"content": "<think>"}},
                          "extra_special_tokens": {"image_token": "<image>"})",
              .chat = chat};
  const Written decoder = written(named);
  EXPECT_EQ(behind_pad(decoder), (Tokens{"c 4", "<|tool|> 3", "<think> 4", "<image> 3"}));
  EXPECT_EQ(decoder.notes, "");
  named = {.names = R"("eos_token": "</s>")", .chat = chat, .old = R"({"<think>": 9, "<|tool|>": 8})"};
  EXPECT_EQ(behind_pad(written(named)), (Tokens{"c 1", "<|tool|> 4", "<think> 4"}));
  named.names += R"(, "pad_token": {"content": "<|tool|>"})";
  const Written padded = written(named);
  EXPECT_EQ(behind_pad(padded), (Tokens{"c 1", "<|tool|> 3", "<think> 4"}));
  EXPECT_EQ(padded.ids.at("padding"), 8);

  // Flags that tokenizer.json has otherwise come with it: the blanks around the token are its own.
  named = {.names = R"("added_tokens_decoder": {"6": {"content": "<pad>", "lstrip": true, "rstrip": true}})"};
  named.write(dir_.path() / "flags");
  save_gguf(*load(dir_.path() / "flags"), dir_.path() / "flags.gguf", "f32");
  const auto there = Tokenizer::from_files(load(dir_.path() / "flags.gguf")->tokenizer);
  EXPECT_EQ(there->encode("a <pad> b"), (std::vector<int32_t>{0, 6, 1}));

  named = {.names = R"("image_token": "<image>")", .chat = "{{ image_token }}"};
  const auto save = [&](const char* name) {
    named.write(dir_.path() / name);
    return save_gguf(*load(dir_.path() / name), dir_.path() / "x.gguf", "f32");
  };
  expect_message(save("image").at(0), {"reads image_token (<image>)", "no place"});
  named.names = R"("additional_special_tokens": ["<0>")";
  for (int i = 1; i < 57; ++i) named.names += str(R"(, "<)", i, R"(>")");
  named.names += "]";
  expect_message(message_of([&] { save("many"); }), {"token 64 (<56>)", "no row in an embedding of 64"});
}

TEST_F(GgufWriter, WhatHasNoFormIsRefused) {
  const auto refusal = [&](const char* name, const char* type) {
    return message_of([&] { save_gguf(*load(kGolden / name), dir_.path() / "x.gguf", type); });
  };
  EXPECT_NE(refusal("llama3", "f16").find("llama3 rope"), std::string::npos);  // an original length of 16
  EXPECT_NE(refusal("qwen3_moe_mixed", "f16").find("norm_topk_prob"), std::string::npos);
  EXPECT_NE(refusal("qwen2", "q5_k").find("q5_k"), std::string::npos);
  EXPECT_FALSE(fs::exists(dir_.path() / "x.gguf"));
}

TEST(GgufBlocks, PackedByWorkedNumbers) {
  std::vector<float> values(32);
  for (int i = 0; i < 32; ++i) values[size_t(i)] = float(i) - 16;  // -16 .. 15
  std::vector<std::byte> block(34);
  const auto byte = [&](size_t i) { return std::to_integer<int>(block[i]); };
  const auto unpacked = [&](uint32_t type) {
    std::vector<float> out(32);
    block_format(type)->unpack(block.data(), 1, out.data());
    return out;
  };
  block_format(8)->pack(values.data(), 1, block.data());  // d = 16 / 127
  EXPECT_EQ(int8_t(byte(2)), -127);
  EXPECT_EQ(int8_t(byte(2 + 16)), 0);
  EXPECT_EQ(int8_t(byte(2 + 31)), 119);  // 15 / 16 of 127 is 119.06
  for (size_t i = 0; i < 32; ++i) EXPECT_NEAR(unpacked(8)[i], values[i], 16.0 / 127);

  block_format(2)->pack(values.data(), 1, block.data());  // d = 2, q = x / 2 + 8
  EXPECT_EQ(byte(2), 0 | 8 << 4);                         // -16 and 0
  EXPECT_EQ(byte(2 + 15), 8 | 15 << 4);                   // -1: 7.5 and 0.5 more; 15: 15.5 and 0.5 more, at most 15
  EXPECT_EQ(unpacked(2)[0], -16);
  EXPECT_EQ(unpacked(2)[16], 0);

  const std::vector<float> zeros(32);
  for (const uint32_t type : {2u, 8u}) {
    block_format(type)->pack(zeros.data(), 1, block.data());
    EXPECT_EQ(unpacked(type), zeros);
  }
  // What a format holds exactly it keeps.
  const Safetensors golden(kGolden / "gguf_blocks.safetensors");
  for (const auto& [name, type] : {std::pair("F16", 1u), std::pair("BF16", 30u), std::pair("F32", 0u)}) {
    const auto& blocks = golden.at(std::string(name) + ".blocks");
    const int64_t count = blocks.shape[0];
    std::vector<float> out(static_cast<size_t>(count));
    block_format(type)->unpack(blocks.data.data(), count, out.data());
    std::vector<std::byte> again(blocks.data.size());
    block_format(type)->pack(out.data(), count, again.data());
    EXPECT_TRUE(std::equal(again.begin(), again.end(), blocks.data.begin())) << name;
  }
}

}  // namespace
}  // namespace mantissa
