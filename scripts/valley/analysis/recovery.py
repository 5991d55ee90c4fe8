"""What no claim of the paper asks for: between which sizes a model is back at its base; the data or the recipe?"""

import math

import pandas

from valley import grid
from valley.analysis.cells import Study
from valley.analysis.estimates import compared, estimate
from valley.analysis.measures import Tasks
from valley.grid import Cell


def from_where(counts: list[int], good: list[bool]) -> float:
    """The first count from which on all are good; infinite where the last one is not."""
    return next((count for i, count in enumerate(counts) if all(good[i:])), math.inf)


def recovery(study: Study, tasks: Tasks, confidence: float) -> pandas.DataFrame:
    """Between which sizes each model gets back to its base and stays, and an interval for that.

    The estimate lies in (`after`, `by`]. `earliest`: beyond the last size that is surely below the base;
    `latest`: the size from which on all are surely above it; infinite where no size of the grid is.
    """
    part = {"measure": "accuracy", "of": "each size", "minus": "base"}
    rows = []
    for model in study.models:
        found, missing = compared(study, model, part, tasks)
        if not found or missing:
            continue
        counts = [study.count(left) for left, _, _ in found]
        ends = [e.interval(confidence) for _, _, e in found]
        by = from_where(counts, [e.value > 0 for _, _, e in found])
        rows.append(
            {
                "model": model,
                "after": max([n for n in counts if n < by], default=0),
                "by": by,
                "earliest": max(
                    [n for n, (_, high) in zip(counts, ends, strict=True) if high < 0], default=0
                ),
                "latest": from_where(counts, [low > 0 for low, _ in ends]),
            }
        )
    return pandas.DataFrame(rows, columns=["model", "after", "by", "earliest", "latest"])


def recipes(study: Study, tasks: Tasks, confidence: float) -> pandas.DataFrame:
    """Accuracy of each SFT run minus the base's (`change`), and of a control minus the protocol's (`to_protocol`).

    A row over all seeds (`seed` is all), then one a seed, whose interval is over problems alone.
    """
    rows = []
    for model in study.models:
        protocol = {study.count(run): run for run in study.sizes(model)}
        for run in study.runs(model):
            parsed = grid.parse_run(run)
            if parsed.stage != "sft":
                continue
            others = {
                "change": "base",
                "to_protocol": protocol.get(study.count(run)) if parsed.recipe else None,
            }
            found: dict = {}
            for name, other in others.items():
                seeds = study.seeds(model, [run, other])[0] if other in study.runs(model) else []
                groups = {"all": seeds, **{str(seed): [seed] for seed in seeds}} if seeds else {}
                for seed, chosen in groups.items():
                    sides = [
                        tuple(study.cells[Cell(model, one, at)] for one in (run, other)) for at in chosen
                    ]
                    change = estimate(sides, "accuracy", "minus", tasks)
                    low, high = change.interval(confidence)
                    said = {name: change.value, f"{name}_low": low, f"{name}_high": high}
                    found[seed] = found.get(seed, {}) | said | {f"{name}_seeds": len(chosen)}
            named = {
                "model": model,
                "run": run,
                "recipe": parsed.recipe or "protocol",
                "examples": study.count(run),
            }
            rows += [named | {"seed": seed} | said for seed, said in found.items()]
    columns = [
        f"{name}{end}" for name in ("change", "to_protocol") for end in ("", "_low", "_high", "_seeds")
    ]
    return pandas.DataFrame(rows, columns=["model", "run", "recipe", "examples", "seed", *columns])
