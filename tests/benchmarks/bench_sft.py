"""TRL's SFTTrainer against a bare PyTorch loop: tokens a second over the miniature's whole schedule, side by
side.

    python tests/benchmarks/bench_sft.py --model studies/miniature/models/S/seed0 \\
        --data studies/miniature/data/subsets/2048/seed0.parquet

Both train the same rows with the same optimiser, one thread, for every batch size of the schedule; the two
take turns, so that other load on the machine falls on both. The bound of the project is a ratio of 0.7 over
the whole schedule.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import sft
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PrinterCallback, get_cosine_schedule_with_warmup
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from valley import prompts, records


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def by_trl(folder, tokenizer, data, batch: int, steps: int) -> float:
    """Seconds of training by sft.py's own trainer."""
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
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start


def by_hand(folder, tokenizer, data, batch: int, steps: int) -> float:
    """Seconds of the same training as the shortest loop that does it."""
    model, collate = load(folder), DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    start = time.perf_counter()
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
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path, help="the largest subset")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument(
        "--steps", type=int, default=64, help="steps a batch size; the study makes 512 of each"
    )
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # as scripts/warm.py does before it forks
    tokenizer = prompts.load_tokenizer(args.model)
    rows = records.read_parquet(args.data, ["problem", "trace"]).to_pylist()
    data = prompts.training_rows(tokenizer, rows, "trace", None, "", 512)
    tokens = sum(len(row["input_ids"]) for row in data) / len(data)
    total = {"TRL": 0.0, "bare": 0.0}
    print("batch  TRL tok/s  bare tok/s  ratio")
    for batch in args.batches:
        seconds = {"TRL": 0.0, "bare": 0.0}
        for _ in range(args.turns):
            seconds["TRL"] += by_trl(args.model, tokenizer, data, batch, args.steps)
            seconds["bare"] += by_hand(args.model, tokenizer, data, batch, args.steps)
        speed = {name: batch * args.steps * args.turns * tokens / s for name, s in seconds.items()}
        print(
            f"{batch:5}  {speed['TRL']:9.0f}  {speed['bare']:10.0f}  {speed['TRL'] / speed['bare']:5.2f}",
            flush=True,
        )
        total = {name: total[name] + seconds[name] for name in total}
    print(f"whole schedule: ratio {total['bare'] / total['TRL']:.2f}")


if __name__ == "__main__":
    main()
