// Attention on the CPU: rotary embedding, packed causal forward, paged KV cache and decode. The arithmetic of
// a row is in attention_tile.h, once; here is only who visits which tiles. Work is split over (query tile or
// decode row, kv head), so the query heads of a group share each loaded tile and no result depends on the
// number of threads.
//
// Shapes: qkv[T,(H+2G)D], out[T,HD], lse[T,H], pages[2,P,kAttentionTile,GD], table[B,max_pages].
#include <omp.h>

#include <cstring>

#include "core/cpu/attention_tile.h"
#include "core/cpu/cpu.h"

namespace mantissa::cpu_kernels {
namespace attention {
namespace {

/// Work space of one thread: `rows` rows of one query head at a time, `ratio` heads.
template <class C>
struct Work {
  static int64_t elements(int64_t rows, const Geometry<C>& g) {
    return kAttentionTile * (g.heads.size + g.width) + rows * g.ratio * (2 * g.width + 2) +
           rows * kAttentionTile;
  }
  Work(C* memory, int64_t rows, const Geometry<C>& g) {
    auto take = [&](int64_t count) { return std::exchange(memory, memory + count); };
    keys = take(kAttentionTile * g.heads.size);
    values = take(kAttentionTile * g.width);
    q = take(rows * g.ratio * g.width);
    o = take(rows * g.ratio * g.width);
    high = take(rows * g.ratio);
    total = take(rows * g.ratio);
    p = take(rows * kAttentionTile);
  }
  Running<C> running(int64_t first_row, int64_t width) const {
    return {o + first_row * width, high + first_row, total + first_row};
  }
  C *keys, *values, *q, *o, *high, *total, *p;
};

template <class T>
void rope_rows(Tensor& out, const Tensor& qkv, const Tensor& table, const Tensor& positions, Heads heads,
               bool inverse) {
  using C = Compute<T>;
  const int64_t half = heads.size / 2, row = heads.row(), rows = qkv.size(0);
  const int rotated = heads.query + heads.kv;
  const T* in = qkv.data<T>();
  T* to = out.data<T>();
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < rows; ++t) {
    const float* angle = table.data<float>() + positions.data<int32_t>()[t] * half * 2;
    for (int h = 0; h < rotated; ++h) {
      const T* x = in + t * row + h * heads.size;
      T* y = to + t * row + h * heads.size;
      for (int64_t i = 0; i < half; ++i) {
        const C c = angle[2 * i], s = inverse ? -angle[2 * i + 1] : angle[2 * i + 1];
        const C x1 = to_float(x[i]), x2 = to_float(x[i + half]);
        y[i] = round_to<T>(std::fma(x1, c, -(x2 * s)));
        y[i + half] = round_to<T>(std::fma(x2, c, x1 * s));
      }
    }
    if (in != to)
      std::copy_n(in + t * row + rotated * heads.size, heads.kv * heads.size,
                  to + t * row + rotated * heads.size);
  }
}

void rope(Exec&, Tensor& out, const Tensor& qkv, const Tensor& table, const Tensor& positions, Heads heads,
          bool inverse) {
  dispatch_floating(qkv.dtype(), [&](auto tag) {
    rope_rows<typename decltype(tag)::type>(out, qkv, table, positions, heads, inverse);
  });
}

template <class T>
void forward(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, Heads heads) {
  using C = Compute<T>;
  const Geometry<C> g(heads);
  const bool peer = exec.rounding == Rounding::kPeer;
  const int32_t* start = offsets.data<int32_t>();
  const int64_t sequences = offsets.numel() - 1, row = heads.row();

  // Tasks: (sequence, first position of a query tile).
  struct Task {
    int32_t begin, position, end;
  };
  Scratch scratch(exec);
  int64_t tasks = 0;
  for (int64_t s = 0; s < sequences; ++s)
    tasks += (start[s + 1] - start[s] + kAttentionTile - 1) / kAttentionTile;
  Task* task = scratch.take<Task>(tasks);
  int64_t filled = 0;
  for (int64_t s = 0; s < sequences; ++s)
    for (int32_t at = start[s]; at < start[s + 1]; at += kAttentionTile)
      task[filled++] = {start[s], at, start[s + 1]};

  const int64_t work_size = padded(Work<C>::elements(kAttentionTile, g));
  C* memory = scratch.take<C>(work_size * omp_get_max_threads());
  const T* in = qkv.data<T>();
#pragma omp parallel for schedule(dynamic)
  for (int64_t item = tasks * heads.kv - 1; item >= 0; --item) {  // the longest of a sequence first
    const Task at = task[item / heads.kv];
    const int group = int(item % heads.kv);
    const int64_t rows = std::min<int64_t>(kAttentionTile, at.end - at.position);
    Work<C> work(memory + work_size * omp_get_thread_num(), kAttentionTile, g);
    work.running(0, g.width).clear(kAttentionTile * g.ratio, g.width);
    for (int h = 0; h < g.ratio; ++h)
      load_rows(work.q + h * kAttentionTile * g.width, g.width,
                in + at.position * row + g.query_column(group * g.ratio + h), row, rows, heads.size);
    for (int64_t key = at.begin; key <= at.position; key += kAttentionTile) {
      const int64_t keys = std::min<int64_t>(kAttentionTile, at.end - key);
      load_transposed(work.keys, in + key * row + g.key_column(group), row, keys, heads.size);
      load_rows(work.values, g.width, in + key * row + g.value_column(group), row, keys, heads.size);
      for (int h = 0; h < g.ratio; ++h)
        attend_tile<T>(work.running(h * kAttentionTile, g.width), work.p,
                       work.q + h * kAttentionTile * g.width, work.keys, work.values, rows,
                       {at.position - key + 1, 1}, g, peer);
    }
    for (int h = 0; h < g.ratio; ++h)
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t t = at.position + r, from = h * kAttentionTile + r, head = group * g.ratio + h;
        store_row(out.data<T>() + (t * heads.query + head) * heads.size, work.o + from * g.width,
                  work.total[from], heads.size);
        lse.data<C>()[t * heads.query + head] = work.high[from] + std::log(work.total[from]);
      }
  }
}

void attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets,
                   Heads heads) {
  dispatch_floating(qkv.dtype(), [&](auto tag) {
    forward<typename decltype(tag)::type>(exec, out, lse, qkv, offsets, heads);
  });
}

void kv_write(Exec&, Tensor& pages, const Tensor& qkv, const Tensor& slots, Heads heads) {
  const int64_t row = heads.row(), width = int64_t(heads.kv) * heads.size, tokens = qkv.size(0);
  const int64_t plane = pages.numel() / 2;
  dispatch_floating(qkv.dtype(), [&](auto from) {
    dispatch_floating(pages.dtype(), [&](auto to) {
      using From = typename decltype(from)::type;
      using To = typename decltype(to)::type;
      const From* in = qkv.data<From>() + heads.query * heads.size;
#pragma omp parallel for schedule(static)
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t slot = slots.data<int32_t>()[t];
        if (slot < 0) continue;
        for (int part = 0; part < 2; ++part) {
          To* cell = pages.data<To>() + part * plane + slot * width;
          for (int64_t i = 0; i < width; ++i)
            cell[i] = round_to<To>(Compute<To>(to_float(in[t * row + part * width + i])));
        }
      }
    });
  });
}

void kv_copy(Exec&, Tensor& pages, const Tensor& from, const Tensor& to) {
  const size_t page = pages.bytes() / size_t(2 * pages.size(1)), plane = pages.bytes() / 2;
  char* memory = static_cast<char*>(pages.raw());
  for (int64_t i = 0; i < from.numel(); ++i) {
    const int32_t source = from.data<int32_t>()[i], target = to.data<int32_t>()[i];
    if (source < 0 || source == target) continue;
    for (int part = 0; part < 2; ++part)
      std::memcpy(memory + part * plane + size_t(target) * page,
                  memory + part * plane + size_t(source) * page, page);
  }
}

/// Adds the softmax `part` to `sum`, both over the same rows and disjoint keys.
template <class C>
void merge(Running<C> sum, Running<C> part, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    const C high = std::max(sum.high[r], part.high[r]);
    const C a = std::exp(sum.high[r] - high), b = std::exp(part.high[r] - high);
    sum.high[r] = high;
    sum.total[r] = std::fma(part.total[r], b, sum.total[r] * a);
    for (int64_t d = 0; d < width; ++d)
      sum.o[r * width + d] = std::fma(part.o[r * width + d], b, sum.o[r * width + d] * a);
  }
}

template <class T, class K>
void decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table,
            const Tensor& lengths, Heads heads) {
  using C = Compute<T>;
  const Geometry<C> g(heads);
  const bool peer = exec.rounding == Rounding::kPeer;
  const int parts = peer ? 4 : 1;
  const int64_t batch = qkv.size(0), max_pages = table.size(1), cell = int64_t(heads.kv) * heads.size;
  const K* keys = pages.data<K>();
  const K* values = keys + pages.numel() / 2;

  Scratch scratch(exec);
  const int64_t partial_size =
      padded(g.ratio * (g.width + 2));  // where a partial softmax waits for the merge
  const int64_t work_size = padded(Work<C>::elements(g.ratio, g)) + partial_size;
  C* memory = scratch.take<C>(work_size * omp_get_max_threads());
#pragma omp parallel for schedule(dynamic)
  for (int64_t item = 0; item < batch * heads.kv; ++item) {
    const int64_t b = item / heads.kv;
    const int group = int(item % heads.kv);
    T* to = out.data<T>() + b * heads.query * heads.size + g.query_column(group * g.ratio);
    const int64_t length = lengths.data<int32_t>()[b];
    if (length <= 0) {
      std::memset(static_cast<void*>(to), 0, size_t(g.ratio) * heads.size * sizeof(T));
      continue;
    }
    C* own = memory + work_size * omp_get_thread_num();
    C* waiting = own + work_size - partial_size;
    Work<C> work(own, g.ratio, g);
    const Running<C> sum{waiting, waiting + g.ratio * g.width, waiting + g.ratio * (g.width + 1)};
    load_rows(work.q, g.width, qkv.data<T>() + b * heads.row() + g.query_column(group * g.ratio), heads.size,
              g.ratio, heads.size);
    const int64_t tiles = (length + kAttentionTile - 1) / kAttentionTile;
    Running<C> state = work.running(0, g.width);
    for (int part = 0; part < parts; ++part) {
      const int64_t first = tiles * part / parts, last = tiles * (part + 1) / parts;
      if (first == last) continue;
      state.clear(g.ratio, g.width);
      for (int64_t tile = first; tile < last; ++tile) {
        const int64_t page = table.data<int32_t>()[b * max_pages + tile];
        const int64_t at = page * kAttentionTile * cell + int64_t(group) * heads.size;
        const int64_t rows = std::min<int64_t>(kAttentionTile, length - tile * kAttentionTile);
        load_transposed(work.keys, keys + at, cell, rows, heads.size);
        load_rows(work.values, g.width, values + at, cell, rows, heads.size);
        attend_tile<T>(state, work.p, work.q, work.keys, work.values, g.ratio, {rows, 0}, g, peer);
      }
      if (!peer) continue;
      if (first == 0) {
        std::copy_n(state.o, g.ratio * g.width, sum.o);
        std::copy_n(state.high, g.ratio, sum.high);
        std::copy_n(state.total, g.ratio, sum.total);
      } else {
        merge(sum, state, g.ratio, g.width);
      }
    }
    if (peer) state = sum;
    for (int h = 0; h < g.ratio; ++h)
      store_row(to + h * heads.size, state.o + h * g.width, state.total[h], heads.size);
  }
}

void attention_decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table,
                      const Tensor& lengths, Heads heads) {
  dispatch_floating(qkv.dtype(), [&](auto query) {
    dispatch_floating(pages.dtype(), [&](auto cache) {
      decode<typename decltype(query)::type, typename decltype(cache)::type>(exec, out, qkv, pages, table,
                                                                             lengths, heads);
    });
  });
}

}  // namespace
}  // namespace attention

void register_attention(Kernels& table) {
  table.rope = attention::rope;
  table.attention_fwd = attention::attention_fwd;
  table.attention_bwd = attention::attention_bwd;
  table.kv_write = attention::kv_write;
  table.kv_copy = attention::kv_copy;
  table.attention_decode = attention::attention_decode;
}

}  // namespace mantissa::cpu_kernels
