// Host memory that passes through a GPU while kernels work on it: pieces in turn, and an optimizer whose state lies
// there.
#include "core/conveyor.h"
#include "core/file.h"
#include "core/registry.h"
#include "nn/checkpoint_writer.h"
#include "nn/optimizer.h"
#include "tests/support/cuda_pair.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

class CudaOffload : public CudaFixture<testing::Test> {};

/// Adds 1 to numbers in host memory, piece by piece; more pieces than slots.
void add_one(Exec& exec) {
  constexpr int64_t kPieces = 11, kSize = 100000, kSlots = 3;
  Backend& backend = exec.backend();
  const Tensor numbers(backend.allocate_host(kPieces * kSize * sizeof(float)), 0, {kPieces * kSize}, Dtype::kF32);
  ASSERT_EQ(numbers.backend().name(), "cpu");
  float* values = numbers.data<float>();
  for (int64_t i = 0; i < numbers.numel(); ++i) {
    ASSERT_EQ(values[i], 0.0f);
    values[i] = float(i % 1000);
  }
  Tensor room[kSlots];
  for (Tensor& t : room) t = exec.empty({kSize}, Dtype::kF32);
  Tensor ones = exec.empty({kSize}, Dtype::kF32);
  MANTISSA_RUN(exec, fill, ones, 1.0);
  const auto copies = [&](int64_t i) {
    return std::vector<Conveyor::Copy>{{room[i % kSlots], numbers.slice(i * kSize, (i + 1) * kSize)}};
  };
  const std::unique_ptr<Conveyor> conveyor = backend.conveyor(exec, kSlots);
  for (int64_t i = 0; i < kSlots - 1; ++i) conveyor->fetch(int(i % kSlots), copies(i));
  for (int64_t i = 0; i < kPieces; ++i) {
    if (const int64_t next = i + kSlots - 1; next < kPieces) conveyor->fetch(int(next % kSlots), copies(next));
    conveyor->use(int(i % kSlots));
    MANTISSA_RUN(exec, binary, room[i % kSlots], room[i % kSlots], ones, Binary::kAdd);
    conveyor->store(int(i % kSlots), copies(i));
  }
  conveyor->finish();
  backend.synchronize();
  for (int64_t i = 0; i < numbers.numel(); ++i) ASSERT_EQ(values[i], float(i % 1000 + 1)) << i;
}

TEST(Offload, PiecesPassInTurn) {
  Exec exec(cpu());
  add_one(exec);
}
TEST_F(CudaOffload, PiecesPassInTurn) {
  for (int round = 0; round < 3; ++round) add_one(gpu());
}

TEST_F(CudaOffload, StateInHostMemoryGivesTheSameBits) {
  using Bits = std::vector<std::vector<std::byte>>;
  const auto train = [&](Placement placement, Dtype compute) {
    ParamSet set;
    const int first = set.layout.add_unit("first"), second = set.layout.add_unit("second"),
              third = set.layout.add_unit("third");
    set.layout.add(first, "large", {3000, 4096}, true);  // more than one piece
    set.layout.add(first, "norm", {4096}, false);
    set.layout.add(second, "small", {100, 128}, true);
    set.layout.add(third, "medium", {1000, 4096}, true);
    set.layout.finish();
    set.placement = placement;
    set.compute = ParamBuffer(gpu(), set.layout, compute);
    Tensor weights = set.compute.flat();
    MANTISSA_RUN(gpu(), fill, weights, 0.5);
    OptimConfig optim;
    optim.lr = 1e-2;
    optim.weight_decay = 0.1;
    Optimizer optimizer(gpu(), set, optim, {.mode = "off"}, 10);
    EXPECT_EQ(set.m.flat().backend().name(), placement == Placement::kHost ? "cpu" : "cuda");
    const Tensor gradient = host.empty({set.layout.numel()}, Dtype::kF32);
    for (int step = 1; step <= 4; ++step) {
      RandomStream random(5, uint64_t(step));
      for (int64_t i = 0; i < gradient.numel(); ++i) gradient.data<float>()[i] = random.uniform() - 0.5f;
      optimizer.zero_grad();
      gpu().backend().copy_from_host(set.grad.flat().raw(), gradient.raw(), gradient.bytes());
      EXPECT_FALSE(optimizer.step().skipped);
    }
    return Bits{bits_of(set.master.flat()), bits_of(set.m.flat()), bits_of(set.v.flat()), bits_of(set.compute.flat())};
  };
  for (const Dtype compute : {Dtype::kF16, Dtype::kF32})
    EXPECT_TRUE(train(Placement::kHost, compute) == train(Placement::kDevice, compute)) << name_of(compute);
}

TEST_F(CudaOffload, ACheckpointIsReadInPlaceWhileTheDeviceWorks) {
  const TempDir dir;
  ParamSet set;
  set.layout.add(set.layout.add_unit("first"), "large", {3000, 4096}, true);
  set.layout.add(set.layout.add_unit("second"), "small", {100, 128}, true);
  set.layout.finish();
  set.placement = Placement::kHost;
  set.compute = ParamBuffer(gpu(), set.layout, Dtype::kF16);
  Tensor weights = set.compute.flat();
  MANTISSA_RUN(gpu(), fill, weights, 0.5);
  OptimConfig optim;
  optim.lr = 1e-2;
  Optimizer optimizer(gpu(), set, optim, {.mode = "off"}, 10);
  CheckpointWriter writer(true);
  optimizer.before_change([&] { writer.before_change(); });
  for (int64_t step = 1; step <= 3; ++step) {
    optimizer.zero_grad();
    Tensor gradient = set.grad.flat();
    MANTISSA_RUN(gpu(), fill, gradient, double(step));
    optimizer.step();
    writer.finish();
    const CheckpointState state{.step = step, .config = "run:\n"};
    save_checkpoint(dir / "expected", state, set, optimizer, {});
    writer.save(dir / "written", state, set, optimizer, {});
  }
  writer.finish();
  for (int64_t step = 1; step <= 3; ++step)
    for (const char* name : {"master.safetensors", "adam_m.safetensors", "adam_v.safetensors", "MANIFEST"}) {
      const std::filesystem::path file = std::filesystem::path(str("step_", step)) / name;
      EXPECT_TRUE(read_file(dir / "written" / file) == read_file(dir / "expected" / file)) << file;
    }
}

}  // namespace
}  // namespace mantissa
