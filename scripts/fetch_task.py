"""Bring a set of problems with answers into the study's folder: a benchmark, or the problems of RL.

    python scripts/fetch_task.py --source HuggingFaceH4/MATH-500 --revision 6e4ed1a… --split test \\
        --out /tmp/math500.parquet
    python scripts/fetch_task.py --source data/amc23.jsonl --out /tmp/amc23.parquet

Writes id, problem, answer (text), level, and the rules of each gold answer: order, tolerance, unit, base.
These come from columns of the source, else from the reviewed list of our benchmarks (valley/golds.py). A list
of answers is one answer with several values, and needs the rule `order`. A row without problem or answer is
an error, never silently dropped. An answer that the grader cannot read is named on standard error, in the
closing line and in the file's metadata (`unreadable`): only a response with the very same string will equal
it.
"""

import os
import sys
from pathlib import Path

from valley import equality, flags, golds, intake, records


def rows_of(source, revision=None, name=None, split=None, where=None) -> list[dict]:
    """The rows of a local .jsonl, .json or .parquet file, or of a hub data set at a pinned commit; those that
    `where` keeps.
    """
    if local := intake.local_file(source):
        return list(intake.each_checked(local, intake.read_rows(local), lambda row: row, where))
    if not revision:
        records.fail(
            source,
            "no revision pins its commit",
            "Give the 40-digit commit in the config, or a local file as source",
        )
    os.environ["HF_HUB_OFFLINE"] = "0"
    from datasets import load_dataset

    rows = load_dataset(source, name, revision=revision, split=split or "train").to_list()
    return [row for row in rows if intake.kept(row, where)]


def main():
    parser = flags.parser(__doc__)
    flags.add_source(parser)
    parser.add_argument("--problems", type=int, default=None, help="how many there must be before --limit")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    noted = intake.noted(args.source)  # before it is read: what is mended meanwhile is read again
    rows = rows_of(args.source, args.revision, args.name, args.split, args.where)
    if args.problems not in (None, len(rows)):
        records.fail(
            args.source,
            f"gives {len(rows)} problems, {args.problems} are expected",
            "Check `where`, `split` and `revision` in the config, or correct `problems`",
        )
    out = golds.task_rows(args.source, rows[: args.limit])
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
        pyarrow.Table.from_pylist(out, golds.task_schema()),
        provenance=records.provenance(args) | noted | {"unreadable": unread},
    )
    records.done(
        f"{len(out)} problems" + (f", {len(unread)} unreadable answers (see the log)" if unread else ""),
        args.out,
    )


if __name__ == "__main__":
    main()
