#!/usr/bin/env python3
"""Sends a run's metrics to another tracker, while it runs or afterwards.

  python3 tools/log_to.py wandb|trackio|mlflow RUN [--project NAME] [--once]

Reads RUN/metrics.jsonl (or sft.jsonl) and RUN/eval.jsonl, and goes on until the run has written nothing for --idle
seconds, or with --once until what is there has been sent. The tracker's own environment variables say where it keeps
things (WANDB_MODE=offline, MLFLOW_TRACKING_URI, TRACKIO_DIR). Nulls are left out. Needs the tracker's Python package,
and nothing of the trainer: a tracker that fails does not touch the run.
"""

import argparse
import os
import sys
import time

from run_files import RunFiles


class Wandb:
    def __init__(self, project, run):
        import wandb

        self.run = wandb.init(project=project, name=run.name, config={"config.yaml": run.config()})

    def log(self, values, step):
        self.run.log(values, step=step)

    def close(self):
        self.run.finish()


class Trackio:
    def __init__(self, project, run):
        import trackio

        self.trackio = trackio
        trackio.init(project=project, name=run.name, config={"config.yaml": run.config()})

    def log(self, values, step):
        self.trackio.log(values, step=step)

    def close(self):
        self.trackio.finish()


class Mlflow:
    def __init__(self, project, run):
        import mlflow

        self.mlflow = mlflow
        mlflow.set_experiment(project)
        mlflow.start_run(run_name=run.name)
        mlflow.log_text(run.config(), "config.yaml")

    def log(self, values, step):
        # A name may hold letters, digits, "_-. /" and ":" there.
        self.mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in values.items()}, step=step)

    def close(self):
        self.mlflow.end_run()


TRACKERS = {"wandb": Wandb, "trackio": Trackio, "mlflow": Mlflow}


def by_step(rows, steps):
    """Adds the numbers of rows to steps, {step: {metric: value}}."""
    for row in rows:
        values = {k: v for k, v in row.items() if k != "step" and isinstance(v, (int, float))}
        steps.setdefault(int(row["step"]), {}).update(values)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tracker", choices=sorted(TRACKERS))
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--project", default="mantissa")
    parser.add_argument("--once", action="store_true", help="send what is there, and end")
    parser.add_argument("--idle", type=float, default=3600, help="end when nothing was written for so many seconds")
    args = parser.parse_args()
    run = RunFiles(args.run)
    if not os.path.exists(run.metrics.path):
        sys.exit(f"log_to: {args.run}: a run directory must hold metrics.jsonl or sft.jsonl")
    try:
        tracker = TRACKERS[args.tracker](args.project, run)
    except ImportError as error:
        sys.exit(f"log_to: {error}: python3 -m pip install {args.tracker}")
    sent, pending, last = -1, {}, time.monotonic()

    def send(steps):
        nonlocal sent
        for step in sorted(steps):
            if step > sent:  # else it was sent before the run went back
                tracker.log(pending[step], step)
                sent = step
            del pending[step]

    while True:
        new = run.metrics.read() + run.eval.read()
        by_step(new, pending)
        if run.metrics.reset:
            print(f"log_to: {args.run} went back; what was sent up to step {sent} stays", file=sys.stderr)
        send([step for step in pending if step < max(pending)])  # the evaluation of the last step may still come
        last = time.monotonic() if new else last
        if args.once or time.monotonic() - last > args.idle:
            break
        time.sleep(2)
    send(list(pending))
    tracker.close()
    print(f"log_to: {args.run}: sent up to step {sent}")


if __name__ == "__main__":
    main()
