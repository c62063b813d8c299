#!/usr/bin/env python3
"""Makes tests/golden/tokenizers.jsonl and tests/golden/chat.jsonl with the `tokenizers` and `jinja2` packages (run once).

tokenizers.jsonl: per line {"name", "json": text of a small tokenizer.json, "cases": [[text, ids, decoded, skipped special]],
"decodes": [[ids, decoded]], "special": ids of "a" with special tokens}. An equal text is written as 0. Each tokenizer is trained here on a few sentences with the stages of
one family.  chat.jsonl: {"template": Jinja text, "cases": [{"messages", "text"}]} for templates given as arguments:
make_tokenizer_golden.py NAME=FILE ... where FILE holds Jinja text or is a tokenizer_config.json.
"""
import json
import pathlib
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

HERE = pathlib.Path(__file__).parent
CORPUS = [
    "The quick brown fox jumps over the lazy dog. The answer is 42, the other answer is 1234567.",
    "Natalia sold 48 clips in April and then 24 clips in May: 48 + 24 = 72 clips, don't you think it's right?",
    "def f(x):\n    return x ** 2\n\n\nprint(f(10))  # the answer\n", "Zażółć gęślą jaźń, où est le café? Straße, naïve élève.",
    "漢字とかな交じり文。日本語のテキスト。", "Привет, мир! Как дела?", "the then there these they thing think thinking",
]
TEXTS = CORPUS + [
    "", " ", "   \n  \n\n\t x", "don't I'LL they'Re 's 'ſ", "1234567890 ١٢٣ ²³ Ⅻ", "a\u00a0b\u3000c\u180ed\u2028e\u0085f", "e\u0301 A\u030a \u1e9b\u0323 \u0323\u0301a\u0301\u0323",
    "👩‍👩‍👧 🇫🇷 \U0010ffff", "<|user|>hi<|end|> <|end|>", "x<keep>y <keep> z  <keep>\t\n w", "word<left>   <left> a<right>   b <both>  c  <both>d",
    "solo solos asolo solo. (solo) _solo", "norm é <|end|>é", "▁already▁", "\r\n\r\n  a\r", "!!!...???;;;{}[]()", "\x00\x01\x7f", "don't  stop   now", "aaaaaaaaaaaaaaaaaaaaaaaa",
    "ⓐⓑ_x\u200dy", "a.b:c,d", "中文abc中文123", "/path/to_file-name.txt", "<0x41> <unk> <s>",
]
GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""]
split = lambda p, behavior="isolated", invert=False: pre_tokenizers.Split(p, behavior, invert)
byte_level = lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def families():
    bos = lambda t: processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", t.token_to_id("<s>"))])
    both = lambda t: processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", t.token_to_id("<s>")), ("</s>", t.token_to_id("</s>"))])])
    b = decoders.ByteLevel
    yield "gpt2", {}, None, pre_tokenizers.ByteLevel(add_prefix_space=True), b(), lambda t: processors.ByteLevel()
    yield "llama3", {"ignore_merges": True}, None, pre_tokenizers.Sequence([split(Regex(LLAMA3)), byte_level()]), b(), both
    yield "qwen", {}, normalizers.NFC(), pre_tokenizers.Sequence([split(Regex(LLAMA3.replace("{1,3}", ""))), byte_level()]), b(), None
    yield "deepseek", {}, normalizers.Sequence([]), pre_tokenizers.Sequence([split(Regex(p)) for p in DEEPSEEK] + [byte_level()]), b(), bos
    yield "smollm", {}, None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]), b(), None
    sp = {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    yield "llama2", sp, normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]), bos
    yield "metaspace", {"unk_token": "<unk>"}, None, pre_tokenizers.Metaspace("▁", "first"), decoders.Metaspace("▁", "first"), bos
    yield "splits", {"unk_token": "<unk>", "fuse_unk": True}, normalizers.Replace(Regex(r"\s+"), " "), pre_tokenizers.Sequence(
        [split(" ", "merged_with_next"), split(Regex(r"\p{P}"), "merged_with_previous"), split(Regex(r"\w+"), "contiguous", True),
         split("_", "removed"), pre_tokenizers.Digits(individual_digits=False)]), None, None


def make(name, model, normalizer, pre, decoder, post):
    t = Tokenizer(BPE(**{k: v for k, v in model.items() if k != "ignore_merges"}))
    if normalizer: t.normalizer = normalizer
    if pre: t.pre_tokenizer = pre
    if decoder: t.decoder = decoder
    first = ["<unk>", "<s>", "</s>"] + ([f"<0x{i:02X}>" for i in range(256)] if model.get("byte_fallback") else [])
    in_bytes = "ByteLevel" in str(pre)
    t.train_from_iterator(CORPUS, BpeTrainer(vocab_size=(256 if in_bytes or model.get("byte_fallback") else 80) + 60, special_tokens=first[:3], show_progress=False,
                          initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if in_bytes else [], limit_alphabet=300 if in_bytes else 60))
    if post: t.post_processor = post(t)
    data = json.loads(t.to_str())
    if model.get("byte_fallback"):
        data["model"]["vocab"].update({f: len(data["model"]["vocab"]) + i for i, f in enumerate(first[3:])})
    if model.get("ignore_merges"):
        data["model"]["ignore_merges"] = True
        data["model"]["vocab"]["Ġquickest"] = len(data["model"]["vocab"])
    if name in ("gpt2", "smollm"):
        data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    t = Tokenizer.from_str(json.dumps(data))
    t.add_special_tokens([AddedToken("<|user|>", special=True), AddedToken("<|end|>", special=True), AddedToken("<|end|>é", special=True)])
    t.add_tokens([AddedToken("<keep>", normalized=False), AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False),
                  AddedToken("<both>", lstrip=True, rstrip=True, normalized=True), AddedToken("solo", single_word=True, normalized=False), AddedToken("norm é", normalized=True)])
    rng = random.Random(name)
    same = lambda text, other: 0 if text == other else text
    cases = [[x, (i := t.encode(x, add_special_tokens=False).ids), same(d := t.decode(i, skip_special_tokens=False), x), same(t.decode(i), d)]
             for x in TEXTS + [" quickest quickest"]]
    draws = [[rng.randrange(t.get_vocab_size()) for _ in range(rng.randrange(1, 25))] for _ in range(20)]
    return {"name": name, "json": json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":")), "cases": cases,
            "decodes": [[d, t.decode(d, skip_special_tokens=False)] for d in draws], "special": t.encode("a").ids}


def chat(arguments):
    import jinja2
    import jinja2.sandbox
    u, a, s = (lambda r: lambda c: {"role": r, "content": c})("user"), (lambda c: {"role": "assistant", "content": c}), (lambda c: {"role": "system", "content": c})
    talks = [[u("What is 2+2?")], [s("Be brief."), u(" hi \n")], [u("a"), a("b"), u("c")], [s("S"), u("a"), a("<think>\nhm\n</think>\n\nb"), u("c")],
             [u("a"), a("<think>\nhm\n</think>\n\nb")], [u("a"), a("b")], [u("a"), a("\n\nb"), u("<tool_response>x</tool_response>"), a("d")]]
    for argument in arguments:
        name, path = argument.split("=", 1)
        text = open(path, encoding="utf-8").read()
        if path.endswith(".json"): text = json.loads(text)["chat_template"]
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        template = environment.from_string(text)
        bos = "<|begin_of_text|>" if "start_header_id" in text else "<｜begin▁of▁sentence｜>"
        yield {"name": name, "template": text, "cases": [{"messages": m, "text": template.render(messages=m, add_generation_prompt=True, bos_token=bos, tools=None)} for m in talks]}


def write(name, rows):
    with open(HERE / name, "w", encoding="utf-8") as f:
        for row in rows: f.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


HERE.mkdir(exist_ok=True)
write("tokenizers.jsonl", (make(*f) for f in families()))
if len(sys.argv) > 1: write("chat.jsonl", chat(sys.argv[1:]))
