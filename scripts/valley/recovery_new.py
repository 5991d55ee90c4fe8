"""Where a model is back at its base: the whole curve of changes against data size, made monotone.

A curve that dips at one size by chance has not gone back: isotonic regression (pooled adjacent violators, weighted by
the variance of each change) uses all sizes, and its crossing of zero, interpolated in the logarithm of the size, is
where the model recovers.
"""

import math

import numpy
import pandas

from valley.quantities import Study

COLUMNS = ["model", "after", "by", "at", "earliest", "latest"]


def crossing(sizes: list[int], changes: list[float], weights: list[float]) -> tuple[float, float, float]:
    """(the last size before, the first size after, the crossing in between) of zero by the monotone curve.

    0 stands for before the first size, infinity for not within the sizes.
    """
    from scipy import optimize

    level = optimize.isotonic_regression(changes, weights=weights).x
    above = [i for i, value in enumerate(level) if value > 0]
    if not above:
        return float(sizes[-1]), math.inf, math.inf
    first = above[0]
    if not first:
        return 0.0, float(sizes[0]), 0.0
    logs = numpy.log(sizes[first - 1 : first + 1])
    at = float(numpy.exp(numpy.interp(0, level[first - 1 : first + 1], logs)))
    return float(sizes[first - 1]), float(sizes[first]), at


def recovery(study: Study, confidence: float) -> pandas.DataFrame:
    """Between which sizes each model gets back to its base and stays, where about, and an interval for that.

    `earliest` and `latest`: the crossings of the curves of upper and lower ends, training noise counted; infinite
    where they do not cross within the grid.
    """
    part, rows = {"measure": "accuracy", "minus": "base"}, []
    for model in study.models:
        runs = study.sizes(model)
        found = [study.estimate(model, {run: 1.0}, {"base": 1.0}, part, "headline") for run in runs if "base" in study.runs(model)]
        if not found or any(missing for _, missing, _ in found):
            continue
        sizes = [study._size(run) for run in runs]
        estimates = [estimate for estimate, _, _ in found]
        weights = [1 / max(estimate.error()[0] ** 2, 1e-12) for estimate in estimates]
        after, by, at = crossing(sizes, [estimate.value for estimate in estimates], weights)
        low, high = zip(*(estimate.ends(confidence) for estimate in estimates), strict=True)
        rows.append(
            {
                "model": model,
                "after": after,
                "by": by,
                "at": at,
                "earliest": crossing(sizes, list(high), weights)[0],
                "latest": crossing(sizes, list(low), weights)[1],
            }
        )
    return pandas.DataFrame(rows, columns=COLUMNS)
