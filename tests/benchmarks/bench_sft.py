"""TRL's SFTTrainer against a bare PyTorch loop: tokens a second over the miniature's whole schedule, side by
side.

    python tests/benchmarks/bench_sft.py --model studies/miniature/models/S/seed4 \\
        --data studies/miniature/data/subsets/1024/seed4.parquet

Both train the same rows with the same optimiser, one thread, in the study's environment, for every batch size
of the schedule and as many steps as the study makes, or what is done once a training would weigh too much.
They take turns, and what counts is CPU time: on a shared machine the clock measures the others. The bound of
the project is a ratio of .95 over the whole schedule.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from valley import environment, prompts, records

if "MALLOC_TRIM_THRESHOLD_" not in os.environ:  # read when a process starts
    environment.prepare(warm_start=True, exact=True)
    os.execv(sys.executable, [sys.executable, *sys.argv])

import sft
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PrinterCallback, get_cosine_schedule_with_warmup
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def by_trl(folder, tokenizer, data, batch: int, steps: int) -> float:
    """CPU seconds of training by sft.py's own trainer."""
    flags = argparse.Namespace(
        seed=0, lr=2e-3, schedule="cosine", warmup=0.05, weight_decay=0.0, max_grad_norm=1.0, epochs=1, steps=steps, batch=batch,
        device_batch=batch, max_length=512, precision="fp32", gradient_checkpointing=False, save_every=0,
        deepspeed=None, packing=False, order="random",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        rows = Dataset.from_list(data)
        trainer = sft.make_trainer(
            sft.make_config(flags, Path(scratch)),
            load(folder),
            tokenizer,
            rows,
            [len(row["input_ids"]) for row in rows],
        )
        trainer.pop_callback(PrinterCallback)
        start = time.process_time()
        trainer.train()
        return time.process_time() - start


def by_hand(folder, tokenizer, data, batch: int, steps: int) -> float:
    """CPU seconds of the same training as the shortest loop that does it."""
    model, collate = load(folder), DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    start = time.process_time()
    for step in range(steps):
        rows = [data[(step * batch + i) % len(data)] for i in range(batch)]
        rows = collate(rows)
        logits = model(rows["input_ids"], attention_mask=rows["attention_mask"], use_cache=False).logits[
            :, :-1
        ]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows["labels"][:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path, help="the largest subset")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=512, help="steps a batch size")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # as scripts/warm.py does before it forks
    tokenizer = prompts.load_tokenizer(args.model)
    rows = records.read_parquet(args.data, ["problem", "trace"]).to_pylist()
    data = prompts.training_rows(tokenizer, rows, "trace", None, "", 512)
    tokens = sum(len(row["input_ids"]) for row in data) / len(data)
    by_trl(args.model, tokenizer, data, 1, 8)  # what is imported late
    total = [(0.0, 0.0)] * args.turns
    print("batch  TRL tok/s  bare tok/s  ratio of each turn")
    for batch in args.batches:
        seconds = [
            tuple(train(args.model, tokenizer, data, batch, args.steps) for train in (by_trl, by_hand))
            for _ in range(args.turns)
        ]
        speed = [batch * args.steps * tokens / statistics.median(kind) for kind in zip(*seconds, strict=True)]
        ratios = "  ".join(f"{bare / trl:.2f}" for trl, bare in seconds)
        print(f"{batch:5}  {speed[0]:9.0f}  {speed[1]:10.0f}  {ratios}", flush=True)
        total = [(a + trl, b + bare) for (a, b), (trl, bare) in zip(total, seconds, strict=True)]
    ratios = [bare / trl for trl, bare in total]
    print(f"whole schedule: ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")


if __name__ == "__main__":
    main()
