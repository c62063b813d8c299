#!/usr/bin/env python3
"""Makes tests/golden/tokenizer_configs.jsonl, tokenizer_classes.jsonl and rope_configs.jsonl with transformers 5.24 and torch (run once): what model
folders of random spellings say, as transformers reads them.

tokenizer_configs.jsonl: the first line is a tokenizer.json without added tokens. Each other line is [added_tokens, files, rows]: the
added_tokens of that tokenizer.json, the texts of the other files by name, and rows [text, ids]; rows are null where transformers refuses.
tokenizer_classes.jsonl: as tokenizer_configs.jsonl, of files that name the tokenizer's class and, of its special tokens, some, some as
null and some not at all; behind the files stand the special tokens by role.
rope_configs.jsonl: each line is [config, frequencies], frequencies null where transformers refuses."""
import json
import os
import pathlib
import random
import tempfile

os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_OFFLINE="1")
from transformers import AutoTokenizer, LlamaConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

HERE = pathlib.Path(__file__).parent
BASE = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate("abc<>xyz \n|_the")}, "merges": []}}
CONTENTS = ["<x>", "<y>", "<z>", "ab", "the", "\n", " <z>", "a", "|x|"]


def token(rng, content):
    if rng.random() < 0.5: return content
    return {"__type": "AddedToken", "content": content, **{flag: rng.random() < 0.3 for flag in ("lstrip", "rstrip", "normalized") if rng.random() < 0.6}, "special": rng.random() < 0.7}


def flags(rng, content, id):
    return {"id": id, "content": content, "single_word": False, "lstrip": rng.random() < 0.2, "rstrip": rng.random() < 0.2, "normalized": rng.random() < 0.2, "special": rng.random() < 0.6}


def number(vocab, contents, rng):
    out = []
    for content in contents: out.append(flags(rng, content, vocab.get(content, len(vocab) + sum(t["content"] not in vocab for t in out))))
    return out


def tokenizer_files(rng):
    vocab = BASE["model"]["vocab"]
    pick = lambda count: rng.sample(CONTENTS, count)
    contents = pick(rng.randrange(3))
    added, config, files = number(vocab, contents, rng), {"tokenizer_class": "PreTrainedTokenizerFast"}, {}
    if rng.random() < 0.5:
        more = [c for c in pick(2) if c not in contents]
        config["added_tokens_decoder"] = {str(t.pop("id")): t for t in [dict(t) for t in added] + number(vocab, contents + more, rng)[len(contents):]}
    for key in ("bos_token", "eos_token", "unk_token", "pad_token", "image_token"):
        if rng.random() < 0.3: config[key] = rng.choice([None, token(rng, rng.choice(CONTENTS)), token(rng, rng.choice(CONTENTS))])
    if rng.random() < 0.3: config["additional_special_tokens"] = [token(rng, c) for c in pick(rng.randrange(3))]
    if rng.random() < 0.3: config["extra_special_tokens"] = rng.choice([{}, [], [token(rng, c) for c in pick(2)], {"video_token": "<y>", "image_token": "<z>"}, {"tool": token(rng, "the")}])
    if rng.random() < 0.4: files["special_tokens_map.json"] = {key: rng.choice(CONTENTS) for key in rng.sample(["bos_token", "eos_token", "pad_token"], 2)} | rng.choice([{}, {"additional_special_tokens": pick(1)}])
    if rng.random() < 0.2: files["added_tokens.json"] = {c: len(vocab) + 3 + i for i, c in enumerate(pick(2))}
    return added, {"tokenizer_config.json": config, **files}


def encoded(added, files, texts):
    with tempfile.TemporaryDirectory() as folder:
        for name, content in {"tokenizer.json": {**BASE, "added_tokens": added}, "config.json": {"model_type": "llama"}, **files}.items():
            (pathlib.Path(folder) / name).write_text(json.dumps(content))
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            return [[text, tokenizer.encode(text, add_special_tokens=False)] for text in texts]
        except Exception:
            return None


def rope(rng):
    out = {}
    kind = rng.choice(["default", "linear", "llama3", "linear", "llama3", "yarn", "dynamic", None])
    if kind: out[rng.choice(["rope_type", "type"])] = kind
    if kind not in (None, "default") or rng.random() < 0.2: out["factor"] = rng.choice([2.0, 4.0, 8])
    if kind == "llama3":
        out.update(low_freq_factor=rng.choice([1.0, 2]), high_freq_factor=4.0, original_max_position_embeddings=rng.choice([16, 64, 8192]))
        if rng.random() < 0.15: out.pop(rng.choice(list(out)))
    if rng.random() < 0.4: out["rope_theta"] = rng.choice([100.0, 500, 1000000.0])
    return out


def rope_config(rng):
    config = {"model_type": rng.choice(["llama", "qwen2", "qwen3"]), "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 8, "num_hidden_layers": 1,
              "intermediate_size": 8, "max_position_embeddings": 64}
    if rng.random() < 0.6: config["rope_theta"] = rng.choice([10000.0, 100.0, 500])
    for key in ("rope_scaling", "rope_parameters"):
        if rng.random() < 0.6: config[key] = rng.choice([None, {}, rope(rng), rope(rng), rope(rng), rope(rng)])
    if rng.random() < 0.1: config["original_max_position_embeddings"] = 32
    return config


def frequencies(config):
    try:
        made = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[config["model_type"]].from_dict(config)
        return [round(float(f), 9) for f in LlamaRotaryEmbedding(made).inv_freq]
    except Exception:
        return None


def write(name, rows):
    with open(HERE / name, "w", encoding="utf-8") as out:
        for row in rows: out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def tokenizer_rows():
    yield BASE
    for i in range(120):
        rng = random.Random(f"tokenizer {i}")
        added, files = tokenizer_files(rng)
        texts = ["".join(CONTENTS)] + ["".join(rng.choice(CONTENTS + [" ", "b", "x"]) for _ in range(7)) for _ in range(2)]
        yield [added, {name: json.dumps(content) for name, content in files.items()}, encoded(added, files, texts)]


def class_rows():
    tokens = ["<s>", "</s>", "<unk>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate([*BASE["model"]["vocab"], *"sunkdof/", *tokens])}
    base = {**BASE, "model": {**BASE["model"], "vocab": vocab}}
    yield base
    for i, name in enumerate(["LlamaTokenizer", "CodeLlamaTokenizer", "Qwen2Tokenizer", "GPT2Tokenizer", "PreTrainedTokenizerFast"] * 6):
        rng = random.Random(f"class {i}")
        added = [{"id": vocab[t], "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for t in tokens]
        tokenizer = {**base, "added_tokens": added if rng.random() < 0.5 else []}
        config = {"tokenizer_class": name + rng.choice(["", "Fast"]) if i % 5 < 4 else name, "add_prefix_space": False}
        for role in ("bos_token", "eos_token", "unk_token", "pad_token"):
            if rng.random() < 0.4: config[role] = rng.choice([None, "<|endoftext|>", "<unk>"])
        files = {"tokenizer_config.json": config}
        if rng.random() < 0.3: files["special_tokens_map.json"] = {"eos_token": rng.choice(["ab", None]) if "eos_token" in config else "</s>"}
        with tempfile.TemporaryDirectory() as folder:
            for file, content in {"tokenizer.json": tokenizer, "config.json": {"model_type": "llama"}, **files}.items():
                (pathlib.Path(folder) / file).write_text(json.dumps(content))
            made = AutoTokenizer.from_pretrained(folder)
        named = {role: token for role, token in made.special_tokens_map.items() if role in ("bos_token", "eos_token", "unk_token", "pad_token")}
        texts = ["".join(tokens) + "a", "ab<|endoftext|>c</s><s>", "<a"]
        rows = [[text, made.encode(text, add_special_tokens=False)] for text in texts]
        yield [tokenizer["added_tokens"], {file: json.dumps(content) for file, content in files.items()}, named, rows]


def rope_rows():
    for i in range(150):
        config = rope_config(random.Random(f"rope {i}"))
        yield [config, frequencies(json.loads(json.dumps(config)))]


write("tokenizer_configs.jsonl", tokenizer_rows())
write("tokenizer_classes.jsonl", class_rows())
write("rope_configs.jsonl", rope_rows())
