#!/usr/bin/env python3
"""Draws the paper's curves of one run, or of several on the same axes, and its offline figure.

  python3 tools/plot.py RUN [RUN ...] [--out FILE.svg|FILE.png] [--terminal]
  python3 tools/plot.py --mismatch POINTS.jsonl [--out FILE.svg|FILE.png]

RUN is a run directory (metrics.jsonl or sft.jsonl, and eval.jsonl) or one such file. The picture goes to
RUN/metrics.svg of the first run unless --out names a file. --terminal also prints the reward curve as text.
POINTS.jsonl is what `mismatch --points` wrote: for each combination of types the probabilities of sampled tokens
on both sides, and log(pi/mu) of whole responses against their length. SVG needs nothing but Python 3; PNG needs
matplotlib (tools/setup.sh --plots).
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
    key: str  # a * stands for the name of an evaluation set: a panel for each; a final @ for any number of samples
    axis: str = "linear"  # linear, log, log2
    fraction: bool = False  # values in [0, 1] get an axis from 0 to 1
    smooth: bool = False  # with a running mean over the values


PANELS = [
    Panel("Reward, mean over rollouts", "metrics", "critic/score/mean", fraction=True, smooth=True),
    Panel("Evaluation: accuracy on *", "eval", "val-core/*/acc/mean@", fraction=True),
    Panel("Loss of the warm start", "metrics", "sft/loss"),
    Panel("Rollout against training: KL per token (k3)", "metrics", "rollout_corr/k3_kl", axis="log"),
    Panel("Rollout against training: largest |p - p'|", "metrics", "training/rollout_probs_diff_max", axis="log"),
    Panel("Loss scale (dots: an update was skipped)", "metrics", "scaler/scale", axis="log2"),
    Panel("Response length, mean tokens", "metrics", "response_length/mean", smooth=True),
    Panel("Entropy, mean over tokens", "metrics", "actor/entropy", smooth=True),
    Panel("Gradient norm, before clipping", "metrics", "actor/grad_norm", axis="log"),
    Panel("Correction: share of tokens kept", "metrics", "rollout_corr/kept_fraction", fraction=True),
]
COLORS = ["#0b6bcb", "#d1495b", "#2e933c", "#8f5fd7", "#c98a00", "#4d5358", "#0f9aa8", "#b0348e"]
DASHES = ["", "5 3", "1.5 2.5"]  # where there are more runs than colors
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
INK, GRID = "#22262a", "#e3e5e8"
MEAN_OF = 10  # steps in the bold line of the reward, and in the accuracy that is printed

LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 40  # margins of a chart, in pixels


class Series(typing.NamedTuple):
    points: list  # (x, y); y None: a gap
    color: str
    kind: str = "line"  # line, dots, both; cells: points are (x, y, opacity), squares of side `size` from (x, y)
    width: float = 1.8
    opacity: float = 1.0
    dash: str = ""
    size: float = 0.0


class Chart(typing.NamedTuple):
    title: str
    series: list
    x_label: str = "step"
    y_label: str = ""
    axis: str = "linear"  # of y
    x_range: tuple = ()  # (): of the points
    y_range: tuple = ()
    notes: tuple = ()  # lines of text in the upper left corner


def read_lines(path, need="step"):
    rows = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
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


def finite(points):
    return [p for p in points if isinstance(p[1], (int, float)) and math.isfinite(p[1])]


def running_mean(points):
    values = [y for _, y in points]
    out = []
    for i, (x, _) in enumerate(points):
        window = values[max(0, i + 1 - MEAN_OF) : i + 1]
        out.append((x, sum(window) / len(window)))
    return out


# ---- charts of runs ----------------------------------------------------------------------------------------


def style(i):
    return COLORS[i % len(COLORS)], DASHES[i // len(COLORS) % len(DASHES)]


def styles(names):
    """A color a run; where several pairs NAME_fp16 and NAME_bf16 are compared, one a pair, and BF16 is dashed."""
    base = [name.removesuffix("_bf16").removesuffix("_fp16") for name in names]
    kinds = list(dict.fromkeys(base))
    if len(kinds) == 1 or len(kinds) == len(names) or len(kinds) > len(COLORS):
        return [style(i) for i in range(len(names))]
    return [(COLORS[kinds.index(b)], DASHES[1] if name.endswith("_bf16") else "") for b, name in zip(base, names)]


def run_chart(panel, runs):
    """None where no run has the metric."""
    series, values, steps = [], [], []
    for run, (color, dash) in zip(runs, styles([run.name for run in runs])):
        points = run.series(panel.source, panel.key)
        numbers = finite(points)
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


# ---- the offline figure ------------------------------------------------------------------------------------

CELL = ("rollout", "train", "kv_cache", "lm_head", "residual", "rounding")
BINS = 50


def cell_titles(cells):
    """What tells the combinations apart, and always the types and the rounding."""
    vary = [key for i, key in enumerate(CELL) if len({cell[i] for cell in cells}) > 1]
    titles = []
    for cell in cells:
        named = dict(zip(CELL, cell))
        types = named["train"].upper() if named["train"] == named["rollout"] else (
            f"rollout {named['rollout'].upper()}, training {named['train'].upper()}")
        rest = [f"{key} {named[key]}" for key in ("kv_cache", "lm_head", "residual") if key in vary]
        titles.append(", ".join([types] + rest + [f"rounding {named['rounding']}"]))
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
        groups.setdefault(tuple(str(row.get(key, "")) for key in CELL), []).append(row)
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


# ---- axes --------------------------------------------------------------------------------------------------


class Axis:
    """Maps [low, high] to [0, 1] and knows its ticks. `exact` keeps the given ends."""

    def __init__(self, values, kind, exact=False):
        self.kind = kind if min(values) > 0 else "linear"
        if self.kind == "linear":
            self.low, self.high = min(values), max(values)
            if self.high - self.low < 1e-12 * max(1.0, abs(self.high)):
                pad = abs(self.high) * 0.1 or 1.0
                self.low, self.high = self.low - pad, self.high + pad
            step = self.step(self.high - self.low)
            first, last = math.floor(self.low / step + 1e-9), math.ceil(self.high / step - 1e-9)
            if exact:
                first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            else:
                self.low, self.high = first * step, last * step
            self.ticks = [i * step for i in range(first, last + 1)]
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
        if self.kind != "linear":
            base = 2 if self.kind == "log2" else 10
            return str(base) + str(round(math.log(value, base))).translate(SUPERSCRIPT)
        if value != 0 and (abs(value) >= 1e6 or abs(value) < 1e-4):
            return f"{value:.2g}"
        return f"{round(value, 6):g}"


def axes_of(chart):
    points = [p for s in chart.series for p in finite(s.points)]
    y_values = list(chart.y_range) or [p[1] for p in points]
    x_values = list(chart.x_range) or [float(p[0]) for p in points]
    return Axis(x_values, "linear", exact=True), Axis(y_values, chart.axis, exact=bool(chart.y_range))


# ---- SVG ---------------------------------------------------------------------------------------------------


def stretches(points):
    """The runs of finite values between gaps."""
    out, stretch = [], []
    for x, y in list(points) + [(0, None)]:
        if isinstance(y, (int, float)) and math.isfinite(y):
            stretch.append((x, y))
        elif stretch:
            out.append(stretch)
            stretch = []
    return out


def svg_chart(chart, width, height):
    x_axis, y_axis = axes_of(chart)
    right, bottom = width - RIGHT, height - BOTTOM

    def px(x):
        return LEFT + x_axis.place(x) * (right - LEFT)

    def py(y):
        return bottom - y_axis.place(y) * (bottom - TOP)

    out = [f"<text x='{LEFT}' y='20' font-size='13' font-weight='600'>{html.escape(chart.title)}</text>"]
    for tick in y_axis.ticks:
        out.append(f"<line x1='{LEFT}' x2='{right}' y1='{py(tick):.1f}' y2='{py(tick):.1f}' stroke='{GRID}'/>")
        out.append(f"<text x='{LEFT - 7}' y='{py(tick) + 3.5:.1f}' text-anchor='end'>{y_axis.label(tick)}</text>")
    for tick in x_axis.ticks:
        if chart.x_label == "step" and tick != round(tick):
            continue
        out.append(f"<line x1='{px(tick):.1f}' x2='{px(tick):.1f}' y1='{bottom}' y2='{bottom + 4}' stroke='#4d5358'/>")
        out.append(f"<text x='{px(tick):.1f}' y='{bottom + 16}' text-anchor='middle'>{round(tick, 6):g}</text>")
    for s in chart.series:
        if s.kind == "cells":
            for x, y, opacity in s.points:
                w, h = px(x + s.size) - px(x), py(y) - py(y + s.size)
                out.append(
                    f"<rect x='{px(x):.1f}' y='{py(y + s.size):.1f}' width='{w:.1f}' height='{h:.1f}' fill='{s.color}' "
                    f"fill-opacity='{opacity:.2f}'/>"
                )
            continue
        for stretch in stretches(s.points):
            if s.kind != "dots" and len(stretch) > 1:
                path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in stretch)
                dash = f" stroke-dasharray='{s.dash}'" if s.dash else ""
                out.append(
                    f"<polyline points='{path}' fill='none' stroke='{s.color}' stroke-width='{s.width}' "
                    f"stroke-opacity='{s.opacity}' stroke-linejoin='round'{dash}/>"
                )
            if s.kind != "line" or len(stretch) == 1:  # a round cap of no length is a dot
                path = "".join(f"M{px(x):.1f} {py(y):.1f}h0" for x, y in stretch)
                out.append(
                    f"<path d='{path}' fill='none' stroke='{s.color}' stroke-width='5' stroke-linecap='round' "
                    f"stroke-opacity='{s.opacity}'/>"
                )
    out.append(f"<path d='M{LEFT},{TOP} V{bottom} H{right}' fill='none' stroke='#4d5358'/>")
    out.append(f"<text x='{(LEFT + right) / 2}' y='{height - 8}' text-anchor='middle'>{chart.x_label}</text>")
    if chart.y_label:
        middle = (TOP + bottom) / 2
        out.append(f"<text transform='translate(14,{middle}) rotate(-90)' text-anchor='middle'>{chart.y_label}</text>")
    for i, note in enumerate(chart.notes):
        at = f"x='{LEFT + 10}' y='{TOP + 16 + 15 * i}'"
        out.append(f"<text {at} stroke='white' stroke-width='4'>{html.escape(note)}</text>")
        out.append(f"<text {at}>{html.escape(note)}</text>")
    return out


def svg(charts, columns, size, names):
    width, height = columns * size[0], math.ceil(len(charts) / columns) * size[1]
    legend, x, y = [], LEFT, 18
    for name, (color, dash) in zip(names, styles(names)):
        length = 28 + 7 * len(name) + 24
        if x + length > width and x > LEFT:
            x, y = LEFT, y + 18
        legend.append(f"<line x1='{x}' x2='{x + 22}' y1='{y}' y2='{y}' stroke='{color}' stroke-width='3' stroke-dasharray='{dash}'/>")
        legend.append(f"<text x='{x + 28}' y='{y + 4}' font-size='12'>{html.escape(name)}</text>")
        x += length
    top = y + 12 if names else 0
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height + top}' viewBox='0 0 {width} {height + top}' "
        f"font-family='Helvetica, Arial, sans-serif' font-size='11' fill='{INK}'>",
        f"<rect width='{width}' height='{height + top}' fill='white'/>",
    ] + legend
    for i, chart in enumerate(charts):
        if chart is None:
            continue
        out.append(f"<g transform='translate({i % columns * size[0]},{i // columns * size[1] + top})'>")
        out += svg_chart(chart, *size)
        out.append("</g>")
    return "\n".join(out + ["</svg>"]) + "\n"


# ---- PNG ---------------------------------------------------------------------------------------------------


def png(charts, columns, size, names, path):
    try:
        import matplotlib
    except ImportError:
        sys.exit("plot: PNG needs matplotlib: run tools/setup.sh --plots, then .deps/venv/bin/python tools/plot.py; SVG needs nothing")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    rows = math.ceil(len(charts) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(columns * size[0] / 90, rows * size[1] / 90 + 0.4), squeeze=False)
    for i, axes in enumerate(grid.flat):
        chart = charts[i] if i < len(charts) else None
        if chart is None:
            axes.set_visible(False)
            continue
        x_axis, y_axis = axes_of(chart)
        if y_axis.kind != "linear":
            axes.set_yscale("log", base=2 if y_axis.kind == "log2" else 10)
        axes.set_xlim(x_axis.low, x_axis.high)
        axes.set_ylim(y_axis.low, y_axis.high)
        axes.grid(axis="y", color=GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(chart.title, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel(chart.x_label, fontsize=9)
        axes.set_ylabel(chart.y_label, fontsize=9)
        axes.tick_params(labelsize=8)
        for s in chart.series:
            if s.kind == "cells":
                for x, y, opacity in s.points:
                    axes.add_patch(Rectangle((x, y), s.size, s.size, color=s.color, alpha=opacity, linewidth=0))
                continue
            line = (0, tuple(float(d) for d in s.dash.split())) if s.dash else "-"
            points = [(x, y if y is not None else math.nan) for x, y in s.points]
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                color=s.color,
                alpha=s.opacity,
                linewidth=s.width,
                linestyle="none" if s.kind == "dots" else line,
                marker="" if s.kind == "line" else "o",
                markersize=4,
                markeredgewidth=0,
            )
        for j, note in enumerate(chart.notes):
            axes.annotate(note, (0.02, 0.97 - 0.08 * j), xycoords="axes fraction", va="top", fontsize=8)
    if names:
        handles = [
            Line2D([], [], color=color, linestyle=(0, tuple(map(float, dash.split()))) if dash else "-")
            for color, dash in styles(names)
        ]
        figure.legend(handles, names, loc="upper left", ncols=min(4, len(names)), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 * math.ceil(len(names) / 4) / figure.get_figheight()))
    figure.savefig(path, dpi=120)


# ---- terminal ----------------------------------------------------------------------------------------------


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
    args = parser.parse_args()
    if bool(args.runs) == bool(args.mismatch):
        parser.error("takes runs, or --mismatch with a file of points")
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
        charts = run_charts(runs)
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
