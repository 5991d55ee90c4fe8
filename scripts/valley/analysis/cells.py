"""The cells of a study in memory, in one form: what each answered, problem by problem.

`by_problem` makes the table `problems` from grades, one row a cell, task and problem with the means over its
samples; every comparison of cells, within a study and between two, starts from it.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy
import pandas

from valley import grading, grid, places, records
from valley.analysis.measures import COLUMNS
from valley.grid import Cell

KEYS = list(Cell._fields)
GRADES = ["task", "id", "gold", "answer", "tokens", *grading.GRADERS.values(), "outcome", "reflective",
          "calculations", "wrong_calculations", "first_wrong"]  # fmt: skip
# What stands for runs in place of their names, so that one sentence holds for studies of any sizes.
SELECTOR = re.compile(
    r"(?P<size>base|smallest|largest|each size|last three sizes|larger sizes|smaller sizes)"
    rf"(\.(?P<recipe>[a-z0-9]+))?(?P<rl>\+rl(?P<when>{grid.ALONG}| throughout)?)?"
)


def is_of_rl(selector: str) -> bool:
    """True for a selector, or a run's name, that stands for RL runs."""
    match = SELECTOR.fullmatch(selector)
    return bool(match["rl"]) if match else grid.parse_run(selector).rl


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

    The columns named after an outcome class are its share; `same`: all samples have one answer of one length.
    """
    shares = {name: (rows.outcome == name).astype(float) for name in grading.OUTCOMES if name != "correct"}
    rows = rows.assign(**shares, tokens_reflective=rows.tokens * rows.reflective)
    graders = list(grading.GRADERS.values())
    measures = list(dict.fromkeys([*graders, *shares, *COLUMNS]))
    measures.remove("same")
    grouped = rows.groupby([*KEYS, "task", "id"], sort=False, observed=True)
    found = grouped.size().rename("samples").to_frame().join(grouped[measures].mean())
    one = (grouped.tokens.nunique() == 1) & (grouped.answer.nunique(dropna=False) == 1)
    return found.assign(
        same=(one & (found.samples > 1)).astype(float), gold=grouped.gold.first()
    ).reset_index()


class Answers(NamedTuple):
    """What a cell answered, task by task: its problems in the order of their ids, means over samples of
    each.
    """

    ids: dict[str, list[str]]
    columns: dict[str, numpy.ndarray]  # problems × COLUMNS
    samples: dict[str, int]
    gold: dict[str, list[str]]  # right answers; empty for answers that were made without

    def column(self, task: str, name: str) -> numpy.ndarray:
        """One measure of every problem of a task."""
        return self.columns[task][:, COLUMNS.index(name)]

    def solved(self, task: str, grader: str = "headline") -> numpy.ndarray:
        """Correct responses of every problem."""
        return (self.column(task, grading.GRADERS[grader]) * self.samples[task]).round().astype(int)


def answers(problems: pandas.DataFrame) -> dict[Cell, Answers]:
    """The answers of every cell in a table of problems."""
    found = {}
    for key, table in problems.groupby(KEYS, observed=True):
        made = Answers({}, {}, {}, {})
        for task, rows in table.groupby("task", observed=True):
            rows = rows.sort_values("id")
            made.ids[task] = rows.id.tolist()
            made.columns[task] = numpy.array(rows[list(COLUMNS)], float)
            made.samples[task] = int(rows.samples.iat[0])
            made.gold[task] = rows.gold.tolist()
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
        {task: first.gold[task] for task in tasks if task in first.gold},
    )


def base_among(cells: Iterable[Cell], cell: Cell, trained_bases: Iterable[str] = ()) -> Cell | None:
    """The base beside a cell: that of its seed, or the only one of its model, which was evaluated once.

    Of `trained_bases`, models whose base is trained with the seed, another seed's is another model, also
    where it is the only one so far.
    """
    bases = [other for other in cells if other.run == "base" and other.model == cell.model]
    beside = [base for base in bases if base.seed == cell.seed]
    only = len(bases) == 1 and cell.model not in trained_bases
    return beside[0] if beside else bases[0] if only else None


def training(cell: Cell) -> Cell:
    """The cell at the end of the training that a checkpoint is of; of any other cell itself."""
    return cell._replace(run=grid.parse_run(cell.run).whole)


class Study:
    """The cells of a study, and what its grid asks for.

    `trained_bases`: the models whose base is trained here, one for each seed; a given base stands beside all
    seeds. `copies`: pairs of cells with the same responses to the last token; of trainings that are copies
    one counts. Models that have learned a task to the end say the same without being copies: cells in which
    all is right, or all of one length, are none, nor are checkpoints of one training.
    """

    def __init__(
        self,
        answered: dict[Cell, Answers],
        wanted: Iterable[Cell],
        examples: dict[str, int],
        trained_bases: Iterable[str] = (),
    ):
        self.cells, self.wanted, self.examples = answered, dict.fromkeys(wanted), examples
        self.models = list(dict.fromkeys(cell.model for cell in self.wanted))
        self.trained_bases, self.copies, self.other_gold = set(trained_bases), {}, set()
        self.remembered: dict = {}  # what estimates.py has worked out, by what it is
        first, order, gold = {}, {}, {}
        for cell, made in answered.items():
            for task, ids in made.ids.items():
                if order.setdefault(task, ids) != ids:
                    fault = f"answered other problems of {task} than the other cells"
                    records.fail(cell, fault, "Generate the cell again")
                if gold.setdefault(task, made.gold.get(task)) != made.gold.get(task):
                    self.other_gold.add(task)
            tokens = [made.column(task, "tokens") for task in sorted(made.columns)]
            wrong = [made.column(task, grading.GRADERS["headline"]) < 1 for task in sorted(made.columns)]
            seen = hash(tuple(made.columns[task].tobytes() for task in sorted(made.columns)))
            varied = any(map(numpy.ptp, tokens)) and any(map(numpy.any, wrong))
            if varied and training(first.setdefault(seen, cell)) != training(cell):
                self.copies[cell] = first[seen]
        self.runs_of: dict[
            str, dict[str, list[int]]
        ] = {}  # by model: the seeds that the grid asks of each run
        for cell in self.wanted:
            self.runs_of.setdefault(cell.model, {}).setdefault(cell.run, []).append(cell.seed)

    def runs(self, model: str) -> list[str]:
        """The runs the grid asks of a model."""
        return list(self.runs_of[model])

    def sizes(self, model: str, recipe: str | None = None, rl: bool = False) -> list[str]:
        """SFT runs of a recipe (None: the protocol) by data size; with `rl` those from which RL starts."""
        runs = [run for run in self.runs(model) if grid.parse_run(run).stage == "sft"]
        runs = [run for run in runs if grid.parse_run(run).recipe == recipe]
        return sorted(
            [run for run in runs if not rl or grid.continued(run) in self.runs(model)], key=self.count
        )

    def count(self, run: str) -> int:
        """Training examples of a run; 0 for a base."""
        size = grid.parse_run(run).size
        return self.examples[size] if size else 0

    def is_trained(self, model: str, run: str) -> bool:
        """True for a run whose weights a seed of this study made."""
        return run != "base" or model in self.trained_bases

    def base_of(self, cell: Cell) -> Cell | None:
        """The base beside a cell (base_among)."""
        return base_among(self.cells, cell, self.trained_bases)

    def resolve(self, model: str, selector: str, rl: bool = False) -> tuple[list[dict[str, float]], str]:
        """([weights by run] that a selector (or a run's own name) stands for, why there are none): a side
        each.

        `rl`: RL is compared, so sizes are those from which it starts. What is called the largest size must
        not be the smallest of the grid, nor the smallest another; a mean of sizes needs two.
        """
        key = ("resolve", model, selector, rl)
        if key not in self.remembered:
            self.remembered[key] = self._resolved(model, selector, rl)
        return self.remembered[key]

    def _resolved(self, model: str, selector: str, rl: bool) -> tuple[list[dict[str, float]], str]:
        match = SELECTOR.fullmatch(selector)
        if not match:
            whole = (
                grid.along(self.runs(model), selector)[-grid.RL_END :] if grid.parse_run(selector).rl else []
            )
            runs = whole or [run for run in self.runs(model) if run == selector]
            return [dict.fromkeys(runs, 1 / len(runs))] if runs else [], "the grid has no such cells"
        plain, chosen = self.sizes(model), self.sizes(model, match["recipe"], rl)
        least, half = self.count(plain[0]) if plain else 0, len(chosen) // 2
        groups = {
            "base": [["base"]] if "base" in self.runs(model) else [],
            "smallest": [[run] for run in chosen[:1] if self.count(run) == least],
            "largest": [[run] for run in chosen[-1:] if self.count(run) > least],
            "each size": [[run] for run in chosen],
            "last three sizes": [[run for run in chosen[-3:] if self.count(run) > least]],
            "larger sizes": [chosen[len(chosen) - half :]],
            "smaller sizes": [chosen[:half]],
        }[match["size"]]
        found = [dict.fromkeys(runs, 1 / len(runs)) for runs in groups if runs]
        if match["rl"] and found:
            found = [side for start in found for side in self._along(model, next(iter(start)), match["when"])]
        if found:
            return found, ""
        starts = " from which RL starts" if rl else ""
        one = f"the grid has no other size{starts} than {chosen[0]}" if len(chosen) == 1 else ""
        return [], one or "the grid has no such cells"

    def _along(self, model: str, start: str, when: str | None) -> list[dict[str, float]]:
        """RL from a start: its end (mean of the last RL_END checkpoints), each checkpoint (`@`), or their
        mean.
        """
        steps = grid.along(self.runs(model), grid.continued(start))
        if when == grid.ALONG:
            return [{run: 1.0} for run in steps]
        steps = steps if when else steps[-grid.RL_END :]
        return [dict.fromkeys(steps, 1 / len(steps))] if steps else []

    def seeds(self, model: str, runs: list[str]) -> tuple[dict[str, list[int]], list[str]]:
        """({run: the seeds of it that count}, missing cells): of trained runs the seeds that all have, of a
        given base all of its own.
        """
        trained = [run for run in runs if self.is_trained(model, run)]
        common = set.intersection(*(set(self.runs_of[model].get(run, [])) for run in trained or runs))
        asked = {
            run: [s for s in self.runs_of[model].get(run, []) if s in common or run not in trained]
            for run in runs
        }
        missing = [Cell(model, run, s) for run in runs for s in asked[run]]
        missing = [cell for cell in missing if cell not in self.cells]
        lacking = {cell.seed for cell in missing if cell.run in trained}
        lacking |= {
            cell.seed
            for cell, first in self.copies.items()
            if cell.run in trained and first.run == cell.run and first.model == cell.model == model
        }
        absent = {(cell.run, cell.seed) for cell in missing}
        counted = {
            run: [
                s for s in asked[run] if (run, s) not in absent and (run not in trained or s not in lacking)
            ]
            for run in runs
        }
        return counted, list(map(str, missing))


def load(
    tables: Path, wanted: list[str], examples: dict[str, int], trained_bases: Iterable[str] = ()
) -> Study:
    """The study whose problems lie in a folder of tables; `wanted` are the cells of its grid,
    model/run/seed.
    """
    problems = records.read_parquet(tables / "problems.parquet").to_pandas()
    return Study(answers(problems), map(grid.parse_cell, wanted), examples, trained_bases)
