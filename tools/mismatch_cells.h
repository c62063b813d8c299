// The cells of a mismatch measurement: every combination of the types and modes that --matrix names.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "rl/precision.h"

namespace mantissa {

/// One combination. What its rollout side is (rollout, kv_cache, lm_head, residual, match) decides its samples; cells
/// that share it score the same samples.
struct Cell {
  PrecisionConfig precision;

  std::string rollout_side() const {
    return str(precision.rollout, ' ', precision.kv_cache, ' ', precision.lm_head, ' ', precision.residual, ' ',
               precision.match);
  }
  std::string name() const {
    return str("rollout ", precision.rollout, ", train ", precision.train, ", kv_cache ", precision.kv_cache,
               ", lm_head ", precision.lm_head, ", residual ", precision.residual, ", match ", precision.match);
  }
};

/// `base` under every combination of the axes' values, the first axis varying slowest: "precision=fp16,bf16". Throws on
/// an unknown axis or value.
std::vector<Cell> make_cells(const Cell& base, const std::vector<std::string>& matrix);

/// Leaves out the cells for which `can` throws and says why; none left is an error.
std::vector<Cell> workable(const std::vector<Cell>& cells, const std::function<void(const PrecisionConfig&)>& can);

}  // namespace mantissa
