// What the ops share: input checks ("[op] rule: got value") and casts.
#pragma once

#include "autograd/tape.h"

namespace mantissa::ops {

inline void check_shape(const char* op, const char* name, const Tensor& t, const Shape& shape) {
  check(t.defined() && t.shape() == shape, "[", op, "] ", name, " must have shape ", shape, ": got ", t.shape());
}

inline void check_rank(const char* op, const char* name, const Tensor& t, int rank) {
  check(t.defined() && t.shape().rank() == rank, "[", op, "] ", name, " must have ", rank, " dimensions: got shape ",
        t.shape());
}

inline void check_type(const char* op, const char* name, const Tensor& t, Dtype dtype) {
  check(t.dtype() == dtype, "[", op, "] ", name, " must be ", name_of(dtype), ": got ", name_of(t.dtype()));
}

/// int32 [n]. What the values must obey is the caller's to check: they may live on a device.
inline void check_index(const char* op, const char* name, const Tensor& t, int64_t n) {
  check_shape(op, name, t, {n});
  check_type(op, name, t, Dtype::kI32);
}

/// offsets[S+1] int32 with S >= 0; returns S.
inline int64_t check_offsets(const char* op, const Tensor& offsets) {
  check_rank(op, "offsets", offsets, 1);
  check(offsets.numel() >= 1, "[", op, "] offsets must have S + 1 entries: got 0");
  check_type(op, "offsets", offsets, Dtype::kI32);
  return offsets.numel() - 1;
}

/// qkv rows of H query, G key and G value heads.
inline void check_heads(const char* op, const Tensor& qkv, Heads heads) {
  check(heads.kv > 0 && heads.query > 0 && heads.query % heads.kv == 0, "[", op,
        "] key/value heads must divide query heads: got ", heads.query, " and ", heads.kv);
  check(heads.size > 0 && heads.size % 8 == 0, "[", op, "] head size must be a multiple of 8: got ", heads.size);
  check_rank(op, "qkv", qkv, 2);
  check_shape(op, "qkv", qkv, {qkv.size(0), heads.row()});
}

/// What add() makes of its kernel's result y (elementwise.cpp): for ops that fuse the addition.
Var record_add(Tape& tape, const Var& a, const Var& b, Tensor y);

/// x itself when it has that type already.
inline Tensor cast_to(Exec& exec, const Tensor& x, Dtype dtype) {
  if (x.dtype() == dtype) return x;
  Tensor out = exec.empty(x.shape(), dtype);
  MANTISSA_RUN(exec, cast, out, x);
  return out;
}

}  // namespace mantissa::ops
