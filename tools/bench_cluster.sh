#!/usr/bin/env bash
# Several GPUs of one machine, checked and timed within a few minutes: collectives, an update on one GPU and on all,
# an optimizer whose state lies in host memory, a training run on one and on two, resumed across their numbers, over
# sockets alone, and killed.
#   tools/bench_cluster.sh [--only PARTS] [BIN [OUT]]     PARTS: some of comm,update,offload,runs,kills
# BIN: folder of the programs, default build/bin. JSON lines and logs go to the folder OUT, new or empty (default: one
# in runs/), a table comes last. MANTISSA_NCCL names the folder of libnccl.so.2 where it is not found by itself.
# DEVICE=cpu RANKS=2 tries the script itself out.
set -uo pipefail
cd "$(dirname "$0")/.."

if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,8s/^# \{0,1\}//p' "$0"; exit; fi
parts=comm,update,offload,runs,kills
if [[ ${1:-} == --only ]]; then parts=$2; shift 2; fi
bin=$(realpath "${1:-build/bin}") out=${2:-runs/bench_cluster_$(date +%Y%m%d_%H%M%S)} device=${DEVICE:-cuda} failed=0
[[ -x $bin/bench ]] || { echo "bench_cluster: $bin/bench is missing; build first (README.md)" >&2; exit 1; }
export MANTISSA_BUILTIN=${MANTISSA_BUILTIN:-$PWD/builtin}
ranks=${RANKS:-$(nvidia-smi -L | wc -l)}
qwen="random:configs/bench/qwen2_1_5b.json --sequences 8 --length 2048 --recompute mlp"  # all states fit 80 GB
smollm="random:configs/bench/smollm2_135m.json --sequences 64 --length 256"
if [[ $device == cpu ]]; then qwen="random:builtin/arithmetic/config.json --sequences 2 --length 64" smollm=$qwen; fi
mkdir -p "$out" || exit 1
[[ -z $(ls -A "$out") ]] || { echo "bench_cluster: $out is not empty" >&2; exit 1; }
: > "$out/bench.jsonl"

part() { [[ ,$parts, == *,$1,* ]]; }
note() { printf '%s %s\n' "$(date +%T)" "$*"; }
fail() { note "FAILED: $*"; failed=1; }
bench() { # SECONDS WORDS...
  local limit=$1; shift
  timeout "$limit" "$bin/bench" --device "$device" --precision fp16 "$@" >> "$out/bench.jsonl" 2> "$out/stderr" ||
    fail "bench $* ($(tail -1 "$out/stderr"))"
}
train() { # NAME RANKS OVERRIDES... -- the embedded model; its log is OUT/NAME.log
  local name=$1 n=$2; shift 2
  timeout 120 "$bin/trainer" --config configs/grpo_fp16.yaml run.device="$device" distributed.gpus="$n" \
    run.output_dir="$out/$name" checkpoint.every=1 checkpoint.keep=0 optim.schedule=constant "$@" > "$out/$name.log" 2>&1
}

if part comm; then
  note "collectives on $ranks ranks"
  bench 120 comm --gpus "$ranks" --repeat 5
fi
if part update; then
  note "updates (forward, backward, gradients added, AdamW) on 1 and $ranks ranks"
  for n in 1 "$ranks"; do  # the models' words are several arguments
    bench 150 update --gpus "$n" --repeat 5 --model $qwen
    bench 60 update --gpus "$n" --repeat 5 --model $smollm
  done
  note "the same with gradients added after backward, not beside it"
  bench 150 update --gpus "$ranks" --repeat 5 --no-overlap --model $qwen
  note "the same with weights and gradients in parts"
  bench 150 update --gpus "$ranks" --repeat 5 --shard parameters --model $qwen
fi
if part offload; then
  note "optimizer steps from host memory, beside copies over the link both ways"
  bench 300 step --gpus "$ranks" --repeat 3 --offload --model $qwen
fi
if part runs; then
  note "runs on 1 and $ranks ranks, resumed on the other number"
  train one 1 train.steps=4 || fail "run on one ($(tail -1 "$out/one.log"))"
  train all "$ranks" train.steps=4 || fail "run on $ranks ($(tail -1 "$out/all.log"))"
  train all_to_one "$ranks" train.steps=2 && train all_to_one 1 train.steps=4 --resume auto || fail "resume on one"
  train one_to_all 1 train.steps=2 && train one_to_all "$ranks" train.steps=4 --resume auto || fail "resume on $ranks"
  note "a run whose rollouts gather weights layer by layer, with states in host memory"
  train by_unit "$ranks" train.steps=2 distributed.shard=parameters distributed.gather=unit distributed.offload=optimizer ||
    fail "run that gathers by unit ($(tail -1 "$out/by_unit.log"))"
  note "a run over sockets alone, as between machines"
  NCCL_P2P_DISABLE=1 NCCL_SHM_DISABLE=1 NCCL_IB_DISABLE=1 train sockets "$ranks" train.steps=2 ||
    fail "run over sockets ($(tail -1 "$out/sockets.log"))"
fi
if part kills; then
  note "kills and stops"
  timeout 240 python3 tests/checks/check_ranks.py --bin "$bin" --device "$device" --ranks "$ranks" --rounds 4 --steps 6 \
    > "$out/check_ranks.log" 2>&1 || fail "check_ranks ($(tail -1 "$out/check_ranks.log"))"
  cat "$out/check_ranks.log"
fi

python3 - "$out" "$ranks" <<'PY' || failed=1
import json, pathlib, sys
out, ranks = pathlib.Path(sys.argv[1]), int(sys.argv[2])
updates = []
print(f"\n{'what':16} {'shape or bytes':44} {'ms':>10} {'tok/s':>9} {'GB/s':>7}")
for line in (out / "bench.jsonl").open():
    r = json.loads(line)
    if "comm" in r:
        print(f"{r['comm']:16} {r['bytes']:<44} {r['ms_median']:10.3f} {'':9} {r['gb_per_s']:7.1f}")
    elif r["bench"] == "update":
        print(f"{r['bench']:16} {r['shape']:44} {r['ms_median']:10.3f} {r['tokens_per_s']:9.0f}")
        if "no-overlap" not in r["shape"] and "shard" not in r["shape"]:
            updates.append(r["tokens_per_s"])
    elif r["bench"] in ("step", "link_ceiling"):
        print(f"{r['bench']:16} {r['shape']:44} {r['ms_median']:10.3f}   {1 / r['fraction']:.3f} x the link alone")
half = len(updates) // 2  # the same models on one rank, then on all
for model, one, more in zip(["1.5B shape", "SmolLM2"], updates[:half], updates[half:]):
    print(f"update, {model}: {ranks} ranks {more / one:.3f} x one")
runs = {n: [json.loads(l) for l in (out / n / "metrics.jsonl").open()]
        for n in ("one", "all", "all_to_one", "one_to_all", "by_unit", "sockets") if (out / n / "metrics.jsonl").exists()}
keys = ["critic/score/mean", "actor/pg_loss", "actor/grad_norm", "timing_s/gen", "timing_s/update_actor", "timing_s/step",
        "perf/idle_fraction"]
print("\n" + f"{'run':12} step " + " ".join(f"{k.split('/', 1)[1][:14]:>14}" for k in keys))
for name, lines in runs.items():
    for line in lines:
        print(f"{name:12} {line['step']:4.0f} " + " ".join(f"{line.get(k, float('nan')):14.6g}" for k in keys))
first = {n: l[0] for n, l in runs.items() if l}
for key in () if not first else ("prompt_length/mean", "response_length/mean", "critic/score/mean"):
    values = {n: f[key] for n, f in first.items()}
    spread = max(values.values()) - min(values.values())
    print(f"first step, {key}: {'the same on all' if spread == 0 else values}")
PY
exit $failed
