"""Studies that deceive, each in a known way: what the verdict on the claim they fool must say."""

import forge
import numpy
import pytest

from valley.analysis import estimates


@pytest.fixture
def rng():
    return numpy.random.default_rng(3)


def test_a_valley_by_truncation_alone_holds_but_names_what_was_cut_off(rng):
    row = forge.held(forge.study(forge.truncation_only(rng)))["C1", "loss"]
    assert row["verdict"] == "holds, but"
    assert (
        "50% of responses are cut off against 0%: among those finished on both sides it is undecided"
        in row["but"]
    )


def test_a_valley_that_the_grader_makes_holds_but_says_what_no_grader_can_read(rng):
    row = forge.held(forge.study(forge.grader_bug(rng)))["C1", "loss"]
    assert row["verdict"] == "holds, but"
    assert "no grader can read 40% of responses against 0%" in row["but"]


def test_recovery_by_memorised_problems_holds_but_not_on_the_others(rng):
    made, leaks = forge.memorised(rng)
    row = forge.held(forge.study(made), leaks=leaks)["C2", "recovery"]
    assert row["verdict"] == "holds, but"
    assert "142 problems occur in the traces: on the others it is undecided" in row["but"]


def test_a_drop_in_one_benchmark_alone_holds_but_rests_on_it(rng):
    made = forge.one_benchmark(rng)
    able = {
        cell: answers for cell, answers in made.items() if cell.model not in ("qwen2.5-0.5b", "llama3.2-1b")
    }
    row = forge.held(forge.study(able))["C1", "loss"]
    assert row["verdict"] == "holds, but"
    assert "it rests on amc23 alone" in row["but"]


def test_copied_seeds_are_noticed_and_count_once(rng):
    made = forge.copied_seeds(rng)
    study = forge.study(made)
    once = forge.study({cell: answers for cell, answers in made.items() if cell.seed == 0})
    several, single = forge.held(study), forge.held(once)
    assert len(study.copies) == 9 * 6 * 2
    for part in (("C1", "loss"), ("C2", "recovery"), ("C2", "gain")):
        assert several[part]["verdict"].removesuffix(", but") == single[part]["verdict"]
    row, _ = estimates.estimate(
        study, "gemma3-1b", {"sft-8k": 1.0}, {"base": 1.0}, "accuracy", "minus", forge.TASKS
    )
    assert row.trainings == 1


def test_verdicts_on_copied_cells_say_so(rng):
    made = forge.honest(rng, seeds=2)
    made |= {cell: made[cell._replace(seed=0)] for cell in made if cell.run == forge.SMALLEST}
    row = forge.held(forge.study(made))["C1", "loss"]
    assert row["verdict"] == "holds, but"
    assert "/sft-8k/1 is a copy of" in row["but"]


def test_the_same_sample_k_times_is_said(rng):
    row = forge.held(forge.study(forge.same_samples(forge.honest(rng))))["C1", "loss"]
    assert row["verdict"] == "holds, but"
    assert "the samples of" in row["but"]


def test_a_missing_model_leaves_open_what_it_could_change_and_is_named(rng):
    made = forge.honest(rng)
    gone = {cell: answers for cell, answers in made.items() if cell.model != "gemma3-1b"}
    rows = forge.held(forge.study(gone, list(made)))
    assert rows["C2", "never"]["verdict"] == "undecided"
    assert "4 cells are missing, gemma3-1b/" in rows["C2", "never"]["why"]
    assert rows["C2", "gain"]["verdict"] == "holds"  # does not speak of it


def test_other_right_answers_under_the_same_ids_are_named(rng):
    made = forge.honest(rng)
    for cell, answers in made.items():
        answers.gold["amc23"] = ["1" if cell.run == forge.SMALLEST else "2"] * 40
    row = forge.held(forge.study(made))["C1", "loss"]
    assert "right answers of amc23 differ between cells under the same ids" in row["but"]


def test_benchmarks_that_were_not_taken_out_of_the_traces_are_named(rng):
    rows = forge.held(forge.study(forge.honest(rng)), leaking=("math500",))
    assert "the problems of math500 were not taken out of the traces" in rows["C2", "recovery"]["but"]


@pytest.mark.parametrize("accuracy", [0.005, 0.985])
def test_nothing_is_seen_where_nothing_happens_at_the_edge(rng, accuracy):
    rows = forge.held(forge.study(forge.at_the_edge(rng, accuracy)))
    for part in (("C1", "loss"), ("C2", "recovery"), ("C2", "gain"), ("C2", "never")):
        assert rows[part]["verdict"] == "undecided"


def test_an_honest_study_of_the_papers_effects_holds_without_a_but(rng):
    rows = forge.held(forge.study(forge.honest(rng)))
    for part in (("C1", "loss"), ("C2", "recovery"), ("C2", "gain"), ("C3", "jump"), ("C3", "efficiency")):
        assert rows[part]["verdict"] == "holds", rows[part]
