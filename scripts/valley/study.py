"""The cells of a study in memory, problem by problem, and what words like "smallest" stand for in its grid."""

import math

import numpy
import pandas

from valley import grid, inference, records


def load(args) -> "Study":
    """The study that the flags of flags.add_study name."""
    wanted = [(model, run, int(seed)) for model, run, seed in (cell.split("/") for cell in args.grid)]
    problems = records.read_parquet(args.tables / "problems.parquet").to_pandas()
    return Study(
        problems,
        wanted,
        {name: int(count) for name, count in (pair.split("=") for pair in args.examples)},
        args,
    )


class Study:
    """The cells of a study by (model, run, seed), and what its grid asks for."""

    def __init__(self, problems: pandas.DataFrame, wanted: list[tuple], examples: dict[str, int], tasks):
        self.wanted, self.examples, self.tasks = wanted, examples, tasks
        self.models = list(dict.fromkeys(model for model, _, _ in wanted))
        self.cells, order = {}, {}
        for key, table in problems.groupby(["model", "run", "seed"], observed=True):
            columns, samples = {}, {}
            for task, rows in table.groupby("task", observed=True):
                rows = rows.sort_values("id")
                if order.setdefault(task, rows.id.tolist()) != rows.id.tolist():
                    records.fail(
                        "/".join(map(str, key)),
                        f"answered other problems of {task} than the other cells",
                        "Generate the cell again",
                    )
                columns[task], samples[task] = (
                    rows[list(inference.COLUMNS)].to_numpy(float),
                    int(rows.samples.iat[0]),
                )
            self.cells[key] = inference.Cell(columns, samples, {})

    def runs(self, model: str) -> list[str]:
        """The runs the grid asks of a model."""
        return list(dict.fromkeys(run for name, run, _ in self.wanted if name == model))

    def sizes(self, model: str, rl: bool = False) -> list[str]:
        """SFT runs under the protocol by data size; with `rl` those from which RL starts."""
        runs = [
            run for run in self.runs(model) if (p := grid.parse_run(run)).size and not p.recipe and not p.rl
        ]
        runs = [run for run in runs if not rl or f"{run}+rl" in self.runs(model)]
        return sorted(runs, key=lambda run: self.examples[grid.parse_run(run).size])

    def resolve(self, model: str, selector: str) -> list[str]:
        """The runs a selector of claims.yaml stands for, one, several (each size, +rl@) or none."""
        name, plus, _ = selector.partition("+rl")
        sizes = self.sizes(model, rl=bool(plus))
        starts = {"base": ["base"], "smallest": sizes[:1], "largest": sizes[-1:], "each size": sizes}[name]
        if not plus:
            return starts
        if selector.endswith("@"):
            steps = [
                run for run in self.runs(model) if starts and grid.parse_run(run).whole == f"{starts[0]}+rl"
            ]
            return sorted(steps, key=lambda run: grid.parse_run(run).step or math.inf)
        return [f"{start}+rl" for start in starts if f"{start}+rl" in self.runs(model)]

    def seeds(self, model: str, runs: list[str]) -> tuple[list[int], list[str]]:
        """(seeds all of whose cells are there, cells of the grid that are missing)."""
        asked = [
            seed
            for seed in dict.fromkeys(s for m, r, s in self.wanted if m == model and r == runs[0])
            if all((model, run, seed) in self.wanted for run in runs)
        ]
        missing = [
            f"{model}/{run}/seed{seed}"
            for seed in asked
            for run in runs
            if (model, run, seed) not in self.cells
        ]
        return [seed for seed in asked if not any(name.endswith(f"seed{seed}") for name in missing)], missing

    def cell(self, model: str, run: str, seed: int, end: bool) -> inference.Cell:
        """A cell; with `end` an RL run is the mean of its last RL_END checkpoints."""
        parsed = grid.parse_run(run)
        steps = [r for m, r, s in self.cells if m == model and s == seed and grid.parse_run(r).whole == run]
        if not end or not parsed.rl or len(steps) < 2:
            return self.cells[model, run, seed]
        last = sorted(steps, key=lambda r: grid.parse_run(r).step or math.inf)[-grid.RL_END :]
        parts = [self.cells[model, r, seed] for r in last]
        columns = {
            task: numpy.mean([part.columns[task] for part in parts], axis=0) for task in parts[0].columns
        }
        return inference.Cell(columns, {task: k * len(parts) for task, k in parts[0].samples.items()}, {})


def pairs(study: Study, model: str, part: dict) -> list[tuple[str, str | None]]:
    """The (left, right) runs that a part compares for a model; checkpoints by step, else each left with the
    one right.
    """
    left = study.resolve(model, part["of"])
    other = part.get("minus", part.get("over"))
    if other is None:
        return [(run, None) for run in left]
    right = study.resolve(model, other)
    if part["of"].endswith("@"):
        by_step = {grid.parse_run(run).step: run for run in right}
        return [(run, by_step[step]) for run in left if (step := grid.parse_run(run).step) in by_step]
    return [(run, right[0]) for run in left if right]


def estimates(study: Study, model: str, part: dict, verdict: str) -> tuple[list[tuple], list[str]]:
    """([(left, right, estimate)], missing cells) of a part for a model."""
    found, gaps = [], []
    how = next((key for key in ("minus", "over") if key in part), "value")
    calculations = part.get("on") == "calculations"
    tasks = study.tasks.calculations if calculations else study.tasks.headline
    length = study.tasks.calculations if calculations else study.tasks.length
    for left, right in pairs(study, model, part):
        seeds, missing = study.seeds(model, [run for run in (left, right) if run])
        gaps += missing
        if seeds:
            end = not part["of"].endswith("@")
            sides = [
                tuple(run and study.cell(model, run, seed, end) for run in (left, right)) for seed in seeds
            ]
            found.append(
                (left, right, inference.estimate(sides, part["measure"], how, tasks, length, verdict))
            )
    return found, gaps
