"""Two studies side by side: what is equal reads as equal, a shift is found, other problems are not paired,
gaps are named.
"""

import json
import re

import numpy
import pandas
import pytest
from conftest import REPOSITORY, run, script

from valley import records
from valley.analysis import comparison
from valley.analysis.cells import Answers
from valley.analysis.measures import COLUMNS
from valley.grid import HEADLINE

RUNS = ("base", "sft-8k", "sft-220k", "sft-8k.wide")
SIZES = {"aime24": (30, 8), "amc23": (40, 8), "math500": (100, 4)}


def study(
    folder,
    shift=0.0,
    models=("m",),
    runs=RUNS,
    seeds=(0, 1),
    prefix="p",
    headline=tuple(SIZES),
    answer="7",
    length=0,
):
    """A study of three tasks on disk: rates of problems from one random stream, `shift` added to those of
    sft-8k.
    """
    rows = []
    for model in models:
        for name in runs:
            for seed in seeds:
                drawn = numpy.random.default_rng([RUNS.index(name), seed])
                for task, (problems, samples) in SIZES.items():
                    rate = numpy.clip(drawn.beta(1, 2, problems) + (shift if name == "sft-8k" else 0), 0, 1)
                    solved, tokens = (
                        numpy.round(rate * samples) / samples,
                        drawn.normal(1000, 100, problems) + length,
                    )
                    rows += [{"model": model, "run": name, "seed": seed, "task": task, "id": f"{prefix}{i}", "samples": samples,
                              **dict.fromkeys(COLUMNS, 0.0), "gold": answer, "correct": c, "correct_paper": c, "tokens": t} for i, (c, t) in
                             enumerate(zip(solved, tokens, strict=True))]  # fmt: skip
    report = folder / "report"
    records.write_parquet(report / "tables/problems.parquet", rows)
    config = {
        "models": {model: {"source": "Qwen/Qwen2.5-1.5B-Instruct", "revision": "989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
                           "family": "qwen2.5"} for model in models}, "traces": {"rows": 225129},
        "sizes": {"8k": {"examples": 8000}, "220k": {"examples": "all"}},
        "report": {"headline": list(headline), "length": ["math500"]},
    }  # fmt: skip
    records.write_json(report / "config.json", config)
    (report / "finding.txt").write_text("a finding\n")
    return folder


def compare(tmp_path, a, b, *flags):
    output = script("compare", "--a", a, "--b", b, "--out", tmp_path / "out", *flags)
    table = pandas.read_csv(tmp_path / "out/compare.csv", dtype={"seed": str, "seeds": str})
    return output, table, (tmp_path / "out/compare.html").read_text()


def test_a_study_and_itself_differ_nowhere(tmp_path):
    one = study(tmp_path / "one")
    output, table, page = compare(tmp_path, one, one)
    assert set(table.interval) == {"paired"}
    assert (table[["difference", "length_difference", "length_low", "length_high"]].fillna(0) == 0).all(
        axis=None
    )
    assert (table.low <= 0).all()
    assert (table.high >= 0).all()
    assert len(table) == len(RUNS) * (len(SIZES) + 1) * 3  # over seeds, seed 0, seed 1
    assert (
        "over problems: 0 of 4 intervals exclude zero; were nothing different, about 0.2 of 4 would by chance"
        in output
    )
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert not re.search(
        r'(?:src|href)\s*=\s*"(?!#)|url\((?!#)|@import', page
    )  # nothing is loaded from anywhere


def test_what_graders_changed_of_the_same_responses_is_counted_grader_by_grader(tmp_path):
    a, b = study(tmp_path / "a"), study(tmp_path / "b")
    path = b / "report/tables/problems.parquet"
    rows = records.read_parquet(path).to_pylist()
    changed = [row for row in rows if (row["run"], row["task"], row["seed"]) == ("base", "math500", 0)][:5]
    for row in changed:
        row["correct_paper"] = 1 - row["correct_paper"]
    records.write_parquet(path, rows)
    output, _, page = compare(tmp_path, a, b)
    graders = pandas.read_csv(tmp_path / "out/graders.csv")
    assert len(graders) == len(RUNS) * len(SIZES) * 3
    moved = graders[(graders.raised > 0) | (graders.lowered > 0)]
    assert moved[["run", "task", "grader", "problems"]].to_numpy().tolist() == [
        ["base", "math500", "paper", 200]
    ]
    turned = [2 * row["correct_paper"] - 1 for row in changed]
    assert (moved.raised.item(), moved.lowered.item()) == (
        sum(t > 0 for t in turned),
        sum(t < 0 for t in turned),
    )
    assert moved.difference.item() == pytest.approx(sum(turned) / 200)
    assert "1 of 36 (cell, task, grader)" in output
    assert "1 of 36 rows differ" in page


def test_a_known_shift_is_found_in_its_cell_alone_and_is_narrower_paired(tmp_path):
    a, b = study(tmp_path / "a"), study(tmp_path / "b", shift=0.15, length=40)
    _, table, page = compare(tmp_path, a, b)
    whole = table[(table.task == HEADLINE) & (table.seed == "all")].set_index("run")
    assert whole.loc["sft-8k", "low"] > 0.1
    assert whole.loc["sft-8k", "difference"] == pytest.approx(0.14, abs=0.02)
    assert (
        whole.loc["sft-8k", "seeds_low"]
        <= whole.loc["sft-8k", "difference"]
        <= whole.loc["sft-8k", "seeds_high"]
    )
    assert (whole.drop("sft-8k").difference == 0).all()
    assert whole.length_difference.to_numpy() == pytest.approx(40)
    assert "1 of 4 intervals exclude zero" in page
    other = study(tmp_path / "c", shift=0.15, prefix="q")
    _, unpaired, _ = compare(tmp_path, a, other)
    loose = unpaired[(unpaired.task == HEADLINE) & (unpaired.seed == "all")].set_index("run")
    assert loose.loc["sft-8k", "difference"] == pytest.approx(whole.loc["sft-8k", "difference"])
    assert loose.loc["sft-8k", "high"] - loose.loc["sft-8k", "low"] > 1.5 * (
        whole.loc["sft-8k", "high"] - whole.loc["sft-8k", "low"]
    )


@pytest.mark.parametrize("other", [{"prefix": "q"}, {"answer": "8"}])
def test_other_problems_are_not_paired_and_that_is_said_even_where_ids_agree(tmp_path, other):
    a, b = study(tmp_path / "a"), study(tmp_path / "b", **other)
    _, table, page = compare(tmp_path, a, b)
    assert set(table.interval) == {"unpaired"}
    assert "unpaired: other problems" in page


def test_tables_alone_will_do(tmp_path):
    a, b = study(tmp_path / "a"), study(tmp_path / "b")
    (b / "report/finding.txt").unlink()
    _, table, _ = compare(tmp_path, a, b)
    assert set(table.interval) == {"paired"}


def test_cells_that_one_side_lacks_are_listed_and_seeds_are_those_of_both(tmp_path):
    a = study(tmp_path / "a", seeds=(0, 1, 2), runs=("base", "sft-8k"))
    b = study(tmp_path / "b", seeds=(1, 2, 3), runs=("base", "sft-220k"))
    output, table, page = compare(tmp_path, a, b)
    assert set(table.run) == {"base"}
    assert set(table.seed) == {"all", "1", "2"}
    assert set(table[table.seed == "all"].seeds) == {"1 2"}
    assert "Only a: m sft-8k" in output
    assert "Only b: m sft-220k" in output
    assert "1 only in b" in page


def test_against_the_paper_our_interval_stands_alone_and_missing_values_are_named(tmp_path):
    ours = study(tmp_path / "ours", runs=("base", "sft-8k", "sft-220k", "sft-8k.wide"))
    output, table, _ = compare(tmp_path, ours, "paper")
    assert table.run.tolist() == [
        "base",
        "sft-8k",
        "sft-220k",
    ]  # 225,129 stands for the paper's 220,000; no control
    assert set(table.interval) == {"one side"}
    base = table.set_index("run").loc["base"]
    assert base.b == pytest.approx(0.284)
    assert base.length_b == 760
    assert base.difference == pytest.approx(base.b - base.a)
    assert base.low < base.difference < base.high
    assert "m sft-8k.wide" in output
    assert "Qwen2.5-1.5B-Instruct 16,000" in output
    assert set(table.replication) <= {"replicated", "not", "cannot tell"}
    _, turned, _ = compare(tmp_path, "paper", ours)
    assert turned.difference.to_numpy() == pytest.approx(-table.difference.to_numpy())
    assert turned.low.to_numpy() == pytest.approx(-table.high.to_numpy())


def test_a_model_under_another_name_is_found_by_rename(tmp_path):
    a, b = study(tmp_path / "a"), study(tmp_path / "b", models=("n",))
    assert "have no cell in common" in script(
        "compare", "--a", a, "--b", b, "--out", tmp_path / "out", ok=False
    )
    assert "has no model 'x' to rename" in script("compare", "--a", a, "--b", b, "--rename", "x=m", ok=False)
    both = study(tmp_path / "both", models=("m", "n"))
    assert "would have two models 'm'" in script(
        "compare", "--a", a, "--b", both, "--rename", "n=m", ok=False
    )
    _, table, _ = compare(tmp_path, a, b, "--rename", "n=m")
    assert set(table.model) == {"m"}


def test_what_cannot_be_compared_is_refused_with_what_to_do(tmp_path):
    a = study(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    output = script("compare", "--a", a, "--b", tmp_path / "empty", ok=False)
    assert "empty: has no report/tables/problems.parquet. Make its report first: snakemake" in output
    two = study(tmp_path / "two", headline=("amc23", "math500"))
    assert "their headline tasks differ (aime24, amc23, math500 and amc23, math500)" in script(
        "compare", "--a", a, "--b", two, ok=False
    )
    assert "the paper's of AIME, AMC and MATH500" in script("compare", "--a", two, "--b", "paper", ok=False)
    assert "is on both sides" in script("compare", "--a", "paper", "--b", "paper", ok=False)
    assert not list(tmp_path.glob("*/compare*"))


@pytest.mark.parametrize(
    ("keys", "value", "why"),
    [
        (("models", "m", "source"), 3, "models.m.source: 3 is not of type 'string'"),
        (("models", "m", "source"), None, "it has no models.m.source"),
        (("sizes", "8k", "examples"), "many", "sizes.8k.examples: 'many'"),
        (("report", "length"), "math500", "report.length: 'math500' is not of type 'array'"),
        (("report",), None, "it has no report"),
    ],
)
def test_a_study_whose_configuration_is_none_is_refused_by_the_key_that_is_wrong(tmp_path, keys, value, why):
    """A key that another version wrote beside these does no harm."""
    file = study(tmp_path / "a") / "report/config.json"
    content = json.loads(file.read_text()) | {"unheard_of": 1}
    records.write_json(file, content)
    script("compare", "--a", tmp_path / "a", "--b", "paper", "--out", tmp_path / "out")
    *path, last = keys
    within = content
    for key in path:
        within = within[key]
    if value is None:
        del within[last]
    else:
        within[last] = value
    records.write_json(file, content)
    said = script("compare", "--a", tmp_path / "a", "--b", "paper", "--out", tmp_path / "out", ok=False)
    assert f"config.json: is no configuration of a study: {why}" in said


def test_make_compare_names_its_folder_after_both_sides(tmp_path):
    study(tmp_path / "mine")
    line = (
        run(["make", "--dry-run", "compare", f"A={tmp_path / 'mine'}", "B=paper"], REPOSITORY)
        .strip()
        .splitlines()[-1]
    )
    assert f"scripts/compare.py --a {tmp_path / 'mine'} --b paper" in line
    command = ["python", REPOSITORY / "scripts/compare.py", "--a", tmp_path / "mine", "--b", "paper"]
    assert "comparisons/mine-paper" in run(command, tmp_path)
    assert (tmp_path / "comparisons/mine-paper/compare.html").exists()
    assert json.loads((tmp_path / "mine/report/config.json").read_text())  # the study is only read


def test_an_exact_repetition_is_seldom_called_none_and_another_number_is():
    """Ours and the paper's are two trainings of one cell on the same problems: noise of samples and of
    training alone.
    """
    rng, found = numpy.random.default_rng(0), {0.0: [], 0.12: []}
    rates = {task: rng.beta(1, 2, count) for task, (count, _) in SIZES.items()}
    for off, verdicts in found.items():
        for _ in range(200):
            sides = []
            for _ in range(2):
                moved = rng.normal(0, 0.01)
                columns, samples = {}, {task: k for task, (_, k) in SIZES.items()}
                for task, rate in rates.items():
                    right = rng.binomial(samples[task], numpy.clip(rate + moved, 0, 1)) / samples[task]
                    columns[task] = numpy.tile(right[:, None], len(COLUMNS))
                sides.append(Answers({}, columns, samples, {}))
            side = comparison.Side("m", None, {}, "paper", list(SIZES), [], {}, {}, {}, "", "")
            paper = float(numpy.mean([sides[1].column(task, "correct").mean() for task in SIZES])) + off
            difference = comparison.replication(sides[0], paper, (1, 1), side, (0.01**2, 10.0))
            verdicts.append(comparison.replicated(difference, 0.95))
    assert found[0.0].count("not") <= 0.06 * 200
    assert found[0.0].count("replicated") > found[0.0].count("not")
    assert found[0.12].count("not") >= 0.9 * 200
    assert "replicated" not in found[0.12]
