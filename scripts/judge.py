"""Have an open model label one cell's responses with the paper's categories of reflection (section 6).

    python scripts/judge.py --model models/qwen2.5-7b/fetched \\
        --responses results/S/base/seed0/responses/math500.parquet \\
        --tasks data/tasks/math500.parquet --prompt workflow/reference/judge_prompt.txt \\
        --max-characters 30000 \\
        --engine transformers --max-context 18432 --out /tmp/judged.parquet

The paper asked GPT-4o-mini by a prompt it does not give; this one is ours. Greedy, a few tokens. An answer
that is not one of the four digits is kept and counted as unreadable (label null), never guessed. Long
responses are shown by head and tail. A killed job continues (valley/chunks.py). grade.py crosses the labels
with the keywords.
"""

import collections
from pathlib import Path

from valley import chunks, environment, flags, grid, manifests, prompts, records, reflection

TOKENS = 8  # room for a digit with a word or quotes around it; an answer that needs more is no label


def parse():
    parser = flags.parser(__doc__)
    parser.add_argument("--model", required=True, type=Path, help="folder of the judge")
    parser.add_argument("--responses", required=True, type=Path, nargs="+")
    parser.add_argument("--tasks", required=True, type=Path, nargs="+", help="their tasks, in the same order")
    parser.add_argument("--prompt", required=True, type=Path, help="text with {problem} and {response}")
    parser.add_argument("--max-characters", required=True, type=int, help="of a response that are shown")
    parser.add_argument("--out", required=True, type=Path, help="labels to write (parquet)")
    parser.add_argument(
        "--stop-tokens", nargs="*", default=[], help="tokens that end an answer, beside the end token"
    )
    flags.add(parser, flags.JUDGING)
    parser.set_defaults(temperature=0.0, top_p=1.0, max_new_tokens=TOKENS, seed=0)
    return parser.parse_args()


def questions(responses: Path, task: Path, prompt: str, longest: int) -> list[tuple]:
    """((task, problem, sample), what the judge is asked) of every response to a task."""
    problems = {
        row["id"]: row["problem"]
        for row in records.read_parquet(task, {"id": "text", "problem": "text"}).to_pylist()
    }
    rows = records.read_parquet(
        responses, {"id": "text", "sample": "whole numbers", "response": "text"}
    ).to_pylist()
    if unknown := sorted({row["id"] for row in rows} - set(problems)):
        records.fail(
            responses,
            f"has responses to problems the task lacks, {unknown[0]!r} first",
            "Generate this cell again",
        )
    return [
        (
            (responses.stem, row["id"], row["sample"]),
            reflection.question(prompt, problems[row["id"]], row["response"], longest),
        )
        for row in rows
    ]


def label(what: tuple, response: chunks.Response) -> dict:
    """The row of one answer; one that was cut off names no category."""
    read = reflection.read_label(response.text) if response.finish_reason == "stop" else None
    return {
        "task": what[0],
        "id": what[1],
        "sample": what[2],
        "label": read,
        "text": response.text,
        "prompt_tokens": len(response.ids),
        "finish_reason": response.finish_reason,
    }


def write_labels(args, work: list):
    """Judge as `args` say, work that `work` names, and write the labels."""
    import pyarrow

    prompt = args.prompt.read_text(encoding="utf-8")
    if set(reflection.PLACE.findall(prompt)) != {"problem", "response"}:
        records.fail(
            args.prompt, "does not hold both {problem} and {response}", "Mark where the two texts go"
        )
    asked = [
        question
        for responses, task in zip(args.responses, args.tasks, strict=True)
        for question in questions(responses, task, prompt, args.max_characters)
    ]
    manifests.check_model(args.model)
    tokenizer = prompts.load_tokenizer(args.model)
    ids = prompts.prompt_ids(tokenizer, [text for _, text in asked], None, "")
    longest = max(map(len, ids))
    if longest + TOKENS > args.max_context:
        records.fail(
            args.out,
            f"a question to the judge has {longest} tokens, {args.max_context} have room",
            "Lower report.judge.max_characters, or raise generate.max_context",
        )
    schema = pyarrow.schema(
        [
            ("task", "string"),
            ("id", "string"),
            ("sample", "int64"),
            ("label", "int8"),
            ("text", "string"),
            ("prompt_tokens", "int64"),
            ("finish_reason", "string"),
        ]
    )
    sources = [records.sha256(path) for path in [*args.responses, *args.tasks, args.prompt]]
    items = [(what, row) for (what, _), row in zip(asked, ids, strict=True)]
    table, record = chunks.generated(args, tokenizer, items, sources, label, ["task", "id", "sample"], schema)
    said = collections.Counter(map(reflection.category, table["label"].to_pylist()))
    records.write_parquet(
        args.out,
        table,
        provenance=record
        | {
            "labels": dict(said),
            "prompt_sha256": records.sha256(args.prompt),
            "work": grid.fingerprint(work),
        },
    )
    chunks.finish(args.out, record)
    counts = ", ".join(f"{said[name]} {name}" for name in (*reflection.CATEGORIES, reflection.UNREADABLE))
    records.done(f"{table.num_rows} labels: {counts}", args.out, record["seconds"])


def main():
    args = parse()
    environment.check_torch()  # no failure of the work: another node may cure it
    work = [
        records.settings(args, *chunks.ASIDE),
        *map(records.identity, [args.model, args.prompt, *args.responses, *args.tasks]),
    ]
    with chunks.generation(args, work) as todo:
        if todo:
            write_labels(args, work)


if __name__ == "__main__":
    main()
