#!/usr/bin/env python3
"""Draws the curves of one run, or of several on the same axes. Needs nothing but Python 3.

  python3 tools/plot.py RUN [RUN ...] [--out FILE.svg] [--terminal]

RUN is a run directory (metrics.jsonl or sft.jsonl, and eval.jsonl) or one such file. The picture goes to
RUN/metrics.svg of the first run unless --out names a file. --terminal also prints the reward curve as text.
"""

import argparse
import html
import json
import math
import os
import sys
import typing



class Panel(typing.NamedTuple):
    title: str
    source: str  # "metrics" or "eval": the file it is read from
    key: str  # one that ends in @ stands for the first that begins so
    axis: str = "linear"  # linear, log, log2
    fraction: bool = False  # values in [0, 1] get an axis from 0 to 1
    smooth: bool = False  # with a running mean over the values


PANELS = [
    Panel("Reward, mean over rollouts", "metrics", "critic/score/mean", fraction=True, smooth=True),
    Panel("Evaluation: accuracy", "eval", "val-core/acc/mean@", fraction=True),
    Panel("Loss of the warm start", "metrics", "sft/loss"),
    Panel("Rollout against training: KL per token (k3)", "metrics", "rollout_corr/k3_kl", axis="log"),
    Panel("Rollout against training: largest |p - p'|", "metrics", "training/rollout_probs_diff_max", axis="log"),
    Panel("Loss scale", "metrics", "scaler/scale", axis="log2"),
    Panel("Response length, mean tokens", "metrics", "response_length/mean"),
]
COLORS = ["#0b6bcb", "#d1495b", "#2e933c", "#8f5fd7", "#c98a00", "#4d5358"]
MEAN_OF = 10  # steps in the bold line of the reward, and in the accuracy that is printed

WIDTH, HEIGHT = 460, 250  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 40
COLUMNS = 2


def read_lines(path):
    rows = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                sys.exit(f"plot: {path}:{number}: every line must be a JSON object: got {line.strip()[:60]}")
            if not isinstance(row, dict) or "step" not in row:
                sys.exit(f"plot: {path}:{number}: every line must be an object with a step: got {line.strip()[:60]}")
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

    def series(self, source, key):
        """[(step, value)] of the rows that have the key; None where the run logged null."""
        rows = self.rows[source]
        if key.endswith("@"):
            key = next((name for row in rows for name in row if name.startswith(key)), key)
        return [(row["step"], row[key]) for row in rows if key in row]


def finite(points):
    return [(x, y) for x, y in points if isinstance(y, (int, float)) and math.isfinite(y)]


def running_mean(points):
    values = [y for _, y in points]
    out = []
    for i, (x, _) in enumerate(points):
        window = values[max(0, i + 1 - MEAN_OF) : i + 1]
        out.append((x, sum(window) / len(window)))
    return out


class Axis:
    """Maps [low, high] to [0, 1] and knows its ticks."""

    def __init__(self, values, kind):
        self.kind = kind if min(values) > 0 else "linear"
        if self.kind == "linear":
            self.low, self.high = min(values), max(values)
            if self.high - self.low < 1e-12 * max(1.0, abs(self.high)):
                pad = abs(self.high) * 0.1 or 1.0
                self.low, self.high = self.low - pad, self.high + pad
            step = self.step(self.high - self.low)
            self.low, self.high = math.floor(self.low / step) * step, math.ceil(self.high / step) * step
            count = round((self.high - self.low) / step)
            self.ticks = [self.low + i * step for i in range(count + 1)]
        else:
            base = 2.0 if self.kind == "log2" else 10.0
            low, high = math.floor(math.log(min(values), base) + 1e-9), math.ceil(math.log(max(values), base) - 1e-9)
            if low == high or self.kind == "log2":
                low, high = low - 1, high + 1
            every = max(1, math.ceil((high - low) / 6))
            self.low, self.high = base**low, base**high
            self.ticks = [base**e for e in range(low, high + 1, every)]

    @staticmethod
    def step(span):
        raw = span / 5
        magnitude = 10.0 ** math.floor(math.log10(raw))
        return next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)

    def place(self, value):
        if self.kind == "linear":
            return (value - self.low) / (self.high - self.low)
        return math.log(value / self.low) / math.log(self.high / self.low)

    def label(self, value):
        if self.kind == "log2":
            exponent = round(math.log2(value))
            return f"2<tspan dy='-4' font-size='8'>{exponent}</tspan>"
        if self.kind == "log":
            return f"10<tspan dy='-4' font-size='8'>{round(math.log10(value))}</tspan>"
        if value != 0 and (abs(value) >= 1e6 or abs(value) < 1e-4):
            return f"{value:.2g}"
        return f"{round(value, 6):g}"


def polyline(points, x_axis, y_axis, color, width, opacity=1.0, dots=False):
    """One polyline for each stretch of finite values."""
    parts, stretch = [], []
    for x, y in points + [(0, None)]:
        if isinstance(y, (int, float)) and math.isfinite(y):
            stretch.append(
                (
                    LEFT + x_axis.place(x) * (WIDTH - LEFT - RIGHT),
                    HEIGHT - BOTTOM - y_axis.place(y) * (HEIGHT - TOP - BOTTOM),
                )
            )
            continue
        if len(stretch) > 1:
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in stretch)
            parts.append(
                f"<polyline points='{path}' fill='none' stroke='{color}' stroke-width='{width}' "
                f"stroke-opacity='{opacity}' stroke-linejoin='round'/>"
            )
        if dots or len(stretch) == 1:
            parts += [f"<circle cx='{px:.1f}' cy='{py:.1f}' r='2.5' fill='{color}'/>" for px, py in stretch]
        stretch = []
    return parts


def draw_panel(spec, all_points):
    """all_points: one series a run, in the order of the runs."""
    values = [y for points in all_points for _, y in finite(points)]
    steps = [x for points in all_points for x, _ in points]
    if spec.fraction and 0 <= min(values) and max(values) <= 1:
        values += [0.0, 1.0]
    x_axis, y_axis = Axis([float(x) for x in steps], "linear"), Axis(values, spec.axis)
    x_axis.low, x_axis.high = float(min(steps)), float(max(steps)) if max(steps) > min(steps) else min(steps) + 1.0
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    out = [f"<text x='{LEFT}' y='20' font-size='13' font-weight='600'>{html.escape(spec.title)}</text>"]
    for tick in y_axis.ticks:
        y = bottom - y_axis.place(tick) * (bottom - TOP)
        out.append(f"<line x1='{LEFT}' x2='{right}' y1='{y:.1f}' y2='{y:.1f}' stroke='#e3e5e8'/>")
        out.append(f"<text x='{LEFT - 7}' y='{y + 3.5:.1f}' text-anchor='end'>{y_axis.label(tick)}</text>")
    for tick in x_axis.ticks:
        if x_axis.low <= tick <= x_axis.high and tick == round(tick):
            x = LEFT + x_axis.place(tick) * (right - LEFT)
            out.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{bottom}' y2='{bottom + 4}' stroke='#4d5358'/>")
            out.append(f"<text x='{x:.1f}' y='{bottom + 16}' text-anchor='middle'>{tick:g}</text>")
    out.append(f"<path d='M{LEFT},{TOP} V{bottom} H{right}' fill='none' stroke='#4d5358'/>")
    out.append(f"<text x='{(LEFT + right) / 2}' y='{HEIGHT - 8}' text-anchor='middle'>step</text>")
    for i, points in enumerate(all_points):
        color = COLORS[i % len(COLORS)]
        if spec.smooth and len(finite(points)) > 2 * MEAN_OF:
            out += polyline(points, x_axis, y_axis, color, 1, 0.35)
            out += polyline(running_mean(finite(points)), x_axis, y_axis, color, 2.2)
        else:
            out += polyline(points, x_axis, y_axis, color, 1.8, dots=spec.source == "eval")
    return out


def draw(runs):
    panels = []
    for spec in PANELS:
        all_points = [run.series(spec.source, spec.key) for run in runs]
        if any(finite(points) for points in all_points):
            panels.append(draw_panel(spec, all_points))
    if not panels:
        sys.exit(f"plot: {runs[0].directory}: no metric that this program knows has a finite value")
    legend = 30
    rows = math.ceil(len(panels) / COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT + legend
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}' "
        "font-family='Helvetica, Arial, sans-serif' font-size='11' fill='#22262a'>",
        f"<rect width='{width}' height='{height}' fill='white'/>",
    ]
    x = LEFT
    for i, run in enumerate(runs):
        out.append(f"<line x1='{x}' x2='{x + 22}' y1='18' y2='18' stroke='{COLORS[i % len(COLORS)]}' stroke-width='3'/>")
        out.append(f"<text x='{x + 28}' y='22' font-size='12'>{html.escape(run.name)}</text>")
        x += 28 + 7 * len(run.name) + 30
    for i, body in enumerate(panels):
        out.append(f"<g transform='translate({i % COLUMNS * WIDTH},{i // COLUMNS * HEIGHT + legend})'>")
        out += body
        out.append("</g>")
    out.append("</svg>")
    return "\n".join(out) + "\n"


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
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--out", help="SVG file to write (default: metrics.svg beside the first run's metrics)")
    parser.add_argument("--terminal", action="store_true", help="also print the reward curve")
    args = parser.parse_args()
    runs = [Run(path) for path in args.runs]
    if args.terminal:
        sys.stdout.reconfigure(encoding="utf-8")
        for run in runs:
            print(terminal(run))
    out = args.out or os.path.join(runs[0].directory, "metrics.svg")
    picture = draw(runs)
    with open(out, "w", encoding="utf-8") as f:
        f.write(picture)
    print(f"curves: {out}")


if __name__ == "__main__":
    main()
