#include "rl/reward/math/words.h"

#include <algorithm>
#include <span>
#include <unordered_map>

#include "rl/reward/math/units.h"

namespace mantissa {
namespace {

using Kind = MathWord::Kind;
using Words = std::unordered_map<std::string_view, MathWord>;

void add(Words& words, Kind kind, std::span<const std::string_view> names) {
  for (std::string_view name : names) words.emplace(name, MathWord{kind, name});
}
void add(Words& words, Kind kind, std::initializer_list<std::string_view> names) {
  add(words, kind, std::span(names.begin(), names.size()));
}

constexpr std::string_view kFunctions[] = {
    "sin",  "cos",  "tan",  "cot",  "sec",  "csc",  "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc",
    "sinh", "cosh", "tanh", "coth", "sech", "csch", "arsinh", "arcosh", "artanh", "ln",     "log",    "lg",
    "exp",  "sqrt", "max",  "min",  "gcd",  "lcm",  "det",    "abs",    "floor",  "ceil",   "binom",  "frac"};
constexpr std::string_view kGreek[] = {"alpha", "beta",    "gamma",  "delta", "epsilon", "zeta", "eta", "theta",
                                       "iota",  "kappa",   "lambda", "mu",    "nu",      "xi",   "rho", "sigma",
                                       "tau",   "upsilon", "phi",    "chi",   "psi",     "omega"};

/// A command that means what another name does.
struct Alias {
  std::string_view name;
  Kind kind;
  std::string_view text;
};
constexpr Alias kAliases[] = {{"dfrac", Kind::kFunction, "frac"},
                              {"tfrac", Kind::kFunction, "frac"},
                              {"cfrac", Kind::kFunction, "frac"},
                              {"dbinom", Kind::kFunction, "binom"},
                              {"tbinom", Kind::kFunction, "binom"},
                              {"arcsinh", Kind::kFunction, "arsinh"},
                              {"arccosh", Kind::kFunction, "arcosh"},
                              {"arctanh", Kind::kFunction, "artanh"},
                              {"tg", Kind::kFunction, "tan"},
                              {"varepsilon", Kind::kName, "epsilon"},
                              {"vartheta", Kind::kName, "theta"},
                              {"varphi", Kind::kName, "phi"},
                              {"pi", Kind::kName, "pi"},
                              {"infty", Kind::kName, "infinity"},
                              {"emptyset", Kind::kOp, "empty"},
                              {"varnothing", Kind::kOp, "empty"},
                              {"cdot", Kind::kOp, "*"},
                              {"times", Kind::kOp, "*"},
                              {"ast", Kind::kOp, "*"},
                              {"div", Kind::kOp, "/"},
                              {"pm", Kind::kOp, "pm"},
                              {"mp", Kind::kOp, "mp"},
                              {"le", Kind::kOp, "<="},
                              {"leq", Kind::kOp, "<="},
                              {"leqslant", Kind::kOp, "<="},
                              {"leqq", Kind::kOp, "<="},
                              {"ge", Kind::kOp, ">="},
                              {"geq", Kind::kOp, ">="},
                              {"geqslant", Kind::kOp, ">="},
                              {"geqq", Kind::kOp, ">="},
                              {"lt", Kind::kOp, "<"},
                              {"gt", Kind::kOp, ">"},
                              {"ne", Kind::kOp, "!="},
                              {"neq", Kind::kOp, "!="},
                              {"approx", Kind::kOp, "~"},
                              {"simeq", Kind::kOp, "~"},
                              {"approxeq", Kind::kOp, "~"},
                              {"cong", Kind::kOp, "~"},
                              {"equiv", Kind::kOp, "="},
                              {"in", Kind::kOp, "in"},
                              {"cup", Kind::kOp, "cup"},
                              {"bigcup", Kind::kOp, "cup"},
                              {"cap", Kind::kOp, "cap"},
                              {"setminus", Kind::kOp, "setminus"},
                              {"backslash", Kind::kOp, "setminus"},
                              {"circ", Kind::kOp, "deg"},
                              {"degree", Kind::kOp, "deg"},
                              {"prime", Kind::kOp, "'"},
                              {"lbrace", Kind::kOp, "\\{"},
                              {"rbrace", Kind::kOp, "\\}"},
                              {"langle", Kind::kOp, "("},
                              {"rangle", Kind::kOp, ")"},
                              {"lvert", Kind::kOp, "|"},
                              {"rvert", Kind::kOp, "|"},
                              {"lVert", Kind::kOp, "|"},
                              {"rVert", Kind::kOp, "|"},
                              {"vert", Kind::kOp, "|"},
                              {"Vert", Kind::kOp, "|"},
                              {"mid", Kind::kOp, ":"},
                              {"colon", Kind::kOp, ":"},
                              {"lfloor", Kind::kOp, "lfloor"},
                              {"rfloor", Kind::kOp, "rfloor"},
                              {"lceil", Kind::kOp, "lceil"},
                              {"rceil", Kind::kOp, "rceil"},
                              {"lbrack", Kind::kOp, "["},
                              {"rbrack", Kind::kOp, "]"},
                              {"choose", Kind::kOp, "choose"},
                              {"land", Kind::kOp, "and"},
                              {"lor", Kind::kOp, "and"},
                              {"wedge", Kind::kOp, "and"},
                              {"vee", Kind::kOp, "and"},
                              {"lparen", Kind::kOp, "("},
                              {"rparen", Kind::kOp, ")"},
                              {"ldots", Kind::kName, "..."},
                              {"dots", Kind::kName, "..."},
                              {"cdots", Kind::kName, "..."},
                              {"rightarrow", Kind::kName, "to"},
                              {"longrightarrow", Kind::kName, "to"},
                              {"pounds", Kind::kSkip, ""},
                              {"euro", Kind::kSkip, ""},
                              {"dollar", Kind::kSkip, ""}};

Words make_commands() {
  Words words;
  add(words, Kind::kFunction, std::span(kFunctions));
  add(words, Kind::kName, std::span(kGreek));
  add(words, Kind::kSkip, {"left",   "right",        "big",        "Big",         "bigg",    "Bigg",     "bigl",
                           "bigr",   "Bigl",         "Bigr",       "biggl",       "biggr",   "Biggl",    "Biggr",
                           "middle", "displaystyle", "textstyle",  "scriptstyle", "limits",  "nolimits", "quad",
                           "qquad",  "hfill",        "hspace",     "thinspace",   "enspace", "phantom",  "smash",
                           "hline",  "nonumber",     "ensuremath", "mathstrut",   "strut",   "dotsc"});
  add(words, Kind::kDecoration,
      {"vec", "hat", "bar", "tilde", "overline", "overrightarrow", "underline", "widehat", "widetilde", "boldsymbol",
       "mathcal", "mathfrak", "boxed", "fbox", "bm", "pmb", "overleftrightarrow"});
  add(words, Kind::kText,
      {"text", "mbox", "textbf", "textit", "textrm", "textsf", "texttt", "mathrm", "mathbf", "mathit", "mathsf", "hbox",
       "operatorname", "rm", "bf", "textnormal", "emph"});
  for (const Alias& a : kAliases) words.insert_or_assign(a.name, MathWord{a.kind, a.text});
  return words;
}

Words make_words() {
  Words words;
  add(words, Kind::kFunction, std::span(kFunctions));
  words.erase("frac");
  add(words, Kind::kName, std::span(kGreek));
  add(words, Kind::kName, {"pi", "infinity"});
  words.emplace("inf", MathWord{Kind::kName, "infinity"});
  words.emplace("asin", MathWord{Kind::kFunction, "arcsin"});
  words.emplace("acos", MathWord{Kind::kFunction, "arccos"});
  words.emplace("atan", MathWord{Kind::kFunction, "arctan"});
  add(words, Kind::kOp, {"and"});
  words.emplace("or", MathWord{Kind::kOp, "and"});
  for (std::string_view word : {"percent", "percentage", "pct"}) words.emplace(word, MathWord{Kind::kOp, "%"});
  for (std::string_view word : {"degree", "degrees", "deg"}) words.emplace(word, MathWord{Kind::kOp, "deg"});
  words.emplace("cup", MathWord{Kind::kOp, "cup"});
  words.emplace("in", MathWord{Kind::kOp, "in"});
  return words;
}

}  // namespace

MathWord math_command(std::string_view name) {
  static const Words words = make_commands();
  auto it = words.find(name);
  return it == words.end() ? MathWord{} : it->second;
}

MathWord math_word(std::string_view run) {
  static const Words words = make_words();
  auto it = words.find(run);
  if (it != words.end()) return it->second;
  // "am" and "pm" are products of variables here, times of day only in \text.
  if (!unit_of_word(run).empty() && run != "am" && run != "pm") return {Kind::kText, run};
  return {};
}

}  // namespace mantissa
