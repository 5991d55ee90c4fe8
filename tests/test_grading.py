"""Extraction, grades, outcome classes, copies, hostile text; agreement with grades that are not ours."""

import os
import re
import sys
import time

import agreement
import pytest
from conftest import lines, own, reference, run
from hypothesis import given
from hypothesis import strategies as st

from valley import calculations, equality, evaluator, grading, reflection, thoughts


@pytest.fixture(scope="module")
def comparer():
    with equality.Comparer(workers=2) as comparer:
        yield comparer


def graded(comparer, text, gold, finish="stop", problem="", form="box"):
    return grading.grade([(text, finish, gold, problem)], comparer, form=form)[0]


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"so \boxed{12}", "12"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{x = \boxed{5}}", "5"),
        (r"\boxed {3}", "3"),
        (r"\boxed{unbalanced", None),
        (r"\boxed{}", None),
        (r"\boxed{7}. The box is \boxed{}.", "7"),
        (
            r"\boxed{7}. As asked: \boxed{\text{answer}}, \boxed{...}, \boxed{\ }, \boxed{\text{}}, \boxed{\boxed{}}",
            "7",
        ),
        (r"\boxed{\text{the answer is }7}", r"\text{the answer is }7"),
        (r"so \\boxed{7}", "7"),
        (r"\begin{cases} 1 \\{2} \\\boxed{\frac{1}{2}} \end{cases}", r"\frac{1}{2}"),
        (r"\boxed{-2} and \boxed{1}", "-2, 1"),
        (r"$a = -\boxed{256}$", "-(256)"),
        (r"300 - \boxed{256}", "256"),
        (r"\fbox{7}", "7"),
        ("the answer is 12", None),
        ("", None),
    ],
)
def test_the_last_balanced_box_is_the_answer(text, boxed):
    assert grading.last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Thus the final answer is $\\frac{1}{2}$. Done.", r"\frac{1}{2}"),
        ("The answer is 42 apples.", "42"),
        ("**Final Answer:** 1,234", "1,234"),
        ("The final answer is:\n\n\\[ x^2 \\]", "x^2"),
        ("the answer is 3. No wait, the answer is 4.", "4"),
        ("That leaves 7", None),
        ("**Answer:** John spends **35 hours** a week taking care of dogs.", "35"),
        ("The answer is: they sold 3 cats and 4 dogs.", None),
        ("The answer is: The value of $2+2$ is $5$.", "5"),
        ("The answer is: The value of $a$ is $-256$", "-256"),
        ("The answer is $5$ and $1$.", None),
        ("The answer is not 4. It is 5.", None),
        ("The answer isn't $4$.", None),
        (r"\text{Answer: } 15x-80", "15x-80"),
        (r"The answer is $\$10$.", r"\$10"),
        ("The answer to the question is 12.", "12"),
        ("**Answer:** 12 pieces are left.", "12"),
        ("**Answer:** $15 is left.", "15"),
        ("**Answer:** 28 birds are now in the backyard.", "28"),
        ("The answer is that the statement is true.", "true"),
        ("The answer is (3, 4)", "(3, 4)"),
        ("Final answer: x^2 + 1", "x^2 + 1"),
        ("the answer is \\frac{1}{2}", "\\frac{1}{2}"),
        ("answer is ", None),
        ("The answer is x = -3.", "x = -3"),
        ("Final answer: y = 2x - 7", "y = 2x - 7"),
        (r"The answer is 5 - 2\sqrt{3}.", r"5 - 2\sqrt{3}"),
        ("The answer is 5 -2i.", "5 -2i"),
        ("The answer is (2, -3).", "(2, -3)"),
        ("The answer is 2, -3.", "2, -3"),
        ("The answer is 2 and -3.", None),
        ("**Answer:** x - 1", "x - 1"),
        ("Answer: p - qr", "p - qr"),
        ("The answer is $5$ - 3.", None),
        ("The answer is 10 -- it was 12 before.", "10"),
        ("Answer: 1 - cos x", "1 - cos x"),
        ("Answer: p - 2qr", "p - 2qr"),
        ("The answer is 5 km.", "5 km"),
        ("The answer is 5 of them.", "5"),
        ("The answer is 10 - no more.", "10"),
        ("The answer is $10$ - it was $12$ before.", "10"),
        ("The answer is 10 — because 12 were needed.", "10"),
        ("Answer: 10 ✅ 12 was wrong", "10"),
    ],
)
def test_an_explicit_statement_is_an_answer_and_a_bare_number_is_none(text, answer):
    assert grading.stated(text) == answer


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{3} and then 5", ("3", "box")),
        (r"it is \boxed{7 and", ("7 and", "box")),
        (r"\boxed 5$ and", ("5", "box")),
        ("The answer is 8. So 9", ("8. So 9", "statement")),  # it ends with the text
        ("the final answer is $5$. I hope it is", ("5", "statement")),
        ("we get 12 and 1,500 of them", ("1500", "last number")),
        ("nothing", (None, None)),
    ],
)
def test_the_papers_extraction_is_the_evaluators(text, found):
    assert evaluator.answer(text) == found


def test_a_box_inside_the_reasoning_is_no_answer(comparer):
    assert graded(comparer, r"<think>\boxed{7}</think> I am not sure.", "7")["outcome"] == "no answer"
    assert graded(comparer, r"<think>\boxed{8}</think> It is \boxed{7}.", "7")["outcome"] == "correct"


WORDS = ("knight", "knave")


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        (r"\boxed{Knave}", "knave", True),
        (r"\boxed{\text{B is a \textbf{knave}.}}", "knave", True),
        ("The final answer is a knave.", "knave", True),
        (r"\boxed{knight}", "knight", False),
        (r"\boxed{a knight or a knave}", "a knight or a knave", False),
        (r"\boxed{not a knave}", "not a knave", False),
        (r"\boxed{knaves}", "knaves", False),
        (r"\boxed{\lnot knave}", r"\lnot knave", False),
        (r"\boxed{1}", "1", False),
        ("So B is a knave.", None, False),
    ],
)
def test_a_task_that_lists_its_answers_is_held_to_these_words(comparer, text, answer, correct):
    row = grading.grade([grading.Case(text, "stop", "knave", answers=WORDS)], comparer)[0]
    assert (row["answer"], row["correct"]) == (answer, correct)
    assert row["correct_boxed"] == (correct and "boxed" in text)
    cut = grading.grade([grading.Case(text, "length", "knave", answers=WORDS)], comparer)[0]
    assert not cut["correct"]
    assert cut["outcome"] == "truncated"


def test_listed_answers_never_reach_mathematics_nor_the_guard_against_copies(comparer):
    case = grading.Case(r"\boxed{b}", "stop", "b", "Who lies, $a$ or $b+1-1$?", answers=("a", "b"))
    asked = len(comparer.known)
    assert grading.grade([case], comparer, paper=False)[0]["correct"]
    same = [case._replace(text=text) for text in (r"\boxed{b+1-1}", r"\boxed{\frac{b}{1}}", r"\boxed{-b}")]
    assert not any(row["correct"] for row in grading.grade(same, comparer, paper=False))
    assert len(comparer.known) == asked


def test_each_grader_credits_what_it_should_and_nothing_else(comparer):
    cases = {
        "boxed": (r"\boxed{7}", "stop"), "stated": ("The final answer is 7.", "stop"), "bare": ("So we get 7", "stop"),
        "cut": (r"\boxed{7} but", "length"),
    }  # fmt: skip
    found = {name: graded(comparer, text, "7", finish) for name, (text, finish) in cases.items()}
    assert [name for name, row in found.items() if row["correct"]] == ["boxed", "stated"]
    assert [name for name, row in found.items() if row["correct_boxed"]] == ["boxed"]
    assert [name for name, row in found.items() if row["correct_paper"]] == ["boxed", "stated", "bare", "cut"]
    assert found["bare"]["source_paper"] == "last number"


def test_every_outcome_class_is_reached(comparer):
    cases = [(r"\boxed{7}", "stop"), (r"\boxed{8}", "stop"), ("seven", "stop"), ("one two three", "length"),
             ("I am not sure. " + "wait, let me check. " * 40, "length")]  # fmt: skip
    assert tuple(graded(comparer, text, "7", finish)["outcome"] for text, finish in cases) == grading.OUTCOMES


def test_a_text_loops_when_its_last_quarter_is_one_block_three_times_or_more():
    start = "Some text that goes somewhere and then does not come to an end. "
    assert grading.is_looping(start + "again and " * 30)
    assert grading.is_looping(start + ("again and " * 30)[:-4])  # the limit cuts anywhere
    assert not grading.is_looping(start + "again and " * 2)
    assert not grading.is_looping(
        "1 + 999999 = 1000000, so that 999999 + 1 = 1000000 too. Therefore the sum is 1000000000"
    )
    assert not grading.is_looping("")


@given(st.text(alphabet="abc ", min_size=6, max_size=12), st.integers(20, 60), st.text(max_size=40))
def test_any_block_repeated_long_enough_is_a_loop(block, times, start):
    assert grading.is_looping(start[: times * len(block) // 4] + block * times)


def test_looping_is_seen_in_what_a_real_model_writes():
    """The tiny real model, decoded greedily, ends in repetition; the real long traces, finished or cut, never
    do.
    """
    import pyarrow.parquet
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = reference("stories260k")
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = tokenizer("Tom and Lily", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        out = model.generate(ids, do_sample=False, max_new_tokens=500, eos_token_id=2, pad_token_id=0)
    text = tokenizer.decode(out[0], skip_special_tokens=True)
    assert grading.is_looping(text), text[-200:]  # "It is not angry. It is not angry. It is …"
    traces = pyarrow.parquet.read_table(reference("traces", "openr1_like.parquet"), columns=["generations"])
    assert not any(grading.is_looping(text) for row in traces["generations"].to_pylist() for text in row)


def test_long_traces_are_graded_as_their_flags_say_and_none_loops(comparer):
    rows = [
        (text, finish, trace["answer"], trace["problem"], right)
        for trace in own("traces")
        for text, finish, right in zip(
            trace["generations"], trace["finish_reasons"], trace["correctness_math_verify"], strict=True
        )
    ]
    assert len(rows) == 100
    grades = grading.grade([row[:4] for row in rows], comparer)
    assert [grade["correct"] for grade in grades] == [right for *_, right in rows]
    assert "looping" not in {grade["outcome"] for grade in grades}
    assert (
        sum(grade["outcome"] == "truncated" for grade in grades)
        == sum(row[1] == "length" for row in rows)
        > 0
    )


@given(st.text(max_size=300), st.sampled_from(["stop", "length"]))
def test_any_text_is_read_without_error(text, finish):
    row = grading.extract(text, finish)
    assert row["boxed"] == (grading.last_boxed(thoughts.answered(text)) is not None)
    assert (row["answer_paper"] is None) == (row["source_paper"] is None)


def boxes_by_definition(text):
    """What `grading.boxes` says, each box scanned on its own: as slow as it is plain."""
    closed, last_open = [], None
    for box in re.finditer(r"\\f?box(?:ed)?\s*\{", text):
        depth = 1
        for token in re.compile(r"\\\\(?!f?box(?:ed)?\s*\{)|\\[{}]|[{}]").finditer(text, box.end()):
            depth += {"{": 1, "}": -1}.get(token.group(), 0)
            if depth == 0:
                closed.append((box.start(), token.end(), text[box.end() : token.start()].strip()))
                break
        else:
            last_open = box.start()
    closed = [box for box in closed if not grading.HOLDS_NOTHING.fullmatch(box[2])]
    inner = [b for b in closed if not any(b[0] < other[0] and other[1] <= b[1] for other in closed)]
    if last_open is not None and not any(box[0] > last_open for box in inner):
        inner.append((last_open, len(text), None))
    return inner


@given(
    st.lists(
        st.sampled_from([r"\boxed{", r"\fbox {", "\\", "{", "}", "7", " ", r"\{", r"\}", "boxed{"]),
        max_size=14,
    )
)
def test_boxes_found_in_one_pass_are_those_found_one_by_one(pieces):
    text = "".join(pieces)
    assert grading.boxes(text) == boxes_by_definition(text)


@given(st.text(alphabet=r"ab{}", max_size=40))
def test_what_is_boxed_is_found_again(text):
    balanced = text.replace("{", "").replace("}", "").strip("\\")
    assert grading.last_boxed(f"x \\boxed{{{balanced}}} y") == (balanced or None)


def test_reflection_keywords_count_whatever_their_case():
    assert reflection.is_reflective("Let me Double-Check this.")
    assert not reflection.is_reflective(
        "wait, check 68-5"
    )  # what the miniature writes is none of the paper's keywords


def test_the_majority_is_of_answers_and_ties_are_shared():
    assert grading.majority(["1", "1", "2"], [True, True, False]) == 1
    assert grading.majority(["1", "2", "2"], [True, False, False]) == 0
    assert grading.majority(["0.5", r"\frac{1}{2}", "2", "2"], [True, True, False, False]) == 0.5
    assert grading.majority([None, None], [False, False]) == 0


# ---- hostile text

HOSTILE = {
    "a power tower": r"\boxed{9^{9^{9^9}}}",
    "10⁶ digits": r"\boxed{" + "7" * 10**6 + "}",
    "400 digits": r"\boxed{" + "7" * 400 + "}",
    "10⁵ braces": r"\boxed{" + "{" * 10**5 + "}" * 10**5 + "}",
    "open braces": r"\boxed{" + "{" * 10**5,
    "10⁵ open boxes": r"\boxed{" * 10**5,
    "10⁵ boxes in boxes": r"\boxed{" * 10**5 + "}" * 10**5,
    "a number in 10⁵ boxes": r"\boxed{" * 10**5 + "7" + "}" * 10**5,
    "empty boxes": r"\boxed{}" * 30_000,
    "200 kB of boxes": r"\boxed{8}, " * 20_000,
    "200 kB of thoughts": "<think></think>" * 13_000,
    "200 kB of open thoughts": "<think>" * 28_000,
    "200 kB of answer tags": "<answer>" * 25_000,
    "200 kB of labels": r"\text{answer" * 16_000,
    "200 kB of minus signs": "-" * 200_000,
    "200 kB of powers": "2^" * 100_000,
    "unbalanced braces": r"\boxed{1}}}}{{",
    "NUL bytes": "\x00\\boxed{\x007}\x00",
    "200 kB of words": "x " * 100_000 + r"\boxed{8}",
    "200 kB of statements": "answer is " * 20_000,
    "200 kB of numbers": "1," * 100_000,
    "200 kB of dollars": "answer is " + "$" * 200_000,
    "200 kB of equations": "1=" * 100_000,
    "200 kB of sums": "1+" * 100_000 + "=1",
    "an integral": r"\boxed{\int_0^{\infty} \frac{\sin(x^{x})}{x^{x^x}} dx}",
    "a huge factorial": r"\boxed{100000000!}",
    "factorials of factorials": r"\boxed{(((9!)!)!)!}",
    "a sum to 10⁹": r"\boxed{\sum_{n=1}^{1000000000} \frac{1}{n^n}}",
    "a product to 10⁹": r"\boxed{\prod_{n=1}^{1000000000} n}",
    "a huge power": r"\boxed{2^{10000000000}}",
    "a huge expansion": r"\boxed{(x+y+z+1)^{500}}",
    "a huge binomial": r"\boxed{\binom{10^{12}}{10^{11}}}",
    "a tower of e": r"\boxed{e^{e^{e^{e^{10}}}}}",
    "a tower of factorials": r"\boxed{((30!)!)!}",
    "a central binomial": r"\boxed{\binom{10^7}{5\cdot10^6}}",
    "the floor of a tower": r"\boxed{\lfloor 10^{10^8}\rfloor}",
    "a symbolic determinant": r"\boxed{\det\begin{pmatrix}"
    + r"\\".join("&".join(f"{c}_{i}" for c in "abcde") for i in range(5))
    + r"\end{pmatrix}}",
    "200 nested braces": r"\boxed{" + "{" * 200 + "7" + "}" * 200 + "}",
    "nested fractions": r"\boxed{" + r"\frac{" * 100 + "1" + "}{2}" * 100 + "}",
    "nested brackets": r"\boxed{" + "(" * 240 + ")" * 240 + "}",
    "an unevaluated modulus": r"\boxed{7^{30000000} \bmod 13}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_graded_wrong_in_two_seconds(comparer, name):
    comparer([equality.Pair("headline", r"\frac{1}{3}", r"\sqrt{3}")])  # the worker is up
    for read in (grading.extract, lambda text, _: (calculations.count(text), reflection.is_reflective(text))):
        begun = time.process_time()
        read(HOSTILE[name], "stop")
        assert time.process_time() - begun < 1
    for finish in ("stop", "length"):
        row = graded(comparer, HOSTILE[name], r"\frac{13}{2}", finish)
        assert (row["correct"], row["correct_paper"]) == (False, False)
        assert len(row["answer"] or "") <= equality.LONGEST + 1
    answer = grading.last_boxed(HOSTILE[name]) or HOSTILE[name][:400]
    for grader in ("headline", "paper"):
        comparer.known.clear()
        comparer([equality.Pair("headline", r"\frac{1}{3}", r"\sqrt{5}")])  # and up again where it was killed
        begun = time.perf_counter()
        comparer([equality.Pair(grader, r"\frac{13}{2}", answer)])
        taken = time.perf_counter() - begun
        crowded = os.getloadavg()[0] > os.cpu_count()  # then a comparison that was starved has a second try
        assert taken < (equality.KILL_WHEN_BUSY if crowded else equality.KILL_AFTER) + 0.3  # to notice it


def test_a_limit_that_passes_while_it_is_set_gives_up_on_one_pair_and_stops_nothing():
    """A machine that stood still for as long: once a worker's error, which ended the grading of a cell."""
    code = (
        "import sys; sys.path.insert(0, 'scripts'); from valley import equality\n"
        "pair = equality.Pair('headline', '1/3', '3')\n"
        "print({equality.decide(pair, 1e-6)[0] for _ in range(300)} <= {None, False})"
    )
    assert run([sys.executable, "-c", code]).strip() == "True"


def test_one_comparison_that_hangs_takes_no_other_down(comparer):
    good = (r"\boxed{0.25}", "stop", r"\frac{1}{4}")
    rows = grading.grade([good, (HOSTILE["a power tower"], "stop", r"\frac{2}{3}"), good, good], comparer)
    assert [row["correct"] for row in rows] == [True, False, True, True]
    assert [row["timeout"] for row in rows] == [False, True, False, False]


def test_a_worker_that_dies_costs_one_answer(comparer):
    """What kills a process outright (here: a signal nothing handles) is a timeout of that comparison
    alone.
    """
    comparer([equality.Pair("headline", r"\frac{1}{3}", "0.25")])
    future = comparer.pool.schedule(os.abort)
    assert equality.outcome(future)[0] is None
    assert comparer([equality.Pair("headline", r"\frac{1}{7}", r"\frac{2}{14}")]).popitem()[1][0] is True


# ---- forms, copies, sets of our own


def test_every_response_of_our_own_set_is_graded_as_it_says(comparer):
    found = agreement.own_responses(comparer)
    assert found.rows >= 100
    assert found.apart == []


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a</think>b", "b"),
        ("a</think>b</think>c", "b</think>c"),
        ("<think>a", ""),
        ("b<think>a</think>c", "bc"),
        ("b<think>a", "b"),
        ("[THINK]a[/THINK]b", "b"),
        ("<think>a</think>b<think>c</think>d", "bd"),
        ("no tags", "no tags"),
    ],
)
def test_a_thought_ends_at_the_first_closing_tag_after_its_opening(text, left):
    assert thoughts.answered(text) == left


def test_a_family_has_its_own_tags():
    assert thoughts.answered("«a»b", ("«", "»")) == "b"
    assert thoughts.answered("«a»b") == "«a»b"


def test_an_answer_that_repeats_the_problem_counts_for_the_paper_alone(comparer):
    problem = "Compute $513^2 - 487^2$."
    row = graded(comparer, r"\boxed{513^2 - 487^2}", "26000", problem=problem)
    assert (row["correct"], row["correct_boxed"], row["copied"], row["outcome"]) == (
        False,
        False,
        True,
        "wrong",
    )
    assert row["correct_paper"]
    row = graded(comparer, r"\boxed{26000}", "26000", problem=problem)
    assert (row["correct"], row["copied"]) == (True, False)


def test_the_policy_that_boxes_the_longest_formula_scores_nothing(comparer):
    problems = [
        ("Compute $2^{10}-24$.", "1000", equality.Rules()),
        ("Is $7$ prime? What is $3+4$?", "7", equality.Rules()),
    ]
    assert grading.floor(problems, comparer) == {"headline": 0, "copied": 1, "paper": 1}


@pytest.mark.parametrize("form", list(grading.FORMS))
def test_forms_of_our_own_are_read_in_time_whatever_a_model_repeats(form):
    begun = time.process_time()
    assert grading.asked("<answer>" * 25_000 + "#### " * 25_000 + "<answer>7</answer>\n#### 7", form) == "7"
    assert time.process_time() - begun < 0.5


def test_a_pattern_that_takes_too_long_answers_nothing():
    begun = time.perf_counter()
    assert grading.asked("a" * 5000 + "b", r"(a+)+$") is None
    assert (
        time.perf_counter() - begun < 20 * grading.PATTERN_SECONDS
    )  # for ever without a limit; machines are shared


@pytest.mark.parametrize(("pattern", "why"), [("(", "no regular expression"), ("answer", "no group")])
def test_a_pattern_that_cannot_work_is_refused(pattern, why):
    with pytest.raises(ValueError, match=why):
        grading.check_form(pattern)


# ---- grades that are not ours


@pytest.mark.parametrize(("benchmark", "published"), [("aime24", 6.7), ("amc23", 42.5)])
def test_grades_of_real_competition_answers_are_those_published(comparer, benchmark, published):
    path = reference("graded", f"rgeval_qwen2.5-3b-instruct_{benchmark}.jsonl")
    assert [found.apart for found in agreement.responses(path, benchmark, comparer)] == [[], []]
    labels = [float(row["verdict"]) >= 0.5 for row in lines(path)]
    assert round(100 * sum(labels) / len(labels), 1) == published


def test_grades_of_real_responses_agree_with_the_evaluator_that_the_paper_used(comparer):
    path = reference("graded", "qwen25math_math100_x8.jsonl")
    headline, paper = agreement.responses(path, "the evaluator", comparer)
    assert paper.apart == []
    assert headline.apart == [("10{,}000", "10000", False)]  # the evaluator's error, not ours


@pytest.mark.slow
def test_grades_of_long_traces_are_their_flags_but_for_traces_cut_off_and_wrong_flags(comparer):
    import pyarrow.parquet

    path = reference("traces", "openr1_like.parquet")
    found = agreement.traces(pyarrow.parquet.read_table(path).to_pylist(), comparer)
    finished = [case for case in found.apart if case[0] not in ("truncated", "no answer")]
    assert len(finished) <= 0.005 * found.rows, finished
