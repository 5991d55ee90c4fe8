"""Fine-tune a model on a subset of traces with TRL's SFTTrainer: the paper's protocol, one cell.

Full parameters (`--lora-rank`: adapters, merged when the model is saved), AdamW, cosine schedule with
warm-up, loss on the completion only, the end token learned. The prompt is rendered by the chat template saved
with the model, by the same code as in generate.py.

    python scripts/sft.py --model models/S/seed0 --data data/subsets/128/seed0.parquet \\
        --out /tmp/cell/model \\
        --record /tmp/cell/train.json --lr 2e-3 --epochs 4 --batch 1 --max-length 512 --seed 0

On GPUs launch.py starts one process a card with a `--deepspeed` configuration (ZeRO-2, ZeRO-3 for large
models); the global batch stays exact on any number of them. Checkpoints (`--save-every`, `--save-minutes`)
lie beside the model under `checkpoints/`; the same work started again continues from them, and once the model
is written they go.

With `--pieces` it is no cell of the paper's protocol but a trunk, one run for all sizes (valley/trunk.py),
and with `--cooldown` beside it the branch of one size, which starts from what `--trunk` names:

    … --data data/subsets/128/seed0.parquet --pieces 32:4 128:4 --batch 4 --record /tmp/trunk/train.json …
    … --data data/subsets/32/seed0.parquet --pieces 32:4 --batch 4 --cooldown 0.2 --trunk
    /tmp/trunk/train.json …

Departs from the paper: TRL in place of LLaMA-Factory, whose loss is chunked over the vocabulary by itself; a
batch is `--batch` examples, as the paper counts, also where `--packing` lays those of a device in one row.
"""

import os
import time
from pathlib import Path

from valley import environment, flags, grid, prompts, records, tokenised, trunk


def parse():
    parser = flags.parser(__doc__)
    parser.add_argument("--model", required=True, type=Path, help="folder of the start model")
    parser.add_argument("--data", required=True, type=Path, help="subset (parquet: problem, trace, solution)")
    parser.add_argument("--out", required=True, type=Path, help="folder of the trained model")
    parser.add_argument("--record", required=True, type=Path, help="train.json to write")
    parser.add_argument("--seed", type=int, default=0, help="drives the order of examples")
    flags.add(parser, flags.SFT)
    parser.add_argument(
        "--pieces", nargs="+", type=trunk.piece, help="of a trunk: traces:passes of each size, smallest first"
    )
    parser.add_argument(
        "--cooldown", type=float, help="a branch: the share of its trunk's steps in which the rate falls"
    )
    parser.add_argument(
        "--trunk", type=Path, help="train.json of the trunk to branch off; without it all is trained here"
    )
    flags.add_prompt(parser)
    return parser.parse_args()


def split_batch(batch: int, devices: int, device_batch: int) -> tuple[int, int]:
    """(examples a device at once, accumulation steps) whose product over `devices` is exactly the global
    batch.
    """
    device_batch = min(device_batch, max(1, batch // devices))
    if batch % (devices * device_batch):
        records.fail(
            f"--batch {batch}",
            f"does not divide over {devices} device(s) × {device_batch} examples",
            "Choose devices and --device-batch whose product divides it",
        )
    return device_batch, batch // (devices * device_batch)


def unsaid(args) -> list[str]:
    """Settings that are no part of what the work is: those younger than checkpoints that are about, where
    they say what was so before, and when checkpoints are written by the clock.
    """
    younger = {name: flags.SFT[name].default for name in ("order", "lora_rank", "lora_alpha", "attention")}
    younger |= dict.fromkeys(("pieces", "cooldown", "trunk"))
    return ["save_minutes", *(name for name, before in younger.items() if getattr(args, name) == before)]


def start_of(args) -> list:
    """The trunk that a branch starts from, as a part of what its work is; nothing for other runs."""
    return [records.identity(args.trunk)] if args.trunk else []


def in_order(data, lengths, order: str):
    """A data set by the tokens of its rows, or as it is, and those tokens; rows of one length stay as they
    are.
    """
    if order == "random":
        return data, lengths
    by_length = (lengths if order == "short-first" else -lengths).argsort(kind="stable")
    return data.select(by_length), lengths[by_length]


def adapters(args):
    """The LoRA configuration of `args` for every linear layer but the head; None where all weights are
    trained.
    """
    if not args.lora_rank:
        return None
    try:
        from peft import LoraConfig
    except ImportError:
        records.fail(
            "sft.lora_rank", "needs the package peft, which this environment lacks", "pip install peft"
        )
    return LoraConfig(
        r=args.lora_rank, lora_alpha=args.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def make_config(args, checkpoints: Path, **other):
    """TRL's SFTConfig under the protocol of `args`, but for the fields `other`. To be made before the model
    is loaded: ZeRO-3 loads by it.
    """
    import torch
    from trl import SFTConfig

    device_batch, accumulate = split_batch(
        args.batch, int(os.environ.get("WORLD_SIZE", 1)), args.device_batch
    )
    settings = {
        "output_dir": str(checkpoints),
        "seed": args.seed,
        "data_seed": args.seed,
        "use_cpu": not torch.cuda.is_available(),
        "learning_rate": args.lr,
        "lr_scheduler_type": args.schedule,
        "warmup_steps": args.warmup,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "optim": "adamw_torch_fused" if not args.deepspeed else "adamw_torch",
        "num_train_epochs": args.epochs,
        "max_steps": args.steps,
        "deepspeed": args.deepspeed,
        "per_device_train_batch_size": device_batch,
        "gradient_accumulation_steps": accumulate,
        "max_length": args.max_length,
        "bf16": args.precision == "bf16",
        "gradient_checkpointing": args.gradient_checkpointing,
        "packing": args.packing,
        "train_sampling_strategy": "random" if args.order == "random" else "sequential",
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,  # labels are made of the others, and nothing else comes along
        "save_strategy": "steps" if args.save_every else "no",
        "save_steps": args.save_every or 500,
        "save_total_limit": None,  # valley/checkpoints.py removes the old ones, once a new one is whole
        "logging_steps": 8,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return SFTConfig(**settings | other)


def make_trainer(config, model, tokenizer, data, lengths, lora=None):
    """TRL's SFTTrainer on a data set of tokenised and labelled rows (tokenised.examples) of so many tokens
    each; on several devices those of similar length train side by side (valley/batches.py). `lora` as
    `adapters` gives it.

    On CPU, by one process, each step is taken plainly (valley/plain_steps.py).
    """
    from trl import SFTTrainer

    from valley import batches, plain_steps

    class Balanced(SFTTrainer):
        def get_train_dataloader(self):
            each = config.per_device_train_batch_size * config.gradient_accumulation_steps
            return batches.rearrange(super().get_train_dataloader(), lengths, each * config.world_size)

    if config.use_cpu and not config.deepspeed and not config.packing and config.world_size == 1:
        kind = plain_steps.plain_trainer_class()
    else:
        kind = Balanced if config.world_size > 1 else SFTTrainer
    return kind(model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora)


def train(args, work: list):
    """Train as `args` say, work that `work` names; writes the model and its record."""
    from valley import batches, checkpoints, manifests, training

    start = time.perf_counter()
    manifests.check_model(args.model)
    tokenizer = prompts.load_tokenizer(args.model)
    processes = len(os.sched_getaffinity(0))
    file, made = tokenised.obtained(
        args.data, args.model, args.completion, args.system, args.suffix, processes
    )
    data, lengths = tokenised.examples(file, args.max_length), tokenised.row_tokens(file, args.max_length)
    folder, laid = args.out.parent / "checkpoints", None
    if args.pieces:
        laid = trunk.laid_out(args.pieces, len(data), args.batch, args.warmup, args.cooldown, args.seed)
    config = make_config(args, folder, **(laid.settings() if laid else {}))
    training.announce(config)
    model = training.start_model(args)
    if unsound := prompts.tokenizer_problems(
        tokenizer, model.config.max_position_embeddings, args.max_length
    ):
        records.fail(args.model, "; ".join(unsound), "preflight.py shows the same")
    same = [
        made["sha256"],
        records.identity(args.model),
        records.settings(args, *unsaid(args)),
        *start_of(args),
    ]
    layout = checkpoints.shape(args.deepspeed)
    resume = checkpoints.resume_point(folder, same, layout)
    if args.trunk and not resume:
        resume = checkpoints.adopted(args.trunk.parent / "checkpoints", laid.stops[-1], folder, layout)
    stops = laid.stops if laid and not laid.cooldown else ()
    training.check_room(args, folder, kept=1, steps=args.steps, stops=len(stops))
    lora = adapters(args)
    rows = (data.select(laid.rows), lengths[laid.rows]) if laid else in_order(data, lengths, args.order)
    trainer = make_trainer(config, model, tokenizer, *rows, lora)
    trained = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    took = training.train_and_save(trainer, tokenizer, args, resume, start, kept=1, stops=stops)
    logged = ("step", "loss", "learning_rate", "grad_norm")
    curve = [{key: entry[key] for key in logged} for entry in trainer.state.log_history if "loss" in entry]
    tokens = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    if trainer.is_world_process_zero():
        record = took | {
            "work": grid.fingerprint(work),
            "steps": trainer.state.global_step,
            "examples": len(data),
            "tokens_trained": int(tokens[-1]),
            "tokens_per_epoch": int(lengths.sum()),
            **batches.columns_of_run(trainer, rows[1]),
            "data_sha256": made["sha256"],
            "subset_sha256": made["subset_sha256"],
            "tokenised": made,
            "loss": curve,
            "train_loss": training.mean_loss(curve),
            "warnings": training.warnings(trainer.state.log_history),
            "weights": manifests.weights_hashes(args.out),
            "resumed_from": resume,
            "parameters": training.parameters(model),
            **({"parameters_trained": trained} if lora else {}),
            **(
                {"stops": laid.stops, "warmup_steps": laid.warmup, "cooldown_steps": laid.cooldown}
                if laid
                else {}
            ),
            "attention": model.config._attn_implementation,
            "devices": trainer.args.world_size,
            "device_batch": trainer.args.per_device_train_batch_size,
            "accumulate": trainer.args.gradient_accumulation_steps,
        }
        records.write_json(args.record, records.provenance(args) | record)
        if not stops:  # those of a trunk are what branches start from
            checkpoints.remove_all(folder)
        losses = f", loss {curve[0]['loss']:.3f} → {curve[-1]['loss']:.3f}" if curve else ""
        records.done(f"SFT: {record['steps']} steps{losses}", args.out, record["seconds"])


def main():
    args = parse()
    environment.check_torch()  # no failure of the work: another node may cure it
    from valley import training

    inputs = [records.identity(args.model), records.identity(args.data), *start_of(args)]
    work = [records.settings(args, *unsaid(args)), *inputs]
    with training.session(args, work) as todo:
        if todo:
            train(args, work)


if __name__ == "__main__":
    main()
