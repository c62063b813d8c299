// The scheduler against a fake model: no tensors, but a fake page memory that remembers which token each slot
// holds and which prompt and sample wrote it. The next token is a hash of everything read back through the
// page table, so a page with two owners, a stale copy or a wrong order changes the answer.
#include <gtest/gtest.h>

#include <map>
#include <tuple>

#include "core/kernels.h"
#include "core/random.h"
#include "rl/rollout/scheduler.h"

namespace mantissa {
namespace {

constexpr int kStopBelow = 3;  // tokens 0..2 stop

struct Ask {
  int64_t prompt_id;
  int64_t prompt_length;
  int n;
  int64_t limit;
};

struct Outcome {
  std::vector<Completion> completions;  // in order of arrival
  int64_t preemptions = 0, prefill_tokens = 0, peak_pages = 0, copies = 0;
  int64_t widest = 0;  // largest decode batch
  int64_t decode_steps = 0, drafted = 0, accepted = 0;
};

std::vector<Prompt> prompts_of(const std::vector<Ask>& asks) {
  std::vector<Prompt> prompts;
  for (const Ask& ask : asks) {
    Prompt p;
    p.id = ask.prompt_id;
    RandomStream random(uint64_t(ask.prompt_id), 7);
    for (int64_t i = 0; i < ask.prompt_length; ++i) p.ids.push_back(int32_t(random.below(1000)));
    prompts.push_back(p);
  }
  return prompts;
}

class FakeRunner {
 public:
  explicit FakeRunner(int64_t pages) : slots_(size_t(pages * kAttentionTile), -1) {}

  /// Of a token: two bytes of its id and its place, and how often its sequence has computed it.
  std::vector<uint8_t> routes;

  void run(const Plan& plan, std::vector<int32_t>& tokens, std::vector<float>& logprobs) {
    routes.clear();
    for (size_t i = 0; i < plan.copy_from.size(); ++i)
      for (int64_t j = 0; j < kAttentionTile; ++j)
        slots_[size_t(plan.copy_to[i] * kAttentionTile + j)] = slots_[size_t(plan.copy_from[i] * kAttentionTile + j)];
    for (const Plan::Prefill& p : plan.prefills)
      for (int64_t t = 0; t < p.length; ++t) {
        slot(*plan.rows[size_t(p.first)], t) = plan.rows[size_t(p.first)]->token(t);
        add_routes(*plan.rows[size_t(p.first)], t);
      }
    if (plan.kind == Plan::Kind::kDecode)
      for (size_t i = 0; i < plan.rows.size(); ++i) {
        const Sequence& s = *plan.rows[i];
        slot(s, s.cached + plan.ahead[i]) = s.token(s.cached + plan.ahead[i]);
        add_routes(s, s.cached + plan.ahead[i]);
      }

    std::vector<int64_t> lengths(plan.rows.size());
    for (size_t i = 0; i < plan.ahead.size(); ++i) lengths[i] = plan.rows[i]->cached + plan.ahead[i] + 1;
    for (const Plan::Prefill& p : plan.prefills)
      for (int i = 0; i < p.count; ++i) lengths[size_t(p.first + i)] = p.length;
    tokens.clear();
    logprobs.clear();
    for (size_t i = 0; i < plan.rows.size(); ++i) {
      const Sequence& s = *plan.rows[i];
      uint64_t hash = mix64(uint64_t(s.prompt->id) * 1000 + uint64_t(s.sample));
      for (int64_t t = 0; t < lengths[i]; ++t) {
        ASSERT_EQ(slot(s, t), s.token(t)) << "arrival " << s.arrival << " token " << t;
        hash = mix64(hash ^ uint64_t(slot(s, t)));
      }
      tokens.push_back(int32_t(hash % 100));
      logprobs.push_back(-float(hash >> 40));
    }
  }

 private:
  void add_routes(const Sequence& s, int64_t t) {
    routes.insert(routes.end(), {uint8_t(s.token(t)), uint8_t(t), uint8_t(++computed_[{s.arrival, t, s.token(t)}])});
  }
  int32_t& slot(const Sequence& s, int64_t t) {
    return slots_[size_t(s.pages[size_t(t / kAttentionTile)] * kAttentionTile + t % kAttentionTile)];
  }
  std::vector<int32_t> slots_;
  std::map<std::tuple<int64_t, int64_t, int32_t>, int> computed_;
};

/// As FakeRunner makes them: of the whole prompt, and of all tokens of the response but the last; and those of a token
/// that was computed again are its first. Behind a wrong guess a right one may have been computed before.
void expect_routes(const Completion& c, const Prompt& prompt, bool drafts) {
  ASSERT_TRUE(c.routes.recorded());
  const auto expect = [&](const TokenRoutes::Bytes& bytes, const std::vector<int32_t>& ids, size_t count,
                          size_t first) {
    ASSERT_EQ(bytes.size(), 3 * count);
    for (size_t t = 0; t < count; ++t) {
      EXPECT_EQ(bytes[3 * t], uint8_t(ids[t])) << t;
      EXPECT_EQ(bytes[3 * t + 1], uint8_t(first + t)) << t;
      EXPECT_TRUE(drafts || bytes[3 * t + 2] == 1) << t;
    }
  };
  expect(*c.routes.prompt, prompt.ids, prompt.ids.size(), 0);
  expect(*c.routes.response, c.ids, c.ids.size() - 1, prompt.ids.size());
}

Outcome serve(const std::vector<Ask>& asks, Scheduler::Limits limits, std::vector<int32_t> stop_ids = {0, 1, 2}) {
  const std::vector<Prompt> prompts = prompts_of(asks);
  const StopRule stop(stop_ids);
  Scheduler scheduler(limits, stop);
  for (size_t i = 0; i < asks.size(); ++i) scheduler.add(prompts[i], int(i), asks[i].n, 0, asks[i].limit, 5);
  FakeRunner runner(limits.pages);
  Outcome outcome;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  for (int64_t step = 0;; ++step) {
    if (step > 200000) {
      ADD_FAILURE() << "no end in sight";
      return outcome;
    }
    const Plan& plan = scheduler.next();
    if (plan.kind == Plan::Kind::kDone) break;
    for (const Plan::Prefill& p : plan.prefills) outcome.prefill_tokens += p.length;
    outcome.decode_steps += plan.kind == Plan::Kind::kDecode;
    if (plan.kind == Plan::Kind::kDecode) outcome.widest = std::max(outcome.widest, int64_t(plan.rows.size()));
    outcome.copies += int64_t(plan.copy_from.size());
    runner.run(plan, tokens, logprobs);
    if (testing::Test::HasFatalFailure()) return outcome;
    scheduler.accept(tokens, logprobs, runner.routes);

    // Every page in use is held as often as the sequences say, and no more pages are in use.
    std::map<int32_t, int> held;
    for (const Sequence& s : scheduler.sequences())
      for (int32_t page : s.pages) ++held[page];
    for (const auto& [page, count] : held) EXPECT_EQ(scheduler.pool().refs(page), count);
    EXPECT_EQ(int64_t(held.size()) + scheduler.pool().free(), scheduler.pool().total());
  }
  EXPECT_EQ(scheduler.pool().free(), scheduler.pool().total());
  outcome.preemptions = scheduler.preemptions();
  outcome.drafted = scheduler.drafted();
  outcome.accepted = scheduler.accepted();
  outcome.peak_pages = scheduler.pool().peak_used();
  const TokenRoutes::Bytes* prompt = nullptr;
  for (Sequence& s : scheduler.sequences()) {
    expect_routes(s.completion, *s.prompt, limits.drafts != nullptr);
    EXPECT_TRUE(s.index == 0 || s.completion.routes.prompt.get() == prompt) << "samples share those of their prompt";
    prompt = s.completion.routes.prompt.get();
    outcome.completions.push_back(std::move(s.completion));
  }
  return outcome;
}

void expect_equal(const Outcome& a, const Outcome& b) {
  ASSERT_EQ(a.completions.size(), b.completions.size());
  for (size_t i = 0; i < a.completions.size(); ++i) {
    EXPECT_EQ(a.completions[i].ids, b.completions[i].ids) << "sequence " << i;
    EXPECT_EQ(a.completions[i].rollout_logprobs, b.completions[i].rollout_logprobs) << "sequence " << i;
    EXPECT_EQ(a.completions[i].finish, b.completions[i].finish) << "sequence " << i;
  }
}

constexpr Scheduler::Limits kRoomy{.max_batch = 4096, .pages = 20000, .prefill_tokens = 1 << 20};

TEST(PagePool, CountsReferences) {
  PagePool pool(2);
  const int32_t a = pool.allocate(), b = pool.allocate();
  EXPECT_NE(a, b);
  EXPECT_EQ(pool.free(), 0);
  EXPECT_THROW(pool.allocate(), Error);
  pool.share(a);
  pool.release(a);
  EXPECT_EQ(pool.free(), 0);
  pool.release(a);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_THROW(pool.release(a), Error);
  EXPECT_THROW(pool.share(a), Error);
  EXPECT_EQ(pool.peak_used(), 2);
}

TEST(Scheduler, SamplesShareOnePrefill) {
  // 100 prompt tokens: one full page shared by all, one partial page copied for all but one sample.
  const Outcome o = serve({{1, 100, 4, 5}}, kRoomy, {});
  EXPECT_EQ(o.prefill_tokens, 100);
  EXPECT_EQ(o.copies, 3);
  EXPECT_EQ(o.peak_pages, 5);
  // A prompt that fills its page exactly needs no copy: each sample opens its own page.
  const Outcome exact = serve({{1, 64, 4, 5}}, kRoomy, {});
  EXPECT_EQ(exact.copies, 0);
  EXPECT_EQ(exact.peak_pages, 5);
}

TEST(Scheduler, GroupLargerThanBatchIsPrefilledOnce) {
  const Outcome o = serve({{1, 100, 16, 30}}, {.max_batch = 3, .pages = 100, .prefill_tokens = 512});
  EXPECT_EQ(o.prefill_tokens, 100);
  EXPECT_EQ(o.widest, 3);
  expect_equal(o, serve({{1, 100, 16, 30}}, kRoomy));
}

TEST(Scheduler, FinishReasons) {
  const Outcome o = serve({{1, 10, 64, 40}}, kRoomy);
  int stopped = 0;
  for (const Completion& c : o.completions) {
    EXPECT_EQ(c.policy_version, 5);
    EXPECT_EQ(c.ids.size(), c.rollout_logprobs.size());
    for (size_t i = 0; i + 1 < c.ids.size(); ++i) EXPECT_GE(c.ids[i], kStopBelow);
    if (c.finish == Finish::kStop) {
      ++stopped;
      EXPECT_LT(c.ids.back(), kStopBelow);
    } else {
      EXPECT_EQ(c.ids.size(), 40u);
      EXPECT_GE(c.ids.back(), kStopBelow);
    }
  }
  EXPECT_GT(stopped, 0);
  EXPECT_LT(stopped, 64);
  for (const Completion& c : serve({{1, 10, 64, 1}}, kRoomy).completions) EXPECT_EQ(c.ids.size(), 1u);
}

TEST(Scheduler, PrefillTokenBudget) {
  const std::vector<Ask> asks = {{1, 100, 1, 5}, {2, 100, 1, 5}, {3, 300, 1, 5}, {4, 100, 1, 5}};
  const std::vector<Prompt> prompts = prompts_of(asks);
  Scheduler scheduler({.max_batch = 8, .pages = 100, .prefill_tokens = 250}, {});
  for (size_t i = 0; i < asks.size(); ++i) scheduler.add(prompts[i], int(i), 1, 0, 5, 0);
  std::vector<size_t> passes;
  for (const Plan* plan = &scheduler.next(); plan->kind == Plan::Kind::kPrefill; plan = &scheduler.next()) {
    passes.push_back(plan->prefills.size());
    scheduler.accept(std::vector<int32_t>(plan->rows.size(), 9), std::vector<float>(plan->rows.size(), 0.0f));
  }
  EXPECT_EQ(passes, (std::vector<size_t>{2, 1, 1}));  // the third exceeds the budget and runs alone
}

TEST(Scheduler, PreemptionKeepsTokens) {
  const std::vector<Ask> asks = {{1, 60, 2, 300}, {2, 130, 3, 300}, {3, 64, 1, 300}};
  const Outcome roomy = serve(asks, kRoomy, {});
  EXPECT_EQ(roomy.preemptions, 0);
  for (const bool replay : {false, true}) {
    const Outcome tight = serve(asks, {.max_batch = 8, .pages = 8, .prefill_tokens = 512, .replay = replay}, {});
    EXPECT_GT(tight.preemptions, 0);
    EXPECT_EQ(tight.peak_pages, 8);
    expect_equal(tight, roomy);
  }
}

/// One to six prompts with up to nine samples each.
std::vector<Ask> random_asks(RandomStream& random, int round) {
  std::vector<Ask> asks;
  const int count = 1 + int(random.below(6));
  for (int i = 0; i < count; ++i)
    asks.push_back({round * 100 + i, 1 + random.below(200), 1 + int(random.below(9)), 1 + random.below(150)});
  return asks;
}

/// Of the longest sequence.
int64_t pages_needed(const std::vector<Ask>& asks) {
  int64_t pages = 1;
  for (const Ask& ask : asks) pages = std::max(pages, pages_of(ask.prompt_length + ask.limit - 1));
  return pages;
}

TEST(Scheduler, RandomLoadsInTinyPools) {
  RandomStream random(11, 3);
  int64_t preemptions = 0;
  for (int round = 0; round < 150; ++round) {
    const std::vector<Ask> asks = random_asks(random, round);
    const int64_t need = pages_needed(asks);
    const Scheduler::Limits limits{.max_batch = 1 + random.below(12),
                                   .pages = need + random.below(8),
                                   .prefill_tokens = 1 + random.below(400),
                                   .replay = random.below(2) == 1};
    const Outcome o = serve(asks, limits);
    if (HasFailure()) {
      ADD_FAILURE() << "round " << round;
      return;
    }
    EXPECT_LE(o.widest, limits.max_batch);
    preemptions += o.preemptions;
    expect_equal(o, serve(asks, kRoomy));
  }
  EXPECT_GT(preemptions, 100);
}

// The same asks twice: in the second rollout every response is a repetition of one of the first.
TEST(Scheduler, DraftsSaveStepsAndChangeNothing) {
  RandomStream random(12, 3);
  int64_t drafted = 0, accepted = 0, preemptions = 0;
  for (int round = 0; round < 60; ++round) {
    const std::vector<Ask> asks = random_asks(random, round);
    const int64_t need = pages_needed(asks);
    Drafts drafts;
    Scheduler::Limits limits{.max_batch = 1 + random.below(40),
                             .pages = need + random.below(8),
                             .prefill_tokens = 1 + random.below(400),
                             .replay = random.below(2) == 1};
    const Outcome without = serve(asks, limits);
    limits.drafts = &drafts;
    for (int repeat = 0; repeat < 2; ++repeat) {
      drafts.begin();
      const Outcome with = serve(asks, limits);
      expect_equal(with, without);
      EXPECT_LE(with.widest, limits.max_batch);
      EXPECT_LE(with.accepted, with.drafted);
      EXPECT_LE(with.preemptions + with.decode_steps, 2 * (without.preemptions + without.decode_steps));
      drafted += with.drafted;
      accepted += with.accepted;
      preemptions += with.preemptions;
    }
    if (HasFailure()) {
      ADD_FAILURE() << "round " << round;
      return;
    }
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(drafted, accepted);
  EXPECT_GT(preemptions, 20);

  const std::vector<Ask> one = {{7, 20, 1, 120}};
  Drafts drafts;
  Scheduler::Limits limits = kRoomy;
  limits.drafts = &drafts;
  const Outcome first = serve(one, limits, {});
  drafts.begin();
  const Outcome second = serve(one, limits, {});
  EXPECT_EQ(first.decode_steps, 119);
  EXPECT_EQ(second.accepted, second.drafted);
  EXPECT_LT(second.decode_steps, 20);  // up to nine tokens a step
}

}  // namespace
}  // namespace mantissa
