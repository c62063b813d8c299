#!/usr/bin/env python3
"""The scripts that read runs, on a run made here: the dashboard's page and server, log_to.py with a tracker that only
remembers, plot.py --story, to_jsonl.py with a package `datasets` that knows one data set; and with --bin FOLDER, of the programs,
bench_cluster.sh on two CPU processes. Needs nothing but Python 3; the trackers themselves are tried where they are installed:
check_scripts.py --trackers. So is `datasets`, on a data set on disk.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.request

TOOLS = pathlib.Path(__file__).resolve().parent.parent.parent / "tools"
sys.path.insert(0, str(TOOLS))
from run_files import Follower, find_metric, metric_table  # noqa: E402


def run(script, *arguments, **environment):
    done = subprocess.run([sys.executable, str(TOOLS / script), *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, **environment})
    if done.returncode:
        sys.exit(f"{script} {arguments}: ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def refused(script, *arguments):
    done = subprocess.run([sys.executable, str(TOOLS / script), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode, done.stdout
    return done.stderr


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_run(folder):
    folder.mkdir()
    write_lines(folder / "metrics.jsonl", [
        {"step": s, "critic/score/mean": s / 2500, "rollout_corr/k3_kl": None if s == 3 else 1e-5 * s, "constant": 2,
         "scaler/scale": 65536, "scaler/skipped": int(s == 7)} for s in range(1, 2501)])
    write_lines(folder / "eval.jsonl", [{"step": s, "val-core/a/b/acc/mean@4": s / 3000} for s in (0, 1250, 2500)])
    write_lines(folder / "samples.jsonl", [
        {"step": s, "id": s % 5, "prompt": "</script><b>1+1=", "response": "2" if s > 50 else "3", "answer": "2", "extracted": "2",
         "reward": int(s > 50), "reason": "same text", "finish": "stop", "tokens": ["2", "<eos>"], "rollout_logprobs": [-0.5, -0.1]}
        for s in range(1, 101)])
    (folder / "config.yaml").write_text("# mantissa\nrun:\n  name: x\n")


def check_follower(here):
    path = here / "f.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    follower = Follower(str(path))
    assert [r["step"] for r in follower.read()] == [1, 2] and follower.read() == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "x": null}\n')
    assert [r["step"] for r in follower.read()] == [3] and len(follower.rows) == 3
    path.write_text('{"step": 1}\n')
    assert [r["step"] for r in follower.read()] == [1] and follower.reset and len(follower.rows) == 1, "a run went back"


def check_table():
    table = metric_table()
    assert len(table) > 80 and table[0][0] == "step", len(table)
    assert find_metric(table, "val-core/a/b/acc/mean@4")[2].startswith("share of correct answers")
    assert find_metric(table, "reward/x/mean") and not find_metric(table, "reward/x/y/mean") and not find_metric(table, "constant")


def data_of(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found[1])


def check_dashboard(here):
    run("dashboard.py", here / "run", "--export", here / "report.html")
    page = (here / "report.html").read_text(encoding="utf-8")
    data = data_of(page)
    (one,) = data["runs"]
    assert len(one["metrics"]["step"]) == 2000 and one["metrics"]["step"][-1] == 2500 and one["metrics"]["step"][0] == 1
    assert one["skips"] == [[7, 1, 65536]] and one["samples"][0]["prompt"].startswith("</script>")
    assert data["meanings"]["rollout_corr/k3_kl"][0] == "nats" and "const live = false" in page
    assert not re.search(r'(src|href)="', page), "it loads nothing"
    server = subprocess.Popen([sys.executable, str(TOOLS / "dashboard.py"), str(here / "run"), "--port", "0"],
                              stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split()[-1]

        def get(path):
            with urllib.request.urlopen(address + path, timeout=20) as answer:
                return answer.read().decode()

        stamp = data_of(get("/"))["stamp"]
        assert get("/data?stamp=" + stamp) == "null"
        with open(here / "run" / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write('{"step": 2501, "critic/score/mean": 1}\n')
        grown = json.loads(get("/data?stamp=" + stamp))
        assert grown["stamp"] != stamp and grown["runs"][0]["metrics"]["step"][-1] == 2501
    finally:
        server.kill()
        server.wait()


STUB = """
import json, os
class Run:
    def log(self, values, step): open(os.environ["STUB"], "a").write(json.dumps([step, values]) + "\\n")
    def finish(self): pass
def init(project, name, config): assert "name: x" in config["config.yaml"]; return Run()
"""


def check_log_to(here):
    (here / "stub").mkdir()
    (here / "stub" / "wandb.py").write_text(STUB)
    out = run("log_to.py", "wandb", here / "run", "--once", PYTHONPATH=str(here / "stub"), STUB=str(here / "sent"))
    sent = [json.loads(line) for line in (here / "sent").read_text().splitlines()]
    assert [step for step, _ in sent] == list(range(0, 2502)), out
    assert "rollout_corr/k3_kl" not in sent[3][1] and sent[2500][1]["val-core/a/b/acc/mean@4"] == 2500 / 3000


def check_trackers(here):
    for tracker, place in (("wandb", {"WANDB_MODE": "offline", "WANDB_DIR": str(here)}), ("trackio", {"TRACKIO_DIR": str(here / "t")}),
                           ("mlflow", {"MLFLOW_TRACKING_URI": f"file:{here}/m", "MLFLOW_ALLOW_FILE_STORE": "true"})):
        print(tracker, run("log_to.py", tracker, here / "short", "--once", **place).strip())


def check_plot(here):
    out = run("plot.py", "--terminal", "--story", here / "run", "--next", "and then this", "--out", here / "x.svg")
    assert "0.000 before, 0.833 after step 2500" in out and "scaler/scale is 65536 in all steps" in out, out
    svg = (here / "x.svg").read_text(encoding="utf-8")
    assert "and then this" in svg and "right" in svg and "wrong" in svg and "Loss scale" not in svg
    late = here / "late"  # its first evaluation is after a step
    late.mkdir()
    (late / "metrics.jsonl").write_text('{"step": 1, "critic/score/mean": 0.5}\n')
    (late / "eval.jsonl").write_text("".join(json.dumps({"step": s, "val-core/a/acc/mean@2": s / 8}) + "\n" for s in (2, 4)))
    assert "accuracy on a: 0.250 after step 2, 0.500 after step 4" in run("plot.py", "--terminal", "--story", late)
    from plot import judged
    assert [judged(row) for row in ({"reward": 0.5}, {"reward": 0}, {"reward": 0.1, "correct": True, "status": "parsed"},
                                    {"reward": 1, "correct": False, "status": "unparsed"},
                                    {"reward": 0, "correct": False, "status": "error"})] == ["right", "wrong", "right", "wrong", "error"]
    metrics = here / "run" / "metrics.jsonl"
    before = metrics.read_text()
    assert "--out must end in .svg or .png" in refused("plot.py", here / "run", "--out", metrics)
    assert "--export must end in .html" in refused("dashboard.py", here / "run", "--export", metrics)
    assert "cannot be written" in refused("dashboard.py", here / "run", "--export", here / "no" / "x.html")
    assert "--port must be between" in refused("dashboard.py", here / "run", "--port", "70000")
    assert "no such file" in refused("plot.py", "--mismatch", here / "no.jsonl")
    assert "are of runs" in refused("plot.py", "--mismatch", metrics, "--story")
    assert "the name x twice" in refused("to_jsonl.py", metrics, "--output", here / "x.jsonl", "--keys", "step=x", "seed=x")
    assert "is also an input" in refused("to_jsonl.py", metrics, "--output", metrics, "--keys", "step")
    assert "is also an input" in refused("to_jsonl.py", here / "run", "--output", metrics, "--keys", "step")
    assert "must end in .jsonl" in refused("to_jsonl.py", metrics, "--output", here / "x.txt")
    (here / "bytes.jsonl").write_bytes(b"\xff\n")
    assert "must be lines of JSON" in refused("plot.py", here / "bytes.jsonl")
    (here / "empty.jsonl").write_text("")
    assert "got none" in refused("plot.py", "--mismatch", here / "empty.jsonl")
    (here / "cut.jsonl").write_text('{"step": 1, "critic/score/mean": 0.5}\n{"step": 2, "critic/score/mean": 0.7}\n{"step": 3, "cri')
    run("plot.py", here / "cut.jsonl", "--out", here / "cut.svg")
    assert metrics.read_text() == before


def check_to_jsonl(here):
    (here / "a.csv").write_text("q,a,rest\n1+1?,2,x\n")
    (here / "b.json").write_text('[{"q": "2+2?", "a": 4, "m": {"gold": "vier"}}]')
    run("to_jsonl.py", here / "a.csv", here / "b.json", "--output", here / "o.jsonl", "--keys", "q=problem", "a=answer")
    (here / "bom.csv").write_bytes(b"\xef\xbb\xbfq,a\n1,2\n")
    run("to_jsonl.py", here / "bom.csv", "--output", here / "bom.jsonl")
    assert json.loads((here / "bom.jsonl").read_text()) == {"q": "1", "a": "2"}
    rows = [json.loads(line) for line in (here / "o.jsonl").read_text().splitlines()]
    assert rows == [{"problem": "1+1?", "answer": "2"}, {"problem": "2+2?", "answer": 4}], rows
    run("to_jsonl.py", here / "b.json", "--output", here / "o.jsonl", "--keys", "m.gold=answer")
    assert json.loads((here / "o.jsonl").read_text()) == {"answer": "vier"}
    failed = subprocess.run([sys.executable, str(TOOLS / "to_jsonl.py"), here / "b.json", "--output", here / "o.jsonl", "--keys", "z"],
                            capture_output=True, text=True)
    assert failed.returncode == 1 and "record 1: there is no key z; the record has q, a, m" in failed.stderr, failed.stderr
    for name, text, said in [("d.jsonl", '{"a": 1}\n{"a":\n', "line 2"), ("d.json", "[1", "Expecting"),
                             ("d.csv", "a,b\n1,2\n3\n", "line 3 must have 2 columns"),
                             ("twice.csv", "a,b,a\n1,2,3\n", "line 1 names the column a twice"),
                             ("empty.csv", "", "must begin with a line of column names")]:
        (here / name).write_text(text)
        failed = subprocess.run([sys.executable, str(TOOLS / "to_jsonl.py"), here / name, "--output", here / "o2.jsonl"],
                                capture_output=True, text=True)
        assert failed.returncode == 1 and f"{here / name}: " in failed.stderr and said in failed.stderr, failed.stderr
        assert not list(here.glob("o2*")), "nothing half-written stays"


DATASETS = """
import datetime, decimal
class Rows:
    def __init__(self, rows):
        self.rows, self.features = rows, rows[0]
    def select_columns(self, names):
        return Rows([{name: row[name] for name in names} for row in self.rows])
    def __iter__(self):
        for row in self.rows:
            if row.get("picture") == "broken":
                raise OSError("cannot identify image file")
            yield row
        raise RuntimeError("read to the end")
class Array:
    def tolist(self):
        return [1, float("inf")]
def load_dataset(path, subset, streaming):
    assert streaming and path == "me/sums"
    if subset is None:
        raise ValueError("Config name is missing.\\nPlease pick one of main")
    day = datetime.datetime(2026, 11, 29, 5, 30)
    rows = [{"q": "1+1", "m": {"gold": 2, "when": day}, "price": decimal.Decimal("1.50"), "x": Array(), "raw": b"", "picture": p}
            for p in ("whole", "broken")]
    return {"test": Rows(rows)} if subset == "one" else {"train": Rows(rows), "test": Rows(rows)}
"""


def hub(here, *arguments):
    """to_jsonl.py with the package above, and what it wrote or said."""
    done = subprocess.run([sys.executable, str(TOOLS / "to_jsonl.py"), *arguments, "--output", str(here / "hub.jsonl")],
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(here / "hub")})
    if done.returncode:
        assert not (here / "hub.jsonl").exists() and done.stderr.startswith("to_jsonl: hf:"), done.stderr
        return done.stderr
    rows = [json.loads(line) for line in (here / "hub.jsonl").read_text().splitlines()]
    (here / "hub.jsonl").unlink()
    return rows


def check_hub(here):
    (here / "hub").mkdir()
    (here / "hub" / "datasets.py").write_text(DATASETS)
    named = ("--keys", "q=problem", "m.gold=answer", "m", "price", "x")
    row = {"problem": "1+1", "answer": 2, "m": {"gold": 2, "when": "2026-11-29T05:30:00"}, "price": "1.50", "x": [1, None]}
    for name in ("hf:me/sums/main", "hf:me/sums/main:test", "hf:me/sums/one"):
        rows = hub(here, name, "--limit", "2", *named)
        assert rows == [row, row], rows
    assert "read to the end" in hub(here, "hf:me/sums/main", *named), "an error in mid-reading leaves no file"
    assert "there is no split dev; it has train, test" in hub(here, "hf:me/sums/main:dev")
    assert "a subset is named as hf:OWNER/NAME/SUBSET" in hub(here, "hf:me/sums")
    assert "record 1: key raw is of type bytes" in hub(here, "hf:me/sums/main")
    assert "cannot identify image file" in hub(here, "hf:me/sums/main", "--keys", "q", "picture")
    try:
        import datasets
    except ImportError:
        return print("hf: was not tried with the package datasets, which is not here")
    (here / "set").mkdir()
    for split, answer in (("train", 1), ("test", 2)):
        datasets.Dataset.from_list([{"q": "?", "a": answer}] * 3).to_parquet(here / "set" / f"{split}.parquet")
    for name, answer in ((f"hf:{here}/set", 1), (f"hf:{here}/set:test", 2)):
        run("to_jsonl.py", name, "--output", here / "o.jsonl", "--keys", "a=answer", "--limit", "2")
        assert (here / "o.jsonl").read_text() == f'{{"answer": {answer}}}\n' * 2


def check_bench_cluster(here, bin):
    def bench(out, *options, **environment):
        return subprocess.run([TOOLS / "bench_cluster.sh", *options, bin, out], capture_output=True, text=True,
                              env={**os.environ, "DEVICE": "cpu", "RANKS": "2", **environment})

    done = bench(here / "cluster", "--steps", "1", OFFLOAD="1")
    assert done.returncode == 0 and "the same in one_gpu, strong" in done.stdout, done.stdout + done.stderr
    updates = [json.loads(line) for line in (here / "cluster" / "bench.jsonl").read_text().splitlines()]
    assert {u["name"] for u in updates if u["bench"] == "update"} == {"1.5B on 1", "1.5B on 2", "14B"}, updates
    assert {path.parent.name for path in (here / "cluster").glob("*/metrics.jsonl")} == {
        "one_gpu", "strong", "weak", "dense14b", "qwen3_30b_a3b"}
    cut = bench(here / "cut", "--only", "grpo", LIMIT="0")
    assert cut.returncode == 1 and "FAILED: strong (no time was left)" in cut.stdout, cut.stdout + cut.stderr
    refused = bench(here / "no", "--only", "grpo,comms")
    assert refused.returncode == 1 and 'no part is called "comms"' in refused.stderr, refused.stderr


def main():
    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder)
        make_run(here / "run")
        check_follower(here)
        check_table()
        check_dashboard(here)
        check_log_to(here)
        check_plot(here)
        check_to_jsonl(here)
        check_hub(here)
        if "--bin" in sys.argv:
            check_bench_cluster(here, sys.argv[sys.argv.index("--bin") + 1])
        if "--trackers" in sys.argv:
            (here / "short").mkdir()
            for name in ("metrics.jsonl", "eval.jsonl", "config.yaml"):
                text = (here / "run" / name).read_text().splitlines(True)
                (here / "short" / name).write_text("".join(text[:5]))
            check_trackers(here)
    print("the scripts do what they say")


if __name__ == "__main__":
    main()
