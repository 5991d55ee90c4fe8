"""Look before a run costs a GPU: does the tokenizer end, does the template keep the reasoning, how much is
cut?

Blocks the SFT that depends on it: a refused run writes no preflight.json. Reads the tokenizer and config of
the start model, never its weights. The report keeps the first example as the model will see it, ids and all.

    python scripts/preflight.py --model models/S/seed0 --data data/subsets/128/seed0.parquet --out /tmp/preflight.json \\
        --max-length 512 --batch 1 --epochs 4 --max-truncated 0.02
"""

import math
from pathlib import Path

from valley import flags, prompts, records


def weights_bytes(model: Path) -> int:
    """Bytes of the safetensors in a model folder."""
    return sum(file.stat().st_size for file in model.glob("*.safetensors"))


def training_memory(parameters: int, layers: int, hidden: int, tokens: int) -> dict[str, float]:
    """GPU memory in GiB of full fine-tuning, all GPUs together: states, and activations of one example of
    `tokens`.

    16 bytes a parameter for mixed-precision AdamW (bf16 weights and gradients, fp32 master, two moments:
    Rajbhandari et al. 2020, section 3.1); with gradient checkpointing the stored activations are one bf16
    vector a token and layer.
    """
    gib = 2**30
    return {
        "states_gib": round(16 * parameters / gib, 3),
        "activations_gib": round(2 * layers * hidden * tokens / gib, 3),
    }


def refuse(args, reasons: list[str]):
    """Stop with all reasons when there are any."""
    if reasons:
        records.fail(
            f"{args.model} on {args.data}",
            "preflight refuses this run: " + "; ".join(reasons),
            "No GPU was used",
        )


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--max-length", required=True, type=int)
    parser.add_argument("--completion", choices=["trace", "solution"], default="trace")
    parser.add_argument("--batch", required=True, type=int)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument(
        "--max-truncated", required=True, type=float, help="share of cut examples that is still accepted"
    )
    flags.add_prompt(parser)
    args = parser.parse_args()

    rows = records.read_parquet(args.data, ["problem", "answer", args.completion]).to_pylist()
    config = records.read_json(args.model / "config.json")
    config = config.get("text_config", config)
    tokenizer = prompts.load_tokenizer(args.model)
    refusals = prompts.tokenizer_problems(tokenizer, config.get("max_position_embeddings"), args.max_length)
    refusals += prompts.template_problems(tokenizer, rows[0]["problem"], rows[0][args.completion])
    refuse(args, refusals)

    uncut = prompts.training_rows(tokenizer, rows, args.completion, args.system, args.suffix, 1 << 40)
    lengths = sorted(len(row["input_ids"]) for row in uncut)
    truncated = sum(n > args.max_length for n in lengths) / len(lengths)
    if truncated > args.max_truncated:
        refusals.append(
            f"{truncated:.1%} of the examples exceed max_length {args.max_length} and would lose their end; "
            f"{args.max_truncated:.1%} are allowed (preflight.max_truncated)"
        )
    first = uncut[0]
    if first["labels"][-1] != tokenizer.eos_token_id:
        refusals.append("the last supervised token is not the end token")
    refuse(args, refusals)

    supervised = [token for token in first["labels"] if token != -100]
    parameters = weights_bytes(args.model) // (
        4 if config.get("dtype", config.get("torch_dtype")) == "float32" else 2
    )
    records.write_json(
        args.out,
        {
            "examples": len(rows),
            "truncated": truncated,
            "end_token": tokenizer.eos_token,
            "pad_token": tokenizer.pad_token,
            "length": {
                f"p{p}": lengths[min(len(lengths) - 1, len(lengths) * p // 100)] for p in (5, 50, 95, 99)
            }
            | {"max": lengths[-1]},
            "supervised_share": sum(t != -100 for row in uncut for t in row["labels"]) / sum(lengths),
            "optimiser_steps": args.steps or math.ceil(len(rows) / args.batch) * args.epochs,
            "parameters": parameters,
            "memory": training_memory(
                parameters,
                config["num_hidden_layers"],
                config["hidden_size"],
                min(lengths[-1], args.max_length),
            ),
            "sample": {
                "prompt": tokenizer.decode(first["input_ids"][: first["labels"].count(-100)]),
                "completion": tokenizer.decode(supervised),
                "ids": first["input_ids"][:64],
            },
        },
    )
    records.done(
        f"preflight passed: {len(rows)} examples, {truncated:.1%} cut, p95 {lengths[len(lengths) * 95 // 100]} tokens",
        args.out,
    )


if __name__ == "__main__":
    main()
