// Measurements of single kernels: matrix products, attention, the optimizer's step.
#include <algorithm>
#include <cmath>

#include "core/conveyor.h"
#include "nn/optimizer.h"
#include "tools/bench.h"

namespace mantissa {

void Bench::gemm() {
  gemm_ceiling();
  if (!model_) return;
  const ModelConfig& c = model_->config;
  const int64_t m = flags_.sequences * flags_.length, attention = int64_t(c.heads.query) * c.heads.size;
  const struct {
    const char* name;
    int64_t n, k;
  } products[] = {{"qkv", c.heads.row(), c.width},
                  {"o", c.width, attention},
                  {"gate_up", 2 * c.feed_forward, c.width},
                  {"down", c.width, c.feed_forward},
                  {"head", c.vocab_size, c.width}};
  for (const auto& p : products) {
    const int64_t rows =
        p.n == c.vocab_size ? std::min<int64_t>(m, on_cpu() ? 256 : 2048) : m;  // logits come in chunks
    const double ideal = 2000.0 * double(rows) * double(p.n) * double(p.k) / gemm_ceiling();
    report("gemm", str(p.name, ",M=", rows, ",N=", p.n, ",K=", p.k), time_gemm(rows, p.n, p.k), 0, ideal);
  }
}

void Bench::attention() {
  const Heads heads = model().config.heads;
  const int64_t s = flags_.sequences, l = flags_.length, total = s * l, width = int64_t(heads.query) * heads.size;
  std::vector<int32_t> bounds;
  for (int64_t i = 0; i <= s; ++i) bounds.push_back(int32_t(i * l));
  const Tensor offsets = tensor_from<int32_t>(exec_.backend(), bounds, {s + 1});
  const Tensor qkv = noise({total, heads.row()}, dtype_), dout = noise({total, width}, dtype_);
  Tensor out = exec_.empty({total, width}, dtype_), lse = exec_.empty({total, int64_t(heads.query)}, Dtype::kF32);
  Tensor dqkv = exec_.empty(qkv.shape(), dtype_);
  const std::string shape = str(",H=", heads.query, ",G=", heads.kv, ",D=", heads.size);
  // Two products over the causal half forward, five backward.
  const double product = 1000.0 * double(s) * double(l) * double(l) * double(width) / gemm_ceiling();
  const std::string packed = str("S=", s, ",L=", l, shape);
  report("attention_fwd", packed, time([&] { MANTISSA_RUN(exec_, attention_fwd, out, lse, qkv, offsets, l, heads); }),
         double(total), 2 * product);
  report("attention_bwd", packed,
         time([&] { MANTISSA_RUN(exec_, attention_bwd, dqkv, dout, qkv, out, lse, offsets, l, heads); }), double(total),
         5 * product);

  const int64_t b = flags_.batch, kv = int64_t(heads.kv) * heads.size;
  const int64_t pages_each = (flags_.context + kAttentionTile - 1) / kAttentionTile;
  const Tensor pages = noise({2, b * pages_each, kAttentionTile, kv}, dtype_), row = noise({b, heads.row()}, dtype_);
  std::vector<int32_t> table, lengths(size_t(b), int32_t(flags_.context));
  for (int32_t i = 0; i < int32_t(b * pages_each); ++i) table.push_back(i);
  const Tensor device_table = tensor_from<int32_t>(exec_.backend(), table, {b, pages_each});
  const Tensor device_lengths = tensor_from<int32_t>(exec_.backend(), lengths, {b});
  Tensor decoded = exec_.empty({b, width}, dtype_);
  const double bytes = double(b * flags_.context * 2 * kv) * double(size_of(dtype_));
  const double ideal = 1000.0 * bytes / copy_ceiling();
  report("attention_decode", str("B=", b, ",context=", flags_.context, shape), time([&] {
           MANTISSA_RUN(exec_, attention_decode, decoded, row, pages, device_table, device_lengths, {}, heads);
         }),
         double(b), ideal);
}

/// Products of grouped rows with the two weights of experts, and their gradients: each expert has as many rows, or
/// expert i as its share in proportion to 1 / (i + 1). The ideal is the product of as many rows with one matrix.
void Bench::experts() {
  const ModelConfig& c = model().config;
  const int64_t count = c.experts.count, rows = flags_.sequences * flags_.length * c.experts.per_token;
  check(count > 0, "bench experts: the model has none");
  const auto offsets_of = [&](bool zipf) {
    std::vector<double> upto = {0};
    for (int64_t e = 0; e < count; ++e) upto.push_back(upto.back() + (zipf ? 1.0 / double(e + 1) : 1.0));
    std::vector<int32_t> offsets;
    for (const double x : upto) offsets.push_back(int32_t(std::lround(double(rows) * x / upto.back())));
    return tensor_from<int32_t>(exec_.backend(), offsets, {count + 1});
  };
  const Tensor balanced = offsets_of(false), zipf = offsets_of(true);
  const struct {
    const char* name;
    int64_t n, k;
  } products[] = {{"gate_up", 2 * c.experts.feed_forward, c.width}, {"down", c.width, c.experts.feed_forward}};
  for (const auto& [name, n, k] : products) {
    const Tensor x = noise({rows, k}, dtype_), dy = noise({rows, n}, dtype_), w = noise({count * n, k}, dtype_);
    Tensor y = exec_.empty({rows, n}, dtype_), dx = exec_.empty({rows, k}, dtype_);
    Tensor dw = exec_.zeros({count * n, k}, Dtype::kF32), one = dw.slice(0, n);
    const struct {
      const char* name;
      Tensor c, one, a, b, b_one;
      Trans trans;
      bool adds;
    } ways[] = {{"forward", y, y, x, w, w.slice(0, n), Trans::kNT, false},
                {"gradient of inputs", dx, dx, dy, w, w.slice(0, n), Trans::kNN, false},
                {"gradient of weights", dw, one, dy, x, x, Trans::kTN, true},
                {"first gradient of weights", dw, one, dy, x, x, Trans::kTN, false}};
    for (const auto& way : ways) {
      Tensor out = way.c, dense = way.one;
      std::vector<double> ideal =
          time([&] { MANTISSA_RUN(exec_, matmul, dense, way.a, way.b_one, way.trans, way.adds); });
      std::sort(ideal.begin(), ideal.end());
      for (const bool uneven : {false, true}) {
        const Tensor& offsets = uneven ? zipf : balanced;
        report("experts",
               str(name, " ", way.name, ",R=", rows, ",E=", count, ",N=", n, ",K=", k, uneven ? ",zipf" : ""),
               time([&] { MANTISSA_RUN(exec_, grouped_matmul, out, way.a, way.b, offsets, way.trans, way.adds); }),
               double(rows), ideal[ideal.size() / 2]);
      }
    }
  }
}

double Bench::link_ceiling() {
  constexpr int64_t kSlots = 3, kPiece = int64_t(1) << 23;
  const int64_t pieces = on_cpu() ? 4 : 64;
  Backend& backend = exec_.backend();
  const Tensor host(backend.allocate_host(size_t(pieces * kPiece) * sizeof(float)), 0, {pieces * kPiece}, Dtype::kF32);
  Tensor room[kSlots];
  for (Tensor& t : room) t = exec_.empty({kPiece}, Dtype::kF32);
  const auto copy = [&](int64_t i) {
    return std::vector<Conveyor::Copy>{{room[i % kSlots], host.slice(i * kPiece, (i + 1) * kPiece)}};
  };
  const std::vector<double> ms = time([&] {
    const std::unique_ptr<Conveyor> conveyor = backend.conveyor(exec_, int(kSlots));
    for (int64_t i = 0; i < pieces; ++i) {
      conveyor->fetch(int(i % kSlots), copy(i));
      conveyor->use(int(i % kSlots));
      conveyor->store(int(i % kSlots), copy(i));
    }
    conveyor->finish();
  });
  const double best = *std::min_element(ms.begin(), ms.end());
  report("link_ceiling", str("bytes=", host.bytes(), ",both ways"), ms, 0, best);
  return 1000.0 * double(host.bytes()) / best;
}

/// Gradient cleared, norm, finite check, clip, AdamW and the 16-bit copy over all parameters. The ideal moves each byte
/// once: through the device's memory, or with --offload both ways through the link.
void Bench::step() {
  const double speed = flags_.offload ? link_ceiling() : copy_ceiling();
  Optimizer optimizer(exec_, model().trained(), OptimConfig(), ScalerConfig(), 1000000, comm_);
  const double n = double(model().trained().layout.numel());
  // Gradient written and read twice; master, m and v read and written; the 16-bit copy written.
  const double bytes = flags_.offload ? n * 3 * 4 / comm_.size() : n * (3 * 4 + 3 * 8 + (is_16bit(dtype_) ? 2 : 0));
  const auto body = [&] {
    optimizer.zero_grad();
    optimizer.step();
  };
  const int64_t count = model().adapter ? model().adapter->trained() : model().params.layout.whole().parameters();
  report("step", str("parameters=", count, flags_.offload ? ",offload" : ""), time(body), 0, 1000.0 * bytes / speed);
}

}  // namespace mantissa
