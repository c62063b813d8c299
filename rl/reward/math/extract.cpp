#include "rl/reward/math/extract.h"

#include <algorithm>
#include <cctype>

#include "rl/reward/math/boxes.h"
#include "rl/reward/math/prose.h"
#include "rl/reward/math/text.h"

namespace mantissa {
namespace {

constexpr size_t kNone = std::string_view::npos;
constexpr size_t kBareLimit = 200;  // a longer line is no bare answer

/// Length of a special token of some model that ends the text, "<|im_end|>", "</s>"; 0 for none.
size_t special_token_length(std::string_view text) {
  for (std::string_view token :
       {"</s>", "<s>", "<bos>", "<eos>", "<pad>", "<unk>", "<end_of_turn>", "<turn|>", "[EOS]", "[PAD]", "[/INST]"})
    if (text.ends_with(token)) return token.size();
  for (auto [open, close] : {std::pair<std::string_view, std::string_view>{"<|", "|>"}, {"<｜", "｜>"}}) {
    if (!text.ends_with(close)) continue;
    const size_t begin = text.rfind(open);
    if (begin == kNone || text.size() - begin > 60) continue;
    const std::string_view name = text.substr(begin + open.size(), text.size() - begin - open.size() - close.size());
    if (!name.empty() && std::none_of(name.begin(), name.end(), is_blank)) return text.size() - begin;
  }
  return 0;
}

std::string_view after_last_anchor(std::string_view text) {
  std::string low = lowered(text);
  size_t best = kNone;
  for (size_t at = low.rfind("answer"); at != kNone; at = at == 0 ? kNone : low.rfind("answer", at - 1)) {
    size_t i = at + 6;
    while (i < low.size() && (low[i] == ' ' || low[i] == '*')) ++i;
    if (i < low.size() && low[i] == ':') {
      best = i + 1;
    } else if (low.compare(i, 1, "$") == 0 || low.compare(i, 2, "\\(") == 0 || low.compare(i, 2, "\\[") == 0) {
      best = i;
    } else if (low.compare(i, 2, "is") == 0 && i + 2 < low.size() &&
               !std::isalpha(static_cast<unsigned char>(low[i + 2]))) {
      best = i + 2;
    }
    if (best != kNone && !trimmed(text.substr(best)).empty()) return text.substr(best);
    best = kNone;
  }
  return {};
}

}  // namespace

std::string_view without_special_tokens(std::string_view text) {
  text = trimmed(text);
  while (const size_t length = special_token_length(text)) text = trimmed(text.substr(0, text.size() - length));
  return text;
}

ExtractedAnswer extract_answer(std::string_view response, bool boxed_only) {
  constexpr std::string_view kThinkEnd = "</think>";
  if (size_t end = response.rfind(kThinkEnd); end != kNone) response.remove_prefix(end + kThinkEnd.size());

  response = without_special_tokens(response);

  ExtractedAnswer answer;
  auto found = [&](std::string_view text, bool marked) {
    answer.found = true, answer.marked = marked;
    answer.text = without_special_tokens(text);
    return answer;
  };
  const std::vector<Box> boxes = last_boxes(response, 16);
  if (!boxes.empty()) {
    std::string text;
    for (size_t i = run_of_boxes(response, boxes); i-- > 0;)
      (text += signed_content(response, boxes[i])) += i == 0 ? "" : ", ";
    return found(text, true);
  }
  if (boxed_only) return answer;
  constexpr std::string_view kTag = "<answer>";  // of the prompt template r1
  if (size_t at = response.rfind(kTag); at != kNone) {
    std::string_view text = response.substr(at + kTag.size());
    text = trimmed(text.substr(0, text.find("</answer>")));
    if (!text.empty()) return found(text, true);
  }
  if (size_t at = response.rfind("####"); at != kNone) {
    std::string_view line = response.substr(at + 4);
    line = trimmed(line.substr(0, line.find('\n')));
    if (!line.empty()) return found(line, true);
  }
  if (std::string_view text = after_last_anchor(response); !text.empty()) return found(stated_value(text), true);

  std::string_view whole = trimmed(response);
  if (whole.empty() || whole.size() > kBareLimit || whole.find('\n') != kNone || prose_words(whole) > 2) return answer;
  return found(whole, false);
}

ExtractedAnswer extract_gold(std::string_view gold) {
  bool marked = gold.find("\\boxed") != kNone || gold.find("\\fbox") != kNone || gold.find("####") != kNone;
  if (!marked) {
    std::string start = lowered(trimmed(gold).substr(0, 16));
    marked = start.starts_with("answer is") || start.starts_with("the answer is");
  }
  if (marked)
    if (ExtractedAnswer answer = extract_answer(gold); answer.found) return answer;
  ExtractedAnswer answer;
  answer.found = true;
  answer.text = trimmed(gold);
  return answer;
}

}  // namespace mantissa
