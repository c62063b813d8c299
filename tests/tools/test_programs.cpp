// What the programs print. Results are JSON lines on stdout; bad input gives one line "error: ..." on stderr
// that names the place, and exit code 1.
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <fstream>
#include <thread>

#include "core/registry.h"
#include "core/safetensors.h"
#include "tests/support/message.h"
#include "tests/support/programs.h"

namespace mantissa {
namespace {

const char* const kAll[] = {"trainer", "generate", "score", "tokenize", "grade", "evaluate", "mismatch", "bench"};

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

TEST(Scripts, ExplainThemselves) {
  int scripts = 0;
  for (const auto& entry : fs::directory_iterator(kSource / "tools")) {
    if (entry.path().extension() != ".sh") continue;
    const std::string name = entry.path().filename().string();
    FILE* pipe = ::popen(
        str("cd ", quoted((kSource / "tools").string()), " && timeout 20 bash ./", name, " --help 2>&1").c_str(), "r");
    std::string out;
    for (int c; (c = std::fgetc(pipe)) != EOF;) out += char(c);
    EXPECT_EQ(::pclose(pipe), 0) << name << ": " << out;
    const std::string text = read_file(entry.path());
    const size_t first = text.find("\n# ") + 3;
    EXPECT_TRUE(out.starts_with(text.substr(first, text.find('\n', first) - first))) << name << ": " << out;
    ++scripts;
  }
  EXPECT_GT(scripts, 5);
}

TEST_F(Programs, BadCommandLines) {
  expect_error("score", {}, {"score", "required"});
  expect_error("score", {"--modell", "x"}, {"score", "--help"});
  expect_error("generate", {"--model", model(), "--prompt", "1+1=", "--n", "0"}, {"--n", "between 1 and", "got 0"});
  expect_error("generate", {"--model", model(), "--prompt", "1+1=", "--top-p", "nan"}, {"--top-p", "nan"});
  expect_error("generate", {"--model", model(), "--prompt", "1+1=", "--precision", "fp8"}, {"--precision", "fp8"});
  expect_error("generate", {"--model", model()}, {"--prompt", "--input"});
  expect_error("generate", {"--model", model(), "--prompt", "1+1=", "--device", "tpu"}, {"--device", "tpu"});
  expect_error("bench", {"fly"}, {"\"fly\""});
  expect_error("bench", {"train"}, {"--model"});
  for (const char* limit : {"", "0x10", "1e3", "3.7", "many", "99999999999999999999"})
    expect_error("evaluate", {"--model", model(), "--data", "x", "--limit", limit},
                 {std::string("--limit must be an integer at least 0: got \"") + limit + "\""});
  expect_error("generate", {"--model", model(), "--prompt", "1+1=", "--temperature", "warm"},
               {"--temperature must be a number between 0 and 100: got \"warm\""});
  const std::string tiers = "--recompute must be one of none|elementwise|mlp|full: got ";
  expect_error("bench", {"train", "--recompute", "auto"}, {tiers + "\"auto\"; auto chooses by", "--estimate"});
  expect_error("bench", {"train", "--recompute", "most"}, {tiers + "\"most\"\n"});
  expect_error("evaluate", {"--model", model(), "--data", "x", "--keep", "0.8:0.2", "--output", path("o")},
               {"--keep", "0.8:0.2"});
  expect_error("evaluate", {"--model", model(), "--data", "x", "--keep", "0.2:0.8"}, {"--output"});
  expect_error("evaluate", {"--model", model(), "--data", "x", "y", "x"}, {"--data: \"x\" is named twice"});
  expect_error("evaluate", {"--model", model(), "--data", ""}, {"--data: the name of a file must not be empty"});
  expect_error("evaluate", {"--model", model(), "--data", "no/x*"},
               {"no/x*: cannot be read (--data); * and ? are not"});
  const std::string there = write("x", "");
  expect_error("evaluate", {"--model", model(), "--data", there, dir_.path().string() + "/./x"},
               {"--data: \"", "/./x\" is the same file as \"" + there + '"'});
  for (const char* program : {"generate", "score", "evaluate", "mismatch", "export", "trainer"})
    expect_error(program, {"--adapter", ""}, {"--adapter: must not be empty"});
}

TEST_F(Programs, MessagesSayWhatToDo) {
  const std::string data = write("data.jsonl", "{\"problem\": \"1+2+3=\"}\n");
  expect_error("generate", {"--model", model(), "--input", data},
               {"data.jsonl:1: has neither \"prompt\" nor \"ids\"", "--prompt-key names"});
  expect_error("evaluate", {"--model", model(), "--data", data},
               {"key \"answer\" is missing; the record has problem (--answer-key names the one to read"});
  expect_error("evaluate", {"--model", model(), "--data", data, "--answer-key", "", "--kind", "exact"},
               {"--answer-key: required by --kind exact"});
  const std::string half = write("half.jsonl", "{\"problem\": \"1+2+3=\", \"answer\": 2.5}\n");
  expect_error("evaluate", {"--model", model(), "--data", half}, {"in quotes it is a string", "--answer-key may be"});
  expect_error("grade", {"--input", write("array.json", "[{\"pred\": \"1\"}]\n")},
               {"array.json:1: must be a JSON object: got an array", "tools/to_jsonl.py"});
  const std::string made = (dir_.path() / "made").string();  // a run
  fs::create_directories(made + "/checkpoints");
  std::ofstream(made + "/config.yaml") << "run:\n";
  expect_error("generate", {"--model", made, "--prompt", "1+"},
               {"--model: \"" + made + "\" is the directory of a run",
                made + "/model (the end of the run) or " + made + "/checkpoints/step_N"});
  fs::create_directories(made + "/adapter");
  expect_error("generate", {"--model", made, "--prompt", "1+"},
               {"name the base model here, and " + made + "/adapter by --adapter"});
}

TEST_F(Programs, TheTrainersFlagsDoNotContradictEachOther) {
  const std::string config = write("run.yaml", "model: {path: m}\ndata: {files: f}\n");
  const auto refused = [&](std::vector<std::string> more, const std::vector<std::string>& parts) {
    more.insert(more.begin(), {"--config", config});
    expect_error("trainer", more, parts);
  };
  refused({"--adapter", "one", "lora.init=two"}, {"--adapter one", "lora.init=two", "keep one of both"});
  refused({"--adapter", path("none")}, {"--adapter: " + path("none") + ": does not exist"});
  refused({"lora.init=" + path("none")}, {"lora.init: " + path("none") + ": does not exist"});
  refused({"--adapter", "kaiming"}, {"--adapter: must be the directory of an adapter, got kaiming"});
  refused({"--resume", ""}, {"--resume: must not be empty"});
  refused({"--resume", "auto", "--overwrite"}, {"exclude each other"});
  refused({"--estimate", "--print-config"}, {"exclude each other"});
  refused({"--estimate", "--response-length", "9", "rollout.max_new_tokens=8"},
          {"--response-length: must be at most 8, rollout.max_new_tokens; got 9"});
  refused({"--estimate", "--response-length", "9", "train.mode=sft", "train.mini_batch_size=64"},
          {"--response-length: must be at most 0, in sft", "got 9"});
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
    for (int64_t t = 0; t < length; ++t) text += (t ? ", " : "") + std::to_string(ids.data<int32_t>()[r * length + t]);
    text += "]}\n\n";  // blank lines are skipped
  }
  const std::string input = write("ids.jsonl", text);
  const Result one = run("score", {"--model", kQwen3, "--input", input, "--grads", path("grads.safetensors")});
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
  const Result alone = run("score", {"--model", kQwen3, "--input", input, "--batch-tokens", "1", "--head-chunk", "3"});
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
               {"--model: \"", "none", "does not exist"});
  expect_error("score", {"--model", kQwen3, "--adapter", path("none"), "--input", path("a")},
               {"--adapter: ", "none: does not exist"});
  expect_error("score", {"--model", "builtin:../x", "--input", path("a")}, {"builtin"});
}

TEST_F(Programs, DamagedModelsAreNamed) {
  fs::copy(kQwen3, dir_ / "broken");
  const std::string input = write("ids.jsonl", "{\"ids\": [1, 2]}\n");
  fs::resize_file(dir_ / "broken" / "model.safetensors", fs::file_size(dir_ / "broken" / "model.safetensors") - 4);
  expect_error("score", {"--model", path("broken"), "--input", input}, {"model.safetensors"});
  write("broken/config.json", "{\"model_type\": \"mamba\"}");
  expect_error("score", {"--model", path("broken"), "--input", input}, {"config.json", "mamba"});
  write("broken/config.json", "{");
  expect_error("score", {"--model", path("broken"), "--input", input}, {"config.json", "JSON"});
}

TEST_F(Programs, TokenizeAndGrade) {
  const Result tokens =
      run("tokenize", {"--model", model(), "--input", write("t.jsonl", "{\"text\": \"12+30=\"}\n{\"text\": \"\"}\n")});
  ASSERT_EQ(tokens.code, 0) << tokens.err;
  ASSERT_EQ(tokens.lines().size(), 2u);
  EXPECT_EQ(value_of(tokens.lines()[0], "decoded"), "\"12+30=\"");
  EXPECT_EQ(value_of(tokens.lines()[1], "ids"), "[]");
  expect_error("tokenize", {"--model", kQwen3, "--input", path("t.jsonl")}, {"tokenizer"});
  expect_error("tokenize", {"--model", model(), "--input", write("u.jsonl", "{\"text\": 3}\n")},
               {"u.jsonl:1", "string"});

  const Result grades = run("grade", {"--input", write("g.jsonl",
                                                       "{\"pred\": \"so \\\\boxed{0.5}\", \"gold\": \"1/2\"}\n"
                                                       "{\"pred\": \"#### 7\", \"gold\": 8}\n")});
  ASSERT_EQ(grades.code, 0) << grades.err;
  ASSERT_EQ(grades.lines().size(), 2u);
  EXPECT_EQ(value_of(grades.lines()[0], "correct"), "true");
  EXPECT_EQ(value_of(grades.lines()[0], "extracted"), "\"0.5\"");
  EXPECT_EQ(value_of(grades.lines()[1], "correct"), "false");
  expect_error("grade", {"--input", write("h.jsonl", "{\"pred\": \"1\"}\n")}, {"h.jsonl:1", "\"gold\" is missing"});
  expect_error("grade", {"--input", write("i.jsonl", R"({"pred": "1", "gold": "2", "gold": "1"})")},
               {"i.jsonl:1: key \"gold\" appears twice"});
  expect_error("grade", {"--input", write("b.jsonl", "\n \n")}, {"b.jsonl", "blank lines only"});
  expect_error("grade", {"--input", path("")}, {"is a directory"});
}

TEST_F(Programs, GenerateIsReproducible) {
  const std::vector<std::string> flags = {"--model",          model(), "--prompt", "12+30=", "--n",   "3",
                                          "--max-new-tokens", "6",     "--seed",   "5",      "--json"};
  const Result a = run("generate", flags), b = run("generate", flags);
  ASSERT_EQ(a.code, 0) << a.err;
  EXPECT_EQ(a.out, b.out);
  ASSERT_EQ(a.lines().size(), 3u);
  EXPECT_NE(value_of(a.lines()[0], "ids"), value_of(a.lines()[1], "ids"));
  EXPECT_EQ(floats(value_of(a.lines()[0], "logprobs")).size(), floats(value_of(a.lines()[0], "ids")).size());
  expect_error("generate", {"--model", kQwen3, "--prompt", "a"}, {"no tokenizer to make text with"});
  expect_error("generate", {"--model", kQwen3, "--prompt", "a", "--json"}, {"a text needs a tokenizer"});

  const std::string ids = write("ids.jsonl", "{\"ids\": [1, 2, 3]}\n{\"ids\": [9999999]}\n");
  expect_error("generate", {"--model", kQwen3, "--input", ids, "--json"}, {"9999999"});
}

TEST_F(Programs, GenerateStopsAtAString) {
  // The model writes "51+29=80, 80+60=..."; ", " is one token.
  std::vector<std::string> flags = {
      "--model", "builtin:arithmetic", "--prompt", "51+29+60=", "--temperature", "0", "--stop", ","};
  EXPECT_EQ(run("generate", flags).out, "51+29=80,\n");
  flags.push_back("--json");
  const Result kept = run("generate", flags);
  ASSERT_EQ(kept.code, 0) << kept.err;
  EXPECT_NE(kept.out.find(",\", \"finish\": \"stop_string\""), std::string::npos) << kept.out;
  flags.push_back("--no-keep-stop");
  const Result cut = run("generate", flags);
  EXPECT_NE(cut.out.find("\", \"finish\": \"stop_string\""), std::string::npos) << cut.out;
  EXPECT_EQ(cut.out.find(",\", \"finish\""), std::string::npos) << cut.out;
  EXPECT_EQ(cut.out.substr(cut.out.find("\"ids\"")), kept.out.substr(kept.out.find("\"ids\"")));
}

TEST_F(Programs, FlagsThatOthersSwitchOffAreSaid) {
  const std::string greedy = ": without effect with --temperature 0, which takes the likeliest token";
  const auto said = [&](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"--model", model(), "--prompt", "1+", "--max-new-tokens", "2"});
    const Result r = run("generate", flags);
    EXPECT_EQ(r.code, 0) << r.err;
    return r.err;
  };
  EXPECT_EQ(said({"--temperature", "0"}).find("without effect"), std::string::npos);
  EXPECT_EQ(said({"--top-p", "0.5", "--seed", "3", "--n", "2"}).find("without effect"), std::string::npos);
  expect_message(said({"--temperature", "0", "--top-p", "0.5", "--seed", "3", "--n", "2", "--no-keep-stop",
                       "--memory-fraction", "0.3", "--cache-tokens", "4096"}),
                 {("--top-p, --seed" + greedy).c_str(), "--keep-stop: without effect without --stop",
                  "--memory-fraction: without effect with --cache-tokens",
                  "--n 2: all samples of a prompt are the same with --temperature 0"});
  for (const auto& [lines, says] :
       {std::pair("{\"ids\": [1]}\n", true), {"{\"ids\": [1]}\n{\"prompt\": \"1+\"}\n", false}}) {
    const Result r = run("generate", {"--model", model(), "--input", write("ids.jsonl", lines), "--template",
                                      "{problem}", "--max-new-tokens", "2"});
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(r.err.find("--template: without effect where every line has \"ids\"") != r.err.npos, says) << r.err;
  }
  expect_error("generate",
               {"--model", model(), "--input", write("both.jsonl", "{\"prompt\": \"1+\", \"ids\": [1, 2]}\n")},
               {"both.jsonl:1", "has both \"prompt\" and \"ids\""});
  expect_error("generate", {"--model", model(), "--prompt", "1+\xff"}, {"--prompt", "not valid UTF-8"});
  expect_error("export", {"--model", model(), "--output", path(".gguf")}, {"--output", "a name before .gguf"});
  expect_error("generate", {"--model", model(), "--prompt", "1+", "--prompt-key", "p"},
               {"--prompt-key: belongs to --input, got --prompt"});
  expect_error("generate",
               {"--model", "builtin:arithmetic", "--prompt", "1+", "--template", "chat", "--chat-template", "chatml",
                "--chat-template-kwargs", "enable_thinking=false"},
               {"--chat-template-kwargs: must be empty but with the model's own form (--template chat"});
}

TEST_F(Programs, OutputsReplaceNeitherInputsNorWhatIsNoRegularFile) {
  const std::string text = "{\"problem\": \"1+2=\", \"answer\": 3}\n", data = write("data.jsonl", text);
  const std::vector<std::string> flags = {"--model", model(), "--data", data, "--n", "2", "--max-new-tokens", "4"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), flags.begin(), flags.end());
    return more;
  };
  fs::create_symlink(data, path("link.jsonl"));
  for (const char* name : {"data.jsonl", "link.jsonl"})
    for (const std::vector<std::string>& output : {std::vector<std::string>{"--keep", "0:1", "--output", path(name)},
                                                   std::vector<std::string>{"--dump", path(name)}})
      expect_error("evaluate", with(output), {output[output.size() - 2], path(name), "reads or writes"});
  expect_error("mismatch", with({"--points", path("p"), "--table", path("p")}), {"--table", "reads or writes"});
  EXPECT_EQ(read_file(data), text);

  expect_error("evaluate", with({"--keep", "0:1", "--output", path("")}), {"no regular file"});
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  expect_error("mismatch", with({"--table", path("pipe")}), {"pipe", "no regular file"});
  EXPECT_TRUE(fs::is_fifo(path("pipe")));
  expect_error("mismatch", with({"--table", "/dev/stdout"}), {"--table", "reads or writes"});
  fs::create_symlink(path("kept.jsonl"), path("out.jsonl"));
  for (const char* what : {"made", "replaced"}) {
    EXPECT_EQ(run("evaluate", with({"--keep", "0:1", "--output", path("out.jsonl")})).code, 0);
    EXPECT_TRUE(fs::is_symlink(path("out.jsonl"))) << "a link stays, what it names is " << what;
    EXPECT_EQ(read_file(path("kept.jsonl")), text);
  }

  fs::copy(model(), path("model"));
  const std::string weights = read_file(path("model/model.safetensors"));
  const std::string ids = write("ids.jsonl", "{\"ids\": [16, 13]}\n");
  expect_error("score", {"--model", path("model"), "--input", ids, "--grads", path("model/model.safetensors")},
               {"--grads", "is a file of", "which this command reads"});
  EXPECT_EQ(read_file(path("model/model.safetensors")), weights);
  const std::string notes = write("notes", "mine");
  expect_error("evaluate", with({"--keep", "0:1", "--output", notes}), {"--output", "notes", "not JSON lines"});
  expect_error("mismatch", with({"--points", notes}), {"--points", "notes", "not JSON lines"});
  expect_error("mismatch", with({"--table", notes}), {"--table", "notes", "not tables in Markdown"});
  expect_error("score", {"--model", model(), "--input", ids, "--grads", notes}, {"--grads", "not a safetensors file"});
  expect_error("evaluate", with({"--dump", notes, "--resume"}), {"--dump", "notes", "is not what --dump writes"});
  EXPECT_EQ(read_file(notes), "mine");
  expect_error("evaluate", with({"--keep", "0:1", "--output", path("new"), "--dump", path("./new")}),
               {"--dump", "reads or writes"});
  for (const char* what : {"made", "replaced"}) {
    EXPECT_EQ(run("score", {"--model", model(), "--input", ids, "--grads", path("grads")}).code, 0) << what;
    EXPECT_EQ(run("mismatch", with({"--points", path("p"), "--table", path("t")})).code, 0) << what;
  }

  const std::string dump = write("dump.jsonl", "finished\n");
  expect_error("evaluate", with({"--dump", dump}), {"dump.jsonl", "--resume"});
  EXPECT_EQ(read_file(dump), "finished\n");
}

TEST_F(Programs, TrainerStopsAndSavesAtASignalSentTwice) {
  const std::vector<std::string> arguments = {"--config",
                                              (kSource / "configs/grpo_fp16.yaml").string(),
                                              "data.files=" + (kSource / "builtin/arithmetic/sanity.jsonl").string(),
                                              "run.output_dir=" + path("run"),
                                              "train.steps=100000",
                                              "train.prompts_per_step=4",
                                              "train.mini_batch_size=32"};
  const Result result =
      run("trainer", arguments, R"(sh -c '"$0" "$@" & sleep 3; kill $!; sleep 0.01; kill $!; wait $!' )");
  EXPECT_EQ(result.code, 128 + SIGTERM) << result.err;
  EXPECT_NE(result.err.find("stopping after this step"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("stopped after step"), std::string::npos) << result.err;
  ASSERT_TRUE(fs::is_directory(path("run/checkpoints"))) << result.err;
  EXPECT_FALSE(fs::is_empty(path("run/checkpoints")));
}

TEST_F(Programs, GradeByAProgram) {
  const std::string input =
      write("g.jsonl", "{\"pred\": \"yes\", \"gold\": \"1\"}\n{\"pred\": \"hang\", \"gold\": \"1\"}\n");
  const Result r = run("grade", {"--input", input, "--kind", "command", "--timeout-s", "0.5", "--command",
                                 "if grep -q hang; then sleep 60; else echo 0.75 half; fi"});
  ASSERT_EQ(r.code, 0) << r.err;
  ASSERT_EQ(r.lines().size(), 2u);
  EXPECT_EQ(value_of(r.lines()[0], "reward"), "0.75");
  EXPECT_EQ(value_of(r.lines()[0], "extracted"), "\"half\"");
  EXPECT_EQ(value_of(r.lines()[1], "status"), "\"timeout\"");
  expect_error("grade", {"--input", input, "--kind", "command"}, {"--command", "required"});
}

TEST_F(Programs, PythonWorkersEndWithTheProgram) {
  if (std::system("command -v python3 >/dev/null") != 0) GTEST_SKIP() << "no python3";
  const std::string input = write("in.jsonl", R"({"pred": "4", "gold": "4"})"), pid = path("pid");
  const std::string hang = "open('" + pid + "', 'w').write(str(os.getpid()))\n    time.sleep(600)\n";
  for (const std::string begin : {"import os, time\nif True:\n    ", "import os, time\ndef reward(a, b):\n    "})
    for (const std::string signal : {"TERM", "KILL"}) {
      fs::remove(pid);
      run("grade", {"--input", input, "--kind", "python", "--path", write("hang.py", begin + hang), "--workers", "1"},
          "sh -c '\"$0\" \"$@\" & until test -s " + pid + "; do sleep 0.05; done; kill -" + signal + " $!; wait $!' ");
      const std::string command_line = "/proc/" + read_file(pid) + "/cmdline";
      const auto lives = [&] { return std::ifstream(command_line, std::ios::binary).peek() != EOF; };  // no zombie
      for (int i = 0; i < 100 && lives(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      EXPECT_FALSE(lives()) << signal << begin;
    }
}

}  // namespace
}  // namespace mantissa
