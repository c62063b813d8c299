#!/usr/bin/env python3
"""Turns Parquet, CSV and JSON into the lines of JSON that data.files takes.

  python3 tools/to_jsonl.py INPUT [INPUT ...] --output FILE.jsonl [--keys NAME[=NEW] ...] [--limit N]
  python3 tools/to_jsonl.py hf:OWNER/NAME[/SUBSET][:SPLIT] --output FILE.jsonl [--keys ...] [--limit N]

INPUT is a file (.parquet, .csv, .json with a list of objects, .jsonl) or a folder of them, as `datasets` and
`huggingface-cli download` leave it. hf: asks the package `datasets`, which downloads: hf:openai/gsm8k/main:test is the
split test of the subset main. Without SPLIT it is train, or the only one there is; hf:FOLDER[:SPLIT] is a data set on
disk. It reads as it goes, so a small --limit downloads little. --keys keeps these keys alone and may rename them:
--keys question=problem answer. A key with dots reaches into objects: reward_model.ground_truth=answer.

Dates become text, arrays lists, numbers that are not finite null. What has no form in JSON (bytes, images, sound) is an
error, unless --keys leaves it out. Parquet needs pyarrow: `python3 -m pip install pyarrow`, in .deps/venv where there is one.
"""

import argparse
import csv
import datetime
import decimal
import json
import math
import os
import sys
import uuid

KINDS = (".parquet", ".csv", ".json", ".jsonl")


def parquet(path):
    try:
        import pyarrow.parquet
    except ImportError:
        sys.exit("to_jsonl: Parquet needs pyarrow: python3 -m pip install pyarrow")
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def lines(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        if path.endswith(".csv"):
            rows = csv.DictReader(file, strict=True)
            if not rows.fieldnames:
                raise ValueError("must begin with a line of column names, got an empty file")
            if twice := [name for name in rows.fieldnames if rows.fieldnames.count(name) > 1]:
                raise ValueError(f"line 1 names the column {twice[0]} twice")
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


def hub(name, keys):
    """The records of a data set of `datasets`, of the columns that `keys` ask for; none for all."""
    try:
        import datasets
    except ImportError:
        sys.exit("to_jsonl: hf: needs the package datasets: python3 -m pip install datasets")
    path, _, split = name.partition(":")
    subset = None
    if not os.path.isdir(path) and path.count("/") == 2:
        path, _, subset = path.rpartition("/")
    try:
        splits = datasets.load_dataset(path, subset, streaming=True)
        names = list(splits)
        split = split or (names[0] if len(names) == 1 else "train")
        if split not in names:
            sys.exit(f"to_jsonl: hf:{name}: there is no split {split}; it has {', '.join(names)}")
        rows = splits[split]
        columns = {key if key in (rows.features or {}) else key.split(".")[0] for key in keys}
        if columns and columns <= set(rows.features or {}):
            rows = rows.select_columns(sorted(columns))  # what is left out is not decoded either: images, sound
        yield from rows
    except Exception as e:  # the package and those below it have no common kind of error
        hint = "; a subset is named as hf:OWNER/NAME/SUBSET" if "config name" in str(e).lower() else ""
        sys.exit(f"to_jsonl: hf:{name}: {(str(e) or type(e).__name__).splitlines()[0]}{hint}")


def files_of(source):
    if not os.path.exists(source):
        sys.exit(f"to_jsonl: {source}: no such file or folder")
    paths = [source]
    if os.path.isdir(source):
        paths = sorted(os.path.join(f, n) for f, _, names in os.walk(source) for n in names if n.endswith(KINDS))
    if not paths or not paths[0].endswith(KINDS):
        sys.exit(f"to_jsonl: {source}: must be {', '.join(KINDS)} or a folder of them")
    return paths


def records(source, keys):
    if source.startswith("hf:"):
        yield from hub(source[3:], keys)
        return
    for path in files_of(source):
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


def plain(value, where):
    """`value` in the types of JSON."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part, where) for part in value]
    if isinstance(value, (datetime.date, datetime.time)):  # datetime.datetime is a date
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta, uuid.UUID)):
        return str(value)
    if hasattr(value, "tolist"):  # arrays and scalars of numpy
        return plain(value.tolist(), where)
    sys.exit(f"to_jsonl: {where} is of type {type(value).__name__}, which has no form in JSON; --keys names those to keep")


def write(args, wanted, path):
    """Writes all records and returns how many; `wanted` are pairs of a key and its new name, none for all."""
    count = 0
    with open(path, "w", encoding="utf-8") as out:
        for source in args.inputs:
            for number, record in enumerate(records(source, [key for key, _ in wanted]), 1):
                where = f"{source}: record {number}"
                if not isinstance(record, dict):
                    sys.exit(f"to_jsonl: {where} must be an object, got a {type(record).__name__}")
                if wanted:
                    record = {new: reach(record, key, where) for key, new in wanted}
                record = {key: plain(value, f"{where}: key {key}") for key, value in record.items()}
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
                if count == args.limit:
                    return count
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT")
    parser.add_argument("--output", required=True)
    parser.add_argument("--keys", nargs="+", metavar="NAME[=NEW]", help="keep these, with new names")
    parser.add_argument("--limit", type=int, help="only so many records")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit must be at least 1, got {args.limit}")
    if not args.output.endswith((".jsonl", ".json")):
        parser.error(f"--output must end in .jsonl, got {args.output}")
    inputs = [path for source in args.inputs if not source.startswith("hf:") for path in files_of(source)]
    if os.path.exists(args.output) and any(os.path.samefile(args.output, path) for path in inputs):
        parser.error(f"--output {args.output} is also an input")
    wanted = [key.split("=", 1) if "=" in key else (key, key) for key in args.keys or []]
    names = [new for _, new in wanted]
    if twice := [new for new in names if names.count(new) > 1]:
        parser.error(f"--keys gives the name {twice[0]} twice")
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
