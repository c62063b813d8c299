#include "rl/text/jinja/numbers.h"

#include <charconv>
#include <cmath>

#include "core/error.h"
#include "rl/text/jinja/python_text.h"

namespace mantissa::jinja {

namespace {

/// Python's numbers take decimal digits of every script.
void check_digits(const char* filter, const std::string& text) {
  for (const std::string& c : characters_of(text))
    check(c.size() == 1 || !is_all(c, Class::kDecimal), filter, ": digits outside ASCII are not supported: got ",
          repr(std::string_view(text)));
}

/// Reads all of `text`, blanks around it apart; false when it is no number.
bool read_integer(const std::string& text, int base, int64_t& value) {
  std::string digits(strip(text, Side::kBoth));
  if (digits.starts_with('+')) digits.erase(0, 1);
  if (digits.empty() || digits.starts_with("+") || digits.starts_with("+-")) return false;
  check(digits.find('_') == std::string::npos, "int: digits with underscores are not supported");
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  check(read.ec != std::errc::result_out_of_range, "int: integers beyond 64 bits are not supported");
  return read.ec == std::errc() && read.ptr == digits.data() + digits.size();
}

bool read_real(const std::string& text, double& value) {
  std::string digits(strip(text, Side::kBoth));
  if (digits.starts_with('+')) digits.erase(0, 1);
  check(digits.find_first_of("_(") == std::string::npos, "float: ", repr(std::string_view(text)), " is not supported");
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return !digits.empty() && digits[0] != '+' && read.ec == std::errc() && read.ptr == digits.data() + digits.size();
}

int64_t truncated(double value) {
  check(std::fabs(value) < 9.2e18, "int: integers beyond 64 bits are not supported");
  return int64_t(value);
}

}  // namespace

Value int_filter(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("int", {"default?", "base"});
  const Value otherwise = bound[0].not_given() ? Value(int64_t(0)) : bound[0];
  check(!input.is_undefined(), "int of an undefined value");
  if (input.integer() || input.boolean()) return integer_of(input, "");
  double real = 0;
  if (const std::string* text = input.text()) {
    check_digits("int", *text);
    const int64_t base = bound[1].is_undefined() ? 10 : integer_of(bound[1], "base");
    check(base == 10 || base == 16 || base == 8 || base == 2, "int: base must be 2, 8, 10 or 16: got ", base);
    check(base == 10 || text->find_first_of("xXoObB") == std::string::npos, "int: prefixes are not supported");
    if (int64_t value = 0; read_integer(*text, int(base), value)) return value;
    if (!read_real(*text, real)) return otherwise;
  } else if (input.real()) {
    real = *input.real();
  } else {
    return otherwise;
  }
  return std::isfinite(real) ? Value(truncated(real)) : otherwise;
}

Value float_filter(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("float", {"default?"});
  check(!input.is_undefined(), "float of an undefined value");
  if (input.real()) return input;
  if (input.integer() || input.boolean()) return double(integer_of(input, ""));
  double value = 0;
  if (input.text()) check_digits("float", *input.text());
  if (input.text() && read_real(*input.text(), value)) return value;
  return bound[0].not_given() ? Value(0.0) : bound[0];
}

Value round_filter(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("round", {"precision", "method"});
  const int64_t precision = bound[0].is_undefined() ? 0 : integer_of(bound[0], "precision");
  const std::string method = bound[1].is_undefined() ? "common" : text_of(bound[1], "method");
  check(precision >= 0 && precision <= 15, "round: precision must be from 0 to 15: got ", precision);
  check(method == "common" || method == "ceil" || method == "floor", "round: method must be common, ceil or floor");
  if (method == "common" && !input.real()) return integer_of(input, "the input of round");
  const double value = input.real() ? *input.real() : double(integer_of(input, "the input of round"));
  if (method != "common") {
    const double scale = std::pow(10.0, double(precision));
    check(std::isfinite(value), "round: ", method, " of a number that is not finite");
    const double whole = method == "ceil" ? std::ceil(value * scale) : std::floor(value * scale);
    return whole == 0 ? 0.0 : whole / scale;  // Python's are integers: no -0
  }
  if (!std::isfinite(value)) return value;
  char text[400];
  const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::fixed, int(precision)).ptr;
  double rounded = 0;
  std::from_chars(text, end, rounded);
  return rounded;
}

}  // namespace mantissa::jinja
