#!/usr/bin/env python3
"""Kills a training run at random moments and compares where it ends with a run that was left alone.

The real trainer on the embedded model: one run to the end, one that gets SIGKILL at --kills random moments and goes on
each time with --resume auto. Final weights, optimizer, model and metrics must be the same bits; seconds and memory
(timing_s/*, perf/*) are exempt, and how drafts did (draft/*), whose history a resumed run has not. Ends with exit code
1 and the first difference when they are not.

  tests/checks/check_resume.py [--kills 10] [--steps 40] [--seed 1] [section.key=value ...]
"""
import argparse
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def command(args, output, resume):
    words = [str(ROOT / "build/bin/trainer"), "--config", str(ROOT / "configs/grpo_fp16.yaml")]
    words += ["--resume", "auto"] if resume else []
    words += [f"run.output_dir={output}", f"train.steps={args.steps}", "checkpoint.every=2"]
    return words + args.overrides


def lines_of(path):
    lines = path.read_text().splitlines() if path.exists() else []
    exempt = ("timing_s/", "perf/", "draft/")
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(exempt)} for line in lines]


def step_now(output):
    path = output / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def run_alone(args, output):
    start = time.monotonic()
    run = subprocess.run(command(args, output, False), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(f"the run that is left alone failed: {run.stderr.strip().splitlines()[-1:]}")
    return time.monotonic() - start


def run_killed(args, alone, killed, seconds):
    """Kills fall anywhere in the time of a few steps, starting up and saving included. A run that completes is compared,
    and another one takes the kills that are left."""
    dice = random.Random(args.seed)
    log = killed.parent / "stderr"
    kills = 0
    while kills < args.kills:
        with open(log, "w") as stderr:
            process = subprocess.Popen(command(args, killed, True), cwd=ROOT, stderr=stderr)
            try:
                code = process.wait(timeout=dice.uniform(0.05, 2 * seconds / args.kills))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                code = process.wait()
        if code == 0:
            compare(alone, killed, args.steps)
            shutil.rmtree(killed)
            continue
        if code != -signal.SIGKILL:
            sys.exit(f"ended with code {code}: {log.read_text()[-500:]}")
        kills += 1
        saved = sorted(path.name for path in (killed / "checkpoints").glob("*"))
        print(f"kill {kills}: metrics of {step_now(killed)} steps, checkpoints {' '.join(saved) or 'none'}", flush=True)
    subprocess.run(command(args, killed, True), cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    compare(alone, killed, args.steps)


def compare(alone, killed, steps):
    same = 0
    for name in ["metrics.jsonl", "samples.jsonl", "eval.jsonl"]:
        left, right = lines_of(alone / name), lines_of(killed / name)
        if left != right:
            at = next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))
            sys.exit(f"{name} differs from line {at + 1}; {len(left)} and {len(right)} lines")
        same += len(left)
    files = [f"checkpoints/step_{steps}/{name}.safetensors" for name in ["master", "adam_m", "adam_v"]]
    exports = ["model/model.safetensors", "adapter/adapter_model.safetensors"]
    exported = [name for name in exports if (alone / name).exists()]
    if not exported:
        sys.exit("the run that was left alone exported neither a model nor an adapter")
    files += exported
    for name in files:
        if (alone / name).read_bytes() != (killed / name).read_bytes():
            sys.exit(f"{name} differs")
    states = [json.loads((path / f"checkpoints/step_{steps}/state.json").read_text()) for path in (alone, killed)]
    for state in states:  # lengths of files that hold seconds; what the card was like when the run began
        for key in [key for key in state["counters"] if key.endswith("_bytes") or key == "cache_room"]:
            del state["counters"][key]
        state["texts"].pop("measured_choices", None)
    if states[0] != states[1]:
        sys.exit(f"state.json differs: {states[0]} and {states[1]}")
    print(f"same bits: {same} lines, {len(files)} files of tensors, scaler and counters")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        alone, killed = pathlib.Path(place) / "alone", pathlib.Path(place) / "killed"
        seconds = run_alone(args, alone)
        print(f"alone: {args.steps} steps in {seconds:.1f} s", flush=True)
        run_killed(args, alone, killed, seconds)


if __name__ == "__main__":
    main()
