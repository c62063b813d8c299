// The message of an error that a test provokes.
#pragma once

#include <string>

#include "core/error.h"

namespace mantissa {

/// What the Error says that f() throws; "" where it throws none.
template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace mantissa
