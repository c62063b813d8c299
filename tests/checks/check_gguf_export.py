#!/usr/bin/env python3
"""Compares what `export` writes as GGUF with gguf-py's own packing of the same weights (not part of ctest).

  python tests/checks/check_gguf_export.py --model MODEL [--bin build/bin] [--types f32,f16,bf16,q8_0,q4_0]

MODEL is anything `export` takes. It is written as a Hugging Face directory in f32 and as GGUF in each type. Every matrix
of the GGUF must hold the bytes that gguf-py's quantize gives for the directory's values (q8_0, q4_0: ggml's reference),
norms and biases the values themselves. Needs numpy, gguf and safetensors.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, quantize
from safetensors.numpy import load_file

NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def interleaved(values, heads):
    """llama.cpp's row order of a Llama's query and key heads."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("build/bin"))
    parser.add_argument("--types", default="f32,f16,bf16,q8_0,q4_0")
    options = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)

        def export(output, kind):
            subprocess.run([options.bin / "export", "--model", options.model, "--output", work / output, "--type", kind],
                           check=True, stderr=subprocess.DEVNULL)

        export("hf", "f32")
        weights, config = load_file(work / "hf/model.safetensors"), json.loads((work / "hf/config.json").read_text())
        for kind in options.types.split(","):
            export("model.gguf", kind)
            wrong, count = [], 0
            for tensor in GGUFReader(work / "model.gguf").tensors:
                *block, stem, end = tensor.name.split(".")
                prefix = f"model.layers.{block[1]}." if block else ""
                values = weights[f"{prefix}{NAMES[stem]}.{end}"]
                if config["model_type"] == "llama" and stem in ("attn_q", "attn_k"):
                    heads = config["num_attention_heads" if stem == "attn_q" else "num_key_value_heads"]
                    values = interleaved(values, heads)
                want = quantize(values, GGMLQuantizationType(tensor.tensor_type))
                count += 1
                if not np.array_equal(np.asarray(tensor.data).view(np.uint8).ravel(), want.view(np.uint8).ravel()):
                    wrong.append(tensor.name)
            failures += len(wrong)
            print(f"{'FAIL ' if wrong else 'ok   '} {kind}: {count - len(wrong)} of {count} tensors equal to the bit {wrong[:3]}")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
