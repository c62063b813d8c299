// Reads tokenizer.json. Whatever the file asks for that is not done here is an error with its JSON path, never a silent
// difference.
#include "rl/text/tokenizer_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "nn/formats/added_tokens.h"
#include "rl/text/unicode.h"

namespace mantissa {

namespace {

using nlohmann::json;

// Ids index tables: holes are allowed (reserved ids), a lying id must not allocate much.
constexpr int64_t kHoles = 1 << 16;
constexpr int kMaxNesting = 8;

constexpr const char* kGpt2Pattern = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// A value with its path, for messages.
struct Node {
  const json* value;
  std::string path;
  const std::string* where;

  template <class... Parts>
  [[noreturn]] void error(const Parts&... parts) const {
    fail(*where, ": ", path.empty() ? "the document" : path, ": ", parts...);
  }
  std::string shown() const {
    // Printing recurses: a hostile nesting must not get there.
    if (value->is_structured()) return str("an ", value->type_name(), " of ", value->size());
    std::string text = value->dump(-1, ' ', false, json::error_handler_t::replace);
    if (text.size() > 80) text = text.substr(0, 77) + "...";
    return text;
  }
  Node must(bool rule, const char* text) const {
    if (!rule) error(text, ": got ", shown());
    return *this;
  }
  bool has(const char* key) const {
    const auto it = value->find(key);
    return it != value->end() && !it->is_null();
  }
  Node at(const char* key) const {
    must(value->is_object(), "must be an object");
    const auto it = value->find(key);
    if (it == value->end()) error("key \"", key, "\" is missing");
    return {&*it, path.empty() ? key : path + "." + key, where};
  }
  Node at(size_t i) const { return {&(*value)[i], str(path, '[', i, ']'), where}; }
  size_t size() const { return must(value->is_array(), "must be an array").value->size(); }
  std::string text() const { return must(value->is_string(), "must be a string").value->get<std::string>(); }
  std::string character() const {
    const std::string one = text();
    must(!one.empty() && one.size() == utf8_length(static_cast<unsigned char>(one[0])), "must be one character");
    return one;
  }
  bool flag(const char* key, bool otherwise) const {
    return has(key) ? at(key).must(value->at(key).is_boolean(), "must be true or false").value->get<bool>() : otherwise;
  }
  int64_t integer() const {
    return must(value->is_number_integer() && *value >= 0 && *value <= 1'000'000'000,
                "must be an integer from 0 to 1e9")
        .value->get<int64_t>();
  }
};

/// Calls `one(node, type)` for each stage, going into "Sequence" stages, whose members are under `members`.
template <class F>
void for_each_stage(const Node& node, const char* members, const F& one, int depth = 0) {
  const std::string type = node.at("type").text();
  if (type != "Sequence") {
    one(node, type);
    return;
  }
  if (depth == kMaxNesting) node.error("sequences nest at most ", kMaxNesting, " deep");
  const Node list = node.at(members);
  for (size_t i = 0; i < list.size(); ++i) for_each_stage(list.at(i), members, one, depth + 1);
}

[[noreturn]] void unknown_type(const Node& node, const char* what, const std::string& type, const char* known) {
  node.at("type").error("unknown ", what, " \"", type, "\" (known: ", known, ")");
}

Pattern regex_pattern(const std::string& pattern, const Node& node) {
  return {{}, std::make_shared<Regex>(pattern, *node.where + ": " + node.path)};
}

Pattern read_pattern(const Node& node) {
  node.must(node.value->is_object() && (node.has("String") || node.has("Regex")), "must hold \"String\" or \"Regex\"");
  if (node.has("String") && !node.at("String").text().empty()) return {node.at("String").text(), nullptr};
  if (node.has("String")) return regex_pattern("", node.at("String"));  // it matches everywhere
  return regex_pattern(node.at("Regex").text(), node.at("Regex"));
}

void read_normalizer(const Node& node, TokenizerSpec& spec) {
  for_each_stage(node, "normalizers", [&](const Node& n, const std::string& type) {
    if (type == "NFC")
      spec.normalizers.push_back({Normalizer::Kind::kNfc, {}, {}});
    else if (type == "Prepend")
      spec.normalizers.push_back({Normalizer::Kind::kPrepend, {}, n.at("prepend").text()});
    else if (type == "Replace")
      spec.normalizers.push_back({Normalizer::Kind::kReplace, read_pattern(n.at("pattern")), n.at("content").text()});
    else
      unknown_type(n, "normalizer", type, "NFC, Prepend, Replace, Sequence");
  });
}

SplitBehavior read_behavior(const Node& node) {
  const std::string name = node.text();
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  node.error("must be Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous: got ", node.shown());
}

/// Metaspace's scheme, in the new spelling and in the old one (add_prefix_space).
PreTokenizer::Prepend read_prepend_scheme(const Node& node) {
  if (!node.has("prepend_scheme"))
    return node.flag("add_prefix_space", true) ? PreTokenizer::Prepend::kAlways : PreTokenizer::Prepend::kNever;
  const std::string scheme = node.at("prepend_scheme").text();
  node.must(scheme == "never" || node.flag("add_prefix_space", true),
            "must not say \"add_prefix_space\": false beside a prepend_scheme that adds one");
  if (scheme == "always") return PreTokenizer::Prepend::kAlways;
  if (scheme == "first") return PreTokenizer::Prepend::kFirst;
  if (scheme == "never") return PreTokenizer::Prepend::kNever;
  node.at("prepend_scheme").error("must be always, first or never: got \"", scheme, '"');
}

void read_pre_tokenizer(const Node& node, TokenizerSpec& spec) {
  for_each_stage(node, "pretokenizers", [&](const Node& n, const std::string& type) {
    PreTokenizer step{.kind = PreTokenizer::Kind::kSplit, .pattern = {}, .mark = {}};
    if (type == "Split") {
      step.pattern = read_pattern(n.at("pattern"));
      step.behavior = read_behavior(n.at("behavior"));
      step.invert = n.flag("invert", false);
    } else if (type == "Digits") {
      step.pattern = regex_pattern("\\p{N}", n);
      step.behavior = n.flag("individual_digits", false) ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
    } else if (type == "ByteLevel") {
      step.kind = PreTokenizer::Kind::kByteLevel;
      step.split = n.flag("use_regex", true);
      if (step.split) step.pattern = regex_pattern(kGpt2Pattern, n);
      if (n.flag("add_prefix_space", true)) step.prepend = PreTokenizer::Prepend::kAlways;
    } else if (type == "Metaspace") {
      step.kind = PreTokenizer::Kind::kMetaspace;
      step.mark = step.pattern.literal = n.at("replacement").character();
      step.behavior = SplitBehavior::kMergedWithNext;
      step.split = n.flag("split", true);
      step.prepend = read_prepend_scheme(n);
    } else {
      unknown_type(n, "pre-tokenizer", type, "Split, Digits, ByteLevel, Metaspace, Sequence");
    }
    spec.pre_tokenizers.push_back(std::move(step));
  });
}

void read_template(const Node& n, TokenizerSpec& spec) {
  if (!spec.before.empty() || !spec.after.empty())
    n.error("a TemplateProcessing behind another one that adds tokens is not supported");  // it would read "pair"
  const Node items = n.at("single");
  std::vector<int32_t> before, after;
  bool seen = false;
  for (size_t i = 0; i < items.size(); ++i) {
    const Node item = items.at(i);
    item.must(item.value->is_object() && (item.has("Sequence") || item.has("SpecialToken")),
              "must hold \"Sequence\" or \"SpecialToken\"");
    if (item.has("Sequence")) {
      item.must(!seen && item.at("Sequence").at("id").text() == "A", "must be sequence A, once");
      seen = true;
      continue;
    }
    const std::string name = item.at("SpecialToken").at("id").text();
    const Node ids = n.at("special_tokens").at(name.c_str()).at("ids");
    for (size_t k = 0; k < ids.size(); ++k) (seen ? after : before).push_back(int32_t(ids.at(k).integer()));
  }
  items.must(seen, "must hold sequence A");
  spec.before = std::move(before);
  spec.after = std::move(after);
}

void read_post_processor(const Node& node, TokenizerSpec& spec) {
  for_each_stage(node, "processors", [&](const Node& n, const std::string& type) {
    if (type == "TemplateProcessing")
      read_template(n, spec);
    else if (type != "ByteLevel")  // ByteLevel only changes offsets, which nobody asks for here
      unknown_type(n, "post-processor", type, "TemplateProcessing, ByteLevel, Sequence");
  });
}

void read_decoder(const Node& node, TokenizerSpec& spec) {
  spec.has_decoder = true;
  for_each_stage(node, "decoders", [&](const Node& n, const std::string& type) {
    DecodeStep step{.kind = DecodeStep::Kind::kByteLevel, .pattern = {}, .content = {}};
    if (type == "Replace") {
      step.kind = DecodeStep::Kind::kReplace;
      step.pattern = read_pattern(n.at("pattern"));
      step.content = n.at("content").text();
    } else if (type == "ByteFallback") {
      step.kind = DecodeStep::Kind::kByteFallback;
    } else if (type == "Fuse") {
      step.kind = DecodeStep::Kind::kFuse;
    } else if (type == "Strip") {
      step.kind = DecodeStep::Kind::kStrip;
      step.content = n.at("content").character();
      step.start = size_t(n.at("start").integer());
      step.stop = size_t(n.at("stop").integer());
    } else if (type == "Metaspace") {
      step.kind = DecodeStep::Kind::kMetaspace;
      step.content = n.at("replacement").character();
      step.drop_first = read_prepend_scheme(n) != PreTokenizer::Prepend::kNever;
    } else if (type != "ByteLevel") {
      unknown_type(n, "decoder", type, "ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, Sequence");
    }
    spec.decoders.push_back(std::move(step));
  });
}

void read_vocab(const Node& vocab, StringMap<int32_t>& out) {
  vocab.must(vocab.value->is_object() && !vocab.value->empty(), "must be an object with entries");
  const int64_t limit = 2 * int64_t(vocab.value->size()) + kHoles;
  out.reserve(vocab.value->size());
  for (const auto& [token, id] : vocab.value->items()) {
    const bool good = id.is_number_integer() && id >= 0 && id < limit;
    if (!good)
      vocab.error("the id of \"", token, "\" must be an integer from 0 to ", limit - 1, ": got ",
                  Node{&id, {}, vocab.where}.shown());
    out.emplace(token, id.get<int32_t>());
  }
}

void read_merges(const Node& merges, Bpe& bpe) {
  bpe.reserve_merges(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const json& m = (*merges.value)[i];
    const std::string *line = m.is_string() ? m.get_ptr<const std::string*>() : nullptr, *left = nullptr,
                      *right = nullptr;
    std::string_view a, b;
    if (line != nullptr && line->starts_with("#version")) continue;  // the first line of an old merges.txt
    if (line != nullptr) {
      const size_t space = line->find(' ');
      if (space == std::string::npos || line->find(' ', space + 1) != std::string::npos)
        merges.at(i).error("must be two tokens with one space between: got ", merges.at(i).shown());
      a = std::string_view(*line).substr(0, space);
      b = std::string_view(*line).substr(space + 1);
    } else {
      if (m.is_array() && m.size() == 2) {
        left = m[0].get_ptr<const std::string*>();
        right = m[1].get_ptr<const std::string*>();
      }
      if (left == nullptr || right == nullptr)
        merges.at(i).error("must be \"a b\" or [\"a\", \"b\"]: got ", merges.at(i).shown());
      a = *left;
      b = *right;
    }
    if (!bpe.add_merge(a, b))
      merges.at(i).error("both parts and their union must be in model.vocab: got ", merges.at(i).shown());
  }
}

void read_model(const Node& model, Bpe& bpe) {
  model.must(model.value->is_object(), "must be an object");
  if (model.has("type") && model.at("type").text() != "BPE")
    unknown_type(model, "model", model.at("type").text(), "BPE");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (model.has(key)) model.at(key).must(model.at(key).text().empty(), "is supported only when empty");
  if (model.has("dropout"))
    model.at("dropout").must(*model.at("dropout").value == 0, "is supported only when null or 0");
  read_vocab(model.at("vocab"), bpe.vocab);
  read_merges(model.at("merges"), bpe);
  bpe.fuse_unk = model.flag("fuse_unk", false);
  bpe.byte_fallback = model.flag("byte_fallback", false);
  bpe.ignore_merges = model.flag("ignore_merges", false);
  if (model.has("unk_token")) {
    bpe.unk_token = model.at("unk_token").text();
    bpe.unk = bpe.id_of(bpe.unk_token);
  }
}

void read_added_tokens(const Node& list, AddedTokens& tokens) {
  for (size_t i = 0; i < list.size(); ++i) {
    const Node n = list.at(i);
    AddedToken token;
    token.content = n.at("content").text();
    token.special = n.flag("special", false);
    token.normalized = n.flag("normalized", !token.special);
    token.single_word = n.flag("single_word", false);
    token.lstrip = n.flag("lstrip", false);
    token.rstrip = n.flag("rstrip", false);
    token.id = int32_t(n.at("id").integer());
    tokens.add(std::move(token), *n.where + ": " + n.path);
  }
}

}  // namespace

void parse_tokenizer_json(const std::string& text, const std::string& where, const TokenizerConfig& config,
                          TokenizerSpec& spec) {
  json document;
  try {
    document = json::parse(text);
  } catch (const json::exception& e) {
    fail(where, ": not valid JSON: ", e.what());
  }
  const std::string twice = repeated_key(text);
  check(twice.empty(), where, ": key \"", twice, "\" appears twice");
  const Node root{&document, "", &where};
  root.must(document.is_object(), "must be an object");
  read_model(root.at("model"), spec.bpe);
  AddedTokens added(spec.bpe.vocab);
  if (root.has("added_tokens")) read_added_tokens(root.at("added_tokens"), added);
  added.add_configured(config);
  spec.added = added.list();
  if (root.has("normalizer")) read_normalizer(root.at("normalizer"), spec);
  if (root.has("pre_tokenizer")) read_pre_tokenizer(root.at("pre_tokenizer"), spec);
  if (root.has("post_processor")) read_post_processor(root.at("post_processor"), spec);
  if (root.has("decoder")) read_decoder(root.at("decoder"), spec);
}

}  // namespace mantissa
