#include "rl/text/model_tokenizer.h"

#include "core/error.h"
#include "core/notice.h"
#include "nn/formats/tokenizer_config.h"

namespace mantissa {

std::unique_ptr<Tokenizer> open_tokenizer(const TokenizerFiles& files) {
  std::unique_ptr<Tokenizer> tokenizer = Tokenizer::from_files(files);
  if (const std::string text = prefix_space_notice(files); !text.empty()) notice(text);
  return tokenizer;
}

std::unique_ptr<Tokenizer> open_tokenizer(const Model& model) {
  std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(model.tokenizer);
  check(tokenizer->vocab_size() <= model.config.vocab_size, model.tokenizer.where, ": the tokenizer has ",
        tokenizer->vocab_size(), " ids, the model only ", model.config.vocab_size);
  return tokenizer;
}

}  // namespace mantissa
