#!/usr/bin/env bash
# Sets up, builds, and trains the embedded model three times: in FP16 with the exact kernels, then in FP16 and in BF16 with
# a rollout that rounds as a separate engine does. Shows the rewards, how far rollout and training are apart in each, and
# problems before and after. Needs no model, no data and no GPU; the runs take about two minutes on two cores.
# Arguments are config overrides for all runs: tools/quickstart.sh run.seed=2
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,5s/^# \{0,1\}//p' "tools/${0##*/}"; exit; fi

tools/setup.sh
export PATH="$PWD/.deps/venv/bin:$PATH" # a newer cmake, where setup had to bring one

cuda=OFF # the CUDA backend takes longer to build than this run takes: only where there is a GPU to run it
if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then cuda=AUTO; fi

cmake --preset release -DMANTISSA_TESTS=OFF -DMANTISSA_CUDA=$cuda
cmake --build --preset release -j "$(nproc)"

# As in the paper's sanity test the 64 problems of the run are learned by heart: what it can do of others falls.
sets='[builtin/arithmetic/sanity.jsonl,builtin/arithmetic/heldout.jsonl]'
train() { # RUN OVERRIDES...
  local run=$1
  shift
  build/bin/trainer --config configs/grpo_fp16.yaml --overwrite run.name="${run##*/}" checkpoint.keep=1 \
    eval.files="$sets" eval.before_training=true eval.n=2 "$@" run.output_dir="$run"
}
train runs/quickstart train.steps=200 eval.every=50 "$@"
for type in fp16 bf16; do
  train runs/quickstart_${type}_peer train.steps=60 eval.every=60 precision.train=$type precision.rollout=$type \
    precision.match=peer checkpoint.export_model=false "$@"
done

python3 tools/plot.py --terminal --story runs/quickstart runs/quickstart_fp16_peer runs/quickstart_bf16_peer --next \
  "Talk to the trained model:" \
  '  build/bin/generate --model runs/quickstart/model --prompt "51+29+60="' \
  "Look at every metric and sample of the runs:" \
  "  python3 tools/dashboard.py runs/quickstart*" \
  "Your own data and reward, to a GGUF file: docs/your_task.md" \
  "The paper's sanity test, six algorithms in both types (6 min):" \
  "  tools/sanity_matrix.sh" \
  "A real model on a GPU: configs/smollm2_gsm8k_sft.yaml"
