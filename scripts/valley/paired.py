"""Intervals and one-sided tests: over problems, over trainings, and over several models at once.

A quantity on cells (an accuracy minus another, a ratio of lengths) is a smooth function of means over problems.
Its variance over problems is that of its values by problem: of a difference of accuracies these are the
differences themselves, of a ratio the linearised ones. The noise of a training, of which one training knows
nothing, comes from all cells of a study and a prior. Methods, assumptions and sources: docs/statistics.md.
"""

import math
from typing import NamedTuple

import numpy

SHARED = 2  # prior degrees of freedom: by how much the variances of a study's benchmarks borrow from one another
PRIOR_FREEDOM = 10  # what the prior of the training noise weighs, in degrees of freedom


class Interval(NamedTuple):
    """A quantity with its variances and their degrees of freedom: over problems, a pair a benchmark, and over trainings."""

    value: float
    problems: tuple[tuple[float, float], ...]
    training: tuple[float, float] = (0.0, math.inf)
    least: float = -math.inf  # what the quantity cannot leave
    most: float = math.inf

    def error(self, training: bool = True) -> tuple[float, float]:
        """(standard error, degrees of freedom) of the sum of all variances (Satterthwaite 1946)."""
        parts = [*self.problems, self.training] if training else self.problems
        variance = sum(part for part, _ in parts)
        spread = sum(part * part / freedom for part, freedom in parts)
        return math.sqrt(variance), variance * variance / spread if spread else math.inf

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
        """p-values (in favour, against) of what is expected: `below` or `above` a value, or `about` one `within` some.

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


def over_problems(benchmarks: list[numpy.ndarray], unit: float = 0.0) -> tuple[tuple[float, float], ...]:
    """(variance of the mean, degrees of freedom) of each benchmark's values, one value a problem.

    The variance of a benchmark borrows from the mean of all with SHARED prior degrees of freedom (Smyth 2004): one on
    which few problems differ by chance does not pretend to know everything. Where no problem differs from another on
    any, one is taken to, by `unit`.
    """
    if all(len(values) < 2 for values in benchmarks):
        return ((math.nan, 1.0),)
    freedom = [len(values) - 1 for values in benchmarks]
    spread = [float(values.var(ddof=1)) if len(values) > 1 else math.nan for values in benchmarks]
    pooled = float(numpy.nanmean(spread))
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
    return Interval(sum(float(part.mean()) for part in parts), over_problems(parts, unit), least=least, most=most)


def change(left: list[numpy.ndarray], right: list[numpy.ndarray]) -> Interval:
    """The paired change of two cells: left minus right, benchmark by benchmark, the same problems in the same order."""
    return mean([numpy.subtract(a, b) for a, b in zip(left, right, strict=True)], -1.0, 1.0)


def training_noise(contrasts: list[tuple[float, float, float]], prior: float) -> tuple[float, float]:
    """(variance of one training, degrees of freedom) from contrasts between cells that no effect should move, and a prior.

    A contrast is (value, its variance over problems, c), with value² expected to be that variance plus c times the
    training's. The scale `prior` counts PRIOR_FREEDOM degrees of freedom, each contrast as many as it knows:
    w = (cτ² / (cτ² + V))², so that τ² = (10·prior² + Σ w (v² − V) / c) / (10 + Σ w): the mode, in log τ, of a normal
    likelihood under a scaled inverse χ² prior.
    """
    values, variances, weights = (numpy.array(column) for column in zip(*contrasts, strict=True)) if contrasts else [numpy.zeros(0)] * 3
    noise, known = prior**2, 0.0
    for _ in range(100):
        trust = (weights * noise / (weights * noise + variances)) ** 2
        known = float(trust.sum())
        excess = float((trust * (values**2 - variances) / numpy.where(weights, weights, 1)).sum())
        found = max(1e-3 * prior**2, (PRIOR_FREEDOM * prior**2 + excess) / (PRIOR_FREEDOM + known))
        if abs(found - noise) < 1e-6 * noise:
            break
        noise = found
    return noise, PRIOR_FREEDOM + known


def at_least(count: int, p_values: list[float]) -> float:
    """p-value of "at least `count` of these are true" (partial conjunction, Benjamini & Heller 2008, by Simes' test).

    With `count` 1 some is, with all of them every one is (the largest p-value). Valid for independent or positively
    dependent tests, as those of models are that answered the same problems.
    """
    largest = numpy.sort(p_values)[count - 1 :]
    return float(min(1.0, (len(largest) / numpy.arange(1, len(largest) + 1) * largest).min()))


def surely(p_values: list[float], level: float) -> int:
    """How many are true at least, at this level: the largest count that, with all smaller ones, is accepted."""
    counts = range(1, len(p_values) + 1)
    return next((count - 1 for count in counts if at_least(count, p_values) > level), len(p_values))


def average(intervals: list[Interval]) -> Interval:
    """The mean over models with its spread over them: what it would be for other models of their kind."""
    values = numpy.array([interval.value for interval in intervals])
    if len(values) < 2:
        return intervals[0] if intervals else Interval(math.nan, ((math.nan, 1.0),))
    return Interval(float(values.mean()), ((float(values.var(ddof=1)) / len(values), len(values) - 1),))


def rule_count(rule: str, total: int) -> int | None:
    """How many of `total` a rule asks for: `every`, `any`, or `at least 8 of 9`, a share that is rounded up where there are others.

    None for a rule that does not count (`on average`, `the lowest`, `the highest`).
    """
    if rule.startswith("at least"):
        some, of = (int(word) for word in rule.split() if word.isdigit())
        return max(1, math.ceil(some * total / of))
    return {"every": total, "any": 1}.get(rule)


def by_rule(rule: str, intervals: list[Interval | None], expect: dict, training: bool = True) -> tuple[float, float]:
    """p-values (in favour, against) of what a rule says of several quantities; None is one that is still missing."""
    there = [interval for interval in intervals if interval is not None]
    if rule == "on average":
        return average(there).tests(expect, training) if len(there) == len(intervals) else (1.0, 1.0)
    pairs = [interval.tests(expect, training) if interval else (1.0, 1.0) for interval in intervals]
    if (count := rule_count(rule, len(pairs))) is not None:
        return at_least(count, [p for p, _ in pairs]), at_least(len(pairs) - count + 1, [p for _, p in pairs])
    return extreme(rule, intervals, expect, training)


def extreme(rule: str, intervals: list[Interval | None], expect: dict, training: bool) -> tuple[float, float]:
    """p-values of what is expected of the lowest or the highest of several quantities.

    "The lowest is below x" says that some is, "it is above x" that every one is: counts again.
    """
    size, sign = len(intervals), 1 if rule == "the lowest" else -1
    under = lambda x: at_least(1 if sign > 0 else size, [i.below(x, training) if i else 1.0 for i in intervals])  # noqa: E731
    over = lambda x: at_least(size if sign > 0 else 1, [i.above(x, training) if i else 1.0 for i in intervals])  # noqa: E731
    if "below" in expect:
        return under(expect["below"]), over(expect["below"])
    if "above" in expect:
        return over(expect["above"]), under(expect["above"])
    low, high = expect["about"] - expect["within"], expect["about"] + expect["within"]
    return max(over(low), under(high)), min(under(low), over(high))


def extreme_ends(rule: str, intervals: list[Interval], confidence: float) -> tuple[float, float, float]:
    """(value, low, high) of the lowest or the highest of several quantities.

    The lowest is above the lowest lower end as surely as a single one is; that one of them lies below needs Bonferroni's.
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
