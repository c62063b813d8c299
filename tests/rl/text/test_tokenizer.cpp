// Tokenizers against the `tokenizers` library (tests/golden/make_tokenizer_golden.py,
// tests/checks/random_tokenizers.py), bad files, long input, threads.
#include "rl/text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.h"
#include "core/random.h"
#include "rl/text/regex.h"
#include "rl/text/stages.h"
#include "rl/text/unicode.h"
#include "tests/support/message.h"
#include "tests/support/tokenizer_files.h"

namespace mantissa {
namespace {

const std::filesystem::path kSource = MANTISSA_SOURCE_DIR;

json small_tokenizer(const std::string& name) {
  for (const json& line : lines_of(kSource / "tests/golden/tokenizers.jsonl"))
    if (line["name"] == name) return json::parse(line["json"].get<std::string>());
  throw std::runtime_error(name);
}

std::string error_of(const std::string& text) {
  return message_of([&] { Tokenizer::from_json(text, "F"); });
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
  has(error_of(R"({"model": {"type": "BPE", "type": "BPE"}})"), "F: key \"type\" appears twice");
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
  has(broken("/added_tokens/0/id", -1), "added_tokens[0].id: must be an integer from 0");
  has(broken("/decoder", {{"type", "CTC"}}), "F: decoder.type: unknown decoder");
  json deep = {{"type", "NFC"}};
  for (int i = 0; i < 20; ++i) deep = {{"type", "Sequence"}, {"normalizers", json::array({deep})}};
  has(broken("/normalizer", deep), "nest at most");
  // Deep nesting where a value is expected must not end on the stack.
  std::string nested = good.dump();
  nested.insert(nested.find("\"merges\":[") + 10, std::string(200'000, '[') + std::string(200'000, ']') + ",");
  has(error_of(nested), "F: model.merges[0]");
}

TEST(Tokenizer, EqualsTheLibraryOnRandomFiles) {
  int texts = 0;
  for (const json& line : lines_of(kSource / "tests/golden/random_tokenizers.jsonl")) {
    const std::string file = line[0];
    const auto t = Tokenizer::from_json(file, "random");
    for (const json& row : line[1]) {
      const std::string text = row[0];
      EXPECT_EQ(t->encode(text), row[1].get<std::vector<int32_t>>()) << row[0] << " in " << file.substr(0, 900);
      EXPECT_EQ(t->encode(text, true), row[2].get<std::vector<int32_t>>()) << row[0];
      EXPECT_EQ(t->decode(row[1]), row[3].get<std::string>()) << row[0] << " in " << file.substr(0, 900);
      ++texts;
    }
  }
  EXPECT_GT(texts, 100);
}

TEST(Tokenizer, AddedTokensGetTheLibrarysIds) {
  const auto ids = [](const json& added, const std::string& text) {
    return Tokenizer::from_json(plain_tokenizer(added).dump(), "F")->encode(text);
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(ids(json::array({added_token("<x>", 13)}), "a<x>b"), (Ids{0, 13, 1}));
  EXPECT_EQ(ids(json::array({added_token("<x>", 20)}), "a<x>b"), (Ids{0, 13, 1}));                         // a hole
  EXPECT_EQ(ids(json::array({added_token("<y>", 14), added_token("<x>", 13)}), "<x><y>"), (Ids{14, 13}));  // file order
  EXPECT_EQ(ids(json::array({added_token("", 13), added_token("<y>", 14)}), "<y>"), (Ids{13}));  // an empty one
  EXPECT_EQ(ids(json::array({added_token("a", 99), added_token("<y>", 14)}), "a<y>"),
            (Ids{0, 13}));  // known to the model
  const std::string conflict = error_of(plain_tokenizer(json::array({added_token("<x>", 3)})).dump());
  EXPECT_NE(conflict.find("added_tokens[0]"), std::string::npos) << conflict;
  EXPECT_NE(conflict.find("\"<x>\" with id 3 conflicts with \"1\""), std::string::npos) << conflict;
  json holes = plain_tokenizer(json::array({added_token("<x>", 14)}));
  holes["model"]["vocab"]["q"] = 14;  // 14 entries with ids to 14: the library would give 14 twice
  EXPECT_NE(error_of(holes.dump()).find("conflicts"), std::string::npos);

  // Whatever order and ids a file gives, ids follow the vocabulary without a gap, in the order of the file.
  for (int seed = 0; seed < 50; ++seed) {
    json added = json::array();
    std::string text;
    Ids want;
    for (int k = 0; k < 1 + seed % 7; ++k) {
      const std::string content = "<" + std::string(size_t(k + 1), 'x') + ">";
      added.push_back(added_token(content, 13 + (k * 7 + seed) % 11));
      text += content;
      want.push_back(13 + k);
    }
    EXPECT_EQ(ids(added, text), want) << added;
  }
}

TEST(Tokenizer, StripsAtOneBlank) {
  json token = added_token("\n", 13);
  token["lstrip"] = token["rstrip"] = true;
  const json file = plain_tokenizer(json::array({token}));
  const auto t = Tokenizer::from_json(file.dump(), "F");
  for (int feeds = 1; feeds < 6; ++feeds)  // the first takes all blanks on its right: the others are inside it
    EXPECT_EQ(t->encode("a" + std::string(size_t(feeds), '\n') + "b"), (std::vector<int32_t>{0, 9, 1})) << feeds;
}

TEST(Tokenizer, UnknownCharacters) {
  json file = plain_tokenizer(json::array({added_token("<unk>", 13)}));
  file["model"]["unk_token"] = "<unk>";  // an added token only: the library looks in the vocabulary alone
  const auto t = Tokenizer::from_json(file.dump(), "F");
  EXPECT_EQ(t->encode("ab<unk>"), (std::vector<int32_t>{0, 1, 13}));
  try {
    t->encode("az");
    ADD_FAILURE() << "an unknown character must be an error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("\"z\", which is not in the vocabulary"), std::string::npos) << e.what();
  }
  file["model"]["merges"] = {"#version: 0.2"};
  EXPECT_EQ(Tokenizer::from_json(file.dump(), "F")->encode("ab"), (std::vector<int32_t>{0, 1}));
}

/// Matches of no width cut before every 1, in all five behaviours and both senses.
TEST(Tokenizer, CutsOfNoWidth) {
  json file = plain_tokenizer();
  file["model"]["vocab"].update({{"ab", 13}, {"b1", 14}, {"1a", 15}});
  file["model"]["merges"] = {"a b", "b 1", "1 a"};
  const auto whole = Tokenizer::from_json(file.dump(), "F");
  RandomStream random(1, 2);
  for (const std::string behaviour : {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"})
    for (const bool invert : {false, true}) {
      file["pre_tokenizer"] = {
          {"type", "Split"}, {"pattern", {{"Regex", "(?=1)"}}}, {"behavior", behaviour}, {"invert", invert}};
      const auto t = Tokenizer::from_json(file.dump(), "F");
      for (int i = 0; i < 40; ++i) {
        std::string text;
        for (int k = 0; k < 9; ++k) text += "ab1"[random.below(3)];
        std::vector<int32_t> want;  // under invert all text is a match, and Removed takes it away
        for (size_t begin = 0, end = 0; begin < text.size() && !(invert && behaviour == "Removed"); begin = end) {
          end = std::min(text.find('1', begin + 1), text.size());
          const std::vector<int32_t> ids = whole->encode(text.substr(begin, end - begin));
          want.insert(want.end(), ids.begin(), ids.end());
        }
        EXPECT_EQ(t->encode(text), want) << text << ' ' << behaviour << ' ' << invert;
      }
    }
}

TEST(Tokenizer, ReplacesAtNoWidth) {
  const auto ids = [](const char* pattern, const std::string& text) {
    const json normalizer = {{"type", "Replace"}, {"pattern", {{"Regex", pattern}}}, {"content", "_"}};
    const auto t = Tokenizer::from_json(plain_tokenizer(json::array(), nullptr, normalizer).dump(), "F");
    return t->decode(t->encode(text));
  };
  EXPECT_EQ(ids("(?=[12])", "a12"), "a _ 1 _ 2");
  EXPECT_EQ(ids("c*", "ab"), "_ a _ b _");
  EXPECT_EQ(ids("^|$", "a\nb"), "_ a _ \n _ b _");
  EXPECT_EQ(ids("c*", ""), "");
}

/// Metaspace "first" marks every piece that holds something of the text's first character, or of what stands before it.
TEST(Tokenizer, MarksTheFirstPiece) {
  const json first = {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "first"}, {"split", false}};
  const auto pieces = [&](const json& normalizer, const json& before, const std::string& text) {
    const json steps = {{"type", "Sequence"},
                        {"pretokenizers", before.is_null() ? json::array({first}) : json::array({before, first})}};
    const auto t =
        Tokenizer::from_json(plain_tokenizer(json::array({added_token("<x>", 13)}), steps, normalizer).dump(), "F");
    return t->decode(t->encode(text));
  };
  const auto replace = [](const char* pattern, const char* by) {
    return json{{"type", "Replace"}, {"pattern", {{"Regex", pattern}}}, {"content", by}};
  };
  const json prepend = {{"type", "Prepend"}, {"prepend", "-"}};
  const json split = {{"type", "Split"}, {"pattern", {{"Regex", "-|a"}}}, {"behavior", "Isolated"}, {"invert", false}};
  EXPECT_EQ(pieces(nullptr, nullptr, "ab"), "_ a b");
  EXPECT_EQ(pieces(nullptr, split, "bab"), "_ b a b");
  EXPECT_EQ(pieces(nullptr, nullptr, "<x>ab"), "<x> a b");
  EXPECT_EQ(pieces(prepend, split, "ab"), "_ - _ a b");  // what is put before a character has its place
  EXPECT_EQ(pieces(prepend, split, "bab"), "_ - _ b a b");
  EXPECT_EQ(pieces(replace("^1", ""), nullptr, "1ab"), "a b");   // the first character is gone
  EXPECT_EQ(pieces(replace("1a", "c"), nullptr, "1ab"), "c b");  // a match stands where its last character stood
  EXPECT_EQ(pieces(replace("1", "ca"), split, "1b"), "_ c _ a b");
  EXPECT_EQ(pieces(replace("^", "-"), split, "ab"), "_ - _ a b");
}

TEST(Tokenizer, RefusesWhatHasNoReading) {
  const auto error = [](const json& added, const json& pre_tokenizer, const json& normalizer, const std::string& text) {
    return message_of(
        [&] { Tokenizer::from_json(plain_tokenizer(added, pre_tokenizer, normalizer).dump(), "F")->encode(text); });
  };
  const auto has = [](const std::string& message, const char* part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  const auto replace = [](const char* pattern, const char* by) {
    return json{{"type", "Replace"}, {"pattern", {{"Regex", pattern}}}, {"content", by}};
  };
  json x = added_token("<x>", 13), y = added_token("<y>", 14);
  x["normalized"] = y["normalized"] = true;
  has(error(json::array({x, y}), nullptr, replace("[xy]", "a"), "a"), "makes \"<x>\" and \"<y>\" alike (\"<a>\")");
  has(error(json::array({x}), nullptr, replace("<x>", ""), "a"), "leaves nothing of \"<x>\"");
  const json bytes = {{"type", "ByteLevel"}};
  has(error(json::array(), bytes, replace("^", "-"), "a"), "not supported with a ByteLevel pre-tokenizer");
  EXPECT_EQ(error(json::array(), bytes, replace("b", "-"), "ab"), "");
  const json then_nfc = {{"type", "Sequence"}, {"normalizers", {replace("^", "-"), {{"type", "NFC"}}}}};
  has(error(json::array(), nullptr, then_nfc, "a"), "not supported with an NFC normalizer behind it");
  json marks = {{"type", "Metaspace"}, {"replacement", "__"}};
  has(error(json::array(), marks, nullptr, "a"), "pre_tokenizer.replacement: must be one character");
  marks = {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "always"}, {"add_prefix_space", false}};
  has(error(json::array(), marks, nullptr, "a"), "beside a prepend_scheme that adds one");
  json file = plain_tokenizer();
  const json one = {{"type", "TemplateProcessing"},
                    {"single", {{{"SpecialToken", {{"id", "a"}}}}, {{"Sequence", {{"id", "A"}}}}}},
                    {"special_tokens", {{"a", {{"id", "a"}, {"ids", {0}}}}}}};
  file["post_processor"] = {{"type", "Sequence"}, {"processors", json::array({one, one})}};
  has(error_of(file.dump()), "post_processor.processors[1]: a TemplateProcessing behind another");
}

TEST(Regex, EqualsTheLibraryOnRandomPatterns) {
  int patterns = 0, wrong = 0;
  for (const json& line : lines_of(kSource / "tests/golden/patterns.jsonl")) {
    if (line[3].is_null()) {
      EXPECT_THROW(Regex(line[0].get<std::string>(), "W"), Error) << line[0];
      ++wrong;
      continue;
    }
    PreTokenizer split{.kind = PreTokenizer::Kind::kSplit, .pattern = {}, .mark = {}};
    split.pattern.regex = std::make_shared<Regex>(line[0].get<std::string>(), "W");
    const std::vector<std::string> names = {"removed", "isolated", "merged_with_previous", "merged_with_next",
                                            "contiguous"};
    split.behavior = SplitBehavior(std::find(names.begin(), names.end(), line[1].get<std::string>()) - names.begin());
    split.invert = line[2];
    for (const json& row : line[3]) {
      std::vector<std::string> pieces;
      for (const Piece& piece : pre_tokenize({split}, {row[0].get<std::string>()})) pieces.push_back(piece.text);
      EXPECT_EQ(json(pieces), row[1]) << line << row[0];
      EXPECT_EQ(split.pattern.replace_all(row[0].get<std::string>(), "-"), row[2].get<std::string>())
          << line[0] << row[0];
    }
    ++patterns;
  }
  EXPECT_GT(patterns, 200);
  EXPECT_GT(wrong, 50);
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
  EXPECT_EQ(matches("\\w+", "e\u0301_\u24d0-\u00b2"), (Strings{"e\u0301_\u24d0", "\u00b2"}));
  EXPECT_EQ(matches("(?i:'s)", "'S '\u017f"), (Strings{"'S", "'\u017f"}));
  EXPECT_EQ(matches("\\u0061\\v", "a\x0b"), Strings{"a\x0b"});
  // Oniguruma's own readings, where other engines differ.
  EXPECT_EQ(matches("(?m)a.b", "a\nb"), Strings{"a\nb"});
  EXPECT_EQ(matches("1{,2}2", "1112"), Strings{"112"});
  EXPECT_EQ(matches("a(?i)b|c", "aC"), Strings{"aC"});
  EXPECT_EQ(matches("(?i)\u00df", "ss"), Strings{"ss"});
  EXPECT_EQ(matches("a{1,2}+", "aaaaa"), Strings{"aaaaa"});
  EXPECT_EQ(matches("[a-d&&[^b]]+", "abcd"), (Strings{"a", "cd"}));
  EXPECT_EQ(matches("\\h+", "xfe9g"), Strings{"fe9"});
  EXPECT_EQ(matches("\\R", "a\r\nb\n"), (Strings{"\r\n", "\n"}));
  EXPECT_EQ(matches("\\R+", "a\r\n\nb\n"), (Strings{"\r\n\n", "\n"}));
  EXPECT_EQ(matches("(?#\\R)(?<=\\R)b|[\\R]", "\nbR"), Strings{"R"});  // nothing comes behind a line break
  EXPECT_EQ(matches("[[:punct:]]+|[[:^punct:]a]", "a<+.\u20ac_"), (Strings{"a", "<+.\u20ac_"}));
  EXPECT_EQ(matches("7\\Oa", "7\na"), Strings{"7\na"});
  EXPECT_EQ(matches("[[:digit:]]+", "a\u0661\u0662"), Strings{"\u0661\u0662"});
  EXPECT_EQ(matches("\\bx", "x xx"), (Strings{"x", "x"}));
  EXPECT_EQ(matches("a++a", "aaa"), Strings{});
  // Matches of no width, but for one behind another match.
  EXPECT_EQ(matches("a*", "baac"), (Strings{"", "aa", ""}));
  EXPECT_EQ(matches("(?=b)", "ab"), Strings{""});
  EXPECT_EQ(matches("", "ab").size(), 3u);
  EXPECT_EQ(matches("x*", "").size(), 0u);
  for (const char* pattern : {"(a", "[a", "\\", "(?<", "*"}) EXPECT_THROW(Regex(pattern, "W"), Error) << pattern;
  // Exponential backtracking ends in an error, not in a hang.
  EXPECT_THROW(Regex("(a+)+\\z", "W").find_all(std::string(64, 'a') + "b"), Error);
}

}  // namespace
}  // namespace mantissa
