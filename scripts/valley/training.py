"""What sft.py and rl.py share: resume from a checkpoint that belongs to the same work, progress, the record
of a run.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from valley import grid, records


def rank() -> int:
    """This process's rank among those that train together; 0 alone."""
    return int(os.environ.get("RANK", 0))


def announce(config):
    """Say on what this process trains, which starts the process group; to be called before the model is
    loaded.

    DeepSpeed has to know of the group by then, or ZeRO-3 takes itself for alone while the weights load.
    """
    print(f"process {rank()} trains on {config.device}", file=sys.stderr, flush=True)
    if config.deepspeed:
        import deepspeed

        deepspeed.init_distributed(auto_mpi_discovery=False)


def weights_dtype(args):
    """In what precision weights are loaded: fp32 unless DeepSpeed keeps the fp32 master copy of bf16 weights
    itself.

    AdamW on bf16 weights alone loses most updates at the paper's rate: a step of 5e-5 is below half the
    distance between two bf16 numbers near .02.
    """
    import torch

    return torch.bfloat16 if args.precision == "bf16" and args.deepspeed else torch.float32


def resume_point(folder: Path, identity) -> str | None:
    """The last checkpoint in `folder` if it was made by the same work, else None.

    `identity` is JSON content that names data, start model and arguments. Checkpoints of other work are set
    aside under another name, never deleted and never continued. Of several processes the first does it, the
    others wait for its mark.
    """
    mark, fingerprint = folder / "fingerprint.json", grid.fingerprint(identity)
    if rank() > 0:
        while not mark.exists() or records.read_json(mark)["fingerprint"] != fingerprint:
            time.sleep(0.5)
        return get_last_checkpoint(folder)
    if folder.is_dir():
        found = records.read_json(mark).get("fingerprint") if mark.exists() else None
        if found == fingerprint:
            return get_last_checkpoint(folder)
        os.replace(folder, folder.with_name(f"{folder.name}.of-{found or 'unknown'}-{time.time_ns()}"))
    records.write_json(mark, {"fingerprint": fingerprint})
    return None


class Progress(TrainerCallback):
    """A line on standard error every few seconds; the last step is logged whatever the interval; divergence
    ends training.
    """

    def __init__(self, every: float = 5.0):
        self.every, self.last = every, 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and not math.isfinite(logs.get("loss", 0.0)):
            control.should_training_stop = True  # the script then says so and fails
        if state.is_world_process_zero and logs and time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            shown = {
                k: round(v, 4) for k, v in logs.items() if k in ("loss", "reward", "completions/mean_length")
            }
            print(
                f"step {state.global_step}/{state.max_steps} {json.dumps(shown)}", file=sys.stderr, flush=True
            )


def show_progress(trainer):
    """Report on standard error by `Progress`; standard output is left to the script's closing line."""
    trainer.pop_callback(PrinterCallback)
    trainer.add_callback(Progress())


def save_model(trainer, tokenizer, args):
    """Write the trained model and its tokenizer as one ordinary Hugging Face folder, `args.out`, that appears
    whole.

    All processes call it: under ZeRO-3 each holds a part of the weights. Saved in the precision that was
    trained in.
    """
    import torch

    if args.precision == "bf16" and not args.deepspeed:
        trainer.model.to(torch.bfloat16)
    if rank() > 0:
        trainer.save_model(args.out)  # gives its part; the first process writes
        return
    with records.whole(args.out) as folder:
        trainer.save_model(folder)
        tokenizer.save_pretrained(folder)
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; train.json records the arguments


def parameters(model) -> int:
    """Number of parameters, also of a model whose weights ZeRO-3 has spread over processes."""
    return sum(getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters())


def drop_states(folder: Path):
    """Remove what only resuming needs (optimiser, random states: 12 bytes a parameter) from checkpoints of a
    finished run.
    """
    keep = (".safetensors", ".json", ".jinja", ".txt", ".model")
    for file in folder.glob("checkpoint-*/**/*"):
        if file.is_file() and file.suffix not in keep:
            file.unlink()
