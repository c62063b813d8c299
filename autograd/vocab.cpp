// Ops over the vocabulary: embedding, choice of rows, and the head that scores tokens chunk by chunk. T tokens, C
// width, V vocabulary, n tokens of a chunk.
#include <algorithm>

#include "autograd/ops.h"
#include "autograd/support.h"

namespace mantissa::ops {

Var embedding(Tape& tape, const Var& table, const Tensor& ids) {
  check_rank("embedding", "table", table.value(), 2);
  check_rank("embedding", "ids", ids, 1);
  check_type("embedding", "ids", ids, Dtype::kI32);
  Exec& exec = tape.exec();
  Tensor y = exec.empty({ids.numel(), table.value().size(1)}, table.dtype());
  MANTISSA_RUN(exec, embedding_fwd, y, table.value(), ids);
  if (!tape.needs_grad({&table})) return tape.constant("embedding", std::move(y));

  return tape.output("embedding", std::move(y), [&tape, ids, slot = table.slot()](auto douts) {
    Tensor dtable = tape.open_sink(slot);
    MANTISSA_RUN(tape.exec(), embedding_bwd, dtable, douts[0], ids);
    tape.close_sink(slot, std::move(dtable));
  });
}

Var gather_rows(Tape& tape, const Var& x, const Tensor& rows) {
  check_rank("gather_rows", "x", x.value(), 2);
  check_rank("gather_rows", "rows", rows, 1);
  check_type("gather_rows", "rows", rows, Dtype::kI32);
  Exec& exec = tape.exec();
  Tensor y = exec.empty({rows.numel(), x.value().size(1)}, x.dtype());
  MANTISSA_RUN(exec, gather_rows, y, x.value(), rows);
  if (!tape.needs_grad({&x})) return tape.constant("gather_rows", std::move(y));

  return tape.output("gather_rows", std::move(y), [&tape, rows, slot = x.slot()](auto douts) {
    Tensor dx = tape.exec().zeros(slot->shape, slot->dtype);
    MANTISSA_RUN(tape.exec(), scatter_rows, dx, douts[0], rows);
    tape.add_grad(slot, std::move(dx));
  });
}

namespace {

/// Under Match::kExact a library's algorithm is checked for each number of rows, and chunks of whole sequences have
/// hardly a number twice: on a device logits are made of so many rows, or a multiple, the last of them zeros.
constexpr int64_t kRowStep = 256;

/// Reusable buffers for one chunk of logits and, in backward, of their gradient; h and w already have the head's type.
class LogitsChunk {
 public:
  LogitsChunk(Exec& exec, int64_t tokens, int64_t vocab, Dtype dtype)
      : exec_(exec), logits_(exec.empty({padded(tokens), vocab}, accumulator_of(dtype))), dtype_(dtype) {}
  /// Of one chunk whose logits were made before.
  LogitsChunk(Exec& exec, Tensor logits, Dtype dtype) : exec_(exec), logits_(std::move(logits)), dtype_(dtype) {}

  /// logits[n,V] = h[n,C] . w[V,C]^T, rounded to the head's type and back when imitating a peer engine.
  Tensor make(const Tensor& h, const Tensor& w) {
    const int64_t tokens = h.size(0), rows = padded(tokens);
    Tensor all = logits_.slice(0, rows);
    MANTISSA_RUN(exec_, matmul, all, rows == tokens ? h : with_zeros(h, rows), w, Trans::kNT, false);
    Tensor logits = all.slice(0, tokens);
    if (exec_.match == Match::kPeer && is_16bit(dtype_)) {
      Tensor rounded = gradient(logits);
      MANTISSA_RUN(exec_, cast, rounded, logits);
      MANTISSA_RUN(exec_, cast, logits, rounded);
    }
    return logits;
  }

  /// Where d(logits) of that chunk goes, in the head's type: over the logits where they have it too.
  Tensor gradient(const Tensor& logits) {
    if (!is_16bit(dtype_)) return logits;
    if (!narrow_.defined()) narrow_ = exec_.empty(logits_.shape(), dtype_);
    return narrow_.slice(0, logits.size(0));
  }

 private:
  int64_t padded(int64_t tokens) const {
    const bool few_sizes = exec_.match == Match::kExact && exec_.backend().name() != "cpu";
    return few_sizes ? (tokens + kRowStep - 1) / kRowStep * kRowStep : tokens;
  }
  Tensor with_zeros(const Tensor& h, int64_t rows) {
    const Tensor out = exec_.empty({rows, h.size(1)}, h.dtype()), rest = out.slice(h.size(0), rows);
    exec_.backend().copy(out.raw(), h.raw(), h.bytes());
    exec_.backend().zero(rest.raw(), rest.bytes());
    return out;
  }

  Exec& exec_;
  Tensor logits_, narrow_;
  Dtype dtype_;
};

}  // namespace

int64_t head_chunk(const Backend& backend, int64_t vocab, int64_t chosen) {
  if (chosen > 0) return chosen;
  if (backend.name() == "cpu") return 256;
  return std::clamp<int64_t>((int64_t(5) << 29) / (vocab * 4), 2048, 16384);
}

TokenLogprobs token_logprobs(Tape& tape, const Var& hidden, const Var& w, const Tensor& targets,
                             const HeadOptions& options) {
  check_rank("token_logprobs", "hidden", hidden.value(), 2);
  check_rank("token_logprobs", "w", w.value(), 2);
  const int64_t tokens = hidden.value().size(0), vocab = w.value().size(0);
  check(hidden.value().size(1) == w.value().size(1), "[token_logprobs] hidden[T,C] and w[V,C] must agree in C: got ",
        hidden.shape(), " and ", w.shape());
  check_index("token_logprobs", "targets", targets, tokens);
  check(options.temperature > 0, "[token_logprobs] temperature must be positive: got ", options.temperature);
  check(options.chunk >= 0, "[token_logprobs] chunk must not be negative: got ", options.chunk);
  // A gradient check runs in fp64 throughout.
  const Dtype dtype = hidden.dtype() == Dtype::kF64 ? Dtype::kF64 : options.dtype;
  const int64_t chunk = std::min(head_chunk(tape.exec().backend(), vocab, options.chunk), tokens);
  const double inv_temperature = 1.0 / options.temperature;

  Exec& exec = tape.exec();
  const Dtype wide = accumulator_of(dtype);
  Tensor logprobs = exec.empty({tokens}, wide), entropy = exec.empty({tokens}, wide), lse = exec.empty({tokens}, wide);
  Tensor kept;  // the logits, for backward
  {
    const Tensor h = cast_to(exec, hidden.value(), dtype), weight = cast_to(exec, w.value(), dtype);
    LogitsChunk buffers(exec, chunk, vocab, dtype);
    for (int64_t t = 0; t < tokens; t += chunk) {
      const int64_t end = std::min(t + chunk, tokens);
      const Tensor logits = buffers.make(h.slice(t, end), weight);
      Tensor chunk_logprobs = logprobs.slice(t, end), chunk_entropy = entropy.slice(t, end),
             chunk_lse = lse.slice(t, end);
      MANTISSA_RUN(exec, logprob_fwd, chunk_logprobs, chunk_entropy, chunk_lse, logits, targets.slice(t, end),
                   inv_temperature);
      if (chunk == tokens) kept = logits;
    }
  }
  if (!tape.needs_grad({&hidden, &w}))
    return {tape.constant("token_logprobs", std::move(logprobs)), tape.constant("token_logprobs", std::move(entropy))};

  std::vector<Var> outs = tape.outputs(
      "token_logprobs", {logprobs, entropy},
      [&tape, hs = tape.save(hidden), ws = tape.save(w), targets, lse, entropy, kept, state = options.state, dtype,
       chunk, inv_temperature, hidden_slot = hidden.slot(), w_slot = w.slot()](auto douts) {
        Exec& exec = tape.exec();
        const int64_t tokens = lse.size(0);
        const Tensor dlogprobs = douts[0].defined() ? douts[0] : exec.zeros(lse.shape(), lse.dtype());
        const Tensor& dentropy = douts[1];
        const Tensor h = cast_to(exec, hs.get(), dtype), weight = cast_to(exec, ws.get(), dtype);
        LogitsChunk buffers =
            kept.defined() ? LogitsChunk(exec, kept, dtype) : LogitsChunk(exec, chunk, weight.size(0), dtype);
        Tensor dh = hidden_slot ? exec.empty(h.shape(), dtype) : Tensor();
        bool accumulate = true;
        Tensor dw = tokens > 0 ? tape.open_sink(w_slot, accumulate) : tape.open_sink(w_slot);
        for (int64_t t = 0; t < tokens; t += chunk) {
          const int64_t end = std::min(t + chunk, tokens);
          const Tensor chunk_h = h.slice(t, end);
          const Tensor logits = kept.defined() ? kept : buffers.make(chunk_h, weight);
          Tensor dlogits = buffers.gradient(logits);
          MANTISSA_RUN(exec, logprob_bwd, dlogits, logits, lse.slice(t, end), entropy.slice(t, end),
                       targets.slice(t, end), dlogprobs.slice(t, end),
                       dentropy.defined() ? dentropy.slice(t, end) : Tensor(), state, inv_temperature);
          if (dh.defined()) {
            Tensor chunk_dh = dh.slice(t, end);
            MANTISSA_RUN(exec, matmul, chunk_dh, dlogits, weight, Trans::kNN, false);
          }
          if (dw.defined()) MANTISSA_RUN(exec, matmul, dw, dlogits, chunk_h, Trans::kTN, accumulate || t > 0);
        }
        tape.close_sink(w_slot, std::move(dw));
        if (hidden_slot) tape.add_grad(hidden_slot, cast_to(exec, dh, hidden_slot->dtype));
      });
  return {outs[0], outs[1]};
}

}  // namespace mantissa::ops
