"""Quantities on cells with intervals: a measure of one run, its difference from another's, or their ratio.

An interval covers what it is over: the problems (bootstrapped within each task, the same draw for all runs, so runs are
compared problem by problem, samples included) and, with two training seeds or more, the seeds (t interval), both
distances added in squares. With one seed it says nothing of other trainings.
"""

import itertools
import math
from typing import NamedTuple

import numpy

from valley import grid
from valley.analysis.cells import Answers, Study
from valley.analysis.measures import COLUMNS, Tasks, measured, tasks_of
from valley.grading import GRADERS
from valley.grid import HEADLINE, Cell

FEW = 6  # problems that must differ: five on one side are 1/16 likely by chance, two-sided


class Estimate(NamedTuple):
    """A quantity with what its interval at any confidence is made of."""

    value: float
    draws: numpy.ndarray  # over problems, sorted
    by_seed: numpy.ndarray  # one value a training seed
    guard: float  # added where too few problems differ for the bootstrap
    samples_error: float  # standard error over samples alone; 0 where it is not known
    bounds: tuple[float, float]  # what the quantity cannot leave

    def parts(self, confidence: float) -> tuple[float, float, float]:
        """Distances (down, up) to the ends over problems, guard included, and the distance over seeds."""
        from scipy import stats

        low, high = numpy.nanquantile(self.draws, [(1 - confidence) / 2, (1 + confidence) / 2])
        seeds = 0.0
        if (count := len(self.by_seed)) > 1:
            seeds = stats.t.ppf((1 + confidence) / 2, count - 1) * self.by_seed.std(ddof=1) / count**0.5
        return (
            math.hypot(self.value - low, self.guard),
            math.hypot(high - self.value, self.guard),
            float(seeds),
        )

    def interval(self, confidence: float) -> tuple[float, float]:
        """Low and high end over problems and, where there are several, seeds."""
        down, up, seeds = self.parts(confidence)
        least, most = self.bounds
        return max(least, self.value - math.hypot(down, seeds)), min(most, self.value + math.hypot(up, seeds))


def combined(left, right, how: str):
    """left alone, minus right, or over right; a ratio to nothing is infinite."""
    if how == "value":
        return left
    if how == "minus":
        return left - right
    with numpy.errstate(divide="ignore", invalid="ignore"):
        return left / right


def estimate(
    seeds: list[tuple[Answers, Answers | None]],
    measure: str,
    how: str,
    tasks: Tasks,
    grader: str = "headline",
) -> Estimate:
    """The quantity over training seeds, one (left, right) each; right is None for a value.

    All cells hold the same problems of a task in the same order. `how`: value, minus or over.
    """
    used = tasks_of(measure, tasks)

    def quantity(cells, means):
        return combined(
            *(cell and measured(measure, means(cell, used), tasks, grader) for cell in cells), how
        )

    by_seed = numpy.array([quantity(cells, Answers.means) for cells in seeds])
    draws = sum(quantity(cells, Answers.draws) for cells in seeds) / len(seeds)
    column = COLUMNS.index({"accuracy": GRADERS[grader], "reflection": "reflective"}.get(measure, "tokens"))
    rate = measure in ("accuracy", "reflection")
    most = 1.0 if rate and how != "over" else math.inf
    return Estimate(
        float(by_seed.mean()),
        numpy.sort(draws),
        by_seed,
        guard(seeds, used, column, how) if rate else 0.0,
        over_samples(seeds, used, column, how) if rate else 0.0,
        (-math.inf if measure == "reflection_gap" else -most if how == "minus" else 0.0, most),
    )


def changes(
    left: Answers, right: Answers, headline: list[str], confidence: float, grader: str = "headline"
) -> dict[str, tuple[float, float, float]]:
    """(left − right, low, high) in accuracy for every task that both answered and for the headline mean.

    The one paired difference of two cells: tables, claims and comparisons all have theirs from `estimate`.
    """
    groups = {task: [task] for task in left.columns if task in right.columns}
    groups |= {HEADLINE: headline} if headline and set(headline) <= set(groups) else {}
    found = {}
    for name, tasks in groups.items():
        change = estimate([(left, right)], "accuracy", "minus", Tasks(tasks, [], []), grader)
        found[name] = (change.value, *change.interval(confidence))
    return found


def guard(seeds: list[tuple], tasks: list[str], column: int, how: str) -> float:
    """What to add where fewer than FEW problems of a task differ from the rest, of whose rarity the bootstrap
    knows nothing.

    The exact upper end of their share, each worth up to 1; of a ratio,
    the numerator's.
    """
    from scipy import stats

    sides = lambda at, task: numpy.mean([cells[at].columns[task][:, column] for cells in seeds], axis=0)  # noqa: E731
    reach = []
    for task in tasks:
        values = sides(0, task) - (sides(1, task) if how == "minus" else 0)
        count = int((values != numpy.median(values)).sum())
        if count < FEW:
            reach.append(stats.binomtest(count, len(values)).proportion_ci(0.95, method="exact").high)
    whole = numpy.mean([sides(1, task).mean() for task in tasks]) if how == "over" else 1.0
    return float(numpy.linalg.norm(reach)) / len(tasks) / whole if reach and whole else 0.0


def over_samples(seeds: list[tuple], tasks: list[str], column: int, how: str) -> float:
    """Standard error over samples alone (Jeffreys' prior on each problem's rate); 0 for a ratio."""
    from scipy import stats

    if how == "over":
        return 0.0
    variance = 0.0
    for cells, task in itertools.product(seeds, tasks):
        for cell in filter(None, cells):
            solved = cell.columns[task][:, column] * cell.samples[task]
            variance += (
                stats.beta.var(solved + 0.5, cell.samples[task] - solved + 0.5).sum() / len(solved) ** 2
            )
    return variance**0.5 / (len(tasks) * len(seeds))


def compared(
    study: Study, model: str, part: dict, tasks: Tasks, grader: str = "headline"
) -> tuple[list[tuple[str, str | None, Estimate]], list[str]]:
    """([(left run, right run, estimate)], missing cells) of what a part of a claim compares for a model."""
    found, gaps = [], []
    how = next((key for key in ("minus", "over") if key in part), "value")
    end = not part["of"].endswith(grid.ALONG)
    for left, right in pairs(study, model, part, how):
        seeds, missing = study.seeds(model, [run for run in (left, right) if run])
        gaps += missing
        if seeds:
            sides = [
                tuple(run and study.answers(Cell(model, run, seed), end) for run in (left, right))
                for seed in seeds
            ]
            found.append((left, right, estimate(sides, part["measure"], how, tasks, grader)))
    return found, gaps


def pairs(study: Study, model: str, part: dict, how: str) -> list[tuple[str, str | None]]:
    """The (left, right) runs of a part; checkpoints by step, else each left with the one right."""
    left = study.resolve(model, part["of"])
    if how == "value":
        return [(run, None) for run in left]
    right = study.resolve(model, part[how])
    if part["of"].endswith(grid.ALONG):
        by_step = {grid.parse_run(run).step: run for run in right}
        return [(run, by_step[step]) for run in left if (step := grid.parse_run(run).step) in by_step]
    return [(run, right[0]) for run in left if right]
