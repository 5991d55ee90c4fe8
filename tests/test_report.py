"""Tables, finding, figures and page."""

import page
import pandas
import pytest
from conftest import script

from valley import check, grading, places, records
from valley.analysis.summary import end_points, finding, summary
from valley.grid import HEADLINE, Cell

SHARES = {f"share {name}": 0.2 for name in grading.OUTCOMES}


def cell(model, run, seed, accuracy, stage="sft", examples=128, recipe="protocol", step=None):
    return {
        "model": model, "run": run, "seed": seed, "stage": stage, "start": run.split("+")[0], "recipe": recipe, "step": step,
        "examples": examples, "task": HEADLINE, "accuracy": accuracy, "problems_low": accuracy - 0.05,
        "problems_high": accuracy + 0.05, "accuracy_boxed": accuracy, "accuracy_paper": accuracy, "length": 100.0, "boxed": 1.0, "reflection": 0.0,
    } | SHARES  # fmt: skip


def table(*cells):
    return summary(pandas.DataFrame(list(cells)), 0.95)


def test_the_finding_speaks_of_all_seeds():
    cells = [cell("S", "base", s, a, "base", 0) for s, a in enumerate([0.41, 0.48, 0.61])]
    cells += [cell("S", "sft-128", s, a) for s, a in enumerate([0.03, 0.05, 0.08])]
    cells += [cell("S", "sft-2k", s, a, examples=2048) for s, a in enumerate([0.9, 0.4, 0.7])]
    assert finding(table(*cells)) == (
        "S, 3 seeds: base .50 [.41–.61] → .05 [.03–.08] at n=128, .67 [.40–.90] at n=2,048, back above base in 2 of 3"
    )


def test_the_finding_ignores_controls_and_copes_with_a_half_finished_grid():
    cells = [
        cell("S", "base", 0, 0.5, "base", 0),
        cell("S", "sft-64.short", 0, 0.9, recipe="short", examples=64),
    ]
    assert "no model has both" in finding(table(*cells))
    assert "S, 1 seed: base .50" in finding(table(*cells, cell("S", "sft-128", 0, 0.1)))


def test_a_base_that_was_evaluated_once_stands_beside_all_seeds_in_the_finding():
    cells = [cell("S", "base", 0, 0.5, "base", 0)]
    cells += [cell("S", "sft-128", s, a) for s, a in enumerate([0.1, 0.2, 0.3])]
    cells += [cell("S", "sft-2k", s, a, examples=2048) for s, a in enumerate([0.8, 0.7, 0.9])]
    assert finding(table(*cells)) == (
        "S, 3 seeds: base .50 → .20 [.10–.30] at n=128, .80 [.70–.90] at n=2,048, back above base in 3 of 3"
    )


def of_seeds(base: dict, last: dict) -> list[dict]:
    """Cells of a base, the smallest and the largest size: accuracy by seed, the smallest size's is .1."""
    cells = [cell("S", "base", s, a, "base", 0) for s, a in base.items()]
    cells += [cell("S", "sft-128", s, 0.1) for s in last]
    return cells + [cell("S", "sft-2k", s, a, examples=2048) for s, a in last.items()]


@pytest.mark.parametrize(
    ("base", "last", "said"),
    [
        ({0: 0.5, 1: 0.5}, {2: 0.9}, "n=2,048"),  # of two given bases neither is its own
        ({0: 0.5, 1: 0.5}, {2: 0.9, 3: 0.2}, "n=2,048"),
        ({0: 0.5, 1: 0.5}, {0: 0.9, 1: 0.2, 2: 0.9}, "n=2,048, back above base in 1 of 2 with a base"),
        ({0: 0.5}, {0: 0.5}, "n=2,048, back at base"),
        ({0: 0.5}, {0: 0.9, 1: 0.5, 2: 0.4}, "n=2,048, back above base in 1 of 3, at it in 1"),
    ],
)
def test_the_finding_counts_the_seeds_with_a_base_beside_them_and_says_nothing_of_others(base, last, said):
    assert finding(table(*of_seeds(base, last))).endswith(said)


def test_a_run_without_a_base_beside_it_is_neither_below_nor_above_one_in_the_summary():
    row = table(*of_seeds({0: 0.5, 1: 0.5}, {2: 0.9})).set_index("run").loc["sft-2k"]
    assert row.with_base == 0
    assert pandas.isna([row.change, row.below_base, row.above_base]).all()


@pytest.mark.parametrize(("last", "said"), [(0.7, ", back above base"), (0.4, ", not back above base")])
def test_the_finding_of_one_seed_counts_no_seeds(last, said):
    cells = [cell("S", "base", 0, 0.5, "base", 0), cell("S", "sft-128", 0, 0.1)]
    assert finding(table(*cells, cell("S", "sft-2k", 0, last, examples=2048))).endswith(f"n=2,048{said}")


def test_an_rl_run_ends_at_the_mean_of_its_last_three_checkpoints_never_the_best():
    steps = [
        ("base+rl@10", 10, 0.9),
        ("base+rl@20", 20, 0.5),
        ("base+rl@30", 30, 0.6),
        ("base+rl", None, 0.4),
    ]
    cells = pandas.DataFrame([cell("S", run, 0, a, "rl", 0, step=step) for run, step, a in steps])
    ends = end_points(cells)
    assert ends.run.tolist() == ["base+rl"]
    assert ends.accuracy.iat[0] == pytest.approx(0.5)


def test_a_change_is_against_the_base_of_the_same_seed():
    cells = [cell("S", "base", 0, 0.2, "base", 0), cell("S", "base", 1, 0.8, "base", 0)]
    cells += [cell("S", "sft-128", 1, 0.7)]
    row = table(*cells).set_index("run").loc["sft-128"]
    assert row.change == pytest.approx(-0.1)
    assert (row.below_base, row.above_base) == (1, 0)


def study_of(root, cells):
    """A study on disk in which every cell answered one problem of chain, its configuration with it."""
    row = {
        "id": "p",
        "sample": 0,
        "prompt": "?",
        "response": r"\boxed{1}",
        "tokens": 5,
        "finish_reason": "stop",
    }
    records.write_parquet(root / "task.parquet", [{"id": "p", "problem": "1?", "answer": "1"}])
    records.write_parquet(root / "chain.parquet", [row])
    flags = ["--tasks", root / "task.parquet", "--samples", 1, "--out", root / "grades.parquet"]
    script("grade", "--responses", root / "chain.parquet", *flags)
    flags = ["--headline", "chain", "--length", "chain", "--out", root / "scores.json"]
    script("score", "--grades", root / "grades.parquet", *flags)
    for cell in cells:
        folder = places.folder(root / "results", cell)
        (folder / "responses").mkdir(parents=True)
        for name, there in (("grades.parquet", ""), ("scores.json", ""), ("chain.parquet", "responses")):
            (folder / there / name).write_bytes((root / name).read_bytes())
    given = {"models": {"M": {"source": "given/M"}}}  # a base of its own alone is trained with the seed
    config = check.load([check.ROOT / "config/miniature.yaml"], given)
    records.write_json(root / "config.json", config)
    return root


def test_the_only_base_so_far_of_a_model_that_is_trained_here_stands_beside_its_own_seed_alone(tmp_path):
    """As it lies there when a report is made before all is done: of seed 1 the base is another model."""
    seeds = [Cell(model, "sft-16", seed) for model in "SM" for seed in (0, 1)]
    cells = [Cell("S", "base", 0), Cell("M", "base", 0), *seeds]
    study, out = study_of(tmp_path / "study", cells), tmp_path / "tables"
    files = {name: [places.folder(study / "results", c) / name for c in cells]
             for name in ("grades.parquet", "scores.json")}  # fmt: skip
    trained = ("--headline", "chain", "--trained-bases", "S")
    script("analyse", "--grades", *files["grades.parquet"], *trained, "--length", "chain", "--out", out)
    script("aggregate", "--scores", *files["scores.json"], *trained, "--examples", "16=16", "--tables", out,
           "--reference", "workflow/reference/paper_fig2.csv", "--finding", out / "finding.txt")  # fmt: skip
    tables = {name: pandas.read_csv(out / f"{name}.csv") for name in ("cells", "drop", "summary")}
    rows = tables["cells"][(tables["cells"].task == HEADLINE) & (tables["cells"].run == "sft-16")]
    right = tables["drop"][(tables["drop"].outcome == "correct") & (tables["drop"].run == "sft-16")]
    for found in (rows, right):
        beside = found.set_index(["model", "seed"]).change.notna()
        assert [beside[model, seed] for model, _, seed in seeds] == [True, False, True, True]
    script("cell_pages", "--study", study, "--config", study / "config.json", "--cells", *cells,
           "--template", "workflow/report/cell.html.jinja", "--out", tmp_path / "cells")  # fmt: skip
    shown = [(tmp_path / places.page_of(cell)).read_text() for cell in seeds]
    assert ["the base's first response" in text for text in shown] == [True, False, True, True]


def test_a_seed_without_its_own_trained_base_counts_in_no_change_of_the_summary():
    cells = [cell("S", "base", 0, 0.2, "base", 0), cell("S", "sft-128", 0, 0.1), cell("S", "sft-128", 1, 0.9)]
    for trained, change, above in (["S"], -0.1, 0), ([], 0.3, 1):
        row = summary(pandas.DataFrame(cells), 0.95, trained).set_index("run").loc["sft-128"]
        assert (row.change, row.below_base, row.above_base) == (pytest.approx(change), 1, above)


def test_beside_a_cell_stands_the_base_of_its_seed_or_the_only_one_and_never_anothers(tmp_path):
    beside = {
        Cell("S", "sft-16", 1): "S/base/1",
        Cell("S", "sft-16", 2): None,  # of two bases neither is its own
        Cell("M", "sft-16", 2): "M/base/0",  # evaluated once
    }
    cells = [Cell("S", "base", 0), Cell("S", "base", 1), Cell("M", "base", 0), *beside]
    study = study_of(tmp_path / "study", cells)
    script("cell_pages", "--study", study, "--config", study / "config.json", "--cells", *cells,
           "--template", "workflow/report/cell.html.jinja", "--out", tmp_path / "cells")  # fmt: skip
    for cell, base in beside.items():
        text = (tmp_path / places.page_of(cell)).read_text()
        assert [name for name in map(str, cells[:3]) if f">{name}</a>" in text] == ([base] if base else [])
        assert ("the base's first response" in text) == bool(base)


def test_where_checkpoints_of_rl_are_all_that_is_scored_there_are_no_examples_and_no_pages_of_cells(tmp_path):
    """The rules name no cell then: those along RL are not shown. The page takes what is made of none."""
    config = tmp_path / "config.json"
    records.write_json(config, {})
    script("examples", "--results", tmp_path / "results", "--cells", "--out", tmp_path / "examples.parquet")
    script("cell_pages", "--study", tmp_path, "--config", config, "--cells",
           "--template", "workflow/report/cell.html.jinja", "--out", tmp_path / "cells")  # fmt: skip
    assert page.read(tmp_path)["examples"] == []
    assert list((tmp_path / "cells").iterdir()) == []
