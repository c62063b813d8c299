#!/usr/bin/env python3
"""Reads a run's event files with the tensorboard package and compares them with its metrics.

  python3 tests/checks/check_tensorboard.py RUN

RUN is a directory of a run with logging.tensorboard: true. Every finite number of metrics.jsonl (or sft.jsonl)
and eval.jsonl must be there, at its step, as an fp32; nothing else may be. Exit code 1 names what differs.
"""

import json
import math
import os
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    run = sys.argv[1]
    want = {}
    for name in ("metrics.jsonl", "sft.jsonl", "eval.jsonl"):
        path = os.path.join(run, name)
        if not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                for key, value in row.items():
                    if key != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                        want[key, row["step"]] = value
    events = EventAccumulator(os.path.join(run, "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    got = {(key, e.step): e.value for key in events.Tags()["scalars"] for e in events.Scalars(key)}
    wrong = 0
    for key in sorted(want.keys() | got.keys()):
        a, b = want.get(key), got.get(key)
        if a is None or b is None or abs(a - b) > 1e-6 * abs(a):
            wrong += 1
            print(f"{key[0]} at step {key[1]}: metrics {a}, event file {b}")
    print(f"{len(want)} values of {len({k for k, _ in want})} metrics, {wrong} differ")
    sys.exit(1 if wrong or not want else 0)


if __name__ == "__main__":
    main()
