#include "rl/reward/math/expr.h"

namespace mantissa {

bool MathExpr::contains(int node, MathNode::Op op) const {
  const MathNode& n = nodes[size_t(node)];
  if (n.op == op) return true;
  for (int arg : n.args)
    if (contains(arg, op)) return true;
  return false;
}

}  // namespace mantissa
