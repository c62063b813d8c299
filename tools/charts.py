"""Charts as SVG, which needs nothing but Python 3, or as PNG by matplotlib: what tools/plot.py draws with."""

import html
import math
import sys
import textwrap
import typing

COLORS = ["#0b6bcb", "#d1495b", "#2e933c", "#8f5fd7", "#c98a00", "#4d5358", "#0f9aa8", "#b0348e"]
DASHES = ["", "5 3", "1.5 2.5"]  # where there are more runs than colors
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
INK, GRID = "#22262a", "#e3e5e8"
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


class Text(typing.NamedTuple):
    """Lines in place of a chart; those that begin with two blanks are set in type of one width."""

    title: str
    lines: tuple


def finite(points):
    return [p for p in points if isinstance(p[1], (int, float)) and math.isfinite(p[1])]


def style(i):
    return COLORS[i % len(COLORS)], DASHES[i // len(COLORS) % len(DASHES)]


def styles(names):
    """A color a run; where several pairs NAME_fp16 and NAME_bf16 are compared, one a pair, and BF16 is dashed."""
    base = [name.removesuffix("_bf16").removesuffix("_fp16") for name in names]
    kinds = list(dict.fromkeys(base))
    if len(kinds) == 1 or len(kinds) == len(names) or len(kinds) > len(COLORS):
        return [style(i) for i in range(len(names))]
    return [(COLORS[kinds.index(b)], DASHES[1] if name.endswith("_bf16") else "") for b, name in zip(base, names)]


# ---- axes --------------------------------------------------------------------------------------------------


class Axis:
    """Maps [low, high] to [0, 1] and knows its ticks. `exact` keeps the given ends. On a logarithmic axis zeros, where
    there are some beside other values, lie at the lower end, which is labelled 0."""

    def __init__(self, values, kind, exact=False):
        self.zero = kind != "linear" and min(values) == 0 < max(values)
        if self.zero:
            values = [v for v in values if v > 0]
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
            low -= self.zero
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
        return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)

    def label(self, value):
        if self.kind != "linear":
            if self.zero and value == self.low:
                return "0"
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


def wrapped(text, width):
    """Its lines as (indent, fixed width or not, words), cut where they are wider than `width` pixels."""
    for line in text.lines:
        fixed = line.startswith("  ")
        most = int((width - LEFT - RIGHT) / (6.7 if fixed else 5.6)) - 2
        for i, part in enumerate(textwrap.wrap(line.strip(), most, replace_whitespace=False, break_on_hyphens=False)):
            yield fixed + (2 if i else 0), fixed, part


def svg_text(text, width):
    out = [f"<text x='{LEFT}' y='20' font-size='13' font-weight='600'>{html.escape(text.title)}</text>"]
    for i, (indent, fixed, part) in enumerate(wrapped(text, width)):
        family = " font-family='monospace'" if fixed else ""
        out.append(f"<text x='{LEFT + 10 * indent}' y='{TOP + 12 + 17 * i}'{family} xml:space='preserve'>{html.escape(part)}</text>")
    return out


def svg_chart(chart, width, height):
    if isinstance(chart, Text):
        return svg_text(chart, width)
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
        if isinstance(chart, Text):
            axes.axis("off")
            axes.set_title(chart.title, loc="left", fontsize=10, fontweight="bold")
            for j, (indent, fixed, part) in enumerate(wrapped(chart, size[0])):
                axes.text(0.025 * indent, 0.95 - 0.085 * j, part, va="top", fontsize=8, family="monospace" if fixed else None,
                          parse_math=False, transform=axes.transAxes)
            continue
        x_axis, y_axis = axes_of(chart)
        if y_axis.kind != "linear":
            axes.set_yscale("log", base=2 if y_axis.kind == "log2" else 10)
            axes.set_yticks(y_axis.ticks, [y_axis.label(tick) for tick in y_axis.ticks])
            axes.set_yticks([], minor=True)
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
            if y_axis.zero:
                points = [(x, max(y, y_axis.low)) for x, y in points]
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
