"""Estimators against cases worked out by hand, intervals against simulation, and the scores built on them."""

import shutil

import numpy
import pandas
import pytest
import score
from conftest import script
from hypothesis import given
from hypothesis import strategies as st

from valley import records
from valley.analysis import intervals
from valley.analysis.cells import Answers
from valley.analysis.estimates import changes
from valley.analysis.measures import COLUMNS


def graded(correct: list[list[int]]) -> list[dict]:
    """Graded rows from a problems × samples table of 0 and 1."""
    return [
        {"task": "t", "id": str(i), "sample": k, "gold": "7", "answer": "7" if c else "8", "correct": bool(c), "correct_boxed": bool(c),
         "correct_paper": True, "source_paper": "box" if c else "last number", "boxed": True, "timeout": False, "copied": False,
         "outcome": "correct" if c else "wrong", "finish_reason": "stop", "tokens": 10 + c, "reflective": bool(c), "keywords": bool(c), "judged": None,
         "calculations": 4, "wrong_calculations": 1 - c}
        for i, row in enumerate(correct) for k, c in enumerate(row)
    ]  # fmt: skip


def scored(correct):
    return score.score_task(graded(correct), 0.95)


def answers(rates: numpy.ndarray) -> Answers:
    """A cell that solved each problem of one task at these rates, four samples each."""
    ids = [f"{i:04}" for i in range(len(rates))]
    return Answers({"t": ids}, {"t": numpy.tile(rates[:, None], len(COLUMNS))}, {"t": 4}, {})


def test_avg_pass_and_maj_at_k_by_hand():
    result = scored([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    assert result["accuracy"] == pytest.approx((0.5 + 1 + 0 + 0.25) / 4)
    assert result["pass@1"] == pytest.approx(result["accuracy"])
    assert result["pass@2"] == pytest.approx(
        ((1 - 1 / 6) + 1 + 0 + (1 - 3 / 6)) / 4
    )  # 1 − C(n−c, 2) / C(4, 2)
    assert result["pass@4"] == pytest.approx(3 / 4)
    assert result["majority"] == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert (result["problems"], result["samples"]) == (4, 4)
    assert result["solved"] == {"0": 2, "1": 4, "2": 0, "3": 1}


def test_a_task_with_a_single_problem_has_an_interval_too():
    result = scored([[1, 0, 1, 1]])
    assert result["problems_low"] < 0.75 < result["problems_high"] <= 1


def test_shares_lengths_and_what_the_last_number_adds_by_hand():
    result = scored([[1, 0], [0, 0]])
    assert result["outcomes"]["correct"] + result["outcomes"]["wrong"] == pytest.approx(1)
    assert (result["paper_only"], result["headline_only"], result["last_number"]) == (0.75, 0, 0.75)
    assert (result["length"], result["length_reflective"], result["length_other"]) == (10.25, 11, 10)
    assert result["token_efficiency"] == pytest.approx(1000 * 0.25 / 10.25)
    assert (result["calculations"], result["calculation_errors"]) == (4, pytest.approx(3 / 16))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=30), st.integers(1, 8))
def test_pass_at_k_is_what_drawing_k_of_the_samples_would_give(solved, k):
    exact = [1 - numpy.prod([(8 - c - i) / (8 - i) for i in range(k)]) for c in solved]
    assert intervals.pass_at(numpy.array(solved), 8, k) == pytest.approx(numpy.mean(exact))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=40))
def test_intervals_hold_the_estimate_and_stay_within_zero_and_one(solved):
    counts = numpy.array(solved)
    for low, high in (intervals.over_samples(counts, 4), intervals.over_problems([(counts, 4)])):
        assert 0 <= low <= counts.mean() / 4 <= high <= 1


def test_a_rare_success_is_bounded_by_the_problems_ever_solved():
    """One of 30 problems solved once in 8: Clopper–Pearson of 1 in 30 is [.00084, .17217]; k divides its
    lower end alone.
    """
    low, high = intervals.over_problems([(numpy.array([1] + [0] * 29), 8)])
    assert (low, high) == pytest.approx((0.00084 / 8, 0.17217), abs=1e-4)
    mirrored = intervals.over_problems([(numpy.array([7] + [8] * 29), 8)])
    assert mirrored == pytest.approx((1 - 0.17217, 1 - 0.00084 / 8), abs=1e-4)


def test_samples_that_always_agree_say_no_more_than_one():
    one = intervals.over_problems([(numpy.array([0, 1] * 20), 1)])
    four = intervals.over_problems([(numpy.array([0, 4] * 20), 4)])
    assert four == pytest.approx(one)


def test_all_right_or_all_wrong_is_no_certainty():
    for low, high in (
        intervals.over_problems([(numpy.zeros(30), 8)]),
        intervals.over_samples(numpy.zeros(30), 8),
    ):
        assert low == 0
        assert 0.005 < high < 0.2
    low, high = intervals.over_problems([(numpy.full(30, 8), 8)])
    assert high == 1
    assert 0.8 < low < 0.995


@pytest.mark.parametrize(
    ("problems", "samples", "mean"), [(30, 8, 0.01), (30, 8, 0.15), (40, 8, 0.4), (500, 4, 0.5)]
)
def test_both_intervals_cover_as_they_say(problems, samples, mean):
    """Problems drawn with difficulties of the given mean; a plain bootstrap covers 49 % in the first case."""
    rng = numpy.random.default_rng(1)
    rounds = 250
    these, other = 0, 0
    for _ in range(rounds):
        chance = rng.beta(mean, 1 - mean, size=problems)
        solved = rng.binomial(samples, chance)
        low, high = intervals.over_samples(solved, samples)
        these += low <= chance.mean() <= high
        low, high = intervals.over_problems([(solved, samples)])
        other += low <= mean <= high
    assert these / rounds >= 0.9
    assert other / rounds >= 0.9
    assert other / rounds <= 0.98 or mean < intervals.FEW  # conservative where few problems carry it


def test_a_paired_difference_covers_and_is_narrower_than_two_cells_apart():
    rng = numpy.random.default_rng(0)
    inside = 0
    for _ in range(200):
        chance = rng.beta(1, 1, size=100)
        left, right = rng.binomial(4, 0.8 * chance) / 4, rng.binomial(4, chance) / 4
        change, low, high = changes(answers(left), answers(right), ["t"], 0.95)["t"]
        inside += low <= -0.1 <= high  # 0.8 × ½ − ½
    assert 0.9 <= inside / 200 <= 0.99
    alone = [intervals.over_problems([(side * 4, 4)]) for side in (left, right)]
    assert high - low < sum((b - a) ** 2 for a, b in alone) ** 0.5
    assert change == pytest.approx(left.mean() - right.mean())


def test_cells_that_hardly_differ_are_not_called_equal_for_sure():
    same = numpy.array([0.5] * 30)
    change, low, high = changes(answers(same), answers(same), ["t"], 0.95)["headline"]
    assert change == 0
    assert low < -0.05 < 0.05 < high


def test_the_interval_over_seeds_needs_two_of_them():
    assert intervals.over_seeds([0.5]) is None
    low, high = intervals.over_seeds([0.4, 0.5, 0.6])
    assert (low, high) == pytest.approx((0.5 - 4.303 * 0.0577, 0.5 + 4.303 * 0.0577), abs=1e-3)


def test_a_cell_is_the_plain_mean_of_its_headline_tasks():
    easy, hard = scored([[1, 1], [1, 0], [1, 1], [0, 0]]), scored([[0, 0], [0, 1], [0, 0], [1, 0]])
    both = score.score({"easy": easy, "hard": hard, "aside": easy}, ["easy", "hard"], ["hard"], 0.95)
    assert both["accuracy"] == pytest.approx((easy["accuracy"] + hard["accuracy"]) / 2)
    assert both["length"] == hard["length"]
    assert both["problems_low"] < both["accuracy"] < both["problems_high"]
    width = both["problems_high"] - both["problems_low"]
    assert width < max(task["problems_high"] - task["problems_low"] for task in (easy, hard))


def test_a_problem_with_another_number_of_grades_is_refused(capsys):
    with pytest.raises(SystemExit, match=r"problem '1' has 1 grades, the others 2"):
        score.score_task(graded([[1, 1], [0], [1, 0]]), 0.95)


def test_any_two_cells_are_compared_on_the_same_problems_only(tmp_path):
    cells = {"left": [[1, 1], [1, 0], [1, 1]], "right": [[0, 1], [0, 0], [1, 1]], "other": [[1, 1], [0, 0]]}
    files = {name: tmp_path / name / "base/seed0/grades.parquet" for name in cells}
    for name, correct in cells.items():
        records.write_parquet(
            files[name], pandas.DataFrame(graded(correct)).assign(first_wrong=1).to_dict("records")
        )
    flags = ["--left", files["left"], "--headline", "t", "--right"]
    assert "headline: +0.333 [" in script("compare_cells", *flags, files["right"])
    assert "answered other problems of t" in script("compare_cells", *flags, files["other"], ok=False)
    alone = shutil.copy(files["right"], tmp_path / "grades.parquet")
    output = script("compare_cells", *flags, alone, ok=False)
    assert f"{alone} lies in no cell's folder" in output
    assert "Traceback" not in output
