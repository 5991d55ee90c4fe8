"""The scores of cells as tables: a row a cell and task, a row a run over its seeds, the finding in a
sentence.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy
import pandas

from valley import grid, records
from valley.analysis import intervals
from valley.analysis.cells import KEYS, Study
from valley.analysis.estimates import changes
from valley.analysis.measures import ACCURACIES
from valley.grid import HEADLINE, Cell

PAIRS = 5  # fewer replicates give no idea of their spread


def cell_rows(cell: Cell, scores: dict, examples: dict[str, int]) -> list[dict]:
    """Rows of one cell: one a task, and one for the headline mean."""
    run = cell.parsed
    named = cell._asdict() | {
        "stage": run.stage,
        "start": run.start,
        "recipe": run.recipe or "protocol",
        "step": run.step,
        "examples": examples[run.size] if run.size else 0,
    }
    rows = []
    for task, values in {HEADLINE: scores, **scores["tasks"]}.items():
        flat = {key: value for key, value in values.items() if not isinstance(value, dict)}
        shares = {f"share {name}": share for name, share in values["outcomes"].items()}
        rows.append(named | {"task": task} | flat | shares)
    return rows


def add_changes(
    table: pandas.DataFrame, study: Study, headline: list[str], confidence: float
) -> pandas.DataFrame:
    """The rows of cells with `change`, `change_low`, `change_high`: minus the base of their model and
    seed.
    """
    rows = []
    for cell, mine in study.cells.items():
        if cell.run != "base" and (base := study.base_of(cell)):
            for task, ends in changes(mine, study.cells[base], headline, confidence).items():
                named = zip(("change", "change_low", "change_high"), ends, strict=True)
                rows.append(cell._asdict() | {"task": task} | dict(named))
    keys = [*KEYS, "task"]
    found = pandas.DataFrame(rows, columns=[*keys, "change", "change_low", "change_high"])
    return table.merge(found, on=keys, how="left")


def add_tokens(table: pandas.DataFrame, records_of: dict[Cell, Path]) -> pandas.DataFrame:
    """The rows of cells with `tokens_trained`: what SFT saw, over all epochs; nothing where no record says
    it.
    """
    read = {cell: records.read_json(path) for cell, path in records_of.items() if path.exists()}
    tokens = {tuple(cell): record.get("tokens_trained") for cell, record in read.items()}
    cells = table[KEYS].itertuples(index=False, name=None)
    return table.assign(tokens_trained=[tokens.get(cell) for cell in cells])


def crossings(scores: dict[Cell, dict]) -> pandas.DataFrame:
    """Keywords × judge, where a judge has labelled: shares of the responses, a row a cell and task."""
    rows = []
    for cell, content in scores.items():
        for task, values in content["tasks"].items():
            shares = {
                f"{found}, {kind}": share
                for found, kinds in values["crossing"].items()
                for kind, share in kinds.items()
            }
            rows += [cell._asdict() | {"task": task} | shares] if shares else []
    return pandas.DataFrame(rows, columns=None if rows else [*KEYS, "task"])


def end_points(cells: pandas.DataFrame) -> pandas.DataFrame:
    """Cells with each RL run's checkpoints replaced by one row, the mean of the last three (it is the
    last).
    """
    numeric = [c for c in cells.select_dtypes("number").columns if c not in ("seed", "step", "examples")]
    kept = [cells[cells.stage != "rl"]]
    rl = cells[cells.stage == "rl"].assign(whole=lambda t: [grid.parse_run(run).whole for run in t.run])
    for _, group in rl.groupby(["model", "whole", "seed", "task"], sort=False):
        # NaN as step is the run itself: its last step.
        last = group.sort_values("step", na_position="last").tail(grid.RL_END)
        row = group[group.step.isna()].tail(1).drop(columns="whole")
        row = last.tail(1).drop(columns="whole") if row.empty else row
        kept.append(row.assign(**{name: last[name].mean() for name in numeric}))
    return pandas.concat(kept, ignore_index=True)


def summary(
    cells: pandas.DataFrame, confidence: float, trained_bases: Iterable[str] = ()
) -> pandas.DataFrame:
    """One row a model, run and task: mean over seeds, extremes, t interval, beside the same seeds' base."""
    rows = []
    ends = end_points(cells)
    base = ends[ends.stage == "base"].set_index(["model", "seed", "task"]).accuracy
    only = base.groupby(level=["model", "task"]).agg(lambda found: found.iat[0] if len(found) == 1 else None)
    for (model, run, task), group in ends.groupby(["model", "run", "task"], sort=False):
        accuracy = group.accuracy.tolist()
        interval = intervals.over_seeds(accuracy, confidence) or (None, None)
        # A given base that was evaluated once stands beside all seeds (cells.base_among).
        once = None if model in trained_bases else only.get((model, task))
        bases = [base.get((model, seed, task), once) for seed in group.seed]
        pairs = [(a, b) for a, b in zip(accuracy, bases, strict=True) if pandas.notna(b)]
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
                "with_base": len(pairs),
                "below_base": sum(a < b for a, b in pairs) if pairs else None,
                "above_base": sum(a > b for a, b in pairs) if pairs else None,
                **group[list(ACCURACIES)].mean(),
                "length": group.length.mean(),
                "boxed": group.boxed.mean(),
                "reflection": group.reflection.mean(),
                "truncated": (group["share truncated"] + group["share looping"]).mean(),
            }
        )
    return pandas.DataFrame(rows).astype({"below_base": "Int64", "above_base": "Int64"})


def short(value: float) -> str:
    """An accuracy as `.05`, `1.0`."""
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else "1.0"


def finding(table: pandas.DataFrame) -> str:
    """One sentence a model: base, the smallest size, and how many seeds are above the base at the largest."""
    sentences = []
    for model, group in table.groupby("model", sort=False):
        base = group[group.stage == "base"]
        sft = group[(group.stage == "sft") & (group.recipe == "protocol")].sort_values("examples")
        if base.empty or sft.empty:
            continue
        base, low, high = base.iloc[0], sft.iloc[0], sft.iloc[-1]

        def span(row) -> str:  # the lowest and highest of one are no spread
            return short(row.accuracy) + (
                f" [{short(row.lowest)}–{short(row.highest)}]" if row.seeds > 1 else ""
            )

        count = max(low.seeds, high.seeds)
        seeds = f"{count} seed{'s' if count > 1 else ''}"
        sentence = f"{model}, {seeds}: base {span(base)} → {span(low)} at n={low.examples:,}"
        if high.examples > low.examples:
            sentence += f", {span(high)} at n={high.examples:,}{back_of(high)}"
        sentences.append(sentence)
    return "; ".join(sentences) or "no model has both a base and an SFT cell yet"


def back_of(row) -> str:
    """In how many seeds of a run a model is back above its base, of those that have one beside them; nothing
    where none has.
    """
    if not row.with_base:
        return ""
    if row.seeds == 1:
        at = "not back above base" if row.below_base else "back at base"
        return f", {'back above base' if row.above_base else at}"
    of = f"{row.with_base}" + (" with a base" if row.with_base < row.seeds else "")
    level = row.with_base - row.below_base - row.above_base
    return f", back above base in {row.above_base} of {of}" + (f", at it in {level}" if level else "")


def replicates(
    cells: pandas.DataFrame, confidence: float, trained_bases: Iterable[str] = ()
) -> pandas.DataFrame:
    """How far two trainings of a cell differ: a row a model and measure with PAIRS pairs of seeds or more.

    `sd` of one run, pooled over the protocol's runs with several seeds, to which control recipes, of SFT or
    RL, add nothing as in the verdicts, nor does a given base, which was sampled several times and never
    trained; `band`: what the difference of two such runs stays within.
    """
    from scipy import stats

    found = []
    trained = (cells.stage != "base") | cells.model.isin([*trained_bases])
    controls = [grid.parse_run(run).is_control for run in cells.run]
    table = cells[(cells.task == HEADLINE) & cells.step.isna() & trained & ~numpy.array(controls, bool)]
    for model, group in table.groupby("model", sort=False):
        runs = [run for _, run in group.groupby("run") if len(run) > 1]
        pairs = sum(len(run) * (len(run) - 1) // 2 for run in runs)
        if pairs < PAIRS:
            continue
        freedom = sum(len(run) - 1 for run in runs)
        for measure in ("accuracy", "length"):
            sd = (sum((len(run) - 1) * run[measure].var() for run in runs) / freedom) ** 0.5
            band = stats.t.ppf(0.5 + confidence / 2, freedom) * 2**0.5 * sd
            found.append({"model": model, "measure": measure, "pairs": pairs, "sd": sd, "band": band})
    return pandas.DataFrame(found, columns=["model", "measure", "pairs", "sd", "band"])


def subsets(cards: list[Path]) -> pandas.DataFrame:
    """What the training sets hold, a row a subset: its card, flat."""
    rows = []
    for path in cards:
        card = records.read_json(path)
        rows.append(
            {
                "size": path.parent.name,
                "order": path.stem,
                "examples": card["examples"],
                "tokens": card["tokens"]["mean"],
                "leaks_removed": card["leaks_removed"],
                "leak_share": card["leaks_removed"] / card["examples"],
                "reflective": card["reflective"],
                **{f"pool: {why}": count for why, count in card["dropped"].items()},
            }
        )
    return pandas.DataFrame(rows, columns=None if rows else ["size"]).sort_values(
        "examples" if rows else "size"
    )


def latex(table: pandas.DataFrame) -> str:
    """Accuracy in percent by model and run as a LaTeX table (booktabs), lowest and highest seed in brackets.

    With one seed the brackets hold the interval over problems.
    """
    rows = table[(table.task == HEADLINE) & table.stage.isin(["base", "sft"])]
    text = []
    for row in rows.itertuples():
        low, high = (row.lowest, row.highest) if row.seeds > 1 else (row.problems_low, row.problems_high)
        text.append(f"{100 * row.accuracy:.1f} {{\\scriptsize [{100 * low:.1f}, {100 * high:.1f}]}}")
    order = rows.sort_values("examples", kind="stable").run.unique()
    wide = rows.assign(text=text).pivot(index="model", columns="run", values="text")[order].fillna("--")
    return wide.rename_axis(index=None, columns=None).to_latex(column_format="l" + "r" * len(order))


def curves(paths: dict[Cell, Path]) -> pandas.DataFrame:
    """The learning curves of RL runs, one below the other."""
    tables = [pandas.read_parquet(path).assign(**cell._asdict()) for cell, path in paths.items()]
    return pandas.concat(tables or [pandas.DataFrame(columns=["step", "reward", *KEYS])])
