// tokenizer_config.json and its fellows: added and special tokens, classes, prefix spaces. Measured against
// transformers (tests/golden/make_model_files_golden.py).
#include "nn/formats/tokenizer_config.h"

#include "core/error.h"
#include "rl/text/tokenizer.h"
#include "tests/support/message.h"
#include "tests/support/tokenizer_files.h"

namespace mantissa {
namespace {

const std::filesystem::path kSource = MANTISSA_SOURCE_DIR;

TEST(TokenizerConfig, Tokens) {
  TokenizerFiles files;
  files.where = "M";
  files.tokenizer_json = plain_tokenizer(json::array({added_token("<x>", 13)})).dump();
  const auto ids = [&](const std::string& config, const std::string& text) {
    files.tokenizer_config_json = config;
    return Tokenizer::from_files(files)->encode(text);
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(ids("", "<x><y>"), (Ids{13, 5, 8, 6}));
  EXPECT_EQ(ids(R"({"added_tokens_decoder": {"14": {"content": "<y>", "special": true}}})", "<x><y>"), (Ids{13, 14}));
  EXPECT_EQ(ids(R"({"additional_special_tokens": ["<y>", "<x>"]})", "<x><y>"), (Ids{13, 14}));
  EXPECT_EQ(ids(R"({"extra_special_tokens": {"image_token": "<y>"}})", "<x><y>"), (Ids{13, 14}));
  EXPECT_EQ(ids(R"({"pad_token": {"__type": "AddedToken", "content": "<y>"}, "eos_token": "<a>"})", "<y><a>"),
            (Ids{15, 14}));  // eos comes before pad
  EXPECT_EQ(ids(R"({"added_tokens_decoder": {"13": {"content": "<x>", "rstrip": true}}})", "<x>  a"), (Ids{13, 0}));
  EXPECT_THROW(ids(R"({"added_tokens_decoder": {"2": {"content": "<y>"}}})", "a"), Error);  // the id of "c"
  EXPECT_THROW(ids(R"({"added_tokens_decoder": {"x": {"content": "<y>"}}})", "a"), Error);
  EXPECT_THROW(ids(R"({"pad_token": 3})", "a"), Error);
  EXPECT_THROW(ids(R"({"split_special_tokens": true})", "a"), Error);
  EXPECT_EQ(
      ids(R"({"split_special_tokens": false, "image_token": "<a>", "extra_special_tokens": {"image_token": "<y>"}})",
          "<y><a>"),
      (Ids{14, 5, 0, 6}));  // one name, one token
  EXPECT_THROW(ids("{", "a"), Error);
  EXPECT_EQ(message_of([&] { ids(R"({"pad_token": "<x>", "pad_token": "<y>"})", "a"); }),
            "M: tokenizer_config.json: key \"pad_token\" appears twice");
  expect_message(message_of([&] { ids(R"({"added_tokens_decoder": {"2": {"content": "<y>"}}})", "a"); }),
                 {"M: tokenizer_config.json: the added token"});
  files.tokenizer_json = "{}";
  EXPECT_EQ(message_of([&] { ids("", "a"); }), "M: tokenizer.json: the document: key \"model\" is missing");
}

/// tokenizer_config.json, special_tokens_map.json and added_tokens.json of random content against transformers
/// (tests/golden/make_model_files_golden.py).
TEST(TokenizerConfig, AsTransformers) {
  json base;
  int texts = 0;
  for (const json& line : lines_of(kSource / "tests/golden/tokenizer_configs.jsonl")) {
    if (line.is_object()) {
      base = line;
      continue;
    }
    TokenizerFiles files;
    files.where = "M";
    base["added_tokens"] = line[0];
    files.tokenizer_json = base.dump();
    const auto text_of = [&](const char* name) { return line[1].value(name, ""); };
    files.tokenizer_config_json = text_of("tokenizer_config.json");
    files.special_tokens_map_json = text_of("special_tokens_map.json");
    files.added_tokens_json = text_of("added_tokens.json");
    const auto t = Tokenizer::from_files(files);
    for (const json& row : line[2]) {
      EXPECT_EQ(t->encode(row[0].get<std::string>()), row[1].get<std::vector<int32_t>>()) << line;
      ++texts;
    }
  }
  EXPECT_GT(texts, 300);
}

/// The special tokens that a class of transformers has where the files name none.
TEST(TokenizerConfig, ClassesAsTransformers) {
  json base;
  for (const json& line : lines_of(kSource / "tests/golden/tokenizer_classes.jsonl")) {
    if (line.is_object()) {
      base = line;
      continue;
    }
    base["added_tokens"] = line[0];
    TokenizerFiles files;
    files.tokenizer_json = base.dump();
    files.tokenizer_config_json = line[1]["tokenizer_config.json"];
    files.special_tokens_map_json = line[1].value("special_tokens_map.json", "");
    json named = json::object();
    for (const auto& [role, token] : read_tokenizer_config(files).named) named[role] = token;
    EXPECT_EQ(named, line[2]) << line[1];
    const auto t = Tokenizer::from_files(files);
    for (const json& row : line[3])
      EXPECT_EQ(t->encode(row[0].get<std::string>()), row[1].get<std::vector<int32_t>>()) << line;
  }
  TokenizerFiles files;
  files.tokenizer_json = base.dump();
  files.tokenizer_config_json = R"({"tokenizer_class": "LlamaTokenizerFast"})";
  EXPECT_EQ(read_tokenizer_config(files).named.size(), 3u);
  base["added_tokens"].clear();
  base["model"]["vocab"].erase("</s>");
  files.tokenizer_json = base.dump();
  EXPECT_EQ(read_tokenizer_config(files).named.size(), 2u);  // what is no token has no name
}

TEST(TokenizerConfig, PrefixSpacesThatTheFilesDisagreeAbout) {
  const json prepend = {
      {"normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Prepend"}, {"prepend", "▁"}}}}}}};
  const auto metaspace = [](const json& scheme) {
    json stage = {{"type", "Metaspace"}, {"replacement", "▁"}};
    stage.update(scheme);
    return json{{"normalizer", nullptr}, {"pre_tokenizer", stage}};
  };
  const json always = metaspace(json::object()), first = metaspace({{"prepend_scheme", "first"}}),
             never = metaspace({{"prepend_scheme", "never"}});
  const auto notice = [](const json& tokenizer, const std::string& keys, const std::string& name = "LlamaTokenizer") {
    TokenizerFiles files;
    files.where = "M";
    files.tokenizer_json = tokenizer.dump();
    files.tokenizer_config_json = R"({"tokenizer_class": ")" + name + "\"" + keys + "}";
    return prefix_space_notice(files);
  };
  const std::string none = R"(, "add_prefix_space": false)", once = R"(, "legacy": false)";
  for (const json& tokenizer : {prepend, always}) {
    expect_message(notice(tokenizer, none), {"M: tokenizer_config.json: add_prefix_space: false", "each section"});
    expect_message(notice(tokenizer, once, "LlamaTokenizerFast"), {"legacy: false", "tokenizer.json"});
    EXPECT_EQ(notice(tokenizer, R"(, "legacy": true, "add_prefix_space": null)"), "");
    EXPECT_EQ(notice(tokenizer, none, "PreTrainedTokenizerFast"), "");
  }
  expect_message(notice(first, none), {"add_prefix_space: false", "before a text"});
  EXPECT_EQ(notice(first, once), "");
  EXPECT_EQ(notice(never, none + once), "");
  EXPECT_EQ(notice(json::object(), none + once), "");
}

}  // namespace
}  // namespace mantissa
