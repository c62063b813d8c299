#include "tools/bench_comm.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <numeric>

#include "core/kernels.h"
#include "tools/json_lines.h"

namespace mantissa {
namespace {

constexpr size_t kHostBytes = size_t(16) << 20, kDeviceBytes = size_t(1) << 30;  // the largest buffers

constexpr int kBeside = 8;  // kernels that run beside a collective

/// 1, 2, 3, ... by rank: sums of ranks are exact in every type.
double value_of(int rank) {
  return rank + 1;
}

void expect(const Tensor& t, double value, const char* what) {
  const int64_t last = t.numel() - 1;
  const Tensor flat = t.view({t.numel()});
  for (const int64_t at : {int64_t(0), last / 2, last}) {
    const double got = to_host_float(flat.slice(at, at + 1))[0];
    check(got == value, "bench comm: ", what, " gives ", got, " at element ", at, " where ", value, " is right");
  }
}

class CommBench {
 public:
  CommBench(Exec& exec, Comm& comm, int repeat) : exec_(exec), comm_(comm), repeat_(repeat) {}

  void run(size_t bytes) {
    const int64_t part = int64_t(bytes) / comm_.size() / 4, n = part * comm_.size();
    Tensor whole = exec_.empty({n}, Dtype::kF32), piece = exec_.empty({part}, Dtype::kF32);
    const int ranks = comm_.size();
    const double sum = ranks * (ranks + 1) / 2.0, share = double(ranks - 1) / ranks;
    fill(whole);
    comm_.all_reduce(exec_, whole);
    expect(whole, sum, "all_reduce");
    fill(whole);
    comm_.reduce_scatter(exec_, piece, whole);
    expect(piece, sum, "reduce_scatter");
    fill(whole);
    const Comm::Ticket ticket = comm_.reduce_scatter(exec_, piece, whole, Order::kOverlapped);
    Tensor beside = exec_.zeros({n}, Dtype::kF32);
    for (int i = 0; i < kBeside; ++i) MANTISSA_RUN(exec_, binary, beside, beside, whole, Binary::kAdd);
    comm_.wait(exec_, ticket);
    MANTISSA_RUN(exec_, fill, whole, 0.0);  // which nobody reads any more
    expect(piece, sum, "reduce_scatter beside kernels");
    expect(beside, kBeside * value_of(comm_.rank()), "a kernel beside reduce_scatter");
    beside = {};
    fill(piece);
    comm_.all_gather(exec_, whole, piece);
    for (int r = 0; r < ranks; ++r) expect(whole.slice(part * r, part * (r + 1)), value_of(r), "all_gather");
    fill(piece);
    comm_.broadcast(exec_, piece, ranks - 1);
    expect(piece, value_of(ranks - 1), "broadcast");

    const Tensor rows = exec_.empty({n, 1}, Dtype::kF32);
    rows_between_pairs(whole, rows, part);

    MANTISSA_RUN(exec_, fill, whole, 0.0);  // sums of sums would overflow
    MANTISSA_RUN(exec_, fill, piece, 0.0);
    time("all_reduce", whole.bytes(), 2 * share, [&] { comm_.all_reduce(exec_, whole); });
    time("reduce_scatter", whole.bytes(), share, [&] { comm_.reduce_scatter(exec_, piece, whole); });
    time("all_gather", whole.bytes(), share, [&] { comm_.all_gather(exec_, whole, piece); });
    time("broadcast", whole.bytes(), 1, [&] { comm_.broadcast(exec_, whole); });
    const std::vector<int64_t> equal(size_t(ranks), part);
    time("all_to_all", whole.bytes(), share, [&] { comm_.all_to_all(exec_, rows, equal, whole.view({n, 1}), equal); });
  }

  void host_bytes(size_t bytes) {
    const std::string mine(bytes, char('a' + comm_.rank()));
    time("gather", bytes * size_t(comm_.size()), 1, [&] {
      const std::vector<std::string> all = comm_.gather(mine);
      check(all.back() == std::string(bytes, char('a' + comm_.size() - 1)), "bench comm: gather gives other bytes");
    });
  }

 private:
  /// As many rows for one rank as for another they are not, and for some there is none.
  void rows_between_pairs(Tensor& from, const Tensor& to, int64_t part) {
    const auto count = [&](int sender, int receiver) { return part * ((sender + 2 * receiver) % 3) / 2; };
    std::vector<int64_t> sent, received, begin{0};
    for (int r = 0; r < comm_.size(); ++r) {
      sent.push_back(count(comm_.rank(), r));
      received.push_back(count(r, comm_.rank()));
      begin.push_back(begin.back() + received.back());
    }
    fill(from);
    const int64_t all = std::accumulate(sent.begin(), sent.end(), int64_t(0));
    comm_.all_to_all(exec_, to.slice(0, begin.back()), received, from.slice(0, all).view({all, 1}), sent);
    for (int r = 0; r < comm_.size(); ++r)
      if (received[size_t(r)] > 0) expect(to.slice(begin[size_t(r)], begin[size_t(r) + 1]), value_of(r), "all_to_all");
  }
  void fill(Tensor& t) { MANTISSA_RUN(exec_, fill, t, value_of(comm_.rank())); }

  void time(const char* name, size_t bytes, double share, const std::function<void()>& body) {
    std::vector<double> ms;
    for (int i = 0; i <= repeat_; ++i) {
      exec_.backend().synchronize();
      comm_.barrier();
      const auto start = std::chrono::steady_clock::now();
      body();
      exec_.backend().synchronize();
      if (i > 0)  // the first warms up
        ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    ms = comm_.reduce(ms, Reduce::kMax);
    if (!comm_.main()) return;
    std::sort(ms.begin(), ms.end());
    const double median = ms[ms.size() / 2];
    print(JsonObject()
              .add("comm", name)
              .add("bytes", int64_t(bytes))
              .add("dtype", "fp32")
              .add("ranks", comm_.size())
              .add("device", exec_.backend().description())
              .add("ms_min", ms.front())
              .add("ms_median", median)
              .add("ms_max", ms.back())
              .add("gb_per_s", double(bytes) * share / median * 1e-6));
  }

  Exec& exec_;
  Comm& comm_;
  int repeat_;
};

}  // namespace

void bench_comm(Exec& exec, Comm& comm, int repeat) {
  CommBench bench(exec, comm, repeat);
  const size_t most = exec.backend().name() == "cpu" ? kHostBytes : kDeviceBytes;
  for (size_t bytes = size_t(1) << 12; bytes <= most; bytes <<= 2) bench.run(bytes);
  bench.host_bytes(kHostBytes);
}

}  // namespace mantissa
