// The tokenizer: stages around a BPE model. rl/text/stages.h names the order; this file runs it.
#include "rl/text/tokenizer.h"

#include <algorithm>
#include <unordered_set>

#include "core/error.h"
#include "nn/formats/tokenizer_config.h"
#include "rl/text/stages.h"
#include "rl/text/tokenizer_json.h"
#include "rl/text/unicode.h"

namespace mantissa {

namespace {

class StagedTokenizer final : public Tokenizer {
 public:
  StagedTokenizer(const std::string& json, const std::string& where, const TokenizerConfig& config) {
    parse_tokenizer_json(json, where, config, spec_);
    for (const auto& [token, id] : spec_.bpe.vocab) name(id, token);
    for (const AddedToken& token : spec_.added) add(token, where);
    for (const auto* ids : {&spec_.before, &spec_.after})
      for (const int32_t id : *ids)
        check(id < vocab_size(), where, ": post_processor: ids must be below ", vocab_size(), ": got ", id);
  }

  std::vector<int32_t> encode(std::string_view text, bool special) const override {
    std::vector<int32_t> ids;
    if (special) ids = spec_.before;
    const std::string valid = to_valid_utf8(text);
    for (const auto& section : before_normalizing_.split(valid)) {
      if (section.id >= 0) {
        ids.push_back(section.id);
        continue;
      }
      const auto [begin, end] = section.span;
      const Piece normal = normalize(spec_.normalizers, valid.substr(begin, end - begin), begin == 0);
      for (const auto& part : after_normalizing_.split(normal.text)) {
        if (part.id >= 0) {
          ids.push_back(part.id);
          continue;
        }
        for (const Piece& piece : pre_tokenize(spec_.pre_tokenizers, normal.part(part.span.begin, part.span.end)))
          spec_.bpe.encode(piece.text, ids);
      }
    }
    if (special) ids.insert(ids.end(), spec_.after.begin(), spec_.after.end());
    return ids;
  }

  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const override {
    std::vector<std::string> tokens;
    for (const int32_t id : ids) {
      check(id >= 0, "[decode] ids must not be negative: got ", id);
      if (id >= vocab_size() || !named_[size_t(id)]) continue;
      const std::string& token = names_[size_t(id)];
      if (!skip_special || !special_.contains(token)) tokens.push_back(token);
    }
    if (spec_.has_decoder) return decode_tokens(spec_.decoders, std::move(tokens));
    std::string out;
    for (size_t i = 0; i < tokens.size(); ++i) (i == 0 ? out : out += ' ') += tokens[i];
    return out;
  }

  int64_t vocab_size() const override { return int64_t(names_.size()); }

  int32_t id_of(std::string_view token) const override {
    const auto it = added_ids_.find(token);
    return it != added_ids_.end() ? it->second : spec_.bpe.id_of(token);
  }

 private:
  void add(const AddedToken& token, const std::string& where) {
    added_ids_.emplace(token.content, token.id);
    if (token.special) special_.insert(token.content);
    if (!token.normalized) {
      name(token.id, token.content);
      before_normalizing_.add(token, token.content);
      return;
    }
    const std::string key = normalize(spec_.normalizers, token.content, true).text;
    check(!key.empty(), where, ": added_tokens: the normalizer leaves nothing of \"", token.content,
          "\", which says \"normalized\": true: where it stands in a text cannot be seen");
    const auto [other, fresh] = normalized_.emplace(key, token.content);
    check(fresh, where, ": added_tokens: the normalizer makes \"", other->second, "\" and \"", token.content,
          "\" alike (\"", key, "\"): which of them a text means cannot be told");
    name(token.id, key);  // the library decodes it in its normalized form too
    after_normalizing_.add(token, key);
  }

  void name(int32_t id, const std::string& token) {
    if (size_t(id) >= names_.size()) {
      names_.resize(size_t(id) + 1);
      named_.resize(size_t(id) + 1);
    }
    names_[size_t(id)] = token;
    named_[size_t(id)] = true;
  }

  TokenizerSpec spec_;
  AddedTokenMatcher before_normalizing_, after_normalizing_;
  std::vector<std::string> names_;  // id -> token
  std::vector<bool> named_;         // false: a hole
  StringMap<int32_t> added_ids_;
  StringMap<std::string> normalized_;  // what the text shows for an added token -> the token
  std::unordered_set<std::string> special_;
};

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::from_files(const TokenizerFiles& files) {
  check(!files.tokenizer_json.empty(), files.where, ": has no tokenizer (tokenizer.json)");
  return std::make_unique<StagedTokenizer>(files.tokenizer_json, files.where + ": tokenizer.json",
                                           read_tokenizer_config(files));
}

std::unique_ptr<Tokenizer> Tokenizer::from_json(const std::string& tokenizer_json, const std::string& where) {
  return std::make_unique<StagedTokenizer>(tokenizer_json, where, TokenizerConfig());
}

}  // namespace mantissa
