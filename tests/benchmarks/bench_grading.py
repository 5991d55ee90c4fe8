"""grade.py's work against a plain `verify(parse(gold), parse(response))` loop on the same real responses,
side by side.

    python tests/benchmarks/bench_grading.py --data ../shared/data --cells 6

Rows: graded responses of Qwen models and long R1-like traces. Ours is all that a grade job does for a cell
(three verdicts, loops, reflection; two workers, nothing remembered from cell to cell), the plain loop is
Math-Verify alone. The bound of the project is a ratio of 5, and the paper's grid (636,480 responses) in 20
minutes.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import grade
import math_verify
import pyarrow
import pyarrow.parquet

from valley import equality

GRID = 636_480  # responses of the paper's grid: 153 cells of 4,160


def real_rows(data: Path) -> list[dict]:
    """(response, finish_reason, gold, problem) of all real responses at hand."""
    rows = []
    for file in sorted((data / "graded").glob("[qr]*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            case = {"response": row["response"], "finish_reason": "stop", "gold": str(row["gold"])}
            rows.append(case | {"problem": row["problem"]})
    for row in pyarrow.parquet.read_table(data / "traces" / "openr1_like.parquet").to_pylist():
        for text, finish in zip(row["generations"], row["finish_reasons"], strict=True):
            case = {"response": text, "finish_reason": finish, "gold": row["answer"]}
            rows.append(case | {"problem": row["problem"]})
    return rows


def ours(rows: list[dict]) -> float:
    """Seconds of grading the rows as one cell."""
    gold = {str(i): {"answer": row["gold"], "problem": row["problem"]} for i, row in enumerate(rows)}
    table = pyarrow.Table.from_pylist(
        [
            {"id": str(i), "sample": 0, "response": row["response"], "finish_reason": row["finish_reason"]}
            for i, row in enumerate(rows)
        ]
    )
    begun = time.perf_counter()
    with equality.Comparer(workers=2) as comparer:
        grade.grade_task(table, gold, "real", 1, "the benchmark", comparer, count=False, labelled={})
    return time.perf_counter() - begun


def start() -> float:
    """Seconds until two new workers have compared a few roots and sets: import of sympy, first use of the
    parser.
    """
    begun = time.perf_counter()
    with equality.Comparer(workers=2) as comparer:
        comparer(
            [equality.Pair("headline", r"\sqrt{2}", rf"\frac{{\sqrt{{{i}}}}}{{3}}") for i in (3, 5, 7, 11)]
        )
    return time.perf_counter() - begun


def plain(rows: list[dict]) -> float:
    """Seconds of the plain loop."""
    begun = time.perf_counter()
    for row in rows:
        math_verify.verify(math_verify.parse(row["gold"]), math_verify.parse(row["response"]))
    return time.perf_counter() - begun


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--cells", type=int, default=6, help="how often the rows are graded, afresh each time"
    )
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = [row for row in real_rows(args.data) if (row["gold"] or "").strip()]
    print(
        f"{len(rows)} responses, {sum(len(row['response']) for row in rows) / len(rows):,.0f} characters each"
    )
    print(
        f"start of two workers: {start():.1f} s, part of every cell (the server they fork from stays for the later ones)"
    )
    taken = [ours(rows) for _ in range((args.cells + 1) // 2)]
    loop = plain(rows)
    taken += [ours(rows) for _ in range(args.cells // 2)]
    each = sum(taken) / len(taken)
    print(
        f"plain loop {loop:.1f} s, ours {each:.1f} s a cell ({min(taken):.1f}–{max(taken):.1f}): ratio {loop / each:.1f}"
    )
    total = sum(taken) * GRID / (len(rows) * len(taken)) / 60
    print(
        f"{len(rows) * len(taken):,} responses graded in {sum(taken):.1f} s; {GRID:,} would take {total:.1f} minutes"
    )


if __name__ == "__main__":
    main()
