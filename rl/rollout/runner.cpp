#include "rl/rollout/runner.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "core/rehearsal.h"

namespace mantissa {
namespace {

constexpr int kIntsPerRow = 8;       // ids, positions, slots, lengths, ahead, counters x 3
constexpr int64_t kLeastWidth = 16;  // of the page table: exact attention takes 1,024 keys in one piece

/// The smallest decode bucket for `rows`: eight sizes per power of two, so at most an eighth of the rows is padding.
int64_t bucket_of(int64_t rows, int64_t max_batch) {
  const int64_t step = std::max<int64_t>(1, int64_t(std::bit_floor(uint64_t(rows))) / 8);
  return std::min(max_batch, (rows + step - 1) / step * step);
}

int32_t slot_of(const Sequence& s, int64_t position) {
  return s.pages[size_t(position / kAttentionTile)] * kAttentionTile + int32_t(position % kAttentionTile);
}

/// Of the token to be drawn `ahead` places behind the next.
void write_counters(int32_t* out, const Sequence& s, int32_t ahead = 0) {
  out[0] = int32_t(uint32_t(s.prompt->id));
  out[1] = s.sample;
  out[2] = int32_t(s.completion.ids.size()) + ahead;
}

}  // namespace

Runner::Runner(Exec& exec, const Model& model, const EnginePrecision& precision, int64_t max_batch)
    : exec_(exec),
      model_(model),
      precision_(precision),
      max_batch_(max_batch),
      key_(key_tensor(exec.backend(), {})),
      rows_(size_t(max_batch)),
      results_(exec.backend().allocate(size_t(2 * max_batch) * sizeof(int32_t))) {
  const ExpertsConfig& experts = model.config.experts;
  if (!records_routes(model.config)) return;
  layers_ = experts.before(model.config.layers);
  chosen_ = exec.backend().allocate(size_t(layers_ * max_batch * experts.per_token) * sizeof(int32_t));
}

int64_t Runner::page_bytes() const {
  const ModelConfig& c = model_.config;
  return c.layers * 2 * kAttentionTile * c.heads.kv * c.heads.size * int64_t(size_of(precision_.kv_cache));
}

void Runner::reserve(int64_t pages, int64_t max_pages) {
  if (pages > pages_) {
    forget_graphs();
    const Heads& heads = model_.config.heads;
    cache_.layers.clear();  // before the larger one is asked for
    pages_ = 0;
    for (int64_t i = 0; i < model_.config.layers; ++i)
      cache_.layers.push_back(
          exec_.empty({2, pages, kAttentionTile, int64_t(heads.kv) * heads.size}, precision_.kv_cache));
    pages_ = pages;
  }
  if (!table_memory_ || max_pages > max_pages_) {
    forget_graphs();
    table_ = {};
    const size_t bytes = size_t(max_batch_ * max_pages) * sizeof(int32_t);
    table_memory_ = exec_.backend().allocate(bytes);
    exec_.backend().zero(table_memory_->data, bytes);
    max_pages_ = max_pages;
  }
}

void Runner::release() {
  forget_graphs();
  if (windows_) windows_->clear();
  windows_ = nullptr;
  cache_.layers.clear();
  table_ = {};
  table_memory_ = {};
  max_pages_ = pages_ = 0;
}

void Runner::gather_by_unit(Comm& comm) {
  forget_graphs();
  windows_ = std::make_unique<ParamWindows>(exec_, comm, model_.params, true);
}

int64_t Runner::window_bytes() const {
  if (!windows_) return 0;
  return model_.decoder->most_in_use(model_.params.layout) * int64_t(size_of(model_.params.for_rollout().dtype()));
}

void Runner::begin(SampleKeys keys, SamplingRule rule, bool routes) {
  const PhiloxKey key = philox_key(keys.seed, keys.step);
  exec_.backend().copy_from_host(key_.raw(), &key, sizeof(key));
  rule_ = rule;
  records_ = routes && layers_ > 0;
  if (adapter_ != model_.adapter) forget_graphs();  // one put in another's place; new values in its buffers are none
  adapter_ = model_.adapter;
  table_ = {};
}

/// Graphs hold addresses.
void Runner::forget_graphs() {
  for (auto& [rows, bucket] : buckets_) {
    bucket.graphs.clear();
    bucket.rehearsed = false;
  }
}

void Runner::run(const Plan& plan) {
  tokens_.clear();
  logprobs_.clear();
  replayed_ = false;
  routes_.clear();
  if (plan.kind == Plan::Kind::kPrefill)
    prefill(plan);
  else
    decode(plan);
}

void Runner::join() {
  Tape tape(exec_, false);
  model_.decoder->join(context(tape));
}

/// Sends host_ to `block`.
Tensor Runner::upload(Tensor block) {
  exec_.backend().copy_from_host(block.raw(), host_.data(), block.bytes());
  return block;
}

ForwardContext Runner::context(Tape& tape) {
  ForwardContext ctx;
  ctx.tape = &tape;
  ctx.params = &model_.params;
  ctx.windows = windows_.get();
  ctx.adapter = model_.adapter.get();
  ctx.rollout = true;
  ctx.residual = precision_.residual;
  ctx.attention.cache = &cache_;
  return ctx;
}

void Runner::prefill(const Plan& plan) {
  const int64_t prompts = int64_t(plan.prefills.size()), rows = int64_t(plan.rows.size());
  int64_t tokens = 0;
  for (const Plan::Prefill& p : plan.prefills) tokens += p.length;

  host_.resize(size_t(3 * tokens + 2 * prompts + 1 + 4 * rows));
  int32_t* ids = host_.data();
  int32_t* positions = ids + tokens;
  int32_t* slots = positions + tokens;
  int32_t* offsets = slots + tokens;
  int32_t* last = offsets + prompts + 1;  // row of ids whose hidden state predicts the first new token
  int32_t* source = last + prompts;       // which prompt a row draws from
  int32_t* counters = source + rows;
  int64_t t = 0;
  *offsets++ = 0;
  for (int64_t i = 0; i < prompts; ++i) {
    const Plan::Prefill& p = plan.prefills[size_t(i)];
    const Sequence& leader = *plan.rows[size_t(p.first)];
    for (int64_t j = 0; j < p.length; ++j, ++t) {
      ids[t] = leader.token(j);
      positions[t] = int32_t(j);
      slots[t] = slot_of(leader, j);
    }
    *offsets++ = int32_t(t);
    *last++ = int32_t(t - 1);
    for (int j = 0; j < p.count; ++j, counters += 3) {
      *source++ = int32_t(i);
      write_counters(counters, *plan.rows[size_t(p.first + j)]);
    }
  }

  const Tensor block = upload(exec_.empty({int64_t(host_.size())}, Dtype::kI32));
  int64_t at = 0;
  const auto take = [&](int64_t count) {
    at += count;
    return block.slice(at - count, at);
  };
  Tape tape(exec_, false);
  ForwardContext ctx = context(tape);
  ctx.ids = take(tokens);
  ctx.positions = take(tokens);
  ctx.attention.slots = take(tokens);
  ctx.attention.offsets = take(prompts + 1);
  for (const Plan::Prefill& p : plan.prefills)
    ctx.attention.longest = std::max<int64_t>(ctx.attention.longest, p.length);
  if (records_) ctx.routes.chosen = exec_.empty({layers_, tokens, model_.config.experts.per_token}, Dtype::kI32);
  const Tensor last_rows = take(prompts), sources = take(rows), keys = take(3 * rows).view({rows, 3});

  const Tensor hidden = model_.decoder->forward(ctx).value();
  Tensor ends = exec_.empty({prompts, hidden.size(1)}, hidden.dtype());
  MANTISSA_RUN(exec_, gather_rows, ends, hidden, last_rows);
  const Tensor logits = model_.decoder->logits(ctx, ends, precision_.lm_head);
  // A prompt's logits serve all its samples; a copy per sample lives for max_batch of them at a time.
  for (int64_t begin = 0; begin < rows; begin += max_batch_) {
    const int64_t end = std::min(rows, begin + max_batch_);
    Tensor copies = exec_.empty({end - begin, logits.size(1)}, logits.dtype());
    MANTISSA_RUN(exec_, gather_rows, copies, logits, sources.slice(begin, end));
    draw(copies, keys.slice(begin, end));
    fetch(end - begin, end - begin);
  }
  if (records_) fetch_routes(ctx.routes.chosen, tokens);
}

void Runner::decode(const Plan& plan) {
  copy_pages(plan);
  widen_table(plan);
  update_table(plan);
  const int64_t rows = int64_t(plan.rows.size()), bucket = bucket_of(rows, max_batch_);
  host_.assign(size_t(kIntsPerRow * bucket), 0);
  int32_t* ids = host_.data();
  int32_t* positions = ids + bucket;
  int32_t* slots = positions + bucket;
  int32_t* lengths = slots + bucket;
  int32_t* ahead = lengths + bucket;
  int32_t* counters = ahead + bucket;
  for (int64_t i = 0; i < rows; ++i) {
    const Sequence& s = *plan.rows[size_t(i)];
    ahead[i] = plan.ahead[size_t(i)];
    const int64_t position = s.cached + ahead[i];
    ids[i] = s.token(position);
    positions[i] = int32_t(position);
    slots[i] = slot_of(s, position);
    lengths[i] = int32_t(position + 1);
    write_counters(counters + 3 * i, s, ahead[i]);
  }
  std::fill(slots + rows, slots + bucket, -1);

  Bucket& b = buckets_[bucket];
  if (!b.block.defined()) b.block = exec_.empty({kIntsPerRow * bucket}, Dtype::kI32);
  upload(b.block);
  const bool distinct = std::all_of(plan.ahead.begin(), plan.ahead.end(), [](int32_t ahead) { return ahead == 0; });
  std::unique_ptr<Graph>& graph = b.graphs[{rule_, table_.size(1), distinct}];
  const bool records = !windows_ && !model_.decoder->shares_experts();  // a graph holds no collectives
  if (replayed_ = bool(graph); replayed_) {
    graph->replay();
  } else if (records || !std::exchange(b.rehearsed, is_rehearsal(exec_.backend()))) {
    const auto step = [&] { decode_step(b.block, bucket, distinct); };
    step();
    if (records) graph = exec_.backend().capture(exec_, step);
  }
  fetch(bucket, rows);
  if (records_) fetch_routes(chosen(bucket), rows);
}

/// Where the decode step of a bucket leaves its experts, asked for or not: one graph serves both.
Tensor Runner::chosen(int64_t bucket) const {
  return chosen_ ? Tensor(chosen_, 0, {layers_, bucket, model_.config.experts.per_token}, Dtype::kI32) : Tensor();
}

void Runner::decode_step(const Tensor& block, int64_t bucket, bool distinct) {
  Tape tape(exec_, false);
  ForwardContext ctx = context(tape);
  ctx.ids = block.slice(0, bucket);
  ctx.positions = block.slice(bucket, 2 * bucket);
  ctx.attention.slots = block.slice(2 * bucket, 3 * bucket);
  ctx.attention.lengths = block.slice(3 * bucket, 4 * bucket);
  ctx.attention.table = table_.slice(0, bucket);
  if (!distinct) ctx.attention.ahead = block.slice(4 * bucket, 5 * bucket);
  ctx.routes.chosen = chosen(bucket);
  const Tensor hidden = model_.decoder->forward(ctx).value();
  const Tensor logits = model_.decoder->logits(ctx, hidden, precision_.lm_head);
  draw(logits, block.slice(5 * bucket, kIntsPerRow * bucket).view({bucket, 3}));
}

void Runner::copy_pages(const Plan& plan) {
  const int64_t copies = int64_t(plan.copy_from.size());
  if (copies == 0) return;
  host_ = plan.copy_from;
  host_.insert(host_.end(), plan.copy_to.begin(), plan.copy_to.end());
  const Tensor block = upload(exec_.empty({2 * copies}, Dtype::kI32));
  for (Tensor& pages : cache_.layers)
    MANTISSA_RUN(exec_, kv_copy, pages, block.slice(0, copies), block.slice(copies, 2 * copies));
}

/// The table's width for these rows, never less than before. Under another width rows lie elsewhere: all are sent anew.
void Runner::widen_table(const Plan& plan) {
  int64_t most = kLeastWidth;
  for (const Sequence* s : plan.rows) most = std::max(most, int64_t(s->pages.size()));
  const int64_t width = std::min(max_pages_, int64_t(std::bit_ceil(uint64_t(most))));
  if (table_.defined() && width <= table_.size(1)) return;
  table_ = Tensor(table_memory_, 0, {max_batch_, width}, Dtype::kI32);
  std::fill(rows_.begin(), rows_.end(), Row());
}

/// A row whose sequence stayed only sends the pages it gained. A page that a sequence owns is replaced at one moment,
/// its first decode step after a prefill, when no row has sent it yet. Many changes are sent as one piece, the rows of
/// all: so it is in every step with guesses, which move rows.
void Runner::update_table(const Plan& plan) {
  constexpr int64_t kCopy = 32 << 10;  // bytes that are sent while another copy is begun
  const auto sent = [&](size_t i) { return rows_[i].admission == plan.rows[i]->admission ? rows_[i].pages : 0; };
  int64_t changed = 0;
  for (size_t i = 0; i < plan.rows.size(); ++i) changed += sent(i) != int64_t(plan.rows[i]->pages.size());
  const int64_t rows = int64_t(plan.rows.size()), width = table_.size(1);
  const bool together = changed * kCopy > rows * width * int64_t(sizeof(int32_t));
  if (together) host_.assign(size_t(rows * width), 0);
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const Sequence& s = *plan.rows[i];
    const int64_t pages = int64_t(s.pages.size()), from = sent(i);
    if (together)
      std::copy(s.pages.begin(), s.pages.end(), host_.begin() + std::ptrdiff_t(i) * width);
    else if (from != pages)
      exec_.backend().copy_from_host(table_.data<int32_t>() + int64_t(i) * width + from, s.pages.data() + from,
                                     size_t(pages - from) * sizeof(int32_t));
    rows_[i] = {s.admission, pages};
  }
  if (together) upload(table_.slice(0, rows));
}

/// Draws a token per row of logits[N,V].
void Runner::draw(const Tensor& logits, const Tensor& counters) {
  const int64_t n = logits.size(0);
  Tensor tokens(results_, 0, {n}, Dtype::kI32);
  Tensor logprobs(results_, size_t(n) * sizeof(int32_t), {n}, Dtype::kF32);
  MANTISSA_RUN(exec_, sample, tokens, logprobs, logits, counters, key_, rule_);
}

/// Appends the first `rows` of the `drawn` tokens to the results.
void Runner::fetch(int64_t drawn, int64_t rows) {
  host_.resize(size_t(2 * drawn));
  exec_.backend().copy_to_host(host_.data(), results_->data, size_t(2 * drawn) * sizeof(int32_t));
  tokens_.insert(tokens_.end(), host_.begin(), host_.begin() + rows);
  const size_t filled = logprobs_.size();
  logprobs_.resize(filled + size_t(rows));
  std::memcpy(logprobs_.data() + filled, host_.data() + drawn, size_t(rows) * sizeof(float));
}

/// Those of the first `tokens` of chosen[L,B,K], token by token.
void Runner::fetch_routes(const Tensor& chosen, int64_t tokens) {
  const int64_t computed = chosen.size(1), slots = chosen.size(2);
  host_.resize(size_t(chosen.numel()));
  exec_.backend().copy_to_host(host_.data(), chosen.raw(), chosen.bytes());
  routes_.resize(size_t(tokens * layers_ * slots));
  uint8_t* out = routes_.data();
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t layer = 0; layer < layers_; ++layer) {
      const int32_t* row = host_.data() + (layer * computed + t) * slots;
      out = std::copy(row, row + slots, out);
    }
}

}  // namespace mantissa
