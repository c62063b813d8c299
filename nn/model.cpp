#include "nn/model.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "autograd/nonfinite.h"
#include "core/content.h"
#include "core/file.h"
#include "core/parallel.h"
#include "core/random.h"
#include "core/registry.h"
#include "core/rehearsal.h"
#include "core/safetensors.h"
#include "nn/checkpoint.h"
#include "nn/formats/gguf.h"
#include "nn/formats/hf_config.h"
#include "nn/sharding.h"

namespace mantissa {
namespace fs = std::filesystem;
namespace {

constexpr const char* kBuiltin = "builtin:";
constexpr const char* kRandom = "random:";
constexpr const char* kKey = "model.path: \"";  // begins messages about the place itself

/// Where builtin: models are: $MANTISSA_BUILTIN, beside an installed program, or in the source tree.
fs::path builtin_root() {
  if (const char* moved = std::getenv("MANTISSA_BUILTIN")) return moved;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path installed = program.parent_path().parent_path() / "share/mantissa/builtin";
  return !error && fs::is_directory(installed, error) ? installed : fs::path(MANTISSA_SOURCE_DIR) / "builtin";
}

/// "builtin:NAME" is the Hugging Face directory NAME there.
fs::path resolve(const std::string& path) {
  if (!path.starts_with(kBuiltin)) return path;
  const std::string name = path.substr(std::string(kBuiltin).size());
  const fs::path root = builtin_root();
  check(!name.empty() && name.find('/') == std::string::npos && name != ".." && file_exists(root / name), kKey, path,
        "\": there is no directory \"", name, "\" in ", root.string(),
        " (the environment variable MANTISSA_BUILTIN names another place)");
  return root / name;
}

/// By its name or its first bytes: downloads often have neither ending nor case.
bool is_gguf(const fs::path& path) {
  return path.extension() == ".gguf" || head_of(path, 4) == "GGUF";
}

/// `path` as a directory that holds a model, with a message for what it is instead.
void check_directory(const fs::path& path) {
  check(file_exists(path), kKey, path.string(), "\" does not exist; expected a Hugging Face directory, a .gguf ",
        "file, a checkpoint RUN/checkpoints/step_N, builtin:NAME or random:CONFIG.json");
  std::error_code ignored;
  const std::string found = foreign_content(head_of(path));
  const bool part = path.extension() == ".safetensors" || path.extension() == ".json";
  check(fs::is_directory(path, ignored), kKey, path.string(), "\" is neither a Hugging Face directory nor a GGUF file",
        !found.empty() ? ": it is " + found
        : part         ? ": name the directory that holds it"
                       : "");
  if (file_exists(path / "config.json")) return;
  for (const char* adapter : {"adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"})
    check(!file_exists(path / adapter), kKey, path.string(), "\" holds an adapter (", adapter,
          ") and no model: name the base model here, and this one by lora.init");
  const std::string name = path.string();
  if (file_exists(path / "config.yaml") && fs::is_directory(path / "checkpoints", ignored))
    fail(kKey, name, "\" is the directory of a run and no model itself: name ",
         file_exists(path / "adapter") ? "the base model here, and " + name + "/adapter by lora.init"
                                       : name + "/model (the end of the run) or " + name + "/checkpoints/step_N");
  if (file_exists(path / "tokenizer.json")) return;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, ignored))
    check(!is_gguf(entry.path()), kKey, path.string(),
          "\" is no Hugging Face directory (it has no config.json): ", "name its file ",
          entry.path().filename().string(), " itself");
}

/// Registers the parameters and allocates the buffers.
void allocate(Model& model, Dtype compute, bool fp32_master, Shard shard, Placement placement, Sharding sharding) {
  ParamSet& p = model.params;
  model.decoder = std::make_unique<Decoder>(model.config, p.layout, *model.backend, shard);
  p.allocate(*model.backend, compute, fp32_master, shard, placement, sharding);
}

std::unique_ptr<Model> from_source(const TensorSource& source, ModelConfig config, TokenizerFiles tokenizer,
                                   Backend& backend, Dtype compute, bool fp32_master, Shard shard, Placement placement,
                                   Sharding sharding) {
  const bool untied = untie_other_head(source, config);
  {
    ParamLayout layout;
    const DecoderParams params(config, layout);
    check_hf_source(source, config, layout, params);
  }
  auto model = std::make_unique<Model>();
  if (untied)
    model->notices.push_back(source.where() +
                             ": config.json ties the head to the embedding, but lm_head.weight differs "
                             "from it: the head is kept and not tied");
  model->config = std::move(config);
  model->tokenizer = std::move(tokenizer);
  model->backend = &backend;
  allocate(*model, compute, fp32_master, shard, placement, sharding);
  if (is_rehearsal(backend)) return model;
  const ParamSet& p = model->params;
  fill_from_source(source, model->config, model->decoder->params(), p.layout, p.compute);
  if (p.master.defined() && !p.master.flat().same_as(p.compute.flat()))
    fill_from_source(source, model->config, model->decoder->params(), p.layout, p.master);
  check_finite(*model, p.compute, source.where());
  return model;
}

/// The masters of a run's checkpoint.
std::unique_ptr<Model> from_checkpoint(const fs::path& place, Backend& backend, Dtype compute, bool fp32_master,
                                       Shard shard, Placement placement, Sharding sharding) {
  check(file_exists(place / "config.json"), place.string(),
        ": this checkpoint was written by an earlier version, which did not make it a model; resume the run to save "
        "another");
  verify_model_files(place);
  auto model = std::make_unique<Model>();
  model->config = read_hf_config(place);
  model->tokenizer = read_hf_tokenizer(place);
  model->backend = &backend;
  allocate(*model, compute, fp32_master, shard, placement, sharding);
  if (is_rehearsal(backend)) return model;
  const ParamSet& w = model->params;
  read_checkpoint_weights(place, w.layout, w.compute);
  if (w.master.defined() && !w.master.flat().same_as(w.compute.flat()))
    read_checkpoint_weights(place, w.layout, w.master);
  check_finite(*model, w.compute, place.string());
  return model;
}

}  // namespace

namespace {

std::unique_ptr<Model> open_model(const std::string& path, Backend& backend, Dtype compute, bool fp32_master,
                                  Shard shard, Placement placement, Sharding sharding) {
  if (path.starts_with(kRandom)) {
    const fs::path file = path.substr(std::string(kRandom).size());
    check(file_exists(file), kKey, path, "\": there is no such file");
    auto model = random_model(parse_hf_config(read_file(file), file.string()), backend, compute, fp32_master, 0, shard,
                              placement, sharding);
    model->tokenizer = read_hf_tokenizer(file.parent_path());
    return model;
  }
  const fs::path place = resolve(path);
  if (is_gguf(place)) {
    check(file_exists(place), kKey, path, "\": there is no such file");
    GgufModel gguf = open_gguf(place.string());
    return from_source(*gguf.tensors, gguf.config, gguf.tokenizer, backend, compute, fp32_master, shard, placement,
                       sharding);
  }
  check_directory(place);
  if (is_checkpoint(place)) return from_checkpoint(place, backend, compute, fp32_master, shard, placement, sharding);
  check(file_exists(place / "config.json"), kKey, path, "\" is no Hugging Face directory: it has no config.json");
  const ModelConfig config = read_hf_config(place);
  return from_source(*open_hf_weights(place), config, read_hf_tokenizer(place), backend, compute, fp32_master, shard,
                     placement, sharding);
}

}  // namespace

std::unique_ptr<Model> load_model(const std::string& path, Backend& backend, Dtype compute, bool fp32_master,
                                  Shard shard, Placement placement, Sharding sharding) {
  auto model = open_model(path, backend, compute, fp32_master, shard, placement, sharding);
  model->path = path;
  return model;
}

void check_finite(const Model& model, const ParamBuffer& weights, const std::string& where) {
  if (is_rehearsal(*model.backend)) return;
  Exec exec(*model.backend);
  const ParamLayout& layout = model.params.layout;
  for (const HfTensor& t : hf_tensors(model.config, model.decoder->params())) {
    const Tensor values = weights.rows(layout, t.param, t.begin, t.end);
    check(position_of_nonfinite(exec, values) < 0, where, ": ", t.name, " holds a value that is not finite in ",
          name_of(weights.dtype()), weights.dtype() == Dtype::kF16 ? " (which ends at 65504)" : "");
  }
}

TokenizerFiles load_tokenizer_files(const std::string& path) {
  if (path.starts_with(kRandom))
    return read_hf_tokenizer(fs::path(path.substr(std::string(kRandom).size())).parent_path());
  const fs::path place = resolve(path);
  if (is_gguf(place)) {
    check(file_exists(place), kKey, path, "\": there is no such file");
    return open_gguf(place.string()).tokenizer;
  }
  check_directory(place);
  if (is_checkpoint(place)) verify_model_files(place);
  return read_hf_tokenizer(place);
}

namespace {

/// The first `count` elements again and again, to the end.
void repeat(const Tensor& t, int64_t count) {
  const Tensor flat = t.view({t.numel()});
  for (int64_t have = count; have < flat.numel(); have *= 2) {
    const Tensor next = flat.slice(have, std::min(2 * have, flat.numel()));
    t.backend().copy(next.raw(), flat.raw(), next.bytes());
  }
}

}  // namespace

std::unique_ptr<Model> random_model(const ModelConfig& config, Backend& backend, Dtype compute, bool fp32_master,
                                    uint64_t seed, Shard shard, Placement placement, Sharding sharding) {
  config.validate("model");
  auto model = std::make_unique<Model>();
  model->config = config;
  model->tokenizer.where = "random model";
  model->backend = &backend;
  allocate(*model, compute, fp32_master, shard, placement, sharding);
  if (is_rehearsal(backend)) return model;

  const ParamSet& set = model->params;
  const std::vector<ParamInfo>& infos = set.layout.params();
  constexpr int64_t kPeriod = 1048573;  // large tensors repeat: drawing them would take longer than a bench
  // A stream per parameter, so that values do not depend on the order in which they are made.
  std::mutex copying;
  parallel_tasks(int64_t(infos.size()), [&](int64_t p) {
    const ParamInfo& info = infos[size_t(p)];
    RandomStream random(seed, uint64_t(p));
    std::vector<float> values(size_t(std::min(info.whole_shape().numel(), kPeriod)));
    const bool norm = info.name.ends_with("norm.weight");
    for (float& v : values) v = norm ? 1.0f : 0.02f * random.normal();
    // Those that are here come first.
    const int64_t before = info.offset - info.element(0);
    std::rotate(values.begin(), values.begin() + before % int64_t(values.size()), values.end());
    values.resize(std::min(values.size(), size_t(info.shape.numel())));
    for (const ParamBuffer* buffer : {&set.compute, &set.master}) {
      if (!buffer->defined()) continue;
      const bool whole = buffer->shard().whole();  // then it is repeated where it lies
      Tensor rounded(cpu(), {whole ? int64_t(values.size()) : info.shape.numel()}, buffer->dtype());
      convert_floats(values.data(), Dtype::kF32, rounded.raw(), rounded.dtype(), int64_t(values.size()));
      if (!whole) repeat(rounded, int64_t(values.size()));
      const std::lock_guard lock(copying);
      buffer->store(set.layout, ParamId{int(p)}, info.first_row, rounded);
      if (whole) repeat((*buffer)[ParamId{int(p)}], int64_t(values.size()));
    }
  });
  return model;
}

namespace {

/// What transformers' form of the model has and the model has not, as zeros.
std::vector<NamedTensor> zero_biases(const ModelConfig& config) {
  std::vector<NamedTensor> biases;
  for (const std::string& name : absent_biases(config)) {
    const Heads& heads = config.heads;
    const int64_t rows = name.ends_with("o_proj.bias")   ? config.width
                         : name.ends_with("q_proj.bias") ? int64_t(heads.query) * heads.size
                                                         : int64_t(heads.kv) * heads.size;
    Tensor zero(cpu(), {rows}, Dtype::kF32);
    std::memset(zero.raw(), 0, zero.bytes());
    biases.push_back({name, zero});
  }
  return biases;
}

}  // namespace

std::map<std::string, std::string> model_files(const Model& model, Dtype dtype) {
  const TokenizerFiles& tokenizer = model.tokenizer;
  const bool described = !tokenizer.tokenizer_config_json.empty() || tokenizer.tokenizer_json.empty();
  std::map<std::string, std::string> files = {
      {"config.json", format_hf_config(model.config, dtype)},
      {"generation_config.json", format_generation_config(model.config)},
      {"tokenizer.json", tokenizer.tokenizer_json},
      {"tokenizer_config.json",
       described ? tokenizer.tokenizer_config_json : format_tokenizer_config(model.config, tokenizer.tokenizer_json)},
      {"added_tokens.json", tokenizer.added_tokens_json},
      {"special_tokens_map.json", tokenizer.special_tokens_map_json},
      {"chat_template.jinja", tokenizer.chat_template}};
  std::erase_if(files, [](const auto& file) { return file.second.empty(); });
  return files;
}

void save_hf(const Model& model, const fs::path& directory, Dtype dtype, Comm& comm, int64_t file_bytes) {
  check(is_floating(dtype), "[save] weights are stored in a floating type, got ", name_of(dtype));
  const ParamSet& set = model.params;
  const ParamLayout layout = set.layout.whole();
  const ParamBuffer& weights = set.master.defined() ? set.master : set.compute;
  std::vector<HfTensor> tensors = hf_tensors(model.config, model.decoder->params());
  std::ranges::stable_sort(tensors, {}, [&](const HfTensor& t) { return layout[t.param].unit; });
  const std::vector<NamedTensor> absent = zero_biases(model.config);

  std::optional<AtomicDirectory> target;
  std::optional<HfWeightsWriter> writer;
  if (comm.main()) {
    target.emplace(directory);
    for (const auto& [name, text] : model_files(model, dtype)) write_file(target->partial() / name, text);
    std::vector<TensorSpec> specs;
    for (const HfTensor& t : tensors) specs.push_back({t.name, rows_shape(layout[t.param], t), dtype});
    for (const NamedTensor& t : absent) specs.push_back({t.name, t.tensor.shape(), dtype});
    writer.emplace(target->partial(), std::move(specs), file_bytes);
  }
  Exec exec(*model.backend);
  UnitGather gather(exec, comm, set);
  auto next = tensors.begin();
  for (int unit = 0; unit < layout.units(); ++unit) {
    const Tensor whole = gather(weights, unit);
    for (; writer && next != tensors.end() && layout[next->param].unit == unit; ++next)
      writer->write(layout.within(whole, next->param).slice(next->begin, next->end));
  }
  if (!writer) return;
  for (const NamedTensor& t : absent) writer->write(t.tensor);
  writer->commit();
  target->commit();
}

}  // namespace mantissa
