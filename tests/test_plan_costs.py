"""plan.py: the jobs are Snakemake's, the totals the paper's, and finished work counts as measured."""

import json
import math
import re
import resource
import sys

import fetch_check
import plan
import pytest
import yaml
from conftest import checkout, planned, run, script, snakemake

from valley import check, costs, environment, grid, profiles, records, tariff, vram
from valley.analysis import forged

COSTS = costs.load()


def rows(output: str, title: str) -> dict[str, tuple[int, float]]:
    """The lines of one of plan.py's tables."""
    block = output.split(f"\n{title} ")[1].split("\n\n")[0].splitlines()[1:]
    return {
        name: (int(jobs.replace(",", "")), float(hours.replace(",", "")))
        for name, jobs, hours in map(str.split, block)
    }


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """A checkout, and what plan.py and a dry run say of the paper's grid there."""
    folder = checkout(tmp_path_factory.mktemp("plan"))
    output = run([sys.executable, "scripts/plan.py", "--gpus", 64], folder)
    return output, snakemake(folder, "-n", "--configfile", "config.yaml", "--quiet", "rules")


def test_the_jobs_are_those_of_the_dry_run(paper):
    output, dry = paper
    assert {rule: jobs for rule, (jobs, _) in rows(output, "rule").items()} == planned(dry)


@pytest.mark.slow
def test_the_time_of_a_plan_grows_no_faster_than_its_cells(tmp_path):
    """1,260 and 10,080 cells; of power, `make plan` says for so many where to get it."""
    folder, files = checkout(tmp_path), ["--configfile", "large.yaml"]
    models = [name for name, model in check.load([])["models"].items() if model["source"] != "pretrain"]
    runs = ["base", *(f"sft-{size}" for size in check.load([])["sizes"])]
    took, cells = [], []
    for seeds in (20, 160):
        cells.append(len(models) * len(runs) * seeds)
        given = {"models": models, "runs": runs, "seeds": [*range(seeds)]}
        (folder / "large.yaml").write_text(
            yaml.safe_dump({"root": "studies/large", "grid": {"cells": [given]}})
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        assert f"{cells[-1]} cells, 0 done" in run([sys.executable, "scripts/plan.py", *files], folder)
        took.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    print(f"CPU seconds of {cells[0]:,} and {cells[1]:,} cells: {took[0]:.1f} and {took[1]:.1f}")
    assert took[1] / took[0] < cells[1] / cells[0]
    power = run([sys.executable, "scripts/power.py", *files, "--brief"], folder)
    assert (
        power
        == f"power            not simulated for {cells[1]:,} cells: make power does it, some seconds for each 1,000 cells and repetition\n"
    )


def test_the_same_plan_is_said_of_the_same_study_whatever_order_sets_have(tmp_path):
    folder, plan_of = checkout(tmp_path), [sys.executable, "scripts/plan.py", "--gpus", 64]
    one, other = (run(plan_of, folder, PYTHONHASHSEED=seed) for seed in "13")
    assert one == other


def test_the_papers_grid_costs_what_the_paper_says(paper):
    hours = {rule: hours for rule, (_, hours) in rows(paper[0], "rule").items()}
    assert 2500 / 1.5 < hours["sft"] < 2500 * 1.5
    assert 5000 / 1.5 < hours["rl"] < 5000 * 1.5
    assert "fitted to the totals the paper states" in paper[0]
    assert "13 % of 9.89e+14 FLOP/s" in paper[0]


def test_the_page_on_scale_shows_the_plan_by_rates_and_by_shape_as_printed(paper, tmp_path):
    text, said = check.ROOT.joinpath("docs/scale.md").read_text(), {"paper": paper[0]}
    command = [sys.executable, "scripts/plan.py", "--gpus", 64, "--preset", "computed"]
    said["computed"] = run(command, checkout(tmp_path))
    for preset, output in said.items():
        shown = text.split(f"make plan STUDY=config.yaml GPUS=64 PRESET={preset}\n")[1].split("```")[0]
        assert len(lines := shown.strip().splitlines()) == 4
        assert set(lines) <= set(output.splitlines())
    assert "by preset `computed`: computed by scripts/valley/tariff.py, not measured" in said["computed"]


def shaped(**other) -> dict:
    """A preset that goes by the shape of the work, on an H100."""
    card = COSTS["cards"]["h100"]
    return costs.on_card(COSTS["presets"]["computed"] | other, card, card)


def shaped_seconds(rule: str, model: str, run: str, gpus: int, preset: dict, **more) -> float:
    """What such a preset says of a job of the paper's grid."""
    job = {"rule": rule, "gpus": gpus, "wildcards": {"model": model, "run": run, **more}}
    return tariff.computed_seconds(job, check.load([]), COSTS, preset)


def test_cards_that_train_together_wait_and_similar_lengths_side_by_side_wait_less():
    waits = [tariff.waiting(cards, 1, 4200, 16_384, 0.7) for cards in (1, 2, 4, 8)]
    assert waits[0] == 1
    assert waits == pytest.approx([1, 1.36, 1.77, 2.22], abs=0.06)
    assert 1 < tariff.waiting(8, 1, 4200, 16_384, 0.7, batch=128) < 1.2
    assert tariff.waiting(8, 1, 4200, 16_384, 0.7, batch=8) == waits[-1]
    # cards that begin with their longest responses, in RL, are done with each at nearly the same time
    assert 1 < tariff.waiting(8, 1, 4200, 16_384, 0.7, own=256) < 1.1
    assert tariff.waiting(8, 1, 4200, 16_384, 0.7, own=1) == waits[-1]
    assert tariff.waiting(8, 4, 4200, 16_384, 0.7, own=256) > tariff.waiting(8, 1, 4200, 16_384, 0.7, own=256)
    assert tariff.waiting(8, 1, 4200, 16_384, 0.7, own=2**14) < 1.1  # more than are made up otherwise
    plain = costs.modelled_seconds
    job = {"rule": "sft", "gpus": 8, "wildcards": {"model": "qwen2.5-7b", "run": "sft-16k"}}
    preset = shaped(start=0)
    waited = tariff.waiting(8, 1, COSTS["trace_tokens"], 16_384, COSTS["spread"], batch=16)
    assert shaped_seconds("sft", "qwen2.5-7b", "sft-16k", 8, preset) == pytest.approx(
        plain(job, check.load([]), COSTS, preset) * waited
    )


def test_sampling_takes_its_steps_and_what_they_read():
    config, preset, model = check.load([]), shaped(), "qwen2.5-3b"
    asked = (config, COSTS, preset, model)
    weights, cache = 2 * costs.billions(config, model) * 1e9, vram.shape_of(config, model).kv_token
    # One response: as many steps as it has tokens, weights at each, half of the longest behind a token.
    alone = 1000 * (preset["step"] + weights / 3.35e12) + 1000 * 500 * cache / 3.35e12
    assert tariff.sampling_seconds(*asked, 1, 1, 1000, 1000, 0.9, 1024) == pytest.approx(alone)
    # A full card makes more tokens a second than one response does, by far fewer than it has in hand.
    many = tariff.sampling_seconds(*asked, 1, 100_000, 1000, 8192, 0.9, 1024)
    assert 50 < 100_000 * alone / many < 1024
    assert tariff.sampling_seconds(*asked, 1, 100_000, 6000, 8192, 0.1, 1024) > 1.1 * tariff.sampling_seconds(
        *asked, 1, 100_000, 6000, 8192, 0.9, 1024
    )  # less room, fewer at once
    assert tariff.longest_response(1e9, 800, 8192, 0.7) == 8192
    assert 800 < tariff.longest_response(100, 800, 8192, 0.7) < 8192


def test_rl_is_sampling_and_six_forward_passes_over_what_was_sampled():
    config, preset = check.load([]), shaped(start=0, rl_mfu=0.2)
    settings = grid.rl_settings(config, "qwen2.5-3b", "base+rl")
    count, mean = settings["prompts"] * settings["rollouts"], 1900
    sampled = tariff.sampling_seconds(config, COSTS, preset, "qwen2.5-3b", 8, count, mean, 8192, 0.5, 1024)
    forward = 2 * costs.billions(config, "qwen2.5-3b") * 1e9 * count * mean * 1.15 / (9.89e14 * 0.2)
    waits = tariff.waiting(8, 1, mean, 8192, COSTS["spread"], own=settings["minibatch"])
    found = shaped_seconds("rl", "qwen2.5-3b", "base+rl", 8, preset)
    assert found == pytest.approx(settings["steps"] * (sampled + (2 + 4 * waits) * forward))


def test_passes_that_responses_share_cost_their_columns_and_what_cards_wait_for_the_fullest():
    """Counted as tests/test_rollouts.py counts by its own lengths; what short passes cost is in no plan."""
    asked, alone = (8, 1, 4200, 16_384, 0.7), tariff.waiting(8, 1, 4200, 16_384, 0.7, own=256)
    assert tariff.sharing(*asked, 256, 1) == pytest.approx((1, alone))
    found = [tariff.sharing(*asked, 256, tokens) for tokens in (17_408, 34_816, 69_632)]
    assert found == sorted(found)
    assert all(1 < columns < until < 1.25 for columns, until in found)
    assert tariff.sharing(1, 1, 4200, 16_384, 0.7, 256, 34_816)[0] == pytest.approx(
        tariff.sharing(1, 1, 4200, 16_384, 0.7, 256, 34_816)[1]
    )  # one card waits for none
    config, preset = check.load([], {"rl": {"device_tokens": 34_816}}), shaped(start=0)
    job = {"rule": "rl", "gpus": 8, "wildcards": {"model": "qwen2.5-3b", "run": "base+rl"}}
    columns, until = tariff.sharing(8, 1, 1900, 8192, COSTS["spread"], 256, 34_816)
    more = 2 * (columns - 1) + 4 * (until - tariff.waiting(8, 1, 1900, 8192, COSTS["spread"], own=256))
    tokens = 100 * 1024 * 8 * 1900
    forward = 2 * costs.billions(config, "qwen2.5-3b") * 1e9 * tokens * 1.15 / (9.89e14 * 0.3)
    apart = tariff.computed_seconds(job, config, COSTS, preset) - shaped_seconds(
        "rl", "qwen2.5-3b", "base+rl", 8, preset
    )
    assert apart == pytest.approx(more * forward)


def test_tokens_of_a_pass_move_the_hours_of_rl_alone_in_a_plan_by_shape(paper, tmp_path):
    (folder := checkout(tmp_path)).joinpath("shared.yaml").write_text(
        yaml.safe_dump({"rl": {"device_tokens": 34_816}})
    )
    command = [sys.executable, "scripts/plan.py", "--gpus", 64]
    shared = [*command, "--configfile", "config.yaml", "shared.yaml"]
    without, with_it = (run([*one, "--preset", "computed"], folder) for one in (command, shared))
    before, after = rows(without, "rule"), rows(with_it, "rule")
    assert {rule for rule in before if before[rule] != after[rule]} == {"rl"}
    assert before["rl"][1] < after["rl"][1] < 1.1 * before["rl"][1]
    by_rates = run(shared, folder)
    assert rows(by_rates, "rule") == rows(paper[0], "rule")


def test_a_faster_memory_samples_faster_and_a_higher_peak_trains_faster():
    of, other = COSTS["cards"]["h100"], COSTS["cards"]["a100"]
    slow = costs.on_card(COSTS["presets"]["computed"], other, of)
    for rule, name, more in (
        ("sft", "sft-8k", {}),
        ("rl", "base+rl", {}),
        ("generate", "sft-8k", {"task": "aime24"}),
    ):
        here, there = (
            shaped_seconds(rule, "qwen2.5-3b", name, 4, preset, **more) for preset in (shaped(), slow)
        )
        assert there > here
    with_rates = costs.on_card(COSTS["presets"]["paper"], other, of)
    assert with_rates["rl_tokens"] == round(2600 * 2.04 / 3.35)


def test_wall_time_lies_between_the_critical_path_and_one_gpu_after_the_other():
    jobs = [{"gpus": 1, "seconds": 10.0, "priority": 0, "waits_for": []} for _ in range(8)]
    jobs.append({"gpus": 2, "seconds": 20.0, "priority": 0, "waits_for": [0]})
    assert costs.wall_seconds(jobs, 1, 1) == 8 * 10 + 20
    assert costs.critical_seconds(jobs) == 10 + 10
    assert costs.critical_seconds(jobs) <= costs.wall_seconds(jobs, 4, 1) <= 40
    assert costs.wall_seconds([], 1, 1) == 0


def test_a_job_costs_what_the_same_job_took_before(tmp_path):
    file = tmp_path / "benchmarks/sft/S.sft-64.seed0.tsv"
    file.parent.mkdir(parents=True)
    file.write_text("s\th:m:s\n120.0\t0:02:00\n")
    (tmp_path / "benchmarks/generate").mkdir()
    (tmp_path / "benchmarks/generate/S.base.seed0.chain.tsv").write_text("s\th:m:s\n30.0\t0:00:30\n")
    assert costs.measured_seconds(tmp_path / "benchmarks") == {
        ("sft", "S.sft-64"): 120.0,
        ("generate", "S.base"): 30.0,
    }


def test_more_data_larger_models_and_longer_answers_cost_more():
    config = check.load([])

    def cost(rule, model, run, **more):
        job = {"rule": rule, "gpus": 8, "wildcards": {"model": model, "run": run, **more}}
        return costs.modelled_seconds(job, config, COSTS, COSTS["presets"]["paper"])

    assert cost("sft", "qwen2.5-7b", "sft-16k") > 1.5 * cost("sft", "qwen2.5-7b", "sft-8k")
    assert cost("sft", "qwen2.5-14b", "sft-8k") > 1.5 * cost("sft", "qwen2.5-7b", "sft-8k")
    assert cost("sft", "qwen2.5-7b", "sft-8k.short") < cost("sft", "qwen2.5-7b", "sft-8k")
    assert cost("generate", "qwen2.5-7b", "sft-8k", task="math500") > cost(
        "generate", "qwen2.5-7b", "base", task="math500"
    )
    assert costs.responses(config, "aime24") == 240


def with_task(root, **entry) -> dict:
    """The miniature with a task of one's own, each problem asked twice, below another root."""
    config = check.load([check.ROOT / "config/miniature.yaml"]) | {"root": str(root)}
    config["tasks"]["mine"] = {"samples": 2, **entry}
    config["grid"]["tasks"] = [*config["grid"]["tasks"], "mine"]
    return config


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_a_task_of_ones_own_costs_what_its_file_holds(tmp_path, form):
    """Beside a synthetic task too, whose number it had, and without one, where it had none."""
    rows, file = (
        [{"problem": f"{i}?", "answer": "1", "from": f"book {i % 3}"} for i in range(30)],
        f"mine.{form}",
    )
    if form == "parquet":
        records.write_parquet(tmp_path / file, rows)
    else:
        text = json.dumps(rows) if form == "json" else "\n".join(map(json.dumps, rows))
        (tmp_path / file).write_text(text)
    own = {"source": str(tmp_path / file)}
    for entry, count in (
        ({}, 30),
        ({"where": {"from": "book 1"}}, 10),
        ({"limit": 4}, 4),
        ({"limit": 40}, 30),
    ):
        config = with_task(tmp_path, **own, **entry)
        assert costs.responses(config, "mine") == 2 * count, entry
        assert plan.uncounted(config) == []


def test_a_task_costs_what_was_fetched_of_it_and_before_that_what_the_plan_says_it_assumes(tmp_path):
    config = with_task(tmp_path, source="someone/problems", revision="0" * 40)
    assert costs.responses(config, "mine") == 2 * forged.design(config)["mine"][0] == 200
    assert plan.uncounted(config)[0].startswith("assumed          mine: 100 problems each")
    records.write_parquet(tmp_path / "data/tasks/mine.parquet", [{"problem": "?", "answer": "1"}] * 7)
    assert costs.responses(config, "mine") == 14
    assert plan.uncounted(config) == []


def test_the_number_of_problems_is_the_configs_where_it_says_one(tmp_path):
    (tmp_path / "broken.jsonl").write_text("no rows")
    assert costs.problems(with_task(tmp_path, source="a/b", problems=50, limit=60), "mine") == 50
    assert costs.problems(with_task(tmp_path, source="a/b", limit=60), "mine") == 60
    assert costs.problems(with_task(tmp_path, source="arithmetic"), "mine") == 400
    assert costs.problems(with_task(tmp_path, source=str(tmp_path / "broken.jsonl")), "mine") is None
    made = with_task(tmp_path, source="arithmetic")
    assert costs.problems(made, "chain") == made["synthetic"]["task"]


def test_one_start_for_all_tasks_of_a_cell_saves_the_others_and_a_task_that_comes_later_pays_its_own():
    config, preset = check.load([]), COSTS["presets"]["paper"]
    tasks = config["grid"]["tasks"]

    def seconds(task: str, served: bool = False) -> float:
        cell = {"model": "qwen2.5-3b", "run": "sft-8k", "task": task}
        job = {"rule": "generate", "gpus": 4, "wildcards": cell}
        made = {"tasks": costs.sampled_by(task, config, served)}
        return costs.modelled_seconds(job | made, config, COSTS, preset)

    apart = [seconds(task) for task in tasks]
    config["generate"]["one_start"] = True
    saved = 4 * (len(tasks) - 1) * (preset["start"] - COSTS["cpu_seconds"]["default"])
    together = seconds(tasks[0]) + sum(seconds(task, served=True) for task in tasks[1:])
    assert sum(apart) - together == pytest.approx(saved)
    assert seconds(tasks[1]) == apart[1]


@pytest.mark.parametrize("name", ["one-gpu", "one-evening", "controls", "contaminated"])
def test_every_study_plans_and_says_what_it_takes(name):
    output = script("plan", "--configfile", f"config/{name}.yaml", "--gpus", 1)
    assert re.search(r"studies/\S+: [\d,]+ cells, 0 done; [\d,]+ jobs to run", output)
    for what in ("GPU-hours", "wall time", "critical path", "disk"):
        assert re.search(rf"^{what} +[\d,.]+", output, re.MULTILINE), what


def test_a_plan_of_gpu_jobs_for_no_gpus_says_so():
    output = script("plan", "--configfile", "config/one-gpu.yaml", "--gpus", 0, ok=False)
    assert "error: --gpus: 0 GPUs run no job of this plan that asks for one. Set GPUS=1 or more" in output
    assert "Traceback" not in output
    assert "wall time" in script("plan", "--configfile", "config/miniature.yaml", "--gpus", 0)


def test_the_check_before_fetching_names_every_source_and_what_is_wrong_with_it(tmp_path):
    config = check.load([])
    named = [key for key, *_ in fetch_check.sources(config)]
    assert {"models.qwen2.5-14b", "traces", "tasks.math500", "rl.sets.math-1-4", "rl.sets.math-3-5"} <= set(
        named
    )
    assert not any("arithmetic" in key or "aime90" in key for key in named)
    assert fetch_check.problem(str(tmp_path), None, "model") is None
    assert fetch_check.problem(str(tmp_path / "gone.jsonl"), None, "dataset") == "no such file or folder"


def test_the_papers_grid_ends_under_the_profile_that_is_shipped_and_fewer_tries_name_what_does_not(tmp_path):
    profile = profiles.merged(["profiles/slurm"])
    config = check.load([])
    preset = COSTS["presets"]["paper"]
    runs = [(m, r) for m, r, _ in grid.cells(config) if grid.parse_run(r).step is None and r != "base"]
    jobs = [
        {"rule": grid.parse_run(run).stage, "wildcards": {"model": model, "run": run}, "gpus": gpus}
        for model, run in runs
        if (gpus := grid.training_gpus(config, model, run))
    ]
    for job in jobs:
        job["seconds"], _ = costs.seconds(job, config, COSTS, preset, {})

    def limit(rule):
        return profiles.limit(profile, rule)

    assert costs.endless(jobs, config, limit, profiles.tries(profile), profiles.requeues(profile)) == []
    assert costs.endless(jobs, config, limit, 9, requeue=False) == []  # eight retries, where a site refuses
    [(longest, hours, given), *others] = costs.endless(jobs, config, limit, 3, requeue=False)
    assert (longest["wildcards"]["model"], longest["rule"], given) == ("qwen2.5-3b", "rl", 72)
    assert 140 < hours < 165
    assert {job["rule"] for job, *_ in others} == {"rl"}
    assert profiles.requeues(profile)
    assert costs.endless(jobs, config, limit, 1, requeue=True) == []  # in portions, without a single retry
    assert costs.portions(longest, 24 * 60) == math.ceil(hours / 24) > 5
    [(slow, step, portion), *_] = costs.endless(jobs, config, lambda rule: 30, 99, requeue=True)
    assert (slow["wildcards"], portion) == (longest["wildcards"], 0.5)
    assert step == pytest.approx(
        hours / 100
    )  # a step of more than half an hour comes to no checkpoint within it


def test_a_job_asks_for_its_planned_time_and_a_margin_more_at_each_try_within_the_limit():
    job, asked = {"gpus": 4, "seconds": 4 * 3600.0}, COSTS["asked"]
    first = costs.minutes_to_ask(job, 1, 1440, COSTS)
    assert first == asked["minutes"] + 60 * asked["margin"] > 60
    assert costs.minutes_to_ask(job, 2, 1440, COSTS) == 2 * first
    assert costs.minutes_to_ask(job, 1, 30, COSTS) == 30
    assert costs.minutes_to_ask(job | {"seconds": 1e9}, 1, 1440, COSTS) == 1440


def test_a_plan_says_which_trainings_run_in_portions_and_which_cannot(tmp_path):
    profile = profiles.merged(["profiles/slurm"])
    config = check.load([])
    job = {"rule": "rl", "wildcards": {"model": "qwen2.5-3b", "run": "base+rl", "seed": "0"}, "gpus": 8}
    job["seconds"] = 8 * 3600 * 150
    card = COSTS["cards"]["h100"]
    [line, _] = plan.warnings(config, [job], profile, card, COSTS)
    assert line.startswith("in portions       rl qwen2.5-3b.base+rl.0: 150 h in 7 of 24 h")
    [line, _] = plan.warnings(config, [job], profile | {"slurm-requeue": False, "retries": 3}, card, COSTS)
    assert line.startswith("cannot end        rl qwen2.5-3b.base+rl.0: 150 h, and the profile gives it 96 h")
    generation = job | {
        "rule": "generate",
        "wildcards": {"model": "qwen2.5-3b", "run": "base", "seed": "0", "task": "aime24"},
    }
    assert plan.warnings(config, [generation], profile | {"retries": 3}, card, COSTS)[0].startswith(
        "cannot end        generate"
    )


def test_a_profile_is_read_as_snakemake_reads_it(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "config: [gres=gpu:h100, root=/scratch/x]\nretries: 4\ndefault-resources: [runtime=1d, mem_mb=1]\nset-resources: {rl: {runtime: 90}}\n"
    )
    profile = profiles.merged(["profiles/slurm", str(tmp_path)])
    assert profiles.config(profile) == {"gres": "gpu:h100", "root": "/scratch/x"}
    assert (profiles.limit(profile, "sft"), profiles.limit(profile, "rl"), profiles.tries(profile)) == (
        1440,
        90,
        5,
    )
    assert check.load([], profiles.config(profile))["root"] == "/scratch/x"
    with pytest.raises(SystemExit, match="profile nowhere: is not there"):
        profiles.merged(["nowhere"])


def test_a_site_that_asks_by_gres_plans_the_same_gpus(tmp_path):
    target = "results/qwen2.5-3b/sft-8k/seed0/scores.json"
    plain = script("plan", "--gpus", 8, "--", target)
    site = script("plan", "--gpus", 8, "--profile", "profiles/slurm", "profiles/sites/gres", "--", target)
    assert rows(site, "rule") == rows(plain, "rule")
    assert rows(plain, "rule")["sft"][1] > 3  # GPU-hours


def test_a_slower_card_takes_longer_and_may_hold_less():
    target = "results/qwen2.5-14b/sft-8k/seed0/scores.json"
    hours = {}
    for card in ("h100", "a100", "4090"):
        output = script("plan", "--card", card, "--", target)
        hours[card] = rows(output, "rule")["sft"][1]
        assert ("does not fit      sft of qwen2.5-14b" in output) == (card == "4090")
    assert 2 < hours["a100"] / hours["h100"] < 4
    assert hours["4090"] > hours["a100"]
    assert "card tpu: is unknown" in script("plan", "--card", "tpu", ok=False)


def test_a_cpu_study_plans(tmp_path):
    (elsewhere := tmp_path / "elsewhere.yaml").write_text(
        f"root: {tmp_path}/study"
    )  # this checkout may hold a finished one
    output = script("plan", "--configfile", "config/miniature.yaml", "config/smoke.yaml", elsewhere)
    assert rows(output, "rule")["sft"][0] == 3
    assert re.search(r"^GPU-hours +0$", output, re.MULTILINE)


def test_a_check_before_fetching_says_once_that_the_hub_cannot_be_reached():
    # A process of its own: the warm one has read HF_ENDPOINT already.
    command = [sys.executable, "scripts/fetch_check.py", "--configfile", "config/one-gpu.yaml"]
    output = run(command, ok=False, HF_ENDPOINT="http://127.0.0.1:9")
    [error] = [line for line in output.splitlines() if "127.0.0.1" in line]
    assert "cannot be reached from here" in error
    assert "Traceback" not in output
    assert (
        "no such file" not in output
    )  # a hub id may end in what looks like a file's name: Qwen2.5-1.5B-Instruct


def test_memory_grows_only_after_an_end_for_want_of_it(tmp_path):
    assert environment.ends_without_memory(tmp_path / "none") == 0
    (tmp_path / "1.log").write_text("slurmstepd: error: *** JOB 1 CANCELLED DUE TO TIME LIMIT ***\n")
    assert environment.ends_without_memory(tmp_path) == 0
    (tmp_path / "2.log").write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=2.0.\n")
    assert environment.ends_without_memory(tmp_path) == 1


def test_the_memory_that_sft_asks_for_follows_ranks_weights_and_tokens():
    """It asked for 128 GB whatever was trained; a rank held 160 bytes a token, 1.1 TB for eight."""
    config, constants = check.load([]), costs.load()
    asked = lambda model, run, ranks: costs.host_megabytes(config, constants, model, run, ranks)  # noqa: E731
    one, eight = asked("qwen2.5-0.5b", "sft-8k", 1), asked("qwen2.5-0.5b", "sft-8k", 8)
    assert eight - one == pytest.approx(7 * (8000 + 2 * 494), rel=1e-2)
    more = asked("qwen2.5-0.5b", "sft-220k", 1) - one
    assert more == pytest.approx(
        (225_129 - 8000) * 3900 * 4 / 1e6, rel=1e-3
    )  # four bytes a token, once for all ranks
    assert more == pytest.approx(asked("qwen2.5-0.5b", "sft-220k", 8) - eight, abs=2)
    assert asked("qwen2.5-14b", "sft-220k", 8) < 2 * asked(
        "qwen2.5-3b", "sft-220k", 8
    )  # ZeRO-3 loads file by file


def test_disk_counts_tokenised_subsets_once_a_family():
    config, constants = check.load([]), costs.load()
    qwen = [("qwen2.5-0.5b", "sft-8k", 0), ("qwen2.5-7b", "sft-8k", 0), ("qwen2.5-0.5b", "sft-8k.wide", 0)]
    one = costs.tokenised_gigabytes(config, constants, qwen[:1])
    assert one == pytest.approx(8000 * 3900 * 4 / 1e9)
    assert costs.tokenised_gigabytes(config, constants, qwen) == one
    llama = [*qwen, ("llama3.2-1b", "sft-8k", 0), ("qwen2.5-0.5b", "sft-8k.short", 0)]
    assert costs.tokenised_gigabytes(config, constants, llama) == pytest.approx(3 * one)
