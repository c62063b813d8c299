// What a run checks before it goes on, and before it writes: that all ranks have the same config, model and data, that
// a checkpoint was made with the same model, that rollouts and weights are finite, that the KV cache is what it was.
#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/nonfinite.h"
#include "core/comm/failure.h"
#include "core/hash.h"
#include "nn/formats/hf_config.h"
#include "rl/config_keys.h"
#include "rl/logging/log.h"
#include "rl/run.h"

namespace mantissa {
namespace fs = std::filesystem;

namespace {

using Json = nlohmann::json;

constexpr const char* kConfigFile = "config.json";

/// config.json as this version writes it, and reads it back. No run reads bos_token_id, which config.json and
/// generation_config.json may say differently.
std::string config_text(ModelConfig config) {
  config.bos_id = -1;
  return format_hf_config(parse_hf_config(format_hf_config(config, Dtype::kF32), kConfigFile), Dtype::kF32);
}

/// A hash of what a file says, however it is written; of a file that is missing that of {}.
std::string hash_of(const std::string& text, const std::function<bool(const std::string&)>& reads = {}) {
  Json json = Json::parse(text.empty() ? "{}" : text, nullptr, false);
  if (json.is_object() && reads)
    for (auto it = json.begin(); it != json.end();) it = reads(it.key()) ? std::next(it) : json.erase(it);
  return std::to_string(hash64(json.is_discarded() ? text : json.dump(-1, ' ', false, Json::error_handler_t::replace)));
}

/// Of tokenizer_config.json: its tokens (nn/formats/tokenizer_config.h). What its chat template makes of the problems
/// is compared itself.
bool names_tokens(const std::string& key) {
  return key.ends_with("_token") || key.ends_with("_tokens") || key == "added_tokens_decoder";
}

std::map<std::string, std::string> describe(const ModelConfig& config, const TokenizerFiles& files) {
  return {{kConfigFile, config_text(config)},
          {"tokenizer.json", hash_of(files.tokenizer_json)},
          {"tokenizer_config.json", hash_of(files.tokenizer_config_json, names_tokens)},
          {"added_tokens.json", hash_of(files.added_tokens_json)},
          {"special_tokens_map.json", hash_of(files.special_tokens_map_json)}};
}

/// The first key in which two config.json differ, and both values; empty where none does.
std::string difference(const std::string& was, const std::string& now) {
  const Json a = Json::parse(was), b = Json::parse(now);
  for (const Json* keys : {&a, &b})
    for (const auto& [key, value] : keys->items()) {
      const Json left = a.value(key, Json()), right = b.value(key, Json());
      if (left != right)
        return str(key == "eos_token_id" ? "config.json, generation_config.json: " : "config.json: ", key, ": ",
                   left.dump(), ", now ", right.dump());
    }
  return {};
}

/// Those that a model or an adapter is read from; none of one that is built in or random.
std::vector<fs::path> weight_files(const fs::path& place) {
  std::error_code error;
  if (fs::is_regular_file(place, error)) return {place};
  for (const char* name : {"master.safetensors", "model.safetensors", "adapter_model.safetensors"})
    if (file_exists(place / name)) return {place / name};
  const fs::path index = place / "model.safetensors.index.json";
  std::set<fs::path> parts;
  if (file_exists(index))
    for (const auto& [tensor, file] : parse_weight_map(read_file(index), index.string())) parts.insert(place / file);
  return {parts.begin(), parts.end()};
}

/// Of each file of weights at a place its size, and a hash of 64 pieces of 64 KiB spread over it: weights that were
/// trained differ in nearly all of them, and reading all of a large model again would take long.
std::string sample_weights(const fs::path& place) {
  constexpr size_t kPiece = 64 << 10, kPieces = 64;
  std::string all;
  for (const fs::path& path : weight_files(place)) {
    const MappedFile file(path);
    const std::span<const std::byte> bytes = file.bytes();
    Hash64 hash;
    const size_t stride = std::max(kPiece, bytes.size() / kPieces);
    for (size_t at = 0; at < bytes.size(); at += stride)
      hash.add(bytes.subspan(at, std::min(kPiece, bytes.size() - at)));
    all += str(path.filename().string(), ' ', bytes.size(), ' ', hash.value(), '\n');
  }
  return all;
}

/// What a checkpoint says of its model; nothing in one of an earlier version.
std::map<std::string, std::string> model_texts(const CheckpointState& state, const std::string& prefix) {
  std::map<std::string, std::string> texts;
  for (const auto& [name, text] : state.texts)
    if (name.starts_with(prefix)) texts[name.substr(prefix.size())] = text;
  return texts;
}

/// The key that names a checkpoint which a new run is to begin with.
const char* key_of_start(const RunConfig& config) {
  return config.lora.active() ? "lora.init" : "model.path";
}

}  // namespace

void Run::check_same_config() const {
  const std::vector<std::string> configs = comm.gather(format_run_config(config));
  for (size_t r = 1; r < configs.size(); ++r)
    if (configs[r] != configs[0]) {
      const auto keys = [&](size_t rank) { return config_keys(parse_saved_config(configs[rank], str("rank ", rank))); };
      const std::vector<KeyDifference> apart = different_keys(keys(0), keys(r));
      throw RankFailed(int(r), str("rank ", r, " was started with another config than rank 0",
                                   apart.empty() ? "" : ": rank 0 has " + apart[0].text(str("rank ", r))));
    }
}

/// A run keeps its mode, whatever its config calls it. A checkpoint of an earlier version, which names none, knows peer
/// from the rest, and on the CPU the rest is the same.
void Run::compare_match(const CheckpointState& state, const fs::path& checkpoint) const {
  const auto it = state.texts.find("match");
  std::string saved = name_of(match);
  if (it != state.texts.end()) {
    saved = it->second;
  } else {
    const RunConfig earlier = parse_saved_config(state.config, (checkpoint / "config.yaml").string());
    if ((earlier.precision.match == "peer") != (match == Match::kPeer)) saved = earlier.precision.match;
  }
  check(saved == name_of(match), checkpoint.string(), ": was made under precision.match: ", saved, ", this run is ",
        name_of(match), " (precision.match: ", config.precision.match, ")");
}

/// Paths mean other files where a rank was started in another folder or on another machine.
void Run::check_same_inputs() const {
  if (comm.size() == 1) return;
  std::map<std::string, std::string> own = model_files_;
  own["problems in data.files"] = std::to_string(data_hash_);
  for (const EvalSet& set : eval_sets)
    own["problems in eval.files, " + set.name] = std::to_string(data_hash(set.prompts));
  own["weights in model.path"] = sample_weights(model->tokenizer.where);
  if (config.lora.from_directory()) own["weights in lora.init"] = sample_weights(config.lora.init);
  const std::vector<std::string> all = comm.gather(Json(own).dump(-1, ' ', false, Json::error_handler_t::replace));
  for (size_t r = 1; r < all.size(); ++r) {
    const auto first = Json::parse(all[0]).get<std::map<std::string, std::string>>();
    const auto other = Json::parse(all[r]).get<std::map<std::string, std::string>>();
    for (const auto& [what, found] : first)
      if (const auto it = other.find(what); it == other.end() || it->second != found)
        throw RankFailed(int(r), str("rank ", r, " reads other ", what, " than rank 0: the paths of the config must ",
                                     "name the same files for every rank"));
  }
}

void Run::describe_model() {
  model_files_ = describe(model->config, model->tokenizer);
}

/// What the config says of it, RunConfig::validate has checked.
void Run::check_best() const {
  struct Needs {
    bool met;
    const char *needs, *metrics;
  };
  const Needs all[] = {
      {model->config.experts.before(model->config.layers) > 0, "a model with a mixture of experts", "moe/"},
      {records_routes, "rollouts that could choose other experts (precision.match, exact.check)",
       "moe/route_agreement"},
      {match == Match::kExact, "precision.match: exact", "exact/"},
      {engine && engine->guesses(), "rollout.draft under precision.match: exact", "draft/"},
      {comm.size() > 1, "several ranks", "perf/idle_fraction"},
  };
  const std::string& best = config.checkpoint.best;
  for (const Needs& part : all)
    check(part.met || !best.starts_with(part.metrics), "checkpoint.best: must be a metric of this run, got ", best,
          ", which needs ", part.needs);
}

/// An earlier version's accuracy went by the weighted sum of several rewards: it says nothing of which is the best.
bool Run::counts_otherwise(const CheckpointState& state) const {
  return model_texts(state, kModelText).empty() && !config.reward.named.empty() &&
         config.checkpoint.best.starts_with("val-core/");
}

/// Weights come from the checkpoint, all else of the model from model.path.
void Run::check_same_model(const CheckpointState& state, const fs::path& checkpoint) const {
  std::map<std::string, std::string> was = model_texts(state, kModelText);
  if (was.empty()) {  // of an earlier version
    if (!file_exists(checkpoint / kConfigFile)) return;
    verify_model_files(checkpoint);
    was = describe(read_hf_config(checkpoint), read_hf_tokenizer(checkpoint));
    was.erase("tokenizer_config.json");  // made up where the model had none
  }
  const std::string rule =
      str(checkpoint.string(), ": was made with another model than model.path ", config.model.path, " holds now: ");
  for (const auto& [file, text] : was) {
    if (file == kConfigFile) {
      const std::string apart = difference(config_text(parse_hf_config(text, kConfigFile)), model_files_.at(file));
      check(apart.empty(), rule, apart);
    } else {
      const auto now = model_files_.find(file);
      check(now != model_files_.end() && now->second == text, rule, file, " differs");
    }
  }
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

/// Where no sample is finite rewards are mostly equal, so that no update is left to overflow.
int64_t Run::watch_overflow(const std::vector<RolloutGroup>& groups) {
  int64_t samples = 0, overflowed = 0;
  for (const RolloutGroup& group : groups)
    for (const RolloutSample& sample : group.samples) {
      ++samples;
      overflowed += !std::ranges::all_of(sample.completion.rollout_logprobs, [](float x) { return std::isfinite(x); });
    }
  overflowed_rollouts_ = overflowed == samples ? overflowed_rollouts_ + 1 : 0;
  if (overflowed < samples) finite_step_ = step;
  if (overflowed_rollouts_ > config.scaler.max_skips_in_row)
    fail("in ", overflowed_rollouts_, " rollouts in a row every sample has log-probs that are not finite, so nothing ",
         "is learned (scaler.max_skips_in_row): ", before_overflow());
  return overflowed;
}

void Run::check_end() {
  check(step == 0 || policy_version > 0, "the run took no optimizer step in ", step,
        " steps, so nothing was learned: see the warning after its first step");
  if (sft() || finite_step_ >= step - 1) return;
  const char* unwritten = model->adapter ? "adapter" : "model";
  check_weights(unwritten);  // says more, where it finds one
  fail("the run ended with weights that give no finite log-probs: since step ", finite_step_ + 2,
       " every sample has overflowed, so nothing was learned, and no ", unwritten, " is written: ", before_overflow());
}

/// What to do where the weights have grown too large, with the last checkpoint that is known to be of before. Where no
/// rollout was finite, it is not training that has made them so.
std::string Run::before_overflow() {
  finish_saving();
  if (finite_step_ < 0)
    return "it was so in the first rollout, before any update: see precision.rollout and precision.residual";
  std::string from;
  for (int64_t at = finite_step_; directory && at >= 0 && from.empty(); --at)
    if (const fs::path path = directory->checkpoints() / str("step_", at); is_checkpoint(path)) from = path.string();
  from = comm.broadcast(from);
  return str("the weights have grown too large; begin a new run with a lower optim.lr",
             from.empty() ? " (no checkpoint of before is left)"
                          : str(" from ", from, " (", key_of_start(config), " names it)"));
}

/// On all ranks, since each may see a part of the weights. What is computed with counts, in its type.
void Run::check_weights(const char* unwritten) const {
  const ParamSet& set = model->trained();
  Exec side(exec.backend());
  std::string error;
  const std::vector<ParamInfo>& params = set.layout.params();
  for (const ParamBuffer* copy : {&set.compute, &set.rollout})
    for (size_t i = 0; copy->defined() && i < params.size() && error.empty(); ++i) {
      const Tensor values = copy->rows(set.layout, ParamId{int(i)}, 0, params[i].rows);
      if (position_of_nonfinite(side, values) >= 0)
        error =
            str("after step ", step, " ", params[i].name, " holds a value that is not finite in ",
                name_of(values.dtype()), ", so no ", unwritten, " is written: begin a new run from an earlier ",
                "checkpoint of ", config.output_dir(), " (", key_of_start(config), " names it) with a lower optim.lr");
    }
  const std::vector<std::string> errors = comm.gather(error);
  for (size_t r = 0; r < errors.size(); ++r)
    if (!errors[r].empty()) throw RankFailed(int(r), errors[r]);
}

}  // namespace mantissa
