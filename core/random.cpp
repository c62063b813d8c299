#include "core/random.h"

#include <cmath>
#include <numbers>

namespace mantissa {

float RandomStream::normal() {
  const double radius = std::sqrt(-2.0 * std::log(double(uniform())));
  return float(radius * std::cos(2.0 * std::numbers::pi * double(uniform())));
}

}  // namespace mantissa
