#!/usr/bin/env python3
"""Speed against PyTorch and transformers on the CPU: fp32, same threads, same shapes, one after the other (not part of ctest).

  python tests/checks/compare_torch.py --model MODEL.gguf [--bin build/bin] [--threads N]

Training: forward and backward of packed sequences, every next token scored, with SmolLM2-135M's shapes. Decode: new tokens a
second of a batch after its prefill (transformers: generate with many tokens less generate with one).
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

SHAPES = dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
              num_key_value_heads=3, head_dim=64, max_position_embeddings=8192, rope_theta=100000.0, rms_norm_eps=1e-5,
              tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2)


def ours(options, bench, *more):
    command = [pathlib.Path(options.bin) / "bench", bench, "--model", options.model, "--device", "cpu", *map(str, more)]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
                         env=os.environ | {"OMP_NUM_THREADS": str(options.threads)}).stdout
    return next(r["tokens_per_s"] for r in map(json.loads, out.splitlines()) if r["bench"] == bench)


def median_seconds(body, repeat):
    body()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        body()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="SmolLM2-135M (tools/get_model.sh smollm2), or random:CONFIG.json of its shapes")
    parser.add_argument("--bin", default="build/bin")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=3)
    o = parser.parse_args()

    packed = ["--sequences", o.sequences, "--length", o.length, "--repeat", o.repeat]
    decode = ["--batch", o.batch, "--context", o.context, "--steps", o.steps, "--repeat", o.repeat]
    mine = {}
    for precision in ("fp32", "fp16"):
        mine["train", precision] = ours(o, "train", *packed, "--precision", precision)
        mine["decode", precision] = ours(o, "decode", *decode, "--precision", precision)

    import torch
    import transformers
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPES)).float()
    ids = torch.randint(3, SHAPES["vocab_size"], (o.sequences, o.length))

    def train():
        model.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids).loss.backward()

    theirs = {"train": o.sequences * o.length / median_seconds(train, o.repeat)}
    model.zero_grad(set_to_none=True)
    prompt = torch.randint(3, SHAPES["vocab_size"], (o.batch, o.context))

    def generate(tokens):
        model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=True)

    seconds = median_seconds(lambda: generate(o.steps + 1), o.repeat) - median_seconds(lambda: generate(1), o.repeat)
    theirs["decode"] = o.batch * o.steps / seconds

    print(f"{o.threads} threads, torch {torch.__version__}, transformers {transformers.__version__}; tokens/s")
    print(f"{'':34}{'torch fp32':>12}{'ours fp32':>12}{'ratio':>8}{'ours fp16':>12}{'fp16/fp32':>11}")
    for name, shape in (("train", f"fwd+bwd {o.sequences} x {o.length}"), ("decode", f"decode {o.batch} x {o.context}+{o.steps}")):
        a, b, c = theirs[name], mine[name, "fp32"], mine[name, "fp16"]
        print(f"{shape:34}{a:12.1f}{b:12.1f}{b / a:8.2f}{c:12.1f}{c / b:11.2f}")


if __name__ == "__main__":
    main()
