"""Where everything of a study lies: the path of each of its files, and the way back from a path to its cell.

    data/        traces, ordered pools, subsets with their cards, problems of tasks and of RL
    models/      bases: one a seed where they are made here, one in all where they are fetched
    results/     one folder a cell: <model>/<run>/seed<seed>
    report/      tables, figures, the page
    logs/        and benchmarks/, by rule

All of it below the study's root. Places are where things belong, whether or not they are there yet.
"""

import re
from pathlib import Path

from valley import grid
from valley.grid import Cell

IN_PATH = re.compile(rf"(?:^|/)(?P<model>{grid.MODEL})/(?P<run>{grid.ANY_RUN})/seed(?P<seed>[0-9]+)(?=/|$)")


def cell_of(path) -> Cell:
    """The cell that a path lies in, whatever its root; ValueError for a path in no cell."""
    found = list(IN_PATH.finditer(Path(path).as_posix()))
    if not found:
        raise ValueError(f"{path} lies in no cell's folder, …/<model>/<run>/seed<seed>/…")
    return Cell(found[-1]["model"], found[-1]["run"], int(found[-1]["seed"]))


def folder(results, cell: Cell) -> Path:
    """A cell's folder below the folder `results`; the cell may hold wildcards."""
    return Path(results) / cell.model / cell.run / f"seed{cell.seed}"


def page_of(cell: Cell) -> str:
    """The page of a cell beside the page of its study."""
    return f"cells/{cell.model}/{cell.run}/seed{cell.seed}.html"


def all_grades(root: Path):
    """The grades of all cells of a study, or of a released folder, that are there."""
    return Path(root).glob("results/*/*/seed*/grades.parquet")


class Places:
    """The files of the study that a config describes."""

    def __init__(self, config: dict):
        self.config, self.root = config, Path(config["root"])
        self.results, self.models = self.root / "results", self.root / "models"
        self.report, self.tables = self.root / "report", self.root / "report/tables"
        self.logs, self.benchmarks = self.root / "logs", self.root / "benchmarks"
        self.traces = self.root / "data/traces.parquet"

    @property
    def claims(self) -> Path:
        """The claims that the study is held against: those that a release brings, whose own file may be
        nowhere else, or the config's.
        """
        brought = self.report / "claims.yaml"
        return brought if brought.exists() else Path(self.config["report"]["claims"])

    def of(self, cell: Cell, file: str = "") -> Path:
        """A file of a cell, or its folder."""
        return folder(self.results, cell) / file

    def responses(self, cell: Cell, task: str) -> Path:
        """A cell's responses to a task."""
        return self.of(cell, f"responses/{task}.parquet")

    def task(self, name: str) -> Path:
        """The problems of a task."""
        return self.root / f"data/tasks/{name}.parquet"

    def rl_set(self, name: str) -> Path:
        """A set of RL problems; a task may have the same name."""
        return self.root / f"data/rl/{name}.parquet"

    def problems(self, name: str) -> Path:
        """The problems of the task of this name or, where there is none, of the RL set."""
        return self.task(name) if name in self.config["tasks"] else self.rl_set(name)

    def pool(self, order, kind: str = "parquet", name: str | None = None) -> Path:
        """The filtered traces in one order, all of them or those of a named pool, or (kind json) its card."""
        return self.root / f"data/{f'pools/{name}' if name else 'ordered'}/seed{order}.{kind}"

    def fetched(self, name: str) -> Path:
        """The traces of a pool's own source."""
        return self.root / f"data/pools/{name}/traces.parquet"

    def ordered(self, order, name: str) -> Path:
        """What a plain pool is taken from: the traces of its own source in one order, or the study's."""
        own = "traces" in self.config["pools"][name]
        return self.root / f"data/pools/{name}/ordered/seed{order}.parquet" if own else self.pool(order)

    def subset(self, size: str, order, kind: str = "parquet", pool: str | None = None) -> Path:
        """The first traces of an order, of all or of a named pool, or (kind json) their card."""
        return self.root / f"data/subsets/{size}{f'.{pool}' if pool else ''}/seed{order}.{kind}"

    def subset_of(self, cell: Cell, kind: str = "parquet") -> Path:
        """The subset that a cell trains on, or its card."""
        pool = grid.pool_of(self.config, cell.model, cell.parsed.start)
        return self.subset(cell.parsed.size, grid.order_seed(self.config, int(cell.seed)), kind, pool)

    def held_out(self, order) -> Path:
        """The traces of one order that no subset holds."""
        return self.root / f"data/held_out/seed{order}.parquet"

    def base(self, model: str, seed) -> Path:
        """The folder of a base model."""
        made_here = grid.is_pretrained_here(self.config, model)
        return self.models / model / (f"seed{seed}" if made_here else "fetched")

    def model(self, cell: Cell) -> Path:
        """The folder of the weights that a cell evaluates."""
        return self.base(cell.model, cell.seed) if cell.run == "base" else self.of(cell, "model")

    def start(self, cell: Cell) -> Path:
        """The folder of the weights that training of a cell starts from."""
        return self.model(cell.sibling(cell.parsed.start if cell.parsed.rl else "base"))
