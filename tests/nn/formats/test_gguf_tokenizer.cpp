// The tokenizers of GGUF files: byte-level and SentencePiece, the roles of tokens, files that lie about them, and whole
// files cut short or altered.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/random.h"
#include "nn/formats/gguf.h"
#include "rl/text/tokenizer.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

/// A tiny model whose embedding has a row per token.
GgufBuilder with_tokens(const std::vector<std::string>& tokens, const std::vector<int32_t>& types) {
  GgufBuilder b = tiny_gguf("llama");
  for (auto& t : b.tensors)
    if (t.name == "token_embd.weight") t.extents[1] = tokens.size(), t.data.resize(tokens.size() * 32 * 4);
  b.set("tokenizer.ggml.tokens", tokens);
  b.set_numbers("tokenizer.ggml.token_type", GgufBuilder::kI32, types);
  return b;
}

GgufBuilder byte_level_gguf(const std::string& pre) {
  GgufBuilder b = with_tokens({"<|end|>", "1", "2", "12", "a", "b", "Ġ", "ab", "Ġab", "<user>", "[PAD]"},
                              {3, 1, 1, 1, 1, 1, 1, 1, 1, 4, 5});
  b.set("tokenizer.ggml.model", "gpt2");
  b.set("tokenizer.ggml.pre", pre);
  b.set("tokenizer.ggml.merges", std::vector<std::string>{"1 2", "a b", "Ġ ab"});
  b.set("tokenizer.ggml.bos_token_id", 0u);
  b.set("tokenizer.ggml.eos_token_id", 0u);
  b.set("tokenizer.chat_template", "{{ messages }}");
  return b;
}

TEST(Gguf, ByteLevelTokenizer) {
  const std::string image = byte_level_gguf("smollm").image();
  const GgufModel model = parse_gguf(bytes_of(image), "test.gguf");
  EXPECT_EQ(model.config.eos_ids, std::vector<int32_t>{0});
  EXPECT_EQ(model.config.bos_id, 0);
  EXPECT_EQ(model.tokenizer.chat_template, "{{ messages }}");
  const auto config = nlohmann::json::parse(model.tokenizer.tokenizer_config_json);
  EXPECT_EQ(config["eos_token"], "<|end|>");
  EXPECT_EQ(config["chat_template"], "{{ messages }}");

  const auto smollm = Tokenizer::from_json(model.tokenizer.tokenizer_json, "test");
  EXPECT_EQ(smollm->encode("12 ab<user>b<|end|>", true), (std::vector<int32_t>{1, 2, 8, 9, 5, 0}));  // digits apart
  EXPECT_EQ(smollm->decode({8, 9, 0}, true), " ab<user>");
  EXPECT_EQ(smollm->vocab_size(), 10);  // trailing unused rows are no tokens

  const auto tokenizer = [](GgufBuilder b) {
    const std::string built = b.image();
    return Tokenizer::from_json(parse_gguf(bytes_of(built), "test.gguf").tokenizer.tokenizer_json, "test");
  };
  EXPECT_EQ(tokenizer(byte_level_gguf("gpt-2"))->encode("12 ab"), (std::vector<int32_t>{3, 8}));
  EXPECT_EQ(tokenizer(byte_level_gguf("qwen2"))->encode("12", true), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(tokenizer(byte_level_gguf("llama-bpe"))->encode("12", true), (std::vector<int32_t>{0, 3}));
  GgufBuilder no_bos = byte_level_gguf("llama-bpe");
  no_bos.set_flag("tokenizer.ggml.add_bos_token", false);
  no_bos.set_flag("tokenizer.ggml.add_eos_token", true);
  EXPECT_EQ(tokenizer(no_bos)->encode("12", true), (std::vector<int32_t>{3, 0}));

  EXPECT_NE(refusal(byte_level_gguf("tekken").image()).find("\"tekken\" is not known; known are gpt-2, smollm"),
            std::string::npos);
}

/// A role makes no token special that the file calls ordinary text.
TEST(Gguf, RolesOfOrdinaryTokens) {
  const auto read = [](const GgufBuilder& b) {
    const std::string image = b.image();
    const GgufModel model = parse_gguf(bytes_of(image), "test.gguf");
    return std::pair(Tokenizer::from_files(model.tokenizer),
                     nlohmann::json::parse(model.tokenizer.tokenizer_config_json));
  };
  using Ids = std::vector<int32_t>;
  GgufBuilder b = byte_level_gguf("gpt-2");
  b.set("tokenizer.ggml.padding_token_id", 2u);
  b.set("tokenizer.ggml.unknown_token_id", 9u);
  const auto [padded, config] = read(b);
  EXPECT_EQ(padded->encode("12<user>"), (Ids{3, 9}));  // not 1, 2, 9
  EXPECT_FALSE(config.contains("pad_token"));
  EXPECT_EQ(config["unk_token"], "<user>");
  EXPECT_EQ(config["bos_token"], "<|end|>");

  b.erase("tokenizer.ggml.bos_token_id");
  b.set("tokenizer.ggml.bos_token_id", 4u);
  b.set_flag("tokenizer.ggml.add_bos_token", true);
  EXPECT_EQ(read(b).first->encode("ab", true), (Ids{4, 7}));
  b.erase("tokenizer.chat_template");
  b.set("tokenizer.chat_template", "{{ bos_token }}");
  expect_message(refusal(b.image()), {"bos_token_id 4", "ordinary text", "type 1"});
  b.erase("tokenizer.ggml.token_type");  // nothing is said of any token
  EXPECT_EQ(read(b).second["bos_token"], "a");
}

TEST(Gguf, SentencePieceTokenizer) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a", "▁ab"};
  std::vector<int32_t> types = {2, 3, 3, 1, 1, 1, 1, 1, 1};
  std::vector<float> scores = {0, 0, 0, -5, -6, -7, -2, -1, -3};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    tokens.push_back(name);
    types.push_back(6);
    scores.push_back(0);
  }
  GgufBuilder b = with_tokens(tokens, types);
  b.set("tokenizer.ggml.model", "llama");
  b.set_numbers("tokenizer.ggml.scores", GgufBuilder::kF32, scores);
  b.set("tokenizer.ggml.bos_token_id", 1u);
  const std::string image = b.image();
  const GgufModel model = parse_gguf(bytes_of(image), "test.gguf");
  const auto merges = nlohmann::json::parse(model.tokenizer.tokenizer_json)["model"]["merges"];
  const auto expected = nlohmann::json::parse(R"([["▁","a"],["a","b"],["▁","ab"],["▁a","b"]])");
  EXPECT_EQ(merges, expected);
  const auto tokenizer = Tokenizer::from_json(model.tokenizer.tokenizer_json, "test");
  EXPECT_EQ(tokenizer->encode("ab", true), (std::vector<int32_t>{1, 8}));
  EXPECT_EQ(tokenizer->encode("a\n"), (std::vector<int32_t>{7, 9 + 10}));  // a byte outside the vocabulary
  EXPECT_EQ(tokenizer->decode({8, 7}), "ab a");
}

TEST(Gguf, SmolLm2) {
  const std::filesystem::path root(MANTISSA_SOURCE_DIR);
  const auto file = root / "models/SmolLM2-135M-Instruct.Q4_1.gguf",
             golden = root / "../shared/golden/smollm2_gguf.jsonl";
  if (!std::filesystem::exists(file) || !std::filesystem::exists(golden))
    GTEST_SKIP() << "needs " << file << " (tools/get_model.sh smollm2) and " << golden;
  const GgufModel model = open_gguf(file.string());
  EXPECT_EQ(model.config.layers, 30);
  EXPECT_EQ(model.config.vocab_size, 49152);
  const auto tokenizer = Tokenizer::from_json(model.tokenizer.tokenizer_json, "SmolLM2");
  std::ifstream lines(golden);
  int compared = 0;
  for (std::string line; std::getline(lines, line); ++compared) {
    const auto record = nlohmann::json::parse(line);
    EXPECT_EQ(tokenizer->encode(record["text"].get<std::string>()), record["ids"].get<std::vector<int32_t>>());
  }
  EXPECT_GT(compared, 0);
}

// ---- lies -------------------------------------------------------------------------------------------------

TEST(Gguf, RefusesLyingTokenizers) {
  using B = GgufBuilder;
  const GgufLie lies[] = {
      {"must be gpt2 or llama", [](B& b) { b.erase("tokenizer.ggml.model"), b.set("tokenizer.ggml.model", "bert"); }},
      {"are the same text",
       [](B& b) {
         b.erase("tokenizer.ggml.tokens"), b.set("tokenizer.ggml.tokens", std::vector<std::string>(11, "a"));
       }},
      {"must hold 1 entries",
       [](B& b) { b.erase("tokenizer.ggml.tokens"), b.set("tokenizer.ggml.tokens", std::vector<std::string>{"a"}); }},
      {"must not exceed the 11 rows",
       [](B& b) {
         b.erase("tokenizer.ggml.tokens"), b.set("tokenizer.ggml.tokens", std::vector<std::string>(12, "a"));
       }},
      {"eos_token_id\" must be below the 10 tokens",
       [](B& b) { b.erase("tokenizer.ggml.eos_token_id"), b.set("tokenizer.ggml.eos_token_id", 10u); }},
      {"must be UTF-8", [](B& b) { b.erase("tokenizer.chat_template"), b.set("tokenizer.chat_template", "\xff"); }},
      {"merges\" must be an array of strings",
       [](B& b) { b.erase("tokenizer.ggml.merges"), b.set("tokenizer.ggml.merges", "a b"); }},
      {"add_bos_token is set",
       [](B& b) { b.erase("tokenizer.ggml.bos_token_id"), b.set_flag("tokenizer.ggml.add_bos_token", true); }},
      {"scores\" is missing", [](B& b) { b.erase("tokenizer.ggml.model"), b.set("tokenizer.ggml.model", "llama"); }},
  };
  EXPECT_EQ(refusal(byte_level_gguf("smollm").image()), "");
  for (const GgufLie& lie : lies) {
    GgufBuilder b = byte_level_gguf("smollm");
    lie.tell(b);
    const std::string message = refusal(b.image());
    EXPECT_NE(message.find(lie.part), std::string::npos) << "expected \"" << lie.part << "\" in \"" << message << '"';
  }
}

TEST(Gguf, EveryTruncationIsRefused) {
  const std::string image = byte_level_gguf("smollm").image();
  for (size_t size = 0; size < image.size(); size += size < 4096 ? 1 : 509)
    ASSERT_NE(refusal(image.substr(0, size)), "") << size << " of " << image.size() << " bytes";
}

TEST(Gguf, MutationsEndInAnErrorOrAModel) {
  const std::string image = byte_level_gguf("smollm").image();
  const size_t header = image.find("blk.0.ffn_down.weight") + 80;
  RandomStream random(1, 2);
  for (int round = 0; round < 5000; ++round) {
    std::string mutated = image;
    for (uint32_t edits = 1 + random.below(3); edits > 0; --edits)
      mutated[random.below(uint32_t(header))] = char(random.below(4) == 0 ? 0xff : random.next());
    refusal(mutated);
  }
}

}  // namespace
}  // namespace mantissa
