#!/usr/bin/env python3
"""Compares a Qwen2 or Qwen3 GGUF model in our programs with transformers and llama.cpp on the same file (not part of ctest).

  python tests/checks/check_gguf_model.py --model MODEL.gguf [--bin build/bin] [--logprobs] [--llama]

Needs transformers, tokenizers and gguf; --logprobs also torch and four bytes a parameter of memory; --llama also
llama-cpp-python. Prints a line per check and exits with 1 when one fails:

  ids         of texts of every kind, against transformers' Qwen2 tokenizer built from the vocabulary in the file
  --logprobs  fp32 log-probs within 2e-4 (mean 2e-5) of transformers' on the same weights: dequantised by gguf-py, those of
              quantised tensors rounded to fp16, as docs/numerics.md says
  --llama     greedy text of 20 prompts in the chat format. llama.cpp multiplies by quantised weights in integers, so at near
              ties it takes other tokens: at least half of the prompts must agree in their first 16 tokens
"""
import argparse
import random
import sys

import check_golden
import numpy as np
from check_golden import QUESTIONS, Programs, report
from gguf import GGUFReader, dequantize

TEXTS = [
    "", " ", "  two  spaces ", "\n\n\tindented\r\n", "Hello, world!", "def f(x):\n    return x**2  # square\n",
    "It's they're we'll I'd I'VE DON'T", "1234567890 3.14159 1,000,000 0x1F", "a1b2c3 x_1 snake_case camelCase",
    "naïve café über straße Ωμέγα привет мир", "こんにちは世界。漢字かな混じり文", "你好，世界！", "مرحبا بالعالم",
    "हिन्दी में पाठ", "👩‍👩‍👧‍👦 🏳️‍🌈 ✅", "e\u0301 is \u00e9 composed", "\u200bzero\u200dwidth\ufeff", "a\u0000b\u0001c",
    r"\boxed{\frac{1}{2}} and $x^2 + y^2 = z^2$", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|fim_prefix|>x<|im_end", "....!!!???--- === ///", "A" * 300, "ab " * 200, "\n" * 40, " " * 65,
    "https://example.org/path?q=1&r=%20#frag", "SELECT * FROM t WHERE a <> 'b';", "{\"key\": [1, 2.5e-3, null]}",
]


def random_texts(count):
    """Texts of all planes of Unicode (but surrogates), and of ASCII alone."""
    rng = random.Random(1)
    planes = [(32, 127), (32, 127), (0xA0, 0x2FF), (0x370, 0x5FF), (0x900, 0xDFF), (0x2000, 0x2BFF), (0x3040, 0x9FFF),
              (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF)]
    for _ in range(count):
        kinds = [rng.choice(planes) for _ in range(rng.randint(1, 3))]
        yield "".join(chr(rng.randint(*rng.choice(kinds))) if rng.random() < 0.85 else rng.choice(" \n\t1") for _ in range(rng.randint(1, 60)))


def field(reader, name):
    return reader.get_field(name).contents()


def reference_tokenizer(reader):
    from tokenizers import AddedToken
    from transformers import Qwen2TokenizerFast

    tokens, types = field(reader, "tokenizer.ggml.tokens"), field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field(reader, "tokenizer.ggml.merges")]
    special = {i for i, kind in enumerate(types) if kind in (3, 4)}  # control, user defined
    tokenizer = Qwen2TokenizerFast(vocab={t: i for i, t in enumerate(tokens) if i not in special and types[i] == 1},
                                   merges=merges)
    first = min(special)
    assert special == set(range(first, first + len(special))), "special tokens are one range"
    tokenizer.add_tokens([AddedToken(tokens[i], special=types[i] == 3, normalized=False) for i in sorted(special)])
    assert all(tokenizer.convert_tokens_to_ids(tokens[i]) == i for i in special), "special tokens have the file's ids"
    return tokenizer


def check_ids(run, model, tokenizer):
    texts = TEXTS + list(random_texts(500))
    got = run("tokenize", [{"text": text} for text in texts], "--model", model)
    want = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    wrong = [i for i, (g, w) in enumerate(zip(got, want)) if g["ids"] != w]
    for i in wrong[:3]:
        print(f"      {texts[i]!r}: {got[i]['ids']}, expected {want[i]}")
    report(not wrong and len(got) == len(want), f"ids of {len(want) - len(wrong)} of {len(want)} texts equal")


def reference_model(reader):
    """transformers' model with the weights of the file."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    kind = field(reader, "general.architecture")
    number = lambda key: field(reader, f"{kind}.{key}")
    tensors = {t.name: t for t in reader.tensors}
    tied = "output.weight" not in tensors
    shape = dict(vocab_size=int(tensors["token_embd.weight"].shape[1]), hidden_size=number("embedding_length"),
                 intermediate_size=number("feed_forward_length"), num_hidden_layers=number("block_count"),
                 num_attention_heads=number("attention.head_count"), num_key_value_heads=number("attention.head_count_kv"),
                 rms_norm_eps=number("attention.layer_norm_rms_epsilon"), tie_word_embeddings=tied,
                 max_position_embeddings=number("context_length"),
                 rope_parameters={"rope_type": "default", "rope_theta": number("rope.freq_base")})
    if kind == "qwen3":
        shape["head_dim"] = number("attention.key_length")
    config, model_class = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}[kind]
    with torch.device("meta"):
        model = model_class(config(**shape))
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
             "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {}
    for name, tensor in tensors.items():
        *block, stem, end = name.split(".")
        prefix = f"model.layers.{block[1]}." if block else ""
        values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if tensor.tensor_type.name not in ("F32", "F16", "BF16"):
            values = values.astype(np.float16).astype(np.float32)
        state[f"{prefix}{names[stem]}.{end}"] = torch.from_numpy(values)
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = model.to_empty(device="cpu")
    model.load_state_dict(state, assign=True)
    if tied:
        model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)  # its table was on the meta device
    return model.eval()


def check_logprobs(run, model, tokenizer, reader):
    import torch

    reference = reference_model(reader)
    texts = [text for text in TEXTS if len(text) > 20][:10] + QUESTIONS[:6]
    rows = [ids for ids in (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts) if len(ids) > 1]
    got = run("score", [{"ids": ids} for ids in rows], "--model", model, "--precision", "fp32", "--device", "cpu")
    errors = []
    for row, ours in zip(rows, got):
        ids = torch.tensor(row)
        with torch.no_grad():
            logprobs = torch.log_softmax(reference(ids[None]).logits[0, :-1].double(), -1).gather(-1, ids[1:, None])[:, 0]
        errors.append(np.abs(np.array(ours["logprobs"]) - logprobs.numpy()))
    errors = np.concatenate(errors)
    report(errors.max() <= 2e-4 and errors.mean() <= 2e-5,
           f"fp32 log-probs of {errors.size} tokens: mean error {errors.mean():.2e}, max {errors.max():.2e}")


def check_llama(run, model, tokens=48):
    from llama_cpp import Llama

    llama = Llama(model, n_ctx=512, logits_all=False, verbose=False, seed=0)
    start = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    prompts = [f"{start}{question}<|im_end|>\n<|im_start|>assistant\n" for question in QUESTIONS]
    ids = [r["ids"] for r in run("tokenize", [{"text": prompt} for prompt in prompts], "--model", model)]
    same = sum(llama.tokenize(p.encode(), add_bos=False, special=True) == row for p, row in zip(prompts, ids))
    report(same == len(prompts), f"llama.cpp's ids of {same} of {len(prompts)} prompts equal")
    ours = run("generate", [{"ids": row} for row in ids], "--json", "--model", model, "--precision", "fp32", "--temperature", 0,
               "--max-new-tokens", tokens)
    common, whole = [], 0
    for row, result in zip(ids, ours):
        llama.reset()
        theirs = []
        for token in llama.generate(row, temp=0.0, repeat_penalty=1.0):
            theirs.append(token)
            if len(theirs) == len(result["ids"]):
                break
        equal = next((i for i, (a, b) in enumerate(zip(theirs, result["ids"])) if a != b), len(theirs))
        common.append(equal)
        whole += equal == len(result["ids"])
    report(sum(n >= 16 or n == len(r["ids"]) for n, r in zip(common, ours)) >= len(prompts) / 2,
           f"greedy text of {whole} of {len(prompts)} prompts equal to the end (at most {tokens} tokens); equal tokens {common}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--bin", default="build/bin")
    parser.add_argument("--logprobs", action="store_true")
    parser.add_argument("--llama", action="store_true")
    options = parser.parse_args()
    run, reader = Programs(options.bin), GGUFReader(options.model)
    tokenizer = reference_tokenizer(reader)
    check_ids(run, options.model, tokenizer)
    if options.logprobs:
        check_logprobs(run, options.model, tokenizer, reader)
    if options.llama:
        check_llama(run, options.model)
    sys.exit(check_golden.failures > 0)


if __name__ == "__main__":
    main()
