#!/usr/bin/env bash
# Sets up, builds, runs the main job on the embedded model and shows the reward curve. Needs no model, no data and no GPU.
# Arguments are config overrides for the run: tools/quickstart.sh run.seed=2
set -euo pipefail
cd "$(dirname "$0")/.."

tools/setup.sh
export PATH="$PWD/.deps/venv/bin:$PATH" # a newer cmake, where setup had to bring one

cuda=OFF # the CUDA backend takes longer to build than this run takes: only where there is a GPU to run it
if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then cuda=AUTO; fi

cmake --preset release -DMANTISSA_TESTS=OFF -DMANTISSA_CUDA=$cuda
cmake --build --preset release -j "$(nproc)"

run=runs/quickstart
build/bin/trainer --config configs/grpo_fp16.yaml --overwrite "$@" run.output_dir=$run
python3 tools/plot.py --terminal $run
