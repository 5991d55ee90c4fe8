"""What an empty policy scores on each benchmark: the floor under every accuracy.

    python scripts/floors.py --tasks data/tasks/chain.parquet --out /tmp/floors.csv

Two policies that read the problem and solve nothing: answer with the benchmark's most frequent gold answer
(`most_frequent`, what chance gives at best), and box the longest formula of the problem, by the headline's
grader (`longest_formula`), by the same without its guard against copies (`unguarded`), and by the paper's
(`longest_formula_paper`). No model is needed.
"""

import collections
from pathlib import Path

from valley import equality, flags, golds, grading, notation, records
from valley.analysis import tables


def floors(rows: list[dict], comparer: equality.Comparer) -> dict:
    """The floors of one task from its rows."""
    boxed = grading.floor([(row["problem"], row["answer"], golds.rules(row)) for row in rows], comparer)
    frequent = collections.Counter(notation.normal(row["answer"]) for row in rows).most_common(1)[0][1]
    return {
        "problems": len(rows),
        "most_frequent": frequent / len(rows),
        "longest_formula": boxed["headline"],
        "unguarded": boxed["headline"] + boxed["copied"],
        "longest_formula_paper": boxed["paper"],
    }


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--tasks", required=True, type=Path, nargs="+")
    parser.add_argument("--workers", type=int, default=1, help="processes that compare answers by algebra")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    import pandas

    with equality.Comparer(args.workers) as comparer:
        rows = [{"task": path.stem} | floors(golds.task(path), comparer) for path in args.tasks]
    tables.write(args.out.parent, {args.out.stem: pandas.DataFrame(rows)})
    records.done(f"floors of {len(rows)} tasks", args.out)


if __name__ == "__main__":
    main()
