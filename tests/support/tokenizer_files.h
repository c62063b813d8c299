// What tests of tokenizers share: lines of golden files, tokenizers of single characters.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace mantissa {

using nlohmann::json;

inline std::vector<json> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  std::vector<json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line));
  return lines;
}

/// A tokenizer of single characters with these added tokens, a pre-tokenizer and a normalizer.
inline json plain_tokenizer(const json& added = json::array(), const json& pre_tokenizer = nullptr,
                            const json& normalizer = nullptr) {
  json vocab = json::object();
  for (const char* c : {"a", "b", "c", "1", "2", "<", ">", "x", "y", "\n", " ", "_", "-"}) vocab[c] = vocab.size();
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer", normalizer},
          {"pre_tokenizer", pre_tokenizer},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}}};
}

inline json added_token(const std::string& content, int id) {
  return {{"id", id}, {"content", content}, {"special", true}, {"normalized", false}};
}

}  // namespace mantissa
