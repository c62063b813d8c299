#include "rl/reward/math/spelling.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "rl/reward/math/text.h"

namespace mantissa {

std::string to_ascii(std::string_view text) {
  static constexpr std::pair<std::string_view, std::string_view> kMap[] = {
      {"π", "\\pi "},     {"√", "\\sqrt "},   {"∞", "\\infty "},    {"≤", "<="},       {"≥", ">="},
      {"⩽", "<="},        {"⩾", ">="},        {"≠", "!="},          {"×", "*"},        {"·", "*"},
      {"⋅", "*"},         {"÷", "/"},         {"−", "-"},           {"–", "-"},        {"—", "-"},
      {"±", "\\pm "},     {"∓", "\\mp "},     {"∪", "\\cup "},      {"∩", "\\cap "},   {"∈", "\\in "},
      {"°", "^\\circ "},  {"⁰", "^0"},        {"¹", "^1"},          {"²", "^2"},       {"³", "^3"},
      {"⁴", "^4"},        {"⁵", "^5"},        {"⁶", "^6"},          {"⁷", "^7"},       {"⁸", "^8"},
      {"⁹", "^9"},        {"½", "(1/2)"},     {"⅓", "(1/3)"},       {"⅔", "(2/3)"},    {"¼", "(1/4)"},
      {"¾", "(3/4)"},     {"≈", "\\approx "}, {"∅", "\\emptyset "}, {"′", "'"},        {"’", "'"},
      {"“", ""},          {"”", ""},          {"，", ","},          {"。", "."},       {"：", ":"},
      {"；", ";"},        {"（", "("},        {"）", ")"},          {"、", ","},       {"€", ""},
      {"£", ""},          {"¥", ""},          {"\u00a0", " "},      {"\u2009", " "},   {"\u202f", " "},
      {"α", "\\alpha "},  {"β", "\\beta "},   {"γ", "\\gamma "},    {"δ", "\\delta "}, {"θ", "\\theta "},
      {"λ", "\\lambda "}, {"μ", "\\mu "},     {"ρ", "\\rho "},      {"σ", "\\sigma "}, {"τ", "\\tau "},
      {"φ", "\\phi "},    {"ω", "\\omega "},  {"ℝ", "\\mathbb{R}"}, {"⟨", "("},        {"⟩", ")"}};
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      out += text[i++];
      continue;
    }
    auto it =
        std::find_if(std::begin(kMap), std::end(kMap), [&](auto& m) { return text.substr(i).starts_with(m.first); });
    if (it != std::end(kMap)) {
      out += it->second;
      i += it->first.size();
    } else {
      out += text[i++];
    }
  }
  return out;
}

std::string text_key(std::string_view text) {
  static constexpr std::string_view kFonts[] = {"\\text{",   "\\mbox{",   "\\textbf{", "\\textit{",
                                                "\\textrm{", "\\mathrm{", "\\mathbf{"};
  static constexpr std::string_view kNothing[] = {"\\left", "\\right", "\\quad", "\\qquad", "\\displaystyle",
                                                  "\\!",    "\\,",     "\\;",    "\\:",     "\\ ",
                                                  "\\$",    "\\(",     "\\)",    "\\[",     "\\]"};
  std::string key;
  std::vector<bool> dropped;  // for each open brace: it belongs to a font
  bool words = true;
  for (size_t i = 0; i < text.size();) {
    std::string_view rest = text.substr(i);
    auto starts = [&](std::string_view s) {
      return rest.starts_with(s) && !(is_letter(s.back()) && rest.size() > s.size() && is_letter(rest[s.size()]));
    };
    if (auto font = std::find_if(std::begin(kFonts), std::end(kFonts), starts); font != std::end(kFonts)) {
      dropped.push_back(true);
      i += font->size();
    } else if (auto it = std::find_if(std::begin(kNothing), std::end(kNothing), starts); it != std::end(kNothing)) {
      i += it->size();
    } else if (starts("\\dfrac") || starts("\\tfrac")) {
      key += "\\frac";
      i += 6;
    } else {
      char c = text[i++];
      if (is_blank(c) || c == '$') continue;
      if (c == '{') dropped.push_back(false);
      if (c == '}' && !dropped.empty()) {
        bool drop = dropped.back();
        dropped.pop_back();
        if (drop) continue;
      }
      words = words && (is_letter(c) || c == ',' || c == '-' || c == '(' || c == ')' || c == '.' || c == '\'');
      key += c;
    }
  }
  while (!key.empty() && key.back() == '.') key.pop_back();
  if (words && key.size() > 1) std::transform(key.begin(), key.end(), key.begin(), [](char c) { return lowered(c); });
  return key;
}

}  // namespace mantissa
