// Ranks: collectives on the CPU against sums written out, and what ranks that disagree are told.
#include "core/comm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "core/random.h"
#include "core/registry.h"
#include "tests/support/message.h"
#include "tests/support/ranks.h"

namespace mantissa {
namespace {

using Strings = std::vector<std::string>;

/// Numbers of a rank, different on each.
template <class T>
std::vector<T> numbers(int rank, int64_t n) {
  RandomStream random(7, uint64_t(rank));
  std::vector<T> values;
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (std::is_same_v<T, int32_t>)
      values.push_back(int32_t(random.below(1000)) - 500);
    else
      values.push_back(round_to<T>(Compute<T>(4 * random.uniform() - 2)));
  }
  return values;
}

template <class T>
double wide(T x) {
  if constexpr (std::is_same_v<T, int32_t>)
    return x;
  else
    return to_float(x);
}

/// Added in order of ranks, rounded once.
template <class T>
T sum_of_ranks(const std::vector<std::vector<T>>& all, size_t i) {
  if constexpr (std::is_same_v<T, int32_t>) {
    int32_t sum = 0;
    for (const auto& values : all) sum += values[i];
    return sum;
  } else {
    Compute<T> sum = to_float(all[0][i]);
    for (size_t r = 1; r < all.size(); ++r) sum += to_float(all[r][i]);
    return round_to<T>(sum);
  }
}

template <class T>
void check_collectives(int size, int64_t n) {
  std::vector<std::vector<T>> all, whole;
  for (int r = 0; r < size; ++r) all.push_back(numbers<T>(r, n)), whole.push_back(numbers<T>(r + 100, n * size));
  const Strings errors = run_ranks(size, [&](Comm& comm) {
    const size_t rank = size_t(comm.rank());
    Exec exec(cpu());
    const Tensor t = tensor_from<T>(cpu(), all[rank], {n});
    comm.all_reduce(exec, t);
    const std::vector<T> sum = to_host<T>(t);
    const Tensor most = tensor_from<T>(cpu(), all[rank], {n});
    comm.all_reduce(exec, most, Reduce::kMax);
    const std::vector<T> largest = to_host<T>(most);
    for (size_t i = 0; i < size_t(n); ++i) {
      EXPECT_EQ(wide(sum[i]), wide(sum_of_ranks(all, i)));
      double expected = wide(all[0][i]);
      for (const auto& values : all) expected = std::max(expected, wide(values[i]));
      EXPECT_EQ(wide(largest[i]), expected);
    }

    const Tensor in = tensor_from<T>(cpu(), whole[rank], {n * size}), part = exec.empty({n}, in.dtype());
    comm.reduce_scatter(exec, part, in);
    const Tensor own = in.slice(n * comm.rank(), n * (comm.rank() + 1));
    const std::vector<T> apart = to_host<T>(part);
    comm.reduce_scatter(exec, own, in);
    const std::vector<T> in_place = to_host<T>(own);
    for (size_t i = 0; i < size_t(n); ++i) {
      EXPECT_EQ(wide(apart[i]), wide(sum_of_ranks(whole, size_t(n) * rank + i)));
      EXPECT_EQ(wide(in_place[i]), wide(apart[i]));
    }

    // Several at once, one of them empty.
    const Tensor none = exec.empty({0}, in.dtype()), again = tensor_from<T>(cpu(), whole[rank], {n * size});
    const Tensor first = exec.empty({n}, in.dtype()), second = exec.empty({n}, in.dtype());
    const Tensor mine = tensor_from<T>(cpu(), all[rank], {n}), wide_one = exec.zeros({n * size}, in.dtype());
    const Tensor wide_other = exec.zeros({n * size}, in.dtype());
    comm.reduce_scatter(exec, {{first, again}, {none, none}, {second, again}});
    comm.all_gather(exec, {{none, none}, {wide_one, mine}, {wide_other, first}});
    const std::vector<T> left = to_host<T>(first), right = to_host<T>(second);
    for (size_t i = 0; i < size_t(n); ++i) {
      EXPECT_EQ(wide(left[i]), wide(apart[i]));
      EXPECT_EQ(wide(right[i]), wide(apart[i]));
    }
    const std::vector<T> one = to_host<T>(wide_one), other = to_host<T>(wide_other);
    for (size_t i = 0; i < size_t(n * size); ++i) {
      EXPECT_EQ(wide(one[i]), wide(all[i / size_t(n)][i % size_t(n)]));
      EXPECT_EQ(wide(other[i]), wide(sum_of_ranks(whole, i)));
    }

    const Tensor out = exec.zeros({n * size}, in.dtype());
    comm.wait(exec, comm.all_gather(exec, out, tensor_from<T>(cpu(), all[rank], {n}), Order::kOverlapped));
    const std::vector<T> gathered = to_host<T>(out);
    for (size_t r = 0; r < all.size(); ++r)
      for (size_t i = 0; i < size_t(n); ++i) EXPECT_EQ(wide(gathered[r * size_t(n) + i]), wide(all[r][i]));

    const Tensor root = tensor_from<T>(cpu(), all[rank], {n});
    comm.broadcast(exec, root, size - 1);
    const std::vector<T> sent = to_host<T>(root);
    for (size_t i = 0; i < size_t(n); ++i) EXPECT_EQ(wide(sent[i]), wide(all.back()[i]));
  });
  EXPECT_EQ(errors, Strings(size_t(size)));
}

TEST(Comm, CollectivesAddInTheOrderOfRanks) {
  for (const int size : {1, 2, 3, 5})
    for (const int64_t n : {int64_t(1), int64_t(7), int64_t(100003)}) {
      SCOPED_TRACE(str(size, " ranks, ", n, " elements"));
      check_collectives<float>(size, n);
      if (n > 1000) continue;
      check_collectives<Half>(size, n);
      check_collectives<BFloat16>(size, n);
      check_collectives<double>(size, n);
      check_collectives<int32_t>(size, n);
    }
}

/// Rank `from` sends `to` so many rows; some pairs none, and rank 1 nothing at all.
int64_t rows_between(int from, int to) {
  return from == 1 ? 0 : (from * 3 + to * 5) % 4;
}

TEST(Comm, RowsTravelBetweenAllPairs) {
  for (const int size : {1, 2, 3, 5})
    for (const int64_t width : {int64_t(1), int64_t(37)}) {
      SCOPED_TRACE(str(size, " ranks, width ", width));
      const Strings errors = run_ranks(size, [&](Comm& comm) {
        Exec exec(cpu());
        const int own = comm.rank();
        std::vector<int64_t> sent, received;
        std::vector<int32_t> values, expected;
        const auto value = [&](int from, int to, int64_t row, int64_t c) {
          return int32_t(((from * 10 + to) * 10 + row) * 100 + c);
        };
        for (int r = 0; r < size; ++r) {
          sent.push_back(rows_between(own, r));
          received.push_back(rows_between(r, own));
          for (int64_t i = 0; i < sent.back() * width; ++i) values.push_back(value(own, r, i / width, i % width));
          for (int64_t i = 0; i < received.back() * width; ++i) expected.push_back(value(r, own, i / width, i % width));
        }
        const int64_t rows = int64_t(expected.size()) / width;
        const Tensor in = tensor_from<int32_t>(cpu(), values, {int64_t(values.size()) / width, width});
        const Tensor out = exec.zeros({rows, width}, Dtype::kI32);
        comm.wait(exec, comm.all_to_all(exec, out, received, in, sent, Order::kOverlapped));
        EXPECT_EQ(to_host<int32_t>(out), expected);
        EXPECT_NE(message_of([&] {
                    comm.all_to_all(exec, out, received, exec.zeros({99, width}, Dtype::kI32), sent);
                  }).find("[all_to_all] rows must be as many as are sent"),
                  std::string::npos);
      });
      EXPECT_EQ(errors, Strings(size_t(size)));
    }
  const Strings errors = run_ranks(2, [](Comm& comm) {
    Exec exec(cpu());
    const std::vector<int64_t> none = {0, 0}, one = {1, 0};
    comm.all_to_all(exec, exec.empty({0, 3}, Dtype::kF32), none, exec.empty({comm.rank(), 3}, Dtype::kF32),
                    comm.rank() == 1 ? one : none);
  });
  EXPECT_NE(errors[0].find("[comm] all_to_all: rank 1"), std::string::npos) << errors[0];
}

TEST(Comm, RowsAndColumnsOfRanksMakeCallsOfTheirOwn) {
  const Strings errors = run_ranks(6, [](Comm& comm) {
    Exec exec(cpu());
    EXPECT_EQ(comm.row().size(), 1);
    EXPECT_EQ(&comm.column(), &comm);
    EXPECT_EQ(message_of([&] { comm.split(4); }), "[comm] rows of ranks must divide their number, 6: got 4");
    comm.split(3);
    EXPECT_EQ(comm.row().rank(), comm.rank() % 3);
    EXPECT_EQ(comm.row().size(), 3);
    EXPECT_EQ(comm.column().rank(), comm.rank() / 3);
    EXPECT_EQ(comm.column().size(), 2);
    const auto sum = [&](Comm& some) {
      const Tensor t = tensor_from<float>(cpu(), std::vector<float>{float(comm.rank())}, {1});
      some.all_reduce(exec, t);
      return to_host<float>(t)[0];
    };
    for (int i = 0; i < 1 + comm.rank() / 3 * 4; ++i)  // a row more often than the other
      EXPECT_EQ(sum(comm.row()), comm.rank() < 3 ? 0 + 1 + 2 : 3 + 4 + 5);
    EXPECT_EQ(sum(comm.column()), 2 * (comm.rank() % 3) + 3);
    EXPECT_EQ(sum(comm), 15);
    EXPECT_EQ(comm.row().gather(str(comm.rank()))[1], str(comm.rank() / 3 * 3 + 1));
    EXPECT_EQ(comm.column().broadcast(str(comm.rank()), 1), str(comm.rank() % 3 + 3));
    EXPECT_EQ(comm.row().reduce({double(comm.rank())}, Reduce::kMax)[0], comm.rank() / 3 * 3 + 2);
  });
  EXPECT_EQ(errors, Strings(6));
}

TEST(Comm, HostBytesOfAnyLength) {
  const Strings errors = run_ranks(3, [&](Comm& comm) {
    const std::string mine =
        comm.rank() == 1 ? "" : std::string(size_t(1) << (20 + comm.rank()), char('a' + comm.rank()));
    const Strings all = comm.gather(mine);
    ASSERT_EQ(all.size(), 3u);
    EXPECT_EQ(all[0], std::string(size_t(1) << 20, 'a'));
    EXPECT_EQ(all[1], "");
    EXPECT_EQ(all[2], std::string(size_t(1) << 22, 'c'));
    EXPECT_EQ(comm.broadcast(str("from ", comm.rank()), 2), "from 2");
    comm.barrier();
    EXPECT_EQ(comm.reduce({double(comm.rank()), -1.0}), (std::vector<double>{3, -3}));
    EXPECT_EQ(comm.reduce({double(comm.rank()), -1.0}, Reduce::kMax), (std::vector<double>{2, -1}));
    EXPECT_TRUE(comm.activity().read().collective.starts_with("gather of 16 bytes, number "))
        << comm.activity().read().collective;
  });
  EXPECT_EQ(errors, Strings(3));
}

TEST(Comm, AHandoutGivesEachNumberOnce) {
  constexpr int kRanks = 3, kAsks = 200;
  std::vector<std::vector<int64_t>> given[2];
  for (auto& round : given) round.resize(kRanks);
  const Strings errors = run_ranks(kRanks, [&](Comm& comm) {
    for (auto& round : given) {
      comm.begin_handout();
      for (int i = 0; i < kAsks * (1 + comm.rank()); ++i) round[size_t(comm.rank())].push_back(comm.next());
      comm.barrier();
    }
  });
  EXPECT_EQ(errors, Strings(kRanks));
  for (auto& round : given) {
    std::vector<int64_t> all;
    for (const std::vector<int64_t>& some : round) {
      EXPECT_TRUE(std::is_sorted(some.begin(), some.end()));
      all.insert(all.end(), some.begin(), some.end());
    }
    std::sort(all.begin(), all.end());
    ASSERT_EQ(all.size(), size_t(kAsks * 6));
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], int64_t(i));
  }
  Comm& one = single_comm();
  for (int round = 0; round < 2; ++round) {
    one.begin_handout();
    for (const int64_t number : {0, 1, 2}) EXPECT_EQ(one.next(), number);
  }
}

TEST(Comm, RanksThatDisagreeAreNamed) {
  Strings errors = run_ranks(2, [&](Comm& comm) {
    if (comm.rank() == 0) comm.gather("x");
    comm.broadcast("y", 1);
    comm.barrier();  // rank 1 is there until rank 0 has seen what it called
  });
  const std::string text = errors[0] + errors[1];
  EXPECT_NE(text.find("the ranks disagree about what comes next: rank "), std::string::npos) << text;
  errors = run_ranks(2, [&](Comm& comm) {
    Exec exec(cpu());
    comm.all_reduce(exec, exec.zeros({4 + comm.rank() * 4}, Dtype::kF32));
  });
  EXPECT_NE((errors[0] + errors[1]).find(" gives 16 bytes where rank "), std::string::npos) << errors[0] << errors[1];
}

TEST(Comm, ALostRankIsNamed) {
  const Strings errors = run_ranks(3, [&](Comm& comm) {
    if (comm.rank() == 2) return;
    comm.barrier();
  });
  EXPECT_NE(errors[0].find("rank 2 (pid "), std::string::npos) << errors[0];
  EXPECT_NE(errors[0].find("was lost during gather"), std::string::npos) << errors[0];
  EXPECT_EQ(errors[2], "");
}

TEST(Comm, PartsMustFit) {
  Comm* comm = &single_comm();
  Exec exec(cpu());
  const Tensor a = exec.zeros({4}, Dtype::kF32), b = exec.zeros({3}, Dtype::kF32);
  EXPECT_THROW(comm->reduce_scatter(exec, a, b), Error);
  EXPECT_THROW(comm->all_gather(exec, a, exec.zeros({4}, Dtype::kF16)), Error);
  EXPECT_THROW(comm->broadcast(exec, a, 1), Error);
}

TEST(Comm, StrangersAndOtherJobsAreRefused) {
  // A rank of another size is told so; both sides stop.
  std::vector<Place> places = local_places(2);
  places[1].size = 3;
  Strings errors = run_ranks_on(places, [](Comm&) {});
  EXPECT_NE(errors[0].find("started as one of 3 ranks, rank 0 as one of 2"), std::string::npos) << errors[0];
  EXPECT_NE(errors[1].find("started as one of 3 ranks, rank 0 as one of 2"), std::string::npos) << errors[1];

  // Someone who talks nonsense first does not disturb.
  places = local_places(2);
  Socket stranger = connect_to("127.0.0.1", places[0].port, deadline_in(std::chrono::seconds(5)));
  const std::string nonsense(500, '?');
  stranger.send(nonsense.data(), nonsense.size(), deadline_in(std::chrono::seconds(5)));
  EXPECT_EQ(run_ranks_on(places, [](Comm& comm) { comm.barrier(); }), Strings(2));
}

TEST(Comm, APortInUseIsPassedOver) {
  // A foreign server holds the port that everybody was told: rank 0 takes a later one, and is found there.
  const Socket foreign = listen_on("127.0.0.1", 0);
  std::vector<Place> places = local_places(2);
  Socket(places[0].listening).close();
  places[0].listening = -1;
  for (Place& place : places) place.port = foreign.port();
  EXPECT_EQ(run_ranks_on(places, [](Comm& comm) { comm.barrier(); }), Strings(2));
}

TEST(Comm, BackgroundThreadsMeetWhileTheMainOnesAreElsewhere) {
  for (const int size : {1, 2, 3}) {
    const auto fn = [&](Comm& comm) {
      std::thread thread([&] {
        for (int round = 0; round < 50; ++round) {
          Strings expected;
          for (int r = 0; r < size; ++r) expected.push_back(std::string(size_t(1000 * r + round), 'a'));
          EXPECT_EQ(comm.gather_aside(expected[size_t(comm.rank())]), expected);
        }
      });
      for (int round = 0; round < 50; ++round) EXPECT_EQ(comm.gather("main"), Strings(size_t(size), "main"));
      thread.join();
    };
    if (size == 1)
      fn(single_comm());
    else
      EXPECT_EQ(run_ranks(size, fn), Strings(size_t(size)));
  }
}

TEST(Comm, ABackgroundThreadIsToldWhoWasLost) {
  for (const int lost : {0, 1}) {
    const Strings errors = run_ranks(2, [&](Comm& comm) {
      if (comm.rank() != lost) comm.gather_aside("");
    });
    EXPECT_EQ(errors[size_t(lost)], "");
    EXPECT_NE(errors[size_t(1 - lost)].find(str("rank ", lost, " (pid")), std::string::npos)
        << errors[size_t(1 - lost)];
  }
}

}  // namespace
}  // namespace mantissa
