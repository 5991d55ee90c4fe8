"""Studies whose truth is known: responses drawn from stated accuracies, lengths and noise, as cells in
memory.

What `make power` and the tests forge: every problem is easy or hard for all cells alike, a little more so for
some models and some trainings, and k samples of it are right with one probability. The training of a cell
moves its accuracy by a normal error. The three benchmarks of the paper differ by a fixed amount of
difficulty, so that one accuracy, the mean of them, gives all three.
"""

import functools
from typing import NamedTuple

import numpy
import pandas

from valley import grid
from valley.analysis.cells import Answers
from valley.analysis.measures import COLUMNS
from valley.analysis.paper import is_same_model
from valley.grading import GRADERS
from valley.grid import HEADLINE

EASE = {
    "aime24": (-4.0, 2.0),
    "aime90": (-3.6, 2.0),
    "amc23": (-1.2, 2.0),
    "amc83": (-1.2, 2.0),
    "math500": (0.6, 2.2),
}
OWN = 0.5  # logits by which a problem is easier for a model, and again for one training, than for the others
ABILITY = numpy.linspace(-12, 14, 521)
LENGTHS = 0.4  # standard deviation of the logarithm of a problem's tokens
# Share of their variance that all cells of a pilot have in common. In the miniature a problem's length is its
# number of steps: at .88 two cells differ by .20 in the logarithm, as the demo's do (docs/measurements.md).
PILOT_ALIKE = 0.88


class Truth(NamedTuple):
    """What a cell would do on all problems of a kind: accuracy (mean over its tasks), tokens, and what else
    is counted.
    """

    accuracy: float
    tokens: float = 1000.0
    reflective: float = 0.0
    cut: float = 0.0  # share of responses that are cut off, wrong all of them
    no_answer: float = 0.0  # share of finished responses in which no answer is found, wrong all of them
    calculations: float = 10.0
    wrong: float = 0.2  # wrong calculations a response
    gap: float = 2000.0  # tokens by which reflective responses are longer


@functools.cache
def mean_accuracy(tasks: tuple[str, ...]) -> numpy.ndarray:
    """Mean accuracy over tasks at each ABILITY, problems of their kind integrated out."""
    from scipy import special

    nodes, weights = numpy.polynomial.hermite_e.hermegauss(41)
    total = 0.0
    for task in tasks:
        middle, spread = EASE.get(task, (0.0, 2.0))
        wide = (spread**2 + 2 * OWN**2) ** 0.5
        total = total + special.expit(ABILITY[:, None] + middle + wide * nodes) @ (weights / weights.sum())
    return total / len(tasks)


def ability(accuracy: float, tasks: tuple[str, ...]) -> float:
    """The ability at which the mean accuracy over tasks is as wanted."""
    return float(numpy.interp(accuracy, mean_accuracy(tasks), ABILITY))


def forged_answers(
    truths: dict[grid.Cell, Truth],
    tasks: dict[str, tuple[int, int]],
    headline: tuple[str, ...],
    noise: float,
    rng,
    others: dict[grid.Cell, Truth] | None = None,
    alike: float = 0.0,
) -> dict[grid.Cell, Answers]:
    """What cells answer that would do so on all problems of a kind.

    `tasks`: {name: (problems, samples)}. `noise`: standard deviation of a training's accuracy; a base is
    given, not trained, and has none. `others`: the Truth on tasks outside the headline. `alike`: the share of
    the variance of lengths that is the problem's, the same in all cells; at 0 all of it is the cell's, which
    is hard on claims of lengths.
    """
    from scipy import special

    middle = {task: EASE.get(task, (0.0, 2.0)) for task in tasks}
    ease = {task: rng.normal(*middle[task], count) for task, (count, _) in tasks.items()}
    long = {  # of a stream of its own: accuracies do not depend on `alike`
        task: rng.spawn(1)[0].normal(0, LENGTHS * alike**0.5, count) for task, (count, _) in tasks.items()
    }
    own: dict = {}  # what is a model's or a training's own
    made = {}
    for cell, truth in truths.items():
        training = (cell.model, cell.parsed.whole, cell.seed)
        moved = 0.0 if cell.run == "base" else own.setdefault(training, rng.normal(0, noise))
        found = Answers({}, {}, {}, {})
        for task, (count, samples) in tasks.items():
            said = truth if task in headline or not others else others.get(cell, truth)
            usable = (1 - said.cut) * (1 - said.no_answer)
            wanted = min(0.999, max(1e-4, (said.accuracy + moved) / usable))
            level = ability(wanted, tuple(headline) if task in headline else (task,)) + ease[task]
            for whose in ((cell.model, task), (*training, task)):
                level = level + own.setdefault(whose, rng.normal(0, OWN, count))
            cut = rng.binomial(samples, said.cut, count)
            none = rng.binomial(samples - cut, said.no_answer)
            correct = rng.binomial(samples - cut - none, special.expit(level)) / samples
            tokens = said.tokens * numpy.exp(
                long[task] + rng.normal(-(LENGTHS**2) / 2, LENGTHS * (1 - alike) ** 0.5, count)
            )
            reflective = rng.binomial(samples, said.reflective, count) / samples
            made_, wrong = (
                rng.poisson(mean * samples, count) / samples for mean in (said.calculations, said.wrong)
            )
            columns = {
                **dict.fromkeys(GRADERS.values(), correct),
                "tokens": tokens,
                "reflective": reflective,
                "tokens_reflective": reflective * (tokens + said.gap * (1 - said.reflective)),
                "calculations": made_,
                "wrong_calculations": numpy.minimum(wrong, made_),
                "truncated": cut / samples,
                "no answer": none / samples,
            }
            found.columns[task] = numpy.column_stack(
                [columns.get(name, numpy.zeros(count)) for name in COLUMNS]
            )
            found.ids[task] = [f"{i:04}" for i in range(count)]
            found.samples[task] = samples
        made[cell] = found
    return made


PAPER_DESIGN = {"aime24": (30, 8), "amc23": (40, 8), "math500": (500, 4), "arithmetic": (400, 4)}
PAPER_HEADLINE = ("aime24", "amc23", "math500")

# What the paper does not print, filled in from its sentences (section 5): accuracies of 0.5B between its two
# values, and where RL ends (its figure 7 has no numbers).
FILLED = {
    ("Qwen2.5-0.5B-Instruct", 8000): (7.0, 7600.0),
    ("Qwen2.5-0.5B-Instruct", 220000): (11.0, 7000.0),
    ("Qwen2.5-0.5B-Instruct", 0): (14.0, 600.0),
}
# Accuracy after RL from the base, the smallest size, a larger one: 0.5B ends 13 % above the first.
RL_ENDS = {
    "Qwen2.5-0.5B-Instruct": (0.161, 0.115, 0.182),
    "Qwen2.5-1.5B-Instruct": (0.33, 0.28, 0.41),
    "Qwen2.5-3B-Instruct": (0.43, 0.37, 0.53),
}


def paper_names(config: dict, reference) -> dict[str, str]:
    """The paper's name of each model of a config that it has."""
    sources = {model: entry["source"].rsplit("/", 1)[-1] for model, entry in config["models"].items()}
    known = list(reference.model.unique())
    return {
        model: paper for model, source in sources.items() for paper in known if is_same_model(source, paper)
    }


def paper_truths(
    wanted: list[tuple], names: dict[str, str], examples: dict[str, int], reference, effect: bool = True
) -> tuple[dict, dict]:
    """({cell: Truth} of the headline, the same of arithmetic) as the paper has them, for cells (model, run,
    seed).

    `names`: the paper's name of a model; one that it lacks takes the values of its 1.5B. `reference`: its
    figure 2. Values between its sizes are interpolated in the logarithm of the size, those beyond taken from
    the nearest. Without `effect` nothing happens: each accuracy is the base's, each length twice the base's,
    all at the claims' thresholds.
    """
    curves: dict = {}
    for row in reference.itertuples():
        accuracy, tokens = FILLED.get(
            (row.model, row.train_examples), (row.accuracy_pct, row.response_tokens)
        )
        curves.setdefault(row.model, {})[row.train_examples] = (accuracy / 100, tokens)
    for (model, size), (accuracy, tokens) in FILLED.items():
        curves.setdefault(model, {})[size] = (accuracy / 100, tokens)

    def at(model: str, size: int) -> tuple[float, float]:
        curve = curves.get(names.get(model), curves["Qwen2.5-1.5B-Instruct"])
        if not size:
            return curve[0]
        sizes = sorted(filter(None, curve))
        return tuple(
            float(numpy.interp(numpy.log(size), numpy.log(sizes), [curve[s][i] for s in sizes]))
            for i in (0, 1)
        )

    smallest = min((examples[size] for _, run, _ in wanted if (size := grid.parse_run(run).size)), default=0)
    headline, arithmetic = {}, {}
    for key in wanted:
        model, run = key[0], grid.parse_run(key[1])
        size = examples[run.size] if run.size else 0
        (base, length), (accuracy, tokens) = at(model, 0), at(model, size)
        share = accuracy / base
        if run.rl:
            start = 0 if not size else 1 if size == smallest else 2
            accuracy, tokens = (
                RL_ENDS.get(names.get(model), [base * gain for gain in (1.12, 1.0, 1.38)])[start],
                0.85 * tokens,
            )
        if not effect:
            accuracy, share, tokens = base, 1.0, length * (2 if size else 1)
        long = bool(size)
        headline[key] = Truth(
            accuracy, tokens, (0.75 if effect else 0.05) if long else 0.03 if effect else 0.05
        )
        counted = 40.0 if long and effect else 10.0
        wrong = counted * (0.015 if long and effect else 0.02)
        arithmetic[key] = Truth(
            min(0.97, 0.75 * share**0.8),
            (3600.0 if effect else 1200.0) if long else 600.0,
            0.0,
            calculations=counted,
            wrong=wrong,
        )
    return headline, arithmetic


def pilot_rows(cells: pandas.DataFrame) -> pandas.DataFrame:
    """What `pilot_truths` needs of a pilot, from the table `cells` of that study: a row a seed and run.

    Where no response or every one is reflective there is no gap; the mean of the others then stands for it.
    """
    tasks, models = sorted({*cells.task} - {HEADLINE}), sorted({*cells.model})
    if len(tasks) > 1 or len(models) > 1:
        raise ValueError(f"a pilot is of one model and one task, not of {models} and {tasks}")
    table = cells[cells.task.isin(tasks)]
    gap = table.length_reflective - table.length_other
    return table[["seed", "run", "accuracy"]].assign(
        tokens=table.length,
        reflective=table.reflection,
        gap=gap.fillna(gap.mean()),
        calculations=table.calculations,
        wrong=table.calculations * table.calculation_errors,
    )


def pilot_truths(wanted: list[tuple], pilot, rng, effect: bool = True) -> dict[grid.Cell, Truth]:
    """{cell: Truth} of a study whose every seed does what one seed of a pilot did, drawn anew with
    replacement.

    `pilot`: a row a seed and run (pilot_rows), the same runs in all its seeds but for RL, whose seeds are
    drawn on their own. What a pilot's test set was off by counts as if it were the noise of training, so that
    noise is rather too large. Without `effect` nothing happens: every mean is the base's, or the value from
    which a claim of the miniature would say something else, and the spread over seeds is the run's own.
    """
    rows = {(row.seed, row.run): row for row in pilot.itertuples()}
    means = pilot.groupby("run").mean(numeric_only=True)
    base = means.loc["base"]
    stages = {
        rl: sorted({seed for seed, run in rows if grid.parse_run(run).rl == rl}) for rl in (False, True)
    }
    chosen: dict = {}
    found = {}
    for cell in (grid.Cell(*key) for key in wanted):
        rl = bool(cell.parsed.rl)
        drawn = chosen.setdefault((cell.model, cell.seed, rl), rng.choice(stages[rl]))
        row, mean = rows[drawn, cell.run], means.loc[cell.run]
        truth = Truth(
            row.accuracy,
            row.tokens,
            row.reflective,
            calculations=row.calculations,
            wrong=row.wrong,
            gap=row.gap,
        )
        if not effect:
            long = bool(cell.parsed.size)
            truth = truth._replace(
                accuracy=float(numpy.clip(row.accuracy - mean.accuracy + base.accuracy, 0, 1)),
                tokens=base.tokens
                * (2 if long else 1)
                * row.tokens
                / mean.tokens
                * (0.9 if long and rl else 1),
                reflective=0.05,
                gap=21.0,
                wrong=row.calculations * (base.wrong / base.calculations + (0.01 if long else 0)),
            )
        found[cell] = truth
    return found


def design(config: dict) -> dict[str, tuple[int, int]]:
    """{task: (problems, samples)} of the grid's tasks; a task without a stated number of problems counts as
    100.
    """
    made = config.get("synthetic", {}).get("task")
    chosen = {task: config["tasks"][task] for task in config["grid"]["tasks"]}
    return {
        task: (
            (made if entry["source"] == "synthetic" else None)
            or entry.get("problems")
            or entry.get("limit")
            or 100,
            entry["samples"],
        )
        for task, entry in chosen.items()
    }
