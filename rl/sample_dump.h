// samples.jsonl: what to look at of a step. The first sample of each of the first logging.samples groups: prompt,
// response, what the reward made of it; of the first one also its first tokens, with their log-probs on both sides:
//
//   {"step": 1, "id": 7, "prompt": "1+2=", "response": "3<eos>", "answer": "3", "extracted": "3", "reward": 1,
//    "correct": true, "status": "parsed", "reason": "same text", "finish": "stop"}
//
// `correct` and `status` are as an evaluation counts the answer: RolloutSample::correct and ::verdict.
#pragma once

#include <vector>

#include "rl/run.h"
#include "rl/train/batcher.h"

namespace mantissa {

/// After the updates of the step, on all ranks; `batches` hold what was forwarded, with old_logprobs.
void dump_samples(Run& run, const std::vector<RolloutGroup>& groups, const std::vector<MiniBatch>& batches);

}  // namespace mantissa
