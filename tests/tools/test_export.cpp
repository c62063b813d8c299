// Models in and out as a user does it: a checkpoint is a model for every program, and export writes it as a directory
// or GGUF that gives the same log-probs.
#include <regex>

#include "tests/support/programs.h"

namespace mantissa {
namespace {

class Export : public Programs {
 protected:
  void train() {
    write("data.jsonl", "{\"problem\": \"1+2=\", \"answer\": \"3\"}\n{\"problem\": \"2+2=\", \"answer\": \"4\"}\n");
    const Result r = run("trainer", {"--config", (kSource / "configs/grpo_fp16.yaml").string(),
                                     "run.output_dir=" + path("run"), "run.device=cpu", "model.path=" + model(),
                                     "data.files=" + path("data.jsonl"), "rollout.n=2", "rollout.max_new_tokens=4",
                                     "train.steps=1", "train.prompts_per_step=2", "train.mini_batch_size=4"});
    ASSERT_EQ(r.code, 0) << r.err;
  }
  std::string checkpoint() const { return path("run/checkpoints/step_1"); }
  std::string score(const std::string& of, const std::string& precision = "fp32") {
    const Result r = run("score", {"--model", of, "--input", write("ids.jsonl", "{\"ids\": [16, 13, 17, 29, 18, 0]}\n"),
                                   "--precision", precision, "--device", "cpu"});
    EXPECT_EQ(r.code, 0) << r.err;
    return r.out;
  }
};

TEST_F(Export, ACheckpointIsAModel) {
  train();
  // The exported model is in fp16, and so is what the checkpoint's masters round to.
  EXPECT_EQ(score(checkpoint(), "fp16"), score(path("run/model"), "fp16"));
  EXPECT_NE(score(checkpoint()), score(path("run/model"))) << "in fp32 it has the masters";
  const Result r = run("generate", {"--model", checkpoint() + "/", "--prompt", "1+2=", "--max-new-tokens", "2"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(run("tokenize", {"--model", checkpoint(), "--input", write("t.jsonl", "{\"text\": \"1+2\"}\n")}).code, 0);
  fs::remove(path("run/checkpoints/step_1/config.json"));
  expect_error("score", {"--model", checkpoint(), "--input", path("ids.jsonl")}, {"step_1", "earlier version"});
}

TEST_F(Export, EveryFormGivesTheSameLogProbs) {
  train();
  for (const char* output : {"hf", "model.gguf"}) {
    const Result r = run("export", {"--model", checkpoint(), "--output", path(output), "--type", "f32"});
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(score(path(output)), score(checkpoint())) << output;
  }
  EXPECT_TRUE(fs::exists(path("hf/tokenizer_config.json")));
  ASSERT_EQ(run("export", {"--model", checkpoint(), "--output", path("small.gguf"), "--type", "q4_0"}).code, 0);
  EXPECT_LT(fs::file_size(path("small.gguf")) * 3, fs::file_size(path("model.gguf")) * 2);
  EXPECT_NE(score(path("small.gguf")), score(checkpoint()));
}

TEST_F(Export, AnAdapterGoesWhereItsModelGoes) {
  write("sft.jsonl", "{\"problem\": \"1+2=\", \"answer\": \"3\", \"solution\": \"3\"}\n");
  const std::vector<std::string> arguments{"--config",
                                           (kSource / "configs/arithmetic_sft.yaml").string(),
                                           "run.device=cpu",
                                           "model.path=" + model(),
                                           "data.files=" + path("sft.jsonl"),
                                           "eval.every=0",
                                           "eval.before_training=false",
                                           "train.steps=2",
                                           "train.prompts_per_step=1",
                                           "train.mini_batch_size=1",
                                           "optim.lr=0.01",
                                           "optim.warmup_steps=0"};
  const auto trained = [&](const std::string& name, std::vector<std::string> more) {
    more.insert(more.begin(), arguments.begin(), arguments.end());
    more.push_back("run.output_dir=" + path(name));
    const Result r = run("trainer", more);
    EXPECT_EQ(r.code, 0) << r.err;
    return r.err;
  };
  trained("run", {"lora.rank=3"});
  const std::string adapter = path("run/adapter"), checkpoint = path("run/checkpoints/step_2");
  const std::string ids = write("ids.jsonl", "{\"ids\": [16, 13, 17, 29, 18, 0]}\n");
  const auto score_with = [&](const std::string& of, const std::vector<std::string>& more) {
    std::vector<std::string> all{"--model", of, "--input", ids, "--precision", "fp32", "--device", "cpu"};
    all.insert(all.end(), more.begin(), more.end());
    const Result r = run("score", all);
    EXPECT_EQ(r.code, 0) << r.err;
    return r.out;
  };
  const std::string with = score_with(model(), {"--adapter", adapter, "--grads", path("grads.safetensors")});
  EXPECT_NE(with, score_with(model(), {}));
  EXPECT_EQ(with, score_with(model(), {"--adapter", checkpoint}));
  EXPECT_NE(read_file(path("grads.safetensors")).find("layers.0.self_attn.q_proj.lora_A.weight"), std::string::npos);
  expect_error("score", {"--model", checkpoint, "--input", ids}, {"step_2", "by --adapter"});
  expect_error("score", {"--model", model(), "--adapter", model(), "--input", ids}, {"adapter_config.json"});

  Result r = run("export", {"--model", model(), "--adapter", checkpoint, "--output", path("peft")});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(read_file(path("peft/adapter_model.safetensors")), read_file(adapter + "/adapter_model.safetensors"));
  r = run("export", {"--model", model(), "--adapter", adapter, "--merge", "--output", path("merged"), "--type", "f32"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("merged in fp32: log-probs of 512 tokens"), std::string::npos) << r.err;
  EXPECT_EQ(r.err.find("left out"), std::string::npos) << r.err;
  EXPECT_NE(score_with(path("merged"), {}), score_with(model(), {}));
  r = run("export",
          {"--model", model(), "--adapter", adapter, "--merge", "--output", path("m.gguf"), "--type", "q8_0"});
  EXPECT_NE(r.err.find("; rounding to q8_0, which comes on top, is left out"), std::string::npos) << r.err;
  expect_error("export", {"--model", model(), "--merge", "--output", path("x")}, {"--merge", "--adapter"});
  expect_error("export", {"--model", model(), "--adapter", adapter, "--output", path("x.gguf")}, {"--merge", "x.gguf"});

  const std::string prompt = "1+2=";
  EXPECT_EQ(
      run("generate", {"--model", model(), "--adapter", adapter, "--prompt", prompt, "--max-new-tokens", "3"}).code, 0);
  for (const char* program : {"mismatch", "evaluate"}) {
    r = run(program, {"--model", model(), "--adapter", adapter, "--data", path("sft.jsonl"), "--n", "1",
                      "--max-new-tokens", "3", "--device", "cpu"});
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_NE(r.out.find("\"adapter\": \"" + adapter), std::string::npos) << r.out;
  }
  const std::string settings = read_file(adapter + "/adapter_config.json");
  write_file(adapter + "/adapter_config.json",
             std::regex_replace(settings, std::regex("\"lora_alpha\": [0-9.]*"), "\"lora_alpha\": 1e38"));
  r = run("score", {"--model", model(), "--adapter", adapter, "--input", ids, "--device", "cpu"});
  EXPECT_NE(r.err.find("1 of 1 lines have log-probs that are not finite"), std::string::npos) << r.out << r.err;
  write_file(adapter + "/adapter_config.json", settings);
  EXPECT_NE(trained("again", {"--adapter", adapter}).find("adapter of rank 3"), std::string::npos);
}

TEST_F(Export, RefusesWhatItCannotWrite) {
  expect_error("export", {"--model", model(), "--output", path("hf"), "--type", "q4_0"}, {"q4_0", ".gguf"});
  expect_error("export", {"--model", model(), "--output", path("x.gguf"), "--type", "q3"}, {"--type", "q3"});
  expect_error("export", {"--model", model(), "--output", model()}, {"--output", "which this command reads"});
  expect_error("export", {"--model", model(), "--output", path("x.GGUF")}, {"--output", "x.GGUF", "ends in .gguf"});
  expect_error("export", {"--model", path("none"), "--output", path("x.gguf")}, {"none", "does not exist"});
  // Before anything is read: the model is not there.
  write("mine.gguf", "mine");
  expect_error("export", {"--model", path("none"), "--output", path("mine.gguf")}, {"mine.gguf", "not a GGUF file"});
  expect_error("export", {"--model", path("none"), "--output", path("")}, {"not an empty directory"});
  expect_error("export", {"--model", path("none"), "--output", path("no/x.gguf")}, {"cannot create", "no/x.gguf"});
  expect_error("export", {"--model", path("none"), "--output", ""}, {"--output: must not be empty"});
  expect_error("export", {"--model", model(), "--adapter", "a", "--output", path("x"), "--type", "bf16"},
               {"--type bf16", "fp32"});
  EXPECT_EQ(read_file(path("mine.gguf")), "mine");
  for (const char* what : {"made", "replaced"})
    EXPECT_EQ(run("export", {"--model", model(), "--output", path("x.gguf")}).code, 0) << what;
}

}  // namespace
}  // namespace mantissa
