#!/usr/bin/env python3
"""Random tokenizer.json files against the `tokenizers` package (0.23).

  random_tokenizers.py build/bin/tokenize [--files 10000] [--texts 20] [--seed 1]   compares, prints every difference and the counts
  random_tokenizers.py --golden 150 > tests/golden/random_tokenizers.jsonl         writes what tests/rl/text/test_tokenizer.cpp compares with

A file mixes what the format allows and this project supports: normalizers, pre-tokenizers with regexes of zero width and of Oniguruma's
dialect in all five behaviours, BPE with and without unk and byte fallback, added tokens with any flags and ids, decoders. Compared are ids,
ids with special tokens, and decoded text. Where the library raises an error ours has to refuse too; where ours alone refuses, the line says so.
"""
import argparse
import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer, pre_tokenizers

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
REGEXES = [r"\p{N}{1,3}", r"\p{N}", r"(?=(\d{3})+(?!\d))", r"(?<=\d)", r"(?<=[a-z])(?=[A-Z])", r"(?=[A-Z])", r"a*", r"b?", r"", r"^", r"$", r"\b", r"\B", r"\s*", r"\s+(?!\S)|\s+",
           r"(?m).b", r"(?m:a.)b", r"a{,2}", r"a(?i)b|c", r"(?i)ß", r"(?i:ss)x?", r"\h+", r"\R", r"[[:digit:]]+", r"[[:alpha:]]", r"[a-z&&[^aeiou]]+", r"a++b?", r"[ab]*+", r"a{1,2}+",
           r"\w+|[^\w\s]+", r" ?\p{L}+| ?\p{N}+", r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", r"\X", r"\p{Lu}|\p{Ll}+", r"(?<w>a)\k<w>?", r"[^\r\n]", r".", r"\n", r"\A.", r".\z",
           r"(?>a|ab)c?", r"\d+(?=[a-z])", r"(?:(?<=a)|(?=b))", r"[一-龥]+", r"\p{Han}", r"\G\d", r"x(?#note)y|z", r"\u0061+", r"[\p{L}&&\p{ASCII}]+", r"\p{^L}", r"\P{L}+", r"(?i)[a-c]+", r"(a)|(b)|c"]
WORDS = ["a", "b", "ab", "abc", "aB", "AB", "camelCase", "1234567", "12", "3", " ", "  ", "\n", "\n\n", "\t", "\r\n", "é", "e\u0301", "ß", "ss", "SS", "ſ", "漢字", "かな", "😀", "👨‍👩‍👧", "<x>", "<y>", "<sp>", "the", "don't", ".", ",!",
         "▁", "_", "x", "y", "z", "K", "\u212a", "ǆ", "١٢", "²", "\u00a0", "\u3000", "\u200d", "foo_bar", "I'LL", "cab", "bac", "\u0085", "Ω", "<0x41>"]


def pattern(rng):
    if rng.random() < 0.25: return {"String": rng.choice(["a", " ", "ab", "▁", ".", "\n", "", "1", "é"])}
    return {"Regex": rng.choice(REGEXES)}


def sequence(kind, members, items):
    return None if not items else items[0] if len(items) == 1 else {"type": "Sequence", members: items}


def normalizer(rng):
    kinds = [lambda: {"type": "NFC"}, lambda: {"type": "Prepend", "prepend": rng.choice(["▁", "x", " "])},
             lambda: {"type": "Replace", "pattern": pattern(rng), "content": rng.choice(["", "_", "▁", "ab", " "])}]
    return sequence("Sequence", "normalizers", [rng.choice(kinds)() for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))])


def pre_tokenizer(rng, in_bytes):
    behaviours = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
    kinds = [lambda: {"type": "Split", "pattern": pattern(rng), "behavior": rng.choice(behaviours), "invert": rng.random() < 0.3}] * 3
    kinds += [lambda: {"type": "Digits", "individual_digits": rng.random() < 0.5}]
    if not in_bytes:
        kinds += [lambda: {"type": "Metaspace", "replacement": rng.choice(["▁", "_"]), "prepend_scheme": rng.choice(["always", "first", "never"]), "split": rng.random() < 0.7}]
    items = [rng.choice(kinds)() for _ in range(rng.choice([0, 1, 1, 2, 3]))]
    if in_bytes: items.append({"type": "ByteLevel", "add_prefix_space": rng.random() < 0.3, "trim_offsets": True, "use_regex": rng.random() < 0.4})
    return sequence("Sequence", "pretokenizers", items)


def decoder(rng, in_bytes):
    if in_bytes: return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    kinds = [lambda: {"type": "Replace", "pattern": pattern(rng), "content": rng.choice([" ", "", "-"])}, lambda: {"type": "ByteFallback"}, lambda: {"type": "Fuse"},
             lambda: {"type": "Strip", "content": rng.choice([" ", "a"]), "start": rng.randrange(3), "stop": rng.randrange(3)},
             lambda: {"type": "Metaspace", "replacement": "▁", "prepend_scheme": rng.choice(["always", "first", "never"]), "split": True}]
    return sequence("Sequence", "decoders", [rng.choice(kinds)() for _ in range(rng.choice([0, 1, 2, 3]))])


def added_tokens(rng, vocab):
    tokens = []
    for content in rng.sample(["<x>", "<y>", "<sp>", "\n", " ", "ab", "the", "é", "<0x41>", "solo", "", "▁", "1", "  ", "a b"], rng.choice([0, 1, 2, 4])):
        free = len(vocab) + len(tokens)
        tokens.append({"id": vocab.get(content, rng.choice([free, free, free + 1, free + 5])), "content": content, "single_word": rng.random() < 0.2,
                       "lstrip": rng.random() < 0.3, "rstrip": rng.random() < 0.3, "normalized": rng.random() < 0.3, "special": rng.random() < 0.5})
    return tokens


def model(rng, in_bytes, fallback):
    base = list(ALPHABET) if in_bytes else sorted(set("".join(WORDS)) - set(rng.sample("abcxyzKΩ漢字", rng.randrange(6))))
    entries = (["<unk>"] if rng.random() < 0.7 else []) + base
    if fallback: entries += [f"<0x{i:02X}>" for i in range(256)]
    rng.shuffle(entries)
    merges, known = [], [e for e in entries if e in base]
    common = [c for c in known if c in "abcABC123 ▁_éthe.ĠĊ"] or known
    for _ in range(rng.randrange(0, 60)):
        left, right = rng.choice(common), rng.choice(common)
        if left + right in entries or len(left + right) > 6: continue
        entries.append(left + right)
        common.append(left + right)
        merges.append([left, right])
    text = rng.random() < 0.3 and not any(" " in part for merge in merges for part in merge)
    written = [" ".join(m) for m in merges] if text else merges
    if text and rng.random() < 0.3: written = ["#version: 0.2"] + written
    unk = rng.choice([None, "<unk>", "<unk>", "<missing>"])
    return {"type": "BPE", "dropout": None, "unk_token": unk, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": rng.random() < 0.5,
            "byte_fallback": fallback, "ignore_merges": rng.random() < 0.3, "vocab": {e: i for i, e in enumerate(entries)}, "merges": written}


def make(seed):
    rng = random.Random(seed)
    in_bytes = rng.random() < 0.5
    bpe = model(rng, in_bytes, not in_bytes and rng.random() < 0.4)
    added = added_tokens(rng, bpe["vocab"])
    post = None
    if rng.random() < 0.3:
        name = rng.choice(list(bpe["vocab"])[:5])
        post = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {name: {"id": name, "ids": [bpe["vocab"][name]], "tokens": [name]}}}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer(rng), "pre_tokenizer": pre_tokenizer(rng, in_bytes),
            "post_processor": post, "decoder": decoder(rng, in_bytes), "model": bpe}


def texts(seed, count):
    rng = random.Random(f"texts {seed}")
    return ["".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 12))) for _ in range(count)]


def reference(data, lines):
    """Per text [ids, ids_with_special, decoded], or None for an error; None for a file that does not load."""
    try:
        t = Tokenizer.from_str(json.dumps(data))
    except BaseException:
        return None
    rows = []
    for text in lines:
        try:
            ids = t.encode(text, add_special_tokens=False).ids
            rows.append([ids, t.encode(text).ids, t.decode(ids, skip_special_tokens=False)])
        except BaseException:
            rows.append(None)
    return rows


def ours(program, data, lines):
    """The same of our program, which ends at the first error; with its message."""
    with tempfile.TemporaryDirectory() as folder:
        d = pathlib.Path(folder)
        (d / "tokenizer.json").write_text(json.dumps(data))
        (d / "in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in lines))
        r = subprocess.run([program, "--model", folder, "--input", str(d / "in.jsonl")], capture_output=True, text=True, timeout=300)
    rows = [[j["ids"], j["ids_with_special"], j["decoded"]] for j in map(json.loads, r.stdout.split("\n")[:-1])]
    return rows, r.stderr.strip()[-300:] if r.returncode else ""


def compare(arguments):
    counts = collections.Counter()
    for i in range(arguments.files):
        data, lines = make(arguments.seed * 1_000_000 + i), texts(arguments.seed * 1_000_000 + i, arguments.texts)
        want = reference(data, lines)
        if want is None:
            counts["files the library refuses"] += 1
            rows, error = ours(arguments.program, data, lines[:1])
            if not error: counts["taken though refused there"] += 1; print(f"file {i}: loads here, not there")
            continue
        usable = [k for k, row in enumerate(want) if row is not None]
        counts["texts the library refuses"] += len(lines) - len(usable)
        rows, error = ours(arguments.program, data, [lines[k] for k in usable]) if usable else ([], "")
        if error:
            counts["files refused here"] += 1
            print(f"file {i}: refused: {error}")
        for k, row in zip(usable, rows):
            counts["texts"] += 1
            if row != want[k]:
                counts["different"] += 1
                print(f"file {i} text {lines[k]!r}: got {row} expected {want[k]}")
        counts["files"] += 1
    print(dict(counts))
    return counts["different"] > 0


def golden(count):
    for i in range(count):
        data, lines = make(f"golden {i}"), texts(f"golden {i}", 6)
        rows = reference(data, lines)
        kept = [[t, *row] for t, row in zip(lines, rows or []) if row]
        if kept: print(json.dumps([json.dumps(data, ensure_ascii=False, separators=(",", ":")), kept], ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("program", nargs="?")
    parser.add_argument("--files", type=int, default=10000)
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--golden", type=int)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(golden(arguments.golden) if arguments.golden else compare(arguments))
