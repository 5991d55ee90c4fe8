"""The miniature's task."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valley import chain

EXAMPLE = chain.Problem(63, (("b", 5), ("c", -7)))
problems = st.builds(
    lambda seed, length: chain.draw(random.Random(seed), length), st.integers(), st.sampled_from([2, 3, 4])
)


def test_the_documented_example_is_written_as_documented():
    assert EXAMPLE.text == "63b+5c-7"
    assert chain.short_response(EXAMPLE) == r"b+5:63+5=68c-7:68-7=61\boxed{61}"
    assert chain.long_response(EXAMPLE) == (
        "<think>b+5:63+5:3+5=8,6+0=6,so68.wait,check68-5:8-5=3,6-0=6,so63ok,so68;"
        r"c-7:68-7:8-7=1,6-0=6,so61.wait,check61+7:1+7=8,6+0=6,so68ok,so61;</think>\boxed{61}"
    )


@given(problems)
def test_every_column_of_a_long_response_adds_up(problem):
    columns = re.findall(r"(?<![\d+-])(\d+)([+-]\d)=(\d+)", chain.long_response(problem))
    assert len(columns) == 4 * len(problem.steps)  # units and tens, of the step and of its check
    assert all(int(left) + int(operand) == int(result) for left, operand, result in columns)


@given(problems)
def test_short_and_long_responses_end_with_the_answer_and_totals_stay_two_digit(problem):
    for response in (chain.short_response(problem), chain.long_response(problem)):
        assert response.endswith(f"\\boxed{{{problem.answer}}}")
    totals = [problem.start + sum(o for _, o in problem.steps[:i]) for i in range(len(problem.steps) + 1)]
    assert all(10 <= total <= 99 for total in totals)


def test_training_and_held_out_problems_never_meet():
    rng = random.Random(0)
    train = {p.text for p in chain.draw_many(rng, 500, [2, 3], test=False)}
    held_out = {p.text for p in chain.draw_many(rng, 100, [2, 3], test=True)}
    assert len(train) == 500
    assert len(held_out) == 100
    assert not train & held_out


def test_a_side_without_problems_is_an_error_and_no_endless_search(monkeypatch):
    monkeypatch.setattr(chain, "is_test", lambda problem: False)
    with pytest.raises(ValueError, match="only 0 of 5"):
        chain.draw_many(random.Random(0), 5, [2], test=True)


def test_pretraining_never_shows_a_held_out_problem_with_its_answer():
    import pretrain

    rng = random.Random(0)
    texts = [pretrain.sample(rng, [2]) for _ in range(3000)]
    answered = {
        context.removeprefix("<user>").removesuffix("<assistant>")
        for context, text in texts
        if "boxed" in text
    }
    assert answered
    for text in answered:
        steps = tuple((label, int(operand)) for label, operand in re.findall(r"([b-g])([+-]\d)", text))
        assert not chain.is_test(chain.Problem(int(text[:2]), steps))


def test_the_tokenizer_knows_every_text_and_survives_saving(tmp_path):
    from pretrain import VOCABULARY, tokenizer
    from valley import prompts

    made = tokenizer(Path("templates/chain.jinja").read_text())
    made.save_pretrained(tmp_path)
    loaded = prompts.load_tokenizer(tmp_path)
    assert len(VOCABULARY) == len(loaded) == 53
    for text in (EXAMPLE.text, chain.short_response(EXAMPLE), chain.long_response(EXAMPLE)):
        ids = loaded(text)["input_ids"]
        assert loaded.pad_token_id not in ids  # which is also the unknown token
        assert loaded.decode(ids) == text
    assert loaded.pad_token_id != loaded.eos_token_id
