#!/usr/bin/env bash
# The paper's sanity test in miniature: the embedded model under six algorithms, each in BF16 and FP16, then a table and a
# picture. The rollout rounds as a separate engine does (precision.match=peer), so that there is a mismatch to correct.
#
#   tools/sanity_matrix.sh [--steps N] [--seed N] [--out DIR] [--jobs N] [section.key=value ...]
#
# --jobs runs go side by side, by default one a core; about a minute a run and core. Run it again after an interruption:
# finished runs are not repeated. Results in DIR (runs/sanity_matrix): a run directory each, table.md, curves.svg.
set -euo pipefail
cd "$(dirname "$0")/.."

steps=100 seed=1 out=runs/sanity_matrix jobs=$(nproc)
overrides=()
while (($# > 0)); do
  [[ ! $1 =~ ^--(steps|seed|out|jobs)$ || $# -ge 2 ]] || { echo "sanity_matrix: $1 needs a value" >&2; exit 1; }
  case $1 in
    --steps) steps=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --jobs) jobs=$2; shift 2 ;;
    *=*) overrides+=("$1"); shift ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "tools/${0##*/}"; [[ $1 == -h || $1 == --help ]]; exit ;;
  esac
done
for option in steps seed jobs; do
  [[ ${!option} =~ ^[0-9]+$ ]] || { echo "sanity_matrix: --$option must be a number: got ${!option}" >&2; exit 1; }
done
for option in steps jobs; do
  ((10#${!option} > 0)) || { echo "sanity_matrix: --$option must be at least 1: got ${!option}" >&2; exit 1; }
done
[[ -x build/bin/trainer ]] || { echo "sanity_matrix: build/bin/trainer is missing; build first (README.md)" >&2; exit 1; }

pg="algorithm.policy_loss=pg"
declare -A algorithm=(
  [grpo]=""
  [grpo_token_tis]="algorithm.correction=token_tis algorithm.correction_high=2"
  [grpo_seq_mis]="algorithm.correction=seq_mis algorithm.correction_high=3"
  [gspo]="algorithm.policy_loss=gspo algorithm.advantage=grpo algorithm.loss_aggregation=seq_mean_token_mean
          algorithm.clip_low=3e-4 algorithm.clip_high=4e-4"
  [pg_seq_is]="$pg algorithm.correction=seq_is"
  [pg_seq_mis]="$pg algorithm.correction=seq_mis algorithm.correction_high=3"
)
order=(grpo grpo_token_tis grpo_seq_mis gspo pg_seq_is pg_seq_mis)

export OMP_NUM_THREADS=$(($(nproc) > jobs ? $(nproc) / jobs : 1))
train() { # NAME TYPE
  local run=$out/$1_$2
  echo "sanity_matrix: $1_$2"
  # shellcheck disable=SC2086  # several words on purpose
  build/bin/trainer --config configs/grpo_fp16.yaml --resume auto run.name="$1_$2" run.output_dir="$run" \
    run.seed="$seed" precision.train=$2 precision.rollout=$2 precision.match=peer train.steps="$steps" \
    checkpoint.export_model=false checkpoint.keep=1 ${algorithm[$1]} "${overrides[@]}" 2>"$run.log" && return
  tail -n 3 "$run.log" >&2
  echo "sanity_matrix: $run failed, see $run.log" >&2
  return 1
}

runs=() failed=0
mkdir -p "$out"
for name in "${order[@]}"; do
  for type in bf16 fp16; do
    runs+=("$out/${name}_$type")
    if (($(jobs -rp | wc -l) >= jobs)); then wait -n || failed=1; fi
    train "$name" $type &
  done
done
while (($(jobs -p | wc -l) > 0)); do wait -n || failed=1; done
if ((failed)); then exit 1; fi

python3 - "$out/table.md" "${runs[@]}" <<'PY'
import json, os, sys

def mean(values):
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else float("nan")

lines = [
    "| run | accuracy, first step | last 10 steps | best 10 steps | k3 a token | largest abs(p - p') | kept | skipped | seconds |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
]
for run in sys.argv[2:]:
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    column = lambda key: [row.get(key) for row in rows]
    score = column("critic/score/mean")
    best = max(mean(score[i : i + 10]) for i in range(max(1, len(score) - 9)))
    lines.append(
        f"| {os.path.basename(run)} | {score[0]:.3f} | {mean(score[-10:]):.3f} | {best:.3f} | "
        f"{mean(column('rollout_corr/k3_kl')):.2e} | {max(column('training/rollout_probs_diff_max')):.3f} | "
        f"{mean(column('rollout_corr/kept_fraction')):.3f} | {sum(column('scaler/skipped')):.0f} | "
        f"{sum(column('timing_s/step')):.0f} |"
    )
text = "\n".join(lines) + "\n"
with open(sys.argv[1], "w", encoding="utf-8") as f:
    f.write(text)
print(text, end="")
PY
python3 tools/plot.py "${runs[@]}" --out "$out/curves.svg"
