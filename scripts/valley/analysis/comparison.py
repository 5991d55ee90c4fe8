"""Two studies as sides of a comparison: their cells, whether they answered the same problems, how far they
differ.

Several training seeds of a cell are pooled: their means over samples are averaged, their samples add up.
Against the paper the paper's grader counts, and both sides answered the same problems: what may differ is
samples and trainings.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy
import pandas

from valley import check, grid, records
from valley.analysis import cells, estimates, intervals
from valley.analysis.cells import Answers, Study, pooled
from valley.analysis.estimates import changes
from valley.analysis.intervals import Interval
from valley.analysis.measures import COLUMNS, Tasks
from valley.analysis.paper import is_near, is_same_model
from valley.grading import GRADERS
from valley.grid import HEADLINE, Cell

PAPER = "paper"
PAPER_TASKS = (
    {"aime24", "aime90"},
    {"amc23", "amc83"},
    {"math500"},
)  # its headline; by name or by its footnote
KEYS = ["model", "run", "seed", "task"]
REPLICATED = 0.05  # accuracy by which a replication may be off
ACCURACY = ["a", "b", "difference", "low", "high", "seeds_low", "seeds_high"]
LENGTH = ["length_a", "length_b", "length_difference", "length_low", "length_high"]


class Side(NamedTuple):
    """One study."""

    name: str
    folder: Path
    cells: dict[tuple[str, str], dict[int, Answers]]  # (model, run): seed: answers
    grader: str  # that counts
    headline: list[str]
    length: list[str]
    examples: dict[str, int]  # by size
    sources: dict[str, str]  # by model, as its configuration has them
    hub: dict[str, str | None]  # by model: its id on a hub, None of one that has none
    finding: str
    commit: str


def load(folder: Path, name: str, grader: str, rename: dict[str, str]) -> Side:
    """A study from its folder: `grader` is the one that counts, `rename` gives models other names."""
    report = folder / "report"
    for needed in (report / "tables/problems.parquet", report / "config.json"):
        if not needed.exists():
            todo = f"Make its report first: snakemake --profile profiles/local --configfile <the study's> -- {needed}"
            records.fail(folder, f"has no {needed.relative_to(folder)}", todo)
    config = check.of_study(
        report / "config.json", "report.headline", "report.length", "sizes.*.examples", "models.*.source"
    )
    columns = dict.fromkeys(("model", "run", "task", "id"), "text") | dict.fromkeys(COLUMNS, "numbers?")
    columns |= {"seed": "whole numbers", "samples": "whole numbers", "gold": "text?"}
    table = records.read_parquet(report / "tables/problems.parquet", columns)
    problems = (
        table.replace_schema_metadata().to_pandas()
    )  # what pandas notes there of its types has no checksum
    if unknown := sorted(set(rename) - set(problems.model)):
        records.fail(
            folder, f"has no model {unknown[0]!r} to rename", f"It has: {', '.join(problems.model.unique())}"
        )
    models = list(problems.model.unique())
    called = [rename.get(model, model) for model in models]
    if twice := sorted({name for name in called if called.count(name) > 1}):
        records.fail(
            folder, f"would have two models {twice[0]!r}", "Give --rename a name that it does not have"
        )
    known = {rename.get(model, model): model for model in config["models"] if model in models}
    found: dict = {}
    for cell, made in cells.answers(problems).items():
        found.setdefault((rename.get(cell.model, cell.model), cell.run), {})[cell.seed] = made
    finding, provenance = report / "finding.txt", report / "provenance.json"
    return Side(
        name,
        folder,
        found,
        grader,
        config["report"]["headline"],
        config["report"]["length"],
        {size: grid.examples_of(config, size) for size in config["sizes"]},
        {name: config["models"][model]["source"] for name, model in known.items()},
        {name: grid.hub_id(config, model) for name, model in known.items()},
        finding.read_text(encoding="utf-8").strip() if finding.exists() else "",
        ", ".join(records.read_json(provenance).get("commits", [])) if provenance.exists() else "",
    )


def same_problems(left: Answers, right: Answers, task: str) -> bool:
    """True when two cells answered the same problems: the same ids, and the same right answers."""
    return left.ids[task] == right.ids[task] and left.gold[task] == right.gold[task]


def rates(cell: Answers, tasks: list[str], grader: str) -> list[numpy.ndarray]:
    """Accuracy on every problem, task by task."""
    return [cell.column(task, GRADERS[grader]) for task in tasks]


def lengths(cell: Answers, tasks: list[str]) -> list[numpy.ndarray]:
    """Mean tokens of every problem, task by task."""
    return [cell.column(task, "tokens") for task in tasks]


def apart(right: list[numpy.ndarray], left: list[numpy.ndarray], most: float = math.inf) -> Interval:
    """Right minus left where they answered other problems: two independent means."""
    a, b = intervals.mean(left), intervals.mean(right)
    return Interval(b.value - a.value, a.problems + b.problems, least=-most, most=most)


def restricted(cell: Answers, tasks) -> Answers:
    """A cell's answers to some tasks alone."""
    return cell._replace(columns={task: values for task, values in cell.columns.items() if task in tasks})


def change(
    left: Answers, right: Answers, headline: list[str], same: set[str], grader: str, confidence: float
) -> dict[str, tuple]:
    """(kind, difference, low, high) of accuracy for every task that both cells have and for the headline
    mean.

    Right minus left: paired over problems for the tasks in `same`, and for the mean when all its tasks are.
    """
    shared = [task for task in left.columns if task in right.columns]
    paired = changes(restricted(right, same), restricted(left, same), headline, confidence, grader)
    found = {task: ("paired", *ends) for task, ends in paired.items()}
    groups = {task: [task] for task in shared} | (
        {HEADLINE: headline} if set(headline) <= set(shared) else {}
    )
    for name, tasks in groups.items():
        if name not in found:
            whole = apart(rates(right, tasks, grader), rates(left, tasks, grader), 1.0)
            found[name] = ("unpaired", whole.value, *whole.ends(confidence))
    return found


def longer(left: Answers, right: Answers, tasks: list[str], same: set[str], confidence: float) -> tuple:
    """(difference, low, high) of the mean length over tasks, right minus left; paired when all tasks are in
    `same`.
    """
    sides = lengths(right, tasks), lengths(left, tasks)
    paired = set(tasks) <= same
    whole = intervals.mean([b - a for b, a in zip(*sides, strict=True)]) if paired else apart(*sides)
    return whole.value, *whole.ends(confidence)


def data_size(side: Side, run: str) -> int | None:
    """Training examples of a base or of a run under the paper's protocol; None for the others."""
    parsed = grid.parse_run(run)
    if parsed.stage == "base":
        return 0
    return side.examples.get(parsed.size) if parsed.is_protocol else None


def has_papers_headline(side: Side) -> bool:
    """True where the headline is the mean over AIME, AMC and MATH500, as the paper's."""
    return len(side.headline) == 3 and all(set(side.headline) & names for names in PAPER_TASKS)


def check_same_tasks(sides: list[Side]):
    """Stop where studies mean other tasks by their headline or their length."""
    for side in sides[1:]:
        for what in ("headline", "length"):
            one, other = getattr(sides[0], what), getattr(side, what)
            if set(one) != set(other):
                records.fail(
                    f"{sides[0].folder}, {side.folder}",
                    f"their {what} tasks differ ({', '.join(one)} and {', '.join(other)})",
                    f"Give both one report.{what} and make their tables again",
                )


def short_names(given: list[str]) -> list[str]:
    """What folders of studies (or `paper`) are called; a release by the study that it is of."""
    paths = {one: Path(one).resolve() for one in given if one != PAPER}
    named = {one: path.parent.name if path.name == "release" else path.name for one, path in paths.items()}
    return [PAPER if one == PAPER else re.sub(r"\W+", "-", named[one]) for one in given]


def told_apart(names: list[str]) -> list[str]:
    """Names of which none stands twice: A, B, … before those that would."""
    return [f"{chr(65 + i)} {name}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def noise_of(side: Side) -> tuple[float, float]:
    """(variance of the accuracy of one training, its degrees of freedom), all runs of a study pooled."""
    every = {Cell(*name, seed): made for name, seeds in side.cells.items() for seed, made in seeds.items()}
    tasks = Tasks(side.headline, side.length, [])
    study = Study(every, every, side.examples)
    return estimates.noise_by_run(study, "accuracy", tasks, side.grader)[estimates.POOLED]


def paper_cells(side: Side, reference: pandas.DataFrame) -> tuple[dict[tuple[str, str], dict], list[str]]:
    """The paper's rows by (model, run) of a study, and the names of those that the study lacks."""
    if not has_papers_headline(side):
        tasks = ", ".join(side.headline)
        records.fail(
            side.name,
            f"its headline is the mean of {tasks}, the paper's of AIME, AMC and MATH500",
            "Only a study with these three can be held against the paper",
        )
    found, lacking = {}, []
    for row in reference.to_dict("records"):
        runs = [
            (model, run)
            for model, run in side.cells
            if is_same_model(Path(side.sources.get(model, "")).name, row["model"])
            and (size := data_size(side, run)) is not None
            and is_near(size, row["train_examples"])
        ]
        found |= dict.fromkeys(runs, row)
        lacking += [] if runs else [f"{row['model']} {row['train_examples']:,}"]
    return found, lacking


def cell_rows(a: Side, b: Side, name: tuple[str, str], confidence: float) -> list[dict]:
    """Rows of one cell of two studies: tasks and headline mean, over seeds and, where there are several, seed
    by seed.
    """
    left, right = a.cells[name], b.cells[name]
    common = sorted(left.keys() & right.keys())
    groups = {"all": (common or sorted(left), common or sorted(right))}
    groups |= {str(seed): ([seed], [seed]) for seed in common} if len(common) > 1 else {}
    found, by_seed = [], {}
    for seed, (from_a, from_b) in groups.items():
        one, other = (
            pooled([side[at] for at in chosen]) for side, chosen in ((left, from_a), (right, from_b))
        )
        shared = [task for task in one.columns if task in other.columns]
        same = {task for task in shared if same_problems(one, other, task)}
        measured = {task: [task] for task in shared}
        measured |= {HEADLINE: a.length} if set(a.length) <= set(shared) else {}
        seeds = [" ".join(map(str, chosen)) for chosen in (from_a, from_b)]
        for task, (kind, *ends) in change(one, other, a.headline, same, a.grader, confidence).items():
            tasks = a.headline if task == HEADLINE else [task]
            row = {
                "model": name[0],
                "run": name[1],
                "seed": seed,
                "task": task,
                "interval": kind,
                "problems": sum(len(other.ids[t]) for t in tasks),
                "a": intervals.mean(rates(one, tasks, a.grader)).value,
                "b": intervals.mean(rates(other, tasks, a.grader)).value,
                **dict(zip(("difference", "low", "high"), ends, strict=True)),
                "seeds": seeds[0] if seeds[0] == seeds[1] else " | ".join(seeds),
            }
            if task in measured:
                means = [intervals.mean(lengths(cell, measured[task])).value for cell in (one, other)]
                more = longer(one, other, measured[task], same, confidence)
                row |= dict(zip(LENGTH, (*means, *more), strict=True))
            by_seed.setdefault(task, []).extend([row["difference"]] if seed != "all" else [])
            found.append(row)
    for row in found:
        if row["seed"] == "all":
            row["seeds_low"], row["seeds_high"] = over_seeds(by_seed[row["task"]], confidence)
    return found


def by_grader(a: Side, b: Side) -> list[dict]:
    """What each grader gives the cells that both studies have, on tasks with the same problems, over the
    seeds of both: accuracies, and how many problems are rated higher and lower by B.

    For one set of responses graded twice (`make regrade`) this is all that the graders changed.
    """
    rows = []
    for model, run in (name for name in a.cells if name in b.cells):
        left, right = a.cells[model, run], b.cells[model, run]
        seeds = sorted(left.keys() & right.keys())
        for task in dict.fromkeys(
            task for seed in seeds for task in left[seed].ids if task in right[seed].ids
        ):
            pairs = [(left[seed], right[seed]) for seed in seeds if task in left[seed].ids]
            pairs = [pair for pair in pairs if task in pair[1].ids and same_problems(*pair, task)]
            for grader, column in GRADERS.items():
                if not pairs:
                    continue
                one, other = (
                    numpy.concatenate([pair[at].column(task, column) for pair in pairs]) for at in (0, 1)
                )
                rows.append(
                    {
                        "model": model,
                        "run": run,
                        "task": task,
                        "grader": grader,
                        "problems": len(one),
                        "a": one.mean(),
                        "b": other.mean(),
                        "difference": (other - one).mean(),
                        "raised": int((other > one).sum()),
                        "lowered": int((other < one).sum()),
                    }
                )
    return rows


def over_seeds(differences: list[float], confidence: float) -> tuple[float | None, float | None]:
    """t interval of differences by seed; none where equal without being zero: no spread to go by."""
    if len(set(differences)) > 1:
        return intervals.over_seeds(differences, confidence)
    return (0.0, 0.0) if len(differences) > 1 and not any(differences) else (None, None)


def of_samples(cell: Answers, trainings: int, side: Side) -> tuple[float, float]:
    """Variance of the headline accuracy were these problems sampled anew: of a cell of several trainings, of
    one of them.
    """
    ours = intervals.samples_variance([(cell.solved(t, side.grader), cell.samples[t]) for t in side.headline])
    once = numpy.mean([cell.samples[task] // trainings for task in side.headline])
    return ours, ours * numpy.mean([cell.samples[t] for t in side.headline]) / once


def replication(
    cell: Answers, paper: float, trainings: tuple[int, int], side: Side, noise: tuple[float, float]
) -> Interval:
    """Our accuracy minus the paper's, each what its samples and trainings make of the same problems.

    The paper's samples are taken to vary as ours do on one training. `trainings`: ours, and the paper's (0 of
    a base that nobody trained). Nothing here is over problems: both sides answered the same.
    """
    ours, theirs = of_samples(cell, max(1, trainings[0]), side)
    moved = noise[0] * sum(1 / count for count in trainings if count)
    value = intervals.mean(rates(cell, side.headline, side.grader)).value - paper
    return Interval(value, ((ours + theirs, math.inf),), (moved, noise[1]), -1.0, 1.0)


def replicated(difference: Interval, confidence: float) -> str:
    """`replicated` when the whole interval is within REPLICATED, `not` when it excludes zero, else `cannot
    tell`.
    """
    low, high = difference.ends(confidence)
    return (
        "replicated"
        if low > -REPLICATED and high < REPLICATED
        else "not"
        if low > 0 or high < 0
        else "cannot tell"
    )


def paper_rows(side: Side, reference: pandas.DataFrame, paper_is_b: bool, confidence: float):
    """(rows, cells that only the study has, values that only the paper has)."""
    values, lacking = paper_cells(side, reference)
    noise, found = noise_of(side), []
    for name, row in values.items():
        seeds = side.cells[name]
        cell = pooled(list(seeds.values()))
        if not set(side.headline) <= set(cell.columns):
            continue
        trainings = (0, 0) if name[1] == "base" else (len(seeds), 1)
        paper = (row["accuracy_pct"] / 100, float(row["response_tokens"]))
        accuracy = replication(cell, paper[0], trainings, side, noise)
        length = intervals.mean(lengths(cell, side.length))
        own = (intervals.mean(rates(cell, side.headline, side.grader)).value, length.value)
        sign = -1 if paper_is_b else 1
        differences = [
            (sign * of.value, *sorted(sign * end for end in of.ends(confidence)))
            for of in (accuracy, length._replace(value=length.value - paper[1]))
        ]
        a, b = (own, paper) if paper_is_b else (paper, own)
        found.append(
            {
                "model": name[0],
                "run": name[1],
                "seed": "all",
                "task": HEADLINE,
                "interval": "one side",
                "problems": sum(len(cell.ids[task]) for task in side.headline),
                "a": a[0],
                "b": b[0],
                **dict(zip(("difference", "low", "high"), differences[0], strict=True)),
                "length_a": a[1],
                "length_b": b[1],
                **dict(zip(LENGTH[2:], differences[1], strict=True)),
                "seeds": " ".join(map(str, sorted(seeds))),
                "replication": replicated(accuracy, confidence),
            }
        )
    return found, [" ".join(name) for name in side.cells if name not in values], lacking


def counts(table: pandas.DataFrame, confidence: float) -> list[str]:
    """How many intervals exclude zero, and how many would if nothing differed."""
    whole = table[(table.task == HEADLINE) & (table.seed == "all")]
    said = []
    for what, rows, low, high in (
        ("Headline accuracy of a cell, over problems", whole, "low", "high"),
        ("Headline accuracy of a cell, over training seeds", whole, "seeds_low", "seeds_high"),
        ("Length of a cell, over problems", whole, "length_low", "length_high"),
        ("Accuracy by task, single seeds too, over problems", table[table.task != HEADLINE], "low", "high"),
    ):
        known = rows[rows[low].notna()]
        if len(known):
            beyond = int(((known[low] > 0) | (known[high] < 0)).sum())
            said.append(
                f"{what}: {beyond} of {len(known)} intervals exclude zero; were nothing different, about "
                f"{len(known) * (1 - confidence):.1f} of {len(known)} would by chance."
            )
    return said
