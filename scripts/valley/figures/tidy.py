"""The rows that a figure draws, as one tidy table that is also its CSV.

A row for each point, bar and curve, with `kind`, `measure` (which panel), `model`, `series` (which colour),
`run`, `seed`, `x`, `value`, `low`, `high`. What is NaN is not drawn.
"""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy
import pandas

from valley import grading, grid

COLUMNS = ["kind", "measure", "model", "series", "run", "seed", "x", "value", "low", "high"]
ABREAST = 4  # steps that the dots of one cell may take up
# The columns that figures read: a table of nothing may come without any.
NEEDED = {
    "cells": ["model", "run", "seed", "stage", "start", "recipe", "step", "examples", "task", "accuracy", "length",
              "reflection", "token_efficiency", "calculations", "change", "calculation_errors", "length_reflective",
              "length_other", *(f"share {name}" for name in grading.OUTCOMES),
              *(f"{name}_{end}" for name in ("problems", "length", "reflection", "change", "calculation_errors",
                                             "length_reflective", "length_other") for end in ("low", "high"))],
    "replicates": ["model", "measure", "band"],
    "paper": ["model", "run", "examples", "paper", "paper_length"],
    "rl_curves": ["model", "run", "seed", "step", "reward"],
    "drop": ["model", "run", "seed", "outcome", "change", "of_solved"],
    "budget": ["model", "run", "seed", "limit", "accuracy"],
    "accuracy_by_length": ["model", "run", "tokens", "accuracy", "low", "high"],
    "accuracy_by_steps": ["model", "run", "calculations", "accuracy", "low", "high"],
    "accumulation": ["model", "run", "p", "verdict", "error_rate", "error_rate_low", "error_rate_high"],
    "recipes": ["model", "run", "recipe", "seed", "to_protocol", "to_protocol_low", "to_protocol_high"],
    "repetition": ["model", "run", "examples", "epochs", "accuracy"],
    "forecast": ["model", "seed", "run", "examples", "forecast", "low", "high"],
    "hazard": ["model", "run", "first", "last", "hazard", "low", "high"],
}  # fmt: skip
# Series of lengths, and their column in `cells`: in words that no recipe can have as its name.
LENGTHS = {"reflective responses": "length_reflective", "other responses": "length_other"}


def abreast(rows: pandas.DataFrame) -> pandas.Series:
    """How many steps each row's dot stands aside of its place: the seeds of one series at one place stand
    side by side, in their order and never more than ABREAST steps apart from end to end. 0 for rows without
    a seed.
    """
    groups = rows.groupby(["series", "x"]).seed
    ranks, last = groups.rank(method="dense"), groups.transform("nunique")
    step = (ABREAST / (last - 1).clip(lower=1)).clip(upper=1)
    return (step * (ranks - (last + 1) / 2)).fillna(0.0)


def read_table(path: Path) -> pandas.DataFrame:
    """A table of the report; one without rows may be without columns too."""
    text = path.read_text(encoding="utf-8")
    table = pandas.read_csv(io.StringIO(text)) if text.strip() else pandas.DataFrame()
    lacking = [name for name in NEEDED[path.stem] if name not in table]
    table = table.reindex(columns=[*table.columns, *lacking])
    return table if len(table) else table.astype(object)  # the type of no text is not known otherwise


def of_runs(table: pandas.DataFrame, wanted: Callable[[grid.Run], bool]) -> pandas.DataFrame:
    """The rows of a table whose run, taken apart, is wanted."""
    return table[numpy.array([wanted(grid.parse_run(run)) for run in table.run], dtype=bool)]


def rows(
    table: pandas.DataFrame, measure: str, value: str, ends: str | None = None, **fixed
) -> pandas.DataFrame:
    """Rows to be drawn: `value` and the interval `<ends>low`, `<ends>high`; `fixed` sets the rest."""
    low, high = (table[f"{ends}low"], table[f"{ends}high"]) if ends is not None else (None, None)
    columns = {"kind": "point", "measure": measure, "value": table[value], "low": low, "high": high} | fixed
    floats = dict.fromkeys(("x", "value", "low", "high"), float)
    found = table.assign(**columns).reindex(columns=COLUMNS).astype(floats)
    return found[found.value.notna() & found.x.notna()]


def join(*parts: pandas.DataFrame) -> pandas.DataFrame:
    """Tidy rows of several measures as one table."""
    filled = [part for part in parts if len(part)]
    return pandas.concat(filled, ignore_index=True) if filled else pandas.DataFrame(columns=COLUMNS)


def in_order(data: pandas.DataFrame, tables: dict) -> list[str]:
    """The models of a figure in the order of the study."""
    drawn = set(data.model)
    return [model for model in dict.fromkeys([*tables["cells"].model, *data.model]) if model in drawn]


def rank(run: str, examples: float) -> tuple:
    """Sorts runs: base, sizes, controls, RL."""
    parsed = grid.parse_run(run)
    return parsed.rl, parsed.recipe is not None, examples, run


def ranked(runs, cells: pandas.DataFrame) -> list[str]:
    """Runs, each once, in the order of `rank`."""
    examples = cells.drop_duplicates("run").set_index("run").examples
    return sorted(set(runs), key=lambda run: rank(run, examples.get(run, 0)))


def sft_cells(tables: dict) -> pandas.DataFrame:
    """Bases and SFT cells with their place on the axis of sizes; the series is the recipe."""
    cells = tables["cells"]
    cells = cells[cells.stage.isin(["base", "sft"])]
    return cells.assign(x=cells.examples, series=cells.recipe.where(cells.stage == "sft", "base"))


def axis_of(data: pandas.DataFrame):
    """(place, ticks) of an axis of data sizes: doublings, with the base one doubling left of the smallest."""
    sizes = data[data.x > 0].sort_values("x")
    left = math.log2(sizes.x.iat[0]) - 1 if len(sizes) else 0.0
    ticks = {left: "base"} if (data.x == 0).any() else {}
    for x, run in zip(sizes.x, sizes.run, strict=True):
        name = grid.parse_run(run).size if isinstance(run, str) else f"{x / 1000:.0f}k"
        ticks[math.log2(x)] = f"{int(name):,}" if name.isdigit() else name
    return lambda x: math.log2(x) if x > 0 else left, ticks


def short(value: float) -> str:
    """A value as a reader wants it: 8,170 or 0.203."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def hover(row, what: str) -> str:
    """The hover text of a row: what it is (`{x}` in it stands for where), its value and interval."""
    run = "paper" if row.series == "paper" else row.run
    seed = "" if pandas.isna(row.seed) else f", seed {row.seed:g}"
    several = f", {row.series}" if row.series in (*grading.OUTCOMES, *LENGTHS) else ""
    known = pandas.notna(row.low) and pandas.notna(row.high)
    interval = f" [{short(row.low)}, {short(row.high)}]" if known else ""
    return f"{row.model}, {run}{seed}{several}: {what.format(x=short(row.x))} = {short(row.value)}{interval}"
