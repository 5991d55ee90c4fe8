"""How far the graders agree with grades that are not ours: the table of docs/grading.md, set by set.

    PYTHONPATH=scripts python tests/agreement.py --data ../shared/data           # the table
    PYTHONPATH=scripts python tests/agreement.py --data ../shared/data \\
        --list    # and every row graded otherwise

The sets are the reference data (docs/grading.md says where each is from) and our own in tests/fixtures.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from conftest import lines, own

from valley import equality, evaluator, grading
from valley.equality import Pair

PLAIN_OPTIONS = ("precision", "strict", "allow_set_relation_comp")


class Agreement(NamedTuple):
    """One set against one grader: `apart` holds what is graded otherwise, each row with its label."""

    labels: str
    grader: str
    rows: int
    apart: list[tuple]

    @property
    def share(self) -> float:
        return 1 - len(self.apart) / self.rows


def responses(path: Path, labels: str, comparer: equality.Comparer) -> list[Agreement]:
    """Labelled responses (`response`, `gold`, `problem`, `verdict`) against the headline and the paper's
    grader.
    """
    rows = lines(path)
    cases = [(row["response"], "stop", str(row["gold"]), row["problem"]) for row in rows]
    grades = grading.grade(cases, comparer)
    made = []
    for grader, column, answer in (
        ("headline", "correct", "answer"),
        ("paper", "correct_paper", "answer_paper"),
    ):
        apart = [
            (row["gold"], grade[answer], float(row["verdict"]) >= 0.5)
            for row, grade in zip(rows, grades, strict=True)
            if grade[column] != (float(row["verdict"]) >= 0.5)
        ]
        made.append(Agreement(labels, grader, len(rows), apart))
    return made


def traces(rows: list[dict], comparer: equality.Comparer) -> Agreement:
    """Generations of long traces against the flags that the data set has for them, by the headline."""
    cases, flags = [], []
    for row in rows:
        for text, finish, flag in zip(
            row["generations"], row["finish_reasons"], row["correctness_math_verify"], strict=True
        ):
            cases.append((text, finish, row["answer"], row["problem"]))
            flags.append(flag)
    grades = grading.grade(cases, comparer, paper=False)
    apart = [
        (grade["outcome"], case[2], grade["answer"], flag)
        for case, grade, flag in zip(cases, grades, flags, strict=True)
        if grade["correct"] != flag
    ]
    return Agreement("flags of long traces (R1, QwQ, s1.1, LIMO)", "headline", len(cases), apart)


def evaluator_pairs(rows: list[dict], comparer: equality.Comparer) -> list[Agreement]:
    """Mutated answers against the evaluator's own grade (paper), and against what is true by construction."""
    read = [evaluator.answer(rf"The answer is \boxed{{{row['answer']}}}")[0] or "" for row in rows]
    asked = {
        ("the Qwen2.5-Math evaluator, mutated golds of MATH500", "paper", "evaluator"): [
            Pair("paper", row["gold"], answer) for row, answer in zip(rows, read, strict=True)
        ],
        ("their truth by construction", "headline", "same_value"): [
            Pair("headline", row["gold"], row["answer"]) for row in rows
        ],
    }
    made = []
    for (labels, grader, column), pairs in asked.items():
        grades = comparer(pairs)
        apart = [
            (row["mutation"], row["gold"], row["answer"], row[column])
            for row, pair in zip(rows, pairs, strict=True)
            if bool(grades[pair][0]) != row[column]
        ]
        made.append(Agreement(labels, grader, len(rows), apart))
    return made


def authors_pairs(rows: list[dict]) -> Agreement:
    """Math-Verify's own pairs, under the options that each states, against `equality.equivalent`."""
    apart = [
        (row["gold"], row["pred"], row["verdict"])
        for row in rows
        if row["verdict"]
        != equality.equivalent(
            row["gold"], row["pred"], **{k: v for k, v in row["other"].items() if k in PLAIN_OPTIONS}
        )
    ]
    return Agreement("Math-Verify's authors, with the options each pair states", "plain", len(rows), apart)


def own_pairs(comparer: equality.Comparer) -> Agreement:
    """Our own pairs, each with its truth reasoned, against the headline."""
    rows = own("pairs")
    pairs = [
        Pair("headline", row["gold"], row["answer"], equality.Rules(**row.get("rules", {}))) for row in rows
    ]
    grades = comparer(pairs)
    apart = [
        (row["class"], row["gold"], row["answer"], row["same"])
        for row, pair in zip(rows, pairs, strict=True)
        if bool(grades[pair][0]) != row["same"]
    ]
    return Agreement("our own pairs, by class and with reasons", "headline", len(rows), apart)


def own_responses(comparer: equality.Comparer) -> Agreement:
    """Our own whole responses, each in the form that it is written in, against the headline."""
    rows, apart = own("responses"), []
    for row in rows:
        case = (row["response"], row["finish"], row["gold"], row.get("problem", ""))
        grade = grading.grade([case], comparer, form=row.get("form", "box"))[0]
        if grade["correct"] != row["correct"] or grade["boxed"] != row.get("boxed", grade["boxed"]):
            apart.append((row["class"], row["response"], grade["answer"], row["correct"]))
    return Agreement("our own responses", "headline", len(rows), apart)


def measured(data: Path, comparer: equality.Comparer):
    """Yield an Agreement of every set that is there."""
    graded = data / "graded"
    for benchmark in ("aime24", "amc23"):
        if (path := graded / f"rgeval_qwen2.5-3b-instruct_{benchmark}.jsonl").exists():
            yield from responses(path, f"reasoning-gym-eval, Qwen2.5-3B on {benchmark}", comparer)
    if (path := graded / "qwen25math_math100_x8.jsonl").exists():
        yield from responses(path, "the Qwen2.5-Math evaluator, 100 problems of MATH × 8", comparer)
    import pyarrow.parquet

    if (path := data / "traces" / "openr1_like.parquet").exists():
        yield traces(pyarrow.parquet.read_table(path).to_pylist(), comparer)
    if (path := graded / "evaluator_pairs.parquet").exists():
        yield from evaluator_pairs(pyarrow.parquet.read_table(path).to_pylist(), comparer)
    if (path := graded / "math_verify_tests.jsonl").exists():
        yield authors_pairs(lines(path))
    yield own_pairs(comparer)
    yield own_responses(comparer)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the reference data")
    parser.add_argument("--list", action="store_true", help="every row that is graded otherwise")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    print("| labels by | grader | rows | otherwise | agreement |\n|---|---|---|---|---|")
    with equality.Comparer(args.workers) as comparer:
        for found in measured(args.data, comparer):
            print(
                f"| {found.labels} | {found.grader} | {found.rows:,} | {len(found.apart)} | {found.share:.2%} |"
            )
            if args.list:
                print(*(f"    {case}" for case in found.apart), sep="\n")


if __name__ == "__main__":
    main()
