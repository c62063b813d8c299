"""What a run leaves, read while it is being written: tools/dashboard.py and tools/log_to.py share it."""

import json
import os
import re

TOUR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "docs", "tour.md")


class Follower:
    """The objects of a file of JSON lines, as far as it is written. A resumed run cuts its files and writes on: then
    `reset` tells that what was read before counts no more."""

    def __init__(self, path):
        self.path = path
        self.rows = []
        self.at = 0
        self.reset = False

    def read(self):
        """Reads what is new and returns it; `rows` has all."""
        self.reset = False
        try:
            size = os.path.getsize(self.path)
        except OSError:
            size = 0
        if size < self.at:
            self.rows, self.at, self.reset = [], 0, True
        if size == self.at:
            return []
        with open(self.path, "rb") as file:
            file.seek(self.at)
            text = file.read(size - self.at)
        end = text.rfind(b"\n") + 1  # a line that is half written waits
        self.at += end
        new = []
        for line in text[:end].splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "step" in row:
                new.append(row)
        self.rows += new
        return new


class RunFiles:
    """A run directory: metrics (those of a warm start as well), evaluations, samples."""

    def __init__(self, path):
        self.path = path.rstrip("/")
        self.name = os.path.basename(os.path.abspath(self.path))
        main = "sft.jsonl" if os.path.exists(os.path.join(path, "sft.jsonl")) else "metrics.jsonl"
        self.metrics, self.eval, self.samples = (Follower(os.path.join(path, n)) for n in (main, "eval.jsonl", "samples.jsonl"))

    def config(self):
        try:
            with open(os.path.join(self.path, "config.yaml"), encoding="utf-8") as file:
                return file.read()
        except OSError:
            return ""


def metric_table():
    """[(name, unit, meaning)] of all metrics, as docs/tour.md has them."""
    rows = []
    with open(TOUR, encoding="utf-8") as file:
        for line in file:
            found = re.fullmatch(r"\| `([^`]+)` \| (.*?) \| (.*) \|\n?", line)
            if found and (rows or found[1] == "step"):
                rows.append((found[1], found[2], found[3]))
            elif rows and not line.startswith("|"):
                break
    return rows


def find_metric(table, name):
    """The row that a metric's name fits; a placeholder stands for any text without a slash, <set> for any."""
    for row in table:
        pattern = "".join(
            (".+" if part == "<set>" else "[^/]+") if part.startswith("<") else re.escape(part)
            for part in re.split(r"(<[^>]+>)", row[0])
        )
        if re.fullmatch(pattern, name):
            return row
    return None
