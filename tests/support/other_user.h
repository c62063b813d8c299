// What tests of permissions need, since nothing is forbidden to root.
#pragma once

#include <unistd.h>

namespace mantissa {

/// What f() returns where root, if it is who runs the tests, has taken on the rights of nobody.
template <class F>
auto as_other_user(F&& f) {
  struct Rights {
    const bool root = ::geteuid() == 0 && ::seteuid(65534) == 0;
    ~Rights() {
      if (root && ::seteuid(0) != 0) ::_exit(1);
    }
  } rights;
  return f();
}

}  // namespace mantissa
