// Several ranks on this machine, as a user starts them: the programs launch themselves, and end together.
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <map>
#include <regex>

#include "core/safetensors.h"
#include "tests/support/programs.h"

namespace mantissa {
namespace {

using Launch = Programs;

TEST_F(Launch, RanksOfOneCommandAreOneRun) {
  // Results are checked by the program itself; one line a measurement, from rank 0 alone.
  const Result r = run("bench", {"comm", "--gpus", "3", "--repeat", "1", "--device", "cpu"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("ranks: 3 processes, joined by sockets, started by mantissa"), std::string::npos) << r.err;
  EXPECT_EQ(r.err.find("[rank"), std::string::npos) << r.err;
  EXPECT_GE(r.lines().size(), 20u);
  for (const std::string& line : r.lines()) EXPECT_NE(line.find("\"ranks\": 3"), std::string::npos) << line;
}

TEST_F(Launch, UpdatesCompareTheirSumsBesideBackwardWithThoseAfterIt) {
  const Result r = run("bench",
                       {"update", "--gpus", "2", "--repeat", "1", "--device", "cpu", "--deterministic", "--sequences",
                        "2", "--length", "16", "--model", "builtin:arithmetic"},
                       "export MANTISSA_BUILTIN=" + quoted((kSource / "builtin").string()) + ";");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.out.find("\"bench\": \"update\", \"shape\": \"S=2,L=16,recompute=none,ranks=2,deterministic\""),
            std::string::npos)
      << r.out;
}

TEST_F(Launch, RanksMayComeFromAnotherLauncher) {
  const std::string command = quoted((kBin / "bench").string()) + " comm --repeat 1 --device cpu";
  const std::string common = "WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29741 MANTISSA_JOB=test ";
  // The other rank runs beside the one that run() starts; what is left on its stderr would be an alarm.
  const Result r =
      run("bench", {"comm", "--repeat", "1", "--device", "cpu"},
          "export " + common + "; RANK=1 " + command + " 2>" + quoted(path("other")) + " & export RANK=0;");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_GE(r.lines().size(), 20u);
  EXPECT_EQ(read_file(path("other")), "");
}

TEST_F(Launch, ALaunchersProcessesAreTheRanksWhateverTheConfigSays) {
  // The other rank never comes, so the run is ended; what it says before that is the test.
  const std::string config = write("run.yaml", "model: {path: m}\ndata: {files: f}\ndistributed: {gpus: 4}\n");
  const Result r = run("trainer", {"--config", config, "run.output_dir=" + path("run"), "run.device=cpu"},
                       "export RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29743; timeout -s KILL 2 ");
  EXPECT_NE(
      r.err.find("distributed.gpus: without effect under RANK, WORLD_SIZE, whose 2 processes are the ranks; got 4"),
      std::string::npos)
      << r.err;
}

TEST_F(Launch, ALauncherOfOneProcessCountsAsNone) {
  const Result r = run("bench", {"comm", "--gpus", "2", "--repeat", "1", "--device", "cpu"},
                       "export RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29742;");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("ranks: 2 processes"), std::string::npos) << r.err;
}

TEST_F(Launch, BadNumbersOfRanks) {
  expect_error("bench", {"comm", "--gpus", "none"}, {"--gpus", "auto or a number", "\"none\""});
  expect_error("bench", {"comm", "--gpus", "5000", "--device", "cpu"}, {"--gpus", "between 1 and 4096", "\"5000\""});
  expect_error("bench", {"comm", "--gpus", "4096", "--device", "cpu"}, {"--gpus", "on a CPU at most", "got 4096"});
  expect_error("bench", {"comm", "--gpus", "2", "--device", "cuda"}, {"--gpus", "asked for 2 GPUs", "has 0"});
  expect_error("bench", {"comm"}, {"WORLD_SIZE", "\"x\""}, "export RANK=0 WORLD_SIZE=x;");
}

// ---- training on several ranks -----------------------------------------------------------------------------

/// GRPO in fp32 on the embedded model: 5 prompts x 4 samples, two updates and a checkpoint a step, one evaluation.
class Ranks : public Programs {
 protected:
  std::vector<std::string> arguments(const std::string& name, int ranks, std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {"--config", (kSource / "configs/grpo_fp16.yaml").string()};
    const std::string data = (kSource / "builtin/arithmetic/sanity.jsonl").string();
    for (const std::string& word :
         {"run.output_dir=" + path(name), str("distributed.gpus=", ranks), std::string("run.device=cpu"),
          "data.files=" + data, "eval.files=" + data, std::string("eval.limit=5"), std::string("eval.every=2"),
          std::string("precision.train=fp32"), std::string("precision.rollout=fp32"), std::string("rollout.n=4"),
          std::string("train.prompts_per_step=5"), std::string("train.mini_batch_size=10"),
          std::string("train.steps=2"), std::string("checkpoint.every=1"), std::string("checkpoint.keep=0"),
          std::string("logging.samples=5"), std::string("optim.schedule=constant")})
      all.push_back(word);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  void train(const std::string& name, int ranks, std::vector<std::string> more = {}) const {
    const Result r = run("trainer", arguments(name, ranks, std::move(more)));
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(r.err.find("[rank"), std::string::npos) << "only rank 0 speaks: " << r.err;
  }

  /// What stands before a command so that one of its ranks, process $rank, is struck once two steps are done.
  std::string striking(const std::string& name, int rank, const std::string& blow) const {
    return "sh -c '\"$0\" \"$@\" & for i in $(seq 300); do sleep 0.1; test $(cat " + path(name + "/metrics.jsonl") +
           " 2>/dev/null | wc -l) -ge 2 && break; done; number=" + std::to_string(rank) +
           "; rank=$(pgrep -P $! | sed -n $((number + 1))p); " + blow + "; wait $!' ";
  }

  std::vector<std::map<std::string, double>> lines(const std::string& name, const std::string& file) const {
    std::vector<std::map<std::string, double>> all;
    std::ifstream in(dir_ / name / file);
    for (std::string line; std::getline(in, line);) {
      static const std::regex kPair(R"re("([^"]+)": ([^,}]+))re");
      auto& values = all.emplace_back();
      for (std::sregex_iterator it(line.begin(), line.end(), kPair), end; it != end; ++it)
        if (const std::string key = (*it)[1]; !key.starts_with("timing_s/") && !key.starts_with("perf/"))
          values[key] = (*it)[2] == "null" ? -1e30 : std::stod((*it)[2]);
    }
    return all;
  }

  void expect_near(const std::string& one, const std::string& other, double bound) const {
    for (const char* file : {"metrics.jsonl", "eval.jsonl"}) {
      const auto a = lines(one, file), b = lines(other, file);
      ASSERT_EQ(a.size(), b.size()) << file;
      for (size_t i = 0; i < a.size(); ++i) {
        ASSERT_EQ(a[i].size(), b[i].size());
        for (const auto& [name, value] : a[i]) {
          if (name == "rollout/digest" && i > 0) continue;  // later weights differ by the order of sums
          EXPECT_NEAR(b[i].at(name), value, bound * std::max(1.0, std::abs(value))) << file << " " << i << " " << name;
        }
      }
    }
    static const std::regex logprobs(
        R"re(, "[a-z]+_logprobs": \[[^\]]*\])re");  // of weights that differ in the same way
    const auto samples = [&](const std::string& run) {
      return std::regex_replace(read_file(dir_ / run / "samples.jsonl"), logprobs, "");
    };
    EXPECT_EQ(samples(one), samples(other));
    // Adam's first moment is made of gradients, the masters of updates. Adam divides by the gradient's own size, so
    // that a weight whose gradient is next to nothing may go either way by the learning rate.
    for (const char* name : {"adam_m", "master"}) {
      const std::string file = str("checkpoints/step_2/", name, ".safetensors");
      const Safetensors x(dir_ / one / file), y(dir_ / other / file);
      for (const auto& [tensor, entry] : x.entries()) {
        std::vector<float> left(entry.data.size() / sizeof(float)), right(left.size());
        std::memcpy(left.data(), entry.data.data(), entry.data.size());
        ASSERT_EQ(y.at(tensor).data.size(), entry.data.size());
        std::memcpy(right.data(), y.at(tensor).data.data(), entry.data.size());
        double worst = 0;
        for (size_t i = 0; i < left.size(); ++i) worst = std::max(worst, std::abs(double(left[i]) - right[i]));
        EXPECT_LT(worst, std::string(name) == "master" ? 2e-4 : bound) << tensor;
      }
    }
  }
};

TEST_F(Ranks, ARunOnSeveralIsTheRunOnOne) {
  train("one", 1);
  train("two", 2);
  train("three", 3);
  expect_near("one", "two", 1e-6);
  expect_near("one", "three", 1e-6);
}

TEST_F(Ranks, EightMakeTheRunOfOne) {
  train("one", 1);
  train("eight", 8);  // five groups: three ranks have none
  expect_near("one", "eight", 1e-6);
}

TEST_F(Ranks, EightSampleTheBitsOfOneHoweverTheModelIsSharedOut) {
  // One update a step, so that the first step's loss is a sum of the same terms in another order.
  const std::vector<std::string> common = {"precision.train=fp16",     "precision.rollout=fp16",
                                           "precision.match=exact",    "train.prompts_per_step=12",
                                           "train.mini_batch_size=48", "train.micro_batch_tokens=128"};
  struct Layout {
    std::string name, model;
    int ranks;
    std::vector<std::string> more;
  };
  const std::vector<Layout> layouts = {
      {"one", "arithmetic", 1, {}},
      {"eight", "arithmetic", 8, {}},
      {"parts", "arithmetic", 8, {"distributed.shard=parameters", "distributed.offload=optimizer"}},
      {"experts_one", "arithmetic_moe", 1, {}},
      {"experts_two_rows", "arithmetic_moe", 8, {"distributed.experts=4"}},
      {"experts_one_each", "arithmetic_moe", 8, {"distributed.experts=8"}}};
  std::map<std::string, std::map<std::string, double>> one;  // by model
  for (const Layout& layout : layouts) {
    SCOPED_TRACE(layout.name);
    std::vector<std::string> words = common;
    words.push_back("model.path=builtin:" + layout.model);
    words.insert(words.end(), layout.more.begin(), layout.more.end());
    train(layout.name, layout.ranks, words);
    const auto metrics = lines(layout.name, "metrics.jsonl");
    ASSERT_EQ(metrics.size(), 2u);
    for (const auto& step : metrics) {
      EXPECT_GT(step.at("exact/checked_tokens"), 0);
      EXPECT_EQ(step.at("exact/differing_tokens"), 0);
      EXPECT_EQ(step.at("scaler/skipped"), 0);
    }
    const auto& first = one.try_emplace(layout.model, metrics[0]).first->second;
    for (const char* same : {"rollout/digest", "critic/score/mean", "response_length/mean", "exact/checked_tokens"})
      EXPECT_EQ(metrics[0].at(same), first.at(same)) << same;
    EXPECT_NEAR(metrics[0].at("actor/pg_loss"), first.at("actor/pg_loss"), 1e-8);
    EXPECT_NEAR(metrics[0].at("actor/grad_norm"), first.at("actor/grad_norm"), 1e-3 * first.at("actor/grad_norm"));
  }
}

TEST_F(Ranks, SumsBesideBackwardAreThoseAfterIt) {
  const std::vector<std::string> small = {"train.micro_batch_tokens=64", "precision.train=fp16",
                                          "precision.rollout=fp16"};
  train("beside", 3, small);
  std::vector<std::string> after = small;
  after.push_back("distributed.overlap=false");
  train("after", 3, after);
  EXPECT_EQ(lines("beside", "metrics.jsonl"), lines("after", "metrics.jsonl"));
  for (const char* file : {"master.safetensors", "adam_m.safetensors", "adam_v.safetensors"})
    EXPECT_EQ(read_file(dir_ / "beside/checkpoints/step_2" / file), read_file(dir_ / "after/checkpoints/step_2" / file))
        << file;
}

TEST_F(Ranks, ResumeOnAnotherNumberOfRanks) {
  train("one", 1);
  for (const auto& [before, after] : {std::pair(2, 1), std::pair(1, 2)}) {
    const std::string name = str("from_", before);
    train(name, before, {"train.steps=1"});
    train(name, after, {"--resume", "auto"});
    expect_near("one", name, 1e-6);
  }
}

TEST_F(Ranks, AnOverflowOnOneSkipsTheStepOnAll) {
  // Mini-batches of one sequence: only the rank that has it meets the infinite weight.
  const std::vector<std::string> more = {"train.inject_overflow_step=1", "precision.train=fp16", "eval.every=0",
                                         "train.prompts_per_step=1", "train.mini_batch_size=1"};
  const Result r = run("trainer", arguments("run", 2, more));
  ASSERT_EQ(r.code, 0) << r.err;
  const size_t at = r.err.find("overflow at loss scale 65536, update skipped; first: ");
  ASSERT_NE(at, std::string::npos) << r.err;
  EXPECT_EQ(r.err.find("overflow at", at + 1), std::string::npos) << "said once: " << r.err;
  EXPECT_NE(r.err.find("layers.0", at), std::string::npos) << r.err;
  const auto metrics = lines("run", "metrics.jsonl");
  ASSERT_EQ(metrics.size(), 2u);
  EXPECT_EQ(metrics[0].at("scaler/skipped"), 1);
  EXPECT_EQ(metrics[1].at("scaler/skipped"), 0);
  EXPECT_EQ(metrics[1].at("training/policy_version"), 7);
}

TEST_F(Ranks, OneRankKilledEndsAll) {
  const std::string script = striking("run", 1, "kill -9 $rank");
  for (const std::vector<std::string>& kind :
       {std::vector<std::string>{}, {"model.path=builtin:arithmetic_moe", "distributed.experts=2"}}) {
    const auto with = [&](std::vector<std::string> more) {
      more.insert(more.end(), kind.begin(), kind.end());
      return more;
    };
    const Result r = run("trainer", arguments("run", 2, with({"train.steps=100000", "eval.every=0"})), script);
    EXPECT_EQ(r.code, 1) << r.err;
    const size_t at = r.err.find("error: rank 1 (pid ");
    ASSERT_NE(at, std::string::npos) << r.err;
    EXPECT_NE(r.err.find("ended without a word", at), std::string::npos) << r.err;
    EXPECT_TRUE(std::regex_search(r.err.substr(at), std::regex(" in phase [a-z -]+ (of|after) step [0-9]+"))) << r.err;
    EXPECT_EQ(r.err.find("error: ", at + 1), std::string::npos) << r.err;
    train("run", 2, with({"--resume", "auto", "train.steps=4"}));
    std::filesystem::remove_all(path("run"));
  }
}

TEST_F(Ranks, TheRankThatFailsIsNamed) {
  const std::string small = "prlimit --pid $rank --fsize=65536", full = "prlimit --pid $rank --as=65536";
  // Once there is the file, workers of one rank end and cannot be started again.
  const std::string gone = path("gone"), asked = "os.path.exists('" + gone + "' + os.environ['RANK'])";
  write("reward.py", "import os\nif " + asked + ": raise OSError\ndef reward(response, row):\n  if " + asked +
                         ": os._exit(1)\n  return 0.5 * (len(response) % 3)\n");
  struct Case {
    std::string blow;
    std::vector<std::string> more, said;
  };
  const std::vector<Case> cases = {
      {small, {}, {".safetensors", "File too large"}},
      {small, {"checkpoint.background=false"}, {"phase checkpoint after step ", ".safetensors", "File too large"}},
      {full, {}, {}},
      {"touch " + gone + "$number",
       {"reward.kind=python", "reward.path=" + path("reward.py:reward"), "reward.workers=1"},
       {"phase reward", "reward.path"}}};
  for (const Case& c : cases)
    for (const int rank : {0, 1}) {
      SCOPED_TRACE(c.blow + str(", rank ", rank));
      std::vector<std::string> more = c.more;
      more.insert(more.end(), {"train.steps=100000", "eval.every=0"});
      const Result r = run("trainer", arguments("run", 2, more), striking("run", rank, c.blow));
      EXPECT_EQ(r.code, 1) << r.err;
      const size_t at = r.err.find("error: ");
      ASSERT_NE(at, std::string::npos) << r.err;
      EXPECT_EQ(r.err.find(str("error: rank ", rank, " (pid ")), at) << r.err;
      EXPECT_EQ(r.err.find("error: ", at + 1), std::string::npos) << r.err;
      for (const std::string& part : c.said) EXPECT_NE(r.err.find(part, at), std::string::npos) << part << r.err;
      std::filesystem::remove_all(path("run"));
      std::filesystem::remove(gone + std::to_string(rank));
    }
}

TEST_F(Ranks, WhatIsWrongWithTheRunIsSaidAsOnOneRank) {
  write("no_answer.jsonl", "{\"problem\": \"1+2=\"}\n");
  for (const std::string& fault : {std::string("model.path=nowhere"), std::string("data.files=nowhere.jsonl"),
                                   std::string("data.chat_template=qwen3"), "eval.files=" + path("no_answer.jsonl")}) {
    SCOPED_TRACE(fault);
    std::string lines[2];
    for (const int ranks : {1, 2}) {
      const Result r = run("trainer", arguments("run", ranks, {fault}));
      EXPECT_EQ(r.code, 1) << r.err;
      const size_t at = r.err.find("error: ");
      ASSERT_NE(at, std::string::npos) << r.err;
      lines[ranks - 1] = r.err.substr(at);
      EXPECT_EQ(r.err.find("[rank"), std::string::npos) << r.err;
      std::filesystem::remove_all(path("run"));
    }
    EXPECT_EQ(lines[0], lines[1]);
  }
}

TEST_F(Ranks, AllReadTheSameFiles) {
  // Two folders where the same paths of a config mean the same or other files, and a rank started in each.
  const fs::path builtin = kSource / "builtin/arithmetic";
  for (const char* folder : {"a", "b"}) {
    fs::create_directories(path(folder));
    fs::copy(builtin, fs::path(path(folder)) / "model", fs::copy_options::recursive);
    fs::copy(builtin / "sanity.jsonl", fs::path(path(folder)) / "data.jsonl");
  }
  int port = 29751;
  const auto both = [&] {
    const std::vector<std::string> words =
        arguments("run", 1, {"model.path=model", "data.files=data.jsonl", "train.steps=1"});
    std::string other = quoted((kBin / "trainer").string());
    for (const std::string& word : words) other += " " + quoted(word);
    const std::string common = str("WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=", port++, " MANTISSA_JOB=test");
    const Result r = run("trainer", words,
                         "export " + common + "; cd " + quoted(path("b")) + "; RANK=1 " + other + " 2>" +
                             quoted(path("other")) + " & cd " + quoted(path("a")) + "; export RANK=0;");
    fs::remove_all(path("run"));
    return r.code == 0 ? "" : r.err.substr(r.err.find("error: "));
  };
  EXPECT_EQ(both(), "");
  std::ofstream(fs::path(path("b")) / "model/consolidated.safetensors") << "of another program";
  EXPECT_EQ(both(), "") << "it is not read";
  const auto changed = [&](const char* file, const std::string& from, const std::string& to) {
    const fs::path place = fs::path(path("b")) / file;
    const std::string text = read_file(place);
    std::string now = text;
    now.replace(now.rfind(from), from.size(), to);
    std::ofstream(place, std::ios::binary) << now;
    const std::string said = both();
    std::ofstream(place, std::ios::binary) << text;
    return said;
  };
  const std::string last(1, read_file(builtin / "model.safetensors").back());
  for (const auto& [said, what] :
       {std::pair(changed("data.jsonl", "\"176\"", "\"177\""), "problems in data.files"),
        std::pair(changed("model/config.json", "10000.0", "20000.0"), "config.json"),
        std::pair(changed("model/tokenizer.json", "}", ", \"note\": 1}"), "tokenizer.json"),
        std::pair(changed("model/model.safetensors", last, std::string(1, char(last[0] ^ 1))),
                  "weights in model.path")})
    EXPECT_NE(said.find(str("rank 1 reads other ", what, " than rank 0")), said.npos) << what << ": " << said;
}

TEST_F(Ranks, AStopSignalSavesOnce) {
  const Result r = run("trainer", arguments("run", 2, {"train.steps=100000", "eval.every=0"}),
                       "sh -c '\"$0\" \"$@\" & sleep 3; kill $!; wait $!' ");
  EXPECT_EQ(r.code, 128 + SIGTERM) << r.err;
  const size_t at = r.err.find("stopping after this step");
  ASSERT_NE(at, std::string::npos) << r.err;
  EXPECT_EQ(r.err.find("stopping after this step", at + 1), std::string::npos) << r.err;
  EXPECT_NE(r.err.find("stopped after step"), std::string::npos) << r.err;
}

}  // namespace
}  // namespace mantissa
