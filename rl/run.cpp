#include "rl/run.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "core/hash.h"
#include "core/registry.h"
#include "core/rehearsal.h"
#include "core/text.h"
#include "nn/formats/peft.h"
#include "nn/sharding.h"
#include "rl/algorithm/policy_loss.h"
#include "rl/data/prompt_template.h"
#include "rl/evaluate.h"
#include "rl/logging/log.h"
#include "rl/reward/python.h"
#include "rl/text/model_tokenizer.h"
#include "rl/text/stop.h"

namespace mantissa {
namespace fs = std::filesystem;

namespace {

/// Purpose of a random stream that derives from the run's seed; sampling keys use (seed, step).
constexpr uint64_t kShuffleStream = 0x51;
constexpr const char* kRewardLog = "reward.log";
constexpr const char* kFailedCounter = "failed_rollouts ";  // before a reward's name, of a checkpoint's counters
constexpr const char* kBaseFile = "base.bin";               // of a checkpoint: the flat buffer as it lies in memory

/// The config with the place of what a user's verifier says on standard error, where this process writes the run's
/// files.
RunConfig placed(RunConfig config, bool writes) {
  if (writes) config.reward.set_log_file((fs::path(config.output_dir()) / kRewardLog).string());
  return config;
}

void tell_phase(Comm& comm, const std::string& phase) {
  comm.activity().phase(phase);
  if (std::getenv("MANTISSA_PHASES")) log_info("phase: " + phase);
}

}  // namespace

Run::Run(const RunConfig& run_config, const StartOptions& start, Comm& ranks)
    : comm(ranks),
      config(placed(run_config, ranks.main())),
      exec(start.rehearsal ? *start.rehearsal : find_backend(config.run.device)),
      checkpoints(config.checkpoint.background) {
  check_same_config();
  check(comm.size() % config.distributed.experts == 0, "distributed.experts: must divide the number of ranks, ",
        comm.size(), ", got ", config.distributed.experts);
  comm.split(int(config.distributed.experts));
  if (comm.main() && !start.rehearsal) directory = std::make_unique<RunDirectory>(config, start);
  exec.deterministic = config.train.deterministic;
  if (!start.rehearsal) start_workers();
  open_model();
  load_data();
  describe_model();
  if (!start.rehearsal) check_same_inputs();
  open_training();
  if (!start.rehearsal) check_best();
  begin_or_resume();
}

/// Those of Python rewards, before anything else takes time.
void Run::start_workers() const {
  std::error_code ignored;
  if (!config.samples()) return;
  if (directory && !directory->checkpoint() && file_exists(directory->path() / "config.yaml"))
    fs::remove(directory->path() / kRewardLog, ignored);  // of an earlier run
  config.reward.each([](const RewardConfig& reward) {
    if (reward.kind == "python") start_python_workers(reward);
  });
}

/// The first rank's directory says what the run goes on from; all read it.
void Run::begin_or_resume() {
  std::string from;
  if (directory && directory->checkpoint()) from = fs::absolute(*directory->checkpoint()).string();
  from = comm.broadcast(from);
  if (from.empty()) {
    if (directory) directory->begin(about());
    return;
  }
  const CheckpointState state = load(from);
  const bool own = directory && directory->resume(state, about());
  if (comm.broadcast(own ? "own" : "") == "own") saved_step = step;
  if (own && best_step_ < 0)  // of another checkpoint.best, or of none now
    if (const fs::path kept = keep_best(directory->checkpoints()); !kept.empty())
      log_info(str("the checkpoint that an earlier checkpoint.best has chosen stays as ", kept.string()));
  log_info(str("resumed from ", from, " after step ", step));
}

void Run::enter(const char* phase) const {
  tell_phase(comm, str(phase, " of step ", step + 1));
}

void Run::enter_between(const char* phase) const {
  tell_phase(comm, str(phase, " after step ", step));
}

void Run::open_model() {
  const bool frozen = config.lora.active();
  const Dtype dtype = config.precision.train_dtype();
  const int experts = comm.row().size();
  model = frozen ? load_model(config.model.path, exec.backend(), dtype, false, frozen_shard())
                 : load_model(config.model.path, exec.backend(), dtype, true, {comm.rank(), comm.size(), experts},
                              config.distributed.placement(), config.distributed.sharding());
  model->decoder->share_experts(comm.row());
  if (frozen) open_adapter();
  for (const std::string& notice : model->notices) log_info(notice);
  tokenizer = open_tokenizer(*model);
  stop_ids = mantissa::stop_ids(model->config, *tokenizer);
  check(!stop_ids.empty(), config.model.path, ": neither config.json nor the tokenizer names an end-of-sequence id");
  const std::string& poisoned = config.train.inject_overflow_parameter;
  check(config.train.inject_overflow_step <= 0 ||
            std::ranges::count(model->params.layout.params(), poisoned, &ParamInfo::name) > 0,
        "train.inject_overflow_parameter: the model has no parameter \"", poisoned, "\"");
}

/// What a rank has of weights that nobody trains: its experts, and all else.
Shard Run::frozen_shard() const {
  const int experts = comm.row().size();
  return {comm.row().rank(), experts, experts};
}

/// The model stays as it is; what is trained is the adapter. Rollouts of another type read the model in that type, from
/// the file's own values.
void Run::open_adapter() {
  const LoraConfig& lora = config.lora;
  const Dtype rollout = config.precision.rollout_dtype();
  if (!sft() && !lora.merged() && rollout != config.precision.train_dtype())
    model->params.rollout =
        std::move(load_model(config.model.path, exec.backend(), rollout, false, frozen_shard())->params.compute);
  const Shard shard{comm.rank(), comm.size()};
  if (lora.from_directory()) {
    try {
      load_adapter(*model, lora.init, true, shard, config.distributed.placement());
    } catch (const Error& e) {
      fail("lora.init: ", e.what());
    }
    lora.check_agrees(model->adapter->config);
  } else {
    add_adapter(*model, lora.adapter(), true, shard, config.distributed.placement());
    draw_adapter(*model, lora.init, uint64_t(config.run.seed));
  }
  model->adapter->merged = !sft() && lora.merged();
  log_info(str("adapter of ", model->adapter->config.text(), lora.from_directory() ? ", from " + lora.init : "", ": ",
               model->adapter->trained(), " parameters are trained, ", model->params.layout.whole().parameters(),
               " stay as they are",
               config.algorithm.kl_coef > 0 && !sft() ? "; the KL reference is the model without an adapter" : ""));
}

std::vector<MiniBatch> Run::pack(std::vector<TrainSequence> sequences, Packed packed) const {
  RandomStream random(uint64_t(config.run.seed), mix64(kShuffleStream) ^ uint64_t(step));
  shuffle(sequences, random);
  return make_mini_batches(sequences, config.train.mini_batch_size, config.train.micro_batch_tokens,
                           {comm.rank(), comm.size()}, packed);
}

Trainer::Loss Run::loss() const {
  if (sft()) return sft_loss;
  const int64_t own = config.algorithm.loss_norm_constant;
  const double norm = double(own ? own : config.rollout.sampling.max_new_tokens);
  return [this, norm](Tape& tape, LossInputs in) {
    in.norm_constant = norm;
    return policy_loss(tape, in, config.algorithm);
  };
}

StopRule Run::stop_rule() const {
  const SamplingConfig& sampling = config.rollout.sampling;
  return StopRule(stop_ids, *tokenizer, sampling.stop, sampling.keep_stop);
}

void Run::load_data() {
  if (const std::string notice = config.reward.notice(); config.samples() && !notice.empty()) log_warning(notice);
  note_unknown_markers(config.data, model->tokenizer, *tokenizer);
  const int64_t positions = model->config.max_positions;
  std::set<std::string> sources;
  const auto read = [&](const DataConfig& data, const std::string& what, bool solutions) {
    PromptSet set = make_prompts(data, *tokenizer, model->tokenizer, positions, solutions, [&](const Record& record) {
      if (solutions) return;
      sources.insert(record.data_source);
      config.reward.check_source(record.data_source, record.where);
      config.reward.check_gold(record.data_source, record.answer, record.where);
    });
    log_info(str(what, set.prompts.size(), " problems", set.skipped()));
    return std::move(set.prompts);
  };
  prompts = read(config.data, "", sft());
  if (sft()) {
    const int32_t end = response_end(config.data, model->tokenizer, *tokenizer, stop_ids);
    if (const int64_t left_out = encode_solutions(prompts, config.data, *tokenizer, end, positions))
      log_info(str(left_out, " skipped: prompt and response exceed the model's ", positions, " positions"));
  }
  const size_t longest = std::ranges::max(prompts, {}, [](const Prompt& p) { return p.ids.size(); }).ids.size();
  if (const int64_t most = config.rollout.sampling.max_new_tokens; !sft() && int64_t(longest) + most > positions)
    log_warning(str("rollout.max_new_tokens ", most, " and the longest prompt, ", longest,
                    " tokens, exceed the model's ", positions, " positions: responses to it end there"));
  data_hash_ = data_hash(prompts);
  check(int64_t(prompts.size()) >= config.train.prompts_per_step,
        "train.prompts_per_step: must not exceed the number of problems, ", prompts.size(), "; got ",
        config.train.prompts_per_step);
  cursor.emplace(int64_t(prompts.size()), uint64_t(config.run.seed), config.data.shuffle);
  for (size_t i = 0; const std::string& name : set_names(config.eval.files)) {
    DataConfig eval = config.data;
    eval.files = {config.eval.files[i++]};
    eval.files_key = "eval.files";
    eval.limit = config.eval.limit;
    eval_sets.push_back({name, read(eval, "evaluation on " + name + ": ", false)});
  }
  if (config.samples()) config.reward.note_sources(sources);
}

/// Optimizer, the copies of the weights, trainer and engine.
void Run::open_training() {
  const Dtype train_dtype = config.precision.train_dtype(), rollout_dtype = config.precision.rollout_dtype();
  optimizer.emplace(exec, model->trained(), config.optim, config.scaler, config.train.steps * config.planned_updates(),
                    comm);
  optimizer->before_change([this] { checkpoints.before_change(); });
  const bool second =
      model->adapter ? model->adapter->merged && config.lora.rollout == "merged" : rollout_dtype != train_dtype;
  if (!sft() && second && !model->params.in_parts())  // else RolloutWeights makes it
    model->params.rollout = ParamBuffer(exec, model->params.layout, rollout_dtype);
  refresh_copies(exec, model->trained(), comm);
  if (!model->adapter && model->params.rollout.defined())
    check_finite(*model, model->params.rollout, config.model.path);
  if (model->adapter) reference_hash_ = hash_weights(model->params.compute);
  const bool moves = !model->adapter || base_moves();  // the weights, in an update or a rollout
  if (!sft() && moves && (model->adapter || config.algorithm.kl_coef > 0)) keep_reference();
  if (!sft() || !eval_sets.empty())
    match = config.precision.resolve_match(exec.backend(), model->config, model->adapter.get());
  const bool could_differ = match != Match::kExact || config.exact.check == "all";  // or that is what is asked
  records_routes = !sft() && could_differ && mantissa::records_routes(model->config);
  trainer.emplace(exec, comm, *model, *optimizer,
                  TrainerOptions{.logprobs = {.temperature = sft() ? 1.0 : config.rollout.sampling.temperature,
                                              .lm_head = config.precision.head_dtype(train_dtype),
                                              .residual = config.precision.residual_dtype(train_dtype),
                                              .head_chunk = config.train.head_chunk},
                                 .recompute = config.train.recompute_tier(),
                                 .dropout = model->adapter ? config.lora.dropout : 0.0,
                                 .seed = uint64_t(config.run.seed),
                                 .replay_routes = config.moe.resolve(model->config, match, config.model.path),
                                 .overlap = config.distributed.overlap});
  if (!sft() || !eval_sets.empty()) open_engine();
  exec.match = match == Match::kExact ? Match::kExact : Match::kFast;
}

void Run::open_engine() {
  engine.emplace(*model, config.precision.match == "auto" ? under_auto(match, config.rollout) : config.rollout,
                 config.precision.engine(match), config.train.deterministic);
  const int64_t most = config.rollout.sampling.max_new_tokens;
  if (!sft()) engine->check_room(prompts, most);
  if (config.evaluates())
    for (const EvalSet& set : eval_sets) engine->check_room(set.prompts, most);
}

/// The weights a run begins with. A resumed run reads them again, and must find the same.
void Run::keep_reference() {
  ParamSet& reference = model->reference;
  reference.layout = model->params.layout;
  reference.shard = model->params.shard;
  const Tensor& now = model->params.compute.flat();
  reference.compute = ParamBuffer(exec, reference.layout, now.dtype(), model->params.compute.shard());
  exec.backend().copy(reference.compute.flat().raw(), now.raw(), now.bytes());
  reference_hash_ = hash_weights(reference.compute);
}

uint64_t Run::hash_weights(const ParamBuffer& weights) const {
  if (is_rehearsal(exec.backend())) return 1;
  ParamLayout one;  // of one process: the hash does not depend on how many there are
  const DecoderParams ids(model->config, one);
  constexpr int64_t kPiece = int64_t(1) << 23;  // elements in host memory at once
  Exec side(exec.backend());
  UnitGather gather(side, comm, model->params);
  Hash64 hash;
  std::vector<std::byte> bytes;
  for (int unit = 0; unit < one.units(); ++unit) {
    const Tensor values = gather(weights, unit);
    for (int64_t begin = 0; begin < one.size(unit) && values.defined(); begin += kPiece) {
      const Tensor piece = values.slice(begin, std::min(begin + kPiece, one.size(unit)));
      bytes.resize(piece.bytes());
      piece.backend().copy_to_host(bytes.data(), piece.raw(), piece.bytes());
      hash.add(bytes);
    }
  }
  const bool everywhere = weights.shard().whole() && comm.row().size() == 1;
  return everywhere ? hash.value() : std::stoull(comm.broadcast(std::to_string(hash.value())));
}

/// Rollouts of lora.rollout: merged_in_place change the weights beneath the adapter, so they are part of a checkpoint.
bool Run::base_moves() const {
  return model->adapter && model->adapter->merged && config.lora.rollout == "merged_in_place";
}

void Run::save_base(CheckpointState& state) const {
  if (!base_moves()) return;
  const Tensor& weights = model->params.compute.flat();
  std::string bytes(weights.bytes(), '\0');
  weights.backend().copy_to_host(bytes.data(), weights.raw(), weights.bytes());
  state.texts["base_hash"] = std::to_string(hash64(bytes));
  state.model_files[kBaseFile] = std::move(bytes);
}

void Run::load_base(const CheckpointState& state, const fs::path& checkpoint) {
  if (!base_moves()) return;
  const Tensor& weights = model->params.compute.flat();
  const std::string bytes = read_file(checkpoint / kBaseFile, weights.bytes());
  check(bytes.size() == weights.bytes() && state.texts.contains("base_hash") &&
            state.texts.at("base_hash") == std::to_string(hash64(bytes)),
        (checkpoint / kBaseFile).string(), ": is damaged: it does not hold the ", weights.bytes(),
        " bytes that were written");
  weights.backend().copy_from_host(weights.raw(), bytes.data(), bytes.size());
}

std::string Run::about() const {
  std::string text = str(" on ", exec.backend().description(), "\n# model: ", config.model.path, ", ",
                         model->config.architecture, ", ", model->params.layout.whole().parameters(), " parameters",
                         model->adapter ? str(", of an adapter ", model->adapter->trained()) : std::string(),
                         "\n# data: ", prompts.size(), " problems");
  for (const EvalSet& set : eval_sets) text += str("; evaluation on ", set.name, ", ", set.prompts.size());
  return text;
}

/// Weights, optimizer and counters of a checkpoint.
CheckpointState Run::load(const fs::path& checkpoint) {
  CheckpointState state = read_checkpoint_state(checkpoint);
  check_same_model(state, checkpoint);
  check(state.texts.contains("data_hash") && state.texts.at("data_hash") == std::to_string(data_hash_),
        checkpoint.string(), ": was made on other data than data.files holds now");
  const auto reference = state.texts.find("reference_hash");
  check(reference == state.texts.end() || reference->second == std::to_string(reference_hash_), checkpoint.string(),
        ": its ", model->adapter ? "frozen" : "reference", " model was another than model.path ", config.model.path,
        " holds now");
  if (!sft()) compare_match(state, checkpoint);
  load_checkpoint(checkpoint, exec, model->trained(), *optimizer);
  load_base(state, checkpoint);
  step = state.step;
  policy_version = counter_of(state, "policy_version", checkpoint);
  const auto finite = state.counters.find("finite_step");
  // A checkpoint of an earlier version has none: what its own weights give the next rollout tells.
  finite_step_ = finite == state.counters.end() ? step - 1 : finite->second;
  if (state.counters.contains("overflowed_rollouts")) overflowed_rollouts_ = state.counters.at("overflowed_rollouts");
  for (const auto& [name, rollouts] : state.counters)
    if (name.starts_with(kFailedCounter)) failed_rewards[name.substr(std::strlen(kFailedCounter))] = rollouts;
  if (const auto best = state.texts.find("best " + config.checkpoint.best);
      best != state.texts.end() && !counts_otherwise(state)) {
    best_ = std::stod(best->second);
    best_step_ = counter_of(state, "best_step", checkpoint);
  }
  cursor->seek(counter_of(state, "data_position", checkpoint));
  if (engine && state.counters.contains("cache_room"))  // else of an earlier version, which found it anew
    engine->set_kv_cache_limit(state.counters.at("cache_room"));
  if (const auto choices = state.texts.find("measured_choices"); choices != state.texts.end())
    exec.backend().restore_measured_choices(choices->second);
  return state;
}

void Run::save() {
  if (saved_step == step) return;
  enter_between("checkpoint");
  check_weights("checkpoint");
  saved_step = step;
  CheckpointState state;
  state.step = step;
  if (!directory) {  // the rank that has one says what stands beside the tensors
    checkpoints.save({}, state, model->trained(), *optimizer, {});
    return;
  }
  state.config = format_run_config(config);
  state.model_files = model->adapter
                          ? std::map<std::string, std::string>{{"adapter_config.json",
                                                                format_adapter_config(*model, config.lora.dropout)}}
                          : model_files(*model, Dtype::kF32);
  state.counters = {{"policy_version", policy_version},
                    {"data_position", cursor->position()},
                    {"finite_step", finite_step_},
                    {"overflowed_rollouts", overflowed_rollouts_},
                    {"cache_room", engine ? engine->kv_cache_limit() : 0}};
  for (const auto& [name, rollouts] : failed_rewards) state.counters[kFailedCounter + name] = rollouts;
  directory->record_lengths(state);
  state.texts = {{"data_hash", std::to_string(data_hash_)}};
  for (const auto& [file, text] : model_files_) state.texts[kModelText + file] = text;
  if (std::string choices = exec.backend().measured_choices(); !choices.empty())
    state.texts["measured_choices"] = std::move(choices);
  if (!sft()) state.texts["match"] = name_of(match);
  if (best_) {
    state.texts["best " + config.checkpoint.best] = shortest(*best_);
    state.counters["best_step"] = best_step_;
  }
  if (reference_hash_) state.texts["reference_hash"] = std::to_string(reference_hash_);
  save_base(state);
  checkpoints.save(directory->checkpoints(), state, model->trained(), *optimizer,
                   {.last = overflowed_rollouts_ > 0 ? 0 : config.checkpoint.keep, .best = best_step_});
}

void Run::finish_saving() {
  enter_between("checkpoint");
  checkpoints.finish();
  comm.barrier();
}

bool Run::note_best(const Metrics& metrics) {
  const double value = metrics.get(config.checkpoint.best);
  if (!std::isfinite(value) || (best_ && value <= *best_)) return false;
  best_ = value;
  best_step_ = step;
  return true;
}

void Run::log_step(const Metrics& metrics) {
  if (directory) directory->log_step(metrics);
}
void Run::log_evaluation(const Metrics& metrics) {
  if (directory) directory->log_evaluation(metrics);
}
void Run::log_sample(const std::string& json_line) {
  if (directory) directory->log_sample(json_line);
}

void Run::export_model() const {
  if (!config.checkpoint.export_model) return;
  enter_between("export");
  const fs::path to = !directory ? fs::path() : model->adapter ? directory->adapter() : directory->model();
  check_weights(model->adapter ? "adapter" : "model");
  std::error_code ignored;
  if (directory) {
    directory->check_replaceable();
    fs::remove_all(to, ignored);
  }
  if (model->adapter)
    save_adapter(*model, to, config.lora.dropout, comm);
  else
    save_hf(*model, to, config.precision.train_dtype(), comm);
  if (directory) log_info((model->adapter ? "adapter written to " : "model written to ") + to.string());
}

}  // namespace mantissa
