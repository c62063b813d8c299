// The built programs as a user runs them: subprocesses on tiny models. Results are JSON lines on stdout; bad
// input gives one line "error: ..." on stderr that names the place, and exit code 1.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/safetensors.h"
#include "nn/hf.h"
#include "tests/temp_dir.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

const fs::path kSource = MANTISSA_SOURCE_DIR, kBin = fs::path(MANTISSA_BINARY_DIR) / "bin";
const std::string kQwen3 = (kSource / "tests/golden/qwen3").string();
const char* const kAll[] = {"trainer", "generate", "score",    "tokenize",
                            "grade",   "evaluate", "mismatch", "bench"};

struct Result {
  int code = -1;
  std::string out, err;
  std::vector<std::string> lines() const {
    std::vector<std::string> lines;
    size_t at = 0;
    for (size_t end; (end = out.find('\n', at)) != std::string::npos; at = end + 1)
      lines.push_back(out.substr(at, end - at));
    return lines;
  }
};

std::string quoted(const std::string& word) {
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
  return text + "'";
}

class Programs : public ::testing::Test {
 protected:
  /// A random model with the embedded tokenizer, made once.
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    const fs::path builtin = kSource / "builtin/arithmetic";
    const auto model = random_model(parse_hf_config(read_file(builtin / "config.json"), "config.json"), cpu(),
                                    Dtype::kF32, false, 1);
    model->tokenizer.tokenizer_json = read_file(builtin / "tokenizer.json");
    save_hf(*model, *shared_ / "model", Dtype::kF32);
  }
  static void TearDownTestSuite() { delete shared_; }

  static std::string model() { return (*shared_ / "model").string(); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(dir_ / name, std::ios::binary) << text;
    return (dir_ / name).string();
  }
  std::string path(const std::string& name) const { return (dir_ / name).string(); }

  /// `shell` stands before the command, e.g. "ulimit -f 8;".
  Result run(const std::string& program, const std::vector<std::string>& arguments,
             const std::string& shell = "") const {
    // On the CPU wherever the tests run: what is expected below are its bits.
    std::string command = "export CUDA_VISIBLE_DEVICES=; " + shell + quoted((kBin / program).string());
    for (const std::string& a : arguments) command.append(" ").append(quoted(a));
    command.append(" 2>").append(quoted(path("stderr"))).append(" </dev/null");
    Result result;
    FILE* pipe = ::popen(command.c_str(), "r");
    char buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) result.out.append(buffer, n);
    const int status = ::pclose(pipe);
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    result.err = read_file(dir_ / "stderr");
    return result;
  }

  /// Exit code 1, nothing on stdout, and one error line that holds each of `parts`.
  void expect_error(const std::string& program, const std::vector<std::string>& arguments,
                    const std::vector<std::string>& parts, const std::string& shell = "") const {
    const Result r = run(program, arguments, shell);
    SCOPED_TRACE(program + ": " + r.err);
    EXPECT_EQ(r.code, 1);
    EXPECT_EQ(r.out, "");
    const size_t at = r.err.find("error: ");
    ASSERT_NE(at, std::string::npos);
    EXPECT_EQ(r.err.find('\n', at), r.err.size() - 1) << "one line, the last one";
    for (const std::string& part : parts) EXPECT_NE(r.err.find(part, at), std::string::npos) << part;
  }

  TempDir dir_;

 private:
  static inline TempDir* shared_ = nullptr;
};

/// The text behind "key": up to the next comma or brace outside of brackets.
std::string value_of(const std::string& line, const std::string& key) {
  const std::string mark = "\"" + key + "\": ";
  const size_t begin = line.find(mark);
  if (begin == std::string::npos) return "missing";
  int depth = 0;
  size_t end = begin + mark.size();
  for (; end < line.size(); ++end) {
    if (depth == 0 && (line[end] == ',' || line[end] == '}')) break;
    depth += (line[end] == '[') - (line[end] == ']');
  }
  return line.substr(begin + mark.size(), end - begin - mark.size());
}

std::vector<float> floats(const std::string& array) {
  std::vector<float> values;
  for (size_t at = array.find_first_not_of("[ "); at < array.size() && array[at] != ']';) {
    size_t used = 0;
    values.push_back(std::stof(array.substr(at), &used));
    at = array.find_first_not_of(", ", at + used);
  }
  return values;
}

TEST_F(Programs, HelpAndVersionEverywhere) {
  for (const std::string program : kAll) {
    const Result help = run(program, {"--help"});
    EXPECT_EQ(help.code, 0) << program;
    EXPECT_NE(help.out.find("Usage"), std::string::npos) << program << help.out;
    const Result by_argument = run("mantissa", {program, "--help"});
    EXPECT_EQ(by_argument.code, 0) << program;
  }
  EXPECT_NE(run("mantissa", {}).out.find("evaluate"), std::string::npos);
  EXPECT_NE(run("mantissa", {"--version"}).out.find("mantissa"), std::string::npos);
  expect_error("mantissa", {"scroe"}, {"unknown program \"scroe\""});
}

TEST_F(Programs, BadCommandLines) {
  expect_error("score", {}, {"score", "required"});
  expect_error("score", {"--modell", "x"}, {"score", "--help"});
  expect_error("generate", {"--model", model(), "--prompt", "1+1=", "--n", "0"},
               {"--n", "between 1 and", "got 0"});
  expect_error("generate", {"--model", model(), "--prompt", "1+1=", "--top-p", "nan"}, {"--top-p", "nan"});
  expect_error("generate", {"--model", model(), "--prompt", "1+1=", "--precision", "fp8"},
               {"--precision", "fp8"});
  expect_error("generate", {"--model", model()}, {"--prompt", "--input"});
  expect_error("generate", {"--model", model(), "--prompt", "1+1=", "--device", "tpu"}, {"--device", "tpu"});
  expect_error("bench", {"fly"}, {"\"fly\""});
  expect_error("bench", {"train"}, {"--model"});
  expect_error("evaluate", {"--model", model(), "--data", "x", "--keep", "0.8:0.2", "--output", path("o")},
               {"--keep", "0.8:0.2"});
  expect_error("evaluate", {"--model", model(), "--data", "x", "--keep", "0.2:0.8"}, {"--output"});
}

TEST_F(Programs, ScoreEqualsTheGoldenLogProbs) {
  const Safetensors golden(fs::path(kQwen3) / "golden.safetensors");
  const int64_t rows = golden.shape("input_ids")[0], length = golden.shape("input_ids")[1];
  Tensor ids(cpu(), {rows, length}, Dtype::kI32), want(cpu(), {rows, length - 1}, Dtype::kF32);
  golden.read("input_ids", ids);
  golden.read("logprobs", want);
  std::string text;
  for (int64_t r = 0; r < rows; ++r) {
    text += "{\"ids\": [";
    for (int64_t t = 0; t < length; ++t)
      text += (t ? ", " : "") + std::to_string(ids.data<int32_t>()[r * length + t]);
    text += "]}\n\n";  // blank lines are skipped
  }
  const std::string input = write("ids.jsonl", text);
  const Result one =
      run("score", {"--model", kQwen3, "--input", input, "--grads", path("grads.safetensors")});
  ASSERT_EQ(one.code, 0) << one.err;
  ASSERT_EQ(int64_t(one.lines().size()), rows);
  for (int64_t r = 0; r < rows; ++r) {
    const std::vector<float> got = floats(value_of(one.lines()[size_t(r)], "logprobs"));
    ASSERT_EQ(int64_t(got.size()), length - 1);
    for (int64_t t = 0; t + 1 < length; ++t)
      EXPECT_NEAR(got[size_t(t)], want.data<float>()[r * (length - 1) + t], 2e-5);
  }
  // Every tensor of the model has its gradient, of its shape, under its Hugging Face name.
  const Safetensors grads(dir_ / "grads.safetensors"), weights(fs::path(kQwen3) / "model.safetensors");
  EXPECT_EQ(grads.entries().size(), weights.entries().size());
  for (const auto& [name, entry] : weights.entries()) EXPECT_EQ(grads.at(name).shape, entry.shape) << name;

  // Neither the packing nor the chunks of logits change a digit.
  const Result alone =
      run("score", {"--model", kQwen3, "--input", input, "--batch-tokens", "1", "--head-chunk", "3"});
  EXPECT_EQ(alone.out, one.out);

  const Result half =
      run("score", {"--model", kQwen3, "--input", input, "--precision", "fp16", "--grads", path("half")});
  ASSERT_EQ(half.code, 0) << half.err;
  EXPECT_NE(half.err.find("loss scale 65536"), std::string::npos);
  const Safetensors half_grads(dir_ / "half");
  double scale = 0, error = 0;
  for (const auto& [name, entry] : grads.entries()) {
    const Shape shape = grads.shape(name);
    Tensor a(cpu(), shape, Dtype::kF32), b(cpu(), shape, Dtype::kF32);
    grads.read(name, a);
    half_grads.read(name, b);
    for (int64_t i = 0; i < a.numel(); ++i) {
      scale += std::abs(a.data<float>()[i]);
      error += std::abs(double(a.data<float>()[i]) - b.data<float>()[i]);
    }
  }
  EXPECT_LT(error, 0.02 * scale) << "unscaled, and near the fp32 gradient";
  EXPECT_GT(error, 0.0);
}

TEST_F(Programs, ScoreRefusesBadLines) {
  const auto refuses = [&](const std::string& text, const std::vector<std::string>& parts) {
    expect_error("score", {"--model", kQwen3, "--input", write("bad.jsonl", text)}, parts);
  };
  refuses("{\"ids\": [1, 2]}\n{\"ids\": [1, 2\n", {"bad.jsonl:2", "JSON"});
  refuses("{\"ids\": [1, 2]}\n\n[1]\n", {"bad.jsonl:3", "object"});
  refuses("{\"text\": \"a\"}\n", {"bad.jsonl:1", "\"ids\" is missing"});
  refuses("{\"ids\": [1, -2]}\n", {"bad.jsonl:1", "entry 1", "-2"});
  refuses("{\"ids\": [1, 2.5]}\n", {"bad.jsonl:1", "2.5"});
  refuses("{\"ids\": [1, 99999999]}\n", {"bad.jsonl:1", "entry 1", "99999999"});
  refuses("", {"bad.jsonl", "empty"});
  std::string longer = "{\"ids\": [1";
  for (int i = 0; i < 5000; ++i) longer += ", 1";
  refuses(longer + "]}\n", {"bad.jsonl:1", "max_position_embeddings", "5001"});
  expect_error("score", {"--model", kQwen3, "--input", path("none.jsonl")}, {"none.jsonl", "cannot be read"});
  expect_error("score", {"--model", path("none"), "--input", write("a", "{\"ids\": [1]}\n")},
               {"none", "does not exist"});
  expect_error("score", {"--model", "builtin:../x", "--input", path("a")}, {"builtin"});
}

TEST_F(Programs, DamagedModelsAreNamed) {
  fs::copy(kQwen3, dir_ / "broken");
  const std::string input = write("ids.jsonl", "{\"ids\": [1, 2]}\n");
  fs::resize_file(dir_ / "broken" / "model.safetensors",
                  fs::file_size(dir_ / "broken" / "model.safetensors") - 4);
  expect_error("score", {"--model", path("broken"), "--input", input}, {"model.safetensors"});
  write("broken/config.json", "{\"model_type\": \"mamba\"}");
  expect_error("score", {"--model", path("broken"), "--input", input}, {"config.json", "mamba"});
  write("broken/config.json", "{");
  expect_error("score", {"--model", path("broken"), "--input", input}, {"config.json", "JSON"});
}

TEST_F(Programs, TokenizeAndGrade) {
  const Result tokens = run("tokenize", {"--model", model(), "--input",
                                         write("t.jsonl", "{\"text\": \"12+30=\"}\n{\"text\": \"\"}\n")});
  ASSERT_EQ(tokens.code, 0) << tokens.err;
  ASSERT_EQ(tokens.lines().size(), 2u);
  EXPECT_EQ(value_of(tokens.lines()[0], "decoded"), "\"12+30=\"");
  EXPECT_EQ(value_of(tokens.lines()[1], "ids"), "[]");
  expect_error("tokenize", {"--model", kQwen3, "--input", path("t.jsonl")}, {"tokenizer"});
  expect_error("tokenize", {"--model", model(), "--input", write("u.jsonl", "{\"text\": 3}\n")},
               {"u.jsonl:1", "string"});

  const Result grades =
      run("grade", {"--input", write("g.jsonl",
                                     "{\"pred\": \"so \\\\boxed{0.5}\", \"gold\": \"1/2\"}\n"
                                     "{\"pred\": \"#### 7\", \"gold\": 8}\n")});
  ASSERT_EQ(grades.code, 0) << grades.err;
  ASSERT_EQ(grades.lines().size(), 2u);
  EXPECT_EQ(value_of(grades.lines()[0], "correct"), "true");
  EXPECT_EQ(value_of(grades.lines()[0], "extracted"), "\"0.5\"");
  EXPECT_EQ(value_of(grades.lines()[1], "correct"), "false");
  expect_error("grade", {"--input", write("h.jsonl", "{\"pred\": \"1\"}\n")},
               {"h.jsonl:1", "\"gold\" is missing"});
}

TEST_F(Programs, GenerateIsReproducible) {
  const std::vector<std::string> flags = {"--model",          model(), "--prompt", "12+30=", "--n", "3",
                                          "--max-new-tokens", "6",     "--seed",   "5"};
  const Result a = run("generate", flags), b = run("generate", flags);
  ASSERT_EQ(a.code, 0) << a.err;
  EXPECT_EQ(a.out, b.out);
  ASSERT_EQ(a.lines().size(), 3u);
  EXPECT_NE(value_of(a.lines()[0], "ids"), value_of(a.lines()[1], "ids"));
  EXPECT_EQ(floats(value_of(a.lines()[0], "logprobs")).size(), floats(value_of(a.lines()[0], "ids")).size());
  expect_error("generate", {"--model", kQwen3, "--prompt", "a"}, {"tokenizer"});

  const std::string ids = write("ids.jsonl", "{\"ids\": [1, 2, 3]}\n{\"ids\": [9999999]}\n");
  expect_error("generate", {"--model", kQwen3, "--input", ids}, {"9999999"});
}

TEST_F(Programs, EvaluateWritesDumpAndKeptProblems) {
  const std::string first = "{\"problem\": \"1+2=\", \"answer\": \"3\", \"extra\": [1]}\n",
                    second = "{\"problem\": \"4+4=\", \"answer\": 8}\n";
  const std::string data = write("d.jsonl", first + "\n" + second);
  const Result all =
      run("evaluate", {"--model", model(), "--data", data, "--n", "2", "--max-new-tokens", "4", "--keep",
                       "0:1", "--output", path("kept.jsonl"), "--dump", path("dump.jsonl")});
  ASSERT_EQ(all.code, 0) << all.err;
  ASSERT_EQ(all.lines().size(), 1u);
  for (const char* key : {"avg@2", "maj@2", "pass@1", "pass@2", "mean_length", "truncated"})
    EXPECT_NE(value_of(all.out, key), "missing") << key;
  EXPECT_EQ(value_of(all.out, "problems"), "2");
  EXPECT_EQ(value_of(all.out, "kept"), "2");
  EXPECT_EQ(read_file(path("kept.jsonl")), first + second) << "lines as they were";
  const std::string dump = read_file(path("dump.jsonl"));
  EXPECT_EQ(std::count(dump.begin(), dump.end(), '\n'), 2);
  EXPECT_NE(dump.find("\"responses\": ["), std::string::npos);

  expect_error("evaluate", {"--model", model(), "--data", write("e.jsonl", "{\"problem\": \"1\"}\n")},
               {"e.jsonl:1", "answer"});
  expect_error("evaluate", {"--model", model(), "--data", data, "--dump", path("no/where")}, {"no/where"});
  EXPECT_FALSE(fs::exists(path("dump.jsonl.partial")));
}

TEST_F(Programs, EvaluateTakesSeveralSetsAndGoesOnAfterAKill) {
  std::string text;
  for (int i = 0; i < 7; ++i) text += "{\"problem\": \"1+" + std::to_string(i) + "=\", \"answer\": " + std::to_string(i + 1) + "}\n";
  const std::string first = write("first.jsonl", text), second = write("second.jsonl", text.substr(text.find('\n') + 1));
  const std::vector<std::string> flags = {"--model", model(), "--data", first, second, "--n", "2", "--max-new-tokens", "4",
                                          "--max-batch", "1"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), flags.begin(), flags.end());
    return run("evaluate", more);
  };
  const Result whole = with({"--dump", path("whole.jsonl"), "--keep", "0:1", "--output", path("kept.jsonl")});
  ASSERT_EQ(whole.code, 0) << whole.err;
  ASSERT_EQ(whole.lines().size(), 3u);
  EXPECT_EQ(value_of(whole.lines()[0], "set"), "\"first\"");
  EXPECT_EQ(value_of(whole.lines()[1], "problems"), "6");
  EXPECT_EQ(value_of(whole.lines()[2], "set"), "\"all\"");
  EXPECT_EQ(value_of(whole.lines()[2], "problems"), "13");
  EXPECT_NE(value_of(whole.lines()[0], "avg@2/interval"), "missing");
  EXPECT_NE(value_of(whole.lines()[0], "verifier/no_answer"), "missing");
  EXPECT_EQ(read_file(path("kept.jsonl")), text + text.substr(text.find('\n') + 1));
  const std::string dump = read_file(path("whole.jsonl"));
  ASSERT_EQ(std::count(dump.begin(), dump.end(), '\n'), 13);

  // Killed in the middle of the ninth line: what is whole is kept, the rest is sampled again, alike.
  size_t cut = 0;
  for (int line = 0; line < 8; ++line) cut = dump.find('\n', cut) + 1;
  write("cut.jsonl", dump.substr(0, cut + 20));
  const Result rest = with({"--dump", path("cut.jsonl"), "--resume"});
  ASSERT_EQ(rest.code, 0) << rest.err;
  EXPECT_EQ(read_file(path("cut.jsonl")), dump);
  for (size_t i = 0; i < 3; ++i)
    for (const char* key : {"problems", "avg@2", "avg@2/interval", "maj@2", "pass@1", "pass@2", "mean_length", "truncated"})
      EXPECT_EQ(value_of(rest.lines()[i], key), value_of(whole.lines()[i], key)) << key;
  // A finished one has nothing left to do.
  EXPECT_EQ(value_of(with({"--dump", path("cut.jsonl"), "--resume"}).lines()[0], "avg@2"), value_of(whole.lines()[0], "avg@2"));

  std::vector<std::string> other = flags;
  other.insert(other.end(), {"--dump", path("cut.jsonl"), "--resume", "--seed", "7"});
  expect_error("evaluate", other, {"cut.jsonl:7", "seed"});
  other = flags;
  other.push_back("--resume");
  expect_error("evaluate", other, {"--resume", "--dump"});
}

TEST_F(Programs, GradeByAProgram) {
  const std::string input = write("g.jsonl",
                                  "{\"pred\": \"yes\", \"gold\": \"1\"}\n{\"pred\": \"hang\", \"gold\": \"1\"}\n");
  const Result r = run("grade", {"--input", input, "--kind", "command", "--timeout-s", "0.5", "--command",
                                 "if grep -q hang; then sleep 60; else echo 0.75 half; fi"});
  ASSERT_EQ(r.code, 0) << r.err;
  ASSERT_EQ(r.lines().size(), 2u);
  EXPECT_EQ(value_of(r.lines()[0], "reward"), "0.75");
  EXPECT_EQ(value_of(r.lines()[0], "extracted"), "\"half\"");
  EXPECT_EQ(value_of(r.lines()[1], "status"), "\"timeout\"");
  expect_error("grade", {"--input", input, "--kind", "command"}, {"reward.command", "required"});
}

TEST_F(Programs, MismatchIsZeroWithTheSameRoundingAndKernels) {
  const std::string data = write("d.jsonl", "{\"problem\": \"1+2=\"}\n{\"problem\": \"14+25=\"}\n");
  const std::vector<std::string> flags = {"--model", model(), "--data",           data,
                                          "--n",     "2",     "--max-new-tokens", "12"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), flags.begin(), flags.end());
    return run("mismatch", more);
  };
  const Result same = with({"--points", path("points.jsonl")});
  ASSERT_EQ(same.code, 0) << same.err;
  EXPECT_EQ(value_of(same.out, "sequences"), "4");
  EXPECT_EQ(value_of(same.out, "rollout_corr/k3_kl"), "0");
  EXPECT_EQ(value_of(same.out, "training/rollout_probs_diff_max"), "0");
  const std::string points = read_file(path("points.jsonl"));
  EXPECT_EQ(std::count(points.begin(), points.end(), '\n'), 4);

  const auto mean_diff = [&](std::vector<std::string> more) {
    const Result r = with(std::move(more));
    EXPECT_EQ(r.code, 0) << r.err;
    return std::stod(value_of(r.out, "training/rollout_probs_diff_mean"));
  };
  const double half = mean_diff({"--rounding", "peer"}),
               brain = mean_diff({"--rounding", "peer", "--precision", "bf16"});
  EXPECT_GT(half, 0.0);
  EXPECT_GT(brain, 2 * half);
  EXPECT_GT(mean_diff({"--precision", "bf16", "--train-precision", "fp32"}), 0.0);
}

TEST_F(Programs, MismatchMeasuresAMatrix) {
  const std::string data = write("d.jsonl", "{\"problem\": \"1+2=\"}\n{\"problem\": \"14+25=\"}\n");
  const std::vector<std::string> flags = {"--model", model(), "--data", data, "--n", "2", "--max-new-tokens", "12"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), flags.begin(), flags.end());
    return run("mismatch", more);
  };
  const Result all = with({"--matrix", "rollout=fp16,bf16,fp32", "train=fp16,fp32", "kv_cache=auto,bf16", "lm_head=auto",
                           "rounding=peer", "--table", path("table.md"), "--points", path("points.jsonl")});
  ASSERT_EQ(all.code, 0) << all.err;
  ASSERT_EQ(all.lines().size(), 10u) << "3 x 2 x 2, less the two that put a bf16 cache beside an fp32 rollout";
  EXPECT_NE(all.err.find("left out rollout fp32"), std::string::npos) << all.err;
  const std::string first = all.lines()[0];
  EXPECT_EQ(value_of(first, "rollout"), "\"fp16\"");
  EXPECT_EQ(value_of(first, "rounding"), "\"peer\"");
  for (const char* key : {"rollout_corr/kl", "rollout_corr/seq_k3_kl_stderr", "rollout_corr/log_ratio_slope",
                          "by_length/seq_k3_kl", "probs_diff_histogram"})
    EXPECT_NE(value_of(first, key), "missing") << key;
  // A cell of the matrix is what the program measures alone.
  const Result alone = with({"--precision", "fp16", "--train-precision", "fp32", "--rounding", "peer"});
  for (const char* key : {"tokens", "rollout_corr/k3_kl", "training/rollout_probs_diff_max"})
    EXPECT_EQ(value_of(alone.out, key), value_of(all.lines()[2], key)) << key;
  const std::string table = read_file(path("table.md")), points = read_file(path("points.jsonl"));
  EXPECT_EQ(std::count(points.begin(), points.end(), '\n'), 40);
  EXPECT_NE(table.find("| bf16 | fp16 | bf16 | auto | compute | peer | "), std::string::npos) << table;

  expect_error("mismatch", {"--model", model(), "--data", data, "--matrix", "head=fp16"}, {"--matrix", "lm_head", "head=fp16"});
  expect_error("mismatch", {"--model", model(), "--data", data, "--matrix", "train=fp16,fp8"}, {"train", "fp8"});
  expect_error("mismatch", {"--model", model(), "--data", data, "--precision", "fp32", "--lm-head", "bf16"},
               {"precision.lm_head", "bf16", "fp32"});
}

TEST_F(Programs, BenchPrintsItsFields) {
  const std::string random = "random:" + (kSource / "builtin/arithmetic/config.json").string();
  const Result r =
      run("bench", {"train", "decode", "step", "attention", "--model", random, "--sequences", "2", "--length",
                    "32", "--batch", "2", "--context", "16", "--steps", "4", "--repeat", "1"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.lines().size(), 8u) << r.out;  // two ceilings, train, decode, step, three of attention
  for (const std::string& line : r.lines())
    for (const char* key : {"bench", "shape", "dtype", "device", "ms_min", "ms_median", "ms_max",
                            "tokens_per_s", "fraction", "peak_bytes"})
      EXPECT_NE(value_of(line, key), "missing") << key << " in " << line;
  expect_error("bench", {"train", "--model", random, "--length", "100000"},
               {"--length", "max_position_embeddings"});
}

TEST_F(Programs, TrainerNamesWhatIsWrongInItsConfig) {
  const auto refuses = [&](const std::string& yaml, const std::vector<std::string>& parts) {
    expect_error("trainer", {"--config", write("c.yaml", yaml)}, parts);
  };
  expect_error("trainer", {}, {"--config", "required"});
  expect_error("trainer", {"--config", path("none.yaml")}, {"none.yaml"});
  expect_error("trainer", {"--config", path("")}, {"not a regular file"});
  refuses("run:\n  name: x\nmodel:\n  path: nowhere\noptim:\n  lrr: 1\n",
          {"c.yaml line 6", "optim.lrr", "optim.lr"});
  refuses("run:\n  name: x\ntrian:\n  steps: 1\n", {"c.yaml line 4", "\"trian\"", "\"train\""});
  refuses("", {"c.yaml", "map of sections"});
  refuses("run: 3\n", {"c.yaml line 1", "\"run\"", "map of keys"});
  refuses("train:\n\tsteps: 1\n", {"c.yaml line 2", "YAML"});
  refuses("train:\n  steps: [1, 2]\n", {"c.yaml line 2", "train.steps", "integer", "list"});
  refuses("train:\n  steps: 1.5\n", {"c.yaml line 2", "train.steps", "integer", "1.5"});
  refuses("train:\n  steps: -3\n", {"c.yaml line 2", "train.steps", "between 0", "-3"});
  refuses("train:\n  steps: 1\n  steps: 2\n", {"c.yaml line 3", "train.steps", "twice"});
  refuses("train:\n  prompts_per_step: 0\n",
          {"c.yaml line 2", "train.prompts_per_step", "between 1", "got 0"});
  refuses("rollout:\n  n: 9999999999999\n", {"c.yaml line 2", "rollout.n", "between 1"});
  refuses("optim:\n  lr: .nan\n", {"c.yaml line 2", "optim.lr", "finite", "nan"});
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
  expect_error("trainer", {"--config", path("c.yaml"), "optim.lr"}, {"section.key=value"});
  expect_error("trainer", {"--config", path("c.yaml"), "--resume", "auto", "--overwrite"}, {"exclude"});
}

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
           "data.files=" + write("deep.jsonl", "{\"problem\": \"1\", \"answer\": \"1\", \"solution\": \"" +
                                                   wide + "\"}\n")},
          {"deep.jsonl", "128 positions"});
  refuses({"model.path=" + kQwen3}, {"qwen3", "tokenizer.json"});
  refuses({"run.device=cuda"}, {"\"cuda\""});
  refuses({"rollout.cache_tokens=1"}, {"rollout.cache_tokens"});
  refuses({"train.inject_overflow_step=1", "train.inject_overflow_parameter=foo", "--overwrite"},
          {"train.inject_overflow_parameter", "\"foo\""});
}

TEST_F(Trainer, RefusesDirectoriesItCannotUse) {
  refuses({"run.output_dir=" + write("file", "") + "/x"}, {"file/x", "output directory"});
  refuses({"run.output_dir=/proc/x"}, {"/proc/x", "output directory"});
  refuses({"model.path=" + path("none")}, {"none", "does not exist"});
  ASSERT_EQ(run("trainer", arguments()).code, 0)
      << "a run that failed before its first step left nothing behind";
  refuses({}, {path("run"), "earlier run", "--resume auto", "--overwrite"});
  refuses({"--resume", path("none")}, {path("none"), "checkpoint directory"});
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
  refuses_with({}, {"step_2", "must have the model's shape"});
  fs::remove_all(model());
  fs::rename(path("kept"), model());

  const std::string step = path("run/checkpoints/step_2");
  for (const std::string file :
       {"master.safetensors", "adam_v.safetensors", "state.json", "config.yaml", "MANIFEST"}) {
    const std::string whole = read_file(step + "/" + file);
    std::string flipped = whole;
    flipped[flipped.size() / 2] ^= 1;
    for (const std::string& damaged : {flipped, whole.substr(0, whole.size() - 3), std::string()}) {
      std::ofstream(step + "/" + file, std::ios::binary) << damaged;
      refuses(on, {step, file, "damaged"});
    }
    std::ofstream(step + "/" + file, std::ios::binary) << whole;
  }
  EXPECT_EQ(run("trainer", arguments(on)).code, 0);
}

TEST_F(Trainer, StopsOnSigtermAndGoesOn) {
  const std::vector<std::string> more = {"train.steps=400", "checkpoint.every=0",
                                         "checkpoint.export_model=false"};
  // The shell waits for the first line of metrics, then asks the trainer to stop.
  const std::string wait = "(while [ ! -s " + quoted(path("run/metrics.jsonl")) +
                           " ]; do sleep 0.01; done; kill -TERM $$) & exec ";
  const Result stopped = run("trainer", arguments(more), wait);
  EXPECT_EQ(stopped.code, 0) << stopped.err;
  EXPECT_NE(stopped.err.find("stopped after step "), std::string::npos) << stopped.err;
  EXPECT_NE(stopped.err.find("--resume auto"), std::string::npos) << stopped.err;
  EXPECT_FALSE(fs::is_empty(path("run/checkpoints")));
  const std::string text = read_file(path("run/metrics.jsonl"));
  const int64_t steps = std::count(text.begin(), text.end(), '\n');
  const Result resumed =
      run("trainer", arguments({"train.steps=" + std::to_string(steps + 1), "--resume", "auto",
                                "checkpoint.every=0", "checkpoint.export_model=false"}));
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("after step " + std::to_string(steps)), std::string::npos) << resumed.err;
}

}  // namespace
}  // namespace mantissa
