#include "rl/train/trainer.h"

#include <cstdlib>
#include <limits>
#include <optional>
#include <sstream>

#include "autograd/nonfinite.h"
#include "rl/train/expert_load.h"

namespace mantissa {
namespace {

constexpr uint64_t kDropoutSeed = 0xd509;  // apart from the seed of rollouts

/// Makes the first weight of a parameter infinite while it lives.
class Poison {
 public:
  Poison(Exec& exec, Model& model, const std::string& parameter) : exec_(exec) {
    const ParamLayout& layout = model.params.layout;
    const ParamInfo& info = layout[layout.find(parameter)];
    const ParamBuffer& weights = model.params.compute;
    const ParamLayout::Extent here = layout.part(info.unit, weights.shard());
    if (info.first_row > 0 || info.offset < here.begin || info.offset >= here.end) return;  // another rank has it
    weight_ = weights.unit(info.unit).slice(info.offset - here.begin, info.offset - here.begin + 1);
    saved_ = exec_.empty({1}, weight_.dtype());
    exec_.backend().copy(saved_.raw(), weight_.raw(), weight_.bytes());
    MANTISSA_RUN(exec_, fill, weight_, std::numeric_limits<double>::infinity());
  }
  ~Poison() {
    if (weight_.defined()) exec_.backend().copy(weight_.raw(), saved_.raw(), weight_.bytes());
  }
  Poison(const Poison&) = delete;
  Poison& operator=(const Poison&) = delete;

 private:
  Exec& exec_;
  Tensor weight_, saved_;
};

}  // namespace

Trainer::Trainer(Exec& exec, Comm& comm, Model& model, Optimizer& optimizer, const TrainerOptions& options)
    : exec_(exec), comm_(comm), model_(model), optimizer_(optimizer), options_(options) {
  if (!model.params.in_parts()) return;
  windows_ = std::make_unique<ParamWindows>(exec, comm, model.params);
  if (model.reference.compute.defined())
    reference_windows_ = std::make_unique<ParamWindows>(exec, comm, model.reference);
}

/// The micro-batches on the device, sent by the first pass over them.
std::vector<DeviceBatch>& Trainer::send(MiniBatch& mini) {
  const int64_t chunk = ops::head_chunk(exec_.backend(), model_.config.vocab_size, options_.logprobs.head_chunk);
  if (mini.device.empty())
    for (const TrainBatch& batch : mini.micro) {
      mini.device.emplace_back(exec_.backend(), batch, chunk);
      mini.device.back().add_routes(exec_.backend(), batch, model_.config);
      if (options_.dropout > 0) mini.device.back().add_token_keys(exec_.backend(), batch);
    }
  return mini.device;
}

/// Of a forward by the trained model. `measured`: it is the one behind old log-probs, whose routes are compared with
/// the rollout's.
LogprobOptions Trainer::options_for(DeviceBatch& batch, bool measured) {
  LogprobOptions options = options_.logprobs;
  options.windows = windows_.get();
  if (!batch.routes.defined()) return options;
  options.replay_routes = options_.replay_routes;
  if (measured) {
    batch.same_routes = exec_.empty({batch.routes.size(0), batch.routes.size(1)}, Dtype::kI32);
    options.same_routes = batch.same_routes;
  }
  return options;
}

/// Calls `micro_batch` with the number of each, all of them sent. Where the weights it reads are in parts, or experts
/// are shared out, ranks need each other: one with fewer micro-batches joins those that have more. What was gathered
/// last is given back.
void Trainer::pass(MiniBatch& mini, const Pass& how, const std::function<void(size_t, const WholeFrom&)>& micro_batch) {
  const size_t own = send(mini).size(), rounds = together() ? size_t(mini.rounds) : own;
  LogprobOptions options = options_.logprobs;
  options.reference = how.reference;
  options.windows = windows(how.reference);
  for (size_t i = 0; i < rounds; ++i) {
    options.whole_from = i + 1 == rounds ? how.whole_from : WholeFrom();
    if (i < own) {
      micro_batch(i, options.whole_from);
      continue;
    }
    Tape tape(exec_, how.backward, options_.recompute);
    mantissa::join_logprobs(tape, model_, options, how.backward ? &model_.trained().grad : nullptr);
  }
  if (options.windows) options.windows->clear();
}

void Trainer::fill(MiniBatch& mini, bool reference, Tensor DeviceBatch::*on_device,
                   std::vector<float> TrainBatch::*on_host) {
  pass(mini, {.reference = reference}, [&](size_t i, const WholeFrom&) {
    Tape tape(exec_, false);
    LogprobOptions options = reference ? options_.logprobs : options_for(mini.device[i], true);
    options.reference = reference;
    options.windows = windows(reference);
    mini.device[i].*on_device = batch_logprobs(tape, model_, mini.device[i], options).logprobs.value();
  });
  read_back(mini, on_device, on_host);
}

/// Once all are on their way: a wait in between would idle the device.
void Trainer::read_back(MiniBatch& mini, Tensor DeviceBatch::*on_device, std::vector<float> TrainBatch::*on_host) {
  for (size_t i = 0; i < mini.micro.size(); ++i) mini.micro[i].*on_host = to_host<float>(mini.device[i].*on_device);
}

void Trainer::fill_old_logprobs(MiniBatch& mini) {
  fill(mini, false, &DeviceBatch::old_logprobs, &TrainBatch::old_logprobs);
}

Tensor Trainer::logprobs(MiniBatch& mini, size_t micro) {
  Tape tape(exec_, false);
  DeviceBatch& batch = send(mini)[micro];
  Tensor values = batch_logprobs(tape, model_, batch, options_for(batch, true)).logprobs.value();
  if (windows_) windows_->clear();
  return values;
}

void Trainer::join_logprobs() {
  if (!together()) return;
  LogprobOptions options = options_.logprobs;
  options.windows = windows_.get();
  Tape tape(exec_, false);
  mantissa::join_logprobs(tape, model_, options);
  if (windows_) windows_->clear();
}

void Trainer::fill_reference_logprobs(MiniBatch& mini) {
  check(model_.adapter || model_.reference.compute.defined(), "[trainer] there are no reference weights to score with");
  fill(mini, true, &DeviceBatch::reference_logprobs, &TrainBatch::reference_logprobs);
}

std::vector<LossOut> Trainer::run_micro_batch(Tape& tape, const MiniBatch& mini, DeviceBatch& batch, const Loss& loss,
                                              OldLogprobs old, const WholeFrom& whole_from) {
  LogprobOptions options = options_for(batch, old == OldLogprobs::kOwnForward);
  options.whole_from = whole_from;
  options.expert_offsets = &expert_offsets_;
  if (options_.dropout > 0) options.dropout = {options_.dropout, batch.token_keys, dropout_key_};
  if (old == OldLogprobs::kOwnForward) batch.old_logprobs = exec_.empty(batch.targets.shape(), Dtype::kF32);
  std::vector<LossOut> outs;
  batch_backward(tape, model_, batch, options, model_.trained().grad, optimizer_.state(),
                 [&](Tape& pass, const HeadPiece& piece, const ops::TokenLogprobs& scored) {
                   LossInputs in = batch.loss_inputs(piece);
                   in.logprobs = scored.logprobs;
                   in.entropy = scored.entropy;
                   in.sequences = double(mini.sequences);
                   in.tokens = double(mini.tokens);
                   in.forwarded = double(mini.forwarded);
                   if (old == OldLogprobs::kOwnForward)
                     exec_.backend().copy(in.old_logprobs.raw(), scored.logprobs.value().raw(),
                                          in.old_logprobs.bytes());
                   return outs.emplace_back(loss(pass, in)).loss;
                 });
  return outs;
}

UpdateReport Trainer::update(MiniBatch& mini, const Loss& loss, OldLogprobs old,
                             const std::function<void(const MiniBatch&)>& before_step) {
  std::optional<Poison> poison;
  if (!inject_.empty()) poison.emplace(exec_, model_, inject_);
  inject_.clear();

  UpdateReport report;
  report.empty = mini.tokens == 0;
  if (report.empty) {
    if (old == OldLogprobs::kOwnForward) fill_old_logprobs(mini);
    return report;
  }
  std::vector<LossOut> outs;
  std::vector<std::vector<Tensor>> expert_offsets;  // of each micro-batch; read when nothing waits for them
  LossStats stats;
  if (options_.dropout > 0) {
    const StepState now = optimizer_.read_state();
    dropout_key_ = key_tensor(
        exec_.backend(), {mix64(options_.seed ^ kDropoutSeed), uint64_t(now.adam_step) + uint64_t(now.skips_total)});
  }
  optimizer_.renew_grad();
  const auto sum = [this](int unit) { optimizer_.begin_sum(unit); };
  const Pass backward{.backward = true, .whole_from = options_.overlap ? sum : WholeFrom()};
  pass(mini, backward, [&](size_t i, const WholeFrom& whole_from) {
    Tape tape(exec_, true, options_.recompute);
    for (LossOut& out : run_micro_batch(tape, mini, mini.device[i], loss, old, whole_from))
      outs.push_back(std::move(out));
    expert_offsets.push_back(std::move(expert_offsets_));
  });
  optimizer_.begin_sum(0);  // before anything else that ranks do together: one without a micro-batch begins here
  if (before_step) before_step(mini);
  report.step = optimizer_.step();
  if (old == OldLogprobs::kOwnForward && !before_step)
    read_back(mini, &DeviceBatch::old_logprobs, &TrainBatch::old_logprobs);
  for (const std::vector<Tensor>& offsets : expert_offsets) add_expert_rows(stats.parts(), offsets);
  for (const LossOut& out : outs) {
    report.loss += to_host_float(out.loss.value())[0];
    stats.add(out);
  }
  sum_over_ranks(report, stats);
  if (!report.step.skipped) return report;
  report.overflow = first_of_ranks(find_overflow(mini, loss, old, report.step.loss_scale));
  if (old == OldLogprobs::kOwnForward) {  // a forward that overflowed says nothing, and the weights have not moved
    poison.reset();
    fill_old_logprobs(mini);
  }
  return report;
}

/// A rank without a micro-batch has no parts: names travel with their values.
void Trainer::sum_over_ranks(UpdateReport& report, LossStats& stats) {
  if (comm_.size() > 1) {
    report.loss = comm_.reduce({report.loss})[0];
    std::string own;
    for (const auto& [name, value] : stats.parts()) own += str(name, ' ', std::hexfloat, value, '\n');
    stats.parts().clear();
    for (const std::string& theirs : comm_.gather(own)) {
      std::istringstream lines(theirs);
      std::string name, value;
      while (lines >> name >> value) stats.parts()[name] += std::strtod(value.c_str(), nullptr);
    }
  }
  const std::map<std::string, double> load = take_expert_load(stats.parts());
  report.stats = stats.metrics();
  report.stats.insert(load.begin(), load.end());
}

std::string Trainer::first_of_ranks(const std::string& found) {
  for (const std::string& text : comm_.gather(found))
    if (!text.empty()) return text;
  return {};
}

std::string Trainer::find_overflow(MiniBatch& mini, const Loss& loss, OldLogprobs old, double loss_scale) {
  const StepState now = optimizer_.read_state();
  StepState then = now;
  then.loss_scale = float(loss_scale);
  optimizer_.write_state(then);
  optimizer_.renew_grad();
  NonFiniteReport found;
  pass(mini, {.backward = true}, [&](size_t i, const WholeFrom&) {
    if (found.found && !together()) return;  // else others need this rank to the end
    Tape tape(exec_, true, options_.recompute);
    if (!found.found) tape.set_observer(find_first_nonfinite(exec_, found));
    run_micro_batch(tape, mini, mini.device[i], loss, old);
  });
  optimizer_.write_state(now);
  return found.text();
}

void Trainer::inject_overflow(const std::string& parameter) {
  model_.params.layout.find(parameter);  // throws when there is none
  inject_ = parameter;
}

}  // namespace mantissa
