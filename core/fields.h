// Fields: how a configuration struct, beside its owner, names its keys once. The same function reads YAML, applies
// command-line overrides, prints the resolved config, lists the known keys, and says which of them decide a run's bits:
//
//   struct OptimConfig {
//     float lr = 1e-6f;
//     void fields(Fields& f) { f.field("lr", lr, "peak learning rate", at_least(0)); }
//   };
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace mantissa {

/// Allowed interval of a number, ends included.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
};
/// As few digits as read back to the same number: 0.9999, not 1.
inline std::string shortest(double value) {
  char text[64];
  const double size = std::abs(value);
  const bool plain = size >= 1e-4 && size < 1e15;
  return {text, plain ? std::to_chars(text, text + sizeof text, value, std::chars_format::fixed).ptr
                      : std::to_chars(text, text + sizeof text, value).ptr};
}
inline std::string shortest(int64_t value) {
  return std::to_string(value);
}
/// "between 0 and 1", "at least 0", "finite", the ends as numbers of type T.
template <class T>
std::string rule_of(Range range) {
  if (std::isinf(range.low)) return std::isinf(range.high) ? "finite" : "at most " + shortest(T(range.high));
  return std::isinf(range.high) ? "at least " + shortest(T(range.low))
                                : "between " + shortest(T(range.low)) + " and " + shortest(T(range.high));
}
inline Range at_least(double low) {
  return {low, std::numeric_limits<double>::infinity()};
}
inline Range between(double low, double high) {
  return {low, high};
}

/// What a key means, in a few words, and whether its value decides the bits of a run: a resumed run must find the
/// decisive ones as they were. A plain text is decisive.
struct Help {
  Help(const char* text) : text(text) {}
  Help(const char* text, bool decisive) : text(text), decisive(decisive) {}
  const char* text;
  bool decisive = true;
};
/// For keys that only say how long, how often or where: f.field("keep", keep, not_decisive("checkpoints kept")).
inline Help not_decisive(const char* text) {
  return {text, false};
}

class Fields {
 public:
  virtual ~Fields() = default;
  virtual void field(const char* key, bool& value, const Help& help) = 0;
  virtual void field(const char* key, int64_t& value, const Help& help, Range range) = 0;
  virtual void field(const char* key, double& value, const Help& help, Range range) = 0;
  virtual void field(const char* key, std::string& value, const Help& help) = 0;
  /// A string that must be one of `choices`.
  virtual void choice(const char* key, std::string& value, const std::vector<std::string>& choices,
                      const Help& help) = 0;
  virtual void field(const char* key, std::vector<std::string>& value, const Help& help) = 0;

  /// The names of the maps that a reader has found inside its section: NAME of reward.NAME.kind. Others have none.
  virtual std::vector<std::string> maps() const { return {}; }
  /// Whether a reader has found the key in its section. Others have none.
  virtual bool given(const char* /*key*/) const { return false; }

  void field(const char* key, int& value, const Help& help, Range range) {
    int64_t wide = value;
    Range narrow{std::max(range.low, -2147483648.0), std::min(range.high, 2147483647.0)};
    field(key, wide, help, narrow);
    value = int(wide);
  }
  void field(const char* key, float& value, const Help& help, Range range) {
    double wide = value;
    field(key, wide, help, range);
    value = float(wide);
  }
};

}  // namespace mantissa
