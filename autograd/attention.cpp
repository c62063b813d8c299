// Rotary embedding and causal attention on packed sequences. T tokens, S sequences, H/G/D heads.
#include "autograd/ops.h"
#include "autograd/support.h"

namespace mantissa::ops {

namespace {

void check_rope(const Tensor& qkv, const Tensor& table, const Tensor& positions, Heads heads) {
  check_heads("rope", qkv, heads);
  check_rank("rope", "table", table, 3);
  check_shape("rope", "table", table, {table.size(0), heads.size / 2, 2});
  check_type("rope", "table", table, Dtype::kF32);
  check_index("rope", "positions", positions, qkv.size(0));
}

/// What rope makes of its kernel's result y.
Var record_rope(Tape& tape, const Var& qkv, const Tensor& table, const Tensor& positions, Heads heads, Tensor y) {
  if (!tape.needs_grad({&qkv})) return tape.constant("rope", std::move(y));

  return tape.output("rope", std::move(y), [&tape, table, positions, heads, slot = qkv.slot()](auto douts) {
    Tensor dx = tape.exec().empty(slot->shape, slot->dtype);
    MANTISSA_RUN(tape.exec(), rope, dx, douts[0], table, positions, heads, true);
    tape.add_grad(slot, std::move(dx));
  });
}

void check_cache(const Tensor& pages, const Tensor& slots, int64_t rows, Heads heads) {
  check_index("rope_kv", "slots", slots, rows);
  check_rank("rope_kv", "pages", pages, 4);
  check_shape("rope_kv", "pages", pages, {2, pages.size(1), kAttentionTile, int64_t(heads.kv) * heads.size});
}

void check_decode(const Tape& tape, const Tensor& qkv, const Tensor& table, const Tensor& lengths, Heads heads) {
  check(!tape.recording(), "[attention_decode] a tape that records cannot read a cache");
  check_heads("attention_decode", qkv, heads);
  const int64_t rows = qkv.size(0);
  check_index("attention_decode", "lengths", lengths, rows);
  check_rank("attention_decode", "table", table, 2);
  check_shape("attention_decode", "table", table, {rows, table.size(1)});
}

}  // namespace

Var rope(Tape& tape, const Var& qkv, const Tensor& table, const Tensor& positions, Heads heads) {
  check_rope(qkv.value(), table, positions, heads);
  Tensor y = tape.exec().empty(qkv.shape(), qkv.dtype());
  MANTISSA_RUN(tape.exec(), rope, y, qkv.value(), table, positions, heads, false);
  return record_rope(tape, qkv, table, positions, heads, std::move(y));
}

Var rope_kv(Tape& tape, const Var& qkv, const Tensor& table, const Tensor& positions, Heads heads, Tensor& pages,
            const Tensor& slots) {
  check_rope(qkv.value(), table, positions, heads);
  check_cache(pages, slots, qkv.value().size(0), heads);
  Tensor y = tape.exec().empty(qkv.shape(), qkv.dtype());
  MANTISSA_RUN(tape.exec(), rope_kv, y, pages, qkv.value(), table, positions, slots, heads);
  return record_rope(tape, qkv, table, positions, heads, std::move(y));
}

Var attention(Tape& tape, const Var& qkv, const Tensor& offsets, Heads heads, int64_t longest) {
  check_heads("attention", qkv.value(), heads);
  check_offsets("attention", offsets);
  const int64_t tokens = qkv.value().size(0);
  if (longest <= 0) longest = tokens;
  Exec& exec = tape.exec();
  Tensor y = exec.empty({tokens, int64_t(heads.query) * heads.size}, qkv.dtype());
  Tensor lse = exec.empty({tokens, heads.query}, accumulator_of(qkv.dtype()));
  MANTISSA_RUN(exec, attention_fwd, y, lse, qkv.value(), offsets, longest, heads);
  if (!tape.needs_grad({&qkv})) return tape.constant("attention", std::move(y));

  return tape.output(
      "attention", y, [&tape, offsets, longest, heads, y, lse, xs = tape.save(qkv), slot = qkv.slot()](auto douts) {
        Tensor dx = tape.exec().empty(slot->shape, slot->dtype);
        MANTISSA_RUN(tape.exec(), attention_bwd, dx, douts[0], xs.get(), y, lse, offsets, longest, heads);
        tape.add_grad(slot, std::move(dx));
      });
}

Var attention_decode(Tape& tape, const Var& qkv, const Tensor& pages, const Tensor& table, const Tensor& lengths,
                     const Tensor& ahead, Heads heads) {
  check_decode(tape, qkv.value(), table, lengths, heads);
  if (ahead.defined()) check_index("attention_decode", "ahead", ahead, qkv.value().size(0));
  Tensor y = tape.exec().empty({qkv.value().size(0), int64_t(heads.query) * heads.size}, qkv.dtype());
  MANTISSA_RUN(tape.exec(), attention_decode, y, qkv.value(), pages, table, lengths, ahead, heads);
  return tape.constant("attention_decode", std::move(y));
}

Var rope_attention_decode(Tape& tape, const Var& qkv, const Tensor& angles, const Tensor& positions, Heads heads,
                          Tensor& pages, const Tensor& slots, const Tensor& table, const Tensor& lengths) {
  const Tensor& rows = qkv.value();
  check_rope(rows, angles, positions, heads);
  check_cache(pages, slots, rows.size(0), heads);
  check_decode(tape, rows, table, lengths, heads);
  Tensor y = tape.exec().empty({rows.size(0), int64_t(heads.query) * heads.size}, qkv.dtype());
  Tensor room = tape.exec().empty(qkv.shape(), qkv.dtype());
  MANTISSA_RUN(tape.exec(), rope_attention_decode, y, pages, room, rows, angles, positions, slots, table, lengths,
               heads);
  return tape.constant("attention_decode", std::move(y));
}

}  // namespace mantissa::ops
