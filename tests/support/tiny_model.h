// The config of a model so small that tests of rollouts and updates take no time: two layers, 61 tokens.
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

}  // namespace mantissa
