// Configs of models so small that tests of rollouts and updates take no time: two layers, 61 tokens.
#pragma once

#include "nn/config.h"

namespace mantissa {

inline ModelConfig tiny_model() {
  ModelConfig c;
  c.vocab_size = 61;
  c.width = 32;
  c.layers = 2;
  c.heads = {4, 2, 8};
  c.feed_forward = 48;
  c.max_positions = 256;
  c.qk_norm = true;
  return c;
}

/// The same with two of three experts in each layer.
inline ModelConfig tiny_mixture() {
  ModelConfig c = tiny_model();
  c.architecture = "qwen3_moe";
  c.experts.count = 3;
  c.experts.per_token = 2;
  c.experts.feed_forward = 24;
  c.experts.normalise = true;
  return c;
}

}  // namespace mantissa
