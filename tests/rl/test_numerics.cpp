// The ground under the numerics contract (docs/numerics.md): conversions are IEEE, random numbers are Philox, and
// neither the number of threads nor the instruction set reaches a bit of a model's log-probs and gradients.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>

#include "core/cpu/simd.h"
#include "core/random.h"
#include "core/registry.h"
#include "nn/formats/hf.h"
#include "nn/model.h"
#include "rl/train/logprobs.h"

namespace mantissa {
namespace {

/// Puts threads and instruction set back.
class Machine {
 public:
  Machine(int threads, const char* simd) : threads_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
    limit_simd(simd);
  }
  ~Machine() {
    omp_set_num_threads(threads_);
    limit_simd(std::getenv("MANTISSA_SIMD"));
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

 private:
  int threads_;
};

constexpr const char* kLevels[] = {"avx512", "avx2", "scalar"};

template <class T>
uint16_t bits_of(float value) {
  return round_to<T>(value).bits;
}

/// Every value of a 16-bit type comes back; halfway between two neighbours the even one wins, off it the nearer one.
template <class T>
void expect_nearest_even(uint16_t infinity) {
  for (uint32_t b = 0; b < infinity; ++b) {
    const T low{uint16_t(b)}, high{uint16_t(b + 1)};
    const float x = to_float(low);
    ASSERT_EQ(bits_of<T>(x), b);
    ASSERT_EQ(bits_of<T>(-x), b | 0x8000u);
    // The neighbour of the largest finite value is where the next one would be.
    const double y = b + 1 == infinity ? 2.0 * x - to_float(T{uint16_t(b - 1)}) : to_float(high);
    const float middle = float((x + y) / 2);
    ASSERT_EQ(bits_of<T>(middle), b % 2 ? b + 1 : b) << x;
    ASSERT_EQ(bits_of<T>(std::nextafter(middle, 0.0f)), b) << x;
    ASSERT_EQ(bits_of<T>(std::nextafter(middle, std::numeric_limits<float>::infinity())), b + 1) << x;
  }
  const float kInf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(bits_of<T>(kInf), infinity);
  EXPECT_EQ(bits_of<T>(-kInf), infinity | 0x8000u);
  EXPECT_EQ(bits_of<T>(std::numeric_limits<float>::max()), infinity);
  EXPECT_TRUE(std::isnan(to_float(round_to<T>(std::nanf("")))));
}

TEST(Conversion, HalfRoundsToNearestEven) {
  expect_nearest_even<Half>(0x7c00);
  EXPECT_EQ(to_float(Half{0x7bff}), 65504.0f);
  EXPECT_EQ(bits_of<Half>(65519.996f), 0x7bffu);
  EXPECT_EQ(bits_of<Half>(65520.0f), 0x7c00u);
  EXPECT_EQ(to_float(Half{1}), 0x1p-24f);
}

TEST(Conversion, BFloat16RoundsToNearestEven) {
  expect_nearest_even<BFloat16>(0x7f80);
}

TEST(Conversion, VectorsEqualTheScalarDefinition) {
  std::vector<float> values;
  for (uint64_t b = 0; b < (uint64_t(1) << 32); b += 9973) values.push_back(std::bit_cast<float>(uint32_t(b)));
  for (uint32_t b = 0; b < 65536; ++b)  // around every half
    for (const float nudge : {-0x1p-12f, 0.0f, 0x1p-12f}) values.push_back(to_float(Half{uint16_t(b)}) * (1 + nudge));
  const Shape shape{int64_t(values.size())};
  const Tensor in = tensor_from<float>(cpu(), values, shape);
  for (const char* level : kLevels) {
    const Machine machine(2, level);
    Exec exec(cpu());
    Tensor half = exec.empty(shape, Dtype::kF16), brain = exec.empty(shape, Dtype::kBF16);
    MANTISSA_RUN(exec, cast, half, in);
    MANTISSA_RUN(exec, cast, brain, in);
    for (size_t i = 0; i < values.size(); ++i) {
      const Half h = half.data<Half>()[i];
      const BFloat16 b = brain.data<BFloat16>()[i];
      if (std::isnan(values[i])) {
        ASSERT_TRUE(std::isnan(to_float(h)) && std::isnan(to_float(b)));
      } else {
        ASSERT_EQ(h.bits, half_from_float(values[i]).bits) << level << " " << values[i];
        ASSERT_EQ(b.bits, bfloat16_from_float(values[i]).bits) << level << " " << values[i];
      }
    }
  }
}

TEST(Random, PhiloxGivesThePublishedWords) {
  // The known answers of the authors' Random123, philox4x32 with 10 rounds.
  const auto expect = [](PhiloxBlock counter, PhiloxKey key, PhiloxBlock words) {
    const PhiloxBlock got = philox(counter, key);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(got.v[i], words.v[i]);
  };
  constexpr uint32_t kOnes = 0xffffffff;
  expect({{0, 0, 0, 0}}, {0, 0}, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  expect({{kOnes, kOnes, kOnes, kOnes}}, {kOnes, kOnes}, {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  expect({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, {0xa4093822, 0x299f31d0},
         {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
}

struct Bits {
  std::vector<float> logprobs, grads;
};

/// Log-probs of two packed sequences, every token but the last scored, and the gradient of their sum.
Bits score_and_differentiate(const Model& model, const TrainBatch& batch) {
  Exec exec(cpu());
  Tape tape(exec, true);
  ParamBuffer grads(exec, model.params.layout, Dtype::kF32);
  const Dtype dtype = model.params.compute.dtype();
  const Var logprobs =
      batch_logprobs(tape, model, DeviceBatch(exec.backend(), batch), {.lm_head = dtype, .residual = dtype}, &grads)
          .logprobs;
  tape.backward(ops::sum(tape, logprobs));
  return {to_host<float>(logprobs.value()), to_host<float>(grads.flat())};
}

TEST(Numerics, ThreadsAndInstructionSetsDoNotReachTheBits) {
  TrainBatch batch;
  batch.offsets = {0};
  for (const int32_t length : {70, 37}) {  // more and less than a tile of attention
    for (int32_t i = 0; i < length; ++i) {
      if (i + 1 < length) {
        batch.scored.push_back(int32_t(batch.ids.size()));
        batch.targets.push_back((7 * i + length) % 50);
      }
      batch.ids.push_back((5 * i + length) % 50);
      batch.positions.push_back(i);
    }
    batch.offsets.push_back(int32_t(batch.ids.size()));
  }
  const std::string golden = std::string(MANTISSA_SOURCE_DIR) + "/tests/golden/";
  for (const char* name : {"llama3", "qwen2", "qwen3"})
    for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
      const auto model = load_model(golden + name, cpu(), dtype, false);
      Bits expected;
      for (const char* level : kLevels)
        for (const int threads : {1, 3}) {
          const Machine machine(threads, level);
          ASSERT_TRUE(level != std::string("scalar") || simd_level() == level) << "the limit must take hold";
          const Bits got = score_and_differentiate(*model, batch);
          if (expected.logprobs.empty()) {
            expected = got;
            for (float x : got.logprobs) ASSERT_LT(x, 0.0f);
          }
          // No NaN here, so == on floats tells all that bits could (but the sign of zero).
          ASSERT_EQ(got.logprobs, expected.logprobs) << name << " " << name_of(dtype) << " " << level << " " << threads;
          ASSERT_EQ(got.grads, expected.grads) << name << " " << name_of(dtype) << " " << level << " " << threads;
        }
    }
}

}  // namespace
}  // namespace mantissa
