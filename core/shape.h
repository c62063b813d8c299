// Shape of a dense row-major tensor: up to four extents held inline, so that copying one never allocates.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>

#include "core/error.h"

namespace mantissa {

class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) {
    check(extents.size() <= kMaxRank, "[shape] at most ", kMaxRank, " dimensions, got ", extents.size());
    for (int64_t e : extents) push_back(e);
  }

  void push_back(int64_t extent) {
    check(rank_ < kMaxRank, "[shape] at most ", kMaxRank, " dimensions");
    check(extent >= 0, "[shape] extents must not be negative, got ", extent);
    extents_[rank_++] = extent;
  }

  int rank() const { return rank_; }
  /// Extent of dimension i; negative i counts from the end.
  int64_t operator[](int i) const { return extents_[i < 0 ? i + rank_ : i]; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= extents_[i];
    return n;
  }
  /// Product of all extents but the last: the number of rows when the tensor is read as a matrix.
  int64_t rows() const { return rank_ == 0 ? 1 : (extents_[rank_ - 1] == 0 ? 0 : numel() / extents_[rank_ - 1]); }
  bool operator==(const Shape&) const = default;

 private:
  std::array<int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

inline std::ostream& operator<<(std::ostream& out, const Shape& s) {
  out << '[';
  for (int i = 0; i < s.rank(); ++i) out << (i ? "," : "") << s[i];
  return out << ']';
}

}  // namespace mantissa
