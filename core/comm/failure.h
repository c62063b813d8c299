// What a rank throws because of another one: its message must name that one, not whoever noticed first (watchdog.h).
// Anything else that all ranks throw alike is taken for a fault of the run, and no rank is named.
#pragma once

#include <string>

#include "core/error.h"

namespace mantissa {

/// A rank closed its connection: it ended, or its machine did. Why, others may know.
class PeerLost : public Error {
 public:
  PeerLost(int rank, const std::string& text) : Error(text), rank(rank) {}
  int rank;
};

/// What one rank could not do, thrown on all of them once it has told the others. `text` is its own.
class RankFailed : public Error {
 public:
  RankFailed(int rank, const std::string& text) : Error(text), rank(rank) {}
  int rank;
};

}  // namespace mantissa
