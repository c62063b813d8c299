#!/usr/bin/env python3
"""Compares `trainer --estimate` with the peak that the same runs report (perf/max_memory_allocated_gb).

  python3 tests/checks/check_estimate.py [--bin build/bin] [--device cuda] [--only NAME ...]

Runs of two steps with random weights, in three shapes: SmolLM2-135M as configs/smollm2_gsm8k_grpo_fp16.yaml runs it, a
Qwen2 of 1.5B, and the same with an adapter. About a minute on one GPU; they need no download. Prints a line a shape and
exits with 1 where an estimate is off by more than a tenth.
"""
import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Random weights are never right: the entropy term keeps sequences without an advantage in the update.
COMMON = ["data.files=" + str(ROOT / "builtin/arithmetic/sanity.jsonl"), "data.template={problem}", "data.limit=64", "train.steps=2",
          "algorithm.entropy_coef=0.001", "checkpoint.every=0", "checkpoint.export_model=false", "eval.every=0", "eval.before_training=false"]
QWEN = ["train.prompts_per_step=16", "train.mini_batch_size=64", "train.micro_batch_tokens=8192", "rollout.max_new_tokens=256",
        "precision.match=fast"]
# The estimate takes one micro-batch to be full, as it is now and then where lengths differ. Here all are equal: 120
# sequences fill two micro-batches, the config's 128 would fill three by two thirds.
SHAPES = {
    "smollm2_135m GRPO": ("smollm2_135m", ["train.prompts_per_step=60", "train.mini_batch_size=120"]),
    "qwen2_1_5b GRPO, recompute mlp": ("qwen2_1_5b", QWEN + ["train.recompute=mlp"]),
    "qwen2_1_5b LoRA, recompute full": ("qwen2_1_5b", QWEN + ["train.recompute=full", "lora.rank=32", "lora.alpha=64"]),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(ROOT / "build/bin"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="*", default=[], help="words that a shape's name must hold")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, overrides) in SHAPES.items():
            if not all(word in name for word in args.only):
                continue
            place = Path(folder) / model
            place.mkdir(exist_ok=True)
            config = json.loads((ROOT / f"configs/bench/{model}.json").read_text())
            config["eos_token_id"] = 0
            (place / "config.json").write_text(json.dumps(config))
            shutil.copy(ROOT / "builtin/arithmetic/tokenizer.json", place)
            run = Path(folder) / "run"
            command = [f"{args.bin}/trainer", "--config", str(ROOT / "configs/smollm2_gsm8k_grpo_fp16.yaml"), f"run.device={args.device}",
                       f"run.output_dir={run}", f"model.path=random:{place}/config.json", *COMMON, *overrides]
            begin = time.time()
            ran = subprocess.run(command + ["--overwrite"], capture_output=True, text=True)
            seconds = time.time() - begin
            if ran.returncode != 0:
                print(f"{name}: the run failed: {ran.stderr.strip().splitlines()[-1]}")
                failed = True
                continue
            last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
            measured = last["perf/max_memory_allocated_gb"]
            length = round(last["response_length/mean"])
            text = subprocess.run(command + ["--estimate", "--response-length", str(length)], capture_output=True, text=True, check=True).stdout
            predicted = float(re.search(r"peak \(.*?\)\s+([\d.]+)", text).group(1))
            off = abs(predicted / measured - 1) > 0.1
            failed |= off
            print(f"{name}: predicted {predicted:.3f} GB, measured {measured:.3f} GB, ratio {predicted / measured:.3f}, responses of "
                  f"{length} tokens, {seconds:.0f} s{'  FAILED' if off else ''}", flush=True)
            if off:
                print(text)
    sys.exit(failed)


if __name__ == "__main__":
    main()
