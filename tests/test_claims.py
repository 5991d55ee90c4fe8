"""Claims, recovery and recipes: verdicts on tables in which the truth is known, and how often the intervals
hold it.
"""

import itertools

import numpy
import pandas
import pytest
import yaml
from conftest import REPOSITORY

from valley import check, claims_language, grid
from valley.analysis import accumulation, claims, estimates, forecast, recovery
from valley.analysis.cells import Study, answers
from valley.analysis.measures import COLUMNS, MEASURES, Tasks
from valley.grid import Cell, ConfigError

CLAIMS = yaml.safe_load((REPOSITORY / "workflow/reference/claims.yaml").read_text())
TASKS = Tasks(["a", "b"], ["b"], ["b"])
EXAMPLES = {"8k": 8000, "64k": 64000, "220k": 220000}
PLAIN = {"base": 0.5, "sft-8k": 0.2, "sft-64k": 0.6, "sft-220k": 0.8}
RL = {
    "base+rl@50": 0.6,
    "base+rl": 0.65,
    "sft-8k+rl@50": 0.3,
    "sft-8k+rl": 0.35,
    "sft-220k+rl@50": 0.85,
    "sft-220k+rl": 0.9,
}


def problems(
    accuracy: dict, length: dict, rng, count: int = 200, samples: int = 4, extra: dict | None = None
) -> pandas.DataFrame:
    """A problems table: `accuracy` and `length` by (model, run, seed); problems are easy or hard for all
    cells alike.
    """
    rows = []
    for task in ("a", "b"):
        ease = rng.normal(size=count)
        for (model, run, seed), mean in accuracy.items():
            rate = (
                1 / (1 + numpy.exp(-(numpy.log(mean / (1 - mean)) + ease)))
                if 0 < mean < 1
                else numpy.full(count, mean)
            )
            correct = rng.binomial(samples, rate) / samples
            tokens = rng.normal(length.get((model, run, seed), 100), 10, size=count)
            values = {"correct": correct, "correct_boxed": correct, "correct_paper": correct, "tokens": tokens, "reflective": 0.0,
                      "tokens_reflective": 0.0, "calculations": 10.0, "wrong_calculations": 1.0}  # fmt: skip
            values |= dict.fromkeys(set(COLUMNS) - set(values), 0.0) | {"gold": "1"}
            values |= (extra or {}).get((model, run, seed), {})
            table = pandas.DataFrame({"id": [f"{i:04}" for i in range(count)], "samples": samples, **values})
            rows.append(table.assign(model=model, run=run, seed=seed, task=task))
    return pandas.concat(rows, ignore_index=True)


def study(accuracy: dict, length: dict | None = None, missing: tuple = (), **kind) -> Study:
    """A study of one seed a run, `accuracy` by run or by (model, run, seed); `missing` cells are asked for
    but not there.
    """
    named = {key if isinstance(key, tuple) else ("M", key, 0): value for key, value in accuracy.items()}
    lengths = {
        key if isinstance(key, tuple) else ("M", key, 0): value for key, value in (length or {}).items()
    }
    table = problems(
        {key: value for key, value in named.items() if key not in missing},
        lengths,
        numpy.random.default_rng(1),
        **kind,
    )
    return Study(answers(table), [Cell(*key) for key in named], EXAMPLES)


def judged(part: dict, of: Study, fits=None, parameters=None, **known) -> dict:
    """The row of a part in the table `claims`."""
    fits = (
        pandas.DataFrame(columns=["model", "run", "deviation_low", "deviation_high"])
        if fits is None
        else fits
    )
    points = recovery.recovery(of, TASKS, 0.95)
    return claims.judge(of, part, claims.Known(TASKS, fits, points, parameters or {}, **known))[0]


def verdict(claim: str, part: str, of: Study, **known) -> str:
    """The verdict on a part of a claim."""
    return judged(CLAIMS[claim]["parts"][part], of, **known)["verdict"]


LONG = {
    "base": 100,
    "sft-8k": 900,
    "sft-64k": 800,
    "sft-220k": 700,
    "sft-220k+rl": 500,
    "sft-220k+rl@50": 500,
}
CURVE = {**PLAIN, **RL}


@pytest.mark.parametrize(
    ("claim", "part", "holds", "fails", "undecided"),
    [
        ("C1", "loss", PLAIN, PLAIN | {"sft-8k": 0.7}, PLAIN | {"sft-8k": 0.5}),
        ("C1", "depth", PLAIN | {"sft-8k": 0.1}, PLAIN | {"sft-8k": 0.3}, PLAIN | {"sft-8k": 0.17}),
        ("C2", "recovery", PLAIN, PLAIN | {"sft-220k": 0.1}, PLAIN | {"sft-220k": 0.2}),
        ("C2", "gain", PLAIN, PLAIN | {"sft-220k": 0.3}, PLAIN | {"sft-220k": 0.5}),
        ("C3", "efficiency", PLAIN, PLAIN | {"sft-220k": 0.1}, PLAIN | {"sft-220k": 0.156}),
        ("C5", "loss", PLAIN, PLAIN | {"sft-8k": 0.7}, PLAIN | {"sft-8k": 0.5}),
        ("C5", "recovery", PLAIN, PLAIN | {"sft-220k": 0.1}, PLAIN | {"sft-220k": 0.2}),
        ("C6", "below", CURVE, CURVE | {"sft-8k+rl@50": 0.8, "sft-8k+rl": 0.8}, CURVE | {"sft-8k+rl@50": 0.6, "sft-8k+rl": 0.65}),
        ("C6", "below at each", CURVE, CURVE | {"sft-8k+rl@50": 0.75}, CURVE | {"sft-8k+rl@50": 0.6}),
        ("C6", "above", CURVE, CURVE | {"sft-220k+rl": 0.3, "sft-220k+rl@50": 0.3}, CURVE | {"sft-220k+rl": 0.63, "sft-220k+rl@50": 0.63}),
    ],
)  # fmt: skip
def test_a_claim_on_accuracy_holds_where_it_is_true_and_fails_where_it_is_wrong(
    claim, part, holds, fails, undecided
):
    assert verdict(claim, part, study(holds, LONG)) == "holds"
    assert verdict(claim, part, study(fails, LONG)) == "fails"
    assert verdict(claim, part, study(undecided, LONG)) == "undecided"


@pytest.mark.parametrize(
    ("claim", "part", "of", "holds", "fails", "undecided"),
    [
        ("C3", "jump", "sft-8k", 300, 150, 200),
        ("C5", "length", "sft-8k", 300, 150, 200),
        ("C6", "shorter", "sft-220k+rl", 400, 900, 700),
    ],
)
def test_a_claim_on_length_holds_where_it_is_true_and_fails_where_it_is_wrong(
    claim, part, of, holds, fails, undecided
):
    for length, expected in ((holds, "holds"), (fails, "fails"), (undecided, "undecided")):
        changed = LONG | {of: length} | ({"sft-220k+rl@50": length} if "+rl" in of else {})
        assert verdict(claim, part, study(CURVE, changed)) == expected


def test_claims_on_reflection_are_read_off_the_responses():
    def reflecting(before, after, gap):
        share = {
            "reflective": after,
            "tokens": 5000.0,
            "tokens_reflective": after * (5000 + (1 - after) * gap),
        }
        extra = {
            ("qwen2.5-1.5b", "sft-8k", 0): share,
            ("qwen2.5-1.5b", "base", 0): {"reflective": before, "tokens_reflective": before * 100},
        }
        accuracy = {("qwen2.5-1.5b", run, 0): value for run, value in PLAIN.items()}
        table = problems(accuracy, {}, numpy.random.default_rng(0), extra=extra)
        rng = numpy.random.default_rng(2)  # some spread, or the intervals are points
        table["reflective"] = numpy.where(
            table.run == "sft-8k", rng.binomial(40, table.reflective) / 40, table.reflective
        )
        return Study(answers(table), [Cell(*key) for key in accuracy], EXAMPLES)

    true, wrong = reflecting(0.0, 0.75, 2000), reflecting(0.4, 0.2, 6000)
    assert [verdict("C4", part, true) for part in ("before", "after")] == ["holds", "holds"]
    assert [verdict("C4", part, wrong) for part in ("before", "after")] == ["fails", "fails"]
    assert verdict("C4", "after", true, reflective=False) == "not applicable"  # no keyword in the traces
    assert verdict("C4", "after", true, judged=False) == "not applicable"  # the paper's 75 % are of both


def test_error_rates_and_the_fit_of_p_to_the_k_hold_and_fail():
    worse = {("M", "sft-8k", 0): {"wrong_calculations": 3.0}, ("M", "base", 0): {"wrong_calculations": 1.0}}
    better = {("M", "sft-8k", 0): {"wrong_calculations": 0.1}, ("M", "base", 0): {"wrong_calculations": 1.0}}
    assert verdict("C5", "no worse a step", study(PLAIN, extra=worse)) == "fails"
    assert verdict("C5", "no worse a step", study(PLAIN, extra=better)) == "holds"
    for ends, expected in (((0.0, 0.05), "holds"), ((0.15, 0.3), "fails"), ((0.0, 0.3), "undecided")):
        fits = pandas.DataFrame(
            [{"model": "M", "run": "sft-8k", "deviation_low": ends[0], "deviation_high": ends[1]}]
        )
        assert verdict("C5", "adding up", study(PLAIN), fits=fits) == expected
    assert verdict("C5", "adding up", study(PLAIN)) == "undecided"


def test_no_more_often_wrong_is_said_of_equal_rates_too():
    """ "No worse" must not ask for better."""
    equal = {("M", run, 0): {"wrong_calculations": 0.2} for run in PLAIN}
    assert verdict("C5", "no worse a step", study(PLAIN, extra=equal)) == "holds"


@pytest.mark.parametrize(("models", "expected"), [(2, "undecided"), (6, "holds")])
def test_an_order_of_model_sizes_needs_enough_models(models, expected):
    recovers = {0: "sft-220k", 1: "sft-220k", 2: "sft-64k", 3: "sft-64k", 4: "sft-8k", 5: "sft-8k"}
    accuracy = {}
    for i in range(models):
        sizes = ["sft-8k", "sft-64k", "sft-220k"]
        above = sizes[sizes.index(recovers[i]) :]
        accuracy |= {(f"m{i}", run, 0): 0.8 if run in above else 0.2 for run in sizes} | {
            (f"m{i}", "base", 0): 0.5
        }
    parameters = {f"m{i}": float(i + 1) for i in range(models)}
    assert verdict("C2", "sooner", study(accuracy), parameters=parameters) == expected
    backwards = {f"m{i}": float(models - i) for i in range(models)}
    assert verdict("C2", "sooner", study(accuracy), parameters=backwards) == (
        "fails" if models == 6 else "undecided"
    )


def ordered(points: dict[str, float], expect: dict, models="all", **part) -> dict:
    """The row of a part on the order of models, the first the smallest, by where each recovers."""
    of = Study({}, [Cell(model, run, 0) for model in points for run in PLAIN], EXAMPLES)
    table = pandas.DataFrame({"model": list(points), "by": list(points.values())})
    known = claims.Known(TASKS, None, table, {model: i + 1.0 for i, model in enumerate(points)})
    asked = {"measure": "order", "expect": expect, "rule": "every", "models": models}
    return claims.judge(of, asked | part, known)[0]


def test_an_order_is_in_the_direction_that_is_expected():
    sooner = {model: 1000.0 * (6 - i) for i, model in enumerate("abcdef")}
    later = {model: 1000.0 * (1 + i) for i, model in enumerate("abcdef")}
    said = [ordered(points, expect)["verdict"] for points in (sooner, later)
            for expect in ({"below": 0}, {"above": 0})]  # fmt: skip
    assert said == ["holds", "fails", "fails", "holds"]


def test_an_order_is_of_the_models_that_are_meant():
    """The last three would turn it round."""
    points = dict(zip("abcdefxyz", [60.0, 50, 40, 30, 20, 10, 900, 800, 700], strict=True))
    assert ordered(points, {"below": 0})["verdict"] == "undecided"
    for meant in ({"models": [*"abcdef"]}, {"except": [*"xyz"]}):
        row = ordered(points, {"below": 0}, **meant)
        assert row["verdict"] == "holds"
        assert "6 models" in row["why"]
    two = ordered(points, {"below": 0}, models=["a", "b"])
    assert two["verdict"] == "undecided"
    assert "no order of so few models can decide" in two["why"]


@pytest.mark.parametrize(
    ("by", "said"),
    [(64.0, "the same two sizes: sizes between these"), (numpy.inf, "back within the grid: larger sizes")],
)
def test_models_that_recover_alike_have_no_order_and_what_would_tell_is_said(by, said):
    row = ordered(dict.fromkeys("abcdef", by), {"below": 0})
    assert row["verdict"] == "undecided"
    assert said in row["why"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"expect": {"about": 0, "within": 1}}, "an order is below 0"),
        ({"expect": {"below": -0.5}}, "an order is below 0"),
        ({"models": ["a"]}, "one model has no order of sizes"),
    ],
)
def test_an_order_without_a_direction_or_of_one_model_is_refused(wrong, said):
    part = CLAIMS["C2"]["parts"]["sooner"]
    for expect in ({"below": 0}, {"above": 0}):
        right = part | {"expect": expect, "models": ["a", "b"]}
        assert [*claims_language.lint({"C2": {"claim": "…", "parts": {"it": right}}})] == []
    faults = [*claims_language.lint({"C2": {"claim": "…", "parts": {"it": part | wrong}}})]
    assert len(faults) == 1
    assert faults[0].startswith("C2.it.")
    assert said in faults[0]


def test_one_model_refutes_every_model_and_a_missing_cell_leaves_it_open():
    both = {("A", run, 0): value for run, value in PLAIN.items()} | {
        ("B", run, 0): value for run, value in PLAIN.items()
    }
    assert verdict("C1", "loss", study(both)) == "holds"
    assert verdict("C1", "loss", study(both | {("B", "sft-8k", 0): 0.7})) == "fails"
    assert verdict("C1", "loss", study(both, missing=(("B", "sft-8k", 0),))) == "undecided"
    assert (
        verdict("C1", "loss", study(both | {("B", "sft-8k", 0): 0.7}, missing=(("A", "sft-8k", 0),)))
        == "fails"
    )
    never = study(
        {("gemma3-1b", run, 0): value for run, value in (PLAIN | {"sft-64k": 0.3, "sft-220k": 0.35}).items()}
    )
    assert verdict("C2", "never", never) == "holds"
    assert verdict("C2", "gain", never) == "not applicable"
    assert verdict("C6", "below", study(PLAIN)) == "not applicable"


def test_a_verdict_that_another_grader_refutes_says_so_and_one_that_it_leaves_open_stands():
    generous = {("M", "sft-8k", 0): {"correct_paper": 1.0}}
    assert verdict("C1", "loss", study(PLAIN, extra=generous)) == "grader-dependent"
    equal = study(PLAIN)
    cells = equal.cells
    for task in ("a", "b"):
        right = cells[Cell("M", "base", 0)].column(task, "correct_paper")
        cells[Cell("M", "sft-8k", 0)].column(task, "correct_paper")[:] = right
    assert verdict("C1", "loss", equal) == "holds"


def test_a_claim_holds_when_all_its_parts_do_and_fails_when_one_does():
    assert claims.overall(["holds", "holds", "not applicable"]) == "holds"
    assert claims.overall(["holds", "undecided", "fails"]) == "fails"
    assert claims.overall(["holds", "grader-dependent"]) == "grader-dependent"
    assert claims.overall(["not applicable"]) == "not applicable"
    assert claims.overall(["holds", "holds, but"]) == "holds, but"
    assert claims.overall(["holds, but", "fails, but", "undecided"]) == "fails, but"


def test_a_verdict_of_one_training_says_so_and_an_open_one_says_what_would_decide():
    loss = CLAIMS["C1"]["parts"]["loss"]
    assert "of one training each" in judged(loss, study(PLAIN))["why"]
    three = {
        ("M", run, seed): value for run, value in PLAIN.items() for seed in range(3 if run != "base" else 1)
    }
    assert "of one training" not in judged(loss, study(three))["why"]
    spread = three | {("M", "sft-8k", 0): 0.2, ("M", "sft-8k", 1): 0.6, ("M", "sft-8k", 2): 0.4}
    row = judged(loss, study(spread))
    assert (row["verdict"], row["these_trainings"]) == ("undecided", "holds")
    assert "times the seeds would decide" in row["why"]
    near = judged(loss, study(PLAIN | {"sft-8k": 0.475}, count=60))
    assert "times the" in near["why"]


def test_an_open_verdict_says_where_what_is_asked_is_not_defined():
    """No number of seeds and problems makes it so, and no interval of it is said."""
    longer = CLAIMS["C4"]["parts"]["longer"] | {"models": "all"}
    row = judged(longer, study(PLAIN))  # no response is reflective
    assert row["verdict"] == "undecided"
    assert row["why"] == "the measure is not defined in 3 of 3 comparisons, M sft-8k first"
    none = study(PLAIN | {"base": 0.0})
    row = judged(CLAIMS["C1"]["parts"]["depth"], none)
    assert row["why"] == "the ratio is not defined in 1 of 1 comparisons, M sft-8k against base first"
    uncounted = {("M", run, 0): {"calculations": 0.0, "wrong_calculations": 0.0} for run in PLAIN}
    part = CLAIMS["C5"]["parts"]["no worse a step"] | {"tasks": "headline"}
    assert "the measure is not defined in 1 of 1" in judged(part, study(PLAIN, extra=uncounted))["why"]
    some = {("M", "sft-8k", 0): {"reflective": 0.5, "tokens_reflective": 550.0}}
    why = judged(longer, study(PLAIN, extra=some))["why"]
    assert why.startswith("surely so in at least 1 of 3")
    assert why.endswith("the measure is not defined in 2 of 3 comparisons, M sft-64k first")


def test_an_open_verdict_names_missing_cells_only_where_some_are():
    recovery_ = CLAIMS["C2"]["parts"]["recovery"]
    seeds = {("M", "base", 0): 0.5, ("M", "sft-8k", 0): 0.2, ("M", "sft-220k", 1): 0.8}
    alone = judged(recovery_, study(seeds))
    assert alone["verdict"] == "undecided"
    assert alone["why"] == "runs of it have no training seed in common that counts"
    other = {("N", run, 0): 0.5 for run in ("base", "sft-8k", "sft-220k")}
    assert "missing" not in judged(recovery_, study(seeds | other))["why"]
    lacking = judged(recovery_, study(seeds | other, missing=(("N", "sft-8k", 0),)))
    assert lacking["why"] == "1 cells are missing, N/sft-8k/0 first"
    single = judged(CLAIMS["C1"]["parts"]["loss"], study(PLAIN, count=1))
    assert "a single problem of a task tells no interval" in single["why"]


def seeds_of(spread: dict[str, float]) -> dict:
    """Accuracies of PLAIN with four seeds each but for the base, up and down by `spread` of a run."""
    ups = [1, -1, 1, -1]
    return {("M", "base", 0): PLAIN["base"]} | {
        ("M", run, seed): PLAIN.get(run, 0.5) + ups[seed] * spread.get(run, 0.01)
        for run in [*list(PLAIN)[1:], *(set(spread) - set(PLAIN))]
        for seed in range(4)
    }


def noises(spread: dict[str, float]) -> dict[str, float]:
    """Standard deviation of a training by run, in a study whose seeds differ by `spread`."""
    found = estimates.noise_by_run(study(seeds_of(spread), count=2000), "accuracy", TASKS, "headline")
    return {run: variance**0.5 for run, (variance, _) in found.items()}


def test_every_run_has_the_noise_of_its_own_seeds_and_borrows_little():
    calm, wild = noises({}), noises({"sft-64k": 0.1})
    assert wild["sft-64k"] > 3 * calm["sft-64k"]
    assert wild["sft-8k"] < 0.4 * wild["sft-64k"]
    assert calm[estimates.POOLED] < wild[estimates.POOLED] < wild["sft-64k"]


def test_the_seeds_of_a_control_make_no_other_run_less_sure():
    calm, wild = noises({"sft-8k.short": 0.01}), noises({"sft-8k.short": 0.2})
    assert wild.pop("sft-8k.short") > 5 * calm.pop("sft-8k.short")
    assert wild == pytest.approx(calm, rel=0.05)


def test_a_run_without_seeds_of_its_own_has_the_pooled_noise():
    several = seeds_of({})
    alone = several | {("M", "base+rl", 0): 0.6}

    def change(run: str, of: dict) -> tuple[float, float]:
        row, _ = estimates.estimate(study(of), "M", {run: 1.0}, {"base": 1.0}, "accuracy", "minus", TASKS)
        return row.estimate.training

    noise = estimates.noise_by_run(study(alone), "accuracy", TASKS, "headline")
    assert "base+rl" not in noise
    assert change("base+rl", alone) == pytest.approx(noise[estimates.POOLED])
    assert change("sft-8k", alone) == pytest.approx((noise["sft-8k"][0] / 4, noise["sft-8k"][1]))


def test_a_seed_all_of_whose_responses_reflect_has_no_gap_and_takes_it_from_no_other():
    """What is left of the others' tokens is a rounding error then, and over none of them infinite."""
    some = {"tokens": 100.0, "reflective": 0.5, "tokens_reflective": 60.0}
    every = {"tokens": 100.0, "reflective": 1.0, "tokens_reflective": 100.0 - 1e-12}
    cells = {("M", "sft-8k", seed): 0.5 for seed in range(3)}
    odd = study(cells, extra=dict.fromkeys(cells, some) | {("M", "sft-8k", 1): every})
    sides = estimates.of_seeds(odd, "M", "sft-8k", [0, 1, 2], "reflection_gap", TASKS, "headline")
    assert [side.value for side in sides] == pytest.approx([40, 40])


def test_a_base_that_was_evaluated_once_stands_beside_all_seeds():
    three = {
        ("M", run, seed): value for run, value in PLAIN.items() for seed in range(3 if run != "base" else 1)
    }
    several = study(three)
    row, missing = estimates.estimate(
        several, "M", {"sft-8k": 1.0}, {"base": 1.0}, "accuracy", "minus", TASKS
    )
    assert (row.trainings, missing) == (3, [])
    one = several.seeds("M", ["sft-8k", "base"])[0]
    assert one == {"sft-8k": [0, 1, 2], "base": [0]}
    trained = Study(
        several.cells, several.wanted, EXAMPLES, ["M"]
    )  # a base trained here is of its seed alone
    assert trained.seeds("M", ["sft-8k", "base"])[0] == {"sft-8k": [0], "base": [0]}


@pytest.mark.parametrize(
    ("runs", "claim", "part", "why"),
    [
        (["base", "sft-64k"], "C2", "recovery", "no other size than sft-64k"),
        (["base", "sft-64k"], "C2", "gain", "no other size than sft-64k"),
        (["base", "sft-8k", "sft-64k", "base+rl", "sft-8k+rl"], "C6", "above", "no other size from which RL starts than sft-8k"),
        (["base", "sft-8k", "sft-64k", "base+rl", "sft-64k+rl"], "C6", "below", "no other size from which RL starts than sft-64k"),
    ],
)  # fmt: skip
def test_what_would_compare_a_cell_with_itself_or_call_the_smallest_largest_is_not_applicable(
    runs, claim, part, why
):
    row = judged(CLAIMS[claim]["parts"][part], study(dict.fromkeys(runs, 0.5)))
    assert row["verdict"] == "not applicable"
    assert why in row["why"]


def test_the_largest_size_of_rl_is_the_one_from_which_rl_starts():
    several = study(CURVE | {"sft-64k+rl": 0.9} | {"sft-220k+rl": 0.5, "sft-220k+rl@50": 0.5})
    only = {cell: made for cell, made in several.cells.items() if "220k+rl" not in cell.run}
    part = CLAIMS["C6"]["parts"]["shorter"]
    rows, _, _ = estimates.compared(Study(only, only, EXAMPLES), "M", part, TASKS)
    assert rows[0].names == ("sft-64k+rl", "sft-64k")


def test_the_recovery_point_lies_between_two_sizes_with_an_interval_around():
    clear = recovery.recovery(study(PLAIN), TASKS, 0.95).iloc[0]
    assert (clear.after, clear.by, clear.earliest, clear.latest) == (8000, 64000, 8000, 64000)
    vague = recovery.recovery(study(PLAIN | {"sft-64k": 0.5}), TASKS, 0.95).iloc[0]
    assert (vague.earliest, vague.latest) == (8000, 220000)
    never = recovery.recovery(study(PLAIN | {"sft-64k": 0.3, "sft-220k": 0.4}), TASKS, 0.95).iloc[0]
    assert never.by == float("inf")
    assert never.earliest == 220000
    known = recovery.recovery(study(PLAIN, count=1, samples=4000), TASKS, 0.95).iloc[0]
    # One problem a benchmark tells no interval: it may be anywhere.
    assert (known.after, known.by, known.earliest, known.latest) == (8000, 64000, 0, float("inf"))


@pytest.mark.parametrize(
    ("changes", "between"),
    [
        ([0.0, 0.0, 0.0], (0, 8000, 0)),  # never below its base
        ([-0.2, 0.0, 0.0], (8000, 64000, 64000)),
        ([-0.2, -0.1, 0.0], (64000, 220000, 220000)),
        ([-0.3, -0.2, -0.1], (220000, float("inf"), float("inf"))),
    ],
)
def test_a_model_exactly_at_its_base_is_back_at_it(changes, between):
    sizes = [*EXAMPLES.values()]
    assert recovery.crossing(sizes, changes, [1.0, 1.0, 1.0]) == pytest.approx(between)
    back = forecast.back_from(sizes, numpy.array(changes))
    assert back == pytest.approx(between[2] or sizes[0])  # of a forecast: by which size, the first at least


def test_a_study_in_which_nothing_changes_recovers_before_its_first_size():
    answered = {("M", run, 0): {"correct": 0.5} for run in PLAIN}
    point = recovery.recovery(study(PLAIN, extra=answered), TASKS, 0.95).iloc[0]
    assert (point.after, point.by) == (0, 8000)


def test_recipes_stand_beside_the_base_and_the_protocol():
    table = (
        recovery.recipes(study(PLAIN | {"sft-8k.short": 0.45}), TASKS, 0.95)
        .query("seed == 'all'")
        .set_index("run")
    )
    assert table.loc["sft-8k.short", "to_protocol_low"] > 0.1
    assert table.loc["sft-8k", "change_high"] < 0
    assert numpy.isnan(table.loc["sft-8k", "to_protocol"])


def test_the_recovery_interval_holds_the_true_point():
    rng, inside = numpy.random.default_rng(3), 0
    truth = {"base": 0.5, "sft-8k": 0.35, "sft-64k": 0.48, "sft-220k": 0.6}  # back above its base at 220k
    for _ in range(60):
        table = problems({("M", run, 0): value for run, value in truth.items()}, {}, rng, count=80)
        point = recovery.recovery(
            Study(answers(table), [Cell("M", run, 0) for run in truth], EXAMPLES), TASKS, 0.95
        ).iloc[0]
        inside += point.earliest <= 64000 and point.latest >= 220000
    assert inside / 60 >= 0.9


def test_p_to_the_k_is_recovered_where_it_is_true_and_rejected_where_it_is_not():
    rng = numpy.random.default_rng(0)
    rejected, inside = 0, 0
    for _ in range(500):
        steps = numpy.repeat(rng.integers(2, 16, size=200), 3)
        found = accumulation.fit(steps, rng.random(600) < 0.93**steps, numpy.repeat(numpy.arange(200), 3))
        rejected += found["verdict"] == "fails"
        inside += found["p_low"] <= 0.93 <= found["p_high"]
    assert (
        rejected / 500 <= 0.09
    )  # nominal 5 %, found 7: with few problems the test rejects a little too often
    assert 0.92 <= inside / 500 <= 0.98
    steps = numpy.repeat(rng.integers(2, 16, size=200), 3)
    flat = accumulation.fit(
        steps, rng.random(600) < 0.5, numpy.repeat(numpy.arange(200), 3)
    )  # the same at every length
    assert flat["verdict"] == "fails"


def test_the_fit_of_p_to_the_k_agrees_with_a_generalised_linear_model():
    import statsmodels.api as sm

    rng = numpy.random.default_rng(0)
    steps, problem = rng.integers(2, 16, size=500), numpy.repeat(numpy.arange(100), 5)
    correct = (rng.random(500) < 0.95**steps).astype(float)
    ours = accumulation.fit(steps, correct, problem)
    model = sm.GLM(
        correct, steps[:, None].astype(float), family=sm.families.Binomial(link=sm.families.links.Log())
    )
    theirs = model.fit(
        start_params=[-0.05], cov_type="cluster", cov_kwds={"groups": problem, "use_correction": False}
    )
    assert numpy.log(ours["p"]) == pytest.approx(theirs.params[0], abs=1e-5)
    assert numpy.log(ours["p_high"]) == pytest.approx(theirs.conf_int()[0][1], abs=1e-4)


def test_the_hazard_of_the_first_error_by_hand():
    made = numpy.full(40, 2.0)
    first = numpy.array([1.0] * 10 + [2.0] * 15 + [numpy.nan] * 15)
    rows = accumulation.hazard(made, first)
    assert [(row["first"], row["at_risk"], row["errors"]) for row in rows] == [(1, 40, 10), (2, 30, 15)]


def test_a_claim_may_name_a_run_and_says_so_where_it_is_none():
    part = {
        "measure": "accuracy",
        "of": "sft-8k.short",
        "minus": "base",
        "expect": {"below": 0},
        "rule": "every",
        "models": "all",
    }
    assert judged(part, study(PLAIN | {"sft-8k.short": 0.2}))["verdict"] == "holds"
    assert judged(part, study(PLAIN))["verdict"] == "not applicable"
    with pytest.raises(ConfigError, match="not a run"):
        judged(part | {"of": "the best"}, study(PLAIN))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("{on: calculations}", "YAML reads on, off, yes and no as true and false"),
        ("{measure: acuracy}", "'acuracy' is not one of"),
        ("{of: largets}", "does not match"),
        ("{expect: {below: zero}}", "'zero' is not of type 'number'"),
        ("{expect: {about: 1}}", "not valid under any"),
        ("{rule: most}", "does not match"),
        ("{rule: at least 9 of 8}", "asks for more than there are"),
        ("{minus: smallest}", "compares 'smallest' with itself"),
        ("{except: [a], models: [a, b]}", "a is among its models"),
    ],
)
def test_claims_in_another_language_are_refused_with_the_place(tmp_path, wrong, said):
    part = CLAIMS["C1"]["parts"]["loss"] | yaml.safe_load(wrong)
    faults = [*claims_language.lint({"C1": {"claim": "…", "parts": {"loss": part}}})]
    assert len(faults) == 1
    assert said in faults[0]
    assert faults[0].startswith("C1.")


@pytest.mark.parametrize(
    ("part", "wrong", "said"),
    [
        ("C5.adding up", "{rule: on average}", "'on average' cannot be asked of fit"),
        ("C5.adding up", "{rule: the lowest}", "'the lowest' cannot be asked of fit"),
        ("C5.adding up", "{rule: the highest}", "'the highest' cannot be asked of fit"),
        ("C5.adding up", "{expect: {above: 0.1}}", "only be expected below a value"),
        ("C5.adding up", "{expect: {about: 0.1, within: 0.1}}", "only be expected below a value"),
        ("C5.adding up", "{minus: base}", "minus: fit is of a cell's own calculations"),
        ("C5.adding up", "{over: base}", "over: fit is of a cell's own calculations"),
        ("C5.adding up", "{grader: paper}", "grader: fit is of a cell's own calculations"),
        ("C5.adding up", "{tasks: headline}", "tasks: fit is of calculations"),
        ("C5.adding up", "{of: larger sizes}", "'larger sizes' is a mean of several"),
        ("C5.adding up", "{of: last three sizes.matched}", "is a mean of several"),
        ("C5.adding up", "{of: smallest+rl throughout}", "is a mean of several"),
        ("C2.sooner", "{tasks: calculations}", "tasks: order is of the recovery"),
        ("C2.sooner", "{grader: paper}", "grader: order is of the recovery"),
        ("C2.sooner", "{rule: any}", "order is of all models together"),
    ],
)
def test_what_fit_and_order_would_not_look_at_is_refused(part, wrong, said):
    claim, name = part.split(".")
    part = CLAIMS[claim]["parts"][name] | yaml.safe_load(wrong)
    faults = [*claims_language.lint({claim: {"claim": "…", "parts": {"it": part}}})]
    assert len(faults) == 1
    assert said in faults[0]


def test_every_part_that_is_in_the_language_gets_a_verdict():
    """Each measure under each rule and expectation that the language lets through, on cells and fits."""
    of = study({(model, run, 0): value for model in "MN" for run, value in PLAIN.items()}, count=20)
    fits = pandas.DataFrame(
        [{"model": m, "run": "sft-8k", "deviation_low": 0.0, "deviation_high": 0.05} for m in "MN"]
    )
    rules = ("every", "any", "at least 1 of 2", "on average", "the lowest", "the highest")
    expected = ({"below": 0}, {"above": 0}, {"about": 0, "within": 1})
    asked = 0
    for measure, rule, expect in itertools.product([*MEASURES, "fit", "order"], rules, expected):
        sides = {} if measure == "order" else {"of": "smallest"}
        part = {"text": "…", "measure": measure, "rule": rule, "expect": expect, "models": "all", **sides}
        if [*claims_language.lint({"C1": {"claim": "…", "parts": {"it": part}}})]:
            continue
        asked += 1
        row = judged(part, of, fits=fits, parameters={"M": 1.0, "N": 2.0})
        assert row["verdict"] in ("holds", "fails", "undecided", "grader-dependent"), part
    assert asked > 100


def test_every_claim_of_the_miniature_is_asked_of_its_demo():
    """In the language of the schema, on runs that its grid has, and none that only the paper can answer."""
    config = check.load([REPOSITORY / "config/miniature.yaml"])
    asked = claims_language.load(REPOSITORY / config["report"]["claims"])
    assert asked.keys() == CLAIMS.keys()
    cells = grid.cells(config)
    table = problems(dict.fromkeys(map(tuple, cells), 0.5), {}, numpy.random.default_rng(1), count=20)
    examples = {size: grid.examples_of(config, size) for size in config["sizes"]}
    of = Study(answers(table[table.task == "b"]), cells, examples)
    tasks = Tasks(["b"], ["b"], ["b"])
    fits = pandas.DataFrame(
        {"model": ["S"], "run": ["sft-8"], "deviation_low": [0.0], "deviation_high": [0.05]}
    )
    points = recovery.recovery(of, tasks, 0.95)
    found, _ = claims.judged(of, asked, claims.Known(tasks, fits, points, {"S": 1e-4}, judged=False))
    silent = found[(found.verdict == "not applicable") & (found.part != "sooner")]
    assert silent.part.tolist() == []


def test_one_model_has_no_order_of_sizes():
    accuracy = {("m0", run, 0): 0.5 for run in PLAIN}
    assert verdict("C2", "sooner", study(accuracy), parameters={"m0": 1.0}) == "not applicable"


def test_the_papers_claims_are_in_their_language_and_speak_of_models_there_are():
    assert [*claims_language.lint(CLAIMS)] == []
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    parts = [part for claim in CLAIMS.values() for part in claim["parts"].values()]
    named = {
        model
        for part in parts
        for key in ("models", "except")
        for model in part.get(key, [])
        if part.get(key) != "all"
    }
    assert named <= set(config["models"])
