// Attention on the CPU: rotary embedding, packed causal forward, paged KV cache and decode. The arithmetic of a row is
// in attention-inl.h, once; here is only who visits which tiles. Work is split over (query tile or decode row, kv
// head), so the query heads of a group share each loaded tile and no result depends on the number of threads.
//
// Shapes: qkv[T,(H+2G)D], out[T,HD], lse[T,H], pages[2,P,kAttentionTile,GD], table[B,max_pages].
#define HWY_TARGET_INCLUDE "core/cpu/attention.cpp"
#include "core/cpu/attention-inl.h"

#include <omp.h>

#include "core/cpu/kernels.h"
#include "core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {
namespace attention {

template <class C>
HWY_INLINE C logarithm(C x) {
  if constexpr (kVectors<C>)
    return log(x);
  else
    return std::log(x);
}

/// Work space of one thread: `rows` rows of one query head at a time, `ratio` heads.
template <class C>
struct Work {
  static int64_t elements(int64_t rows, const Geometry<C>& g) {
    return kAttentionTile * (g.heads.size + g.width) + 4 * g.width + rows * g.ratio * (2 * g.width + 2) +
           rows * kAttentionTile;
  }
  Work(C* memory, int64_t rows, const Geometry<C>& g) {
    auto take = [&](int64_t count) { return std::exchange(memory, memory + count); };
    keys = take(kAttentionTile * g.heads.size);
    values = take(kAttentionTile * g.width);
    rows4 = take(4 * g.width);
    q = take(rows * g.ratio * g.width);
    o = take(rows * g.ratio * g.width);
    high = take(rows * g.ratio);
    total = take(rows * g.ratio);
    p = take(rows * kAttentionTile);
  }
  Running<C> running(int64_t first_row, int64_t width) const {
    return {o + first_row * width, high + first_row, total + first_row};
  }
  C *keys, *values, *rows4, *q, *o, *high, *total, *p;
};

/// Rotates n (at most kLanes) pairs (x1, x2) by angles given as cosines and sines.
template <class T>
void rotate(T* y1, T* y2, const T* x1, const T* x2, const float* cosines, const float* sines, int64_t n) {
  if constexpr (std::is_same_v<T, double>) {
    for (int64_t i = 0; i < n; ++i) {
      const double a = x1[i], b = x2[i], c = cosines[i], s = sines[i];
      y1[i] = std::fma(a, c, -(b * s));
      y2[i] = std::fma(b, c, a * s);
    }
  } else {
    const Vec c = load(cosines), s = load(sines);
    const Vec a = n == kLanes ? load(x1) : load_n(x1, n), b = n == kLanes ? load(x2) : load_n(x2, n);
    const Vec r1 = fma(a, c, -(b * s)), r2 = fma(b, c, a * s);
    if (n == kLanes) {
      store(y1, r1);
      store(y2, r2);
    } else {
      store_n(y1, r1, n);
      store_n(y2, r2, n);
    }
  }
}

template <class T>
void rope_rows(Tensor& out, const Tensor& qkv, const Tensor& table, const Tensor& positions, Heads heads,
               bool inverse) {
  const int64_t half = heads.size / 2, row = heads.row(), rotated = heads.query + heads.kv;
  const T* in = qkv.data<T>();
  T* to = out.data<T>();
  parallel_for(qkv.size(0), 8, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t t = begin; t < end; ++t) {
      const float* angle = table.data<float>() + positions.data<int32_t>()[t] * half * 2;
      for (int64_t i = 0; i < half; i += kLanes) {
        const int64_t n = std::min<int64_t>(kLanes, half - i);
        float cosines[kLanes] = {}, sines[kLanes] = {};
        for (int64_t j = 0; j < n; ++j) {
          cosines[j] = angle[2 * (i + j)];
          sines[j] = inverse ? -angle[2 * (i + j) + 1] : angle[2 * (i + j) + 1];
        }
        for (int64_t at = t * row + i; at < t * row + rotated * heads.size; at += heads.size)
          rotate(to + at, to + at + half, in + at, in + at + half, cosines, sines, n);
      }
      const int64_t values = t * row + rotated * heads.size;
      if (in != to) std::copy_n(in + values, heads.kv * heads.size, to + values);
    }
  });
}

template <class T>
void forward(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, Heads heads) {
  using C = Compute<T>;
  const Geometry<C> g(heads);
  const bool peer = exec.match == Match::kPeer;
  const int32_t* start = offsets.data<int32_t>();
  const int64_t sequences = offsets.numel() - 1, row = heads.row();

  // Tasks: (sequence, first position of a query tile).
  struct Task {
    int32_t begin, position, end;
  };
  Scratch scratch(exec);
  int64_t tasks = 0;
  for (int64_t s = 0; s < sequences; ++s) tasks += (start[s + 1] - start[s] + kAttentionTile - 1) / kAttentionTile;
  Task* task = scratch.take<Task>(tasks);
  int64_t filled = 0;
  for (int64_t s = 0; s < sequences; ++s)
    for (int32_t at = start[s]; at < start[s + 1]; at += kAttentionTile) task[filled++] = {start[s], at, start[s + 1]};

  const int64_t work_size = padded(Work<C>::elements(kAttentionTile, g));
  C* memory = scratch.take<C>(work_size * omp_get_max_threads());
  const T* in = qkv.data<T>();
  parallel_tasks(tasks * heads.kv, [&](int64_t back) HWY_ATTR {
    const int64_t item = tasks * heads.kv - 1 - back;  // the longest of a sequence first
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
      load_transposed(work.keys, work.rows4, in + key * row + g.key_column(group), row, keys, heads.size);
      load_rows(work.values, g.width, in + key * row + g.value_column(group), row, keys, heads.size);
      for (int h = 0; h < g.ratio; ++h)
        attend_tile<T>(work.running(h * kAttentionTile, g.width), work.p, work.q + h * kAttentionTile * g.width,
                       work.keys, work.values, rows, {at.position - key + 1, 1}, g, peer);
    }
    for (int h = 0; h < g.ratio; ++h)
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t t = at.position + r, from = h * kAttentionTile + r, head = group * g.ratio + h;
        store_row(out.data<T>() + (t * heads.query + head) * heads.size, work.o + from * g.width, work.total[from],
                  heads.size);
        lse.data<C>()[t * heads.query + head] = work.high[from] + logarithm(work.total[from]);
      }
  });
}

/// Adds the softmax `part` to `sum`, both over the same rows and disjoint keys.
template <class C>
void merge(Running<C> sum, Running<C> part, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    const C high = std::max(sum.high[r], part.high[r]);
    const C a = exponential(sum.high[r] - high), b = exponential(part.high[r] - high);
    sum.high[r] = high;
    sum.total[r] = std::fma(part.total[r], b, sum.total[r] * a);
    for (int64_t d = 0; d < width; ++d)
      sum.o[r * width + d] = std::fma(part.o[r * width + d], b, sum.o[r * width + d] * a);
  }
}

template <class T, class K>
void decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table, const Tensor& lengths,
            Heads heads) {
  using C = Compute<T>;
  const Geometry<C> g(heads);
  const bool peer = exec.match == Match::kPeer;
  const int parts = peer ? 4 : 1;
  const int64_t batch = qkv.size(0), max_pages = table.size(1), cell = int64_t(heads.kv) * heads.size;
  const K* keys = pages.data<K>();
  const K* values = keys + pages.numel() / 2;

  Scratch scratch(exec);
  const int64_t partial_size = padded(g.ratio * (g.width + 2));  // where a partial softmax waits for the merge
  const int64_t work_size = padded(Work<C>::elements(g.ratio, g)) + partial_size;
  C* memory = scratch.take<C>(work_size * omp_get_max_threads());
  parallel_tasks(batch * heads.kv, [&](int64_t item) HWY_ATTR {
    const int64_t b = item / heads.kv;
    const int group = int(item % heads.kv);
    T* to = out.data<T>() + b * heads.query * heads.size + g.query_column(group * g.ratio);
    const int64_t length = lengths.data<int32_t>()[b];
    if (length <= 0) {
      std::memset(static_cast<void*>(to), 0, size_t(g.ratio) * heads.size * sizeof(T));
      return;
    }
    C* own = memory + work_size * omp_get_thread_num();
    C* waiting = own + work_size - partial_size;
    Work<C> work(own, g.ratio, g);
    const Running<C> sum{waiting, waiting + g.ratio * g.width, waiting + g.ratio * (g.width + 1)};
    load_rows(work.q, g.width, qkv.data<T>() + b * heads.row() + g.query_column(group * g.ratio), heads.size, g.ratio,
              heads.size);
    const int64_t tiles = (length + kAttentionTile - 1) / kAttentionTile;
    auto position_of = [&](int64_t tile) {
      const int64_t page = table.data<int32_t>()[b * max_pages + tile];
      return page * kAttentionTile * cell + int64_t(group) * heads.size;
    };
    auto rows_of = [&](int64_t tile) { return std::clamp<int64_t>(length - tile * kAttentionTile, 0, kAttentionTile); };
    Running<C> state = work.running(0, g.width);
    for (int part = 0; part < parts; ++part) {
      const int64_t first = tiles * part / parts, last = tiles * (part + 1) / parts;
      if (first == last) continue;
      state.clear(g.ratio, g.width);
      for (int64_t tile = first; tile < last; ++tile) {
        const int64_t at = position_of(tile), next = tile + 1 < tiles ? position_of(tile + 1) : at;
        load_transposed(work.keys, work.rows4, keys + at, cell, rows_of(tile), heads.size, keys + next);
        load_rows(work.values, g.width, values + at, cell, rows_of(tile), heads.size, values + next);
        attend_tile<T>(state, work.p, work.q, work.keys, work.values, g.ratio, {rows_of(tile), 0}, g, peer);
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
    for (int h = 0; h < g.ratio; ++h) store_row(to + h * heads.size, state.o + h * g.width, state.total[h], heads.size);
  });
}

}  // namespace attention

void rope(Exec&, Tensor& out, const Tensor& qkv, const Tensor& table, const Tensor& positions, Heads heads,
          bool inverse) {
  dispatch_floating(qkv.dtype(), [&](auto tag) HWY_ATTR {
    attention::rope_rows<typename decltype(tag)::type>(out, qkv, table, positions, heads, inverse);
  });
}

void attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, int64_t,
                   Heads heads) {
  dispatch_floating(qkv.dtype(), [&](auto tag) HWY_ATTR {
    attention::forward<typename decltype(tag)::type>(exec, out, lse, qkv, offsets, heads);
  });
}

void kv_write(Exec&, Tensor& pages, const Tensor& qkv, const Tensor& slots, Heads heads) {
  const int64_t row = heads.row(), width = int64_t(heads.kv) * heads.size, plane = pages.numel() / 2;
  dispatch_floating(qkv.dtype(), [&](auto from) HWY_ATTR {
    dispatch_floating(pages.dtype(), [&](auto to) HWY_ATTR {
      auto* cells = pages.data<typename decltype(to)::type>();
      const auto* in = qkv.data<typename decltype(from)::type>() + int64_t(heads.query) * heads.size;
      parallel_for(qkv.size(0), 32, [&](int64_t begin, int64_t end) HWY_ATTR {
        for (int64_t t = begin; t < end; ++t) {
          const int64_t slot = slots.data<int32_t>()[t];
          for (int part = 0; part < 2 && slot >= 0; ++part)
            attention::convert(cells + part * plane + slot * width, in + t * row + part * width, width);
        }
      });
    });
  });
}

void attention_decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table,
                      const Tensor& lengths, const Tensor&, Heads heads) {
  dispatch_floating(qkv.dtype(), [&](auto query) HWY_ATTR {
    dispatch_floating(pages.dtype(), [&](auto cache) HWY_ATTR {
      attention::decode<typename decltype(query)::type, typename decltype(cache)::type>(exec, out, qkv, pages, table,
                                                                                        lengths, heads);
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mantissa::cpu_kernels {
namespace {

void rope_kv(Exec& exec, Tensor& out, Tensor& pages, const Tensor& qkv, const Tensor& table, const Tensor& positions,
             const Tensor& slots, Heads heads) {
  MANTISSA_RUN(exec, rope, out, qkv, table, positions, heads, false);
  MANTISSA_RUN(exec, kv_write, pages, out, slots, heads);
}

void rope_attention_decode(Exec& exec, Tensor& out, Tensor& pages, Tensor& rotated, const Tensor& qkv,
                           const Tensor& angles, const Tensor& positions, const Tensor& slots, const Tensor& table,
                           const Tensor& lengths, Heads heads) {
  MANTISSA_RUN(exec, rope_kv, rotated, pages, qkv, angles, positions, slots, heads);
  MANTISSA_RUN(exec, attention_decode, out, rotated, pages, table, lengths, {}, heads);
}

void kv_copy(Exec&, Tensor& pages, const Tensor& from, const Tensor& to) {
  const size_t plane = pages.bytes() / 2, page = plane / size_t(pages.size(1));
  char* memory = static_cast<char*>(pages.raw());
  for (int64_t i = 0; i < from.numel(); ++i) {
    const int32_t source = from.data<int32_t>()[i], target = to.data<int32_t>()[i];
    if (source < 0 || source == target) continue;
    for (int part = 0; part < 2; ++part)
      std::memcpy(memory + part * plane + size_t(target) * page, memory + part * plane + size_t(source) * page, page);
  }
}

}  // namespace

HWY_EXPORT(rope);
HWY_EXPORT(attention_fwd);
HWY_EXPORT(kv_write);
HWY_EXPORT(attention_decode);

void register_attention(Kernels& table) {
  MANTISSA_ENTER(table.rope, rope);
  table.rope_kv = rope_kv;
  MANTISSA_ENTER(table.attention_fwd, attention_fwd);
  MANTISSA_ENTER(table.kv_write, kv_write);
  table.kv_copy = kv_copy;
  MANTISSA_ENTER(table.attention_decode, attention_decode);
  table.rope_attention_decode = rope_attention_decode;
  register_attention_backward(table);
}

}  // namespace mantissa::cpu_kernels
#endif
