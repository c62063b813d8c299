// Prompt templates: those built in, a model's own, and ones of a user's.
#include "rl/data/prompt_template.h"

#include "core/error.h"
#include "tests/support/data_test.h"

namespace mantissa {
namespace {

TEST_F(Data, Templates) {
  config_.prompt_template = "qwen_math";
  EXPECT_EQ(apply("Q"),
            "<|im_start|>system\nPlease reason step by step, and put your final answer within "
            "\\boxed{}.<|im_end|>\n"
            "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n");
  config_.prompt_template = "r1_distill_qwen";
  EXPECT_EQ(apply("Q"),
            "<｜begin▁of▁sentence｜><｜User｜>Q Please reason step by step, and put your final answer within "
            "\\boxed{}.\n<｜Assistant｜><think>\n");
  config_.prompt_template = "r1";
  const std::string r1 = apply("Q");
  EXPECT_TRUE(r1.starts_with("A conversation between User and Assistant. The User asks"));
  EXPECT_TRUE(r1.ends_with("<answer> answer here </answer>.\nUser: Q\nAssistant: <think>"));
  config_.prompt_template = "chat";
  config_.system = "S";
  config_.chat_template = "chatml_smollm2";
  EXPECT_EQ(apply("Q"), "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n");
  config_.files = {file("a.jsonl", R"({"problem": "p", "answer": "7"})")};
  config_.chat_template = "auto";
  EXPECT_THROW(make_prompts(config_, ByteTokenizer(), {}, 1 << 20, false), Error);  // auto, but no template to detect
  config_.chat_template = "plain";
  EXPECT_EQ(make_prompts(config_, ByteTokenizer(), {}, 1 << 20, false).prompts[0].ids.front(), 'S');  // no BOS added
}

TEST_F(Data, MarkersThatAreNoTokensAreSaid) {
  const auto said = [&](const std::string& kind, const std::string& form, Strings special) {
    config_.prompt_template = kind;
    config_.chat_template = form;
    std::string text;
    set_notice_sink([&](const std::string& line) { text += line + "\n"; });
    TokenizerFiles files;
    files.chat_template = "<|own|>", files.where = "m";
    note_unknown_markers(config_, files, ByteTokenizer(std::move(special)));
    set_notice_sink({});
    return text;
  };
  const Strings chatml{"<|im_start|>", "<|im_end|>"};
  EXPECT_EQ(said("chat", "chatml", chatml), "");
  EXPECT_EQ(said("chat", "chatml", {chatml[0]}),
            "data.chat_template chatml writes <|im_end|>, no token of m: spelled out as text, in a form that the model "
            "hardly knows\n");
  const std::string llama = said("chat", "llama3", chatml);
  EXPECT_TRUE(
      llama.starts_with("data.chat_template llama3 writes <|begin_of_text|>, <|start_header_id|>, "
                        "<|end_header_id|>, <|eot_id|>, no tokens of m"))
      << llama;
  EXPECT_TRUE(said("r1_distill_qwen", "auto", chatml).starts_with("data.template r1_distill_qwen writes <｜begin▁of"));
  EXPECT_EQ(said("chat", "plain", {}), "");
  EXPECT_EQ(said("chat", "auto", {}), "") << "the model's own";
  EXPECT_EQ(said("r1", "auto", {}), "");
}

TEST_F(Data, TheModelsOwnFormTakesVariables) {
  TokenizerFiles files;
  files.chat_template = "{{ messages[0].content }}|{{ 'on' if enable_thinking else 'off' }}";
  config_.prompt_template = "chat";
  config_.chat_template_kwargs = {"enable_thinking=true"};
  EXPECT_EQ(PromptTemplate(config_, files).apply("Q"), "Q|on");
  config_.system = "S";
  EXPECT_EQ(PromptTemplate(config_, files).apply("Q"), "S|on");
  files.where = "M";
  files.chat_template = "{{ enable_thinking }}{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}";
  EXPECT_EQ(message_of([&] { PromptTemplate(config_, files); }),
            "data.system: the chat template of M leaves system messages out, got \"S\"");
  config_.system.clear();
  config_.chat_template = "chatml";
  EXPECT_EQ(message_of([&] { PromptTemplate(config_, files); }),
            "data.chat_template_kwargs: must be empty but with the model's own form (data.template chat and "
            "data.chat_template auto), got enable_thinking=true");
}

/// Of Llama 3.1 Instruct config.json names three, the end of a text first; its turns end with another.
TEST_F(Data, AResponseToImitateEndsAsTheTemplatesTurnsDo) {
  const ByteTokenizer tokenizer({"<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|im_end|>"});
  const std::vector<int32_t> stops = {300, 301, 302};
  TokenizerFiles files;
  const auto end = [&] { return response_end(config_, files, tokenizer, stops); };
  EXPECT_EQ(end(), 300) << "nothing says more than config.json";
  files.tokenizer_config_json = R"({"eos_token": "<|eom_id|>"})";
  for (const char* of_text : {"none", "r1", "Q: {problem}", "qwen_math"}) {
    config_.prompt_template = of_text;
    EXPECT_EQ(end(), 301) << of_text << ": ends no turn, or with a token that does not stop this model";
  }
  config_.prompt_template = "chat";
  config_.chat_template = "llama3_1";
  EXPECT_EQ(end(), 302);
  config_.chat_template = "plain";
  EXPECT_EQ(end(), 301);
  config_.chat_template = "auto";
  files.chat_template = "{% for m in messages %}{{ m.content | trim }}<|eot_id|>{% endfor %}>";
  EXPECT_EQ(end(), 302);
  for (const char* other : {"{{ messages[0].content }}", "{{ raise_exception('no') }}"}) {
    files.chat_template = other;
    EXPECT_EQ(end(), 301) << other;
  }
}

TEST_F(Data, WhatNoTemplateReadsIsTakenOut) {
  TokenizerFiles files;
  config_.prompt_template = "chat";
  config_.chat_template_kwargs = {"thinking=true", "shout=true"};
  config_.system = "S";
  const auto taken = [&](const std::string& chat_template) {
    files.chat_template = chat_template;
    DataConfig config = config_;
    const Strings keys = take_out_unread(config, files);
    PromptTemplate(config, files);  // takes what is left
    return keys;
  };
  EXPECT_EQ(taken("{{ thinking }}{{ shout }}{{ messages[0].content }}"), Strings{});
  EXPECT_EQ(taken("{{ shout }}{{ messages[-1].content }}"),
            (Strings{"data.chat_template_kwargs: thinking=true", "data.system: S"}));
  EXPECT_EQ(taken("{{ messages[0].content if shout else 'none' }}"),
            Strings{"data.chat_template_kwargs: thinking=true"})
      << "the message is read where a variable says so";
  config_.prompt_template = "none";
  EXPECT_EQ(taken("").size(), 3u);
}

TEST_F(Data, TemplatesOfOnesOwn) {
  const std::string line = R"({"problem": "p{problem}", "answer": "7"})";
  config_.prompt_template = "Q: {problem}\nAgain: {problem}\nA: {x}";
  EXPECT_EQ(apply("p{problem}"), "Q: p{problem}\nAgain: p{problem}\nA: {x}");
  config_.files = {file("a.jsonl", line)};
  EXPECT_EQ(make_prompts(config_, ByteTokenizer(), {}, 1 << 20, false).prompts[0].ids.front(), 256) << "with its BOS";
  config_.prompt_template = file("template.txt", "From a file: {problem}\n");
  EXPECT_EQ(apply("x"), "From a file: x\n");
  config_.prompt_template = file("windows.txt", "\xef\xbb\xbfQ: {problem}\r\nA:\r\n");
  EXPECT_EQ(apply("x\r\n"), "Q: x\r\n\nA:\n") << "the marks of an editor are no part of it, the problem's are";
  config_.prompt_template = file("none.txt", "nothing here");
  EXPECT_NE(error_of(line).find("none.txt: must hold {problem}"), std::string::npos) << error_of(line);
  config_.prompt_template = folder_.string();
  EXPECT_EQ(error_of(line), "data.template: " + folder_.string() + " is not a regular file");
  config_.prompt_template = "cha";
  EXPECT_NE(error_of(line).find("a text with {problem} in it, or a file of one: got \"cha\""), std::string::npos);
  config_.prompt_template = "none";
  config_.system = "S";
  EXPECT_NE(error_of(line).find("data.system: only template chat"), std::string::npos) << error_of(line);
  config_.system = "";
  EXPECT_EQ(error_of(line), "");
  config_.chat_template = "qwen3";
  EXPECT_EQ(error_of(line), "data.chat_template: only template chat has a form, got qwen3 with data.template none");
}

TEST_F(Data, AProblemMayBeAConversation) {
  config_.prompt_template = "chat";
  config_.chat_template = "chatml";
  config_.system = "S";
  const std::string turns = R"({"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}, )"
                            R"({"role": "user", "content": "3"}])";
  config_.files = {file("a.jsonl", R"({"answer": "4", "problem": [)" + turns + "}")};
  EXPECT_EQ(make_prompts(config_, ByteTokenizer(), {}, 1 << 20, false).prompts[0].text,
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
            "<|im_start|>user\n3<|im_end|>\n<|im_start|>assistant\n");
  const auto error = [&](const std::string& list) { return error_of(R"({"answer": "4", "problem": )" + list + "}"); };
  EXPECT_NE(error(R"([{"role": "system", "content": "T"}, )" + turns).find("bad.jsonl:1: the messages have a system"),
            std::string::npos);
  EXPECT_NE(error("[]").find("must not be empty"), std::string::npos);
  EXPECT_NE(error(R"([{"role": "tool", "content": "T"}])").find("message 0: the role must be"), std::string::npos);
  EXPECT_NE(error(R"([{"role": "user"}])").find("message 0 must be {"), std::string::npos);
  EXPECT_EQ(error(R"([{"role": "user", "content": "1", "name": "A", "tool_calls": null}])"), "");
  EXPECT_EQ(notices(),
            Strings{"keys of messages that no prompt holds: \"name\" (" + config_.files[0] + ":1: \"problem\")"});
  config_.system = "";
  config_.prompt_template = "none";
  config_.chat_template = "auto";
  EXPECT_NE(error("[" + turns).find("bad.jsonl:1: a problem that is a list of messages needs data.template chat"),
            std::string::npos);
}

}  // namespace
}  // namespace mantissa
