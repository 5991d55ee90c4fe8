"""Forged studies: from stated truths to answers in memory and grades on disk, and the ways in which data
deceive.

Each way spoils an honest study as the world would: what then looks like a valley, or like recovery, is none.
`on_disk` writes what grade.py would have written, so that the whole report can be made of it.
"""

from pathlib import Path

import pandas
import yaml
from conftest import REPOSITORY

from valley import check, grid, places, records
from valley.analysis import claims, forged
from valley.analysis.cells import Answers, Study
from valley.analysis.measures import COLUMNS, Tasks
from valley.analysis.recovery import recovery
from valley.grading import GRADERS
from valley.grid import Cell

CONFIG = check.load([])
REFERENCE = pandas.read_csv(REPOSITORY / "workflow/reference/paper_fig2.csv")
CLAIMS = yaml.safe_load((REPOSITORY / "workflow/reference/claims.yaml").read_text(encoding="utf-8"))
EXAMPLES = {size: grid.examples_of(CONFIG, size) for size in CONFIG["sizes"]}
NAMES = forged.paper_names(CONFIG, REFERENCE)
PARAMETERS = {model: entry["parameters"] for model, entry in CONFIG["models"].items()}
TASKS = Tasks(list(forged.PAPER_HEADLINE), ["math500"], ["arithmetic"])
SMALLEST = "sft-8k"
LARGER = ("sft-64k", "sft-128k", "sft-220k")


def wanted(seeds: int = 1, rl: bool = False) -> list[Cell]:
    """The cells of the paper's grid with so many seeds; a base once."""
    found = grid.cells(CONFIG)
    return [
        cell._replace(seed=seed)
        for cell in found
        if rl or not cell.parsed.rl
        for seed in range(seeds if cell.run != "base" else 1)
    ]


def truths(effect: bool = True, seeds: int = 1, rl: bool = False) -> tuple[dict, dict]:
    """What the paper's cells would do: ({cell: Truth} of the headline, the same of arithmetic)."""
    return forged.paper_truths(wanted(seeds, rl), NAMES, EXAMPLES, REFERENCE, effect)


def cells(headline: dict, arithmetic: dict, rng, noise: float = 0.0, tasks: dict | None = None) -> dict:
    """Answers that fit the truths."""
    return forged.forged_answers(
        headline, tasks or forged.PAPER_DESIGN, forged.PAPER_HEADLINE, noise, rng, arithmetic
    )


def honest(rng, noise: float = 0.0, effect: bool = True, seeds: int = 1, rl: bool = False) -> dict:
    """The cells of the paper's design, with its effects or with none."""
    return cells(*truths(effect, seeds, rl), rng, noise)


def study(made: dict, asked: list | None = None) -> Study:
    """A study of these cells; `asked` are those that its grid wants, if they are others."""
    return Study(made, asked or list(made), EXAMPLES)


def held(of: Study, asked: dict = CLAIMS, **known) -> dict[tuple[str, str], dict]:
    """The rows of the table `claims` by claim and part."""
    fits = pandas.DataFrame(columns=["model", "run", "deviation_low", "deviation_high"])
    facts = claims.Known(TASKS, fits, recovery(of, TASKS, 0.95), PARAMETERS)._replace(**known)
    rows = claims.judged(of, asked, facts)[0].to_dict("records")
    return {(row["claim"], row["part"]): row for row in rows}


def set_correct(answers: Answers, task: str, values):
    """Give a cell other correct answers to a task, by every grader."""
    for name in GRADERS.values():
        answers.column(task, name)[:] = values


def truncation_only(rng) -> dict:
    """A valley of length alone: half of the answers of SFT runs are cut off, what finishes is as right as the
    base's.
    """
    headline, arithmetic = truths(effect=False)
    for cell, truth in headline.items():
        if cell.run == SMALLEST:
            headline[cell] = truth._replace(accuracy=truth.accuracy * 0.5, cut=0.5)
    return cells(headline, arithmetic, rng)


def grader_bug(rng) -> dict:
    """A valley of the grader: 40 % of the answers at the smallest size cannot be read, the others are the
    base's.
    """
    headline, arithmetic = truths(effect=False)
    for cell, truth in headline.items():
        if cell.run == SMALLEST:
            headline[cell] = truth._replace(accuracy=truth.accuracy * 0.6, no_answer=0.4)
    return cells(headline, arithmetic, rng)


def memorised(rng) -> tuple[dict, frozenset]:
    """Recovery by leaks alone: a quarter of the problems, known by heart at the larger sizes; and which they
    are.
    """
    made = honest(rng, effect=False)
    quarter = {task: forged.PAPER_DESIGN[task][0] // 4 for task in forged.PAPER_HEADLINE}
    for cell, answers in made.items():
        for task, count in quarter.items() if cell.run in LARGER else ():
            for name in GRADERS.values():
                answers.column(task, name)[:count] = 1.0
    ids = next(iter(made.values())).ids
    return made, frozenset((task, i) for task, count in quarter.items() for i in ids[task][:count])


def one_benchmark(rng, task: str = "amc23", left: float = 0.1) -> dict:
    """A drop in one benchmark alone: of what was right there at the base, `left` is right at the smallest
    size.
    """
    made = honest(rng, effect=False)
    samples = forged.PAPER_DESIGN[task][1]
    for cell, answers in made.items():
        if cell.run == SMALLEST:
            right = (answers.column(task, "correct") * samples).round().astype(int)
            set_correct(answers, task, rng.binomial(right, left) / samples)
    return made


def copied_seeds(rng) -> dict:
    """Three seeds of every training, all of them the first one's answers."""
    made = honest(rng, noise=0.03, effect=False, seeds=3)
    return {cell: made[cell._replace(seed=0)] for cell in made}


def same_samples(made: dict) -> dict:
    """The same cells, had every problem been answered k times with one and the same response."""
    for answers in made.values():
        for task in answers.columns:
            answers.column(task, "same")[:] = 1.0
    return made


def at_the_edge(rng, accuracy: float) -> dict:
    """Nothing happens to models that solve next to nothing, or next to everything."""
    headline, arithmetic = truths(effect=False)
    return cells(
        {cell: truth._replace(accuracy=accuracy) for cell, truth in headline.items()}, arithmetic, rng
    )


def on_disk(made: dict, root: Path, tasks: dict | None = None, gold=lambda cell, task, i: str(i)):
    """Grades of every cell below `root`, as grade.py writes them: one row a response."""
    for cell, answers in made.items():
        rows = []
        for task, (count, samples) in (tasks or forged.PAPER_DESIGN).items():
            share = {
                name: (answers.column(task, name) * samples).round().astype(int)
                for name in COLUMNS
                if name != "tokens"
            }
            tokens = answers.column(task, "tokens").round().astype(int)
            for i in range(count):
                for sample in range(samples):
                    right = sample < share["correct"][i]
                    cut = sample >= samples - share["truncated"][i]
                    none = not cut and sample >= samples - share["truncated"][i] - share["no answer"][i]
                    reflects = (sample * 7 + i) % samples < share["reflective"][i]
                    rows.append(
                        {
                            "task": task,
                            "id": f"{i:04}",
                            "sample": sample,
                            "gold": gold(cell, task, i),
                            "answer": None if cut or none else str(i) if right else "no",
                            "boxed": not cut and not none,
                            "correct": right,
                            "correct_boxed": right,
                            "correct_paper": right,
                            "source_paper": None if cut or none else "box",
                            "outcome": "correct"
                            if right
                            else "truncated"
                            if cut
                            else "no answer"
                            if none
                            else "wrong",
                            "timeout": False,
                            "tokens": int(tokens[i]) + sample,
                            "finish_reason": "length" if cut else "stop",
                            "reflective": reflects,
                            "keywords": reflects,
                            "judged": None,
                            "calculations": int(answers.column(task, "calculations")[i])
                            if task == "arithmetic"
                            else None,
                            "wrong_calculations": int(answers.column(task, "wrong_calculations")[i])
                            if task == "arithmetic"
                            else None,
                            "first_wrong": None,
                        }
                    )
        path = places.folder(Path(root) / "results", cell) / "grades.parquet"
        records.write_parquet(path, rows, provenance={})
