#include "rl/run.h"

#include <algorithm>
#include <sstream>

#include "core/file.h"
#include "core/hash.h"
#include "rl/evaluate.h"
#include "rl/logging/log.h"
#include "rl/text/stop.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

/// The config, by which a directory is known as a run's, goes last when all are deleted.
constexpr const char* kWritten[] = {"metrics.jsonl", "sft.jsonl", "eval.jsonl",  "samples.jsonl",
                                    "checkpoints",   "model",     "tensorboard", "config.yaml"};
constexpr const char* kConfigHead = "# mantissa ";

/// Lines of a resolved config that decide the run's bits: sections that say how long, how often or where are left out.
std::string decisive_lines(const std::string& config) {
  std::istringstream in(config);
  std::string line, kept;
  bool skip = false;
  while (std::getline(in, line)) {
    if (!line.empty() && line[0] != ' ')
      skip = line == "run:" || line == "eval:" || line == "checkpoint:" || line == "logging:";
    const bool seed = line.find("  seed:") == 0, steps = line.find("  steps:") == 0;
    if ((!skip || seed || line == "run:") && !steps) kept += line + "\n";
  }
  return kept;
}

/// train.steps of a resolved config: the one key of that name.
std::string steps_line(const std::string& config) {
  const size_t begin = config.find("\n  steps:") + 1;
  return config.substr(begin, config.find('\n', begin) - begin);
}

std::string first_difference(const std::string& a, const std::string& b) {
  std::istringstream left(a), right(b);
  std::string x, y, section;
  while (std::getline(left, x) && std::getline(right, y)) {
    if (x != y) return str("in section ", section, " saved \"", x, "\", now \"", y, '"');
    if (!x.starts_with(' ')) section = x;
  }
  return "one of them has more keys";
}

}  // namespace

Run::Run(const RunConfig& run_config, const StartOptions& start)
    : config(run_config), output_dir(config.output_dir()), exec(find_backend(config.run.device)) {
  const std::vector<std::string> missing = missing_features(config);
  check(missing.empty(), config.run.name, ": this version cannot run it: ", missing.empty() ? "" : missing[0]);
  check_directory(start);
  exec.deterministic = config.train.deterministic;
  const Dtype train_dtype = config.precision.train_dtype(), rollout_dtype = config.precision.rollout_dtype();
  model = load_model(config.model.path, exec.backend(), train_dtype, true);
  check(!model->tokenizer.tokenizer_json.empty(), model->tokenizer.where, ": has no tokenizer (tokenizer.json)");
  tokenizer = Tokenizer::from_json(model->tokenizer.tokenizer_json, model->tokenizer.where);
  check(tokenizer->vocab_size() <= model->config.vocab_size, model->tokenizer.where, ": the tokenizer has ",
        tokenizer->vocab_size(), " ids, the model only ", model->config.vocab_size);
  stop_ids = mantissa::stop_ids(model->config, *tokenizer);
  check(!stop_ids.empty(), config.model.path, ": neither config.json nor the tokenizer names an end-of-sequence id");
  const std::string& poisoned = config.train.inject_overflow_parameter;
  check(config.train.inject_overflow_step <= 0 ||
            std::ranges::count(model->weights.layout.params(), poisoned, &ParamInfo::name) > 0,
        "train.inject_overflow_parameter: the model has no parameter \"", poisoned, "\"");
  load_data();

  const int64_t sequences = config.train.prompts_per_step * (sft() ? 1 : config.rollout.n);
  const int64_t updates = sequences / config.train.mini_batch_size * config.train.epochs;
  optimizer.emplace(exec, model->weights, config.optim, config.scaler, config.train.steps * updates);
  if (!sft() && rollout_dtype != train_dtype)
    model->weights.rollout = ParamBuffer(exec, model->weights.layout, rollout_dtype);
  refresh_copies(exec, model->weights);
  if (model->weights.rollout.defined()) check_finite(*model, model->weights.rollout, config.model.path);
  if (!sft() && config.algorithm.kl_coef > 0) keep_reference();
  trainer.emplace(exec, *model, *optimizer,
                  TrainerOptions{.logprobs = {.temperature = sft() ? 1.0 : config.rollout.sampling.temperature,
                                              .lm_head = config.precision.head_dtype(train_dtype),
                                              .residual = config.precision.residual_dtype(train_dtype),
                                              .head_chunk = config.train.head_chunk},
                                 .recompute = config.train.recompute_tier()});
  if (!sft() || !eval_sets.empty())
    engine.emplace(*model, config.rollout, config.precision.engine(config.rollout), config.train.deterministic);
  cursor.emplace(int64_t(prompts.size()), uint64_t(config.run.seed), config.data.shuffle);

  if (checkpoint_) {
    resume(*checkpoint_);
    write_config();
  } else {
    clear_directory();
    write_config();  // first: by it the directory is known as a run's
    metrics_file_.emplace(output_dir / metrics_name(), 0);
    eval_file_.emplace(output_dir / "eval.jsonl", 0);
    samples_file_.emplace(output_dir / "samples.jsonl", 0);
  }
  if (config.logging.tensorboard) event_file_.emplace(output_dir / "tensorboard", step + 1);
}

void Run::write_config() const {
  std::string head = str(kConfigHead, MANTISSA_VERSION, " on ", exec.backend().description(),
                         "\n# model: ", config.model.path, ", ", model->config.architecture, ", ",
                         model->weights.layout.numel(), " parameters\n# data: ", prompts.size(), " problems");
  for (const EvalSet& set : eval_sets) head += str("; evaluation on ", set.name, ", ", set.prompts.size());
  write_file(output_dir / "config.yaml", head + "\n" + format_run_config(config));
}

void Run::log(LineFile& file, const Metrics& metrics) {
  file.write(to_json_line(metrics));
  if (event_file_) event_file_->write(metrics);
}

void Run::check_directory(const StartOptions& start) {
  std::error_code error;
  fs::create_directories(output_dir, error);
  check(!error, output_dir.string(), ": output directory cannot be made: ", error.message());
  lock_.emplace(output_dir);
  { AtomicFile probe(output_dir / "probe"); }  // fails early where nothing can be written
  const fs::path checkpoints = output_dir / "checkpoints";
  if (start.resume == "auto") {
    clean_checkpoints(checkpoints);
    checkpoint_ = latest_checkpoint(checkpoints);
    if (checkpoint_) return compare_configs();
    check_deletable();
    check(
        !file_exists(output_dir / "model"), output_dir.string(),
        ": holds the model of a finished run and no checkpoint to go on from; use --overwrite to start anew, or another "
        "run.output_dir");
    log_info("no checkpoint in " + checkpoints.string() + ": starting anew");
    return;
  }
  if (!start.resume.empty()) {
    check(fs::is_directory(start.resume, error), start.resume, ": --resume takes \"auto\" or a checkpoint directory");
    checkpoint_ = fs::canonical(start.resume);
    foreign_ = checkpoint_->parent_path() != fs::weakly_canonical(checkpoints);
    compare_configs();
    if (!foreign_) return;
  }
  if (start.overwrite) return check_deletable();
  for (const char* name : kWritten)
    check(!file_exists(output_dir / name), output_dir.string(), ": holds ", name,
          " of an earlier run; use --resume auto to go on, --overwrite to start anew, or another "
          "run.output_dir");
}

/// What starting anew deletes must be a run's, and nothing that this run reads.
void Run::check_deletable() const {
  const fs::path saved_config = output_dir / "config.yaml";
  for (const char* name : kWritten) {
    const fs::path doomed = output_dir / name;
    std::error_code ignored;
    if (!file_exists(doomed) || (fs::is_directory(doomed, ignored) && fs::is_empty(doomed, ignored))) continue;
    check(file_exists(saved_config) && read_file(saved_config).starts_with(kConfigHead), doomed.string(),
          ": was not written by a run (whose config.yaml begins with \"", kConfigHead,
          "\"), so starting anew does not delete it; move it away, or use another run.output_dir");
    std::vector<std::string> inputs = config.data.files;
    inputs.insert(inputs.end(), config.eval.files.begin(), config.eval.files.end());
    inputs.push_back(config.model.path);
    for (const std::string& input : inputs) {
      const fs::path inside = fs::weakly_canonical(input).lexically_relative(fs::weakly_canonical(doomed));
      check(inside.empty() || *inside.begin() == "..", input, ": lies in ", doomed.string(),
            ", which starting anew deletes; use another run.output_dir");
    }
  }
}

/// Refuses a checkpoint that was made under another config, before anything is loaded.
void Run::compare_configs() const {
  const std::string config_saved = read_checkpoint_state(*checkpoint_).config, config_now = format_run_config(config);
  const std::string saved = decisive_lines(config_saved), now = decisive_lines(config_now);
  check(now == saved, checkpoint_->string(), ": was made under another config: ", first_difference(saved, now));
  if (const std::string before = steps_line(config_saved), after = steps_line(config_now);
      before != after && config.optim.schedule != "constant")
    log_warning(str("train: saved \"", before, "\", now \"", after, "\": from here on the learning rate follows the ",
                    config.optim.schedule, " schedule of the new length"));
}

void Run::clear_directory() const {
  std::error_code error;
  for (const char* name : kWritten) {
    fs::remove_all(output_dir / name, error);
    check(!error, (output_dir / name).string(), ": cannot be deleted: ", error.message());
  }
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

void Run::load_data() {
  // A prompt and at least one more token have to fit into the model's positions.
  DataConfig data = config.data;
  data.max_prompt_tokens = std::min(data.max_prompt_tokens, model->config.max_positions - 1);
  PromptSet set = make_prompts(data, *tokenizer, model->tokenizer, sft());
  prompts = std::move(set.prompts);
  log_info(str(prompts.size(), " problems",
               set.overlong ? str(", ", set.overlong, " skipped for prompts over ", data.max_prompt_tokens, " tokens")
                            : std::string()));
  if (sft()) encode_solutions();
  data_hash_ = data_hash(prompts);
  check(int64_t(prompts.size()) >= config.train.prompts_per_step,
        "train.prompts_per_step: must not exceed the number of problems, ", prompts.size(), "; got ",
        config.train.prompts_per_step);
  if (config.eval.files.empty()) return;
  const std::vector<std::string> names = set_names(config.eval.files);
  for (size_t i = 0; i < names.size(); ++i) {
    DataConfig eval = data;
    eval.files = {config.eval.files[i]};
    eval.limit = config.eval.limit;
    eval_sets.push_back({names[i], make_prompts(eval, *tokenizer, model->tokenizer, false).prompts});
  }
}

/// Responses to imitate end with the stop token. One that does not fit behind its prompt is treated as
/// data.overlong_prompts says.
void Run::encode_solutions() {
  const size_t room = size_t(model->config.max_positions), all = prompts.size();
  for (Prompt& p : prompts) {
    p.solution_ids = tokenizer->encode(p.solution);
    p.solution_ids.push_back(stop_ids.front());
  }
  std::erase_if(prompts, [&](const Prompt& p) {
    const size_t tokens = p.ids.size() + p.solution_ids.size();
    check(tokens <= room || config.data.overlong_prompts == "skip", config.data.files[0], ": row ", p.id,
          ": prompt and response must fit into the model's ", room, " positions: got ", tokens, " tokens");
    return tokens > room;
  });
  if (prompts.size() < all)
    log_info(str(all - prompts.size(), " skipped: prompt and response exceed the model's ", room, " positions"));
  check(!prompts.empty(), config.data.files[0], ": no prompt and response fit into the model's ", room, " positions");
}

void Run::resume(const fs::path& checkpoint) {
  const CheckpointState state = read_checkpoint_state(checkpoint);
  const auto counter = [&](const char* name) {
    const auto it = state.counters.find(name);
    check(it != state.counters.end(), checkpoint.string(), ": state.json has no counter ", name);
    return it->second;
  };
  check(state.texts.contains("data_hash") && state.texts.at("data_hash") == std::to_string(data_hash_),
        checkpoint.string(), ": was made on other data than data.files holds now");
  const auto reference = state.texts.find("reference_hash");
  check(reference == state.texts.end() || reference->second == std::to_string(reference_hash_), checkpoint.string(),
        ": its reference model was another than model.path ", config.model.path, " holds now");
  load_checkpoint(checkpoint, exec, model->weights, *optimizer);
  step = state.step;
  policy_version = counter("policy_version");
  cursor->seek(counter("data_position"));
  if (engine && state.counters.contains("cache_room"))  // else of an earlier version, which found it anew
    engine->set_kv_cache_limit(counter("cache_room"));
  if (const auto choices = state.texts.find("measured_choices"); choices != state.texts.end())
    exec.backend().restore_measured_choices(choices->second);
  if (foreign_) {
    clear_directory();
  } else {
    const std::pair<std::string, const char*> files[] = {
        {metrics_name(), "metrics_bytes"}, {"eval.jsonl", "eval_bytes"}, {"samples.jsonl", "samples_bytes"}};
    for (const auto& [name, bytes] : files) {  // before anything is deleted
      std::error_code error;
      const auto size = fs::file_size(output_dir / name, error);
      check(counter(bytes) == 0 || (!error && int64_t(size) >= counter(bytes)), (output_dir / name).string(),
            ": must hold the ", counter(bytes), " bytes that ", checkpoint.string(), " saw, got ",
            error ? 0 : int64_t(size));
    }
    for (const fs::path& later : drop_checkpoints_after(output_dir / "checkpoints", step))
      log_warning(str("back to step ", step, ": ", later.string(), " was made after it and is deleted"));
  }
  metrics_file_.emplace(output_dir / metrics_name(), foreign_ ? 0 : counter("metrics_bytes"));
  eval_file_.emplace(output_dir / "eval.jsonl", foreign_ ? 0 : counter("eval_bytes"));
  samples_file_.emplace(output_dir / "samples.jsonl", foreign_ ? 0 : counter("samples_bytes"));
  if (!foreign_) saved_step = step;
  log_info(str("resumed from ", checkpoint.string(), " after step ", step));
}

void Run::check_cache() {
  const int64_t lost = engine->stats().lost_pages;
  if (lost > lost_pages_)
    log_warning(str(
        "after step ", step, ": the KV cache has ", lost * kAttentionTile,
        " tokens less than memory allowed at the first rollout: samples may differ from those of an undisturbed run"));
  lost_pages_ = lost;
}

void Run::save() {
  for (auto* file : {&metrics_file_, &eval_file_, &samples_file_})
    (*file)->sync();  // the checkpoint relies on their lengths
  CheckpointState state;
  state.step = step;
  state.config = format_run_config(config);
  state.counters = {{"policy_version", policy_version},
                    {"data_position", cursor->position()},
                    {"cache_room", engine ? engine->kv_cache_limit() : 0},
                    {"metrics_bytes", metrics_file_->bytes()},
                    {"eval_bytes", eval_file_->bytes()},
                    {"samples_bytes", samples_file_->bytes()}};
  state.texts = {{"data_hash", std::to_string(data_hash_)}};
  if (std::string choices = exec.backend().measured_choices(); !choices.empty())
    state.texts["measured_choices"] = std::move(choices);
  if (reference_hash_) state.texts["reference_hash"] = std::to_string(reference_hash_);
  save_checkpoint(output_dir / "checkpoints", state, model->weights, *optimizer, config.checkpoint.keep);
  saved_step = step;
}

void Run::export_model() const {
  if (!config.checkpoint.export_model) return;
  const fs::path target = output_dir / "model";
  std::error_code ignored;
  fs::remove_all(target, ignored);
  save_hf(*model, target, config.precision.train_dtype());
  log_info("model written to " + target.string());
}

}  // namespace mantissa
