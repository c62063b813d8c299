#!/usr/bin/env python3
"""Kills a training run at random moments and compares where it ends with a run that was left alone.

The real trainer on the embedded model: one run to the end, one that gets SIGKILL at --kills random moments and goes on
each time with --resume auto. A kill waits for a phase that the run reports (MANTISSA_PHASES), drawn at random, and a
little longer, so that it falls into the work however long starting up takes. Final weights, optimizer, model and metrics must be the same bits; seconds and memory
(timing_s/*, perf/*) are exempt, and how drafts did (draft/*), whose history a resumed run has not. Ends with exit code
1 and the first difference when they are not.

  tests/checks/check_resume.py [--kills 10] [--steps 40] [--seed 1] [--bin build/bin] [section.key=value ...]
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def command(args, output):
    words = [str(args.bin / "trainer"), "--config", str(ROOT / "configs/grpo_fp16.yaml"), "--resume", "auto"]
    return words + [f"run.output_dir={output}", f"train.steps={args.steps}", "checkpoint.every=2"] + args.overrides


def lines_of(path):
    lines = path.read_text().splitlines() if path.exists() else []
    exempt = ("timing_s/", "perf/", "draft/")
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(exempt)} for line in lines]


class Run:
    """A run under way: its log, line by line."""

    def __init__(self, words):
        environment = dict(os.environ, MANTISSA_PHASES="1")
        self.process = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        self.lines, self.ended, self.changed = [], False, threading.Condition()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()
        with self.changed:  # its standard error is closed a moment before its exit status can be had
            self.ended = True
            self.changed.notify_all()

    def phases(self):
        return [line.split(" phase: ")[1].strip() for line in self.lines if " phase: " in line]

    def wait_phases(self, count):
        """False when the run has ended before."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.phases()) >= count or self.ended, timeout=600)
            return len(self.phases()) >= count

    def log(self):
        self.reader.join(5)
        return "".join(self.lines)

    def wait(self):
        """Its phases, once it has ended by itself as it should."""
        if self.process.wait():
            sys.exit(f"failed by itself: {self.log()[-2000:]}")
        self.reader.join(5)
        return len(self.phases())


def run_killed(args, alone, killed, phases):
    """A run that completes before its kill is compared, and another one takes the kills that are left."""
    dice = random.Random(args.seed)
    kills = 0
    while kills < args.kills:
        run = Run(command(args, killed))
        if not run.wait_phases(dice.randint(1, max(2, 2 * phases // args.kills))):
            run.wait()
            compare(alone, killed, args.steps)
            shutil.rmtree(killed)
            continue
        time.sleep(dice.uniform(0, 0.3))
        run.process.kill()
        if run.process.wait() != -signal.SIGKILL:
            continue  # it ended a moment before
        kills += 1
        saved = sorted(path.name for path in (killed / "checkpoints").glob("*"))
        run.log()
        print(f"kill {kills} in {run.phases()[-1]}: checkpoints {' '.join(saved) or 'none'}", flush=True)
    Run(command(args, killed)).wait()
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
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/bin")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        alone, killed = pathlib.Path(place) / "alone", pathlib.Path(place) / "killed"
        phases = Run(command(args, alone)).wait()
        print(f"alone: {args.steps} steps, {phases} phases", flush=True)
        run_killed(args, alone, killed, phases)


if __name__ == "__main__":
    main()
