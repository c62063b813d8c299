#!/usr/bin/env python3
"""Random tokenizer.json files against the `tokenizers` package (0.23).

  random_tokenizers.py build/bin/tokenize [--files 10000] [--texts 20] [--seed 1]                compares, prints every difference and the counts
  random_tokenizers.py build/bin/tokenize --golden 60 > tests/golden/random_tokenizers.jsonl   writes what tests/rl/text/test_tokenizer.cpp compares with, of
                                                    files that both take
  random_tokenizers.py --patterns 400 > tests/golden/patterns.jsonl                             the same for regexes alone

A file mixes what the format allows and this project supports: normalizers, pre-tokenizers with regexes of zero width and of Oniguruma's
dialect (listed ones, and generated ones) in all five behaviours, BPE with and without unk and byte fallback, added tokens with any flags
and ids, post-processors, decoders; and now and then what is refused. Compared are ids, ids with special tokens, and decoded text. Where the library raises an error ours has to refuse too; where ours alone refuses, the line says so.
"""
import argparse
import collections
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
REGEXES = [r"\p{N}{1,3}", r"\p{N}", r"(?=(\d{3})+(?!\d))", r"(?<=\d)", r"(?<=[a-z])(?=[A-Z])", r"(?=[A-Z])", r"a*", r"b?", r"", r"^", r"$", r"\b", r"\B", r"\s*", r"\s+(?!\S)|\s+",
           r"(?m).b", r"(?m:a.)b", r"a{,2}", r"a(?i)b|c", r"(?i)ß", r"(?i:ss)x?", r"\h+", r"\R", r"[[:digit:]]+", r"[[:alpha:]]", r"[a-z&&[^aeiou]]+", r"a++b?", r"[ab]*+", r"a{1,2}+",
           r"\w+|[^\w\s]+", r" ?\p{L}+| ?\p{N}+", r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", r"\X", r"\p{Lu}|\p{Ll}+", r"(?<w>a)\k<w>?", r"[^\r\n]", r".", r"\n", r"\A.", r".\z",
           r"(?>a|ab)c?", r"\d+(?=[a-z])", r"(?:(?<=a)|(?=b))", r"[一-龥]+", r"\p{Han}", r"\G\d", r"x(?#note)y|z", r"\u0061+", r"[\p{L}&&\p{ASCII}]+", r"\p{^L}", r"\P{L}+", r"(?i)[a-c]+", r"(a)|(b)|c"]
WORDS = ["a", "b", "ab", "abc", "aB", "AB", "camelCase", "1234567", "12", "3", " ", "  ", "\n", "\n\n", "\t", "\r\n", "é", "e\u0301", "ß", "ss", "SS", "ſ", "漢字", "かな", "😀", "👨‍👩‍👧", "<x>", "<y>", "<sp>", "the", "don't", ".", ",!",
         "▁", "_", "x", "y", "z", "K", "\u212a", "ǆ", "١٢", "²", "\u00a0", "\u3000", "\u200d", "foo_bar", "I'LL", "cab", "bac", "\u0085", "Ω", "<0x41>"]


CHARACTERS = list("abcABKx12 _.-'") + ["\\n", "\\t", "é", "ß", "ſ", "漢", "▁", "٣", "\u0301", "😀"]
SETS = [r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\h", r"\H", r"\R", r"\X", r"\N", r"\O", ".", r"\p{L}", r"\p{Lu}", r"\p{^Ll}", r"\P{N}", r"\p{M}", r"\p{P}", r"\p{S}", r"\p{Han}", r"\p{Alpha}",
        r"\p{Space}", r"\p{White_Space}", r"\p{Cyrillic}", r"\t", r"\x61", r"\x{e9}", r"\u00e9", r"\e", r"\.", r"\-", r"\'"]
POSIX = ["alpha", "digit", "alnum", "space", "upper", "lower", "punct", "word", "cntrl", "graph", "print", "xdigit", "^digit", "blank", "ascii"]
ANCHORS = ["^", "$", r"\A", r"\z", r"\Z", r"\b", r"\B", r"\G", r"\K", r"\y", r"\Y"]
QUANTIFIERS = ["*", "+", "?", "*?", "+?", "??", "*+", "++", "?+", "{2}", "{1,2}", "{,2}", "{1,}", "{0}", "{1,2}?", "{2}?", "{1,2}+", "{2,1}", "{,}", "**", "+*"]


def bracket(rng, depth):
    items = []
    for _ in range(rng.randrange(1, 4)):
        items.append(rng.choice([lambda: rng.choice(CHARACTERS).replace("-", r"\-"), lambda: rng.choice(["a-c", "A-Z", "0-9", "à-ÿ", "一-龥", r"\x00-\x1f"]), lambda: rng.choice(SETS[:8] + SETS[13:]),
                                 lambda: f"[:{rng.choice(POSIX)}:]", lambda: bracket(rng, depth + 1) if depth < 2 else "a"])())
    if rng.random() < 0.15: items.insert(rng.randrange(1, len(items) + 1), "&&")
    return "[" + ("^" if rng.random() < 0.3 else "") + "".join(items) + "]"


def regex(rng, depth=0):
    """A pattern of Oniguruma's Ruby syntax; some are wrong."""
    group = lambda *openings: lambda: rng.choice(openings) + regex(rng, depth + 1) + ")"
    atoms = [lambda: rng.choice(CHARACTERS[:-1] if depth else CHARACTERS).replace(".", r"\.")] * 5 + [lambda: rng.choice(SETS)] * 4 + [lambda: bracket(rng, 0)] * 2 + [lambda: rng.choice(ANCHORS)]
    if depth < 3:
        atoms += [group("("), group("(?:"), group("(?>", "(?i:", "(?m:", "(?x:", "(?-i:", "(?mi-x:", "(?<n>", "(?~"), group("(?=", "(?!", "(?<=", "(?<!")]
        atoms += [lambda: rng.choice(["(?i)", "(?m)", "(?x)", "(?-m)", "(?#c)", r"\1", r"\k<n>", r"\g<n>", r"\g<0>?", "(?(1)a|b)", "(?<n>a|b)", r"(a)\1", r"\k<-1>"])]
    branches = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        parts = []
        for _ in range(rng.choice([0, 1, 1, 2, 2, 3])):
            parts.append(rng.choice(atoms)() + (rng.choice(QUANTIFIERS) if rng.random() < 0.35 else ""))
        branches.append("".join(parts))
    return "|".join(branches)


def pattern(rng):
    if rng.random() < 0.2: return {"String": rng.choice(["a", " ", "ab", "▁", ".", "\n", "", "1", "é", "\u0301", "Ġ"])}
    return {"Regex": rng.choice(REGEXES) if rng.random() < 0.5 else regex(rng)}


def sequence(rng, members, items):
    if len(items) > 2 and rng.random() < 0.2: items = [{"type": "Sequence", members: items[:2]}] + items[2:]
    return None if not items and rng.random() < 0.8 else items[0] if len(items) == 1 and rng.random() < 0.8 else {"type": "Sequence", members: items}


FOREIGN = {"normalizers": ["NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel"], "pretokenizers": ["Whitespace", "WhitespaceSplit", "Punctuation", "BertPreTokenizer", "UnicodeScripts"],
           "decoders": ["BPEDecoder", "WordPiece", "CTC"], "processors": ["BertProcessing", "RobertaProcessing"], "model": ["WordPiece", "Unigram", "WordLevel"]}


def foreign(rng, stage, items):
    """Now and then a stage that is refused by name."""
    if rng.random() < 0.01:
        items.append({"type": rng.choice(FOREIGN[stage]), "suffix": "</w>", "behavior": "Isolated", "prefix": "##", "cleanup": True, "pad_token": "a", "word_delimiter_token": "|", "sep": ["a", 0], "cls": ["a", 0],
                      "trim_offsets": True, "add_prefix_space": True})
    return items


def normalizer(rng):
    kinds = [lambda: {"type": "NFC"}, lambda: {"type": "Prepend", "prepend": rng.choice(["▁", "x", " ", "ab", "\u0301"])},
             lambda: {"type": "Replace", "pattern": pattern(rng), "content": rng.choice(["", "_", "▁", "ab", " ", "é", "\u0301", "$1", "\\\\0"])}]
    return sequence(rng, "normalizers", foreign(rng, "normalizers", [rng.choice(kinds)() for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))]))


def metaspace(rng):
    step = {"type": "Metaspace", "replacement": rng.choice(["▁", "▁", "_", "é"]), "prepend_scheme": rng.choice(["always", "first", "never"]), "split": rng.random() < 0.7}
    if rng.random() < 0.1: del step["split"]
    if rng.random() < 0.1: step["add_prefix_space"] = step["prepend_scheme"] != "never"
    if rng.random() < 0.05 and step.get("add_prefix_space", True): del step["prepend_scheme"]
    if rng.random() < 0.05: step["str_rep"] = step["replacement"]
    return step


def pre_tokenizer(rng, in_bytes):
    behaviours = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
    byte_level = lambda: {"type": "ByteLevel", "add_prefix_space": rng.random() < 0.5, "trim_offsets": rng.random() < 0.5, "use_regex": rng.random() < 0.4}
    kinds = [lambda: {"type": "Split", "pattern": pattern(rng), "behavior": rng.choice(behaviours), "invert": rng.random() < 0.3}] * 6
    kinds += [lambda: {"type": "Digits", "individual_digits": rng.random() < 0.5}] * 2
    kinds += [lambda: metaspace(rng)] * (1 if in_bytes else 4)
    if rng.random() < 0.1: kinds += [byte_level]
    items = [rng.choice(kinds)() for _ in range(rng.choice([0, 1, 1, 2, 3]))]
    if in_bytes: items.append(byte_level())
    if rng.random() < 0.05: items.append(metaspace(rng))
    return sequence(rng, "pretokenizers", foreign(rng, "pretokenizers", items))


def decoder(rng, in_bytes):
    byte_level = lambda: {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    if in_bytes and rng.random() < 0.7: return byte_level()
    kinds = [lambda: {"type": "Replace", "pattern": pattern(rng), "content": rng.choice([" ", "", "-"])}, lambda: {"type": "ByteFallback"}, lambda: {"type": "Fuse"},
             lambda: {"type": "Strip", "content": rng.choice([" ", "a", "▁"]), "start": rng.randrange(3), "stop": rng.randrange(3)}, lambda: metaspace(rng), byte_level]
    return sequence(rng, "decoders", foreign(rng, "decoders", [rng.choice(kinds)() for _ in range(rng.choice([0, 1, 2, 3]))]))


def added_tokens(rng, vocab):
    tokens = []
    contents = ["<x>", "<y>", "<sp>", "\n", " ", "ab", "the", "é", "<0x41>", "solo", "", "▁", "1", "  ", "a b", "<x", "x>", " <x> ", "e\u0301", "AB", "漢字", "\u0301", "<x><y>", "don't", "<unk>", "Ġa", "camelCase"]
    for content in rng.sample(contents, rng.choice([0, 1, 2, 4, 8])) + (["<x>"] if rng.random() < 0.05 else []):
        free = len(vocab) + len(tokens)
        token = {"id": vocab.get(content, rng.choice([free, free, free, free + 1, free + 5])), "content": content, "single_word": rng.random() < 0.2,
                 "lstrip": rng.random() < 0.3, "rstrip": rng.random() < 0.3, "normalized": rng.random() < 0.3, "special": rng.random() < 0.5}
        if rng.random() < 0.02: token["id"] = rng.randrange(len(vocab))
        tokens.append(token)
    return tokens


def model(rng, in_bytes, fallback):
    base = list(ALPHABET) if in_bytes else sorted(set("".join(WORDS)) - set(rng.sample("abcxyzKΩ漢字", rng.randrange(6))))
    if in_bytes and rng.random() < 0.1: base = rng.sample(base, 200)
    entries = (["<unk>"] if rng.random() < 0.7 else []) + base
    if fallback: entries += [f"<0x{i:02X}>" for i in range(256) if rng.random() < 0.999]
    rng.shuffle(entries)
    merges, known = [], [e for e in entries if e in base]
    common = [c for c in known if c in "abcABC123 ▁_éthe.ĠĊ"] or known
    for _ in range(rng.randrange(0, 60)):
        left, right = rng.choice(common), rng.choice(common)
        if len(left + right) > 8: continue
        if left + right not in entries: entries.append(left + right)
        common.append(left + right)
        if [left, right] not in merges or rng.random() < 0.3: merges.append([left, right])
    entries += [w for w in rng.sample(WORDS, rng.randrange(3)) if w not in entries]
    text = rng.random() < 0.3 and not any(" " in part for merge in merges for part in merge)
    written = [" ".join(m) for m in merges] if text else merges
    if text and rng.random() < 0.3: written.insert(rng.choice([0, 0, len(written)]), "#version: 0.2")
    unk = rng.choice([None, "<unk>", "<unk>", "<missing>"])
    gap = rng.random() < 0.05
    bpe = {"type": "BPE", "dropout": rng.choice([None, None, 0.0]), "unk_token": unk, "continuing_subword_prefix": rng.choice([None, None, ""]), "end_of_word_suffix": rng.choice([None, None, ""]),
           "fuse_unk": rng.random() < 0.5, "byte_fallback": fallback, "ignore_merges": rng.random() < 0.3, "vocab": {e: i + (i > 20 and gap) for i, e in enumerate(entries)}, "merges": written}
    if rng.random() < 0.01: bpe["type"] = rng.choice(FOREIGN["model"])
    if rng.random() < 0.01: bpe[rng.choice(["continuing_subword_prefix", "end_of_word_suffix"])] = "##"
    for key in ("dropout", "fuse_unk", "byte_fallback", "ignore_merges", "type"):
        if rng.random() < 0.02: del bpe[key]
    return bpe


def post_processor(rng, vocab):
    names = rng.sample(list(vocab), 3)
    template = lambda: {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": n, "type_id": 0}} for n in names[:rng.randrange(3)]] + [{"Sequence": {"id": "A", "type_id": 0}}] +
                        [{"SpecialToken": {"id": n, "type_id": 0}} for n in names[:rng.randrange(3)]], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                        "special_tokens": {n: {"id": n, "ids": [vocab[n]] + ([vocab[names[0]]] if rng.random() < 0.1 else []), "tokens": [n]} for n in names}}
    items = [rng.choice([template, template, lambda: {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}])() for _ in range(rng.choice([0, 0, 1, 1, 2]))]
    for item in items:
        for name in item.get("special_tokens", {}).values(): name["tokens"] = name["tokens"] * len(name["ids"])
    return sequence(rng, "processors", foreign(rng, "processors", items))


def make(seed):
    rng = random.Random(seed)
    in_bytes = rng.random() < 0.5
    bpe = model(rng, in_bytes, not in_bytes and rng.random() < 0.4)
    data = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens(rng, bpe["vocab"]), "normalizer": normalizer(rng), "pre_tokenizer": pre_tokenizer(rng, in_bytes),
            "post_processor": post_processor(rng, bpe["vocab"]), "decoder": decoder(rng, in_bytes), "model": bpe}
    if rng.random() < 0.1: data["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    if rng.random() < 0.1: data["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    return data


def any_character(rng):
    while True:
        c = rng.choice([lambda: rng.randrange(0x80), lambda: rng.randrange(0x80, 0x600), lambda: rng.randrange(0x600, 0x3100), lambda: rng.randrange(0x3100, 0xD7A4), lambda: rng.randrange(0x1F000, 0x1FA00), lambda: rng.randrange(0xE000, 0x110000)])()
        # Alike in every version: given out long ago, and not among the 15 marks that became Alphabetic with Unicode 16.
        if unicodedata.ucd_3_2_0.category(chr(c)) != "Cn" and not 0xD800 <= c < 0xE000 and not 0x363 <= c < 0x370 and c not in (0xF82, 0xF83): return chr(c)


def texts(seed, count):
    rng = random.Random(f"texts {seed}")
    word = lambda: any_character(rng) if rng.random() < 0.15 else rng.choice(WORDS)
    return ["".join(word() for _ in range(rng.randrange(1, 12) if rng.random() < 0.97 else rng.choice([0, 150]))) for _ in range(count)]


def reference(data, lines):
    """Per text [ids, ids_with_special, decoded], or None for an error; None for a file that does not load."""
    try:
        t = Tokenizer.from_str(json.dumps(data))
        t.no_truncation(), t.no_padding()  # as transformers does: they are a caller's business
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


def apart(data, lines):
    """reference() in a process of its own: a panic of the library may end it, and a pattern may backtrack for hours."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with os.fdopen(write, "w") as out: out.write(json.dumps(reference(data, lines)))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer: text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text or "null")


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
        want = apart(data, lines)
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
                print(f"file {i} text {lines[k]!a}: got {row} expected {want[k]}")
        counts["files"] += 1
    print(dict(counts))
    return counts["different"] > 0


BEHAVIOURS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]


def pattern_golden(count):
    """Per line [pattern, behaviour, invert, rows]; a row is [text, pieces of a Split, text with every match replaced by "-"]. For a pattern
    that is wrong the rows are null."""
    rng = random.Random("patterns")
    for i in range(count):
        source, behaviour, invert = regex(rng), rng.choice(BEHAVIOURS), rng.random() < 0.3
        try:
            compiled = Regex(source)
            rows = []
            for text in texts(f"patterns {i}", 4):
                pieces = [piece for piece, _ in pre_tokenizers.Split(compiled, behaviour, invert).pre_tokenize_str(text)]
                replaced = normalizers.Replace(compiled, "-").normalize_str(text)
                if replaced != text and len(text) < 60: rows.append([text, pieces, replaced])
        except BaseException:
            rows = None
        if rows != []: print(json.dumps([source, behaviour, invert, rows], ensure_ascii=False, separators=(",", ":")))


def golden(program, count):
    for i in range(count):
        data, lines = make(f"golden {i}"), texts(f"golden {i}", 6)
        kept = [[t, *row] for t, row in zip(lines, apart(data, lines) or []) if row]
        if kept and not ours(program, data, lines[:1])[1]:
            print(json.dumps([json.dumps(data, ensure_ascii=False, separators=(",", ":")), kept], ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("program", nargs="?")
    parser.add_argument("--files", type=int, default=10000)
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--golden", type=int)
    parser.add_argument("--patterns", type=int)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(golden(arguments.program, arguments.golden) if arguments.golden else pattern_golden(arguments.patterns) if arguments.patterns else compare(arguments))
