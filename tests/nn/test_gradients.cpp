// Gradients that are written where they can be, over what is not a number, against the same ones added to zeros: to
// the last bit, whatever the model, with experts that get no row, and processes that have nothing to compute.
#include <gtest/gtest.h>

#include "tests/support/sharded_process.h"

namespace mantissa {
namespace {

/// Sixteen experts for eleven tokens of one slot each: some have no row in a micro-batch.
ModelConfig sparse_mixture(bool tied) {
  ModelConfig c = small_mixture(tied);
  c.experts.count = 16;
  c.experts.per_token = 1;
  return c;
}

/// Rows of `experts` ranks share out the experts of a mixture.
void expect_same_bits(const ModelConfig& model, Dtype compute, int ranks, int experts, int sequences,
                      Recompute tier = Recompute::kNone) {
  SCOPED_TRACE(str(model.architecture, " tied ", model.tied_head, " ", name_of(compute), " ranks ", ranks, " experts ",
                   experts, " sequences ", sequences, " tier ", int(tier)));
  Outcome outcomes[2];
  for (const bool renew : {false, true})
    on_ranks(ranks, [&](Comm& comm) {
      if (ranks > 1) comm.split(experts);
      ShardedProcess p(comm, compute, model);
      p.sequences = sequences;
      p.recompute = tier;
      p.overlap = sequences % 2 == 0;
      p.renew = renew;
      Outcome own = train(p, comm);
      if (comm.main()) outcomes[renew] = std::move(own);
    });
  expect_same(outcomes[true], outcomes[false]);
}

TEST(Gradients, WrittenOnesHaveTheBitsOfThoseAddedToZeros) {
  for (const bool tied : {false, true})
    for (const Dtype compute : {Dtype::kF32, Dtype::kF16}) {
      for (const int sequences : {1, 2, 5}) expect_same_bits(small_config(tied), compute, 1, 1, sequences);
      expect_same_bits(small_config(tied), compute, 1, 1, 2, Recompute::kFull);
    }
}

TEST(Gradients, OfExpertsWithoutRowsAreZero) {
  for (const Dtype compute : {Dtype::kF32, Dtype::kF16}) {
    for (const int sequences : {1, 2}) expect_same_bits(sparse_mixture(true), compute, 1, 1, sequences);
    expect_same_bits(sparse_mixture(false), compute, 1, 1, 2, Recompute::kFull);
  }
}

TEST(Gradients, OfRanksWithoutAMicroBatchAreZero) {
  for (const int sequences : {0, 1, 4}) {
    expect_same_bits(small_config(true), Dtype::kF16, 2, 1, sequences);
    expect_same_bits(sparse_mixture(false), Dtype::kF16, 2, 1, sequences);
    expect_same_bits(sparse_mixture(true), Dtype::kF16, 2, 2, sequences, Recompute::kFull);
  }
}

}  // namespace
}  // namespace mantissa
