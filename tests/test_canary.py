"""The canary: what goes before a study is one cell of it, by its own files, cut to minutes."""

from pathlib import Path

import pytest
from conftest import checkout, planned, run, script, snakemake
from test_plan import expected

from valley import check, grid

# The cell that goes before each study, and the problems that it answers.
CANARIES = {
    "config.yaml": ("qwen2.5-0.5b/sft-8k.canary/0", {"limit": 10}),
    "config/contaminated.yaml": ("qwen2.5-1.5b/sft-8k.canary/0", {"limit": 10}),
    "config/repetition.yaml": ("qwen2.5-0.5b/sft-400.canary/0", {"limit": 10}),
    "config/bring-your-own.yaml config/on-cpu.yaml": ("mine/sft-500.canary/0", {"limit": 10}),
    "config/rehearsal.yaml": ("stories/sft-8.canary/0", {"limit": 6}),
    "config/miniature.yaml": ("S/sft-8.canary/4", {}),
    "config/miniature.yaml config/miniature-full.yaml": ("XS/sft-8.canary/4", {}),
    "config/miniature.yaml config/logic.yaml": ("S/sft-64.canary/0", {"limit": 10}),
    "config/miniature.yaml config/tertiles.yaml": ("S/sft-256.canary/0", {}),
}


def canary_of(study: str, folder: Path) -> list[Path]:
    """The files of a study's canary, made as make does."""
    files = [Path(file) for file in study.split()]
    script("canary", "--configfile", *files, "--out", folder / "canary.yaml")
    return [*files, folder / "canary.yaml"]


@pytest.mark.parametrize("study", CANARIES)
def test_each_study_has_a_canary_of_one_of_its_cells_twenty_steps_and_ten_responses(study, tmp_path):
    cell, fewer = CANARIES[study]
    whole, config = check.load([Path(file) for file in study.split()]), check.load(canary_of(study, tmp_path))
    check.check(config)
    [made] = grid.cells(config)
    assert (config["root"], str(made)) == ("studies/canary", cell)
    assert (made.model, made.parsed.size, made.seed) in {
        (one.model, one.parsed.size, one.seed) for one in grid.cells(whole)
    }
    assert grid.sft_settings(config, made.model, made.run)["steps"] == 20
    [task] = config["grid"]["tasks"]
    assert task == whole["grid"]["tasks"][0]
    assert config["tasks"][task] == whole["tasks"][task] | {"samples": 1} | fewer
    assert fewer or config["synthetic"]["task"] == 10


@pytest.mark.parametrize(
    ("runs", "recipe"),
    [
        (["base"], None),
        (["base", "sft-128k", "sft-8k.wide", "sft-8k"], {"steps": 20}),
        (["sft-8k.wide"], {"batch": 64, "steps": 20}),
        (["sft-8k.short", "sft-128k.e2"], {"completion": "solution", "steps": 20}),
        (["sft-128k.e2"], {"steps": 20}),
        (["sft-8k.trunk", "sft-16k.trunk"], {"batch": 64, "steps": 20}),
    ],
)
def test_a_canary_is_trained_by_the_recipe_of_its_cell(runs, recipe):
    import canary

    config = check.load([])
    config["grid"]["cells"] = [{"models": ["qwen2.5-1.5b", "qwen2.5-0.5b"], "runs": runs, "seeds": [1, 0]}]
    made = canary.canary(config)
    check.check(merged := check.load([], made))
    [cell] = grid.cells(merged)
    assert (cell.model, cell.seed) == ("qwen2.5-0.5b", 1)
    assert cell.run == "base" if recipe is None else made["sft"]["recipes"] == {"canary": recipe}


@pytest.mark.parametrize(
    "study", ["config.yaml", "config/miniature.yaml", "config/bring-your-own.yaml config/on-cpu.yaml"]
)
def test_a_canary_plans_the_jobs_of_its_cell(study, tmp_path):
    folder = checkout(tmp_path / "checkout")
    for file in (
        "my-model/config.json",
        "my-model/model.safetensors",
        "my-model/tokenizer.json",
        "my-traces.jsonl",
        "my-task.jsonl",
    ):
        (folder / "data" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / file).touch()
    files = canary_of(study, folder)
    plan = planned(snakemake(folder, "-n", "--configfile", *files))
    assert plan == expected(check.load(files))
    assert [plan[rule] for rule in ("sft", "generate", "score")] == [1, 1, 1]


def test_make_canary_makes_the_config_and_runs_it():
    *_, first, second = run(
        ["make", "-n", "-o", ".venv/complete", "canary", "STUDY=a.yaml b.yaml"]
    ).splitlines()
    assert first.endswith("scripts/canary.py --configfile a.yaml b.yaml --out studies/canary.yaml")
    assert second.endswith("--configfile a.yaml b.yaml studies/canary.yaml")
