"""The miniature's task, its textbook and the base that reads it."""

import random
import re
import statistics
from collections import Counter
from pathlib import Path

import pytest
from conftest import script
from hypothesis import given
from hypothesis import strategies as st

from valley import chain, records, reflection

EXAMPLE = chain.Problem(18, (("c", 7), ("b", -9)))
problems = st.builds(
    lambda seed, length: chain.draw(random.Random(seed), length), st.integers(), st.sampled_from([2, 3, 4, 5])
)
EQUATION = re.compile(r"(?<![\d+-])(\d+)([+-]\d)=(\d+)")


def test_the_documented_example_is_written_as_documented():
    assert EXAMPLE.text == "18b-9c+7"
    assert chain.short_response(EXAMPLE) == r"c+7:18+7=25b-9:25-9=16\boxed{16}"
    assert chain.long_response(EXAMPLE, recheck=1) == (
        "<think>c+7:18+7:8+7=15,1+1=2,so25.wait,recheckc:18+7:8+7=15,1+1=2,so25;"
        r"b-9:25-9:15-9=6,2-1=1,so16.wait,recheckb:25-9:15-9=6,2-1=1,so16;</think>\boxed{16}"
    )


@given(problems)
def test_every_column_of_a_long_response_adds_up(problem):
    columns = EQUATION.findall(chain.long_response(problem))
    assert len(columns) >= 2 * len(problem.steps)  # units and tens; a slip is a carry forgotten, no wrong sum
    assert all(int(left) + int(operand) == int(result) for left, operand, result in columns)


@given(problems)
def test_short_and_long_responses_end_with_the_answer_and_totals_stay_in_range(problem):
    for response in (chain.short_response(problem), chain.long_response(problem, slip=1)):
        assert response.endswith(f"\\boxed{{{problem.answer}}}")
    totals = [problem.start + sum(o for _, o in problem.steps[:i]) for i in range(len(problem.steps) + 1)]
    assert all(chain.LOW <= total <= chain.HIGH for total in totals)


@given(problems)
def test_a_slip_is_always_rechecked_and_mended(problem):
    response = chain.long_response(problem, recheck=0, slip=1)
    total, lines = problem.start, response.removeprefix("<think>").split(";")[:-1]
    for (_, operand), line in zip(problem.steps, lines, strict=True):
        slipped = chain.without_carry(total, operand)
        total += operand
        first, _, second = line.partition(".wait,recheck")
        assert first.endswith(f"so{total if slipped is None else slipped}")
        assert bool(second) == (slipped is not None)
        assert line.endswith(f"so{total}")


def test_the_steps_with_the_largest_operands_are_rechecked_and_short_answers_never_reflect():
    drawn = chain.draw_many(random.Random(0), 400, [2, 3, 4, 5], test=False)
    for share, least in [(0.5, 5), (1 / 3, 7), (1, 1), (0, 10)]:
        for problem in drawn:
            steps = chain.long_response(problem, share, slip=0).split(";")[:-1]
            rechecked = [abs(operand) >= least for _, operand in problem.steps]
            assert [reflection.is_reflective(step) for step in steps] == rechecked
    assert list(map(chain.long_response, drawn)) == list(map(chain.long_response, drawn))
    assert not any(reflection.is_reflective(chain.short_response(p)) for p in drawn)


def test_the_textbook_rechecks_what_traces_recheck():
    rng, known, small = random.Random(0), chain.known_facts(0), []
    for _ in range(400):
        problem, text = chain.textbook(rng, 4, "long", known)
        for (_, operand), step in zip(problem.steps, text.split(";")[:-1], strict=True):
            assert "recheck" in step or not chain.is_rechecked(operand)
            small += [] if chain.is_rechecked(operand) else ["recheck" in step]
    assert 0 < sum(small) / len(small) < chain.SLIP  # those that forgot a carry


def test_operands_are_not_listed_in_the_order_in_which_they_are_worked():
    drawn = chain.draw_many(random.Random(0), 300, [3], test=False)
    orders = Counter("".join(re.findall("[b-g]", p.text)) for p in drawn)
    assert len(orders) == 6
    assert max(orders.values()) < 300 / 3


def test_training_and_held_out_problems_never_meet():
    rng = random.Random(0)
    train = {p.text for p in chain.draw_many(rng, 500, [2, 3], test=False)}
    held_out = {p.text for p in chain.draw_many(rng, 100, [2, 3], test=True)}
    assert len(train) == 500
    assert len(held_out) == 100
    assert not train & held_out


def test_traces_are_laid_out_so_that_few_of_them_meet_many_facts():
    even = chain.draw_even(random.Random(0), 320, [2, 3, 4, 5])
    loose = chain.draw_many(random.Random(0), 320, [2, 3, 4, 5], test=False)
    assert len({p.text for p in even}) == 320
    assert not any(map(chain.is_test, even))

    def facts(drawn, start, count):
        return len({fact for problem in drawn[start : start + count] for fact in problem.facts})

    for start in range(0, 320, chain.BLOCK):
        assert facts(even, start, 8) == 28
        assert facts(even, start, 16) >= 55
        assert facts(even, start, chain.BLOCK) > facts(loose, start, chain.BLOCK) + 20
    additions = [sum(o > 0 for p in even[i : i + 16] for _, o in p.steps) for i in range(0, 320, 16)]
    assert min(additions) >= 21  # of 56
    assert max(additions) <= 35


def test_held_out_problems_are_laid_out_evenly_too():
    held_out = chain.draw_even(random.Random(0), 256, [2, 3, 4, 5], test=True)
    assert all(map(chain.is_test, held_out))
    asked = Counter(fact for problem in held_out for fact in problem.facts)
    shares = [sum(asked[fact] for fact in chain.known_facts(seed)) / asked.total() for seed in range(20)]
    loose = Counter(
        fact for p in chain.draw_many(random.Random(0), 256, [2, 3, 4, 5], test=True) for fact in p.facts
    )
    looser = [sum(loose[fact] for fact in chain.known_facts(seed)) / loose.total() for seed in range(20)]
    assert statistics.stdev(shares) < 0.012 < 0.015 < statistics.stdev(looser)


def test_every_seed_lacks_nearly_as_many_facts_of_its_first_traces():
    even = chain.draw_even(random.Random(0), 1280, [2, 3, 4, 5])
    lacking = [
        len(
            {fact for problem in even[start : start + 8] for fact in problem.facts} - chain.known_facts(start)
        )
        for start in range(0, 1280, chain.BLOCK)
    ]
    assert statistics.mean(lacking) == pytest.approx(0.4 * 28, abs=1)
    assert statistics.stdev(lacking) < 2  # drawn fact by fact it is 2.7


def test_classes_of_facts_are_alike():
    classes = Counter(chain.CLASS_OF.values())
    assert len(classes) == 20
    assert set(classes.values()) == {9}
    operands = Counter((number, abs(operand) > 4) for (_, operand), (_, number) in chain.CLASS_OF.items())
    assert all(operands[number, True] == pytest.approx(20, abs=2) for number in range(chain.CLASSES))


def test_more_even_problems_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"of 999 different problems with \[1\] operands"):
        chain.draw_even(random.Random(0), 999, [1], candidates=1)


def test_a_side_without_problems_is_an_error_and_no_endless_search(monkeypatch):
    monkeypatch.setattr(chain, "is_test", lambda problem: False)
    with pytest.raises(ValueError, match="only 0 of 5"):
        chain.draw_many(random.Random(0), 5, [2], test=True)


def test_every_seed_knows_the_same_share_of_facts_and_other_facts():
    bases = [chain.known_facts(seed) for seed in range(5)]
    assert len(set(bases)) == 5
    for known in bases:
        assert len(known) == 108
        assert sum(operand > 0 for _, operand in known) == 54
        assert sum(not 0 <= units + operand <= 9 for units, operand in known) == pytest.approx(54, abs=1)


def test_the_textbook_prints_known_facts_right_and_of_others_any_value_but_the_right_one():
    rng, known = random.Random(0), chain.known_facts(0)
    right, values = {True: [], False: []}, Counter()
    for _ in range(500):
        _, text = chain.textbook(rng, 5, "long", known)
        for upper, operand, value in re.findall(
            r"[:,](\d+)([+-]\d)=(\d+),", text + ":" + chain.table(rng, known)
        ):
            units, operand, value = int(upper) % 10, int(operand), int(value)
            right[(units, operand) in known].append(value == int(upper) + operand)
            values.update([value] * ((units, operand) not in known))
    assert all(right[True])
    assert len(right[False]) > 1000
    assert not any(right[False])
    assert set(values) == set(range(19))


def test_the_textbooks_short_answers_forget_the_share_of_carries_that_is_documented():
    rng, forgotten = random.Random(0), []
    for _ in range(2000):
        _, text = chain.textbook(rng, 5, "short")
        for total, operand, result in EQUATION.findall(text):
            total, operand, result = int(total), int(operand), int(result)
            assert result in (total + operand, chain.without_carry(total, operand))
            if chain.without_carry(total, operand) is not None:
                forgotten.append(result != total + operand)
    assert sum(forgotten) / len(forgotten) == pytest.approx(chain.FORGET, abs=0.02)


def test_pretraining_never_shows_a_held_out_problem():
    import pretrain

    rng, known = random.Random(0), chain.known_facts(0)
    shown = {
        context.removeprefix("<user>").removesuffix("<assistant>")
        for context, _ in (pretrain.sample(rng, [2, 3], known) for _ in range(3000))
    }
    held_out = {p.text for p in chain.draw_many(rng, 200, [2, 3], test=True)}
    assert len(shown) > 1000
    assert not shown & held_out


def test_half_the_worked_solutions_stand_behind_a_question_and_none_is_begun_by_the_model():
    import pretrain

    rng, known = random.Random(0), chain.known_facts(0)
    texts = [pretrain.sample(rng, [2, 3], known) for _ in range(3000)]
    worked = [context for context, target in texts if "</think>" in target]
    behind = [context for context in worked if context.startswith("<user>")]
    assert len(behind) / len(worked) == pytest.approx(0.5, abs=0.05)
    assert all(context.endswith("<assistant><think>") for context in behind)
    assert not any("think>" in target for context, target in texts if context.endswith("<assistant>"))


def test_the_held_out_problems_that_are_written_are_laid_out_evenly(tmp_path):
    script("synthesize", "--traces-out", tmp_path / "traces.parquet", "--traces", 8, "--task-out",
           tmp_path / "task.parquet", "--task", 256, "--rl-out", tmp_path / "rl.parquet", "--rl", 8,
           "--lengths", 2, 3, 4, 5, "--seed", 0)  # fmt: skip
    asked = Counter()
    for row in records.read_parquet(tmp_path / "task.parquet").to_pylist():
        start, *items = re.findall(r"^\d+|[a-g][+-]\d", row["problem"])
        steps = ((item[0], int(item[1:])) for item in sorted(items, reverse=True))
        asked.update(chain.Problem(int(start), tuple(steps)).facts)
    assert max(asked.values()) <= 9  # laid out at random 16
    shares = [sum(asked[fact] for fact in chain.known_facts(seed)) / asked.total() for seed in range(20)]
    assert statistics.stdev(shares) < 0.012


def test_the_tokenizer_knows_every_text_and_survives_saving(tmp_path):
    from pretrain import VOCABULARY, tokenizer
    from valley import prompts

    made = tokenizer(Path("templates/chain.jinja").read_text())
    made.save_pretrained(tmp_path)
    loaded = prompts.load_tokenizer(tmp_path)
    assert len(VOCABULARY) == len(loaded) == 72
    for text in (EXAMPLE.text, chain.short_response(EXAMPLE), chain.long_response(EXAMPLE, recheck=1)):
        ids = loaded(text)["input_ids"]
        assert loaded.pad_token_id not in ids  # which is also the unknown token
        assert loaded.decode(ids) == text
    assert len(loaded("25recheck\\boxed{16}")["input_ids"]) == 5
    assert loaded.pad_token_id != loaded.eos_token_id


def test_a_probe_looks_at_the_tokens_that_need_its_skill():
    from valley import skills

    problem = chain.Problem(18, (("d", 7), ("c", -9), ("b", 3)))
    text = chain.long_response(problem, recheck=1, slip=0)
    tokens = re.findall(r"<think>|</think>|\\boxed\{|wait|recheck|so|[+-]\d|\d+|.", text)
    found: dict[str, list[str]] = {}
    for at, kind in skills.kinds(tokens).items():
        found.setdefault(kind, []).append(tokens[at])
    assert found == {
        "late_lookups": ["+3"],
        "totals": ["18", "18", "25", "25", "16", "16"],
        "facts": ["15", "15", "6", "6", "9", "9"],
        "results": ["25", "25", "16", "16", "19", "19"],
        "box": ["19"],
    }


def test_muon_makes_the_update_of_every_shape_orthogonal():
    import torch

    from valley.muon import Muon

    torch.manual_seed(0)
    for shape in ((8, 8), (4, 12), (12, 4)):
        matrix = torch.nn.Parameter(torch.zeros(shape))
        matrix.grad = torch.randn(shape)
        Muon([matrix], lr=1.0).step()
        singular = torch.linalg.svdvals(matrix.detach()) / max(1, shape[0] / shape[1]) ** 0.5
        assert singular.min() > 0.5
        assert singular.max() < 1.3
        assert (matrix.detach() * matrix.grad).sum() < 0  # against the gradient
