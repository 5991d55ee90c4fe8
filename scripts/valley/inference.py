"""Quantities on cells with intervals, and verdicts on what was expected of them. The statistics behind
claims.py.

A quantity is a function of the mean responses of one or two runs: an accuracy minus another, a ratio of
lengths. Its interval covers what it is over: the problems (bootstrapped within each task, the same draw for
all runs, so runs are compared problem by problem, samples included) and, with two training seeds or more, the
seeds (t interval), both distances added in squares. With one seed it says nothing of other trainings.
"""

import itertools
import math
import zlib
from typing import NamedTuple

import numpy

from valley.statistics import weights

FEW = 6  # problems that must differ: five on one side are 1/16 likely by chance, two-sided
COLUMNS = ("correct", "correct_boxed", "correct_paper", "tokens", "reflective", "tokens_reflective", "calculations",
           "wrong_calculations")  # fmt: skip
VERDICTS = {"headline": "correct", "boxed": "correct_boxed", "paper": "correct_paper"}
RATES = {"accuracy", "reflection"}
LENGTHS = {"length", "reflection", "reflection_gap"}


class Cell(NamedTuple):
    """What a cell answered, task by task: means over samples, problems × COLUMNS, and the number of samples."""

    columns: dict[str, numpy.ndarray]
    samples: dict[str, int]
    drawn: dict[str, numpy.ndarray]  # bootstrap draws × COLUMNS, kept once they were made; begins empty

    def means(self, tasks: list[str]) -> dict[str, numpy.ndarray]:
        """Means over the problems, task by task."""
        return {task: self.columns[task].mean(axis=0) for task in tasks}

    def draws(self, tasks: list[str]) -> dict[str, numpy.ndarray]:
        """The same for every bootstrap draw; those of a task are the same for all cells, so differences are
        paired.
        """
        for task in tasks:
            if task not in self.drawn:
                place = zlib.crc32(task.encode())  # another seed for another task
                self.drawn[task] = weights(len(self.columns[task]), place) @ self.columns[task]
        return {task: self.drawn[task] for task in tasks}


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


def measured(measure: str, means: dict, tasks: list[str], length: list[str], verdict: str):
    """A measure from `means`: task → columns in the last place (COLUMNS); earlier places are draws."""
    of = lambda task, name: means[task][..., COLUMNS.index(name)]  # noqa: E731
    over = lambda chosen, name: sum(of(task, name) for task in chosen) / len(chosen)  # noqa: E731
    if measure == "accuracy":
        return over(tasks, VERDICTS[verdict])
    if measure == "length":
        return over(length, "tokens")
    if measure == "efficiency":
        return 1000 * over(tasks, VERDICTS[verdict]) / over(length, "tokens")
    if measure == "reflection":
        return over(length, "reflective")
    if measure == "reflection_gap":
        share, tokens, theirs = (over(length, name) for name in ("reflective", "tokens", "tokens_reflective"))
        with numpy.errstate(divide="ignore", invalid="ignore"):
            return theirs / share - (tokens - theirs) / (1 - share)
    if measure == "error_rate":
        with numpy.errstate(divide="ignore", invalid="ignore"):
            return over(tasks, "wrong_calculations") / over(tasks, "calculations")
    raise ValueError(f"unknown measure {measure}")


def combined(left, right, how: str):
    """left alone, minus right, or over right; a ratio to nothing is infinite."""
    if how == "value":
        return left
    if how == "minus":
        return left - right
    with numpy.errstate(divide="ignore", invalid="ignore"):
        return left / right


def estimate(
    seeds: list[tuple[Cell, Cell | None]],
    measure: str,
    how: str,
    tasks: list[str],
    length: list[str],
    verdict: str,
) -> Estimate:
    """The quantity over training seeds, one (left, right) each; right is None for a value.

    All cells hold the same problems of a task in the same order. `tasks` are those of the accuracy, `length`
    those of lengths and reflection.
    """
    used = (
        length
        if measure in LENGTHS
        else tasks
        if measure in ("accuracy", "error_rate")
        else list({*tasks, *length})
    )

    def quantity(cells, means):
        return combined(
            *(cell and measured(measure, means(cell, used), tasks, length, verdict) for cell in cells), how
        )

    by_seed = numpy.array([quantity(cells, Cell.means) for cells in seeds])
    draws = sum(quantity(cells, Cell.draws) for cells in seeds) / len(seeds)
    column = COLUMNS.index({"accuracy": VERDICTS[verdict], "reflection": "reflective"}.get(measure, "tokens"))
    rate = measure in RATES
    most = 1.0 if rate and how != "over" else math.inf
    return Estimate(
        float(by_seed.mean()),
        numpy.sort(draws),
        by_seed,
        guard(seeds, used, column, how) if rate else 0.0,
        over_samples(seeds, used, column, how) if rate else 0.0,
        (-math.inf if measure == "reflection_gap" else -most if how == "minus" else 0.0, most),
    )


def guard(seeds: list[tuple], tasks: list[str], column: int, how: str) -> float:
    """What to add where fewer than FEW problems of a task differ from the rest, of whose rarity the bootstrap
    knows nothing.

    The exact upper end of their share, each worth up to 1 (as statistics.paired_difference does); of a ratio,
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
    """Standard error over samples alone: posterior variance of each problem's rate under Jeffreys' prior; 0
    for a ratio.
    """
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


def decide(ends: tuple[float, float], expect: dict) -> str:
    """`holds` when the whole interval is as expected, `fails` when none of it is, else `undecided`."""
    low, high = ends
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    if "below" in expect:
        return "holds" if high < expect["below"] else "fails" if low > expect["below"] else "undecided"
    if "above" in expect:
        return "holds" if low > expect["above"] else "fails" if high < expect["above"] else "undecided"
    least, most = expect["about"] - expect["within"], expect["about"] + expect["within"]
    if least <= low and high <= most:
        return "holds"
    return "fails" if high < least or low > most else "undecided"


def every(estimates: list[Estimate], expect: dict, confidence: float) -> str:
    """Verdict on "every": holds when each does (intersection–union: no correction), fails when one does under
    Holm's.

    Holm's first step tests the most extreme of m at 1 − α/m (Holm 1979); one rejection refutes "every".
    """
    if all(decide(e.interval(confidence), expect) == "holds" for e in estimates):
        return "holds"
    strict = 1 - (1 - confidence) / len(estimates)
    return "fails" if any(decide(e.interval(strict), expect) == "fails" for e in estimates) else "undecided"


def some(estimates: list[Estimate], expect: dict, confidence: float) -> str:
    """Verdict on "any": holds when one does under Holm's correction, fails when each does."""
    if all(decide(e.interval(confidence), expect) == "fails" for e in estimates):
        return "fails"
    strict = 1 - (1 - confidence) / len(estimates)
    return "holds" if any(decide(e.interval(strict), expect) == "holds" for e in estimates) else "undecided"


def would_decide(e: Estimate, expect: dict, confidence: float) -> str:
    """What would move an undecided interval off the threshold, were the estimate the truth: samples, problems
    or seeds.

    More samples shrink only what sampling adds to the interval; the choice of problems and the seed of the
    training stay.
    """
    from scipy import stats

    ends = [expect[side] for side in ("below", "above") if side in expect]
    ends = ends or [expect["about"] - expect["within"], expect["about"] + expect["within"]]
    distance = min(abs(e.value - end) for end in ends)
    if not distance or not math.isfinite(distance):
        return "nothing: the estimate lies on the threshold or cannot be computed"
    down, up, seeds = e.parts(confidence)
    problems = max(down, up)
    samples = stats.norm.ppf((1 + confidence) / 2) * e.samples_error
    rest = max(0.0, problems**2 - samples**2) + seeds**2
    if samples and rest < distance**2:
        return f"{samples**2 / (distance**2 - rest):.1f} times the samples"
    none = "no number of samples can; " if samples else ""
    if seeds < distance:
        return none + f"{problems**2 / (distance**2 - seeds**2):.1f} times the problems"
    if problems < distance:
        spread = e.by_seed.std(ddof=1)
        for count in range(len(e.by_seed) + 1, 1000):
            if (
                math.hypot(stats.t.ppf((1 + confidence) / 2, count - 1) * spread / count**0.5, problems)
                < distance
            ):
                return none + f"some {count} training seeds"
    return none + "only more problems and more training seeds together"


def sign_test(e: Estimate, expect: dict) -> str:
    """How many seeds lie on the expected side, and what a sign test makes of it: next to nothing of few
    seeds.
    """
    count = len(e.by_seed)
    side = "below" if "below" in expect else "above" if "above" in expect else None
    if count < 2 or side is None:
        return ""
    sign = -1 if side == "below" else 1
    agree = int((sign * (e.by_seed - expect[side]) > 0).sum())
    text = f"{agree} of {count} seeds"
    return text + (f"; a sign test of {count} seeds cannot decide" if 0.5**count > 0.025 else "")
