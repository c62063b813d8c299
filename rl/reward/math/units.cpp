#include "rl/reward/math/units.h"

#include <algorithm>
#include <span>
#include <unordered_map>

#include "rl/reward/math/counts.h"

namespace mantissa {
namespace {

struct UnitSpelling {
  std::string_view unit, words;
};
constexpr UnitSpelling kUnits[] = {
    {"mm", "mm millimeter millimeters millimetre millimetres"},
    {"cm", "cm centimeter centimeters centimetre centimetres"},
    {"m", "meter meters metre metres"},
    {"km", "km kilometer kilometers kilometre kilometres"},
    {"inch", "inch inches"},
    {"foot", "ft foot feet"},
    {"yard", "yd yard yards"},
    {"mile", "mile miles"},
    {"mg", "mg milligram milligrams"},
    {"g", "gram grams"},
    {"kg", "kg kilogram kilograms kilo kilos"},
    {"tonne", "tons tonne tonnes"},
    {"pound", "lb lbs pound pounds"},
    {"ounce", "oz ounce ounces"},
    {"ml", "ml milliliter milliliters millilitre millilitres"},
    {"liter", "liter liters litre litres"},
    {"gallon", "gallon gallons"},
    {"quart", "quart quarts"},
    {"pint", "pint pints"},
    {"ms", "millisecond milliseconds"},
    {"second", "sec secs second seconds"},
    {"minute", "mins minute minutes"},
    {"hour", "hr hrs hour hours"},
    {"day", "day days"},
    {"week", "week weeks"},
    {"month", "month months"},
    {"year", "yr yrs year years"},
    {"cent", "cent cents"},
    {"dollar", "dollar dollars usd"},
    {"yuan", "yuan"},
    {"euro", "euro euros"},
    {"rupee", "rupee rupees"},
    {"am", "am"},
    {"pm", "pm"},
    {"acre", "acre acres"},
    {"hectare", "hectare hectares"},
    {"newton", "newton newtons"},
    {"joule", "joule joules"},
    {"watt", "watt watts"},
    {"kwh", "kwh"},
    {"volt", "volt volts"},
    {"ampere", "amps ampere amperes"},
    {"ohm", "ohms"},
    {"pascal", "pascal pascals"},
    {"kelvin", "kelvin kelvins"},
    {"celsius", "celsius"},
    {"fahrenheit", "fahrenheit"},
    {"hertz", "hertz"},
    {"mole", "mole moles"},
    {"radian", "radian radians rad"},
    {"unit", "unit units"},
    {"mile/hour", "mph"},
    {"km/hour", "kph kmh kmph"},
};
// Too short to be told from variables outside \text.
constexpr UnitSpelling kSymbols[] = {
    {"m", "m"},      {"g", "g"},        {"second", "s"},   {"hour", "h"},     {"liter", "L l"},
    {"newton", "N"}, {"joule", "J"},    {"watt", "W"},     {"volt", "V"},     {"ampere", "A"},
    {"kelvin", "K"}, {"pascal", "pa"},  {"minute", "min"}, {"inch", "in"},    {"ms", "ms"},
    {"mile", "mi"},  {"gallon", "gal"}, {"quart", "qt"},   {"pint", "pt"},    {"tonne", "ton"},
    {"yen", "yen"},  {"hertz", "hz"},   {"mole", "mol"},   {"ampere", "amp"}, {"ohm", "ohm"}};

using Names = std::unordered_map<std::string_view, std::string_view>;

Names names_of(std::span<const UnitSpelling> spellings) {
  Names names;
  for (const UnitSpelling& spelling : spellings)
    for (std::string_view rest = spelling.words; !rest.empty();) {
      size_t end = std::min(rest.find(' '), rest.size());
      names.emplace(rest.substr(0, end), spelling.unit);
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  return names;
}

std::string_view find(const Names& names, std::string_view word) {
  auto it = names.find(word);
  return it == names.end() ? std::string_view() : it->second;
}

}  // namespace

std::string_view unit_of_word(std::string_view word) {
  static const Names names = names_of(kUnits);
  return find(names, word);
}

std::string_view unit_of_symbol(std::string_view symbol) {
  static const Names names = names_of(kSymbols);
  return find(names, symbol);
}

bool is_unit_modifier(std::string_view word) {
  for (std::string_view modifier : {"square", "sq", "cubic", "cu", "squared", "cubed", "per"})
    if (word == modifier) return true;
  return false;
}

void Unit::multiply(std::string_view unit, int power) {
  if (const size_t slash = unit.find('/'); slash != unit.npos) {
    multiply(unit.substr(0, slash), power);
    return multiply(unit.substr(slash + 1), -power);
  }
  auto it = powers_.find(unit);
  if (it == powers_.end()) it = powers_.emplace(unit, 0).first;
  if ((it->second += power) == 0) powers_.erase(it);
}

void Unit::multiply(const Unit& other) {
  for (const auto& [unit, power] : other.powers_) multiply(unit, power);
}

std::string Unit::text() const {
  std::string out;
  for (const auto& [unit, power] : powers_) {
    if (!out.empty()) out += ' ';
    out += unit;
    if (power != 1) (out += '^') += std::to_string(power);
  }
  return out;
}

bool units_agree(std::string_view a, std::string_view b) {
  if (a.empty() || b.empty() || a == b) return true;
  return a[0] == '#' && b[0] == '#' && same_noun(a.substr(1), b.substr(1));
}

}  // namespace mantissa
