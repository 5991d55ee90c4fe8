"""Every figure from tables of the size of the paper's grid, whole and half-finished; the tables come from the
real functions.
"""

import json
import re
import time
import xml.etree.ElementTree as xml
from pathlib import Path

import browser
import figure
import matplotlib.pyplot as plt
import numpy
import pandas
import pytest
import reader
import score
import yaml
from conftest import REPOSITORY, script

from valley import grid, records
from valley.analysis import accumulation, cells, outcomes, recovery, summary, tables
from valley.analysis.measures import Tasks
from valley.analysis.paper import beside_paper
from valley.figures import runs, sizes, style, svg, tidy
from valley.figures.paper import figure_7

TASKS = Tasks(headline=["aime24", "amc23", "math500"], length=["math500"], calculations=["arithmetic"])
PROBLEMS = {
    "aime24": 6,
    "amc23": 6,
    "math500": 10,
    "arithmetic": 40,
}  # few: what is drawn is the number of cells
SAMPLES = 4
SECONDS = 60
READY = 2  # seconds
CONTROLS = [
    ("qwen2.5-1.5b", f"sft-8k.{recipe}", seed)
    for recipe in ("matched", "short", "slow", "wide")
    for seed in (0, 1)
]
REPEATS = [("qwen2.5-1.5b", run, seed) for run in ("base", "sft-8k", "sft-32k") for seed in (1, 2)]


def graded(rng, task: str, skill: float, length: float, reflective: float) -> list[dict]:
    """Grades of one cell and task: the longer, the more calculations, each wrong with the same
    probability.
    """
    rows = []
    for problem in range(PROBLEMS[task]):
        for _ in range(SAMPLES):
            tokens = min(16384, int(rng.gamma(4, length / 4)) + 20)
            made = int(rng.integers(5, 16)) if task == "arithmetic" else None
            wrong = rng.random(made) > skill ** (1 / 8) if made else None
            right = tokens < 16384 and bool(rng.random() < skill if made is None else not wrong.any())
            kinds = ["truncated", "looping"] if tokens == 16384 else ["wrong", "no answer"]
            failed = str(rng.choice(kinds, p=[0.8, 0.2]))
            rows.append({
                "task": task, "id": f"{task}-{problem}", "answer": "1", "correct": right, "correct_boxed": right,
                "correct_paper": right or bool(rng.random() < 0.03), "source_paper": "box", "outcome": "correct" if right else failed,
                "tokens": tokens, "gold": "7", "finish_reason": "stop", "calculations": made,
                "wrong_calculations": None if made is None else int(wrong.sum()),
                "first_wrong": None if made is None or right else int(wrong.argmax()) + 1,
                "reflective": bool(rng.random() < reflective), "boxed": right, "timeout": False, "copied": False, "keywords": False, "judged": None,
            })  # fmt: skip
    return rows


def study(asked: list[tuple], config: dict) -> tuple[dict[str, pandas.DataFrame], pandas.DataFrame]:
    """(tables, problems) of a study with these cells, made by the functions that make them from real
    grades.
    """
    examples = {
        name: 220000 if size["examples"] == "all" else size["examples"]
        for name, size in config["sizes"].items()
    }
    rng = numpy.random.default_rng(0)
    scores, grades, curves = {}, [], []
    for model, run, seed in asked:
        parsed = grid.parse_run(run)
        size = examples[parsed.size] if parsed.size else 0
        depth = list(config["models"]).index(model) / 12
        skill = (
            0.15 + depth if not size else 0.05 + depth * size / 120000 + 0.15 * (parsed.recipe is not None)
        )
        skill = min(0.95, skill + 0.002 * (parsed.step or 100) * parsed.rl)
        length = 700 if not size or parsed.recipe == "short" else 9000 - 2000 * numpy.log10(size / 8000)
        rows = {task: graded(rng, task, skill, length, 0.6 if size else 0.03) for task in PROBLEMS}
        tasks = {task: score.score_task(found, 0.95) for task, found in rows.items()}
        scores[grid.Cell(model, run, seed)] = score.score(tasks, TASKS.headline, TASKS.length, 0.95)
        grades += [
            row | {"model": model, "run": run, "seed": seed} for found in rows.values() for row in found
        ]
        if parsed.rl and not parsed.step:
            reward = rng.random(100) / 5 + skill / 2
            curves.append(
                pandas.DataFrame(
                    {
                        "step": range(1, 101),
                        "reward": reward,
                        "model": model,
                        "run": run,
                        "seed": seed,
                    }
                )
            )
    names = {name: model["source"].split("/")[-1] for name, model in config["models"].items()}
    reference = pandas.read_csv(REPOSITORY / "workflow/reference/paper_fig2.csv")
    grades = cells.with_clusters(pandas.DataFrame(grades)).astype(
        dict.fromkeys(("calculations", "wrong_calculations", "first_wrong"), float)
    )
    answered = grades[grades.outcome.isin(["correct", "wrong"])]
    counted = answered[answered.task.isin(TASKS.calculations)]
    fits, hazards = accumulation.add_up(counted, 0.95)
    problems = cells.by_problem(grades)
    whole = cells.Study(cells.answers(problems), scores, examples)
    rows = [row for cell, content in scores.items() for row in summary.cell_rows(cell, content, examples)]
    table = summary.add_changes(pandas.DataFrame(rows), whole, TASKS.headline, 0.95)
    recipes = recovery.recipes(whole, TASKS, 0.95)
    found = {
        "cells": table, "replicates": summary.replicates(table, 0.95), "paper": beside_paper(table, reference, names),
        "rl_curves": pandas.concat(curves), "drop": outcomes.drop(problems, TASKS.headline),
        "budget": outcomes.budget(grades, TASKS.headline), "hazard": hazards, "accumulation": fits, "recipes": recipes,
        "accuracy_by_length": outcomes.accuracy_by(answered[answered.task.isin(TASKS.headline)], "tokens", 0.95),
        "accuracy_by_steps": outcomes.accuracy_by(counted, "calculations", 0.95), "summary": summary.summary(table, 0.95),
        "recovery": recovery.recovery(whole, TASKS, 0.95), "crossings": summary.crossings(scores), "subsets": summary.subsets([]),
        **{name: pandas.DataFrame(columns=tidy.NEEDED[name]) for name in ("forecast", "repetition")},
    }  # fmt: skip
    return found, problems


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The tables of the paper's grid, a few repeats and controls, as the rules leave them."""
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    folder, asked = tmp_path_factory.mktemp("report"), [*grid.cells(config), *CONTROLS, *REPEATS]
    made, problems = study(asked, config)
    tables.write(folder / "tables", made | {"problems": problems})
    (folder / "cells.txt").write_text("\n".join(f"{model}/{run}/{seed}" for model, run, seed in asked))
    headline = made["summary"][made["summary"].task == grid.HEADLINE]
    (folder / "finding.txt").write_text(summary.finding(headline))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def paper(report) -> dict[str, pandas.DataFrame]:
    """The tables as the figures find them."""
    return {name: tidy.read_table(report / f"tables/{name}.csv") for name in tidy.NEEDED}


def reread(made: dict, folder: Path) -> dict[str, pandas.DataFrame]:
    tables.write(folder, made)
    return {name: tidy.read_table(folder / f"{name}.csv") for name in made}


def drawn(name: str, tables: dict, folder: Path) -> tuple[pandas.DataFrame, list[str], bytes]:
    """The data of a figure, its hover texts, and its SVG."""
    picture, data = figure.FIGURES[name](tables, TASKS)
    path = folder / f"{name}.svg"
    svg.save(picture, path, folder / f"{name}.png")
    assert (folder / f"{name}.png").stat().st_size > 1000
    return (
        data,
        [element.text for element in xml.parse(path).iter(f"{{{svg.SVG}}}title")],
        path.read_bytes(),
    )


def hovered(data: pandas.DataFrame) -> int:
    """How many hover texts a figure owes: one a point and bar, one a line."""
    lines = data[data.kind == "line"].groupby(["model", "run", "seed"]).ngroups
    return data.kind.isin(["point", "bar"]).sum() + lines


def test_all_figures_of_the_papers_grid_take_under_a_minute(paper, report):
    began = time.process_time()
    for name in figure.FIGURES:
        data, titles, _ = drawn(name, paper, report / "figures")
        data.to_csv(report / f"figures/{name}.csv", index=False)
        assert len(titles) == hovered(data), name
        assert data.empty == (name in ("forecast", "repetition")), (
            name
        )  # those that the paper's grid asks nothing of
        assert set(data.model) == set(paper["cells"].model) or name in ("rl", "recipes") or data.empty
    took = time.process_time() - began
    print(f"all figures of the paper's grid: {took:.1f} s of one core")
    assert took < SECONDS


def test_a_forecast_is_drawn_in_marks_of_its_own_beside_what_was_measured(paper, tmp_path):
    row = {"model": "qwen2.5-1.5b", "seed": 0, "from": 2, "above_base": 0.9, "others": 7, "wider": 1.0}
    expected = pandas.DataFrame([
        row | {"run": run, "examples": n, "forecast": 0.3, "low": 0.2, "high": 0.4}
        for run, n in (("sft-64k", 64000), ("sft-128k", 128000))
    ])  # fmt: skip
    data, titles, _ = drawn("forecast", paper | {"forecast": expected}, tmp_path)
    assert set(data.model) == {"qwen2.5-1.5b"}
    told = data[data.series == "forecast"]
    assert told.x.tolist() == [64000, 128000]
    assert (told.low.tolist(), told.high.tolist()) == ([0.2, 0.2], [0.4, 0.4])
    assert {"base", "protocol"} <= set(data.series)
    assert len(titles) == hovered(data)


def test_figures_of_many_models_keep_a_readable_height(paper):
    for name in ("benchmarks", "budget"):
        picture, _ = figure.FIGURES[name](paper, TASKS)
        assert picture.get_figheight() < 10, name  # inches: a screen
        plt.close(picture)
    picture, _ = figure.FIGURES["valley"](paper, TASKS)
    assert len({ax.get_ylim() for ax in picture.axes}) == 2, "one scale a measure"
    plt.close(picture)


@pytest.fixture(scope="module")
def page(report, paper) -> Path:
    """The page of the paper's grid, written by the scripts that the rules call."""
    for name in figure.FIGURES:
        if not (report / f"figures/{name}.svg").exists():
            data, _, _ = drawn(name, paper, report / "figures")
            data.to_csv(report / f"figures/{name}.csv", index=False)
    grid_of, folder = (report / "cells.txt").read_text().split(), report / "tables"
    sizes = {
        f"{size}={int(x)}" for size, x in paper["cells"][["run", "examples"]].itertuples(index=False) if x
    }
    sizes = sorted({f"{grid.parse_run(text.split('=')[0]).size}={text.split('=')[1]}" for text in sizes})
    tasks = [
        f"--{key}" if i < 0 else key
        for name in TASKS._fields
        for i, key in [(-1, name), *enumerate(getattr(TASKS, name))]
    ]
    claims = REPOSITORY / "workflow/reference/claims.yaml"
    script("claims", "--claims", claims, "--tables", folder, "--grid", *grid_of, "--examples", *sizes, *tasks)
    costs = pandas.DataFrame(
        [{"rule": "sft", "jobs": 54, "wall_seconds": 9e6, "work_seconds": 8.9e6, "start_up_share": 0.01}]
    )
    tables.write(folder, {"costs": costs})
    made = {"commits": ["abc"], "uncommitted_changes": False, "seeds": [0, 1, 2], "hardware": ["8 × H100"], "python": ["3.11"],
            "versions": ["torch 2"], "locks": ["abc"], "finished": "2026", "gpu_hours": {"training": 2500.0, "generation": 400.0}}  # fmt: skip
    records.write_json(report / "provenance.json", made)
    script("page", "--study", "paper", "--report", report, "--figures", *figure.FIGURES, "--captions", REPOSITORY / "workflow/report",
           "--template", REPOSITORY / "workflow/report/page.html.jinja", "--claims", claims, "--grid", *grid_of,
           "--out", report / "page.html")  # fmt: skip
    return report / "page.html"


@browser.needed
@pytest.mark.parametrize("width", [390, 768, 1440])
def test_the_page_of_the_papers_grid_stands_in_a_browser_and_is_soon_there(width, page):
    found = browser.opened(page, width)
    browser.stands(found, page, width)
    ready = found["ready"] / 1000
    print(f"{width} pixels: ready in {ready:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
    assert ready < READY or min(browser.opened(page, width)["ready"] for _ in range(2)) < 1000 * READY


@browser.needed
@pytest.mark.parametrize(("width", "most"), [(1440, 2), (390, 4)])
def test_a_reader_finds_one_of_nine_models_in_few_steps(page, report, width, most):
    """The questions of docs/report.md on the last model of the grid; pages of cells are as in any study."""
    steps, read = reader.of_a_study(page, grid.Cell("gemma3-1b", "sft-8k", 0), width)
    print(f"{width} pixels: {steps}")
    assert max(steps.values()) <= most
    points = pandas.read_csv(report / "tables/recovery.csv").set_index("model").loc["gemma3-1b"]
    head, sentence = read["does it recover, and by which size"]
    assert (points.by, head) == (220000, "gemma3-1b recovers by 220k")
    assert f"gemma3-1b, {sentence}" in (report / "finding.txt").read_text()
    assert [float(value) for value in read["between which sizes, surely"][1:]] == points.tolist()
    verdicts = pandas.read_csv(report / "tables/claims.csv")
    whole = verdicts[verdicts.part.isna()]
    said = read["which claims fail, and why"]
    assert [claim for claim, _, _ in said] == whole.claim.tolist()
    assert {"fails"} < set(whole.verdict), "made-up grades on which some claim fails and some does not"
    assert all(why for _, badge, why in said if "fails" in badge)
    assert "GPU-hours: 2,500 of training" in " ".join(read["what did it cost"][0].split())


@browser.needed
def test_axe_finds_nothing_against_the_page_of_the_papers_grid(page):
    assert browser.opened(page, 1440, browser.JUDGE, browser.axe())["violations"] == []


@pytest.mark.parametrize("name", list(figure.FIGURES))
def test_a_half_finished_grid_leaves_gaps(name, paper, tmp_path):
    rng = numpy.random.default_rng(1)
    cells = paper["cells"][["model", "run", "seed"]].drop_duplicates()
    cells = cells[~cells.model.str.contains("7b|14b|llama|3b")]
    kept = cells[rng.random(len(cells)) < 0.5]
    kept = kept[~((kept.model == "gemma3-1b") & (kept.run == "base"))]
    tables = {
        key: table.merge(kept[[k for k in kept if k in table and (k, key) != ("seed", "recipes")]].drop_duplicates())
        if key not in ("replicates", "paper", "rl_curves") else table for key, table in paper.items()
    }  # fmt: skip
    data, titles, _ = drawn(name, tables, tmp_path)
    assert len(titles) == hovered(data)
    runs = data[(data.series != "paper") & (data.kind == "point")].run.str.split(" − ").str[0]
    assert set(runs) <= set(kept.run)
    assert data.value.notna().all()


@pytest.mark.parametrize("name", list(figure.FIGURES))
def test_nothing_yet_is_said_not_drawn(name, paper, tmp_path):
    nothing = {key: pandas.DataFrame() for key in paper}
    data, titles, text = drawn(name, reread(nothing, tmp_path), tmp_path)
    assert (len(data), titles) == (0, [])
    assert b"no data yet" in text


@pytest.mark.parametrize(
    "missing",
    ["cells", "paper", "replicates", "rl_curves", "drop", "accumulation", "hazard", "accuracy_by_steps"],
)
def test_any_table_may_be_empty(missing, paper, tmp_path):
    few = {key: table[table.model == "qwen2.5-1.5b"] for key, table in paper.items()}
    tables = few | {missing: paper[missing].iloc[:0]}
    for name in figure.FIGURES:
        picture, _ = figure.FIGURES[name](tables, TASKS)
        plt.close(picture)


def test_a_figure_shows_the_values_of_the_tables(paper, tmp_path):
    data, titles, _ = drawn("valley", paper, tmp_path)
    cells = paper["cells"]
    row = cells[
        (cells.model == "qwen2.5-1.5b")
        & (cells.run == "sft-8k")
        & (cells.seed == 0)
        & (cells.task == "headline")
    ].iloc[0]
    own = data[
        (data.model == row.model) & (data.run == row.run) & (data.seed == 0) & (data.series == "protocol")
    ].set_index("measure")
    assert own.loc["accuracy", ["value", "low", "high"]].tolist() == pytest.approx(
        [row.accuracy, row.problems_low, row.problems_high]
    )
    assert own.loc["length", "value"] == pytest.approx(row.length)
    assert (
        f"qwen2.5-1.5b, sft-8k, seed 0: accuracy = {row.accuracy:.3g} [{row.problems_low:.3g}, {row.problems_high:.3g}]"
        in titles
    )
    theirs = data[(data.series == "paper") & (data.model == "qwen2.5-1.5b") & (data.x == 8000)].set_index(
        "measure"
    )
    assert theirs.value.to_dict() == pytest.approx({"accuracy": 0.203, "length": 8170})
    assert theirs.low.isna().all()


def test_a_point_stands_where_its_value_is(paper):
    """The hover text belongs to its own point: each marker of the accuracy panel lies at the height its title
    names.
    """
    picture, _ = figure.FIGURES["valley"](paper, TASKS)
    named = [line for ax in picture.axes for line in ax.lines if str(line.get_gid()).startswith(svg.TITLED)]
    assert len(named) > 100
    for line in named:
        value = float(re.search(r"(?:accuracy|length) = ([\d.,e-]+)", line.get_gid())[1].replace(",", ""))
        assert line.get_ydata()[0] == pytest.approx(value, rel=0.01)
    plt.close(picture)


def test_no_line_where_a_model_has_no_base(paper, tmp_path):
    few = {key: table[table.model == "gemma3-1b"] for key, table in paper.items()}
    few |= {key: few[key][few[key].run != "base"] for key in ("cells", "drop")}
    few["drop"] = few["drop"].assign(change=numpy.nan, of_solved=numpy.nan)
    data, _, text = drawn("outcomes", few, tmp_path)
    assert set(data.measure) == {"share", "change"} - (
        {"change"} if data[data.measure == "change"].empty else set()
    )
    assert b"no data yet: no base" in text


@pytest.mark.parametrize("name", ["valley", "outcomes", "errors", "rl"])
def test_the_same_tables_give_the_same_bytes(name, paper, tmp_path):
    few = {key: table[table.model == "qwen2.5-1.5b"] for key, table in paper.items()}
    (tmp_path / "again").mkdir()
    _, _, first = drawn(name, few, tmp_path)
    _, _, second = drawn(name, few, tmp_path / "again")
    assert first == second
    assert b"<script" not in first
    assert b"<style" not in first  # would hold for the whole page


def test_responses_without_reflection_are_said_to_be(paper, tmp_path):
    cells = paper["cells"].assign(reflection=0.0, length_reflective=numpy.nan)
    _, _, text = drawn("reflection", paper | {"cells": cells[cells.model == "gemma3-1b"]}, tmp_path)
    assert b"no response is reflective" in text


@pytest.mark.parametrize(
    ("measure", "said"), [("keywords", "occurs."), ("keywords and judge", "the judge agrees.")]
)
def test_what_counts_as_reflective_is_said_as_the_study_has_it(paper, measure, said):
    cells = paper["cells"].assign(reflection_measure=measure)
    drawing, _ = sizes.reflection(paper | {"cells": cells}, TASKS)
    assert said in " ".join(text.get_text() for text in drawing.texts)


def test_what_the_test_of_errors_found_of_rl_runs_alone_makes_no_empty_line():
    fits = pandas.DataFrame({"run": ["sft-8k", "base+rl"], "verdict": ["fails", "no spread"]})
    assert runs.of_fits(fits) == "p^k fails: 8k"


def test_what_the_fit_of_errors_says_is_named_in_the_panel(paper, tmp_path):
    fits = paper["accumulation"].assign(verdict="fails")
    one = {key: table[table.model == "qwen2.5-3b"] for key, table in (paper | {"accumulation": fits}).items()}
    _, _, text = drawn("errors", one, tmp_path)
    assert "p^k fails: base, 8k, 16k, 32k, 64k, 128k, 220k" in text.decode()


def test_twelve_starts_of_rl_are_drawn_and_told_apart_beside_the_papers(paper):
    cells, curves = paper["cells"], paper["rl_curves"]
    more = [cells[(cells.model == "qwen2.5-1.5b") & ~cells.run.str.contains("8k")]]  # base and base+rl
    for i in range(12):
        rows = cells[(cells.model == "qwen2.5-1.5b") & (cells.start == "sft-8k")]
        more.append(rows.replace(r"^sft-8k(?=\+|$)", f"sft-{i}", regex=True))
    tables = {"cells": pandas.concat(more), "rl_curves": curves[curves.run == "base+rl"]}
    picture, data = figure_7(tables, TASKS)
    assert set(data.series) == {"base", *(f"sft-{i}" for i in range(12))}
    handles = picture.legends[0].legend_handles
    assert len({(line.get_color(), line.get_marker()) for line in handles}) == 13


def test_a_recipe_called_other_is_not_taken_for_the_other_responses(paper):
    """config/teachers.yaml has one."""
    cells = paper["cells"].replace({"recipe": {"wide": "other"}, "run": {"sft-8k.wide": "sft-8k.other"}})
    picture, data = figure.FIGURES["reflection"](paper | {"cells": cells}, TASKS)
    assert {text.get_text() for text in picture.legends[0].get_texts()} >= {"other", "length of the others"}
    assert set(data[data.series == "other"].run) == {"sft-8k.other"}


def test_a_recipe_has_one_colour_in_all_figures(paper):
    looks = style.looks(paper["cells"])
    assert looks["sft-8k.short"]["color"] == looks["short"]["color"]
    assert (
        len(
            {
                look["color"]
                for name, look in looks.items()
                if name in ("base", "protocol", "short", "matched", "wide")
            }
        )
        == 5
    )


def test_the_seeds_of_a_cell_stand_abreast_in_their_order_and_not_on_their_neighbours():
    rows = [("protocol", 8, seed) for seed in range(10)] + [("protocol", 64, seed) for seed in (3, 1)]
    rows += [("short", 8, 5), ("paper", 8, None)]
    rows = pandas.DataFrame(rows, columns=["series", "x", "seed"], index=range(7, 21))
    aside = tidy.abreast(rows)
    ten, two = aside[rows.x.eq(8) & rows.series.eq("protocol")], aside[rows.x == 64]
    assert ten.is_monotonic_increasing
    assert ten.sum() == pytest.approx(0)
    assert ten.max() - ten.min() == pytest.approx(tidy.ABREAST)
    assert two.tolist() == [0.5, -0.5]
    assert aside[rows.series.isin(["short", "paper"])].tolist() == [0, 0]
