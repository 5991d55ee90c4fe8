"""What the graded responses say beyond scores: where a drop comes from, what a smaller budget does, whether
errors add up.

    python scripts/analyse.py --grades results/*/*/seed*/grades.parquet --headline math500 --length math500 \\
        --calculations arithmetic --out report/tables

Reads every grade of a study once and writes one table a question:

- `problems`: each problem of each cell with the means over its samples; all paired comparisons start here
  (parquet only).
- `drop`: how the change against the base splits into outcome classes, and (`of_solved`) what became of the
  problems the
  base solved: outcome shares weighted by the base's rate on the problem. An account of how, not of why.
- `budget`: headline accuracy had the limit been lower: what is longer would have been cut, and a cut response
  is wrong.
- `accuracy_by_length`, `accuracy_by_steps`: in bins of tokens and of calculations, over seeds, finished
  responses only.
- `accumulation`, `hazard`: error rate per calculation, the fit of p^k and its test, where the first error
  falls.
"""

from pathlib import Path

from valley import flags, records
from valley.analysis import accumulation, cells, outcomes, tables


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--grades", required=True, type=Path, nargs="+")
    flags.add_tasks(parser)
    flags.add_bases(parser)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--out", required=True, type=Path, help="folder of the tables")
    args = parser.parse_args()

    rows = cells.load_grades(args.grades)
    problems = cells.by_problem(rows)
    with records.whole(args.out / "problems.parquet") as temporary:
        problems.to_parquet(temporary, index=False)
    answered = rows[rows.outcome.isin(["correct", "wrong"])]
    of_headline = answered[answered.task.isin(args.headline)]
    counted = answered[answered.task.isin(args.calculations) & (answered.calculations > 0)]
    fits, hazards = accumulation.add_up(counted, args.confidence)
    made = {
        "drop": outcomes.drop(problems, args.headline, args.trained_bases),
        "budget": outcomes.budget(rows, args.headline),
        "accuracy_by_length": outcomes.accuracy_by(of_headline, "tokens", args.confidence),
        "accuracy_by_steps": outcomes.accuracy_by(counted, "calculations", args.confidence),
        "accumulation": fits,
        "hazard": hazards,
    }
    tables.write(args.out, made)
    records.done(f"{len(made) + 1} tables from {len(rows)} grades", args.out)


if __name__ == "__main__":
    main()
