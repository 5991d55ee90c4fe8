"""Grade all stored responses of one cell: the verdict, the extracted answer and the way each response failed.

    python scripts/grade.py --responses results/S/base/seed0/responses/chain.parquet --tasks data/tasks/chain.parquet \\
        --samples 1 --out /tmp/grades.parquet

`--responses`, `--tasks` and `--samples` are lists in the same order. Responses are stored once and may be graded as often
as one likes; a problem without exactly k responses is an error, never an average over fewer.
"""

import collections
from pathlib import Path

from valley import flags, grading, records, reflection


def grade_task(responses: list[dict], problems: list[dict], task: str, samples: int, where: str) -> list[dict]:
    """One graded row a response, in the order of the responses; `where` names the file in errors."""
    gold = {row["id"]: row["answer"] for row in problems}
    for row in problems:
        if not (row["answer"] or "").strip():
            records.fail(where, f"the task has no answer for {row['id']!r}", "Mend the task's source")
    count = collections.Counter(row["id"] for row in responses)
    if unknown := sorted(set(count) - set(gold)):
        records.fail(where, f"has responses to problems the task lacks, {unknown[0]!r} first", "Generate this cell again")
    if short := [i for i in gold if count[i] != samples]:
        records.fail(where, f"problem {short[0]!r} has {count[short[0]]} responses, {samples} are needed",
                     "The file is incomplete: remove it and run again")  # fmt: skip
    rows = []
    for row in responses:
        verdict = grading.grade(row["response"], row["finish_reason"], gold[row["id"]])
        rows.append(
            {"task": task, "id": row["id"], "sample": row["sample"], "gold": gold[row["id"]]} | verdict
            | {"tokens": row["tokens"], "finish_reason": row["finish_reason"], "reflective": reflection.is_reflective(row["response"])}
        )  # fmt: skip
    return rows


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--responses", required=True, type=Path, nargs="+")
    parser.add_argument("--tasks", required=True, type=Path, nargs="+")
    parser.add_argument("--samples", required=True, type=int, nargs="+")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    graded = []
    for responses, task, samples in zip(args.responses, args.tasks, args.samples, strict=True):
        given = records.read_parquet(responses, ["id", "sample", "response", "tokens", "finish_reason"]).to_pylist()
        problems = records.read_parquet(task, ["id", "answer"]).to_pylist()
        graded += grade_task(given, problems, responses.stem, samples, str(responses))
    records.write_parquet(args.out, graded, provenance=records.provenance(args))
    records.done(f"{len(graded)} grades, {sum(row['correct'] for row in graded) / len(graded):.3f} correct", args.out)


if __name__ == "__main__":
    main()
