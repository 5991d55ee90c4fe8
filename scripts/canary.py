"""The canary of a study, as a config to add to its own: its cheapest training in twenty steps, ten responses.

    python scripts/canary.py --configfile mine.yaml --out studies/canary.yaml
    snakemake --profile profiles/gpu --configfile mine.yaml studies/canary.yaml

It goes before the grid, through the same rules and profile: the smallest model of the grid on its smallest
size, the first seed, the first task. All else is the study's own. `make canary` is both lines.
"""

import math
from pathlib import Path

from valley import contract, flags, grid, records
from valley.analysis import design

STEPS, PROBLEMS = 20, 10
PRETRAINING = 60  # steps of a base that is made here: it knows little after them, and is there


def cheapest(config: dict) -> grid.Cell:
    """The cell of the grid that trains the smallest model on the smallest size, by the protocol where it
    does; a base where nothing is trained.
    """

    def cost(cell: grid.Cell) -> tuple:
        billions = grid.billions(config, cell.model) or math.inf
        return billions, grid.examples_of(config, cell.parsed.size), cell.parsed.is_control

    cells = grid.cells(config)
    trained = [cell for cell in cells if cell.parsed.stage == "sft"]
    return min(trained or [cell for cell in cells if cell.parsed.stage == "base"], key=cost)


def short_recipe(config: dict, run: grid.Run) -> dict:
    """The recipe of a run in a few steps; a run of its own where it is a branch of a trunk."""
    recipe = config["sft"]["recipes"].get(run.recipe, {})
    kept = {key: value for key, value in recipe.items() if key not in ("epochs", "protocol", "cooldown")}
    return kept | {"steps": STEPS}


def few_problems(config: dict, task: str) -> dict:
    """What leaves a few problems of a task, each asked once."""
    entry, fewer = config["tasks"][task], {"samples": 1}
    if entry["source"] == "synthetic":
        return {"tasks": {task: fewer}, "synthetic": {"task": PROBLEMS}}
    key = "problems" if entry["source"] == "arithmetic" else "limit"
    return {"tasks": {task: fewer | {key: min(PROBLEMS, entry.get(key, PROBLEMS))}}}


def canary(config: dict) -> dict:
    """What makes a study its canary, merged into its config."""
    cell, task = cheapest(config), config["grid"]["tasks"][0]
    run = f"sft-{cell.parsed.size}.canary" if cell.parsed.size else cell.run
    asked = [{"models": [cell.model], "runs": [run], "seeds": [cell.seed]}]
    made = {
        "root": "studies/canary",
        "grid": {"tasks": [task], "cells": asked, "now": [str(cell.sibling(run))]},  # in place of the study's
        "traces": {
            "tokenizers": [cell.model],  # so that no other model is fetched
            "decontaminate": [name for name in config["traces"]["decontaminate"] if name == task],
        },
        "sft": {"save_every": STEPS // 2, "recipes": {"canary": short_recipe(config, cell.parsed)}},
        "generate": {"chunk": PROBLEMS},
        "report": {
            "headline": [task],
            "length": [task],
            "calculations": [name for name in config["report"]["calculations"] if name == task],
            "judge": None,
        },
    } | few_problems(config, task)
    if grid.is_pretrained_here(config, cell.model):
        steps = min(PRETRAINING, config["models"][cell.model]["pretrain"]["steps"])
        made["models"] = {cell.model: {"pretrain": {"steps": steps}}}
    return made


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="as for snakemake")
    parser.add_argument("--out", type=Path, default=Path("studies/canary.yaml"))
    args = parser.parse_args()

    made = canary(contract.study(args.configfile, sources=False))
    with records.whole(args.out) as temporary:
        temporary.write_text(
            f"# The canary of {' '.join(map(str, args.configfile)) or 'config.yaml'}, to be given after it.\n\n"
            + design.dumped(made),
            encoding="utf-8",
        )
    records.done(f"the canary {made['grid']['now'][0]}", args.out)


if __name__ == "__main__":
    main()
