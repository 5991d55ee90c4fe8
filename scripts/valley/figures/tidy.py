"""The rows that a figure draws, as one tidy table that is also its CSV.

A row for each point, bar and curve, with `kind`, `measure` (which panel), `model`, `series` (which colour), `run`,
`seed`, `x`, `value`, `low`, `high`. What is NaN is not drawn.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy
import pandas

from valley import grading, grid

COLUMNS = ["kind", "measure", "model", "series", "run", "seed", "x", "value", "low", "high"]
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
    "hazard": ["model", "run", "first", "last", "hazard", "low", "high"],
}  # fmt: skip


def read(path: Path) -> pandas.DataFrame:
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
