#!/usr/bin/env python3
"""Whether rollout and training agree bit for bit, as precision.match: exact says. Ends with exit code 1 and what
differed where they do not.

  tests/checks/check_exact.py [--bin build/bin] [--device cpu|cuda] [--model M --data D --template T] [--limit N]
                              [--n N] [--max-new-tokens N] [--precision fp16,bf16] [--batches 1,7,64,512]
                              [--cache-tokens C] [--steps S]

1. `mismatch --matrix match=exact`, once for each batch size and once with a cache so small that sequences are
   preempted (--cache-tokens; room for one of the longest where it is not given). Log-probs of rollout and training
   must be equal for every token, every figure of their difference 0, and the rollouts the same bits in all cases.
2. --steps steps of GRPO with exact.check=all, each with other weights.
3. One step with each of the last two batch sizes as rollout.max_batch: the same rollout.

Last, a measurement under match=peer, which rounds differently, must be found to differ: a check that sees nothing
there would see nothing anywhere.

Without --model it takes the embedded one, and half a minute on two cores. A model of your own needs --data with
problems and answers, and --template as the programs take it.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
# With an example before them problems nearly fill a page of the cache, so that responses need a second one.
TEMPLATE = "51+29+60=51+29=80, 80+60=140. \\boxed{140} {problem}"
# Of `mismatch`: what a figure is where both sides are equal, if not 0; None: no figure of a difference.
EQUAL = {"rollout_corr/ppl_ratio": 1, "training/rollout_actor_probs_pearson_corr": 1,
         "rollout_corr/training_ppl": None, "rollout_corr/rollout_ppl": None}


def start(words):
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}  # beside other programs threads that wait must not spin
    return subprocess.run([str(word) for word in words], env=environment, capture_output=True, text=True)


def run(words):
    """A program's lines of JSON and its log."""
    done = start(words)
    if done.returncode:
        sys.exit(f"{pathlib.Path(words[0]).name} failed: {done.stderr.strip()[-1000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def differences(line, points):
    """What says that rollout and training differ: figures of `mismatch`, and tokens in its points."""
    found = []
    for key, value in line.items():
        if key.startswith(("rollout_corr/", "training/")):
            wanted = EQUAL.get(key, 0)
            if wanted is not None and value != wanted:
                found.append(f"{key} {value}")
        elif key.startswith("by_length/") and key.split("/")[1] in ("log_ratio", "seq_k3_kl", "seq_k3_kl_stderr"):
            found += [f"{key} {value}"] if any(value) else []
    if line["rollout_corr/training_ppl"] != line["rollout_corr/rollout_ppl"]:
        found.append("rollout_corr/training_ppl is not rollout_corr/rollout_ppl")
    pairs = [pair for p in points for pair in zip(p["rollout_logprobs"], p["old_logprobs"], strict=True)]
    if len(pairs) != line["tokens"] or not pairs:
        found.append(f"{len(pairs)} points for {line['tokens']} tokens")
    if differing := sum(mu != old for mu, old in pairs):
        found.append(f"{differing} differing tokens")
    return found


def command(args):
    return [args.bin / "mismatch", "--device", args.device, "--model", args.model, "--data", args.data, "--template", args.template,
            "--limit", args.limit, "--n", args.n, "--max-new-tokens", args.max_new_tokens]


def mismatch(args, place, match, *more):
    """{type: (line, its points)} and the log."""
    points = pathlib.Path(place) / "points.jsonl"
    lines, log = run([*command(args), "--matrix", "precision=" + ",".join(args.precision), f"match={match}", "--points", points,
                      *more])
    rows = [json.loads(row) for row in points.read_text().splitlines()]
    return {line["train"]: (line, [row for row in rows if row["train"] == line["train"]]) for line in lines}, log


def check_case(name, line, points):
    if found := differences(line, points):
        sys.exit(f"{name}: {'; '.join(found)}")
    print(f"{name}: {line['tokens']} tokens, 0", flush=True)
    return line["tokens"]


def least_cache(args):
    """Tokens of the smallest cache that the program takes: room for one of the longest sequences."""
    log = start([*command(args), "--cache-tokens", 1]).stderr
    needed = re.search(r"needs (\d+) tokens", log)
    if not needed:
        sys.exit(f"mismatch --cache-tokens 1: does not say how many tokens it needs: {log.strip()[-1000:]}")
    return int(needed[1])


def check_rollouts(args, place):
    tokens, first = 0, {}
    small = args.cache_tokens or least_cache(args)
    cases = [(f"max_batch {batch}", ["--max-batch", batch]) for batch in args.batches]
    cases.append((f"cache of {small} tokens", ["--max-batch", args.batches[-1], "--cache-tokens", small]))
    for name, flags in cases:
        found, log = mismatch(args, place, "exact", *flags)
        if sorted(found) != sorted(args.precision):
            sys.exit(f"{name}: measured {', '.join(found)}, wanted {', '.join(args.precision)}")
        for precision, (line, points) in found.items():
            tokens += check_case(f"mismatch {precision}, {name}", line, points)
            if points != first.setdefault(precision, points):
                sys.exit(f"mismatch {precision}, {name}: another rollout than with {cases[0][0]}")
    preempted = [int(count) for count in re.findall(r"(\d+) preemptions", log)]  # of the last case
    if len(preempted) != len(args.precision) or not all(preempted):
        sys.exit(f"cache of {small} tokens: {preempted} preemptions, wanted some with each type (a smaller --cache-tokens, a "
                 "larger --limit, --n or --max-new-tokens)")
    print(f"cache of {small} tokens: {' and '.join(map(str, preempted))} preemptions", flush=True)
    return tokens


def train(args, output, precision, *overrides):
    """Metrics of each step."""
    run([args.bin / "trainer", "--config", ROOT / "configs/grpo_fp16.yaml", f"run.device={args.device}", f"run.output_dir={output}",
         f"model.path={args.model}", f"data.files={args.data}", f"data.template={args.template}",
         f"rollout.max_new_tokens={args.max_new_tokens}", f"precision.train={precision}", f"precision.rollout={precision}",
         "precision.match=exact", "exact.check=all", "algorithm.entropy_coef=0.001",
         "checkpoint.every=0", "checkpoint.at_end=false", "checkpoint.export_model=false", *overrides])
    return [json.loads(line) for line in (pathlib.Path(output) / "metrics.jsonl").read_text().splitlines()]


def check_step(name, metrics):
    checked, differing, k3 = (metrics[key] for key in ("exact/checked_tokens", "exact/differing_tokens", "rollout_corr/k3_kl"))
    if not checked or differing != 0 or k3 != 0:
        sys.exit(f"{name}: exact/checked_tokens {checked}, exact/differing_tokens {differing}, rollout_corr/k3_kl {k3}")
    print(f"{name}: {checked:.0f} tokens, 0", flush=True)
    return int(checked)


def check_training(args, place):
    tokens = 0
    for precision in args.precision:
        steps = train(args, f"{place}/{precision}", precision, f"train.steps={args.steps}")
        if len(steps) != args.steps:
            sys.exit(f"training {precision}: {len(steps)} steps, wanted {args.steps}")
        tokens += sum(check_step(f"training {precision}, step {m['step']}", m) for m in steps)
        seen = {}
        for batch in args.batches[-2:]:
            metrics = train(args, f"{place}/{precision}_{batch}", precision, "train.steps=1", f"rollout.max_batch={batch}")[0]
            tokens += check_step(f"training {precision}, rollout.max_batch {batch}", metrics)
            seen[batch] = [metrics[key] for key in ("rollout/digest", "exact/checked_tokens")]
        if len({str(value) for value in seen.values()}) > 1:
            sys.exit(f"training {precision}: rollout/digest and exact/checked_tokens depend on rollout.max_batch: {seen}")
    return tokens


def check_control(args, place):
    for precision, (line, points) in mismatch(args, place, "peer")[0].items():
        if not any("differing tokens" in text for text in differences(line, points)):
            sys.exit(f"mismatch {precision} under peer: no differing token, so this check would find none under exact either")
        print(f"mismatch {precision} under peer: differs, as it must", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=lambda text: pathlib.Path(text).resolve(), default=ROOT / "build/bin")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="builtin:arithmetic")
    parser.add_argument("--data", default=str(ROOT / "builtin/arithmetic/sanity.jsonl"))
    parser.add_argument("--template")
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--precision", type=lambda text: text.split(","), default=["fp16", "bf16"])
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 7, 64, 512])
    parser.add_argument("--cache-tokens", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    if len(args.batches) < 2:
        parser.error(f"--batches: takes two sizes or more, got {args.batches[0]}")
    if args.template is None:
        args.template = TEMPLATE if args.model == parser.get_default("model") else "none"
    with tempfile.TemporaryDirectory() as place:
        tokens = check_rollouts(args, place) + check_training(args, place)
        check_control(args, place)
    print(f"exact: {tokens} tokens, none differs")


if __name__ == "__main__":
    main()
