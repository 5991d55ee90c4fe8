"""Examples × epochs at matched tokens: the study plans as it says, and its map and sentence tell few from
many.
"""

import numpy
import pytest
from conftest import REPOSITORY

from valley import check, costs, grid
from valley.analysis import forged, repetition
from valley.analysis.cells import Study
from valley.analysis.measures import Tasks
from valley.figures import repetition as figures
from valley.figures import tidy

TASKS = Tasks(["aime24", "amc23", "math500"], ["math500"], [])


@pytest.fixture(scope="module")
def config() -> dict:
    return check.load([REPOSITORY / "config/repetition.yaml"])


def study_of(config: dict, accuracy, models=("qwen2.5-1.5b",)) -> Study:
    """A study in which a run's accuracy is a function of its examples and epochs."""
    cells = [cell for cell in grid.cells(config) if cell.model in models]
    examples = {size: grid.examples_of(config, size) for size in config["sizes"]}
    truths = {}
    for cell in cells:
        n = examples[cell.parsed.size] if cell.parsed.size else 0
        truths[cell] = forged.Truth(accuracy(n, grid.passes(config, cell.model, cell.run)) if n else 0.28)
    made = {task: forged.PAPER_DESIGN[task] for task in TASKS.headline}
    answers = forged.forged_answers(truths, made, tuple(TASKS.headline), 0.005, numpy.random.default_rng(0))
    return Study(answers, cells, examples)


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
