// Data files, sft targets, the cursor.
#include "rl/data/prompts.h"

#include <set>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/data_test.h"

namespace mantissa {
namespace {

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
  const auto broken = [&](const char* line, const char* at) {
    const std::string message = error_of(good + line + "\n" + good);
    EXPECT_EQ(message.find("several lines"), std::string::npos) << message;
    EXPECT_NE(message.find(std::string("bad.jsonl:2: not valid JSON at byte ") + at), std::string::npos) << message;
  };
  broken("{\"problem\": \"p\" \"answer\": 1}", "24: unexpected string literal; expected '}' (wanted are");
  broken("{\"problem\": \"p\", \"answ", "23: invalid string: missing closing quote (wanted are");
  broken("{\"problem\": \"p\", \"answer\": NaN}", "28: invalid literal (wanted are");
  broken("{\"problem\": \"p\", \"answer\": 1},", "30: unexpected ','; expected end of input (wanted are");
  std::string joined = good + good;  // two records, but not two lines
  joined[good.find('\n')] = '\0';
  EXPECT_NE(error_of(joined).find("bad.jsonl:1: not valid JSON: it holds a zero byte"), std::string::npos);
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
