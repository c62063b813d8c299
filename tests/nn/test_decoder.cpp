// The decoder against transformers (tests/golden/make_golden.py), and against itself: prefill + decode, recompute
// tiers.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <numbers>

#include "core/random.h"
#include "core/registry.h"
#include "nn/formats/hf.h"
#include "nn/model.h"
#include "nn/rope.h"
#include "tests/support/cuda_pair.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(MANTISSA_SOURCE_DIR) / "tests" / "golden";
const fs::path kShared = fs::path(MANTISSA_SOURCE_DIR) / ".." / "shared" / "golden" / "models";

const std::vector<const char*> kModels = {"llama3", "qwen2", "qwen3", "qwen3_moe", "qwen3_moe_mixed"};

std::vector<int32_t> read_ints(const Safetensors& file, const char* name) {
  Tensor t(cpu(), file.shape(name), Dtype::kI32);
  file.read(name, t);
  return to_host<int32_t>(t);
}

std::vector<float> read_floats(const Safetensors& file, const std::string& name) {
  Tensor t(cpu(), file.shape(name), Dtype::kF32);
  file.read(name, t);
  return to_host<float>(t);
}

/// The gradient of a tensor under its name in a model's file. Some files hold those of all experts in one, as
/// transformers 5 does: experts.gate_up_proj [E,2F,C], experts.down_proj [E,C,F].
std::vector<float> read_gradient(const Safetensors& file, const std::string& prefix, const std::string& name) {
  const size_t at = name.find(".experts.");
  if (at == std::string::npos || file.entries().contains(prefix + name)) return read_floats(file, prefix + name);
  const std::string stem = prefix + name.substr(0, at) + ".experts.", rest = name.substr(at + 9);
  const bool down = name.ends_with("down_proj.weight");
  const std::string stack = stem + (down ? "down_proj" : "gate_up_proj");
  const std::vector<float> all = read_floats(file, stack);
  const int64_t expert = int64_t(all.size()) / file.shape(stack)[0], part = down ? expert : expert / 2;
  const auto begin = all.begin() + std::stoll(rest) * expert + (name.ends_with("up_proj.weight") ? part : 0);
  return {begin, begin + part};
}

Tensor ints(std::vector<int32_t> values, Backend& backend = cpu()) {
  const int64_t n = int64_t(values.size());
  return tensor_from<int32_t>(backend, values, {n});
}

/// Sequences of equal length packed back to back, without the last token of each: what scores all the others.
struct Packed {
  std::vector<int32_t> ids, positions, offsets{0}, targets;
  Packed(const std::vector<int32_t>& all, int64_t sequences) {
    const int64_t length = int64_t(all.size()) / sequences;
    for (int64_t s = 0; s < sequences; ++s) {
      for (int64_t t = 0; t + 1 < length; ++t) {
        ids.push_back(all[size_t(s * length + t)]);
        positions.push_back(int32_t(t));
        targets.push_back(all[size_t(s * length + t + 1)]);
      }
      offsets.push_back(int32_t(ids.size()));
    }
  }
};

struct Scored {
  std::vector<float> logprobs;
  double loss = 0;
  ParamBuffer grads;
};

/// Log-probs of the packed sequences and the gradient of their mean negative. `whole_from` as in ForwardContext, with
/// the gradients so far; `fresh`: they are written over what is not a number.
Scored score(Model& model, const Packed& packed, Dtype residual, bool backward, Recompute recompute = Recompute::kNone,
             Observer observer = {}, const std::function<void(int, const ParamBuffer&)>& whole_from = {},
             bool fresh = false) {
  Backend& backend = model.params.compute.flat().backend();
  Exec exec(backend);
  Tape tape(exec, backward, recompute);
  if (observer) tape.set_observer(std::move(observer));
  Scored out;
  if (backward) out.grads = ParamBuffer(exec, model.params.layout, Dtype::kF32);
  for (size_t i = 0; i < model.params.layout.params().size() && fresh; ++i) {
    Tensor stale = out.grads[ParamId{int(i)}];
    MANTISSA_RUN(exec, fill, stale, double(NAN));
  }
  if (fresh) out.grads.set_fresh(true);
  ForwardContext ctx;
  ctx.tape = &tape;
  ctx.params = &model.params;
  ctx.grads = backward ? &out.grads : nullptr;
  if (whole_from) ctx.whole_from = [&](int unit) { whole_from(unit, out.grads); };
  ctx.residual = residual;
  ctx.ids = ints(packed.ids, backend);
  ctx.positions = ints(packed.positions, backend);
  ctx.attention.offsets = ints(packed.offsets, backend);
  const Var hidden = model.decoder->forward(ctx);
  ops::HeadOptions options;
  options.dtype = model.params.compute.dtype();
  options.chunk = 17;
  const Var logprobs = model.decoder->logprobs(ctx, hidden, ints(packed.targets, backend), options).logprobs;
  const Var loss = ops::affine(tape, ops::sum(tape, logprobs), -1.0 / double(packed.ids.size()));
  out.logprobs = to_host_float(logprobs.value());
  out.loss = to_host_float(loss.value())[0];
  if (backward) tape.backward(loss);
  for (int unit = 0; unit < model.params.layout.units() && fresh; ++unit)
    out.grads.clear_fresh(model.params.layout, unit);
  return out;
}

double mean_error(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::abs(double(a[i]) - b[i]);
  return sum / double(a.size());
}

/// A directory with golden.safetensors; gradients are in `grads` under `prefix` + name.
void expect_golden(const fs::path& directory, const Safetensors& golden, const Safetensors& grads,
                   const std::string& prefix, Backend& backend = cpu()) {
  SCOPED_TRACE(directory.string());
  const Packed packed(read_ints(golden, "input_ids"), golden.shape("input_ids")[0]);
  const std::vector<float> want = read_floats(golden, "logprobs");

  const auto model = load_model(directory.string(), backend, Dtype::kF32, false);
  const Scored got = score(*model, packed, Dtype::kF32, true);
  ASSERT_EQ(got.logprobs.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got.logprobs[i], want[i], 2e-5) << "log-prob " << i;
  EXPECT_NEAR(got.loss, read_floats(golden, "loss")[0], 2e-5);
  for (const NamedTensor& view : hf_views(model->config, model->decoder->params(), got.grads)) {
    const std::vector<float> g = to_host_float(view.tensor), expected = read_gradient(grads, prefix, view.name);
    ASSERT_EQ(g.size(), expected.size()) << view.name;
    float largest = 0;
    for (const float e : expected) largest = std::max(largest, std::abs(e));
    for (size_t i = 0; i < g.size(); ++i)
      ASSERT_NEAR(g[i], expected[i], 2e-4f * largest) << view.name << " entry " << i;
  }

  const auto error_in = [&](Dtype dtype) {
    const auto rounded = load_model(directory.string(), backend, dtype, false);
    return mean_error(score(*rounded, packed, dtype, false).logprobs, want);
  };
  const double fp16 = error_in(Dtype::kF16), bf16 = error_in(Dtype::kBF16);
  EXPECT_LT(fp16 * 5, bf16);
  EXPECT_GT(fp16, 0);
  ::testing::Test::RecordProperty(directory.filename().string() + "_fp16", std::to_string(fp16));
  ::testing::Test::RecordProperty(directory.filename().string() + "_bf16", std::to_string(bf16));
}

TEST(Decoder, AgreesWithTransformers) {
  for (const char* name : kModels) {
    const Safetensors golden(kGolden / name / "golden.safetensors");
    expect_golden(kGolden / name, golden, golden, "grad.");
  }
}

TEST(Decoder, AgreesWithTransformersOnTheSharedSet) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "no " << kShared;
  for (const char* name : {"llama", "llama3_rope", "qwen2", "qwen2_tied", "qwen3", "qwen3_moe"})
    expect_golden(kShared / name, Safetensors(kShared / name / "golden.safetensors"),
                  Safetensors(kShared / name / "golden_grads.safetensors"), "");
}

void expect_recompute_keeps_bits(Backend& backend, const std::vector<const char*>& models) {
  for (const char* name : models) {
    const Safetensors golden(kGolden / name / "golden.safetensors");
    const Packed packed(read_ints(golden, "input_ids"), 2);
    for (const Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
      const auto model = load_model((kGolden / name).string(), backend, dtype, false);
      const std::vector<float> keep = to_host_float(score(*model, packed, Dtype::kF32, true).grads.flat());
      for (const Recompute tier : {Recompute::kElementwise, Recompute::kMlp, Recompute::kFull})
        EXPECT_EQ(keep, to_host_float(score(*model, packed, Dtype::kF32, true, tier).grads.flat()))
            << name << " " << name_of(dtype) << " tier " << int(tier);
    }
  }
}
TEST(Decoder, RecomputeTiersGiveTheSameBits) {
  expect_recompute_keeps_bits(cpu(), kModels);
}

void expect_written_like_added(Backend& backend) {
  for (const char* name : kModels) {
    const Safetensors golden(kGolden / name / "golden.safetensors");
    const Packed packed(read_ints(golden, "input_ids"), 2);
    for (const Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
      const auto model = load_model((kGolden / name).string(), backend, dtype, false);
      const auto gradients = [&](bool fresh) {
        return to_host_float(score(*model, packed, Dtype::kF32, true, Recompute::kNone, {}, {}, fresh).grads.flat());
      };
      EXPECT_EQ(gradients(true), gradients(false)) << name << " " << name_of(dtype);
    }
  }
}
TEST(Decoder, GradientsThatAreWrittenHaveTheBitsOfThoseAddedToZeros) {
  expect_written_like_added(cpu());
}

TEST(Decoder, UnitsAreWholeWhenBackwardSaysSo) {
  for (const char* name : kModels) {
    const Safetensors golden(kGolden / name / "golden.safetensors");
    const Packed packed(read_ints(golden, "input_ids"), 2);
    const auto model = load_model((kGolden / name).string(), cpu(), Dtype::kF16, false);
    const ParamLayout& layout = model->params.layout;
    for (const Recompute tier : {Recompute::kNone, Recompute::kMlp, Recompute::kFull}) {
      SCOPED_TRACE(str(name, " tier ", int(tier)));
      std::map<int, std::vector<float>> seen;  // by unit: the gradients from there on
      const auto from = [&](int unit, const ParamBuffer& grads) {
        return to_host_float(grads.flat().slice(layout.extent(unit).begin, layout.numel()));
      };
      const Scored scored = score(*model, packed, Dtype::kF32, true, tier, {},
                                  [&](int unit, const ParamBuffer& grads) { seen[unit] = from(unit, grads); });
      EXPECT_EQ(int64_t(seen.size()), model->config.layers);
      for (const auto& [unit, gradients] : seen) EXPECT_EQ(gradients, from(unit, scored.grads)) << unit;
    }
  }
}

class CudaDecoder : public CudaFixture<testing::Test> {};

TEST_F(CudaDecoder, AgreesWithTransformers) {
  for (const char* name : kModels) {
    const Safetensors golden(kGolden / name / "golden.safetensors");
    expect_golden(kGolden / name, golden, golden, "grad.", gpu().backend());
  }
}
TEST_F(CudaDecoder, RecomputeTiersGiveTheSameBits) {
  expect_recompute_keeps_bits(gpu().backend(), kModels);
}
TEST_F(CudaDecoder, GradientsThatAreWrittenHaveTheBitsOfThoseAddedToZeros) {
  expect_written_like_added(gpu().backend());
}

/// Prefill of a prompt and decode steps after it, two sequences of different length in one batch with an
/// inactive row: the hidden states and logits of the packed form, bit for bit.
void expect_decode_equals_packed(const char* name, Dtype dtype) {
  SCOPED_TRACE(name);
  const auto model = load_model((kGolden / name).string(), cpu(), dtype, false);
  const ModelConfig& config = model->config;
  Exec exec(cpu());
  Tape tape(exec, false);

  // 100 and 61 tokens: beyond a page, so that a page boundary is crossed in prefill and in decode.
  const std::vector<int64_t> lengths = {100, 61}, prompts = {59, 60};
  std::vector<std::vector<int32_t>> sequences;
  RandomStream random(5, 0);
  for (const int64_t n : lengths) {
    sequences.emplace_back();
    for (int64_t t = 0; t < n; ++t) sequences.back().push_back(int32_t(random.below(uint32_t(config.vocab_size))));
  }

  const auto context = [&](const std::vector<int32_t>& ids, const std::vector<int32_t>& positions) {
    ForwardContext ctx;
    ctx.tape = &tape;
    ctx.params = &model->params;
    ctx.residual = dtype;
    ctx.ids = ints(ids);
    ctx.positions = ints(positions);
    return ctx;
  };
  const auto packed_logits = [&](const std::vector<int64_t>& counts, KvCache* cache, std::vector<int32_t> slots) {
    std::vector<int32_t> ids, positions, offsets = {0};
    for (size_t s = 0; s < sequences.size(); ++s) {
      for (int64_t t = 0; t < counts[s]; ++t) {
        ids.push_back(sequences[s][size_t(t)]);
        positions.push_back(int32_t(t));
      }
      offsets.push_back(int32_t(ids.size()));
    }
    ForwardContext ctx = context(ids, positions);
    ctx.attention.offsets = ints(offsets);
    ctx.attention.cache = cache;
    if (cache) ctx.attention.slots = ints(slots);
    return to_host_float(model->decoder->logits(ctx, model->decoder->forward(ctx).value(), dtype));
  };
  const std::vector<float> whole = packed_logits(lengths, nullptr, {});

  // Pages in scrambled order: sequence 0 has pages 4, 1; sequence 1 has page 2.
  const std::vector<std::vector<int32_t>> pages = {{4, 1}, {2, 3}};
  const auto slot = [&](size_t s, int64_t t) {
    return int32_t(pages[s][size_t(t / kAttentionTile)] * kAttentionTile + t % kAttentionTile);
  };
  KvCache cache;
  for (int64_t i = 0; i < config.layers; ++i)
    cache.layers.push_back(exec.zeros({2, 5, kAttentionTile, int64_t(config.heads.kv) * config.heads.size}, dtype));
  std::vector<int32_t> slots;
  for (size_t s = 0; s < 2; ++s)
    for (int64_t t = 0; t < prompts[s]; ++t) slots.push_back(slot(s, t));
  const std::vector<float> prefill = packed_logits(prompts, &cache, slots);

  const auto expect_row = [&](const std::vector<float>& logits, int64_t row, size_t s, int64_t t) {
    const int64_t v = config.vocab_size, at = (s == 0 ? 0 : lengths[0]) + t;
    ASSERT_EQ(std::memcmp(logits.data() + row * v, whole.data() + at * v, size_t(v) * sizeof(float)), 0)
        << "sequence " << s << " token " << t;
  };
  for (size_t s = 0; s < 2; ++s)
    for (int64_t t = 0; t < prompts[s]; ++t) expect_row(prefill, (s == 0 ? 0 : prompts[0]) + t, s, t);

  for (int64_t step = 0; prompts[0] + step < lengths[0]; ++step) {
    std::vector<int32_t> ids, positions, read, table;
    slots.clear();
    for (size_t s = 0; s < 2; ++s) {
      const int64_t t = prompts[s] + step;
      const bool active = t < lengths[s];
      ids.push_back(active ? sequences[s][size_t(t)] : 0);
      positions.push_back(active ? int32_t(t) : 0);
      slots.push_back(active ? slot(s, t) : -1);
      read.push_back(active ? int32_t(t + 1) : 0);
      table.insert(table.end(), pages[s].begin(), pages[s].end());
    }
    ForwardContext ctx = context(ids, positions);
    ctx.attention.cache = &cache;
    ctx.attention.slots = ints(slots);
    ctx.attention.table = ints(table).view({2, 2});
    ctx.attention.lengths = ints(read);
    ctx.attention.ahead = step % 2 == 0 ? Tensor() : ints({0, 0});  // both forms of a step
    const std::vector<float> logits =
        to_host_float(model->decoder->logits(ctx, model->decoder->forward(ctx).value(), dtype));
    for (size_t s = 0; s < 2; ++s)
      if (read[s] > 0) expect_row(logits, int64_t(s), s, prompts[s] + step);
  }
}

TEST(Decoder, PrefillAndDecodeEqualPackedBitForBit) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    for (const char* name : kModels) expect_decode_equals_packed(name, dtype);
}

TEST(Decoder, LogitsOf16BitWeightsAreTheSameInFp32) {
  const auto model = load_model((kGolden / "qwen3").string(), cpu(), Dtype::kF16, false);
  Exec exec(cpu());
  Tape tape(exec, false);
  ForwardContext ctx;
  ctx.tape = &tape;
  ctx.params = &model->params;
  std::vector<float> x(32);
  RandomStream random(7, 0);
  for (float& v : x) v = to_float(half_from_float(random.normal()));
  const Tensor wide = tensor_from<float>(cpu(), x, {1, 32});
  Tensor narrow = exec.empty({1, 32}, Dtype::kF16);
  MANTISSA_RUN(exec, cast, narrow, wide);
  const std::vector<float> same = to_host_float(model->decoder->logits(ctx, narrow, Dtype::kF32));
  EXPECT_EQ(same, to_host_float(model->decoder->logits(ctx, wide, Dtype::kF32)));  // both operands in fp32
  EXPECT_EQ(same, to_host_float(model->decoder->logits(ctx, narrow, Dtype::kF16)));
  EXPECT_NE(same, to_host_float(model->decoder->logits(ctx, narrow, Dtype::kBF16)));
  exec.match = Match::kPeer;
  for (const float logit : to_host_float(model->decoder->logits(ctx, narrow, Dtype::kF16)))
    EXPECT_EQ(logit, to_float(half_from_float(logit)));
}

TEST(Decoder, AnAdditionIsNamedByTheLayerThatMadeIt) {
  const auto model = load_model((kGolden / "qwen3").string(), cpu(), Dtype::kF32, false);
  std::vector<std::string> layers;
  for (int64_t i = 0; i < model->config.layers; ++i)
    for (const char* part : {".attention", ".mlp"}) layers.push_back(str("layers.", i, part));
  for (const Recompute tier : {Recompute::kNone, Recompute::kFull}) {
    std::vector<std::string> additions;
    score(*model, Packed({1, 2, 3, 4}, 1), Dtype::kF32, true, tier, [&](const Observation& o) {
      if (o.op == "add" && !o.backward) additions.push_back(std::string(o.scope));
    });
    ASSERT_GE(additions.size(), layers.size());
    EXPECT_TRUE(std::equal(layers.begin(), layers.end(), additions.begin()));  // kFull replays them later
  }
}

TEST(Decoder, DecodeFormRefusesATapeThatRecords) {
  const auto model = load_model((kGolden / "qwen3").string(), cpu(), Dtype::kF32, false);
  Exec exec(cpu());
  Tape tape(exec, true);
  ForwardContext ctx;
  ctx.tape = &tape;
  ctx.params = &model->params;
  ctx.ids = ints({1});
  ctx.positions = ints({0});
  EXPECT_THROW(model->decoder->forward(ctx), Error);
}

TEST(Rope, Llama3KeepsShortStretchesLongMixesBetween) {
  RopeConfig rope;
  rope.kind = RopeConfig::Kind::kLlama3;
  rope.theta = 10000;
  rope.factor = 8;
  rope.low_freq_factor = 1;
  rope.high_freq_factor = 4;
  rope.original_max_positions = 64;
  const std::vector<double> f = rope_frequencies(rope, 16);
  const auto plain = [](int i) { return std::pow(10000.0, -i / 8.0); };
  EXPECT_DOUBLE_EQ(f[0], plain(0));                             // wavelength 6.3 < 64 / 4
  EXPECT_DOUBLE_EQ(f[7], plain(7) / 8);                         // wavelength 19869 > 64 / 1
  const double turns = 64 * plain(1) / (2 * std::numbers::pi);  // 3.22 of 1 .. 4
  const double mix = (turns - 1) / 3;
  EXPECT_NEAR(f[1], plain(1) * (mix + (1 - mix) / 8), 1e-15);
}

TEST(Rope, TableIsRoundedOnceFromFp64) {
  ModelConfig config;
  config.heads = {1, 1, 16};
  config.max_positions = 2000;
  const std::vector<float> table = to_host<float>(rope_table(config, cpu()));
  for (const int64_t p : {0, 1, 1999})
    for (int64_t i = 0; i < 8; ++i) {
      const double angle = double(p) * std::pow(10000.0, -2.0 * double(i) / 16);
      EXPECT_EQ(table[size_t((p * 8 + i) * 2)], float(std::cos(angle)));
      EXPECT_EQ(table[size_t((p * 8 + i) * 2 + 1)], float(std::sin(angle)));
    }
}

}  // namespace
}  // namespace mantissa
