"""Quantities on the cells of a study: what words like "smallest" stand for in its grid, and estimates with their intervals.

A side of a comparison is a weighted mean of cells: one run over its training seeds, the end of an RL run, the last
three sizes. An estimate is one side, or two of them as a difference or a ratio, with the variance of its values by
problem and the noise of the trainings in it, pooled over the whole study. Methods: docs/statistics.md.
"""

import collections
import functools
import math
import re
from typing import NamedTuple

import numpy
import pandas

from valley import grid, paired, records

COLUMNS = ("correct", "correct_boxed", "correct_paper", "tokens", "reflective", "tokens_reflective", "calculations",
           "wrong_calculations", "cut", "no answer", "same")  # fmt: skip
GRADERS = {"headline": "correct", "boxed": "correct_boxed", "paper": "correct_paper"}
# Standard deviation of one training, as the prior has it: in points where the measure is a share, else relative.
PRIOR = {"accuracy": 0.01, "reflection": 0.02}
RELATIVE_PRIOR = 0.05
SELECTOR = re.compile(
    r"(?P<size>base|smallest|largest|each size|last three sizes|larger sizes|smaller sizes)"
    r"(\.(?P<recipe>[a-z0-9]+))?(?P<rl>\+rl(?P<when>@| throughout)?)?"
)


class Tasks(NamedTuple):
    """The tasks of a study by what they count for."""

    headline: tuple[str, ...]
    length: tuple[str, ...]
    calculations: tuple[str, ...] = ()


class Side(NamedTuple):
    """A measure of a weighted mean of cells: its value, its values by problem (whose means by task add up to the
    linear part of it), and the sum of squared weights of the trainings in it.
    """

    value: float
    by_problem: dict[str, numpy.ndarray]
    trainings: float = 0.0


def measured(measure: str, means: numpy.ndarray, tasks: list[int], length: list[int], grader: str):
    """A measure from means over problems, an array (…, tasks, COLUMNS); `tasks` and `length` are places of tasks."""
    of = lambda chosen, name: means[..., chosen, COLUMNS.index(name)].sum(axis=-1) / len(chosen)  # noqa: E731
    with numpy.errstate(divide="ignore", invalid="ignore"):
        if measure == "accuracy":
            return of(tasks, GRADERS[grader])
        if measure == "length":
            return of(length, "tokens")
        if measure == "efficiency":
            return 1000 * of(tasks, GRADERS[grader]) / of(length, "tokens")
        if measure == "reflection":
            return of(length, "reflective")
        if measure == "reflection_gap":
            share, tokens, theirs = (of(length, name) for name in ("reflective", "tokens", "tokens_reflective"))
            return theirs / share - (tokens - theirs) / (1 - share)
        if measure == "error_rate":
            return of(tasks, "wrong_calculations") / of(tasks, "calculations")
    raise ValueError(f"unknown measure {measure}")


def linearised(cell: dict[str, numpy.ndarray], measure: str, tasks: tuple, length: tuple, grader: str) -> Side:
    """A measure of one cell (task: problems × COLUMNS) and its values by problem: gradient times what the problem shows.

    The gradient by complex steps, exact to rounding (Squire & Trapp 1998).
    """
    names = list(dict.fromkeys([*(() if measure in ("length", "reflection", "reflection_gap") else tasks),
                                *(() if measure in ("accuracy", "error_rate") else length)]))  # fmt: skip
    means = numpy.array([cell[name].mean(axis=0) for name in names])
    places = [names.index(name) for name in tasks if name in names], [names.index(name) for name in length if name in names]
    step = 1e-30
    moved = means + 1j * step * numpy.eye(means.size).reshape(means.size, *means.shape)
    gradient = (measured(measure, moved, *places, grader).imag / step).reshape(means.shape)
    value = float(measured(measure, means, *places, grader))
    return Side(value, {name: cell[name] @ row for name, row in zip(names, gradient, strict=True)})


def weighted(terms: list[tuple[float, Side]], trainings: float = 0.0) -> Side:
    """A weighted sum of sides on the same problems."""
    total: dict = collections.defaultdict(float)
    for weight, side in terms:
        for task, values in side.by_problem.items():
            total[task] = total[task] + weight * values
    return Side(sum(weight * side.value for weight, side in terms), dict(total), trainings)


class Study:
    """The cells of a study by (model, run, seed), task by task problems × COLUMNS, and what its grid asks for.

    `trained_bases`: models whose base was trained here, one for each seed. `copies`: cells that are another's to the
    last token; of such trainings one counts.
    """

    def __init__(self, cells: dict, wanted: list[tuple], examples: dict[str, int], tasks: Tasks, trained_bases: frozenset = frozenset()):
        self.cells, self.wanted, self.examples, self.tasks, self.trained_bases = dict(cells), wanted, examples, tasks, trained_bases
        self.models = list(dict.fromkeys(model for model, _, _ in wanted))
        self.copies = self._copies()
        self._sides, self._noise = {}, {}

    def _copies(self) -> list[tuple]:
        """(cell, the one it copies), trained or given: the same correct responses and tokens on every problem."""
        first, found = {}, []
        for key, cell in self.cells.items():
            print_ = tuple(hash(cell[task][:, [0, 3]].tobytes()) for task in sorted(cell))
            if any(numpy.ptp(table[:, 3]) for table in cell.values()) and first.setdefault(print_, key) != key:
                found.append((key, first[print_]))
        return found

    def runs(self, model: str) -> list[str]:
        """The runs the grid asks of a model."""
        return list(dict.fromkeys(run for name, run, _ in self.wanted if name == model))

    def sizes(self, model: str, recipe: str | None = None, rl: bool = False) -> list[str]:
        """SFT runs of a recipe (None: the paper's protocol) by data size; with `rl` those from which RL starts."""
        runs = [run for run in self.runs(model) if (p := grid.parse_run(run)).size and p.recipe == recipe and not p.rl]
        runs = [run for run in runs if not rl or f"{run}+rl" in self.runs(model)]
        return sorted(runs, key=lambda run: self.examples[grid.parse_run(run).size])

    def resolve(self, model: str, selector: str, rl: bool) -> tuple[list[dict[str, float]], str]:
        """([weights by run] that a selector of claims.yaml stands for, why there is none).

        `rl`: the comparison is one of RL, so that sizes are those from which RL starts. What is called largest must not
        be the smallest of the grid, and the other way round.
        """
        parts = SELECTOR.fullmatch(selector)
        plain, chosen = self.sizes(model), self.sizes(model, parts["recipe"], rl)
        name, why = parts["size"], "the grid has no such cells"
        if name == "base":
            found = [["base"]] if "base" in self.runs(model) else []
        elif name == "smallest":
            found = [[run] for run in chosen[:1] if self._size(run) == self._size(plain[0])]
        elif name == "largest":
            found = [[run] for run in chosen[-1:] if self._size(run) != self._size(plain[0])]
            why = f"the largest size{' from which RL starts' if rl else ''} is the smallest of the grid" if chosen else why
        elif name == "each size":
            found = [[run] for run in chosen]
        else:
            half = len(chosen) // 2
            found = [{"last three sizes": chosen[-3:], "larger sizes": chosen[-half:] if half else [], "smaller sizes": chosen[:half]}[name]]
            why = "the grid has one size alone" if chosen else why
        found = [dict.fromkeys(runs, 1 / len(runs)) for runs in found if runs]
        if parts["rl"]:
            found = self._with_rl(model, [run for weights in found for run in weights], parts["when"])
        return found, "" if found else why

    def _size(self, run: str) -> int:
        return self.examples[grid.parse_run(run).size]

    def _with_rl(self, model: str, starts: list[str], when: str | None) -> list[dict[str, float]]:
        """RL from each start: its end (the mean of the last RL_END checkpoints), each checkpoint (`@`), or their mean."""
        found = []
        for start in starts:
            steps = [run for run in self.runs(model) if grid.parse_run(run).whole == f"{start}+rl"]
            steps.sort(key=lambda run: grid.parse_run(run).step or math.inf)
            steps = steps if when else steps[-grid.RL_END :]
            found += [{run: 1.0} for run in steps] if when == "@" else [dict.fromkeys(steps, 1 / len(steps))] if steps else []
        return found

    def seeds(self, model: str, runs: list[str]) -> tuple[dict[str, list[int]], list[str]]:
        """({run: seeds that count}, missing cells): trained runs by the seeds that all of them ask for, a given base by all of its own."""
        asked = {run: [s for m, r, s in self.wanted if m == model and r == run] for run in runs}
        trained = [run for run in runs if self.is_trained(model, run)]
        common = [s for s in asked[trained[0]] if all(s in asked[run] for run in trained)] if trained else []
        wanted = {run: common if run in trained else asked[run] for run in runs}
        missing = [f"{model}/{run}/seed{s}" for run in runs for s in wanted[run] if (model, run, s) not in self.cells]
        copied = {key for key, original in self.copies if key[:2] == original[:2]}
        here = {run: [s for s in seeds if (model, run, s) in self.cells and (model, run, s) not in copied] for run, seeds in wanted.items()}
        if trained:
            common = [s for s in common if all((model, run, s) in self.cells for run in trained)]
            here |= {run: [s for s in here[run] if s in common] for run in trained}
        return here, missing

    def is_trained(self, model: str, run: str) -> bool:
        """True for a run whose weights a seed of this study made."""
        return run != "base" or model in self.trained_bases

    def of_cell(self, key: tuple, measure: str, tasks: tuple, grader: str) -> Side:
        """A measure of one cell, remembered."""
        length = self.tasks.calculations if tasks == self.tasks.calculations else self.tasks.length
        name = (key, measure, tasks, grader)
        if name not in self._sides:
            self._sides[name] = linearised(self.cells[key], measure, tasks, length, grader)
        return self._sides[name]

    def side(self, model: str, weights: dict[str, float], seeds: dict[str, list[int]], measure: str, tasks: tuple, grader: str) -> Side:
        """The weighted mean of runs, each over its seeds."""
        terms, trainings = [], collections.Counter()
        for run, weight in weights.items():
            terms += [(weight / len(seeds[run]), self.of_cell((model, run, s), measure, tasks, grader)) for s in seeds[run]]
            if self.is_trained(model, run):
                trainings[grid.parse_run(run).whole] += weight / len(seeds[run]) ** 0.5  # checkpoints are of one training
        return weighted(terms, sum(weight**2 for weight in trainings.values()))

    def noise(self, measure: str, tasks: tuple, grader: str) -> tuple[float, float]:
        """(variance of one training, degrees of freedom) of a measure, relative unless it is a share (PRIOR)."""
        if (measure, tasks, grader) not in self._noise:
            self._noise[measure, tasks, grader] = self._pooled_noise(measure, tasks, grader)
        return self._noise[measure, tasks, grader]

    def _pooled_noise(self, measure: str, tasks: tuple, grader: str) -> tuple[float, float]:
        """Contrasts between trainings of one cell, and of curves around a parabola in log size.

        The smallest size is left out of the curves: what happens there is the effect, not its noise.
        """
        found = []
        scale = (lambda side: 1.0) if measure in PRIOR else (lambda side: 1 / side.value if side.value else 0.0)

        def add(sides: list[Side], matrix: numpy.ndarray, each: float):
            for row in matrix.T:
                whole = weighted([(w * scale(side), side) for w, side in zip(row, sides, strict=True)])
                value = whole.value if measure in PRIOR else sum(w * math.log(side.value) for w, side in zip(row, sides, strict=True))
                variance = sum(part for part, _ in paired.over_problems(list(whole.by_problem.values())))
                if math.isfinite(value) and math.isfinite(variance):
                    found.append((value, variance, each))

        for model in self.models:
            for run in self.runs(model):
                seeds, _ = self.seeds(model, [run])
                if len(seeds[run]) > 1 and self.is_trained(model, run) and grid.parse_run(run).step is None:
                    sides = [self.of_cell((model, run, s), measure, tasks, grader) for s in seeds[run]]
                    if measure in PRIOR or all(side.value > 0 for side in sides):
                        add(sides, _residuals(numpy.ones((len(sides), 1))), 1.0)
            seeds = {run: self.seeds(model, [run])[0][run] for run in self.sizes(model)[1:]}
            curve = [run for run in seeds if seeds[run]]
            if len(curve) > 3:
                sides = [self.side(model, {run: 1.0}, seeds, measure, tasks, grader) for run in curve]
                if measure in PRIOR or all(side.value > 0 for side in sides):
                    powers = numpy.vander(numpy.log([self._size(run) for run in curve]), 3)
                    add(sides, _residuals(powers), float(numpy.mean([side.trainings for side in sides])))
        return paired.training_noise(found, PRIOR.get(measure, RELATIVE_PRIOR))

    def estimate(self, model: str, left: dict[str, float], right: dict[str, float] | None, part: dict, grader: str) -> tuple[paired.Interval | None, list[str], int]:
        """(the quantity of a part, missing cells, trainings a side): left alone, minus right, or over right; None without cells."""
        tasks = self.tasks.calculations if part.get("tasks") == "calculations" else self.tasks.headline
        seeds, missing = self.seeds(model, [*left, *(right or {})])
        if missing and not all(seeds.values()):
            return None, missing, 0
        a, b = (weights and self.side(model, weights, seeds, part["measure"], tasks, grader) for weights in (left, right))
        count = min((len(seeds[run]) for run in seeds if self.is_trained(model, run)), default=0)
        return combined(a, b, part, self.noise(part["measure"], tasks, grader)), missing, count


@functools.cache
def _orthonormal(size: int, flat: bytes, columns: int) -> numpy.ndarray:
    design = numpy.frombuffer(flat).reshape(size, columns)
    return numpy.linalg.qr(design, mode="complete")[0][:, columns:]


def _residuals(design: numpy.ndarray) -> numpy.ndarray:
    """Orthonormal contrasts, one a column, that a design leaves at zero."""
    return _orthonormal(*design.shape[:1], numpy.ascontiguousarray(design, float).tobytes(), design.shape[1])


def combined(left: Side, right: Side | None, part: dict, noise: tuple[float, float]) -> paired.Interval:
    """One side alone, minus (`minus`) or over (`over`) another, with its variances."""
    measure = part["measure"]
    if right is None:
        value, by_left, by_right = left.value, 1.0, 0.0
    elif "minus" in part:
        value, by_left, by_right = left.value - right.value, 1.0, -1.0
    else:
        value = left.value / right.value if right.value else math.inf if left.value else math.nan
        by_left, by_right = (1 / right.value, -value / right.value) if right.value else (math.nan, math.nan)
    whole = weighted([(by_left, left)] + ([(by_right, right)] if right else []))
    moved = 0.0  # what one training moves, squared: a share by points, all else in proportion
    for side, slope in ((left, by_left), (right, by_right)):
        if side:
            moved += side.trainings * (slope * (1.0 if measure in PRIOR else side.value)) ** 2
    most = 1.0 if measure in PRIOR and "over" not in part else math.inf
    least = -math.inf if measure == "reflection_gap" else -most if "minus" in part else 0.0
    unit = abs(by_left) / len(whole.by_problem) if measure in PRIOR else 0.0
    problems = paired.over_problems(list(whole.by_problem.values()), unit)
    return paired.Interval(value, problems, (noise[0] * moved, noise[1]), least, most)


def from_problems(problems: pandas.DataFrame) -> dict[tuple, dict[str, numpy.ndarray]]:
    """Cells from the table `problems`; an error where they answered different problems of a task."""
    cells, order = {}, {}
    for (model, run, seed, task), rows in problems.groupby(["model", "run", "seed", "task"], observed=True):
        rows = rows.sort_values("id")
        if order.setdefault(task, rows.id.tolist()) != rows.id.tolist():
            records.fail(
                f"{model}/{run}/{seed}",
                f"answered other problems of {task} than the other cells",
                "Generate the cell again",
            )
        cells.setdefault((model, run, seed), {})[task] = rows[list(COLUMNS)].to_numpy(float)
    return cells
