"""What could make a verdict mean something else, looked for before it is given: a claim that rests on one "holds, but …".

Each check says in one sentence what it found, or nothing. They look at the cells that a part compares, in the same
way and by the same rule as the verdict itself.
"""

import numpy

from valley import paired
from valley.quantities import COLUMNS, GRADERS

FEW = 0.02  # of responses: a difference in what is cut off, or a share without answer, that cannot explain much
UNREADABLE = 0.05
SAME = 0.9  # of the problems with all k samples the same: they are one sample


def column(cell: dict, task: str, name: str) -> numpy.ndarray:
    return cell[task][:, COLUMNS.index(name)]


def averaged(study, model: str, weights: dict[str, float], tasks: tuple) -> dict[str, numpy.ndarray]:
    """The weighted mean of a side's cells, task by task problems × COLUMNS."""
    seeds, _ = study.seeds(model, list(weights))
    return {
        task: sum(w * numpy.mean([study.cells[model, run, s][task] for s in seeds[run]], axis=0) for run, w in weights.items())
        for task in tasks
    }


def doubts(study, part: dict, rows: list, known, confidence: float, verdict: str) -> list[str]:
    """What speaks against taking a part's verdict as it reads, a sentence each."""
    rows = [row for row in rows if row.estimate]
    found = [*copies(study, rows), *same_samples(study, rows)]
    tasks = study.tasks.calculations if part.get("tasks") == "calculations" else study.tasks.headline
    if part["measure"] in ("accuracy", "efficiency"):
        found += [f"right answers of {task} differ between cells under the same ids" for task in known.other_gold if task in tasks]
    if part["measure"] != "accuracy" or "minus" not in part or not rows:
        return found
    sides = [(averaged(study, row.model, row.left, tasks), averaged(study, row.model, row.right, tasks)) for row in rows]
    grader = GRADERS[part.get("grader", "headline")]
    again = lambda values: by_values(part, rows, values, confidence)  # noqa: E731
    if verdict in ("holds", "fails"):
        found += truncation(sides, tasks, grader, again, verdict)
        found += unreadable(sides, tasks, grader, again, verdict)
        found += one_benchmark(sides, tasks, grader, part["expect"], confidence, verdict)
        found += leaked(sides, tasks, grader, known, again, verdict)
    if any("size" in part[key] or "largest" in part[key] or "smallest" in part[key] for key in ("of", "minus")):
        open_ = [task for task in known.leaking if task in tasks]
        found += [f"the problems of {', '.join(open_)} were not taken out of the traces"] if open_ else []
    return found


def by_values(part: dict, rows: list, values: list[list[numpy.ndarray]], confidence: float) -> tuple[str, float]:
    """(the verdict by the part's rule, mean change) had the rows these values by problem, benchmark by benchmark."""
    made = [
        paired.mean(benchmarks, -1.0, 1.0)._replace(training=row.estimate.training) if all(map(len, benchmarks)) else None
        for row, benchmarks in zip(rows, values, strict=True)
    ]
    value = float(numpy.mean([interval.value for interval in made if interval])) if any(made) else float("nan")
    return paired.verdict(*paired.by_rule(part["rule"], made, part["expect"]), confidence), value


def truncation(sides, tasks, grader, again, verdict) -> list[str]:
    """Is it the same among responses that finished on both sides? And had every one that was cut off been right?"""
    cut = [[numpy.mean([column(side, task, "cut").mean() for task in tasks]) for side in pair] for pair in sides]
    left, right = numpy.mean(cut, axis=0)
    if abs(left - right) < FEW:
        return []
    values = []
    for a, b in sides:
        finished = []
        for task in tasks:
            shares = [1 - column(side, task, "cut") for side in (a, b)]
            both = (shares[0] > 1e-9) & (shares[1] > 1e-9)
            rates = [column(side, task, grader)[both] / share[both] for side, share in zip((a, b), shares, strict=True)]
            finished.append(rates[0] - rates[1])
        values.append(finished)
    among, value = again(values)
    if among == verdict:
        return []
    bound, _ = again([[column(a, t, grader) + column(a, t, "cut") - column(b, t, grader) - column(b, t, "cut") for t in tasks] for a, b in sides])
    return [
        f"{left:.0%} of responses are cut off against {right:.0%}: among those finished on both sides it is {among} "
        f"(mean change {100 * value:+.1f} points), and had all that were cut off been right it would be {bound}"
    ]


def unreadable(sides, tasks, grader, again, verdict) -> list[str]:
    """Would it be the same had every finished response without an answer that a grader can read been right?"""
    none = numpy.mean([[numpy.mean([column(side, task, "no answer").mean() for task in tasks]) for side in pair] for pair in sides], axis=0)
    if max(none) < UNREADABLE:
        return []
    bound, _ = again([[column(a, t, grader) + column(a, t, "no answer") - column(b, t, grader) - column(b, t, "no answer") for t in tasks] for a, b in sides])
    if bound == verdict:
        return []
    return [f"no grader can read {none[0]:.0%} of responses against {none[1]:.0%}: had they been right it would be {bound}"]


def one_benchmark(sides, tasks, grader, expect, confidence, verdict) -> list[str]:
    """Is it there, on average over the models, when any one benchmark is left out?"""
    if len(tasks) < 2 or "about" in expect:
        return []
    by_task = {t: numpy.mean([column(a, t, grader) - column(b, t, grader) for a, b in sides], axis=0) for t in tasks}
    sure = lambda chosen: paired.verdict(*paired.mean([by_task[t] for t in chosen]).tests(expect), confidence) == verdict  # noqa: E731
    alone = [task for task in tasks if not sure([t for t in tasks if t != task])]
    return [f"it rests on {task} alone: without it, it is not seen" for task in alone if sure([task])]


def leaked(sides, tasks, grader, known, again, verdict) -> list[str]:
    """Is it the same on the problems that do not occur in the traces?"""
    if not any(task in tasks for task, _ in known.leaks):
        return []
    clean = {t: numpy.array([(t, i) not in known.leaks for i in range(len(sides[0][0][t]))]) for t in tasks}
    among, value = again([[(column(a, t, grader) - column(b, t, grader))[clean[t]] for t in tasks] for a, b in sides])
    count = sum(int((~mask).sum()) for mask in clean.values())
    if among == verdict:
        return []
    return [f"{count} problems occur in the traces: on the others it is {among} (mean change {100 * value:+.1f} points)"]


def copies(study, rows) -> list[str]:
    """Cells of these rows whose responses are those of another, to the last token."""
    used = {(row.model, run) for row in rows for side in (row.left, row.right) if side for run in side}
    name = lambda key: f"{key[0]}/{key[1]}/seed{key[2]}"  # noqa: E731
    found = [pair for pair in study.copies if any(key[:2] in used for key in pair)]
    return [f"{name(found[0][0])} is a copy of {name(found[0][1])}, {len(found)} such in all: they count once"] if found else []


def same_samples(study, rows) -> list[str]:
    """Cells whose k samples of a problem are all the same."""
    used = {(row.model, run) for row in rows for side in (row.left, row.right) if side for run in side}
    cells = [(key, cell) for key, cell in study.cells.items() if key[:2] in used]
    found = [(key, task) for key, cell in cells for task in cell if column(cell, task, "same").mean() > SAME]
    return [f"the samples of {found[0][1]} in {'/'.join(map(str, found[0][0]))} are all the same, {len(found)} such in all"] if found else []
