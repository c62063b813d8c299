#!/usr/bin/env python3
"""Makes tests/golden/gguf_blocks.safetensors: random blocks of every GGUF type with the values that gguf-py gives them.

  pip install gguf safetensors numpy; python3 tests/golden/make_gguf_blocks.py

Per type T: T.blocks U8 [blocks, bytes], T.values F32 [blocks, elements]. Quantised bytes are random but for the fp16
scales, which are kept finite (in [2^-14, 2) with either sign); float types take random finite bit patterns.
"""
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from safetensors.numpy import save_file

# Type -> byte offsets of its fp16 scales.
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}
BLOCKS = 3

rng = np.random.default_rng(20240521)
tensors = {}


def random_half(n):
    exponent = rng.integers(1, 16, n, dtype=np.uint16)
    return rng.integers(0, 2, n, dtype=np.uint16) << 15 | exponent << 10 | rng.integers(0, 1024, n, dtype=np.uint16)


for kind, offsets in SCALES.items():
    size = GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for offset in offsets:
        blocks[:, offset:offset + 2] = random_half(BLOCKS).view(np.uint8).reshape(BLOCKS, 2)
    tensors[kind.name + ".blocks"] = blocks
    tensors[kind.name + ".values"] = dequantize(blocks, kind).astype(np.float32)

for kind, dtype in ((Type.F32, np.float32), (Type.F16, np.float16)):
    values = rng.standard_normal(64).astype(dtype)
    tensors[kind.name + ".blocks"] = values.view(np.uint8).reshape(64, -1)
    tensors[kind.name + ".values"] = values.astype(np.float32).reshape(64, 1)
bf16 = (rng.standard_normal(64).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
tensors["BF16.blocks"] = bf16.view(np.uint8).reshape(64, 2)
tensors["BF16.values"] = (bf16.astype(np.uint32) << 16).view(np.float32).reshape(64, 1)

out = pathlib.Path(__file__).parent / "gguf_blocks.safetensors"
save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, out)
print(out, out.stat().st_size, "bytes")
