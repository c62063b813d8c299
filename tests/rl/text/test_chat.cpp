// Chat templates against Jinja (tests/golden/make_tokenizer_golden.py) and their detection.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "rl/text/chat.h"

namespace mantissa {
namespace {

using nlohmann::json;

TEST(Chat, EqualsTheJinjaTemplates) {
  std::ifstream file(std::string(MANTISSA_SOURCE_DIR) + "/tests/golden/chat.jsonl");
  int templates = 0;
  for (std::string line; std::getline(file, line); ++templates) {
    const json golden = json::parse(line);
    const std::string name = golden["name"];
    TokenizerFiles files;
    files.chat_template = golden["template"];
    EXPECT_EQ(detect_chat_template(files), name);
    files.chat_template.clear();
    files.tokenizer_config_json = json{{"chat_template", golden["template"]}}.dump();
    EXPECT_EQ(detect_chat_template(files), name);
    files.tokenizer_config_json =
        json{{"chat_template", {{{"name", "default"}, {"template", golden["template"]}}}}}.dump();
    EXPECT_EQ(detect_chat_template(files), name);
    for (const json& c : golden["cases"]) {
      std::vector<ChatMessage> messages;
      for (const json& m : c["messages"]) messages.push_back({m["role"], m["content"]});
      EXPECT_EQ(apply_chat_template(name, messages), c["text"].get<std::string>()) << name << c["messages"];
    }
  }
  EXPECT_EQ(templates, 7);
}

TEST(Chat, OtherForms) {
  const std::vector<ChatMessage> hi = {{"user", "hi"}};
  EXPECT_EQ(apply_chat_template("chatml", hi), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(apply_chat_template("chatml_qwen2", hi),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + apply_chat_template("chatml", hi));
  EXPECT_EQ(apply_chat_template("plain", hi), "hi\n");
  TokenizerFiles files;
  files.chat_template =
      "{% for m in messages %}{{'<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n'}}{% endfor %}";
  EXPECT_EQ(detect_chat_template(files), "chatml");
  files.chat_template =
      "{{ '<|im_start|>system\\nPlease reason step by step, and put your final answer within "
      "\\\\boxed{}.<|im_end|>\\n' }}";
  EXPECT_EQ(detect_chat_template(files), "chatml_qwen2_5_math");
}

TEST(Chat, UnknownFormsNameTheOption) {
  for (const char* jinja :
       {"", "{{ messages }}", "[INST] {{ x }} [/INST]", "{{ '<|im_start|>system\\nYou are Bob.<|im_end|>' }}",
        "{{ '<|im_start|>assistant\\n<think>\\n' }}"}) {
    TokenizerFiles files;
    files.where = "M";
    files.chat_template = jinja;
    try {
      detect_chat_template(files);
      ADD_FAILURE() << jinja;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("data.chat_template"), std::string::npos) << e.what();
    }
  }
  TokenizerFiles broken;
  broken.tokenizer_config_json = "{";
  EXPECT_THROW(detect_chat_template(broken), Error);
  EXPECT_THROW(apply_chat_template("nope", {{"user", "x"}}), Error);
  EXPECT_THROW(apply_chat_template("chatml", {{"tool", "x"}}), Error);
  EXPECT_THROW(apply_chat_template("chatml", {}), Error);
  EXPECT_THROW(apply_chat_template("deepseek_r1", {{"system", "a"}, {"system", "b"}, {"user", "x"}}), Error);
}

}  // namespace
}  // namespace mantissa
