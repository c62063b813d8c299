// What ends a response: ids, and strings found in decoded text wherever tokens begin and end.
#include "rl/text/stop.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

/// Bytes, and a few merges: ", ", ". ", ". \boxed{".
std::unique_ptr<Tokenizer> tokenizer() {
  const std::string file = std::string(MANTISSA_SOURCE_DIR) + "/builtin/arithmetic/tokenizer.json";
  return Tokenizer::from_json(read_file(file), file);
}

/// Tokens of `ids` up to the one that ends the response; all where none does.
std::vector<int32_t> cut(const StopRule& rule, const std::vector<int32_t>& ids) {
  std::vector<int32_t> response;
  for (const int32_t id : ids) {
    response.push_back(id);
    if (rule.finish(response) != Finish::kLength) break;
  }
  return response;
}

TEST(StopRule, AnIdEndsAResponse) {
  const StopRule rule({7, 9});
  EXPECT_EQ(rule.finish({7, 1}), Finish::kLength);
  EXPECT_EQ(rule.finish({1, 9}), Finish::kStop);
  EXPECT_FALSE(rule.has_text());
}

TEST(StopRule, AnEmptyStringIsRefused) {
  const auto t = tokenizer();
  EXPECT_EQ(message_of([&] { StopRule({7}, *t, {"a", ""}, true); }),
            "rollout.stop: a stop string must not be empty, got \"\"");
}

TEST(StopRule, AStringEndsAResponseWhereverTokensBegin) {
  const auto t = tokenizer();
  const std::string texts[] = {"1+2=3. \\boxed{3}</answer> and more, 4, 5", "ä. \\boxed{é。}x。é y", "a, b, c. d. e",
                               "the answer </answer is not over </answers>"};
  for (const std::string& text : texts) {
    const std::vector<int32_t> ids = t->encode(text);
    for (size_t begin = 0; begin < text.size(); ++begin)
      for (const size_t length : {1, 2, 3, 9, 20}) {
        const std::string string = text.substr(begin, length);
        if (t->decode(t->encode(string)) != string) continue;  // a part of a character is no text
        const StopRule rule({}, *t, {string}, true);
        std::vector<int32_t> want;
        do want.push_back(ids[want.size()]);
        while (want.size() < ids.size() && t->decode(want).find(string) == std::string::npos);
        const std::vector<int32_t> got = cut(rule, ids);
        ASSERT_EQ(got, want) << '"' << string << "\" in \"" << text << '"';
        ASSERT_EQ(rule.finish(got), Finish::kStopString);
        const std::string ended = rule.text({.ids = got, .finish = Finish::kStopString});
        ASSERT_TRUE(ended.ends_with(string) && ended.find(string) == ended.size() - string.size()) << ended;
      }
  }
}

TEST(StopRule, TheTextEndsWithTheStringOrBeforeIt) {
  const auto t = tokenizer();
  const std::vector<int32_t> ids = cut(StopRule({}, *t, {"5,", "x"}, true), t->encode("4, 5, 6"));
  EXPECT_EQ(t->decode(ids), "4, 5, ") << "the blank is part of the last token";
  const Completion response{.ids = ids, .finish = Finish::kStopString};
  EXPECT_EQ(StopRule({}, *t, {"5,", "x"}, true).text(response), "4, 5,");
  EXPECT_EQ(StopRule({}, *t, {"5,", "x"}, false).text(response), "4, ");
  EXPECT_EQ(StopRule({}, *t, {",", " 5,"}, false).text(response), "4") << "the string that ends first";
}

TEST(StopRule, AStopTokenIsNotInTheText) {
  const auto t = tokenizer();
  std::vector<int32_t> ids = t->encode("42");
  ids.push_back(0);
  const StopRule rule({0}, *t, {"</answer>"}, true);
  EXPECT_EQ(rule.finish(ids), Finish::kStop);
  EXPECT_EQ(rule.text({.ids = ids, .finish = Finish::kStop}), "42");
}

TEST(StopRule, RefusesAnEmptyString) {
  const auto t = tokenizer();
  EXPECT_THROW(StopRule({}, *t, {"a", ""}, true), Error);
}

}  // namespace
}  // namespace mantissa
