"""What is measured of a cell, each measure once: from which means it follows, on which tasks, in which
unit.
"""

from typing import NamedTuple

import numpy

from valley.grading import GRADERS

# Means over the samples of a problem. `tokens_reflective` is the mean of tokens × reflective, so that the
# lengths of reflective responses follow from means.
COLUMNS = (
    *GRADERS.values(),
    "tokens",
    "reflective",
    "tokens_reflective",
    "calculations",
    "wrong_calculations",
    "truncated",
    "looping",
    "no answer",
    "same",
)

# Accuracy by each grader beside the headline's, as scores and tables call it, and the column of its grade.
ACCURACIES = {f"accuracy_{name}": column for name, column in GRADERS.items() if name != "headline"}

# By how much a training moves a measure, as the prior of its noise has it: shares by so much, all others by
# RELATIVE of their value. Why: docs/statistics.md.
SHARES = {"accuracy": 0.01, "reflection": 0.02}
RELATIVE = 0.05


class Tasks(NamedTuple):
    """Which tasks of a study count for what; a task may count for several."""

    headline: list[str]  # whose mean is the headline accuracy
    length: list[str]  # whose mean is the length of responses, and their reflection
    calculations: list[str]  # in whose responses calculations are counted


class Measure(NamedTuple):
    """A measure as a reader meets it. `over`: the tasks it is a mean over (Tasks), `both` where it takes two
    kinds.
    """

    label: str
    unit: str  # share, tokens, or per 1,000 tokens
    over: str


MEASURES = {
    "accuracy": Measure("accuracy (avg@k)", "share", "headline"),
    "length": Measure("length", "tokens", "length"),
    "efficiency": Measure("accuracy per 1,000 tokens", "per 1,000 tokens", "both"),
    "reflection": Measure("reflective responses", "share", "length"),
    "reflection_gap": Measure("how much longer reflective responses are", "tokens", "length"),
    "error_rate": Measure("wrong calculations per calculation", "share", "headline"),
}


def tasks_of(measure: str, tasks: Tasks) -> list[str]:
    """The tasks whose responses a measure looks at."""
    over = MEASURES[measure].over
    return list({*tasks.headline, *tasks.length}) if over == "both" else getattr(tasks, over)


def measured(measure: str, means: dict, tasks: Tasks, grader: str):
    """A measure from `means`: task → columns in the last place (COLUMNS); earlier places are draws."""

    def over(chosen: list[str], column: str):
        return sum(means[task][..., COLUMNS.index(column)] for task in chosen) / len(chosen)

    if measure == "accuracy":
        return over(tasks.headline, GRADERS[grader])
    if measure == "length":
        return over(tasks.length, "tokens")
    if measure == "efficiency":
        return 1000 * over(tasks.headline, GRADERS[grader]) / over(tasks.length, "tokens")
    if measure == "reflection":
        return over(tasks.length, "reflective")
    with numpy.errstate(divide="ignore", invalid="ignore"):
        if measure == "reflection_gap":
            names = ("reflective", "tokens", "tokens_reflective")
            share, tokens, theirs = (over(tasks.length, name) for name in names)
            return theirs / share - (tokens - theirs) / (1 - share)
        if measure == "error_rate":
            return over(tasks.headline, "wrong_calculations") / over(tasks.headline, "calculations")
    raise ValueError(f"unknown measure {measure}")
