#include "rl/reward/math/units.h"

#include <algorithm>
#include <unordered_map>

namespace mantissa {
namespace {

struct UnitSpelling {
  std::string_view unit, words;
};
// Words that do not tell one unit from another (square, cubic, units) have unit "-".
constexpr UnitSpelling kUnits[] = {
    {"mm", "mm millimeter millimeters millimetre millimetres"},
    {"cm", "cm centimeter centimeters centimetre centimetres"},
    {"m", "meter meters metre metres"},
    {"km", "km kilometer kilometers kilometre kilometres"},
    {"inch", "inch inches"},
    {"foot", "ft foot feet"},
    {"yard", "yd yard yards"},
    {"mile", "mile miles mph"},
    {"mg", "mg milligram milligrams"},
    {"g", "gram grams"},
    {"kg", "kg kilogram kilograms"},
    {"pound", "lb lbs pound pounds"},
    {"ounce", "oz ounce ounces"},
    {"ml", "ml mL milliliter milliliters"},
    {"liter", "liter liters litre litres"},
    {"gallon", "gallon gallons"},
    {"second", "sec second seconds"},
    {"minute", "min. minute minutes"},
    {"hour", "hr hrs hour hours"},
    {"day", "day days"},
    {"week", "week weeks"},
    {"month", "month months"},
    {"year", "yr year years"},
    {"cent", "cent cents"},
    {"dollar", "dollar dollars usd"},
    {"yuan", "yuan"},
    {"euro", "euro euros"},
    {"am", "am"},
    {"pm", "pm"},
    {"acre", "acre acres"},
    {"-", "square sq cubic cu unit units per radian radians rad"},
};

std::unordered_map<std::string_view, std::string_view> make_units() {
  std::unordered_map<std::string_view, std::string_view> units;
  for (const UnitSpelling& spelling : kUnits)
    for (std::string_view rest = spelling.words; !rest.empty();) {
      size_t end = std::min(rest.find(' '), rest.size());
      units.emplace(rest.substr(0, end), spelling.unit);
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  return units;
}

}  // namespace

std::string_view unit_of_word(std::string_view word) {
  static const auto units = make_units();
  auto it = units.find(word);
  return it == units.end() ? std::string_view() : it->second;
}

}  // namespace mantissa
