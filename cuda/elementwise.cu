// Elementwise kernels and casts: one pass, 16-byte accesses where the addresses allow. Moves of rows and columns are in
// rows.cu, sums and segments in sums.cu. Legend: T rows, C width, F half the width of gate_up.
#include "cuda/rows.cuh"

namespace mantissa::cuda_kernels {
namespace {

constexpr int kUnroll = 4;  // accesses in flight per operand and thread

/// Elements per access when these types are read and written together: 16 bytes of the widest.
template <class... Ts>
constexpr int kTogether = 16 / int(std::max({sizeof(Ts)...}));

/// out[i] = op(a[i]) or op(a[i], b[i]); a thread's accesses lie kThreads * N apart. All loads of a tile come before its
/// stores, element by element by one thread: out may alias a or b.
template <int N, class Op, class Out, class A>
__global__ void __launch_bounds__(kThreads) map1(int64_t n, Op op, Out* out, const A* a) {
  constexpr int64_t kTile = int64_t(kThreads) * N * kUnroll;
  const int64_t base = blockIdx.x * kTile + threadIdx.x * N;
  if ((blockIdx.x + 1) * kTile <= n) {
    float x[kUnroll][N];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) load_floats(x[u], a + base + u * kThreads * N);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int j = 0; j < N; ++j) x[u][j] = op(x[u][j]);
      store_floats(out + base + u * kThreads * N, x[u]);
    }
  } else {
    for (int64_t i = blockIdx.x * kTile + threadIdx.x; i < n; i += kThreads)
      out[i] = from_float<Out>(op(to_float(a[i])));
  }
}

template <int N, class Op, class Out, class A, class B>
__global__ void __launch_bounds__(kThreads) map2(int64_t n, Op op, Out* out, const A* a, const B* b) {
  constexpr int64_t kTile = int64_t(kThreads) * N * kUnroll;
  const int64_t base = blockIdx.x * kTile + threadIdx.x * N;
  if ((blockIdx.x + 1) * kTile <= n) {
    float x[kUnroll][N], y[kUnroll][N];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      load_floats(x[u], a + base + u * kThreads * N);
      load_floats(y[u], b + base + u * kThreads * N);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int j = 0; j < N; ++j) x[u][j] = op(x[u][j], y[u][j]);
      store_floats(out + base + u * kThreads * N, x[u]);
    }
  } else {
    for (int64_t i = blockIdx.x * kTile + threadIdx.x; i < n; i += kThreads)
      out[i] = from_float<Out>(op(to_float(a[i]), to_float(b[i])));
  }
}

template <class Op, class Out, class A>
void launch_map1(Exec& exec, int64_t n, Op op, Out* out, const A* a) {
  if (n == 0) return;
  constexpr int N = kTogether<Out, A>;
  if (aligned({out, a}))
    map1<N><<<blocks(n, kThreads * N * kUnroll), kThreads, 0, stream(exec)>>>(n, op, out, a);
  else
    map1<1><<<blocks(n, kThreads * kUnroll), kThreads, 0, stream(exec)>>>(n, op, out, a);
  MANTISSA_LAUNCH_CHECK();
}

template <class Op, class Out, class A, class B>
void launch_map2(Exec& exec, int64_t n, Op op, Out* out, const A* a, const B* b) {
  if (n == 0) return;
  constexpr int N = kTogether<Out, A, B>;
  if (aligned({out, a, b}))
    map2<N><<<blocks(n, kThreads * N * kUnroll), kThreads, 0, stream(exec)>>>(n, op, out, a, b);
  else
    map2<1><<<blocks(n, kThreads * kUnroll), kThreads, 0, stream(exec)>>>(n, op, out, a, b);
  MANTISSA_LAUNCH_CHECK();
}

// ---- fill, cast, binary, unary --------------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(int64_t n, T* out, T value) {
  constexpr int N = 16 / int(sizeof(T));
  struct alignas(16) Values {
    T v[N];
  } pack;
#pragma unroll
  for (int j = 0; j < N; ++j) pack.v[j] = value;
  const bool wide = reinterpret_cast<uintptr_t>(out) % 16 == 0;
  const int64_t first = blockIdx.x * int64_t(kThreads) + threadIdx.x, stride = int64_t(gridDim.x) * kThreads;
  const int64_t packs = wide ? n / N : 0;
  for (int64_t i = first; i < packs; i += stride) reinterpret_cast<Values*>(out)[i] = pack;
  for (int64_t i = packs * N + first; i < n; i += stride) out[i] = value;
}

void fill(Exec& exec, Tensor& out, double value) {
  const int64_t n = out.numel();
  if (n == 0) return;
  if (value == 0.0 && !std::signbit(value)) {
    MANTISSA_CUDA(cudaMemsetAsync(out.raw(), 0, out.bytes(), stream(exec)));
    return;
  }
  const unsigned grid = std::min(blocks(n, kThreads * 4), unsigned(device_facts(exec).sms) * 16);
  if (out.dtype() == Dtype::kI32) {
    fill_kernel<<<grid, kThreads, 0, stream(exec)>>>(n, out.data<int32_t>(), int32_t(value));
  } else {
    visit_float(out.dtype(), [&]<class T>(std::type_identity<T>) {
      const float x = float(value);
      T rounded;
      if constexpr (std::is_same_v<T, __half>)
        rounded = __float2half_rn(x);
      else if constexpr (std::is_same_v<T, __nv_bfloat16>)
        rounded = __float2bfloat16_rn(x);
      else
        rounded = x;
      fill_kernel<<<grid, kThreads, 0, stream(exec)>>>(n, elements<T>(out), rounded);
    });
  }
  MANTISSA_LAUNCH_CHECK();
}

struct Identity {
  __device__ float operator()(float x) const { return x; }
};

void cast(Exec& exec, Tensor& out, const Tensor& in) {
  visit_float(out.dtype(), [&]<class Out>(std::type_identity<Out>) {
    visit_float(
        in.dtype(),
        [&]<class In>(std::type_identity<In>) {
          launch_map1(exec, in.numel(), Identity(), elements<Out>(out), elements<In>(in));
        },
        "cast");
  });
}

// The op is a launch argument, the same for all threads: a branch costs nothing beside the memory traffic. Minimum and
// maximum keep a NaN of either side, so that a broken value never vanishes in a clip.
struct BinaryOp {
  Binary op;
  __device__ float operator()(float x, float y) const {
    switch (op) {
      case Binary::kAdd:
        return x + y;
      case Binary::kSub:
        return x - y;
      case Binary::kMul:
        return x * y;
      case Binary::kMin:
        return x <= y ? x : y < x ? y : x + y;
      case Binary::kMax:
        return x >= y ? x : y > x ? y : x + y;
      case Binary::kLessEqual:
        return x <= y ? 1.0f : 0.0f;
    }
    return 0.0f;
  }
};

void binary(Exec& exec, Tensor& out, const Tensor& a, const Tensor& b, Binary op) {
  visit_float(out.dtype(), [&]<class Out>(std::type_identity<Out>) {
    visit_float(
        a.dtype(),
        [&]<class A>(std::type_identity<A>) {
          visit_float(
              b.dtype(),
              [&]<class B>(std::type_identity<B>) {
                launch_map2(exec, out.numel(), BinaryOp{op}, elements<Out>(out), elements<A>(a), elements<B>(b));
              },
              "binary");
        },
        "binary");
  });
}

struct UnaryOp {
  Unary op;
  float p0, p1;
  __device__ float operator()(float x) const {
    switch (op) {
      case Unary::kAffine:
        return fmaf(p0, x, p1);
      case Unary::kExp:
        return expf(x);
      case Unary::kClamp:
        return x < p0 ? p0 : x > p1 ? p1 : x;
      case Unary::kWithinMask:
        return x >= p0 && x <= p1 ? 1.0f : 0.0f;
    }
    return 0.0f;
  }
};

void unary(Exec& exec, Tensor& out, const Tensor& in, Unary op, double p0, double p1) {
  visit_float(out.dtype(), [&]<class Out>(std::type_identity<Out>) {
    visit_float(
        in.dtype(),
        [&]<class In>(std::type_identity<In>) {
          launch_map1(exec, in.numel(), UnaryOp{op, float(p0), float(p1)}, elements<Out>(out), elements<In>(in));
        },
        "unary");
  });
}

// ---- bias, SwiGLU ---------------------------------------------------------------------------------------------------

template <class T, class In>
struct AddBias {
  int64_t width;
  T* out;
  const In* in;
  const T* bias;
  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    float x[N], b[N];
    load_floats(x, in + row * width + column);
    load_floats(b, bias + column);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] += b[j];
    store_floats(out + row * width + column, x);
  }
};

void add_bias(Exec& exec, Tensor& out, const Tensor& in, const Tensor& bias) {
  const int64_t width = bias.numel(), rows = width == 0 ? 0 : in.numel() / width;
  check(out.dtype() == bias.dtype(), "[add_bias] out and bias must share a type");
  visit_float(out.dtype(), [&]<class T>(std::type_identity<T>) {
    visit_float(
        in.dtype(),
        [&]<class In>(std::type_identity<In>) {
          launch_map_rows(exec, rows, width,
                          AddBias<T, In>{width, elements<T>(out), elements<In>(in), elements<T>(bias)},
                          {out.raw(), in.raw(), bias.raw()});
        },
        "add_bias");
  });
}

__device__ __forceinline__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

template <class T>
struct SwigluFwd {
  int64_t width;
  T* out;
  const T* gate_up;
  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    float gate[N], up[N];
    load_floats(gate, gate_up + 2 * row * width + column);
    load_floats(up, gate_up + (2 * row + 1) * width + column);
#pragma unroll
    for (int j = 0; j < N; ++j) gate[j] = gate[j] * sigmoid(gate[j]) * up[j];
    store_floats(out + row * width + column, gate);
  }
};

/// With s = sigmoid(g): d silu(g) / dg = s (1 + g (1 - s)).
template <class T>
struct SwigluBwd {
  int64_t width;
  T* dgate_up;
  const T *dout, *gate_up;
  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    const int64_t gate_at = 2 * row * width + column, up_at = gate_at + width;
    float gate[N], up[N], d[N];
    load_floats(gate, gate_up + gate_at);
    load_floats(up, gate_up + up_at);
    load_floats(d, dout + row * width + column);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float g = gate[j], s = sigmoid(g);
      gate[j] = d[j] * up[j] * s * (1.0f + g * (1.0f - s));
      up[j] = d[j] * g * s;
    }
    store_floats(dgate_up + gate_at, gate);
    store_floats(dgate_up + up_at, up);
  }
};

void swiglu_fwd(Exec& exec, Tensor& out, const Tensor& gate_up) {
  const int64_t width = out.size(-1);
  visit_float(out.dtype(), [&]<class T>(std::type_identity<T>) {
    launch_map_rows(exec, out.rows(), width, SwigluFwd<T>{width, elements<T>(out), elements<T>(gate_up)},
                    {out.raw(), gate_up.raw()});
  });
}

void swiglu_bwd(Exec& exec, Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up) {
  const int64_t width = dout.size(-1);
  visit_float(dout.dtype(), [&]<class T>(std::type_identity<T>) {
    launch_map_rows(exec, dout.rows(), width,
                    SwigluBwd<T>{width, elements<T>(dgate_up), elements<T>(dout), elements<T>(gate_up)},
                    {dgate_up.raw(), dout.raw(), gate_up.raw()});
  });
}

}  // namespace

void register_rows(Kernels& table);  // rows.cu
void register_sums(Kernels& table);  // sums.cu

void register_elementwise(Kernels& table) {
  table.fill = fill;
  table.cast = cast;
  table.binary = binary;
  table.unary = unary;
  table.add_bias = add_bias;
  table.swiglu_fwd = swiglu_fwd;
  table.swiglu_bwd = swiglu_bwd;
  register_rows(table);
  register_sums(table);
}

}  // namespace mantissa::cuda_kernels
