"""Which problems of a study's tasks occur in the traces that it trains on, where decontamination leaves them
in.

    python scripts/leaks.py --traces data/subsets/64/seed0.parquet --tasks data/tasks/chain.parquet \\
        --out /tmp/leaks.csv

By the same overlap of words as decontamination (order_traces.py). The table has a row a problem: `task`,
`id`, and `traces`, the rows of the largest subset that overlap it. The claims are judged again on the other
problems (valley/analysis/sanity.py).
"""

import collections
from pathlib import Path

import pandas

from valley import flags, overlaps, records
from valley.analysis import tables

BATCH = 1000


def leaks(problems: list[dict], traces) -> dict[str, int]:
    """{id: number of traces that overlap it} of a task's problems; `traces` yields problems in batches."""
    of = collections.defaultdict(set)
    manner = overlaps.shared([row["problem"] for row in problems])
    for row in problems:
        for gram in overlaps.ngrams(row["problem"]) - manner:
            of[gram].add(str(row["id"]))
    found: collections.Counter = collections.Counter()
    for batch in traces:
        for problem in batch:
            found.update(set().union(*(of[gram] for gram in overlaps.ngrams(problem) if gram in of)))
    return dict(found)


def main():
    parser = flags.parser(__doc__)
    parser.add_argument(
        "--traces", required=True, type=Path, nargs="+", help="the largest subset of every order"
    )
    parser.add_argument("--tasks", required=True, type=Path, nargs="+", help="tasks that were not taken out")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    rows = []
    for task in args.tasks:
        problems = records.read_parquet(task, ["id", "problem"]).to_pylist()
        traces = (
            batch["problem"].to_pylist()
            for path in args.traces
            for batch in records.parquet_batches(path, ["problem"], BATCH)
        )
        rows += [
            {"task": task.stem, "id": key, "traces": count} for key, count in leaks(problems, traces).items()
        ]
    tables.write(args.out.parent, {args.out.stem: pandas.DataFrame(rows, columns=["task", "id", "traces"])})
    records.done(f"{len(rows)} problems that occur in the traces", args.out)


if __name__ == "__main__":
    main()
