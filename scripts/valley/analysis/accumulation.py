"""Do errors add up over the steps of a response? p^k fitted and put to the test, and where errors fall.

If each calculation were right with the same probability p whatever came before, a response with k
calculations would be right with probability p^k (paper, section 7: "errors add up with length"). The fit says
with which p, the test whether that describes the responses at all: a p can be fitted to anything.

Samples of one problem are no independent responses: all errors are computed over problems as clusters
(sandwich estimator; Liang & Zeger 1986).
"""

import itertools
import math

import numpy
import pandas

from valley.analysis import intervals
from valley.analysis.intervals import totals

BINS = 8
FEWEST = 20  # responses in a bin; fewer say nothing of a rate


def fit(
    steps: numpy.ndarray, correct: numpy.ndarray, problem: numpy.ndarray, confidence: float = 0.95
) -> dict:
    """Maximum likelihood of p in P(correct) = p^k, its interval, and how well it fits.

    `steps` k ≥ 1, `correct` 0 or 1, `problem` an integer label, one each a response. Returns `p`, `p_low`,
    `p_high`, `p_value` of the test that p^k gives the accuracy in every bin of k (None with fewer than two
    bins), `deviation`: by how much the accuracy of the worst bin is off, with its ends, and `verdict`:
    `fails` (rejected), `not rejected`, `too few lengths`, or `no spread` where all or none are right.
    """
    from scipy import optimize, stats

    nothing = dict.fromkeys(
        ("p", "p_low", "p_high", "p_value", "deviation", "deviation_low", "deviation_high")
    )
    if len(steps) < FEWEST or correct.min() == correct.max():
        return nothing | {"verdict": "no spread"}
    steps, correct = numpy.asarray(steps, float), numpy.asarray(correct, float)

    def loss(log_p):
        return -(correct * steps * log_p + (1 - correct) * numpy.log(-numpy.expm1(steps * log_p))).sum()

    log_p = optimize.minimize_scalar(loss, bounds=(-5, -1e-9), method="bounded", options={"xatol": 1e-9}).x
    expected = numpy.exp(steps * log_p)
    # With y ~ Bernoulli(q), q = exp(k θ): score k (y − q) / (1 − q), information k² q / (1 − q).
    score = totals(steps * (correct - expected) / (1 - expected), problem)
    information = (steps**2 * expected / (1 - expected)).sum()
    error = numpy.sqrt((score**2).sum()) / information
    reach = stats.norm.ppf(0.5 + confidence / 2) * error
    ends = {
        "p": float(numpy.exp(log_p)),
        "p_low": float(numpy.exp(log_p - reach)),
        "p_high": float(min(1.0, numpy.exp(log_p + reach))),
    }
    bins = binned(steps)
    if bins.max() < 1:
        return nothing | ends | {"verdict": "too few lengths"}
    # Residuals of the bins, each problem's share less what the fit of p takes from it; a Wald test on what is
    # left.
    members = numpy.eye(bins.max() + 1)[bins]
    residuals = totals(members * (correct - expected)[:, None], problem)
    slope = (members * (steps * expected)[:, None]).sum(axis=0) / information
    spread = residuals - score[:, None] * slope
    covariance = spread.T @ spread
    total = residuals.sum(axis=0)
    rank = numpy.linalg.matrix_rank(covariance, hermitian=True)
    statistic = float(total @ numpy.linalg.pinv(covariance, hermitian=True) @ total)
    p_value = float(stats.chi2.sf(statistic, max(1, min(rank, bins.max()))))
    verdict = "fails" if p_value < 1 - confidence else "not rejected"
    return (
        ends
        | {"p_value": p_value, "verdict": verdict}
        | worst(total, covariance, members.sum(axis=0), confidence)
    )


def worst(
    residuals: numpy.ndarray, covariance: numpy.ndarray, responses: numpy.ndarray, confidence: float
) -> dict:
    """`deviation` of the bin that is furthest off, in accuracy, with its ends.

    It is at most the largest upper end of any bin, and at least the largest lower end at Bonferroni's level:
    what is expected of the largest of several (intervals.extreme_ends).
    """
    deviations, errors = abs(residuals) / responses, numpy.sqrt(covariance.diagonal()) / responses
    bins = [
        intervals.Interval(d, ((e**2, math.inf),), least=0.0) for d, e in zip(deviations, errors, strict=True)
    ]
    ends = intervals.extreme_ends("the highest", bins, confidence)
    return dict(zip(("deviation", "deviation_low", "deviation_high"), ends, strict=True))


def binned(values: numpy.ndarray) -> numpy.ndarray:
    """The bin of each value: at most BINS of about equal counts, equal values together, none below FEWEST."""
    wanted = max(1, min(BINS, len(values) // FEWEST))
    edges = numpy.unique(numpy.quantile(values, numpy.linspace(0, 1, wanted + 1)[1:-1], method="higher"))
    bins = numpy.searchsorted(edges, values, side="left")
    for bin_ in range(bins.max(), 0, -1):  # a small one joins the one below
        if 0 < (bins == bin_).sum() < FEWEST:
            bins[bins == bin_] = bin_ - 1
    bins = numpy.unique(bins, return_inverse=True)[1]
    if bins.max() and (bins == 0).sum() < FEWEST:
        bins = numpy.maximum(bins - 1, 0)
    return bins


def hazard(made: numpy.ndarray, first_wrong: numpy.ndarray, confidence: float = 0.95) -> list[dict]:
    """Probability that the j-th calculation is wrong, all before being right, by bins of j.

    `first_wrong` is NaN for a response without a wrong calculation. p^k says the hazard is the same for all
    j. Intervals are Wilson's, over calculations.
    """
    from scipy import stats

    reached = numpy.where(numpy.isnan(first_wrong), made, first_wrong)
    if not len(reached) or not reached.max():
        return []
    edges = numpy.unique(numpy.geomspace(1, reached.max() + 1, BINS + 1).astype(int))
    rows = []
    for low, high in itertools.pairwise(edges):
        at_risk = int(numpy.clip(numpy.minimum(reached, high - 1) - low + 1, 0, None).sum())
        errors = int(((first_wrong >= low) & (first_wrong < high)).sum())
        if at_risk >= FEWEST:
            ends = stats.binomtest(errors, at_risk).proportion_ci(confidence, method="wilson")
            rows.append(
                {
                    "first": int(low),
                    "last": int(high - 1),
                    "at_risk": at_risk,
                    "errors": errors,
                    "hazard": errors / at_risk,
                    "low": ends.low,
                    "high": ends.high,
                }
            )
    return rows


def add_up(rows: pandas.DataFrame, confidence: float) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Tables `accumulation` and `hazard`, a row (or one a bin) a run, from responses that gave an answer.

    `independent` is the accuracy that the error rate per calculation would give were all calculations needed
    and errors independent: far from `accuracy`, the calculations are not what goes wrong, or are mended.
    """
    fits, hazards = [], []
    for (model, run), group in rows.groupby(["model", "run"], sort=False, observed=True):
        made, wrong, problem = (
            group.calculations.to_numpy(float),
            group.wrong_calculations.to_numpy(float),
            group.problem.to_numpy(),
        )
        rates = intervals.ratio(wrong, made, problem, confidence)
        cell = {
            "model": model,
            "run": run,
            "responses": len(group),
            "accuracy": group.correct.mean(),
            "steps": made.mean(),
        }
        fits.append(
            cell
            | dict(zip(("error_rate", "error_rate_low", "error_rate_high"), rates, strict=True))
            | {"independent": float(((1 - rates[0]) ** made).mean()) if rates[0] is not None else None}
            | fit(made, group.correct.to_numpy(float), problem, confidence)
        )
        bins = hazard(made, group.first_wrong.to_numpy(float), confidence)
        hazards += [{"model": model, "run": run} | row for row in bins]
    of_fits = ["model", "run", "responses", "accuracy", "steps", "error_rate", "error_rate_low", "error_rate_high", "independent",
               "p", "p_low", "p_high", "p_value", "deviation", "deviation_low", "deviation_high", "verdict"]  # fmt: skip
    of_hazards = ["model", "run", "first", "last", "at_risk", "errors", "hazard", "low", "high"]
    return pandas.DataFrame(fits, columns=of_fits), pandas.DataFrame(hazards, columns=of_hazards)
