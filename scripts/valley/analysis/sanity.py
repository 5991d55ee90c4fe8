"""What could make a verdict mean something else, looked for before it is given: a claim that rests on one
"holds, but …".

Each check says in a sentence what it found, or nothing. It looks at the cells that a part compares, and asks
the same question by the same rule again: among finished responses, had unreadable ones been right, on
problems that did not leak.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy

from valley.analysis import intervals
from valley.analysis.cells import Study
from valley.analysis.measures import COLUMNS
from valley.grading import GRADERS
from valley.grid import Cell

CUT = 0.02  # a difference in the share of responses that are cut off which cannot explain much
WITHOUT_ANSWER = 0.05  # share of responses without an answer
IDENTICAL = 0.9  # share of the problems whose k samples are all the same: they are one sample

Answered = dict[str, numpy.ndarray]  # one side, task by task: problems × COLUMNS


class Question(NamedTuple):
    """A change in accuracy that a part asks for, to be asked again of other values."""

    part: dict
    rows: list  # estimates.Row
    sides: list[tuple[Answered, Answered]]
    tasks: list[str]
    verdict: str
    confidence: float

    def right(self, side: Answered, task: str) -> numpy.ndarray:
        """The share of right responses to each problem."""
        return shown(side, task, GRADERS[self.part.get("grader", "headline")])

    def again(self, differences: Callable) -> tuple[str, float]:
        """(verdict, mean change) by the part's rule, `differences` of (left, right, task) giving each
        problem's change.
        """
        made = []
        for row, (left, right) in zip(self.rows, self.sides, strict=True):
            values = [differences(left, right, task) for task in self.tasks]
            whole = intervals.mean(values, -1.0, 1.0) if all(map(len, values)) else None
            made.append(whole and whole._replace(training=row.estimate.training))
        means = [interval.value for interval in made if interval]
        p_values = intervals.by_rule(self.part["rule"], made, self.part["expect"])
        return intervals.verdict(*p_values, self.confidence), float(numpy.mean(means)) if means else numpy.nan


def shown(side: Answered, task: str, name: str) -> numpy.ndarray:
    """One measure of a side, problem by problem."""
    return side[task][:, COLUMNS.index(name)]


def cut(side: Answered, task: str) -> numpy.ndarray:
    """Share of the responses to each problem that did not finish."""
    return shown(side, task, "truncated") + shown(side, task, "looping")


def averaged(study: Study, model: str, weights: dict[str, float], tasks: list[str]) -> Answered:
    """The weighted mean of a side's cells."""
    seeds, _ = study.seeds(model, list(weights))
    total = {}
    for run, weight in weights.items():
        cells = [study.cells[Cell(model, run, seed)] for seed in seeds[run]]
        for task in tasks:
            mean = numpy.mean([cell.columns[task] for cell in cells], axis=0)
            total[task] = total.get(task, 0.0) + weight * mean
    return total


def doubts(study: Study, part: dict, rows: list, known, verdict: str) -> list[str]:
    """What speaks against taking a part's verdict as it reads, a sentence each; `known` is claims.Known.

    Faults of the data are named whatever the verdict; what else could explain it is asked where there is one.
    """
    rows, tasks = [row for row in rows if row.estimate], known.of(part).headline
    found = [*copies(study, rows), *same_samples(study, rows)]
    if part["measure"] in ("accuracy", "efficiency"):
        golds = sorted(study.other_gold & set(tasks))
        found += [f"right answers of {task} differ between cells under the same ids" for task in golds]
    leaking = [task for task in known.leaking if task in tasks]
    if leaking and part["measure"] == "accuracy":
        found.append(f"the problems of {', '.join(leaking)} were not taken out of the traces")
    if verdict == "undecided" or part["measure"] != "accuracy" or "minus" not in part:
        return found
    sides = [tuple(averaged(study, row.model, side, tasks) for side in (row.left, row.right)) for row in rows]
    asked = Question(part, rows, sides, tasks, verdict, known.confidence)
    found += [*truncation(asked), *unreadable(asked), *one_benchmark(asked)]
    found += leaked(asked, known.leaks, next(iter(study.cells.values())).ids)
    return found


def share(asked: Question, measure: Callable) -> tuple[float, float]:
    """A share of all responses on the left and on the right, mean over tasks and models."""
    means = [
        [numpy.mean([measure(side, t).mean() for t in asked.tasks]) for side in pair] for pair in asked.sides
    ]
    return tuple(numpy.mean(means, axis=0))


def truncation(asked: Question) -> list[str]:
    """Is it the same among responses that finished on both sides? And had every one that was cut off been
    right?
    """
    left, right = share(asked, cut)
    if abs(left - right) < CUT:
        return []

    def finished(a: Answered, b: Answered, task: str) -> numpy.ndarray:
        both = (cut(a, task) < 1 - 1e-9) & (cut(b, task) < 1 - 1e-9)
        rates = [asked.right(side, task)[both] / (1 - cut(side, task)[both]) for side in (a, b)]
        return rates[0] - rates[1]

    among, change = asked.again(finished)
    if among == asked.verdict:
        return []
    bound, _ = asked.again(lambda a, b, t: asked.right(a, t) + cut(a, t) - asked.right(b, t) - cut(b, t))
    return [
        f"{left:.0%} of responses are cut off against {right:.0%}: among those finished on both sides it is {among} "
        f"(mean change {100 * change:+.1f} points), and had all that were cut off been right it would be {bound}"
    ]


def unreadable(asked: Question) -> list[str]:
    """Would it be the same had every finished response in which no grader finds an answer been right?"""

    def none(side: Answered, task: str) -> numpy.ndarray:
        return shown(side, task, "no answer")

    left, right = share(asked, none)
    bound, _ = asked.again(lambda a, b, t: asked.right(a, t) + none(a, t) - asked.right(b, t) - none(b, t))
    if max(left, right) < WITHOUT_ANSWER or bound == asked.verdict:
        return []
    return [
        f"no grader can read {left:.0%} of responses against {right:.0%}: had they been right it would be {bound}"
    ]


def one_benchmark(asked: Question) -> list[str]:
    """Is it there, on average over the models of this study, when any one benchmark is left out?"""
    if len(asked.tasks) < 2:
        return []
    changes = {
        task: numpy.mean([asked.right(a, task) - asked.right(b, task) for a, b in asked.sides], axis=0)
        for task in asked.tasks
    }

    def seen(tasks: list[str]) -> bool:
        p_values = intervals.mean([changes[task] for task in tasks]).tests(asked.part["expect"])
        return intervals.verdict(*p_values, asked.confidence) == asked.verdict

    alone = [task for task in asked.tasks if seen([task]) and not seen([t for t in asked.tasks if t != task])]
    return [f"it rests on {task} alone: without it, it is not seen" for task in alone]


def leaked(asked: Question, leaks: frozenset, ids: dict[str, list[str]]) -> list[str]:
    """Is it the same on the problems that do not occur in the traces?"""
    clean = {task: numpy.array([(task, i) not in leaks for i in ids[task]]) for task in asked.tasks}
    count = sum(int((~mask).sum()) for mask in clean.values())
    if not count:
        return []
    among, change = asked.again(lambda a, b, t: (asked.right(a, t) - asked.right(b, t))[clean[t]])
    if among == asked.verdict:
        return []
    return [
        f"{count} problems occur in the traces: on the others it is {among} (mean change {100 * change:+.1f} points)"
    ]


def used(study: Study, rows: list) -> list[Cell]:
    """The cells that rows compare."""
    runs = {(row.model, run) for row in rows for side in (row.left, row.right) if side for run in side}
    return [cell for cell in study.cells if (cell.model, cell.run) in runs]


def copies(study: Study, rows: list) -> list[str]:
    """Cells of these rows whose responses are those of another, to the last token."""
    cells = set(used(study, rows))
    found = [(copy, first) for copy, first in study.copies.items() if cells & {copy, first}]
    return (
        [f"{found[0][0]} is a copy of {found[0][1]}, {len(found)} such in all: they count once"]
        if found
        else []
    )


def same_samples(study: Study, rows: list) -> list[str]:
    """Cells whose k samples of a problem are all the same."""
    tables = [(cell, task) for cell in used(study, rows) for task in study.cells[cell].columns]
    found = [
        f"{task} in {cell}"
        for cell, task in tables
        if study.cells[cell].column(task, "same").mean() > IDENTICAL
    ]
    return [f"the samples of {found[0]} are all the same, {len(found)} such in all"] if found else []
