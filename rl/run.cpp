#include "rl/run.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "core/hash.h"
#include "rl/evaluate.h"
#include "rl/logging/log.h"
#include "rl/text/model_tokenizer.h"
#include "rl/text/stop.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

/// Throws where the config asks for what this version cannot do.
const RunConfig& runnable(const RunConfig& config) {
  const std::vector<std::string> missing = missing_features(config);
  check(missing.empty(), config.run.name, ": this version cannot run it: ", missing.empty() ? "" : missing[0]);
  return config;
}

}  // namespace

Run::Run(const RunConfig& run_config, const StartOptions& start, Comm& ranks)
    : comm(ranks), config(runnable(run_config)), exec(find_backend(config.run.device)) {
  check_same_config();
  if (comm.main()) directory = std::make_unique<RunDirectory>(config, start);
  exec.deterministic = config.train.deterministic;
  open_model();
  load_data();
  open_training();
  begin_or_resume();
}

void Run::check_same_config() const {
  const std::vector<std::string> configs = comm.gather(format_run_config(config));
  for (size_t r = 1; r < configs.size(); ++r)
    check(configs[r] == configs[0], "rank ", r, " was started with another config than rank 0");
}

/// The first rank's directory says what the run goes on from; all read it.
void Run::begin_or_resume() {
  std::string from;
  if (directory && directory->checkpoint()) from = directory->checkpoint()->string();
  from = comm.broadcast(from);
  if (from.empty()) {
    if (directory) directory->begin(about());
    return;
  }
  const CheckpointState state = load(from);
  const bool own = directory && directory->resume(state, about());
  if (comm.broadcast(own ? "own" : "") == "own") saved_step = step;
  log_info(str("resumed from ", from, " after step ", step));
}

void Run::enter(const char* phase) {
  comm.activity().phase(str(phase, " of step ", step + 1));
  if (std::getenv("MANTISSA_PHASES")) log_info(str("phase: ", phase, " of step ", step + 1));
}

void Run::open_model() {
  model = load_model(config.model.path, exec.backend(), config.precision.train_dtype(), true);
  for (const std::string& notice : model->notices) log_info(notice);
  tokenizer = open_tokenizer(*model);
  stop_ids = mantissa::stop_ids(model->config, *tokenizer);
  check(!stop_ids.empty(), config.model.path, ": neither config.json nor the tokenizer names an end-of-sequence id");
  const std::string& poisoned = config.train.inject_overflow_parameter;
  check(config.train.inject_overflow_step <= 0 ||
            std::ranges::count(model->weights.layout.params(), poisoned, &ParamInfo::name) > 0,
        "train.inject_overflow_parameter: the model has no parameter \"", poisoned, "\"");
}

StopRule Run::stop_rule() const {
  const SamplingConfig& sampling = config.rollout.sampling;
  return StopRule(stop_ids, *tokenizer, sampling.stop, sampling.keep_stop);
}

void Run::load_data() {
  const int64_t positions = model->config.max_positions;
  PromptSet set = make_prompts(config.data, *tokenizer, model->tokenizer, positions, sft());
  prompts = std::move(set.prompts);
  log_info(str(
      prompts.size(), " problems",
      set.overlong ? str(", ", set.overlong, " skipped for prompts over ", set.longest, " tokens") : std::string()));
  if (sft()) encode_solutions();
  if (!sft()) config.reward.check_rows(prompts, config.data.files[0]);
  data_hash_ = data_hash(prompts);
  check(int64_t(prompts.size()) >= config.train.prompts_per_step,
        "train.prompts_per_step: must not exceed the number of problems, ", prompts.size(), "; got ",
        config.train.prompts_per_step);
  cursor.emplace(int64_t(prompts.size()), uint64_t(config.run.seed), config.data.shuffle);
  const std::vector<std::string> names = set_names(config.eval.files);
  for (size_t i = 0; i < names.size(); ++i) {
    DataConfig eval = config.data;
    eval.files = {config.eval.files[i]};
    eval.limit = config.eval.limit;
    eval_sets.push_back({names[i], make_prompts(eval, *tokenizer, model->tokenizer, positions, false).prompts});
    config.reward.check_rows(eval_sets.back().prompts, eval.files[0]);
  }
}

/// Responses to imitate end with the stop token. One that does not fit behind its prompt is treated as
/// data.overlong_prompts says.
void Run::encode_solutions() {
  const size_t limit = size_t(model->config.max_positions), all = prompts.size();
  for (Prompt& p : prompts) {
    p.solution_ids = tokenizer->encode(p.solution);
    p.solution_ids.push_back(stop_ids.front());
  }
  std::erase_if(prompts, [&](const Prompt& p) {
    const size_t tokens = p.ids.size() + p.solution_ids.size();
    check(tokens <= limit || config.data.overlong_prompts == "skip", config.data.files[0], ": row ", p.id,
          ": prompt and response must fit into the model's ", limit, " positions: got ", tokens, " tokens");
    return tokens > limit;
  });
  if (prompts.size() < all)
    log_info(str(all - prompts.size(), " skipped: prompt and response exceed the model's ", limit, " positions"));
  check(!prompts.empty(), config.data.files[0], ": no prompt and response fit into the model's ", limit, " positions");
}

/// Optimizer, the copies of the weights, trainer and engine.
void Run::open_training() {
  const Dtype train_dtype = config.precision.train_dtype(), rollout_dtype = config.precision.rollout_dtype();
  const int64_t sequences = config.train.prompts_per_step * (sft() ? 1 : config.rollout.n);
  const int64_t updates = sequences / config.train.mini_batch_size * config.train.epochs;
  optimizer.emplace(exec, model->weights, config.optim, config.scaler, config.train.steps * updates);
  if (!sft() && rollout_dtype != train_dtype)
    model->weights.rollout = ParamBuffer(exec, model->weights.layout, rollout_dtype);
  refresh_copies(exec, model->weights);
  if (model->weights.rollout.defined()) check_finite(*model, model->weights.rollout, config.model.path);
  if (!sft() && config.algorithm.kl_coef > 0) keep_reference();
  trainer.emplace(exec, comm, *model, *optimizer,
                  TrainerOptions{.logprobs = {.temperature = sft() ? 1.0 : config.rollout.sampling.temperature,
                                              .lm_head = config.precision.head_dtype(train_dtype),
                                              .residual = config.precision.residual_dtype(train_dtype),
                                              .head_chunk = config.train.head_chunk},
                                 .recompute = config.train.recompute_tier()});
  if (!sft() || !eval_sets.empty())
    engine.emplace(*model, config.rollout, config.precision.engine(config.rollout), config.train.deterministic);
}

/// The weights a run begins with. A resumed run reads them again, and must find the same.
void Run::keep_reference() {
  Weights& w = model->weights;
  w.reference = ParamBuffer(exec, w.layout, w.compute.dtype());
  exec.backend().copy(w.reference.flat().raw(), w.compute.flat().raw(), w.compute.flat().bytes());
  std::vector<std::byte> bytes(w.reference.flat().bytes());
  exec.backend().copy_to_host(bytes.data(), w.reference.flat().raw(), bytes.size());
  reference_hash_ = hash64(bytes);
}

std::string Run::about() const {
  std::string text =
      str(" on ", exec.backend().description(), "\n# model: ", config.model.path, ", ", model->config.architecture,
          ", ", model->weights.layout.numel(), " parameters\n# data: ", prompts.size(), " problems");
  for (const EvalSet& set : eval_sets) text += str("; evaluation on ", set.name, ", ", set.prompts.size());
  return text;
}

/// Weights, optimizer and counters of a checkpoint.
CheckpointState Run::load(const fs::path& checkpoint) {
  CheckpointState state = read_checkpoint_state(checkpoint);
  check(state.texts.contains("data_hash") && state.texts.at("data_hash") == std::to_string(data_hash_),
        checkpoint.string(), ": was made on other data than data.files holds now");
  const auto reference = state.texts.find("reference_hash");
  check(reference == state.texts.end() || reference->second == std::to_string(reference_hash_), checkpoint.string(),
        ": its reference model was another than model.path ", config.model.path, " holds now");
  load_checkpoint(checkpoint, exec, model->weights, *optimizer);
  step = state.step;
  policy_version = counter_of(state, "policy_version", checkpoint);
  cursor->seek(counter_of(state, "data_position", checkpoint));
  if (engine && state.counters.contains("cache_room"))  // else of an earlier version, which found it anew
    engine->set_kv_cache_limit(state.counters.at("cache_room"));
  if (const auto choices = state.texts.find("measured_choices"); choices != state.texts.end())
    exec.backend().restore_measured_choices(choices->second);
  return state;
}

void Run::check_cache() {
  const int64_t lost = engine->stats().lost_pages;
  if (lost > lost_pages_)
    log_warning(str(
        "after step ", step, ": the KV cache has ", lost * kAttentionTile,
        " tokens less than memory allowed at the first rollout: samples may differ from those of an undisturbed run"));
  lost_pages_ = lost;
  agree_on_cache();
}

/// Ranks find different amounts of free memory; the checkpoint has one limit for all, so the lowest counts.
void Run::agree_on_cache() {
  if (comm.size() == 1) return;
  const int64_t limit = engine->kv_cache_limit();
  const double most = comm.reduce({limit > 0 ? -double(limit) : -INFINITY}, Reduce::kMax)[0];
  if (std::isfinite(most)) engine->set_kv_cache_limit(int64_t(-most));
}

void Run::save() {
  if (saved_step == step) return;
  enter("checkpoint");
  saved_step = step;
  if (!directory) return;
  CheckpointState state;
  state.step = step;
  state.config = format_run_config(config);
  state.counters = {{"policy_version", policy_version},
                    {"data_position", cursor->position()},
                    {"cache_room", engine ? engine->kv_cache_limit() : 0}};
  directory->record_lengths(state);
  state.texts = {{"data_hash", std::to_string(data_hash_)}};
  if (std::string choices = exec.backend().measured_choices(); !choices.empty())
    state.texts["measured_choices"] = std::move(choices);
  if (reference_hash_) state.texts["reference_hash"] = std::to_string(reference_hash_);
  save_checkpoint(directory->checkpoints(), state, model->weights, *optimizer, config.checkpoint.keep);
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
  if (!directory || !config.checkpoint.export_model) return;
  std::error_code ignored;
  fs::remove_all(directory->model(), ignored);
  save_hf(*model, directory->model(), config.precision.train_dtype());
  log_info("model written to " + directory->model().string());
}

}  // namespace mantissa
