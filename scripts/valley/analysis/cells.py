"""The cells of a study in memory, in one form: what each answered, problem by problem.

`by_problem` makes the table `problems` from grades, one row a cell, task and problem with the means over its samples;
every comparison of cells, within a study and between two, starts from it.
"""

import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy
import pandas

from valley import grading, grid, places, records
from valley.analysis.intervals import weights
from valley.analysis.measures import COLUMNS
from valley.grid import Cell

KEYS = list(Cell._fields)
GRADES = ["task", "id", "tokens", *grading.GRADERS.values(), "outcome", "reflective", "calculations", "wrong_calculations",
          "first_wrong"]  # fmt: skip
# What stands for runs in place of their names, so that one sentence holds for studies of any sizes.
SELECTOR = re.compile(r"(?P<start>base|smallest|largest|each size)(?P<rl>\+rl(?P<along>@)?)?")


def load_grades(paths: list[Path]) -> pandas.DataFrame:
    """All grades of cells, one row a response, with the cell that the path names."""
    tables = []
    for path in paths:
        cell = places.cell_of(path)
        tables.append(records.read_parquet(path, GRADES).to_pandas().assign(**cell._asdict()))
    rows = with_clusters(pandas.concat(tables, ignore_index=True))
    return rows.astype(dict.fromkeys(("task", "outcome", "model", "run"), "category"))


def with_clusters(rows: pandas.DataFrame) -> pandas.DataFrame:
    """The rows with `problem`, an integer a problem: what responses of one problem share."""
    return rows.assign(problem=rows.groupby(["task", "id"], observed=True).ngroup())


def by_problem(rows: pandas.DataFrame) -> pandas.DataFrame:
    """One row a cell, task and problem: the number of samples, and means over them.

    The columns named after an outcome class are its share.
    """
    shares = {name: (rows.outcome == name).astype(float) for name in grading.OUTCOMES if name != "correct"}
    rows = rows.assign(**shares, tokens_reflective=rows.tokens * rows.reflective)
    graders = list(grading.GRADERS.values())
    measures = [*graders, *shares, *(column for column in COLUMNS if column not in graders)]
    grouped = rows.groupby([*KEYS, "task", "id"], sort=False, observed=True)
    return grouped.size().rename("samples").to_frame().join(grouped[measures].mean()).reset_index()


class Answers(NamedTuple):
    """What a cell answered, task by task: its problems in the order of their ids, means over samples of each."""

    ids: dict[str, list[str]]
    columns: dict[str, numpy.ndarray]  # problems × COLUMNS
    samples: dict[str, int]
    drawn: dict[str, numpy.ndarray]  # bootstrap draws × COLUMNS, kept once they were made; begins empty

    def means(self, tasks: list[str]) -> dict[str, numpy.ndarray]:
        """Means over the problems, task by task."""
        return {task: self.columns[task].mean(axis=0) for task in tasks}

    def draws(self, tasks: list[str]) -> dict[str, numpy.ndarray]:
        """The same for every bootstrap draw; those of a task are the same for all cells: differences are paired."""
        for task in tasks:
            if task not in self.drawn:
                place = zlib.crc32(task.encode())  # another seed for another task
                self.drawn[task] = weights(len(self.columns[task]), place) @ self.columns[task]
        return {task: self.drawn[task] for task in tasks}

    def solved(self, task: str, grader: str = "headline") -> numpy.ndarray:
        """Correct responses of every problem."""
        rates = self.columns[task][:, COLUMNS.index(grading.GRADERS[grader])]
        return (rates * self.samples[task]).round().astype(int)


def answers(problems: pandas.DataFrame) -> dict[Cell, Answers]:
    """The answers of every cell in a table of problems."""
    found = {}
    for key, table in problems.groupby(KEYS, observed=True):
        made = Answers({}, {}, {}, {})
        for task, rows in table.groupby("task", observed=True):
            rows = rows.sort_values("id")
            made.ids[task] = rows.id.tolist()
            made.columns[task] = rows[list(COLUMNS)].to_numpy(float)
            made.samples[task] = int(rows.samples.iat[0])
        found[Cell(str(key[0]), str(key[1]), int(key[2]))] = made
    return found


def pooled(several: list[Answers]) -> Answers:
    """The mean of cells (training seeds, checkpoints) on the tasks that all have, as one; samples add up."""
    first, *others = several
    tasks = [task for task in first.ids if all(one.ids.get(task) == first.ids[task] for one in others)]
    return Answers(
        {task: first.ids[task] for task in tasks},
        {task: numpy.mean([one.columns[task] for one in several], axis=0) for task in tasks},
        {task: sum(one.samples[task] for one in several) for task in tasks},
        {},
    )


class Study:
    """The cells of a study, and what its grid asks for."""

    def __init__(self, problems: pandas.DataFrame, wanted: Iterable[Cell], examples: dict[str, int]):
        self.wanted, self.examples = dict.fromkeys(wanted), examples
        self.models = list(dict.fromkeys(cell.model for cell in self.wanted))
        self.cells, order = answers(problems), {}
        for cell, made in self.cells.items():
            for task, ids in made.ids.items():
                if order.setdefault(task, ids) != ids:
                    records.fail(
                        cell,
                        f"answered other problems of {task} than the other cells",
                        "Generate the cell again",
                    )

    def runs(self, model: str) -> list[str]:
        """The runs the grid asks of a model."""
        return list(dict.fromkeys(cell.run for cell in self.wanted if cell.model == model))

    def sizes(self, model: str) -> list[str]:
        """SFT runs under the protocol by data size."""
        runs = [run for run in self.runs(model) if grid.parse_run(run).is_protocol]
        return sorted(runs, key=self.count)

    def count(self, run: str) -> int:
        """Training examples of a run; 0 for a base."""
        size = grid.parse_run(run).size
        return self.examples[size] if size else 0

    def resolve(self, model: str, selector: str) -> list[str]:
        """The runs that a selector (SELECTOR, or a run's own name) stands for: one, several or none."""
        match = SELECTOR.fullmatch(selector)
        if not match:
            grid.parse_run(selector)  # a ConfigError for what is no run's name either
            return [selector] if selector in self.runs(model) else []
        sizes = self.sizes(model)
        if match["rl"]:
            sizes = [run for run in sizes if grid.continued(run) in self.runs(model)]
        starts = {"base": ["base"], "smallest": sizes[:1], "largest": sizes[-1:], "each size": sizes}[
            match["start"]
        ]
        if not match["rl"]:
            return starts
        ends = [grid.continued(start) for start in starts]
        if match["along"]:
            return grid.along(self.runs(model), ends[0]) if ends else []
        return [end for end in ends if end in self.runs(model)]

    def seeds(self, model: str, runs: list[str]) -> tuple[list[int], list[str]]:
        """(seeds all of whose cells are there, cells of the grid that are missing)."""
        asked = [
            cell.seed
            for cell in self.wanted
            if (cell.model, cell.run) == (model, runs[0])
            and all(cell.sibling(run) in self.wanted for run in runs)
        ]
        missing = [
            cell for seed in asked for run in runs if (cell := Cell(model, run, seed)) not in self.cells
        ]
        lacking = {cell.seed for cell in missing}
        return [seed for seed in asked if seed not in lacking], list(map(str, missing))

    def answers(self, cell: Cell, end: bool) -> Answers:
        """What a cell answered; with `end` an RL run is the mean of its last RL_END checkpoints."""
        runs = [other.run for other in self.cells if (other.model, other.seed) == (cell.model, cell.seed)]
        steps = grid.along(runs, cell.run) if end and cell.parsed.rl else []
        if len(steps) < 2:
            return self.cells[cell]
        return pooled([self.cells[cell.sibling(run)] for run in steps[-grid.RL_END :]])


def load(tables: Path, wanted: list[str], examples: dict[str, int]) -> Study:
    """The study whose problems lie in a folder of tables; `wanted` are the cells of its grid, model/run/seed."""
    problems = records.read_parquet(tables / "problems.parquet").to_pandas()
    return Study(problems, map(grid.parse_cell, wanted), examples)
