"""The worked studies of config/: other questions by config alone, planned as they stand and run at toy
size.
"""

import importlib.util
import random
import re
import sys

import pool
import pytest
import yaml
from conftest import MINIATURE, REPOSITORY, SMOKE, checkout, planned, run, script, snakemake
from test_grid import paper

from valley import check, grid, records

STUDIES = ("mixed", "teachers", "logic", "tertiles", "order", "lora", "ahead")
TOY = {
    "sizes": {
        "64": {"examples": 16, "epochs": 2, "batch": 4},
        "256": {"examples": 24, "epochs": 2, "batch": 4},
        "1024": {"examples": 64, "epochs": 16, "batch": 4},  # enough to learn to box
    }
}


def own_files(study, folder):
    """What a worked study is given beside its config, made as its head says, but less of it."""
    if study not in ("teachers", "logic"):
        return
    (folder / "studies").mkdir()
    if study == "logic":
        made = folder / "studies/islanders"
        script("islanders", "--traces-out", f"{made}.parquet", "--traces", 2048, "--task-out", f"{made}-task.parquet", "--task", 24,
               "--rl-out", f"{made}-rl.parquet", "--rl", 48, "--names", 3, 4, "--seed", 0)  # fmt: skip
        return
    script("synthesize", "--traces-out", folder / "studies/other.parquet", "--traces", 64, "--task-out",
           folder / "task.parquet", "--task", 1, "--rl-out", folder / "rl.parquet", "--rl", 1, "--lengths", 3, "--seed", 1)  # fmt: skip


@pytest.mark.parametrize(
    "study", [*STUDIES[:3], *(pytest.param(name, marks=pytest.mark.slow) for name in STUDIES[3:])]
)
def test_a_worked_study_plans_its_pools_and_a_training_of_every_run(study, tmp_path):
    folder = checkout(tmp_path)
    own_files(study, folder)
    file = REPOSITORY / f"config/{study}.yaml"
    config = check.load([REPOSITORY / "config/miniature.yaml", file])
    plan = planned(snakemake(folder, "-n", *MINIATURE, f"config/{study}.yaml"))
    runs = {(cell.run, cell.seed) for cell in grid.cells(config) if cell.parsed.stage == "sft"}
    assert plan["sft"] == len(runs)
    assert plan.get("pool", 0) == 3 * len(grid.pools_used(config))
    assert plan.get("order_pool", 0) == 3 * len(grid.own_traces(config))


@pytest.fixture
def toy(tmp_path, request):
    """A checkout in which the worked study that a test names has run, on one seed and a few examples."""
    study = request.param
    folder = checkout(tmp_path)
    own_files(study, folder)
    blocks = yaml.safe_load((folder / f"config/{study}.yaml").read_text())["grid"]["cells"]
    less = TOY | {"grid": {"cells": [block | {"seeds": [0]} for block in blocks]}}
    (folder / "toy.yaml").write_text(yaml.safe_dump(less))
    files = [*SMOKE, f"config/{study}.yaml", "toy.yaml"]
    said = snakemake(folder, *files)
    assert planned(snakemake(folder, "-n", *files)) == {}
    return folder / "studies" / study, said


def subset(root, name) -> list[dict]:
    return records.read_parquet(root / f"data/subsets/{name}/seed0.parquet").to_pylist()


def trained(root, run) -> dict:
    return records.read_json(root / f"results/S/{run}/seed0/train.json")


def told(root, said):
    """What every study ends with: its page, and its sentence."""
    assert (root / "report/page.html").exists()
    assert "S, 1 seed: base" in said


@pytest.mark.slow
@pytest.mark.parametrize("toy", ["mixed"], indirect=True)
def test_mixed_runs_to_its_page_on_the_same_problems_with_one_long_trace_in_five(toy):
    root, said = toy
    told(root, said)
    long, brief, both = (subset(root, name) for name in ("256", "256.brief", "256.mixed"))
    for rows in (brief, both):
        assert [row["problem"] for row in rows] == [row["problem"] for row in long]
    assert all(row["trace"] == row["solution"] for row in brief)
    taken = [row["trace"] == whole["trace"] for row, whole in zip(both, long, strict=True)]
    assert sum(taken) == 5  # of 24
    tokens = [trained(root, f"sft-256{of}")["tokens_per_epoch"] for of in ("", ".mixed", ".brief")]
    assert tokens[0] > tokens[1] > tokens[2]
    assert sum(row["tokens"] for row in brief) == tokens[2]


@pytest.mark.slow
@pytest.mark.parametrize("toy", ["tertiles"], indirect=True)
def test_tertiles_runs_to_its_page_and_no_trace_of_a_third_is_longer_than_one_of_the_next(toy):
    root, said = toy
    told(root, said)
    thirds = [
        [row["tokens"] for row in subset(root, f"256.{name}")] for name in ("shortest", "middle", "longest")
    ]
    assert max(thirds[0]) <= min(thirds[1])
    assert max(thirds[1]) <= min(thirds[2])
    assert sum(thirds[0]) < sum(thirds[2])


@pytest.mark.slow
@pytest.mark.parametrize("toy", ["order"], indirect=True)
def test_order_runs_to_its_page_and_short_examples_first_give_another_model_than_long_ones(toy):
    root, said = toy
    told(root, said)
    runs = [trained(root, f"sft-256{of}") for of in ("", ".rising", ".falling")]
    assert len({run["subset_sha256"] for run in runs}) == 1  # the same examples
    assert len({run["tokens_trained"] for run in runs}) == 1
    assert len({str(run["weights"]) for run in runs}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("toy", ["teachers"], indirect=True)
def test_teachers_runs_to_its_page_and_a_run_learns_from_the_source_that_its_pool_names(toy):
    root, said = toy
    told(root, said)
    other = records.read_parquet(root.parent / "other.parquet", ["problem"])["problem"].to_pylist()
    assert {row["problem"] for row in subset(root, "256.other")} <= set(other)
    assert not {row["problem"] for row in subset(root, "256")} & set(other)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="lacks the package peft")
@pytest.mark.parametrize("toy", ["lora"], indirect=True)
def test_lora_runs_to_its_page_with_adapters_merged_into_a_model_of_the_same_shape(toy):
    from safetensors.torch import load_file

    root, said = toy
    told(root, said)
    full, lora = trained(root, "sft-256"), trained(root, "sft-256.lora")
    assert lora["parameters_trained"] < full["parameters"] == lora["parameters"]
    assert lora["loss"][-1]["loss"] < lora["loss"][0]["loss"]
    base = load_file(root / "models/S/seed0/model.safetensors")
    made = load_file(root / "results/S/sft-256.lora/seed0/model/model.safetensors")
    assert {name: weight.shape for name, weight in made.items()} == {k: w.shape for k, w in base.items()}
    changed = {name for name, weight in made.items() if not weight.equal(base[name])}
    assert changed  # of the layers that carry adapters, and no other
    assert all("_proj" in name for name in changed)


@pytest.mark.slow
@pytest.mark.parametrize("toy", ["logic"], indirect=True)
def test_logic_runs_to_its_page_and_its_listed_answers_reach_grades_and_reward(toy):
    root, said = toy
    told(root, said)
    listed = [["islanders", ["b", "c", "d", "e", "f", "g"]]]
    assert trained(root, "sft-1024+rl")["arguments"]["answers"] == listed
    grades = root / "results/S/sft-1024.short/seed0/grades.parquet"
    assert records.parquet_provenance(grades)["arguments"]["answers"] == listed
    rows = records.read_parquet(grades).to_pylist()
    assert {row["task"] for row in rows} == {"islanders"}
    named = [row for row in rows if row["answer"] in listed[0][1]]
    assert named
    assert all(
        row["correct"] == (row["answer"] == row["gold"]) for row in named if row["outcome"] != "truncated"
    )
    folder = root.parents[1]
    snakemake(folder, *SMOKE, "config/logic.yaml", "toy.yaml", "--", "release")
    run([sys.executable, "scripts/verify.py", "--release", root / "release"], folder)  # 0: nothing differs


def rows_of(name: str, count: int) -> list[dict]:
    return [{"problem": f"problem {number}", "trace": f"{name} {number}"} for number in range(count)]


def test_a_mix_keeps_its_shares_in_every_prefix_and_takes_no_problem_twice():
    both = list(pool.mixed([iter(rows_of("long", 100)), iter(rows_of("brief", 100))], [0.2, 0.8]))
    assert [row["problem"] for row in both] == [f"problem {number}" for number in range(100)]
    for count in range(1, 101):
        long = sum(row["trace"].startswith("long") for row in both[:count])
        assert abs(long - 0.2 * count) < 1


def test_three_thirds_hold_every_trace_once():
    import pyarrow

    rng = random.Random(0)
    counted = pyarrow.table(
        {"tokens": [rng.choice((90, 120, 155, 300)) for _ in range(200)], "source": ["a", "b"] * 100}
    )
    bounds = [[0, 0.3333], [0.3333, 0.6667], [0.6667, 1]]
    thirds = [pool.kept_rows(counted, length, None, None) for length in bounds]
    assert (sum(thirds) == 1).all()
    assert pool.kept_rows(counted, None, [100, 155], ["a"]).sum() == sum(
        100 <= n < 155 for n in counted["tokens"].to_pylist()[::2]
    )


def pool_of(folder, source: str, problems: list[str]):
    """A file of ordered traces of one source."""
    rows = [
        {"problem": problem, "answer": "1", "solution": "s", "source": source, "trace": source, "tokens": 9, "characters": 1, "leaks_before": 0}
        for problem in problems
    ]  # fmt: skip
    file = folder / f"{source}.parquet"
    records.write_parquet(file, rows, provenance={"card": {"dropped": {}}})
    return file


def test_no_pool_holds_a_problem_that_models_are_probed_on_whoever_wrote_its_traces(tmp_path):
    problems = [f"What is {number} + 1?" for number in range(20)]
    study = pool_of(tmp_path, "study", problems)
    held = {problem.casefold() for problem in problems[-6:]}
    other = [problem.upper() for problem in problems]  # the same in another teacher's writing and order
    random.Random(1).shuffle(other)
    for name, file, more in (
        ("one", study, []),
        ("two", pool_of(tmp_path, "teacher", other), ["--leave-of", study]),
    ):
        out = tmp_path / f"{name}.parquet"
        script("pool", "--pools", file, "--leave", 6, *more, "--out", out, "--card", tmp_path / "card.json")
        kept = {row.casefold() for row in records.read_parquet(out)["problem"].to_pylist()}
        assert kept == {problem.casefold() for problem in problems} - held


def test_a_pool_with_traces_of_its_own_is_told_the_order_that_probes_end_and_no_other_pool_is(tmp_path):
    folder = checkout(tmp_path)
    own_files("teachers", folder)
    config = {
        "pools": {"brief": {"completion": "solution"}},
        "sft": {"recipes": {"brief": {"pool": "brief"}}},
    }
    config["grid"] = {"cells": [{"models": ["S"], "runs": ["sft-64.other", "sft-64.brief"], "seeds": [0]}]}
    told = {}
    for probe in (0, 16):
        (folder / "mine.yaml").write_text(yaml.safe_dump(config | {"report": {"probe": probe}}))
        output = snakemake(folder, "-n", "-p", *MINIATURE, "config/teachers.yaml", "mine.yaml")
        lines = re.findall(r"scripts/pool\.py .*", output)
        told[probe] = {
            re.search(r"pools/(\w+)/seed", line)[1]: re.search(r"--leave-of (\S+)", line) for line in lines
        }
    assert told[0] == {"other": None, "brief": None}
    assert told[16]["brief"] is None
    assert told[16]["other"][1] == "studies/teachers/data/ordered/seed0.parquet"


@pytest.mark.parametrize(
    ("pools", "recipe", "said"),
    [
        ({}, {"pool": "long"}, "unknown pool 'long'"),
        ({"a": {"length": [0.5, 0.5]}}, {}, "pools.a.length: [0.5, 0.5] holds nothing"),
        ({"a": {}, "b": {"mix": {"a": 0.5, "c": 0.5}}}, {}, "'c' is no pool that can be mixed. Allowed: a"),
        ({"a": {}, "b": {}, "m": {"mix": {"a": 0.5, "b": 0.4}}}, {}, "the shares come to 0.9"),
        ({"a": {}, "b": {}, "m": {"mix": {"a": 0.5, "b": 0.5}, "tokens": [1, 2]}}, {}, "a mix has no tokens"),
        ({}, {"lora_rank": 8}, "Set deepspeed: null beside it"),
        ({}, {"order": "short-first", "packing": True}, "packed rows have no order"),
    ],
)
def test_a_pool_or_a_recipe_that_cannot_work_is_refused_with_what_to_do(pools, recipe, said):
    config = paper()
    config["pools"] = pools
    config["sft"]["recipes"]["wide"] |= recipe
    config["grid"]["cells"][0]["runs"] = ["sft-8k.wide"]
    config["grid"]["cells"][1:] = []
    with pytest.raises(check.ConfigError) as error:
        check.check(config)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([True, False], "tasks.aime24.answers.0: True is no answer of a task that lists them: letters"),
        (["Yes", "no", "yes"], "tasks.aime24.answers: 'yes' is there twice"),
        (["a,b", "c"], "'a,b' is no answer"),
        (["one"], "tasks.aime24.answers: ['one'] is too short"),
    ],
)
def test_answers_that_cannot_be_told_apart_or_that_yaml_misread_are_refused(answers, said):
    config = paper()
    config["tasks"]["aime24"]["answers"] = answers
    with pytest.raises(check.ConfigError) as error:
        check.check(config)
    assert said in str(error.value)


def test_pools_lie_beside_the_subsets_that_finished_cells_are_made_of():
    from valley.places import Places

    config = paper()
    config["pools"] = {"brief": {}}
    config["sft"]["recipes"]["brief"] = {"pool": "brief"}
    places = Places(config)
    assert (
        str(places.subset_of(grid.Cell("qwen2.5-0.5b", "sft-8k.wide", 0))) == "data/subsets/8k/seed0.parquet"
    )
    assert (
        str(places.subset_of(grid.Cell("qwen2.5-0.5b", "sft-8k.brief", 0)))
        == "data/subsets/8k.brief/seed0.parquet"
    )


@pytest.mark.slow  # the job of fetching starts the warm process
def test_a_run_that_fails_closes_with_what_failed_what_waits_for_it_and_the_command_to_go_on(tmp_path):
    folder = checkout(tmp_path)
    (folder / "studies").mkdir()
    (folder / "studies/other.parquet").touch()
    asked = [*MINIATURE, "config/teachers.yaml"]
    said = snakemake(folder, "studies/teachers/data/pools/other/traces.parquet", *asked, ok=False)
    closing = said.split("What failed, and what waits for it:")[1]
    for seed in range(3):
        line = next(line for line in closing.splitlines() if line.startswith(f"S sft-256.other  seed {seed}"))
        assert "waits for fetch_pool, which failed: error: studies/other.parquet: is not a readable" in line
        assert "studies/teachers/logs/fetch_pool/other.log" in line
    assert "S sft-256  seed" not in closing
    assert "go on with: snakemake --profile profiles/local" in closing
    assert " ".join(asked) in closing


def test_a_cell_of_a_mix_waits_for_the_pool_that_failed(tmp_path):
    import status

    from valley.places import Places

    files = [REPOSITORY / "config/miniature.yaml", REPOSITORY / "config/mixed.yaml"]
    places = Places(check.load(files, {"root": str(tmp_path)}))
    for made in (places.traces, places.pool(0), places.base("S", 0) / "config.json"):
        made.parent.mkdir(parents=True, exist_ok=True)
        made.touch()
    log = tmp_path / "logs/pool/brief.seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: no room\n")
    assert "waits for pool, which failed: error: no room" in status.blocked(
        places, grid.Cell("S", "sft-64.mixed", 0)
    )
    assert status.blocked(places, grid.Cell("S", "sft-64", 0)) is None


@pytest.fixture
def failing(tmp_path):
    """(write, state): what writes a file of a study, a failed rule's log; what tells a cell's state."""
    import status

    from valley.places import Places

    block = {"models": ["qwen2.5-0.5b"], "runs": ["base", "sft-8k", "base+rl"], "seeds": [0]}
    over = {"root": str(tmp_path), "grid": {"cells": [block]}, "report": {"probe": 64}}
    places = Places(check.load([], over))

    def write(file, text="error: no room"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"{text}\n")

    def state(run: str) -> str:
        return status.state(places, grid.Cell("qwen2.5-0.5b", run, 0), {}, {}, False)

    return write, state


def test_a_failed_probe_is_named_of_a_cell_that_is_trained_and_of_one_that_is_scored(failing):
    write, state = failing
    for name, scored in (("sft-8k", False), ("base", True)):
        folder = f"results/qwen2.5-0.5b/{name}/seed0"
        write(f"{folder}/scores.json" if scored else f"{folder}/train.json", '{"seed": 0}')
        write(f"logs/probe/qwen2.5-0.5b.{name}.seed0.log")
        assert "failed: probe: error: no room (" in state(name)
        assert state(name).startswith("done, " if scored else "failed")
        write(f"{folder}/probe.json", "{}")
        assert state(name) == ("done" if scored else "trained")


def test_a_checkpoint_that_could_not_be_published_is_named(failing):
    write, state = failing
    write("logs/export_step/qwen2.5-0.5b.base+rl@10.seed0.log")
    assert state("base+rl@10").startswith("failed: export_step: error: no room (")
    write("results/qwen2.5-0.5b/base+rl@10/seed0/model/config.json", "{}")
    assert state("base+rl@10") == "waiting"


def test_a_cell_names_the_job_before_it_that_failed_held_out_traces_and_problems_among_them(failing):
    """The problems of RL are taken out of the traces of SFT too."""
    write, state = failing
    write("logs/held_out/seed0.log")
    assert state("sft-8k").startswith("waiting, its probe waits for held_out, which failed: error: no room (")
    write("logs/fetch_rl/math-1-4.log")
    for name in ("base+rl", "base+rl@10", "sft-8k"):
        assert state(name).startswith("waits for fetch_rl, which failed: error: no room ("), name
    write("logs/arithmetic/arithmetic.log", "error: no draw")
    assert state("base").startswith("waits for arithmetic, which failed: error: no draw (")
