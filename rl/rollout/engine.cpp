#include "rl/rollout/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "core/notice.h"
#include "core/rehearsal.h"
#include "rl/rollout/runner.h"
#include "rl/rollout/scheduler.h"

namespace mantissa {
namespace {

constexpr int64_t kPrefillTokens = 4096;                   // of one pass; bounds its activations
constexpr int64_t kMaxPages = INT32_MAX / kAttentionTile;  // slots are int32

void check_request(const Request& r, size_t index, const ModelConfig& config) {
  check(r.prompt != nullptr, "[generate] request ", index, " has no prompt");
  check(r.n >= 1, "[generate] request ", index, ": n must be at least 1: got ", r.n);
  const std::vector<int32_t>& ids = r.prompt->ids;
  check(!ids.empty(), "[generate] request ", index, " (prompt ", r.prompt->id, "): the prompt has no tokens");
  check(int64_t(ids.size()) < config.max_positions, "[generate] request ", index, " (prompt ", r.prompt->id,
        "): a prompt of ", ids.size(), " tokens leaves no position for a response: the model has ",
        config.max_positions, " positions (max_position_embeddings)");
  for (size_t i = 0; i < ids.size(); ++i)
    check(ids[i] >= 0 && ids[i] < config.vocab_size, "[generate] request ", index, " (prompt ", r.prompt->id,
          "): token ", i, " is ", ids[i], ", ids must lie in [0, ", config.vocab_size, ")");
}

}  // namespace

std::vector<Request> requests_for(std::span<const Prompt> prompts, int64_t n) {
  std::vector<Request> requests;
  for (const Prompt& prompt : prompts) requests.push_back({.prompt = &prompt, .n = int(n)});
  return requests;
}

void check_drafts(const RolloutConfig& rollout, Match match) {
  if (rollout.draft == "none") return;
  check(rollout.draft == "history", "[generate] rollout.draft must be none or history: got ", rollout.draft);
  check(match == Match::kExact,
        "rollout.draft: history needs rollout and training to agree bit for bit (precision.match: exact): elsewhere a "
        "token's bits depend on what is computed beside it; got ",
        match == Match::kPeer ? "peer" : "fast");
}

struct Engine::Impl {
  Exec exec;
  const Model& model;
  int64_t max_batch, cache_tokens;
  double memory_fraction;
  EnginePrecision precision;
  Runner runner;
  Comm* in_step = nullptr;  // the ranks whose passes are also this one's
  std::optional<Drafts> drafts;
  EngineStats stats;
  int64_t kv_cache_limit = 0;

  Impl(const Model& of, const RolloutConfig& config, const EnginePrecision& types)
      : exec(*of.backend),
        model(of),
        max_batch(config.max_batch),
        cache_tokens(config.cache_tokens),
        memory_fraction(config.memory_fraction),
        precision(types),
        runner(exec, model, precision, max_batch) {
    exec.match = precision.match;
    check_drafts(config, precision.match);
    if (config.draft != "none") drafts.emplace(is_rehearsal(exec.backend()));
  }
  int64_t limit_of(const Prompt& prompt, int64_t max_new_tokens) const {
    return std::min(max_new_tokens, model.config.max_positions - int64_t(prompt.ids.size()));
  }
  /// A sequence's last token is never fed, so it needs no place.
  int64_t pages_for(const Prompt& prompt, int64_t max_new_tokens) const {
    return pages_of(int64_t(prompt.ids.size()) + limit_of(prompt, max_new_tokens) - 1);
  }
  void check_pages(int64_t pages, const Prompt& prompt, int64_t max_new_tokens, const std::string& found) const;
  int64_t asked_pages() const { return std::min(cache_tokens / kAttentionTile, kMaxPages); }
  int64_t make_pool(std::span<const Request> requests, const GenerateOptions& options);
};

void Engine::Impl::check_pages(int64_t pages, const Prompt& prompt, int64_t max_new_tokens,
                               const std::string& found) const {
  const int64_t needed = pages_for(prompt, max_new_tokens);
  check(pages >= needed, "[generate] the KV cache must hold at least one sequence: prompt ", prompt.id, " (",
        prompt.ids.size(), " tokens) with up to ", limit_of(prompt, max_new_tokens), " new ones needs ",
        needed * kAttentionTile, " tokens (", needed, " pages of ", kAttentionTile, "), but ", found);
}

/// Reserves memory and returns the pages to use: every sequence must fit alone, then the scheduler always makes
/// progress. While the memory for `kv_cache_limit` is
/// there, the pages depend on it and on the requests alone, never on earlier rollouts: what runs together decides bits
/// where a product's bits depend on its number of rows.
int64_t Engine::Impl::make_pool(std::span<const Request> requests, const GenerateOptions& options) {
  int64_t longest = 0, all = 0;   // pages of the longest sequence, and of all together
  int64_t most = 1, samples = 0;  // of a request, and of all
  const Request* worst = nullptr;
  for (const Request& r : requests) {
    const int64_t pages = pages_for(*r.prompt, options.sampling.max_new_tokens);
    all += pages * r.n;
    samples += r.n;
    most = std::max<int64_t>(most, r.n);
    if (pages > longest) longest = pages, worst = &r;
  }
  if (worst == nullptr) return 0;

  int64_t pages = asked_pages();
  std::string found = str("rollout.cache_tokens is ", cache_tokens);
  if (cache_tokens == 0) {
    const MemoryInfo memory = exec.backend().memory();
    const int64_t held = runner.pages() * runner.page_bytes();
    const int64_t taken = int64_t(memory.in_use) + runner.window_bytes() - held;
    const int64_t free = std::max<int64_t>(0, int64_t(memory.capacity) - taken);
    int64_t limit = kv_cache_limit;
    found = str("the limit that the first rollout set is ", kv_cache_limit * kAttentionTile);
    if (kv_cache_limit == 0 || kv_cache_limit > free / runner.page_bytes()) {
      limit = int64_t(double(free) * memory_fraction) / runner.page_bytes();
      found = str("rollout.cache_tokens is 0 (automatic) and rollout.memory_fraction = ", memory_fraction,
                  " of the free memory (", free, " bytes; ", taken, " of ", memory.capacity, " are in use) holds ",
                  limit * kAttentionTile);
    }
    if (is_rehearsal(exec.backend())) limit = std::max(limit, longest);  // of what does not fit, too, there is a count
    if (kv_cache_limit == 0) kv_cache_limit = limit;
    const int64_t rows = options.next ? std::min(max_batch, options.at_once + most - 1) : max_batch;
    // The prompt's last page is there until each sample of a request has its own copy.
    const int64_t shared = most > 1 ? std::min(rows, int64_t(requests.size())) : 0;
    const int64_t spare = Scheduler::reserve_of(std::min(rows, samples)) + shared;
    const int64_t wanted = std::min(std::min(all, rows * longest) + spare, kMaxPages);
    pages = std::min(wanted, limit);
    stats.lost_pages = std::min(wanted, kv_cache_limit) - pages;
  }
  check_pages(pages, *worst->prompt, options.sampling.max_new_tokens, found);
  try {
    runner.reserve(std::max(pages, runner.pages()), longest);
  } catch (const Error& e) {
    if (cache_tokens > 0)
      fail("rollout.cache_tokens: the KV cache must fit into memory, got ", cache_tokens, ": ", e.what());
    fail("[generate] no memory for a KV cache of ", pages * kAttentionTile, " tokens (rollout.max_batch is ", max_batch,
         ", rollout.memory_fraction ", memory_fraction, "): ", e.what());
  }
  return pages;
}

Engine::Engine(const Model& model, const RolloutConfig& config, const EnginePrecision& precision, bool deterministic) {
  check(config.max_batch >= 1, "[generate] rollout.max_batch must be at least 1: got ", config.max_batch);
  check(config.cache_tokens >= 0, "[generate] rollout.cache_tokens must be 0 (automatic) or more: got ",
        config.cache_tokens);
  impl_ = std::make_unique<Impl>(model, config, precision);
  impl_->exec.deterministic = deterministic;
}

Engine::~Engine() = default;

const EngineStats& Engine::stats() const {
  return impl_->stats;
}

void Engine::check_room(std::span<const Prompt> prompts, int64_t max_new_tokens) const {
  if (impl_->cache_tokens == 0) return;
  for (const Prompt& prompt : prompts)
    impl_->check_pages(impl_->asked_pages(), prompt, max_new_tokens,
                       str("rollout.cache_tokens is ", impl_->cache_tokens));
}

bool Engine::guesses() const {
  return impl_->drafts.has_value();
}

bool Engine::exact() const {
  return impl_->precision.match == Match::kExact;
}

int64_t Engine::kv_cache_limit() const {
  return impl_->kv_cache_limit;
}

void Engine::set_kv_cache_limit(int64_t pages) {
  impl_->kv_cache_limit = pages;
}

void Engine::gather_by_unit(Comm& comm) {
  impl_->runner.gather_by_unit(comm);
  impl_->in_step = &comm;
}

bool Engine::gathers_by_unit() const {
  return impl_->in_step != nullptr;
}

void Engine::release_memory() {
  impl_->runner.release();
  impl_->in_step = nullptr;
}

int64_t Engine::cache_bytes() const {
  return impl_->cache_tokens / kAttentionTile * impl_->runner.page_bytes();
}

std::vector<std::vector<Completion>> Engine::generate(std::span<const Request> requests,
                                                      const GenerateOptions& options) {
  Impl& e = *impl_;
  const ModelConfig& config = e.model.config;
  const SamplingConfig& sampling = options.sampling;
  sampling.validate();
  for (int32_t id : options.stop.ids())
    check(id >= 0 && id < config.vocab_size, "[generate] stop ids must lie in [0, ", config.vocab_size, "): got ", id);
  for (size_t i = 0; i < requests.size(); ++i) check_request(requests[i], i, config);
  EngineStats& stats = e.stats = {};
  const int64_t pages = e.make_pool(requests, options);
  check(!options.next || options.at_once >= 1, "[generate] at_once must be at least 1: got ", options.at_once);
  const int64_t at_once = std::min(options.at_once, e.max_batch);

  // Where computing a decoded token again by prefill would round otherwise: a cache narrower than the keys and values
  // that a prefill reads, and peer mode, whose decode splits the keys.
  const bool replay = e.precision.kv_cache != e.model.params.for_rollout().dtype() || e.precision.match == Match::kPeer;
  if (e.drafts) e.drafts->begin();
  Scheduler scheduler({.max_batch = e.max_batch,
                       .pages = pages,
                       .prefill_tokens = kPrefillTokens,
                       .replay = replay,
                       .drafts = e.drafts ? &*e.drafts : nullptr},
                      options.stop);
  const auto add = [&](size_t i) {
    scheduler.add(*requests[i].prompt, int(i), requests[i].n, requests[i].first_sample,
                  e.limit_of(*requests[i].prompt, options.sampling.max_new_tokens), options.policy_version);
    stats.sequences = int64_t(scheduler.sequences().size());
  };
  bool more = bool(options.next);
  const auto take = [&] {
    while (more && stats.sequences - stats.finished < at_once) {
      const size_t i = options.next();
      if (more = i < requests.size(); more) add(i);
    }
  };
  for (size_t i = 0; i < requests.size() && !more; ++i) add(i);
  take();
  e.runner.begin(options.keys,
                 {.temperature = sampling.temperature, .top_p = float(sampling.top_p), .top_k = int(sampling.top_k)},
                 options.record_routes);
  Comm& ranks = e.in_step ? *e.in_step : e.model.decoder->expert_ranks();
  const auto somebody = [&](bool has_work) { return ranks.reduce({double(has_work)}, Reduce::kMax)[0] > 0; };
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point time) {
    return std::chrono::duration<double>(Clock::now() - time).count();
  };
  for (;; take()) {
    const Clock::time_point asked = Clock::now();
    const Plan* plan = &scheduler.next();
    const double planning = seconds_since(asked);  // guesses are looked for there
    if (!somebody(plan->kind != Plan::Kind::kDone)) break;
    if (options.cancelled && options.cancelled()) throw Interrupted("generation was cancelled");
    if (plan->kind == Plan::Kind::kDone) {
      e.runner.join();
      continue;
    }
    const Clock::time_point began = Clock::now();
    e.runner.run(*plan);
    scheduler.accept(e.runner.tokens(), e.runner.logprobs(), e.runner.routes());
    if (e.drafts && e.runner.replayed())
      e.drafts->learn_cost(int64_t(plan->rows.size()), plan->keys, planning + seconds_since(began));
    stats.finished = scheduler.finished();
    for (const Plan::Prefill& p : plan->prefills) stats.prefill_tokens += p.length;
    if (plan->kind == Plan::Kind::kDecode) {
      ++stats.decode_steps;
      stats.decode_tokens += int64_t(plan->rows.size());
    }
  }
  stats.drafted = scheduler.drafted();
  stats.accepted = scheduler.accepted();
  stats.decode_tokens -= stats.drafted - stats.accepted;
  stats.preemptions = scheduler.preemptions();
  stats.peak_pages = scheduler.pool().peak_used();

  std::vector<std::vector<Completion>> completions(requests.size());
  int64_t overflowed = 0;
  for (Sequence& s : scheduler.sequences()) {
    overflowed += !std::ranges::all_of(s.completion.rollout_logprobs, [](float x) { return std::isfinite(x); });
    if (options.stop.has_text()) s.completion.text = options.stop.text(s.completion);
    completions[size_t(s.request)].push_back(std::move(s.completion));
  }
  if (overflowed > 0)
    notice(str(overflowed, " of ", stats.sequences, " samples have log-probs that are not finite: the forward pass ",
               "overflowed in ", name_of(e.model.params.for_rollout().dtype()), ", and what they say means nothing"));
  return completions;
}

}  // namespace mantissa
