"""Examples × epochs at matched tokens: the study plans as it says, and its map and sentence tell few from
many.
"""

import forge
import numpy
import pandas
import pytest
from conftest import REPOSITORY, script

from valley import check, costs, grid, places, records
from valley.analysis import cells, forged, repetition
from valley.analysis.cells import Study
from valley.analysis.measures import Tasks
from valley.figures import html, tidy
from valley.figures import repetition as figures

TASKS = Tasks(["aime24", "amc23", "math500"], ["math500"], [])


@pytest.fixture(scope="module")
def config() -> dict:
    return check.load([REPOSITORY / "config/repetition.yaml"])


def study_of(config: dict, accuracy, models=("qwen2.5-1.5b",), problems: int | None = None) -> Study:
    """A study in which a run's accuracy is a function of its examples and epochs."""
    wanted = [cell for cell in grid.cells(config) if cell.model in models]
    examples = {size: grid.examples_of(config, size) for size in config["sizes"]}
    truths = {}
    for cell in wanted:
        n = examples[cell.parsed.size] if cell.parsed.size else 0
        truths[cell] = forged.Truth(accuracy(n, grid.passes(config, cell.model, cell.run)) if n else 0.28)
    made = {
        task: (problems or count, samples)
        for task, (count, samples) in forged.PAPER_DESIGN.items()
        if task in TASKS.headline
    }
    answers = forged.forged_answers(truths, made, tuple(TASKS.headline), 0.005, numpy.random.default_rng(0))
    return Study(answers, wanted, examples)


def test_every_diagonal_of_the_study_sees_equally_many_traces_in_equally_many_steps(config):
    check.check(config)
    assert grid.crosses_epochs(config)
    seen: dict[float, set] = {}
    for cell in grid.cells(config):
        if cell.run != "base":
            examples = grid.examples_of(config, cell.parsed.size)
            batch = grid.sft_settings(config, cell.model, cell.run)["batch"]
            traces = examples * grid.passes(config, cell.model, cell.run)
            seen.setdefault(traces, set()).add((examples, traces / batch))
    assert set(seen) == {51200, 12800, 3200}
    for diagonal in seen.values():
        assert len(diagonal) > 1
        assert len({steps for _, steps in diagonal}) == 1


def test_matched_runs_cost_the_same_tokens(config):
    constants = costs.load()
    tokens = {
        costs.tokens_of_sft(config, constants, "qwen2.5-1.5b", run)
        for run in ("sft-400.e128", "sft-1600.e32", "sft-6400.e8", "sft-25600.e2", "sft-51200.e1")
    }
    assert len(tokens) == 1


@pytest.mark.parametrize("other", ["config.yaml", "config/controls.yaml", "config/miniature.yaml"])
def test_a_study_that_varies_no_epochs_has_no_map(other):
    assert not grid.crosses_epochs(check.load([REPOSITORY / other]))


@pytest.mark.parametrize(("gain", "word"), [(0.03, "ahead of"), (-0.03, "behind"), (0.0, "not told apart")])
def test_the_sentence_says_who_is_ahead_at_matched_tokens(config, gain, word):
    study = study_of(config, lambda n, epochs: 0.25 + gain * numpy.log2(epochs) / 2)
    table = repetition.over_both(study, config, TASKS, 0.95)
    pairs = repetition.matched(study, table, TASKS, 0.95)
    assert len(table) == 11
    assert pairs.few.tolist() == [400, 400, 400]
    assert pairs.many.tolist() == [51200, 12800, 1600]
    said = repetition.in_a_sentence(pairs)
    assert f"400 traces × 128 epochs are {word}" in said
    assert "51,200 × 1" in said


def test_the_map_draws_every_run_once_at_its_examples_and_epochs(config):
    study = study_of(config, lambda n, epochs: 0.3)
    table = repetition.over_both(study, config, TASKS, 0.95)
    tables = {"repetition": table, "cells": table.assign(task="headline")}
    figure, data = figures.repetition(tables, TASKS)
    assert len(data) == len(table)
    assert set(zip(data.x, data.series, strict=True)) == set(zip(table.examples, table.epochs, strict=True))
    assert len(figure.axes) == 1
    assert set(tidy.NEEDED["repetition"]) <= set(table.columns)
    empty = {"repetition": table.iloc[:0], "cells": tables["cells"]}
    assert figures.repetition(empty, TASKS)[1].empty


def test_the_script_writes_both_tables_and_a_page_can_tell_of_the_figure_that_is_read_back(config, tmp_path):
    """Its epochs come back from the table as numbers."""
    study = study_of(config, lambda n, epochs: 0.3, problems=20)
    forge.on_disk(study.cells, tmp_path, {"math500": (20, 4)})
    problems = cells.by_problem(cells.load_grades(places.all_grades(tmp_path)))
    records.write_parquet(tmp_path / "problems.parquet", problems.to_dict("records"))
    records.write_json(tmp_path / "config.json", config)
    sizes = [f"{size}={count}" for size, count in study.examples.items()]
    script("repetition", "--tables", tmp_path, "--config", tmp_path / "config.json", "--grid", *study.cells, "--examples",
           *sizes, "--headline", "math500", "--length", "math500")  # fmt: skip
    table = tidy.read_table(tmp_path / "repetition.csv")
    assert set(table.run) == {cell.run for cell in study.cells} - {"base"}
    assert len(pandas.read_csv(tmp_path / "repetition_matched.csv")) > 0
    tables = {"repetition": table, "cells": table.assign(task="headline")}
    figures.repetition(tables, TASKS)[1].to_csv(tmp_path / "figure.csv", index=False)
    assert "qwen2.5-1.5b" in html.alt(pandas.read_csv(tmp_path / "figure.csv"))
