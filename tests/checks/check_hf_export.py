"""Loads a model directory in transformers and compares its log-probs with those of `score`.

  build/bin/score --model DIR --input ids.jsonl --precision fp32 --device cpu > scores.jsonl
  python tests/checks/check_hf_export.py DIR ids.jsonl scores.jsonl [--tolerance 2e-5]

ids.jsonl holds {"ids": [...]} a line, scores.jsonl {"logprobs": [...]} a line (position t scores ids[t+1]).
"""

import argparse
import json

import torch
from transformers import AutoModelForCausalLM


def lines(path):
    with open(path) as f:
        return [json.loads(line) for line in f if line.strip()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("ids")
    parser.add_argument("scores")
    parser.add_argument("--tolerance", type=float, default=2e-5)
    args = parser.parse_args()

    model, info = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    rows, scores = lines(args.ids), lines(args.scores)
    assert len(rows) == len(scores) > 0, (len(rows), len(scores))
    worst = 0.0
    for row, score in zip(rows, scores):
        ids = torch.tensor(row["ids"])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids[None]).logits[0, :-1], dim=-1).gather(-1, ids[1:, None])[:, 0]
        ours = torch.tensor(score["logprobs"])
        assert ours.shape == logprobs.shape, (ours.shape, logprobs.shape)
        worst = max(worst, (ours - logprobs).abs().max().item())
    print(f"{len(rows)} sequences, largest difference of a log-prob {worst:.3g}")
    raise SystemExit(worst > args.tolerance)


if __name__ == "__main__":
    main()
