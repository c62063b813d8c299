#include "nn/formats/peft.h"

#include <strings.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "autograd/nonfinite.h"
#include "core/content.h"
#include "core/file.h"
#include "core/json.h"
#include "core/notice.h"
#include "core/registry.h"
#include "core/rehearsal.h"
#include "core/text.h"
#include "nn/checkpoint.h"
#include "nn/sharding.h"

namespace mantissa {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";
constexpr const char *kPrefix = "base_model.model.", *kA = ".lora_A.weight", *kB = ".lora_B.weight";

/// Keys under which an adapter computes what this version does not, unless they are absent or unset.
constexpr const char* kRefused[] = {"use_dora",          "fan_in_fan_out",
                                    "modules_to_save",   "layers_to_transform",
                                    "layer_replication", "rank_pattern",
                                    "alpha_pattern",     "trainable_token_indices",
                                    "lora_bias",         "target_parameters",
                                    "use_qalora",        "use_bdlora",
                                    "arrow_config",      "alora_invocation_tokens",
                                    "kasa_config",       "monteclora_config"};

/// Keys that are read, that describe, that act in training or before it, or that say how a refused key is meant.
constexpr std::string_view kKnown =
    "r lora_alpha use_rslora bias peft_type init_lora_weights target_modules exclude_modules task_type peft_version "
    "base_model_name_or_path revision auto_mapping inference_mode lora_dropout layers_pattern qalora_group_size "
    "ensure_weight_tying runtime_config loftq_config eva_config corda_config lora_ga_config velora_config "
    "megatron_config megatron_core";

/// Null, false or empty, as PEFT writes what was not asked for.
bool is_unset(const Json& value) {
  return value.is_null() || value == false || value == "" || (value.is_structured() && value.empty());
}

Json read_config(const fs::path& directory) {
  const fs::path path = directory / kConfigFile;
  std::error_code ignored;
  const char* lack = !file_exists(directory)                 ? "does not exist"
                     : !fs::is_directory(directory, ignored) ? "is a file"
                     : !file_exists(path)                    ? "holds no adapter_config.json"
                                                             : nullptr;
  check(!lack, directory.string(), ": ", lack ? lack : "",
        "; expected an adapter: a PEFT directory, or RUN/adapter or RUN/checkpoints/step_N of a run that trained one");
  check_content(path, "JSON");
  try {
    const std::string text = read_file(path);
    check_json(text, path.string());
    Json json = Json::parse(text);
    check(json.is_object(), path.string(), ": must be a JSON object");
    const std::string twice = repeated_key(text);
    check(twice.empty(), path.string(), ": key \"", twice, "\" appears twice");
    return json;
  } catch (const Json::exception& e) {
    fail(path.string(), ": not valid JSON: ", e.what());
  }
}

void refuse_others(const Json& json, const std::string& where) {
  const Json type = json.value("peft_type", Json("LORA")), bias = json.value("bias", Json());
  check(type == "LORA", where, ": peft_type must be LORA, got ", type.dump());
  check(bias.is_null() || bias == "none", where, ": bias must be none, got ", bias.dump());
  for (const char* key : kRefused) {
    const Json value = json.value(key, Json());
    check(is_unset(value), where, ": ", key,
          " must be null, false or empty, as what it asks for is not supported; got ", value.dump());
  }
  // PiSSA and its like take the update's first value out of the base model's weights.
  const Json init = json.value("init_lora_weights", Json(true));
  check(!init.is_string() || init == "gaussian" || init == "eva" || init == "orthogonal", where,
        ": init_lora_weights = ", init.dump(), " changes the base model's weights: convert the adapter to plain LoRA");
}

/// Says which keys are set that this version knows nothing of, and a task that it does not do.
void say_unread(const Json& json, const std::string& where) {
  const std::vector<std::string> known = split(kKnown, ' ');
  std::vector<std::string> unknown;
  for (const auto& [key, value] : json.items())
    if (!is_unset(value) && !std::ranges::count(known, key) && !std::ranges::count(kRefused, key))
      unknown.push_back(key);
  if (!unknown.empty())
    notice(str(where, ": ", join(unknown), unknown.size() > 1 ? " are" : " is",
               " not known here and without effect: log-probs may differ from PEFT's"));
  const Json task = json.value("task_type", Json());
  if (!is_unset(task) && task != "CAUSAL_LM") notice(str(where, ": task_type ", task.dump(), " is read as CAUSAL_LM"));
}

/// Says where the base model is another than the one that the adapter was trained on: a fitting shape proves nothing. A
/// name on a hub is the same as a folder of that name.
void say_other_base(const Json& json, const std::string& where, const std::string& model) {
  const Json named = json.value("base_model_name_or_path", Json());
  if (!named.is_string() || is_unset(named) || model.empty()) return;
  const auto tidy = [](const std::string& path) {
    const fs::path p = fs::path(path).lexically_normal();
    return p.has_filename() ? p : p.parent_path();
  };
  const fs::path base = tidy(named), here = tidy(model);
  std::error_code ignored;
  const bool both = fs::exists(base, ignored) && fs::exists(here, ignored);
  if (both ? fs::equivalent(base, here, ignored) : base.filename() == here.filename()) return;
  notice(str(where, ": the adapter was trained on ", named.get<std::string>(),
             " (base_model_name_or_path), here it is put on ", model));
}

/// The modules that a PEFT file has tensors for, "model.layers.0.self_attn.q_proj".
std::set<std::string> modules_in(const Safetensors& file) {
  std::set<std::string> modules;
  for (const auto& [name, entry] : file.entries()) {
    check(name.starts_with(kPrefix) && (name.ends_with(kA) || name.ends_with(kB)), file.where(), ": tensor \"", name,
          "\" is not one of ", kPrefix, "MODULE", kA, " or ", kB);
    const size_t begin = std::string_view(kPrefix).size(), end = name.size() - std::string_view(kA).size();
    modules.insert(name.substr(begin, end - begin));
  }
  return modules;
}

/// Their leaves; a name that is none of a decoder's is refused.
std::vector<std::string> targets_of(const std::set<std::string>& modules, const std::string& where) {
  std::vector<std::string> names;
  for (const std::string& module : modules) names.push_back(module.substr(module.rfind('.') + 1));
  return parse_targets(names, where + ": layers");
}

using Matcher = std::function<bool(const std::string& module)>;

/// Which modules target_modules or exclude_modules names, as PEFT matches them: a text is a regular expression of whole
/// names, or all-linear; a list has names and their ends.
Matcher matcher(const Json& json, const char* key, const std::string& where) {
  const Json value = json.at(key);
  try {
    if (value.is_string() && strcasecmp(value.get<std::string>().c_str(), "all-linear") == 0)
      return [](const auto&) { return true; };
    if (value.is_string())
      return [pattern = std::regex(value.get<std::string>())](const std::string& module) {
        return std::regex_match(module, pattern);
      };
    return [names = value.get<std::vector<std::string>>()](const std::string& module) {
      return std::ranges::any_of(names, [&](const auto& name) { return ("." + module).ends_with("." + name); });
    };
  } catch (const std::exception&) {
    fail(where, ": ", key, " must be a list of names, all-linear or a regular expression of ECMAScript's; got ",
         value.dump());
  }
}

/// target_modules and exclude_modules must ask for the modules that the file has tensors for.
void check_modules(const Json& json, const std::string& where, const ModelConfig& model,
                   const std::set<std::string>& modules, const std::vector<std::string>& targets) {
  const auto is_set = [&](const char* key) { return json.contains(key) && !json.at(key).is_null(); };
  const std::string rule = str("the modules that ", kWeightsFile, " has tensors for, ", join(targets), "; got ");
  Matcher excluded = [](const std::string&) { return false; };
  if (is_set("exclude_modules")) excluded = matcher(json, "exclude_modules", where);
  for (const std::string& module : modules)
    check(!excluded(module), where, ": exclude_modules must name none of ", rule,
          json.value("exclude_modules", Json()).dump(), ", which names ", module);
  if (!is_set("target_modules")) return;  // PEFT's own choice for the architecture
  const Matcher targeted = matcher(json, "target_modules", where);
  std::vector<std::string> named;
  for (const LinearName& linear : linear_names()) {
    if (model.experts.count > 0 && std::string_view(linear.module).starts_with("mlp.")) continue;
    bool any = false;
    for (int64_t i = 0; i < model.layers && !any; ++i) {
      const std::string module = str("model.layers.", i, ".", linear.module);
      any = targeted(module) && !excluded(module);
    }
    if (any) named.push_back(linear.name);
  }
  const std::string got = str(": target_modules must name ", rule, json.at("target_modules").dump(), ", which names ",
                              named.empty() ? "none" : join(named));
  check(named == targets, where, got);
  for (const std::string& module : modules) check(targeted(module), where, got, ", but not ", module);
}

AdapterConfig config_of(const fs::path& directory, const Json& json) {
  const std::string where = (directory / kConfigFile).string();
  AdapterConfig config;
  try {
    refuse_others(json, where);
    check(json.contains("r"), where, ": r is missing");
    const Json alpha = json.value("lora_alpha", Json(8.0)), stabilized = json.value("use_rslora", Json(false));
    check(json.at("r").is_number_integer(), where, ": r must be an integer, got ", json.at("r").dump());
    check(alpha.is_number(), where, ": lora_alpha must be a number, got ", alpha.dump());
    check(stabilized.is_boolean(), where, ": use_rslora must be true or false, got ", stabilized.dump());
    config.rank = json.at("r").get<int64_t>();
    config.alpha = alpha.get<double>();
    config.rank_stabilized = stabilized.get<bool>();
    if (is_checkpoint(directory)) config.targets = json.at("target_modules").get<std::vector<std::string>>();
  } catch (const Json::exception& e) {
    fail(where, ": ", e.what());
  }
  if (!is_checkpoint(directory)) {
    const std::string index = str(kWeightsFile, ".index.json");
    check(!file_exists(directory / index) || file_exists(directory / kWeightsFile), directory.string(), ": ", index,
          " spreads the tensors over several files, which is not supported; write them as one ", kWeightsFile);
    check(file_exists(directory / kWeightsFile), directory.string(), ": holds no ", kWeightsFile,
          "; weights in other formats (.bin) have to be converted to safetensors first");
    check_content(directory / kWeightsFile, "a safetensors file");
    const fs::path weights = directory / kWeightsFile;
    config.targets = targets_of(modules_in(Safetensors(weights)), weights.string());
  }
  config.validate(where);
  return config;
}

/// Copies rows of `width` elements between tensors of host memory whose rows have other lengths.
void copy_rows(const Tensor& to, const Tensor& from, int64_t width) {
  const size_t bytes = size_t(width) * size_of(to.dtype());
  auto* out = static_cast<std::byte*>(to.raw());
  const auto* in = static_cast<const std::byte*>(from.raw());
  for (int64_t i = 0; i < to.size(0); ++i)
    std::memcpy(out + size_t(i * to.size(1)) * size_of(to.dtype()), in + size_t(i * from.size(1)) * size_of(to.dtype()),
                bytes);
}

void read_tensor(const Safetensors& file, const std::string& name, Tensor& out) {
  check(file.entries().contains(name), file.where(), ": tensor \"", name, "\" is missing");
  check(file.shape(name) == out.shape(), file.where(), ": \"", name, "\" must have shape ", out.shape(),
        " by the model and the adapter's rank, got ", file.shape(name));
  file.read(name, out);
  Exec exec(cpu());
  const int64_t at = position_of_nonfinite(exec, out);
  if (at < 0) return;
  Tensor values(cpu(), out.shape(), Dtype::kF32);
  file.read(name, values);
  fail(file.where(), ": \"", name, "\" [", at / out.size(1), ", ", at % out.size(1), "] must be finite in ",
       name_of(out.dtype()), ", got ", values.data<float>()[at]);
}

void fill(const Safetensors& file, const Model& model, const Adapter& adapter, const ParamBuffer& buffer) {
  const ParamLayout& layout = adapter.params.layout;
  const int64_t rank = adapter.config.rank, padded = adapter.config.padded_rank();
  const std::vector<AdapterPart> parts = adapter_parts(model.config, adapter);
  std::set<std::string> modules;
  for (const AdapterPart& part : parts) modules.insert(part.module);
  for (const std::string& module : modules_in(file))
    check(modules.contains(module), file.where(), ": tensors of \"", kPrefix, module,
          "\" are unexpected: an adapter of ", join(adapter.config.targets), " in ", model.config.layers,
          " layers has none");
  for (const AdapterPart& part : parts) {
    Tensor a(cpu(), {rank, part.inputs}, buffer.dtype()), b(cpu(), {part.rows.size(), rank}, buffer.dtype());
    read_tensor(file, kPrefix + part.module + kA, a);
    read_tensor(file, kPrefix + part.module + kB, b);
    buffer.store(layout, part.a, part.a_row, a);
    Tensor wide(cpu(), {part.rows.size(), padded}, buffer.dtype());
    std::memset(wide.raw(), 0, wide.bytes());
    copy_rows(wide, b, rank);
    buffer.store(layout, part.b, part.b_row, wide);
  }
}

void check_finite(Exec& exec, const ParamBuffer& buffer, const std::string& where) {
  if (is_rehearsal(exec.backend())) return;
  check(position_of_nonfinite(exec, buffer.flat()) < 0, where, ": the adapter holds a value that is not finite in ",
        name_of(buffer.dtype()));
}

}  // namespace

AdapterConfig read_adapter_config(const fs::path& directory) {
  if (is_checkpoint(directory)) verify_model_files(directory);
  return config_of(directory, read_config(directory));
}

void load_adapter(Model& model, const fs::path& directory, bool masters, Shard shard, Placement placement) {
  const AdapterConfig config = read_adapter_config(directory);
  const Json json = read_config(directory);
  const std::string where = (directory / kConfigFile).string();
  if (!is_checkpoint(directory))
    check_modules(json, where, model.config, modules_in(Safetensors(directory / kWeightsFile)), config.targets);
  if (shard.rank == 0) {
    say_unread(json, where);
    say_other_base(json, where, model.path);
  }
  const Adapter& adapter = add_adapter(model, config, masters, shard, placement);
  const ParamSet& set = adapter.params;
  Exec exec(*model.backend);
  for (const ParamBuffer* buffer : {&set.compute, &set.rollout, &set.master}) {
    if (!buffer->defined() || (buffer == &set.master && buffer->flat().same_as(set.compute.flat()))) continue;
    if (!is_checkpoint(directory)) {
      fill(Safetensors(directory / kWeightsFile), model, adapter, *buffer);
      continue;
    }
    read_checkpoint_weights(directory, set.layout, *buffer);
    if (buffer != &set.master) check_finite(exec, *buffer, directory.string());
  }
}

std::string format_adapter_config(const Model& model, double dropout) {
  const AdapterConfig& c = model.adapter->config;
  const Json json = {{"peft_type", "LORA"},
                     {"task_type", "CAUSAL_LM"},
                     {"base_model_name_or_path", model.path},
                     {"r", c.rank},
                     {"lora_alpha", c.alpha},
                     {"lora_dropout", dropout},
                     {"target_modules", c.targets},
                     {"use_rslora", c.rank_stabilized},
                     {"use_dora", false},
                     {"fan_in_fan_out", false},
                     {"bias", "none"},
                     {"init_lora_weights", true},
                     {"inference_mode", true}};
  return json.dump(2) + "\n";
}

std::vector<NamedTensor> adapter_tensors(const Model& model, const ParamBuffer& buffer) {
  const Adapter& adapter = *model.adapter;
  const int64_t rank = adapter.config.rank;
  std::vector<NamedTensor> tensors;
  for (const AdapterPart& part : adapter_parts(model.config, adapter)) {
    tensors.push_back({kPrefix + part.module + kA, buffer[part.a].slice(part.a_row, part.a_row + rank)});
    const Tensor padded = buffer[part.b].slice(part.b_row, part.b_row + part.rows.size());
    Tensor wide(cpu(), padded.shape(), padded.dtype()), b(cpu(), {part.rows.size(), rank}, padded.dtype());
    padded.backend().copy_to_host(wide.raw(), padded.raw(), padded.bytes());
    copy_rows(b, wide, rank);
    tensors.push_back({kPrefix + part.module + kB, b});
  }
  return tensors;
}

void save_adapter(const Model& model, const fs::path& directory, double dropout, Comm& comm) {
  const ParamSet& set = model.adapter->params;
  Exec exec(*model.backend);
  const ParamBuffer values = gather_whole(exec, comm, set, set.master.defined() ? set.master : set.compute);
  if (!comm.main()) return;
  AtomicDirectory target(directory);
  write_file(target.partial() / kConfigFile, format_adapter_config(model, dropout));
  write_safetensors(target.partial() / kWeightsFile, adapter_tensors(model, values), Dtype::kF32, {{"format", "pt"}});
  target.commit();
}

}  // namespace mantissa
