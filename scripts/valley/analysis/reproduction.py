"""What a report on a reproduction says of a study: its numbers beside the paper's, and in what it departs
from it.
"""

from pathlib import Path

import pandas

from valley import flags, grid
from valley.analysis.paper import is_same_model
from valley.grid import HEADLINE

SECTIONS = {"sft": flags.SFT, "rl": flags.RL, "generate": flags.SAMPLING}  # without what is operation
DATA = ("source", "name", "correct", "think", "max_tokens", "decontaminate", "order")  # of traces
GRADED = {
    "accuracy": "accuracy_paper",
    "length": "length",
}  # the paper's numbers are held by the paper's grader


def of_protocol(cells: pandas.DataFrame) -> pandas.DataFrame:
    """Bases and SFT cells of the study's protocol, the headline rows, by data size."""
    kept = cells.stage.isin(["base", "sft"]) & (cells.recipe == "protocol") & (cells.task == HEADLINE)
    return cells[kept].sort_values("examples", kind="stable")


def name_of(run, examples: float) -> str:
    """How a column of sizes is headed: the run's size, or the paper's where no run has it."""
    if not isinstance(run, str):
        return f"{examples / 1000:.0f}k"
    return grid.parse_run(run).size or "base"


def values_beside(cells: pandas.DataFrame, paper: pandas.DataFrame, measure: str) -> pandas.DataFrame:
    """Ours and the paper's `measure` (accuracy as a share, length in tokens), a row a model, side and size.

    Columns: model, side (`ours`, `paper`), size, examples, value, low, high, seeds. Ours is the mean over
    seeds; low and high are the lowest and highest seed, or the interval over problems where there is one
    seed.
    """
    rows = []
    for (model, run, examples), group in of_protocol(cells).groupby(["model", "run", "examples"], sort=False):
        values = group[GRADED[measure]]
        ends = (values.min(), values.max())
        if len(group) == 1:
            ends = tuple(group[f"{GRADED[measure]}_{end}"].item() for end in ("low", "high"))
        size = name_of(run, examples)
        rows.append((model, "ours", size, examples, values.mean(), *ends, len(group)))
    column = {"accuracy": "paper", "length": "paper_length"}[measure]
    for row in paper.dropna(subset=[column]).itertuples():
        size = name_of(row.run, row.examples) if row.examples else "base"
        rows.append((row.model, "paper", size, row.examples, getattr(row, column), None, None, 1))
    columns = ["model", "side", "size", "examples", "value", "low", "high", "seeds"]
    found = pandas.DataFrame(rows, columns=columns)
    return found.astype(dict.fromkeys(("value", "low", "high"), float))


def sizes_beside(config: dict, papers: dict) -> list[dict]:
    """The paper's table of training settings: epochs, global batch and steps of each size, theirs and
    ours.
    """
    used = {cell.parsed.size for cell in grid.cells(config) if cell.parsed.is_protocol}
    asked = {cell.parsed.size for cell in grid.cells(papers) if cell.parsed.is_protocol}
    rows = []
    examples = {size: grid.examples_of(papers if size in asked else config, size) for size in asked | used}
    for size in sorted(examples, key=examples.get):
        sides = {"paper": papers["sizes"].get(size) if size in asked else None}
        sides["ours"] = config["sizes"][size] if size in used else None
        rows.append({"size": size, **sides})
    return rows


def departures(config: dict, papers: dict) -> list[dict]:
    """In what a study's configuration differs from the paper's: rows of part, setting, paper, here.

    What says how a cell is run and not what it is (`operation` in flags.py) is no departure; controls, which
    add to the paper's grid, are none either.
    """
    ours, theirs = grid.cells(config), grid.cells(papers)
    rows = [
        row("grid", "models", *(sources_of(*pair) for pair in ((papers, theirs), (config, ours)))),
        row("grid", "sizes", *(sizes_of(cells) for cells in (theirs, ours))),
        row("grid", "RL starts", *(rl_starts(cells) for cells in (theirs, ours))),
        row("grid", "seeds", *(sorted({cell.seed for cell in cells}) for cells in (theirs, ours))),
    ]
    for size in sizes_beside(config, papers):
        if size["paper"] and size["ours"]:
            rows += differing(
                f"size {size['size']}", size["paper"], size["ours"], ("examples", "epochs", "batch")
            )
    for name, table in SECTIONS.items():
        keys = [key for key, flag in table.items() if not flag.operation]
        if name != "rl" or any(cell.parsed.rl for cell in ours):
            rows += differing(name, papers[name], config[name], keys)
    rows += differing("traces", papers["traces"], config["traces"], DATA)
    rows += differing("prompt", papers["prompt"], config["prompt"], ("system", "suffix", "answer"))
    rows += differing("report", papers["report"], config["report"], ("headline", "length", "calculations"))
    for task in config["grid"]["tasks"]:
        if task in papers["grid"]["tasks"]:
            keys = ("source", "where", "problems", "samples")
            rows += differing(f"task {task}", papers["tasks"][task], config["tasks"][task], keys)
    return [one for one in rows if one["paper"] != one["here"]]


def row(part: str, setting: str, paper, here) -> dict:
    """One setting of both sides."""
    return {"part": part, "setting": setting, "paper": paper, "here": here}


def differing(part: str, paper: dict, here: dict, keys) -> list[dict]:
    """Those of the settings whose values differ."""
    rows = [row(part, key, paper.get(key), here.get(key)) for key in keys]
    return [one for one in rows if one["paper"] != one["here"]]


def sources_of(config: dict, cells: list) -> list[str]:
    """The models of a grid, by where they come from."""
    names = dict.fromkeys(cell.model for cell in cells)
    own = {"pretrain"}  # a model without a name elsewhere
    found = (config["models"][name]["source"] for name in names)
    return sorted(f"{name} ({of})" if of in own else of for name, of in zip(names, found, strict=True))


def sizes_of(cells: list) -> list[str]:
    """The sizes that a grid trains by the protocol."""
    return list(dict.fromkeys(cell.parsed.size for cell in cells if cell.parsed.is_protocol))


def rl_starts(cells: list) -> list[str]:
    """What RL starts from in a grid."""
    return list(dict.fromkeys(cell.parsed.start for cell in cells if cell.parsed.rl))


def of_models(text: pandas.DataFrame, config: dict, models) -> pandas.DataFrame:
    """What the paper's text states (workflow/reference/paper_text.csv) of these models, by our names."""
    names = {model: Path(config["models"][model]["source"]).name for model in models}
    rows = [
        text[[is_same_model(name, theirs) for theirs in text.model]].assign(model=model)
        for model, name in names.items()
    ]
    return pandas.concat(rows)


def before_and_after(examples: pandas.DataFrame) -> list[dict]:
    """The first problem of the first model that shows base and smallest size: rows of run, pieces, answer,
    gold.
    """
    shown = examples[examples.shown == "beside"]
    for _, group in shown.groupby(["model", "task", "id"], sort=False):
        runs = [run for run in dict.fromkeys(group.run) if run != "base"]
        if runs and "base" in set(group.run):
            return group[group.run.isin(["base", runs[0]])].to_dict("records")
    return []


def settings_table(config: dict, papers: dict) -> pandas.DataFrame:
    """Epochs and global batch of both sides, a row a size; None where a side has no such size."""
    rows = []
    for one in sizes_beside(config, papers):
        row = {"size": one["size"]}
        for key in ("epochs", "batch"):
            row |= {f"{key}, {side}": (one[side] or {}).get(key) for side in ("paper", "ours")}
        rows.append(row)
    return pandas.DataFrame(rows, dtype=object)


def wide(found: pandas.DataFrame, measure: str) -> pandas.DataFrame:
    """The rows of `values_beside` as texts, a row a model and side, a column a size; models without a cell of
    ours are left out.
    """
    found = found[found.model.isin(found[found.side == "ours"].model)]
    order = found.sort_values("examples", kind="stable")["size"].unique()
    unit = 100 if measure == "accuracy" else 1

    def text(row) -> str:
        number = (lambda x: f"{x * unit:.1f}") if measure == "accuracy" else (lambda x: f"{x:,.0f}")
        spread = f" [{number(row.low)}, {number(row.high)}]" if pandas.notna(row.low) else ""
        return number(row.value) + spread

    texts = found.assign(text=[text(row) for row in found.itertuples()])
    table = texts.pivot(index=["model", "side"], columns="size", values="text")[order]
    models = list(dict.fromkeys(found.model))
    table = table.loc[[(m, side) for m in models for side in ("ours", "paper") if (m, side) in table.index]]
    return table.reset_index().rename_axis(columns=None)


def parts(claims: pandas.DataFrame) -> pandas.DataFrame:
    """The parts of the claims: claim, part, what is asked, verdict, numbers or why."""
    found = claims[claims.part.notna()]
    return found[["claim", "part", "text", "verdict", "why"]]


def setting_text(value) -> str:
    """A setting as text."""
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def by_verdict(rows: pandas.DataFrame) -> str:
    """`holds: loss, gain; fails: depth` of the parts that count."""
    counted = rows[rows.counts.astype(str) != "False"]
    return "; ".join(
        f"{verdict}: {', '.join(group.part)}" for verdict, group in counted.groupby("verdict", sort=False)
    )


def nearness(paper: pandas.DataFrame) -> dict:
    """How near our cells are to the paper's values: how many, how many within our interval over problems, how
    far.
    """
    both = paper.dropna(subset=["ours", "paper"])
    within = (both.ours_low <= both.paper) & (both.paper <= both.ours_high)
    return {
        "cells": len(both),
        "within": int(within.sum()),
        "difference": f"{both.difference.mean():+.3f}",
        "absolute": f"{both.difference.abs().mean():.3f}",
    }


def report(tables: dict, config: dict, papers: dict, provenance: dict, finding: str) -> dict:
    """What the page of the report says, by the names of its template
    (workflow/report/reproduction.tex.jinja).
    """
    claims, departed = tables["claims"], departures(config, papers)
    whole, of_parts = claims[claims.part.isna()], claims[claims.part.notna()]
    verdicts = whole.verdict.value_counts()
    tasks = {task: config["tasks"][task] for task in config["grid"]["tasks"]}
    by_part = pandas.Series([one["part"].split()[0] for one in departed], dtype=object).value_counts()
    used = dict.fromkeys(tables["cells"].model)
    hours = {name: value for name, value in provenance["gpu_hours"].items() if value}
    wall = tables["costs"][tables["costs"].rule == "all"].wall_seconds.sum() / 3600
    extra = of_parts[(of_parts.counts.astype(str) == "False") & (of_parts.verdict != "not applicable")]
    extra = extra.assign(why=extra.why.fillna("").str.split(";").str[0])
    troubles = [f"{name}: {'; '.join(found)}" for name, found in provenance["warnings"].items()]
    troubles += [f"{hours['lost']:.1f} GPU-hours lost to faults"] if "lost" in hours else []
    return {
        "finished": provenance["finished"][:10],
        "held": [f"{verdict} {count}" for verdict, count in verdicts.items()],
        "claims": [
            {"claim": row.claim, "text": row.text, "verdict": row.verdict,
             "parts": by_verdict(of_parts[of_parts.claim == row.claim])} for row in whole.itertuples()
        ],
        "models": sources_of(config, [cell for cell in grid.cells(config) if cell.model in used]),
        "traces": config["traces"]["source"],
        "tasks": [f"{name} (k = {task.get('samples', 1)})" for name, task in tasks.items()],
        "departures": len(departed),
        "by_part": [f"{part} {count}" for part, count in by_part.items()],
        "commits": [commit[:12] for commit in provenance["commits"]],
        "dirty": provenance["uncommitted_changes"],
        "versions": provenance["versions"],
        "seeds": provenance["seeds"],
        "cells": len(tables["cells"][["model", "run", "seed"]].drop_duplicates()),
        "hardware": provenance["hardware"],
        "hours": [f"{value:,.1f} GPU-hours of {name}" for name, value in hours.items()] + [f"{wall:,.2f} hours of jobs in all"],
        "finding": finding,
        "near": nearness(tables["paper"]),
        "beyond": extra[["claim", "part", "text", "verdict", "why"]].to_dict("records"),
        "troubles": troubles,
    }  # fmt: skip
