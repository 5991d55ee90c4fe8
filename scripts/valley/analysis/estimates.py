"""Quantities on cells with their variances: a measure of one side, its difference from another's, or their
ratio.

A side is a weighted mean of cells: a run over its training seeds, the end of an RL run, the last three sizes.
The variance over problems is that of its values by problem, that over trainings is learnt from the seeds of a
run and, as a prior, of all runs. What they rest on: docs/statistics.md.
"""

import collections
import functools
import itertools
import math
from typing import NamedTuple

import numpy

from valley import grid
from valley.analysis import intervals
from valley.analysis.cells import Answers, Study, is_of_rl
from valley.analysis.intervals import Interval
from valley.analysis.measures import RELATIVE, SHARES, Tasks, measured, tasks_of
from valley.grid import HEADLINE, Cell

POOLED = ""  # stands for the runs that say nothing of their own noise
STEP = 1e-30  # of the complex steps that give gradients: any will do, nothing cancels


class Measured(NamedTuple):
    """A measure of a weighted mean of cells: its value, its linear part problem by problem, what trainings it
    holds.

    `by_problem`: a value a problem by task; their means by task add up to the linear part. `trainings`: by
    run the sum of the squared weights of its trainings: one is 1, three seeds are 1/3, a given base none.
    """

    value: float
    by_problem: dict[str, numpy.ndarray]
    trainings: dict[str, float]


def linear(answers: Answers, measure: str, tasks: Tasks, grader: str) -> Measured:
    """A measure of one cell and its gradient times what each problem shows (Squire & Trapp 1998).

    What the measure does not depend on is left out: it may be unknown, as calculations are in most tasks.
    """
    used = list(dict.fromkeys(tasks_of(measure, tasks)))
    means = numpy.array([answers.columns[task].mean(axis=0) for task in used])
    moved = means + 1j * STEP * numpy.eye(means.size).reshape(means.size, *means.shape)
    by_task = {task: moved[:, i] for i, task in enumerate(used)}
    gradient = (measured(measure, by_task, tasks, grader).imag / STEP).reshape(means.shape)
    value = float(measured(measure, dict(zip(used, means, strict=True)), tasks, grader))
    slopes = {task: (row != 0, row[row != 0]) for task, row in zip(used, gradient, strict=True)}
    with numpy.errstate(invalid="ignore"):  # where there is no such number, no slopes are
        by_problem = {task: answers.columns[task][:, on] @ row for task, (on, row) in slopes.items()}
    return Measured(value, by_problem, {})


def weighted(terms: list[tuple[float, Measured]], trainings: dict[str, float] | None = None) -> Measured:
    """A weighted sum of sides on the same problems."""
    total: dict = collections.defaultdict(float)
    for weight, side in terms:
        for task, values in side.by_problem.items():
            total[task] = total[task] + weight * values
    return Measured(sum(weight * side.value for weight, side in terms), dict(total), trainings or {})


def of_cell(study: Study, cell: Cell, measure: str, tasks: Tasks, grader: str) -> Measured:
    """A measure of one cell, worked out once."""
    key = (cell, measure, str(tasks), grader)
    if key not in study.remembered:
        study.remembered[key] = linear(study.cells[cell], measure, tasks, grader)
    return study.remembered[key]


def of_seeds(study: Study, model: str, run: str, seeds: list, measure: str, tasks: Tasks, grader: str):
    """A measure of each seed of a run that has one: where every response is reflective, none is longer than
    others. Where no seed has one, that of all, which is no number.
    """
    sides = [of_cell(study, Cell(model, run, seed), measure, tasks, grader) for seed in seeds]
    return [side for side in sides if math.isfinite(side.value)] or sides


def mean_of_runs(
    study: Study, model: str, weights: dict[str, float], seeds: dict, measure: str, tasks: Tasks, grader: str
) -> Measured:
    """The weighted mean of runs, each the mean of its seeds; checkpoints of a run are of one training."""
    terms, trainings = [], collections.Counter()
    for run, weight in weights.items():
        sides = of_seeds(study, model, run, seeds[run], measure, tasks, grader)
        terms += [(weight / len(sides), side) for side in sides]
        if study.is_trained(model, run):
            trainings[grid.parse_run(run).whole] += weight / len(sides) ** 0.5
    return weighted(terms, {run: share**2 for run, share in trainings.items()})


@functools.cache
def residuals(count: int, sizes: tuple | None = None) -> numpy.ndarray:
    """Orthonormal contrasts, one a column, of `count` seeds from their mean, or of cells from a parabola in
    log size.
    """
    design = numpy.vander(numpy.log(sizes), 3) if sizes else numpy.ones((count, 1))
    return numpy.linalg.qr(design, mode="complete")[0][:, design.shape[1] :]


def noise_by_run(study: Study, measure: str, tasks: Tasks, grader: str) -> dict[str, tuple[float, float]]:
    """(variance of one training, degrees of freedom) by run, of a share in its own unit, else relative to
    the value; POOLED is that of a run without seeds to tell its own by.

    From contrasts between the seeds of a run, all models together, and of each model's curve around a
    parabola in log size. The smallest size is left out of the curves: what happens there is the effect, not
    its noise. A run's own noise borrows from the pooled one, to which control recipes add nothing.
    """
    key = ("noise", measure, str(tasks), grader)
    if key in study.remembered:
        return study.remembered[key]
    groups, found = [], collections.defaultdict(list)
    for model in study.models:
        alone = {run: study.seeds(model, [run])[0][run] for run in study.runs(model)}
        for run, seeds in alone.items():
            if len(seeds) > 1 and study.is_trained(model, run) and grid.parse_run(run).step is None:
                several = of_seeds(study, model, run, seeds, measure, tasks, grader)
                groups.append((run, several, residuals(len(several)), 1.0))
        curve = [run for run in study.sizes(model)[1:] if alone[run]]
        if len(curve) > 3:
            sides = [mean_of_runs(study, model, {run: 1.0}, alone, measure, tasks, grader) for run in curve]
            share = float(numpy.mean([sum(one.trainings.values()) for one in sides]))
            groups.append((POOLED, sides, residuals(len(curve), tuple(map(study.count, curve))), share))
    # `share`: how much of a training's variance each of the contrasts has.
    for run, sides, contrasts, share in groups:
        values = numpy.array([one.value for one in sides])
        if measure in SHARES:
            scales, values = numpy.ones(len(sides)), values
        elif (values > 0).all():
            scales, values = 1 / values, numpy.log(values)
        else:
            continue
        for column in contrasts.T:
            whole = weighted([(w * scale, one) for w, scale, one in zip(column, scales, sides, strict=True)])
            variance = sum(v for v, _ in intervals.over_benchmarks(list(whole.by_problem.values())))
            if math.isfinite(variance) and math.isfinite(moved := float(column @ values)):
                found[run].append((moved, variance, share))
    pooled = [
        one for run, own in found.items() if not (run and grid.parse_run(run).is_control) for one in own
    ]
    noise = intervals.training_noise(pooled, SHARES.get(measure, RELATIVE))
    trust = intervals.SHARED if pooled else intervals.PRIOR_FREEDOM
    study.remembered[key] = {
        run: intervals.training_noise(own, noise[0] ** 0.5, trust) for run, own in found.items()
    } | {POOLED: noise}
    return study.remembered[key]


def combined(
    left: Measured, right: Measured | None, measure: str, how: str, noise: dict[str, tuple[float, float]]
) -> Interval:
    """One side alone (`value`), `minus` another or `over` it; `noise` is that of one training, by run
    (noise_by_run).
    """
    value, slopes = left.value, (1.0, 0.0)
    if how == "minus":
        value, slopes = left.value - right.value, (1.0, -1.0)
    elif how == "over" and right.value:
        value = left.value / right.value
        slopes = (1 / right.value, -value / right.value)
    elif how == "over":
        value, slopes = math.nan, (math.nan, math.nan)
    sides = [(slope, one) for slope, one in zip(slopes, (left, right), strict=True) if one]
    whole, share = weighted(sides), measure in SHARES
    trainings = [
        (weight * (slope * (1.0 if share else one.value)) ** 2, noise.get(run, noise[POOLED]))
        for slope, one in sides
        for run, weight in one.trainings.items()
    ]
    most = 1.0 if share and how != "over" else math.inf
    return Interval(
        value,
        intervals.over_benchmarks(
            list(whole.by_problem.values()), abs(slopes[0]) / len(whole.by_problem) if share else 0.0
        ),
        intervals.summed([(moved * variance, freedom) for moved, (variance, freedom) in trainings]),
        -math.inf if measure == "reflection_gap" else -most if how == "minus" else 0.0,
        most,
    )


class Row(NamedTuple):
    """A comparison of one model: the weights by run of both sides, its estimate (None while cells are
    missing).
    """

    model: str
    left: dict[str, float]
    right: dict[str, float] | None
    estimate: Interval | None
    trainings: int  # the fewest of a side
    samples: dict[str, set[int]]  # k of its cells by task

    @property
    def names(self) -> tuple[str, str | None]:
        """Both sides in words."""
        return name_of_side(self.left), self.right and name_of_side(self.right)


def name_of_side(weights: dict[str, float]) -> str:
    """A side's name: its run (the end of an RL run by the run), or the first and last of those it is the mean
    of.
    """
    runs = list(weights)
    return (
        runs[-1] if len({grid.parse_run(r).whole for r in runs}) == 1 else f"mean of {runs[0]} … {runs[-1]}"
    )


def estimate(
    study: Study,
    model: str,
    left: dict,
    right: dict | None,
    measure: str,
    how: str,
    tasks: Tasks,
    grader: str = "headline",
    only: int | None = None,
) -> tuple[Row, list[str]]:
    """(a comparison of two sides, missing cells); `only` takes one training seed alone."""
    seeds, missing = study.seeds(model, [*left, *(right or {})])
    if only is not None:
        seeds = {run: [only] if study.is_trained(model, run) else several for run, several in seeds.items()}
    counts = [len(seeds[run]) for run in seeds if study.is_trained(model, run)]
    cells = [study.cells[Cell(model, run, s)] for run in seeds for s in seeds[run]]
    samples = (
        {task: {cell.samples[task] for cell in cells} for task in tasks_of(measure, tasks)} if cells else {}
    )
    found = None
    if all(seeds.values()):
        sides = [
            weights and mean_of_runs(study, model, weights, seeds, measure, tasks, grader)
            for weights in (left, right)
        ]
        found = combined(*sides, measure, how, noise_by_run(study, measure, tasks, grader))
    return Row(model, left, right, found, min(counts, default=0), samples), missing


def compared(
    study: Study, model: str, part: dict, tasks: Tasks, grader: str = "headline"
) -> tuple[list[Row], list[str], str]:
    """(comparisons, missing cells, why there is none) of what a part of a claim compares for a model."""
    how = next((key for key in ("minus", "over") if key in part), "value")
    rl = any(is_of_rl(part[key]) for key in ("of", "minus", "over") if key in part)
    left, why = study.resolve(model, part["of"], rl)
    right, why_right = study.resolve(model, part[how], rl) if how in part else ([None], "")
    pairs = list(itertools.product(left, right))
    if part["of"].endswith(grid.ALONG) and how in part:
        step = lambda weights: grid.parse_run(next(iter(weights))).step  # noqa: E731
        pairs = [(a, b) for a, b in pairs if step(a) == step(b)]
    distinct = [(a, b) for a, b in pairs if not b or not set(a) & set(b)]
    why = "both sides are the same cells" if pairs and not distinct else why or why_right
    rows, gaps = [], []
    for a, b in distinct:
        row, missing = estimate(study, model, a, b, part["measure"], how, tasks, grader)
        rows.append(row)
        gaps += missing
    return rows, gaps, "" if rows else why or "the grid has no such cells"


def changes(
    left: Answers, right: Answers, headline: list[str], confidence: float, grader: str = "headline"
) -> dict[str, tuple[float, float, float]]:
    """(left − right, low, high) in accuracy for every task that both answered and for the headline mean.

    The paired change of two cells, over problems: tables, claims and comparisons all have theirs from
    `combined`.
    """
    groups = {task: [task] for task in left.columns if task in right.columns}
    groups |= {HEADLINE: headline} if headline and set(headline) <= set(groups) else {}
    found = {}
    for name, tasks in groups.items():
        sides = [linear(side, "accuracy", Tasks(tasks, [], []), grader) for side in (left, right)]
        change = combined(*sides, "accuracy", "minus", {POOLED: (0.0, math.inf)})
        found[name] = (change.value, *change.ends(confidence))
    return found
