"""Extraction, verdict and outcome classes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valley import grading, reflection


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"so \boxed{12}", "12"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{unbalanced", None),
        ("the answer is 12", None),
        ("", None),
    ],
)
def test_the_last_balanced_box_is_the_answer(text, boxed):
    assert grading.last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [("204", "204", True), ("025", "25", True), ("27.0", "27", True), ("1,234", "1234", True), ("5", "-5", False),
     (r"\frac{1}{2}", r"\frac{1}{2}", True), (r"\frac{1}{2}", r"\frac{1}{3}", False), ("", "0", False), (".", "", True)],
)  # fmt: skip
def test_answers_are_equal_as_strings_or_as_numbers(gold, answer, same):
    assert grading.equal(gold, answer) is same
    assert grading.equal(answer, gold) is same


def test_an_unfinished_response_is_never_correct():
    assert grading.grade(r"\boxed{7}", "stop", "7")["outcome"] == "correct"
    assert grading.grade(r"\boxed{7}", "length", "7") == {
        "answer": "7", "boxed": True, "correct": False, "outcome": "truncated"
    }  # fmt: skip


def test_every_outcome_class_is_reached():
    cases = [
        (r"\boxed{7}", "stop"),
        (r"\boxed{8}", "stop"),
        ("seven", "stop"),
        ("one two three", "length"),
        ("wait " * 40, "length"),
    ]
    assert tuple(grading.grade(text, finish, "7")["outcome"] for text, finish in cases) == grading.OUTCOMES


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict(text):
    assert grading.grade(text, "stop", "7")["outcome"] in grading.OUTCOMES


@given(st.text(alphabet="ab{}", max_size=40))
def test_what_is_boxed_is_found_again(text):
    balanced = text.replace("{", "").replace("}", "")
    assert grading.last_boxed(f"x \\boxed{{{balanced}}} y") == balanced


def test_reflection_keywords_count_whatever_their_case():
    assert reflection.is_reflective("Let me Double-Check this.")
    assert not reflection.is_reflective("wait, check 68-5")  # what the miniature writes is none of the paper's keywords
