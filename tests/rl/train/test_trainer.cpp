// The program trainer as a user runs it: what it refuses, and what it leaves behind when the disk is full,
// when it is asked to stop, and when its checkpoints, data or model are not what they were.
#include <algorithm>
#include <csignal>

#include "core/file.h"
#include "core/registry.h"
#include "nn/formats/hf_config.h"
#include "tests/support/programs.h"

namespace mantissa {
namespace {

/// A run of a few small steps on the random model.
class Trainer : public Programs {
 protected:
  std::vector<std::string> arguments(std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {"--config",
                                    (kSource / "configs/grpo_fp16.yaml").string(),
                                    "run.output_dir=" + path("run"),
                                    "run.device=cpu",
                                    "model.path=" + model(),
                                    "data.files=" + path("data.jsonl"),
                                    "rollout.n=2",
                                    "optim.lr=3.0e-4",
                                    "rollout.max_new_tokens=4",
                                    "train.steps=2",
                                    "train.prompts_per_step=2",
                                    "train.mini_batch_size=4",
                                    "checkpoint.every=1"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  void SetUp() override { write("data.jsonl", data("3")); }
  static std::string data(const std::string& answer) {
    return "{\"problem\": \"1+2=\", \"answer\": \"" + answer +
           "\", \"solution\": \"3\"}\n{\"problem\": \"2+2=\", \"answer\": \"4\"}\n";
  }
  void refuses(std::vector<std::string> more, const std::vector<std::string>& parts,
               const std::string& shell = "") const {
    expect_error("trainer", arguments(std::move(more)), parts, shell);
  }
  bool any_partial() const {
    for (const auto& entry : fs::recursive_directory_iterator(path("run")))
      if (entry.path().extension() == ".partial") return true;
    return false;
  }
};

TEST_F(Trainer, NamesWhatIsWrongInItsConfig) {
  const auto refuses = [&](const std::string& yaml, const std::vector<std::string>& parts) {
    expect_error("trainer", {"--config", write("c.yaml", yaml)}, parts);
  };
  expect_error("trainer", {}, {"--config", "required"});
  expect_error("trainer", {"--config", path("none.yaml")}, {"none.yaml"});
  expect_error("trainer", {"--config", path("")}, {"not a regular file"});
  refuses("run:\n  name: x\nmodel:\n  path: nowhere\noptim:\n  lrr: 1\n", {"c.yaml line 6", "optim.lrr", "optim.lr"});
  refuses("run:\n  name: x\ntrian:\n  steps: 1\n", {"c.yaml line 4", "\"trian\"", "\"train.steps\""});
  refuses("", {"c.yaml", "map of sections, got nothing"});
  refuses("- run\n", {"c.yaml", "map of sections, got a list"});
  refuses("run\n", {"c.yaml", "map of sections, got a text"});
  refuses("run: 3\n", {"c.yaml line 1", "\"run\"", "map of keys"});
  refuses("learning_rate: 1e-5\n", {"c.yaml line 1", "\"learning_rate\"", "map of keys", "\"optim.lr\""});
  refuses("train:\n\tsteps: 1\n", {"c.yaml line 2", "YAML", "a tab indents the line"});
  refuses("train:\n  steps: 1\n\tepochs: 2\n", {"c.yaml line 3", "YAML", "a tab indents the line"});
  refuses("train:\n  steps: [1, 2]\n", {"c.yaml line 2", "train.steps", "integer", "list"});
  refuses("train:\n  steps: 1.5\n", {"c.yaml line 2", "train.steps", "integer", "1.5"});
  refuses("train:\n  steps: -3\n", {"c.yaml line 2", "train.steps", "between 0", "-3"});
  refuses("train:\n  steps: 1\n  steps: 2\n", {"c.yaml line 3", "train.steps", "twice"});
  refuses("train:\n  prompts_per_step: 0\n", {"c.yaml line 2", "train.prompts_per_step", "between 1", "got 0"});
  refuses("rollout:\n  n: 9999999999999\n", {"c.yaml line 2", "rollout.n", "between 1"});
  refuses("optim:\n  lr: .nan\n", {"c.yaml line 2", "optim.lr", "must be a number", "nan"});
  refuses("precision:\n  train: fp8\n", {"c.yaml line 2", "precision.train", "fp16, bf16, fp32", "fp8"});
  refuses("run:\n  name: " + std::string(100000, '[') + "\n", {"c.yaml", "YAML"});
  const std::string rest = "model:\n  path: x\ndata:\n  files: x\n";
  refuses(rest + "rollout:\n  n: 3\ntrain:\n  prompts_per_step: 4\n  mini_batch_size: 8\n",
          {"c.yaml", "train.mini_batch_size", "divide", "12", "got 8"});
  refuses(rest + "algorithm:\n  overlong: soft_punish\n  overlong_buffer: 4096\n",
          {"c.yaml", "algorithm.overlong_buffer", "rollout.max_new_tokens = 512", "4096"});
  refuses(rest + "eval:\n  every: 1\n", {"c.yaml", "eval.files", "required"});
  write("c.yaml", rest);
  expect_error("trainer", {"--config", path("c.yaml"), "optim.lr=abc"}, {"optim.lr=abc", "number"});
  expect_error("trainer", {"--config", path("c.yaml"), "optim.lr"}, {"section.key=value", "\"optim.lr\""});
  expect_error("trainer", {"--config", path("c.yaml"), "num_generations=4"}, {"section.key=value", "\"rollout.n\""});
  expect_error("trainer", {"--config", path("c.yaml"), "--resume", "auto", "--overwrite"}, {"exclude"});
}

TEST_F(Trainer, RefusesDataAndModelsThatDoNotFit) {
  refuses({"data.files=" + write("empty.jsonl", "\n")}, {"empty.jsonl", "no record"});
  refuses({"data.files=" + path("none.jsonl")}, {"none.jsonl", "cannot be read"});
  refuses({"data.files=" + path("")}, {"cannot be read"});
  refuses({"data.files=" + write("bad.jsonl", data("3") + "{\"problem\": 7}\n")}, {"bad.jsonl:3", "problem"});
  refuses({"train.prompts_per_step=4"}, {"train.prompts_per_step", "number of problems, 2", "got 4"});
  refuses({"data.max_prompt_tokens=2"}, {"data.jsonl", "data.max_prompt_tokens"});
  refuses({"data.max_prompt_tokens=2", "data.overlong_prompts=error"}, {"data.jsonl:1", "got 4"});
  refuses({"train.mode=sft", "train.mini_batch_size=2"}, {"data.jsonl:2", "{solution}"});
  const std::string wide = std::string(200, '1');
  refuses({"data.files=" + write("wide.jsonl", "{\"problem\": \"" + wide + "\", \"answer\": \"1\"}\n")},
          {"wide.jsonl", "positions"});
  refuses({"train.mode=sft", "train.prompts_per_step=1", "train.mini_batch_size=1",
           "data.files=" +
               write("deep.jsonl", "{\"problem\": \"1\", \"answer\": \"1\", \"solution\": \"" + wide + "\"}\n")},
          {"deep.jsonl", "128 positions"});
  refuses({"model.path=" + kQwen3}, {"qwen3", "tokenizer.json"});
  refuses({"run.device=cuda"}, {"\"cuda\""});
  refuses({"rollout.cache_tokens=1"}, {"rollout.cache_tokens"});
  refuses({"train.inject_overflow_step=1", "train.inject_overflow_parameter=foo", "--overwrite"},
          {"train.inject_overflow_parameter", "\"foo\""});
}

TEST_F(Trainer, AWarmStartNeedsSolutionsAloneAndEvaluatesOnAnswers) {
  std::string lines;
  for (int i = 10; i < 74; ++i) lines += str("{\"instruction\": \"", i, "+1+1=\", \"output\": \"", i + 2, "\"}\n");
  write("solutions.jsonl", lines);
  write("test.jsonl", "{\"instruction\": \"1+2+3=\", \"answer\": \"6\"}\n");
  const std::string config = write("sft.yaml",
                                   "model: {path: \"builtin:arithmetic\"}\n"
                                   "data: {files: solutions.jsonl, prompt_key: instruction, solution_key: output}\n"
                                   "train: {mode: sft, steps: 1}\neval: {files: test.jsonl, every: 1, n: 1}\n"
                                   "rollout: {max_new_tokens: 8}\nrun: {output_dir: run, device: cpu}\n");
  const std::string there = "cd " + quoted(dir_.path().string()) + " && ";
  const Result done = run("trainer", {"--config", config}, there);
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_TRUE(fs::exists(path("run/eval.jsonl")));
  EXPECT_NE(read_file(path("run/config.yaml")).find("mini_batch_size: 64"), std::string::npos);
  write("test.jsonl", "{\"instruction\": \"1+2+3=\"}\n");
  expect_error("trainer", {"--config", config, "--overwrite"}, {"test.jsonl:1: key \"answer\" is missing"}, there);
}

TEST_F(Trainer, PathsAreRelativeToWhereItIsStarted) {
  for (const char* folder : {"here", "configs"}) fs::create_directories(path(folder));
  write("here/data.jsonl", data("3"));
  write("here/reward.py", "def reward(response, record):\n    return float(len(response))\n");
  write("configs/c.yaml", "data: {files: data.jsonl}\nrun: {output_dir: out, device: cpu}\nmodel: {path: " + model() +
                              "}\nrollout: {n: 2, max_new_tokens: 4}\ntrain: {steps: 1, prompts_per_step: 2, "
                              "mini_batch_size: 4}\nreward: {kind: python, path: reward.py}\n");
  const Result r = run("trainer", {"--config", "../configs/c.yaml"}, "cd " + quoted(path("here")) + "; ");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_TRUE(fs::exists(path("here/out/metrics.jsonl")));
  EXPECT_FALSE(fs::exists(path("configs/out")));
}

TEST_F(Trainer, RefusesDirectoriesItCannotUse) {
  refuses({"run.output_dir=" + write("file", "") + "/x"}, {"file/x", "output directory"});
  refuses({"run.output_dir=/proc/x"}, {"/proc/x", "output directory"});
  refuses({"model.path=" + path("none")}, {"none", "does not exist"});
  ASSERT_EQ(run("trainer", arguments()).code, 0) << "a run that failed before its first step left nothing behind";
  refuses({}, {path("run"), "earlier run", "--resume auto", "--overwrite"});
  refuses({"--resume", path("none")}, {path("none"), "checkpoint directory"});
  {
    const DirectoryLock other_run(path("run"));
    refuses({"--overwrite"}, {path("run"), "another process"});
  }
  const std::string before = read_file(path("run/metrics.jsonl"));
  refuses({"--overwrite", "model.path=" + path("none")}, {"none", "does not exist"});
  EXPECT_EQ(read_file(path("run/metrics.jsonl")), before) << "nothing is deleted for a run that cannot start";
  EXPECT_EQ(run("trainer", arguments({"--overwrite"})).code, 0);
}

TEST_F(Trainer, FullDisksLeaveWholeCheckpoints) {
  // The smallest limit that a checkpoint's tensors exceed and the other files do not.
  refuses({}, {"step_1", "master.safetensors", "File too large"}, "ulimit -f 100; ");
  EXPECT_FALSE(any_partial());
  EXPECT_TRUE(fs::is_empty(path("run/checkpoints")));
  ASSERT_EQ(run("trainer", arguments({"--resume", "auto"})).code, 0);
  refuses({"train.steps=3", "--resume", "auto"}, {"step_3", "File too large"}, "ulimit -f 100; ");
  EXPECT_FALSE(any_partial());
  EXPECT_TRUE(fs::exists(path("run/checkpoints/step_2/MANIFEST")));
  EXPECT_TRUE(fs::exists(path("run/model/model.safetensors")));
  ASSERT_EQ(run("trainer", arguments({"train.steps=3", "--resume", "auto"})).code, 0);
}

TEST_F(Trainer, ResumesOnlyWhatItLeft) {
  ASSERT_EQ(run("trainer", arguments()).code, 0);
  const std::vector<std::string> on = {"train.steps=3", "--resume", "auto"};
  const auto refuses_with = [&](std::vector<std::string> more, const std::vector<std::string>& parts) {
    more.insert(more.end(), on.begin(), on.end());
    refuses(more, parts);
  };
  refuses_with({"optim.lr=0.5"}, {"step_2", "another config", "optim", "lr: 0.0003", "lr: 0.5"});
  write("data.jsonl", data("5"));
  refuses_with({}, {"step_2", "other data", "data.files"});
  write("data.jsonl", data("3"));

  // The same path, another model.
  std::string smaller = read_file(model() + "/config.json");
  smaller.replace(smaller.find("384"), 3, "256");  // intermediate_size
  const auto other = random_model(parse_hf_config(smaller, "smaller"), cpu(), Dtype::kF32, false, 1);
  other->tokenizer.tokenizer_json = read_file(model() + "/tokenizer.json");
  fs::rename(model(), path("kept"));
  save_hf(*other, model(), Dtype::kF32);
  refuses_with({}, {"step_2", "was made with another model", "intermediate_size: 384, now 256"});
  fs::remove_all(model());
  fs::rename(path("kept"), model());

  const std::string step = path("run/checkpoints/step_2");
  for (const std::string file : {"master.safetensors", "adam_v.safetensors", "state.json", "config.yaml", "config.json",
                                 "tokenizer.json", "MANIFEST"}) {
    const bool of_model = file.ends_with(".json") && file != "state.json";
    const std::string whole = read_file(step + "/" + file);
    std::string flipped = whole;
    flipped[flipped.size() / 2] ^= 1;
    for (const std::string& damaged : {flipped, whole.substr(0, whole.size() - 3), std::string()}) {
      std::ofstream(step + "/" + file, std::ios::binary) << damaged;
      refuses(on, {step, file, of_model ? "not as it was written" : "damaged"});
    }
    std::ofstream(step + "/" + file, std::ios::binary) << whole;
  }
  fs::rename(step + "/MANIFEST", path("kept"));
  refuses(on, {step, "MANIFEST is missing", "damaged"});
  fs::rename(path("kept"), step + "/MANIFEST");
  refuses({"run.output_dir=" + path("other"), "--resume", path("run")}, {path("run"), "is not a checkpoint"});
  EXPECT_EQ(run("trainer", arguments(on)).code, 0);
}

TEST_F(Trainer, StartingAnewDeletesOnlyWhatARunWroteAndNoInput) {
  fs::create_directories(path("run/model"));
  write("run/model/mine", "x");
  for (const char* how : {"--overwrite", "--resume=auto"}) refuses({how}, {"run/model"});
  EXPECT_TRUE(fs::exists(path("run/model/mine")));
  fs::remove_all(path("run"));
  ASSERT_EQ(run("trainer", arguments({})).code, 0);
  refuses({"--overwrite", "model.path=" + path("run/model")}, {path("run/model"), "starting anew deletes"});
  refuses({"--overwrite", "data.files=" + path("run/samples.jsonl")}, {"samples.jsonl", "starting anew deletes"});
  EXPECT_TRUE(fs::exists(path("run/model/model.safetensors")));
  for (const std::string file :
       {"run/model/model.gguf", "run/checkpoints/notes.txt", "run/checkpoints/step_2/old.bin"}) {
    const std::string mine = write(file, "x");
    refuses({"--overwrite"}, {mine + ": was not written by a run, and starting anew would delete it"});
    EXPECT_TRUE(fs::exists(mine));
    if (file.starts_with("run/model"))
      refuses({"--resume", "auto"}, {mine + ": was not written by a run, and the run's end would delete it"});
    fs::remove(mine);
  }
  EXPECT_EQ(run("trainer", arguments({"--overwrite"})).code, 0);
}

TEST_F(Trainer, SaysThatTheVerifierFailsOnEverything) {
  const Result r = run("trainer", arguments({"reward.kind=command", "reward.command=exit 3", "train.steps=1"}));
  EXPECT_EQ(r.code, 1) << r.err;
  EXPECT_NE(r.err.find("reward.kind command failed on every answer"), std::string::npos) << r.err;
  EXPECT_NE(r.err.find("the run took no optimizer step in 1 steps"), std::string::npos) << r.err;
  refuses({"data.answer_key=", "--overwrite"}, {"data.answer_key", "reward.kind math"});
}

TEST_F(Trainer, StopsOnSigtermAndGoesOn) {
  const std::vector<std::string> more = {"train.steps=400", "checkpoint.every=0", "checkpoint.export_model=false"};
  // The shell waits for the first line of metrics, then asks the trainer to stop.
  const std::string wait =
      "(while [ ! -s " + quoted(path("run/metrics.jsonl")) + " ]; do sleep 0.01; done; kill -TERM $$) & exec ";
  const Result stopped = run("trainer", arguments(more), wait);
  EXPECT_EQ(stopped.code, 128 + SIGTERM) << stopped.err;
  EXPECT_NE(stopped.err.find("stopped after step "), std::string::npos) << stopped.err;
  EXPECT_NE(stopped.err.find("--resume auto"), std::string::npos) << stopped.err;
  EXPECT_FALSE(fs::is_empty(path("run/checkpoints")));
  const std::string text = read_file(path("run/metrics.jsonl"));
  const int64_t steps = std::count(text.begin(), text.end(), '\n');
  const Result resumed = run("trainer", arguments({"train.steps=" + std::to_string(steps + 1), "--resume", "auto",
                                                   "checkpoint.every=0", "checkpoint.export_model=false"}));
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("after step " + std::to_string(steps)), std::string::npos) << resumed.err;
}

}  // namespace
}  // namespace mantissa
