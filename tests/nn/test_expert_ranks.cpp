// Experts shared out over ranks: the same losses, gradients and updates as on one process, the same bits of a token's
// log-prob, and checkpoints and exports that do not know of it.
#include <gtest/gtest.h>

#include <map>

#include "autograd/nonfinite.h"
#include "core/file.h"
#include "core/registry.h"
#include "nn/checkpoint_writer.h"
#include "nn/moe.h"
#include "tests/support/message.h"
#include "tests/support/sharded_process.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

/// Ranks, in rows that share the experts out.
struct Layout {
  int ranks, experts;
};
constexpr Layout kLayouts[] = {{2, 2}, {4, 2}, {4, 4}, {3, 1}};

std::string name_of(const Layout& layout) {
  return str(layout.ranks, " ranks, experts over ", layout.experts);
}

void on_rows(const Layout& layout, const std::function<void(Comm&)>& fn) {
  on_ranks(layout.ranks, [&](Comm& comm) {
    comm.split(layout.experts);
    fn(comm);
  });
}

TEST(ExpertRanks, TrainAsOneProcess) {
  for (const bool tied : {false, true})
    for (const Dtype compute : {Dtype::kF32, Dtype::kF16})
      for (const int sequences : {6, 5, 1}) {  // as many for each, more for some, none for some
        const auto run = [&](Comm& comm, bool overlap, Sharding sharding = Sharding::kOptimizer) {
          ShardedProcess p(comm, compute, small_mixture(tied), 3, Placement::kDevice, sharding);
          p.sequences = sequences;
          p.overlap = overlap;
          Outcome out = train(p, comm);
          out.compute = p.values(p.model->params.compute);
          return out;
        };
        const Outcome one = run(single_comm(), false);
        EXPECT_GT(one.losses.front(), sequences / 6.0 * 3.0);
        for (const Layout& layout : kLayouts) {
          SCOPED_TRACE(str(name_of(layout), ", ", name_of(compute), tied ? ", tied, " : ", ", sequences, " sequences"));
          Outcome some, beside, parts;
          on_rows(layout, [&](Comm& comm) {
            Outcome mine = run(comm, false), mine_beside = run(comm, true),
                    in_parts = run(comm, false, Sharding::kParameters);
            if (comm.main()) some = std::move(mine), beside = std::move(mine_beside), parts = std::move(in_parts);
          });
          EXPECT_EQ(beside.master, some.master) << "sums beside backward have the same bits";
          if (sequences <= layout.ranks) {  // one micro-batch each
            EXPECT_EQ(parts.master, some.master) << "and so have weights in parts";
          }
          EXPECT_LT(largest_difference(parts.gradient, one.gradient), 64 * 1e-6);
          EXPECT_EQ(parts.compute.size(), one.compute.size());
          for (size_t i = 0; i < one.losses.size(); ++i) {
            EXPECT_NEAR(some.losses[i], one.losses[i], compute == Dtype::kF32 ? 1e-6 : 1e-4);
            EXPECT_NEAR(some.norms[i], one.norms[i], compute == Dtype::kF32 ? 1e-6 : 1e-4);
          }
          EXPECT_LT(largest_difference(some.gradient, one.gradient), 64 * 1e-6);  // it is 64 times too large
          EXPECT_EQ(some.compute.size(), one.compute.size());
          if (compute == Dtype::kF16) continue;
          EXPECT_LT(largest_difference(some.master, one.master), 1e-6);
          EXPECT_LT(largest_difference(some.m, one.m), 1e-6);
          EXPECT_LT(largest_difference(some.v, one.v), 1e-6);
          EXPECT_LT(largest_difference(some.compute, one.compute), 1e-6);
        }
      }
}

TEST(ExpertRanks, EveryTierOfRecomputationHasTheSameBits) {
  for (const Sharding sharding : {Sharding::kOptimizer, Sharding::kParameters}) {
    std::vector<Outcome> tiers;
    for (const Recompute tier : {Recompute::kNone, Recompute::kElementwise, Recompute::kMlp, Recompute::kFull})
      on_rows({4, 2}, [&](Comm& comm) {
        ShardedProcess p(comm, Dtype::kF16, small_mixture(true), 3, Placement::kDevice, sharding);
        p.sequences = 5;
        p.overlap = true;
        p.recompute = tier;
        Outcome mine = train(p, comm);
        if (comm.main()) tiers.push_back(std::move(mine));
      });
    for (const Outcome& tier : tiers) {
      EXPECT_EQ(tier.losses, tiers[0].losses);
      EXPECT_EQ(tier.gradient, tiers[0].gradient);
      EXPECT_EQ(tier.master, tiers[0].master);
    }
  }
}

TEST(ExpertRanks, StateInHostMemoryGivesTheSameBits) {
  std::vector<Outcome> places;
  for (const Placement placement : {Placement::kDevice, Placement::kHost})
    on_rows({4, 2}, [&](Comm& comm) {
      ShardedProcess p(comm, Dtype::kF16, small_mixture(false), 3, placement);
      Outcome mine = train(p, comm);
      if (comm.main()) places.push_back(std::move(mine));
    });
  EXPECT_EQ(places[1].losses, places[0].losses);
  EXPECT_EQ(places[1].master, places[0].master);
  EXPECT_EQ(places[1].v, places[0].v);
}

TEST(ExpertRanks, EachHoldsItsExpertsAndItsPartOfTheirState) {
  on_rows({4, 2}, [](Comm& comm) {
    ShardedProcess p(comm, Dtype::kF16, small_mixture(false));
    const ParamSet& set = p.model->params;
    const ParamLayout whole = set.layout.whole();
    int of_experts = 0;
    for (int unit = 0; unit < set.layout.units(); ++unit) {
      const bool experts = set.layout.of_experts(unit);
      of_experts += experts;
      EXPECT_NEAR(double(set.compute.unit(unit).numel()), double(whole.size(unit)) / (experts ? 2 : 1), 1024);
      for (const ParamBuffer* buffer : {&set.master, &set.m, &set.v})
        EXPECT_EQ(buffer->unit(unit).numel(), set.layout.size(unit) / (experts ? 2 : 4));
      EXPECT_TRUE(set.reduced.unit(unit).same_as(set.grad.part(set.layout, unit, set.shard)));
    }
    EXPECT_EQ(of_experts, 2);
    const ParamInfo& info = set.layout[set.layout.find("layers.2.gate_up.weight")];
    EXPECT_EQ(info.shape, (Shape{4 * 32, 24}));
    EXPECT_EQ(info.whole_shape(), (Shape{8 * 32, 24}));
    EXPECT_EQ(info.first_row, comm.rank() % 2 * 4 * 32);
  });
}

/// Log-probs of every sequence, and the sum of their gradients, in `dtype` (fp64: by backward; else undefined).
struct Scored {
  std::vector<std::vector<double>> logprobs;
  std::vector<double> gradient;
};

Scored score(Comm& comm, Dtype dtype) {
  const auto model = random_model(small_mixture(true), cpu(), dtype, false, 3,
                                  {comm.row().rank(), comm.row().size(), comm.row().size()});
  model->decoder->share_experts(comm.row());
  ParamSet& set = model->params;
  Exec exec(cpu());
  const bool backward = dtype == Dtype::kF64;
  if (backward) set.grad = ParamBuffer(exec, set.layout, Dtype::kF64);
  Scored out;
  out.logprobs.resize(kSequences);
  for (int s = comm.rank(); s < (kSequences + comm.size() - 1) / comm.size() * comm.size(); s += comm.size()) {
    Tape tape(exec, backward);
    ForwardContext ctx;
    ctx.tape = &tape;
    ctx.params = &set;
    ctx.grads = backward ? &set.grad : nullptr;
    ctx.residual = backward ? Dtype::kF64 : Dtype::kF32;
    if (s >= kSequences) {
      model->decoder->join(ctx);
      continue;
    }
    RandomStream random(8, uint64_t(s));
    std::vector<int32_t> ids, targets, positions;
    for (int i = 0; i < kLength + s; ++i) {
      ids.push_back(int32_t(random.below(61)));
      targets.push_back(int32_t(random.below(61)));
      positions.push_back(i);
    }
    const int64_t length = int64_t(ids.size());
    ctx.ids = tensor_from<int32_t>(cpu(), ids, {length});
    ctx.positions = tensor_from<int32_t>(cpu(), positions, {length});
    ctx.attention.offsets = tensor_from<int32_t>(cpu(), std::vector<int32_t>{0, int32_t(length)}, {2});
    const Var hidden = model->decoder->forward(ctx);
    const Var logprobs =
        model->decoder->logprobs(ctx, hidden, tensor_from<int32_t>(cpu(), targets, {length}), {}).logprobs;
    if (backward) {
      tape.backward(ops::sum(tape, logprobs));
      for (const double x : to_host<double>(logprobs.value())) out.logprobs[size_t(s)].push_back(x);
    } else {
      for (const float x : to_host<float>(logprobs.value())) out.logprobs[size_t(s)].push_back(x);
    }
  }
  if (!backward) return out;
  // Every rank has sums of its own sequences, and of all of its row where experts are concerned.
  for (size_t i = 0; i < set.layout.params().size(); ++i) {
    const ParamInfo& info = set.layout.params()[i];
    const Tensor whole = exec.zeros(info.whole_shape(), Dtype::kF64);
    const Tensor& own = set.grad[ParamId{int(i)}];
    exec.backend().copy(whole.slice(info.first_row, info.first_row + info.shape[0]).raw(), own.raw(), own.bytes());
    comm.all_reduce(exec, whole);
    for (const double x : to_host<double>(whole)) out.gradient.push_back(x);
  }
  return out;
}

TEST(ExpertRanks, ALogProbHasTheSameBitsAndAGradientTheSameSums) {
  for (const Dtype dtype : {Dtype::kF64, Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    const Scored one = score(single_comm(), dtype);
    for (const Layout& layout : kLayouts) {
      SCOPED_TRACE(str(name_of(layout), ", ", name_of(dtype)));
      std::vector<Scored> some{size_t(layout.ranks)};
      on_rows(layout, [&](Comm& comm) { some[size_t(comm.rank())] = score(comm, dtype); });
      for (int s = 0; s < kSequences; ++s)
        EXPECT_EQ(some[size_t(s % layout.ranks)].logprobs[size_t(s)], one.logprobs[size_t(s)]);
      ASSERT_EQ(some[0].gradient.size(), one.gradient.size());
      double largest = 0;
      for (size_t i = 0; i < one.gradient.size(); ++i) {
        ASSERT_NEAR(some[0].gradient[i], one.gradient[i], 1e-12 * std::max(1.0, std::abs(one.gradient[i])));
        largest = std::max(largest, std::abs(one.gradient[i]));
      }
      EXPECT_EQ(largest > 0.1, dtype == Dtype::kF64);
    }
  }
}

/// Every file below a directory, by its path there.
std::map<std::string, std::string> files_of(const fs::path& root) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(root))
    if (entry.is_regular_file()) files[fs::relative(entry.path(), root)] = read_file(entry.path());
  return files;
}

TEST(ExpertRanks, CheckpointsAndExportsDoNotKnowOfThem) {
  const TempDir dir;
  const auto write = [&](Comm& comm, const fs::path& root, bool background) {
    ShardedProcess p(comm, Dtype::kF16, small_mixture(false), 5);
    if (const auto latest = latest_checkpoint(dir / "trained")) {
      load_checkpoint(*latest, p.exec, p.model->params, *p.optimizer);
      EXPECT_GT(p.step(3).grad_norm, 0) << "goes on";
      load_checkpoint(*latest, p.exec, p.model->params, *p.optimizer);
    } else {
      p.step(0);
    }
    CheckpointWriter writer(background);
    writer.save(root, {.step = 1, .config = "run:\n"}, p.model->params, *p.optimizer, {});
    writer.finish();
    save_hf(*p.model, root / "model", Dtype::kF16, comm);
    comm.barrier();
  };
  write(single_comm(), dir / "trained", true);
  for (const Layout& layout : kLayouts)
    for (const bool background : {true, false}) {
      SCOPED_TRACE(name_of(layout));
      on_rows(layout, [&](Comm& comm) { write(comm, dir / "some", background); });
      EXPECT_TRUE(files_of(dir / "some") == files_of(dir / "trained"));
      fs::remove_all(dir / "some");
    }
  // And the model is read by ranks as it was written.
  const auto whole = load_model((dir / "trained/model").string(), cpu(), Dtype::kF16, false);
  on_rows({4, 2}, [&](Comm& comm) {
    const auto model = load_model((dir / "trained/model").string(), cpu(), Dtype::kF16, true,
                                  {comm.rank(), comm.size(), comm.row().size()});
    const ParamLayout& layout = model->params.layout;
    for (size_t i = 0; i < layout.params().size(); ++i) {
      const ParamInfo& info = layout.params()[i];
      const Tensor& all = whole->params.compute[ParamId{int(i)}];
      EXPECT_EQ(to_host_float(model->params.compute[ParamId{int(i)}]),
                to_host_float(all.slice(info.first_row, info.first_row + info.shape[0])))
          << info.name;
    }
  });
}

TEST(ExpertRanks, AnExpertThatOverflowsIsNamedByItsNumberInTheModel) {
  std::vector<std::string> texts(2);
  on_rows({2, 2}, [&](Comm& comm) {
    ShardedProcess p(comm, Dtype::kF16, small_mixture(false));
    const ParamInfo& info = p.model->params.layout[p.model->params.layout.find("layers.2.down.weight")];
    if (comm.rank() == 1)  // its third expert
      p.model->params.compute[p.model->params.layout.find(info.name)].slice(2 * 24, 2 * 24 + 1).data<Half>()[0] =
          Half{0x7c00};  // infinite
    Tape tape(p.exec, false);
    NonFiniteReport report;
    tape.set_observer(find_first_nonfinite(p.exec, report));
    std::vector<int32_t> ids(48), positions(48);
    for (int32_t i = 0; i < 48; ++i) ids[size_t(i)] = positions[size_t(i)] = i;
    ForwardContext ctx;
    ctx.tape = &tape;
    ctx.params = &p.model->params;
    ctx.ids = tensor_from<int32_t>(cpu(), ids, {48});
    ctx.positions = tensor_from<int32_t>(cpu(), positions, {48});
    ctx.attention.offsets = tensor_from<int32_t>(cpu(), std::vector<int32_t>{0, 48}, {2});
    p.model->decoder->forward(ctx);
    texts[size_t(comm.rank())] = report.text();
  });
  EXPECT_EQ(texts[1].rfind("expert 6 of layers.2.mlp grouped_linear forward: ", 0), 0u) << texts[1];
  EXPECT_EQ(texts[0].rfind("layers.2.mlp exchange_rows forward: ", 0), 0u) << "what came back: " << texts[0];
}

TEST(ExpertRanks, RandomWeightsThatRepeatAreThoseOfOneProcess) {
  ModelConfig config = small_mixture(true);
  config.layers = 1;
  config.width = 256;
  config.experts.feed_forward = 420;  // gate_up has more elements than are drawn, an expert's begin anywhere in them
  const auto whole = random_model(config, cpu(), Dtype::kF16, false, 7);
  for (const int rank : {0, 1, 3}) {
    const auto part = random_model(config, cpu(), Dtype::kF16, true, 7, {rank, 4, 4});
    const ParamSet& set = part->params;
    for (const char* name : {"layers.0.gate_up.weight", "layers.0.down.weight", "layers.0.router.weight"}) {
      const ParamId id = set.layout.find(name);
      const ParamInfo& info = set.layout[id];
      const Tensor expected = whole->params.compute[id].slice(info.first_row, info.first_row + info.shape[0]);
      EXPECT_TRUE(to_host_float(set.compute[id]) == to_host_float(expected)) << name << " of rank " << rank;
    }
  }
}

TEST(ExpertRanks, WhatCannotBeSharedOutIsRefused) {
  const auto load = [](const ModelConfig& config, int ranks) {
    return message_of([&] { random_model(config, cpu(), Dtype::kF32, false, 1, {0, ranks, ranks}); });
  };
  EXPECT_EQ(load(small_config(false), 2), "distributed.experts: must be 1 for a model without experts, qwen3, got 2");
  EXPECT_EQ(load(small_mixture(false), 3),
            "distributed.experts: must divide the number of experts of the model, 8, got 3");
  EXPECT_EQ(load(small_mixture(false), 16),
            "distributed.experts: must divide the number of experts of the model, 8, got 16");
}

}  // namespace
}  // namespace mantissa
