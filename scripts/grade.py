"""Grade all stored responses of one cell: by three graders, with the extracted answers and the way each
response failed.

    python scripts/grade.py --responses results/S/base/seed0/responses/chain.parquet \\
        --tasks data/tasks/chain.parquet \\
        --samples 1 --out /tmp/grades.parquet

`--responses`, `--tasks` and `--samples` are lists in the same order. Responses are stored once and may be
graded as often as one likes; a problem without exactly k responses is an error, never an average over fewer.
Graders: valley/grading.py. Rules of a gold answer (order, tolerance, unit, base) are columns of the task.

Responses of others, which no rule made, are a .jsonl with `response` and `gold` (or `answer`) in every line,
and where known `id`, `sample`, `problem`, `finish_reason` (stop), `tokens` and the columns of rules; they
need no task:

    python scripts/grade.py --responses outputs.jsonl --answer '<answer>' --out /tmp/grades.parquet
"""

import collections
import sys
from pathlib import Path

from valley import calculations, equality, flags, golds, grading, intake, records, reflection, thoughts

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


def check_counts(ids: list[str], gold: dict[str, dict], samples: int, where: str):
    """Stop unless every problem of the task has exactly `samples` responses, and no other problem any."""
    count = collections.Counter(ids)
    for problem, row in gold.items():
        if why := golds.no_gold(row["answer"]):
            records.fail(where, f"problem {problem!r} of the task {why}", "Mend the task's source")
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


def foreign(path: Path):
    """(table of responses, task rows by id) of a .jsonl that carries its gold answers; errors name file and
    row.
    """
    import pyarrow

    rows, gold, counts = [], {}, collections.Counter()
    for number, row in enumerate(
        intake.each_checked(path, intake.read_rows(path), golds.checked_response), 1
    ):
        name = row["id"] or str(number)
        task = {column: row.get(column) for column in ("answer", "problem", *golds.COLUMNS)}
        if gold.setdefault(name, task) != task:
            what = f"gives {name!r} another gold answer or problem than before"
            records.fail(f"{path} row {number}", what, "Give each problem an id of its own")
        sample = counts[name] if row["sample"] is None else row["sample"]
        counts[name] += 1
        columns = {column: row[column] for column in ("response", "tokens", "finish_reason")}
        rows.append({"id": name, "sample": sample} | columns)
    if not rows:
        records.fail(path, "has no lines", "Give a .jsonl of responses")
    return pyarrow.Table.from_pylist(rows), gold


def task_rows(path: Path) -> dict[str, dict]:
    """The rows of a task by id: problem, answer, and the columns of rules where it has them."""
    return {row["id"]: row for row in golds.task(path)}


def grade_task(
    table,
    gold: dict[str, dict],
    task: str,
    samples: int | None,
    where: str,
    comparer: equality.Comparer,
    count: bool,
    labelled: dict,
    form: str = "box",
    tags: tuple[str, str] = thoughts.THINK,
    answers: tuple[str, ...] = (),
) -> list[dict]:
    """One graded row a response, in the order of the responses; `where` names the file in errors.

    With `count` the calculations of a response are counted, and the wrong ones among them. `labelled` is what
    the judge said, empty for a task that is not judged: a judged response is reflective if both the keywords
    and the judge say so. `form` and `tags` as in `grading.extract`, `answers` those that the config lists for
    the task. Without `samples` any number of responses will do.
    """
    ids, responses, finish = (
        table["id"].to_pylist(),
        texts(table, "response"),
        table["finish_reason"].to_pylist(),
    )
    if samples is not None:
        check_counts(ids, gold, samples, where)
    if why := golds.unlisted(list(gold.values()), answers):
        records.fail(where, why, f"Mend the task's source, or tasks.{task}.answers")
    graded = [
        grading.Case(
            text, reason, gold[i]["answer"], gold[i].get("problem") or "", golds.rules(gold[i]), answers
        )
        for text, reason, i in zip(responses, finish, ids, strict=True)
    ]
    print(f"{task}: {len(graded)} responses", file=sys.stderr, flush=True)
    grades = grading.grade(graded, comparer, form=form, tags=tags)
    if labelled and (odd := sorted(set(zip(ids, table["sample"].to_pylist(), strict=True)) ^ set(labelled))):
        records.fail(
            where,
            f"the judge's labels are of other responses, {odd[0]} first",
            "Remove judged.parquet and run again",
        )
    rows = []
    for row, grade, text in zip(table.drop_columns("response").to_pylist(), grades, responses, strict=True):
        made, wrong, first = calculations.count(text) if count else (None, None, None)
        keywords, judged = reflection.is_reflective(text), labelled.get((row["id"], row["sample"]))
        rows.append(
            {"task": task, "gold": gold[row["id"]]["answer"]}
            | row
            | grade
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
    records.room(
        args.out.parent, sum(path.stat().st_size for path in args.responses if path.exists()), "grading"
    )
    graded, judged = [], labels(args.judged)
    if unknown := sorted(set(judged) - {path.stem for path in args.responses}):
        records.fail(
            *args.judged,
            f"has labels of {', '.join(unknown)}, which is not graded here",
            "Judge this cell again",
        )
    theirs = [path for path in args.responses if path.suffix == ".jsonl"]
    ours = [path for path in args.responses if path not in theirs]
    if not len(ours) == len(args.tasks) == len(args.samples):
        records.fail(
            "--tasks, --samples",
            "need one entry a file of responses that is no .jsonl",
            "Give as many of each, in one order",
        )
    sources = dict(zip(ours, zip(args.tasks, args.samples, strict=True), strict=True))
    with equality.Comparer(args.workers) as comparer:
        for responses in args.responses:
            if responses in sources:
                task, samples = sources[responses]
                table = records.read_parquet(responses, RESPONSE_COLUMNS)
                gold = task_rows(task)
            else:
                (table, gold), samples = foreign(responses), None
            graded += grade_task(
                table,
                gold,
                responses.stem,
                samples,
                str(responses),
                comparer,
                responses.stem in args.calculations,
                judged.get(responses.stem, {}),
                args.answer,
                tuple(args.think),
                dict(args.answers).get(responses.stem, ()),
            )
    records.write_parquet(args.out, graded, provenance=records.provenance(args))
    share = sum(row["correct"] for row in graded) / len(graded)
    counts = {
        "timeouts": sum(row["timeout"] for row in graded),
        "copied": sum(row["copied"] for row in graded),
    }
    said = "".join(f", {count} {name}" for name, count in counts.items() if count)
    records.done(f"{len(graded)} grades, {share:.3f} correct{said}", args.out)


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--responses", required=True, type=Path, nargs="+")
    parser.add_argument(
        "--tasks", default=[], type=Path, nargs="+", help="one a file of responses, no .jsonl"
    )
    parser.add_argument("--samples", default=[], type=int, nargs="+")
    flags.add_answer(parser)
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
