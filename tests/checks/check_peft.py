"""Adapters against PEFT, both ways: one that PEFT saved scores here as there, and one that was saved here loads in PEFT
with the same log-probs.

  python tests/checks/check_peft.py build/bin MODEL [--rank 5] [--tolerance 2e-5]

MODEL is a Hugging Face directory (tests/golden/qwen2, or a real one). Needs torch, transformers, peft. Prints a line a
comparison and exits with 1 where one is off.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

TARGETS = {
    "all linears": "all-linear",
    "peft's defaults": ["q_proj", "v_proj"],
    "one of a fused pair": ["up_proj", "k_proj", "down_proj"],
}


def base(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def logprobs(model, rows):
    values = []
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor(row)
            logits = model(ids[None]).logits[0, :-1]
            values.append(torch.log_softmax(logits, dim=-1).gather(-1, ids[1:, None])[:, 0])
    return torch.cat(values)


def score(bin_dir, arguments, rows):
    lines = "".join(json.dumps({"ids": row}) + "\n" for row in rows)
    command = [str(bin_dir / "score"), "--input", "-", "--precision", "fp32", "--device", "cpu", *arguments]
    out = subprocess.run(command, input=lines, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return torch.cat([torch.tensor(json.loads(line)["logprobs"]) for line in out.stdout.splitlines()])


def run(*command):
    out = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return out.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("model")
    parser.add_argument("--rank", type=int, default=5)
    parser.add_argument("--tolerance", type=float, default=2e-5)
    args = parser.parse_args()

    torch.manual_seed(0)
    worst = 0.0
    vocab = base(args.model).config.vocab_size
    rows = [torch.randint(0, vocab, (length,)).tolist() for length in (2, 9, 40, 64)]
    plain = logprobs(base(args.model), rows)

    def compare(what, ours, theirs):
        nonlocal worst
        assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
        off = (ours - theirs).abs().max().item()
        worst = max(worst, off)
        print(f"{what}: largest difference of a log-prob {off:.3g}, the adapter moves them by {(theirs - plain).abs().max():.3g}")

    for name, targets in TARGETS.items():
        for rslora in (False, True):
            with tempfile.TemporaryDirectory() as directory:
                root = pathlib.Path(directory)
                config = LoraConfig(r=args.rank, lora_alpha=3 * args.rank, target_modules=targets, use_rslora=rslora, task_type="CAUSAL_LM")
                model = get_peft_model(base(args.model), config)
                for key, value in model.named_parameters():
                    if "lora_B" in key:
                        torch.nn.init.normal_(value, std=0.05)
                model.save_pretrained(root / "theirs")
                expected = logprobs(model, rows)
                label = f"{name}, rslora {rslora}"
                model_flag = ["--model", args.model]
                compare(f"{label}: from PEFT", score(args.bin, [*model_flag, "--adapter", str(root / "theirs")], rows), expected)
                run(args.bin / "export", *model_flag, "--adapter", root / "theirs", "--output", root / "ours")
                back = PeftModel.from_pretrained(base(args.model), root / "ours")
                compare(f"{label}: to PEFT", logprobs(back, rows), expected)
                said = run(args.bin / "export", *model_flag, "--adapter", root / "theirs", "--merge", "--type", "f32", "--output", root / "merged")
                print([line for line in said.splitlines() if "merged in" in line][0])
                compare(f"{label}: merged, in transformers", logprobs(base(root / "merged"), rows), expected)
    raise SystemExit(worst > args.tolerance)


if __name__ == "__main__":
    main()
