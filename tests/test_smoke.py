"""The smoke study for real: every rule, real trainers, one page."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from conftest import SMOKE, checkout, planned, run, snakemake

from valley import grading, grid, records


def results(folder):
    return folder / "studies/smoke/results/S"


def test_the_smoke_study_runs_to_its_page_and_says_where_it_is(smoke):
    output = (smoke / "output.txt").read_text()
    assert "S, 1 seed: base" in output
    assert "studies/smoke/report/page.html" in output
    figures = {file.stem for file in (smoke / "studies/smoke/report/figures").iterdir()}
    assert {"valley", "outcomes", "rl", "errors", "recipes"} <= figures
    page = (smoke / "studies/smoke/report/page.html").read_text()
    assert page.count("<svg") >= len(figures)  # panels and intervals of claims are drawn too
    for name in figures:
        for kind in ("svg", "png", "csv"):
            assert (smoke / f"studies/smoke/report/figures/{name}.{kind}").stat().st_size > 100


def test_a_second_run_plans_nothing(smoke):
    assert planned(snakemake(smoke, "-n", *SMOKE)) == {}


def test_tokenised_subsets_are_told_in_the_record_and_a_finished_study_does_not_miss_them(smoke, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(smoke, folder, symlinks=True)
    made = {
        records.sha256(file) for file in (folder / "studies/smoke/data/subsets").glob("*/*.tokens/*.arrow")
    }
    for run_name in ("sft-16", "sft-64", "sft-16.short"):
        record = records.read_json(results(folder) / run_name / "seed0/train.json")
        assert record["data_sha256"] == record["tokenised"]["sha256"]
        assert record["data_sha256"] in made
        card = folder / f"studies/smoke/data/subsets/{grid.parse_run(run_name).size}/seed0.json"
        assert record["subset_sha256"] == records.read_json(card)["sha256"]
    for tokens in (folder / "studies/smoke/data/subsets").glob("*/*.tokens"):
        shutil.rmtree(tokens)
    assert planned(snakemake(folder, "-n", *SMOKE)) == {}


def test_exact_holds_whatever_environment_and_profile_say(smoke):
    """The fixture asks for other kernels and two threads."""
    for name in ("sft-16", "base+rl"):
        record = records.read_json(results(smoke) / name / "seed0/train.json")
        assert (record["kernels"], record["threads"]) == ("AVX2", 1)


def test_every_cell_has_its_files_and_records(smoke):
    for run_name in ("base", "sft-16", "sft-64", "sft-16.short", "base+rl", "base+rl@2"):
        cell = results(smoke) / run_name / "seed0"
        scores = records.read_json(cell / "scores.json")
        for over in ("samples", "problems"):
            assert 0 <= scores[f"{over}_low"] <= scores["accuracy"] <= scores[f"{over}_high"] <= 1
        assert scores["accuracy_boxed"] <= scores["accuracy"]
        assert scores["tasks"]["chain"]["calculations"] > 0
        assert sum(scores["outcomes"].values()) == pytest.approx(1)
        grades = records.read_parquet(cell / "grades.parquet").to_pylist()
        assert len(grades) == 24
        assert {row["outcome"] for row in grades} <= set(grading.OUTCOMES)
        if grid.parse_run(run_name).size:
            loss = records.read_json(cell / "train.json")["loss"]
            assert loss[-1]["loss"] < loss[0]["loss"]
            assert records.read_json(cell / "preflight.json")["truncated"] == 0
    curve = records.read_parquet(results(smoke) / "base+rl/seed0/curve.parquet").to_pylist()
    assert [row["step"] for row in curve] == [1, 2, 3, 4]


def test_the_short_control_trains_on_the_same_problems_with_short_answers(smoke):
    long = records.read_json(results(smoke) / "sft-16/seed0/train.json")
    short = records.read_json(results(smoke) / "sft-16.short/seed0/train.json")
    assert long["subset_sha256"] == short["subset_sha256"]
    assert short["tokens_per_epoch"] < long["tokens_per_epoch"] / 2


def test_a_second_run_killed_half_way_continues_and_scores_are_equal_byte_for_byte(smoke, tmp_path):
    again = checkout(tmp_path)
    study = subprocess.Popen([sys.executable, "-m", "snakemake", "--profile", "profiles/local", *SMOKE], cwd=again,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while not list((again / "studies/smoke/results/S").glob("sft-*/seed0/train.json")):
        assert study.poll() is None, "finished before it could be killed"
        time.sleep(0.05)
    study.kill()
    study.wait()
    finished = {
        path: path.stat().st_mtime_ns for path in (again / "studies/smoke/models").rglob("model.safetensors")
    }
    assert finished
    assert "--unlock" in snakemake(again, *SMOKE, ok=False)  # Snakemake says what to type
    snakemake(again, *SMOKE, "--unlock")
    snakemake(again, *SMOKE, "--until", "score")
    assert all(
        path.stat().st_mtime_ns == made for path, made in finished.items()
    )  # what was finished was not made again
    compared = 0
    for first in sorted(results(smoke).glob("*/seed0/scores.json")):
        assert first.read_bytes() == (again / first.relative_to(smoke)).read_bytes(), first.parent.parent.name
        compared += 1
    assert compared == 6


def test_status_shows_done_stale_code_stale_data_and_deleted_weights(smoke, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(smoke, folder, symlinks=True)
    command = ["python", "scripts/status.py", "--configfile", "config/miniature.yaml", "config/smoke.yaml"]
    assert "6 cells: 6 done" in run(command, folder)
    (folder / "scripts/sft.py").write_text((folder / "scripts/sft.py").read_text() + "\n# edited\n")
    output = run(command, folder)
    assert output.count("stale code (sft.py)") == 3
    card = folder / "studies/smoke/data/subsets/64/seed0.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"sha256": "other"}))
    shutil.rmtree(results(folder) / "sft-16/seed0/model")
    lines = {line.split()[1]: line for line in run(command, folder).splitlines() if line.startswith("S ")}
    assert "stale data" in lines["sft-64"]
    assert "weights deleted" in lines["sft-16"]
