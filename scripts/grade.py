"""Grade all stored responses of one cell: three verdicts, the extracted answers and the way each response
failed.

    python scripts/grade.py --responses results/S/base/seed0/responses/chain.parquet --tasks data/tasks/chain.parquet \\
        --samples 1 --out /tmp/grades.parquet

`--responses`, `--tasks` and `--samples` are lists in the same order. Responses are stored once and may be
graded as often as one likes; a problem without exactly k responses is an error, never an average over fewer.
Verdicts: valley/grading.py.
"""

import collections
import sys
from pathlib import Path

from valley import calculations, equality, flags, grading, records, reflection

RESPONSE_COLUMNS = {"id": "text", "sample": "whole numbers", "response": "text or bytes?", "tokens": "whole numbers",
             "finish_reason": "text"}  # fmt: skip
LABEL_COLUMNS = {"task": "text", "id": "text", "sample": "whole numbers", "label": "whole numbers?"}


def texts(table, column: str) -> list[str]:
    """A text column, bytes that are no UTF-8 replaced: one broken response must not stop a cell."""
    import pyarrow

    return [
        (value or b"").decode("utf-8", "replace")
        for value in table[column].cast(pyarrow.binary()).to_pylist()
    ]


def check_counts(ids: list[str], gold: dict[str, str], samples: int, where: str):
    """Stop unless every problem of the task has exactly `samples` responses, and no other problem any."""
    count = collections.Counter(ids)
    for problem in gold:
        if not (gold[problem] or "").strip():
            records.fail(where, f"the task has no answer for {problem!r}", "Mend the task's source")
    if unknown := sorted(set(count) - set(gold)):
        records.fail(
            where,
            f"has responses to problems the task lacks, {unknown[0]!r} first",
            "Generate this cell again",
        )
    if odd := [i for i in gold if count[i] != samples]:
        records.fail(
            where,
            f"problem {odd[0]!r} has {count[odd[0]]} responses, {samples} are needed",
            "The file is incomplete: remove it and run again",
        )


def labels(paths: list[Path]) -> dict[str, dict[tuple, str]]:
    """What the judge called each response, by task and (problem, sample); empty without a judge."""
    found = collections.defaultdict(dict)
    for path in paths:
        for row in records.read_parquet(path, LABEL_COLUMNS).to_pylist():
            found[row["task"]][row["id"], row["sample"]] = reflection.category(row["label"])
    return found


def grade_task(
    table,
    gold: dict[str, str],
    task: str,
    samples: int,
    where: str,
    comparer: equality.Comparer,
    count: bool,
    labelled: dict,
) -> list[dict]:
    """One graded row a response, in the order of the responses; `where` names the file in errors.

    With `count` the calculations of a response are counted, and the wrong ones among them. `labelled` is what
    the judge said, empty for a task that is not judged: a judged response is reflective if both the keywords
    and the judge say so.
    """
    ids, responses, finish = (
        table["id"].to_pylist(),
        texts(table, "response"),
        table["finish_reason"].to_pylist(),
    )
    check_counts(ids, gold, samples, where)
    triples = [(text, reason, gold[i]) for text, reason, i in zip(responses, finish, ids, strict=True)]
    print(f"{task}: {len(triples)} responses", file=sys.stderr, flush=True)
    verdicts = grading.grade(triples, comparer)
    if labelled and (odd := sorted(set(zip(ids, table["sample"].to_pylist(), strict=True)) ^ set(labelled))):
        records.fail(
            where,
            f"the judge's labels are of other responses, {odd[0]} first",
            "Remove judged.parquet and run again",
        )
    rows = []
    for row, verdict, text in zip(
        table.drop_columns("response").to_pylist(), verdicts, responses, strict=True
    ):
        made, wrong, first = calculations.count(text) if count else (None, None, None)
        keywords, judged = reflection.is_reflective(text), labelled.get((row["id"], row["sample"]))
        rows.append(
            {"task": task, "gold": gold[row["id"]]}
            | row
            | verdict
            | {
                "reflective": keywords and judged in (None, "reflection"),
                "keywords": keywords,
                "judged": judged,
                "calculations": made,
                "wrong_calculations": wrong,
                "first_wrong": first,
            }
        )
    return rows


def grade_cell(args):
    """Grade all tasks of a cell as `args` say, and write the grades."""
    records.room(args.out.parent, sum(path.stat().st_size for path in args.responses), "grading")
    graded, judged = [], labels(args.judged)
    if unknown := sorted(set(judged) - {path.stem for path in args.responses}):
        records.fail(
            *args.judged,
            f"has labels of {', '.join(unknown)}, which is not graded here",
            "Judge this cell again",
        )
    with equality.Comparer(args.workers) as comparer:
        for responses, task, samples in zip(args.responses, args.tasks, args.samples, strict=True):
            table = records.read_parquet(responses, RESPONSE_COLUMNS)
            gold = {
                row["id"]: row["answer"]
                for row in records.read_parquet(task, {"id": "text", "answer": "text?"}).to_pylist()
            }
            count = responses.stem in args.calculations
            graded += grade_task(
                table,
                gold,
                responses.stem,
                samples,
                str(responses),
                comparer,
                count,
                judged.get(responses.stem, {}),
            )
    records.write_parquet(args.out, graded, provenance=records.provenance(args))
    share = sum(row["correct"] for row in graded) / len(graded)
    given_up = sum(row["timeout"] for row in graded)
    records.done(
        f"{len(graded)} grades, {share:.3f} correct" + (f", {given_up} timeouts" if given_up else ""),
        args.out,
    )


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--responses", required=True, type=Path, nargs="+")
    parser.add_argument("--tasks", required=True, type=Path, nargs="+")
    parser.add_argument("--samples", required=True, type=int, nargs="+")
    parser.add_argument(
        "--calculations", nargs="*", default=[], help="tasks in whose responses calculations are counted"
    )
    parser.add_argument("--judged", type=Path, nargs="*", default=[], help="labels of a judge (judge.py)")
    parser.add_argument("--workers", type=int, default=1, help="processes that compare answers by algebra")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    with records.disk_faults(args.out.parent):
        grade_cell(args)


if __name__ == "__main__":
    main()
