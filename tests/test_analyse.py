"""What the grades say beyond scores, and what stands beside the scores, by hand."""

import pandas
import pytest
from conftest import script

from valley.analysis import cells, outcomes, paper, responses, summary
from valley.grid import HEADLINE


def rows(run: str, outcomes: dict[str, list[str]], tokens: int = 100, task: str = "t") -> list[dict]:
    """Grades of one cell: a list of outcomes a problem."""
    return [
        {"model": "M", "run": run, "seed": 0, "task": task, "id": problem, "gold": "7", "answer": outcome, "tokens": tokens, "outcome": outcome,
         "correct": outcome == "correct", "correct_boxed": outcome == "correct", "correct_paper": True, "reflective": False,
         "calculations": 2.0, "wrong_calculations": 0.0, "first_wrong": None}
        for problem, found in outcomes.items() for outcome in found
    ]  # fmt: skip


def table(*made: list[dict]) -> pandas.DataFrame:
    return cells.with_clusters(pandas.DataFrame([row for cell in made for row in cell]))


def test_a_drop_splits_into_classes_and_says_what_became_of_solved_problems():
    base = rows("base", {"a": ["correct", "correct"], "b": ["correct", "wrong"], "c": ["wrong", "wrong"]})
    after = rows(
        "sft-8k", {"a": ["truncated", "correct"], "b": ["looping", "looping"], "c": ["no answer", "correct"]}
    )
    split = outcomes.drop(cells.by_problem(table(base, after)), ["t"])
    split = split[split.run == "sft-8k"].set_index("outcome")
    assert split.change["correct"] == pytest.approx(2 / 6 - 3 / 6)
    assert split.change.sum() == pytest.approx(0)  # what correct loses the others gain
    assert split.share["looping"] == pytest.approx(2 / 6)
    # The base solved a always and b half the time: weights 1 and ½.
    assert split.of_solved["correct"] == pytest.approx((1 * 0.5 + 0.5 * 0) / 1.5)
    assert split.of_solved["looping"] == pytest.approx((0.5 * 1) / 1.5)
    assert split.of_solved.sum() == pytest.approx(1)


def test_a_base_that_was_evaluated_once_stands_beside_every_seed():
    base = rows("base", {"a": ["correct", "correct"]})
    after = [row | {"seed": seed} for seed in (1, 2) for row in rows("sft-8k", {"a": ["wrong", "correct"]})]
    split = outcomes.drop(cells.by_problem(table(base, after)), ["t"])
    lost = split[(split.run == "sft-8k") & (split.outcome == "correct")]
    assert lost.seed.tolist() == [1, 2]
    assert lost.change.tolist() == [-0.5, -0.5]
    two = [row | {"seed": 1} for row in base] + base
    split = outcomes.drop(cells.by_problem(table(two, after)), ["t"])
    assert split[split.run == "sft-8k"].set_index(["seed", "outcome"]).change.xs(
        "correct", level=1
    ).isna().tolist() == [False, True]


def test_a_cell_without_its_base_has_no_drop_but_its_shares():
    split = outcomes.drop(cells.by_problem(table(rows("sft-8k", {"a": ["correct", "wrong"]}))), ["t"])
    assert split.change.isna().all()
    assert split.of_solved.isna().all()
    assert split.share.sum() == pytest.approx(1)


def test_a_lower_limit_cuts_what_is_longer_and_a_cut_response_is_wrong():
    grades = table(
        rows("base", {"a": ["correct"], "b": ["correct"]}, 400),
        rows("base", {"c": ["correct"], "d": ["wrong"]}, 1600),
    )
    budget = outcomes.budget(grades, ["t"]).set_index("limit").accuracy
    assert budget.to_dict() == {100: 0, 200: 0, 400: 0.5, 800: 0.5, 1600: 0.75}


def test_the_headline_is_the_mean_of_tasks_not_of_responses():
    grades = table(
        rows("base", {"a": ["correct"]}),
        rows("base", {"b": ["wrong"], "c": ["wrong"], "d": ["wrong"]}, task="u"),
    )
    assert outcomes.budget(grades, ["t", "u"]).accuracy.iloc[-1] == pytest.approx(0.5)


def test_accuracy_in_bins_has_intervals_of_the_confidence_that_is_asked_for(tmp_path):
    found = {
        problem: ["correct" if n % 3 else "wrong", "correct" if n % 2 else "wrong"]
        for n, problem in enumerate("abcdefgh")
    }
    grades = tmp_path / "M/base/seed0/grades.parquet"
    grades.parent.mkdir(parents=True)
    table(rows("base", found)).drop(columns=["model", "run", "seed", "problem"]).to_parquet(grades)
    widths = {}
    for confidence in (0.5, 0.95):
        out = tmp_path / str(confidence)
        script("analyse", "--grades", grades, "--headline", "t", "--length", "t", "--calculations", "t",
               "--confidence", confidence, "--out", out)  # fmt: skip
        for name in ("accuracy_by_length", "accuracy_by_steps"):
            row = pandas.read_csv(out / f"{name}.csv").iloc[0]
            widths[name, confidence] = row.high - row.low
    for name in ("accuracy_by_length", "accuracy_by_steps"):  # normal intervals: 0.674 and 1.960 errors
        assert widths[name, 0.95] / widths[name, 0.5] == pytest.approx(1.95996 / 0.67449, rel=1e-4)


def cell(seed: int, accuracy: float, run: str = "base", examples: int = 0) -> dict:
    return {"model": "S", "run": run, "seed": seed, "stage": "sft" if examples else "base", "recipe": "protocol", "step": None,
            "examples": examples, "task": HEADLINE, "accuracy": accuracy, "length": 100.0, "accuracy_paper": accuracy + 0.1,
            "accuracy_paper_low": accuracy, "accuracy_paper_high": accuracy + 0.2}  # fmt: skip


def test_the_noise_band_needs_five_pairs_and_comes_from_repeated_cells():
    few = pandas.DataFrame([cell(0, 0.4), cell(1, 0.6), cell(2, 0.5)])  # three pairs
    assert summary.replicates(few, 0.95, ["S"]).empty
    more = pandas.concat(
        [few, pandas.DataFrame([cell(s, a, "sft-8k", 8000) for s, a in enumerate([0.1, 0.3, 0.2])])]
    )
    found = summary.replicates(more, 0.95, ["S"]).set_index("measure").loc["accuracy"]
    assert (found.pairs, found.sd) == (6, pytest.approx(0.1))
    assert found.band == pytest.approx(2.776 * 2**0.5 * 0.1, rel=1e-3)  # t with 4 degrees of freedom
    wild = pandas.DataFrame([cell(s, a, "sft-8k.short", 8000) for s, a in enumerate([0.1, 0.9, 0.5])])
    pandas.testing.assert_frame_equal(
        summary.replicates(pandas.concat([more, wild.assign(recipe="short")]), 0.95, ["S"]),
        summary.replicates(more, 0.95, ["S"]),
    )


def test_the_noise_band_is_of_trainings_by_the_protocol_alone():
    """Of a given base only the sampling differs, and RL by a recipe is a control whatever it starts from."""
    seeds = [0.1, 0.3, 0.2, 0.4]
    sft = pandas.DataFrame([cell(s, a, "sft-8k", 8000) for s, a in enumerate(seeds)])
    base = pandas.DataFrame([cell(s, 0.5 + a / 100) for s, a in enumerate(seeds)])
    control = pandas.DataFrame([cell(s, 2 * a, "base+rl.16k") for s, a in enumerate(seeds)])
    every = pandas.concat([sft, base, control.assign(stage="rl")])
    pandas.testing.assert_frame_equal(summary.replicates(every, 0.95), summary.replicates(sft, 0.95))
    trained = summary.replicates(every, 0.95, ["S"]).set_index("measure")
    assert trained.pairs["accuracy"] == 12  # a base that is trained here is a training too


def test_the_papers_values_stand_beside_ours_by_its_grader_whatever_the_case_of_names():
    reference = pandas.DataFrame([
        {"model": "Gemma-3-1B-it", "train_examples": 0, "accuracy_pct": 23.6, "response_tokens": 900, "source": "f"},
        {"model": "Gemma-3-1B-it", "train_examples": 220000, "accuracy_pct": 14.6, "response_tokens": 9000, "source": "f"},
    ])  # fmt: skip
    ours = pandas.DataFrame([cell(0, 0.2), cell(0, 0.1, "sft-220k", 225129)])
    found = paper.beside_paper(ours, reference, {"S": "gemma-3-1b-it"})
    assert found.run.tolist() == ["base", "sft-220k"]
    assert found.difference.tolist() == pytest.approx([0.3 - 0.236, 0.2 - 0.146])
    missing = paper.beside_paper(ours[:1], reference, {"S": "gemma-3-1b-it"})
    assert missing.paper.tolist() == pytest.approx([0.236, 0.146])  # drawn even where ours is not there yet
    assert missing.ours.isna().tolist() == [False, True]


def test_an_example_is_cut_around_its_first_error():
    text = "x" * 2000 + " 2+2=5 " + "y" * 2000
    found = responses.pieces(text)
    assert found["error"] == "2+2=5"
    assert len(found["before"]) < 900
    assert found["before"].endswith("x ")
    assert found["after"].startswith(" y")
    assert responses.pieces("all is well")["error"] == ""
