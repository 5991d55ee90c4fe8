"""How responses end: where a drop comes from, what a smaller budget does, accuracy by length and by
calculations.
"""

from collections.abc import Iterable

import numpy
import pandas

from valley import grading
from valley.analysis import intervals
from valley.analysis.accumulation import binned
from valley.analysis.cells import KEYS

HALVINGS = 4  # the budgets: the largest limit, and half of it so many times


def drop(
    problems: pandas.DataFrame, headline: list[str], trained_bases: Iterable[str] = ()
) -> pandas.DataFrame:
    """`share`, `change` against the base, `of_solved`: a row a cell and outcome.

    The base is that of the cell's seed, or the only one of its model where that is given and was evaluated
    once (cells.base_among).
    """
    classes = list(grading.OUTCOMES)
    table = problems[problems.task.isin(headline)]
    bases = table[table.run == "base"]
    seeds = bases.groupby("model", observed=True).seed.agg(["nunique", "first"])
    alone = (seeds["nunique"] == 1) & ~seeds.index.isin([*trained_bases])
    once = table.model.map(seeds["first"].where(alone)).astype(float)
    table = table.assign(beside=once.fillna(table.seed))
    base = bases.rename(columns={"seed": "beside"})[["model", "beside", "task", "id", *classes]]
    paired = table.merge(base, on=["model", "beside", "task", "id"], how="left", suffixes=("", "_base"))
    rows = []
    for cell, group in paired.groupby(KEYS, sort=False, observed=True):
        tasks = [task for _, task in group.groupby("task", observed=True)]
        weights = [task.correct_base.fillna(0) for task in tasks]
        solved = sum(weight.sum() / len(weight) for weight in weights)
        for name in classes:
            share = numpy.mean([task[name].mean() for task in tasks])
            before = numpy.mean([task[f"{name}_base"].mean() for task in tasks])
            of_solved = sum((task[name] * w).sum() / len(w) for task, w in zip(tasks, weights, strict=True))
            rows.append(
                {
                    **dict(zip(KEYS, cell, strict=True)),
                    "outcome": name,
                    "share": share,
                    "base": before,
                    "change": share - before,
                    "of_solved": of_solved / solved if solved else None,
                }
            )
    return pandas.DataFrame(rows, columns=[*KEYS, "outcome", "share", "base", "change", "of_solved"])


def budget(rows: pandas.DataFrame, headline: list[str]) -> pandas.DataFrame:
    """Headline accuracy of each cell at the largest response length and at halves of it."""
    chosen = rows[rows.task.isin(headline)]
    limits = [int(chosen.tokens.max() / 2**i) for i in range(HALVINGS, -1, -1)]
    tables = []
    for limit in limits:
        within = chosen.assign(accuracy=chosen.correct & (chosen.tokens <= limit))
        by_task = within.groupby([*KEYS, "task"], sort=False, observed=True).accuracy.mean()
        tables.append(
            by_task.groupby(KEYS, sort=False, observed=True).mean().reset_index().assign(limit=limit)
        )
    return pandas.concat(tables, ignore_index=True).sort_values([*KEYS, "limit"])[
        [*KEYS, "limit", "accuracy"]
    ]


def accuracy_by(rows: pandas.DataFrame, column: str, confidence: float) -> pandas.DataFrame:
    """Accuracy in bins of a column, a row a model, run and bin (all seeds together)."""
    found = []
    for (model, run), group in rows.groupby(["model", "run"], sort=False, observed=True):
        bins = binned(group[column].to_numpy(float))
        for _, part in group.groupby(bins):
            ends = intervals.ratio(
                part.correct.to_numpy(float), numpy.ones(len(part)), part.problem.to_numpy(), confidence
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
