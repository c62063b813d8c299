#include "nn/model.h"

#include <cstdlib>
#include <cstring>

#include "core/content.h"
#include "core/file.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "nn/formats/gguf.h"
#include "nn/formats/hf.h"
#include "nn/formats/hf_config.h"

namespace mantissa {
namespace fs = std::filesystem;
namespace {

constexpr const char* kBuiltin = "builtin:";
constexpr const char* kRandom = "random:";

/// "builtin:NAME" is the Hugging Face directory NAME in the source tree's builtin/, or in $MANTISSA_BUILTIN.
fs::path resolve(const std::string& path) {
  if (!path.starts_with(kBuiltin)) return path;
  const std::string name = path.substr(std::string(kBuiltin).size());
  const char* moved = std::getenv("MANTISSA_BUILTIN");
  const fs::path root = moved ? fs::path(moved) : fs::path(MANTISSA_SOURCE_DIR) / "builtin";
  check(!name.empty() && name.find('/') == std::string::npos && name != ".." && file_exists(root / name), "model \"",
        path, "\": there is no directory \"", name, "\" in ", root.string(),
        " (the environment variable MANTISSA_BUILTIN names another place)");
  return root / name;
}

/// By its name or its first bytes: downloads often have neither ending nor case.
bool is_gguf(const fs::path& path) {
  return path.extension() == ".gguf" || head_of(path, 4) == "GGUF";
}

/// `path` as a directory that holds a model, with a message for what it is instead.
void check_directory(const fs::path& path) {
  check(file_exists(path), "model \"", path.string(), "\" does not exist; expected a Hugging Face directory, a .gguf ",
        "file, builtin:NAME or random:CONFIG.json");
  std::error_code ignored;
  check(fs::is_directory(path, ignored), "model \"", path.string(),
        "\" is neither a Hugging Face directory nor a GGUF file",
        foreign_content(head_of(path)).empty() ? "" : ": it is " + foreign_content(head_of(path)));
  check(file_exists(path / "config.json") || !file_exists(path / "adapter_config.json"), "model \"", path.string(),
        "\" holds an adapter (adapter_config.json) and no model: name the base model here");
}

/// Registers the parameters and allocates the buffers.
void allocate(Model& model, Dtype compute, bool fp32_master) {
  Weights& w = model.weights;
  Exec exec(*model.backend);
  model.decoder = std::make_unique<Decoder>(model.config, w.layout, *model.backend);
  w.compute = ParamBuffer(exec, w.layout, compute);
  // Weights of fp32 (fp64 in gradient checks) are their own masters.
  if (fp32_master) w.master = is_16bit(compute) ? ParamBuffer(exec, w.layout, Dtype::kF32) : w.compute;
}

std::unique_ptr<Model> from_source(const TensorSource& source, ModelConfig config, TokenizerFiles tokenizer,
                                   Backend& backend, Dtype compute, bool fp32_master) {
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
  allocate(*model, compute, fp32_master);
  const Weights& w = model->weights;
  fill_from_source(source, model->config, model->decoder->params(), w.compute);
  if (w.master.defined() && !w.master.flat().same_as(w.compute.flat()))
    fill_from_source(source, model->config, model->decoder->params(), w.master);
  check_finite(*model, w.compute, source.where());
  return model;
}

}  // namespace

std::unique_ptr<Model> load_model(const std::string& path, Backend& backend, Dtype compute, bool fp32_master) {
  if (path.starts_with(kRandom)) {
    const fs::path file = path.substr(std::string(kRandom).size());
    auto model = random_model(parse_hf_config(read_file(file), file.string()), backend, compute, fp32_master, 0);
    model->tokenizer = read_hf_tokenizer(file.parent_path());
    return model;
  }
  const fs::path place = resolve(path);
  if (is_gguf(place)) {
    GgufModel gguf = open_gguf(place.string());
    return from_source(*gguf.tensors, gguf.config, gguf.tokenizer, backend, compute, fp32_master);
  }
  check_directory(place);
  const ModelConfig config = read_hf_config(place);
  return from_source(*open_hf_weights(place), config, read_hf_tokenizer(place), backend, compute, fp32_master);
}

void check_finite(const Model& model, const ParamBuffer& weights, const std::string& where) {
  Exec exec(*model.backend);
  Tensor index = exec.empty({1}, Dtype::kI32);
  for (const NamedTensor& t : hf_views(model.config, model.decoder->params(), weights)) {
    MANTISSA_RUN(exec, find_nonfinite, index, t.tensor);
    check(to_host<int32_t>(index)[0] < 0, where, ": ", t.name, " holds a value that is not finite in ",
          name_of(weights.dtype()), weights.dtype() == Dtype::kF16 ? " (which ends at 65504)" : "");
  }
}

TokenizerFiles load_tokenizer_files(const std::string& path) {
  if (path.starts_with(kRandom))
    return read_hf_tokenizer(fs::path(path.substr(std::string(kRandom).size())).parent_path());
  const fs::path place = resolve(path);
  if (is_gguf(place)) return open_gguf(place.string()).tokenizer;
  check_directory(place);
  return read_hf_tokenizer(place);
}

std::unique_ptr<Model> random_model(const ModelConfig& config, Backend& backend, Dtype compute, bool fp32_master,
                                    uint64_t seed) {
  config.validate("model");
  auto model = std::make_unique<Model>();
  model->config = config;
  model->tokenizer.where = "random model";
  model->backend = &backend;
  allocate(*model, compute, fp32_master);

  const Weights& w = model->weights;
  const std::vector<ParamInfo>& infos = w.layout.params();
  constexpr size_t kPeriod = 1048573;  // large tensors repeat: drawing them would take longer than a bench
  // A stream per parameter, so that values do not depend on the order in which they are made.
#pragma omp parallel for schedule(dynamic)
  for (size_t p = 0; p < infos.size(); ++p) {
    const ParamInfo& info = infos[p];
    RandomStream random(seed, p);
    std::vector<float> values(size_t(info.shape.numel()));
    const bool norm = info.name.ends_with("norm.weight");
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = norm ? 1.0f : i >= kPeriod ? values[i - kPeriod] : 0.02f * random.normal();
    for (const ParamBuffer* buffer : {&w.compute, &w.master}) {
      if (!buffer->defined()) continue;
      const Tensor& view = (*buffer)[ParamId{int(p)}];
      std::vector<std::byte> rounded(view.bytes());
      convert_floats(values.data(), Dtype::kF32, rounded.data(), view.dtype(), view.numel());
#pragma omp critical
      backend.copy_from_host(view.raw(), rounded.data(), rounded.size());
    }
  }
  return model;
}

void save_hf(const Model& model, const fs::path& directory, Dtype dtype) {
  check(is_floating(dtype), "[save] weights are stored in a floating type, got ", name_of(dtype));
  AtomicDirectory target(directory);
  const auto write = [&](const char* name, const std::string& text) {
    if (!text.empty()) write_file(target.partial() / name, text);
  };
  const ParamBuffer& weights = model.weights.master.defined() ? model.weights.master : model.weights.compute;
  write("config.json", format_hf_config(model.config, dtype));
  write("generation_config.json", format_generation_config(model.config));
  write("tokenizer.json", model.tokenizer.tokenizer_json);
  write("tokenizer_config.json", model.tokenizer.tokenizer_config_json);
  write("special_tokens_map.json", model.tokenizer.special_tokens_map_json);
  write("chat_template.jinja", model.tokenizer.chat_template);
  std::vector<NamedTensor> tensors = hf_views(model.config, model.decoder->params(), weights);
  for (const std::string& name : absent_biases(model.config)) {
    const Heads& heads = model.config.heads;
    const int64_t rows = name.ends_with("o_proj.bias")   ? model.config.width
                         : name.ends_with("q_proj.bias") ? int64_t(heads.query) * heads.size
                                                         : int64_t(heads.kv) * heads.size;
    Tensor zero(cpu(), {rows}, Dtype::kF32);
    std::memset(zero.raw(), 0, zero.bytes());
    tensors.push_back({name, zero});
  }
  write_safetensors(target.partial() / "model.safetensors", tensors, dtype, {{"format", "pt"}});
  target.commit();
}

}  // namespace mantissa
