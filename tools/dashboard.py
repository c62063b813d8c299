#!/usr/bin/env python3
"""Runs in a browser: curves while they train, samples token by token, evaluations, the loss scaler.

  python3 tools/dashboard.py RUN [RUN ...] [--port 8265]
  python3 tools/dashboard.py RUN [RUN ...] --export report.html

Serves a page on this machine alone (127.0.0.1; `ssh -L 8265:localhost:8265 HOST` brings it elsewhere), or writes the
same page with its data into one file. Needs nothing but Python 3; the page (tools/dashboard.html) loads nothing.
"""

import argparse
import http.server
import json
import os
import sys
import threading
import urllib.parse

from run_files import RunFiles, find_metric, metric_table

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "dashboard.html")
MOST_POINTS = 2000  # of a curve; longer ones are thinned out evenly, their last point stays
MOST_SAMPLES = 4000  # of a run in the page; a report has a quarter of them


def thinned(rows, most):
    if len(rows) <= most:
        return rows
    picked = [rows[i * len(rows) // most] for i in range(most)]
    return picked[:-1] + [rows[-1]]


def columns(rows):
    """{metric: [value or None, ...]}, "step" among them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


class Data:
    def __init__(self, paths):
        self.runs = [RunFiles(path) for path in paths]
        self.table = metric_table()
        self.lock = threading.Lock()

    def stamp(self):
        """Changes whenever a file grows, or is cut."""
        with self.lock:
            for run in self.runs:
                for follower in (run.metrics, run.eval, run.samples):
                    follower.read()
            return ",".join(str(f.at) for run in self.runs for f in (run.metrics, run.eval, run.samples))

    def snapshot(self, most_samples):
        stamp = self.stamp()
        runs = []
        for run in self.runs:
            runs.append(
                {
                    "name": run.name,
                    "config": run.config(),
                    "metrics": columns(thinned(run.metrics.rows, MOST_POINTS)),
                    "eval": columns(run.eval.rows),
                    "samples": thinned(run.samples.rows, most_samples),
                    "skips": [[r["step"], r["scaler/skipped"], r.get("scaler/scale")] for r in run.metrics.rows if r.get("scaler/skipped")],
                }
            )
        names = dict.fromkeys(name for run in runs for part in ("metrics", "eval") for name in run[part] if name != "step")
        meanings = {}
        for name in names:
            row = find_metric(self.table, name)
            if row:
                meanings[name] = [row[1], row[2]]
        return {"stamp": stamp, "runs": runs, "meanings": meanings}


def page(data, live):
    """The page with data in it; `live`: it asks for more."""
    with open(PAGE, encoding="utf-8") as file:
        text = file.read()
    body = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # nothing in it can end its element
    return text.replace("{LIVE}", "true" if live else "false").replace("{DATA}", body).encode()


def handler_of(data):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            url = urllib.parse.urlparse(self.path)
            if url.path == "/":
                self.answer(page(data.snapshot(MOST_SAMPLES), True), "text/html; charset=utf-8")
            elif url.path == "/data":
                have = urllib.parse.parse_qs(url.query).get("stamp", [""])[0]
                if have == data.stamp():
                    self.answer(b"null", "application/json")
                else:
                    self.answer(json.dumps(data.snapshot(MOST_SAMPLES)).encode(), "application/json")
            else:
                self.send_error(404)

        def answer(self, body, kind):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--port", type=int, default=8265, help="0: any that is free")
    parser.add_argument("--export", metavar="FILE.html", help="write the page with its data, and end")
    args = parser.parse_args()
    if args.export is not None and not args.export.lower().endswith((".html", ".htm")):
        parser.error(f"--export must end in .html, got {args.export}")  # no name of what is read
    if not 0 <= args.port <= 65535:
        parser.error(f"--port must be between 0 and 65535, got {args.port}")
    for path in args.runs:
        if not os.path.isdir(path):
            sys.exit(f"dashboard: {path}: must be a run directory")
    data = Data(args.runs)
    if not any(run.metrics.rows for run in data.runs if data.stamp()):
        print("dashboard: no metrics yet", file=sys.stderr)
    if args.export:
        try:
            with open(args.export, "wb") as file:
                file.write(page(data.snapshot(MOST_SAMPLES // 4), False))
        except OSError as error:
            sys.exit(f"dashboard: {args.export}: cannot be written: {error.strerror}")
        print(f"report: {args.export}")
        return
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", args.port), handler_of(data))
    except OSError as error:
        sys.exit(f"dashboard: port {args.port}: {error.strerror}; --port names another")
    print(f"dashboard: http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
