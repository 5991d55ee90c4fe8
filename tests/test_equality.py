"""Which answers are equal: gold answers as they come, by the headline's and the paper's grader."""

import json

import agreement
import pytest
from conftest import lines, reference, script
from hypothesis import given
from hypothesis import strategies as st

from valley import equality, golds, notation, records
from valley.equality import Pair


@pytest.fixture(scope="module")
def comparer():
    with equality.Comparer(workers=2) as comparer:
        yield comparer


SAME = [
    ("025", "25"), ("27.0", "27"), ("-5", "-5.0"), ("1,234", "1234"), ("10,\\!080", "10080"), (r"\$32,\!348", "32348"),
    (r"90^\circ", "90"), ("60", r"60^\circ"), (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"), (r"864 \mbox{ inches}^2", "864"),
    (r"5.4 \text{ cents}", "5.4"), ("2", r"2\text{ cm}"), (r"10\%", "10"), (r"10\%", "0.1"), ("3.83e35", r"3.83 \times 10^{35}"),
    (r"3.83 \times 10^{35}", "3.83e35"), (".0000672", r"6.72\times 10^{-5}"), ("1,-2", "-2,1"), ("3, 5, 7", "7,5,3"),
    ("(-2,1)", r"\left(-2, 1\right)"), ("(3,4]", "(3, 4]"), (r"(0,9) \cup (9,36)", r"(0,9)\cup(9,36)"),
    (r"\{1\pm\sqrt{5},-2\}", r"-2, 1+\sqrt5, 1-\sqrt5"), (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}"),
    (r"1\frac{4}{5}", "1.8"), (r"137 \frac{1}{2}", "137.5"), ("x=5", "5"), ("5", "x = 5"), ("6+9i", "9i+6"),
    (r"x \in [-2,7]", "[-2,7]"), (r"\text{Evelyn}", "Evelyn"), (r"\text{(C)}", "C"), (r"\text{east}", r"\text{East}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"), ("(a+5)(b+2)", "ab+2a+5b+10"), ("52_8", "52_{8}"), (r"(3,4]", r"\left(3,4\right]"), (r"\frac43", r"\dfrac{4}{3}"),
]  # fmt: skip
DIFFERENT = [
    ("5", "-5"), ("7", ""), ("7", "."), (r"\frac{1}{2}", r"\frac{1}{3}"), (r"\frac{1}{3}", "0.33"), ("(3,4]", "(3,5]"), ("(1,2)", "(2,1)"),
    ("p - q", "q - p"), (r"\text{east}", r"\text{seat}"), (r"\text{even}", "neve"), ("13", r"7^{30000000} \bmod 13"), ("3, 5, 7", "3, 5"),
    ("100", "1000"), (r"\text{(C)}", "B"), ("6+9i", "6-9i"), (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_the_headline_accepts_another_way_of_writing_the_answer(comparer, gold, answer):
    assert comparer([Pair("headline", gold, answer)]).popitem()[1][0] is True


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
@pytest.mark.parametrize("grader", ["headline", "paper"])
def test_no_grader_accepts_another_answer(comparer, grader, gold, answer):
    assert not comparer([Pair(grader, gold, answer)]).popitem()[1][0]


def test_every_pair_of_our_own_set_is_graded_as_it_says(comparer):
    found = agreement.own_pairs(comparer)
    assert found.rows >= 300
    assert found.apart == []


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("√2", r"\sqrt{2}"), ("½", r"\frac{1}{2}"), ("x²", "x^2"), ("–5", "-5"), ("∞", r"\infty"), ("（2，3）", "(2,3)"), ("5\u200e", "5"),
        ("1\u202f234", "1234"), ("0{,}5", "0.5"), ("10{,}000", "10000"), (r"0.\overline{3}", r"\frac{3}{9}"), ("E_{1}", "E_1"),
        (r"\mathrm{e}", "e"), ("{" * 200 + "5" + "}" * 200, "5"), (r"\frac 59", r"\frac{5}{9}"), (r"\boxed{7}", "7"), ("π", r"\pi"),
        (r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"), (r"11,\! 111,\! 100", "11,111,100"),
    ],
)  # fmt: skip
def test_one_normal_form_stands_for_every_spelling(text, normal):
    assert notation.normal(text) == normal


@pytest.mark.parametrize(
    ("unit", "right", "wrong"),
    [
        ("cm", r"5\text{ cm}", r"5\text{ inches}"),
        ("dollars", r"\text{5 dollars}", r"5\text{ cents}"),
        ("$", r"5\text{ dollars}", r"5\text{ cents}"),
        ("square inches", r"5\text{ in}^2", r"5\text{ inches}"),
        ("cm^2", r"5\text{ square centimeters}", r"5\text{ cm}"),
        ("cm²", r"5\text{ cm}^2", r"5\text{ cm}^3"),
        (r"\mathrm{m}^3", r"5\text{ cubic meters}", r"5\text{ square meters}"),
        ("miles per hour", r"5\text{ miles/hour}", r"5\text{ miles}"),
        ("p.m.", r"5\text{ pm}", r"5\text{ a.m.}"),
        ("%", r"5\%", r"500\%"),
        ("centimetre^2", r"5\text{ cm}^2", r"5\text{ cm}"),
    ],
)
def test_a_gold_names_its_unit_as_answers_do(unit, right, wrong):
    asked = golds.rules({"unit": unit})
    assert golds.no_rule({"unit": unit}) is None
    assert [equality.same("5", answer, asked) for answer in (right, "5", wrong)] == [True, True, False]


def test_the_units_of_the_reviewed_golds_stay_as_they_are():
    units = {row["unit"] for row in golds.reviewed().values() if "unit" in row}
    assert len(units) > 10
    assert {golds.rules({"unit": unit}).unit for unit in units} == units
    for unit in ("furlongs", "square", "3", "cm^2^2"):
        assert "no unit" in golds.no_rule({"unit": unit})


@given(st.text(max_size=80))
def test_any_text_has_a_normal_form_and_that_is_its_own(text):
    once = notation.normal(text)
    assert isinstance(notation.as_written(text), notation.Written)
    assert once == "" or not once.isspace()


@pytest.mark.parametrize("text", [r"9^{9^{9^9}}", "100000000!", "((9!)!)!", r"2^{10000000000}", r"(x+y+z+1)^{500}", r"\binom{10^7}{5\cdot10^6}",
                                  r"\lfloor 10^{10^8}\rfloor", r"\sum_{n=1}^{1000000000} \frac{1}{n^n}"])  # fmt: skip
def test_numbers_that_no_machine_could_hold_are_not_worked_out(text):
    assert equality.too_large(text)


@pytest.mark.parametrize(
    "text",
    [
        r"2^{2004}",
        "20!",
        r"\binom{52}{5}",
        r"x^{100}+1",
        r"\frac{1}{2004!}",
        r"e^{16}-1",
        r"3 \cdot 10^{-12}",
        "x^{2^3}",
    ],
)
def test_numbers_that_answers_have_are_worked_out(text):
    assert not equality.too_large(text)


def test_the_paper_is_generous_where_the_headline_is_strict(comparer):
    """Known weaknesses of the evaluator that the paper used, kept because they are its protocol."""
    for gold, answer in [("[3,4]", "(3,4)"), ("0.28", "28"), ("10000", "9999.5")]:
        assert comparer([Pair("paper", gold, answer)]).popitem()[1][0] is True
        assert comparer([Pair("headline", gold, answer)]).popitem()[1][0] is False


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_every_number_equals_itself_however_it_is_written(number):
    for written in (f"{number}", f"{number:,}", f"  ${number}$ ", f"{number}0"):
        for grader in ("headline", "paper"):
            assert equality.quick(Pair(grader, str(number), written)) is True


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_whole_numbers_are_decided_at_once_and_rightly(left, right):
    assert equality.quick(Pair("headline", str(left), str(right))) is (left == right)


def test_math_verifys_own_pairs_are_compared_as_its_authors_expect():
    """The plain comparison that ours is measured beside is Math-Verify as its authors mean it."""
    assert agreement.authors_pairs(lines(reference("graded", "math_verify_tests.jsonl"))).share >= 0.97


def test_every_gold_answer_of_the_benchmarks_can_be_read_and_equals_itself():
    golds = [
        str(row["answer"]) for file in sorted(reference("benchmarks").glob("*.jsonl")) for row in lines(file)
    ]
    assert equality.unreadable(golds) == []
    assert [gold for gold in golds if not equality.same(gold, gold)] == []
    assert [gold for gold in golds if not equality.same(gold, rf"${gold}$.")] == []


def test_a_gold_answer_that_cannot_be_read_is_named(tmp_path):
    source = tmp_path / "task.jsonl"
    answers = ["12", r"\text{east}", r"\frac{1}{2}", r"\oint \oint"]
    source.write_text(
        "\n".join(json.dumps({"id": f"p{i}", "problem": "?", "answer": a}) for i, a in enumerate(answers))
    )
    output = script("fetch_task", "--source", source, "--out", tmp_path / "task.parquet")
    assert "1 unreadable answers" in output
    assert "'p3'" in output
    assert records.parquet_provenance(tmp_path / "task.parquet")["unreadable"] == [r"\oint \oint"]
