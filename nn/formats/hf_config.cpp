// config.json and generation_config.json of Hugging Face <-> ModelConfig. What this framework does not compute is
// refused by name: a model that loads is computed as its authors meant it.
#include "nn/formats/hf_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"

namespace mantissa {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // for output that people read

/// A JSON object with typed access; messages name the file and the path of the key. A null counts as absent, as it does
/// in transformers.
class Object {
 public:
  Object(const Json& json, std::string path) : json_(json), path_(std::move(path)) {
    check(json.is_object(), path_, " must be a JSON object");
  }

  bool contains(const char* key) const { return json_.contains(key); }
  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
  const Json& operator[](const char* key) const { return json_[key]; }
  std::string name(const char* key) const { return path_ + ": " + key; }
  Object object(const char* key) const { return Object(json_[key], name(key)); }

  int64_t integer(const char* key) const {
    check(has(key), path_, ": ", key, " is missing");
    const Json& value = json_[key];
    // get<int64_t> of a larger unsigned would wrap around
    check(value.is_number_integer() && (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX), name(key),
          " must be an integer, got ", shown(value));
    return value.get<int64_t>();
  }
  int64_t integer(const char* key, int64_t absent) const { return has(key) ? integer(key) : absent; }
  int narrow_integer(const char* key, int64_t absent) const {
    const int64_t value = integer(key, absent);
    check(value == int(value), name(key), " does not fit 32 bits: ", value);
    return int(value);
  }
  double number(const char* key, double absent) const {
    if (!has(key)) return absent;
    check(json_[key].is_number(), name(key), " must be a number, got ", shown(json_[key]));
    return json_[key].get<double>();
  }
  bool boolean(const char* key, bool absent) const {
    if (!has(key)) return absent;
    check(json_[key].is_boolean(), name(key), " must be true or false, got ", shown(json_[key]));
    return json_[key].get<bool>();
  }
  std::string string(const char* key, const std::string& absent) const {
    if (!has(key)) return absent;
    check(json_[key].is_string(), name(key), " must be a string, got ", shown(json_[key]));
    return json_[key].get<std::string>();
  }
  /// For keys whose other values change what the model computes.
  void must_be_false(const char* key) const { check(!boolean(key, false), name(key), " = true is not supported"); }

  static std::string shown(const Json& value) {
    std::string text = value.dump();
    if (text.size() > 80) text = text.substr(0, 77) + "...";
    return text;
  }

 private:
  const Json& json_;
  std::string path_;
};

Json parse(const std::string& text, const std::string& where) {
  try {
    check_json(text, where);
    Json json = Json::parse(text);
    const std::string twice = repeated_key(text);
    check(twice.empty(), where, ": key \"", twice, "\" appears twice");
    return json;
  } catch (const Json::exception& e) {
    fail(where, " is not valid JSON: ", e.what());
  }
}

/// Both spellings: "rope_theta" + "rope_scaling" at the top, or one "rope_parameters" object (transformers 5). Where
/// both objects are there "rope_scaling" replaces the other whole, its theta too, unless it is empty.
RopeConfig parse_rope(const Object& top) {
  RopeConfig rope;
  rope.theta = top.number("rope_theta", rope.theta);
  check(top.number("partial_rotary_factor", 1.0) == 1.0, top.name("partial_rotary_factor"),
        " other than 1 is not supported");
  const bool scaling = top.has("rope_scaling") && !top["rope_scaling"].empty();
  const char* key = scaling ? "rope_scaling" : "rope_parameters";
  if (!top.has(key)) return rope;
  const Object o = top.object(key);
  for (const char* layer_type : {"full_attention", "sliding_attention"})
    check(!o.has(layer_type), o.name(layer_type), ": rope that differs between layers is not supported");
  rope.theta = o.number("rope_theta", rope.theta);
  check(o.number("partial_rotary_factor", 1.0) == 1.0, o.name("partial_rotary_factor"),
        " other than 1 is not supported");

  const char* type_key = o.has("rope_type") ? "rope_type" : "type";
  const std::string type = o.string(type_key, "default");
  if (type == "default") return rope;
  check(type == "llama3" || type == "linear", o.name(type_key), " \"", type,
        "\" is not supported; known are default, linear, llama3");
  check(o.has("factor"), o.name("factor"), " is missing");
  rope.factor = o.number("factor", 1.0);
  rope.kind = RopeConfig::Kind::kLinear;
  if (type == "llama3") {
    rope.kind = RopeConfig::Kind::kLlama3;
    for (const char* needed : {"low_freq_factor", "high_freq_factor"})
      check(o.has(needed), o.name(needed), " is missing");
    rope.low_freq_factor = o.number("low_freq_factor", 0);
    rope.high_freq_factor = o.number("high_freq_factor", 0);
    const int64_t otherwise = o.integer("original_max_position_embeddings", top.integer("max_position_embeddings"));
    rope.original_max_positions = top.integer("original_max_position_embeddings", otherwise);
  }
  return rope;
}

/// Refuses a configuration in which some layer attends through a window: here every layer sees everything.
void refuse_sliding_window(const Object& top, int64_t layers) {
  const bool moe = top["model_type"] == "qwen3_moe";  // its window is that of all layers, whatever else the file says
  if (top.has("layer_types")) {
    const Json& types = top["layer_types"];
    check(types.is_array(), top.name("layer_types"), " must be an array, got ", Object::shown(types));
    for (const Json& type : types)
      check(type.is_string() && type.get<std::string>() == "full_attention", top.name("layer_types"),
            " may hold \"full_attention\" only, got ", Object::shown(type));
    check(int64_t(types.size()) == layers, top.name("layer_types"), " must name ", layers, " layers, got ",
          types.size());
    if (!moe) return;
  }
  if (top["model_type"] == "llama") return;  // it has no window, whatever the file says
  // Without the key the window is 4096; null says that there is none.
  const bool window = top.has("sliding_window") || !top.contains("sliding_window");
  const bool used =
      top.boolean("use_sliding_window", false) && window && (moe || top.integer("max_window_layers", 28) < layers);
  check(!used, top.name("use_sliding_window"), " = true is not supported");
}

/// The mixture's keys; transformers' defaults where they are no sizes.
ExpertsConfig parse_experts(const Object& top) {
  ExpertsConfig x;
  x.count = top.integer(top.has("num_experts") || !top.has("num_local_experts") ? "num_experts" : "num_local_experts");
  check(top.integer("num_local_experts", x.count) == x.count, top.name("num_local_experts"), " must equal num_experts ",
        x.count, ", got ", top.integer("num_local_experts", 0));
  x.per_token = top.integer("num_experts_per_tok");
  x.feed_forward = top.integer("moe_intermediate_size");
  x.normalise = top.boolean("norm_topk_prob", false);
  x.step = top.integer("decoder_sparse_step", 1);
  if (top.has("mlp_only_layers")) {
    const Json& list = top["mlp_only_layers"];
    check(list.is_array() && std::all_of(list.begin(), list.end(), [](const Json& i) { return i.is_number_integer(); }),
          top.name("mlp_only_layers"), " must be a list of layer numbers, got ", Object::shown(list));
    x.dense_layers = list.get<std::vector<int64_t>>();
  }
  top.must_be_false("output_router_logits");  // adds a loss that balances the experts
  for (const char* key : {"shared_expert_intermediate_size", "n_shared_experts", "num_shared_experts"})
    check(top.integer(key, 0) == 0, top.name(key), ": shared experts are not supported, got ", top.integer(key, 0));
  return x;
}

/// Appends an id, or a list of them, to `ids`, each once.
void add_token_ids(const Object& top, const char* key, std::vector<int32_t>& ids) {
  if (!top.has(key)) return;
  const Json& value = top[key];
  const Json list = value.is_array() ? value : Json::array({value});
  for (const Json& id : list) {
    check(id.is_number_unsigned() && id.get<uint64_t>() <= INT32_MAX, top.name(key),
          " must be a token id or a list of them, got ", Object::shown(value));
    if (std::find(ids.begin(), ids.end(), id.get<int32_t>()) == ids.end()) ids.push_back(id.get<int32_t>());
  }
}

/// The ids that begin and end a text, of config.json and then of generation_config.json: ends add up, and the last
/// beginning holds.
void read_token_ids(const Object& top, ModelConfig& c) {
  add_token_ids(top, "eos_token_id", c.eos_ids);
  std::vector<int32_t> bos;
  add_token_ids(top, "bos_token_id", bos);
  if (!bos.empty()) c.bos_id = bos.front();
}

/// The way back: null for none, a number for one, a list for several.
OrderedJson token_ids(const std::vector<int32_t>& ids) {
  if (ids.empty()) return {};
  return ids.size() == 1 ? OrderedJson(ids.front()) : OrderedJson(ids);
}
OrderedJson token_ids(int32_t id) {
  return id < 0 ? OrderedJson() : OrderedJson(id);
}

}  // namespace

ModelConfig parse_hf_config(const std::string& config_json, const std::string& where) {
  const Json json = parse(config_json, where);
  const Object top(json, where);
  ModelConfig c;
  check(top.has("model_type"), top.name("model_type"), " is missing");
  c.architecture = top.string("model_type", "");
  const bool moe = c.architecture == "qwen3_moe", qwen3 = c.architecture == "qwen3";
  check(moe || qwen3 || c.architecture == "llama" || c.architecture == "qwen2", top.name("model_type"), " \"",
        c.architecture, "\" is not supported; known are llama, qwen2, qwen3, qwen3_moe");
  const std::string activation = top.string("hidden_act", "silu");
  check(activation == "silu" || activation == "swish", top.name("hidden_act"), " \"", activation,
        "\" is not supported; known is silu");
  check(!top.has("quantization_config"), top.name("quantization_config"), ": quantised weights are not supported");
  c.qkv_bias = c.architecture == "qwen2" || top.boolean("attention_bias", false);  // Qwen2 has them whatever it says
  c.qk_norm = qwen3 || moe;
  top.must_be_false("mlp_bias");
  check(top.boolean("is_causal", true), top.name("is_causal"), " = false is not supported");

  c.vocab_size = top.integer("vocab_size");
  c.width = top.integer("hidden_size");
  c.layers = top.integer("num_hidden_layers");
  c.feed_forward = top.integer("intermediate_size");
  if (moe) c.experts = parse_experts(top);
  c.max_positions = top.integer("max_position_embeddings");
  top.integer("num_attention_heads");  // must be there
  c.heads.query = top.narrow_integer("num_attention_heads", 0);
  check(c.heads.query > 0, top.name("num_attention_heads"), " must be positive, got ", c.heads.query);
  c.heads.kv = top.narrow_integer("num_key_value_heads", c.heads.query);
  if (!qwen3 && !top.has("head_dim"))
    check(c.width % c.heads.query == 0, top.name("num_attention_heads"), " must divide hidden_size ", c.width,
          " when there is no head_dim, got ", c.heads.query);
  c.heads.size = top.narrow_integer("head_dim", qwen3 ? 128 : c.width / c.heads.query);  // transformers' defaults
  c.norm_eps = top.number("rms_norm_eps", 1e-6);
  c.tied_head = top.boolean("tie_word_embeddings", false);
  c.rope = parse_rope(top);
  refuse_sliding_window(top, c.layers);
  read_token_ids(top, c);
  c.validate(where);
  return c;
}

void add_generation_config(ModelConfig& config, const std::string& generation_config_json, const std::string& where) {
  const Json json = parse(generation_config_json, where);
  read_token_ids(Object(json, where), config);
  config.validate(where);
}

std::string format_hf_config(const ModelConfig& c, Dtype dtype) {
  const char* names[] = {"float32", "float16", "bfloat16", "float64"};
  const std::string type = names[int(dtype)];
  OrderedJson scaling;  // null for the default; this spelling is read by transformers 4 and 5 alike
  if (c.rope.kind == RopeConfig::Kind::kLinear) {
    scaling = {{"rope_type", "linear"}, {"factor", c.rope.factor}};
  } else if (c.rope.kind == RopeConfig::Kind::kLlama3) {
    scaling = {{"rope_type", "llama3"},
               {"factor", c.rope.factor},
               {"low_freq_factor", c.rope.low_freq_factor},
               {"high_freq_factor", c.rope.high_freq_factor},
               {"original_max_position_embeddings", c.rope.original_max_positions}};
  }
  const char* class_name = c.architecture == "llama"   ? "LlamaForCausalLM"
                           : c.architecture == "qwen2" ? "Qwen2ForCausalLM"
                           : c.architecture == "qwen3" ? "Qwen3ForCausalLM"
                                                       : "Qwen3MoeForCausalLM";
  OrderedJson json = {{"architectures", OrderedJson::array({class_name})},
                      {"model_type", c.architecture},
                      {"vocab_size", c.vocab_size},
                      {"hidden_size", c.width},
                      {"intermediate_size", c.feed_forward},
                      {"num_hidden_layers", c.layers},
                      {"num_attention_heads", c.heads.query},
                      {"num_key_value_heads", c.heads.kv},
                      {"head_dim", c.heads.size},
                      {"hidden_act", "silu"},
                      {"attention_bias", c.qkv_bias},
                      {"max_position_embeddings", c.max_positions},
                      {"rms_norm_eps", c.norm_eps},
                      {"rope_theta", c.rope.theta},
                      {"rope_scaling", scaling},
                      {"tie_word_embeddings", c.tied_head},
                      {"bos_token_id", token_ids(c.bos_id)},
                      {"eos_token_id", token_ids(c.eos_ids)},
                      {"torch_dtype", type}};
  if (c.experts.count > 0) {
    json["num_experts"] = c.experts.count;
    json["num_experts_per_tok"] = c.experts.per_token;
    json["moe_intermediate_size"] = c.experts.feed_forward;
    json["norm_topk_prob"] = c.experts.normalise;
    json["decoder_sparse_step"] = c.experts.step;
    json["mlp_only_layers"] = c.experts.dense_layers;
    json["output_router_logits"] = false;
  }
  return json.dump(2) + "\n";
}

std::string format_generation_config(const ModelConfig& c) {
  const OrderedJson json = {{"bos_token_id", token_ids(c.bos_id)}, {"eos_token_id", token_ids(c.eos_ids)}};
  return json.dump(2) + "\n";
}

std::string format_tokenizer_config(const ModelConfig& c, const std::string& tokenizer_json) {
  const Json tokenizer = parse(tokenizer_json, "tokenizer.json");
  OrderedJson json = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const auto name = [&](const char* key, int32_t id) {
    for (const Json& added : tokenizer.value("added_tokens", Json::array()))
      if (added.value("id", -1) == id) json[key] = added.value("content", "");
  };
  name("bos_token", c.bos_id);
  if (!c.eos_ids.empty()) name("eos_token", c.eos_ids.front());
  json["model_max_length"] = c.max_positions;
  return json.dump(2) + "\n";
}

std::map<std::string, std::string> parse_weight_map(const std::string& index_json, const std::string& where) {
  const Json json = parse(index_json, where);
  const Object top(json, where);
  check(top.has("weight_map"), top.name("weight_map"), " is missing");
  const Object map = top.object("weight_map");
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : top["weight_map"].items()) {
    check(file.is_string(), map.name(tensor.c_str()), " must be a file name, got ", Object::shown(file));
    files[tensor] = file.get<std::string>();
  }
  return files;
}

std::string parse_chat_template(const std::string& tokenizer_config_json, const std::string& where) {
  const Json json = parse(tokenizer_config_json, where);
  const Object top(json, where);
  if (!top.has("chat_template")) return "";
  const Json& value = top["chat_template"];
  if (value.is_string()) return value.get<std::string>();
  // Several named templates: transformers uses the one called "default".
  check(value.is_array(), top.name("chat_template"), " must be a string or a list of named templates");
  for (const Json& item : value) {
    const Object named(item, top.name("chat_template"));
    if (named.string("name", "") == "default") return named.string("template", "");
  }
  return "";
}

}  // namespace mantissa
