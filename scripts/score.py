"""Score one cell from its grades: avg@k with an interval, outcome shares, lengths, reflection; per task and over tasks.

    python scripts/score.py --grades results/S/base/seed0/grades.parquet --headline chain --out /tmp/scores.json

The headline accuracy is the plain mean of avg@k over the `--headline` tasks (in the paper the three benchmarks, not
the arithmetic). The file holds no times: equal grades give
equal bytes.
"""

import collections
from pathlib import Path

import numpy

from valley import flags, grading, records, statistics


def score_task(rows: list[dict]) -> dict:
    """Scores of one task's graded responses."""
    by_problem = collections.defaultdict(list)
    for row in rows:
        by_problem[row["id"]].append(float(row["correct"]))
    per_problem = statistics.mean_by_problem(by_problem)
    low, high = statistics.interval_over_problems(per_problem)
    outcomes = collections.Counter(row["outcome"] for row in rows)
    tokens = numpy.array([row["tokens"] for row in rows])
    return {
        "problems": len(by_problem), "samples": len(rows) // len(by_problem), "accuracy": float(per_problem.mean()),
        "accuracy_low": low, "accuracy_high": high, "boxed": float(numpy.mean([row["boxed"] for row in rows])),
        "outcomes": {name: outcomes[name] / len(rows) for name in grading.OUTCOMES},
        "length": float(tokens.mean()), "length_median": float(numpy.median(tokens)), "length_p95": float(numpy.quantile(tokens, 0.95)),
        "reflection": float(numpy.mean([row["reflective"] for row in rows])),
    }  # fmt: skip


def score(tasks: dict[str, dict], headline: list[str]) -> dict:
    """Scores of a cell: plain means over the headline tasks, whose intervals are combined as independent; then each task's."""
    chosen = [tasks[name] for name in headline]
    mean = lambda key: float(numpy.mean([task[key] for task in chosen]))  # noqa: E731
    accuracy = mean("accuracy")
    half = float(numpy.sqrt(sum((t["accuracy_high"] - t["accuracy_low"]) ** 2 for t in chosen))) / 2 / len(chosen)
    one = chosen[0] if len(chosen) == 1 else None
    return {
        "accuracy": accuracy,
        "accuracy_low": one["accuracy_low"] if one else max(0.0, accuracy - half),
        "accuracy_high": one["accuracy_high"] if one else min(1.0, accuracy + half),
        "length": mean("length"), "boxed": mean("boxed"), "reflection": mean("reflection"),
        "outcomes": {name: float(numpy.mean([t["outcomes"][name] for t in chosen])) for name in grading.OUTCOMES},
        "tasks": tasks,
    }  # fmt: skip


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--grades", required=True, type=Path)
    parser.add_argument("--headline", required=True, nargs="+", help="tasks whose mean is the headline accuracy")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    rows = collections.defaultdict(list)
    columns = ["task", "id", "correct", "boxed", "outcome", "tokens", "reflective"]
    for row in records.read_parquet(args.grades, columns).to_pylist():
        rows[row["task"]].append(row)
    if missing := sorted(set(args.headline) - set(rows)):
        records.fail(args.grades, f"has no grades of {', '.join(missing)}", "Grade the cell again, or mend report.headline")
    result = score({task: score_task(graded) for task, graded in rows.items()}, args.headline)
    records.write_json(args.out, result)
    records.done(f"accuracy {result['accuracy']:.3f} [{result['accuracy_low']:.3f}–{result['accuracy_high']:.3f}]", args.out)


if __name__ == "__main__":
    main()
