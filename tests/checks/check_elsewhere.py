#!/usr/bin/env python3
"""Exports a model and runs it elsewhere: greedy text and log-probs of other programs against ours.

  python tests/checks/check_elsewhere.py --model MODEL [--bin build/bin] [--tokens 32] [--transformers] [--llama]

--transformers (torch, transformers) loads the exported Hugging Face directory: fp32 log-probs of 20 prompts with our greedy
answers within 2e-4, and the answers themselves. --llama (llama-cpp-python or xllamacpp) loads the exported f16 GGUF file: their
number of ids and the greedy answers. llama.cpp rounds activations to fp16 in its products, so it may take another token where
two are nearly equal: a difference is a failure only where ours was ahead by more than 0.05 in log-prob. Exits with 1 on one.
"""
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import check_golden
from check_golden import QUESTIONS, Programs, report



def ours(run, model, tokens):
    """Prompts, their ids, and our greedy answers as ids and as texts."""
    prompts = [f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n" for q in QUESTIONS]
    ids = [r["ids"] for r in run("tokenize", [{"text": p} for p in prompts], "--model", model)]
    answers = run("generate", [{"ids": row} for row in ids], "--json", "--model", model, "--precision", "fp32", "--device", "cpu",
                  "--temperature", 0, "--max-new-tokens", tokens)
    return prompts, ids, [r["ids"] for r in answers], [r["text"] for r in answers]


def compare(name, run, model, ids, want, got):
    """Answers token by token. Where they part, how far ours was ahead of theirs in log-prob."""
    parted = []
    for prompt, a, b in zip(ids, want, got):
        n = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)
        if n is None:
            continue
        rows = [{"ids": prompt + a[:n] + [token]} for token in (a[n], b[n])]
        scores = [r["logprobs"][-1] for r in run("score", rows, "--model", model, "--precision", "fp32", "--device", "cpu")]
        parted.append((n, scores[0] - scores[1]))
    text = "".join(f"; one parts at token {n}, where ours is ahead by {ahead:.4f}" for n, ahead in parted)
    report(all(ahead <= 0.05 for _, ahead in parted), f"{name}: greedy answers of {len(ids) - len(parted)} of {len(ids)} prompts equal{text}")


def check_transformers(run, model, directory, tokens):
    import torch
    import transformers

    prompts, ids, want, _ = ours(run, model, tokens)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    same = sum(tokenizer(p, add_special_tokens=False)["input_ids"] == row for p, row in zip(prompts, ids))
    report(same == len(ids), f"transformers {transformers.__version__}: ids of {same} of {len(ids)} prompts equal")
    chat = [tokenizer.apply_chat_template([{"role": "user", "content": QUESTIONS[0]}], tokenize=False, add_generation_prompt=True)]
    report(chat[0].endswith("<|im_start|>assistant\n"), "transformers: the chat template is there")
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    report(not info["missing_keys"] and not info["unexpected_keys"], "transformers: no tensor is missing, none is left over")
    rows = [a + b for a, b in zip(ids, want)]
    scores = run("score", [{"ids": row} for row in rows], "--model", model, "--precision", "fp32", "--device", "cpu")
    worst, got = 0.0, []
    with torch.no_grad():
        for row, score, prompt, answer in zip(rows, scores, ids, want):
            logits = theirs(torch.tensor([row])).logits[0, :-1].double()
            logprobs = torch.log_softmax(logits, -1).gather(-1, torch.tensor(row)[1:, None])[:, 0]
            worst = max(worst, (logprobs - torch.tensor(score["logprobs"]).double()).abs().max().item())
            out = theirs.generate(torch.tensor([prompt]), max_new_tokens=len(answer), do_sample=False, repetition_penalty=1.0)
            got.append(out[0, len(prompt):].tolist())
    report(worst <= 2e-4, f"transformers: fp32 log-probs of {sum(map(len, rows))} tokens, largest difference {worst:.2e}")
    compare("transformers", run, model, ids, want, got)


def llama(path):
    """(name, number of a text's ids, greedy text after ids) of whichever binding is installed."""
    try:
        from llama_cpp import Llama, __version__
    except ImportError:
        import xllamacpp
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.warmup, params.cpuparams.n_threads = str(path), 512, False, 1
        server = xllamacpp.Server(params)
        ask = lambda prompt, n: server.handle_completions({"prompt": prompt, "max_tokens": n, "temperature": 0, "cache_prompt": False})
        return (f"llama.cpp (xllamacpp {xllamacpp.__version__})", lambda text: ask(text, 1)["usage"]["prompt_tokens"],
                lambda ids, n: ask(ids, n)["choices"][0]["text"])
    model = Llama(str(path), n_ctx=512, verbose=False)
    return (f"llama.cpp (llama-cpp-python {__version__})", lambda text: len(model.tokenize(text.encode(), add_bos=False, special=True)),
            lambda ids, n: model.create_completion(ids, max_tokens=n, temperature=0, repeat_penalty=1.0)["choices"][0]["text"])


def check_llama(run, model, file, tokens):
    prompts, ids, want, texts = ours(run, model, tokens)
    name, count, complete = llama(file)
    same = sum(count(p) == len(row) for p, row in zip(prompts[:4], ids))
    report(same == 4, f"{name}: as many ids in {same} of 4 prompts")
    theirs = [complete(row, len(answer)) for row, answer in zip(ids, want)]
    got = run("tokenize", [{"text": text} for text in theirs], "--model", model)
    compare(name, run, model, ids, want, [a if x == y else r["ids"] for a, x, y, r in zip(want, texts, theirs, got)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--bin", default="build/bin")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--transformers", action="store_true")
    parser.add_argument("--llama", action="store_true")
    options = parser.parse_args()
    run = Programs(options.bin)
    with tempfile.TemporaryDirectory() as work:
        for wanted, check, output in ((options.transformers, check_transformers, "hf"), (options.llama, check_llama, "model.gguf")):
            if not wanted:
                continue
            exported = Path(work) / output
            subprocess.run([Path(options.bin) / "export", "--model", options.model, "--output", exported, "--type", "f16"],
                           check=True, stderr=subprocess.DEVNULL)
            check(run, options.model, exported, options.tokens)
    sys.exit(check_golden.failures > 0)


if __name__ == "__main__":
    main()
