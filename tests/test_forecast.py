"""Forecasts of larger sizes: always out of sample, honest about how far off they are, refused where there is
too little.
"""

import json
import subprocess
import sys
from statistics import NormalDist

import numpy
import pandas
import pytest
from conftest import REPOSITORY, script

from valley.analysis import forecast
from valley.analysis.forecast import Curve

SIZES = [8000, 16000, 32000, 64000, 128000, 220000]
FIRST = 2


@pytest.fixture(scope="module")
def paper() -> list[Curve]:
    return forecast.from_reference(pandas.read_csv(REPOSITORY / "workflow/reference/paper_fig2.csv"))


def shortened(curve: Curve, sizes: int = FIRST) -> Curve:
    return curve._replace(points=dict(list(curve.points.items())[:sizes]))


def made_of(curve: Curve, others: list[Curve], confidence: float = 0.9) -> forecast.Forecast:
    made = forecast.forecast_of(curve, others, SIZES, confidence)
    assert isinstance(made, forecast.Forecast), made
    return made


def population(rng, count: int, heavy: bool, noise: float = 0.016) -> list[Curve]:
    """Models of one kind: a drop, then a gain that saturates, each with its own depth, gain and speed;
    measured with noise.

    Nothing of it is the form that the forecast assumes. `heavy`: Student's t with 4 degrees of freedom for
    normal.
    """
    draw = (lambda: rng.standard_t(4, count) / 2**0.5) if heavy else (lambda: rng.normal(size=count))
    level = -1.6 + 0.8 * draw()
    gain = numpy.maximum(0.15, 1.45 + 0.45 * draw() + 0.35 * (level + 1.6))
    speed = 1.9 * numpy.exp(0.2 * draw())
    doublings = numpy.log2(numpy.array(SIZES) / SIZES[0])
    true = level[:, None] + gain[:, None] * (1 - numpy.exp(-doublings / speed[:, None]))
    seen = lambda y: numpy.clip(forecast.odds(y) + rng.normal(0, noise, y.shape), 0.005, 0.995)  # noqa: E731
    points, bases = seen(true), seen(level + 0.55 + 0.25 * draw())
    return [
        Curve(f"m{i}", float(bases[i]), dict(zip(SIZES, map(float, points[i]), strict=True)))
        for i in range(count)
    ]


@pytest.mark.parametrize(("smallest", "most", "most_at_220k"), [(2, 1.6, 1.4), (3, 1.4, 1.7)])
def test_each_model_of_the_paper_is_forecast_from_the_others_within_two_points(
    paper, smallest, most, most_at_220k
):
    table = forecast.tested_rows(paper, smallest, 0.9)
    error = 100 * (table.forecast - table.truth).abs()
    assert len(table) == 8 * (6 - smallest)
    assert error.mean() < most
    assert error.max() < 5
    assert error[table.examples == 220000].mean() < most_at_220k
    assert (numpy.isfinite(table.back_truth) == numpy.isfinite(table.back_forecast)).all()


def test_bases_of_the_miniature_are_forecast_better_than_by_the_mean_of_others():
    from forecast import plain_guesses

    known = forecast.from_reference(pandas.read_csv(REPOSITORY / "workflow/reference/miniature_curves.csv"))
    assert len(known) == 20
    for smallest, off, plain, least, covered in ((2, 1.48, 2.22, 0.6, 32), (3, 1.01, 1.31, 0.7, 14)):
        table = forecast.tested_rows(known, smallest, 0.9)
        error = 100 * (table.forecast - table.truth).abs().mean()
        assert error == pytest.approx(off, abs=0.02)
        assert f"the mean of the others is off by {plain:.2f} points" in plain_guesses(known, table)
        assert least < error / plain < least + 0.1
        assert (table.truth.between(table.low, table.high)).sum() == covered


def test_a_forecast_does_not_look_at_the_sizes_it_forecasts_nor_at_its_own_whole_curve(paper):
    whole = paper[2]
    first = made_of(shortened(whole), [one for one in paper if one is not whole])
    moved = [
        one._replace(points={n: a / 2 for n, a in one.points.items()}) if one is whole else one
        for one in paper
    ]
    assert (made_of(shortened(whole), moved).value == first.value).all()
    renamed = shortened(whole)._replace(name=whole.name.lower())
    assert (made_of(renamed, moved).value == first.value).all()


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("others", [7, 20])
def test_nine_of_ten_truths_lie_in_an_interval_of_ninety_percent(others, heavy):
    rng, inside = numpy.random.default_rng(1), []
    for _ in range(400):
        new, *known = population(rng, others + 1, heavy)
        made = made_of(shortened(new), known)
        truth = numpy.array([new.points[size] for size in made.sizes])
        inside.append((made.low <= truth) & (truth <= made.high))
    assert 0.85 <= numpy.mean(inside) <= 0.95


@pytest.mark.parametrize("others", [7, 20])
def test_an_interval_for_the_recovery_size_holds_it(others):
    rng, inside = numpy.random.default_rng(2), []
    for _ in range(200):
        new, *known = population(rng, others + 1, heavy=False)
        _, earliest, latest = forecast.back_at_base(made_of(shortened(new), known))
        truth = forecast.back_from(SIZES, numpy.array([*new.points.values()]) - new.base)
        inside.append(earliest <= truth <= latest)
    assert numpy.mean(inside) >= 0.9


def test_a_model_unlike_the_others_gets_a_wider_interval(paper):
    width = {made.curve.name: made.unlike for _, made in forecast.tested(paper, FIRST, 0.9)}
    assert max(width, key=width.get) == "Gemma-3-1B-it"
    assert width["Gemma-3-1B-it"] > 1.5
    like = shortened(paper[3])
    unlike = like._replace(base=0.93)
    narrow, wide = (made_of(one, [p for p in paper if p is not paper[3]]) for one in (like, unlike))
    assert wide.unlike > 1.5
    assert ((wide.high - wide.low) > 1.3 * (narrow.high - narrow.low)).all()


def test_noisier_measurements_widen_the_interval(paper):
    mine = shortened(paper[1])
    sure, unsure = (made_of(mine._replace(noise=noise), paper) for noise in (0.019, 0.05))
    assert ((unsure.high - unsure.low) > 1.5 * (sure.high - sure.low)).all()


def test_one_point_is_refused_and_so_are_too_few_others(paper):
    one = paper[0]._replace(points={8000: 0.2})
    assert "1 size:" in forecast.forecast_of(one, paper, SIZES, 0.9)
    assert "4 curves of other models" in forecast.forecast_of(shortened(paper[0]), paper[:5], SIZES, 0.9)
    elsewhere = Curve("S", 0.5, {64: 0.1, 128: 0.4})
    assert "0 curves" in forecast.forecast_of(elsewhere, paper, [64, 128, 1024], 0.9)


def test_sizes_between_those_of_the_others_are_read_off_their_curves(paper):
    at = forecast.read_at(paper[0], [12000, 225129, 4000])
    assert 0.203 < at[0] < 0.253
    assert at[1] == pytest.approx(0.319)
    assert numpy.isnan(at[2])


def study_table(curves: dict[tuple, dict[int, float]]) -> pandas.DataFrame:
    """The columns of `cells` that a forecast reads, from accuracies by (model, seed) and examples."""
    rows = [
        {"model": model, "run": f"sft-{n}" if n else "base", "seed": seed, "stage": "sft" if n else "base",
         "recipe": "protocol", "examples": n, "task": "headline", "accuracy": accuracy,
         "samples_low": accuracy - 0.02, "samples_high": accuracy + 0.02}
        for (model, seed), points in curves.items()
        for n, accuracy in points.items()
    ]  # fmt: skip
    return pandas.DataFrame(rows)


def test_a_pretrained_model_is_another_with_every_seed_a_fetched_one_is_not():
    config = {"models": {"S": {"source": "pretrain"}, "q": {"source": "Qwen/Qwen2.5-3B-Instruct"}}}
    config |= {"report": {"confidence": 0.95}}
    points = {0: 0.5, 64: 0.1, 128: 0.3}
    table = study_table({("S", 0): points, ("S", 1): points, ("q", 0): points, ("q", 1): {**points, 64: 0.2}})
    found = {curve.name: curve for curve in forecast.from_cells(table, config)}
    assert [*found] == ["S/seed0", "S/seed1", "Qwen2.5-3B-Instruct"]
    assert found["Qwen2.5-3B-Instruct"].points[64] == pytest.approx(0.15)
    assert found["Qwen2.5-3B-Instruct"].noise < found["S/seed0"].noise
    for confidence in (0.8, 0.99):  # intervals of that confidence around the same counts
        half = 0.02 * NormalDist().inv_cdf(0.5 + confidence / 2) / NormalDist().inv_cdf(0.975)
        table["samples_low"], table["samples_high"] = table.accuracy - half, table.accuracy + half
        again = forecast.from_cells(table, config | {"report": {"confidence": confidence}})
        assert again[0].noise == pytest.approx(found["S/seed0"].noise)


def test_the_script_writes_tables_of_their_own_and_says_that_it_forecast(tmp_path, paper):
    config = json.loads(json.dumps(forecast_config()))
    first = {0: 0.27, 8000: 0.19, 16000: 0.24}
    table = study_table({("q", 0): first, ("g", 0): {0: 0.2, 8000: 0.05}})
    table.to_csv(tmp_path / "cells.csv", index=False)
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, REPOSITORY / "scripts/forecast.py", "--cells", tmp_path / "cells.csv"]
    command += ["--config", tmp_path / "config.json", "--tables", tmp_path / "out"]
    said = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    assert "Forecast, not measured: Qwen2.5-1.5B-Instruct" in said
    assert "one point has no slope" in said
    made = pandas.read_csv(tmp_path / "out/forecast.csv")
    assert made.examples.tolist() == [32000, 64000, 128000, 225129]
    assert made.others.eq(7).all()  # the paper's own curve of this very model is not among them
    assert not {"accuracy", "truth"} & set(made.columns)
    tested = pandas.read_csv(tmp_path / "out/forecast_tested.csv")
    assert tested.model.nunique() == 8


def asked(folder) -> list:
    """The flags of forecast.py for a study whose table `cells.csv` lies in a folder."""
    (folder / "config.json").write_text(json.dumps(forecast_config()))
    return ["--cells", folder / "cells.csv", "--config", folder / "config.json", "--tables", folder / "out"]


def test_a_study_without_a_curve_has_tables_that_can_be_read(tmp_path):
    """The canary's is one: its page ended in a table without columns."""
    study_table({("q", 0): {0: 0.27, 8000: 0.19}}).iloc[:0].to_csv(tmp_path / "cells.csv", index=False)
    assert "forecasts of 0 of 0 curves" in script("forecast", *asked(tmp_path))
    assert {
        len(pandas.read_csv(tmp_path / f"out/{name}.csv")) for name in ("forecast", "forecast_models")
    } == {0}


def test_other_studies_that_are_not_there_are_named_with_the_key_that_names_them(tmp_path):
    study_table({("q", 0): {0: 0.27, 8000: 0.19}}).to_csv(tmp_path / "cells.csv", index=False)
    said = script("forecast", *asked(tmp_path), "--others", tmp_path / "gone", ok=False)
    assert f"{tmp_path}/gone: has no report/tables/cells.csv" in said
    assert "report.others" in said


def forecast_config() -> dict:
    runs = ["base", "sft-8k", "sft-16k", "sft-32k", "sft-64k", "sft-128k", "sft-220k"]
    sizes = dict(zip(runs[1:], [8000, 16000, 32000, 64000, 128000, "all"], strict=True))
    return {
        "models": {"q": {"source": "Qwen/Qwen2.5-1.5B-Instruct"}, "g": {"source": "google/gemma-3-1b-it"}},
        "traces": {"rows": 225129},
        "sizes": {run.removeprefix("sft-"): {"examples": n} for run, n in sizes.items()},
        "grid": {"cells": [{"models": ["q", "g"], "runs": runs, "seeds": [0]}]},
        "rl": {"checkpoints": []},
        "report": {"confidence": 0.95},
    }
