#!/usr/bin/env python3
"""Writes seeds for the fuzz targets of tests/fuzz, one folder a target, made of tests/golden, configs and builtin.

  tests/fuzz/make_fuzz_corpus.py FOLDER
  build-fuzz/bin/fuzz_gguf -runs=1000000 FOLDER/fuzz_gguf
"""
import json
import pathlib
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"


def records(name):
    lines = (GOLDEN / name).read_text(encoding="utf-8").split("\n")  # not splitlines(): texts hold U+2028
    return [json.loads(line) for line in lines if line]


def safetensors():
    """Every dtype, a scalar, an empty tensor; the golden blocks as they are."""
    yield (GOLDEN / "gguf_blocks.safetensors").read_bytes()
    header, data = {"__metadata__": {"format": "pt"}}, b""
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
    for at, (dtype, size) in enumerate(sizes.items()):
        for shape, count in [([], 1), ([2, 3], 6), ([0, 4], 0)]:
            begin = len(data)
            data += bytes((at + i) % 256 for i in range(count * size))
            header[f"{dtype}.{len(shape)}.{count}"] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    yield struct.pack("<Q", len(text)) + text + data
    yield struct.pack("<Q", 2) + b"{}"


class Gguf:
    def __init__(self, architecture):
        self.keys, self.infos, self.data, self.architecture = b"", b"", b"", architecture
        self.key_count = self.tensor_count = 0
        self.text("general.architecture", architecture)

    def key(self, name, kind, payload):
        self.keys += self.string(name) + struct.pack("<I", kind) + payload
        self.key_count += 1

    @staticmethod
    def string(text):
        return struct.pack("<Q", len(text.encode())) + text.encode()

    def text(self, name, value):
        self.key(name, 8, self.string(value))

    def number(self, name, value):
        self.key(name, 6 if isinstance(value, float) else 4, struct.pack("<f" if isinstance(value, float) else "<I", value))

    def strings(self, name, values):
        self.key(name, 9, struct.pack("<IQ", 8, len(values)) + b"".join(map(self.string, values)))

    def numbers(self, name, values):
        self.key(name, 9, struct.pack(f"<IQ{len(values)}i", 5, len(values), *values))

    def tensor(self, name, extents, block=(0, 1, 4)):
        kind, elements, size = block
        count = 1
        for extent in extents:
            count *= extent
        self.infos += self.string(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, len(self.data))
        self.data += bytes(i % 61 for i in range(count // elements * size))
        self.data += bytes(-len(self.data) % 32)
        self.tensor_count += 1

    def image(self):
        out = b"GGUF" + struct.pack("<IQQ", 3, self.tensor_count, self.key_count) + self.keys + self.infos
        return out + bytes(-len(out) % 32) + self.data


BLOCKS = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22),
          "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "BF16": (30, 1, 2)}


def gguf():
    for architecture, pre in [("llama", "llama-bpe"), ("qwen2", "qwen2"), ("qwen3", "qwen2")]:
        for name, block in BLOCKS.items():
            g = Gguf(architecture)
            for key, value in {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32,
                               "attention.head_count": 2, "attention.head_count_kv": 1,
                               "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1e4}.items():
                g.number(f"{architecture}.{key}", value)
            tokens = ["<|end|>", "1", "2", "12", "a", "b", "\u0120", "ab"]
            g.text("tokenizer.ggml.model", "gpt2")
            g.text("tokenizer.ggml.pre", pre)
            g.strings("tokenizer.ggml.tokens", tokens)
            g.strings("tokenizer.ggml.merges", ["1 2", "a b"])
            g.numbers("tokenizer.ggml.token_type", [3] + [1] * 7)
            g.number("tokenizer.ggml.eos_token_id", 0)
            g.text("tokenizer.chat_template", "{{ messages }}<|im_start|>")
            g.tensor("token_embd.weight", [32, 8], block)
            for norm in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"]:
                g.tensor(norm + ".weight", [32])
            for matrix, rows in {"attn_q": 32, "attn_k": 16, "attn_v": 16, "attn_output": 32, "ffn_gate": 32, "ffn_up": 32,
                                 "ffn_down": 32}.items():
                g.tensor(f"blk.0.{matrix}.weight", [32, rows], block)
            if architecture == "qwen2":
                for bias, rows in {"attn_q": 32, "attn_k": 16, "attn_v": 16}.items():
                    g.tensor(f"blk.0.{bias}.bias", [rows])
            if architecture == "qwen3":
                for norm in ["attn_q_norm", "attn_k_norm"]:
                    g.tensor(f"blk.0.{norm}.weight", [16])
            yield g.image()


def tokenizer():
    texts = ["Hello, world 123 \u00e9\u4f60\U0001f600", "<s> a  b\tc\u0301", ""]
    for record in records("tokenizers.jsonl"):
        if "json" in record:
            for text in texts:
                yield (record["json"].replace("\n", " ") + "\n" + text).encode()
    small = json.dumps(json.loads((ROOT / "builtin/arithmetic/tokenizer.json").read_text()), separators=(",", ":"))
    yield (small + "\n12+30=42").encode()


def template():
    for record in records("templates.jsonl"):
        if isinstance(record, list): yield record[0].encode()


def verifier():
    for record in records("verifier_cases.jsonl"):
        yield (record["gold"].replace("\n", " ") + "\n" + record["response"]).encode()


def config():
    for path in sorted(ROOT.glob("configs/**/*.yaml")) + sorted(ROOT.glob("tests/golden/*/config.json")):
        yield path.read_bytes()
    for text in ["optim.lr=1e-3", "data.files=[a, b]", "run: {name: x}\nmodel: {path: x}\ndata: {files: [a]}\n"]:
        yield text.encode()


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    for make in [safetensors, gguf, tokenizer, template, verifier, config]:
        folder = pathlib.Path(sys.argv[1]) / f"fuzz_{make.__name__}"
        folder.mkdir(parents=True, exist_ok=True)
        count = 0
        for count, seed in enumerate(make(), 1):
            (folder / f"seed_{count:03}").write_bytes(seed)
        print(f"{folder}: {count} seeds")


if __name__ == "__main__":
    main()
