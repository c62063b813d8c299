// Attention kernels of the CPU backend: packed forward and backward against a plain fp64 softmax attention,
// paged decode against the packed forward bit for bit, cache writes and copies, rotary embedding.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "core/cpu/simd.h"
#include "core/kernels.h"
#include "core/random.h"
#include "core/registry.h"

namespace mantissa {
namespace {

struct Case {
  Heads heads;
  std::vector<int> lengths;
};

const std::vector<Case> kCases = {
    {{2, 2, 8}, {1, 31, 64}}, {{2, 1, 16}, {65, 1}}, {{3, 3, 24}, {33, 7}},
    {{9, 3, 64}, {129, 5}},   {{6, 1, 64}, {300}},   {{6, 1, 128}, {70, 1, 64}},
};

std::vector<int32_t> offsets_of(const std::vector<int>& lengths) {
  std::vector<int32_t> offsets = {0};
  for (int n : lengths) offsets.push_back(offsets.back() + n);
  return offsets;
}

Tensor ints(const std::vector<int32_t>& values, Shape shape) {
  return tensor_from<int32_t>(cpu(), values, shape);
}
Tensor ints(const std::vector<int32_t>& values) {
  return ints(values, {int64_t(values.size())});
}

Tensor random(Exec& exec, Shape shape, Dtype dtype, uint64_t purpose) {
  RandomStream stream(1, purpose);
  std::vector<float> values(size_t(shape.numel()));
  for (float& v : values) v = stream.normal();
  Tensor wide = tensor_from<float>(cpu(), values, shape), out = exec.empty(shape, dtype);
  MANTISSA_RUN(exec, cast, out, wide);
  return out;
}

std::vector<double> doubles(Exec& exec, const Tensor& t) {
  Tensor wide = exec.empty(t.shape(), Dtype::kF64);
  MANTISSA_RUN(exec, cast, wide, t);
  return to_host<double>(wide);
}

std::vector<std::byte> bytes_of(const Tensor& t) {
  const auto* p = static_cast<const std::byte*>(t.raw());
  return {p, p + t.bytes()};
}

struct Packed {
  Tensor qkv, offsets, out, lse;
};

Packed run_packed(Exec& exec, const Tensor& qkv, const std::vector<int>& lengths, Heads heads) {
  Packed run{qkv, ints(offsets_of(lengths)), exec.empty({qkv.size(0), heads.query * heads.size}, qkv.dtype()),
             exec.empty({qkv.size(0), heads.query}, accumulator_of(qkv.dtype()))};
  MANTISSA_RUN(exec, attention_fwd, run.out, run.lse, qkv, run.offsets, qkv.size(0), heads);
  return run;
}

/// Plain softmax attention and its gradient, in double.
struct Reference {
  std::vector<double> out, lse, dqkv;
};

Reference reference(const std::vector<double>& qkv, const std::vector<double>& dout, const std::vector<int>& lengths,
                    Heads heads) {
  const int64_t row = heads.row(), size = heads.size, ratio = heads.query / heads.kv;
  const auto offsets = offsets_of(lengths);
  Reference ref;
  ref.out.assign(size_t(offsets.back() * heads.query * size), 0.0);
  ref.lse.assign(size_t(offsets.back()) * heads.query, 0.0);
  ref.dqkv.assign(qkv.size(), 0.0);
  const double scale = 1.0 / std::sqrt(double(size));
  for (size_t s = 0; s < lengths.size(); ++s)
    for (int64_t t = offsets[s]; t < offsets[s + 1]; ++t)
      for (int64_t h = 0; h < heads.query; ++h) {
        const int64_t query = t * row + h * size, to = (t * heads.query + h) * size;
        auto key = [&](int64_t j) { return j * row + (heads.query + h / ratio) * size; };
        auto value = [&](int64_t j) { return key(j) + heads.kv * size; };
        std::vector<double> p;
        double high = -1e300, total = 0, delta = 0;
        for (int64_t j = offsets[s]; j <= t; ++j) {
          double score = 0;
          for (int64_t d = 0; d < size; ++d) score += qkv[query + d] * qkv[key(j) + d];
          p.push_back(score * scale);
          high = std::max(high, p.back());
        }
        for (double& x : p) total += x = std::exp(x - high);
        ref.lse[t * heads.query + h] = high + std::log(total);
        for (double& x : p) x /= total;
        for (int64_t j = offsets[s]; j <= t; ++j)
          for (int64_t d = 0; d < size; ++d) ref.out[to + d] += p[j - offsets[s]] * qkv[value(j) + d];
        for (int64_t d = 0; d < size; ++d) delta += ref.out[to + d] * dout[to + d];
        for (int64_t j = offsets[s]; j <= t; ++j) {
          const double prob = p[j - offsets[s]];
          double dp = 0;
          for (int64_t d = 0; d < size; ++d) dp += dout[to + d] * qkv[value(j) + d];
          const double ds = scale * prob * (dp - delta);
          for (int64_t d = 0; d < size; ++d) {
            ref.dqkv[query + d] += ds * qkv[key(j) + d];
            ref.dqkv[key(j) + d] += ds * qkv[query + d];
            ref.dqkv[value(j) + d] += prob * dout[to + d];
          }
        }
      }
  return ref;
}

/// |got - want| <= bound * (|want| + floor) everywhere.
void expect_close(const std::vector<double>& got, const std::vector<double>& want, double bound, double floor) {
  ASSERT_EQ(got.size(), want.size());
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - want[i]) / (std::abs(want[i]) + floor);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  EXPECT_LE(worst, bound);
}

class AttentionTypes : public ::testing::TestWithParam<Dtype> {
 protected:
  Exec exec{cpu()};
};
INSTANTIATE_TEST_SUITE_P(All, AttentionTypes, ::testing::Values(Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kF64),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST_P(AttentionTypes, ForwardAndBackwardMatchPlainSoftmax) {
  const Dtype dtype = GetParam();
  const double unit = dtype == Dtype::kF64   ? 1e-12
                      : dtype == Dtype::kF32 ? 2e-6
                      : dtype == Dtype::kF16 ? 0x1p-11
                                             : 0x1p-8;
  for (const Case& c : kCases) {
    SCOPED_TRACE(str(c.heads.query, "/", c.heads.kv, "/", c.heads.size));
    const int64_t tokens = offsets_of(c.lengths).back();
    const Tensor qkv = random(exec, {tokens, c.heads.row()}, dtype, 1);
    const Tensor dout = random(exec, {tokens, c.heads.query * c.heads.size}, dtype, 2);
    const Packed run = run_packed(exec, qkv, c.lengths, c.heads);
    const Reference want = reference(doubles(exec, qkv), doubles(exec, dout), c.lengths, c.heads);
    expect_close(doubles(exec, run.out), want.out, 1.01 * unit, 0.5);
    expect_close(doubles(exec, run.lse), want.lse, dtype == Dtype::kF64 ? 1e-12 : 1e-6, 1.0);
    Tensor dqkv = exec.empty(qkv.shape(), dtype);
    MANTISSA_RUN(exec, attention_bwd, dqkv, dout, qkv, run.out, run.lse, run.offsets, qkv.size(0), c.heads);
    expect_close(doubles(exec, dqkv), want.dqkv, 4 * unit, 1.0);  // the rounded output enters delta
  }
}

TEST_P(AttentionTypes, BitsDoNotDependOnTheInstructionSet) {
  for (const Case& c : {Case{{6, 2, 24}, {70, 3}}, Case{{9, 3, 64}, {129}}}) {
    const int64_t tokens = offsets_of(c.lengths).back();
    const Tensor qkv = random(exec, {tokens, c.heads.row()}, GetParam(), 11);
    const Tensor dout = random(exec, {tokens, c.heads.query * c.heads.size}, GetParam(), 12);
    std::vector<std::vector<std::byte>> first;
    for (const char* level : {"scalar", "avx2", "avx512"}) {  // a level the machine lacks repeats a lower one
      limit_simd(level);
      const Packed run = run_packed(exec, qkv, c.lengths, c.heads);
      Tensor dqkv = exec.empty(qkv.shape(), qkv.dtype());
      MANTISSA_RUN(exec, attention_bwd, dqkv, dout, qkv, run.out, run.lse, run.offsets, qkv.size(0), c.heads);
      const std::vector<std::vector<std::byte>> bits = {bytes_of(run.out), bytes_of(run.lse), bytes_of(dqkv)};
      if (first.empty()) first = bits;
      EXPECT_EQ(bits, first) << level;
    }
    limit_simd(std::getenv("MANTISSA_SIMD"));
  }
}

TEST_P(AttentionTypes, BitsDoNotDependOnThreadsOrNeighbours) {
  const Heads heads{6, 2, 64};
  const std::vector<int> lengths = {129, 40, 65};
  const Tensor qkv = random(exec, {234, heads.row()}, GetParam(), 3);
  const Tensor dout = random(exec, {234, heads.query * heads.size}, GetParam(), 4);
  const int threads = omp_get_max_threads();
  std::vector<std::vector<std::byte>> results;
  for (int n : {1, 3}) {
    omp_set_num_threads(n);
    const Packed run = run_packed(exec, qkv, lengths, heads);
    Tensor dqkv = exec.empty(qkv.shape(), qkv.dtype());
    MANTISSA_RUN(exec, attention_bwd, dqkv, dout, qkv, run.out, run.lse, run.offsets, qkv.size(0), heads);
    results.push_back(bytes_of(run.out));
    results.push_back(bytes_of(run.lse));
    results.push_back(bytes_of(dqkv));

    const Packed alone = run_packed(exec, qkv.slice(129, 169), {40}, heads);
    EXPECT_EQ(bytes_of(alone.out), bytes_of(run.out.slice(129, 169)));
    Tensor dalone = exec.empty(alone.qkv.shape(), qkv.dtype());
    MANTISSA_RUN(exec, attention_bwd, dalone, dout.slice(129, 169), alone.qkv, alone.out, alone.lse, alone.offsets, 40,
                 heads);
    EXPECT_EQ(bytes_of(dalone), bytes_of(dqkv.slice(129, 169)));
  }
  omp_set_num_threads(threads);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(results[i], results[i + 3]);
}

TEST_P(AttentionTypes, LaterTokensDoNotReachEarlierRows) {
  const Heads heads{3, 1, 64};
  const Tensor qkv = random(exec, {100, heads.row()}, GetParam(), 5);
  const Packed all = run_packed(exec, qkv, {100}, heads);
  Tensor spoilt = exec.empty(qkv.shape(), qkv.dtype());
  std::memcpy(spoilt.raw(), qkv.raw(), qkv.bytes());
  Tensor tail = spoilt.slice(70, 100);
  MANTISSA_RUN(exec, fill, tail, std::numeric_limits<double>::infinity());
  const Packed run = run_packed(exec, spoilt, {100}, heads);
  EXPECT_EQ(bytes_of(run.out.slice(0, 70)), bytes_of(all.out.slice(0, 70)));
}

/// Keys and values of packed sequences in a cache whose pages lie in reverse order; row i of the table is
/// sequence i.
struct Cache {
  Tensor pages, table;
};

Cache fill_cache(Exec& exec, const Tensor& qkv, const std::vector<int>& lengths, Heads heads, Dtype dtype) {
  int64_t count = 0, most = 1;
  for (int n : lengths) {
    count += (n + kAttentionTile - 1) / kAttentionTile;
    most = std::max<int64_t>(most, (n + kAttentionTile - 1) / kAttentionTile);
  }
  std::vector<int32_t> table(lengths.size() * most, -1), slots;
  int32_t next = int32_t(count);
  for (size_t s = 0; s < lengths.size(); ++s)
    for (int t = 0; t < lengths[s]; ++t) {
      int32_t& page = table[s * most + t / kAttentionTile];
      if (t % kAttentionTile == 0) page = next--;
      slots.push_back(page * kAttentionTile + t % kAttentionTile);
    }
  Cache cache{exec.empty({2, count + 1, kAttentionTile, heads.kv * heads.size}, dtype),
              ints(table, {int64_t(lengths.size()), most})};
  MANTISSA_RUN(exec, fill, cache.pages,
               std::numeric_limits<double>::quiet_NaN());  // what is not written must not be read
  MANTISSA_RUN(exec, kv_write, cache.pages, qkv, ints(slots), heads);
  return cache;
}

TEST_P(AttentionTypes, DecodeEqualsPackedForward) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(str(c.heads.query, "/", c.heads.kv, "/", c.heads.size));
    const auto offsets = offsets_of(c.lengths);
    const Tensor qkv = random(exec, {offsets.back(), c.heads.row()}, GetParam(), 6);
    const Packed packed = run_packed(exec, qkv, c.lengths, c.heads);
    const Cache cache = fill_cache(exec, qkv, c.lengths, c.heads, GetParam());
    const int64_t batch = int64_t(c.lengths.size());
    for (const int back : {0, 1, 17, 63}) {  // how far before the end of its sequence each row is
      Tensor rows = exec.empty({batch, c.heads.row()}, GetParam());
      Tensor want = exec.zeros({batch, c.heads.query * c.heads.size}, GetParam()),
             out = exec.empty(want.shape(), GetParam());
      std::vector<int32_t> lengths;
      for (int64_t b = 0; b < batch; ++b) {
        const int length = std::max(c.lengths[b] - back, 0);
        lengths.push_back(length);
        const int64_t t = offsets[b] + std::max(length - 1, 0);
        std::memcpy(rows.slice(b, b + 1).raw(), qkv.slice(t, t + 1).raw(), rows.slice(b, b + 1).bytes());
        if (length)
          std::memcpy(want.slice(b, b + 1).raw(), packed.out.slice(t, t + 1).raw(), want.slice(b, b + 1).bytes());
      }
      MANTISSA_RUN(exec, attention_decode, out, rows, cache.pages, cache.table, ints(lengths), {}, c.heads);
      EXPECT_EQ(bytes_of(out), bytes_of(want)) << "back " << back;  // inactive rows are zero in both
    }
  }
}

TEST_P(AttentionTypes, PeerRoundingStaysNearAndDiffersIn16Bits) {
  const Heads heads{9, 3, 64};
  const std::vector<int> lengths = {300};
  const Tensor qkv = random(exec, {300, heads.row()}, GetParam(), 7);
  const Packed same = run_packed(exec, qkv, lengths, heads);
  const Cache cache = fill_cache(exec, qkv, lengths, heads, GetParam());
  exec.match = Match::kPeer;
  const Packed peer = run_packed(exec, qkv, lengths, heads);
  Tensor out = exec.empty({1, heads.query * heads.size}, GetParam());
  MANTISSA_RUN(exec, attention_decode, out, qkv.slice(299, 300), cache.pages, cache.table, ints({300}), {}, heads);
  const double unit = GetParam() == Dtype::kBF16 ? 0x1p-7 : GetParam() == Dtype::kF16 ? 0x1p-10 : 1e-6;
  expect_close(doubles(exec, peer.out), doubles(exec, same.out), unit, 1.0);
  expect_close(doubles(exec, out), doubles(exec, same.out.slice(299, 300)), unit, 1.0);
  if (is_16bit(GetParam())) {
    EXPECT_NE(bytes_of(peer.out), bytes_of(same.out));
  }
  EXPECT_NE(bytes_of(out), bytes_of(peer.out.slice(299, 300)));  // four partial softmaxes against one
}

TEST(Attention, DecodeReadsANarrowerCache) {
  Exec exec(cpu());
  const Heads heads{3, 1, 64};
  const std::vector<int> lengths = {100};
  const Tensor qkv = random(exec, {100, heads.row()}, Dtype::kF32, 8);
  const Packed packed = run_packed(exec, qkv, lengths, heads);
  const Cache cache = fill_cache(exec, qkv, lengths, heads, Dtype::kF16);
  Tensor out = exec.empty({1, heads.query * heads.size}, Dtype::kF32);
  MANTISSA_RUN(exec, attention_decode, out, qkv.slice(99, 100), cache.pages, cache.table, ints({100}), {}, heads);
  expect_close(doubles(exec, out), doubles(exec, packed.out.slice(99, 100)), 2e-3, 1.0);
}

TEST(Attention, CacheWriteAndCopy) {
  Exec exec(cpu());
  const Heads heads{2, 2, 8};
  const int64_t width = heads.kv * heads.size, page = kAttentionTile * width, plane = 3 * page;
  const Tensor qkv = random(exec, {3, heads.row()}, Dtype::kF16, 9);
  Tensor pages = exec.zeros({2, 3, kAttentionTile, width}, Dtype::kF16);
  MANTISSA_RUN(exec, kv_write, pages, qkv, ints({5, -1, kAttentionTile + 2}), heads);
  auto slot = [&](int part, int64_t s) { return pages.data<Half>() + part * plane + s * width; };
  for (int part = 0; part < 2; ++part) {
    const int64_t column = (heads.query + part * heads.kv) * heads.size;
    EXPECT_EQ(std::memcmp(slot(part, 5), qkv.data<Half>() + column, width * 2), 0);
    EXPECT_EQ(std::memcmp(slot(part, kAttentionTile + 2), qkv.data<Half>() + 2 * heads.row() + column, width * 2), 0);
  }
  int written = 0;
  for (const float v : to_host_float(pages)) written += v != 0;
  EXPECT_EQ(written, 4 * width);

  MANTISSA_RUN(exec, kv_copy, pages, ints({1, -1}), ints({2, 0}));
  for (int part = 0; part < 2; ++part) {
    EXPECT_EQ(std::memcmp(slot(part, kAttentionTile), slot(part, 2 * kAttentionTile), page * 2), 0);
    EXPECT_NE(std::memcmp(slot(part, 0), slot(part, kAttentionTile), page * 2), 0);
  }
}

TEST_P(AttentionTypes, RopeRotatesByTheTable) {
  const Heads heads{3, 1, 24};
  const int64_t half = heads.size / 2, tokens = 5, row = heads.row();
  const std::vector<int32_t> positions = {0, 7, 3, 3, 11};
  std::vector<float> angles;
  for (int p = 0; p < 12; ++p)
    for (int64_t i = 0; i < half; ++i) {
      const double angle = p * std::pow(100.0, -double(i) / double(half));
      angles.push_back(float(std::cos(angle)));
      angles.push_back(float(std::sin(angle)));
    }
  const Tensor table = tensor_from<float>(cpu(), angles, {12, half, 2});
  const Tensor qkv = random(exec, {tokens, row}, GetParam(), 10);
  Tensor out = exec.empty(qkv.shape(), GetParam());
  MANTISSA_RUN(exec, rope, out, qkv, table, ints(positions), heads, false);
  std::vector<double> x = doubles(exec, qkv), want = x;
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t h = 0; h < heads.query + heads.kv; ++h)
      for (int64_t i = 0; i < half; ++i) {
        const int64_t at = t * row + h * heads.size + i;
        const double c = angles[(positions[t] * half + i) * 2], s = angles[(positions[t] * half + i) * 2 + 1];
        want[at] = x[at] * c - x[at + half] * s;
        want[at + half] = x[at + half] * c + x[at] * s;
      }
  const double unit = GetParam() == Dtype::kBF16  ? 0x1p-8
                      : GetParam() == Dtype::kF16 ? 0x1p-11
                      : GetParam() == Dtype::kF32 ? 0x1p-22  // two roundings, and terms larger than their sum
                                                  : 0x1p-51;
  expect_close(doubles(exec, out), want, unit, 0.1);
  MANTISSA_RUN(exec, rope, out, out, table, ints(positions), heads, true);  // in place
  expect_close(doubles(exec, out), x, std::max(4 * unit, 1e-6), 1.0);       // cos^2 + sin^2 of a fp32 table
}

}  // namespace
}  // namespace mantissa
