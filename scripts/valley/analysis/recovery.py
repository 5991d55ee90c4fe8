"""What no claim of the paper asks for: where a model is back at its base, and whether it is the data or the
recipe.

A curve that dips at one size by chance has not gone back: isotonic regression of the changes against the base
(weighted by their variances) uses all sizes, and where it crosses zero, in the logarithm of the size, the
model recovers.
"""

import math

import numpy
import pandas

from valley import grid
from valley.analysis.cells import Study
from valley.analysis.estimates import estimate
from valley.analysis.measures import Tasks


def crossing(sizes: list[int], changes: list[float], weights: list[float]) -> tuple[float, float, float]:
    """(the last size before, the first size after, the crossing in between) of zero by the monotone curve.

    A change of zero is back at the base. 0 stands for before the first size, infinity for not within the
    sizes.
    """
    from scipy import optimize

    level = optimize.isotonic_regression(changes, weights=weights).x
    back = [i for i, value in enumerate(level) if value >= 0]
    if not back:
        return float(sizes[-1]), math.inf, math.inf
    first = back[0]
    if not first:
        return 0.0, float(sizes[0]), 0.0
    logs = numpy.log(sizes[first - 1 : first + 1])
    at = float(numpy.exp(numpy.interp(0, level[first - 1 : first + 1], logs)))
    return float(sizes[first - 1]), float(sizes[first]), at


def recovery(study: Study, tasks: Tasks, confidence: float) -> pandas.DataFrame:
    """Between which sizes each model gets back to its base and stays, where about, and an interval for that.

    The estimate `at` lies in (`after`, `by`]. `earliest` and `latest`: the sizes between which the curves of
    upper and of lower ends cross, training noise counted; infinite where one does not within the grid.
    """
    rows = []
    for model in study.models:
        runs = study.sizes(model) if "base" in study.runs(model) else []
        found = [
            estimate(study, model, {run: 1.0}, {"base": 1.0}, "accuracy", "minus", tasks) for run in runs
        ]
        changes = [row.estimate for row, missing in found if row.estimate and not missing]
        if not changes or len(changes) < len(runs):
            continue
        sizes, errors = [study.count(run) for run in runs], [change.error()[0] for change in changes]
        weights = [1 / error**2 if all(map(math.isfinite, errors)) else 1.0 for error in errors]
        low, high = zip(*(change.ends(confidence) for change in changes), strict=True)
        after, by, at = crossing(sizes, [change.value for change in changes], weights)
        bounds = {"earliest": crossing(sizes, high, weights)[0], "latest": crossing(sizes, low, weights)[1]}
        rows.append({"model": model, "after": after, "by": by, "at": at, **bounds})
    return pandas.DataFrame(rows, columns=["model", "after", "by", "at", "earliest", "latest"])


def recipes(study: Study, tasks: Tasks, confidence: float) -> pandas.DataFrame:
    """Accuracy of each SFT run minus the base's (`change`), and of a control minus the protocol's
    (`to_protocol`).

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
                if other not in study.runs(model):
                    continue
                sides = ({run: 1.0}, {other: 1.0}, "accuracy", "minus", tasks)
                seeds = study.seeds(model, [run, other])[0][run]
                for seed in [None, *seeds]:
                    change = estimate(study, model, *sides, only=seed)[0].estimate
                    if change:
                        low, high = change.ends(confidence, training=seed is None)
                        said = {name: change.value, f"{name}_low": low, f"{name}_high": high}
                        said[f"{name}_seeds"] = len(seeds) if seed is None else 1
                        key = "all" if seed is None else str(seed)
                        found[key] = found.get(key, {}) | said
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
