"""Intervals of paired changes, the noise of training, and rules over several models: do they keep what they
promise?
"""

import math

import numpy
import pytest
from scipy import special

from valley.analysis import intervals
from valley.analysis.intervals import Interval

DESIGN = ((30, 8), (40, 8), (500, 4))  # problems and samples of AIME, AMC, MATH500


def paired_rates(rng, bases: tuple, effect: float):
    """(left, right) rates of the three benchmarks; problems differ in ease, and in how much a change moves
    them.
    """
    for (count, samples), base in zip(DESIGN, bases, strict=True):
        ease, moved = rng.normal(0, 2.0, count), rng.normal(effect, 0.8, count)
        level = special.logit(base) * 1.7
        yield (
            rng.binomial(samples, special.expit(level + ease + moved)) / samples,
            rng.binomial(samples, special.expit(level + ease)) / samples,
        )


def test_the_interval_of_a_paired_change_holds_the_truth_as_often_as_it_says():
    """Base rates from .02 to .93. Nominal .95; found .94–.97, the standard error of 400 repetitions is
    .011.
    """
    rng = numpy.random.default_rng(0)
    for bases in ((0.02, 0.1, 0.3), (0.125, 0.45, 0.75), (0.93, 0.93, 0.93)):
        far = [numpy.mean([(a - b).mean() for a, b in paired_rates(rng, bases, -0.7)]) for _ in range(1500)]
        inside = 0
        for _ in range(400):
            left, right = zip(*paired_rates(rng, bases, -0.7), strict=True)
            low, high = intervals.mean([a - b for a, b in zip(left, right, strict=True)]).ends(0.95)
            inside += low <= numpy.mean(far) <= high
        assert 0.92 <= inside / 400 <= 0.985, bases


def test_evidence_never_widens_the_interval():
    """2, 4, 6 … of thirty problems, worse by the same amount, are ever surer to be worse."""
    p_values = []
    for differing in range(1, 12):
        left = numpy.where(numpy.arange(30) < differing, 0.0, 0.5)
        p_values.append(intervals.mean([left - 0.5]).below(0))
    assert p_values == sorted(p_values, reverse=True)
    assert p_values[0] > 0.025
    assert p_values[-1] < 0.001


def test_cells_that_do_not_differ_at_all_are_not_called_equal_for_sure():
    change = intervals.mean([numpy.zeros(30)], -1.0, 1.0)
    low, high = change.ends(0.95)
    assert change.value == 0
    assert low < -0.05 < 0.05 < high


def test_a_benchmark_on_which_nothing_differs_borrows_its_variance_from_the_others():
    rng = numpy.random.default_rng(0)
    still, moving = numpy.zeros(30), rng.normal(0, 0.3, 500)
    (alone, _), (other, _) = intervals.over_benchmarks([still, moving])
    assert alone > 0
    assert other == pytest.approx(moving.var(ddof=1) / 500, rel=0.01)


@pytest.mark.parametrize("truth", [0.0, 0.01, 0.03])
def test_training_noise_is_found_by_many_contrasts_and_the_prior_rules_without(truth):
    rng = numpy.random.default_rng(1)
    assert intervals.training_noise([], 0.01) == (pytest.approx(0.01**2), intervals.PRIOR_FREEDOM)
    found = []
    for _ in range(50):
        contrasts = [(rng.normal(0, math.hypot(truth, 0.01)), 0.01**2, 1.0) for _ in range(100)]
        noise, freedom = intervals.training_noise(contrasts, 0.01)
        found.append(noise**0.5)
        assert freedom > intervals.PRIOR_FREEDOM
    low, high = {0.0: (0.001, 0.008), 0.01: (0.008, 0.012), 0.03: (0.026, 0.032)}[truth]
    assert low < numpy.mean(found) < high


def test_rules_count_what_is_sure():
    sure, open_, wrong = (
        Interval(-0.1, ((0.0001, 50),)),
        Interval(-0.001, ((0.0001, 50),)),
        Interval(0.1, ((0.0001, 50),)),
    )
    said = lambda rule, *models: intervals.verdict(*intervals.by_rule(rule, list(models), {"below": 0}), 0.95)  # noqa: E731
    assert said("every", sure, sure, sure) == "holds"
    assert said("every", sure, sure, open_) == "undecided"
    assert said("every", sure, sure, wrong) == "fails"
    assert said("at least 2 of 3", sure, sure, open_) == "holds"
    assert said("at least 2 of 3", sure, sure, wrong) == "holds"
    assert said("at least 2 of 3", sure, wrong, wrong) == "fails"
    assert said("at least 2 of 3", sure, open_, wrong) == "undecided"
    assert said("any", sure, wrong, wrong) == "holds"
    assert said("any", wrong, wrong, wrong) == "fails"
    assert said("on average", sure, sure, sure._replace(value=-0.08)) == "holds"
    assert said("at least 2 of 3", sure, sure, None) == "holds"  # a missing cell cannot change it
    assert said("every", sure, sure, None) == "undecided"
    assert said("every", wrong, sure, None) == "fails"
    assert said("on average", sure, sure, None) == "undecided"
    assert intervals.surely([0.001, 0.001, 0.4], 0.025) == 2


def test_about_needs_both_ends_and_the_lowest_is_an_interval_too():
    expect = {"about": 0.75, "within": 0.1}
    said = lambda value, error: intervals.verdict(*Interval(value, ((error**2, 100),)).tests(expect), 0.95)  # noqa: E731
    assert [said(0.76, 0.02), said(0.60, 0.02), said(0.76, 0.08), said(0.84, 0.02)] == [
        "holds",
        "fails",
        "undecided",
        "undecided",
    ]
    models = [Interval(value, ((0.02**2, 100),)) for value in (0.25, 0.6, 0.8)]

    def lowest(about: float) -> str:
        expect = {"about": about, "within": 0.1}
        return intervals.verdict(*intervals.by_rule("the lowest", models, expect), 0.95)

    assert (lowest(0.25), lowest(0.6)) == ("holds", "fails")
    value, low, high = intervals.extreme_ends("the lowest", models, 0.95)
    assert value == 0.25
    assert low < 0.25 < high < 0.6


def test_under_the_null_rules_are_seldom_wrong_however_many_models():
    rng = numpy.random.default_rng(2)
    wrong = dict.fromkeys(("every", "at least 8 of 9", "at least 2 of 9", "any", "on average"), 0)
    for _ in range(400):
        models = [Interval(rng.normal(0, 0.01), ((0.01**2, 60),)) for _ in range(9)]
        for rule in wrong:
            wrong[rule] += (
                intervals.verdict(*intervals.by_rule(rule, models, {"below": 0}), 0.95) != "undecided"
            )
    assert {rule: count / 400 <= 0.07 for rule, count in wrong.items()} == dict.fromkeys(wrong, True)


def test_a_rule_asks_for_the_same_share_of_fewer_models():
    counts = [intervals.rule_count("at least 8 of 9", total) for total in (9, 8, 5, 2, 1)]
    assert counts == [8, 8, 5, 2, 1]
    assert [intervals.rule_count(rule, 4) for rule in ("every", "any", "on average")] == [4, 1, None]


@pytest.mark.filterwarnings("error")
def test_seeds_that_agree_and_benchmarks_of_which_nothing_is_known_pass_without_a_warning():
    assert intervals.over_seeds([0.4, 0.4]) == (0.4, 0.4)
    [(variance, _)] = intervals.over_benchmarks([numpy.full(3, math.nan), numpy.full(3, math.nan)])
    assert math.isnan(variance)
