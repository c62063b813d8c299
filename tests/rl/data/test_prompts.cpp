// Data files, prompt templates, sft targets, the cursor.
#include "rl/data/prompts.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/notice.h"
#include "rl/data/prompt_template.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

using Strings = std::vector<std::string>;

/// One id a byte, and 300 and on for special tokens of its own.
class ByteTokenizer final : public Tokenizer {
 public:
  explicit ByteTokenizer(Strings special = {}) : special_(std::move(special)) {}
  std::vector<int32_t> encode(std::string_view text, bool special) const override {
    std::vector<int32_t> ids(special ? 1 : 0, 256);
    for (size_t at = 0; at < text.size();) {
      const auto token = std::ranges::find_if(special_, [&](const auto& t) { return text.substr(at).starts_with(t); });
      ids.push_back(token == special_.end() ? static_cast<unsigned char>(text[at]) : id_of(*token));
      at += token == special_.end() ? 1 : token->size();
    }
    return ids;
  }
  std::string decode(const std::vector<int32_t>&, bool) const override { return {}; }
  int64_t vocab_size() const override { return 300 + int64_t(special_.size()); }
  int32_t id_of(std::string_view token) const override {
    const auto found = std::ranges::find(special_, token);
    return found == special_.end() ? -1 : int32_t(300 + (found - special_.begin()));
  }

 private:
  Strings special_;
};

class Data : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("mantissa_data_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string file(const std::string& name, const std::string& content) {
    const auto path = folder_ / name;
    std::ofstream(path) << content;
    return path.string();
  }
  std::string apply(const std::string& problem) { return PromptTemplate(config_, {}).apply(problem); }
  std::string error_of(const std::string& content, bool solution = false) {
    config_.files = {file("bad.jsonl", content)};
    return message_of([&] { make_prompts(config_, ByteTokenizer(), {}, 1 << 20, solution); });
  }
  /// The notices that reading config_.files gives.
  Strings notices() const {
    Strings said;
    set_notice_sink([&](const std::string& text) { said.push_back(text); });
    read_records(config_);
    set_notice_sink({});
    return said;
  }
  std::filesystem::path folder_;
  DataConfig config_;
};

TEST_F(Data, ReadsRecordsAndFillsTargets) {
  config_.files = {file("a.jsonl", R"({"problem": "1+1?", "answer": "2", "solution": "1+1=<<1+1=2>>2"})"
                                   "\n\n"
                                   R"({"problem": "p", "answer": 7, "solution": "s << t", "more": []})"
                                   "\r\n"),
                   file("b.jsonl", R"({"problem": "q", "answer": "x", "solution": "y"})")};
  config_.strip_calculator_marks = true;
  config_.response_format = "{solution}\nThe answer is \\boxed{{answer}} {other}";
  const auto set = make_prompts(config_, ByteTokenizer(), {}, 1 << 20, true);
  ASSERT_EQ(set.prompts.size(), 3u);
  EXPECT_EQ(set.prompts[0].solution, "1+1=2\nThe answer is \\boxed{2} {other}");
  EXPECT_EQ(set.prompts[0].ids, (std::vector<int32_t>{256, '1', '+', '1', '?'}));
  EXPECT_EQ(set.prompts[1].solution, "s << t\nThe answer is \\boxed{7} {other}");
  EXPECT_EQ(set.prompts[2].id, 2);
  auto other = set.prompts;
  EXPECT_EQ(data_hash(other), data_hash(set.prompts));
  other[1].answer = "8";
  EXPECT_NE(data_hash(other), data_hash(set.prompts));
  config_.limit = 2;
  EXPECT_EQ(make_prompts(config_, ByteTokenizer(), {}, 1 << 20, false).prompts.size(), 2u);
}

TEST_F(Data, ARecordIsKeptWithoutMarkAndLineEnds) {
  const std::string row = R"({"problem": "p", "answer": "{1}"})";
  std::string spread = row;
  spread[1 + spread.find(',')] = '\r';
  config_.files = {file("a.jsonl", "\xef\xbb\xbf" + row + "\r\n" + spread + "\n " + row + "\t")};
  for (const Record& record : read_records(config_)) EXPECT_EQ(record.line, row) << record.where;
}

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

TEST_F(Data, OverlongPrompts) {
  const std::string lines =
      "{\"problem\": \"pppppppppp\", \"answer\": \"1\"}\n{\"problem\": \"p\", \"answer\": \"1\"}\n";
  config_.max_prompt_tokens = 5;
  EXPECT_EQ(error_of(lines), "");
  const auto set = make_prompts(config_, ByteTokenizer(), {}, 1 << 20, false);
  EXPECT_EQ(set.overlong, 1);
  EXPECT_EQ(set.prompts[0].id, 1);
  config_.overlong_prompts = "error";
  EXPECT_NE(error_of(lines).find("bad.jsonl:1: a prompt has at most"), std::string::npos);
  config_.overlong_prompts = "skip";
  config_.max_prompt_tokens = 1;
  EXPECT_NE(error_of(lines).find("every prompt is longer"), std::string::npos);
  config_.files.push_back(file("worse.jsonl", "{\"problem\": \"pp\", \"answer\": \"1\"}\n"));
  const std::string both = message_of([&] { make_prompts(config_, ByteTokenizer(), {}, 1 << 20, false); });
  EXPECT_NE(both.find("worse.jsonl: every prompt is longer"), std::string::npos) << both;
}

TEST_F(Data, AFileThatComesAgainIsSaid) {
  const std::string a = file("a.jsonl", "{\"problem\": \"p\", \"answer\": \"1\"}\n"), b = file("b.jsonl", read_file(a));
  const std::string again = (std::filesystem::path(a).parent_path() / "." / "a.jsonl").string();
  std::vector<std::string> said;
  set_notice_sink([&](const std::string& text) { said.push_back(text); });
  config_.files = {a, b};
  EXPECT_EQ(read_records(config_).size(), 2u);
  EXPECT_TRUE(said.empty());
  config_.files = {a, b, again};
  EXPECT_EQ(read_records(config_).size(), 3u);
  config_.files = {b, b};
  EXPECT_EQ(read_records(config_).size(), 2u);
  set_notice_sink({});
  EXPECT_EQ(said, (std::vector<std::string>{
                      str("data.files: \"", again, "\" is the same file as \"", a, "\", so its problems count twice"),
                      str("data.files: \"", b, "\" is named twice, so its problems count twice")}));
  EXPECT_EQ(repeated_file({"no/such", "no/other"}), "");
  const std::string link = (folder_ / "link.jsonl").string();
  std::filesystem::create_symlink(a, link);
  EXPECT_EQ(repeated_file({a, link}), str('"', link, "\" is the same file as \"", a, '"'));
}

TEST_F(Data, AFileWithoutARecordBesideOthersIsSaid) {
  const std::string full = file("a.jsonl", "{\"problem\": \"p\", \"answer\": \"1\"}\n"), empty = file("b.jsonl", "\n");
  config_.files = {full, empty};
  EXPECT_EQ(notices(), Strings{empty + ": holds no record"});
  config_.files = {full};
  EXPECT_EQ(notices(), Strings{});
}

TEST_F(Data, FilesAreNamedByTheirKey) {
  config_.files = {""};
  EXPECT_EQ(message_of([&] { read_records(config_); }), "data.files: the name of a file must not be empty, got \"\"");
  config_.files_key = "eval.files";
  config_.files = {"no/such*.jsonl"};
  EXPECT_EQ(message_of([&] { read_records(config_); }),
            "no/such*.jsonl: cannot be read (eval.files); * and ? are not expanded, a shell does that unquoted");
}

TEST_F(Data, KeysThatNobodyReadsMayHoldAnything) {
  const std::string line = R"({"problem": "p", "answer": "1", "solution": null, "data_source": 3})";
  EXPECT_EQ(error_of(line), "");
  EXPECT_EQ(read_records(config_)[0].data_source, "3");
  EXPECT_NE(error_of(line, true).find("bad.jsonl:1: \"solution\" must be a string: got a null"), std::string::npos);
  config_.response_format = "{answer}";
  EXPECT_EQ(error_of(line, true), "");
}

TEST_F(Data, ATargetNeedsAnAnswerOnlyWhereItHasOne) {
  const std::string without = R"({"problem": "p", "solution": "s"})";
  EXPECT_EQ(error_of(without, true), "");
  EXPECT_NE(error_of(without).find("key \"answer\" is missing"), std::string::npos) << "a problem to grade";
  EXPECT_EQ(error_of(R"({"problem": "p", "solution": "s", "answer": 2.5})", true), "");
  config_.files = {file("a.jsonl", R"({"problem": "p", "solution": "s", "answer": 7})")};
  EXPECT_EQ(make_prompts(config_, ByteTokenizer(), {}, 1 << 20, true).prompts[0].answer, "7") << "part of data_hash";
  config_.response_format = "{solution} {answer}";
  EXPECT_NE(error_of(without, true).find("key \"answer\" is missing"), std::string::npos);
  EXPECT_NE(error_of(R"({"problem": "p", "solution": "s", "answer": 2.5})", true).find("\"answer\" must be a string"),
            std::string::npos);
}

TEST_F(Data, NumbersBeyondADoubleMatterWhereTheyAreRead) {
  const std::string digits(310, '7');
  const auto record = [](const std::string& answer, const std::string& more) {
    return R"({"problem": "p", "answer": )" + answer + R"(, "more": [{"x": )" + more + "}]}";
  };
  for (const std::string& number : {digits, "-" + digits, std::string("1e999"), std::string("-0.5E+999")})
    EXPECT_EQ(error_of(record("1", number)), "") << number;
  EXPECT_EQ(error_of(record("-" + digits, "1e999")), "");
  EXPECT_EQ(read_records(config_)[0].answer, "-" + digits);
  EXPECT_NE(error_of(record("1e999", "1"))
                .find("\"answer\" must be a string or an integer: got a number with a "
                      "fraction or an exponent (in quotes it is a string; where the reward reads the record itself, "
                      "data.answer_key may be \"\")"),
            std::string::npos);
  for (const char* none : {"01e999", "1e999e", "--1e999", "1e", "\"\\\"1e999"})
    EXPECT_NE(error_of(record("1", none)).find("not valid JSON"), std::string::npos) << none;
  EXPECT_EQ(error_of(record("\"\\\"1e999\\\\\"", "1")), "") << "a text is left alone";
  EXPECT_EQ(read_records(config_)[0].answer, "\"1e999\\");
}

TEST_F(Data, BadFilesNameTheLine) {
  const std::string good = "{\"problem\": \"p\", \"answer\": \"1\"}\n";
  EXPECT_NE(error_of(good + "{\"problem\": ").find("bad.jsonl:2: not valid JSON"), std::string::npos);
  EXPECT_NE(error_of(good + "3").find("bad.jsonl:2: must be a JSON object"), std::string::npos);
  EXPECT_NE(error_of(good + "{\"answer\": \"1\"}")
                .find("bad.jsonl:2: key \"problem\" is missing; the record has answer (data.prompt_key names"),
            std::string::npos);
  EXPECT_NE(error_of("{\"problem\": \"p\"}").find("data.answer_key names the one to read, and is \"\" where"),
            std::string::npos);
  EXPECT_NE(error_of("{\"problem\": 1, \"answer\": \"1\"}").find("bad.jsonl:1: \"problem\" must be a string"),
            std::string::npos);
  EXPECT_NE(
      error_of("{\"problem\": \"p\", \"answer\": [1]}").find("\"answer\" must be a string or an integer: got an array"),
      std::string::npos);
  EXPECT_NE(error_of(good + R"({"problem": "p", "answer": "1", "answer": "2"})")
                .find("bad.jsonl:2: key \"answer\" appears twice"),
            std::string::npos);
  EXPECT_NE(error_of("").find("holds no record"), std::string::npos);
  EXPECT_NE(error_of(good, true)
                .find("bad.jsonl:1: data.response_format needs {solution}, which this record lacks (data.solution_key "
                      "is \"solution\")"),
            std::string::npos);
  config_.files = {"/nonexistent.jsonl"};
  EXPECT_THROW(read_records(config_), Error);
  config_.files.clear();
  EXPECT_THROW(read_records(config_), Error);
}

TEST_F(Data, FilesOfAnotherKindAreNamed) {
  const auto says = [&](const std::string& content, const char* part) {
    const std::string message = error_of(content);
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_NE(message.find("bad.jsonl"), std::string::npos) << message;
    EXPECT_NE(message.find("JSON lines"), std::string::npos) << message;
  };
  says("\x1f\x8b\x08zipped", "is gzip-compressed");
  says("PAR1\x15\x04", "is Parquet (tools/to_jsonl.py makes");
  says("version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer");
  says("[{\"problem\": \"p\"}]",
       "got an array (wanted are JSON lines: one object a line; this file seems to be one JSON");
  says("[\n{\"problem\": \"p\"}\n]", "one JSON array, of which tools/to_jsonl.py makes such lines");
  says("problem,answer\np,1\n", "tools/to_jsonl.py makes such lines of CSV");
  says("{\n  \"problem\": \"p\"\n}", "over several lines");
}

TEST_F(Data, AnswersOfAnyLength) {
  const auto answer = [&](const std::string& number) {
    config_.files = {file("a.jsonl", "{\"x\": {\"answer\": 1}, \"problem\": \"p\", \"answer\": " + number + "}")};
    return read_records(config_)[0].answer;
  };
  for (int digits = 1; digits < 60; ++digits)
    for (const char* sign : {"", "-"})
      EXPECT_EQ(answer(sign + std::string(size_t(digits), '7')), sign + std::string(size_t(digits), '7'));
  EXPECT_THROW(answer("1.5"), Error);
  EXPECT_THROW(answer("1e40"), Error);
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

TEST_F(Data, CursorDrawsEachPromptOnceAnEpochAndResumes) {
  DataCursor cursor(10, 7, true);
  std::set<int64_t> seen;
  std::vector<int64_t> first_epoch;
  for (int i = 0; i < 5; ++i)
    for (const int64_t index : cursor.next(2)) {
      seen.insert(index);
      first_epoch.push_back(index);
    }
  EXPECT_EQ(seen.size(), 10u);
  EXPECT_EQ(cursor.epoch(), 1);
  DataCursor resumed(10, 7, true);
  resumed.seek(cursor.position());
  const auto draw = cursor.next(10);
  EXPECT_EQ(resumed.next(10), draw);
  EXPECT_NE(draw, first_epoch);
  EXPECT_NE(DataCursor(10, 8, true).next(10), first_epoch);
  for (int i = 0; i < 50; ++i) {  // a draw that would cross an epoch starts the next one
    const auto some = cursor.next(4);
    EXPECT_EQ(std::set<int64_t>(some.begin(), some.end()).size(), 4u);
  }
  DataCursor plain(3, 0, false);
  EXPECT_EQ(plain.next(2), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(plain.next(2), (std::vector<int64_t>{2, 0})) << "the last is trained on, too";
  EXPECT_EQ(plain.epoch(), 1);
  EXPECT_EQ(plain.next(3), (std::vector<int64_t>{1, 2, 0}));
  EXPECT_THROW(plain.next(4), Error);
  EXPECT_THROW(plain.next(0), Error);
  EXPECT_THROW(plain.seek(-1), Error);
  EXPECT_THROW(DataCursor(0, 0, true), Error);
}

}  // namespace
}  // namespace mantissa
