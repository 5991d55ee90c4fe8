"""Calculations in responses, and the wrong ones among them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valley import calculations


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("61*78=4758", (1, 0)),
        (r"$61 \times 78 = 4759$", (1, 1)),
        ("61 × 78 = 4758, then 93 ÷ 3 = 31.", (2, 0)),
        ("93/3+77+(12-32)-11+61*78+44*39+55 = 6606", (10, 0)),  # the paper's example
        ("77+31-20=108-20=88", (2, 0)),
        ("77+31-20=108-20=87", (2, 1)),
        ("(2+3)*4 = 5*4 = 20", (2, 0)),
        ("b+5:63+5:3+5=8,6+0=6,so68.wait,check68-5:8-5=3", (3, 0)),  # the miniature's long trace
        (r"d+4:10+4=14e+1:14+1=16\boxed{16}", (2, 1)),  # and its short one
        ("12/7 = 1.714 and 2/3 = 0.66...", (2, 0)),  # rounded, cut
        ("12/7 = 1.5", (1, 1)),
        (r"\frac{12}{4} = 3 and 1,234 + 1 = 1,235", (2, 0)),
        ("- 41 + 2 = 43 (prime)\n3. 5 + 5 = 10", (2, 0)),  # list marks are no signs
        ("x+3=5, 2x=6, f(2)=4, √2*3=3√2, 3*39 = 3*(a+b), 600/1000=60%, 5 = 5, 2^3=8", (0, 0)),
        ("(so 3*4 = 12) and (3*4 = 12)", (2, 0)),
        ("1/0=3, 12 + = 5, (((=1, " + "1" * 300 + "+1=2", (0, 0)),
    ],
)
def test_a_calculation_is_an_operation_that_an_equality_works_off(text, found):
    assert calculations.count(text)[:2] == found


@given(
    st.lists(st.tuples(st.integers(1, 100), st.sampled_from("+-*")), min_size=1, max_size=15),
    st.integers(1, 100),
    st.booleans(),
)
def test_every_expression_is_worked_out_as_python_would(terms, last, right):
    text = "".join(f"{number}{sign}" for number, sign in terms) + str(last)
    result = eval(text) + (not right)
    assert calculations.count(f"{text}={result}") == (
        len(terms),
        int(not right),
        None if right else len(terms),
    )


@given(st.text(alphabet="0123456789+-*/()=. \n", max_size=200))
def test_no_text_of_numbers_and_signs_is_too_odd(text):
    made, wrong, first = calculations.count(text)
    assert 0 <= wrong <= made
    assert (first is None) == (wrong == 0)


@pytest.mark.parametrize(
    ("text", "marked", "place"),
    [
        ("2+2=4\nthen 3*4 = 13 and 1+1=3", "3*4 = 13", 2),
        (
            r"2+2=4, \frac{12}{4} = 5 here",
            r"2+2=4, \frac{12}{4} = 5 here",
            2,
        ),  # rewritten to be read: the line
        ("b+5:63+5:3+5=9,6+0=6", "3+5=9", 1),
        ("2+2=4", None, None),
    ],
)
def test_the_first_wrong_equality_is_found_in_the_text(text, marked, place):
    found = calculations.first_error(text)
    assert (found and text[slice(*found)].strip()) == marked
    assert calculations.count(text)[2] == place
