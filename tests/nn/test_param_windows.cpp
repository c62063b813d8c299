// Weights and gradients in parts: the bits of whole ones where sums are made in the same order, and little memory.
#include "nn/param_windows.h"

#include <filesystem>
#include <limits>

#include "nn/checkpoint.h"
#include "tests/support/sharded_process.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

constexpr Sharding kParts = Sharding::kParameters;

TEST(ParamWindows, TrainWithTheBitsOfWholeWeights) {
  // One sequence for each process, so that its gradient is one addend in both.
  for (const bool tied : {false, true})
    for (const Dtype compute : {Dtype::kF32, Dtype::kF16})
      for (const Placement placement : {Placement::kDevice, Placement::kHost})
        for (const int size : {2, 3}) {
          SCOPED_TRACE(str(size, " processes, ", name_of(compute), tied ? ", tied" : "",
                           placement == Placement::kHost ? ", offload" : ""));
          std::vector<Outcome> whole(static_cast<size_t>(size)), parts(static_cast<size_t>(size));
          on_ranks(size, [&](Comm& comm) {
            const size_t r = size_t(comm.rank());
            whole[r] = train(comm, compute, tied, placement, Sharding::kOptimizer, size);
            parts[r] = train(comm, compute, tied, placement, kParts, size);
          });
          for (int r = 0; r < size; ++r) expect_same(parts[size_t(r)], whole[size_t(r)]);
          EXPECT_FALSE(parts[0].master.empty());
        }
}

TEST(ParamWindows, AnyNumberOfProcessesTrainsAsOne) {
  for (const bool tied : {false, true})
    for (const int sequences : {6, 5, 1}) {  // as many for each, more for some, none for some
      const Outcome one = train(single_comm(), Dtype::kF32, tied, Placement::kDevice, Sharding::kOptimizer, sequences);
      for (const int size : {2, 3}) {
        SCOPED_TRACE(str(size, " processes, ", sequences, " sequences", tied ? ", tied" : ""));
        Outcome some;
        on_ranks(size, [&](Comm& comm) {
          Outcome mine = train(comm, Dtype::kF32, tied, Placement::kDevice, kParts, sequences);
          if (comm.main()) some = std::move(mine);
        });
        for (size_t i = 0; i < one.losses.size(); ++i) {
          EXPECT_NEAR(some.losses[i], one.losses[i], 1e-6);
          EXPECT_NEAR(some.norms[i], one.norms[i], 1e-6);
        }
        EXPECT_LT(largest_difference(some.gradient, one.gradient), 64 * 1e-6);
        EXPECT_LT(largest_difference(some.master, one.master), 1e-6);
        EXPECT_LT(largest_difference(some.m, one.m), 1e-6);
        EXPECT_LT(largest_difference(some.v, one.v), 1e-6);
      }
    }
}

TEST(ParamWindows, EveryTierOfRecomputationHasTheSameBits) {
  for (const bool tied : {false, true}) {
    std::vector<Outcome> tiers;
    for (const Recompute tier : {Recompute::kNone, Recompute::kElementwise, Recompute::kMlp, Recompute::kFull})
      on_ranks(2, [&](Comm& comm) {
        Outcome mine = train(comm, Dtype::kF16, tied, Placement::kDevice, kParts, 3, tier);
        if (comm.main()) tiers.push_back(std::move(mine));
      });
    for (const Outcome& tier : tiers) expect_same(tier, tiers[0]);
  }
}

/// The sum of gradients of some sequences in fp64, parameter by parameter, on the main process.
std::vector<double> gradient64(Comm& comm, bool tied) {
  const Shard shard{comm.rank(), comm.size()};
  const auto model = random_model(small_config(tied), cpu(), Dtype::kF64, false, 3, shard, Placement::kDevice, kParts);
  ParamSet& set = model->params;
  Exec exec(cpu());
  std::unique_ptr<ParamWindows> windows;
  if (set.in_parts()) {
    set.reduced = ParamBuffer(exec, set.layout, Dtype::kF64, shard);
    windows = std::make_unique<ParamWindows>(exec, comm, set);
  } else {
    set.reduced = set.grad = ParamBuffer(exec, set.layout, Dtype::kF64);
  }
  for (int s = comm.rank(); s < kSequences; s += comm.size()) {
    RandomStream random(8, uint64_t(s));
    std::vector<int32_t> ids, targets, positions;
    for (int i = 0; i < kLength; ++i) {
      ids.push_back(int32_t(random.below(61)));
      targets.push_back(int32_t(random.below(61)));
      positions.push_back(i);
    }
    Tape tape(exec, true);
    ForwardContext ctx;
    ctx.tape = &tape;
    ctx.params = &set;
    ctx.windows = windows.get();
    ctx.grads = &set.grad;
    ctx.residual = Dtype::kF64;
    ctx.ids = tensor_from<int32_t>(cpu(), ids, {kLength});
    ctx.positions = tensor_from<int32_t>(cpu(), positions, {kLength});
    ctx.attention.offsets = tensor_from<int32_t>(cpu(), std::vector<int32_t>{0, kLength}, {2});
    ctx.attention.longest = kLength;
    const Var hidden = model->decoder->forward(ctx);
    const Var logprobs =
        model->decoder->logprobs(ctx, hidden, tensor_from<int32_t>(cpu(), targets, {kLength}), {}).logprobs;
    tape.backward(ops::sum(tape, logprobs));
  }
  if (windows) windows->clear();
  const ParamBuffer whole = gather_whole(exec, comm, set, set.reduced);
  std::vector<double> out;
  for (size_t i = 0; i < set.layout.params().size() && comm.main(); ++i)
    for (const double x : to_host<double>(whole[ParamId{int(i)}])) out.push_back(x);
  return out;
}

TEST(ParamWindows, GradientsAreSummedInFp64AsExactly) {
  for (const bool tied : {false, true}) {
    const std::vector<double> one = gradient64(single_comm(), tied);
    for (const int size : {2, 3}) {
      std::vector<double> some;
      on_ranks(size, [&](Comm& comm) {
        std::vector<double> mine = gradient64(comm, tied);
        if (comm.main()) some = std::move(mine);
      });
      ASSERT_EQ(some.size(), one.size());
      double largest = 0;
      for (size_t i = 0; i < one.size(); ++i) {
        ASSERT_NEAR(some[i], one[i], 1e-12);
        largest = std::max(largest, std::abs(one[i]));
      }
      EXPECT_GT(largest, 0.1);
    }
  }
}

TEST(ParamWindows, HoldTwoUnitsAndTheirGradients) {
  ModelConfig config = small_config(false);
  config.layers = 12;
  for (const int size : {2, 3})
    on_ranks(size, [&](Comm& comm) {
      const Shard shard{comm.rank(), comm.size()};
      const auto model = random_model(config, cpu(), Dtype::kF16, true, 3, shard, Placement::kDevice, kParts);
      ParamSet& set = model->params;
      Exec exec(cpu());
      Optimizer optimizer(exec, set, {}, {}, 100, comm);
      const int64_t mine = set.layout.numel() / comm.size();
      for (const ParamBuffer* buffer : {&set.compute, &set.reduced, &set.master, &set.m, &set.v})
        EXPECT_EQ(buffer->flat().numel(), mine);
      EXPECT_FALSE(set.grad.defined());
      EXPECT_THROW((void)set.compute[ParamId{0}], Error);

      int64_t largest = 0;
      for (int unit = 0; unit < set.layout.units(); ++unit) largest = std::max(largest, set.layout.size(unit));
      ParamWindows windows(exec, comm, set);
      comm.barrier();
      const size_t held = cpu().memory().in_use;
      comm.barrier();
      if (comm.main()) cpu().reset_peak();
      comm.barrier();
      {
        Tape tape(exec, true);
        ForwardContext ctx;
        ctx.tape = &tape;
        ctx.params = &set;
        ctx.windows = &windows;
        ctx.grads = &set.grad;
        model->decoder->join(ctx);
      }
      windows.clear();
      comm.barrier();
      const size_t most = cpu().memory().peak - held, bound = size_t(comm.size()) * size_t(2 * largest) * (2 + 4);
      EXPECT_LE(most, bound * 9 / 8);
      EXPECT_GT(most, 0u);
      EXPECT_EQ(cpu().memory().in_use, held) << "all is given back";
      comm.barrier();
      optimizer.release_grad();
      EXPECT_FALSE(set.reduced.defined());
      optimizer.zero_grad();
      EXPECT_EQ(set.reduced.flat().numel(), mine);
    });
}

TEST(ParamWindows, OneProcessWithoutFiniteGradientsSkipsTheStepOnAll) {
  std::vector<int> skipped(3), after(3);
  std::vector<double> scales(3);
  on_ranks(3, [&](Comm& comm) {
    ShardedProcess p(comm, Dtype::kF16, false, 3, Placement::kDevice, kParts);
    p.forward_backward(0);
    if (comm.rank() == 1) p.model->params.reduced.flat().data<float>()[5] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> before = p.values(p.model->params.compute);
    const size_t r = size_t(comm.rank());
    skipped[r] = p.optimizer->step().skipped;
    EXPECT_EQ(p.values(p.model->params.compute), before);
    scales[r] = p.optimizer->read_state().loss_scale;
    after[r] = p.step(1).skipped;
  });
  EXPECT_EQ(skipped, (std::vector<int>{1, 1, 1}));
  EXPECT_EQ(after, (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(scales, (std::vector<double>{32, 32, 32}));
}

TEST(ParamWindows, CheckpointsAreResumedByAnyNumberAndEitherSharding) {
  const TempDir dir;
  const auto run = [&](const std::filesystem::path& root, int size, Sharding sharding, int64_t steps) {
    Outcome out;
    on_ranks(size, [&](Comm& comm) {
      ShardedProcess p(comm, Dtype::kF16, true, 17, Placement::kDevice, sharding);
      ParamSet& set = p.model->params;
      int64_t at = 0;
      if (const auto latest = latest_checkpoint(root)) at = load_checkpoint(*latest, p.exec, set, *p.optimizer).step;
      std::vector<double> losses;
      for (; at < steps; ++at) {
        p.step(uint64_t(at));
        losses.push_back(p.last_loss);
      }
      save_checkpoint(root, {.step = steps, .config = "run:\n"}, set, *p.optimizer, {});
      std::vector<float> master = p.values(set.master);
      if (comm.main()) out.losses = losses, out.master = std::move(master);
    });
    return out;
  };
  const Outcome straight = run(dir / "straight", 1, kParts, 6);  // of one process all weights are whole
  int number = 0;
  for (const auto& [first, was, second, becomes] : {std::tuple(2, kParts, 1, kParts),
                                                    {1, kParts, 2, kParts},
                                                    {2, kParts, 3, kParts},
                                                    {2, kParts, 2, Sharding::kOptimizer},
                                                    {2, Sharding::kOptimizer, 2, kParts}}) {
    SCOPED_TRACE(str(first, " then ", second));
    const std::filesystem::path root = dir / str("run_", number++);
    run(root, first, was, 3);
    const Outcome rest = run(root, second, becomes, 6);
    ASSERT_EQ(rest.losses.size(), 3u);
    for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(rest.losses[i], straight.losses[i + 3], 1e-4);
    EXPECT_LT(largest_difference(rest.master, straight.master), 1e-3);
  }
}

}  // namespace
}  // namespace mantissa
