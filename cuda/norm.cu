// RMSNorm over rows and over the query and key heads of qkv rows. With xhat = x * rstd:
//   y = xhat w,   dx = rstd (w dy - xhat mean(w dy xhat)),   dw += sum over rows of dy xhat.
// A row is read once and kept in registers. Weight gradients add up over blocks of kRowBlock rows in order, then over
// the blocks. Legend: T rows, C width, H query heads, G key/value heads, D head size.
#include "cuda/overlap.cuh"
#include "cuda/sums.cuh"

namespace mantissa::cuda_kernels {
namespace {

constexpr int kPack = 8;       // elements a thread takes at once
constexpr int kRowBlock = 32;  // rows of one partial sum
constexpr int kBlock = 256;    // threads of a block
constexpr int64_t kMaxWidth = 16384;
constexpr int kMaxHead = 512;

/// kPack elements of a row of `width`, zero past its end; `wide` when the row may be read 16 bytes at a time.
template <class T>
__device__ __forceinline__ void load_part(float (&x)[kPack], const T* row, int column, int width, bool wide) {
  if (wide && column < width) {
    load_floats(x, row + column);
  } else {
#pragma unroll
    for (int j = 0; j < kPack; ++j) x[j] = column + j < width ? to_float(row[column + j]) : 0.0f;
  }
}
template <class T>
__device__ __forceinline__ void store_part(T* row, const float (&x)[kPack], int column, int width, bool wide) {
  if (wide && column < width) {
    store_floats(row + column, x);
  } else {
#pragma unroll
    for (int j = 0; j < kPack; ++j)
      if (column + j < width) row[column + j] = from_float<T>(x[j]);
  }
}

/// A second tensor to add to x before the norm, and where the rounded sum goes; null pointers: none.
template <class X, class Y>
struct Addend {
  const Y* b;
  X* sum;
};

/// Rows by groups of kGroup threads (a warp or a block), each thread with kParts packs of the row.
template <int kGroup, int kParts, class X, class Y>
__global__ void __launch_bounds__(kBlock)
    rms_norm_fwd_kernel(Y* y, float* rstd, const X* x, Addend<X, Y> addend, const Y* w, int64_t rows, int width,
                        float eps, bool wide) {
  let_next_begin();
  await_previous();
  const int lane = threadIdx.x % kGroup;
  const int64_t row = blockIdx.x * int64_t(kBlock / kGroup) + threadIdx.x / kGroup;
  if (row >= rows) return;  // a whole group leaves
  const X* in = x + row * width;
  float v[kParts][kPack];
  float squares = 0.0f;
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    const int column = (p * kGroup + lane) * kPack;
    load_part(v[p], in, column, width, wide);
    if (addend.b) {
      float b[kPack];
      load_part(b, addend.b + row * width, column, width, wide);
#pragma unroll
      for (int j = 0; j < kPack; ++j) v[p][j] = rounded<X>(v[p][j] + b[j]);
      store_part(addend.sum + row * width, v[p], column, width, wide);
    }
#pragma unroll
    for (int j = 0; j < kPack; ++j) squares = fmaf(v[p][j], v[p][j], squares);
  }
  if constexpr (kGroup == kWarp)
    squares = warp_sum(squares);
  else
    squares = block_sum<kGroup>(squares);
  const float r = 1.0f / sqrtf(squares / float(width) + eps);
  if (lane == 0) rstd[row] = r;
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    const int column = (p * kGroup + lane) * kPack;
    float weight[kPack];
    load_part(weight, w, column, width, wide);
#pragma unroll
    for (int j = 0; j < kPack; ++j) v[p][j] = v[p][j] * r * weight[j];
    store_part(y + row * width, v[p], column, width, wide);
  }
}

/// Of x, or of sum = x + b where b is defined.
void norm_fwd(Exec& exec, Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& b, const Tensor& sum, const Tensor& w,
              double eps) {
  const int64_t width = x.size(-1), rows = x.rows();
  check(width <= kMaxWidth, "[rms_norm_fwd] rows have at most ", kMaxWidth, " elements on cuda: got ", width);
  check(w.dtype() == y.dtype(), "[rms_norm_fwd] y must have w's type ", name_of(w.dtype()), ": got ",
        name_of(y.dtype()));
  const bool adds = b.defined();
  check(!adds || b.dtype() == y.dtype(), "[add_rms_norm_fwd] b must have w's type ", name_of(w.dtype()));
  if (rows == 0 || width == 0) return;
  const bool wide =
      width % kPack == 0 && aligned({x.raw(), w.raw(), y.raw()}) && (!adds || aligned({b.raw(), sum.raw()}));
  visit_float(x.dtype(), [&]<class X>(std::type_identity<X>) {
    visit_float(
        y.dtype(),
        [&]<class Y>(std::type_identity<Y>) {
          const auto launch = [&]<int kGroup, int kParts>() {
            launch_early(exec, rms_norm_fwd_kernel<kGroup, kParts, X, Y>, blocks(rows, kBlock / kGroup), kBlock, 0,
                         elements<Y>(y), elements<float>(rstd), elements<X>(x),
                         adds ? Addend<X, Y>{elements<Y>(b), elements<X>(sum)} : Addend<X, Y>{}, elements<Y>(w), rows,
                         int(width), float(eps), wide);
          };
          if (width <= 1 * kWarp * kPack)
            launch.template operator()<kWarp, 1>();
          else if (width <= 4 * kWarp * kPack)
            launch.template operator()<kWarp, 4>();
          else if (width <= 1 * kBlock * kPack)
            launch.template operator()<kBlock, 1>();
          else if (width <= 2 * kBlock * kPack)
            launch.template operator()<kBlock, 2>();
          else
            launch.template operator()<kBlock, 8>();
        },
        "rms_norm_fwd");
  });
}

void rms_norm_fwd(Exec& exec, Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& w, double eps) {
  norm_fwd(exec, y, rstd, x, {}, {}, w, eps);
}

void add_rms_norm_fwd(Exec& exec, Tensor& sum, Tensor& y, Tensor& rstd, const Tensor& a, const Tensor& b,
                      const Tensor& w, double eps) {
  norm_fwd(exec, y, rstd, a, b, sum, w, eps);
}

/// One block works through kRowBlock rows; its threads keep the weight gradients of their columns in registers.
/// `before`, where it is given, is read with the rest of the row: its loads do not wait for the sum.
template <int kParts, class X, class Y>
__global__ void __launch_bounds__(kBlock)
    rms_norm_bwd_kernel(X* dx, float* dw_partials, const Y* dy, const X* x, const Y* w, const float* rstd,
                        const X* before, int64_t rows, int width, bool wide) {
  float weight[kParts][kPack], dw[kParts][kPack] = {};
#pragma unroll
  for (int p = 0; p < kParts; ++p) load_part(weight[p], w, (p * kBlock + int(threadIdx.x)) * kPack, width, wide);
  const int64_t first = blockIdx.x * int64_t(kRowBlock), end = min(rows, first + kRowBlock);
  for (int64_t row = first; row < end; ++row) {
    const float r = rstd[row];
    float v[kParts][kPack], d[kParts][kPack], b[kParts][kPack];
    float dot = 0.0f;
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const int column = (p * kBlock + int(threadIdx.x)) * kPack;
      load_part(v[p], x + row * width, column, width, wide);
      load_part(d[p], dy + row * width, column, width, wide);
      if (before) load_part(b[p], before + row * width, column, width, wide);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        v[p][j] *= r;
        dw[p][j] = fmaf(d[p][j], v[p][j], dw[p][j]);
        d[p][j] *= weight[p][j];
        dot = fmaf(d[p][j], v[p][j], dot);
      }
    }
    const float mean = block_sum<kBlock>(dot) / float(width);
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        v[p][j] = r * (d[p][j] - v[p][j] * mean);
        if (before) v[p][j] = b[p][j] + rounded<X>(v[p][j]);
      }
      store_part(dx + row * width, v[p], (p * kBlock + int(threadIdx.x)) * kPack, width, wide);
    }
  }
  if (!dw_partials) return;
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    const int column = (p * kBlock + int(threadIdx.x)) * kPack;
#pragma unroll
    for (int j = 0; j < kPack; ++j)
      if (column + j < width) dw_partials[blockIdx.x * int64_t(width) + column + j] = dw[p][j];
  }
}

void rms_norm_bwd(Exec& exec, Tensor& dx, Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& w,
                  const Tensor& rstd, const Tensor& before) {
  const int64_t width = x.size(-1), rows = x.rows();
  check(width <= kMaxWidth, "[rms_norm_bwd] rows have at most ", kMaxWidth, " elements on cuda: got ", width);
  check(dx.dtype() == x.dtype() && dy.dtype() == w.dtype(), "[rms_norm_bwd] dx must have x's type and dy w's type");
  const bool adds = before.defined();
  check(!adds || before.dtype() == x.dtype(), "[rms_norm_bwd] before must have x's type ", name_of(x.dtype()), ": got ",
        name_of(before.dtype()));
  if (rows == 0 || width == 0) return;
  const int64_t row_blocks = (rows + kRowBlock - 1) / kRowBlock;
  Scratch scratch(exec);
  float* partials = dw.defined() ? scratch.take<float>(row_blocks * width) : nullptr;
  const bool wide =
      width % kPack == 0 && aligned({x.raw(), w.raw(), dy.raw(), dx.raw()}) && (!adds || aligned({before.raw()}));
  visit_float(x.dtype(), [&]<class X>(std::type_identity<X>) {
    visit_float(
        w.dtype(),
        [&]<class Y>(std::type_identity<Y>) {
          const auto launch = [&]<int kParts>() {
            rms_norm_bwd_kernel<kParts><<<unsigned(row_blocks), kBlock, 0, stream(exec)>>>(
                elements<X>(dx), partials, elements<Y>(dy), elements<X>(x), elements<Y>(w), elements<float>(rstd),
                adds ? elements<X>(before) : nullptr, rows, int(width), wide);
            MANTISSA_LAUNCH_CHECK();
          };
          if (width <= 1 * kBlock * kPack)
            launch.template operator()<1>();
          else if (width <= 2 * kBlock * kPack)
            launch.template operator()<2>();
          else if (width <= 4 * kBlock * kPack)
            launch.template operator()<4>();
          else
            launch.template operator()<8>();
        },
        "rms_norm_bwd");
  });
  if (dw.defined()) add_partials(exec, elements<float>(dw), partials, row_blocks, width);
}

// ---- heads ----------------------------------------------------------------------------------------------------------

constexpr int kHeadPack = 4;
constexpr int kHeadParts = kMaxHead / (kWarp * kHeadPack);
constexpr int kWarps = kBlock / kWarp;

/// A warp a head; value heads are copied. D is a multiple of 8, so packs of 4 are aligned when the tensors are.
template <class T>
__global__ void __launch_bounds__(kBlock) qk_norm_fwd_kernel(T* out, float* rstd, const T* qkv, const T* qw,
                                                             const T* kw, int64_t rows, Heads heads, float eps) {
  const int lane = threadIdx.x % kWarp, all = heads.query + 2 * heads.kv, normed = heads.query + heads.kv;
  const int64_t head = blockIdx.x * int64_t(kWarps) + threadIdx.x / kWarp;
  if (head >= rows * all) return;
  const int64_t row = head / all;
  const int h = int(head - row * all), size = heads.size;
  const T* in = qkv + head * size;
  float x[kHeadParts][kHeadPack];
  float squares = 0.0f;
#pragma unroll
  for (int p = 0; p < kHeadParts; ++p) {
    const int column = (p * kWarp + lane) * kHeadPack;
    if (column >= size) break;
    load_floats(x[p], in + column);
#pragma unroll
    for (int j = 0; j < kHeadPack; ++j) squares = fmaf(x[p][j], x[p][j], squares);
  }
  const float r = 1.0f / sqrtf(warp_sum(squares) / float(size) + eps);
  if (h < normed && lane == 0) rstd[row * normed + h] = r;
  const T* w = h < heads.query ? qw : kw;
#pragma unroll
  for (int p = 0; p < kHeadParts; ++p) {
    const int column = (p * kWarp + lane) * kHeadPack;
    if (column >= size) break;
    if (h < normed) {
      float weight[kHeadPack];
      load_floats(weight, w + column);
#pragma unroll
      for (int j = 0; j < kHeadPack; ++j) x[p][j] = x[p][j] * r * weight[j];
    }
    store_floats(out + head * size + column, x[p]);
  }
}

void check_head(const char* op, Heads heads, std::initializer_list<const void*> pointers) {
  check(heads.size <= kMaxHead, "[", op, "] heads have at most ", kMaxHead, " elements on cuda: got ", heads.size);
  check(aligned(pointers), "[", op, "] tensors must start on 16 bytes");
}

void qk_norm_fwd(Exec& exec, Tensor& out, Tensor& rstd, const Tensor& qkv, const Tensor& qw, const Tensor& kw,
                 Heads heads, double eps) {
  const int64_t count = qkv.rows() * (heads.query + 2 * heads.kv);
  check_head("qk_norm_fwd", heads, {out.raw(), qkv.raw(), qw.raw(), kw.raw()});
  if (count == 0) return;
  visit_float(qkv.dtype(), [&]<class T>(std::type_identity<T>) {
    qk_norm_fwd_kernel<<<blocks(count, kWarps), kBlock, 0, stream(exec)>>>(
        elements<T>(out), elements<float>(rstd), elements<T>(qkv), elements<T>(qw), elements<T>(kw), qkv.rows(), heads,
        float(eps));
    MANTISSA_LAUNCH_CHECK();
  });
}

/// A block works through kRowBlock rows, its warps through their heads in turn. A warp keeps the gradients of both
/// weights in registers; at the end the warps' sums are added in order.
template <class T>
__global__ void __launch_bounds__(kBlock)
    qk_norm_bwd_kernel(T* dqkv, float* partials, const T* dout, const T* qkv, const T* qw, const T* kw,
                       const float* rstd, int64_t rows, Heads heads) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, size = heads.size;
  const int all = heads.query + 2 * heads.kv, normed = heads.query + heads.kv;
  const int64_t first = blockIdx.x * int64_t(kRowBlock);
  const int count = int(min(rows - first, int64_t(kRowBlock))) * all;
  float dw[2][kHeadParts][kHeadPack] = {};
  for (int i = warp; i < count; i += kWarps) {
    const int64_t row = first + i / all, at = (first * all + i) * int64_t(size);
    const int h = i % all;
    const bool query = h < heads.query;
    float x[kHeadParts][kHeadPack], d[kHeadParts][kHeadPack];
    float dot = 0.0f;
    const float r = h < normed ? rstd[row * normed + h] : 0.0f;
    const T* w = query ? qw : kw;
#pragma unroll
    for (int p = 0; p < kHeadParts; ++p) {
      const int column = (p * kWarp + lane) * kHeadPack;
      if (column >= size) break;
      load_floats(d[p], dout + at + column);
      if (h >= normed) continue;
      float weight[kHeadPack];
      load_floats(x[p], qkv + at + column);
      load_floats(weight, w + column);
#pragma unroll
      for (int j = 0; j < kHeadPack; ++j) {
        x[p][j] *= r;
        if (query)
          dw[0][p][j] = fmaf(d[p][j], x[p][j], dw[0][p][j]);
        else
          dw[1][p][j] = fmaf(d[p][j], x[p][j], dw[1][p][j]);
        d[p][j] *= weight[j];
        dot = fmaf(d[p][j], x[p][j], dot);
      }
    }
    const float mean = warp_sum(dot) / float(size);
#pragma unroll
    for (int p = 0; p < kHeadParts; ++p) {
      const int column = (p * kWarp + lane) * kHeadPack;
      if (column >= size) break;
      if (h < normed)
#pragma unroll
        for (int j = 0; j < kHeadPack; ++j) d[p][j] = r * (d[p][j] - x[p][j] * mean);
      store_floats(dqkv + at + column, d[p]);
    }
  }
  __shared__ float parts[kWarps][kMaxHead];
  for (int which = 0; which < 2; ++which) {
    __syncthreads();
#pragma unroll
    for (int p = 0; p < kHeadParts; ++p)
#pragma unroll
      for (int j = 0; j < kHeadPack; ++j)
        parts[warp][(p * kWarp + lane) * kHeadPack + j] = which == 0 ? dw[0][p][j] : dw[1][p][j];
    __syncthreads();
    for (int c = threadIdx.x; c < size; c += kBlock) {
      float total = 0.0f;
      for (int i = 0; i < kWarps; ++i) total += parts[i][c];
      partials[(int64_t(which) * gridDim.x + blockIdx.x) * size + c] = total;
    }
  }
}

void qk_norm_bwd(Exec& exec, Tensor& dqkv, Tensor& dqw, Tensor& dkw, const Tensor& dout, const Tensor& qkv,
                 const Tensor& qw, const Tensor& kw, const Tensor& rstd, Heads heads) {
  const int64_t rows = qkv.rows(), row_blocks = (rows + kRowBlock - 1) / kRowBlock;
  check_head("qk_norm_bwd", heads, {dqkv.raw(), dout.raw(), qkv.raw(), qw.raw(), kw.raw()});
  if (rows == 0) return;
  Scratch scratch(exec);
  float* partials = scratch.take<float>(2 * row_blocks * heads.size);  // [query, key][row block][D]
  visit_float(qkv.dtype(), [&]<class T>(std::type_identity<T>) {
    qk_norm_bwd_kernel<<<unsigned(row_blocks), kBlock, 0, stream(exec)>>>(
        elements<T>(dqkv), partials, elements<T>(dout), elements<T>(qkv), elements<T>(qw), elements<T>(kw),
        elements<float>(rstd), rows, heads);
    MANTISSA_LAUNCH_CHECK();
  });
  if (dqw.defined()) add_partials(exec, elements<float>(dqw), partials, row_blocks, heads.size);
  if (dkw.defined())
    add_partials(exec, elements<float>(dkw), partials + row_blocks * heads.size, row_blocks, heads.size);
}

}  // namespace

void register_norm(Kernels& table) {
  table.rms_norm_fwd = rms_norm_fwd;
  table.add_rms_norm_fwd = add_rms_norm_fwd;
  table.rms_norm_bwd = rms_norm_bwd;
  table.qk_norm_fwd = qk_norm_fwd;
  table.qk_norm_bwd = qk_norm_bwd;
}

}  // namespace mantissa::cuda_kernels
