"""Differences between cells that no claim of the paper asks for: recovery points, and the data or the recipe?

    python scripts/contrasts.py --tables report/tables --grid S/base/0 S/sft-64/0 --examples 64=64 --headline chain --length chain

Reads `problems.parquet`. Writes `recovery.csv` (between which sizes a model gets back to its base) and
`recipes.csv`: every SFT run beside the base and, for a control, beside the paper's protocol at the same size;
for `short` the latter is, sign turned, the effect of long chains of thought. Intervals: valley/inference.py.
"""

import math

import pandas

from aggregate import write
from valley import flags, grid, inference, records
from valley.study import Study, estimates, load


def from_where(counts: list[int], good: list[bool]) -> float:
    """The first count from which on all are good; infinite where the last one is not."""
    return next((count for i, count in enumerate(counts) if all(good[i:])), math.inf)


def recovery(study: Study, confidence: float) -> pandas.DataFrame:
    """Between which sizes each model gets back to its base and stays, and an interval for that.

    The estimate lies in (`after`, `by`]. `earliest`: beyond the last size that is surely below the base;
    `latest`: the size from which on all are surely above it; infinite where no size of the grid is.
    """
    part = {"measure": "accuracy", "of": "each size", "minus": "base"}
    rows = []
    for model in study.models:
        found, missing = estimates(study, model, part, "headline")
        if not found or missing:
            continue
        counts = [study.examples[grid.parse_run(left).size] for left, _, _ in found]
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


def recipes(study: Study, confidence: float) -> pandas.DataFrame:
    """Accuracy of each SFT run minus the base's (`change`), and of a control minus the protocol at its size
    (`to_protocol`).

    A row over all seeds (`seed` is all), then one a seed, whose interval is over problems alone.
    """
    rows = []
    for model in study.models:
        for run in study.runs(model):
            parsed = grid.parse_run(run)
            if not parsed.size or parsed.rl:
                continue
            others = {"change": "base"} | ({"to_protocol": f"sft-{parsed.size}"} if parsed.recipe else {})
            found: dict = {}
            for name, other in others.items():
                seeds = study.seeds(model, [run, other])[0] if other in study.runs(model) else []
                for seed, chosen in (
                    {"all": seeds, **{seed: [seed] for seed in seeds}}.items() if seeds else ()
                ):
                    sides = [(study.cells[model, run, one], study.cells[model, other, one]) for one in chosen]
                    value = inference.estimate(
                        sides, "accuracy", "minus", study.tasks.headline, study.tasks.length, "headline"
                    )
                    low, high = value.interval(confidence)
                    cell = {
                        name: value.value,
                        f"{name}_low": low,
                        f"{name}_high": high,
                        f"{name}_seeds": len(chosen),
                    }
                    found[seed] = found.get(seed, {}) | cell
            named = {
                "model": model,
                "run": run,
                "recipe": parsed.recipe or "protocol",
                "examples": study.examples[parsed.size],
            }
            rows += [named | {"seed": str(seed)} | cell for seed, cell in found.items()]
    columns = [
        f"{name}{end}" for name in ("change", "to_protocol") for end in ("", "_low", "_high", "_seeds")
    ]
    return pandas.DataFrame(rows, columns=["model", "run", "recipe", "examples", "seed", *columns])


def main():
    parser = flags.parser(__doc__)
    flags.add_study(parser)
    args = parser.parse_args()
    study = load(args)
    tables = {"recovery": recovery(study, args.confidence), "recipes": recipes(study, args.confidence)}
    for name, table in tables.items():
        write(table, args.tables / f"{name}.csv")
    records.done("recovery points and recipes", args.tables)


if __name__ == "__main__":
    main()
