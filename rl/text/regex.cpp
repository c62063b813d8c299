#include "rl/text/regex.h"

#include <oniguruma.h>

#include <algorithm>
#include <mutex>

#include "core/error.h"
#include "rl/text/unicode.h"

namespace mantissa {

namespace {

// As Oniguruma's own default; a match that backtracks over the whole text a few times is honest work besides.
constexpr unsigned long kRetries = 10'000'000;
constexpr unsigned kStackEntries = 1 << 22;

const OnigUChar* bytes_of(std::string_view text) {
  return reinterpret_cast<const OnigUChar*>(text.data());
}

std::string message_of(int code, OnigErrorInfo* info = nullptr) {
  OnigUChar text[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int length = info ? onig_error_code_to_str(text, code, info) : onig_error_code_to_str(text, code);
  return {reinterpret_cast<const char*>(text), size_t(std::max(length, 0))};
}

/// The pattern without what Oniguruma before 6.9.9 reads otherwise than the library's: \R under an unbounded
/// quantifier, which it takes once, and [:punct:], from which it leaves the symbols out. Both become what they stand
/// for; but \R in a look-behind matches nothing in any version.
std::string spelled_out(std::string_view pattern) {
  constexpr std::string_view kLineBreak = R"((?>\x0D\x0A|[\x0A-\x0D\x{85}\x{2028}\x{2029}]))";
  constexpr std::pair<std::string_view, std::string_view> kClasses[] = {{"[:punct:]", R"([\p{P}\p{S}])"},
                                                                        {"[:^punct:]", R"([^\p{P}\p{S}])"}};
  std::string out;
  int depth = 0;                    // of [ ]
  std::vector<bool> behind{false};  // of each open group: in a look-behind
  for (size_t at = 0; at < pattern.size();) {
    const std::string_view rest = pattern.substr(at);
    size_t length = 1;
    std::string_view as;
    if (rest[0] == '\\' && rest.size() > 1) {
      length = 2;
      if (rest[1] == 'R' && depth == 0 && !behind.back()) as = kLineBreak;
    } else if (depth == 0 && rest.starts_with("(?#")) {
      length = std::min(rest.find(')'), rest.size() - 1) + 1;
    } else if (depth > 0 && rest.starts_with("[:")) {
      for (const auto& [name, stands_for] : kClasses)
        if (rest.starts_with(name)) as = stands_for;
      const size_t end = rest.find(":]");
      if (end != std::string_view::npos && rest.substr(2, end - 2).find_first_of("[]\\") == std::string_view::npos)
        length = end + 2;
    } else if (depth == 0 && rest[0] == '(') {
      behind.push_back(behind.back() || rest.starts_with("(?<=") || rest.starts_with("(?<!"));
    } else if (depth == 0 && rest[0] == ')' && behind.size() > 1) {
      behind.pop_back();
    } else if (rest[0] == '[') {
      ++depth;
    } else if (rest[0] == ']' && depth > 0) {
      --depth;
    }
    out += as.empty() ? rest.substr(0, length) : as;
    at += length;
  }
  return out;
}

struct FreeRegion {
  void operator()(OnigRegion* region) const { onig_region_free(region, 1); }
};
struct FreeParam {
  void operator()(OnigMatchParam* param) const { onig_free_match_param(param); }
};

}  // namespace

struct Regex::Code {
  regex_t* compiled = nullptr;
  ~Code() { onig_free(compiled); }
};

Regex::Regex(std::string_view pattern, const std::string& where) : code_(std::make_unique<Code>()), where_(where) {
  check(pattern.size() <= 65536, where, ": a pattern has at most 65536 bytes: got ", pattern.size());
  static std::once_flag once;
  std::call_once(once, [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_initialize(encodings, 1);
  });
  const std::string valid = spelled_out(to_valid_utf8(pattern));
  OnigErrorInfo info{};
  const int result = onig_new(&code_->compiled, bytes_of(valid), bytes_of(valid) + valid.size(), ONIG_OPTION_NONE,
                              ONIG_ENCODING_UTF8, ONIG_SYNTAX_ONIGURUMA, &info);
  check(result == ONIG_NORMAL, where, ": pattern is wrong (", result == ONIG_NORMAL ? "" : message_of(result, &info),
        "): got ", pattern);
}

Regex::~Regex() = default;

std::vector<Span> Regex::find_all(std::string_view text) const {
  // Texts are cut into many small pieces: what a search needs is made once a thread.
  static thread_local const std::unique_ptr<OnigRegion, FreeRegion> region(onig_region_new());
  static thread_local const std::unique_ptr<OnigMatchParam, FreeParam> param(onig_new_match_param());
  onig_initialize_match_param(param.get());
  onig_set_match_stack_limit_size_of_match_param(param.get(), kStackEntries);
  onig_set_retry_limit_in_match_of_match_param(param.get(), kRetries);
  onig_set_retry_limit_in_search_of_match_param(param.get(), kRetries + 32 * text.size());
  std::vector<Span> found;
  const OnigUChar *begin = bytes_of(text), *end = begin + text.size();
  for (size_t at = 0; at <= text.size() && !text.empty();) {
    const int result = onig_search_with_param(code_->compiled, begin, end, begin + at, end, region.get(),
                                              ONIG_OPTION_NONE, param.get());
    if (result == ONIG_MISMATCH) break;
    check(result >= 0, where_, ": matching failed (", result < 0 ? message_of(result) : "", ") at byte ", at, " of ",
          text.size());
    const Span match{size_t(region->beg[0]), size_t(region->end[0])};
    if (match.begin == match.end && !found.empty() && found.back().end == match.end) {
      at += at < text.size() ? utf8_length(static_cast<unsigned char>(text[at])) : 1;
      continue;
    }
    found.push_back(match);
    at = match.end;
  }
  return found;
}

}  // namespace mantissa
