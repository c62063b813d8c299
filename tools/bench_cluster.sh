#!/usr/bin/env bash
# Several GPUs of one machine, checked and timed within nine minutes: how training and GRPO steps grow from one GPU to all,
# and models that need several.
#   tools/bench_cluster.sh [--only PARTS] [--steps N] [BIN [OUT]]     PARTS: some of these; the first four if not given
#     train     1.5B shape, 8 x 2048 a GPU: forward, backward, sum over GPUs, AdamW, on 1, 2, 4, ... and all
#     grpo      sanity config, 64 x 8 answers of 3,072 tokens: on one GPU, on all, and on all with 64 prompts for each
#     dense14b  Qwen3-14B's shape in parts, all weights trained: the update alone, and a GRPO step
#     moe30b    Qwen3-30B-A3B's shape, experts shared out: GRPO steps, decode and update; 12 layers where 48 with all their
#               states do not fit the GPUs
#     comm, update (SmolLM2, and other ways to sum), offload, runs (embedded model: on 1, 2, 4, ... and all, resumed, over
#     sockets), kills
# Models have random weights, and rewards are a hash of the answer. Masters and moments of 14B go to host memory where the
# GPUs cannot hold them by `trainer --estimate` (OFFLOAD=1: always, and those of 30B). GRPO runs make N steps (default 2),
# but those of 14B and of 64 prompts a GPU one. The first step of a run also chooses plans and records graphs; ratios are
# of steps of one number.
# BIN: folder of the programs, default build/bin. JSON lines and logs go to the folder OUT, new or empty (default: one in
# runs/), as they come, and a table last. What has not ended after LIMIT seconds (default 525) is cut off and has failed.
# MANTISSA_NCCL names the folder of libnccl.so.2 where it is not found by itself. RANKS=N takes N of the GPUs.
# DEVICE=cpu RANKS=2 tries the script itself out.
set -uo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,/^set/{s/^# \{0,1\}//p;}' "tools/${0##*/}"; }
refuse() { echo "bench_cluster: $*" >&2; exit 1; }
known=,train,grpo,dense14b,moe30b,comm,update,offload,runs,kills, parts=train,grpo,dense14b,moe30b steps=2
while [[ ${1:-} == -* ]]; do
  case $1 in
    --only) parts=${2:-} ;;
    --steps) steps=${2:-} ;;
    -h | --help) usage; exit ;;
    *) refuse "there is no option $1 (--help)" ;;
  esac
  shift 2 || refuse "$1 needs a value"
done
for word in ${parts//,/ }; do [[ $known == *,$word,* ]] || refuse "--only: no part is called \"$word\" (--help)"; done
[[ ${parts//,/} ]] || refuse "--only: names no part (--help)"
for number in "--steps=$steps" "RANKS=${RANKS:-1}"; do
  [[ ${number#*=} =~ ^[1-9][0-9]*$ ]] || refuse "${number%%=*}: must be a number from 1, got \"${number#*=}\""
done
[[ ${LIMIT:-0} =~ ^(0|[1-9][0-9]*)$ ]] || refuse "LIMIT: must be a number of seconds, got \"$LIMIT\""
(($# <= 2)) || refuse "BIN and OUT are all it takes, got $*"
bin=$(realpath "${1:-build/bin}") out=${2:-runs/bench_cluster_$(date +%Y%m%d_%H%M%S)} device=${DEVICE:-cuda} failed=0
[[ -x $bin/bench ]] || refuse "$bin/bench is missing; build first (README.md)"
export MANTISSA_BUILTIN=${MANTISSA_BUILTIN:-$PWD/builtin}
ranks=${RANKS:-$(nvidia-smi -L 2> /dev/null | wc -l)}
((ranks > 0)) || refuse "there is no GPU"
counts=$(for ((n = 1; n < ranks; n *= 2)); do echo $n; done; echo "$ranks")
qwen="random:configs/bench/qwen2_1_5b.json --sequences 8 --length 2048 --recompute mlp"  # all states fit 80 GB
smollm="random:configs/bench/smollm2_135m.json --sequences 64 --length 256"
dense="--sequences 16 --length 1024"
prompts=64 tokens=3072 prompts_14b=$((ranks > 4 ? 8 * ranks : 32)) short=1024 batch=16384
if [[ $device == cpu ]]; then
  qwen="random:builtin/arithmetic/config.json --sequences 2 --length 64" smollm=$qwen dense="--sequences 2 --length 64"
  prompts=16 tokens=32 prompts_14b=$ranks short=16 batch=512
fi
mkdir -p "$out" || exit 1
[[ -z $(ls -A "$out") ]] || refuse "$out is not empty"
: > "$out/bench.jsonl"
for name in qwen2_1_5b qwen3_14b qwen3_30b_a3b qwen3_30b_a3b_12_layers; do  # with a tokenizer, and a token that ends answers
  config=configs/bench/$name.json
  if [[ $device == cpu ]]; then config=builtin/arithmetic$([[ $name == *a3b* ]] && echo _moe)/config.json; fi
  mkdir -p "$out/models/$name" && cp builtin/arithmetic/tokenizer.json "$out/models/$name/" &&
    sed '/"eos_token_id"/d; 1s/{/{\n  "eos_token_id": 0,/' "$config" > "$out/models/$name/config.json" || exit 1
done
cat > "$out/reward.py" <<'PY'
import zlib
def reward(response, record): return float(zlib.crc32(response.encode()) % 2)
PY
sanity=("$bin/trainer" --config configs/paper/sanity_grpo_fp16.yaml run.device="$device"
  data.files=builtin/arithmetic/train.jsonl data.template=none data.max_prompt_tokens=64 reward.kind=python
  reward.path="$out/reward.py" reward.workers=4 reward.format=free algorithm.overlong=keep eval.every=0 eval.files=
  checkpoint.every=0 checkpoint.at_end=false checkpoint.export_model=false logging.tensorboard=false)

part() { [[ ,$parts, == *,$1,* ]]; }
note() { printf '%3d s  %s\n' "$SECONDS" "$*"; }
fail() { note "FAILED: $*"; failed=1; }
within() { # SECONDS COMMAND... -- no longer than that, nor than all may take
  local left=$((${LIMIT:-525} - SECONDS))
  ((left > 0)) || { echo "no time was left" >&2; return 124; }
  timeout -k 5 $((left = $1 < left ? $1 : left)) "${@:2}" || {
    local code=$?
    ((code == 124 || code == 137)) && echo "cut off after $left s" >&2
    return $code
  }
}
bench() { # NAME SECONDS WORDS... -- each line gets the name in front
  local name=$1 limit=$2; shift 2
  within "$limit" "$bin/bench" --device "$device" --precision fp16 "$@" 2> "$out/stderr" |
    sed -u "s/^{/{\"name\":\"$name\",/" >> "$out/bench.jsonl" || fail "bench $* ($(tail -1 "$out/stderr"))"
}
train() { # NAME RANKS OVERRIDES... -- the embedded model; its log is OUT/NAME.log
  local name=$1 n=$2; shift 2
  within 120 "$bin/trainer" --config configs/grpo_fp16.yaml run.device="$device" distributed.gpus="$n" \
    run.output_dir="$out/$name" checkpoint.every=1 checkpoint.keep=0 optim.schedule=constant "$@" > "$out/$name.log" 2>&1
}
shape() { # MODEL RANKS PROMPTS SEQUENCES TOKENS -- `words`: a run of that shape, an optimizer step for so many sequences
  words=(model.path="random:$out/models/$1/config.json" distributed.gpus="$2" train.prompts_per_step="$3"
    train.mini_batch_size="$4" rollout.max_new_tokens="$5" train.micro_batch_tokens="$batch")
}
grpo() { # NAME SECONDS STEPS -- a run by `words`; its log is OUT/NAME.log
  note "$1: ${words[*]:1}"
  within "$2" "${sanity[@]}" "${words[@]}" train.steps="$3" run.output_dir="$out/$1" > "$out/$1.log" 2>&1 ||
    fail "$1 ($(tail -1 "$out/$1.log"))"
}
place() { # OFFLOAD... -- `offload`: the first of these by which the run by `words` fits; an error where none does
  local text have
  have=$({ awk '/^MemAvailable/ {print $2 * 1024}' /proc/meminfo; cat /sys/fs/cgroup/memory.max 2> /dev/null; } |
    grep -v max | sort -g | head -1)
  for offload in "$@"; do
    offload=distributed.offload=${offload/1/optimizer}
    text=$("${sanity[@]}" "${words[@]}" "$offload" run.output_dir="$out/estimate" --estimate 2>&1) ||
      { fail "$text"; return 1; }
    grep -q 'does not fit' <<< "$text" && continue
    awk -v n="$ranks" -v have="$have" '/^in host memory/ {h = 1} h && /^  / {s += $NF}
      END {exit !(s * n * 1e9 < have)}' <<< "$text" && return
  done
  return 1
}

if part train; then
  note "1.5B on" $counts "GPUs (forward, backward, gradients added, AdamW)"
  for n in $counts; do bench "1.5B on $n" 90 update --gpus "$n" --repeat 5 --model $qwen; done  # the words are several
fi
if part grpo; then
  mini=$((2 * prompts))  # four optimizer steps, as in the paper
  shape qwen2_1_5b 1 "$prompts" $mini $tokens && grpo one_gpu 240 "$steps"
  if ((ranks > 1)); then
    shape qwen2_1_5b "$ranks" "$prompts" $mini $tokens && grpo strong 180 "$steps"
    shape qwen2_1_5b "$ranks" $((prompts * ranks)) $((mini * ranks)) $tokens && grpo weak 150 1
  fi
fi
if part dense14b; then
  shape qwen3_14b "$ranks" $prompts_14b $((8 * prompts_14b)) $short
  words+=(distributed.shard=parameters train.recompute=full rollout.cache_tokens=131072)
  if place ${OFFLOAD:-none} optimizer; then
    words+=("$offload")
    grpo dense14b 150 1
    [[ $offload == *optimizer ]] && dense+=" --offload"
    bench "14B" 120 update --gpus "$ranks" --repeat 3 --recompute full --shard parameters \
      --model "random:$out/models/qwen3_14b/config.json" $dense
  else
    note "dense14b is left out: it fits neither $ranks GPUs nor them and the host's memory"
  fi
fi
if part moe30b; then
  for model in qwen3_30b_a3b qwen3_30b_a3b_12_layers; do
    shape $model "$ranks" $((16 * ranks)) $((128 * ranks)) $short
    words+=(distributed.experts="$ranks" train.recompute=full rollout.cache_tokens=140000)
    place ${OFFLOAD:-none} && { words+=("$offload"); grpo $model 150 "$steps"; break; }
    note "$model does not fit $ranks GPUs (OFFLOAD=1: with masters and moments in the host's memory)"
  done
fi
if part comm; then
  note "collectives on $ranks ranks"
  bench comm 120 comm --gpus "$ranks" --repeat 5
fi
if part update; then
  note "updates of SmolLM2 on" $counts "ranks"
  for n in $counts; do bench "SmolLM2 on $n" 60 update --gpus "$n" --repeat 5 --model $smollm; done
  note "updates of 1.5B with gradients added after backward, not beside it; with weights and gradients in parts"
  bench "1.5B" 90 update --gpus "$ranks" --repeat 5 --no-overlap --model $qwen
  bench "1.5B" 90 update --gpus "$ranks" --repeat 5 --shard parameters --model $qwen
fi
if part offload; then
  note "optimizer steps from host memory, beside copies over the link both ways"
  bench "1.5B" 300 step --gpus "$ranks" --repeat 3 --offload --model $qwen
fi
if part runs; then
  note "runs on" $counts "ranks, resumed on the other number"
  for n in $counts; do train on_$n "$n" train.steps=4 || fail "run on $n ($(tail -1 "$out/on_$n.log"))"; done
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
  within 240 python3 tests/checks/check_ranks.py --bin "$bin" --device "$device" --ranks "$ranks" --rounds 4 --steps 6 \
    > "$out/check_ranks.log" 2>&1 || fail "check_ranks ($(tail -1 "$out/check_ranks.log"))"
  cat "$out/check_ranks.log"
fi

python3 - "$out" "$ranks" <<'PY' || failed=1
import json, pathlib, re, sys
out, ranks = pathlib.Path(sys.argv[1]), int(sys.argv[2])
lines = lambda path: [json.loads(line) for line in path.open() if line.endswith("\n")] if path.exists() else []
speed = {}  # tokens/s of the updates that are compared
print(f"\n{'what':26} {'shape or bytes':52} {'ms':>10} {'tok/s':>9} {'a GPU':>8} {'GB/s':>7}")
for r in lines(out / "bench.jsonl"):
    if "comm" in r:
        print(f"{r['comm']:26} {r['bytes']:<52} {r['ms_median']:10.3f} {'':9} {'':8} {r['gb_per_s']:7.1f}")
    elif r["bench"] == "update":
        n, total = int((re.search(r"ranks=(\d+)", r["shape"]) or [0, 1])[1]), r["tokens_per_s"]
        print(f"{'update, ' + r['name']:26} {r['shape']:52} {r['ms_median']:10.3f} {total:9.0f} {total / n:8.0f}")
        if " on " in r["name"]:
            speed[r["name"].split(" on ")[0], n] = total / n
    elif r["bench"] in ("step", "link_ceiling"):
        print(f"{r['bench']:26} {r['shape']:52} {r['ms_median']:10.3f}   {1 / r['fraction']:.3f} x the link alone")
for (name, n), one in speed.items():
    if n > 1 and (name, 1) in speed:
        print(f"{name}: a GPU of {n} makes {one / speed[name, 1]:.3f} of the tokens of one alone")

files = sorted(out.glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
runs = {path.parent.name: lines(path) for path in files if lines(path)}
shown = {"step s": "timing_s/step", "rollout": "timing_s/gen", "log-probs": "timing_s/old_log_prob",
         "update": "timing_s/update_actor", "idle": "perf/idle_fraction", "GB": "perf/max_memory_allocated_gb",
         "differ": "exact/differing_tokens"}
print(f"\n{'run':24} step GPUs " + " ".join(f"{k:>9}" for k in shown) + " gen tok/s upd tok/s     a GPU")
for name, steps in runs.items():
    resumed = "_to_" in name  # on another number of GPUs
    n = 0 if resumed else int(re.search(r"^  gpus: \"?(\d+)", (out / name / "config.yaml").read_text(), re.M)[1])
    for r in steps:
        total, answer, prompt = r["perf/total_num_tokens"], r["response_length/mean"], r["prompt_length/mean"]
        print(f"{name:24} {r['step']:4.0f} {n or '':4} " + " ".join(f"{r.get(key, 0):9.4g}" for key in shown.values()),
              f"{total * answer / (answer + prompt) / r['timing_s/gen']:9.0f} {total / r['timing_s/update_actor']:9.0f}" +
              (f" {total / r['timing_s/update_actor'] / n:9.0f}" if n else ""))
for name, step in (("strong", -1), ("weak", 0)):
    pairs = list(zip(runs.get("one_gpu", []), runs.get(name, [])))
    if pairs:
        one, all = pairs[step]
        ratio = one["timing_s/step"] / all["timing_s/step"]
        print(f"{name} scaling, step {one['step']:.0f}: " + (f"{ratio:.2f} times as fast as one GPU" if name == "strong" else
              f"{ratio:.3f} of one GPU's speed for each, with {ranks} times the prompts"))
layouts = [name for name in runs if name.startswith(("on_", "all_to", "one_to", "by_unit", "sockets"))]
same = True
for group in (["one_gpu", "strong"], layouts):  # the same prompts and settings
    digests = {name: runs[name][0]["rollout/digest"] for name in group if name in runs}
    if len(digests) > 1:
        equal = len(set(digests.values())) == 1
        same &= equal
        print("first step, rollout/digest:",
              f"the same in {', '.join(digests)}" if equal else f"FAILED, must be the same in {digests}")
sys.exit(not same)
PY
exit $failed
