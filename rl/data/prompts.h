// Data: JSON lines -> records -> prompts (templates applied, tokenized) -> an order to draw them in. A record is one
// line of a file; its row, counted over all files, is the prompt's id for random numbers and dumps.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "nn/formats/tokenizer_files.h"
#include "rl/data/data_config.h"
#include "rl/text/chat.h"
#include "rl/text/tokenizer.h"
#include "rl/types.h"

namespace mantissa {

struct Record {
  int64_t row = 0;
  std::vector<ChatMessage> messages;  // where the problem is a conversation; `problem` is then its last message
  std::string problem, answer, solution, data_source;
  std::string line;   // the record as it stands in the file, without a byte order mark or line end
  std::string where;  // file:line
};

/// Of the first file that comes again, by whatever path or link: `"b" is named twice`, or `"./b" is the same file as
/// "b"`. Empty where none does.
std::string repeated_file(const std::vector<std::string>& files);

/// The first `limit` records of the files (0: all). The problem is a string or a list of messages; the answer a string
/// or an integer, needed unless answer_key is ""; data_source any value, by its JSON where it is no string, "" for
/// null. The solution, read where `with_solution` and response_format ask for it, is a string. The last two are ""
/// where the key is missing, and so is the answer where `with_solution` and response_format does not ask for it. Blank
/// lines are skipped. Errors name file and line; no record at all is an error. A notice is given of a file that comes
/// again or holds no record, and of keys of messages that no prompt holds.
std::vector<Record> read_records(const DataConfig& config, bool with_solution = false);

struct PromptSet {
  std::vector<Prompt> prompts;
  int64_t longest = 0;   // tokens that a prompt may have
  int64_t overlong = 0;  // prompts left out for having more

  /// ", 3 skipped for prompts over 1024 tokens"; "" where none was.
  std::string skipped() const;
};

/// Prompts of the files under data.template (rl/data/prompt_template.h). `with_solution`: Prompt.solution is
/// response_format filled in, and a record that lacks a part of it is an error (sft); else it stays empty. A prompt has
/// at most max_prompt_tokens tokens, and leaves one of the model's `positions` free. No prompt left is an error. `look`
/// is called with each record before its prompt is made, and may throw.
PromptSet make_prompts(const DataConfig& config, const Tokenizer& tokenizer, const TokenizerFiles& files,
                       int64_t positions, bool with_solution, const std::function<void(const Record&)>& look = {});

/// Prompt.solution_ids of all: the tokens of the solution, then `stop`. Where they do not fit behind the prompt into
/// `positions`, that is an error or the prompt is left out, as config.overlong_prompts says. Returns how many were. No
/// prompt left is an error.
int64_t encode_solutions(std::vector<Prompt>& prompts, const DataConfig& config, const Tokenizer& tokenizer,
                         int32_t stop, int64_t positions);

/// Hash of everything that training sees of the prompts: a resumed run must find the same.
uint64_t data_hash(const std::vector<Prompt>& prompts);

/// The order of prompts. With shuffle each epoch has a fresh one, a function of (seed, epoch) alone, and ends where
/// fewer than k prompts are left, which wait for later epochs; without, it is that of the files, and behind the last
/// comes the first. No draw holds a prompt twice.
class DataCursor {
 public:
  DataCursor(int64_t size, uint64_t seed, bool shuffle);
  /// Indices of the next k prompts; 0 < k <= size.
  std::vector<int64_t> next(int64_t k);
  int64_t epoch() const { return position_ / size_; }
  /// Saved in checkpoints; seek(position()) continues the same order.
  int64_t position() const { return position_; }
  void seek(int64_t position);

 private:
  void load_epoch();
  int64_t size_;
  uint64_t seed_;
  bool shuffle_;
  int64_t position_ = 0;
  int64_t loaded_ = -1;  // epoch whose shuffle is in order_
  std::vector<int64_t> order_;
};

}  // namespace mantissa
