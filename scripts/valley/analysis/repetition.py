"""Few examples many times, or many once: accuracy over examples and epochs, and what repetition is worth at
matched tokens.
"""

import pandas

from valley import grid
from valley.analysis import estimates
from valley.analysis.cells import Study
from valley.analysis.measures import Tasks

MATCHED = 1.1  # numbers of traces seen that differ by less are one number
COLUMNS = [
    "model",
    "run",
    "examples",
    "epochs",
    "batch",
    "seen",
    "seeds",
    "accuracy",
    "change",
    "change_low",
    "change_high",
]


def over_both(study: Study, config: dict, tasks: Tasks, confidence: float) -> pandas.DataFrame:
    """A row a model and SFT run: examples, epochs, traces seen, mean accuracy over seeds, its change against
    the base.
    """
    rows = []
    for model in study.models:
        for run in study.runs(model):
            if grid.parse_run(run).stage != "sft":
                continue
            alone, _ = estimates.estimate(study, model, {run: 1.0}, None, "accuracy", "value", tasks)
            if alone.estimate is None:
                continue
            epochs, batch = grid.passes(config, model, run), grid.sft_settings(config, model, run)["batch"]
            examples = study.count(run)
            row = dict(
                zip(
                    COLUMNS,
                    (model, run, examples, epochs, batch, examples * epochs, alone.trainings),
                    strict=False,
                )
            )
            row["accuracy"] = alone.estimate.value
            if "base" in study.runs(model):
                change, _ = estimates.estimate(
                    study, model, {run: 1.0}, {"base": 1.0}, "accuracy", "minus", tasks
                )
                if change.estimate:
                    low, high = change.estimate.ends(confidence)
                    row |= {"change": change.estimate.value, "change_low": low, "change_high": high}
            rows.append(row)
    return pandas.DataFrame(rows, columns=COLUMNS)


def matched(study: Study, table: pandas.DataFrame, tasks: Tasks, confidence: float) -> pandas.DataFrame:
    """At each number of traces seen: the run of fewest examples minus that of most, of one batch, with its
    interval.
    """
    columns = ["model", "seen", "few", "few_epochs", "many", "many_epochs", "difference", "low", "high"]
    rows = []
    for (model, _), group in table.groupby(["model", "batch"], sort=False):
        for seen in sorted(set(group.seen), reverse=True):
            level = group[(group.seen <= seen * MATCHED) & (group.seen >= seen / MATCHED)].sort_values(
                "examples"
            )
            few, many = level.iloc[0], level.iloc[-1]
            if few.examples == many.examples:
                continue
            row, _ = estimates.estimate(
                study, model, {few.run: 1.0}, {many.run: 1.0}, "accuracy", "minus", tasks
            )
            if row.estimate:
                ends = row.estimate.ends(confidence)
                made = (few.examples, few.epochs, many.examples, many.epochs, row.estimate.value, *ends)
                rows.append(dict(zip(columns, (model, seen, *made), strict=True)))
    return pandas.DataFrame(rows, columns=columns)


def in_a_sentence(pairs: pandas.DataFrame) -> str:
    """One sentence a model on the largest number of traces seen."""
    found = []
    for model, rows in pairs.groupby("model", sort=False):
        row = rows.sort_values("seen").iloc[-1]
        ahead = "ahead of" if row.low > 0 else "behind" if row.high < 0 else "not told apart from"
        found.append(
            f"{model}: {row.few:,} traces × {row.few_epochs:g} epochs are {ahead} {row.many:,} × {row.many_epochs:g} "
            f"({100 * row.difference:+.1f} points [{100 * row.low:+.1f}, {100 * row.high:+.1f}])"
        )
    return "; ".join(found) or "no two runs have seen equally many traces of different number"
