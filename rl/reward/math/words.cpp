#include "rl/reward/math/words.h"

#include <algorithm>
#include <span>
#include <unordered_map>

#include "rl/reward/math/counts.h"
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
// Commands that stand for themselves, as a variable does.
constexpr std::string_view kSymbols[] = {
    "Gamma",    "Delta",  "Theta",  "Lambda", "Xi",    "Pi",       "Sigma",  "Upsilon", "Phi",     "Psi",
    "Omega",    "int",    "iint",   "oint",   "sum",   "prod",     "lim",    "partial", "nabla",   "ell",
    "hbar",     "Re",     "Im",     "angle",  "arc",   "triangle", "aleph",  "sup",     "inf",     "to",
    "star",     "bullet", "dagger", "iff",    "imath", "jmath",    "forall", "exists",  "not",     "perp",
    "parallel", "deg",    "arg",    "dim",    "ker",   "notin",    "ni",     "subset",  "subseteq"};
// Those of them that are no quantity: what they do to others is not computed.
constexpr std::string_view kOperators[] = {"int", "iint", "oint", "sum", "prod", "lim", "partial", "nabla",
                                           "Re",  "Im",   "sup",  "inf", "arg",  "dim", "ker"};
// And those that join others in an order, as no product does.
constexpr std::string_view kJoins[] = {"to",    "iff", "forall", "exists",   "not",  "perp",   "parallel",
                                       "notin", "ni",  "subset", "subseteq", "star", "bullet", "dagger"};
constexpr std::string_view kNothing[] = {
    "left",       "right",        "big",        "Big",         "bigg",        "Bigg",       "bigl",
    "bigr",       "Bigl",         "Bigr",       "biggl",       "biggr",       "Biggl",      "Biggr",
    "middle",     "displaystyle", "textstyle",  "scriptstyle", "limits",      "nolimits",   "quad",
    "qquad",      "hfill",        "thinspace",  "enspace",     "medspace",    "thickspace", "negthinspace",
    "smash",      "hline",        "nonumber",   "notag",       "mathstrut",   "strut",      "dotsc",
    "tiny",       "small",        "normalsize", "large",       "Large",       "LARGE",      "huge",
    "Huge",       "centering",    "therefore",  "checkmark",   "blacksquare", "relax",      "scriptscriptstyle",
    "allowbreak", "nobreak",      "newline",    "par",         "noindent",    "mathopen",   "rm",
    "bf",         "it",           "sf",         "tt",          "em",          "mathclose",  "mathord",
    "mathrel",    "mathbin",      "mathop"};
constexpr std::string_view kFonts[] = {"underline", "boldsymbol", "mathcal", "mathfrak",   "mathscr", "boxed",
                                       "fbox",      "framebox",   "bm",      "pmb",        "num",     "ensuremath",
                                       "bold",      "cal",        "frak",    "mathnormal", "boldmath"};
constexpr std::string_view kTexts[] = {"text",   "mbox",   "textbf",     "textit",       "textrm", "textsf",
                                       "texttt", "mathrm", "mathbf",     "mathit",       "mathsf", "mathtt",
                                       "hbox",   "emph",   "textnormal", "operatorname", "textup", "textsl",
                                       "textsc", "textmd", "si",         "unit"};

/// A command that means what another name does.
struct Alias {
  std::string_view name;
  Kind kind;
  std::string_view text;
};
constexpr Alias kAliases[] = {
    {"dfrac", Kind::kFunction, "frac"},
    {"tfrac", Kind::kFunction, "frac"},
    {"cfrac", Kind::kFunction, "frac"},
    {"nicefrac", Kind::kFunction, "frac"},
    {"sfrac", Kind::kFunction, "frac"},
    {"xfrac", Kind::kFunction, "frac"},
    {"flatfrac", Kind::kFunction, "frac"},
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
    {"over", Kind::kOp, "over"},
    {"bmod", Kind::kOp, "mod"},
    {"mod", Kind::kOp, "mod"},
    {"pmod", Kind::kOp, "pmod"},
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
    {"degrees", Kind::kOp, "deg"},
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
    {"lq", Kind::kSkip, ""},
    {"rq", Kind::kSkip, ""},
    {"ldots", Kind::kName, "..."},
    {"dots", Kind::kName, "..."},
    {"cdots", Kind::kName, "..."},
    {"rightarrow", Kind::kName, "to"},
    {"longrightarrow", Kind::kName, "to"},
    {"euro", Kind::kOp, "euro"},
    {"pounds", Kind::kOp, "pounds"},
    {"yen", Kind::kOp, "yen"},
    {"rupee", Kind::kOp, "rupee"},
    {"textdollar", Kind::kOp, "dollar"},
    {"dollar", Kind::kOp, "dollar"},
    // a name of its own for what many readers do not take for the letter alone: a conjugate, a mean, an estimate
    {"bar", Kind::kAccent, "bar"},
    {"overline", Kind::kAccent, "bar"},
    {"hat", Kind::kAccent, "hat"},
    {"widehat", Kind::kAccent, "hat"},
    {"tilde", Kind::kAccent, "tilde"},
    {"widetilde", Kind::kAccent, "tilde"},
    {"dot", Kind::kAccent, "dot"},
    {"ddot", Kind::kAccent, "ddot"},
    {"check", Kind::kAccent, "check"},
    {"acute", Kind::kAccent, "acute"},
    {"grave", Kind::kAccent, "grave"},
    {"breve", Kind::kAccent, "breve"},
    {"vec", Kind::kAccent, "vec"},
    {"overrightarrow", Kind::kAccent, "vec"},
    {"overleftrightarrow", Kind::kAccent, ""},
    {"overarc", Kind::kAccent, ""},
    {"color", Kind::kSkipArgs, "1"},
    {"textcolor", Kind::kSkipArgs, "1"},
    {"colorbox", Kind::kSkipArgs, "1"},
    {"fcolorbox", Kind::kSkipArgs, "12"},
    {"tag", Kind::kSkipArgs, "1"},
    {"label", Kind::kSkipArgs, "1"},
    {"hspace", Kind::kSkipArgs, "1"},
    {"vspace", Kind::kSkipArgs, "1"},
    {"phantom", Kind::kSkipArgs, "1"},
    {"hphantom", Kind::kSkipArgs, "1"},
    {"vphantom", Kind::kSkipArgs, "1"},
    {"rule", Kind::kSkipArgs, "12"},
    {"fontsize", Kind::kSkipArgs, "12"},
    {"scalebox", Kind::kSkipArgs, "1"},
    {"raisebox", Kind::kSkipArgs, "1"},
    {"href", Kind::kSkipArgs, "1"},
};

Words make_commands() {
  Words words;
  add(words, Kind::kFunction, std::span(kFunctions));
  add(words, Kind::kName, std::span(kGreek));
  add(words, Kind::kName, std::span(kSymbols));
  add(words, Kind::kSkip, std::span(kNothing));
  add(words, Kind::kFont, std::span(kFonts));
  add(words, Kind::kText, std::span(kTexts));
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
  words.emplace("mod", MathWord{Kind::kOp, "mod"});
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

bool is_operator(std::string_view name) {
  return std::find(std::begin(kOperators), std::end(kOperators), name) != std::end(kOperators);
}

bool is_join(std::string_view name) {
  return std::find(std::begin(kJoins), std::end(kJoins), name) != std::end(kJoins);
}

MathWord math_word(std::string_view run) {
  static const Words words = make_words();
  auto it = words.find(run);
  if (it != words.end()) return it->second;
  // "am" and "pm" are products of variables here, times of day only in \text.
  if (!unit_of_word(run).empty() && run != "am" && run != "pm") return {Kind::kText, run};
  if (is_unit_modifier(run) || is_number_word(run) || run == "men") return {Kind::kText, run};
  return {};
}

}  // namespace mantissa
