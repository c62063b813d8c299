#include "rl/text/stop.h"

#include <algorithm>

namespace mantissa {

std::vector<int32_t> stop_ids(const ModelConfig& config, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  const auto add = [&](int32_t id) {
    if (id >= 0 && id < config.vocab_size && std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  };
  for (const int32_t id : config.eos_ids) add(id);
  for (const char* token :
       {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>", "</s>"})
    add(tokenizer.id_of(token));
  return ids;
}

}  // namespace mantissa
