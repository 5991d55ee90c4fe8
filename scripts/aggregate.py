"""Collect the scores of all cells into tables, and the finding in a sentence.

`cells` has a row a cell and task, `summary` one a model and run over seeds, `rl_curves` the training curves.

    python scripts/aggregate.py --scores results/*/*/seed*/scores.json --examples 8k=8000 --headline math500 \\
        --tables /tmp/tables --finding /tmp/finding.txt

A cell is known by its path `…/<model>/<run>/seed<seed>/scores.json`. The end point of an RL run is the mean
of its last three evaluated checkpoints, never the best one. Every CSV has a parquet twin.
"""

from pathlib import Path

import pandas
from difference import between

from valley import flags, grid, records, statistics
from valley.grid import HEADLINE


def cell_rows(path: Path, scores: dict, examples: dict[str, int]) -> list[dict]:
    """Rows of one cell: one a task, and one for the headline mean."""
    model, run, seed = path.parts[-4], path.parts[-3], int(path.parts[-2].removeprefix("seed"))
    parsed = grid.parse_run(run)
    cell = {
        "model": model,
        "run": run,
        "seed": seed,
        "stage": "rl" if parsed.rl else "sft" if parsed.size else "base",
        "start": parsed.start,
        "recipe": parsed.recipe or "protocol",
        "step": parsed.step,
        "examples": examples[parsed.size] if parsed.size else 0,
    }
    rows = []
    for task, values in {HEADLINE: scores, **scores["tasks"]}.items():
        flat = {key: value for key, value in values.items() if not isinstance(value, dict)}
        shares = {f"share {name}": share for name, share in values["outcomes"].items()}
        rows.append(cell | {"task": task} | flat | shares)
    return rows


def add_changes(
    cells: pandas.DataFrame, scores: dict[Path, dict], headline: list[str], confidence: float
) -> pandas.DataFrame:
    """`change`, `change_low`, `change_high`: each cell minus the base of its model and seed, paired problem
    by problem.
    """
    changes = []
    for path, mine in scores.items():
        base = path.parents[2] / "base" / path.parts[-2] / "scores.json"
        if base == path or base not in scores:
            continue
        for task, (change, low, high) in between(
            mine, scores[base], headline, confidence, f"{path}, {base}"
        ).items():
            model, run, seed = path.parts[-4], path.parts[-3], int(path.parts[-2].removeprefix("seed"))
            changes.append(
                {
                    "model": model,
                    "run": run,
                    "seed": seed,
                    "task": task,
                    "change": change,
                    "change_low": low,
                    "change_high": high,
                }
            )
    keys = ["model", "run", "seed", "task"]
    table = pandas.DataFrame(changes, columns=[*keys, "change", "change_low", "change_high"])
    return cells.merge(table, on=keys, how="left")


def crossings(scores: dict[Path, dict]) -> pandas.DataFrame:
    """Keywords × judge, where a judge has labelled: shares of the responses, a row a cell and task."""
    rows = []
    for path, content in scores.items():
        for task, values in content["tasks"].items():
            shares = {
                f"{found}, {kind}": share
                for found, kinds in values["crossing"].items()
                for kind, share in kinds.items()
            }
            named = {
                "model": path.parts[-4],
                "run": path.parts[-3],
                "seed": int(path.parts[-2].removeprefix("seed")),
                "task": task,
            }
            rows += [named | shares] if shares else []
    return pandas.DataFrame(rows, columns=None if rows else ["model", "run", "seed", "task"])


def end_points(cells: pandas.DataFrame) -> pandas.DataFrame:
    """Cells with every RL run's checkpoints replaced by one row: the mean of the last three (the run itself
    is the last).
    """
    numeric = [c for c in cells.select_dtypes("number").columns if c not in ("seed", "step", "examples")]
    kept = [cells[cells.stage != "rl"]]
    rl = cells[cells.stage == "rl"].assign(whole=lambda t: t.run.str.split("@").str[0])
    for _, group in rl.groupby(["model", "whole", "seed", "task"], sort=False):
        # NaN as step is the run itself: its last step.
        last = group.sort_values("step", na_position="last").tail(grid.RL_END)
        row = group[group.step.isna()].tail(1).drop(columns="whole")
        row = last.tail(1).drop(columns="whole") if row.empty else row
        kept.append(row.assign(**{name: last[name].mean() for name in numeric}))
    return pandas.concat(kept, ignore_index=True)


def summary(cells: pandas.DataFrame, confidence: float) -> pandas.DataFrame:
    """One row a model, run and task: mean over seeds with extremes and t interval, beside the base of the
    same seeds.
    """
    rows = []
    ends = end_points(cells)
    base = ends[ends.stage == "base"].set_index(["model", "seed", "task"]).accuracy
    for (model, run, task), group in ends.groupby(["model", "run", "task"], sort=False):
        accuracy = group.accuracy.tolist()
        interval = statistics.over_seeds(accuracy, confidence) or (None, None)
        bases = [base.get((model, seed, task)) for seed in group.seed]
        pairs = [(a, b) for a, b in zip(accuracy, bases, strict=True) if b is not None]
        rows.append(
            {
                "model": model,
                "run": run,
                "task": task,
                "stage": group.stage.iat[0],
                "recipe": group.recipe.iat[0],
                "examples": group.examples.iat[0],
                "seeds": len(group),
                "accuracy": group.accuracy.mean(),
                "lowest": min(accuracy),
                "highest": max(accuracy),
                "seeds_low": interval[0],
                "seeds_high": interval[1],
                "problems_low": group.problems_low.mean(),
                "problems_high": group.problems_high.mean(),
                "change": sum(a - b for a, b in pairs) / len(pairs) if pairs else None,
                "below_base": sum(a < b for a, b in pairs),
                "above_base": sum(a > b for a, b in pairs),
                "accuracy_boxed": group.accuracy_boxed.mean(),
                "accuracy_paper": group.accuracy_paper.mean(),
                "length": group.length.mean(),
                "boxed": group.boxed.mean(),
                "reflection": group.reflection.mean(),
                "truncated": (group["share truncated"] + group["share looping"]).mean(),
            }
        )
    return pandas.DataFrame(rows)


def short(value: float) -> str:
    """An accuracy as `.05`, `1.0`."""
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else "1.0"


def finding(table: pandas.DataFrame) -> str:
    """One sentence a model on all its seeds: base, the smallest size, and how many seeds are above the base
    at the largest.
    """
    sentences = []
    for model, group in table.groupby("model", sort=False):
        base = group[group.stage == "base"]
        sft = group[(group.stage == "sft") & (group.recipe == "protocol")].sort_values("examples")
        if base.empty or sft.empty:
            continue
        base, low, high = base.iloc[0], sft.iloc[0], sft.iloc[-1]
        span = lambda row: f"{short(row.accuracy)} [{short(row.lowest)}–{short(row.highest)}]"  # noqa: E731
        seeds = f"{base.seeds} seed{'s' if base.seeds > 1 else ''}"
        sentence = f"{model}, {seeds}: base {span(base)} → {span(low)} at n={low.examples:,}"
        if high.examples > low.examples:
            sentence += (
                f", {span(high)} at n={high.examples:,}, back above base in {high.above_base} of {high.seeds}"
            )
        sentences.append(sentence)
    return "; ".join(sentences) or "no model has both a base and an SFT cell yet"


def write(table: pandas.DataFrame, path: Path):
    """A table as CSV and, beside it, as parquet."""
    with records.whole(path) as temporary:
        table.to_csv(temporary, index=False)
    with records.whole(path.with_suffix(".parquet")) as temporary:
        table.to_parquet(temporary, index=False)


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--scores", required=True, type=Path, nargs="+")
    parser.add_argument("--curves", type=Path, nargs="*", default=[], help="learning curves of RL runs")
    parser.add_argument("--examples", nargs="*", default=[], help="size=count, the data axis")
    parser.add_argument(
        "--headline", nargs="+", required=True, help="tasks whose mean is the headline accuracy"
    )
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--tables", required=True, type=Path, help="folder of the tables")
    parser.add_argument("--finding", required=True, type=Path)
    args = parser.parse_args()

    examples = {name: int(count) for name, count in (pair.split("=") for pair in args.examples)}
    scores = {path: records.read_json(path) for path in args.scores}
    cells = pandas.DataFrame(
        [row for path, content in scores.items() for row in cell_rows(path, content, examples)]
    )
    cells = add_changes(cells, scores, args.headline, args.confidence)
    table = summary(cells, args.confidence)
    curves = pandas.concat(
        [
            pandas.read_parquet(path).assign(model=path.parts[-4], run=path.parts[-3], seed=path.parts[-2])
            for path in args.curves
        ]
        or [pandas.DataFrame(columns=["step", "reward", "model", "run", "seed"])]
    )
    tables = {"cells": cells, "summary": table, "rl_curves": curves, "crossings": crossings(scores)}
    for name, content in tables.items():
        write(content, args.tables / f"{name}.csv")
    sentence = finding(table[table.task == HEADLINE])
    with records.whole(args.finding) as temporary:
        temporary.write_text(sentence + "\n", encoding="utf-8")
    records.done(f"{len(tables)} tables of {len(args.scores)} cells", args.tables)


if __name__ == "__main__":
    main()
