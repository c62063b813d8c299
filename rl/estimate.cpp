#include "rl/estimate.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "core/registry.h"
#include "core/rehearsal.h"
#include "rl/logging/log.h"
#include "rl/rollout_weights.h"
#include "rl/run.h"

namespace mantissa {
namespace {

constexpr int64_t kPackedTokens = 1 << 21;  // looked through for the largest micro-batch

int64_t length(const TrainSequence& s) {
  return int64_t(s.prompt->ids.size() + s.completion->ids.size());
}

size_t bytes_of(std::initializer_list<const ParamBuffer*> buffers) {
  size_t bytes = 0;
  for (const ParamBuffer* buffer : buffers)
    if (buffer->defined()) bytes += buffer->flat().bytes();
  return bytes;
}

class Rehearsed {
 public:
  Rehearsed(const RunConfig& config, const EstimateOptions& options, Rehearsal& device)
      : comm_(make_agreeing_comm(options.ranks, "a rehearsal")),
        device_(device),
        run_(config, {.rehearsal = &device}, *comm_),
        response_length_(options.response_length > 0 ? options.response_length
                                                     : config.rollout.sampling.max_new_tokens) {}

  MemoryEstimate measure();

 private:
  size_t in_use() const { return device_.memory().in_use; }
  /// Masters and moments lie in other memory than the device's.
  bool state_on_host() const { return run_.model->trained().placement == Placement::kHost && device_.name() != "cpu"; }
  void list_held(std::vector<MemoryPart>& parts) const;
  size_t sample(std::span<const Prompt* const> prompts, int64_t n);
  void sample_everything();
  std::vector<TrainSequence> draw(std::vector<Completion>& responses);
  MiniBatch largest_mini_batch();
  size_t update(MiniBatch& mini, int64_t head_chunk, Recompute tier);
  void update_under(Recompute tier, MiniBatch& mini, MemoryEstimate& e);

  std::unique_ptr<Comm> comm_;
  Rehearsal& device_;
  Run run_;
  const int64_t response_length_;
  std::vector<const Prompt*> longest_;  // a step's prompts, those whose responses need most
  size_t cache_ = 0, sampling_ = 0;     // pages; most beside what is held
  size_t held_ = 0, updating_ = 0;      // when nothing is under way; the most in an update
};

void Rehearsed::list_held(std::vector<MemoryPart>& parts) const {
  const Model& m = *run_.model;
  const ParamSet& trained = m.trained();
  const bool on_host = state_on_host();
  const auto add = [&](const std::string& name, size_t bytes) {
    if (bytes > 0) parts.push_back({name, bytes});
  };
  add("weights, " + std::string(name_of(m.params.compute.dtype())), bytes_of({&m.params.compute}));
  if (m.params.rollout.defined())
    add("weights of rollouts, " + std::string(name_of(m.params.rollout.dtype())), bytes_of({&m.params.rollout}));
  add("reference of the KL term", bytes_of({&m.reference.compute}));
  if (m.adapter) add("adapter", bytes_of({&trained.compute, &trained.rollout}));
  if (!on_host && !trained.masters_itself()) add("masters, fp32", bytes_of({&trained.master}));
  if (!on_host) add("moments, fp32", bytes_of({&trained.m, &trained.v}));
  add("gradients, fp32", bytes_of({trained.in_parts() ? &trained.reduced : &trained.grad}));
}

/// A rollout of full length, which no stop token ends. Returns the most that was in use.
size_t Rehearsed::sample(std::span<const Prompt* const> prompts, int64_t n) {
  std::vector<RolloutGroup> groups;
  for (const Prompt* prompt : prompts) groups.push_back({*prompt, {}});
  device_.reset_peak();
  const RolloutWeights weights(run_);
  sample_own(*run_.engine, groups, int(n),
             {.sampling = run_.config.rollout.sampling, .stop = {}, .keys = {}, .cancelled = {}}, *comm_);
  return device_.memory().peak;
}

/// Evaluations and the rollout: the cache keeps the size of the largest.
void Rehearsed::sample_everything() {
  const size_t before = in_use();
  size_t peak = 0;
  const RunConfig& config = run_.config;
  if (config.eval.before_training || config.eval.every > 0)
    for (const EvalSet& set : run_.eval_sets) {
      std::vector<const Prompt*> prompts;
      for (const Prompt& p : set.prompts) prompts.push_back(&p);
      peak = std::max(peak, sample(prompts, config.eval.n));
    }
  if (!run_.sft()) peak = std::max(peak, sample(longest_, config.rollout.n));
  if (peak == 0) return;
  run_.optimizer->zero_grad();  // takes the memory that rollouts of weights in parts were lent
  cache_ = in_use() - std::min(in_use(), before);
  sampling_ = peak - std::min(peak, in_use());
}

/// Sequences of a step in the order in which the run draws its data, responses held by `responses`.
std::vector<TrainSequence> Rehearsed::draw(std::vector<Completion>& responses) {
  const RunConfig& config = run_.config;
  const int64_t positions = run_.model->config.max_positions, copies = run_.sft() ? 1 : config.rollout.n;
  std::vector<TrainSequence> sequences;
  responses.clear();
  responses.reserve(size_t(config.train.prompts_per_step));
  for (const int64_t index : run_.cursor->next(config.train.prompts_per_step)) {
    const Prompt& prompt = run_.prompts[size_t(index)];
    Completion& response = responses.emplace_back();
    response.ids = prompt.solution_ids;
    if (!run_.sft()) response.ids.resize(size_t(std::min(response_length_, positions - int64_t(prompt.ids.size()))));
    response.rollout_logprobs.resize(response.ids.size());
    for (int64_t s = 0; s < copies; ++s)
      sequences.push_back({.prompt = &prompt, .completion = &response, .sample = int32_t(s), .advantage = 1});
  }
  return sequences;
}

/// Of the first steps' mini-batches the one with the largest micro-batch. In a rollout lengths will differ, so that one
/// micro-batch of several is taken to be full.
MiniBatch Rehearsed::largest_mini_batch() {
  const TrainConfig& train = run_.config.train;
  MiniBatch largest;
  int64_t most = -1, longest = -1, seen = 0;
  for (run_.step = 0; run_.step < std::max<int64_t>(train.steps, 1) && seen < kPackedTokens; ++run_.step) {
    std::vector<Completion> responses;
    std::vector<TrainSequence> sequences = draw(responses);
    int64_t tokens = 0;
    for (const TrainSequence& s : sequences) tokens += length(s);
    seen += tokens;
    if (tokens > longest) {
      longest = tokens;
      longest_.clear();
      for (const TrainSequence& s : sequences)
        if (s.sample == 0) longest_.push_back(s.prompt);
    }
    std::vector<MiniBatch> batches;
    if (run_.sft()) {
      batches = run_.pack(std::move(sequences), Packed::kAll);
    } else {
      sequences.resize(size_t((train.mini_batch_size + comm_->size() - 1) / comm_->size()));
      int64_t packed = 0;
      const auto end = std::find_if(sequences.begin(), sequences.end(), [&](const TrainSequence& s) {
        return (packed += length(s)) > train.micro_batch_tokens;
      });
      sequences.erase(std::max(end, sequences.begin() + 1), sequences.end());
      batches = make_mini_batches(sequences, train.mini_batch_size, train.micro_batch_tokens);
    }
    for (MiniBatch& mini : batches)
      for (const TrainBatch& micro : mini.micro)
        if (int64_t(micro.ids.size()) > most) most = int64_t(micro.ids.size()), largest = mini;
  }
  return largest;
}

/// One update; returns the most that was in use.
size_t Rehearsed::update(MiniBatch& mini, int64_t head_chunk, Recompute tier) {
  mini.device.clear();
  TrainerOptions options = run_.trainer->options();
  options.logprobs.head_chunk = head_chunk;
  options.recompute = tier;
  run_.trainer.emplace(run_.exec, *comm_, *run_.model, *run_.optimizer, options);
  device_.reset_peak();
  if (!run_.sft() && run_.config.algorithm.kl_coef > 0) run_.trainer->fill_reference_logprobs(mini);
  run_.trainer->update(mini, run_.loss(), run_.sft() ? OldLogprobs::kScored : OldLogprobs::kOwnForward);
  mini.device.clear();
  return device_.memory().peak;
}

void Rehearsed::update_under(Recompute tier, MiniBatch& mini, MemoryEstimate& e) {
  const size_t without = update(mini, 1, tier), scratch = run_.exec.scratch() ? run_.exec.scratch()->bytes : 0;
  updating_ = update(mini, run_.config.train.head_chunk, tier);
  const size_t logits = updating_ - std::min(updating_, without), added = updating_ - held_;
  e.update = {{"activations and their gradients", added - std::min(added, logits + scratch)},
              {"logits of the head", logits},
              {"workspaces", scratch}};
}

MemoryEstimate Rehearsed::measure() {
  MemoryEstimate e;
  e.device = device_.name();
  e.ranks = comm_->size();
  e.capacity = device_.memory().capacity;
  list_held(e.held);
  MiniBatch mini = largest_mini_batch();
  sample_everything();
  const size_t graphs = device_.graph_bytes();
  const bool in_parts = run_.model->params.in_parts();  // then rollouts give all of it back
  if (cache_ > graphs && !in_parts) e.held.push_back({"KV cache and its tables", cache_ - graphs});
  if (graphs > 0) e.held.push_back({"recorded graphs", graphs});
  held_ = in_use();
  size_t listed = 0;
  for (const MemoryPart& part : e.held) listed += part.bytes;
  e.held.push_back({"tables and padding", held_ - std::min(held_, listed)});
  if (sampling_ > 0 || run_.gathers_by_unit)  // in the place of gradients a rollout may need nothing more
    e.rollout.push_back({!in_parts               ? "activations, logits, workspaces"
                         : *run_.gathers_by_unit ? "weights of two layers, KV cache, activations; no gradients"
                                                 : "all weights, KV cache, activations; no gradients",
                         sampling_});

  const RunConfig& config = run_.config;
  if (config.train.chooses_recompute()) {
    for (const RecomputeTier& t : kRecomputeTiers) {
      update_under(t.tier, mini, e);
      e.tiers.push_back({t.name, updating_});
      if (updating_ <= e.usable()) break;
    }
  } else {
    update_under(config.train.recompute_tier(), mini, e);
  }

  const ParamSet& trained = run_.model->trained();
  const bool saved = config.checkpoint.every > 0 && config.checkpoint.every < config.train.steps;
  if (e.device == "cpu" && config.checkpoint.background && saved && trained.placement == Placement::kDevice)
    e.checkpoint.push_back(
        {"copy that is written in the background", 3 * device_.block_bytes(trained.master.flat().bytes())});
  if (state_on_host())
    e.host = {{"masters, fp32", bytes_of({&trained.master})}, {"moments, fp32", bytes_of({&trained.m, &trained.v})}};
  e.peak = held_;
  for (const std::vector<MemoryPart>* phase : {&e.rollout, &e.update, &e.checkpoint}) {
    size_t bytes = held_;
    for (const MemoryPart& part : *phase) bytes += part.bytes;
    e.peak = std::max(e.peak, bytes);
  }
  return e;
}

}  // namespace

size_t capacity_of(const Backend& device, int ranks) {
  return device.memory().capacity / (device.name() == "cpu" ? size_t(ranks) : 1);
}

MemoryEstimate estimate_memory(const RunConfig& config, const EstimateOptions& options) {
  constexpr size_t kUsualGpu = 80'000'000'000;
  const Backend* like = options.like;
  const size_t known = like ? capacity_of(*like, options.ranks) : kUsualGpu;
  const size_t capacity = options.capacity > 0 ? options.capacity : known;
  Rehearsal device(like ? like->name() : "cuda", capacity);
  return Rehearsed(config, options, device).measure();
}

Recompute choose_recompute(const RunConfig& config, const Backend& device, size_t capacity, Comm& comm) {
  const double smallest = -comm.reduce({-double(capacity)}, Reduce::kMax)[0];
  MemoryEstimate e;
  if (comm.main()) {
    const LogPause pause;  // opening the run has said it
    e = estimate_memory(config, {.ranks = comm.size(), .like = &device, .capacity = size_t(smallest)});
  }
  if (comm.main()) log_info(e.choice());
  TrainConfig taken;
  taken.recompute = comm.broadcast(comm.main() ? e.tiers.back().tier : "");
  return taken.recompute_tier();
}

std::string MemoryEstimate::choice() const {
  if (tiers.empty()) return {};
  std::ostringstream out;
  const auto gb = [&](size_t bytes) -> std::ostream& {
    return out << std::setprecision(bytes < 100'000'000 ? 5 : 1) << double(bytes) * 1e-9;
  };
  const TierPeak& taken = tiers.back();
  out << std::fixed << "train.recompute: auto takes " << taken.tier << ": an update needs ";
  gb(taken.bytes) << " GB by the estimate";
  for (size_t i = 0; i + 1 < tiers.size(); ++i) {
    out << (i ? ", " : " (") << tiers[i].tier << ' ';
    gb(tiers[i].bytes);
  }
  out << (tiers.size() > 1 ? ") and may take " : " and may take ");
  gb(usable()) << ", nine tenths of ";
  gb(capacity) << " GB" << (taken.bytes > usable() ? ": no tier fits" : "");
  return out.str();
}

std::string MemoryEstimate::text() const {
  std::ostringstream out;
  out << std::fixed;
  const auto line = [&](const std::string& name, size_t bytes) {
    const double gb = double(bytes) * 1e-9;
    out << "  " << std::left << std::setw(44) << name << std::right << std::setw(10)
        << std::setprecision(gb < 0.01 ? 5 : 3) << gb << '\n';
  };
  const MemoryPart* largest = nullptr;
  const auto list = [&](const std::string& title, const std::vector<MemoryPart>& parts) {
    if (parts.empty()) return;
    out << title << '\n';
    for (const MemoryPart& part : parts) {
      line(part.name, part.bytes);
      if (!largest || part.bytes > largest->bytes) largest = &part;
    }
  };
  out << "GB (10^9 bytes) on " << device;
  if (ranks > 1) out << ", each of " << ranks << " processes";
  out << '\n';
  list("held from the first step to the end", held);
  list("added in a rollout", rollout);
  list("added in an update", update);
  list("added while a checkpoint is written", checkpoint);
  line("peak (perf/max_memory_allocated_gb)", peak);
  list("in host memory", host);
  if (largest) out << "largest: " << largest->name << '\n';
  out << "of " << std::setprecision(1) << double(capacity) * 1e-9 << " GB" << (peak > capacity ? ": does not fit" : "")
      << '\n';
  if (!tiers.empty()) out << choice() << '\n';
  return out.str();
}

}  // namespace mantissa
