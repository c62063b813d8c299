// Ranks: collectives on the CPU against sums written out, and what ranks that disagree are told.
#include "core/comm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "core/random.h"
#include "core/registry.h"
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
    if (comm.rank() == 0)
      comm.gather("x");
    else
      comm.broadcast("y", 1);
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
