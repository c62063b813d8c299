#include "core/comm.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

namespace mantissa {

void Comm::begin(const char* name, int64_t count, std::string_view type) {
  activity_->collective(str(name, " of ", count, " ", type, ", number ", ++calls_));
}

Comm::Ticket Comm::all_reduce(Exec& exec, const Tensor& t, Reduce op, Order order) {
  if (size_ == 1 || t.numel() == 0) return 0;
  begin("all_reduce", t.numel(), name_of(t.dtype()));
  return do_all_reduce(exec, t, op, order);
}

namespace {

void copy_part(Exec& exec, const Tensor& out, const Tensor& in) {
  if (!out.same_as(in)) exec.backend().copy(out.raw(), in.raw(), in.bytes());
}

}  // namespace

bool Comm::begin_pairs(Exec& exec, const char* name, std::vector<Pair>& pairs, Tensor Pair::*whole) {
  int64_t elements = 0;
  for (const Pair& pair : pairs) {
    const Tensor &all = pair.*whole, &part = whole == &Pair::in ? pair.out : pair.in;
    check(all.dtype() == part.dtype() && all.numel() == part.numel() * size_, "[", name, "] ", size_,
          " ranks need a tensor of ", size_, " equal parts: got ", all.numel(), " ", name_of(all.dtype()), " and ",
          part.numel(), " ", name_of(part.dtype()));
    elements += all.numel();
    if (size_ == 1 && all.numel() > 0) copy_part(exec, pair.out, pair.in);
  }
  if (size_ == 1 || elements == 0) return false;
  std::erase_if(pairs, [](const Pair& pair) { return pair.out.numel() == 0; });
  begin(name, elements, name_of(pairs[0].in.dtype()));
  return true;
}

Comm::Ticket Comm::reduce_scatter(Exec& exec, std::vector<Pair> pairs, Order order) {
  return begin_pairs(exec, "reduce_scatter", pairs, &Pair::in) ? do_reduce_scatter(exec, pairs, order) : 0;
}

Comm::Ticket Comm::all_gather(Exec& exec, std::vector<Pair> pairs, Order order) {
  return begin_pairs(exec, "all_gather", pairs, &Pair::out) ? do_all_gather(exec, pairs, order) : 0;
}

Comm::Ticket Comm::broadcast(Exec& exec, const Tensor& t, int root, Order order) {
  check(root >= 0 && root < size_, "[broadcast] root must be one of ", size_, " ranks, got ", root);
  if (size_ == 1 || t.numel() == 0) return 0;
  begin("broadcast", t.numel(), name_of(t.dtype()));
  return do_broadcast(exec, t, root, order);
}

Comm::Ticket Comm::all_to_all(Exec& exec, const Tensor& out, std::span<const int64_t> received, const Tensor& in,
                              std::span<const int64_t> sent, Order order) {
  const auto rows = [](std::span<const int64_t> counts) {
    return std::accumulate(counts.begin(), counts.end(), int64_t(0));
  };
  check(int(sent.size()) == size_ && int(received.size()) == size_, "[all_to_all] ", size_,
        " ranks need as many counts of rows: got ", sent.size(), " sent and ", received.size(), " received");
  check(in.dtype() == out.dtype() && in.shape().rank() == 2 && out.shape().rank() == 2 && in.size(1) == out.size(1) &&
            in.size(0) == rows(sent) && out.size(0) == rows(received),
        "[all_to_all] rows must be as many as are sent, ", rows(sent), ", and received, ", rows(received),
        ", of one width and type: got ", name_of(in.dtype()), " ", in.shape(), " and ", name_of(out.dtype()), " ",
        out.shape());
  if (size_ == 1) return copy_part(exec, out, in), 0;
  begin("all_to_all", in.numel(), name_of(in.dtype()));
  return do_all_to_all(exec, out, received, in, sent, order);
}

void Comm::split(int length) {
  if (length == row().size()) return;
  check(!row_, "[comm] the ranks are split already, in rows of ", row().size(), ": got ", length);
  check(length >= 1 && size_ % length == 0, "[comm] rows of ranks must divide their number, ", size_, ": got ", length);
  std::vector<int> row, column;
  for (int r = 0; r < length; ++r) row.push_back(rank_ / length * length + r);
  for (int r = rank_ % length; r < size_; r += length) column.push_back(r);
  row_ = do_some(row);
  column_ = do_some(column);
}

Comm& Comm::row() {
  return row_ ? *row_ : single_comm();
}

void Comm::wait(Exec& exec, Ticket ticket) {
  if (size_ > 1 && ticket > 0) do_wait(exec, ticket);
}

std::vector<std::string> Comm::gather(std::string_view bytes) {
  if (size_ == 1) return {std::string(bytes)};
  begin("gather", int64_t(bytes.size()), "bytes");
  return do_gather(bytes);
}

std::vector<std::string> Comm::gather_aside(std::string_view bytes) {
  return size_ == 1 ? std::vector{std::string(bytes)} : do_gather_aside(bytes);
}

std::string Comm::broadcast(std::string_view bytes, int root) {
  check(root >= 0 && root < size_, "[broadcast] root must be one of ", size_, " ranks, got ", root);
  if (size_ == 1) return std::string(bytes);
  begin("broadcast", int64_t(bytes.size()), "bytes");
  return do_broadcast_bytes(bytes, root);
}

std::vector<double> Comm::reduce(const std::vector<double>& values, Reduce op) {
  if (size_ == 1) return values;
  const auto* bytes = reinterpret_cast<const char*>(values.data());
  const std::vector<std::string> all = gather({bytes, values.size() * sizeof(double)});
  std::vector<double> result(values.size()), theirs(values.size());
  for (int r = 0; r < size_; ++r) {
    check(all[size_t(r)].size() == values.size() * sizeof(double), "[reduce] rank ", r, " gave ", all[size_t(r)].size(),
          " bytes, rank ", rank_, " ", values.size() * sizeof(double));
    std::memcpy(theirs.data(), all[size_t(r)].data(), all[size_t(r)].size());
    for (size_t i = 0; i < result.size(); ++i)
      result[i] = r == 0 ? theirs[i] : op == Reduce::kSum ? result[i] + theirs[i] : std::max(result[i], theirs[i]);
  }
  return result;
}

namespace {

/// For one rank Comm answers all but the description itself.
class AgreeingComm : public Comm {
 public:
  AgreeingComm(int ranks, std::string description)
      : Comm(0, ranks, std::make_shared<Activity>()), description_(std::move(description)) {}
  std::string description() const override { return description_; }

 private:
  Ticket do_all_reduce(Exec&, const Tensor&, Reduce, Order) override { return 0; }
  Ticket do_reduce_scatter(Exec&, const std::vector<Pair>&, Order) override { return 0; }
  Ticket do_all_gather(Exec&, const std::vector<Pair>&, Order) override { return 0; }
  Ticket do_broadcast(Exec&, const Tensor&, int, Order) override { return 0; }
  Ticket do_all_to_all(Exec&, const Tensor&, std::span<const int64_t>, const Tensor&, std::span<const int64_t>,
                       Order) override {
    return 0;
  }
  void do_wait(Exec&, Ticket) override {}
  std::vector<std::string> do_gather(std::string_view bytes) override {
    return std::vector<std::string>(size_t(size()), std::string(bytes));
  }
  std::string do_broadcast_bytes(std::string_view bytes, int) override { return std::string(bytes); }
  std::vector<std::string> do_gather_aside(std::string_view bytes) override { return do_gather(bytes); }
  /// The others take as many.
  int64_t do_next(int64_t handout) override {
    if (std::exchange(handout_, handout) != handout) taken_ = 0;
    return size() * taken_++;
  }
  std::unique_ptr<Comm> do_some(const std::vector<int>& ranks) override {
    return make_agreeing_comm(int(ranks.size()), description_);
  }

  const std::string description_;
  int64_t handout_ = 0, taken_ = 0;
};

}  // namespace

Comm& single_comm() {
  static AgreeingComm comm(1, "one process");
  return comm;
}

std::unique_ptr<Comm> make_agreeing_comm(int ranks, std::string description) {
  return std::make_unique<AgreeingComm>(ranks, std::move(description));
}

}  // namespace mantissa
