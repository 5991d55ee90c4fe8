"""Sample one cell's responses to one task: k samples a problem, every sampling parameter recorded.

    python scripts/generate.py --model models/S/seed0 --task data/tasks/chain.parquet \\
        --out /tmp/chain.parquet \\
        --samples 1 --temperature 0.6 --top-p 0.95 --max-new-tokens 320 --max-context 512 --seed 0 \\
        --engine transformers

Two engines behind one flag: `vllm` (GPUs, the paper's; one engine a visible GPU, all fed from one queue) and
`transformers` (CPU: prompts of similar length in batches). The model's own generation_config is never used.
Prompts are rendered as in training and passed as token ids (one BOS); responses come back as ids and are
decoded by the same tokenizer. A killed job continues with the missing parts (valley/chunks.py) and ends with
the same responses (vLLM: wherever its kernels give the same logits whatever else is in the batch; true on
CPU, not promised on GPUs).

With `--then` the same start of the engine serves further tasks (`generate.one_start` in the config): it makes
their chunks, and the job of each finds them and puts them together without an engine.
"""

import argparse
import sys
from pathlib import Path

from valley import chunks, environment, flags, grid, manifests, prompts, records


def parse():
    parser = flags.parser(__doc__)
    parser.add_argument("--model", required=True, type=Path, help="model folder")
    parser.add_argument("--task", required=True, type=Path, help="task (parquet: id, problem, answer)")
    parser.add_argument("--out", required=True, type=Path, help="responses to write (parquet)")
    parser.add_argument("--samples", type=int, required=True, help="k: samples a problem")
    parser.add_argument(
        "--stop-tokens", nargs="*", default=[], help="tokens that end a response, beside the end token"
    )
    flags.add(parser, flags.SAMPLING)
    parser.add_argument("--seed", type=int, default=0, help="drives the sampling")
    parser.add_argument(
        "--then",
        nargs=3,
        action="append",
        default=[],
        metavar=("TASK", "SAMPLES", "OUT"),
        help="a further task: its chunks, for a job of its own",
    )
    flags.add_prompt(parser)
    flags.add_think(parser)
    return parser.parse_args()


def work_of(args) -> list:
    """What tells the responses of `args` from others."""
    return [
        records.settings(args, *chunks.ASIDE),
        records.identity(args.model),
        records.identity(args.task),
    ]


def asked(args, tokenizer) -> tuple:
    """(args, items, sources) of what chunks.generated makes: the task's prompts, k times each; bounds
    args.max_new_tokens by what the longest prompt leaves.
    """
    problems = records.read_parquet(
        args.task, dict.fromkeys(("id", "problem", "answer"), "text?")
    ).to_pylist()
    for row in problems:
        if not row["id"] or not row["problem"] or not (row["answer"] or "").strip():
            records.fail(
                args.task,
                f"row {row['id']!r} has no id, problem or answer",
                "Mend the task's source; nothing was generated",
            )
    if len({row["id"] for row in problems}) != len(problems):
        records.fail(args.task, "has two rows with one id", "Ids must be unique")
    prompt_ids = prompts.prompt_ids(tokenizer, [row["problem"] for row in problems], args.system, args.suffix)
    longest = max(map(len, prompt_ids))
    if longest >= args.max_context:
        records.fail(
            args.task,
            f"a prompt of {longest} tokens leaves no room in {args.max_context}",
            "Raise generate.max_context",
        )
    args.max_new_tokens = min(args.max_new_tokens, args.max_context - longest)
    items = [
        ((problem["id"], k), ids)
        for problem, ids in zip(problems, prompt_ids, strict=True)
        for k in range(args.samples)
    ]
    return args, items, [records.sha256(args.task)]


def further(args, tokenizer):
    """What `asked` gives of each task of `--then`, with the arguments that its own job has; not of one that
    is made, whose problems are not there yet, or in which something is wrong: its own job will say so.
    """
    for task, samples, out in args.then:
        own = {"task": Path(task), "samples": int(samples), "out": Path(out), "then": []}
        other = argparse.Namespace(**vars(args) | own)
        if not other.task.exists():
            print(f"{task} is not there yet: its own job will make {out}", file=sys.stderr)
        elif not (
            other.out.exists()
            and records.parquet_provenance(other.out).get("work") == grid.fingerprint(work_of(other))
        ):
            try:
                yield asked(other, tokenizer)
            except SystemExit as fault:
                print(f"{fault} (left to its own job)", file=sys.stderr)


def write_responses(args, work: list):
    """Sample as `args` say, work that `work` names, and write the responses."""
    manifests.check_model(args.model)
    tokenizer = prompts.load_tokenizer(args.model)
    ahead = [*further(args, tokenizer)]  # before `asked` bounds what they start from
    args, items, sources = asked(args, tokenizer)

    def row(what, response):
        return {
            "id": what[0],
            "sample": what[1],
            "prompt": tokenizer.decode(response.ids),
            "response": response.text,
            "prompt_tokens": len(response.ids),
            "tokens": len(response.out),
            "seed": response.seed,
            "finish_reason": response.finish_reason,
        }

    table, record = chunks.generated(args, tokenizer, items, sources, row, ["id", "sample"], ahead=ahead)
    records.write_parquet(args.out, table, provenance=record | {"work": grid.fingerprint(work)})
    chunks.finish(args.out, record)
    records.done(f"{table.num_rows} responses", args.out, record["seconds"])


def main():
    args = parse()
    environment.check_torch()  # no failure of the work: another node may cure it
    work = work_of(args)
    with chunks.generation(args, work) as todo:
        if todo:
            write_responses(args, work)


if __name__ == "__main__":
    main()
