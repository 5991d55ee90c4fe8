"""One trunk for all sizes: what it and its branches train on, what they cost, and that no claim takes them
for the paper's.
"""

import forge
import numpy
import pytest
import yaml
from conftest import MINIATURE, SMOKE, checkout, planned, snakemake
from test_config import REPORT
from test_grid import paper
from test_plan import stubs
from test_training import killed, train, weights

from valley import check, costs, grid, records, tariff, trunk
from valley.trunk import Piece

PIECES = ["--pieces", "4:2", "16:1"]  # 2 × 4 and 12 traces, two a batch: branches leave at steps 4 and 10
SLOW = ["--lr", 1e-3, "--warmup", 0.5]


# what is trained on


def counted(rows) -> dict[int, int]:
    values, times = numpy.unique(rows, return_counts=True)
    return dict(zip(values.tolist(), times.tolist(), strict=True))


def test_a_trunk_sees_what_a_size_adds_as_often_as_it_says_and_no_trace_before_its_turn():
    laid = trunk.laid_out([Piece(4, 3), Piece(10, 2), Piece(None, 1)], 20, 2, 0.5, None, seed=0)
    assert laid.stops == (6, 12, 17)
    for start, end, first, last, passes in ((0, 6, 0, 4, 3), (6, 12, 4, 10, 2), (12, 17, 10, 20, 1)):
        assert counted(laid.rows[2 * start : 2 * end]) == dict.fromkeys(range(first, last), passes)
    assert (laid.warmup, laid.cooldown) == (3, 0)


def test_a_branch_begins_as_its_trunk_does_and_cools_down_on_the_traces_of_its_size_alone():
    pieces = [Piece(8, 1), Piece(32, 1), Piece(64, 1)]
    whole = trunk.laid_out(pieces, 64, 4, 0.5, None, seed=3)
    for count in (1, 2, 3):
        last = pieces[count - 1].examples
        made = trunk.laid_out(pieces[:count], last, 4, 0.5, 0.25, seed=3)
        begun = 4 * whole.stops[count - 1]
        assert made.stops == whole.stops[:count]
        assert made.rows[:begun].tolist() == whole.rows[:begun].tolist()
        assert made.cooldown == max(1, round(0.25 * whole.stops[count - 1]))
        assert len(made.rows) == begun + 4 * made.cooldown
        assert set(made.rows.tolist()) == set(range(last))
        assert max(counted(made.rows[begun:]).values()) == 1  # no trace twice while others are left
        assert made.warmup == whole.warmup == 1


def test_seeds_differ_in_order_and_a_rest_that_fills_no_batch_is_left_out():
    pieces = [Piece(8, 1), Piece(None, 1)]
    one, other = (trunk.laid_out(pieces, 19, 4, 0, None, seed=seed) for seed in (0, 1))
    assert len(one.rows) == len(other.rows) == 16
    assert one.rows.tolist() != other.rows.tolist()
    assert one.stops == (2, 4)


@pytest.mark.parametrize("text", ["8", "8:0", "0:1", "8:1.5", "x:1"])
def test_a_piece_that_means_nothing_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        trunk.piece(text)


# training


def first(subset, folder, count: int):
    """The first rows of a subset as a subset of their own."""
    records.write_parquet(folder / f"first{count}.parquet", records.read_parquet(subset).slice(0, count))
    return folder / f"first{count}.parquet"


def branch(folder, base, subset, of=None, ok=True):
    """The branch of the smaller size, from a trunk or, with none, trained from its start."""
    given = ["--trunk", of / "train.json"] if of else []
    return train(folder, base, subset, "--pieces", "4:2", *SLOW, "--cooldown", 0.5, *given, ok=ok)


def kept(folder) -> list[str]:
    return sorted(file.name for file in (folder / "checkpoints").glob("checkpoint-*"))


def test_a_branch_is_the_run_of_its_size_from_the_beginning_in_a_part_of_its_steps(tmp_path, base, subset):
    small = first(subset, tmp_path, 4)
    record = train(tmp_path / "trunk", base, subset, *PIECES, *SLOW)
    assert record["stops"] == [4, 10]
    made = branch(tmp_path / "branch", base, small, tmp_path / "trunk")
    alone = branch(tmp_path / "alone", base, small)
    assert weights(tmp_path / "branch") == weights(tmp_path / "alone")
    assert made["steps"] == alone["steps"] == 6
    assert made["tokens_trained"] == alone["tokens_trained"]
    assert (made["segments"][0]["from"], alone["segments"][0]["from"]) == (4, 0)
    assert (made["steps_lost"], made["examples"]) == (0, 4)
    assert made["seconds"] == made["segments"][0]["seconds"]  # none of its trunk's
    assert kept(tmp_path / "trunk") == ["checkpoint-10", "checkpoint-4"]  # nothing of it was taken
    assert not (tmp_path / "branch/checkpoints").exists()


@pytest.mark.slow
def test_a_killed_trunk_and_a_killed_branch_come_to_the_same_weights(tmp_path, base, subset):
    small, often = first(subset, tmp_path, 4), ["--save-every", 1]
    for name in ("straight", "broken"):
        if name == "broken":
            killed(7, tmp_path / name, base, subset, *PIECES, *SLOW, *often)
        record = train(tmp_path / name, base, subset, *PIECES, *SLOW, *often)
        assert kept(tmp_path / name) == ["checkpoint-10", "checkpoint-4"]
    assert len(record["segments"]) == 2
    flags = ["--pieces", "4:2", *SLOW, "--cooldown", 0.5, *often, "--trunk", tmp_path / "broken/train.json"]
    branch(tmp_path / "whole", base, small, tmp_path / "straight")
    killed(6, tmp_path / "again", base, small, *flags)
    assert train(tmp_path / "again", base, small, *flags)["segments"][-1]["from"] == 5
    assert weights(tmp_path / "again") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_a_branch_whose_trunk_kept_nothing_for_it_says_so(tmp_path, base, subset):
    train(tmp_path / "trunk", base, subset, "--pieces", "8:1", *SLOW)
    said = branch(tmp_path / "branch", base, first(subset, tmp_path, 4), tmp_path / "trunk", ok=True)
    assert said["steps"] == 6  # 8 × 1 and 4 × 2 end at the same step: only the data differ
    (tmp_path / "trunk/checkpoints/checkpoint-4").rename(tmp_path / "gone")
    said = branch(tmp_path / "other", base, first(subset, tmp_path, 4), tmp_path / "trunk", ok=False)
    assert "checkpoint-4: nothing can branch off here: is not there" in said


# the graph


def small_study() -> dict:
    runs = ["base", "sft-128", "sft-128.trunk", "sft-512.trunk", "sft-1024.trunk"]
    return {
        "warm_start": False, "root": "studies/stub", "report": {"probe": 0},
        "grid": {"tasks": ["chain"], "cells": [{"models": ["S"], "runs": runs, "seeds": [0, 1]}]},
        "sft": {"recipes": {"trunk": {"protocol": "trunk", "batch": 4}}},
    }  # fmt: skip


def write(folder, config: dict) -> list[str]:
    (folder / "stub.yaml").write_text(yaml.safe_dump(config))
    return [*MINIATURE, "stub.yaml"]


def test_a_trunk_is_one_job_a_model_and_seed_with_a_branch_a_size(tmp_path):
    output = snakemake(checkout(tmp_path), "-n", "-p", *write(tmp_path, small_study()))
    plan = planned(output)
    assert (plan["trunk"], plan["branch"], plan["sft"], plan["preflight"]) == (2, 6, 2, 8)
    of = "--trunk studies/stub/results/S/sft-1024.trunk/seed0/trunk/train.json"
    for pieces in ("128:4", "128:4 512:2", "128:4 512:2 1024:2"):
        assert output.count(f"--pieces {pieces} --cooldown 0.2 {of}") == 1
    trunks = [line for line in output.splitlines() if "--pieces" in line and "--cooldown" not in line]
    assert len(trunks) == 2


@pytest.mark.slow
def test_another_cooldown_remakes_branches_alone_and_another_rate_the_trunk(tmp_path):
    folder, config = stubs(checkout(tmp_path)), small_study()
    snakemake(folder, *write(folder, config))
    assert planned(snakemake(folder, "-n", *write(folder, config))) == {}
    config["sft"]["cooldown"] = 0.1
    plan = planned(snakemake(folder, "-n", *write(folder, config)))
    assert {rule: plan[rule] for rule in plan.keys() - REPORT} == {"branch": 6, "generate": 6}
    config = small_study()
    config["sft"]["recipes"]["trunk"]["lr"] = 1e-3
    plan = planned(snakemake(folder, "-n", *write(folder, config)))
    assert {rule: plan[rule] for rule in plan.keys() - REPORT} == {"trunk": 2, "branch": 6, "generate": 6}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sft": {"protocol": "trunk"}}, "sft.protocol: cells of a trunk may not have the names of the paper's"),
        ({"sft": {"recipes": {"trunk": {"protocol": "trunk"}}}}, "a trunk has one batch for all sizes. Set batch"),
        ({"sft": {"recipes": {"trunk": {"protocol": "trunk", "batch": 64, "steps": 9}}}}, "a trunk has its own steps"),
        ({"sft": {"recipes": {"trunk": {"protocol": "trunk", "batch": 7}}}}, "batch 7 does not divide the 8000 × 4"),
        ({"sft": {"recipes": {"trunk": {"protocol": "trunk", "batch": 64, "epochs": 0.5}}}}, "a whole number of times, not 0.5"),
        ({"sft": {"packing": True}}, "Set packing: false and order: random"),
        ({"sizes": {"16k": {"examples": 8000}}}, "has another size of 8000 examples"),
        ({"grid": {"cells": [{"models": ["qwen2.5-0.5b"], "runs": ["sft-64.trunk"], "seeds": [0]}]}}, "'sft-64.trunk' names no size. Allowed: 128k,"),
    ],
)  # fmt: skip
def test_a_trunk_that_cannot_work_or_would_pass_for_the_papers_is_refused(change, said):
    from snakemake.utils import update_config

    config = paper()
    config["grid"]["cells"] = [
        {"models": ["qwen2.5-0.5b"], "runs": ["base", "sft-8k.trunk", "sft-16k.trunk"], "seeds": [0]}
    ]
    check.check(config)
    if "recipes" in change.get("sft", {}):
        del config["sft"]["recipes"]["trunk"]
    update_config(config, change)
    with pytest.raises(grid.ConfigError) as error:
        check.check(config)
    assert said in str(error.value)


# what it costs and what it may not decide


def test_the_plan_and_the_price_of_cells_agree_on_what_a_trunk_takes():
    config, constants = paper(), costs.load()
    sizes = list(config["sizes"])
    config["grid"]["cells"] = [
        {"models": ["qwen2.5-0.5b"], "runs": [f"sft-{size}.trunk" for size in sizes], "seeds": [0]}
    ]
    ((_, together, apart),) = costs.trunk_savings(config, constants)
    rows = grid.examples_of(config, "220k")
    along = numpy.cumsum([4 * 8, 4 * 8, 4 * 16, 3 * 32, 3 * 64, 2 * (rows / 1000 - 128)])
    alone = 4 * (8 + 16 + 32) + 3 * (64 + 128) + 2 * rows / 1000
    assert together / apart == pytest.approx((along[-1] + 0.2 * along.sum()) / alone)
    prices, runs = tariff.Prices(config), grid.trunk(config, "qwen2.5-0.5b", "sft-8k.trunk")
    jobs = [("trunk", runs[-1]), *(("branch", run) for run in runs)]
    planned_seconds = sum(
        costs.modelled_seconds(
            {"rule": rule, "gpus": 1, "wildcards": {"model": "qwen2.5-0.5b", "run": run, "seed": "0"}},
            config, constants, prices.preset,
        )
        for rule, run in jobs
    )  # fmt: skip
    assert sum(prices.training("qwen2.5-0.5b", run) for run in runs) == pytest.approx(planned_seconds)


def test_no_claim_takes_a_branch_for_a_cell_of_the_protocol():
    rng = numpy.random.default_rng(0)
    made, flat = forge.honest(rng), forge.honest(rng, effect=False)
    before = forge.held(forge.study(made))
    sizes = [cell for cell in made if cell.parsed.is_protocol]
    branches = {cell._replace(run=f"{cell.run}.trunk"): flat[cell] for cell in sizes}
    assert len(branches) == 54
    assert forge.held(forge.study(made | branches)) == before
    assert forge.held(forge.study(made | {cell: flat[cell] for cell in sizes})) != before


@pytest.mark.slow
def test_the_worked_study_runs_to_its_page_and_sets_every_branch_beside_the_cell_trained_alone(tmp_path):
    folder = checkout(tmp_path)
    (block,) = yaml.safe_load((folder / "config/trunk.yaml").read_text())["grid"]["cells"]
    sizes = [8, 64, 256, 1024]
    toy = {
        "sizes": {str(size): {"examples": 4 * 2**i, "epochs": 2, "batch": 2} for i, size in enumerate(sizes)},
        "grid": {"tasks": ["chain"], "cells": [block | {"seeds": [0]}]},
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump(toy))
    files = [*SMOKE, "config/trunk.yaml", "toy.yaml"]
    said = snakemake(folder, *files)
    assert planned(snakemake(folder, "-n", *files)) == {}
    assert "S, 1 seed: base" in said
    root = folder / "studies/trunk"
    table = records.read_parquet(root / "report/tables/recipes.parquet").to_pandas()
    for recipe in ("trunk", "once"):
        rows = table[(table.recipe == recipe) & (table.seed.astype(str) == "0")]
        assert rows.examples.tolist() == [4, 8, 16, 32]
        assert rows[["to_protocol", "to_protocol_low", "to_protocol_high"]].notna().all(axis=None)
        for size in sizes:
            cell = root / f"results/S/sft-{size}.{recipe}/seed0"
            record = records.read_json(cell / "train.json")
            assert record["segments"][0]["from"] == record["stops"][-1]
    spent = records.read_parquet(root / "report/tables/costs.parquet").to_pandas().set_index("rule")
    assert (spent.jobs["trunk"], spent.jobs["branch"], spent.jobs["sft"]) == (2, 8, 4)
    assert (spent.work_seconds[["trunk", "branch"]] > 0).all()


def asked_of_slurm(folder, file, targets) -> dict[str, dict]:
    """What Snakemake itself asks for each rule's job (the last one), where a profile gives twenty days."""
    from snakemake.api import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
    from snakemake.settings.enums import Quietness

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            ResourceSettings(cores=1, default_resources={"runtime": 28800}),
            ConfigSettings(configfiles=[folder / "config.yaml", file]),
            snakefile=folder / "Snakefile",
            workdir=folder,
        )
        workflow.dag(DAGSettings(targets=set(targets))).execute_workflow(executor="dryrun")
        jobs = workflow._workflow.dag.needrun_jobs(exclude_finished=False)
        return {job.rule.name: dict(job.resources.items()) for job in jobs}


def test_a_trunk_asks_slurm_for_the_time_of_a_trunk_and_its_memory_follows_its_own_ends(tmp_path):
    folder = checkout(tmp_path)
    runs = [f"sft-{size}.trunk" for size in ("8k", "16k", "32k", "64k", "128k", "220k")]
    model, names = "qwen2.5-1.5b", [*runs, "sft-220k"]
    study = {
        "root": "studies/asked",
        "grid": {"cells": [{"models": [model], "runs": names, "seeds": [0]}]},
        "sft": {"recipes": {"trunk": {"protocol": "trunk", "batch": 16}}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    targets = [
        f"studies/asked/results/{model}/{run}/seed0/train.json" for run in ("sft-220k.trunk", "sft-220k")
    ]
    before = asked_of_slurm(folder, folder / "study.yaml", targets)
    assert 15 < before["branch"]["runtime"] < before["sft"]["runtime"] < before["trunk"]["runtime"] < 28800
    log = folder / f".snakemake/slurm_logs/rule_trunk/{model}_sft-220k.trunk_0/1.log"
    log.parent.mkdir(parents=True)
    log.write_text("slurmstepd: error: Detected 1 oom_kill event")
    after = asked_of_slurm(folder, folder / "study.yaml", targets)
    grown = {rule for rule in after if after[rule].get("mem_mb") != before[rule].get("mem_mb")}
    assert grown == {"trunk"}
