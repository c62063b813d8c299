#!/usr/bin/env python3
"""`grade` on collected cases of other math graders: how many it judges as expected, and every row that one suite alone
asks for (hard, quirk, policy), with verdict and reason, as a Markdown table.

  tests/checks/check_verifier_cases.py --cases verifier_cases.jsonl [--bin build/bin] [--table verifier_table.md]

A line of the file has gold, pred, expected, pred_form (bare: the answer alone), kind, and a flag where it is not to be
satisfied. Exit code 1 when an unflagged row is judged otherwise than expected.
"""
import argparse
import json
import pathlib
import subprocess

FLAGS = ("hard", "quirk", "policy")


def cell(text, width):
    text = " ".join(str(text).split())
    text = text if len(text) <= width else text[: width - 3] + "..."
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", required=True)
    parser.add_argument("--bin", default="build/bin")
    parser.add_argument("--table")
    o = parser.parse_args()

    cases = [json.loads(line) for line in open(o.cases, encoding="utf-8")]
    answer = lambda c: "\\boxed{" + c["pred"] + "}" if c["pred_form"] == "bare" else c["pred"]
    lines = "".join(json.dumps({"pred": answer(c), "gold": c["gold"]}) + "\n" for c in cases)
    grade = subprocess.run([pathlib.Path(o.bin) / "grade", "--input", "-"], input=lines, stdout=subprocess.PIPE, text=True,
                           check=True)
    verdicts = [json.loads(line) for line in grade.stdout.splitlines()]
    assert len(verdicts) == len(cases)

    flag = lambda c: next((f for f in FLAGS if f in c), "")
    right = lambda c, v: v["correct"] == bool(c["expected"])
    wrong = [(c, v) for c, v in zip(cases, verdicts) if not flag(c) and not right(c, v)]
    for c, v in wrong:
        print(f"{c['id']}: gold {c['gold']!r}, answer {c['pred']!r}, expected {c['expected']}: {v}")
    clean = sum(not flag(c) for c in cases)
    print(f"unflagged rows: {clean - len(wrong)} of {clean} as expected")
    rows = ["| row | flag | gold | answer | expected | ours | reason |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for name in FLAGS:
        mine = [(c, v) for c, v in zip(cases, verdicts) if flag(c) == name]
        print(f"{name}: {sum(right(c, v) for c, v in mine)} of {len(mine)} as expected")
        rows += [f"| {c['id']} | {name} | {cell(c['gold'], 40)} | {cell(c['pred'], 60)} | {bool(c['expected'])} | "
                 f"{v['correct']} | {v['reason'].replace('|', chr(92) + '|')} |" for c, v in mine]
    if o.table:
        pathlib.Path(o.table).write_text("\n".join(rows) + "\n", encoding="utf-8")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
