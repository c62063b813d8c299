// CheckpointWriter: the bytes of save_checkpoint, from the moment of save(), whatever training does meanwhile.
#include <gtest/gtest.h>

#include <thread>

#include "core/file.h"
#include "core/random.h"
#include "core/registry.h"
#include "nn/checkpoint_writer.h"
#include "tests/support/message.h"
#include "tests/support/sharded_process.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {
namespace fs = std::filesystem;

/// Weights with moments, large enough that writing them takes a while.
struct Trained {
  explicit Trained(Placement placement = Placement::kDevice) {
    const int unit = params.layout.add_unit("layer");
    params.layout.add(unit, "layer.matrix", {1024, 1024}, true);
    params.layout.finish();
    params.placement = placement;
    params.compute = ParamBuffer(exec, params.layout, Dtype::kF16);
    optimizer.emplace(exec, params, OptimConfig{.lr = 0.01}, ScalerConfig{.init_scale = 1}, 100);
    step();
  }
  void step() {
    RandomStream random(uint64_t(++steps), 1);
    float* gradient = params.grad.flat().data<float>();
    for (int64_t i = 0; i < params.grad.flat().numel(); ++i) gradient[i] = random.uniform() - 0.5f;
    optimizer->step();
  }

  Exec exec{cpu()};
  ParamSet params;
  std::optional<Optimizer> optimizer;
  int64_t steps = 0;
};

class CheckpointWriterTest : public testing::Test {
 protected:
  static CheckpointState state(int64_t step) { return {.step = step, .config = "run:\n"}; }
  /// All files of a checkpoint, by their name.
  std::map<std::string, std::string> files(const char* root, int64_t step) const {
    std::map<std::string, std::string> out;
    for (const auto& entry : fs::directory_iterator(dir_ / root / str("step_", step)))
      out[entry.path().filename()] = read_file(entry.path());
    return out;
  }
  TempDir dir_;
};

TEST_F(CheckpointWriterTest, WritesWhatWasThereWhenItWasCalled) {
  for (const bool background : {false, true}) {
    Trained t;
    CheckpointWriter writer(background);
    for (int64_t step = 1; step <= 3; ++step) {
      save_checkpoint(dir_ / "expected", state(step), t.params, *t.optimizer, {.last = 2});
      writer.save(dir_ / "written", state(step), t.params, *t.optimizer, {.last = 2});
      writer.before_change();
      t.step();  // while it is written
    }
    writer.finish();
    for (int64_t step = 2; step <= 3; ++step) EXPECT_EQ(files("written", step), files("expected", step)) << step;
    EXPECT_FALSE(fs::exists(dir_ / "written/step_1"));
  }
}

TEST_F(CheckpointWriterTest, BuffersInHostMemoryAreReadInPlaceBeforeTheyChange) {
  Trained t(Placement::kHost);
  CheckpointWriter writer(true);
  save_checkpoint(dir_ / "expected", state(1), t.params, *t.optimizer, {});
  writer.save(dir_ / "written", state(1), t.params, *t.optimizer, {});
  writer.before_change();
  ASSERT_TRUE(fs::exists(dir_ / "written/step_1"));
  t.step();
  EXPECT_EQ(files("written", 1), files("expected", 1));
}

TEST_F(CheckpointWriterTest, AFailureIsToldAtTheNextCall) {
  Trained t;
  write_file(dir_ / "in_the_way", "");
  const auto expect_named = [&](const auto& call) {
    CheckpointWriter writer(true);
    writer.save(dir_ / "in_the_way", state(1), t.params, *t.optimizer, {});
    try {
      call(writer);
      FAIL() << "nothing was said";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("in_the_way"), std::string::npos) << e.what();
    }
    writer.finish();  // once is enough
  };
  expect_named([](CheckpointWriter& writer) { writer.finish(); });
  expect_named([&](CheckpointWriter& writer) { writer.save(dir_ / "written", state(2), t.params, *t.optimizer, {}); });
  expect_named([](CheckpointWriter& writer) {
    for (int i = 0; i < 1000; ++i) {
      writer.before_change();
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  });
}

TEST_F(CheckpointWriterTest, SeveralProcessesWriteAtOnceWhileTheyTrain) {
  for (const int ranks : {2, 3})
    for (const Placement placement : {Placement::kDevice, Placement::kHost})
      for (const Sharding sharding : {Sharding::kOptimizer, Sharding::kParameters}) {
        SCOPED_TRACE(str(ranks, placement == Placement::kHost ? " host" : " device",
                         sharding == Sharding::kParameters ? " parameters" : ""));
        fs::remove_all(dir_ / "written");
        fs::remove_all(dir_ / "expected");
        for (const bool background : {false, true})
          on_ranks(ranks, [&](Comm& comm) {
            ShardedProcess p(comm, Dtype::kF16, true, 3, placement, sharding);
            CheckpointWriter writer(background);
            p.optimizer->before_change([&] { writer.before_change(); });
            const fs::path all = dir_ / (background ? "written" : "expected"),
                           root = comm.main() ? all : fs::path();  // the others need not know it
            for (int64_t step = 1; step <= 3; ++step) {
              p.step(uint64_t(step));
              // The last rank begins when the others go on: nothing of the checkpoint can be whole before.
              if (background && comm.rank() + 1 == ranks) comm.barrier();
              writer.save(root, state(step), p.model->params, *p.optimizer, {.last = 2});
              if (background && comm.rank() + 1 < ranks) {
                EXPECT_FALSE(fs::exists(all / str("step_", step)));
                comm.barrier();
              }
              if (placement != Placement::kHost) continue;
              writer.before_change();
              EXPECT_TRUE(fs::exists(all / str("step_", step))) << "read in place, before it may change";
            }
            p.step(4);
            writer.finish();
          });
        for (int64_t step = 2; step <= 3; ++step) EXPECT_EQ(files("written", step), files("expected", step)) << step;
        EXPECT_FALSE(fs::exists(dir_ / "written/step_1"));
      }
}

/// The rank that failed, and why, as body was told.
std::string failure_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const RankFailed& e) {
    return str(e.rank, ": ", e.what());
  }
  return "nothing failed";
}

TEST_F(CheckpointWriterTest, WhatFailsOnOneProcessAllAreTold) {
  write_file(dir_ / "in_the_way", "");
  const auto errors = run_ranks(2, [&](Comm& comm) {
    ShardedProcess p(comm, Dtype::kF16);
    ParamSet parts = p.model->params;
    CheckpointWriter writer(true);
    writer.save(dir_ / "in_the_way", state(1), parts, *p.optimizer, {});
    const std::string first = failure_of([&] { writer.finish(); });
    EXPECT_TRUE(first.starts_with("0: ")) << first;
    EXPECT_NE(first.find("in_the_way"), std::string::npos) << first;

    if (comm.rank() == 1) {  // in the stage in which all write
      parts.layout = {};
      for (const char* name : {"twice", "twice"}) parts.layout.add(parts.layout.add_unit("u"), name, {1}, true);
      parts.layout.finish(2);
    }
    const std::string second = failure_of([&] { write_checkpoint(dir_ / "written", state(1), {}, parts, comm, {}); });
    EXPECT_TRUE(second.starts_with("1: ")) << second;
    EXPECT_NE(second.find("two tensors are called \"twice\""), std::string::npos) << second;
  });
  EXPECT_EQ(errors, std::vector<std::string>(2));
  EXPECT_TRUE(fs::is_empty(dir_ / "written")) << "nothing half-written is left";
}

TEST_F(CheckpointWriterTest, AProcessThatEndsIsNotWaitedFor) {
  for (const int lost : {0, 1}) {
    const auto errors = run_ranks(2, [&](Comm& comm) {
      ShardedProcess p(comm, Dtype::kF16, false, 3, Placement::kHost);
      if (comm.rank() == lost) return;
      CheckpointWriter writer(true);
      writer.save(dir_ / "written", state(1), p.model->params, *p.optimizer, {});
      writer.finish();
    });
    EXPECT_EQ(errors[size_t(lost)], "");
    EXPECT_NE(errors[size_t(1 - lost)].find(str("rank ", lost)), std::string::npos) << errors[size_t(1 - lost)];
    EXPECT_NE(errors[size_t(1 - lost)].find("was lost"), std::string::npos) << errors[size_t(1 - lost)];
  }
}

TEST_F(CheckpointWriterTest, LeavingWaits) {
  Trained t;
  { CheckpointWriter(true).save(dir_ / "written", state(1), t.params, *t.optimizer, {}); }
  EXPECT_EQ(latest_checkpoint(dir_ / "written"), dir_ / "written/step_1");
}

}  // namespace
}  // namespace mantissa
