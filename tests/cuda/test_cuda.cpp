// The CUDA backend itself: memory, copies, graphs.
#include "core/registry.h"
#include "tests/support/cuda_pair.h"

namespace mantissa {
namespace {

class CudaBackendTest : public CudaFixture<testing::Test> {
 protected:
  Backend& backend() { return gpu().backend(); }
};

TEST(Cuda, SaysWhyItCannotBeUsed) {
#ifdef MANTISSA_WITH_CUDA
  const std::string reason = cuda_unavailable();
  if (reason.empty()) {
    EXPECT_EQ(find_backend("auto").name(), "cuda");
    EXPECT_THROW(register_cuda_backend(), Error);  // registered already
  } else {
    EXPECT_EQ(find_backend("auto").name(), "cpu");
    EXPECT_THROW(register_cuda_backend(), Error);
    EXPECT_FALSE(cuda_unavailable(1000).empty());
  }
#else
  EXPECT_THROW(find_backend("cuda"), Error);
#endif
}

TEST_F(CudaBackendTest, CopiesOfAnySizeComeBack) {
  for (size_t bytes : {size_t(1), size_t(255), size_t(4) << 20, (size_t(50) << 20) + 3}) {
    std::vector<unsigned char> there(bytes), back(bytes);
    for (size_t i = 0; i < bytes; ++i) there[i] = static_cast<unsigned char>(i * 2654435761u >> 13);
    const std::vector<unsigned char> expected = there;
    const auto a = backend().allocate(bytes), b = backend().allocate(bytes);
    backend().copy_from_host(a->data, there.data(), bytes);
    std::fill(there.begin(), there.end(), 0);  // the source may change at once
    backend().copy(b->data, a->data, bytes);
    backend().copy_to_host(back.data(), b->data, bytes);
    EXPECT_TRUE(back == expected) << bytes;
  }
}

TEST_F(CudaBackendTest, ManySmallCopiesKeepTheirOrder) {
  const auto place = backend().allocate(sizeof(int));
  std::vector<Tensor> copies;
  for (int i = 0; i < 50000; ++i) {
    backend().copy_from_host(place->data, &i, sizeof(i));
    if (i % 5000 != 0) continue;
    copies.push_back(gpu().empty({1}, Dtype::kI32));
    backend().copy(copies.back().raw(), place->data, sizeof(i));
  }
  for (size_t i = 0; i < copies.size(); ++i) EXPECT_EQ(to_host<int32_t>(copies[i])[0], int32_t(i * 5000));
}

TEST_F(CudaBackendTest, MemoryIsCountedReusedAndAligned) {
  const size_t before = backend().memory().in_use;
  for (size_t bytes : {size_t(0), size_t(1), size_t(1000), size_t(3) << 20, size_t(700) << 20}) {
    const void* address = nullptr;
    {
      const auto block = backend().allocate(bytes);
      address = block->data;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(address) % 256, 0u);
      const size_t taken = backend().memory().in_use - before;
      EXPECT_GE(taken, bytes);
      EXPECT_LE(taken, bytes + 256);
    }
    EXPECT_EQ(backend().memory().in_use, before);
    EXPECT_EQ(backend().allocate(bytes)->data, address) << bytes;
  }
  backend().reset_peak();
  EXPECT_EQ(backend().memory().peak, backend().memory().in_use);
  { const auto a = backend().allocate(1 << 20), b = backend().allocate(1 << 20); }
  EXPECT_EQ(backend().memory().peak - before, size_t(2) << 20);
  EXPECT_GT(backend().memory().capacity, size_t(1) << 30);
}

TEST_F(CudaBackendTest, FreeNeighboursBecomeOneBlock) {
  const size_t whole = size_t(2) << 30;
  const void* address = backend().allocate(whole)->data;
  std::vector<std::shared_ptr<Storage>> parts;
  for (int i = 0; i < 8; ++i) parts.push_back(backend().allocate(whole / 8));
  for (int i : {1, 3, 5, 7, 0, 2, 4, 6}) parts[size_t(i)].reset();
  EXPECT_EQ(backend().allocate(whole)->data, address);
}

TEST_F(CudaBackendTest, RefusalNamesTheRequestAndTheKeys) {
  try {
    backend().allocate(size_t(1) << 50);
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const std::string& part : {str(size_t(1) << 50), std::string("train.micro_batch_tokens"),
                                    std::string("rollout.cache_tokens"), std::string("train.recompute")})
      EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  Tensor alive = gpu().zeros({10}, Dtype::kF32);  // the backend goes on
  EXPECT_EQ(to_host<float>(alive)[9], 0.0f);
}

TEST_F(CudaBackendTest, GraphsReplayOnWhatTheAddressesHold) {
  const int64_t n = 5000;
  Tensor in = up(random({n}, Dtype::kF32, 1)), out = poisoned({n}, Dtype::kF32), total = poisoned({1}, Dtype::kF32);
  const auto body = [&] {
    Tensor half = gpu().empty({n}, Dtype::kF16), square = gpu().empty({n}, Dtype::kF32);
    MANTISSA_RUN(gpu(), cast, half, in);
    MANTISSA_RUN(gpu(), binary, square, half, half, Binary::kMul);
    MANTISSA_RUN(gpu(), unary, out, square, Unary::kAffine, 2.0, 1.0);
    MANTISSA_RUN(gpu(), sum, total, out);  // takes scratch
  };
  body();
  const std::unique_ptr<Graph> graph = backend().capture(gpu(), body);
  ASSERT_NE(graph, nullptr);
  for (uint64_t round = 2; round < 5; ++round) {
    const Tensor next = random({n}, Dtype::kF32, round);
    backend().copy_from_host(in.raw(), next.raw(), next.bytes());
    std::vector<Tensor> others;  // memory that others take meanwhile is not the graph's
    for (int i = 0; i < 4; ++i) others.push_back(poisoned({n}, Dtype::kF32));
    graph->replay();
    const std::vector<std::byte> replayed = bits_of(out), replayed_total = bits_of(total);
    body();
    EXPECT_EQ(bits_of(out), replayed);
    EXPECT_EQ(bits_of(total), replayed_total);
    for (const Tensor& other : others)
      for (std::byte b : bits_of(other)) ASSERT_EQ(b, std::byte(0xff));
  }
}

TEST_F(CudaBackendTest, AFailedRecordingLeavesTheBackendUsable) {
  EXPECT_THROW(backend().capture(gpu(), [&] { fail("from inside"); }), Error);
  int value = 3;
  const auto place = backend().allocate(sizeof(int));
  EXPECT_THROW(backend().capture(gpu(), [&] { backend().copy_from_host(place->data, &value, sizeof(value)); }), Error);
  EXPECT_THROW(backend().capture(gpu(), [&] { Scratch(gpu()).take<float>(int64_t(1) << 27); }), Error);
  Tensor x = gpu().zeros({100}, Dtype::kF32);
  EXPECT_EQ(to_host<float>(x)[99], 0.0f);
}

}  // namespace
}  // namespace mantissa
