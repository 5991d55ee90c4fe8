"""Intervals and the scores built on them."""

import numpy
import pytest
import score

from valley import statistics


def graded(correct: list[list[int]]) -> list[dict]:
    """Graded rows from a problems × samples table of 0 and 1."""
    return [
        {"task": "t", "id": str(i), "correct": bool(c), "boxed": True, "outcome": "correct" if c else "wrong", "tokens": 10 + c,
         "reflective": False}
        for i, row in enumerate(correct) for c in row
    ]  # fmt: skip


def test_accuracy_is_the_mean_over_problems_of_the_mean_over_samples():
    result = score.score_task(graded([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]]))
    assert result["accuracy"] == pytest.approx((0.5 + 1 + 0 + 0.25) / 4)
    assert (result["problems"], result["samples"]) == (4, 4)
    assert result["outcomes"]["correct"] + result["outcomes"]["wrong"] == pytest.approx(1)


def test_the_interval_keeps_samples_of_a_problem_together():
    """Four samples that always agree say no more than one: the interval must be as wide."""
    one = statistics.interval_over_problems(numpy.array([0.0, 1.0] * 20))
    four = score.score_task(graded([[0] * 4, [1] * 4] * 20))
    assert (four["accuracy_low"], four["accuracy_high"]) == pytest.approx(one)


def test_all_right_or_all_wrong_is_no_certainty():
    low, high = statistics.interval_over_problems(numpy.zeros(30))
    assert low == 0
    assert 0.05 < high < 0.2


def test_the_interval_over_problems_covers_as_it_says():
    rng = numpy.random.default_rng(0)
    inside = 0
    for _ in range(500):
        chance = rng.beta(2, 3, size=60)  # problems differ in difficulty; true mean 0.4
        low, high = statistics.interval_over_problems(rng.binomial(4, chance) / 4)
        inside += low <= 0.4 <= high
    assert 0.92 <= inside / 500 <= 0.98


def test_the_interval_over_seeds_needs_two_of_them():
    assert statistics.interval_over_seeds([0.5]) is None
    low, high = statistics.interval_over_seeds([0.4, 0.5, 0.6])
    assert (low, high) == pytest.approx((0.5 - 4.303 * 0.0577, 0.5 + 4.303 * 0.0577), abs=1e-3)


def test_a_cell_is_the_plain_mean_of_its_headline_tasks():
    easy, hard = score.score_task(graded([[1], [1], [1], [0]])), score.score_task(graded([[0], [0], [0], [1]]))
    both = score.score({"easy": easy, "hard": hard, "aside": easy}, ["easy", "hard"])
    assert both["accuracy"] == pytest.approx(0.5)
    halves = [(task["accuracy_high"] - task["accuracy_low"]) / 2 for task in (easy, hard)]
    assert both["accuracy_high"] - both["accuracy"] == pytest.approx(min(0.5, (halves[0] ** 2 + halves[1] ** 2) ** 0.5 / 2))
