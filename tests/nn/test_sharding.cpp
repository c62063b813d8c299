// Several processes against one: the same mini-batches give the same losses, gradients, masters and decisions, and a
// checkpoint of some number of processes is resumed by any other.
#include "nn/sharding.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <map>
#include <mutex>

#include "core/file.h"
#include "core/registry.h"
#include "nn/checkpoint_writer.h"
#include "tests/support/sharded_process.h"

namespace mantissa {
namespace {
namespace fs = std::filesystem;

TEST(Sharding, AnyNumberOfProcessesTrainsAsOne) {
  for (const bool tied : {false, true})
    for (const Dtype compute : {Dtype::kF32, Dtype::kF16}) {
      const Outcome one = train(single_comm(), compute, tied);
      EXPECT_GT(one.losses.front(), 3.0);
      for (const int size : {2, 3}) {
        SCOPED_TRACE(str(size, " processes, ", name_of(compute), tied ? ", tied" : ""));
        std::vector<Outcome> all(static_cast<size_t>(size));
        on_ranks(size, [&](Comm& comm) { all[size_t(comm.rank())] = train(comm, compute, tied); });
        const Outcome& some = all[0];
        for (size_t i = 0; i < one.losses.size(); ++i) {
          EXPECT_NEAR(some.losses[i], one.losses[i], compute == Dtype::kF32 ? 1e-6 : 1e-4);
          EXPECT_NEAR(some.norms[i], one.norms[i], compute == Dtype::kF32 ? 1e-6 : 1e-4);
        }
        // The gradient is 64 times too large; its sum over sequences is the only thing that is added in another order.
        EXPECT_LT(largest_difference(some.gradient, one.gradient), 64 * 1e-6);
        if (compute == Dtype::kF32) {
          EXPECT_LT(largest_difference(some.master, one.master), 1e-6);
          EXPECT_LT(largest_difference(some.m, one.m), 1e-6);
          EXPECT_LT(largest_difference(some.v, one.v), 1e-6);
        }
        for (const Outcome& other : all) EXPECT_EQ(other.compute, some.compute) << "all compute with the same weights";
      }
    }
}

TEST(Sharding, SumsBegunInBackwardHaveTheSameBits) {
  for (const bool tied : {false, true})
    for (const int size : {2, 3})
      for (const int sequences : {6, 5, 1}) {  // as many for each, more for some, none for some
        SCOPED_TRACE(str(size, " processes, ", sequences, " sequences", tied ? ", tied" : ""));
        on_ranks(size, [&](Comm& comm) {
          std::vector<float> gradients[2], masters[2];
          for (const bool overlap : {false, true}) {
            ShardedProcess p(comm, Dtype::kF16, tied);
            p.sequences = sequences;
            p.overlap = overlap;
            for (uint64_t step = 0; step < 3; ++step) p.step(step);
            const bool busy = comm.rank() < sequences && overlap;
            EXPECT_EQ(p.begun, busy ? (std::vector<int>{3, 2, 1, 3, 2, 1, 3, 2, 1}) : std::vector<int>());
            gradients[overlap] = p.values(p.model->params.reduced);
            masters[overlap] = p.values(p.model->params.master);
          }
          EXPECT_EQ(gradients[1], gradients[0]);
          EXPECT_EQ(masters[1], masters[0]);
        });
      }
}

TEST(Sharding, SmallUnitsBeginTogether) {
  const auto begun = [](Comm& comm) {  // collectives so far
    const std::string last = comm.activity().read().collective;
    const size_t number = last.rfind("number ");
    return number == std::string::npos ? 0 : std::stoi(last.substr(number + 7));
  };
  on_ranks(2, [&](Comm& comm) {
    Exec exec(cpu());
    UnitCollectives sums(exec, comm, &Comm::reduce_scatter);
    const Tensor small = exec.zeros({1 << 10}, Dtype::kF32), half = exec.zeros({1 << 9}, Dtype::kF32);
    const int before = begun(comm);
    for (int i = 0; i < 5; ++i) sums.add(comm, half, small);
    EXPECT_EQ(begun(comm), before);
    sums.begin();
    EXPECT_EQ(begun(comm), before + 1);
    sums.begin();  // nothing waits
    EXPECT_EQ(begun(comm), before + 1);
    const Tensor large = exec.zeros({1 << 24}, Dtype::kF32), part = exec.zeros({1 << 23}, Dtype::kF32);
    sums.add(comm, part, large);  // 64 MB wait for nobody
    EXPECT_EQ(begun(comm), before + 2);
    comm.split(1);
    sums.add(comm.column(), half, small);
    EXPECT_EQ(begun(comm), before + 2);
    sums.add(comm, half, small);  // of other ranks: what waits begins
    sums.finish();
    EXPECT_EQ(begun(comm), before + 3);  // the column counts its own
  });
}

TEST(Sharding, GradientsAreSummedInFp64AsExactly) {
  const auto gradient = [](Comm& comm) {
    Exec exec(cpu());
    ParamSet set;
    const int unit = set.layout.add_unit("layer");
    set.layout.add(unit, "layer.matrix", {37, 5}, true);
    set.layout.add(unit, "layer.norm", {5}, false);
    set.layout.finish(comm.size());
    set.shard = {comm.rank(), comm.size()};
    set.grad = ParamBuffer(exec, set.layout, Dtype::kF64);
    set.reduced = set.shard.whole() ? set.grad : ParamBuffer(exec, set.layout, Dtype::kF64, set.shard);
    for (int s = comm.rank(); s < 6; s += comm.size()) {
      RandomStream random(uint64_t(s), 1);
      for (const int i : {0, 1}) {
        const Tensor& t = set.grad[ParamId{i}];
        for (int64_t k = 0; k < t.numel(); ++k) t.data<double>()[k] += random.uniform() - 0.5;
      }
    }
    GradientSum(exec, comm, set).finish();
    const ParamBuffer whole = gather_whole(exec, comm, set, set.reduced);
    return comm.main() ? to_host<double>(whole[ParamId{0}]) : std::vector<double>();
  };
  const std::vector<double> one = gradient(single_comm());
  for (const int size : {2, 3}) {
    std::vector<double> some;
    on_ranks(size, [&](Comm& comm) {
      std::vector<double> mine = gradient(comm);
      if (comm.main()) some = std::move(mine);
    });
    ASSERT_EQ(some.size(), one.size());
    for (size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(some[i], one[i], 1e-12);
  }
}

TEST(Sharding, OneProcessWithoutFiniteGradientsSkipsTheStepOnAll) {
  std::vector<int> skipped(3), after(3);
  std::vector<double> scales(3);
  on_ranks(3, [&](Comm& comm) {
    ShardedProcess p(comm, Dtype::kF16);
    p.forward_backward(0);
    if (comm.rank() == 1) p.model->params.grad.flat().data<float>()[5] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> before = p.values(p.model->params.master);
    const size_t r = size_t(comm.rank());
    skipped[r] = p.optimizer->step().skipped;
    EXPECT_EQ(p.values(p.model->params.master), before);
    scales[r] = p.optimizer->read_state().loss_scale;
    after[r] = p.step(1).skipped;
  });
  EXPECT_EQ(skipped, (std::vector<int>{1, 1, 1}));
  EXPECT_EQ(after, (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(scales, (std::vector<double>{32, 32, 32}));
}

TEST(Sharding, StateInHostMemoryGivesTheSameBits) {
  for (const Dtype compute : {Dtype::kF32, Dtype::kF16})
    for (const int size : {1, 2}) {
      SCOPED_TRACE(str(size, " processes, ", name_of(compute)));
      Outcome device, host;
      on_ranks(size, [&](Comm& comm) {
        Outcome near = train(comm, compute, true), far = train(comm, compute, true, Placement::kHost);
        if (comm.main()) device = std::move(near), host = std::move(far);
      });
      expect_same(host, device);
    }
}

TEST(Sharding, EachProcessKeepsItsPartOnly) {
  on_ranks(2, [](Comm& comm) {
    ShardedProcess p(comm, Dtype::kF16);
    const ParamSet& set = p.model->params;
    for (const ParamBuffer* buffer : {&set.master, &set.m, &set.v})
      EXPECT_EQ(buffer->flat().numel(), set.layout.numel() / 2);
    for (int unit = 0; unit < set.layout.units(); ++unit)
      EXPECT_TRUE(set.reduced.unit(unit).same_as(set.grad.part(set.layout, unit, set.shard)))
          << "sums take no memory of their own";
    EXPECT_THROW((void)set.master[ParamId{0}], Error);
  });
}

class ShardedCheckpoints : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / str("mantissa_sharding_", ::getpid());
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  /// Trains `size` processes up to `steps`, from the latest checkpoint when there is one, and writes a checkpoint.
  Outcome run(int size, int64_t steps) {
    Outcome out;
    const auto fn = [&](Comm& comm) {
      ShardedProcess p(comm, Dtype::kF16, true, 17);
      ParamSet& set = p.model->params;
      int64_t at = 0;
      if (const auto latest = latest_checkpoint(root_)) at = load_checkpoint(*latest, p.exec, set, *p.optimizer).step;
      std::vector<double> losses;
      for (; at < steps; ++at) {
        p.step(uint64_t(at));
        losses.push_back(p.last_loss);
      }
      save_checkpoint(root_, {.step = steps, .config = "run:\n"}, set, *p.optimizer, {});
      std::vector<float> master = p.values(set.master);
      if (comm.main()) out.losses = losses, out.master = std::move(master);
    };
    on_ranks(size, fn);
    return out;
  }

  fs::path root_;
};

TEST_F(ShardedCheckpoints, AreResumedByAnyNumberOfProcesses) {
  const Outcome straight = run(1, 6);
  for (const auto& [first, second] : std::vector<std::pair<int, int>>{{2, 1}, {1, 2}, {2, 3}}) {
    SCOPED_TRACE(str(first, " then ", second));
    fs::remove_all(root_);
    run(first, 3);
    const Outcome rest = run(second, 6);
    ASSERT_EQ(rest.losses.size(), 3u);
    for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(rest.losses[i], straight.losses[i + 3], 1e-4);
    EXPECT_LT(largest_difference(rest.master, straight.master), 1e-3);
  }
}

TEST_F(ShardedCheckpoints, HoldTheSameBytesWhoeverReadsThem) {
  run(2, 3);
  const fs::path first = root_ / "step_3", kept = root_ / "kept";
  fs::copy(first, kept);
  for (const int size : {1, 3}) {
    run(size, 3);  // loads and writes, nothing between
    for (const char* name : {"master.safetensors", "adam_m.safetensors", "adam_v.safetensors", "MANIFEST"}) {
      const auto bytes = [&](const fs::path& directory) {
        const MappedFile file(directory / name);
        return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
      };
      EXPECT_EQ(bytes(first), bytes(kept)) << name << " of " << size;
    }
  }
}

/// Every file below a directory, by its path there.
std::map<std::string, std::string> files_below(const fs::path& root) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(root))
    if (entry.is_regular_file()) files[fs::relative(entry.path(), root)] = read_file(entry.path());
  return files;
}

TEST_F(ShardedCheckpoints, NeitherTheyNorExportsTakeASecondCopyOfEverything) {
  ModelConfig config = small_config(false);
  config.layers = 24;
  const auto write = [&](Comm& comm, const fs::path& root) {
    const Shard shard{comm.rank(), comm.size()};
    const auto model = random_model(config, cpu(), Dtype::kF16, true, 5, shard, Placement::kHost);
    Exec exec(cpu());
    Optimizer optimizer(exec, model->params, {}, {}, 100, comm);
    const ParamLayout& layout = model->params.layout;
    int64_t largest = 0;
    for (int unit = 0; unit < layout.units(); ++unit) largest = std::max(largest, layout.size(unit));
    CheckpointWriter writer(true);
    comm.barrier();
    const size_t held = cpu().memory().in_use;
    comm.barrier();
    if (comm.main()) cpu().reset_peak();
    comm.barrier();
    writer.save(root, {.step = 1, .config = "run:\n"}, model->params, optimizer, {});
    writer.finish();
    save_hf(*model, root / "model", Dtype::kF16, comm);
    comm.barrier();
    // The unit on the main process; of it, on each, what is sent and what comes.
    const size_t unit = 4 * size_t(largest), bound = comm.size() == 1 ? 0 : unit + size_t(comm.size() + 1) * unit;
    EXPECT_LE(cpu().memory().peak - held, bound * 9 / 8 + 65536);
    EXPECT_LT(bound * 9 / 8 + 65536, 4 * size_t(layout.numel()));
  };
  write(single_comm(), root_ / "one");
  for (const int size : {2, 3}) {
    on_ranks(size, [&](Comm& comm) { write(comm, root_ / "some"); });
    EXPECT_EQ(files_below(root_ / "some"), files_below(root_ / "one")) << size;
    fs::remove_all(root_ / "some");
  }
}

}  // namespace
}  // namespace mantissa
