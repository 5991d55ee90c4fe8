"""Studies that deceive, each in a known way: what the verdict on the claim they fool must say."""

import math
import re

import forge
import numpy
import pandas
import pytest
from conftest import script

from valley.analysis import estimates, forged
from valley.analysis.cells import Answers
from valley.grading import GRADERS
from valley.grid import Cell


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


def test_models_that_get_all_right_alike_are_no_copies(rng):
    made = {cell: one for cell, one in forge.honest(rng).items() if cell.run == forge.SMALLEST}
    first = next(iter(made))
    for task in made[first].ids:
        forge.set_correct(made[first], task, 1)
    made = {first: made[first], first._replace(seed=1): made[first]}
    assert not forge.study(made).copies
    made[first].column(task, "correct")[7] = 0
    assert forge.study(made).copies == {first._replace(seed=1): first}


def test_checkpoints_of_one_training_are_no_copies(rng):
    one = next(iter(forge.honest(rng).values()))
    runs = ["sft-8k+rl@10", "sft-8k+rl", "sft-8k+rl@20"]
    assert not forge.study({Cell("M", run, 0): one for run in runs}).copies
    other = Cell("M", "base+rl@10", 0)
    assert list(forge.study({Cell("M", run, 0): one for run in runs} | {other: one}).copies) == [other]


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


def test_cells_of_fewer_samples_than_the_others_are_named(rng):
    made = forge.honest(rng)
    few = forge.cells(*forge.truths(), rng, tasks=forged.PAPER_DESIGN | {"aime24": (30, 2)})
    mixed = {cell: few[cell] if cell.run == forge.SMALLEST else answers for cell, answers in made.items()}
    row = forge.held(forge.study(mixed))["C1", "loss"]
    assert "cells have different numbers of samples on aime24" in row["why"]
    assert "different numbers" not in forge.held(forge.study(made))["C1", "loss"]["why"]


@pytest.mark.parametrize("others", [25, 30])
def test_cells_that_answered_other_problems_are_not_compared(rng, others, capsys):
    made = forge.honest(rng)
    odd = next(cell for cell in made if cell.run == forge.SMALLEST)
    ids = made[odd].ids | {"aime24": [f"other {i}" for i in range(others)]}
    with pytest.raises(SystemExit) as stopped:
        forge.study(made | {odd: made[odd]._replace(ids=ids)})
    said = f"{stopped.value} {capsys.readouterr().err}"
    assert f"{odd}: answered other problems of aime24 than the other cells" in said


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


# What each part of a claim looks at: poisoned alone, it alone (and what rests on it) may change its verdict.
SMALL = ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b", "gemma3-1b")
STEPS = ("90",)


@pytest.fixture(scope="module")
def whole() -> dict[Cell, Answers]:
    """Five models of the paper's grid with controls of the smallest size, RL, arithmetic and reflection."""
    asked = [
        cell
        for cell in forge.wanted(rl=True)
        if cell.model in SMALL and (cell.parsed.step is None or str(cell.parsed.step) in STEPS)
    ]
    asked += [Cell(model, f"sft-8k.{recipe}", 0) for model in SMALL for recipe in ("short", "matched")]
    truths = forged.paper_truths(asked, forge.NAMES, forge.EXAMPLES, forge.REFERENCE)
    return forge.cells(*truths, numpy.random.default_rng(5))


def poisoned(made: dict, runs: str, tasks: tuple, columns: tuple, change, models: tuple = SMALL) -> dict:
    """A copy in which some measures of some runs on some tasks are others: `change` of (them, the base's)."""
    copied = {cell: answers._replace(columns=dict(answers.columns)) for cell, answers in made.items()}
    for cell, answers in copied.items():
        if re.fullmatch(runs, cell.run) and cell.model in models:
            for task in tasks:
                answers.columns[task] = answers.columns[task].copy()
                for name in columns:
                    base = made[cell.sibling("base")].column(task, name)
                    answers.column(task, name)[:] = change(answers.column(task, name), base)
    return copied


def verdicts(made: dict, **known) -> dict[str, str]:
    rows = forge.held(forge.study(made), **known)
    return {" ".join(key): row["verdict"] for key, row in rows.items() if key[1]}


@pytest.fixture(scope="module")
def before(whole) -> dict[str, str]:
    """The verdicts on the parts before anything is poisoned."""
    return verdicts(whole)


HEAD, GRADED = forged.PAPER_HEADLINE, tuple(GRADERS.values())
ARITHMETIC, LENGTH = ("arithmetic",), ("math500",)
PAPERS, OURS = (GRADERS["paper"],), tuple(name for key, name in GRADERS.items() if key != "paper")
LATER = "sft-(16|32|64|128|220)k"  # all but the smallest: one factor leaves the scatter of the curve


@pytest.mark.parametrize(
    ("runs", "tasks", "columns", "change", "models", "expected"),
    [
        ("base", ARITHMETIC, GRADED, lambda own, base: own * 0.5, SMALL, {"C5 loss"}),
        ("sft-(64|128|220)k", ARITHMETIC, GRADED, lambda own, base: own * 0.75, SMALL, {"C5 recovery"}),
        ("sft-8k", ARITHMETIC, ("tokens",), lambda own, base: base, SMALL, {"C5 length"}),
        ("sft-8k", ARITHMETIC, ("wrong_calculations",), lambda own, base: own * 4, SMALL, {"C5 no worse a step"}),
        ("sft-8k", LENGTH, ("tokens",), lambda own, base: base, SMALL, {"C3 jump", "C3 efficiency", "C4 longer"}),
        ("base", LENGTH, ("reflective",), lambda own, base: own * 0 + 0.2, SMALL, {"C4 before"}),
        ("sft-8k", LENGTH, ("reflective",), lambda own, base: own * 0.3, ("qwen2.5-0.5b", "qwen2.5-7b"), {"C4 after"}),
        ("sft-16k", LENGTH, ("tokens_reflective",), lambda own, base: own * 0.2, SMALL, {"C4 longer"}),
        (r"sft-8k\+rl.*", HEAD, GRADED, lambda own, base: own * 0 + 0.9, SMALL, {"C6 below", "C6 below at each"}),
        (r"sft-128k\+rl.*", LENGTH, ("tokens",), lambda own, base: own * 3, SMALL, {"C6 shorter"}),
        ("sft-220k", HEAD, GRADED, lambda own, base: own * 1.15, ("qwen2.5-1.5b",), {"C2 gain"}),
        ("sft-8k.short", HEAD, GRADED, lambda own, base: own * 0.3, SMALL, {"C1 control short"}),
        ("sft-8k.matched", HEAD, GRADED, lambda own, base: own * 0 + 0.9, SMALL, {"C1 control matched", "C2 control matched"}),
        (r"sft-8k(\.short)?", HEAD, GRADED, lambda own, base: numpy.minimum(1, base * 1.05), ("qwen2.5-1.5b",), {"C1 loss"}),
        ("sft-8k", HEAD, PAPERS, lambda own, base: base * 0.8, SMALL, {"C1 depth"}),
        # A curve that scatters more says that trainings do, and so the depth of another model is less sure.
        ("sft-(64|128|220)k", HEAD[:2], GRADED, lambda own, base: own * 0.5, ("qwen2.5-7b",), {"C2 recovery", "C1 depth"}),
        ("base", HEAD, OURS, lambda own, base: own * 0.5, ("gemma3-1b",), {"C2 never", "C2 never at any size"}),
        ("base", HEAD, OURS, lambda own, base: own * 0.9, ("qwen2.5-0.5b",), {"C2 never at any size"}),
        ("base", LENGTH, ("tokens",), lambda own, base: own * 8, ("qwen2.5-7b",), {"C3 jump"}),
        (LATER, LENGTH, ("tokens",), lambda own, base: own * 5, ("qwen2.5-7b",), {"C3 efficiency"}),
        (r"sft-8k\+rl@90", HEAD, GRADED, lambda own, base: numpy.minimum(1, base * 3 + 0.2), ("qwen2.5-0.5b",), {"C6 below at each"}),
        (r"sft-128k\+rl.*", HEAD, GRADED, lambda own, base: own * 0.6, ("qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b"), {"C6 above"}),
        (r"base\+rl.*", HEAD, PAPERS, lambda own, base: own * 0.4, ("qwen2.5-0.5b",), {"C6 end at 0.5B"}),
        ("base", HEAD, PAPERS, lambda own, base: numpy.minimum(1, own * 2), ("qwen2.5-0.5b",), {"C6 end at 0.5B over base"}),
        ("sft-128k", HEAD, PAPERS, lambda own, base: numpy.minimum(1, own * 1.5), ("qwen2.5-0.5b",), {"C6 gain at 0.5B"}),
    ],
)  # fmt: skip
def test_only_the_verdict_on_what_was_poisoned_moves(
    whole, before, runs, tasks, columns, change, models, expected
):
    after = verdicts(poisoned(whole, runs, tasks, columns, change, models))
    assert {part for part in before if after[part] != before[part]} == expected


def test_the_order_of_recovery_alone_moves_the_verdict_on_it(whole, before):
    points = pandas.DataFrame(
        {"model": list(forge.PARAMETERS), "by": [-billions for billions in forge.PARAMETERS.values()]}
    )
    for by, said in ((points.by, "holds"), (-points.by, "fails")):
        after = verdicts(whole, points=points.assign(by=by))
        assert after["C2 sooner"] == said
        assert {part for part in before if after[part] != before[part]} <= {"C2 sooner"}


@pytest.mark.parametrize(("ends", "said"), [((0.01, 0.06), "holds"), ((0.15, 0.30), "fails")])
def test_the_fit_of_p_to_the_k_alone_moves_the_verdict_on_it(whole, before, ends, said):
    fits = pandas.DataFrame({"model": SMALL, "run": "sft-8k"}).assign(
        deviation_low=ends[0], deviation_high=ends[1]
    )
    after = verdicts(whole, fits=fits)
    assert after["C5 adding up"] == said
    assert {part for part in before if after[part] != before[part]} == {"C5 adding up"}


def test_every_part_of_every_claim_is_poisoned_alone():
    cases = test_only_the_verdict_on_what_was_poisoned_moves.pytestmark[0].args[1]
    moved = set().union(*(case[-1] for case in cases)) | {"C2 sooner", "C5 adding up"}
    parts = {f"{name} {part}" for name, claim in forge.CLAIMS.items() for part in claim["parts"]}
    assert moved == parts


def test_a_control_that_says_otherwise_stands_beside_the_claim(whole):
    short = poisoned(whole, "sft-8k.short", HEAD, GRADED, lambda own, base: own * 0.3)
    assert forge.held(forge.study(short))["C1", "control short"]["verdict"] == "fails"
    assert "control short fails" in forge.held(forge.study(short))["C1", ""]["but"]


def test_grades_on_disk_make_the_tables_of_the_verdicts(tmp_path):
    """From forged grades through the scripts of the report: what was copied, and whose answers differ, is
    named.
    """
    tasks = {"math500": (60, 2), "arithmetic": (30, 2)}
    runs = ("base", "sft-8k", "sft-64k", "sft-220k")
    asked = [Cell("qwen2.5-3b", run, seed) for run in runs for seed in ((0,) if run == "base" else (0, 1))]
    truths = forged.paper_truths(asked, forge.NAMES, forge.EXAMPLES, forge.REFERENCE)
    made = forged.forged_answers(truths[0], tasks, ("math500",), 0.0, numpy.random.default_rng(2), truths[1])
    made[asked[2]] = made[asked[1]]  # sft-8k, seed 1 is seed 0
    forge.on_disk(
        made, tmp_path, tasks, gold=lambda cell, task, i: "9" if cell.run == "base" and i == 3 else str(i)
    )
    folder, kinds = (
        tmp_path / "tables",
        ["--headline", "math500", "--length", "math500", "--calculations", "arithmetic"],
    )
    script(
        "analyse", "--grades", *sorted(tmp_path.glob("results/*/*/*/grades.parquet")), *kinds, "--out", folder
    )
    grid_flags = [
        "--grid",
        *map(str, asked),
        "--examples",
        "8k=8000",
        "64k=64000",
        "220k=220000",
        "--tables",
        folder,
    ]
    script("recovery", *grid_flags, *kinds)
    leaks = tmp_path / "leaks.csv"
    leaks.write_text(
        "task,id,traces\n" + "".join(f"arithmetic,{i:04},1\n" for i in range(27)), encoding="utf-8"
    )
    claims = ("claims", "--claims", "workflow/reference/claims.yaml", "--leaks", leaks)
    printed = script(*claims, *grid_flags, *kinds)
    found = pandas.read_csv(folder / "claims.csv").set_index(["claim", "part"])
    assert "C1 " in printed
    row = found.loc[("C1", "loss")]
    assert "sft-8k/1 is a copy of qwen2.5-3b/sft-8k/0" in row.but
    assert "right answers of math500 differ between cells under the same ids" in row.but
    but = found.loc[("C5", "recovery")].but
    assert "27 problems occur in the traces: on the others it is undecided" in but
    # Calculations are counted in arithmetic alone: of the other tasks they are unknown, and nothing else is.
    loss = pandas.read_csv(folder / "claims_models.csv").set_index(["claim", "part"]).loc[("C1", "loss")]
    assert loss.trainings == 1
    assert 0.05 < loss.problems_high - loss.problems_low < 0.5
    assert loss.problems_low < loss.value < loss.problems_high


def test_a_training_whose_responses_all_reflect_has_no_gap_and_the_others_speak(rng):
    """It made the whole claim undecided, and more often the more seeds there were."""
    run, seeds = forge.SMALLEST, range(3)
    truths = {Cell("qwen2.5-3b", run, s): forged.Truth(0.4, reflective=0.7) for s in seeds}
    made = forged.forged_answers(truths, {"math500": (200, 4)}, ("math500",), 0.0, rng)
    tasks = forge.Tasks(["math500"], ["math500"], [])

    def gap(answers, only=None):
        row, _ = estimates.estimate(
            forge.study(answers), "qwen2.5-3b", {run: 1.0}, None, "reflection_gap", "value", tasks, only=only
        )
        return row.estimate

    two = gap({cell: made[cell] for cell in list(made)[:2]})
    reflective, tokens, theirs = (
        made[list(made)[2]].column("math500", name) for name in ("reflective", "tokens", "tokens_reflective")
    )
    reflective[:], theirs[:] = 1.0, tokens
    assert math.isnan(gap(made, only=2).value)
    assert gap(made) == two


def test_cells_whose_lengths_are_alike_agree_which_problems_are_long_and_no_accuracy_moves():
    truths = {Cell("qwen2.5-3b", run, 0): forged.Truth(0.4) for run in ("sft-8k", "sft-220k")}

    def columns(alike, name):
        rng = numpy.random.default_rng(0)
        made = forged.forged_answers(truths, {"math500": (4000, 1)}, ("math500",), 0.0, rng, alike=alike)
        return [answers.column("math500", name) for answers in made.values()]

    own, shared = (numpy.log(columns(alike, "tokens")) for alike in (0.0, 0.88))
    assert abs(numpy.corrcoef(own)[0, 1]) < 0.05
    assert numpy.corrcoef(shared)[0, 1] == pytest.approx(0.88, abs=0.02)
    assert own.std() == pytest.approx(shared.std(), rel=0.05)
    assert numpy.array_equal(columns(0.0, "correct"), columns(0.88, "correct"))
