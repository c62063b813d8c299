"""Writes tests/golden/<model>/: tiny random models as transformers saves them, with what it computes from them in fp32.

  python tests/golden/make_golden.py [MODEL...]            (needs torch, transformers, safetensors)

Each folder is a Hugging Face directory plus golden.safetensors: `input_ids` [2,24], `logprobs` [2,23] (position t scores
ids[t+1]), `loss` [1] = mean of -logprobs, and `grad.<name>` = d loss / d parameter under Hugging Face names.
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SMALL = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.2,
)
EXPERTS = SMALL | dict(head_dim=8, num_experts=6, moe_intermediate_size=16)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
MODELS = {
    "llama3": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, head_dim=8, rope_parameters=LLAMA3_ROPE, bos_token_id=1, eos_token_id=[2, 3])
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, bos_token_id=None, eos_token_id=2)),
    "qwen3": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SMALL, head_dim=16, tie_word_embeddings=True, bos_token_id=None, eos_token_id=2)
    ),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**EXPERTS, num_experts_per_tok=2, norm_topk_prob=True, bos_token_id=None, eos_token_id=2)
    ),
    # Layers with and without experts, weights as the softmax has them.
    "qwen3_moe_mixed": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **EXPERTS | dict(num_hidden_layers=4),
            num_experts_per_tok=3,
            norm_topk_prob=False,
            decoder_sparse_step=2,
            mlp_only_layers=[1],
            bos_token_id=None,
            eos_token_id=2,
        )
    ),
}


def by_expert(name, grad):
    """Gradients under the names that the weights have in a file: transformers 5 holds those of experts stacked."""
    if name.endswith("experts.gate_up_proj"):
        gate, up = grad.chunk(2, dim=1)
        parts = {"gate_proj": gate, "up_proj": up}
    elif name.endswith("experts.down_proj"):
        parts = {"down_proj": grad}
    else:
        return {name: grad}
    stem = name.rsplit(".", 1)[0]
    return {
        f"{stem}.{e}.{part}.weight": g.contiguous() for part, stack in parts.items() for e, g in enumerate(stack)
    }


def main():
    root = pathlib.Path(__file__).parent
    for seed, (name, make) in enumerate(MODELS.items()):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        torch.manual_seed(seed)
        model = make().float()
        with torch.no_grad():  # biases and norms away from 0 and 1, so that leaving one out shows
            for key, p in model.named_parameters():
                if key.endswith("bias") or "norm" in key:
                    p.add_(torch.randn_like(p) * 0.2)
        model.save_pretrained(root / name)
        ids = torch.randint(0, SMALL["vocab_size"], (2, 24))
        logprobs = torch.log_softmax(model(ids).logits[:, :-1], dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
        loss = -logprobs.mean()
        loss.backward()
        golden = {"input_ids": ids, "logprobs": logprobs.detach(), "loss": loss.detach()[None]}
        for key, p in model.named_parameters():
            golden |= {"grad." + name: grad for name, grad in by_expert(key, p.grad).items()}
        save_file(golden, root / name / "golden.safetensors")


if __name__ == "__main__":
    main()
