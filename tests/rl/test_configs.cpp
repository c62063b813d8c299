// The shipped configs: each loads, each says what it is, and files of a pair differ in precision alone.
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "core/file.h"
#include "rl/config.h"
#include "rl/config_keys.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

const fs::path kConfigs = fs::path(MANTISSA_SOURCE_DIR) / "configs";

std::vector<fs::path> configs() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(kConfigs))
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

/// The comment lines on top.
std::string header_of(const fs::path& file) {
  std::istringstream in(read_file(file));
  std::string header;
  for (std::string line; std::getline(in, line) && line.starts_with("#");) header += line + "\n";
  return header;
}

TEST(Configs, EveryShippedOneLoads) {
  const std::vector<fs::path> files = configs();
  ASSERT_GE(files.size(), 30u);
  std::string errors;
  for (const fs::path& file : files) try {
      const RunConfig config = load_run_config(file.string(), {});
      // The resolved text is a config of its own, with the same meaning.
      const std::string text = format_run_config(config);
      EXPECT_EQ(format_run_config(parse_run_config(text, "resolved", {})), text) << file;
      EXPECT_EQ(config.run.name, file.stem()) << file << ": the run is named as its file";
    } catch (const Error& e) {
      errors += str("\n", file.string(), ": ", e.what());
    }
  EXPECT_TRUE(errors.empty()) << "these do not load:" << errors;
}

RunConfig with(std::vector<std::string> overrides, const std::string& yaml = "") {
  overrides.insert(overrides.begin(), {"model.path=m", "data.files=f"});
  return parse_run_config(yaml.empty() ? "run:\n" : yaml, "F", overrides);
}

std::string refusal(std::vector<std::string> overrides, const std::string& yaml = "") {
  return message_of([&] { with(std::move(overrides), yaml); });
}

TEST(Configs, OverridesAreTextUntilTheKeySaysOtherwise) {
  // Whatever a text holds arrives whole.
  const std::string marks = "ab #%&!{}[]'\":,=~|>*?-\\ ";
  for (size_t i = 0; i < marks.size(); ++i)
    for (size_t k = 0; k < marks.size(); ++k) {
      const std::string text = {'x', marks[i], ' ', marks[k], 'y'}, bare = {marks[i], marks[k]};
      EXPECT_EQ(with({"data.system=" + text}).data.system, text);
      EXPECT_EQ(with({"data.system=" + bare}).data.system, bare);
    }
  for (const std::string text :
       {"null", "~", "true", "010", "'a' b", "\"my prog\" --x", "", "a: b", "- x", "{answer}"}) {
    EXPECT_EQ(with({"data.system=" + text}).data.system, text);
    EXPECT_EQ(with({"data.response_format=" + text}).data.response_format, text);
  }
  EXPECT_EQ(with({"data.files=/a b#c"}).data.files, std::vector<std::string>{"/a b#c"});
  EXPECT_EQ(with({"data.files=[a, b c]"}).data.files, (std::vector<std::string>{"a", "b c"}));
  const auto stops = [](const std::string& list) { return with({"rollout.stop=" + list}).rollout.sampling.stop; };
  EXPECT_EQ(stops("[!x y, &a b, *c, a #b, 010, ~, null, %, {d}, e: f]"),
            (std::vector<std::string>{"!x y", "&a b", "*c", "a #b", "010", "~", "null", "%", "{d}", "e: f"}));
  EXPECT_EQ(stops(R"(["a, b", 'it''s', "q\"]", "\n" ])"), (std::vector<std::string>{"a, b", "it's", "q\"]", "\n"}));
  EXPECT_EQ(stops("[a] b"), std::vector<std::string>{"[a] b"});
  EXPECT_TRUE(stops("").empty());
  EXPECT_TRUE(stops("[ ]").empty());
  for (const std::string list : {"[a,,b]", "['a]", "[\"a\" b]", "[,]"})
    EXPECT_NE(refusal({"rollout.stop=" + list}).find("override rollout.stop=" + list), std::string::npos) << list;
  EXPECT_EQ(with({"train.steps=010"}).train.steps, 10);
  EXPECT_EQ(with({"train.steps=+7"}).train.steps, 7);
  EXPECT_EQ(with({"optim.lr=1e-3"}).optim.lr, 1e-3);
  EXPECT_TRUE(with({"data.shuffle=true"}).data.shuffle);
  for (const std::string number : {"0x10", "1_000", "1 2", "1.5", "3 #", "", "null", "0o7"})
    EXPECT_NE(refusal({"train.steps=" + number}).find("train.steps must be an integer"), std::string::npos) << number;
}

TEST(Configs, RanksAreCountedByANumberOrAuto) {
  for (const std::string number : {"0", "-1", "1.5", "5000", "x"})
    EXPECT_NE(refusal({"distributed.gpus=" + number}).find("between 1 and 4096, got \"" + number), std::string::npos);
  EXPECT_EQ(refusal({"distributed.gpus=4096"}), "");
}

TEST(Configs, NumbersOfTheLossAreFiniteInFp32) {
  for (const char* key : {"algorithm.kl_coef", "algorithm.entropy_coef", "algorithm.overlong_penalty",
                          "algorithm.clip_high", "algorithm.dual_clip", "algorithm.correction_low", "lora.alpha"})
    for (const char* value : {"1e39", "1e300"}) {
      const std::string message = refusal({str(key, '=', value)});
      EXPECT_NE(message.find(str(key, " must be between ")), std::string::npos) << key << ": " << message;
    }
  EXPECT_EQ(refusal({"algorithm.clip_high=1e8", "algorithm.dual_clip=1e9", "algorithm.kl_coef=1e6"}), "");
  for (const ConfigKey& key : config_keys())
    EXPECT_TRUE(key.type != "number" || key.rule.starts_with("between ")) << key.name << ": " << key.rule;
  EXPECT_NE(refusal({"lora.rank=8", "lora.alpha=0"}).find("lora.alpha must be between"), std::string::npos);
}

TEST(Configs, NullKeepsTheDefaultAndOneDocumentIsRead) {
  const RunConfig config = with({}, "data:\n  system: null\n  prompt_key: ~\ntrain:\n  steps:\n");
  EXPECT_EQ(config.data.prompt_key, RunConfig().data.prompt_key);
  EXPECT_EQ(config.train.steps, RunConfig().train.steps);
  EXPECT_EQ(with({}, "train:\n  steps: 010\n").train.steps, 10);
  EXPECT_NE(refusal({}, "train:\n  steps: 0x10\n").find("F line 2"), std::string::npos);
  EXPECT_NE(refusal({}, "train:\n  steps: 3\n---\ntrain:\n  steps: 4\n").find("one YAML document"), std::string::npos);
  EXPECT_EQ(with({}, "---\ntrain:\n  steps: 3\n").train.steps, 3);
  EXPECT_NE(refusal({}, "data:\n  system: !x y\n").find("YAML tag !x"), std::string::npos);
  EXPECT_EQ(with({}, "data:\n  system: '!x y'\n").data.system, "!x y");
  EXPECT_NE(refusal({}, "train:\n  steps: 3\noptims:\n").find("F line 3: unknown section \"optims\"; known are run, "),
            std::string::npos);
  EXPECT_EQ(refusal({}, "train.steps: 3\n"),
            "F line 1: \"train.steps\" is a word of the command line; in a config it is train: {steps: ...}");
}

TEST(Configs, TextsAreUtf8WithoutNul) {
  EXPECT_EQ(refusal({}, "train:\n  steps: 3\ndata:\n  system: \"\xff\"\n"), "F line 4: is not valid UTF-8");
  EXPECT_EQ(with({}, "data:\n  system: \"\xc3\xa9\"\n").data.system, "\xc3\xa9");
  for (const char* yaml :
       {"data: {system: \"b\\0c\"}", "rollout: {stop: \"b\\0c\"}", "rollout: {stop: [a, \"b\\0c\"]}"})
    EXPECT_NE(refusal({}, yaml).find("must have no NUL character, got \"b\" and a NUL"), std::string::npos) << yaml;
}

TEST(Configs, EachSaysWhatItIsAndHowToRunIt) {
  for (const fs::path& file : configs()) {
    const std::string header = header_of(file), name = fs::relative(file, kConfigs.parent_path()).string();
    EXPECT_NE(header.find("build/bin/trainer --config " + name), std::string::npos) << name;
    if (!name.starts_with("configs/paper/")) continue;
    for (const char* part : {"The paper's outcome in", "Cost, estimated"})
      EXPECT_NE(header.find(part), std::string::npos) << name << " does not say: " << part;
  }
}

TEST(Configs, PairsDifferInNameAndPrecisionAlone) {
  int pairs = 0;
  for (const fs::path& file : configs()) {
    const std::string name = file.stem();
    if (!name.ends_with("_bf16")) continue;
    const std::string base = name.substr(0, name.size() - 5);
    const fs::path other = file.parent_path() / (base + "_fp16.yaml");
    ASSERT_TRUE(fs::exists(other)) << file << " has no FP16 partner";
    const RunConfig bf16 = load_run_config(file.string(), {}), fp16 = load_run_config(other.string(), {});
    EXPECT_EQ(bf16.precision.train, "bf16") << file;
    EXPECT_EQ(fp16.precision.rollout, "fp16") << other;
    RunConfig as_fp16 = bf16;
    as_fp16.run.name = fp16.run.name;
    as_fp16.precision = fp16.precision;
    EXPECT_EQ(format_run_config(as_fp16), format_run_config(fp16)) << file;
    ++pairs;
  }
  EXPECT_GE(pairs, 15);
}

TEST(Configs, EarlierNamesOfLoraAreRead) {
  const std::string old = "model:\n  lora_rank: 8\n  lora_alpha: 4\n";
  EXPECT_EQ(with({}, old).lora.rank, 8);
  EXPECT_EQ(with({}, old).lora.alpha, 4);
  EXPECT_FALSE(with({}, "model:\n  lora_rank: 0\n  lora_alpha: 16\n").lora.active());
  EXPECT_NE(refusal({}, old + "lora:\n  rank: 8\n").find("F line 2: model.lora_rank is an earlier name of lora.rank"),
            std::string::npos);
}

TEST(Configs, NamesAndFormatsThatWouldNotBeWhatTheySay) {
  for (const std::string name : {".", "..", "../x", "a/../b"})
    EXPECT_NE(refusal({"run.name=" + name}).find("run.name: names a directory under runs/, got " + name),
              std::string::npos)
        << name;
  EXPECT_EQ(with({"run.name=a/b..c"}).run.name, "a/b..c");
  const auto format = [](const std::string& text) {
    return refusal({"train.mode=sft", "train.mini_batch_size=64", "data.response_format=" + text});
  };
  EXPECT_NE(format("{soluton} #### {answer}").find("made of {problem}, {solution} and {answer}, got {soluton}"),
            std::string::npos);
  EXPECT_NE(format("no mark").find("has none in \"no mark\""), std::string::npos);
  for (const std::string text : {"{solution} \\boxed{{answer}}", "\\text{or} {x: {problem}} {} {answer}"})
    EXPECT_EQ(format(text), "") << text;
}

TEST(Configs, AMiniBatchOfAWarmStartIsItsBatchUnlessItIsSet) {
  const RunConfig config = with({"train.mode=sft", "train.prompts_per_step=48"});
  EXPECT_EQ(config.train.mini_batch_size, 48);
  EXPECT_EQ(with({}, format_run_config(config)).train.mini_batch_size, 48) << "and config.yaml says so";
  EXPECT_EQ(with({"train.mode=sft"}).train.mini_batch_size, RunConfig().train.prompts_per_step);
  const RunConfig set = with({"train.mode=sft", "train.prompts_per_step=48", "train.mini_batch_size=16"});
  EXPECT_EQ(with({}, format_run_config(set)).train.mini_batch_size, 16);
  EXPECT_NE(refusal({"train.mode=sft", "train.mini_batch_size=128"}).find("train.prompts_per_step = 64, got 128"),
            std::string::npos);
  EXPECT_EQ(with({"train.prompts_per_step=48"}).train.mini_batch_size, RunConfig().train.mini_batch_size) << "in grpo";
}

TEST(Configs, AnAnswerKeyIsRequiredByWhatReadsAnswers) {
  const std::vector<std::string> sft = {"train.mode=sft", "data.answer_key="};
  const auto refused = [](std::vector<std::string> overrides, std::vector<std::string> more) {
    overrides.insert(overrides.end(), more.begin(), more.end());
    return refusal(overrides);
  };
  for (const std::string kind : {"math", "exact", "code"}) {
    const std::string rule = "data.answer_key: required by reward.kind " + kind + ", got an empty string";
    EXPECT_EQ(refusal({"data.answer_key=", "reward.kind=" + kind}), "F: " + rule);
    EXPECT_EQ(refusal({"data.answer_key=", "reward.a.kind=format", "reward.b.kind=" + kind}), "F: " + rule);
    EXPECT_EQ(refused(sft, {"eval.files=e", "eval.every=1", "reward.kind=" + kind}), "F: " + rule);
  }
  EXPECT_EQ(refused(sft, {}), "");
  EXPECT_EQ(refused(sft, {"eval.files=e", "eval.every=1", "reward.kind=format"}), "");
  EXPECT_EQ(refused(sft, {"data.response_format={solution} {answer}"}),
            "F: data.answer_key: required by {answer} in data.response_format, got an empty string");
}

TEST(Configs, LoraIsRefusedWhereItWouldNotBeWhatItSays) {
  EXPECT_EQ(with({"lora.rank=8", "lora.targets=[v_proj,q_proj]"}).lora.adapter().targets,
            (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_EQ(with({"lora.rank=8"}).lora.adapter().targets.size(), 7u);
  EXPECT_TRUE(with({"lora.init=some/adapter"}).lora.active());
  EXPECT_EQ(
      with({"lora.rank=8", "lora.dropout=0.1", "train.mode=sft", "train.mini_batch_size=64", "data.answer_key=\"\""})
          .lora.dropout,
      0.1);
  const auto refused = [](std::vector<std::string> overrides, const std::string& key, const std::string& found) {
    overrides.insert(overrides.end(), {"lora.rank=8", "rollout.n=8"});
    const std::string message = refusal(overrides);
    EXPECT_NE(message.find(key), std::string::npos) << message;
    EXPECT_NE(message.find(found), std::string::npos) << message;
  };
  refused({"lora.targets=[q_proj,lm_head]"}, "lora.targets", "lm_head");
  refused({"lora.dropout=0.1"}, "lora.dropout: must be 0 in grpo", "0.1");
  refused({"lora.rollout=merged", "precision.match=exact"}, "lora.rollout", "merged");
  refused({"lora.rollout=merged_in_place", "precision.rollout=fp32"}, "merged_in_place", "fp16 and fp32");
  refused({"lora.rollout=merged", "train.mode=sft", "train.mini_batch_size=64"}, "must be adapter in sft",
          "got merged");
  EXPECT_NE(refusal({"lora.rollout=merged"}).find("lora.rank: 0), got merged"), std::string::npos);
}

}  // namespace
}  // namespace mantissa
