"""Sources: local files and folders, pins, and what is said when one cannot be had."""

import json

import fetch_traces
import numpy
import pandas
import pyarrow.parquet
import pytest
from conftest import script

from valley import records
from valley.analysis import intervals
from valley.analysis.paper import calibration
from valley.grid import Cell

REFERENCE = "workflow/reference/paper_fig2.csv"  # Qwen2.5-1.5B: 28.4


def test_local_traces_keep_what_is_used_and_nothing_else(tmp_path):
    row = {
        "problem": "p",
        "answer": "1",
        "solution": "s",
        "generations": ["g"],
        "source": "x",
        "uuid": "u",
        "secret": "no",
    }
    records.write_parquet(tmp_path / "in.parquet", [row] * 1200)
    script("fetch_traces", "--source", tmp_path / "in.parquet", "--out", tmp_path / "out.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert (table.num_rows, "secret" in table.column_names, "uuid" in table.column_names) == (
        1200,
        False,
        True,
    )
    assert records.parquet_provenance(tmp_path / "out.parquet")["script"] == "fetch_traces.py"


@pytest.mark.parametrize("form", ["parquet", "jsonl", "hub"])
@pytest.mark.parametrize("column", ["source", "topic"])  # one that traces have anyway, and another
def test_traces_are_chosen_by_where_split_and_limit_as_tasks_are(tmp_path, monkeypatch, form, column):
    import datasets

    rows = [
        {"problem": f"p{n}", "generations": ["g"], column: ("olympiads", "cn_k12")[n % 2]} for n in range(9)
    ]
    file, asked = tmp_path / f"in.{form}", {}
    if form == "parquet":
        records.write_parquet(file, rows)
    else:
        file.write_text("\n".join(map(json.dumps, rows)))

    def hub(source, name, revision, split):
        asked["split"] = split
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", hub)
    source = "open-r1/some-traces" if form == "hub" else str(file)
    command = ["fetch_traces.py", "--source", source, "--revision", "0" * 40, "--split", "extended", "--where",
               f"{column}=cn_", "--limit", 3, "--out", tmp_path / "out.parquet"]  # fmt: skip
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fetch_traces.main()
    assert records.read_parquet(tmp_path / "out.parquet")["problem"].to_pylist() == ["p1", "p3", "p5"]
    assert asked == ({"split": "extended"} if form == "hub" else {})


@pytest.mark.parametrize("name", ["fetch_traces", "fetch_task"])
def test_a_condition_that_is_none_is_refused_in_a_sentence(tmp_path, name):
    output = script(name, "--source", "x.jsonl", "--where", "foo", "--out", tmp_path / "out", ok=False)
    assert "argument --where: 'foo' is no condition. Write column=text" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("fetch_traces", ["--source", "open-r1/OpenR1-Math-220k"], "no revision pins its commit"),
        ("fetch_traces", ["--source", "gone.parquet"], "gone.parquet: is not a readable parquet file"),
        ("fetch_task", ["--source", "HuggingFaceH4/MATH-500"], "no revision pins its commit"),
        ("fetch_task", ["--source", "gone.jsonl"], "gone.jsonl: does not exist"),
        ("fetch_model", ["--source", "Qwen/Qwen2.5-0.5B-Instruct", "--revision", "main", "--template", "templates/qwen2.5.jinja",
                         "--end-token", "<|im_end|>", "--pad-token", "<|endoftext|>"], "revision 'main' pins no commit"),
    ],
)  # fmt: skip
def test_what_is_not_pinned_or_not_there_is_refused(tmp_path, name, flags, message):
    output = script(name, *flags, "--out", tmp_path / "out", ok=False)
    assert message in output
    assert "Traceback" not in output
    assert not list(tmp_path.iterdir())


def test_another_number_of_problems_than_expected_is_refused(tmp_path):
    """The 90 problems of AIME 2022–24 in place of the 30 of 2024 would be another benchmark under the same
    name.
    """
    source = tmp_path / "task.jsonl"
    source.write_text("\n".join(json.dumps({"id": i, "problem": "?", "answer": i}) for i in range(9)))
    flags = ["--source", source, "--out", tmp_path / "task.parquet", "--problems"]
    assert "gives 9 problems, 3 are expected" in script("fetch_task", *flags, 3, ok=False)
    assert "9 problems" in script("fetch_task", *flags, 9)


def scores(accuracy, confidence=0.95):
    """Scores of a base that solves such a share of 500 problems each time and the others never."""
    solved = {str(number): 4 * (number < 500 * accuracy) for number in range(500)}
    low, high = intervals.over_samples(numpy.array([*solved.values()]), 4, confidence)
    return {"accuracy": accuracy, "accuracy_paper": accuracy, "samples_low": low, "samples_high": high,
            "outcomes": {"correct": accuracy, "truncated": 0.0}, "boxed": 0.9,
            "tasks": {"math500": {"samples": 4, "solved": solved}, "other": {"samples": 1, "solved": {"0": 1}}}}  # fmt: skip


def distance(known):
    """How far a base of these scores is from the paper's 28.4, in standard errors."""
    reference, names = pandas.read_csv(REFERENCE), {"m": "Qwen2.5-1.5B-Instruct"}
    return calibration({Cell("m", "base", 0): known}, reference, names, ["math500"]).distance.item()


def test_a_base_far_from_the_papers_stops_with_the_likely_causes(tmp_path):
    for accuracy, ok in ((0.29, True), (0.36, False)):
        file = tmp_path / "results/qwen2.5-1.5b/base/seed0/scores.json"
        records.write_json(file, scores(accuracy))
        output = script("calibrate", "--scores", file, "--reference", REFERENCE, "--models",
                        "qwen2.5-1.5b=Qwen2.5-1.5B-Instruct", "--headline", "math500", "--out",
                        tmp_path / "calibration.csv", ok=ok)  # fmt: skip
        assert (tmp_path / "calibration.csv").exists()
        assert (
            "1 bases agree" if ok else "differs from the paper's base by more than three standard errors"
        ) in output
        assert ok or "AIME 30 or 90" in output
    known = scores(0.36)
    reach = (known["samples_high"] - known["samples_low"]) / 2
    assert distance(known) == pytest.approx(0.076 / (2**0.5 * reach / 1.96), rel=1e-4)


@pytest.mark.parametrize("accuracy", [0.36, 0.002])  # the interval of the second stops at 0
def test_the_distance_from_the_papers_base_is_the_same_at_any_confidence(accuracy):
    found = [distance(scores(accuracy, confidence)) for confidence in (0.5, 0.9, 0.95, 0.999)]
    assert found == pytest.approx([found[0]] * 4)
