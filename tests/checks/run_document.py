#!/usr/bin/env python3
"""Runs what a document tells its reader to run.

  python3 tests/checks/run_document.py DOCUMENT [--bin BUILD/bin] [--skip REGEX] [--add "train.steps=2 ..."]

In a folder of its own, where the tree's folders and build/bin lie as in a clone: a block behind a line that ends with
"`NAME`:" is written to that file, and each command of a block of sh is run by bash. A command that fails ends the check
with its output. --skip leaves out commands, for want of a download say; --add puts words behind each trainer command.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

TREE = pathlib.Path(__file__).resolve().parent.parent.parent


def blocks(text):
    """(language, file or None, lines) of each fenced block."""
    out, before, block = [], "", None
    for line in text.splitlines():
        if line.startswith("```"):
            if block is None:
                name = re.search(r"`([^`/]+)`:$", before)
                block, before = (line[3:].strip(), name[1] if name else None, []), ""
            else:
                out.append(block)
                block = None
        elif block is not None:
            block[2].append(line)
        elif line.strip():
            before = line.strip()
    return out


def commands(lines):
    """A block's commands: lines joined where they end with a backslash, without comments."""
    out, command = [], ""
    for line in lines:
        command += line
        if line.endswith("\\"):
            command = command[:-1]
            continue
        command = re.sub(r"\s+#\s.*$", "", command.strip())
        if command and not command.startswith("#"):
            out.append(command)
        command = ""
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document")
    parser.add_argument("--bin", default=str(TREE / "build" / "bin"))
    parser.add_argument("--skip", default="(?!)", help="commands that this finds are left out")
    parser.add_argument("--add", default="")
    args = parser.parse_args()
    ran = 0
    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder)
        for name in ("tools", "configs", "builtin", "docs", "tests"):
            (here / name).symlink_to(TREE / name)
        (here / "build").mkdir()
        (here / "build" / "bin").symlink_to(pathlib.Path(args.bin).resolve())
        for language, name, lines in blocks((TREE / args.document).read_text(encoding="utf-8")):
            if name:
                (here / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
            if language != "sh":
                continue
            for command in commands(lines):
                if re.search(args.skip, command):
                    print(f"left out: {command}")
                    continue
                if command.startswith("build/bin/trainer --config"):
                    command += " " + args.add
                start = time.monotonic()
                done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=here, capture_output=True, text=True,
                                      env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
                if done.returncode:
                    sys.exit(f"{args.document}: {command}\nended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
                print(f"{time.monotonic() - start:6.1f} s  {command}", flush=True)
                ran += 1
    if not ran:
        sys.exit(f"{args.document}: holds no command")


if __name__ == "__main__":
    main()
