"""Intervals and one-sided tests: over samples, problems and trainings, and over several models at once.

What an interval is over is said in its name. A mean over problems has Student's t interval on its values by
problem, a change on the differences of two cells; the noise of a training, of which one training knows
nothing, comes from all cells of a study and a prior. Accuracies are kept as solved counts, an array of c_i
correct responses out of k for every problem of a benchmark, or as rates c_i / k. Methods, assumptions and
sources: docs/statistics.md.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy

FEW = 0.05  # accuracy below which (or above one minus which) a t interval covers badly on 30 problems
# Prior degrees of freedom: how much the variances of benchmarks, and of runs, borrow from others.
SHARED = 2
PRIOR_FREEDOM = 10  # what the prior of the training noise weighs, in degrees of freedom


def pass_at(solved: numpy.ndarray, samples: int, k: int) -> float:
    """Unbiased pass@k, mean over problems of 1 − C(n−c, k) / C(n, k) (Chen et al. 2021, eq. 1); k ≤ n."""
    from scipy.special import comb

    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs between 1 and {samples} samples")
    return float(numpy.mean(1 - comb(samples - numpy.asarray(solved), k, exact=False) / comb(samples, k)))


def samples_variance(benchmarks: list[tuple[numpy.ndarray, int]]) -> float:
    """Variance of the mean accuracy of benchmarks, (solved counts, k) each, were these very problems sampled
    anew.

    The posterior variance of each problem's rate under Jeffreys' prior (Beta(c + ½, k − c + ½)): the plain
    variance is zero wherever all k samples agree, and a zero spread of few samples is no certainty.
    """
    from scipy import stats

    parts = [stats.beta.var(c + 0.5, k - c + 0.5).sum() / len(c) ** 2 for c, k in benchmarks]
    return float(sum(parts)) / len(parts) ** 2


def over_samples(solved: numpy.ndarray, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Normal interval of avg@k for these very problems, were they sampled anew."""
    solved = numpy.asarray(solved)
    whole = Interval(
        float(solved.mean()) / samples,
        ((samples_variance([(solved, samples)]), math.inf),),
        least=0.0,
        most=1.0,
    )
    return whole.ends(confidence)


def over_problems(
    benchmarks: list[tuple[numpy.ndarray, int]], confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean accuracy of benchmarks, (solved counts, k) each, were other problems drawn.

    Student's t, benchmark by benchmark as for a change. One whose accuracy is below FEW or above 1 − FEW,
    where that covers badly, or with a single problem, enters with an exact binomial interval instead.
    """
    rates = [numpy.asarray(solved) / samples for solved, samples in benchmarks]
    extreme = [len(rate) < 2 or not FEW <= rate.mean() <= 1 - FEW for rate in rates]
    if not any(extreme):
        return mean(rates, 0.0, 1.0).ends(confidence)
    ends = [
        exact(solved, samples, confidence) if few else mean([rate], 0.0, 1.0).ends(confidence)
        for few, rate, (solved, samples) in zip(extreme, rates, benchmarks, strict=True)
    ]
    low, high = join([float(rate.mean()) for rate in rates], ends)
    return max(0.0, low), min(1.0, high)


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
    reach = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * stats.sem(values)
    low, high = numpy.mean(values) - reach, numpy.mean(values) + reach
    return float(low), float(high)


def summed(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The sum of independent (variance, degrees of freedom) and the sum's own (Satterthwaite 1946)."""
    variance = sum(part for part, _ in parts)
    spread = sum(part * part / freedom for part, freedom in parts)
    return variance, variance * variance / spread if spread else math.inf


class Interval(NamedTuple):
    """A quantity with its variances and their degrees of freedom: over problems, a pair a benchmark, and over
    trainings.
    """

    value: float
    problems: tuple[tuple[float, float], ...]
    training: tuple[float, float] = (0.0, math.inf)
    least: float = -math.inf  # what the quantity cannot leave
    most: float = math.inf

    def error(self, training: bool = True) -> tuple[float, float]:
        """(standard error, degrees of freedom) of the sum of all variances."""
        variance, freedom = summed([*self.problems, self.training] if training else self.problems)
        return math.sqrt(variance), freedom

    def ends(self, confidence: float, training: bool = True) -> tuple[float, float]:
        """Low and high end of the two-sided t interval."""
        from scipy import special

        error, freedom = self.error(training)
        reach = float(special.stdtrit(min(freedom, 1e9), 0.5 + confidence / 2)) * error
        return max(self.least, self.value - reach), min(self.most, self.value + reach)

    def below(self, threshold: float, training: bool = True) -> float:
        """One-sided p-value in favour of "it is below the threshold": small where it surely is."""
        from scipy import special

        error, freedom = self.error(training)
        distance = self.value - threshold
        if math.isnan(distance) or math.isnan(error):
            return 1.0
        if not error:
            return float(distance >= 0)
        return float(special.stdtr(min(freedom, 1e9), distance / error))

    def above(self, threshold: float, training: bool = True) -> float:
        """One-sided p-value in favour of "it is above the threshold"."""
        return self._replace(value=-self.value).below(-threshold, training)

    def tests(self, expect: dict, training: bool = True) -> tuple[float, float]:
        """p-values (in favour, against) of what is expected: `below` or `above` a value, or `about` one
        `within` some.

        The latter by two one-sided tests (Schuirmann 1987): both must speak for it, either may speak against.
        """
        if "below" in expect:
            return self.below(expect["below"], training), self.above(expect["below"], training)
        if "above" in expect:
            return self.above(expect["above"], training), self.below(expect["above"], training)
        low, high = expect["about"] - expect["within"], expect["about"] + expect["within"]
        return (
            max(self.above(low, training), self.below(high, training)),
            min(self.below(low, training), self.above(high, training)),
        )


def over_benchmarks(benchmarks: list[numpy.ndarray], unit: float = 0.0) -> tuple[tuple[float, float], ...]:
    """(variance of the mean, degrees of freedom) of each benchmark's values, one value a problem.

    The variance of a benchmark borrows from the mean of all with SHARED prior degrees of freedom (Smyth
    2004): one on which few problems differ by chance does not pretend to know everything. Where no problem
    differs from another on any, one is taken to, by `unit`.
    """
    if all(len(values) < 2 for values in benchmarks):
        return ((math.nan, 1.0),)
    freedom = [len(values) - 1 for values in benchmarks]
    spread = [float(values.var(ddof=1)) if len(values) > 1 else math.nan for values in benchmarks]
    known = [own for own in spread if not math.isnan(own)]
    if not known:
        return ((math.nan, 1.0),)
    pooled = float(numpy.mean(known))
    if not pooled:
        return tuple(((unit / (df + 1)) ** 2, SHARED + df) for df in freedom)
    return tuple(
        ((SHARED * pooled + (df * own if df else 0.0)) / (SHARED + df) / (df + 1), SHARED + df)
        for df, own in zip(freedom, spread, strict=True)
    )


def mean(benchmarks: list[numpy.ndarray], least: float = -math.inf, most: float = math.inf) -> Interval:
    """The mean over benchmarks of the means of their values, one value a problem.

    Differences of two cells make it the paired change, an accuracy lies between 0 and 1.
    """
    parts = [numpy.asarray(values, float) / len(benchmarks) for values in benchmarks]
    unit = 1 / len(parts) if math.isfinite(most) else 0.0
    return Interval(
        sum(float(part.mean()) for part in parts), over_benchmarks(parts, unit), least=least, most=most
    )


def training_noise(
    contrasts: list[tuple[float, float, float]], prior: float, trust: float = PRIOR_FREEDOM
) -> tuple[float, float]:
    """(variance of one training, degrees of freedom) from contrasts between cells that no effect should move,
    and a prior.

    A contrast is (value, its variance over problems, c), with value² expected to be that variance plus c
    times the training's. The scale `prior` counts `trust` degrees of freedom, each contrast as many as it
    knows: w = (cτ² / (cτ² + V))², so that τ² = (trust·prior² + Σ w (v² − V) / c) / (trust + Σ w): the mode,
    in log τ, of a normal likelihood under a scaled inverse χ² prior.
    """
    values, variances, weights = (
        (numpy.array(column) for column in zip(*contrasts, strict=True))
        if contrasts
        else [numpy.zeros(0)] * 3
    )
    noise, known = prior**2, 0.0
    for _ in range(100):
        knows = (weights * noise / (weights * noise + variances)) ** 2
        known = float(knows.sum())
        excess = float((knows * (values**2 - variances) / numpy.where(weights, weights, 1)).sum())
        found = max(1e-3 * prior**2, (trust * prior**2 + excess) / (trust + known))
        if abs(found - noise) < 1e-6 * noise:
            break
        noise = found
    return noise, trust + known


def at_least(count: int, p_values: list[float]) -> float:
    """p-value of "at least `count` of these are true" (partial conjunction, Benjamini & Heller 2008, by
    Simes' test).

    With `count` 1 some is, with all of them every one is (the largest p-value). Valid for independent or
    positively dependent tests, as those of models are that answered the same problems.
    """
    largest = numpy.sort(p_values)[count - 1 :]
    return float(min(1.0, (len(largest) / numpy.arange(1, len(largest) + 1) * largest).min()))


def surely(p_values: list[float], level: float) -> int:
    """How many are true at least, at this level: the largest count that, with all smaller ones, is
    accepted.
    """
    counts = range(1, len(p_values) + 1)
    return next((count - 1 for count in counts if at_least(count, p_values) > level), len(p_values))


def average(intervals: list[Interval]) -> Interval:
    """The mean over models with its spread over them: what it would be for other models of their kind."""
    values = numpy.array([interval.value for interval in intervals])
    if len(values) < 2:
        return intervals[0] if intervals else Interval(math.nan, ((math.nan, 1.0),))
    return Interval(float(values.mean()), ((float(values.var(ddof=1)) / len(values), len(values) - 1),))


def rule_count(rule: str, total: int) -> int | None:
    """How many of `total` a rule asks for: `every`, `any`, or `at least 8 of 9`, a share that is rounded up
    where there are others.

    None for a rule that does not count (`on average`, `the lowest`, `the highest`).
    """
    if rule.startswith("at least"):
        some, of = (int(word) for word in rule.split() if word.isdigit())
        return max(1, math.ceil(some * total / of))
    return {"every": total, "any": 1}.get(rule)


def by_rule(
    rule: str, intervals: list[Interval | None], expect: dict, training: bool = True
) -> tuple[float, float]:
    """p-values (in favour, against) of what a rule says of several quantities; None is one that is still
    missing.
    """
    there = [interval for interval in intervals if interval is not None]
    if rule == "on average":
        return average(there).tests(expect, training) if len(there) == len(intervals) else (1.0, 1.0)
    pairs = [interval.tests(expect, training) if interval else (1.0, 1.0) for interval in intervals]
    if (count := rule_count(rule, len(pairs))) is not None:
        return at_least(count, [p for p, _ in pairs]), at_least(len(pairs) - count + 1, [p for _, p in pairs])
    return extreme(rule, intervals, expect, training)


def extreme(
    rule: str, several: list[Interval | None], expect: dict, training: bool = True
) -> tuple[float, float]:
    """p-values of what is expected of the lowest or the highest of several quantities.

    "The lowest is below x" says that some is, "it is above x" that every one is: counts again.
    """
    some, each = (1, len(several)) if rule == "the lowest" else (len(several), 1)

    def under(threshold: float) -> float:
        return at_least(some, [one.below(threshold, training) if one else 1.0 for one in several])

    def over(threshold: float) -> float:
        return at_least(each, [one.above(threshold, training) if one else 1.0 for one in several])

    if "below" in expect:
        return under(expect["below"]), over(expect["below"])
    if "above" in expect:
        return over(expect["above"]), under(expect["above"])
    low, high = expect["about"] - expect["within"], expect["about"] + expect["within"]
    return max(over(low), under(high)), min(under(low), over(high))


def extreme_ends(rule: str, intervals: list[Interval], confidence: float) -> tuple[float, float, float]:
    """(value, low, high) of the lowest or the highest of several quantities.

    The lowest is above the lowest lower end as surely as a single one is; that one of them lies below needs
    Bonferroni's.
    """
    one = [interval.ends(confidence) for interval in intervals]
    several = [interval.ends(1 - (1 - confidence) / len(intervals)) for interval in intervals]
    values = [interval.value for interval in intervals]
    if rule == "the lowest":
        return min(values), min(low for low, _ in one), min(high for _, high in several)
    return max(values), max(low for low, _ in several), max(high for _, high in one)


def verdict(p_for: float, p_against: float, confidence: float) -> str:
    """`holds`, `fails` or `undecided`: each side is tested at half of what the confidence leaves."""
    level = (1 - confidence) / 2
    return "holds" if p_for <= level else "fails" if p_against <= level else "undecided"
