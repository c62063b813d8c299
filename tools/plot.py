#!/usr/bin/env python3
"""Draws the paper's curves of one run, or of several on the same axes, and its offline figure.

  python3 tools/plot.py RUN [RUN ...] [--out FILE.svg|FILE.png] [--terminal] [--story] [--next TEXT ...]
  python3 tools/plot.py --mismatch POINTS.jsonl [--out FILE.svg|FILE.png]

RUN is a run directory (metrics.jsonl or sft.jsonl, and eval.jsonl) or one such file. The picture goes to
RUN/metrics.svg of the first run unless --out names a file. --terminal also prints the reward curve as text. What
has the same value in all steps of all runs is not drawn but printed. --story adds problems of the first run before
and after training, with what became of its evaluation; --next lines of what to do next.
POINTS.jsonl is what `mismatch --points` wrote: for each combination of types the probabilities of sampled tokens
on both sides, and log(pi/mu) of whole responses against their length. SVG needs nothing but Python 3; PNG needs
matplotlib (tools/setup.sh --plots).
"""

import argparse
import json
import math
import os
import sys
import typing

from charts import INK, Chart, Series, Text, finite, png, style, styles, svg


class Panel(typing.NamedTuple):
    title: str
    source: str  # "metrics" or "eval": the file it is read from
    key: str  # a * stands for the name of an evaluation set: a panel for each; a final @ for any number of samples
    axis: str = "linear"  # linear, log, log2
    fraction: bool = False  # values in [0, 1] get an axis from 0 to 1
    smooth: bool = False  # with a running mean over the values


PANELS = [
    Panel("Reward as graded, mean over rollouts (bold: over 10 steps)", "metrics", "critic/score/mean", fraction=True, smooth=True),
    Panel("Evaluation: accuracy on *", "eval", "val-core/*/acc/mean@", fraction=True),
    Panel("Loss of the warm start, nats per token", "metrics", "sft/loss"),
    Panel("Rollout against training: KL per token (k3), nats", "metrics", "rollout_corr/k3_kl", axis="log"),
    Panel("Rollout against training: largest |p - p'|", "metrics", "training/rollout_probs_diff_max", axis="log"),
    Panel("Rollout against training: share of routes that agree", "metrics", "moe/route_agreement"),
    Panel("Loss scale (dots: an update was skipped)", "metrics", "scaler/scale", axis="log2"),
    Panel("Response length, tokens, mean over rollouts", "metrics", "response_length/mean", smooth=True),
    Panel("Entropy, nats, mean over tokens", "metrics", "actor/entropy", smooth=True),
    Panel("Gradient norm, before clipping", "metrics", "actor/grad_norm", axis="log"),
    Panel("Correction: share of tokens kept", "metrics", "rollout_corr/kept_fraction", fraction=True),
]
MEAN_OF = 10  # steps in the bold line of the reward, and in the accuracy that is printed


def read_lines(path, need="step"):
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except ValueError as error:  # no UTF-8
        sys.exit(f"plot: {path}: must be lines of JSON: {error}")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):  # no newline yet: of a run that goes on, or was killed
                break
            sys.exit(f"plot: {path}:{number}: every line must be a JSON object: got {line.strip()[:60]}")
        if not isinstance(row, dict) or need not in row:
            sys.exit(f"plot: {path}:{number}: every line must be an object with a {need}: got {line.strip()[:60]}")
        rows.append(row)
    return rows


class Run:
    def __init__(self, path):
        self.directory = path if os.path.isdir(path) else os.path.dirname(path) or "."
        self.name = os.path.basename(os.path.abspath(self.directory))
        main = path
        if os.path.isdir(path):
            names = [os.path.join(path, name) for name in ("metrics.jsonl", "sft.jsonl")]
            main = next((name for name in names if os.path.exists(name)), None)
            if main is None:
                sys.exit(f"plot: {path}: a run directory must hold metrics.jsonl or sft.jsonl")
        elif not os.path.exists(path):
            sys.exit(f"plot: {path}: no such file or directory")
        evaluation = os.path.join(self.directory, "eval.jsonl")
        self.rows = {"metrics": read_lines(main), "eval": read_lines(evaluation) if os.path.exists(evaluation) else []}

    def sets(self):
        """Names of the evaluation sets."""
        keys = {key for row in self.rows["eval"] for key in row if key.startswith("val-core/")}
        return sorted({key[len("val-core/") :].rsplit("/acc/", 1)[0] for key in keys if "/acc/" in key})

    def series(self, source, key):
        """[(step, value)] of the rows that have the key; None where the run logged null."""
        rows = self.rows[source]
        if key.endswith("@"):
            key = next((name for row in rows for name in row if name.startswith(key)), key)
        return [(row["step"], row[key]) for row in rows if key in row]


def running_mean(points):
    values = [y for _, y in points]
    out = []
    for i, (x, _) in enumerate(points):
        window = values[max(0, i + 1 - MEAN_OF) : i + 1]
        out.append((x, sum(window) / len(window)))
    return out


# ---- charts of runs ----------------------------------------------------------------------------------------


def run_chart(panel, runs):
    """None where no run has the metric."""
    series, values, steps = [], [], []
    for run, (color, dash) in zip(runs, styles([run.name for run in runs])):
        points = run.series(panel.source, panel.key)
        numbers = finite(points)
        if panel.key == "scaler/scale" and all(y == 1 for _, y in numbers):
            continue  # nothing is scaled in bf16 and fp32
        values += [y for _, y in numbers]
        steps += [x for x, _ in points]
        if panel.smooth and len(numbers) > 2 * MEAN_OF:
            series.append(Series(points, color, width=1, opacity=0.3))
            series.append(Series(running_mean(numbers), color, width=2.2, dash=dash))
        else:
            series.append(Series(points, color, "both" if panel.source == "eval" else "line", dash=dash))
        if panel.key == "scaler/scale":
            skipped = {x for x, y in run.series("metrics", "scaler/skipped") if y}
            series.append(Series([p for p in numbers if p[0] in skipped], color, "dots"))
    if not values:
        return None
    if len(set(values)) == 1:
        print(f"{panel.key.rstrip('@')} is {values[0]:g} in all steps, not drawn")
        return None
    fraction = panel.fraction and 0 <= min(values) and max(values) <= 1
    first, last = float(min(steps)), float(max(steps))
    return Chart(
        panel.title, series, axis=panel.axis, x_range=(first, max(last, first + 1)), y_range=(0.0, 1.0) if fraction else ()
    )


def run_charts(runs):
    charts = []
    for panel in PANELS:
        names = sorted({name for run in runs for name in run.sets()}) if "*" in panel.key else [""]
        for name in names:
            one = panel._replace(title=panel.title.replace("*", name), key=panel.key.replace("*", name))
            chart = run_chart(one, runs)
            if chart:
                charts.append(chart)
    if not charts:
        sys.exit(f"plot: {runs[0].directory}: no metric that this program knows has a finite value")
    return charts


def judged(row):
    """right, wrong, or what kept a sample from its grade; lines of earlier versions have nothing but the reward."""
    if row.get("status") in ("timeout", "error"):
        return row["status"]
    return "right" if row.get("correct", row["reward"] >= 0.5) else "wrong"


def story(run):
    """Two problems before and after training, the first of them solved at its end alone; and the evaluation."""
    first, last = {}, {}
    path = os.path.join(run.directory, "samples.jsonl")
    for row in read_lines(path) if os.path.exists(path) else []:
        first.setdefault(row["id"], row)
        last[row["id"]] = row
    pairs = [(first[i], last[i]) for i in first if first[i]["step"] < last[i]["step"]]
    pairs.sort(key=lambda pair: (pair[0]["reward"] - pair[1]["reward"], pair[0]["step"] - pair[1]["step"]))
    lines = []
    for before, after in pairs[:2]:
        lines.append(f"{before['prompt'].strip()[-60:]}   (answer {before['answer']})")
        for row in (before, after):
            response = " ".join(row["response"].split())
            lines.append(f"  step {row['step']:<4} {judged(row)}  {response[-60:]}")
    for name in run.sets():
        points = finite(run.series("eval", f"val-core/{name}/acc/mean@"))
        if len(points) > 1:
            was, now = (f"{value:.3f} {f'after step {step}' if step else 'before'}" for step, value in (points[0], points[-1]))
            lines.append(f"accuracy on {name}: {was}, {now}")
    return [Text(f"{run.name}: before and after", tuple(lines))] if lines else []


# ---- the offline figure ------------------------------------------------------------------------------------

CELL = ("rollout", "train", "kv_cache", "lm_head", "residual", "match")
BINS = 50


def cell_value(row, key):
    # Files of earlier versions call the mode rounding: same or peer.
    return str(row.get(key, row.get("rounding", "") if key == "match" else ""))


def cell_titles(cells):
    """What tells the combinations apart, and always the types and the mode."""
    vary = [key for i, key in enumerate(CELL) if len({cell[i] for cell in cells}) > 1]
    titles = []
    for cell in cells:
        named = dict(zip(CELL, cell))
        types = named["train"].upper() if named["train"] == named["rollout"] else (
            f"rollout {named['rollout'].upper()}, training {named['train'].upper()}")
        rest = [f"{key} {named[key]}" for key in ("kv_cache", "lm_head", "residual") if key in vary]
        titles.append(", ".join([types] + rest + [f"match {named['match']}"]))
    return titles


def token_chart(title, rows, color):
    counts, total = {}, 0
    difference = 0.0
    for row in rows:
        for mu, old in zip(row["rollout_logprobs"], row["old_logprobs"]):
            p, q = math.exp(mu), math.exp(old)
            place = (min(BINS - 1, int(p * BINS)), min(BINS - 1, int(q * BINS)))
            counts[place] = counts.get(place, 0) + 1
            difference += abs(p - q)
            total += 1
    most = math.log(1 + max(counts.values()))
    cells = [(x / BINS, y / BINS, 0.12 + 0.88 * math.log(1 + n) / most) for (x, y), n in sorted(counts.items())]
    return Chart(
        title,
        [Series(cells, color, "cells", size=1 / BINS)],
        x_label="probability in the rollout",
        y_label="in training",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        notes=(f"{total} tokens", f"mean |p - p'| {difference / total:.2e}"),
    )


def sequence_chart(title, rows, color, y_range, x_range):
    points = [(row["length"], row["log_ratio"]) for row in rows]
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    xx = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / xx if xx > 0 else 0.0
    k3 = [row["k3_kl"] for row in rows]
    mean = sum(k3) / n
    error = math.sqrt(sum((k - mean) ** 2 for k in k3) / (n - 1) / n) if n > 1 else 0.0
    line = [(x, mean_y + slope * (x - mean_x)) for x in x_range]
    return Chart(
        title,
        [Series(points, color, "dots", opacity=0.45), Series(line, INK, width=1.2, dash="4 3")],
        x_label="response length, tokens",
        y_label="log(pi/mu)",
        x_range=x_range,
        y_range=y_range,
        notes=(f"KL a sequence (k3) {mean:.2e} ± {error:.0e}", f"slope {1000 * slope:.2g} per 1,000 tokens"),
    )


def mismatch_charts(path, columns):
    """Two charts a combination, tokens above sequences, `columns` combinations side by side."""
    groups = {}
    for row in read_lines(path, "log_ratio"):
        groups.setdefault(tuple(cell_value(row, key) for key in CELL), []).append(row)
    if not groups:
        sys.exit(f"plot: {path}: must hold the points that mismatch --points writes, got none")
    cells = list(groups)
    ratios = [row["log_ratio"] for rows in groups.values() for row in rows]
    lengths = [row["length"] for rows in groups.values() for row in rows]
    reach = max(max(map(abs, ratios)) * 1.4, 1e-9)  # room for the notes
    above = [token_chart(t, groups[c], style(i)[0]) for i, (c, t) in enumerate(zip(cells, cell_titles(cells)))]
    below = [
        sequence_chart("", groups[c], style(i)[0], (-reach, reach), (0.0, 1.04 * max(lengths))) for i, c in enumerate(cells)
    ]
    charts = []
    for at in range(0, len(cells), columns):
        for row in (above[at : at + columns], below[at : at + columns]):
            charts += row + [None] * (columns - len(row))
    return charts


def terminal(run, columns=72, lines=12):
    points = finite(run.series("metrics", "critic/score/mean"))
    if not points:
        return f"{run.name}: no critic/score/mean yet"
    # A column shows the mean of its steps, to an eighth of a line.
    columns = min(columns, len(points))
    heights = []
    for c in range(columns):
        part = [y for _, y in points[c * len(points) // columns : (c + 1) * len(points) // columns]]
        heights.append(sum(part) / len(part))
    low, high = min(0.0, min(heights)), max(1.0, max(heights))
    out = [f"{run.name}: critic/score/mean, steps {points[0][0]} to {points[-1][0]}"]
    for line in range(lines - 1, -1, -1):
        label = f"{high:6.2f}" if line == lines - 1 else f"{low:6.2f}" if line == 0 else " " * 6
        cells = ""
        for value in heights:
            eighths = round((value - low) / (high - low) * lines * 8) - line * 8
            cells += " ▁▂▃▄▅▆▇█"[max(0, min(8, eighths))]
        out.append(f"{label} |{cells}")
    last = [y for _, y in points[-MEAN_OF:]]
    out.append(" " * 7 + "+" + "-" * columns)
    out.append(f"first step {points[0][1]:.3f}, mean of the last {len(last)} steps {sum(last) / len(last):.3f}")
    return "\n".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--mismatch", metavar="POINTS", help="the points of `mismatch`, instead of runs")
    parser.add_argument("--out", help="SVG or PNG file to write (default: metrics.svg beside the first run's metrics)")
    parser.add_argument("--terminal", action="store_true", help="also print the reward curve")
    parser.add_argument("--story", action="store_true", help="add problems of the first run before and after training")
    parser.add_argument("--next", nargs="+", default=[], metavar="LINE", help="add lines on what to do next")
    args = parser.parse_args()
    if bool(args.runs) == bool(args.mismatch):
        parser.error("takes runs, or --mismatch with a file of points")
    if args.mismatch and (args.terminal or args.story or args.next):
        parser.error("--terminal, --story and --next are of runs, not of --mismatch")
    if args.mismatch and not os.path.isfile(args.mismatch):
        sys.exit(f"plot: {args.mismatch}: no such file")
    if args.out is not None and not args.out.lower().endswith((".svg", ".png")):
        parser.error(f"--out must end in .svg or .png, got {args.out}")  # no name of what is read
    if args.mismatch:
        columns, size, names = 3, (380, 270), []
        charts = mismatch_charts(args.mismatch, columns)
        while columns > 1 and all(chart is None for chart in charts[columns - 1 :: columns]):  # fewer combinations
            columns -= 1
            charts = [chart for i, chart in enumerate(charts) if i % (columns + 1) != columns]
        out = args.out or os.path.splitext(args.mismatch)[0] + ".svg"
    else:
        runs = [Run(path) for path in args.runs]
        if args.terminal:
            sys.stdout.reconfigure(encoding="utf-8")
            for run in runs:
                print(terminal(run))
        columns, size, names = 2, (460, 250), [run.name for run in runs]
        charts = run_charts(runs) + (story(runs[0]) if args.story else [])
        charts += [Text("What to try next", tuple(args.next))] if args.next else []
        if args.terminal:
            for text in charts:
                if isinstance(text, Text):
                    print("\n" + "\n".join((text.title,) + text.lines))
        out = args.out or os.path.join(runs[0].directory, "metrics.svg")
    if out.lower().endswith(".png"):
        png(charts, columns, size, names, out)
    else:
        try:
            with open(out, "w", encoding="utf-8") as f:
                f.write(svg(charts, columns, size, names))
        except OSError as error:
            sys.exit(f"plot: {out}: cannot be written: {error.strerror}")
    print(f"curves: {out}")


if __name__ == "__main__":
    main()
