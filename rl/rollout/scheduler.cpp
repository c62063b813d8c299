#include "rl/rollout/scheduler.h"

#include <algorithm>
#include <utility>

namespace mantissa {

Scheduler::Scheduler(const Limits& limits, const StopRule& stop) : limits_(limits), stop_(stop), pool_(limits.pages) {}

void Scheduler::add(const Prompt& prompt, int request, int n, int first_sample, int64_t limit, int64_t policy_version) {
  waiting_.push_back({int64_t(sequences_.size()), n});
  for (int i = 0; i < n; ++i) {
    Sequence& s = sequences_.emplace_back();
    s.prompt = &prompt;
    s.request = request;
    s.index = i;
    s.sample = first_sample + i;
    s.limit = limit;
    s.arrival = int64_t(sequences_.size()) - 1;
    s.completion.policy_version = policy_version;
  }
}

const Plan& Scheduler::next() {
  plan_.rows.clear();
  plan_.ahead.clear();
  plan_.keys = 0;
  plan_.prefills.clear();
  plan_.copy_from.clear();
  plan_.copy_to.clear();
  activate_ready();
  if (plan_prefill()) {
    plan_.kind = Plan::Kind::kPrefill;
  } else if (!running_.empty()) {
    plan_.kind = Plan::Kind::kDecode;
    plan_decode();
  } else {
    plan_.kind = Plan::Kind::kDone;
  }
  return plan_;
}

int64_t Scheduler::prefill_length(const Sequence& s) const {
  return limits_.replay ? int64_t(s.prompt->ids.size()) : s.length();
}

void Scheduler::activate_ready() {
  int64_t promised = 0;  // each needs at most one page for its first token
  while (!ready_.empty() && int64_t(running_.size()) < limits_.max_batch &&
         (running_.empty() || pool_.free() >= promised + 1 + reserve())) {
    running_.push_back(ready_.front());
    ready_.pop_front();
    ++promised;
  }
}

bool Scheduler::plan_prefill() {
  int64_t tokens = 0;
  while (!waiting_.empty()) {
    const Group group = waiting_.front();
    Sequence& leader = sequences_[size_t(group.first)];
    const int64_t length = prefill_length(leader);
    const int64_t rows = limits_.max_batch - int64_t(running_.size() + ready_.size() + plan_.rows.size());
    const bool alone = running_.empty() && ready_.empty() && plan_.rows.empty();  // then it must go, and fits
    if (!alone) {
      if (rows <= 0 || (tokens > 0 && tokens + length > limits_.prefill_tokens)) break;
      // The rows of this pass, this group's included, will each want a page for their next token.
      const int64_t wanted = pages_of(length) + int64_t(plan_.rows.size()) + std::min(group.count, rows);
      if (pool_.free() < wanted + reserve()) break;
    }
    waiting_.pop_front();
    tokens += length;
    for (int64_t i = 0; i < pages_of(length); ++i) leader.pages.push_back(pool_.allocate());
    plan_.prefills.push_back({int(plan_.rows.size()), int(group.count), length});
    for (int64_t i = 0; i < group.count; ++i) {
      Sequence& s = sequences_[size_t(group.first + i)];
      s.admission = ++admissions_;
      if (i > 0) {
        s.pages = leader.pages;
        for (int32_t page : s.pages) pool_.share(page);
      }
      plan_.rows.push_back(&s);
    }
  }
  return !plan_.rows.empty();
}

bool Scheduler::needs_page(const Sequence& s) const {
  const size_t page = size_t(s.cached / kAttentionTile);  // the one that takes the next token
  return page == s.pages.size() || pool_.refs(s.pages[page]) > 1;
}

void Scheduler::plan_decode() {
  make_room();
  for (Sequence* s : running_) {
    plan_.keys += s->length();
    if (!needs_page(*s)) continue;
    const size_t page = size_t(s->cached / kAttentionTile);
    if (page == s->pages.size()) {
      s->pages.push_back(pool_.allocate());
    } else {
      const int32_t original = s->pages[page];
      s->pages[page] = pool_.allocate();
      plan_.copy_from.push_back(original);
      plan_.copy_to.push_back(s->pages[page]);
      pool_.release(original);  // others hold it, so it keeps its content
    }
  }
  int64_t left = int64_t(running_.size()), room = limits_.drafts ? limits_.max_batch - left : 0;
  const int64_t worth = room > 0 ? limits_.drafts->choose(left, plan_.keys) : 0;
  for (Sequence* s : running_) {
    if (worth > 0 && room > 0) make_draft(*s, std::min(worth, (room + left - 1) / left));
    room -= int64_t(s->draft.size());
    --left;
    for (int32_t ahead = 0; ahead <= int32_t(s->draft.size()); ++ahead) {
      plan_.rows.push_back(s);
      plan_.ahead.push_back(ahead);
    }
  }
}

/// Guesses up to `most` tokens of a sequence whose last token comes next, as far as its limit and free pages allow.
void Scheduler::make_draft(Sequence& s, int64_t most) {
  most = std::min({most, s.draft_length, s.limit - int64_t(s.completion.ids.size()) - 1});
  if (most <= 0 || s.cached + 1 != s.length()) return;
  if (!s.past) s.past = &limits_.drafts->of(*s.prompt);
  s.draft = limits_.drafts->propose(*s.past, *s.prompt, s.completion.ids, most);
  while (pages_of(s.cached + 1 + int64_t(s.draft.size())) > int64_t(s.pages.size())) {
    if (pool_.free() > reserve())
      s.pages.push_back(pool_.allocate());
    else
      s.draft.resize(size_t(int64_t(s.pages.size()) * kAttentionTile - s.cached - 1));
  }
}

/// Preempts until every running sequence can take its next token. Done before any page is handed out, so that no copy
/// is planned for a sequence that then leaves.
void Scheduler::make_room() {
  while (std::count_if(running_.begin(), running_.end(), [&](Sequence* s) { return needs_page(*s); }) > pool_.free()) {
    if (running_.size() == 1) {  // the oldest of those running; ready ones hold pages it needs
      check(!ready_.empty(), "[scheduler] a sequence of ", running_[0]->length(), " tokens does not fit ",
            pool_.total(), " pages");
      Sequence* youngest = ready_.back();
      ready_.pop_back();
      preempt(*youngest);
    } else {
      const auto youngest = std::max_element(running_.begin(), running_.end(),
                                             [](Sequence* a, Sequence* b) { return a->arrival < b->arrival; });
      Sequence* s = *youngest;
      *youngest = running_.back();
      running_.pop_back();
      preempt(*s);
    }
  }
}

void Scheduler::preempt(Sequence& s) {
  release_pages(s);
  s.cached = 0;
  ++preemptions_;
  const auto place = std::lower_bound(waiting_.begin(), waiting_.end(), s.arrival,
                                      [](const Group& g, int64_t arrival) { return g.first < arrival; });
  waiting_.insert(place, {s.arrival, 1});
}

void Scheduler::release_pages(Sequence& s) {
  for (int32_t page : s.pages) pool_.release(page);
  s.pages.clear();
}

/// The token drawn behind the last one; true: the sequence is finished.
bool Scheduler::take(Sequence& s, int32_t token, float logprob) {
  Completion& c = s.completion;
  c.ids.push_back(token);
  c.rollout_logprobs.push_back(logprob);
  c.finish = stop_.finish(c.ids);
  return c.finish != Finish::kLength || int64_t(c.ids.size()) == s.limit;
}

/// Appends those of the response's tokens from `position` on, as far as they are not known yet: a token that is
/// computed again keeps its first routes.
void Scheduler::keep_routes(Sequence& s, int64_t position, std::span<const uint8_t> routes, int64_t size) {
  const int64_t known = int64_t(s.prompt->ids.size()) + int64_t(s.routes.size()) / size;
  check(position <= known, "[scheduler] routes of token ", position, " where those of ", known, " are known");
  const int64_t skipped = std::min((known - position) * size, int64_t(routes.size()));
  s.routes.insert(s.routes.end(), routes.begin() + skipped, routes.end());
}

/// Those of a prefill. Its rows share the prompt's; of generated tokens, after preemption, there is one row alone.
void Scheduler::keep_prefilled_routes(const Plan::Prefill& p, std::span<const uint8_t> routes) {
  Sequence& leader = *plan_.rows[size_t(p.first)];
  const int64_t prompt = int64_t(leader.prompt->ids.size()), size = int64_t(routes.size()) / p.length;
  if (!leader.completion.routes.prompt) {
    const auto shared = std::make_shared<TokenRoutes::Bytes>(routes.begin(), routes.begin() + prompt * size);
    for (int i = 0; i < p.count; ++i) plan_.rows[size_t(p.first + i)]->completion.routes.prompt = shared;
  }
  keep_routes(leader, prompt, routes.subspan(size_t(prompt * size)), size);
}

/// The results of a sequence's rows in a decode step: what was drawn behind its first token, and behind each guess that
/// was right. True: finished.
bool Scheduler::take_rows(Sequence& s, std::span<const int32_t> tokens, std::span<const float> logprobs,
                          std::span<const uint8_t> routes) {
  const std::vector<int32_t> draft = std::exchange(s.draft, {});
  const size_t size = routes.size() / tokens.size();
  bool finished = false;
  size_t accepted = 0;
  for (;; ++accepted) {
    if (size > 0) keep_routes(s, s.cached, routes.subspan(accepted * size, size), int64_t(size));
    ++s.cached;
    if (s.cached < s.length()) break;  // a replayed token: the next one is known
    finished = take(s, tokens[accepted], logprobs[accepted]);
    if (finished || accepted == draft.size() || draft[accepted] != tokens[accepted]) break;
  }
  drafted_ += int64_t(draft.size());
  accepted_ += int64_t(accepted);
  if (draft.empty()) return finished;
  if (!finished || accepted == draft.size()) limits_.drafts->learn(int64_t(draft.size()), int64_t(accepted));
  s.draft_length =
      accepted == draft.size() ? std::min(2 * s.draft_length, Drafts::kMost) : std::max<int64_t>(1, int64_t(accepted));
  return finished;
}

void Scheduler::accept(std::span<const int32_t> tokens, std::span<const float> logprobs,
                       std::span<const uint8_t> routes) {
  check(tokens.size() == plan_.rows.size() && logprobs.size() == plan_.rows.size(), "[scheduler] ", tokens.size(),
        " results for ", plan_.rows.size(), " rows");
  const bool prefill = plan_.kind == Plan::Kind::kPrefill;
  int64_t computed = prefill ? 0 : int64_t(plan_.rows.size());
  for (const Plan::Prefill& p : plan_.prefills) computed += p.length;
  const size_t size = routes.size() / size_t(computed);  // of a token
  check(routes.size() == size * size_t(computed), "[scheduler] ", routes.size(), " bytes of routes for ", computed,
        " tokens");
  for (const Plan::Prefill& p : plan_.prefills) {
    for (int i = 0; i < p.count; ++i) plan_.rows[size_t(p.first + i)]->cached = p.length;
    if (size > 0) keep_prefilled_routes(p, routes.first(size * size_t(p.length)));
    routes = routes.subspan(size * size_t(p.length));
  }

  // Sequences backwards: the last running one, which takes the place of a finished one, has been seen by then. Ready
  // ones are entered backwards too and put in order at the end.
  const size_t were_ready = ready_.size();
  size_t end = plan_.rows.size();
  for (size_t i = prefill ? plan_.rows.size() : running_.size(); i-- > 0;) {
    Sequence& s = *plan_.rows[end - 1];
    const size_t count = 1 + s.draft.size(), begin = end - count;
    const bool finished = prefill ? s.cached == s.length() && take(s, tokens[begin], logprobs[begin])
                                  : take_rows(s, tokens.subspan(begin, count), logprobs.subspan(begin, count),
                                              routes.subspan(begin * size, count * size));
    end = begin;
    if (finished) {
      ++finished_;
      release_pages(s);
      if (size > 0) s.completion.routes.response = std::make_shared<TokenRoutes::Bytes>(s.routes);
      TokenRoutes::Bytes().swap(s.routes);
      if (limits_.drafts) limits_.drafts->add(*s.prompt, s.completion.ids);
      if (!prefill) {
        running_[i] = running_.back();
        running_.pop_back();
      }
    } else if (prefill) {
      ready_.push_back(&s);
    }
  }
  std::reverse(ready_.begin() + int64_t(were_ready), ready_.end());
}

}  // namespace mantissa
