"""Two studies as sides of a comparison: their cells, whether they answered the same problems, how far they differ.

Several training seeds of a cell are pooled: their means over samples are averaged, their samples add up. Against the
paper the paper's grader counts, and its values carry no error.
"""

from pathlib import Path
from typing import NamedTuple

import numpy
import pandas

from valley import grid, places, records
from valley.analysis import cells, intervals
from valley.analysis.cells import Answers, pooled
from valley.analysis.estimates import changes
from valley.analysis.measures import COLUMNS
from valley.analysis.paper import is_near, is_same_model
from valley.grid import HEADLINE

PAPER = "paper"
PAPER_TASKS = (
    {"aime24", "aime90"},
    {"amc23", "amc83"},
    {"math500"},
)  # its headline; by name or by its footnote
KEYS = ["model", "run", "seed", "task"]
ACCURACY = ["a", "b", "difference", "low", "high", "seeds_low", "seeds_high"]
LENGTH = ["length_a", "length_b", "length_difference", "length_low", "length_high"]


class Side(NamedTuple):
    """One study."""

    name: str
    cells: dict[tuple[str, str], dict[int, Answers]]  # (model, run): seed: answers
    grader: str  # that counts
    headline: list[str]
    length: list[str]
    examples: dict[str, int]  # by size
    sources: dict[str, str]  # by model
    gold: dict[tuple[str, str], str]  # right answers by (task, problem); empty where the folder has no grades
    finding: str
    commit: str


def load(folder: Path, name: str, grader: str, rename: dict[str, str]) -> Side:
    """A study from its folder: `grader` is the one that counts, `rename` gives models other names."""
    report = folder / "report"
    for needed in (report / "tables/problems.parquet", report / "config.json"):
        if not needed.exists():
            todo = f"Make its report first: snakemake --profile profiles/local --configfile <the study's> -- {needed}"
            records.fail(folder, f"has no {needed.relative_to(folder)}", todo)
    config = records.read_json(report / "config.json")
    columns = [*cells.KEYS, "task", "id", "samples", *COLUMNS]
    problems = records.read_parquet(report / "tables/problems.parquet", columns).to_pandas()
    if unknown := sorted(set(rename) - set(problems.model)):
        records.fail(
            folder, f"has no model {unknown[0]!r} to rename", f"It has: {', '.join(problems.model.unique())}"
        )
    found: dict = {}
    for cell, made in cells.answers(problems).items():
        found.setdefault((rename.get(cell.model, cell.model), cell.run), {})[cell.seed] = made
    grades = next(places.all_grades(folder), None)
    golds = records.read_parquet(grades, ["task", "id", "gold"]).to_pylist() if grades else []
    finding, provenance = report / "finding.txt", report / "provenance.json"
    return Side(
        name,
        found,
        grader,
        config["report"]["headline"],
        config["report"]["length"],
        {size: grid.examples_of(config, size) for size in config["sizes"]},
        {rename.get(model, model): Path(entry["source"]).name for model, entry in config["models"].items()},
        {(row["task"], row["id"]): row["gold"] for row in golds},
        finding.read_text(encoding="utf-8").strip() if finding.exists() else "",
        ", ".join(records.read_json(provenance).get("commits", [])) if provenance.exists() else "",
    )


def same_problems(a: Side, b: Side, left: Answers, right: Answers, task: str) -> bool:
    """True when two cells answered the same problems: the same ids and, where both folders have grades, right answers."""
    ids = left.ids[task]
    known = a.gold and b.gold
    return ids == right.ids[task] and not (
        known and any(a.gold.get((task, problem)) != b.gold.get((task, problem)) for problem in ids)
    )


def accuracy(cell: Answers, tasks: list[str], grader: str, confidence: float) -> tuple[float, float, float]:
    """(mean over tasks, low, high) of a cell's accuracy, the interval over problems."""
    counts = [(cell.solved(task, grader), cell.samples[task]) for task in tasks]
    mean = float(numpy.mean([solved.mean() / samples for solved, samples in counts]))
    return mean, *intervals.over_problems(counts, confidence)


def tokens(cell: Answers, task: str) -> numpy.ndarray:
    """Mean tokens of every problem."""
    return cell.columns[task][:, COLUMNS.index("tokens")]


def minus(right: tuple, left: tuple) -> tuple[float, float, float]:
    """The difference of two independent estimates (value, low, high), by MOVER."""
    ends = [(right[1], right[2]), (-left[2], -left[1])]
    low, high = intervals.join([right[0], -left[0]], ends)
    return right[0] - left[0], 2 * low, 2 * high


def mean_of(values: numpy.ndarray, confidence: float) -> tuple:
    """(mean, low, high) over problems, as score.py has it for lengths."""
    return intervals.ratio(values, numpy.ones(len(values)), numpy.arange(len(values)), confidence)


def restricted(cell: Answers, tasks) -> Answers:
    """A cell's answers to some tasks alone."""
    return cell._replace(columns={task: values for task, values in cell.columns.items() if task in tasks})


def change(
    left: Answers, right: Answers, headline: list[str], same: set[str], grader: str, confidence: float
) -> dict[str, tuple]:
    """(kind, difference, low, high) of accuracy for every task that both cells have and for the headline mean.

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
            found[name] = (
                "unpaired",
                *minus(*(accuracy(cell, tasks, grader, confidence) for cell in (right, left))),
            )
    return found


def longer(left: Answers, right: Answers, tasks: list[str], same: set[str], confidence: float) -> tuple:
    """(difference, low, high) of the mean length over tasks, right minus left; paired for the tasks in `same`."""
    ends = []
    for task in tasks:
        a, b = tokens(left, task), tokens(right, task)
        ends.append(
            mean_of(b - a, confidence)
            if task in same
            else minus(mean_of(b, confidence), mean_of(a, confidence))
        )
    means = [end[0] for end in ends]
    return (float(numpy.mean(means)), *intervals.join(means, [end[1:] for end in ends]))


def data_size(side: Side, run: str) -> int | None:
    """Training examples of a base or of a run under the paper's protocol; None for the others."""
    parsed = grid.parse_run(run)
    if parsed.stage == "base":
        return 0
    return side.examples.get(parsed.size) if parsed.is_protocol else None


def paper_cells(side: Side, reference: pandas.DataFrame) -> tuple[dict[tuple[str, str], dict], list[str]]:
    """The paper's rows by (model, run) of a study, and the names of those that the study lacks."""
    if len(side.headline) != 3 or not all(set(side.headline) & names for names in PAPER_TASKS):
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
            if is_same_model(side.sources.get(model, ""), row["model"])
            and (size := data_size(side, run)) is not None
            and is_near(size, row["train_examples"])
        ]
        found |= dict.fromkeys(runs, row)
        lacking += [] if runs else [f"{row['model']} {row['train_examples']:,}"]
    return found, lacking


def cell_rows(a: Side, b: Side, name: tuple[str, str], confidence: float) -> list[dict]:
    """Rows of one cell of two studies: tasks and headline mean, over seeds and, where there are several, seed by seed."""
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
        same = {task for task in shared if same_problems(a, b, one, other, task)}
        lengths = {task: [task] for task in shared}
        lengths |= {HEADLINE: a.length} if set(a.length) <= set(shared) else {}
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
                "a": accuracy(one, tasks, a.grader, confidence)[0],
                "b": accuracy(other, tasks, a.grader, confidence)[0],
                **dict(zip(("difference", "low", "high"), ends, strict=True)),
                "seeds": seeds[0] if seeds[0] == seeds[1] else " | ".join(seeds),
            }
            if task in lengths:
                means = [
                    float(numpy.mean([tokens(cell, t).mean() for t in lengths[task]]))
                    for cell in (one, other)
                ]
                row |= dict(
                    zip(LENGTH, (*means, *longer(one, other, lengths[task], same, confidence)), strict=True)
                )
            by_seed.setdefault(task, []).extend([row["difference"]] if seed != "all" else [])
            found.append(row)
    for row in found:
        if row["seed"] == "all":
            row["seeds_low"], row["seeds_high"] = over_seeds(by_seed[row["task"]], confidence)
    return found


def over_seeds(differences: list[float], confidence: float) -> tuple[float | None, float | None]:
    """t interval of differences by seed; none where equal without being zero: no spread to go by."""
    if len(set(differences)) > 1:
        return intervals.over_seeds(differences, confidence)
    return (0.0, 0.0) if len(differences) > 1 and not any(differences) else (None, None)


def paper_rows(side: Side, reference: pandas.DataFrame, paper_is_b: bool, confidence: float):
    """(rows, cells that only the study has, values that only the paper has)."""
    values, lacking = paper_cells(side, reference)
    found = []
    for name, row in values.items():
        seeds = side.cells[name]
        cell = pooled(list(seeds.values()))
        if not set(side.headline) <= set(cell.columns):
            continue
        lengths = [mean_of(tokens(cell, task), confidence) for task in side.length]
        means = [length[0] for length in lengths]
        ours = (
            accuracy(cell, side.headline, side.grader, confidence),
            (float(numpy.mean(means)), *intervals.join(means, [length[1:] for length in lengths])),
        )
        theirs = (row["accuracy_pct"] / 100, float(row["response_tokens"]))
        differences = [
            minus(*((paper,) * 3, own) if paper_is_b else (own, (paper,) * 3))
            for own, paper in zip(ours, theirs, strict=True)
        ]
        own = (ours[0][0], ours[1][0])
        a, b = (own, theirs) if paper_is_b else (theirs, own)
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
