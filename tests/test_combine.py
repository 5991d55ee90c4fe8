"""Several studies together: what each found stands side by side, is combined as it should be, and the paper
is one of them.
"""

import browser
import combine
import numpy
import pandas
import pytest
from conftest import REPOSITORY, run, script
from test_compare import study

from valley import records
from valley.analysis import combination

PROVENANCE = {"commits": ["abc123"], "seeds": [0, 1], "hardware": ["8 × H100"], "versions": ["torch 2"], "finished": "2026",
              "gpu_hours": {"training": 90.0, "generation": 10.0}}  # fmt: skip


def labs(tmp_path, *shifts, **settings):
    """Studies that differ by what is added to the accuracy of their sft-8k."""
    made = []
    for name, shift in zip("abcdef", shifts, strict=False):
        made.append(study(tmp_path / name, shift, **settings))
        records.write_json(made[-1] / "report/provenance.json", PROVENANCE | {"commits": [name * 6]})
    return made


def combined(tmp_path, *studies):
    """What the script says, its tables by name, its page."""
    out = tmp_path / "out"
    said = script("combine", "--studies", *studies, "--out", out)
    tables = {file.stem: pandas.read_csv(file) for file in out.glob("*.csv")}
    return said, tables, (out / "combined.html").read_text()


def test_cells_stand_side_by_side_with_the_paper_as_one_of_the_studies(tmp_path):
    said, tables, page = combined(tmp_path, *labs(tmp_path, 0.0, 0.1))
    cells = tables["cells"]
    assert set(cells.study) == {"a", "b", "paper"}
    theirs = cells[(cells.study == "paper") & (cells.run == "sft-8k")]
    assert theirs.accuracy.item() == pytest.approx(0.203)
    assert tables["studies"].study.tolist() == ["a", "b", "paper"]
    assert tables["studies"]["GPU-hours"].tolist() == [100.0, 100.0, 2500.0]
    for shown in ("aaaaaa", "bbbbbb", "8 × H100 80 GB", "by the paper grader"):
        assert shown in page
    assert "sft-8k.wide" in said
    assert set(tables["combined"].set_index("run").studies[["sft-8k", "sft-8k.wide"]]) == {
        3,
        2,
    }  # the paper has no control


def test_a_shift_in_one_study_moves_its_own_effect_alone(tmp_path):
    _, before, _ = combined(tmp_path, *labs(tmp_path / "one", 0.0, 0.0, 0.0))
    _, after, _ = combined(tmp_path, *labs(tmp_path / "two", 0.0, 0.0, 0.2))
    keys = ["model", "run", "study"]
    both = before["effects"].merge(after["effects"], on=keys, suffixes=("_before", "_after"))
    own = both.study.ne("paper")
    moved = both[own & ~numpy.isclose(both.change_before, both.change_after)]
    assert moved[["run", "study"]].to_numpy().tolist() == [["sft-8k", "c"]]
    spread = [table["combined"].set_index("run") for table in (before, after)]
    assert spread[1].p_same["sft-8k"] < spread[0].p_same["sft-8k"]
    assert spread[1].between["sft-8k"] > spread[0].between["sft-8k"]
    other = [table.loc["sft-220k", ["change", "low", "high"]].tolist() for table in spread]
    assert other[0] == pytest.approx(
        other[1], abs=1e-3
    )  # the noise of a training is pooled over a study's cells


def test_equal_effects_have_nothing_between_them_and_unequal_ones_do():
    equal = combination.combine([0.1, 0.1, 0.1], [0.001, 0.002, 0.004], 0.95)
    assert (equal["change"], equal["these"]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert (equal["between"], equal["share_between"]) == (0.0, 0.0)
    assert equal["p_same"] == pytest.approx(1.0)
    unequal = combination.combine([0.1, 0.1, 0.5], [0.001, 0.001, 0.001], 0.95)
    assert unequal["between"] == pytest.approx(
        numpy.sqrt(numpy.var([0.1, 0.1, 0.5], ddof=1) - 0.001), rel=0.01
    )
    assert unequal["p_same"] < 1e-6
    assert unequal["low"] < unequal["these_low"]
    assert unequal["next_low"] < unequal["low"]
    assert combination.combine([0.1, 0.2], [0.001, 0.001], 0.95)["next_low"] is None


@pytest.mark.parametrize(("studies", "between"), [(2, 0.0), (3, 0.05), (5, 0.05)])
def test_the_interval_over_studies_holds_the_truth_as_often_as_it_says(studies, between):
    rng, truth, inside, of_these = numpy.random.default_rng(studies), -0.1, [], []
    for _ in range(1500):
        variances = rng.uniform(0.0005, 0.003, studies)
        effects = truth + rng.normal(0, between, studies) if between else numpy.full(studies, truth)
        found = combination.combine(rng.normal(effects, numpy.sqrt(variances)), variances, 0.95)
        inside.append(found["low"] <= truth <= found["high"])
        weighted = numpy.average(effects, weights=1 / variances)
        of_these.append(found["these_low"] <= weighted <= found["these_high"])
    assert numpy.mean(inside) >= 0.93
    assert 0.93 <= numpy.mean(of_these) <= 0.97


def test_studies_of_other_problems_know_less_of_a_common_effect(tmp_path):
    one, two = study(tmp_path / "a"), study(tmp_path / "b")
    other = study(tmp_path / "c", prefix="q")
    _, same, _ = combined(tmp_path, one, two)
    _, apart, _ = combined(tmp_path, one, other)
    assert set(same["combined"].over) == {"samples and trainings"}
    assert set(apart["combined"].over) == {"samples, trainings and problems"}
    width = [(t["combined"].these_high - t["combined"].these_low).mean() for t in (same, apart)]
    assert width[1] > width[0]


def test_a_model_under_another_name_is_known_by_its_source_and_one_made_here_is_not(tmp_path):
    _, tables, _ = combined(tmp_path, study(tmp_path / "a"), study(tmp_path / "b", models=("n",)))
    assert set(tables["cells"].model) == {"m"}
    for name in ("c", "d"):
        made = study(tmp_path / name, models=(name,))
        config = records.read_json(made / "report/config.json")
        config["models"][name]["source"] = "pretrain"
        records.write_json(made / "report/config.json", config)
    refused = script("combine", "--studies", tmp_path / "c", tmp_path / "d", ok=False)
    assert "have no run with its base in common" in refused


def of_sources(folder, sources, **settings):
    """A study of models by name, each from a source; a commit pins those of a hub."""
    made = study(folder, models=tuple(sources), **settings)
    config = records.read_json(made / "report/config.json")
    for model, source in sources.items():
        config["models"][model]["source"] = source
        if source.startswith("data/"):
            config["models"][model]["revision"] = None
    records.write_json(made / "report/config.json", config)
    return made


def models_of(tables) -> dict:
    """The studies that have cells of each model."""
    ours = tables["cells"][tables["cells"].study != "paper"]
    return {model: set(rows.study) for model, rows in ours.groupby("model")}


def test_models_of_which_only_the_last_part_of_the_source_is_the_same_stay_two(tmp_path):
    both = of_sources(tmp_path / "one", {"x": "lab-a/X", "y": "lab-b/X"})
    other = of_sources(tmp_path / "two", {"z": "lab-b/x"}, shift=0.1)
    _, tables, _ = combined(tmp_path, both, other)
    assert models_of(tables) == {"x": {"one"}, "y": {"one", "two"}}
    cells = tables["cells"].set_index(["model", "run", "study"]).accuracy
    assert cells["y", "sft-8k", "two"] > cells["y", "sft-8k", "one"]
    assert set(tables["combined"].model) == {"y"}


def test_folders_of_one_path_in_two_labs_are_two_models_unless_they_have_one_name(tmp_path):
    one, two = (of_sources(tmp_path / name, {name: "data/my-model"}) for name in "cd")
    refused = script("combine", "--studies", one, two, ok=False)
    assert "have no run with its base in common" in refused
    again = of_sources(tmp_path / "e", {"c": "data/elsewhere"})
    _, tables, _ = combined(tmp_path, one, again)
    assert models_of(tables) == {"c": {"c", "e"}}


def test_one_name_for_several_models_and_several_models_of_one_id_are_kept_apart(tmp_path):
    sources = ({"q": "org/X"}, {"n": "org/X", "q": "org/Y"}, {"q": "data/q"}, {"v": "org/X", "w": "org/X"})
    made = [of_sources(tmp_path / name, of) for name, of in zip("abcd", sources, strict=True)]
    _, tables, _ = combined(tmp_path, *made)
    assert models_of(tables) == {
        "q": {"a", "b"}, "q of b": {"b"}, "q of c": {"c"}, "v": {"d"}, "w": {"d"},
    }  # fmt: skip
    counts = tables["studies"].set_index("study").cells
    assert counts[["a", "b", "c", "d"]].tolist() == [8, 16, 8, 16]  # no cell stands in another's place


def test_releases_are_named_by_their_study_and_a_size_of_another_meaning_is_refused(tmp_path):
    one, two = study(tmp_path / "lab/release"), study(tmp_path / "other")
    _, tables, _ = combined(tmp_path, one, two)
    assert set(tables["effects"].study) == {"lab", "other", "paper"}
    config = records.read_json(two / "report/config.json")
    config["sizes"]["8k"]["examples"] = 4000
    records.write_json(two / "report/config.json", config)
    assert "their size 8k is 8,000 and 4,000 examples" in script("combine", "--studies", one, two, ok=False)
    assert "names a study twice" in script("combine", "--studies", one, one, ok=False)


def test_what_each_study_says_of_the_claims_stands_side_by_side(tmp_path):
    one, two = labs(tmp_path, 0.0, 0.0)
    for folder, verdict in ((one, "holds"), (two, "fails")):
        rows = [{"claim": "C1", "part": None, "text": "it falls", "verdict": verdict}]
        pandas.DataFrame(rows).to_csv(folder / "report/tables/claims.csv", index=False)
    _, _, page = combined(tmp_path, one, two)
    assert page.index("</span> holds") < page.index("</span> fails")


@browser.needed
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_stands_in_a_browser_and_axe_finds_nothing_against_it(tmp_path, width):
    combined(tmp_path, *labs(tmp_path, 0.0, 0.1))
    found = browser.opened(tmp_path / "out/combined.html", width, browser.JUDGE, browser.axe())
    assert (found["wrong"], found["outside"], found["violations"]) == ([], 0, [])
    assert found["wide"] <= 0


def test_make_pool_calls_it_with_all_releases():
    line = run(["make", "--dry-run", "pool", "RELEASES=x y"], REPOSITORY).strip().splitlines()[-1]
    assert "scripts/combine.py --studies x y" in line
    assert combine.PAPER == "paper"
