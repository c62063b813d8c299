// What is guessed, and how much of it: on texts and times made up here.
#include "rl/rollout/drafts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "core/random.h"

namespace mantissa {
namespace {

using Ids = std::vector<int32_t>;

Prompt prompt_of(Ids ids) {
  Prompt p;
  p.ids = std::move(ids);
  return p;
}

TEST(Drafts, GuessWhatFollowedTheLongestMatch) {
  const Prompt prompt = prompt_of({1, 2, 3}), other = prompt_of({1, 2, 4});
  Drafts drafts;
  drafts.begin();
  EXPECT_EQ(drafts.propose(drafts.of(prompt), prompt, Ids{7, 8}, 4), Ids());
  drafts.add(prompt, Ids{7, 8, 9, 10, 11, 12});
  drafts.add(prompt, Ids{5, 8, 9, 20, 21});
  EXPECT_EQ(drafts.propose(drafts.of(prompt), prompt, {}, 2), (Ids{5, 8}));  // behind the prompt: the latest
  EXPECT_EQ(drafts.propose(drafts.of(prompt), prompt, Ids{7}, 9), (Ids{8, 9, 10, 11, 12}));  // to the end of that text
  EXPECT_EQ(drafts.propose(drafts.of(prompt), prompt, Ids{7, 8, 9}, 2), (Ids{10, 11}));  // longer than the later one
  EXPECT_EQ(drafts.propose(drafts.of(prompt), prompt, Ids{6, 8, 9}, 2), (Ids{20, 21}));  // as long: the latest
  EXPECT_EQ(drafts.propose(drafts.of(prompt), prompt, Ids{6, 6, 9}, 2), Ids());          // one token is no match
  EXPECT_EQ(drafts.propose(drafts.of(prompt), prompt, Ids{20, 21}, 2), Ids());           // nothing followed
  EXPECT_EQ(drafts.propose(drafts.of(prompt), prompt, Ids{11, 12, 1, 2}, 2),
            (Ids{3, 5}));  // texts begin with the prompt
  EXPECT_EQ(drafts.propose(drafts.of(other), other, Ids{7, 8}, 2), Ids());
}

// Against a search through all texts.
TEST(Drafts, FindAmongManyTexts) {
  RandomStream random(3, 1);
  const Prompt prompt = prompt_of({1, 0, 2});
  Drafts drafts;
  std::vector<Ids> texts;
  drafts.begin();
  for (int t = 0; t < 12; ++t) {
    Ids response;
    for (int i = 0; i < 40; ++i) response.push_back(int32_t(random.below(5)));
    drafts.add(prompt, response);
    response.insert(response.begin(), prompt.ids.begin(), prompt.ids.end());
    texts.push_back(response);
    for (int ask = 0; ask < 20; ++ask) {
      Ids asked;
      for (int i = 0; i < 3; ++i) asked.push_back(int32_t(random.below(5)));
      Ids last = prompt.ids;
      last.insert(last.end(), asked.begin(), asked.end());
      size_t longest = 1;
      Ids want;
      for (size_t i = texts.size(); i-- > 0;)
        for (size_t end = texts[i].size() - 1; end > 0; --end) {
          size_t equal = 0;
          while (equal < std::min(end, last.size()) && texts[i][end - 1 - equal] == last[last.size() - 1 - equal])
            ++equal;
          if (equal > longest) longest = equal, want = Ids(texts[i].begin() + std::ptrdiff_t(end), texts[i].end());
        }
      const Ids got = drafts.propose(drafts.of(prompt), prompt, asked, 100);
      // The search looks at the latest places only; where it finds one, what follows is what followed there.
      if (longest <= 3 && got != want) {
        EXPECT_FALSE(got.empty());
        continue;
      }
      EXPECT_EQ(got, want) << "match of " << longest;
    }
  }
}

TEST(Drafts, GuessMoreWhereRowsAreCheapAndGuessesRight) {
  Drafts drafts;
  EXPECT_EQ(drafts.worth(64, 0), 0);  // a row costs nearly what a token does: no gain
  EXPECT_GT(drafts.worth(2, 0), 1);
  for (int i = 0; i < 2000; ++i) drafts.learn(16, 16);
  EXPECT_EQ(drafts.worth(32, 0), 16);
  for (int i = 0; i < 8000; ++i) drafts.learn(4, 1);  // the first is right, the second not any more
  EXPECT_EQ(drafts.worth(32, 0), 1);
  for (int i = 0; i < 40; ++i) {
    drafts.learn_cost(32, 0, 1e-3);
    drafts.learn_cost(64, 0, 1.001e-3);  // guesses cost next to nothing
  }
  EXPECT_GT(drafts.worth(32, 0), 1);
  for (int i = 0; i < 100; ++i) {
    drafts.learn_cost(32, 0, 1e-3);
    drafts.learn_cost(64, 0, 3e-3);  // three steps for at most two tokens
  }
  EXPECT_EQ(drafts.worth(32, 0), 0);
}

// Where none pays, some are made all the same; where they pay, some steps have none.
TEST(Drafts, LookAgainNowAndThen) {
  Drafts drafts;
  const auto guesses_of = [&](int steps) {
    int with = 0;
    for (int i = 0; i < steps; ++i) with += drafts.choose(512, 0) > 0;
    return with;
  };
  EXPECT_EQ(guesses_of(1000), 0);  // no step has been timed
  for (int i = 0; i < 4; ++i) {
    drafts.learn_cost(512, 0, 10e-3);
    drafts.learn_cost(1024, 0, 25e-3);
  }
  EXPECT_EQ(guesses_of(640), 10);
  for (int i = 0; i < 100; ++i) {
    drafts.learn_cost(512, 0, 10e-3);
    drafts.learn_cost(1024, 0, 12e-3);  // a token more for a fifth of a step
  }
  EXPECT_EQ(guesses_of(640), 630);
}

/// A step of r rows with K keys takes shared + row r + key K seconds. Guesses are right this often, one after the
/// other, and there are some for a sequence from its token `known` on. Responses are `longest` tokens long, or, where
/// they end by themselves, a tenth of what are left end in each 32 tokens. In each rollout the host pauses once.
struct Device {
  double shared, row, key, right;
  int64_t sequences, most_rows, longest, known;
  bool end;
  double pause = 0;
  double limit = 1.03;  // times what the best number of guesses takes
};

/// Seconds of some rollouts with `count` guesses a sequence, -1: as many as are chosen.
double simulate(const Device& d, int64_t count, int rollouts) {
  Drafts drafts;
  RandomStream random(1, 1), lengths(1, 2);
  double total = 0;
  for (int rollout = 0; rollout < rollouts; ++rollout) {
    drafts.begin();
    std::vector<int64_t> left, done;
    int steps = 0;
    for (int64_t i = 0; i < d.sequences; ++i) {
      int64_t length = d.longest;
      for (int64_t t = 0; d.end && t < d.longest; t += 32)
        if (lengths.below(10) == 0) length = std::min(length, t + 1 + lengths.below(32));
      left.push_back(length), done.push_back(0);
    }
    while (!left.empty()) {
      const int64_t running = int64_t(left.size());
      int64_t keys = 0, rows = running;
      for (const int64_t n : done) keys += 64 + n;
      const int64_t chosen = count < 0 ? drafts.choose(running, keys) : count;
      for (size_t i = left.size(); i-- > 0;) {
        const int64_t guesses = done[i] < d.known ? 0 : std::min({chosen, left[i] - 1, d.most_rows - rows});
        int64_t right = 0;
        while (right < guesses && random.uniform() < d.right) ++right;
        if (guesses > 0) drafts.learn(guesses, right);
        rows += guesses;
        done[i] += 1 + right, left[i] -= 1 + right;
        if (left[i] > 0) continue;
        std::swap(left[i], left.back()), std::swap(done[i], done.back());
        left.pop_back(), done.pop_back();
      }
      const double seconds = (d.shared + d.row * double(rows) + d.key * double(keys)) * (1 + 0.02 * random.normal());
      drafts.learn_cost(rows, keys, seconds + (++steps == 40 ? d.pause : 0));
      total += seconds;
    }
  }
  return total;
}

/// Whatever guesses cost, not much more time than with the number of them that would have been best throughout.
TEST(Drafts, SaveWhereTheyPayAndCostNothingElsewhere) {
  const std::vector<std::pair<const char*, Device>> devices = {
      {"few weights, short responses", {0.8e-3, 2.8e-6, 0.2e-9, 0.88, 256, 1024, 256, 8, true}},
      {"the same, more rows", {0.8e-3, 2.8e-6, 0.2e-9, 0.88, 512, 1024, 256, 8, true}},
      {"responses that repeat themselves", {0.8e-3, 6.1e-6, 6.5e-9, 1.0, 512, 2048, 1024, 4, false, 0, 1.08}},
      {"guesses that cost what they save", {0.1e-3, 20e-6, 0.5e-9, 0.8, 512, 1024, 1024, 4, false, 0, 1.01}},
      {"guesses that are mostly wrong", {0.8e-3, 4e-6, 3e-9, 0.1, 256, 1024, 512, 4, true, 0, 1.01}},
      {"long responses, guesses for nothing", {3e-3, 0.1e-6, 7e-9, 0.9, 64, 2048, 2048, 4, true, 0, 1.06}},
      {"few guesses are right, and the host pauses", {2.5e-3, 6e-6, 3e-9, 0.3, 256, 2048, 512, 4, true, 1}},
      {"rows cost much, and the host pauses", {2e-3, 20e-6, 2e-9, 0.5, 512, 2048, 512, 4, true, 0.3}}};
  for (const auto& [name, device] : devices) {
    double best = std::numeric_limits<double>::infinity();
    int64_t best_count = 0;
    for (const int64_t count : {0, 1, 2, 3, 4, 8, 16})
      if (const double seconds = simulate(device, count, 4); seconds < best) best = seconds, best_count = count;
    const double chosen = simulate(device, -1, 4);
    EXPECT_LT(chosen, device.limit * best) << name << ": " << best_count << " guesses would have been best";
  }
}

TEST(StepCost, TellsSharedRowsAndKeysApart) {
  StepCost cost;
  EXPECT_FALSE(cost.timed());
  EXPECT_EQ(cost.of(64, 1000), 80);
  cost.add(64, 0, 1.6e-3);
  EXPECT_TRUE(cost.timed());
  EXPECT_DOUBLE_EQ(cost.of(64, 0), 1.6e-3);
  EXPECT_DOUBLE_EQ(cost.of(144, 0), 3.2e-3);
  RandomStream random(1, 1);
  const auto take = [&](int steps, double shared, double row, double key) {
    for (int i = 0; i < steps; ++i) {
      const int64_t rows = 1 + random.below(1024), keys = random.below(1 << 20);
      cost.add(rows, keys, (shared + row * double(rows) + key * double(keys)) * (1 + 0.002 * random.normal()));
    }
  };
  take(500, 1e-3, 6e-6, 7e-9);
  EXPECT_NEAR(cost.of(0, 0), 1e-3, 1e-4);
  EXPECT_NEAR(cost.of(512, 0) - cost.of(0, 0), 512 * 6e-6, 1e-4);
  EXPECT_NEAR(cost.of(0, 1 << 19) - cost.of(0, 0), (1 << 19) * 7e-9, 1e-4);
  take(500, 2e-3, 3e-6, 0);  // what was seen long ago is forgotten
  EXPECT_NEAR(cost.of(512, 1 << 19), 2e-3 + 512 * 3e-6, 1e-4);
  // Nothing new about rows: what is known of them stays.
  for (int i = 0; i < 500; ++i) cost.add(512, 1 << 16, 4e-3);
  EXPECT_NEAR(cost.of(512, 1 << 16), 4e-3, 1e-4);
  EXPECT_NEAR(cost.of(1024, 1 << 16), 4e-3 + 512 * 3e-6, 2e-4);
  for (int i = 0; i < 500; ++i) cost.add(1 + i, 0, 1e-3 - 1e-6 * i);  // nothing is negative
  EXPECT_GE(cost.of(4096, 1 << 24), 0);
}

}  // namespace
}  // namespace mantissa
