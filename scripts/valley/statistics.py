"""Estimates with their intervals. What each interval is over is said in its name: problems, or seeds."""

import numpy


def mean_by_problem(values: dict[str, list[float]]) -> numpy.ndarray:
    """Mean over the samples of each problem, in the problems' order; shape (problems,)."""
    return numpy.array([numpy.mean(samples) for samples in values.values()])


def interval_over_problems(per_problem: numpy.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean over problems, samples of a problem kept together (clustered standard error).

    The mean of independent cluster means has variance s²/n (Miller 2024, "Adding error bars to evals", section 2.2);
    t quantile with n − 1 degrees of freedom, cut to [0, 1]. For one sample a problem with accuracy at 0 or 1, and
    everywhere the spread vanishes, Wilson's interval stands in: a zero spread is no certainty.
    """
    from scipy import stats

    n, mean = len(per_problem), float(numpy.mean(per_problem))
    spread = float(numpy.std(per_problem, ddof=1)) if n > 1 else 0.0
    if spread == 0.0:
        low, high = stats.binomtest(round(mean * n), n).proportion_ci(confidence, method="wilson")
        return float(low), float(high)
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * spread / n**0.5
    return max(0.0, mean - half), min(1.0, mean + half)


def interval_over_seeds(values: list[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """t interval of the mean over training seeds; None for fewer than two."""
    from scipy import stats

    if len(values) < 2:
        return None
    low, high = stats.t.interval(confidence, len(values) - 1, loc=numpy.mean(values), scale=stats.sem(values))
    return float(low), float(high)
