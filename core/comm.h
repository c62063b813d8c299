// Comm: what the processes of one run say to each other. A rank is one process with one device; all ranks make the same
// calls in the same order. With one rank every call is a no-op (or a copy), so no caller asks how many there are.
//
//   tensors     on the device of an Exec, in its stream's order: all_reduce, reduce_scatter, all_gather, broadcast,
//               all_to_all
//   host bytes  of any length: gather (to all ranks), broadcast, barrier
//   work        for those who have room for it: begin_handout, next
//
// Some of the ranks may have a comm of their own: see split. Its calls and those of the whole are made in one order by
// the ranks that share them.
//
// The CPU's (core/cpu/comm.cpp) works over sockets and adds in the order of ranks, in fp32 (fp64 for fp64, int32 for
// int32), with one rounding: the same bits on every rank and in every run. The GPU's is NCCL (cuda/comm.cpp).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/backend.h"
#include "core/comm/activity.h"

namespace mantissa {

class Mesh;

enum class Reduce : uint8_t { kSum, kMax };

/// Whether later work on the exec's stream waits for a collective. kOverlapped: it does not until Comm::wait; until
/// then nothing may write the tensors (nor read the output); the comm keeps their memory alive. The collective itself
/// always begins after what the exec's stream held when it was called.
enum class Order : uint8_t { kInStream, kOverlapped };

class Comm {
 public:
  /// Names a collective for wait(). Collectives of one comm end in the order of their tickets.
  using Ticket = int64_t;

  virtual ~Comm() = default;
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool main() const { return rank_ == 0; }  // the rank that writes and speaks for all
  Activity& activity() { return *activity_; }

  // Tensors of any type; all ranks give the same type and number of elements. Throw Error where shapes do not fit.

  /// What a collective writes, and what it reads.
  struct Pair {
    Tensor out, in;
  };

  /// t = the sum (or largest) of all ranks' t, element by element.
  Ticket all_reduce(Exec& exec, const Tensor& t, Reduce op = Reduce::kSum, Order order = Order::kInStream);
  /// `in` is size() equal parts; out, one part, = the sum of all ranks' part number rank(). out may be that part of in.
  Ticket reduce_scatter(Exec& exec, const Tensor& out, const Tensor& in, Order order = Order::kInStream) {
    return reduce_scatter(exec, std::vector{Pair{out, in}}, order);
  }
  /// Of each pair, begun at once: for small ones that is cheaper than one by one.
  Ticket reduce_scatter(Exec& exec, std::vector<Pair> pairs, Order order = Order::kInStream);
  /// `out`, size() parts, = every rank's `in`, in order of ranks. in may be part number rank() of out.
  Ticket all_gather(Exec& exec, const Tensor& out, const Tensor& in, Order order = Order::kInStream) {
    return all_gather(exec, std::vector{Pair{out, in}}, order);
  }
  /// Of each pair, begun at once.
  Ticket all_gather(Exec& exec, std::vector<Pair> pairs, Order order = Order::kInStream);
  /// t = rank root's t.
  Ticket broadcast(Exec& exec, const Tensor& t, int root = 0, Order order = Order::kInStream);
  /// Rows of `in` for every rank, those for rank 0 first: `sent[r]` of them go to rank r. `out`, of the same width and
  /// type, = the rows from every rank, in order of ranks: `received[r]`, which is what r sends here. All ranks call it,
  /// those without a row too.
  Ticket all_to_all(Exec& exec, const Tensor& out, std::span<const int64_t> received, const Tensor& in,
                    std::span<const int64_t> sent, Order order = Order::kInStream);
  /// Later work on the exec's stream waits for this collective, and with it for all before it, those of row() and
  /// column() among them.
  void wait(Exec& exec, Ticket ticket);

  /// Lays the ranks out in rows of `length` neighbours, a divisor of size(). All ranks call it, once.
  void split(int length);
  /// The ranks of this one's row, rank() % length among them; until split() this one alone.
  Comm& row();
  /// The ranks at its place in all rows, rank() / length among them; until split() all. Handouts and gather_aside
  /// belong to the whole alone.
  Comm& column() { return column_ ? *column_ : *this; }

  // Host bytes. They wait for nothing on a device.

  /// Every rank's bytes, in order of ranks, on every rank.
  std::vector<std::string> gather(std::string_view bytes);
  /// Rank root's bytes; what the others pass is ignored.
  std::string broadcast(std::string_view bytes, int root = 0);
  /// gather() for one thread of each rank beside the main ones, which may be in any other call meanwhile.
  std::vector<std::string> gather_aside(std::string_view bytes);
  /// Returns when all ranks have called it.
  void barrier() { gather({}); }
  /// Begins a handout of work to those who have room for it. All ranks call it, and none waits.
  void begin_handout() { ++handouts_, given_ = 0; }
  /// Of the numbers 0, 1, 2, ... of the last begin_handout() the next that nobody was given yet. A rank asks as often
  /// as it likes until it next meets the others in a call for host bytes.
  int64_t next() { return size_ == 1 ? given_++ : do_next(handouts_); }
  /// Sums (or largest values) over ranks of numbers on the host, added in order of ranks in fp64.
  std::vector<double> reduce(const std::vector<double>& values, Reduce op = Reduce::kSum);

  /// One line for logs: library, version, ranks.
  virtual std::string description() const = 0;

 protected:
  Comm(int rank, int size, std::shared_ptr<Activity> activity)
      : rank_(rank), size_(size), activity_(std::move(activity)) {}

  // For size() > 1, arguments checked; no list is empty, nor is a tensor in it.
  virtual Ticket do_all_reduce(Exec& exec, const Tensor& t, Reduce op, Order order) = 0;
  virtual Ticket do_reduce_scatter(Exec& exec, const std::vector<Pair>& pairs, Order order) = 0;
  virtual Ticket do_all_gather(Exec& exec, const std::vector<Pair>& pairs, Order order) = 0;
  virtual Ticket do_broadcast(Exec& exec, const Tensor& t, int root, Order order) = 0;
  virtual Ticket do_all_to_all(Exec& exec, const Tensor& out, std::span<const int64_t> received, const Tensor& in,
                               std::span<const int64_t> sent, Order order) = 0;
  virtual void do_wait(Exec& exec, Ticket ticket) = 0;
  virtual std::vector<std::string> do_gather(std::string_view bytes) = 0;
  virtual std::string do_broadcast_bytes(std::string_view bytes, int root) = 0;
  virtual int64_t do_next(int64_t handout) = 0;
  virtual std::vector<std::string> do_gather_aside(std::string_view bytes) = 0;
  /// A comm of some ranks, this one and others, ascending; all of them make it at the same moment.
  virtual std::unique_ptr<Comm> do_some(const std::vector<int>& ranks) = 0;

 private:
  void begin(const char* name, int64_t count, std::string_view type);
  /// Whether ranks have anything to say of pairs that hold parts and wholes, checked here, and leaves those out that
  /// are empty. One rank copies and has not.
  bool begin_pairs(Exec& exec, const char* name, std::vector<Pair>& pairs, Tensor Pair::*whole);

  const int rank_, size_;
  uint64_t calls_ = 0;
  int64_t handouts_ = 0, given_ = 0;  // given_: of one rank
  const std::shared_ptr<Activity> activity_;
  std::unique_ptr<Comm> row_, column_;  // null: of one rank, and this one
};

/// The comm of a run of one process; always there.
Comm& single_comm();
/// Rank 0 of `ranks` that would all say and take what this one does; tensors stay as they are, and nothing is sent.
std::unique_ptr<Comm> make_agreeing_comm(int ranks, std::string description);
/// Ranks on the CPU backend, over the sockets of a mesh (core/comm/mesh.h).
std::unique_ptr<Comm> make_cpu_comm(std::unique_ptr<Mesh> mesh);

}  // namespace mantissa
