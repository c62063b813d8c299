// Ranks on the CPU, over the sockets of a mesh. Every element is reduced by one rank, which adds all ranks' values in
// order of ranks and sends the result to all: one chain of additions in the accumulator's type, one rounding.
#include "core/comm.h"
#include "core/comm/mesh.h"
#include "core/parallel.h"

namespace mantissa {
namespace {

constexpr int64_t kGrain = 1 << 14;

template <class T, class Acc>
void reduce_rows(const std::vector<const std::byte*>& rows, std::byte* out, int64_t n, Reduce op) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto value = [&](size_t row) {
        const T x = reinterpret_cast<const T*>(rows[row])[i];
        if constexpr (std::is_same_v<T, int32_t>)
          return Acc(x);
        else
          return Acc(to_float(x));
      };
      Acc sum = value(0);
      for (size_t r = 1; r < rows.size(); ++r) sum = op == Reduce::kSum ? Acc(sum + value(r)) : std::max(sum, value(r));
      if constexpr (std::is_same_v<T, int32_t>)
        reinterpret_cast<T*>(out)[i] = T(sum);
      else
        reinterpret_cast<T*>(out)[i] = round_to<T>(sum);
    }
  });
}

/// out[i] = the sum (or largest) over rows of row[i], in order of rows.
void reduce_all(Dtype dtype, const std::vector<const std::byte*>& rows, std::byte* out, int64_t n, Reduce op) {
  if (dtype == Dtype::kI32) return reduce_rows<int32_t, int64_t>(rows, out, n, op);
  dispatch_floating(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    reduce_rows<T, Compute<T>>(rows, out, n, op);
  });
}

class CpuComm : public Comm {
 public:
  CpuComm(std::shared_ptr<Mesh> mesh, Mesh::Group group)
      : Comm(group.own, int(group.ranks.size()), mesh->activity()), mesh_(std::move(mesh)), group_(std::move(group)) {
    for (int r = 0; r < size(); ++r)
      if (r != rank()) others_.push_back(r);
  }
  std::string description() const override { return str(size(), " processes, joined by sockets"); }

 private:
  Ticket do_all_reduce(Exec&, const Tensor& t, Reduce op, Order) override {
    const int64_t n = t.numel();
    const auto begin = [&](int r) { return n * r / size(); };
    const size_t element = size_of(t.dtype());
    auto* data = static_cast<std::byte*>(t.raw());
    const auto part = [&](int r) {
      return std::span(data + size_t(begin(r)) * element, size_t(begin(r + 1) - begin(r)) * element);
    };
    reduce_own("all_reduce", t.dtype(), part, part(rank()).data(), op);
    share_own("all_reduce, second half", part, part(rank()));
    return 0;
  }

  Ticket do_reduce_scatter(Exec&, const std::vector<Pair>& pairs, Order) override {
    for (const auto& [out, in] : pairs) {
      auto* data = static_cast<std::byte*>(in.raw());
      const size_t bytes = out.bytes();
      const auto part = [&](int r) { return std::span(data + size_t(r) * bytes, bytes); };
      reduce_own("reduce_scatter", in.dtype(), part, static_cast<std::byte*>(out.raw()), Reduce::kSum);
    }
    return 0;
  }

  Ticket do_all_gather(Exec& exec, const std::vector<Pair>& pairs, Order) override {
    for (const auto& [out, in] : pairs) {
      auto* data = static_cast<std::byte*>(out.raw());
      const size_t bytes = in.bytes();
      const auto part = [&](int r) { return std::span(data + size_t(r) * bytes, bytes); };
      exec.backend().copy(part(rank()).data(), in.raw(), bytes);
      share_own("all_gather", part, part(rank()));
    }
    return 0;
  }

  Ticket do_broadcast(Exec&, const Tensor& t, int root, Order) override {
    std::vector<Mesh::Message> messages;
    if (rank() == root)
      for (const int r : others_) messages.push_back({r, {static_cast<char*>(t.raw()), t.bytes()}});
    mesh_->exchange(group_, "broadcast", messages, rank() == root ? std::vector<int>{} : std::vector<int>{root},
                    [&](int r, size_t bytes) {
                      check_size("broadcast", r, bytes, t.bytes());
                      return t.raw();
                    });
    return 0;
  }

  Ticket do_all_to_all(Exec& exec, const Tensor& out, std::span<const int64_t> received, const Tensor& in,
                       std::span<const int64_t> sent, Order) override {
    const size_t row = size_t(in.size(1)) * size_of(in.dtype());
    const auto cut = [&](const Tensor& t, std::span<const int64_t> counts) {
      std::vector<std::span<std::byte>> parts;
      auto* data = static_cast<std::byte*>(t.raw());
      for (const int64_t count : counts) {
        parts.emplace_back(data, size_t(count) * row);
        data += parts.back().size();
      }
      return parts;
    };
    const auto to = cut(in, sent), from = cut(out, received);
    const auto own = size_t(rank());
    check_size("all_to_all", rank(), to[own].size(), from[own].size());
    exec.backend().copy(from[own].data(), to[own].data(), to[own].size());
    std::vector<Mesh::Message> messages;
    for (const int r : others_)
      messages.push_back({r, {reinterpret_cast<char*>(to[size_t(r)].data()), to[size_t(r)].size()}});
    mesh_->exchange(group_, "all_to_all", messages, others_, [&](int r, size_t bytes) {
      check_size("all_to_all", r, bytes, from[size_t(r)].size());
      return from[size_t(r)].data();
    });
    return 0;
  }

  void do_wait(Exec&, Ticket) override {}  // nothing is ever on its way: every call returns when it is done

  std::vector<std::string> do_gather(std::string_view bytes) override { return mesh_->gather(group_, bytes); }
  std::string do_broadcast_bytes(std::string_view bytes, int root) override {
    return mesh_->broadcast(group_, bytes, root);
  }
  int64_t do_next(int64_t handout) override { return mesh_->next(handout); }
  std::vector<std::string> do_gather_aside(std::string_view bytes) override { return mesh_->gather_aside(bytes); }
  std::unique_ptr<Comm> do_some(const std::vector<int>& ranks) override {
    return std::make_unique<CpuComm>(mesh_, mesh_->some(ranks));
  }

  void check_size(const char* what, int r, size_t theirs, size_t own) const {
    const auto name = [&](int place) { return mesh_->name(group_.ranks[size_t(place)]); };
    check(theirs == own, "[comm] ", what, ": ", name(r), " gives ", theirs, " bytes where ", name(rank()), " gives ",
          own);
  }

  /// Sends each rank its part and reduces the own one, of all ranks, to `out`.
  template <class Part>
  void reduce_own(const char* what, Dtype dtype, const Part& part, std::byte* out, Reduce op) {
    std::vector<Mesh::Message> messages;
    for (const int r : others_) messages.push_back({r, {reinterpret_cast<char*>(part(r).data()), part(r).size()}});
    const size_t bytes = part(rank()).size();
    received_.resize(bytes * others_.size());
    std::vector<const std::byte*> rows(size_t(size()), part(rank()).data());
    for (size_t i = 0; i < others_.size(); ++i) rows[size_t(others_[i])] = received_.data() + i * bytes;
    mesh_->exchange(group_, what, messages, others_, [&](int r, size_t theirs) {
      check_size(what, r, theirs, bytes);
      return const_cast<std::byte*>(rows[size_t(r)]);
    });
    reduce_all(dtype, rows, out, int64_t(bytes / size_of(dtype)), op);
  }

  /// Sends `own` to all and receives theirs into their parts.
  template <class Part>
  void share_own(const char* what, const Part& part, std::span<std::byte> own) {
    std::vector<Mesh::Message> messages;
    for (const int r : others_) messages.push_back({r, {reinterpret_cast<char*>(own.data()), own.size()}});
    mesh_->exchange(group_, what, messages, others_, [&](int r, size_t theirs) {
      check_size(what, r, theirs, part(r).size());
      return part(r).data();
    });
  }

  const std::shared_ptr<Mesh> mesh_;
  Mesh::Group group_;
  std::vector<int> others_;
  std::vector<std::byte> received_;
};

}  // namespace

std::unique_ptr<Comm> make_cpu_comm(std::unique_ptr<Mesh> mesh) {
  Mesh::Group all = mesh->all();
  return std::make_unique<CpuComm>(std::move(mesh), std::move(all));
}

}  // namespace mantissa
