"""Bring a set of problems with answers into the study's folder: a benchmark, or the problems of RL.

    python scripts/fetch_task.py --source HuggingFaceH4/MATH-500 --revision 6e4ed1a… --split test --out /tmp/math500.parquet
    python scripts/fetch_task.py --source data/amc23.jsonl --out /tmp/amc23.parquet

Writes id, problem, answer (text), level, and the rules of each gold answer: order, tolerance, unit, base. These
come from columns of the source, else from the reviewed list of our benchmarks (valley/golds.py). A list of answers
is one answer with several values, and needs the rule `order`. A row without problem or answer is an error, never
silently dropped. An answer that the grader cannot read is named on standard error, in the closing line and in the
file's metadata (`unreadable`): only a response with the very same string will equal it.
"""

import os
import sys
from pathlib import Path

from valley import equality, flags, golds, intake, records


def rows_of(source: str, revision: str | None, name: str | None, split: str | None) -> list[dict]:
    """The rows of a local .jsonl, .json or .parquet file, or of a hub data set at a pinned commit."""
    if local := intake.local_file(source):
        return list(intake.each_checked(local, intake.read_rows(local), lambda row: row))
    if not revision:
        records.fail(
            source,
            "no revision pins its commit",
            "Give the 40-digit commit in the config, or a local file as source",
        )
    os.environ["HF_HUB_OFFLINE"] = "0"
    from datasets import load_dataset

    return load_dataset(source, name, revision=revision, split=split or "train").to_list()


def task_row(row: dict, known: dict[str, dict], source: str) -> dict:
    """A row of the task from a row of the source; what cannot be used stops with the row named."""
    identity, problem, answer = (row.get(key) for key in ("id", "problem", "answer"))
    if isinstance(answer, list):
        if len(answer) > 1 and not isinstance(row.get("order"), bool):
            records.fail(
                source,
                f"row {identity!r} has several answers and no rule",
                "Give it a column `order`: true or false",
            )
        answer = ", ".join(map(str, answer)) if all(golds.no_gold(one) is None for one in answer) else None
    why = None if isinstance(problem, str) and problem.strip() else "has no problem"
    if why := why or golds.no_gold(answer) or golds.no_rule(row):
        records.fail(source, f"row {identity!r} {why}", "Mend the source or leave the row out")
    found = known.get(golds.key(problem), {})
    rules = row if any(row.get(name) is not None for name in golds.COLUMNS) else found
    if (
        found
        and str(answer).lstrip("0") != found["answer"].lstrip("0")
        and not equality.quick(equality.Pair("headline", found["answer"], str(answer)))
    ):
        print(
            f"warning: {source}: {identity!r} has the answer {answer!r}, the reviewed list {found['answer']!r}",
            file=sys.stderr,
        )
    level = str(row["level"]) if row.get("level") is not None else None
    return {"id": str(identity), "problem": problem, "answer": str(answer), "level": level} | golds.rules(
        rules
    )._asdict()


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--source", required=True, help="hub id, or local .jsonl, .json or .parquet")
    parser.add_argument("--revision", default=None)
    parser.add_argument("--name", default=None, help="configuration of the hub data set")
    parser.add_argument("--split", default=None)
    parser.add_argument(
        "--where", default=None, help="column=text: keep only rows whose column contains the text"
    )
    parser.add_argument("--limit", type=int, default=None, help="keep the first so many rows")
    parser.add_argument("--problems", type=int, default=None, help="how many there must be before --limit")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    rows = rows_of(args.source, args.revision, args.name, args.split)
    if args.where:
        column, text = args.where.split("=", 1)
        rows = [row for row in rows if text in str(row.get(column, ""))]
    if args.problems not in (None, len(rows)):
        records.fail(
            args.source,
            f"gives {len(rows)} problems, {args.problems} are expected",
            "Check `where`, `split` and `revision` in the config, or correct `problems`",
        )
    rows, known, out, first = rows[: args.limit], golds.reviewed(), [], {}
    doors = intake.each_checked(args.source, rows, intake.checked_problem)
    for number, (row, door) in enumerate(zip(rows, doors, strict=True)):
        identity = str(number) if door["id"] is None else door["id"]
        if identity in first:
            records.fail(
                args.source,
                f"rows {first[identity] + 1} and {number + 1} have the same id {identity!r}",
                "Give each problem an id of its own, or none at all",
            )
        first[identity] = number
        out.append(task_row(row | {"id": identity, "problem": door["problem"]}, known, args.source))
    if not out:
        records.fail(args.source, "gives no rows", "Check `where`, `name` and `split` in the config")
    import pyarrow

    unread = equality.unreadable([row["answer"] for row in out])
    for row in out:
        if row["answer"] in unread:
            print(
                f"warning: {args.source}: the answer of {row['id']!r} cannot be read: {row['answer']!r}",
                file=sys.stderr,
            )
    records.write_parquet(
        args.out,
        pyarrow.Table.from_pylist(out, golds.schema()),
        provenance=records.provenance(args) | {"unreadable": unread},
    )
    records.done(
        f"{len(out)} problems" + (f", {len(unread)} unreadable answers (see the log)" if unread else ""),
        args.out,
    )


if __name__ == "__main__":
    main()
