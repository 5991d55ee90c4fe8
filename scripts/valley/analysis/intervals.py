"""Estimates with their intervals. What an interval is over is said in its name: samples, problems, or seeds.

Accuracies are kept as solved counts: an array of c_i correct responses out of k for every problem of a
benchmark.
"""

import functools

import numpy

RESAMPLES = 4000  # bootstrap draws; the ends of an interval move by some 3 % of its length with their seed
FEW = 0.05  # accuracy below which (or above one minus which) the bootstrap covers badly on 30 problems


def pass_at(solved: numpy.ndarray, samples: int, k: int) -> float:
    """Unbiased pass@k, mean over problems of 1 − C(n−c, k) / C(n, k) (Chen et al. 2021, eq. 1); k ≤ n."""
    from scipy.special import comb

    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs between 1 and {samples} samples")
    return float(numpy.mean(1 - comb(samples - numpy.asarray(solved), k, exact=False) / comb(samples, k)))


def over_samples(solved: numpy.ndarray, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of avg@k for these very problems, were they sampled anew.

    Normal, with the posterior variance of each problem's rate under Jeffreys' prior (Beta(c + ½, k − c + ½)):
    the plain variance is zero wherever all k samples agree, and a zero spread of few samples is no certainty.
    """
    from scipy import stats

    solved = numpy.asarray(solved)
    variance = stats.beta.var(solved + 0.5, samples - solved + 0.5).sum() / len(solved) ** 2
    mean, half = solved.mean() / samples, stats.norm.ppf(0.5 + confidence / 2) * variance**0.5
    return max(0.0, float(mean - half)), min(1.0, float(mean + half))


def over_problems(
    benchmarks: list[tuple[numpy.ndarray, int]], confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean accuracy of benchmarks, (solved counts, k) each, were other problems drawn.

    Bootstrap of the problems within each benchmark, then the mean of the benchmarks. A benchmark whose
    accuracy is below FEW or above 1 − FEW, where the bootstrap covers badly, or with a single problem, enters
    with an exact binomial interval instead.
    """
    rates = [numpy.asarray(solved) / samples for solved, samples in benchmarks]
    extreme = [len(rate) < 2 or not FEW <= rate.mean() <= 1 - FEW for rate in rates]
    if not any(extreme):
        return resampled(rates, confidence)
    ends = [
        exact(solved, samples, confidence) if few else resampled([rate], confidence)
        for few, rate, (solved, samples) in zip(extreme, rates, benchmarks, strict=True)
    ]
    low, high = join([float(rate.mean()) for rate in rates], ends)
    return max(0.0, low), min(1.0, high)


@functools.cache
def weights(problems: int, place: int = 0) -> numpy.ndarray:
    """RESAMPLES × problems: each problem's share in each draw; `place` is the seed, one a benchmark."""
    rng = numpy.random.default_rng(place)
    return rng.multinomial(problems, numpy.full(problems, 1 / problems), size=RESAMPLES) / problems


def resampled(benchmarks: list[numpy.ndarray], confidence: float) -> tuple[float, float]:
    """Percentile bootstrap of the mean of benchmark means, each benchmark's values drawn anew (Efron 1979)."""
    means = [weights(len(values), place) @ values for place, values in enumerate(benchmarks)]
    low, high = numpy.quantile(numpy.mean(means, axis=0), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def exact(solved: numpy.ndarray, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Conservative interval of a small avg@k from the number of problems ever solved (Clopper–Pearson).

    A problem that is ever solved contributes between 1/k and 1: with [l, u] for the share of such problems,
    avg@k lies in [l / k, u]. Near 1 the same holds for problems ever failed.
    """
    from scipy import stats

    solved = numpy.asarray(solved)
    if solved.mean() > samples / 2:
        low, high = exact(samples - solved, samples, confidence)
        return 1 - high, 1 - low
    interval = stats.binomtest(int((solved > 0).sum()), len(solved)).proportion_ci(confidence, method="exact")
    return float(interval.low) / samples, float(interval.high)


def join(means: list[float], ends: list[tuple[float, float]]) -> tuple[float, float]:
    """Interval of the mean of independent estimates from the interval of each (MOVER, Zou & Donner 2008).

    The distances from the estimate to its lower ends are squared and added, and so are those to its upper
    ends.
    """
    mean, (lows, highs) = numpy.mean(means), zip(*ends, strict=True)
    down = numpy.linalg.norm(numpy.subtract(means, lows)) / len(means)
    up = numpy.linalg.norm(numpy.subtract(highs, means)) / len(means)
    return float(mean - down), float(mean + up)


def totals(values: numpy.ndarray, problem: numpy.ndarray) -> numpy.ndarray:
    """Sums of rows by problem."""
    labels, index = numpy.unique(problem, return_inverse=True)
    sums = numpy.zeros((len(labels), *values.shape[1:]))
    numpy.add.at(sums, index, values)
    return sums


def ratio(
    top: numpy.ndarray, bottom: numpy.ndarray, problem: numpy.ndarray, confidence: float = 0.95
) -> tuple:
    """(estimate, low, high) of sum(top) / sum(bottom), two values a response; Nones over nothing.

    A mean (bottom all 1), a mean over some responses (bottom 0 or 1), a rate per calculation. Normal
    interval, linearised, over problems as clusters: samples of one problem are no independent responses
    (Liang & Zeger 1986).
    """
    from scipy import stats

    total = bottom.sum()
    if not total:
        return None, None, None
    estimate = top.sum() / total
    error = numpy.sqrt((totals(top - estimate * bottom, problem) ** 2).sum()) / total
    reach = stats.norm.ppf(0.5 + confidence / 2) * error
    return float(estimate), float(estimate - reach), float(estimate + reach)


def over_seeds(values: list[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """t interval of the mean over training seeds; None for fewer than two."""
    from scipy import stats

    if len(values) < 2:
        return None
    low, high = stats.t.interval(confidence, len(values) - 1, loc=numpy.mean(values), scale=stats.sem(values))
    return float(low), float(high)
