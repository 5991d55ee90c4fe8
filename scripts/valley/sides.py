"""Two studies as sides of a comparison: their cells, whether they answered the same problems, differences
with intervals.

A cell is held as difference.py has it, {"tasks": {task: {"solved", "samples", "tokens"}}}: correct responses
and mean tokens of every problem. Several training seeds are pooled: their solved counts and samples add up,
their tokens are averaged.
"""

from pathlib import Path
from typing import NamedTuple

import numpy
import pandas
from difference import between

from valley import grid, records, statistics
from valley.grid import HEADLINE

PAPER = "paper"
PAPER_TASKS = (
    {"aime24", "aime90"},
    {"amc23", "amc83"},
    {"math500"},
)  # its headline; by name or by its footnote


class Side(NamedTuple):
    """One study."""

    name: str
    cells: dict[tuple[str, str], dict[int, dict]]  # (model, run): seed: cell
    headline: list[str]
    length: list[str]
    examples: dict[str, int]  # by size
    sources: dict[str, str]  # by model
    gold: dict[tuple[str, str], str]  # right answers by (task, problem); empty where the folder has no grades
    finding: str
    commit: str


def load(folder: Path, name: str, verdict: str, rename: dict[str, str]) -> Side:
    """A study from its folder: `verdict` is the column that counts as correct, `rename` gives models other
    names.
    """
    report = folder / "report"
    for needed in (report / "tables/problems.parquet", report / "config.json"):
        if not needed.exists():
            records.fail(
                folder,
                f"has no {needed.relative_to(folder)}",
                "Make its report first: snakemake --profile "
                f"profiles/local --configfile <the study's> -- {needed}",
            )
    config = records.read_json(report / "config.json")
    columns = ["model", "run", "seed", "task", "id", "samples", verdict, "tokens"]
    problems = records.read_parquet(report / "tables/problems.parquet", columns).to_pandas()
    problems = problems.astype(dict.fromkeys(("model", "run", "task"), str))
    if unknown := sorted(set(rename) - set(problems.model)):
        records.fail(
            folder, f"has no model {unknown[0]!r} to rename", f"It has: {', '.join(problems.model.unique())}"
        )
    cells: dict = {}
    for (model, run, seed, task), rows in problems.groupby(["model", "run", "seed", "task"], sort=False):
        solved = (rows[verdict] * rows.samples).round().astype(int)
        values = {
            "solved": dict(zip(rows.id, solved, strict=True)),
            "samples": int(rows.samples.iat[0]),
            "tokens": dict(zip(rows.id, rows.tokens, strict=True)),
        }
        seeds = cells.setdefault((rename.get(model, model), run), {})
        seeds.setdefault(int(seed), {"tasks": {}})["tasks"][task] = values
    count = lambda size: config["traces"]["rows"] if size["examples"] == "all" else size["examples"]  # noqa: E731
    grades = next(folder.glob("results/*/*/seed*/grades.parquet"), None)
    answers = records.read_parquet(grades, ["task", "id", "gold"]).to_pylist() if grades else []
    finding, provenance = report / "finding.txt", report / "provenance.json"
    return Side(
        name,
        cells,
        config["report"]["headline"],
        config["report"]["length"],
        {size: count(entry) for size, entry in config["sizes"].items()},
        {rename.get(model, model): Path(entry["source"]).name for model, entry in config["models"].items()},
        {(row["task"], row["id"]): row["gold"] for row in answers},
        finding.read_text(encoding="utf-8").strip() if finding.exists() else "",
        ", ".join(records.read_json(provenance).get("commits", [])) if provenance.exists() else "",
    )


def pooled(cells: list[dict]) -> dict:
    """One cell from those of several training seeds, of the tasks that all have."""
    tasks = {}
    for task, first in cells[0]["tasks"].items():
        if all(task in cell["tasks"] for cell in cells):
            every = [cell["tasks"][task] for cell in cells]
            tasks[task] = {
                "solved": {
                    problem: sum(one["solved"][problem] for one in every) for problem in first["solved"]
                },
                "samples": sum(one["samples"] for one in every),
                "tokens": {
                    problem: numpy.mean([one["tokens"][problem] for one in every])
                    for problem in first["tokens"]
                },
            }
    return {"tasks": tasks}


def same_problems(a: Side, b: Side, left: dict, right: dict, task: str) -> bool:
    """True when two cells answered the same problems: the same ids and, where both folders have grades, right
    answers.
    """
    ids = left["tasks"][task]["solved"].keys()
    known = a.gold and b.gold
    return ids == right["tasks"][task]["solved"].keys() and not (
        known and any(a.gold.get((task, problem)) != b.gold.get((task, problem)) for problem in ids)
    )


def counts(cell: dict, tasks: list[str]) -> list[tuple[numpy.ndarray, int]]:
    """Correct responses of every problem and the number of samples, a pair a task."""
    return [
        (numpy.array(list(cell["tasks"][task]["solved"].values())), cell["tasks"][task]["samples"])
        for task in tasks
    ]


def rate(cell: dict, tasks: list[str]) -> float:
    """A cell's accuracy, the mean over tasks."""
    return float(numpy.mean([solved.mean() / samples for solved, samples in counts(cell, tasks)]))


def accuracy(cell: dict, tasks: list[str], confidence: float) -> tuple[float, float, float]:
    """(mean over tasks, low, high) of a cell's accuracy, the interval over problems."""
    return rate(cell, tasks), *statistics.over_problems(counts(cell, tasks), confidence)


def tokens(cell: dict, task: str) -> pandas.Series:
    """Mean tokens by problem."""
    return pandas.Series(cell["tasks"][task]["tokens"])


def minus(right: tuple, left: tuple) -> tuple[float, float, float]:
    """The difference of two independent estimates (value, low, high), by MOVER."""
    ends = [(right[1], right[2]), (-left[2], -left[1])]
    low, high = statistics.join([right[0], -left[0]], ends)
    return right[0] - left[0], 2 * low, 2 * high


def mean_of(values: pandas.Series, confidence: float) -> tuple:
    """(mean, low, high) over problems, as score.py has it for lengths."""
    numbers = values.to_numpy(float)
    return statistics.ratio(numbers, numpy.ones(len(numbers)), numpy.arange(len(numbers)), confidence)


def change(
    left: dict, right: dict, headline: list[str], same: set[str], confidence: float
) -> dict[str, tuple]:
    """(kind, difference, low, high) of accuracy for every task that both cells have and for the headline
    mean.

    Right minus left: paired over problems for the tasks in `same`, and for the mean when all its tasks are.
    """
    shared = [task for task in left["tasks"] if task in right["tasks"]]
    only = [
        {"tasks": {task: cell["tasks"][task] for task in shared if task in same}} for cell in (right, left)
    ]
    found = {task: ("paired", *ends) for task, ends in between(*only, headline, confidence, "").items()}
    groups = {task: [task] for task in shared} | (
        {HEADLINE: headline} if set(headline) <= set(shared) else {}
    )
    for name, tasks in groups.items():
        if name not in found:
            found[name] = ("unpaired", *minus(*(accuracy(cell, tasks, confidence) for cell in (right, left))))
    return found


def longer(left: dict, right: dict, tasks: list[str], same: set[str], confidence: float) -> tuple:
    """(difference, low, high) of the mean length over tasks, right minus left; paired over problems for the
    tasks in `same`.
    """
    parts = []
    for task in tasks:
        a, b = tokens(left, task), tokens(right, task)
        parts.append(
            mean_of(b - a.reindex(b.index), confidence)
            if task in same
            else minus(mean_of(b, confidence), mean_of(a, confidence))
        )
    means = [part[0] for part in parts]
    return (float(numpy.mean(means)), *statistics.join(means, [part[1:] for part in parts]))


def data_size(side: Side, run: str) -> int | None:
    """Training examples of a base or of a run under the paper's protocol; None for the others."""
    parsed = grid.parse_run(run)
    if parsed.rl or parsed.recipe or (parsed.size and parsed.size not in side.examples):
        return None
    return side.examples[parsed.size] if parsed.size else 0


def paper_cells(side: Side, reference: pandas.DataFrame) -> tuple[dict[tuple[str, str], dict], list[str]]:
    """The paper's rows by (model, run) of a study, and the names of those that the study lacks.

    A size is the same within a tenth: 220k is all that is left of the traces, there and here.
    """
    if len(side.headline) != 3 or not all(set(side.headline) & names for names in PAPER_TASKS):
        records.fail(
            side.name,
            f"its headline is the mean of {', '.join(side.headline)}, the paper's of AIME, AMC and MATH500",
            "Only a study with these three can be held against the paper",
        )
    found, lacking = {}, []
    for row in reference.to_dict("records"):
        runs = [
            (model, run)
            for model, run in side.cells
            if side.sources.get(model) == row["model"]
            and (size := data_size(side, run)) is not None
            and abs(size - row["train_examples"]) <= row["train_examples"] / 10
        ]
        found |= dict.fromkeys(runs, row)
        lacking += [] if runs else [f"{row['model']} {row['train_examples']:,}"]
    return found, lacking
