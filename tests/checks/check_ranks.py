#!/usr/bin/env python3
"""Kills and stops ranks of a run at random moments, and compares where it ends with a run that was left alone.

The real trainer on the embedded model, in --ranks processes. Each round waits for a phase that the run reports
(MANTISSA_PHASES), drawn at random, and a little longer, then kills (-9) or stops a rank, or kills the launcher. Then all
must be over within 30 s: exit code 1, one line "error: " that names the rank, no process left; and --resume auto goes on.
In the end metrics, samples and weights must be those of the run that was left alone.

  tests/checks/check_ranks.py [--ranks 2] [--rounds 20] [--steps 12] [--seed 1] [section.key=value ...]
"""
import argparse
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from check_resume import ROOT, Run, compare
from check_resume import command as resume_command

LIMIT = 30.0  # seconds in which all ranks must have ended


def command(args, output):
    return [*resume_command(args, output), f"distributed.gpus={args.ranks}", f"run.device={args.device}"]


def ranks_of(run):
    """Processes of the ranks, by rank."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == run.process.pid:
                variables = (path / "environ").read_bytes().split(b"\0")
                found[int(next(v[5:] for v in variables if v.startswith(b"RANK=")))] = int(path.name)
        except (OSError, StopIteration, IndexError):
            continue
    return found


def gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def strike(run, dice, kinds):
    ranks = ranks_of(run)
    kind = dice.choice(kinds)
    if kind == "launcher":
        os.kill(run.process.pid, signal.SIGKILL)
        return kind, None, ranks
    rank = dice.choice(sorted(ranks))
    os.kill(ranks[rank], signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
    return kind, rank, ranks


def check_end(run, kind, rank, ranks, phase):
    start = time.monotonic()
    try:
        code = run.process.wait(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        sys.exit(f"{kind} of rank {rank} in {phase}: still running after {LIMIT} s\n{run.log()[-2000:]}")
    while any(not gone(pid) for pid in ranks.values()):
        if time.monotonic() - start > LIMIT:
            sys.exit(f"{kind} of rank {rank} in {phase}: processes are left: {ranks}")
        time.sleep(0.05)
    seconds = time.monotonic() - start
    errors = re.findall(r"^.*error: .*$", run.log(), re.M)
    if kind == "launcher":
        if code != -signal.SIGKILL or errors:
            sys.exit(f"killed launcher in {phase}: code {code}, {errors}")
    elif code != 1 or len(errors) != 1 or f"rank {rank} " not in errors[0]:
        sys.exit(f"{kind} of rank {rank} in {phase}: code {code}, errors {errors}\n{run.log()[-2000:]}")
    who = "launcher" if rank is None else f"rank {rank}"
    print(f"{kind.replace('launcher', 'kill')} of {who} in {phase}: over after {seconds:.1f} s: {errors[0][:150] if errors else ''}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kinds", default="kill,stop,launcher")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/bin")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    dice = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place:
        alone, struck = pathlib.Path(place) / "alone", pathlib.Path(place) / "struck"
        phases = Run(command(args, alone)).wait()
        print(f"alone: {args.steps} steps, {phases} phases", flush=True)
        rounds = 0
        while rounds < args.rounds:
            run = Run(command(args, struck))
            if not run.wait_phases(dice.randint(1, max(2, phases // 4))):
                run.wait()
                compare(alone, struck, args.steps)
                shutil.rmtree(struck)
                continue
            time.sleep(dice.uniform(0, 0.3))
            phase = run.phases()[-1]
            if run.process.poll() is not None or not ranks_of(run):
                continue
            kind, rank, ranks = strike(run, dice, args.kinds.split(","))
            check_end(run, kind, rank, ranks, phase)
            rounds += 1
        Run(command(args, struck)).wait()
        compare(alone, struck, args.steps)


if __name__ == "__main__":
    main()
