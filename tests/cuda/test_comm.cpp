// Ranks on GPUs, as a user starts them: NCCL's sums checked by `bench comm`, and a run on two GPUs beside one on one.
// Needs two GPUs and libnccl.so.2; skipped without.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>

#include "tests/support/programs.h"

#ifdef MANTISSA_WITH_CUDA
#include "cuda/backend.h"
#endif

namespace mantissa {
namespace {

class CudaRanks : public Programs {
 protected:
  void SetUp() override {
#ifdef MANTISSA_WITH_CUDA
    if (cuda_device_count() >= 2) return;
#endif
    GTEST_SKIP() << "needs two GPUs";
  }
  Result run_on_gpus(const std::string& program, const std::vector<std::string>& arguments) const {
    return run(program, arguments, visible_ + ";");
  }
  std::vector<std::string> trainer(const std::string& name, int ranks, std::vector<std::string> more = {}) const {
    std::vector<std::string> words = {"--config",
                                      (kSource / "configs/grpo_fp16.yaml").string(),
                                      "data.files=" + (kSource / "builtin/arithmetic/sanity.jsonl").string(),
                                      "run.output_dir=" + path(name),
                                      str("distributed.gpus=", ranks),
                                      "run.device=cuda",
                                      "checkpoint.every=1",
                                      "optim.schedule=constant"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  double metric(const std::string& name, const std::string& key, size_t line) const {
    std::ifstream in(dir_ / name / "metrics.jsonl");
    std::string text;
    for (size_t i = 0; i <= line; ++i) std::getline(in, text);
    const size_t at = text.find("\"" + key + "\": ");
    return at == std::string::npos ? NAN : std::stod(text.substr(at + key.size() + 4));
  }

 private:
  /// The programs are started without GPUs otherwise.
  const std::string visible_ = std::getenv("CUDA_VISIBLE_DEVICES")
                                   ? str("export CUDA_VISIBLE_DEVICES=", std::getenv("CUDA_VISIBLE_DEVICES"))
                                   : std::string("unset CUDA_VISIBLE_DEVICES");
};

TEST_F(CudaRanks, CollectivesAreRight) {
  const Result r = run_on_gpus("bench", {"comm", "--gpus", "2", "--repeat", "1", "--device", "cuda"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("NCCL"), std::string::npos) << r.err;
}

TEST_F(CudaRanks, SumsBesideBackwardAreThoseAfterIt) {
  // Compared by the program itself, in one process: from start to start another plan may be chosen for a product.
  const std::string model = "random:" + (kSource / "configs/bench/smollm2_135m.json").string();
  const Result r =
      run_on_gpus("bench", {"update", "--gpus", "2", "--repeat", "1", "--device", "cuda", "--precision", "fp16",
                            "--deterministic", "--sequences", "8", "--length", "256", "--model", model});
  EXPECT_EQ(r.code, 0) << r.err;
}

TEST_F(CudaRanks, ARunOnTwoTakesTheStepsOfARunOnOne) {
  for (const int ranks : {1, 2}) {
    const Result r = run_on_gpus("trainer", trainer(str("on_", ranks), ranks, {"train.steps=2"}));
    ASSERT_EQ(r.code, 0) << r.err;
  }
  for (const size_t step : {0, 1}) {
    EXPECT_EQ(metric("on_2", "prompt_length/mean", step), metric("on_1", "prompt_length/mean", step));
    EXPECT_NEAR(metric("on_2", "critic/score/mean", step), metric("on_1", "critic/score/mean", step), 0.1);
    EXPECT_EQ(metric("on_2", "scaler/skipped", step), 0);
  }
  EXPECT_NEAR(metric("on_2", "actor/grad_norm", 0), metric("on_1", "actor/grad_norm", 0), 0.1);
  const Result resumed = run_on_gpus("trainer", trainer("on_2", 1, {"train.steps=3", "--resume", "auto"}));
  EXPECT_EQ(resumed.code, 0) << resumed.err;
}

TEST_F(CudaRanks, ARunWithWeightsInPartsTakesTheStepsOfOneWithWholeOnes) {
  for (const char* shard : {"optimizer", "parameters"}) {
    const Result r = run_on_gpus("trainer", trainer(shard, 2, {"train.steps=2", str("distributed.shard=", shard)}));
    ASSERT_EQ(r.code, 0) << r.err;
  }
  for (const size_t step : {0, 1}) {
    EXPECT_EQ(metric("parameters", "prompt_length/mean", step), metric("optimizer", "prompt_length/mean", step));
    EXPECT_NEAR(metric("parameters", "critic/score/mean", step), metric("optimizer", "critic/score/mean", step), 0.1);
    EXPECT_EQ(metric("parameters", "scaler/skipped", step), 0);
    if (!std::isnan(metric("optimizer", "exact/checked_tokens", step))) {
      EXPECT_GT(metric("parameters", "exact/checked_tokens", step), 0);
      EXPECT_EQ(metric("parameters", "exact/differing_tokens", step), 0);
    }
  }
  EXPECT_NEAR(metric("parameters", "actor/grad_norm", 0), metric("optimizer", "actor/grad_norm", 0), 0.1);
  Result r = run_on_gpus("trainer", trainer("parameters", 1, {"train.steps=3", "--resume", "auto"}));
  EXPECT_EQ(r.code, 0) << r.err;
  r = run_on_gpus("trainer", trainer("parameters", 2,
                                     {"train.steps=4", "distributed.shard=parameters", "distributed.offload=optimizer",
                                      "--resume", "auto"}));
  EXPECT_EQ(r.code, 0) << r.err;
}

TEST_F(CudaRanks, ExpertsSharedOutGiveARolloutTheBitsOfOneGpu) {
  // One GPU with all experts, two with half of them each; then on by one, and by two with states in host memory.
  const std::vector<std::string> mixture = {"model.path=builtin:arithmetic_moe", "precision.match=exact",
                                            "exact.check=all", "train.steps=2"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), mixture.begin(), mixture.end());
    return more;
  };
  Result r = run_on_gpus("trainer", trainer("one", 1, with({})));
  ASSERT_EQ(r.code, 0) << r.err;
  r = run_on_gpus("trainer", trainer("two", 2, with({"distributed.experts=2"})));
  ASSERT_EQ(r.code, 0) << r.err;
  const double digest = metric("one", "rollout/digest", 0);
  EXPECT_GT(digest, 0);
  EXPECT_EQ(metric("two", "rollout/digest", 0), digest);
  EXPECT_EQ(metric("two", "critic/score/mean", 0), metric("one", "critic/score/mean", 0));
  EXPECT_NEAR(metric("two", "actor/grad_norm", 0), metric("one", "actor/grad_norm", 0),
              1e-2 * metric("one", "actor/grad_norm", 0));
  EXPECT_NEAR(metric("two", "moe/load_max", 0), metric("one", "moe/load_max", 0), 1e-6);
  for (const size_t step : {0, 1}) {
    EXPECT_EQ(metric("two", "scaler/skipped", step), 0);
    EXPECT_GT(metric("two", "exact/checked_tokens", step), 0);
    EXPECT_EQ(metric("two", "exact/differing_tokens", step), 0);
  }
  r = run_on_gpus("trainer", trainer("two", 1, with({"train.steps=3", "--resume", "auto"})));
  EXPECT_EQ(r.code, 0) << r.err;
  r = run_on_gpus("trainer", trainer("two", 2,
                                     with({"train.steps=4", "distributed.experts=2", "distributed.offload=optimizer",
                                           "train.recompute=full", "--resume", "auto"})));
  EXPECT_EQ(r.code, 0) << r.err;
  r = run_on_gpus(
      "trainer",
      trainer("two", 2,
              with({"train.steps=5", "distributed.experts=2", "distributed.shard=parameters", "--resume", "auto"})));
  EXPECT_EQ(r.code, 0) << r.err;
  for (const size_t step : {3, 4}) EXPECT_EQ(metric("two", "exact/differing_tokens", step), 0);
}

TEST_F(CudaRanks, RolloutsGatherWeightsByUnitToTheSameBits) {
  for (const char* gather : {"whole", "unit"}) {
    const Result r =
        run_on_gpus("trainer", trainer(gather, 2,
                                       {"train.steps=2", "precision.match=exact", "exact.check=all",
                                        "distributed.shard=parameters", str("distributed.gather=", gather)}));
    ASSERT_EQ(r.code, 0) << r.err;
  }
  EXPECT_EQ(metric("unit", "rollout/digest", 0), metric("whole", "rollout/digest", 0));
  for (const size_t step : {0, 1}) {
    EXPECT_GT(metric("unit", "exact/checked_tokens", step), 0);
    EXPECT_EQ(metric("unit", "exact/differing_tokens", step), 0);
  }
}

TEST_F(CudaRanks, MoreThanThereAreIsAnErrorThatCounts) {
  const Result r = run_on_gpus("bench", {"comm", "--gpus", "99", "--device", "cuda"});
  EXPECT_EQ(r.code, 1);
  EXPECT_NE(r.err.find("asked for 99 GPUs, this machine has "), std::string::npos) << r.err;
}

}  // namespace
}  // namespace mantissa
