// Moves of rows and columns, and dropout. Legend: T rows, C width.
#include "cuda/rows.cuh"

namespace mantissa::cuda_kernels {
namespace {

template <class Word>
struct GatherRows {
  int64_t width;  // words of a row
  Word* out;
  const Word* in;
  const int32_t* rows;
  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    out[row * width + column] = in[rows[row] * width + column];
  }
};

void gather_rows(Exec& exec, Tensor& out, const Tensor& in, const Tensor& rows) {
  const int64_t count = rows.numel();
  if (count == 0 || out.numel() == 0) return;
  const int64_t bytes = int64_t(out.bytes()) / count;
  const auto by = [&]<class Word>(Word) {
    const int64_t width = bytes / int64_t(sizeof(Word)), words = count * width;
    const GatherRows<Word> f{width, static_cast<Word*>(out.raw()), static_cast<const Word*>(in.raw()),
                             rows.data<int32_t>()};
    map_rows<1><<<blocks(words, kThreads), kThreads, 0, stream(exec)>>>(words, uint32_t(width), f);
  };
  if (bytes % 16 == 0 && aligned({out.raw(), in.raw()}))
    by(uint4{});
  else if (size_of(in.dtype()) == 2)
    by(uint16_t{});
  else if (size_of(in.dtype()) == 4)
    by(uint32_t{});
  else
    by(uint64_t{});
  MANTISSA_LAUNCH_CHECK();
}

template <class Out, class In>
struct ScatterRows {
  int64_t width;
  Out* out;
  const In* in;
  const int32_t* rows;
  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    Out* to = out + rows[row] * width + column;
    float x[N], y[N];
    load_floats(x, in + row * width + column);
    load_floats(y, to);
#pragma unroll
    for (int j = 0; j < N; ++j) y[j] += x[j];
    store_floats(to, y);
  }
};

void scatter_rows(Exec& exec, Tensor& out, const Tensor& in, const Tensor& rows) {
  const int64_t width = out.size(0) == 0 ? 0 : out.numel() / out.size(0);
  visit_float(out.dtype(), [&]<class Out>(std::type_identity<Out>) {
    visit_float(
        in.dtype(),
        [&]<class In>(std::type_identity<In>) {
          launch_map_rows(exec, rows.numel(), width,
                          ScatterRows<Out, In>{width, elements<Out>(out), elements<In>(in), rows.data<int32_t>()},
                          {out.raw(), in.raw()});
        },
        "scatter_rows");
  });
}

template <class Out, class In>
struct CopyColumns {
  int64_t out_width, to, in_width, from;
  Out* out;
  const In* in;
  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    float x[N];
    load_floats(x, in + row * in_width + from + column);
    store_floats(out + row * out_width + to + column, x);
  }
};

void copy_columns(Exec& exec, Tensor& out, int64_t to, const Tensor& in, int64_t from, int64_t n) {
  visit_float(out.dtype(), [&]<class Out>(std::type_identity<Out>) {
    visit_float(
        in.dtype(),
        [&]<class In>(std::type_identity<In>) {
          const CopyColumns<Out, In> f{out.size(1), to, in.size(1), from, elements<Out>(out), elements<In>(in)};
          const int64_t rows = out.size(0);
          // Packs of 8 where every row of both begins on a boundary for them.
          if ((out.size(1) | to | in.size(1) | from) % 8 == 0)
            launch_map_rows(exec, rows, n, f, {out.raw(), in.raw()});
          else if (rows * n > 0)
            map_rows<1><<<blocks(rows * n, kThreads), kThreads, 0, stream(exec)>>>(rows * n, uint32_t(n), f);
        },
        "copy_columns");
  });
  MANTISSA_LAUNCH_CHECK();
}

template <class T>
struct Dropout {
  int64_t width;
  T* out;
  const T* in;
  const uint32_t* rows;
  const uint32_t* key;
  uint32_t place;
  float p, scale;
  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    float x[N];
    load_floats(x, in + row * width + column);
    PhiloxBlock block{};
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const uint32_t c = uint32_t(column) + j;
      if (j == 0 || c % 4 == 0)
        block = philox({{rows[2 * row], rows[2 * row + 1], place, c / 4}}, PhiloxKey{key[0], key[1]});
      x[j] = uniform_from(block.v[c % 4]) >= p ? x[j] * scale : 0.0f;
    }
    store_floats(out + row * width + column, x);
  }
};

void dropout(Exec& exec, Tensor& out, const Tensor& in, const Tensor& rows, const Tensor& key, int place, double p) {
  const auto words = [](const Tensor& t) { return reinterpret_cast<const uint32_t*>(t.data<int32_t>()); };
  visit_float(out.dtype(), [&]<class T>(std::type_identity<T>) {
    launch_map_rows(exec, in.size(0), in.size(1),
                    Dropout<T>{in.size(1), elements<T>(out), elements<T>(in), words(rows), words(key), uint32_t(place),
                               float(p), float(1.0 / (1.0 - p))},
                    {out.raw(), in.raw()});
  });
}

}  // namespace

void register_rows(Kernels& table) {
  table.gather_rows = gather_rows;
  table.scatter_rows = scatter_rows;
  table.copy_columns = copy_columns;
  table.dropout = dropout;
}

}  // namespace mantissa::cuda_kernels
