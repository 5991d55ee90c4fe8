"""Score one cell from its grades: avg@k with two intervals, pass@k, maj@k, how responses end, lengths,
reflection.

    python scripts/score.py --grades results/S/base/seed0/grades.parquet --headline chain --length chain \\
        --out /tmp/scores.json

The headline accuracy is the plain mean of avg@k over the `--headline` tasks (in the paper the three
benchmarks, not the arithmetic), the headline length that of the `--length` tasks (in the paper MATH500), and
so is that of reflection. Intervals come in pairs: `samples_*` for these very problems sampled anew,
`problems_*` for other problems of their kind. `solved` keeps the correct responses of every problem, from
which any two cells can be compared. `reflection_measure` says whether a judge had a word in it; then
`crossing` has the shares of responses by keywords and judge. The file holds no times: equal grades give equal
bytes.
"""

import collections
from pathlib import Path

import numpy

from valley import flags, grading, records, reflection
from valley.analysis import intervals
from valley.analysis.measures import ACCURACIES

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MEASURED = (
    "length",
    "reflection",
    "length_reflective",
    "length_other",
)  # on the length tasks, as in the paper
SHARES = ACCURACIES | {name: name for name in ("boxed", "timeout", "copied")}


def by_problem(rows: list[dict], where: str) -> dict[str, list[dict]]:
    """Graded responses by problem, the same number each or the scores would be no avg@k."""
    problems = collections.defaultdict(list)
    for row in rows:
        problems[row["id"]].append(row)
    counts = collections.Counter(map(len, problems.values()))
    if len(counts) > 1:
        samples = counts.most_common(1)[0][0]
        odd = next(i for i, graded in problems.items() if len(graded) != samples)
        records.fail(
            where,
            f"problem {odd!r} has {len(problems[odd])} grades, the others {samples}",
            "Grade the cell again",
        )
    return problems


def mean(values) -> float | None:
    """The mean, None of nothing."""
    values = list(values)
    return float(numpy.mean(values)) if values else None


def disagreements(rows: list[dict]) -> dict[str, float]:
    """How far the graders agree: shares of responses that only one of them accepts, and what the last number
    adds.

    `last_number` is the accuracy (as a share) that the paper's grade owes to its fallback, the last number
    of a text.
    """
    return {
        "paper_only": mean(row["correct_paper"] and not row["correct"] for row in rows),
        "headline_only": mean(row["correct"] and not row["correct_paper"] for row in rows),
        "last_number": mean(row["correct_paper"] and row["source_paper"] == "last number" for row in rows),
    }


def with_ends(intervals: dict[str, tuple]) -> dict[str, float | None]:
    """`name`, `name_low`, `name_high` of each (estimate, low, high)."""
    return {
        f"{name}{end}": value
        for name, ends in intervals.items()
        for end, value in zip(("", "_low", "_high"), ends, strict=True)
    }


def joined(tasks: list[dict], name: str) -> tuple:
    """(mean, low, high) of a measure over tasks; Nones where a task has none."""
    means, lows, highs = ([task[f"{name}{end}"] for task in tasks] for end in ("", "_low", "_high"))
    return (
        (None, None, None)
        if None in means
        else (mean(means), *intervals.join(means, list(zip(lows, highs, strict=True))))
    )


def score_task(rows: list[dict], confidence: float, where: str = "grades") -> dict:
    """Scores of one task's graded responses."""
    problems = by_problem(rows, where)
    samples = len(rows) // len(problems)
    solved = {problem: sum(row["correct"] for row in graded) for problem, graded in problems.items()}
    counts = numpy.array(list(solved.values()))
    outcomes = collections.Counter(row["outcome"] for row in rows)
    tokens = numpy.array([row["tokens"] for row in rows])
    accuracy, length = float(counts.mean() / samples), float(tokens.mean())
    made, wrong = (
        numpy.array([row[name] or 0 for row in rows]) for name in ("calculations", "wrong_calculations")
    )
    counted, judged = rows[0]["calculations"] is not None, rows[0]["judged"] is not None
    reflective = numpy.array([row["reflective"] for row in rows], float)
    labels = numpy.array([row["id"] for row in rows])
    measured = {
        "length": (tokens, numpy.ones(len(rows))),
        "reflection": (reflective, numpy.ones(len(rows))),
        "length_reflective": (tokens * reflective, reflective),
        "length_other": (tokens * (1 - reflective), 1 - reflective),
        "calculation_errors": (wrong, made),
    }
    paper = numpy.array([sum(row["correct_paper"] for row in graded) for graded in problems.values()])
    powers = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    return {
        "problems": len(problems),
        "samples": samples,
        "accuracy": accuracy,
        **dict(
            zip(
                ("samples_low", "samples_high"),
                intervals.over_samples(counts, samples, confidence),
                strict=True,
            )
        ),
        **dict(
            zip(
                ("problems_low", "problems_high"),
                intervals.over_problems([(counts, samples)], confidence),
                strict=True,
            )
        ),
        **dict(
            zip(
                ("accuracy_paper_low", "accuracy_paper_high"),
                intervals.over_problems([(paper, samples)], confidence),
                strict=True,
            )
        ),
        **{f"pass@{k}": intervals.pass_at(counts, samples, k) for k in powers},
        "majority": mean(
            grading.majority(
                [r["answer"] for r in graded if r["finish_reason"] == "stop"],
                [r["correct"] for r in graded if r["finish_reason"] == "stop"],
            )
            for graded in problems.values()
        ),
        **{name: mean(row[column] for row in rows) for name, column in SHARES.items()},
        **disagreements(rows),
        "outcomes": {name: outcomes[name] / len(rows) for name in grading.OUTCOMES},
        "token_efficiency": 1000 * accuracy / length if length else None,
        **{f"length_p{round(100 * q):02}": float(numpy.quantile(tokens, q)) for q in QUANTILES},
        "calculations": float(made.mean()) if counted else None,
        **with_ends({name: intervals.ratio(*parts, labels, confidence) for name, parts in measured.items()}),
        "reflection_measure": reflection.MEASURES[judged],
        "crossing": reflection.crossed(*([row[name] for row in rows] for name in ("keywords", "judged")))
        if judged
        else {},
        "solved": solved,
    }


def score(tasks: dict[str, dict], headline: list[str], length: list[str], confidence: float) -> dict:
    """Scores of a cell: means over the headline tasks with joint intervals; then each task's.

    `token_efficiency` is accuracy per 1,000 tokens of the headline length (paper, section 4).
    """
    chosen = [tasks[name] for name in headline]
    counts = [(numpy.array(list(task["solved"].values())), task["samples"]) for task in chosen]
    ends = [(task["samples_low"], task["samples_high"]) for task in chosen]
    accuracy = mean(task["accuracy"] for task in chosen)
    measured = {name: joined([tasks[task] for task in length], name) for name in MEASURED}
    tokens = measured["length"][0]
    shares = ("majority", *SHARES, "paper_only", "headline_only", "last_number")
    return {
        "accuracy": accuracy,
        **dict(
            zip(
                ("samples_low", "samples_high"),
                intervals.join([t["accuracy"] for t in chosen], ends),
                strict=True,
            )
        ),
        **dict(
            zip(("problems_low", "problems_high"), intervals.over_problems(counts, confidence), strict=True)
        ),
        **{name: mean(task[name] for task in chosen) for name in shares},
        "outcomes": {name: mean(task["outcomes"][name] for task in chosen) for name in grading.OUTCOMES},
        **with_ends({"accuracy_paper": joined(chosen, "accuracy_paper")} | measured),
        "token_efficiency": 1000 * accuracy / tokens if tokens else None,
        "reflection_measure": tasks[length[0]]["reflection_measure"],
        "tasks": tasks,
    }


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--grades", required=True, type=Path)
    parser.add_argument(
        "--headline", required=True, nargs="+", help="tasks whose mean is the headline accuracy"
    )
    parser.add_argument("--length", required=True, nargs="+", help="tasks whose mean is the headline length")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    columns = {"task": "text", "id": "text", "answer": "text?", "correct": "truth values", "source_paper": "text?",
               "outcome": "text", "tokens": "whole numbers", "finish_reason": "text", "calculations": "whole numbers?",
               "wrong_calculations": "whole numbers?", "reflective": "truth values", "keywords": "truth values",
               "judged": "text?"} | dict.fromkeys(SHARES.values(), "truth values")  # fmt: skip
    rows = collections.defaultdict(list)
    for row in records.read_parquet(args.grades, columns).to_pylist():
        rows[row["task"]].append(row)
    if missing := sorted({*args.headline, *args.length} - set(rows)):
        records.fail(
            args.grades,
            f"has no grades of {', '.join(missing)}",
            "Grade the cell again, or mend report.headline",
        )
    tasks = {
        task: score_task(graded, args.confidence, f"{args.grades} ({task})") for task, graded in rows.items()
    }
    result = score(tasks, args.headline, args.length, args.confidence)
    records.write_json(args.out, result)
    span = f"{result['problems_low']:.3f}–{result['problems_high']:.3f}"
    records.done(f"accuracy {result['accuracy']:.3f} [{span}]", args.out)


if __name__ == "__main__":
    main()
