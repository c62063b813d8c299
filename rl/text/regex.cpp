// Oniguruma's dialect in PCRE2: a rewrite of the escapes that differ, then a bounded match.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "rl/text/regex.h"

#include <pcre2.h>

#include <algorithm>

#include "core/error.h"
#include "rl/text/unicode.h"

namespace mantissa {

namespace {

// PCRE2's \s also holds U+180E, its \w lacks marks; these are Oniguruma's sets, for use inside brackets.
constexpr const char* kSpace = "\\t-\\r\\x{85}\\p{Z}";
constexpr const char* kWord =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}"
    "-\\x{1F189}";

bool is_letter_or_digit(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// The same language in PCRE2's syntax, or Error.
std::string translate(std::string_view in, const std::string& where) {
  std::string out;
  bool in_class = false;
  size_t class_begin = 0;  // where the class's members begin: ']' is literal there
  const auto refuse = [&](std::string_view what) {
    fail(where, ": ", what, " is not supported in a pattern: got ", in);
  };
  for (size_t i = 0; i < in.size(); ++i) {
    const char c = in[i];
    if (c == '\\') {
      if (++i == in.size()) refuse("a trailing backslash");
      const char e = in[i];
      if (e == 's' || e == 'w') {
        const char* set = e == 's' ? kSpace : kWord;
        out += in_class ? set : str('[', set, ']');
      } else if ((e == 'S' || e == 'W') && !in_class) {
        out += str("[^", e == 'S' ? kSpace : kWord, ']');
      } else if (e == 'v') {
        out += "\\x0b";
      } else if (e == 'u') {
        const std::string_view digits = in.substr(std::min(i + 1, in.size()), 4);
        if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos)
          refuse("\\u without four hexadecimal digits");
        out += str("\\x{", digits, '}');
        i += 4;
      } else if (is_letter_or_digit(e) && std::string_view("pPdDrntfxAzZ").find(e) == std::string_view::npos) {
        refuse(str('\\', e, in_class ? " in a class" : ""));
      } else {
        (out += '\\') += e;
      }
    } else if (in_class) {
      if (c == '[') refuse("a class in a class");
      if (c == '&' && i + 1 < in.size() && in[i + 1] == '&') refuse("&&");
      if (c == ']' && i > class_begin) in_class = false;
      out += c;
    } else if (c == '[') {
      in_class = true;
      out += c;
      if (i + 1 < in.size() && in[i + 1] == '^') out += in[++i];
      class_begin = i + 1;
    } else if (c == '(' && i + 1 < in.size() &&
               (in[i + 1] == '*' || in.substr(i, 3) == "(?R" || in.substr(i, 3) == "(?C")) {
      refuse("a verb, recursion or callout");
    } else {
      if (c == '+' && i > 0 && in[i - 1] == '}' && !out.empty()) {
        const size_t open = in.rfind('{', i - 1);
        if (open != std::string_view::npos &&
            in.substr(open + 1, i - open - 2).find_first_not_of("0123456789,") == std::string_view::npos)
          refuse("{n,m}+ (repeated in Oniguruma, possessive in PCRE2)");
      }
      out += c;
    }
  }
  return out;
}

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

template <auto Free>
struct Freed {
  template <class T>
  void operator()(T* p) const {
    Free(p);
  }
};
using MatchData = std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Freed<pcre2_compile_context_free>>;

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, Freed<pcre2_code_free>> compiled;
};

Regex::Regex(std::string_view pattern, const std::string& where) : code_(std::make_unique<Code>()), where_(where) {
  check(pattern.size() <= 65536, where, ": a pattern has at most 65536 bytes: got ", pattern.size());
  const std::string translated = translate(pattern, where);
  const CompileContext context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE at = 0;
  // MULTILINE: in Ruby's syntax ^ and $ always match at lines.
  code_->compiled.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at,
                                      context.get()));
  check(code_->compiled != nullptr, where, ": pattern is wrong (", message_of(error), "): got ", pattern);
  pcre2_jit_compile(code_->compiled.get(),
                    PCRE2_JIT_COMPLETE);  // where there is no JIT, the interpreter matches
}

Regex::~Regex() = default;

std::vector<Span> Regex::find_all(std::string_view text) const {
  const MatchContext context(pcre2_match_context_create(nullptr));
  // A match that backtracks over the whole text a few times is honest work; an exponential one is not.
  pcre2_set_match_limit(context.get(), uint32_t(std::min<size_t>(100'000 + 32 * text.size(), 1u << 30)));
  pcre2_set_heap_limit(context.get(), uint32_t(65536 + text.size() / 4));  // KiB
  const MatchData match(pcre2_match_data_create(1, nullptr));
  std::vector<Span> found;
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  for (size_t at = 0; at < text.size();) {
    int rc =
        pcre2_match(code_->compiled.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, match.get(), context.get());
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)  // the interpreter keeps its backtracking on the heap
      rc = pcre2_match(code_->compiled.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match.get(),
                       context.get());
    if (rc == PCRE2_ERROR_NOMATCH) break;
    check(rc >= 0, where_, ": matching failed (", message_of(rc), ") at byte ", at, " of ", text.size());
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
    if (bounds[1] > bounds[0]) {
      found.push_back({bounds[0], bounds[1]});
      at = bounds[1];
    } else {  // empty: go on behind the next character
      const size_t next = std::max(at, bounds[1]);
      at = next + (next < text.size() ? utf8_length(static_cast<unsigned char>(text[next])) : 1);
    }
  }
  return found;
}

}  // namespace mantissa
