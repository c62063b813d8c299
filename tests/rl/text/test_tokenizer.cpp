// Tokenizers against the `tokenizers` library (tests/golden/make_tokenizer_golden.py), bad files, long input, threads.
#include "rl/text/tokenizer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.h"
#include "rl/text/regex.h"
#include "rl/text/unicode.h"

namespace mantissa {
namespace {

using nlohmann::json;
const std::filesystem::path kSource = MANTISSA_SOURCE_DIR;

std::vector<json> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  std::vector<json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line));
  return lines;
}

json small_tokenizer(const std::string& name) {
  for (const json& line : lines_of(kSource / "tests/golden/tokenizers.jsonl"))
    if (line["name"] == name) return json::parse(line["json"].get<std::string>());
  throw std::runtime_error(name);
}

std::string error_of(const std::string& text) {
  try {
    Tokenizer::from_json(text, "F");
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(Tokenizer, EqualsTheLibraryOnEachFamily) {
  int cases = 0;
  for (const json& line : lines_of(kSource / "tests/golden/tokenizers.jsonl")) {
    const std::string name = line["name"];
    const auto t = Tokenizer::from_json(line["json"].get<std::string>(), name);
    for (const json& c : line["cases"]) {
      const std::string text = c[0], decoded = c[2].is_string() ? c[2] : c[0],
                        skipped = c[3].is_string() ? c[3].get<std::string>() : decoded;
      const std::vector<int32_t> ids = c[1];
      EXPECT_EQ(t->encode(text), ids) << name << ": " << c[0];
      EXPECT_EQ(t->decode(ids), decoded) << name << ": " << c[0];
      EXPECT_EQ(t->decode(ids, true), skipped) << name << ": " << c[0];
      ++cases;
    }
    for (const json& c : line["decodes"]) {
      const std::vector<int32_t> ids = c[0];
      EXPECT_EQ(t->decode(ids), c[1].get<std::string>()) << name << ": " << c[0];
    }
    EXPECT_EQ(t->encode("a", true), line["special"].get<std::vector<int32_t>>()) << name;
  }
  EXPECT_GT(cases, 200);
}

TEST(Tokenizer, EqualsTheLibraryOnRealTokenizers) {
  const auto golden = kSource / "../shared/golden/tokenizers";
  if (!std::filesystem::exists(golden)) GTEST_SKIP() << golden << " is not here";
  for (const std::string name : {"llama2", "llama3_1", "qwen3", "deepseek_v3"}) {
    const auto packed = kSource / "../shared/tokenizers" / name / "tokenizer.json.xz";
    FILE* pipe = popen(("xz -dc '" + packed.string() + "'").c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    std::string text;
    char buffer[65536];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, n);
    if (pclose(pipe) != 0) GTEST_SKIP() << "xz is not installed";
    const auto t = Tokenizer::from_json(text, name);
    for (const json& c : lines_of(golden / (name + ".jsonl"))) {
      const std::vector<int32_t> ids = c["ids"];
      EXPECT_EQ(t->encode(c["text"].get<std::string>()), ids) << name << ": " << c["text"];
      EXPECT_EQ(t->encode(c["text"].get<std::string>(), true), c["ids_with_special"].get<std::vector<int32_t>>());
      EXPECT_EQ(t->decode(ids), c["decoded"].get<std::string>()) << name << ": " << c["text"];
    }
  }
}

TEST(Tokenizer, IdsOutsideTheVocabulary) {
  const auto t = Tokenizer::from_json(small_tokenizer("qwen").dump(), "F");
  EXPECT_EQ(t->decode({t->id_of("a"), int32_t(t->vocab_size()), 2000000000, t->id_of("b")}), "ab");
  EXPECT_THROW(t->decode({-1}), Error);
  EXPECT_EQ(t->id_of("no such token"), -1);
}

TEST(Tokenizer, IllFormedUtf8) {
  EXPECT_EQ(to_valid_utf8("a\x80z"), "a\uFFFDz");
  EXPECT_EQ(to_valid_utf8("\xE6\xBC"), "\uFFFD");                  // one maximal subpart
  EXPECT_EQ(to_valid_utf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_EQ(to_valid_utf8("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(to_valid_utf8("\xC0\x80"), "\uFFFD\uFFFD");
  EXPECT_EQ(to_valid_utf8("\xF0\x9F\x98\x80"), "\xF0\x9F\x98\x80");
  const auto t = Tokenizer::from_json(small_tokenizer("qwen").dump(), "F");
  EXPECT_EQ(t->decode(t->encode("x\xFFy")), "x\uFFFDy");
}

TEST(Tokenizer, LongInputAndManyThreads) {
  for (const char* name : {"llama2", "qwen"}) {
    const auto t = Tokenizer::from_json(small_tokenizer(name).dump(), name);
    for (const std::string unit : {"a", " ", "the ", "\u0301\u0323", "1"}) {
      std::string text;
      while (text.size() < 200'000) text += unit;
      EXPECT_EQ(t->decode(t->encode(text)).size() > 0, true);
    }
    const auto want = t->encode("The quick brown fox, 1234 \u00e9!");
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&] {
        for (int k = 0; k < 200; ++k) {
          if (t->encode("The quick brown fox, 1234 \u00e9!") != want) ++wrong;
          t->encode("word" + std::to_string(k));
        }
      });
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
  }
}

TEST(Tokenizer, BadFilesNameThePath) {
  const json good = small_tokenizer("deepseek");
  ASSERT_EQ(error_of(good.dump()), "");
  const auto broken = [&](const char* pointer, json value) {
    json bad = good;
    bad[json::json_pointer(pointer)] = std::move(value);
    return error_of(bad.dump());
  };
  const auto has = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text << "\nlacks " << part;
  };
  has(error_of("{"), "F: not valid JSON");
  has(error_of("[]"), "F: the document: must be an object");
  has(error_of("{}"), "\"model\" is missing");
  has(broken("/model/type", "Unigram"), "F: model.type: unknown model \"Unigram\"");
  has(broken("/normalizer", json::parse(R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})")),
      "F: normalizer.normalizers[0].type: unknown normalizer \"Lowercase\"");
  has(broken("/pre_tokenizer/pretokenizers/1/pattern", {{"Regex", "(a"}}),
      "F: pre_tokenizer.pretokenizers[1].pattern.Regex: pattern is wrong");
  has(broken("/pre_tokenizer/pretokenizers/1/behavior", "Sideways"), "pre_tokenizer.pretokenizers[1].behavior");
  has(broken("/model/merges/3", json::array({"zz", "qq"})), "F: model.merges[3]: both parts");
  has(broken("/model/merges/3", "one two three"), "F: model.merges[3]");
  has(broken("/model/merges/3", 7), "F: model.merges[3]");
  has(broken("/model/vocab/a", 2000000000), "model.vocab: the id of \"a\"");
  has(broken("/model/vocab/a", -1), "model.vocab");
  has(broken("/model/unk_token", "nope"), "model.unk_token");
  has(broken("/added_tokens/0/id", 900000000), "added_tokens[0].id: must be below");
  has(broken("/decoder", {{"type", "CTC"}}), "F: decoder.type: unknown decoder");
  json deep = {{"type", "NFC"}};
  for (int i = 0; i < 20; ++i) deep = {{"type", "Sequence"}, {"normalizers", json::array({deep})}};
  has(broken("/normalizer", deep), "nest at most");
  // Deep nesting where a value is expected must not end on the stack.
  std::string nested = good.dump();
  nested.insert(nested.find("\"merges\":[") + 10, std::string(200'000, '[') + std::string(200'000, ']') + ",");
  has(error_of(nested), "F: model.merges[0]");
}

TEST(Regex, DialectDifferences) {
  const auto matches = [](const char* pattern, const std::string& text) {
    std::vector<std::string> found;
    for (const Span s : Regex(pattern, "W").find_all(text)) found.push_back(text.substr(s.begin, s.end - s.begin));
    return found;
  };
  using Strings = std::vector<std::string>;
  EXPECT_EQ(matches("\\s+", "a\u180eb\u00a0c"), Strings{"\u00a0"});  // U+180E is no white space
  EXPECT_EQ(matches("[^\\s]+", "a\u180eb c"), (Strings{"a\u180eb", "c"}));
  EXPECT_EQ(matches("\\w+", "e\u0301_\u24d0-\u00b2"), Strings{"e\u0301_\u24d0"});
  EXPECT_EQ(matches("(?i:'s)", "'S '\u017f"), (Strings{"'S", "'\u017f"}));
  EXPECT_EQ(matches("\\u0061\\v", "a\x0b"), Strings{"a\x0b"});
  for (const char* pattern : {"a{1,3}+", "[a[b]]", "[a&&b]", "\\h", "\\bx", "(?R)", "\\", "\\u12", "(*ACCEPT)"})
    EXPECT_THROW(Regex(pattern, "W"), Error) << pattern;
  // Exponential backtracking ends in an error, not in a hang.
  EXPECT_THROW(Regex("(a+)+\\z", "W").find_all(std::string(64, 'a') + "b"), Error);
}

}  // namespace
}  // namespace mantissa
