// What is guessed, and how much of it: on texts and times made up here.
#include "rl/rollout/drafts.h"

#include <gtest/gtest.h>

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
  EXPECT_EQ(drafts.worth(64), 0);  // a row costs nearly what a token does: no gain
  EXPECT_GT(drafts.worth(2), 1);
  for (int i = 0; i < 2000; ++i) drafts.learn(16, 16);
  EXPECT_EQ(drafts.worth(32), 16);
  for (int i = 0; i < 8000; ++i) drafts.learn(4, 1);  // the first is right, the second not any more
  EXPECT_EQ(drafts.worth(32), 1);
  for (int i = 0; i < 20; ++i) {
    drafts.learn_cost(32, 0, 1e-3);
    drafts.learn_cost(32, 32, 1.001e-3);  // guesses cost next to nothing
  }
  EXPECT_GT(drafts.worth(32), 1);
  for (int i = 0; i < 100; ++i) drafts.learn_cost(32, 32, 3e-3);  // three steps for at most two tokens
  EXPECT_EQ(drafts.worth(32), 0);
}

// Where none pays, some are made all the same; where they pay, some steps have none.
TEST(Drafts, LookAgainNowAndThen) {
  Drafts drafts;
  const auto guesses_of = [&](int steps) {
    int with = 0;
    for (int i = 0; i < steps; ++i) with += drafts.choose(512) > 0;
    return with;
  };
  EXPECT_EQ(guesses_of(1000), 0);  // no step has been timed
  drafts.learn_cost(512, 0, 10e-3);
  EXPECT_EQ(guesses_of(80), 10);
  for (int i = 0; i < 4; ++i) drafts.learn_cost(512, 512, 25e-3);
  EXPECT_EQ(guesses_of(640), 10);
  for (int i = 0; i < 40; ++i) drafts.learn_cost(512, 512, 12e-3);  // a token more for a fifth of a step
  EXPECT_EQ(guesses_of(640), 630);
}

/// Rollouts of 512 responses of 3,072 tokens, which others have guessed before: steps take the longer the longer these
/// are. Guesses that cost little must save much, and those that cost nearly what they save must not cost more.
TEST(Drafts, SaveWhereTheyPayAndCostNothingElsewhere) {
  constexpr int64_t kRunning = 512;
  for (const double guess : {3e-6, 24e-6}) {
    const auto step = [](double token) { return 3e-3 + 3.6e-6 * token; };
    double without = 0;
    for (int token = 0; token < 3072; ++token) without += step(token);
    Drafts drafts;
    for (int rollout = 0; rollout < 4; ++rollout) {
      drafts.begin();
      double with = 0;
      for (int64_t token = 0; token < 3072;) {
        const int64_t count = std::min<int64_t>(3, drafts.choose(kRunning));
        const double seconds = step(double(token)) + guess * double(kRunning * count);
        drafts.learn_cost(kRunning, kRunning * count, seconds);
        if (count > 0) drafts.learn(count, count);
        with += seconds;
        token += 1 + count;
      }
      EXPECT_LT(with, (guess < 1e-5 ? 0.5 : 1.01) * without) << guess << " s each, rollout " << rollout;
    }
  }
}

TEST(StepCost, TellsStepsFromGuesses) {
  StepCost cost;
  EXPECT_FALSE(cost.timed());
  EXPECT_EQ(cost.step(64), 80);
  EXPECT_EQ(cost.guess(64), 1);
  cost.add(64, 64, 1.0);  // says nothing as long as it is not known what the step takes without
  EXPECT_EQ(cost.with_guesses(), 0);
  for (int i = 0; i < 10; ++i) cost.add(64, 0, 1.3e-3);
  EXPECT_DOUBLE_EQ(cost.step(64), 1.3e-3);
  EXPECT_DOUBLE_EQ(cost.guess(64), 1.3e-3 / 80);
  RandomStream random(1, 1);
  for (int i = 0; i < 2000; ++i) {
    const int64_t guesses = i % 2 * (1 + random.below(512));
    cost.add(512, guesses, (5e-3 + 2e-6 * double(guesses)) * (1 + 0.002 * random.normal()));
  }
  EXPECT_NEAR(cost.step(512), 5e-3, 5e-5);
  EXPECT_NEAR(cost.guess(512), 2e-6, 2e-7);
  for (int i = 0; i < 10; ++i) cost.add(512, 0, 10e-3);  // what was seen long ago is forgotten
  EXPECT_NEAR(cost.step(512), 10e-3, 1e-5);
  for (int i = 0; i < 100; ++i) cost.add(512, 512, 9e-3);  // nothing is negative
  EXPECT_EQ(cost.guess(512), 0);
}

}  // namespace
}  // namespace mantissa
