#!/usr/bin/env python3
"""Compares the built programs with reference values made by transformers and tokenizers (not part of ctest).

  python tests/checks/check_golden.py --golden DIR [--tokenizers DIR] [--smollm2 MODEL.gguf] [--bin build/bin]

DIR/models/<name>: Hugging Face directories with golden.safetensors (input_ids, logprobs, greedy) and
golden_grads.safetensors. DIR/tokenizers/<name>.jsonl: text, ids, ids_with_special, decoded. DIR/smollm2_gguf.jsonl.
Prints a line a check, exits 1 when a bar is missed: fp32 log-probs within 2e-5, each gradient within 2e-4 of its largest
entry (or 1e-8: the exact gradient of a key bias is zero), fp16 mean error at least 5x below bf16's; SmolLM2 fp32 mean 1e-4 and max 1e-3; ids, texts and greedy tokens equal.
"""
import argparse
import json
import lzma
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

failures = 0

# Prompts for greedy answers, of other checks.
QUESTIONS = [
    "What is 17 + 25?", "Name the capital of France.", "Write a Python function that reverses a string.",
    "What is the derivative of x^3?", "List three prime numbers.", "Translate 'good morning' to German.",
    "Who wrote Hamlet?", "What does HTTP stand for?", "Sort 5, 3, 9, 1 in ascending order.", "Is 91 a prime number?",
    "Write a haiku about rain.", "What is the boiling point of water in Celsius?", "Explain recursion in one sentence.",
    "What is 12 * 12?", "Give an antonym of 'cold'.", "How many days are in a leap year?", "What is the square root of 144?",
    "Name a river in Africa.", "Which planet is the largest?", "Spell 'necessary' backwards.",
]


def report(ok, text):
    global failures
    failures += not ok
    print(("ok    " if ok else "FAIL  ") + text, flush=True)


class Programs:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def __call__(self, program, lines, *arguments):
        """Runs a program with `lines` as its --input; its output lines."""
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            for line in lines:
                file.write(json.dumps(line) + "\n")
            file.flush()
            done = subprocess.run([self.folder / program, "--input", file.name, *map(str, arguments)],
                                  stdout=subprocess.PIPE, text=True, check=True, stderr=subprocess.DEVNULL)
        return [json.loads(line) for line in done.stdout.splitlines()]


def by_expert(grads):
    """Gradients under the names that weights have in a file: transformers 5 holds those of experts stacked."""
    out = {}
    for name, grad in grads.items():
        stem, _, last = name.rpartition(".")
        if last not in ("gate_up_proj", "down_proj"):
            out[name] = grad
            continue
        half = grad.shape[1] // 2
        parts = {"down_proj": grad} if last == "down_proj" else {"gate_proj": grad[:, :half], "up_proj": grad[:, half:]}
        for part, stack in parts.items():
            out |= {f"{stem}.{e}.{part}.weight": g for e, g in enumerate(stack)}
    return out


def check_model(run, directory, work):
    golden = load_file(directory / "golden.safetensors")
    lines = [{"ids": row.tolist()} for row in golden["input_ids"]]
    want = golden["logprobs"]

    def score(precision, *more):
        return np.array([r["logprobs"] for r in run("score", lines, "--model", directory, "--precision", precision, *more)])

    error = np.abs(score("fp32", "--grads", work / "grads.safetensors") - want)
    report(error.max() <= 2e-5, f"{directory.name}: fp32 log-probs max error {error.max():.2e}")
    got, grads = load_file(work / "grads.safetensors"), by_expert(load_file(directory / "golden_grads.safetensors"))
    report(set(got) == set(grads), f"{directory.name}: gradient names")
    worst, name = max((float(np.abs(got[n] - g).max() / max(np.abs(g).max(), 5e-5)), n) for n, g in grads.items())
    report(worst <= 2e-4, f"{directory.name}: worst gradient {worst:.2e} of its largest entry ({name})")
    error = {p: np.abs(score(p) - want).mean() for p in ("fp16", "bf16")}
    report(error["bf16"] >= 5 * error["fp16"],
           f"{directory.name}: mean error fp16 {error['fp16']:.2e}, bf16 {error['bf16']:.2e}, {error['bf16'] / error['fp16']:.1f}x")
    half = {}
    for p in ("fp16", "bf16"):
        score(p, "--grads", work / "grads16.safetensors")
        got = load_file(work / "grads16.safetensors")
        half[p] = np.mean([np.abs(got[n] - g).mean() / max(np.abs(g).mean(), 1e-8) for n, g in grads.items()])
    report(half["fp16"] < half["bf16"], f"{directory.name}: relative gradient error fp16 {half['fp16']:.2e}, bf16 {half['bf16']:.2e}")
    greedy = golden["greedy"]
    out = run("generate", [{"ids": row[:8].tolist()} for row in golden["input_ids"]], "--json", "--model", directory, "--precision", "fp32",
              "--temperature", 0, "--max-new-tokens", greedy.shape[1])
    equal = all(r["ids"] == row[:len(r["ids"])].tolist() for r, row in zip(out, greedy))
    report(equal, f"{directory.name}: greedy tokens")


def check_tokenizer(run, file, folder, work):
    model = work / file.stem
    model.mkdir()
    (model / "tokenizer.json").write_bytes(lzma.decompress((folder / file.stem / "tokenizer.json.xz").read_bytes()))
    for other in (folder / file.stem).glob("*.json"):
        (model / other.name).write_bytes(other.read_bytes())
    want = [json.loads(line) for line in file.read_text().splitlines()]
    got = run("tokenize", [{"text": w["text"]} for w in want], "--model", model)
    wrong = [i for i, (g, w) in enumerate(zip(got, want)) if any(g[k] != w[k] for k in ("ids", "ids_with_special", "decoded"))]
    report(not wrong and len(got) == len(want), f"tokenizer {file.stem}: {len(want) - len(wrong)} of {len(want)} lines equal {wrong[:5]}")


def check_smollm2(run, file, model):
    want = [json.loads(line) for line in file.read_text().splitlines()]
    ids = run("tokenize", [{"text": w["text"]} for w in want], "--model", model)
    report([r["ids"] for r in ids] == [w["ids"] for w in want], f"smollm2: ids of {len(want)} texts")
    mean = {}
    for precision in ("fp32", "fp16", "bf16"):
        got = run("score", [{"ids": w["ids"]} for w in want], "--model", model, "--precision", precision)
        error = np.concatenate([np.abs(np.array(g["logprobs"]) - np.array(w["logprobs"])) for g, w in zip(got, want)])
        mean[precision] = error.mean()
        ok = precision != "fp32" or (error.mean() <= 1e-4 and error.max() <= 1e-3)
        report(ok, f"smollm2: {precision} log-probs mean error {error.mean():.2e}, max {error.max():.2e}")
    report(mean["bf16"] >= 5 * mean["fp16"], f"smollm2: fp16 {mean['bf16'] / mean['fp16']:.1f}x below bf16")
    key = next(k for k in want[0] if k.startswith("greedy") and k != "greedy_prompt_ids")
    out = run("generate", [{"ids": w["greedy_prompt_ids"]} for w in want], "--json", "--model", model, "--precision", "fp32",
              "--temperature", 0, "--max-new-tokens", max(len(w[key]) for w in want))
    equal = sum(r["ids"] == w[key][:len(r["ids"])] for r, w in zip(out, want))
    report(equal == len(want), f"smollm2: greedy tokens of {equal} of {len(want)} prompts equal")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=pathlib.Path, required=True)
    parser.add_argument("--tokenizers", type=pathlib.Path)
    parser.add_argument("--smollm2", help="the GGUF of tools/get_model.sh smollm2")
    parser.add_argument("--bin", default="build/bin")
    options = parser.parse_args()
    run = Programs(options.bin)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        for directory in sorted((options.golden / "models").iterdir()):
            check_model(run, directory, work)
        for file in sorted((options.golden / "tokenizers").glob("*.jsonl")) if options.tokenizers else []:
            check_tokenizer(run, file, options.tokenizers, work)
        if options.smollm2:
            check_smollm2(run, options.golden / "smollm2_gguf.jsonl", options.smollm2)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
