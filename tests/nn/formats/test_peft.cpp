// Adapters as PEFT writes them: names, shapes, values there and back, and what is refused.
#include "nn/formats/peft.h"

#include <gtest/gtest.h>

#include <fstream>
#include <regex>

#include "core/file.h"
#include "core/notice.h"
#include "core/registry.h"
#include "core/safetensors.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

class Peft : public ::testing::Test {
 protected:
  std::unique_ptr<Model> model() const { return random_model(tiny_model(), cpu(), Dtype::kF32, false, 17); }

  /// A model whose adapter has values everywhere.
  std::unique_ptr<Model> adapted(const std::vector<std::string>& targets, int64_t rank = 5) const {
    auto made = model();
    add_adapter(*made, {.rank = rank, .alpha = 10, .targets = parse_targets(targets, "test")});
    draw_adapter(*made, "gaussian", 1);
    const ParamSet& set = made->adapter->params;
    for (const AdapterPart& part : adapter_parts(made->config, *made->adapter)) {
      Tensor b(cpu(), {part.rows.size(), 16}, Dtype::kF32);
      for (int64_t i = 0; i < b.numel(); ++i) b.data<float>()[i] = i % 16 < rank ? 0.01f * float(i % 97) : 0.0f;
      set.compute.store(set.layout, part.b, part.b_row, b);
    }
    return made;
  }

  std::string refusal() const {
    const auto fresh = model();
    try {
      load_adapter(*fresh, dir_ / "adapter");
    } catch (const Error& e) {
      return e.what();
    }
    return "not refused";
  }
  void expect_refusal(const std::string& part) const {
    EXPECT_NE(refusal().find(part), std::string::npos) << refusal();
  }

  /// Replaces text of the saved adapter_config.json.
  void edit(const std::string& old, const std::string& now) const {
    std::string text = read_file(dir_ / "adapter/adapter_config.json");
    const size_t at = text.find(old);
    ASSERT_NE(at, std::string::npos) << text;
    std::ofstream(dir_ / "adapter/adapter_config.json") << text.replace(at, old.size(), now);
  }

  TempDir dir_;
};

TEST_F(Peft, AnotherBaseModelIsSaid) {
  const fs::path here = dir_ / "base", other = dir_ / "other";
  fs::create_directories(here / "model");
  fs::create_directories(other / "model");
  const auto from = adapted({"q_proj"});
  const auto notices = [&](const std::string& trained_on, const std::string& put_on) {
    std::string all;
    from->path = trained_on;
    fs::remove_all(dir_ / "adapter");
    save_adapter(*from, dir_ / "adapter");
    const auto to = model();
    to->path = put_on;
    set_notice_sink([&](const std::string& text) { all += text + "\n"; });
    load_adapter(*to, dir_ / "adapter");
    set_notice_sink({});
    return all;
  };
  const std::string folder = (here / "model").string();
  const std::pair<std::string, std::string> same[] = {{"builtin:arithmetic", "builtin:arithmetic"},
                                                      {"Qwen/Qwen2.5-1.5B", "/models/Qwen2.5-1.5B/"},
                                                      {folder, (here / "../base/model/").string()},
                                                      {"", folder}};
  for (const auto& [trained_on, put_on] : same) EXPECT_EQ(notices(trained_on, put_on), "") << trained_on;
  const std::pair<std::string, std::string> apart[] = {{"builtin:arithmetic_moe", "builtin:arithmetic"},
                                                       {"Qwen/Qwen2.5-1.5B", "/models/Qwen2.5-0.5B"},
                                                       {folder, (other / "model").string()}};
  for (const auto& [trained_on, put_on] : apart) {
    const std::string said = notices(trained_on, put_on);
    EXPECT_NE(said.find("trained on " + trained_on), std::string::npos) << said;
    EXPECT_NE(said.find("put on " + put_on), std::string::npos) << said;
  }
}

TEST_F(Peft, ThereAndBack) {
  for (const std::vector<std::string>& targets :
       {std::vector<std::string>{"all-linear"}, {"v_proj", "q_proj"}, {"up_proj"}}) {
    const auto from = adapted(targets);
    fs::remove_all(dir_ / "adapter");
    save_adapter(*from, dir_ / "adapter");
    const auto to = model();
    load_adapter(*to, dir_ / "adapter");
    EXPECT_EQ(to->adapter->config, from->adapter->config);
    EXPECT_EQ(to_host<float>(to->adapter->params.compute.flat()), to_host<float>(from->adapter->params.compute.flat()));
  }
}

TEST_F(Peft, NamesAndShapesArePefts) {
  save_adapter(*adapted({"q_proj", "gate_proj"}), dir_ / "adapter", 0.25);
  const Safetensors file(dir_ / "adapter/adapter_model.safetensors");
  EXPECT_EQ(file.entries().size(), 8u);
  const std::string layer = "base_model.model.model.layers.1.";
  EXPECT_EQ(file.shape(layer + "self_attn.q_proj.lora_A.weight"), (Shape{5, 32}));
  EXPECT_EQ(file.shape(layer + "self_attn.q_proj.lora_B.weight"), (Shape{32, 5}));
  EXPECT_EQ(file.shape(layer + "mlp.gate_proj.lora_A.weight"), (Shape{5, 32}));
  EXPECT_EQ(file.shape(layer + "mlp.gate_proj.lora_B.weight"), (Shape{48, 5}));
  EXPECT_EQ(file.at(layer + "mlp.gate_proj.lora_B.weight").dtype, "F32");
  const std::string config = read_file(dir_ / "adapter/adapter_config.json");
  for (const char* part : {"\"peft_type\": \"LORA\"", "\"r\": 5", "\"lora_alpha\": 10", "\"q_proj\"", "\"gate_proj\"",
                           "\"lora_dropout\": 0.25", "\"bias\": \"none\"", "\"task_type\": \"CAUSAL_LM\""})
    EXPECT_NE(config.find(part), std::string::npos) << part << " in " << config;
}

TEST_F(Peft, MastersAndRolloutCopiesAreFilledFromTheFile) {
  save_adapter(*adapted({"all-linear"}), dir_ / "adapter");
  const auto half = random_model(tiny_model(), cpu(), Dtype::kF16, false, 17);
  Exec exec(cpu());
  half->params.rollout = ParamBuffer(exec, half->params.layout, Dtype::kF32);
  load_adapter(*half, dir_ / "adapter", true);
  const ParamSet& set = half->adapter->params;
  EXPECT_EQ(set.compute.dtype(), Dtype::kF16);
  EXPECT_EQ(set.rollout.dtype(), Dtype::kF32);
  EXPECT_EQ(to_host<float>(set.rollout.flat()), to_host<float>(set.master.flat()));
  EXPECT_NE(to_host<float>(set.master.flat()), to_host_float(set.compute.flat()));
}

TEST_F(Peft, WhatWouldComputeSomethingElseIsRefused) {
  save_adapter(*adapted({"all-linear"}), dir_ / "adapter");
  const fs::path config = dir_ / "adapter/adapter_config.json";
  const std::string good = read_file(config);
  const auto refused = [&](const std::string& old, const std::string& now, const std::string& part) {
    std::ofstream(config) << good;
    edit(old, now);
    expect_refusal(part);
  };
  refused("\"use_dora\": false", "\"use_dora\": true",
          "use_dora must be null, false or empty, as what it asks for is not supported; got true");
  refused("\"bias\": \"none\"", "\"bias\": \"all\"", "bias must be none, got \"all\"");
  refused("\"LORA\"", "\"LOHA\"", "peft_type must be LORA, got \"LOHA\"");
  refused("\"LORA\"", "null", "adapter_config.json: peft_type must be LORA, got null");
  refused("\"bias\": \"none\"", "\"bias\": 1", "adapter_config.json: bias must be none, got 1");
  refused("\"bias\": \"none\"", "\"bias\": null", "not refused");
  refused("\"inference_mode\": true", "\"rank_pattern\": {\"q_proj\": 2}", "rank_pattern");
  refused("\"inference_mode\": true", "\"modules_to_save\": [\"lm_head\"]", "modules_to_save");
  refused("\"inference_mode\": true", "\"alora_invocation_tokens\": [1, 2]",
          "alora_invocation_tokens must be null, false or empty, as what it asks for is not supported; got [1,2]");
  refused("\"inference_mode\": true", "\"arrow_config\": {\"top_k\": 2}", "arrow_config");
  refused("\"inference_mode\": true", "\"use_bdlora\": {\"nblocks\": 2}", "use_bdlora");
  refused("\"inference_mode\": true", "\"megatron_config\": {\"x\": 2}", "not refused");
  refused("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"", "pissa");
  refused("\"r\": 5", "\"r\": 0", "the rank must be between 1 and");
  refused("\"r\": 5", "\"r\": 6", "must have shape");
  refused("\"r\": 5", "\"r\": \"five\"", "adapter_config.json: r must be an integer, got \"five\"");
  refused("\"r\": 5", "\"r\": 1.5", "r must be an integer, got 1.5");
  refused("\"lora_alpha\": ", "\"lora_alpha\": null, \"x\": ", "lora_alpha must be a number, got null");
  refused("\"use_rslora\": false", "\"use_rslora\": false, \"r\": 5", "adapter_config.json: key \"r\" appears twice");
  refused("\"lora_alpha\": ", "\"lora_alpha\": 1e300, \"x\": ",
          "lora_alpha (lora.alpha): alpha / rank must be finite in fp32, got alpha 1e+300, rank 5");
  refused("\"lora_alpha\": ", "\"lora_alpha\": 1e38, \"x\": ", "not refused");
  refused("\"use_rslora\": false", "\"use_rslora\": 1", "use_rslora must be true or false, got 1");
  refused("\"use_rslora\": false", "\"use_rslora\": false, \"modules_to_save\": null", "not refused");
}

TEST_F(Peft, TheModulesOfTheConfigAreThoseOfTheTensors) {
  save_adapter(*adapted({"q_proj", "v_proj"}), dir_ / "adapter");
  const fs::path config = dir_ / "adapter/adapter_config.json";
  const std::string good =
      std::regex_replace(read_file(config), std::regex("\"target_modules\": \\[[^\\]]*\\]"), "\"target_modules\": [0]");
  const auto with = [&](const std::string& modules) {
    std::ofstream(config) << good;
    edit("\"target_modules\": [0]", modules);
    return refusal();
  };
  for (const char* fits :
       {R"(["q_proj", "v_proj"])", R"(["self_attn.v_proj", "q_proj", "not_there"])", "null",
        R"("model\\.layers\\.\\d+\\.self_attn\\.(q|v)_proj")", R"(".*\\b[qv]_proj")",
        R"(["layers.0.self_attn.q_proj", "1.self_attn.q_proj", "v_proj"])",
        R"("all-linear", "exclude_modules": ["k_proj", "o_proj", "mlp.gate_proj", "up_proj", "down_proj"])"})
    EXPECT_EQ(with(str("\"target_modules\": ", fits)), "not refused") << fits;
  const auto refused = [&](const std::string& modules, const std::string& why) {
    const std::string got = with(modules);
    EXPECT_NE(got.find(why), std::string::npos) << got;
  };
  const std::string rule =
      "adapter_config.json: target_modules must name the modules that adapter_model.safetensors has "
      "tensors for, q_proj, v_proj; got ";
  refused(R"("target_modules": ["q_proj"])", rule + R"(["q_proj"], which names q_proj)");
  refused(R"("target_modules": ["_proj"])", rule + R"(["_proj"], which names none)");
  refused(R"("target_modules": [])", rule + "[], which names none");
  refused(R"("target_modules": ".*[qkv]_proj")", rule + R"(".*[qkv]_proj", which names q_proj, k_proj, v_proj)");
  refused(R"("target_modules": ["q_proj", "0.self_attn.v_proj"])",
          "names q_proj, v_proj, but not model.layers.1.self_attn.v_proj");
  refused(R"("target_modules": "all-linear")", "names q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj");
  refused(R"("target_modules": "(?P<x>q_proj")", "target_modules must be a list of names, all-linear or a regular");
  refused(R"("target_modules": [1])", "target_modules must be a list of names");
  refused(
      R"("exclude_modules": ["q_proj"])",
      "exclude_modules must name none of the modules that adapter_model.safetensors has tensors for, q_proj, v_proj; "
      "got [\"q_proj\"], which names model.layers.0.self_attn.q_proj");
}

TEST_F(Peft, KeysThatAreNotKnownAreNamedOnce) {
  save_adapter(*adapted({"all-linear"}), dir_ / "adapter");
  const auto said = [&] {
    std::string all;
    set_notice_sink([&](const std::string& text) { all += text + "\n"; });
    EXPECT_EQ(refusal(), "not refused");
    set_notice_sink({});
    return all;
  };
  EXPECT_EQ(said(), "");
  edit("CAUSAL_LM", "SEQ_CLS");
  EXPECT_NE(said().find("task_type \"SEQ_CLS\" is read as CAUSAL_LM"), std::string::npos);
  edit("\"SEQ_CLS\"", "null");
  edit("\"inference_mode\": true",
       "\"new_one\": 1, \"new_two\": null, \"new_three\": [0], \"eva_config\": {\"rho\": 2}");
  EXPECT_EQ(said(),
            (dir_ / "adapter/adapter_config.json").string() +
                ": new_one, new_three are not known here and without effect: log-probs may differ from PEFT's\n");
}

TEST_F(Peft, FilesOfAnotherModelAreRefused) {
  expect_refusal("adapter: does not exist; expected an adapter: a PEFT directory");
  write_file(dir_ / "adapter", "");
  expect_refusal("adapter: is a file; expected an adapter");
  fs::remove(dir_ / "adapter");
  fs::create_directory(dir_ / "adapter");
  expect_refusal("adapter: holds no adapter_config.json; expected");
  write_file(dir_ / "adapter/adapter_config.json", "{\"r\": 2}");
  expect_refusal("adapter: holds no adapter_model.safetensors; weights in other formats");
  write_file(dir_ / "adapter/adapter_model.safetensors.index.json", "{}");
  expect_refusal("adapter_model.safetensors.index.json spreads the tensors over several files");
  fs::remove_all(dir_ / "adapter");
  ModelConfig deeper = tiny_model();
  deeper.layers = 3;
  auto other = random_model(deeper, cpu(), Dtype::kF32, false, 1);
  add_adapter(*other, {.rank = 2, .alpha = 1, .targets = {"o_proj"}});
  save_adapter(*other, dir_ / "adapter");
  expect_refusal(
      "adapter_model.safetensors: tensors of \"base_model.model.model.layers.2.self_attn.o_proj\" are "
      "unexpected: an adapter of o_proj in 2 layers has none");

  const std::string name = "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight";
  const Tensor values = tensor_from<float>(cpu(), std::vector<float>(64, 1e6f), {2, 32});
  const auto rewrite = [&](const std::string& as) {
    const auto two = adapted({"o_proj"}, 2);
    std::vector<NamedTensor> tensors = adapter_tensors(*two, two->adapter->params.compute);
    for (NamedTensor& t : tensors)
      if (t.name == name) t = {as, values};
    write_safetensors(dir_ / "adapter/adapter_model.safetensors", tensors);
  };
  rewrite("base_model.model.model.layers.0.self_attn.o_proj.lora_magnitude_vector");
  expect_refusal("lora_magnitude_vector");
  rewrite(name);
  const auto half = random_model(tiny_model(), cpu(), Dtype::kF16, false, 17);
  try {
    load_adapter(*half, dir_ / "adapter");
    ADD_FAILURE() << "1e6 is not finite in fp16";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("adapter_model.safetensors: \"" + name +
                                         "\" [0, 0] must be finite in fp16, got 1e+06"),
              std::string::npos)
        << e.what();
  }
  const auto two = adapted({"o_proj"}, 2);
  std::vector<NamedTensor> tensors = adapter_tensors(*two, two->adapter->params.compute);
  std::erase_if(tensors, [&](const NamedTensor& t) { return t.name == name; });
  write_safetensors(dir_ / "adapter/adapter_model.safetensors", tensors);
  expect_refusal("adapter_model.safetensors: tensor \"" + name + "\" is missing");
}

}  // namespace
}  // namespace mantissa
