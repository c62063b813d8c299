#!/usr/bin/env python3
"""Turns Parquet, CSV and JSON into the lines of JSON that data.files takes.

  python3 tools/to_jsonl.py INPUT [INPUT ...] --output FILE.jsonl [--keys NAME[=NEW] ...] [--limit N]
  python3 tools/to_jsonl.py hf:OWNER/NAME[:SPLIT] --output FILE.jsonl

INPUT is a file (.parquet, .csv, .json with a list of objects, .jsonl) or a folder of them, as `datasets` and
`huggingface-cli download` leave it. hf: asks the package `datasets`, which downloads. --keys keeps these keys alone and
may rename them: --keys question=problem answer. A key with dots reaches into objects: reward_model.ground_truth=answer.
Parquet needs pyarrow: `python3 -m pip install pyarrow`, in .deps/venv where there is one.
"""

import argparse
import csv
import json
import os
import sys

KINDS = (".parquet", ".csv", ".json", ".jsonl")


def parquet(path):
    try:
        import pyarrow.parquet
    except ImportError:
        sys.exit("to_jsonl: Parquet needs pyarrow: python3 -m pip install pyarrow")
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def lines(path):
    with open(path, encoding="utf-8", newline="") as file:
        if path.endswith(".csv"):
            rows = csv.DictReader(file, strict=True)
            for row in rows:
                if None in row or None in row.values():
                    raise ValueError(f"line {rows.line_num} must have {len(rows.fieldnames)} columns as the first has")
                yield row
        elif path.endswith(".json"):
            rows = json.load(file)
            if not isinstance(rows, list):
                sys.exit(f"to_jsonl: {path}: must hold a list of objects, got a {type(rows).__name__}")
            yield from rows
        else:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except ValueError as e:
                        raise ValueError(f"line {number}: {e}") from e


def hub(name):
    try:
        import datasets
    except ImportError:
        sys.exit("to_jsonl: hf: needs the package datasets: python3 -m pip install datasets")
    name, _, split = name.partition(":")
    yield from datasets.load_dataset(name, split=split or "train")


def records(source):
    if source.startswith("hf:"):
        yield from hub(source[3:])
        return
    if not os.path.exists(source):
        sys.exit(f"to_jsonl: {source}: no such file or folder")
    paths = [source]
    if os.path.isdir(source):
        paths = sorted(os.path.join(f, n) for f, _, names in os.walk(source) for n in names if n.endswith(KINDS))
    if not paths or not paths[0].endswith(KINDS):
        sys.exit(f"to_jsonl: {source}: must be {', '.join(KINDS)} or a folder of them")
    for path in paths:
        try:
            yield from parquet(path) if path.endswith(".parquet") else lines(path)
        except (ValueError, OSError, csv.Error) as e:  # what the readers say of a damaged file
            sys.exit(f"to_jsonl: {path}: {e}")


def reach(record, key, where):
    value = record
    for part in [key] if key in record else key.split("."):
        if not isinstance(value, dict) or part not in value:
            sys.exit(f"to_jsonl: {where}: there is no key {key}; the record has {', '.join(map(str, record))}")
        value = value[part]
    return value


def write(args, wanted, path):
    """Writes all records and returns how many; `wanted` are pairs of a key and its new name, none for all."""
    count = 0
    with open(path, "w", encoding="utf-8") as out:
        for source in args.inputs:
            for record in records(source):
                if count == args.limit:
                    return count
                if not isinstance(record, dict):
                    sys.exit(f"to_jsonl: {source}: record {count + 1} must be an object, got a {type(record).__name__}")
                if wanted:
                    record = {new: reach(record, key, f"{source}: record {count + 1}") for key, new in wanted}
                out.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
                count += 1
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT")
    parser.add_argument("--output", required=True)
    parser.add_argument("--keys", nargs="+", metavar="NAME[=NEW]", help="keep these, with new names")
    parser.add_argument("--limit", type=int, help="only so many records")
    args = parser.parse_args()
    wanted = [key.split("=", 1) if "=" in key else (key, key) for key in args.keys or []]
    partial = args.output + ".partial"
    try:
        count = write(args, wanted, partial)
        os.replace(partial, args.output)
    except OSError as e:
        sys.exit(f"to_jsonl: {e.filename}: {e.strerror}")
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    print(f"{args.output}: {count} records")


if __name__ == "__main__":
    main()
