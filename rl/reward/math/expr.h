// Expression trees of written answers. Nodes live in one array and name each other by index; children come before their
// parents, so the array is a topological order. Bounded: a text that needs more than kMaxNodes nodes, kMaxDepth levels
// of nesting or kMaxDigits digits in a number is refused.
#pragma once

#include <gmpxx.h>

#include <cstdint>
#include <string>
#include <vector>

namespace mantissa {

struct MathNode {
  enum class Op : uint8_t {
    kNumber,  // number; decimals: digits after the point of a decimal literal, else -1; base: of "204_5", else 0
    kSymbol,  // name: variables, greek letters, words
    kPi,
    kE,
    kI,
    kInfinity,
    kPercent,    // the factor of "%"
    kDegree,     // the factor of "^\circ"
    kAdd,        // args
    kMul,        // args; name "*" where one of the signs is written
    kNeg,        // arg
    kPlusMinus,  // arg with either sign; name "+" or "-": the sign it has where \pm is read as plus
    kDiv,        // args[0] / args[1]
    kPow,        // args[0] ^ args[1]
    kCall,       // name applied to args; names of unknown functions begin with '@'
    kRelation,   // args joined by the characters of name: = ~ < > l(<=) g(>=) n(!=) e(in)
    kRatio,      // a : b : c
    kTuple,      // name: its two brackets; intervals, points, ordered lists; base 1: "1, 2" of "1, 2; 3, 4"
    kSet,        // {a, b}
    kList,       // a, b or "a and b": bare, unordered
    kUnion,      // args joined by \cup
    kUnit,       // arg with the unit of measure or counted noun `name`, see Unit::text; its value is that of arg
    kMatrix,     // args row by row; base: columns
  };
  Op op;
  std::string name;
  mpq_class number;
  int decimals = -1;
  int base = 0;
  std::vector<int> args;
};

struct MathExpr {
  static constexpr int kMaxNodes = 1000;
  static constexpr int kMaxDepth = 60;
  static constexpr int kMaxDigits = 1000;

  std::vector<MathNode> nodes;
  int root = -1;
  std::string remarks;     // words behind values that are neither units nor nouns: "at most", "below zero"
  std::string unknown;     // the first command whose meaning is not known or not computed; "" for none
  std::string connective;  // "land" or "lor" where the answer joins its parts by one of them, "both"; "" for none

  const MathNode& operator[](int node) const { return nodes[size_t(node)]; }
  int add(MathNode node) {
    nodes.push_back(std::move(node));
    return int(nodes.size()) - 1;
  }
  bool contains(int node, MathNode::Op op) const;
};

}  // namespace mantissa
