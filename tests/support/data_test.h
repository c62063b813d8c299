// What tests of data files and prompt templates share: a tokenizer of bytes, and a folder of files to read.
#pragma once

#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/notice.h"
#include "rl/data/prompt_template.h"
#include "rl/data/prompts.h"
#include "tests/support/message.h"

namespace mantissa {

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

}  // namespace mantissa
