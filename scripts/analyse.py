"""What the graded responses say beyond scores: where a drop comes from, what a smaller budget does, whether
errors add up.

    python scripts/analyse.py --grades results/*/*/seed*/grades.parquet --headline math500 --length math500 \\
        --calculations arithmetic --out report/tables

Reads every grade of a study once and writes one table a question:

- `problems`: each problem of each cell with the means over its samples; all paired comparisons start here
  (parquet only).
- `drop`: how the change against the base splits into outcome classes, and (`of_solved`) what became of the
  problems the base solved: outcome shares weighted by the base's rate on the problem. An account of how, not
  of why.
- `budget`: headline accuracy had the limit been lower: what is longer would have been cut, and a cut response
  is wrong.
- `accuracy_by_length`, `accuracy_by_steps`: in bins of tokens and of calculations, over seeds, finished
  responses only.
- `accumulation`, `hazard`: error rate per calculation, the fit of p^k and its test, where the first error
  falls.
"""

from pathlib import Path

import numpy
import pandas

from aggregate import write
from valley import accumulation, flags, grading, records, statistics

CELL = ["model", "run", "seed"]
COLUMNS = ["task", "id", "tokens", "correct", "correct_boxed", "correct_paper", "outcome", "reflective", "calculations",
           "wrong_calculations", "first_wrong"]  # fmt: skip
HALVINGS = 4  # the budgets: the largest limit, and half of it so many times


def load(paths: list[Path]) -> pandas.DataFrame:
    """All grades, one row a response, with the model, run and seed that the path names."""
    tables = []
    for path in paths:
        table = records.read_parquet(path, COLUMNS).to_pandas()
        model, run, seed = path.parts[-4], path.parts[-3], int(path.parts[-2].removeprefix("seed"))
        tables.append(table.assign(model=model, run=run, seed=seed))
    rows = with_clusters(pandas.concat(tables, ignore_index=True))
    return rows.astype(dict.fromkeys(("task", "outcome", "model", "run"), "category"))


def with_clusters(rows: pandas.DataFrame) -> pandas.DataFrame:
    """The rows with `problem`, an integer a problem: what responses of one problem share."""
    return rows.assign(problem=rows.groupby(["task", "id"], observed=True).ngroup())


def by_problem(rows: pandas.DataFrame) -> pandas.DataFrame:
    """One row a cell, task and problem: the number of samples, and means over them.

    `tokens_reflective` is the mean of tokens × reflective, so that lengths of reflective responses follow
    from means; the columns named after an outcome class are its share.
    """
    shares = {name: (rows.outcome == name).astype(float) for name in grading.OUTCOMES if name != "correct"}
    rows = rows.assign(**shares, tokens_reflective=rows.tokens * rows.reflective)
    measures = [
        "correct",
        "correct_boxed",
        "correct_paper",
        *shares,
        "tokens",
        "reflective",
        "tokens_reflective",
        "calculations",
        "wrong_calculations",
    ]
    grouped = rows.groupby([*CELL, "task", "id"], sort=False, observed=True)
    return grouped.size().rename("samples").to_frame().join(grouped[measures].mean()).reset_index()


def drop(problems: pandas.DataFrame, headline: list[str]) -> pandas.DataFrame:
    """`share`, `change` against the base of the same model and seed, and `of_solved`, a row a cell and
    outcome class.
    """
    classes = list(grading.OUTCOMES)
    table = problems[problems.task.isin(headline)]
    keys = ["model", "seed", "task", "id"]
    base = table[table.run == "base"][[*keys, *classes]]
    paired = table.merge(base, on=keys, how="left", suffixes=("", "_base"))
    rows = []
    for cell, group in paired.groupby(CELL, sort=False, observed=True):
        tasks = [task for _, task in group.groupby("task", observed=True)]
        weights = [task.correct_base.fillna(0) for task in tasks]
        solved = sum(weight.sum() / len(weight) for weight in weights)
        for name in classes:
            share = numpy.mean([task[name].mean() for task in tasks])
            before = numpy.mean([task[f"{name}_base"].mean() for task in tasks])
            of_solved = sum((task[name] * w).sum() / len(w) for task, w in zip(tasks, weights, strict=True))
            rows.append(
                {
                    **dict(zip(CELL, cell, strict=True)),
                    "outcome": name,
                    "share": share,
                    "base": before,
                    "change": share - before,
                    "of_solved": of_solved / solved if solved else None,
                }
            )
    return pandas.DataFrame(rows, columns=[*CELL, "outcome", "share", "base", "change", "of_solved"])


def budget(rows: pandas.DataFrame, headline: list[str]) -> pandas.DataFrame:
    """Headline accuracy of each cell at the largest response length and at halves of it."""
    chosen = rows[rows.task.isin(headline)]
    limits = [int(chosen.tokens.max() / 2**i) for i in range(HALVINGS, -1, -1)]
    tables = []
    for limit in limits:
        within = chosen.assign(accuracy=chosen.correct & (chosen.tokens <= limit))
        by_task = within.groupby([*CELL, "task"], sort=False, observed=True).accuracy.mean()
        tables.append(
            by_task.groupby(CELL, sort=False, observed=True).mean().reset_index().assign(limit=limit)
        )
    return pandas.concat(tables, ignore_index=True).sort_values([*CELL, "limit"])[
        [*CELL, "limit", "accuracy"]
    ]


def accuracy_by(rows: pandas.DataFrame, column: str) -> pandas.DataFrame:
    """Accuracy in bins of a column, a row a model, run and bin (all seeds together)."""
    found = []
    for (model, run), group in rows.groupby(["model", "run"], sort=False, observed=True):
        bins = accumulation.binned(group[column].to_numpy(float))
        for _, part in group.groupby(bins):
            ends = statistics.ratio(
                part.correct.to_numpy(float), numpy.ones(len(part)), part.problem.to_numpy()
            )
            found.append(
                {
                    "model": model,
                    "run": run,
                    column: part[column].mean(),
                    "responses": len(part),
                    **dict(zip(("accuracy", "low", "high"), ends, strict=True)),
                }
            )
    return pandas.DataFrame(found, columns=["model", "run", column, "responses", "accuracy", "low", "high"])


def add_up(rows: pandas.DataFrame, confidence: float) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Tables `accumulation` and `hazard`, a row (or one a bin) a model and run, from responses that gave an
    answer.

    `independent` is the accuracy that the error rate per calculation would give were all calculations needed
    and errors independent: far from `accuracy`, the calculations are not what goes wrong, or are mended.
    """
    fits, hazards = [], []
    for (model, run), group in rows.groupby(["model", "run"], sort=False, observed=True):
        made, wrong, problem = (
            group.calculations.to_numpy(float),
            group.wrong_calculations.to_numpy(float),
            group.problem.to_numpy(),
        )
        rates = statistics.ratio(wrong, made, problem, confidence)
        cell = {
            "model": model,
            "run": run,
            "responses": len(group),
            "accuracy": group.correct.mean(),
            "steps": made.mean(),
        }
        fits.append(
            cell
            | dict(zip(("error_rate", "error_rate_low", "error_rate_high"), rates, strict=True))
            | {"independent": float(((1 - rates[0]) ** made).mean()) if rates[0] is not None else None}
            | accumulation.fit(made, group.correct.to_numpy(float), problem, confidence)
        )
        bins = accumulation.hazard(made, group.first_wrong.to_numpy(float), confidence)
        hazards += [{"model": model, "run": run} | row for row in bins]
    of_fits = ["model", "run", "responses", "accuracy", "steps", "error_rate", "error_rate_low", "error_rate_high", "independent",
               "p", "p_low", "p_high", "p_value", "verdict"]  # fmt: skip
    of_hazards = ["model", "run", "first", "last", "at_risk", "errors", "hazard", "low", "high"]
    return pandas.DataFrame(fits, columns=of_fits), pandas.DataFrame(hazards, columns=of_hazards)


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--grades", required=True, type=Path, nargs="+")
    flags.add_tasks(parser)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--out", required=True, type=Path, help="folder of the tables")
    args = parser.parse_args()

    rows = load(args.grades)
    problems = by_problem(rows)
    with records.whole(args.out / "problems.parquet") as temporary:
        problems.to_parquet(temporary, index=False)
    answered = rows[rows.outcome.isin(["correct", "wrong"])]
    counted = answered[answered.task.isin(args.calculations) & (answered.calculations > 0)]
    fits, hazards = add_up(counted, args.confidence)
    tables = {
        "drop": drop(problems, args.headline),
        "budget": budget(rows, args.headline),
        "accuracy_by_length": accuracy_by(answered[answered.task.isin(args.headline)], "tokens"),
        "accuracy_by_steps": accuracy_by(counted, "calculations"),
        "accumulation": fits,
        "hazard": hazards,
    }
    for name, table in tables.items():
        write(table, args.out / f"{name}.csv")
    records.done(f"{len(tables) + 1} tables from {len(rows)} grades", args.out)


if __name__ == "__main__":
    main()
