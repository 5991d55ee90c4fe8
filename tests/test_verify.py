"""A release carries its responses and names its sources, and a number changed in it is named: file, row,
column.
"""

import random

import pandas
import pyarrow.parquet
import release
import verify
from conftest import script

from valley import check, places, records
from valley.analysis import responses
from valley.grid import Cell


def test_a_value_that_differs_is_named_by_file_row_and_column():
    one = pandas.DataFrame({"accuracy": [0.5, None], "model": ["S", "M"]})
    assert verify.differences("cells.csv", one, one.copy()) == []
    other = one.assign(accuracy=[0.25, None])
    assert verify.differences("cells.csv", one, other) == [
        "cells.csv row 1, column accuracy: 0.5 released, 0.25 again"
    ]
    took = [one.assign(seconds=[value, 0.0]) for value in (0.1, 0.2)]
    assert verify.differences("grades.parquet", *took) == []  # no machine compares in the same time again
    assert verify.differences("cells.csv", one, one[:1]) == ["cells.csv: 2 rows released, 1 again"]


def test_responses_above_the_limit_are_released_in_parts_that_join_to_the_same(tmp_path):
    rows = [{"id": str(number), "response": "text" * number} for number in range(100)]
    records.write_parquet(tmp_path / "chain.parquet", rows)
    limit = (tmp_path / "chain.parquet").stat().st_size // 11
    made = release.write_responses(tmp_path / "chain.parquet", tmp_path / "out/chain.parquet", limit)
    assert len(made) > 10
    assert responses.released(tmp_path / "out")["chain"].to_pylist() == rows
    compression = pyarrow.parquet.read_metadata(made[0]).row_group(0).column(0).compression
    assert compression == "ZSTD"


def test_a_release_names_the_licences_of_all_that_its_cells_derive_from():
    pools = {
        "own": {"traces": {"source": "org/own"}},
        "long": {"traces": {"source": "org/long"}},
        "brief": {"completion": "solution"},
        "mixed": {"mix": {"long": 0.5, "brief": 0.5}},
        "unused": {"traces": {"source": "org/unused"}},
    }
    over = {"pools": pools, "sft": {"recipes": {name: {"pool": name} for name in pools}}}
    config = check.load([], over | {"report": {"judge": {"model": "llama3.2-1b", "max_characters": 300}}})
    study, judge = "open-r1/OpenR1-Math-220k", "meta-llama/Llama-3.2-1B-Instruct"
    of_tasks = {config["tasks"][task]["source"] for task in config["grid"]["tasks"]} - {"arithmetic"}
    always = of_tasks | {"Qwen/Qwen2.5-0.5B-Instruct", judge}
    for run, expected in (
        ("base", set()),
        ("sft-8k", {study}),
        ("sft-8k.own", {"org/own"}),
        ("sft-8k.mixed", {"org/long", study}),
    ):
        assert set(release.sources(config, [f"qwen2.5-0.5b/{run}/0"])) == always | expected, run
    config["report"]["judge"] = None
    assert judge not in release.sources(config, ["qwen2.5-0.5b/base/0"])
    assert "org/own" in release.sources(config, ["qwen2.5-0.5b/sft-8k.own+rl@20/0"])


def judged_release(root):
    """A release of one cell, with labels of a judge, whose two tasks number their problems alike."""
    cell, flags, labels = Cell("S", "base", 0), [], []
    folder, results = (places.folder(root / top, cell) for top in ("responses", "results"))
    for task in ("chain", "other"):
        problems = [{"id": str(n), "problem": "?", "answer": str(n)} for n in range(9)]
        rows = [{"id": str(n), "sample": 0, "prompt": "?", "response": f"wait, recheck {n}", "tokens": 5,
                 "finish_reason": "stop"} for n in range(9)]  # fmt: skip
        records.write_parquet(root / f"tasks/{task}.parquet", problems)
        records.write_parquet(folder / f"{task}.parquet", rows)
        labels += [{"task": task, "id": str(n), "sample": 0, "label": n % 3} for n in range(9)]
    records.write_parquet(folder / "labels/judged.parquet", labels)
    for flag, top in (("--responses", folder), ("--tasks", root / "tasks")):
        flags += [flag, *(top / f"{task}.parquet" for task in ("chain", "other"))]
    flags += ["--samples", 1, 1, "--judged", folder / "labels/judged.parquet"]
    script("grade", *flags, "--out", results / "grades.parquet")
    return results / "grades.parquet"


def test_a_sample_of_a_judged_release_is_sound_where_tasks_number_their_problems_alike(tmp_path):
    grades = judged_release(tmp_path / "release")
    for share, graded in ((0.3, 6), (1, 18)):
        scratch = tmp_path / f"scratch{graded}"
        again = verify.grade_again(tmp_path / "release", grades, share, random.Random(0), scratch)
        assert again[1] == graded
        before = records.read_parquet(grades).to_pandas()
        assert verify.differences("grades", before, again[0].to_pandas()) == []
        assert set(before.judged) == {"off topic", "no reflection", "reflection"}


def test_a_release_brings_the_claims_that_its_study_held_itself_to(tmp_path):
    study, out = tmp_path / "study", tmp_path / "out"
    places.folder(study / "results", Cell("S", "base", 0)).mkdir(parents=True)
    records.write_json(study / "report/config.json", check.load([check.ROOT / "config/miniature.yaml"]))
    told = {name: [] for name in ("commits", "seeds", "hardware", "versions")}
    records.write_json(study / "report/provenance.json", told)
    (study / "report/finding.txt").write_text("a finding\n")
    (tmp_path / "my-claims.yaml").write_text("{}\n")
    command = ["release", "--study", study, "--cells", "S/base/0", "--claims", tmp_path / "my-claims.yaml",
               "--licences", "workflow/reference/licences.yaml", "--out"]  # fmt: skip
    for _ in range(2):  # its own is replaced
        script(*command, out)
    assert f"{study}: holds something else" in script(*command, study, ok=False)
    assert (out / "report/claims.yaml").read_text() == "{}\n"
    assert "  report/claims.yaml\n" in (out / "SHA256SUMS").read_text()
