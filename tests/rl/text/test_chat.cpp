// Chat templates: by name, and the model's own against transformers (tests/golden/make_template_golden.py).
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "rl/text/chat.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

TokenizerFiles files_with(const std::string& chat_template, const std::string& config = {}) {
  TokenizerFiles files;
  files.where = "M";
  files.chat_template = chat_template;
  files.tokenizer_config_json = config;
  return files;
}

std::vector<ChatMessage> conversation(const ordered_json& messages) {
  std::vector<ChatMessage> out;
  for (const auto& m : messages) out.push_back({m["role"], m["content"]});
  return out;
}

TEST(Chat, NamesEqualTheirTemplates) {
  std::ifstream file(std::string(MANTISSA_SOURCE_DIR) + "/tests/golden/chat.jsonl");
  int templates = 0;
  for (std::string line; std::getline(file, line); ++templates) {
    const ordered_json golden = ordered_json::parse(line);
    const std::string name = golden["name"], source = golden["template"];
    const bool llama = source.find("start_header_id") != std::string::npos;
    const json config = {{"bos_token", llama ? "<|begin_of_text|>" : "<｜begin▁of▁sentence｜>"}};
    // Llama 3.1's template dates itself; its name always says 26 Jul 2024.
    std::vector<std::string> options;
    if (source.find("date_string") != source.npos) options = {"date_string=26 Jul 2024"};
    const ChatTemplate own = ChatTemplate::of_model(files_with(source, config.dump()), options);
    for (const auto& c : golden["cases"]) {
      EXPECT_EQ(apply_chat_template(name, conversation(c["messages"])), c["text"].get<std::string>()) << name;
      EXPECT_EQ(own.apply(conversation(c["messages"])), c["text"].get<std::string>()) << name;
    }
  }
  EXPECT_EQ(templates, 7);
}

// ---- the model's own --------------------------------------------------------------------------------------------

jinja::Value value_of(const ordered_json& j) {
  if (j.is_null()) return jinja::None();
  if (j.is_boolean()) return j.get<bool>();
  if (j.is_number_integer()) return j.get<int64_t>();
  if (j.is_number()) return j.get<double>();
  if (j.is_string()) return j.get<std::string>();
  jinja::List list;
  jinja::Dict dict;
  for (const auto& [key, value] : j.items())
    j.is_array() ? list.push_back(value_of(value)) : dict.set(key, value_of(value));
  return j.is_array() ? jinja::Value::list(std::move(list)) : jinja::Value(std::move(dict));
}

TEST(Chat, RendersAsTransformers) {
  std::ifstream file(std::string(MANTISSA_SOURCE_DIR) + "/tests/golden/templates.jsonl");
  std::string line;
  std::getline(file, line);
  const ordered_json common = ordered_json::parse(line);
  int renderings = 0, refused = 0, templates = 0;
  for (; std::getline(file, line); ++templates) {
    const ordered_json golden = ordered_json::parse(line);
    const std::string source = golden[0];
    for (const auto& row : golden[1]) {
      const jinja::Work limit;
      ordered_json variables = common["base"];
      variables.update(row[1].is_string() ? common["values"] : row[1]);
      variables["messages"] = common["talks"][row[0].get<size_t>()];
      std::string text, error;
      try {
        text = jinja::Template(source, "T").render(*value_of(variables).dict(), 0);
        ++renderings;
      } catch (const Error& e) {
        error = e.what();
        ++refused;
      }
      if (row[2].is_null()) {
        EXPECT_NE(error, "") << source << "\n-> " << text;
        EXPECT_TRUE(error.starts_with("T: line ")) << error;
      } else {
        EXPECT_EQ(error, "") << source;
        EXPECT_EQ(text, row[2].get<std::string>()) << source;
      }
    }
  }
  EXPECT_GE(templates, 400);
  EXPECT_GE(renderings, 1000);
  EXPECT_GE(refused, 100);
}

TEST(Chat, VariablesOfTheModel) {
  const std::string source =
      "{{ bos_token }}|{{ eos_token }}|{{ pad_token is defined }}|{{ image_token }}|{{ tools is none }}|"
      "{{ add_generation_prompt }}|{{ enable_thinking is defined }}|{{ level }}";
  const std::string config = R"({"bos_token": {"__type": "AddedToken", "content": "<b>"}, "eos_token": "</e>",
      "pad_token": null, "extra_special_tokens": {"image_token": "<i>"}})";
  const std::vector<ChatMessage> hi = {{"user", "hi"}};
  EXPECT_EQ(ChatTemplate::of_model(files_with(source, config)).apply(hi), "<b>|</e>|False|<i>|True|True|False|");
  EXPECT_EQ(
      ChatTemplate::of_model(files_with(source, config), {"enable_thinking=false", "level=high", "eos_token=\"x\""})
          .apply(hi),
      "<b>|x|False|<i>|True|True|True|high");
  TokenizerFiles older = files_with("{{ bos_token }}", R"({"bos_token": "new"})");
  older.special_tokens_map_json = R"({"bos_token": {"content": "old"}})";
  EXPECT_EQ(ChatTemplate::of_model(older).apply(hi), "old");
  older.tokenizer_config_json = R"({"bos_token": "new", "added_tokens_decoder": {}})";
  EXPECT_EQ(ChatTemplate::of_model(older).apply(hi), "new");
  const auto refusal = [](const std::string& source, const std::vector<std::string>& options) {
    return message_of([&] { ChatTemplate::of_model(files_with(source), options); });
  };
  EXPECT_EQ(
      refusal("{{ thinking }}", {"thinkin=1"}),
      "data.chat_template_kwargs: M: the chat template reads no variable \"thinkin\" of yours, got \"thinkin=1\"");
  for (const char* source : {"{{ my_level }}", "{{ level2 }}", "{{ level_ }}", ""})
    EXPECT_NE(refusal(source, {"level=1"}), "") << source;
  for (const char* source : {"{{ level }}", "{{ mylevel + level}}", "{%if level%}{%endif%}"})
    EXPECT_EQ(refusal(source, {"level=1"}), "") << source;
  EXPECT_NE(refusal("{{ messages }}", {"messages=1"}), "");
  expect_message(refusal("{{ level }}", {"level=1", "level=2"}), {"\"level\" is given twice"});
  EXPECT_NE(message_of([&] { ChatTemplate::of_model(files_with("x"), {"novalue"}); }).find("NAME=VALUE"),
            std::string::npos);
}

TEST(Chat, SaysWhereAndWhat) {
  const std::vector<ChatMessage> hi = {{"user", "hi"}};
  const auto refusal = [&](const std::string& source) {
    return message_of([&] { ChatTemplate::of_model(files_with(source)).apply(hi); });
  };
  for (const auto& [source, words] : std::vector<std::pair<std::string, std::string>>{
           {"a\nb{% include 'x' %}", "line 2: the tag \"include\" is not supported"},
           {"{{ 1 }}\n\n{{ 'x'|urlize }}", "line 3: the filter \"urlize\" is not supported"},
           {"{{ ('x' | safe) + 'y' }}", "line 1: a text marked as safe + a str is not possible"},
           {"{{ '<'|e|trim }}", "the filter \"trim\" of a text marked as safe is not supported"},
           {"{{ ('x' | safe)[0] }}", "an item of a text marked as safe is not supported"},
           {"{{ x is escaped }}", "line 1: the test \"escaped\" is not supported"},
           {"{{ 'x'.encode() }}", "line 1: the method \"encode\" of a str is not supported"},
           {"{{ [].append(1) }}", "the method \"append\" of a list is not supported"},
           {"{% for x in y recursive %}{% endfor %}", "recursive loops are not supported"},
           {"{% if x %}\n", "the if has no endif"},
           {"{{ raise_exception('no system') }}", "refuses this conversation: no system"},
           {"{{ lipsum() }}", "\"lipsum\" is not supported"},
           {"{{ x.y }}", "\"x\" is undefined"},
           {"{% macro m(a) %}{% endmacro %}{{ m.arguments }}",
            "the attribute \"arguments\" of a macro is not supported"},
           {"{% macro m() %}{{ kwargs }}{% endmacro %}{{ m.catch_kwargs }}", "\"catch_kwargs\" of a macro"},
           {"{{ '٣'|int }}", "line 1: int: digits outside ASCII are not supported: got '٣'"},
           {"{{ '1３.5'|float }}", "float: digits outside ASCII"},
           {"", "the model has no chat template"}}) {
    const std::string message = refusal(source);
    EXPECT_NE(message.find(words), std::string::npos) << message;
    EXPECT_TRUE(message.starts_with("M: ")) << message;
    EXPECT_NE(message.find("data.chat_template can name another form"), std::string::npos) << message;
  }
}

TEST(Chat, HostileTemplatesEnd) {
  const auto refused = [](const std::string& source) {
    return message_of([&] { jinja::Template(source, "T").render({}, 0); }) != "";
  };
  std::string brackets(5000, '['), blocks, bars = "{{ x";
  for (int i = 0; i < 5000; ++i) {
    blocks += "{% if x %}";
    bars += "|trim";
  }
  EXPECT_TRUE(refused("{{ " + brackets));
  EXPECT_TRUE(refused("{{ " + std::string(5000, '-') + "1 }}"));
  EXPECT_TRUE(refused("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}"));
  EXPECT_TRUE(refused(blocks));
  EXPECT_TRUE(refused(bars + " }}"));
  EXPECT_TRUE(refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"));
  EXPECT_TRUE(refused("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"));
  EXPECT_TRUE(refused("{{ 'a' * 999999999 }}"));
  EXPECT_TRUE(
      refused("{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}"));
  EXPECT_TRUE(
      refused("{% set n = namespace(x=[]) %}{% for i in range(999) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}"));
  EXPECT_TRUE(
      refused("{% set n = namespace(x=[]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}"));
  EXPECT_TRUE(refused("{{ range(999999999) }}"));
  EXPECT_FALSE(refused("{% set n = namespace() %}{% set n.self = n %}"));  // a circle
}

TEST(Chat, MacrosAndNumbers) {
  const auto rendered = [](const std::string& source) { return jinja::Template(source, "T").render({}, 0); };
  EXPECT_EQ(rendered("{% macro m() %}{{ caller.name }}{% endmacro %}{{ m.name }}{{ m.x is defined }}"), "mFalse");
  EXPECT_EQ(rendered("{% macro m() %}{{ caller.name }}{% endmacro %}{% call m() %}{% endcall %}"), "None");
  EXPECT_EQ(rendered("{{ 'é'|int(7) }}{{ '²'|int(8) }}{{ ' 3\u00a0'|int }}"), "783");
}

TEST(Chat, TheDateCanBePinned) {
  EXPECT_EQ(jinja::Template("{{ strftime_now('%Y-%m-%d') }}", "T").render({}, 1700000000), "2023-11-14");
}

TEST(Chat, RefusesWhatItDoesNotKnow) {
  EXPECT_THROW(ChatTemplate::named("nope"), Error);
  EXPECT_THROW(apply_chat_template("nope", {{"user", "x"}}), Error);
  EXPECT_THROW(apply_chat_template("chatml", {{"tool", "x"}}), Error);
  EXPECT_THROW(apply_chat_template("chatml", {}), Error);
  EXPECT_THROW(apply_chat_template("deepseek_r1", {{"system", "a"}, {"system", "b"}, {"user", "x"}}), Error);
  EXPECT_EQ(ChatTemplate::named("plain").apply({{"user", "x"}}), "x\n");
}

}  // namespace
}  // namespace mantissa
