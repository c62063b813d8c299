// Units of measure as words of an answer, with their powers.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace mantissa {

/// The unit that a word is a spelling of: "cm" for "centimetres"; "" for a word that is none. Words for a power or a
/// quotient are no units: see is_unit_modifier.
std::string_view unit_of_word(std::string_view word);
/// Short names that are units in \text, behind a number, and may be variables elsewhere: m, s, L, min. "" for others.
std::string_view unit_of_symbol(std::string_view symbol);

/// square, cubic, squared, cubed, per.
bool is_unit_modifier(std::string_view word);

/// A product of units.
class Unit {
 public:
  /// `unit` as unit_of_word names it, or '#' and a noun that is counted.
  void multiply(std::string_view unit, int power);
  void multiply(const Unit& other);
  bool empty() const { return powers_.empty(); }
  /// "cm^2", "h^-1 km": equal for equal units.
  std::string text() const;

 private:
  std::map<std::string, int, std::less<>> powers_;
};

/// Two texts of Unit: whether they may stand behind the same value. "" agrees with all.
bool units_agree(std::string_view a, std::string_view b);

}  // namespace mantissa
