#!/usr/bin/env bash
# The GPU's rows of docs/results.md in one command: bench on the shape of DeepSeek-R1-Distill-Qwen-1.5B and on that of
# SmolLM2-135M, random weights, fp16. JSON lines go to OUT (default bench_gpu.jsonl), a table comes last.
#   tools/bench_gpu.sh [--quick] [BIN [OUT]]        BIN: folder of the programs, default build/bin
# --quick leaves out the long rows (rollout end to end, 4k contexts).
set -uo pipefail
cd "$(dirname "$0")/.."

quick=0
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,5s/^# \{0,1\}//p' "tools/${0##*/}"; exit; fi
if [[ ${1:-} == --quick ]]; then quick=1; shift; fi
bin=${1:-build/bin} out=${2:-bench_gpu.jsonl} failed=0
[[ -x $bin/bench ]] || { echo "bench_gpu: $bin/bench is missing; build first (README.md)" >&2; exit 1; }
"$bin/bench" step --device cuda --model random:builtin/arithmetic/config.json > /dev/null || exit 1  # no GPU: says so, once
qwen=random:configs/bench/qwen2_1_5b.json smollm=random:configs/bench/smollm2_135m.json
: > "$out"
bench() { # WORDS... -- one process a row: a failure costs its row alone
  timeout 240 "$bin/bench" --device cuda --precision fp16 "$@" >> "$out" || { echo "bench $* failed" >&2; failed=1; }
}

bench gemm --model $qwen --sequences 8 --length 2048
bench attention --model $qwen --sequences 8 --length 2048 --batch 256 --context 4096
bench train --model $qwen --sequences 8 --length 2048
bench train --model $qwen --sequences 8 --length 2048 --recompute mlp
bench train --model $qwen --sequences 8 --length 2048 --recompute mlp --states
bench train --model $qwen --sequences 8 --length 2048 --deterministic
bench train --model $qwen --sequences 2 --length 8192
bench step --model $qwen
for shape in "64 1024" "256 1024" "512 1024" "256 4096"; do
  if ((quick)) && [[ $shape != *1024 ]]; then continue; fi
  bench decode --model $qwen --batch "${shape% *}" --context "${shape#* }" --steps 64
done
bench train --model $smollm --sequences 64 --length 256
bench step --model $smollm
if ((!quick)); then
  bench rollout --model $qwen --sequences 256 --n 8 --length 128 --steps 1024 --batch 1024 --repeat 2
  bench rollout --model $smollm --sequences 256 --n 16 --length 80 --steps 128 --batch 2048
fi

python3 - "$out" <<'PY' || failed=1
import json, sys
print(f"{'bench':18} {'shape':52} {'ms':>9} {'min':>9} {'max':>9} {'tok/s':>9} {'fraction':>8} {'GB':>6}")
for line in open(sys.argv[1]):
    r = json.loads(line)
    rate = f"{r['tokens_per_s']:9.0f}" if r["tokens_per_s"] else " " * 9
    print(f"{r['bench']:18} {r['shape']:52} {r['ms_median']:9.3f} {r['ms_min']:9.3f} {r['ms_max']:9.3f} {rate} "
          f"{r['fraction']:8.2f} {r['peak_bytes'] / 1e9:6.1f}")
PY
exit $failed
