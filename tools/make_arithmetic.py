#!/usr/bin/env python3
"""Makes the embedded arithmetic task: problems, tokenizer and an untrained model directory under builtin/arithmetic.

Problems are sums and differences of three numbers, solved in two written steps. The tokenizer is a byte-level BPE whose
pattern splits digits one by one, trained on the solutions. config.json describes a small Qwen3 model; its weights come
from `trainer --config configs/arithmetic_sft.yaml`. Needs the `tokenizers` package; same seed, same files.
"""
import json
import pathlib
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parent.parent / "builtin" / "arithmetic"
TRAIN, HELD_OUT, SEED = 10000, 128, 7


def problem(rng):
    while True:
        a, b, c = rng.randint(10, 99), rng.randint(10, 99), rng.randint(10, 99)
        first, second = rng.choice("+-"), rng.choice("+-")
        step = a + b if first == "+" else a - b
        total = step + c if second == "+" else step - c
        if step >= 0 and total >= 0:
            break
    text = f"{a}{first}{b}{second}{c}="
    solution = f"{a}{first}{b}={step}, {step}{second}{c}={total}. \\boxed{{{total}}}"
    return {"problem": text, "answer": str(total), "solution": solution}


def main():
    rng = random.Random(SEED)
    rows = {}
    while len(rows) < TRAIN + HELD_OUT:
        row = problem(rng)
        rows[row["problem"]] = row
    rows, held_out = list(rows.values())[:TRAIN], list(rows.values())[TRAIN:]
    OUT.mkdir(parents=True, exist_ok=True)
    for name, some in (("train", rows), ("heldout", held_out)):
        (OUT / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in some))

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{N}|[^\p{N}]+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        (r["problem"] + r["solution"] for r in rows),
        trainers.BpeTrainer(vocab_size=288, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                            special_tokens=["<|endoftext|>"], show_progress=False))
    tokenizer.save(str(OUT / "tokenizer.json"))
    print(tokenizer.get_vocab_size(), tokenizer.encode(rows[0]["problem"] + rows[0]["solution"]).tokens)


if __name__ == "__main__":
    main()
