// The programs that measure, as a user runs them: evaluate, mismatch, bench.
#include <algorithm>

#include "tests/support/programs.h"

namespace mantissa {
namespace {

TEST_F(Programs, EvaluateWritesDumpAndKeptProblems) {
  const std::string first = "{\"problem\": \"1+2=\", \"answer\": \"3\", \"extra\": [1e999]}\n",
                    second = "{\"problem\": \"4+4=\", \"answer\": 8}\n";
  const std::string data = write("d.jsonl", first + "\n" + second);
  const Result all = run("evaluate", {"--model", model(), "--data", data, "--n", "2", "--max-new-tokens", "4", "--keep",
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
  for (int i = 0; i < 7; ++i)
    text += "{\"problem\": \"1+" + std::to_string(i) + "=\", \"answer\": " + std::to_string(i + 1) + "}\n";
  const std::string first = write("first.jsonl", text),
                    second = write("second.jsonl", text.substr(text.find('\n') + 1));
  const std::vector<std::string> flags = {"--model",          model(), "--data",      first, second, "--n", "2",
                                          "--max-new-tokens", "4",     "--max-batch", "1"};
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
  const Result rest = with({"--dump", path("cut.jsonl"), "--resume", "--draft", "history"});  // the same bits
  ASSERT_EQ(rest.code, 0) << rest.err;
  EXPECT_EQ(read_file(path("cut.jsonl")), dump);
  for (size_t i = 0; i < 3; ++i)
    for (const char* key :
         {"problems", "avg@2", "avg@2/interval", "maj@2", "pass@1", "pass@2", "mean_length", "truncated"})
      EXPECT_EQ(value_of(rest.lines()[i], key), value_of(whole.lines()[i], key)) << key;
  // A finished one has nothing left to do.
  EXPECT_EQ(value_of(with({"--dump", path("cut.jsonl"), "--resume"}).lines()[0], "avg@2"),
            value_of(whole.lines()[0], "avg@2"));

  std::vector<std::string> other = flags;
  other.insert(other.end(), {"--dump", path("cut.jsonl"), "--resume", "--seed", "7"});
  expect_error("evaluate", other, {"cut.jsonl:7", "seed"});
  other = flags;
  other.push_back("--resume");
  expect_error("evaluate", other, {"--resume", "--dump"});
}

TEST_F(Programs, EvaluateKeepsAnswersWithoutAGradeApart) {
  std::string text;
  for (int i = 0; i < 4; ++i)
    text += "{\"problem\": \"1+" + std::to_string(i) + "=\", \"answer\": " + std::to_string(i + 1) + "}\n";
  const std::string data = write("d.jsonl", text);
  const auto with = [&](const std::string& function, std::vector<std::string> more) {
    const std::string file = write("judge.py", "def reward(response, record):\n    " + function + "\n");
    more.insert(more.begin(), {"--model", model(), "--data", data, "--n", "2", "--max-new-tokens", "4", "--kind",
                               "python", "--path", file, "--keep", "0:1", "--output", path("kept.jsonl")});
    return more;
  };
  const std::vector<std::string> dump = {"--dump", path("dump.jsonl")};
  const std::string some = "return 0 if record['answer'] != 2 else 1 / 0", all = "raise ValueError('never')";
  const Result two = run("evaluate", with(some, dump));
  ASSERT_EQ(two.code, 0) << two.err;
  EXPECT_NE(
      two.err.find("d: 2 of 8 answers could not be graded and count as wrong; --keep leaves out their problems, 1:"),
      std::string::npos)
      << two.err;
  EXPECT_NE(two.err.find("division by zero"), std::string::npos) << two.err;
  EXPECT_EQ(value_of(two.out, "kept"), "3");
  EXPECT_EQ(read_file(path("kept.jsonl")).find("1+1="), std::string::npos);
  EXPECT_EQ(value_of(two.out, "verifier/error"), "2");

  // What has a grade is read back, the rest is sampled again.
  const Result again = run("evaluate", with(some, {"--dump", path("dump.jsonl"), "--resume"}));
  EXPECT_EQ(value_of(again.out, "verifier/error"), "2");
  EXPECT_EQ(value_of(again.out, "verifier/parsed"), "6");
  const Result mended = run("evaluate", with("return 0", {"--dump", path("dump.jsonl"), "--resume"}));
  EXPECT_EQ(value_of(mended.out, "verifier/error"), "0");
  EXPECT_EQ(value_of(mended.out, "verifier/parsed"), "8");
  EXPECT_EQ(mended.err.find("could not be graded"), std::string::npos) << mended.err;

  // A dump of an earlier version says nothing of grades.
  std::string lines = read_file(path("dump.jsonl"));
  for (size_t at = 0; (at = lines.find("\"status\": ", at)) != std::string::npos;)
    lines.erase(at, lines.find("], ", at) + 3 - at);
  write("earlier.jsonl", lines);
  const Result earlier = run("evaluate", with(all, {"--dump", path("earlier.jsonl"), "--resume"}));
  EXPECT_EQ(earlier.code, 0) << earlier.err;
  EXPECT_EQ(value_of(earlier.out, "kept"), "4");
  EXPECT_EQ(value_of(earlier.out, "verifier/error"), "missing") << "nobody knows, and 0 would be a claim";

  expect_error("evaluate", with(all, {}), {"d: none of the 8 answers could be graded", "never"});
}

TEST_F(Programs, DraftsAreLeftOutWhereAutoIsFast) {
  const std::string data = write("data.jsonl", "{\"problem\": \"1+2=\", \"answer\": 3}\n");
  const std::vector<std::string> flags = {"--model",          model(), "--data",  data,      "--n",     "2",
                                          "--max-new-tokens", "4",     "--draft", "history", "--matrix"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), flags.begin(), flags.end());
    return more;
  };
  const Result both = run("mismatch", with({"rollout=fp16,bf16"}));
  EXPECT_EQ(both.code, 0) << both.err;
  EXPECT_EQ(both.lines().size(), 2u);
  const std::string said = "rollout.draft: none, since history needs precision.match: exact, and auto is fast here";
  const size_t first = both.err.find(said);
  EXPECT_NE(first, std::string::npos) << both.err;
  EXPECT_EQ(both.err.find(said, first + 1), std::string::npos) << "once, of the second row";
  expect_error("mismatch", with({"match=fast"}), {"--draft: history needs"});
  const Result one = run("mismatch", with({"match=exact,fast"}));
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_LT(one.err.find("match fast: rollout.draft: history needs"), one.err.find(" prompts, ")) << one.err;
}

TEST_F(Programs, MismatchIsZeroWithTheSameRoundingAndKernels) {
  const std::string data = write("d.jsonl", "{\"problem\": \"1+2=\"}\n{\"problem\": \"14+25=\"}\n");
  const std::vector<std::string> flags = {"--model", model(), "--data", data, "--n", "2", "--max-new-tokens", "12"};
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
  const double half = mean_diff({"--match", "peer"}), brain = mean_diff({"--match", "peer", "--precision", "bf16"});
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
  const Result all =
      with({"--matrix", "rollout=fp16,bf16,fp32", "train=fp16,fp32", "kv_cache=auto,bf16", "lm_head=auto", "match=peer",
            "--table", path("table.md"), "--points", path("points.jsonl")});
  ASSERT_EQ(all.code, 0) << all.err;
  ASSERT_EQ(all.lines().size(), 10u) << "3 x 2 x 2, less the two that put a bf16 cache beside an fp32 rollout";
  EXPECT_NE(all.err.find("left out rollout fp32"), std::string::npos) << all.err;
  const std::string first = all.lines()[0];
  EXPECT_EQ(value_of(first, "rollout"), "\"fp16\"");
  EXPECT_EQ(value_of(first, "match"), "\"peer\"");
  for (const char* key : {"rollout_corr/kl", "rollout_corr/seq_k3_kl_stderr", "rollout_corr/log_ratio_slope",
                          "by_length/seq_k3_kl", "probs_diff_histogram"})
    EXPECT_NE(value_of(first, key), "missing") << key;
  // A cell of the matrix is what the program measures alone.
  const Result alone = with({"--precision", "fp16", "--train-precision", "fp32", "--match", "peer"});
  for (const char* key : {"tokens", "rollout_corr/k3_kl", "training/rollout_probs_diff_max"})
    EXPECT_EQ(value_of(alone.out, key), value_of(all.lines()[2], key)) << key;
  const std::string table = read_file(path("table.md")), points = read_file(path("points.jsonl"));
  EXPECT_EQ(std::count(points.begin(), points.end(), '\n'), 40);
  EXPECT_NE(table.find("| bf16 | fp16 | bf16 | auto | compute | peer | "), std::string::npos) << table;

  const Result some = with({"--matrix", "rollout=fp16,bf16", "match=fast,exact"});
  ASSERT_EQ(some.code, 0) << some.err;
  EXPECT_EQ(some.lines().size(), 3u);
  EXPECT_LT(some.err.find("left out rollout bf16, train fp16"), some.err.find(" prompts, ")) << some.err;
  expect_error("mismatch", {"--model", model(), "--data", data, "--matrix", "rollout=bf16,fp32", "match=exact"},
               {"--matrix leaves no combination that works"});

  expect_error("mismatch", {"--model", model(), "--data", data, "--matrix", "head=fp16"},
               {"--matrix", "lm_head", "head=fp16"});
  expect_error("mismatch", {"--model", model(), "--data", data, "--matrix", "train=fp16,fp8"}, {"train", "fp8"});
  expect_error("mismatch", {"--model", model(), "--data", data, "--matrix", "precision=fp16,bf16,fp16"},
               {"precision", "\"fp16\" is there twice"});
  expect_error("mismatch", {"--model", model(), "--data", data, "--matrix", "precision=fp16", "precision=bf16"},
               {"precision: is there twice", "precision=bf16"});
  expect_error("mismatch", {"--model", model(), "--data", data, "--matrix", "precision=fp16", "train=bf16"},
               {"precision: is that of rollout and training", "train"});
  expect_error("mismatch", {"--model", model(), "--data", data, "--precision", "bf16", "--matrix", "precision=fp16"},
               {"--matrix precision and --precision exclude each other"});
  expect_error("mismatch", {"--model", model(), "--data", data, "--precision", "fp32", "--lm-head", "bf16"},
               {"--lm-head", "bf16", "fp32"});
}

TEST_F(Programs, BenchPrintsItsFields) {
  const std::string random = "random:" + (kSource / "builtin/arithmetic/config.json").string();
  const Result r = run("bench", {"train", "decode", "step", "attention", "--model", random, "--sequences", "2",
                                 "--length", "32", "--batch", "2", "--context", "16", "--steps", "4", "--repeat", "1"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.lines().size(), 8u) << r.out;  // two ceilings, train, decode, step, three of attention
  for (const std::string& line : r.lines())
    for (const char* key : {"bench", "shape", "dtype", "device", "ms_min", "ms_median", "ms_max", "tokens_per_s",
                            "fraction", "peak_bytes"})
      EXPECT_NE(value_of(line, key), "missing") << key << " in " << line;
  expect_error("bench", {"train", "--model", random, "--length", "100000"}, {"--length", "max_position_embeddings"});
  expect_error("bench", {"decode", "train", "--model", random, "--n", "4"},
               {"--n: belongs to bench rollout, got bench decode train"});
  expect_error("bench", {"step", "--model", random, "--no-overlap"}, {"--overlap: belongs to bench update, got"});
  expect_error("bench", {"comm", "--model", random}, {"--model: belongs to bench gemm, attention", "got bench comm"});
}

}  // namespace
}  // namespace mantissa
