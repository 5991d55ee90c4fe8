"""Claims, recovery and recipes: verdicts on tables in which the truth is known, and how often the intervals
hold it.
"""

import numpy
import pandas
import pytest
import yaml
from conftest import REPOSITORY

from valley.analysis import accumulation, claims, estimates, recovery
from valley.analysis.cells import Answers, Study
from valley.analysis.measures import COLUMNS, Tasks
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
    return Study(table, [Cell(*key) for key in named], EXAMPLES)


def verdict(
    claim: str, part: str, of: Study, reflective: bool = True, fits=None, parameters=None, **changes
) -> str:
    """The verdict on a part of a claim as claims.py writes it."""
    fits = pandas.DataFrame(columns=["model", "run", "p_value", "verdict"]) if fits is None else fits
    points = recovery.recovery(of, TASKS, 0.95)
    row, _ = claims.part_row(
        of, CLAIMS[claim]["parts"][part] | changes, TASKS, fits, points, parameters or {}, reflective, 0.95
    )
    return row["verdict"]


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
        ("C1", "depth", PLAIN | {"sft-8k": 0.08}, PLAIN | {"sft-8k": 0.3}, PLAIN | {"sft-8k": 0.115}),
        ("C2", "recovery", PLAIN, PLAIN | {"sft-220k": 0.1}, PLAIN | {"sft-220k": 0.2}),
        ("C2", "gain", PLAIN, PLAIN | {"sft-220k": 0.3}, PLAIN | {"sft-220k": 0.5}),
        ("C3", "efficiency", PLAIN, PLAIN | {"sft-220k": 0.1}, PLAIN | {"sft-220k": 0.156}),
        ("C5", "loss", PLAIN, PLAIN | {"sft-8k": 0.7}, PLAIN | {"sft-8k": 0.5}),
        ("C5", "recovery", PLAIN, PLAIN | {"sft-220k": 0.1}, PLAIN | {"sft-220k": 0.2}),
        ("C6", "below", CURVE, CURVE | {"sft-8k+rl@50": 0.75}, CURVE | {"sft-8k+rl@50": 0.6}),
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
        return Study(table, [Cell(*key) for key in accuracy], EXAMPLES)

    true, wrong = reflecting(0.0, 0.75, 2000), reflecting(0.4, 0.2, 6000)
    assert [verdict("C4", part, true) for part in ("before", "after")] == ["holds", "holds"]
    assert [verdict("C4", part, wrong) for part in ("before", "after")] == ["fails", "fails"]
    assert verdict("C4", "after", true, reflective=False) == "not applicable"  # no keyword in the traces


def test_error_rates_and_the_fit_of_p_to_the_k_can_only_refute():
    worse = {("M", "sft-8k", 0): {"wrong_calculations": 3.0}, ("M", "base", 0): {"wrong_calculations": 1.0}}
    better = {("M", "sft-8k", 0): {"wrong_calculations": 0.1}, ("M", "base", 0): {"wrong_calculations": 1.0}}
    assert verdict("C5", "no worse a step", study(PLAIN, extra=worse)) == "fails"
    assert verdict("C5", "no worse a step", study(PLAIN, extra=better)) == "holds"
    for p_value, expected in ((0.001, "fails"), (0.6, "undecided")):
        fits = pandas.DataFrame(
            [{"model": "M", "run": "sft-8k", "p_value": p_value, "verdict": "of the fit"}]
        )
        assert verdict("C5", "adding up", study(PLAIN), fits=fits) == expected


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


def test_a_verdict_that_changes_with_the_grader_says_so():
    generous = {("M", "sft-8k", 0): {"correct_paper": 1.0}}
    assert verdict("C1", "loss", study(PLAIN, extra=generous)) == "grader-dependent"


def test_a_claim_holds_when_all_its_parts_do_and_fails_when_one_does():
    assert claims.overall(["holds", "holds", "not applicable"]) == "holds"
    assert claims.overall(["holds", "undecided", "fails"]) == "fails"
    assert claims.overall(["holds", "grader-dependent"]) == "grader-dependent"
    assert claims.overall(["not applicable"]) == "not applicable"


def test_few_seeds_cannot_decide_by_their_signs_and_what_would_is_said():
    same = {("M", run, seed): value for run, value in PLAIN.items() for seed in range(3)}
    _, rows, _ = claims.decided(study(same), CLAIMS["C1"]["parts"]["loss"], TASKS, 0.95, "headline")
    assert rows[0]["signs"] == "3 of 3 seeds; a sign test of 3 seeds cannot decide"
    spread = same | {("M", "sft-8k", 0): 0.1, ("M", "sft-8k", 1): 0.45, ("M", "sft-8k", 2): 0.3}
    _, rows, _ = claims.decided(study(spread), CLAIMS["C1"]["parts"]["loss"], TASKS, 0.95, "headline")
    assert rows[0]["verdict"] == "undecided"
    assert "no number of samples can" in rows[0]["would_decide"]
    assert "training seeds" in rows[0]["would_decide"]
    noisy = study(PLAIN | {"sft-8k": 0.47}, count=100, samples=1)
    _, rows, _ = claims.decided(noisy, CLAIMS["C1"]["parts"]["loss"], TASKS, 0.95, "headline")
    assert "times the" in rows[0]["would_decide"]


def test_the_recovery_point_lies_between_two_sizes_with_an_interval_around():
    clear = recovery.recovery(study(PLAIN), TASKS, 0.95).iloc[0]
    assert (clear.after, clear.by, clear.earliest, clear.latest) == (8000, 64000, 8000, 64000)
    vague = recovery.recovery(study(PLAIN | {"sft-64k": 0.5}), TASKS, 0.95).iloc[0]
    assert (vague.earliest, vague.latest) == (8000, 220000)
    never = recovery.recovery(study(PLAIN | {"sft-64k": 0.3, "sft-220k": 0.4}), TASKS, 0.95).iloc[0]
    assert never.by == float("inf")
    assert never.earliest == 220000


def test_recipes_stand_beside_the_base_and_the_protocol():
    table = (
        recovery.recipes(study(PLAIN | {"sft-8k.short": 0.45}), TASKS, 0.95)
        .query("seed == 'all'")
        .set_index("run")
    )
    assert table.loc["sft-8k.short", "to_protocol_low"] > 0.1
    assert table.loc["sft-8k", "change_high"] < 0
    assert numpy.isnan(table.loc["sft-8k", "to_protocol"])


def simulated(rng, seeds: int, effect: float, spread: float, count: int = 100) -> list[tuple]:
    """Cells of `seeds` trainings whose accuracy differs by `effect` on average over problems and seeds, clear
    of 0 and 1.
    """
    easy, harm = rng.uniform(0.35, 0.65, size=count), rng.normal(effect, 0.1, size=count)
    pairs, ids = [], list(map(str, range(count)))
    for _ in range(seeds):
        shift = rng.normal(0, spread)
        sides = [rng.binomial(4, numpy.clip(rate, 0, 1)) / 4 for rate in (easy + harm + shift, easy)]
        pairs.append(
            tuple(
                Answers({"a": ids}, {"a": numpy.tile(side[:, None], len(COLUMNS))}, {"a": 4}, {})
                for side in sides
            )
        )
    return pairs


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.05), (5, 0.05)])
def test_intervals_hold_the_truth_as_often_as_they_say_and_false_verdicts_are_rare(seeds, spread):
    """Nominal 95 %, found 93–96; the standard error of 1,000 simulations is 0.7 %. With few seeds intervals
    are rather too wide.
    """
    rng = numpy.random.default_rng(1)
    truth, inside, decided = -0.1, 0, 0
    for _ in range(1000):
        estimate = estimates.estimate(
            simulated(rng, seeds, truth, spread), "accuracy", "minus", Tasks(["a"], ["a"], [])
        )
        low, high = estimate.interval(0.95)
        inside += low <= truth <= high
        decided += (
            claims.decide((low, high), {"below": truth}) != "undecided"
        )  # neither is true of the average
    assert 0.93 <= inside / 1000 <= 0.995
    assert decided / 1000 <= 0.07


def test_every_is_seldom_refuted_by_chance_however_many_models_there_are():
    """Holm: nine models, all exactly at the threshold; "every is below" is refuted wrongly in at most 5 %
    (2.5 % a side).
    """
    rng, refuted, proved = numpy.random.default_rng(1), 0, 0
    for _ in range(100):
        models = [
            estimates.estimate(simulated(rng, 1, 0.0, 0.0, 60), "accuracy", "minus", Tasks(["a"], ["a"], []))
            for _ in range(9)
        ]
        verdict = claims.every(models, {"below": 0.0}, 0.95)
        refuted, proved = refuted + (verdict == "fails"), proved + (verdict == "holds")
    assert refuted / 100 <= 0.09
    assert proved == 0


def test_the_recovery_interval_holds_the_true_point():
    rng, inside = numpy.random.default_rng(3), 0
    truth = {"base": 0.5, "sft-8k": 0.35, "sft-64k": 0.48, "sft-220k": 0.6}  # back above its base at 220k
    for _ in range(60):
        table = problems({("M", run, 0): value for run, value in truth.items()}, {}, rng, count=80)
        point = recovery.recovery(
            Study(table, [Cell("M", run, 0) for run in truth], EXAMPLES), TASKS, 0.95
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
        "models": "every",
    }
    assert claims.decided(study(PLAIN | {"sft-8k.short": 0.2}), part, TASKS, 0.95, "headline")[0] == "holds"
    assert claims.decided(study(PLAIN), part, TASKS, 0.95, "headline")[0] == "not applicable"
    with pytest.raises(ConfigError, match="not a run"):
        claims.decided(study(PLAIN), part | {"of": "the best"}, TASKS, 0.95, "headline")
