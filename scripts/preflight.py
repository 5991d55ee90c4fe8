"""Look before a run costs a GPU: does the tokenizer end, does the template keep the reasoning, how much is
cut, and are the traces what they should be?

Blocks the SFT that depends on it: a refused run writes no preflight.json. Reads the tokenizer and config of
the start model, never its weights. Tokenises the subset for all who train on it (valley/tokenised.py), and
measures what it made. The report keeps the first example as the model will see it, ids and all.

    python scripts/preflight.py --model models/S/seed0 --data data/subsets/128/seed0.parquet \\
        --out /tmp/preflight.json \\
        --max-length 512 --batch 1 --epochs 4 --max-truncated 0.02
"""

import math
from pathlib import Path

from valley import contract, flags, prompts, records, tokenised, weights


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


def measured(table, max_length: int, completion: str) -> dict:
    """What the report says of a tokenised subset (an arrow table of tokenised.schema()); reads no token."""
    import numpy
    import pyarrow.compute

    lengths = pyarrow.compute.list_value_length(table["input_ids"]).to_numpy().astype(numpy.int64)
    column = {name: table[name].to_numpy() for name in table.column_names if name != "input_ids"}
    answer = lengths - column["prompt"] - 1  # without the end token
    empty = [
        contract.nearly_empty(*pair, completion) for pair in zip(answer, column["characters"], strict=True)
    ]
    ordered = numpy.sort(lengths)
    at = {f"p{p}": int(ordered[min(len(ordered) - 1, len(ordered) * p // 100)]) for p in (5, 50, 95, 99)}
    return {
        "examples": len(lengths),
        "tokens": int(lengths.sum()),
        "truncated": float((lengths > max_length).mean()),
        "length": at | {"max": int(ordered[-1])},
        "supervised_share": float((lengths - column["prompt"]).sum() / lengths.sum()),
        "shortest": int(answer.min()),
        "shares": {
            "unknown_tokens": float(column["unknown"].sum() / max(1, answer.sum())),
            "nearly_empty": float(numpy.mean(empty)),
            "no_box": float(1 - column["boxed"].mean()),
        }
        | ({"thought_not_closed": float(1 - column["closed"].mean())} if completion == "trace" else {}),
    }


def content_problems(found: dict, max_length: int, max_truncated: float) -> list[str]:
    """Why a subset with these measures should not be trained on."""
    shares, problems = found["shares"], []
    if found["truncated"] > max_truncated:
        problems.append(
            f"{found['truncated']:.1%} of the examples exceed max_length {max_length} and would lose their end; "
            f"{max_truncated:.1%} are allowed (preflight.max_truncated)"
        )
    return problems + list(contract.text_faults(shares["unknown_tokens"], shares["nearly_empty"]))


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
    parser.add_argument("--workers", type=int, default=1, help="processes that tokenise")
    flags.add_prompt(parser)
    args = parser.parse_args()

    config = records.read_json(args.model / "config.json")
    config = config.get("text_config", config)
    tokenizer = prompts.load_tokenizer(args.model)
    refusals = prompts.tokenizer_problems(tokenizer, config.get("max_position_embeddings"), args.max_length)
    (row,) = records.first_rows(args.data, ["problem", args.completion], 1)
    refusals += prompts.template_problems(tokenizer, row["problem"], row[args.completion])
    refuse(args, refusals)

    file, made = tokenised.obtained(
        args.data, args.model, args.completion, args.system, args.suffix, args.workers
    )
    found = measured(tokenised.mapped(file), args.max_length, args.completion)
    refusals = content_problems(found, args.max_length, args.max_truncated)
    (first,) = prompts.training_rows(tokenizer, [row], args.completion, args.system, args.suffix, None)
    if first["labels"][-1] != tokenizer.eos_token_id:
        refusals.append("the last supervised token is not the end token")
    refuse(args, refusals)

    supervised = [token for token in first["labels"] if token != -100]
    parameters = weights.stored_parameters(args.model)
    report = {
        "end_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "optimiser_steps": args.steps or math.ceil(found["examples"] / args.batch) * args.epochs,
        "parameters": parameters,
        "tokenised": made,
        "memory": training_memory(
            parameters,
            config["num_hidden_layers"],
            config["hidden_size"],
            min(found["length"]["max"], args.max_length),
        ),
        "sample": {
            "prompt": tokenizer.decode(first["input_ids"][: first["labels"].count(-100)]),
            "completion": tokenizer.decode(supervised),
            "ids": first["input_ids"][:64],
        },
    }
    records.write_json(args.out, found | report)
    told = {
        "cut": found["truncated"],
        "with an open thought": found["shares"].get("thought_not_closed"),
        "without a box": found["shares"]["no_box"],
        "of the tokens unknown": found["shares"]["unknown_tokens"],
    }
    shown = ", ".join(f"{share:.1%} {what}" for what, share in told.items() if share is not None)
    records.done(
        f"preflight passed: {found['examples']} examples, {shown}, p95 {found['length']['p95']} tokens",
        args.out,
    )


if __name__ == "__main__":
    main()
