// Hugging Face directories: weights that survive the trip, and what is wrong with them named; models of random weights.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "core/file.h"
#include "core/registry.h"
#include "nn/formats/hf.h"
#include "nn/formats/hf_config.h"
#include "nn/model.h"
#include "tests/support/message.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(MANTISSA_SOURCE_DIR) / "tests" / "golden";

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
  expect_message(message_of([&] { load(dir / "nowhere"); }), {"model.path: ", "nowhere", "does not exist"});
  fs::create_directories(dir / "empty");
  expect_message(message_of([&] { load(dir / "empty"); }), {"model.path", "empty", "has no config.json"});
  for (const char* gone : {"gone.gguf", "random:gone.json"}) {
    expect_message(message_of([&] { load(gone); }), {"model.path", gone, "no such file"});
  }
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
  write_file(dir / "chat_template.jinja", "");
  EXPECT_EQ(load_tokenizer_files(dir.path().string()).chat_template, "");
  EXPECT_EQ(load_tokenizer_files(dir.path().string()).tokenizer_json, "");
}

TEST(HfTokenizer, FilesOfBracketsAreRefused) {
  const TempDir dir;
  write_file(dir / "chat_template.jinja", "x");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}) {
    const std::string deep = std::string(300'000, '[') + std::string(300'000, ']');
    write_file(dir / name, R"({"bos_token": {"content": "<s>", "x": )" + deep + "}}");
    expect_message(message_of([&] { load_tokenizer_files(dir.path().string()); }), {name, "nested too deeply"});
    fs::remove(dir / name);
  }
}

TEST(RandomModel, DependsOnTheSeedAlone) {
  const ModelConfig config = parse_hf_config(
      R"({"model_type": "qwen3", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 4, "max_position_embeddings": 128, "head_dim": 16, "tie_word_embeddings": true})",
      "config.json");
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
