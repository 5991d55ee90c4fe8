"""What scripts/valley/decoding.py saves: seconds of sampling a task's responses by transformers' own loop and
by ours, in turn, on the kernels of `exact`; both must give the same tokens.

    python tests/benchmarks/bench_decoding.py --task studies/miniature/data/tasks/chain.parquet \\
        --models studies/miniature/models/S/seed4 studies/miniature/results/S/sft-1024/seed4/model
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from valley import environment, prompts, records

if "MALLOC_TRIM_THRESHOLD_" not in os.environ:  # read when a process starts
    environment.prepare(warm_start=True, exact=True)
    os.execv(sys.executable, [sys.executable, *sys.argv])

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from valley.decoding import decode


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", type=Path, required=True, help="parquet with a column `problem`")
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()

    problems = [row["problem"] for row in records.read_parquet(args.task, ["problem"]).to_pylist()]
    for folder in args.models:
        tokenizer = prompts.load_tokenizer(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        asked = prompts.rendered(tokenizer, problems, None, "")
        inputs = tokenizer(
            asked, padding=True, padding_side="left", return_tensors="pt", add_special_tokens=False
        )
        model.generation_config = GenerationConfig(
            max_new_tokens=224,
            do_sample=True,
            temperature=0.6,
            top_p=0.95,
            top_k=0,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        for turn in range(args.turns):
            took, made = {}, {}
            for name, loop in {"transformers": {}, "ours": {"custom_generate": decode}}.items():
                torch.manual_seed(turn)
                start = time.perf_counter()
                made[name] = model.generate(
                    inputs["input_ids"], attention_mask=inputs["attention_mask"], **loop
                )
                took[name] = time.perf_counter() - start
            assert torch.equal(*made.values()), "the loops gave different tokens"
            times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items())
            print(f"{folder}, turn {turn}: {times}, ratio {took['transformers'] / took['ours']:.1f}")


if __name__ == "__main__":
    main()
