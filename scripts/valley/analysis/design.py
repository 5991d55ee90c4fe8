"""What a study could decide, and what to buy for it: the odds of each verdict after more cells, seeds,
samples or problems.

A purchase changes the variances of what a claim compares: another training halves the noise of training, four
times the samples quarter what sampling adds, larger sets of problems divide the rest; a cell that is missing
brings an estimate that is not there yet. What is measured is taken as it is; what is missing is taken from a
forged study, where the paper's effects are true and sizes that can be forecast come out as forecast. The odds
are those of the rule that gives the verdicts (intervals.by_rule), over what the new data could show.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy

from valley import grid
from valley.analysis import claims, intervals
from valley.analysis.cells import Study
from valley.analysis.estimates import Row
from valley.analysis.intervals import Interval
from valley.analysis.measures import tasks_of
from valley.analysis.recovery import recovery
from valley.grid import Cell

DRAWS = 200  # futures that odds are counted over: a probability to .04
SPREAD = {"accuracy": 0.03, "reflection": 0.1}  # SD of what is true about what was assumed of a missing cell
RELATIVE_SPREAD = 0.15  # the same, of measures that are no shares, in their value
WORTH = 0.02  # of a verdict on a part of a claim that cannot be decided as a whole
FORGED_NOISE = 0.01  # SD of a training's accuracy in forged studies: the verdicts' own prior
FORGED = 3  # studies that the odds of the order of sizes are counted over


class Purchase(NamedTuple):
    """What could be bought: cells that the grid asks for, trainings of models beyond it, samples, larger
    problem sets.
    """

    cells: frozenset[Cell] = frozenset()
    seeds: tuple[tuple[str, int], ...] = ()  # (model, how many times its trainings)
    samples: int = 1  # times the samples of the headline
    problems: tuple[
        tuple[str, int], ...
    ] = ()  # (task, how many problems) of the headline in place of its own

    def plus(self, other: "Purchase") -> "Purchase":
        """Both together."""
        seeds = dict(self.seeds)
        for model, times in other.seeds:
            seeds[model] = max(times, seeds.get(model, 1))
        return Purchase(
            self.cells | other.cells,
            tuple(sorted(seeds.items())),
            max(self.samples, other.samples),
            other.problems or self.problems,
        )


class Prospect(NamedTuple):
    """One row of a part: what is measured (None while cells are missing), what to expect, what it takes."""

    model: str
    measured: Interval | None
    expected: Interval | None
    spread: float  # SD of the truth about `expected`
    missing: frozenset[Cell]
    sampling: dict[str, tuple[float, float]]  # task: variance by sampling in (trained cells, given ones)
    tasks: tuple[str, ...]  # of the variances over problems, in their order
    counts: dict[str, int]  # problems of each


class Part(NamedTuple):
    """A part of a claim with its rows, and the verdict now."""

    claim: str
    name: str
    part: dict
    verdict: str
    rows: list[Prospect]
    whole: tuple[frozenset[Cell], float] | None = (
        None  # a test of its own: the cells it needs, its odds with them
    )

    @property
    def key(self) -> str:
        """`C1 loss`"""
        return f"{self.claim} {self.name}"


def row_cells(study: Study, row: Row) -> set[Cell]:
    """The cells of both sides of a row, by the seeds that the grid asks for."""
    runs = [*row.left, *(row.right or {})]
    trained = [run for run in runs if study.is_trained(row.model, run)]
    common = set.intersection(*(set(study.runs_of[row.model][run]) for run in trained or runs))
    seeds = {run: common if run in trained else set(study.runs_of[row.model][run]) for run in runs}
    return {Cell(row.model, run, seed) for run in runs for seed in seeds[run]}


def sampling(
    study: Study, row: Row, part: dict, tasks: list[str], grader: str
) -> dict[str, tuple[float, float]]:
    """By task, the variance that drawing samples adds to a row's estimate: (of trained cells, of given ones).

    Of accuracies alone: of the other measures single responses are not kept, and samples are taken to add
    nothing.
    """
    from valley.grading import GRADERS

    if part["measure"] != "accuracy":
        return {}
    seeds, _ = study.seeds(row.model, [*row.left, *(row.right or {})])
    slopes = (1.0, 1.0)
    if "over" in part and row.estimate:
        right = numpy.mean(
            [
                _accuracy(study.cells[Cell(row.model, run, s)], tasks, grader)
                for run in row.right
                for s in seeds[run]
            ]
        )
        slopes = (1 / right, row.estimate.value / right) if right else (0.0, 0.0)
    found = {task: [0.0, 0.0] for task in tasks}
    for slope, side in zip(slopes, (row.left, row.right or {}), strict=True):
        for run, weight in side.items():
            given = not study.is_trained(row.model, run)
            for seed in seeds[run]:
                cell = study.cells[Cell(row.model, run, seed)]
                for task in tasks:
                    rate, k = cell.column(task, GRADERS[grader]), cell.samples[task]
                    if k > 1:
                        each = (rate * (1 - rate)).sum() / (k - 1) / len(rate) ** 2
                        found[task][given] += (slope * weight / len(seeds[run]) / len(tasks)) ** 2 * each
    return {task: tuple(parts) for task, parts in found.items()}


def _accuracy(cell, tasks: list[str], grader: str) -> float:
    from valley.grading import GRADERS

    return float(numpy.mean([cell.column(task, GRADERS[grader]).mean() for task in tasks]))


def outlook(
    study: Study, forged: list[Study], asked: dict, known: claims.Known
) -> tuple[list[Part], list[str]]:
    """(the parts of claims with their rows, the parts whose odds are not foreseen); parts that do not count
    are left out.

    The `forged` studies answer every cell of the same grid, each by other chances.
    """
    found, unforeseen = [], []
    for name, claim in asked.items():
        for key, part in claim["parts"].items():
            if not part.get("counts", True) or claims.not_applicable(study, part, known):
                continue
            if part["measure"] == "fit":  # of p^k: responses are not forged
                unforeseen.append(f"{name} {key}")
                continue
            if part["measure"] == "order":
                now = claims.order(study, known, part)[0]
                found.append(Part(name, key, part, now, [], _order(study, forged, known, part)))
                continue
            grader = part.get("grader", "headline")
            rows, *expected = (claims.rows_of(one, part, known, grader)[0] for one in (study, *forged))
            if not rows:
                continue
            verdict = claims.decide(part, rows, known.confidence)
            tasks = [*dict.fromkeys(tasks_of(part["measure"], known.of(part)))]
            prospects = [
                _prospect(study, forged[0], row, several, part, tasks, grader)
                for row, *several in zip(rows, *expected, strict=True)
            ]
            found.append(Part(name, key, part, verdict, prospects))
    return found, unforeseen


def _order(
    study: Study, forged: list[Study], known: claims.Known, part: dict
) -> tuple[frozenset[Cell], float]:
    """(what the order of recovery by model size needs, the odds that it is decided then).

    It needs the base and sizes of every model that is meant; the odds are the share of forged studies in
    which it is decided.
    """
    cells = [cell for cell in study.wanted if cell.run == "base" or cell.parsed.is_protocol]
    found = [known._replace(points=recovery(one, known.tasks, known.confidence)) for one in forged]
    decided = [claims.order(study, one, part)[0] in ("holds", "fails") for one in found]
    meant = set(claims.asked_of(study, part)) & set(known.parameters)
    missing = frozenset(cell for cell in cells if cell not in study.cells and cell.model in meant)
    return missing, float(numpy.mean(decided))


def _prospect(
    study: Study, forged: Study, row: Row, several: list[Row], part: dict, tasks: list[str], grader: str
) -> Prospect:
    expected, made = several[0], [one.estimate.value for one in several if one.estimate]
    if expected.estimate:
        expected = expected._replace(estimate=expected.estimate._replace(value=float(numpy.mean(made))))
    source, one = (study, row) if row.estimate else (forged, expected)
    missing = frozenset(row_cells(study, row) - set(study.cells))
    relative = RELATIVE_SPREAD * abs(expected.estimate.value) if expected.estimate else 0.0
    spread = SPREAD.get(part["measure"], relative) if "over" not in part else relative
    some = next(iter(source.cells.values()))
    counts = {task: len(some.ids[task]) for task in tasks}
    return Prospect(
        row.model,
        row.estimate,
        expected.estimate,
        spread,
        missing,
        sampling(source, one, part, tasks, grader),
        tuple(tasks),
        counts,
    )


def after(interval: Interval, row: Prospect, bought: Purchase) -> Interval:
    """The interval with the variances that a purchase leaves, its value as it is."""
    seeds = dict(bought.seeds).get(row.model, 1)
    larger, problems = dict(bought.problems), []
    for (variance, freedom), task in zip(interval.problems, row.tasks, strict=True):
        trained, given = row.sampling.get(task, (0.0, 0.0))
        drawn = min(trained + given, 0.9 * variance)
        share = trained / (trained + given) if trained + given else 0.0
        times = larger.get(task, row.counts[task]) / row.counts[task]
        left = variance - drawn + drawn * (share / seeds + 1 - share) / bought.samples
        problems.append((left / times, freedom * times))
    noise, freedom = interval.training
    return interval._replace(problems=tuple(problems), training=(noise / seeds, freedom))


def futures(row: Prospect, bought: Purchase, rng) -> tuple[numpy.ndarray, Interval] | None:
    """(values that the estimate could have after a purchase, its interval then); None where cells would still
    be missing.
    """
    if row.measured:
        now, then = row.measured, after(row.measured, row, bought)
        known, left = now.error()[0], then.error()[0]
        moved = math.sqrt(
            max(0.0, known**2 - left**2)
        )  # what the truth may be, less what stays unknown of it
        return now.value + moved * rng.standard_normal(DRAWS), then
    if row.expected is None or not row.missing <= bought.cells:
        return None
    then = after(row.expected, row, bought)
    wide = math.hypot(row.spread, then.error()[0])
    return then.value + wide * rng.standard_normal(DRAWS), then


def below(values: numpy.ndarray, then: Interval, threshold: float) -> numpy.ndarray:
    """Interval.below of many values at once."""
    from scipy import special

    error, freedom = then.error()
    return special.stdtr(min(freedom, 1e9), (values - threshold) / max(error, 1e-12))


def tests(expect: dict, under, over) -> tuple[numpy.ndarray, numpy.ndarray]:
    """p-values (in favour, against) of what is expected, from those of lying under and over a threshold."""
    if "below" in expect:
        return under(expect["below"]), over(expect["below"])
    if "above" in expect:
        return over(expect["above"]), under(expect["above"])
    low, high = expect["about"] - expect["within"], expect["about"] + expect["within"]
    return numpy.maximum(over(low), under(high)), numpy.minimum(under(low), over(high))


def by_rule_at_once(rule: str, found: list, expect: dict) -> tuple[numpy.ndarray, numpy.ndarray]:
    """intervals.by_rule of DRAWS futures at once; `found` holds (values, interval), or None for what would be
    missing.
    """
    never, size = numpy.ones(DRAWS), len(found)
    under = lambda one: lambda x: below(*one, x) if one else never  # noqa: E731
    over = lambda one: lambda x: 1 - below(*one, x) if one else never  # noqa: E731
    if rule == "on average":
        if None in found:
            return never, never
        values = numpy.array([one[0] for one in found])
        error = values.std(axis=0, ddof=1) / size**0.5 if size > 1 else found[0][1].error()[0]
        freedom = size - 1 if size > 1 else found[0][1].error()[1]
        whole = (values.mean(axis=0) / error, Interval(0.0, ((1.0, freedom),)))
        scaled = {key: value / error for key, value in expect.items()}
        return tests(scaled, under(whole), over(whole))
    if (count := intervals.rule_count(rule, size)) is not None:
        pairs = [tests(expect, under(one), over(one)) for one in found]
        favour, against = (numpy.array([pair[side] for pair in pairs]) for side in (0, 1))
        return at_least_at_once(count, favour), at_least_at_once(size - count + 1, against)
    some = {
        True: 1,
        False: size,
    }  # that the lowest is under x says that some is, that it is over x that all are
    return tests(
        expect,
        lambda x: at_least_at_once(some[rule == "the lowest"], numpy.array([under(one)(x) for one in found])),
        lambda x: at_least_at_once(some[rule != "the lowest"], numpy.array([over(one)(x) for one in found])),
    )


def at_least_at_once(count: int, p: numpy.ndarray) -> numpy.ndarray:
    """intervals.at_least of each column."""
    largest = numpy.sort(p, axis=0)[count - 1 :]
    ranks = numpy.arange(1, len(largest) + 1)[:, None]
    return numpy.minimum(1.0, (len(largest) / ranks * largest).min(axis=0))


class Odds:
    """The probability that a part is decided after a purchase, worked out once for what of the purchase
    concerns it.
    """

    def __init__(self, confidence: float):
        self.level, self.known = (1 - confidence) / 2, {}

    def __call__(self, part: Part, bought: Purchase) -> float:
        """Of this part; 1 where it is decided already."""
        if part.verdict != "undecided":
            return 1.0
        if part.whole:
            needed, reached = part.whole
            return reached if needed and needed <= bought.cells else 0.0
        missing = frozenset().union(*(row.missing for row in part.rows))
        seeds = tuple(pair for pair in bought.seeds if pair[0] in {row.model for row in part.rows})
        concerns = Purchase(bought.cells & missing, seeds, bought.samples, bought.problems)
        if (part.key, concerns) not in self.known:
            rng = numpy.random.default_rng(0)
            found = [futures(row, concerns, rng) for row in part.rows]
            p = (
                numpy.minimum(*by_rule_at_once(part.part["rule"], found, part.part["expect"]))
                if any(found)
                else numpy.ones(DRAWS)
            )
            self.known[part.key, concerns] = float(numpy.mean(p <= self.level))
        return self.known[part.key, concerns]


def clear_alone(row: Prospect, bought: Purchase, expect: dict, level: float) -> float:
    """Probability that one model's row is clear by itself after a purchase."""
    found = futures(row, bought, numpy.random.default_rng(0))
    return (
        float(numpy.mean(numpy.minimum(*by_rule_at_once("every", [found], expect)) <= level))
        if found
        else 0.0
    )


def candidates(parts: list[Part], price, level: float, problems: tuple, times=(2, 3)) -> list[Purchase]:
    """What could be bought: for each undecided part the cells of its cheapest models, or more seeds of those
    that are there; for all, four times the samples or larger problem sets.

    `price` gives the GPU-hours of a purchase. Models come by hours for each chance that their row is clear.
    """
    found = {Purchase(samples=4)}
    found |= {Purchase(problems=problems)} if problems else set()
    for part in parts:
        if part.verdict != "undecided":
            continue
        if part.whole:
            found |= {Purchase(part.whole[0])} if part.whole[0] else set()
            continue
        expect = part.part["expect"]

        def worth(row: Prospect, bought: Purchase, expect=expect) -> float:
            return price(bought) / max(1e-3, clear_alone(row, bought, expect, level))

        holes = sorted(
            (row for row in part.rows if not row.measured and row.missing),
            key=lambda row: worth(row, Purchase(row.missing)),
        )
        together = Purchase()
        for row in holes:
            together = together.plus(Purchase(row.missing))
            found.add(together)
        models = dict.fromkeys(row.model for row in part.rows if row.measured and row.measured.training[0])
        for many in times:
            rows = {model: next(row for row in part.rows if row.model == model) for model in models}
            order = sorted(rows, key=lambda model: worth(rows[model], Purchase(seeds=((model, many),))))
            found |= {
                Purchase(seeds=tuple(sorted((m, many) for m in order[: i + 1]))) for i in range(len(order))
            }
    return list(found)


class Choice(NamedTuple):
    """A purchase with its price, how likely each part is decided before and after it, and what that is
    worth.
    """

    bought: Purchase
    hours: float
    odds: dict[str, tuple[float, float]]  # by part, where it changes
    gain: float  # sum of what odds grow by, each by its part's weight

    @property
    def verdicts(self) -> float:
        """Verdicts to be expected of it, each part counting the same."""
        return sum(later - before for before, later in self.odds.values())


def weights(parts: list[Part], odds: Odds) -> dict[str, float]:
    """What a verdict on each part is worth: the odds that all others of its claim can be decided by the whole
    grid.

    A claim is decided when all its parts are: one with a part that nothing decides is left for last (WORTH),
    one that a part has failed is decided.
    """
    everything = Purchase(
        frozenset().union(frozenset(), *(row.missing for part in parts for row in part.rows))
    )
    reached = {
        part.key: odds(part, everything.plus(Purchase(frozenset((part.whole or ((), 0))[0]))))
        for part in parts
    }
    found = {}
    for part in parts:
        others = [one for one in parts if one.claim == part.claim and one is not part]
        failed = any(one.verdict == "fails" for one in others)
        found[part.key] = WORTH + (0.0 if failed else math.prod(reached[one.key] for one in others))
    return found


def offers(
    parts: list[Part], bought: Purchase, price, odds: Odds, problems: tuple = (), least: float = 0.02
) -> list[Choice]:
    """All candidates beyond what is bought, the most verdicts a GPU-hour first; those that bring next to none
    left out.
    """
    before, worth = {part.key: odds(part, bought) for part in parts}, weights(parts, odds)
    spent, found = price(bought), []
    for more in candidates(parts, price, odds.level, problems):
        whole = bought.plus(more)
        if whole == bought:
            continue
        later = {part.key: odds(part, whole) for part in parts}
        changed = {key: (before[key], p) for key, p in later.items() if p > before[key]}
        gain = sum(worth[key] * (p - one) for key, (one, p) in changed.items())
        choice = Choice(more, price(whole) - spent, changed, gain)
        if choice.verdicts >= least:
            found.append(choice)
    return sorted(found, key=lambda choice: (choice.hours / choice.gain, choice.hours))


def choose(
    parts: list[Part], hours: float, price, odds: Odds, problems: tuple = ()
) -> tuple[Purchase, list[Choice]]:
    """(what to buy within so many GPU-hours, step by step): always what brings the most verdicts an hour and
    fits.
    """
    bought, steps = Purchase(), []
    while True:
        left = hours - price(bought)
        fitting = [one for one in offers(parts, bought, price, odds, problems) if one.hours <= left]
        if not fitting:
            return bought, steps
        bought = bought.plus(fitting[0].bought)
        steps.append(fitting[0])


def cells_to_run(config: dict, study: Study, bought: Purchase) -> list[Cell]:
    """The cells that a purchase makes, with what they start from: those of the grid, and further seeds."""
    found = dict.fromkeys(sorted(bought.cells))
    for model, times in bought.seeds:
        have = {
            run: sorted(s for m, r, s in study.cells if (m, r) == (model, run)) for run in study.runs(model)
        }
        for run, seeds in have.items():
            if seeds and study.is_trained(model, run):
                new = [s for s in range(times * len(seeds) + max(seeds)) if s not in seeds]
                found |= dict.fromkeys(Cell(model, run, s) for s in new[: (times - 1) * len(seeds)])
    return with_starts(config, found, set(study.cells))


def with_starts(config: dict, cells: Iterable[Cell], there: set[Cell] = frozenset()) -> list[Cell]:
    """The cells and those that their training starts from, without those that are there; checkpoints bring
    their run.
    """
    found: dict[Cell, None] = {}
    for cell in cells:
        parsed, needed = cell.parsed, []
        if parsed.rl:
            needed += [cell.sibling(parsed.start)] if parsed.start != "base" else []
            needed += [cell.sibling(parsed.whole)]
        if grid.is_pretrained_here(config, cell.model):
            needed += [cell.sibling("base")]
        found |= dict.fromkeys([*needed, cell])
    return [cell for cell in found if cell not in there]


def pricing(config: dict, study: Study, prices):
    """A function of purchases: their GPU-hours, by `prices` (tariff.Prices). What is sampled more is sampled
    anew.
    """
    known: dict[Purchase, float] = {}
    headline = config["report"]["headline"]

    def price(bought: Purchase) -> float:
        if bought not in known:
            new = cells_to_run(config, study, bought)
            larger, hours = dict(bought.problems), prices.hours(new)
            for cell in [*study.cells, *new] if bought.samples > 1 or larger else []:
                for task in headline:
                    each = prices.generating(cell.model, cell.run, task) / 3600
                    more = (
                        bought.samples
                        * larger.get(task, 1)
                        / (study_problems(config, task) if task in larger else 1)
                    )
                    again = bought.samples > 1 or task in larger
                    hours += each * (more if again else 0) - (
                        each if again and cell not in study.cells else 0
                    )
            known[bought] = hours
        return known[bought]

    return price


def study_problems(config: dict, task: str) -> int:
    """Problems of a task by the config."""
    entry = config["tasks"][task]
    return entry.get("limit") or entry.get("problems") or 1


def larger_sets(config: dict, started: bool) -> tuple[tuple[tuple[str, int], ...], dict[str, str]]:
    """((headline task, problems of the larger set from the same source), …) and the larger sets' names.

    Only sets whose problems are taken out of the traces; before anything has trained any can still be.
    """
    tasks, found, names = config["tasks"], [], {}
    for task in config["report"]["headline"]:
        own = tasks[task]
        larger = {
            name: other["problems"]
            for name, other in tasks.items()
            if other["source"] == own["source"]
            and other.get("problems", 0) > own.get("problems", 0)
            and (not started or name in config["traces"]["decontaminate"])
        }
        if larger:
            names[task] = max(larger, key=larger.get)
            found.append((task, larger[names[task]]))
    return tuple(found), names


def rest(study: Study, price) -> float:
    """GPU-hours of all cells of the grid that are not there."""
    return price(Purchase(frozenset(cell for cell in study.wanted if cell not in study.cells)))


def toward(part: Part, price, odds: Odds, problems: tuple, goal: float) -> tuple[Purchase, float, float]:
    """(what would decide a part, its GPU-hours, the odds), cheapest first until the odds reach `goal` or
    nothing helps.
    """
    bought = Purchase()
    while odds(part, bought) < goal:
        options = [bought.plus(one) for one in candidates([part], price, odds.level, problems)]
        now = odds(part, bought)
        better = [one for one in options if odds(part, one) > now + 0.02]
        if not better:
            break
        enough = [one for one in better if odds(part, one) >= goal]
        bought = (
            min(enough, key=price)
            if enough
            else max(better, key=lambda one: (odds(part, one) - now) / price(one))
        )
    return bought, price(bought), odds(part, bought)


def purchase_in_words(bought: Purchase) -> str:
    """A purchase as a reader wants it: which runs of which models, and what else."""
    runs: dict[str, list[str]] = {}
    for cell in sorted(bought.cells, key=lambda cell: (cell.model, len(cell.run), cell.run)):
        runs.setdefault(cell.model, [])
        if cell.parsed.whole not in runs[cell.model]:
            runs[cell.model].append(cell.parsed.whole)
    models: dict[tuple, list[str]] = {}
    for model, several in runs.items():
        models.setdefault(tuple(several), []).append(model)
    said = [f"{', '.join(several)} of {', '.join(names)}" for several, names in models.items()]
    for times in sorted({times for _, times in bought.seeds}):
        said.append(
            f"{times} times the seeds of {', '.join(model for model, n in bought.seeds if n == times)}"
        )
    said += [f"{bought.samples} times the samples"] if bought.samples > 1 else []
    said += (
        [f"larger sets of problems ({', '.join(f'{task}: {n}' for task, n in bought.problems)})"]
        if bought.problems
        else []
    )
    return "; ".join(said) or "nothing"


def block(config: dict, study: Study, bought: Purchase, larger: dict[str, str], confidence: float) -> dict:
    """A purchase as a config: the whole grid and further seeds, what to run now, samples and problem sets."""
    new = cells_to_run(config, study, bought)
    rows: dict[tuple, list[str]] = {}
    for cell in dict.fromkeys([*study.wanted, *new]):
        if not (cell.parsed.rl and cell.parsed.step in config["rl"]["checkpoints"]):  # their run brings them
            rows.setdefault((cell.model, cell.seed), []).append(cell.run)
    blocks: dict[tuple, list[str]] = {}
    for (model, seed), runs in rows.items():
        blocks.setdefault((tuple(runs), seed), []).append(model)
    made = {
        "grid": {
            "cells": [
                {"models": models, "runs": list(runs), "seeds": [seed]}
                for (runs, seed), models in blocks.items()
            ],
            "now": list(map(str, new)),
        }
    }
    headline = config["report"]["headline"]
    names = dict(larger) if bought.problems else {}
    if bought.samples > 1:
        made["tasks"] = {
            names.get(t, t): {"samples": config["tasks"][names.get(t, t)]["samples"] * bought.samples}
            for t in headline
        }
    if names:
        made["grid"]["tasks"] = [names.get(task, task) for task in config["grid"]["tasks"]]
        made["report"] = {"headline": [names.get(task, task) for task in headline]}
        kept = config["traces"]["decontaminate"]
        made["traces"] = {"decontaminate": [*kept, *(name for name in names.values() if name not in kept)]}
    if confidence != config["report"]["confidence"]:
        made.setdefault("report", {})["confidence"] = round(confidence, 6)
    return made


def block_text(
    config: dict, study: Study, bought: Purchase, larger: dict[str, str], confidence: float
) -> str:
    """`block` as YAML, with a line that says what it is."""
    made = block(config, study, bought, larger, confidence)
    return f"# What to buy next, by `make next`: {purchase_in_words(bought)}.\n" + dumped(made)


def dumped(block: dict) -> str:
    """A config as YAML, lists of names on one line."""
    import yaml

    return yaml.safe_dump(block, sort_keys=False, width=120, default_flow_style=None)
