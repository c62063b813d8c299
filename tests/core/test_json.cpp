// JSON as it is written: spelling byte by byte, and strings beside a library's.
#include "core/json.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/random.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

TEST(Json, ObjectsKeepTheirOrderAndSpelling) {
  const std::vector<float> floats{0.1f, 1e-7f, INFINITY};
  const std::vector<int32_t> ids{1, -2};
  const std::vector<std::string> texts{"a", "\"b\"\n"};
  EXPECT_EQ(JsonObject().str(), "{}");
  EXPECT_EQ(JsonObject()
                .add("z", 1.0 / 3)
                .add("a", int64_t(1) << 40)
                .add("nothing", NAN)
                .add("yes", true)
                .add("text", "tab\t")
                .add("floats", std::span<const float>(floats))
                .add("ids", std::span<const int32_t>(ids))
                .add("texts", std::span<const std::string>(texts))
                .add("none", std::span<const float>())
                .str(),
            R"({"z": 0.333333333, "a": 1099511627776, "nothing": null, "yes": true, "text": "tab\t", )"
            R"("floats": [0.100000001, 1.00000001e-07, null], "ids": [1, -2], "texts": ["a", "\"b\"\n"], "none": []})");
}

TEST(Json, FloatsReadBackToTheSameBits) {
  RandomStream random(1, 2);
  for (int i = 0; i < 20000; ++i) {
    const float value = std::bit_cast<float>(random.next());
    if (!std::isfinite(value)) continue;
    EXPECT_EQ(std::strtof(json_number(value).c_str(), nullptr), value);
  }
}

TEST(Json, StringsAreTheLibrarysWithBrokenUtf8Replaced) {
  // Bytes near the edges of UTF-8, so that random texts hold every way in which a character can break off.
  constexpr std::string_view kBytes(
      "\x00\x08\n\x1f\"\\a\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc2\xdf\xe0\xe1\xed\xef\xf0\xf1\xf4\xf5", 25);
  RandomStream random(3, 4);
  for (int i = 0; i < 50000; ++i) {
    std::string text;
    for (uint32_t n = random.below(7); n > 0; --n) text += kBytes[random.below(uint32_t(kBytes.size()))];
    ASSERT_EQ(json_string(text), nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))
        << testing::PrintToString(text);
  }
  EXPECT_EQ(json_string("a\n\t\x01", JsonEscapes::kCodes), "\"a\\u000a\\u0009\\u0001\"");
}

TEST(Json, AKeyThatIsThereTwiceIsFound) {
  for (const char* once : {"{}", "[]", "3", R"("a")", R"({"a": {"a": [{"a": 1}, {"a": 2}]}, "b": {"a": 1}})",
                           R"({"a": "b", "b": "\"a\": ", "c": ["a", "a"], "d": "}{", "\\": 1, "\"": 1})"})
    EXPECT_EQ(repeated_key(once), "") << once;
  EXPECT_EQ(repeated_key(R"({"a":1,"b":2,"a":1})"), "a");
  EXPECT_EQ(repeated_key(R"([1, {"x": {"key" : {"y": 1}, "z": ["}"], "key"
    : 2}}])"),
            "key");
  EXPECT_EQ(repeated_key(R"({"a\"": {"b": "\\"}, "c": 1, "\u0061\"": 2})"), "a\"") << "however it is spelt";
  std::string many = "{";
  for (int i = 0; i < 100000; ++i) many += str('"', i, "\": 1, ");
  EXPECT_EQ(repeated_key(many + "\"x\": 1}"), "");
  EXPECT_EQ(repeated_key(many + "\"77\": 1}"), "77");
}

TEST(Json, NestingThatRecursionCannotBearIsRefused) {
  const auto nest = [](size_t n, std::string open, const char* close) {
    std::string text = "1";
    for (size_t i = 0; i < n; ++i) text = open + text + close;
    return text;
  };
  EXPECT_NO_THROW(check_json(nest(128, "[", "]"), "F"));
  EXPECT_NO_THROW(check_json(nest(64, R"({"a": [)", "]}"), "F"));
  EXPECT_NO_THROW(check_json(R"(["\"[[", "\\", )" + json_string(std::string(1000, '[')) + "]", "F"));
  EXPECT_NO_THROW(check_json(str('[', std::string(900, ' '), nest(127, "[", "]"), ",[]]"), "F"));
  for (const std::string& deep : {nest(129, "[", "]"), nest(129, R"({"a": )", "}"), nest(65, R"([{"\"": )", "}]"),
                                  std::string(1'000'000, '['), R"(["\\", )" + nest(128, "[", "]") + "]"})
    expect_message(message_of([&] { check_json(deep, "F"); }), {"F: nested too deeply", "128"});
}

TEST(Json, ZeroBytesAreRefused) {
  EXPECT_NO_THROW(check_json(R"({"a": "\u0000"})", "F"));
  EXPECT_NO_THROW(check_json("", "F"));
  for (std::string zero : {R"({"a": 1}?)", R"({"a": 1}?{"a": 2})", R"(?{})", R"({"a": "?"})"}) {
    zero[zero.find('?')] = '\0';
    expect_message(message_of([&] { check_json(zero, "F"); }), {"F: not valid JSON", "zero byte"});
  }
}

}  // namespace
}  // namespace mantissa
