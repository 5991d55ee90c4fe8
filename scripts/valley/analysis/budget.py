"""A study within a budget: which models, sizes, seeds, problem sets and RL answer a question for so many
GPU-hours.

Designs are cut out of a config's grid: the smallest models first, several choices of sizes, one to three
seeds, the headline's own or larger sets of problems, RL or none. What fits and cannot be extended within the
budget is held against the claims: a design's worth are the verdicts to be expected of it, were the paper
right.
"""

import itertools
from typing import NamedTuple

from valley import grid
from valley.analysis import claims, design
from valley.analysis.cells import Study
from valley.grid import Cell

SEEDS = (1, 2, 3)
CARD_MEMORY = 80.0  # GB of one card
STATE = 16  # bytes a parameter of weights, gradients and optimiser, spread over a model's cards
TRIED = 14  # designs whose odds are worked out


class Design(NamedTuple):
    """What a study would run; `large`: the larger sets of problems."""

    models: tuple[str, ...]
    sizes: tuple[str, ...]
    seeds: int
    rl: tuple[str, ...]  # models that RL continues, from the base, the smallest and the largest size
    large: bool

    def runs(self, model: str) -> list[str]:
        """The runs of a model."""
        sft = [f"sft-{size}" for size in self.sizes]
        starts = ["base", *dict.fromkeys([sft[0], sft[-1]])] if model in self.rl else []
        return ["base", *sft, *map(grid.continued, starts)]

    def holds(self, other: "Design") -> bool:
        """True where this design does everything that the other does."""
        return (
            set(self.models) >= set(other.models)
            and set(self.sizes) >= set(other.sizes)
            and self.seeds >= other.seeds
            and set(self.rl) >= set(other.rl)
            and self.large >= other.large
        )


def protocol_sizes(config: dict) -> list[str]:
    """The sizes that the grid trains by the protocol, smallest first."""
    runs = {cell.parsed.size for cell in grid.cells(config) if cell.parsed.is_protocol}
    return sorted(runs, key=lambda size: grid.examples_of(config, size))


def fitting_models(config: dict, gpus: int) -> list[str]:
    """Models of the grid whose training fits on so many cards, smallest first."""
    models = dict.fromkeys(cell.model for cell in grid.cells(config))
    known = {model: grid.billions(config, model) or 0.0 for model in models}
    return sorted((m for m in models if known[m] * STATE < CARD_MEMORY * gpus), key=lambda m: known[m])


def designs(config: dict, gpus: int, larger: bool) -> list[Design]:
    """All designs that are tried."""
    models, sizes = fitting_models(config, gpus), protocol_sizes(config)
    rl = [model for model in models if any(c.parsed.rl and c.model == model for c in grid.cells(config))]
    prefixes = [tuple(models[: i + 1]) for i in range(len(models))]
    chosen = {tuple(sizes[: i + 1]) for i in range(len(sizes))}
    chosen |= {(sizes[0], *some) for some in itertools.combinations(sizes[1:], 1)}
    chosen |= {(sizes[0], sizes[1], size) for size in sizes[2:]} | {(sizes[0], *sizes[-3:])}
    return [
        Design(some, tuple(sorted(several, key=sizes.index)), seeds, tuple(rl[:count]), large)
        for some in prefixes
        for several in chosen
        for seeds in SEEDS
        for count in range(len([model for model in rl if model in some]) + 1)
        for large in ((False, True) if larger else (False,))
    ]


def cells_in(config: dict, one: Design) -> list[Cell]:
    """Every cell of a design, a given base once, with the checkpoints along RL."""
    found: dict[Cell, None] = {}
    for model in one.models:
        for run in one.runs(model):
            once = run == "base" and not grid.is_pretrained_here(config, model)
            steps = config["rl"]["checkpoints"] if grid.parse_run(run).rl else []
            for name in [*(f"{run}@{step}" for step in steps), run]:
                found |= dict.fromkeys(Cell(model, name, seed) for seed in range(1 if once else one.seeds))
    return list(found)


def within(config: dict, options: list[Design], prices: dict, hours: float) -> list[tuple[Design, float]]:
    """The designs that fit and that none other that fits contains, dearest first; `prices` by `large`."""
    priced = ((one, prices[one.large].hours(cells_in(config, one))) for one in options)
    fit = [(one, price) for one, price in priced if price <= hours]
    fit.sort(key=lambda pair: -pair[1])
    return [
        pair for pair in fit if not any(other is not pair[0] and other.holds(pair[0]) for other, _ in fit)
    ][:TRIED]


def odds_of(
    cells: list[Cell], answers: list[dict], asked: dict, known: claims.Known, examples: dict[str, int]
) -> dict[str, float]:
    """By part, the odds that a design of these cells decides it, were the paper right."""
    forged = [Study({cell: one[cell] for cell in cells}, cells, examples) for one in answers]
    empty = Study({}, cells, examples)
    parts, _ = design.outlook(empty, forged, asked, known)
    everything = design.Purchase(frozenset(cells))
    odds = design.Odds(known.confidence)
    return {part.key: odds(part, everything) for part in parts}


def design_block(config: dict, one: Design, larger: dict[str, str], gpus: int, root: str) -> dict:
    """The design as a config file of its own."""
    by_runs: dict[tuple, list[str]] = {}
    for model in one.models:
        by_runs.setdefault(tuple(one.runs(model)), []).append(model)
    families: dict[str, str] = {}
    for model in one.models:
        families.setdefault(config["models"][model]["family"], model)
    made = {
        "root": root,
        "grid": {
            "cells": [
                {"models": models, "runs": list(runs), "seeds": list(range(one.seeds))}
                for runs, models in by_runs.items()
            ]
        },
        "traces": {"tokenizers": list(families.values())},
        "models": {m: {"gpus": gpus} for m in one.models if config["models"][m].get("gpus", 0) > gpus},
        "rl": {"gpus": min(gpus, config["rl"]["gpus"] or gpus)},
        "generate": {"one_start": True} if gpus == 1 else {},  # nothing runs side by side in any case
    }
    if one.large:
        names = lambda tasks: [larger.get(task, task) for task in tasks]  # noqa: E731
        made["grid"]["tasks"] = names(config["grid"]["tasks"])
        made["report"] = {"headline": names(config["report"]["headline"])}
        kept = config["traces"]["decontaminate"]
        made["traces"]["decontaminate"] = [*kept, *(name for name in larger.values() if name not in kept)]
    return {key: value for key, value in made.items() if value}


def design_in_words(one: Design) -> str:
    """A design as a reader wants it."""
    said = f"{len(one.models)} model{'s' * (len(one.models) > 1)} up to {one.models[-1]} at {', '.join(one.sizes)}, {one.seeds} seed{'s' * (one.seeds > 1)}"
    said += f", RL of {', '.join(one.rl)}" if one.rl else ", no RL"
    return said + (", larger sets of problems" if one.large else "")
