#!/usr/bin/env bash
# Fetches public data sets and writes them in the keys that configs expect: problem, answer, solution.
#   gsm8k  openai/grade-school-math (MIT): its question is our problem; what follows #### in its answer is our answer
#          (commas removed), what precedes it our solution.
#   math   sail-sg/Precision-RL (MIT): Arrow files with problem and answer; needs Python's pyarrow.
# Usage: tools/get_data.sh gsm8k|math [DIRECTORY]   (default: data). GSM8K_FROM=DIR takes train.jsonl and test.jsonl from DIR.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,6s/^# \{0,1\}//p' "$0"; exit; fi

what=${1:-}
out=${2:-data}
gsm8k=https://raw.githubusercontent.com/openai/grade-school-math/3101c7d50724/grade_school_math/data
math=https://github.com/sail-sg/Precision-RL/raw/5b0448596e65/oat/data
fetched=$(mktemp -d)
trap 'rm -rf "$fetched"' EXIT

fetch() { # URL FILE
  curl -fsSL --retry 3 -o "$2" "$1" || { echo "get_data: cannot fetch $1" >&2; exit 1; }
}

case $what in
gsm8k)
  mkdir -p "$out"
  for split in train test; do
    if [[ -n ${GSM8K_FROM:-} ]]; then
      cp "$GSM8K_FROM/$split.jsonl" "$fetched/$split.jsonl"
    else
      fetch "$gsm8k/$split.jsonl" "$fetched/$split.jsonl"
    fi
  done
  python3 - "$fetched" "$out" <<'PY'
import hashlib, json, os, sys

source, out = sys.argv[1:]
EXPECTED = {
    "train": (7473, "e1e475f5902318be856e1cb8fecfa4c698ff69e3daf7624eccd4bad39f32e75b"),
    "test": (1319, "19b3f6bae3dfdb5727fa97869beebfded0e00f6babf91b72ab26c8c3494519a7"),
}
for split, (rows, digest) in EXPECTED.items():
    text = ""
    with open(f"{source}/{split}.jsonl", encoding="utf-8") as lines:
        for count, line in enumerate(lines, 1):
            record = json.loads(line)
            solution, answer = record["answer"].rsplit("#### ", 1)
            converted = {"problem": record["question"], "answer": answer.strip().replace(",", ""), "solution": solution.rstrip("\n")}
            text += json.dumps(converted, ensure_ascii=False) + "\n"
    if count != rows:
        sys.exit(f"get_data: gsm8k {split} must have {rows} rows: got {count}")
    got = hashlib.sha256(text.encode()).hexdigest()
    if got != digest:
        sys.exit(f"get_data: gsm8k {split} must have sha256 {digest}: got {got}")
    path = f"{out}/gsm8k_{split}.jsonl"
    with open(path + ".partial", "w", encoding="utf-8", newline="\n") as f:
        f.write(text)
    os.replace(path + ".partial", path)
    print(f"{path}: {rows} rows")
PY
  ;;
math)
  python3 -c 'import pyarrow' 2>/dev/null || { echo "get_data: math needs pyarrow: pip install pyarrow" >&2; exit 1; }
  mkdir -p "$out"
  fetch "$math/train/math_1k5/train/data-00000-of-00001.arrow" "$fetched/sanity_math.arrow"
  fetch "$math/evaluation_suite/math/data-00000-of-00001.arrow" "$fetched/math500.arrow"
  python3 - "$fetched" "$out" <<'PY'
import json, os, sys
import pyarrow as pa

source, out = sys.argv[1:]
for name, rows in {"sanity_math": 1460, "math500": 500}.items():
    table = pa.ipc.open_stream(f"{source}/{name}.arrow").read_all()
    if table.num_rows != rows:
        sys.exit(f"get_data: {name} must have {rows} rows: got {table.num_rows}")
    path = f"{out}/{name}.jsonl"
    with open(path + ".partial", "w", encoding="utf-8", newline="\n") as f:
        for record in table.select(["problem", "answer"]).to_pylist():
            f.write(json.dumps(record, ensure_ascii=False) + "\n")
    os.replace(path + ".partial", path)
    print(f"{path}: {rows} rows")
PY
  ;;
*)
  sed -n '2,6s/^# \{0,1\}//p' "$0"
  exit 1
  ;;
esac
