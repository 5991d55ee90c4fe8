"""The paper's grader does what the public Qwen2.5-Math evaluator does, its errors included."""

import random

import agreement
import pytest
from conftest import reference
from hypothesis import given
from hypothesis import strategies as st

from valley import equality, evaluator

# Facts of the evaluator: what it makes of an answer.
STRIPPED = [
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix}1/5\\-18/5\end{pmatrix}"),
    (r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"864 \mbox{ inches}^2", "864^2"), (r"9\text{ cm}", "9"), (r"9\text{ cm}^2", "9^2"), (r"\mathbf{9}", "{9}"), (r"\textbf{9}", r"\textbf{9}"),
    (r"x \in [-2,7]", r"x\in[-2,7]"), (r"\text{east}", ""), (r"90^\circ", "90"), ("90°", "90°"), (r"\frac12", r"\frac{1}{2}"),
    ("3/4", r"\frac{3}{4}"), ("x = 5", "5"), ("twenty one", "21"), (".5", "0.5"), ("7.0", "7"), (r"10\%", "10"), (r"\sqrt2", r"\sqrt{2}"),
    (r"6 - 5i", "6-5i"), (r"1 \pm \sqrt{3}", r"1\\sqrt{3}"), ("(a+5)(b+2)", "(+5)(b+2)"),
]  # fmt: skip
# Facts of the evaluator: what it takes for equal, and what it does not.
EQUAL = [
    ("[3,4]", "(3,4)"), ("0.28", "28"), ("10000", "9999.5"), (r"\frac{1}{2}", "0.5"), ("(1,2)", "1,2"), ("x=5", "5"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", "\\begin{pmatrix} 1/5 \\\\\n-18/5 \\end{pmatrix}"), ("B", "The answer (B)"), ("9", r"\mathbf{9}"),
    (r"\frac{1}{2}", r"\frac{1}{2}c"), ("2x+3", "3+2x"), (r"\text{east}", r"\text{west}"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix}1/5\\-18/5\end{pmatrix}"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{bmatrix} 1/5 \\ -18/5 \end{bmatrix}"),
    ("1,-2", "1"), ("4210_{5}", "4210_9"), ("-4", "-4,-1"),  # it reads the first of them
]  # fmt: skip
UNEQUAL = [
    ("52_8", "52_9"), ("3,5,7", "7,5,3"), ("9", r"9\text{ cm}^2"), ("9", r"\textbf{9}"), (r"x \in [-2,7]", "3"), ("90", "90°"), ("10,000", "10{,}001"),
    ("52_8", "52"), ("864", r"864 \mbox{ inches}^2"), (r"x \in [-2,7]", "[-2,7]"), ("3,5,7", "3,5"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"), (r"\frac{20000}{\pi}", r"\frac{20001}{\pi}"),
    (r"\text{even}", "neve"), ("yes", "sey"), ("no", "on"),  # the one rule that is not the evaluator's
]  # fmt: skip


@pytest.mark.parametrize(("text", "stripped"), STRIPPED)
def test_an_answer_is_simplified_as_the_evaluator_does(text, stripped):
    assert evaluator.stripped(text) == stripped


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_what_the_evaluator_accepts_is_accepted(gold, answer):
    assert evaluator.graded_equal(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), UNEQUAL)
def test_what_the_evaluator_refuses_is_refused(gold, answer):
    assert not evaluator.graded_equal(gold, answer)


SHORTCUTS = [("10", "10The8thgradeshould"), ("3", "-3ab"), ("0", "0apples"), (r"\frac{1}{23}", r"\frac{12}{3}"), (r"\frac{14}{3}", "4.66667"),
             (r"\frac{1}{2}", r"\frac{2}{4}"), (r"-\frac{3}{7}", r"\frac{3}{7}"), ("5", r"\frac{500}{1}"), ("12", r"\frac{0}{3}"), ("2", "2eiei"), ("7", "answeris"), ("7", "thereare7=7")]  # fmt: skip


@pytest.mark.parametrize(("gold", "found"), SHORTCUTS)
def test_what_is_graded_without_algebra_is_graded_as_with_it(gold, found):
    short = evaluator.without_algebra(gold, found)
    assert short in (None, evaluator.equal(gold, found))
    assert short is not None or found in ("0apples", "2eiei")


@given(st.text(max_size=120))
def test_any_text_is_extracted_and_simplified_without_error(text):
    found, source = evaluator.answer(text)
    assert (found is None) == (source is None)
    assert isinstance(evaluator.stripped(text), str)


@given(st.text(max_size=60))
def test_nothing_that_a_model_writes_is_run(text):
    """Reading never reaches Python's eval: the parts that could are left out."""
    evaluator.read(f"__import__('os').abort() {text}")


def evaluator_pairs() -> list[dict]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(reference("graded", "evaluator_pairs.parquet")).to_pylist()


def measured(rows) -> list[agreement.Agreement]:
    """The paper's grader against the evaluator, the headline against what is true by construction."""
    with equality.Comparer(2) as comparer:
        return agreement.evaluator_pairs(rows, comparer)


def test_what_the_evaluator_extracts_is_extracted():
    apart = [
        row
        for row in evaluator_pairs()
        if evaluator.stripped(evaluator.answer(rf"The answer is \boxed{{{row['answer']}}}")[0] or "")
        != row["extracted"]
    ]
    assert apart == []


def test_a_sample_of_the_evaluators_grades_is_matched():
    for found in measured(random.Random(0).sample(evaluator_pairs(), 400)):
        assert found.share >= 0.995, found


@pytest.mark.slow
def test_all_of_the_evaluators_grades_are_matched_but_for_anagrams_of_words():
    paper, headline = measured(evaluator_pairs())
    assert paper.share >= 0.999
    assert {mutation for mutation, *_ in paper.apart} <= {"anagram"}, paper
    assert headline.share >= 0.999
    assert {answer for _, _, answer, _ in headline.apart} <= {"-1^2"}, headline
