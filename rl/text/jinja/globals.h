// Functions that every template has: range, dict, namespace, raise_exception, strftime_now.
#pragma once

#include <ctime>
#include <map>
#include <string>

#include "rl/text/jinja/objects.h"

namespace mantissa::jinja {

class Globals {
 public:
  /// `now` is what strftime_now tells, in local time.
  Globals(Objects& objects, std::time_t now) : objects_(objects), now_(now) {}
  /// Undefined for a name that means nothing; Error for one that Jinja has and this interpreter has not.
  Value look_up(const std::string& name);

 private:
  Objects& objects_;
  std::time_t now_;
  std::map<std::string, Value, std::less<>> made_;
};

}  // namespace mantissa::jinja
