"""What Snakemake plans: the promises of the graph, by dry runs; counts are derived from the config, never
typed in.
"""

import base64
import collections
import json
import os
import re
import shlex
import shutil
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import fetch_check
import pytest
import yaml
from conftest import MINIATURE, REPOSITORY, SMOKE, checkout, planned, run, snakemake

from valley import check, grid, jobs, records, sources

GPU_RULES = {"pretrain", "fetch_model", "sft", "rl", "generate"}
# What a script makes in seconds or minutes on a CPU, after all that needs a GPU; REPORT is what `make page`
# may run of it.
REPORT = {"aggregate", "analyse", "recovery", "claims", "examples", "cell_pages", "floors", "forecast", "figure", "costs", "page", "probes",
          "configuration", "all"}  # fmt: skip
CHEAP = REPORT - {"configuration", "all"} | {
    "grade",
    "score",
    "calibrate",
    "release",
    "repetition",
    "leaks",
    "paper",
}
STUDIES = {
    "paper": ([], ["--configfile", "config.yaml"]),
    "miniature": ([Path("config/miniature.yaml")], MINIATURE),
    "smoke": ([Path("config/miniature.yaml"), Path("config/smoke.yaml")], SMOKE),
}


def expected(config: dict) -> dict[str, int]:
    """The jobs that a config implies, rule by rule."""
    cells = grid.cells(config)
    trained = {(m, r, s) for m, r, s in cells if "@" not in r}
    sft = {(m, r, s) for m, r, s in trained if r.startswith("sft") and "+rl" not in r}
    rl = {cell for cell in trained if "+rl" in cell[1]}
    here = {(m, s) for m, _, s in cells if grid.is_pretrained_here(config, m)}
    fetched = {m for m, _, _ in cells if not grid.is_pretrained_here(config, m)}
    orders = {grid.order_seed(config, s) for _, _, s in (trained if config["report"]["probe"] else sft)}
    # The pool needs the tokenizers of its models, whether or not these are in the grid.
    here |= {
        (m, o) for m in config["traces"]["tokenizers"] for o in orders if grid.is_pretrained_here(config, m)
    }
    fetched |= {m for m in config["traces"]["tokenizers"] if not grid.is_pretrained_here(config, m)}
    tasks = config["grid"]["tasks"]
    fetched_tasks = [t for t in tasks if config["tasks"][t]["source"] not in ("synthetic", "arithmetic")]
    synthetic = config["traces"]["source"] == "synthetic"
    problems = {grid.rl_settings(config, m, r)["problems"] for m, r, _ in rl}
    recipes = any(grid.parse_run(r).recipe for _, r, _ in cells)
    figures = 5 + (len(tasks) > 1) + 2 * bool(config["report"]["calculations"]) + recipes + bool(rl)
    figures += len({r for _, r, _ in cells if grid.parse_run(r).is_protocol}) > 2  # a forecast needs some
    counts = {
        "pretrain": len(here), "fetch_model": len(fetched), "synthesize": int(synthetic), "fetch_traces": int(not synthetic),
        "fetch_task": len(fetched_tasks), "arithmetic": sum(config["tasks"][t]["source"] == "arithmetic" for t in tasks),
        "fetch_rl": sum(config["rl"]["sets"][p]["source"] != "synthetic" for p in problems), "order_traces": len(orders),
        "subset": len({(grid.parse_run(r).size, grid.order_seed(config, s)) for _, r, s in sft}), "preflight": len(sft),
        "sft": len(sft), "rl": len(rl), "export_step": len(cells) - len(trained), "generate": len(cells) * len(tasks),
        **({"held_out": len({grid.order_seed(config, s) for _, _, s in trained}), "probe": len(trained), "probes": 1}
           if config["report"]["probe"] else {}),
        "grade": len(cells), "score": len(cells), "figure": figures,
        **dict.fromkeys(["aggregate", "analyse", "recovery", "claims", "examples", "cell_pages", "floors", "forecast",
                        "configuration", "costs", "page", "all"], 1),
    }  # fmt: skip
    return {rule: count for rule, count in counts.items() if count}


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_plans_the_jobs_that_its_config_implies(study, tmp_path):
    files, flags = STUDIES[study]
    start = time.monotonic()
    plan = planned(snakemake(checkout(tmp_path), "-n", *flags))
    assert plan == expected(check.load(files))
    assert time.monotonic() - start < 15 * 2  # 15 s alone; the tests run side by side


def two_models() -> dict:
    """A small grid of two models, every stage in it, whose scripts are stubs."""
    grid_ = {
        "tasks": ["chain"],
        "cells": [{"models": ["S", "M"], "runs": ["base", "sft-128", "sft-512", "sft-128+rl"], "seeds": [0]}],
    }
    return {"warm_start": False, "root": "studies/stub", "grid": grid_}


def write(folder: Path, config: dict) -> list[str]:
    (folder / "stub.yaml").write_text(yaml.safe_dump(config))
    return [*MINIATURE, "stub.yaml"]


def stubs(folder: Path) -> Path:
    """A checkout whose scripts are stubs that import, on paper, what the real ones do: inputs of rules come
    from there.
    """
    stub = (REPOSITORY / "tests/fixtures/stub.py").read_text()
    for script in (folder / "scripts").glob("*.py"):
        modules = [file.removesuffix(".py").replace("/", ".") for file in sources.files(script.stem)]
        never = "".join(f"    import {module.removesuffix('.__init__')}\n" for module in modules)
        script.write_text(f"{stub}\n\nif False:\n{never}    pass\n")
    return folder


@pytest.fixture(scope="module")
def stubbed(tmp_path_factory):
    """A checkout whose scripts are stubs, with that grid finished."""
    folder = stubs(checkout(tmp_path_factory.mktemp("stub")))
    snakemake(folder, *write(folder, two_models()))
    return folder


@pytest.fixture
def finished(stubbed, tmp_path):
    """The finished grid in a copy of its own."""
    shutil.copytree(stubbed, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def touch(path: Path):
    time.sleep(0.01)
    path.write_text(path.read_text() + "\n# edited\n")


def plan_of(folder: Path, config: dict) -> dict[str, int]:
    return planned(snakemake(folder, "-n", *write(folder, config)))


def jobs_of(folder: Path, config: str, *targets: str) -> list[dict]:
    """The jobs that `make plan` counts."""
    code = (
        "import json, sys; sys.path.insert(0, 'scripts'); from pathlib import Path; from valley import jobs; "
    )
    code += (
        f"print(json.dumps(jobs.planned([Path(f) for f in {config.split()}], Path.cwd(), {list(targets)})))"
    )
    return json.loads(run([sys.executable, "-c", code], folder).splitlines()[-1])


def test_a_finished_grid_plans_nothing(finished):
    assert plan_of(finished, two_models()) == {}


def test_bases_and_the_smallest_size_are_scored_before_a_larger_size_is_trained(tmp_path):
    """On one core everything queues; the first runs pass whatever became ready before them."""
    folder = stubs(checkout(tmp_path))
    snakemake(folder, *write(folder, two_models()), "--cores", 1, "--until", "score")

    def made(runs, file):
        return [
            (folder / f"studies/stub/results/{m}/{run}/seed0/{file}").stat().st_mtime_ns
            for m in "SM"
            for run in runs
        ]

    assert max(made(["base", "sft-128"], "scores.json")) < min(made(["sft-512", "sft-128+rl"], "train.json"))


def test_what_rl_starts_from_is_trained_before_the_other_sizes(tmp_path):
    jobs = jobs_of(checkout(tmp_path), "config/miniature.yaml")
    rank = {
        (job["rule"], job["wildcards"].get("run"), job["wildcards"].get("seed")): job["priority"]
        for job in jobs
    }
    started, other = rank["sft", "sft-1024", "4"], rank["sft", "sft-1024", "5"]
    assert started > rank["rl", "base+rl", "4"] > other
    assert rank["sft", "sft-8", "5"] > started  # the first runs tell soonest whether a study works


def test_adding_a_task_trains_nothing_and_generates_that_task_alone(finished):
    config = two_models()
    config["grid"]["tasks"] = ["chain", "arithmetic"]
    plan = plan_of(finished, config)
    cells = grid.cells(check.load([Path("config/miniature.yaml"), finished / "stub.yaml"]))
    assert plan["generate"] == len(cells)  # the new task once a cell; the finished one not again
    assert plan["arithmetic"] == 1
    assert not plan.keys() & {"pretrain", "order_traces", "subset", "preflight", "sft", "rl"}


def test_tasks_of_any_name_and_number_may_be_arithmetic(tmp_path):
    folder, config = checkout(tmp_path), {"root": "studies/stub", "report": {"probe": 0}}
    cells = [{"models": ["S"], "runs": ["base"], "seeds": [0]}]
    config["grid"] = {"tasks": ["chain", "sums", "more"], "cells": cells}
    drawn = {"sums": {"problems": 100}, "more": {"seed": 1}}
    config["tasks"] = {name: {"source": "arithmetic", "samples": 2} | entry for name, entry in drawn.items()}
    output = snakemake(folder, "-n", "-p", *write(folder, config))
    assert dict(re.findall(r"arithmetic\.py (.*) --out \S+/tasks/(\S+) 2>", output)) == {
        "--problems 100 --seed 0": "sums.parquet",
        "--problems 400 --seed 1": "more.parquet",
    }


def test_one_start_of_the_engine_serves_all_tasks_and_neither_switching_it_nor_a_new_task_makes_anything_anew(
    finished,
):
    config = two_models() | {"generate": {"one_start": True}}
    assert plan_of(finished, config).keys() <= REPORT
    shutil.rmtree(finished / "studies/stub/results/S/sft-512")
    config["grid"]["tasks"] = ["chain", "arithmetic"]
    output = snakemake(finished, "-n", "-p", *write(finished, config))
    cells = grid.cells(check.load([Path("config/miniature.yaml"), finished / "stub.yaml"]))
    lost = [cell for cell in cells if cell[:2] == ("S", "sft-512")]
    assert planned(output)["generate"] == len(cells) + len(lost)
    # The first task's job of the lost cell makes both; elsewhere the new task has an engine of its own.
    then = re.findall(r"--out (\S+) --then (\S+) (\d+) (\S+) 2>", output)
    of, task = "studies/stub/results/S/sft-512/seed0/responses", "studies/stub/data/tasks/arithmetic.parquet"
    assert then == [(f"{of}/chain.parquet", task, "4", f"{of}/arithmetic.parquet")]
    snakemake(finished, *write(finished, config))
    assert plan_of(finished, config).keys() <= REPORT
    config["generate"]["one_start"] = False
    assert plan_of(finished, config).keys() <= REPORT
    (finished / f"{of}/arithmetic.parquet").unlink()
    assert plan_of(finished, config)["generate"] == 1


def test_parallel_sampling_reaches_generation_that_is_to_run_and_makes_nothing_anew(finished):
    config = two_models() | {"generate": {"parallel_sampling": True}}
    assert plan_of(finished, config).keys() <= REPORT
    shutil.rmtree(finished / "studies/stub/results/S/sft-512")
    said = snakemake(finished, "-n", "-p", *write(finished, config)).splitlines()
    jobs = [line for line in said if "--parallel-sampling True" in line]
    assert ["scripts/generate.py" in line for line in jobs] == [True]
    assert "/S/sft-512/" in jobs[0]


def test_adding_a_model_trains_only_its_cells(finished):
    config = two_models()
    config["grid"]["cells"][0]["models"] = ["S", "M", "L"]
    plan = plan_of(finished, config)
    assert (plan["pretrain"], plan["sft"], plan["rl"]) == (1, 2, 1)
    assert not plan.keys() & {"order_traces", "subset"}


@pytest.mark.parametrize(
    "script", ["grade", "score", "aggregate", "order_traces", "subset", "preflight", "sft", "rl", "generate"]
)
def test_editing_a_script_plans_no_gpu_rule(finished, script):
    touch(finished / f"scripts/{script}.py")
    plan = plan_of(finished, two_models())
    assert not plan.keys() & GPU_RULES
    # What comes after the GPU is made anew; what comes before it, or uses it, is not (status shows it).
    assert (script in plan) == (script in ("grade", "score", "aggregate"))


def test_other_data_do_retrain(finished):
    config = two_models() | {"traces": {"max_tokens": 400}}
    plan = plan_of(finished, config)
    assert (plan["order_traces"], plan["sft"], plan["rl"]) == (1, 4, 2)
    assert "pretrain" not in plan


def test_a_cell_that_is_missing_is_planned_beside_one_that_is_remade(finished):
    """Snakemake's ancient() would lose the missing cell here."""
    shutil.rmtree(finished / "studies/stub/results/S/sft-512/seed0")
    config = two_models() | {"traces": {"max_tokens": 400}}
    plan = plan_of(finished, config)
    assert (plan["sft"], plan["score"]) == (
        4,
        len(grid.cells(check.load([Path("config/miniature.yaml"), finished / "stub.yaml"]))) - 2,
    )


def test_another_rate_for_one_model_plans_only_its_sft_cells_and_what_builds_on_them(finished):
    config = two_models() | {"models": {"M": {"sft": {"lr": 5e-4}}}}
    output = snakemake(finished, "-n", *write(finished, config))
    plan = planned(output)
    steps = len(check.load([Path("config/miniature.yaml")])["rl"]["checkpoints"])
    assert plan["sft"] == 2
    assert plan["rl"] == 1  # M's sft-128+rl starts from new weights
    assert plan["generate"] == 2 + 1 + steps
    assert "Pre-train" not in output
    assert "SFT S" not in output
    assert "RL S" not in output
    counted = jobs_of(finished, "config/miniature.yaml stub.yaml")
    assert collections.Counter(job["rule"] for job in counted) == plan


def test_what_a_killed_run_left_half_made_is_planned_as_it_will_be_made_again(finished):
    """Snakemake's own mark of an output whose job it did not see finish."""
    half = "studies/stub/results/S/sft-512/seed0/responses/chain.parquet"
    (finished / ".snakemake/incomplete" / base64.urlsafe_b64encode(half.encode()).decode()).write_text("null")
    counted = jobs_of(finished, "config/miniature.yaml stub.yaml")
    plan = plan_of(finished, two_models())
    assert (plan["generate"], plan["grade"]) == (1, 1)
    assert collections.Counter(job["rule"] for job in counted) == plan


def test_regrade_plans_every_grade_and_score_and_nothing_else(finished):
    target = [
        "--forcerun",
        "grade",
        "--allowed-rules",
        "grade",
        "score",
        "regrade",
        "--",
        "regrade",
    ]  # as `make regrade`
    plan = planned(snakemake(finished, "-n", *write(finished, two_models()), *target))
    cells = len(grid.cells(check.load([Path("config/miniature.yaml"), finished / "stub.yaml"])))
    assert plan == {"grade": cells, "score": cells, "regrade": 1}


@pytest.mark.parametrize("module", ["grading", "equality", "calculations", "reflection"])
def test_another_way_of_grading_plans_grades_and_what_follows(finished, module):
    touch(finished / f"scripts/valley/{module}.py")
    plan = plan_of(finished, two_models())
    assert {"grade", "score", "aggregate", "page"} <= plan.keys()
    assert not plan.keys() & GPU_RULES


@pytest.mark.parametrize("module", ["records", "grid", "flags"])
def test_editing_a_shared_module_remakes_what_is_cheap_and_nothing_else(finished, module):
    touch(finished / f"scripts/valley/{module}.py")
    plan = plan_of(finished, two_models())
    users = {rule for rule in CHEAP if f"valley/{module}.py" in sources.files(rule)}
    assert {"aggregate", "release"} <= users
    assert plan.keys() >= users - {
        "calibrate",
        "release",
        "repetition",
        "leaks",
        "paper",
    }  # asked for by name, or by some studies
    assert not plan.keys() - CHEAP - {"all"}


def test_each_cheap_rule_declares_what_its_script_is_made_of_and_no_other_rule_declares_code():
    rules = {}
    for file in sorted((REPOSITORY / "workflow/rules").glob("*.smk")):
        for block in re.split(r"^ *(?=rule \w+:)", file.read_text(), flags=re.MULTILINE)[1:]:
            rules[re.match(r"rule (\w+):", block)[1]] = block
    for rule, block in rules.items():
        declared = re.findall(r'script="scripts/(\w+)\.py",\s+code=imports\("(\w+)"\),', block)
        assert declared == ([(rule, rule)] if rule in CHEAP else []), rule
        assert ("imports(" in block) == (rule in CHEAP), rule


def as_cloned(folder: Path):
    """Give the project's own files the age that a clone has: younger than any result."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_relative_to(folder / "studies") and ".snakemake" not in path.parts:
            path.touch()


def test_a_study_copied_into_a_fresh_clone_without_its_snakemake_folder_has_only_cheap_work(finished):
    shutil.rmtree(finished / ".snakemake")
    as_cloned(finished)
    assert not plan_of(finished, two_models()).keys() - CHEAP - {"all"}


def test_a_study_moved_over_with_its_snakemake_folder_has_only_cheap_work(finished):
    as_cloned(finished)
    for script in (finished / "scripts").rglob("*.py"):
        script.write_text(script.read_text() + "\n# of a later version\n")
    assert not plan_of(finished, two_models()).keys() - CHEAP - {"all"}


@pytest.mark.parametrize("known", [True, False], ids=["with .snakemake", "without"])
@pytest.mark.parametrize("age", [-3600, 3600], ids=["younger", "older"])
def test_another_template_makes_the_bases_anew_whatever_its_age(finished, known, age):
    template = finished / "templates/chain.jinja"
    before = template.stat().st_mtime
    template.write_text(template.read_text() + "{# another #}")
    os.utime(template, (before - age, before - age))
    if not known:
        shutil.rmtree(finished / ".snakemake")
    plan = plan_of(finished, two_models())
    assert (plan["pretrain"], plan["sft"], plan["rl"]) == (2, 4, 2)


def test_a_report_on_what_there_is_makes_nothing_that_comes_before_scores(finished):
    as_cloned(finished)
    shutil.rmtree(finished / "studies/stub/results/S/sft-512/seed0")
    output = snakemake(
        finished, "-n", *write(finished, two_models()), "--config", "unfinished=True", "--", "all"
    )
    assert "aggregate" in planned(output)
    assert not planned(output).keys() - REPORT


@pytest.mark.parametrize("others", [[], ["../other/studies/x"]])
def test_a_release_is_redrawn_by_the_claims_in_it_and_keeps_a_forecast_that_other_studies_entered(
    finished, others
):
    release = finished / "released"  # elsewhere neither its file of claims nor other studies are there
    for name in ("data/subsets", "report", "results"):
        without = shutil.ignore_patterns("responses", "model", "seed?.parquet")
        shutil.copytree(finished / "studies/stub" / name, release / name, ignore=without)
    shutil.copyfile(finished / "workflow/reference/claims.yaml", release / "report/claims.yaml")
    own = two_models() | {"report": {"claims": "my-claims.yaml", "others": others}}
    config = check.load([Path("config/miniature.yaml")], own)
    (release / "report/config.json").write_text(json.dumps(config))
    output = snakemake(
        finished, "-n", "-p", "--configfile", "released/report/config.json", "--config", "root=released",
        "unfinished=True", "--forcerun", "aggregate", "analyse", "--", "all",
    )  # fmt: skip
    again = planned(output)
    assert {"claims", "figure", "page"} <= again.keys() <= REPORT
    assert ("forecast" in again) == (not others)
    assert output.count("--claims released/report/claims.yaml") == 2
    assert "my-claims.yaml" not in output


def test_every_table_of_cells_beside_bases_is_told_which_are_trained_with_the_seed(tmp_path):
    commands = snakemake(checkout(tmp_path), "-n", "-p", *MINIATURE)
    for name in ("analyse", "aggregate", "recovery", "claims"):
        [command] = re.findall(rf"python scripts/{name}\.py .*", commands)
        assert "--trained-bases S " in command


@pytest.mark.parametrize("target", ["forecast", "all", "paper"])
def test_a_report_on_nothing_says_so(tmp_path, target):
    output = snakemake(checkout(tmp_path), *MINIATURE, "--config", "unfinished=True", "--", target, ok=False)
    assert "no cell is scored yet" in output
    assert "usage:" not in output


def test_a_prompt_with_braces_reaches_the_script_as_it_is(tmp_path):
    folder, suffix = checkout(tmp_path), "\nAs {x}, {{y}} or \\boxed{}: it's $HOME; `so`"
    (folder / "mine.yaml").write_text(yaml.safe_dump({"prompt": {"suffix": suffix, "system": "{z}"}}))
    output = snakemake(folder, "-n", "-p", "--quiet", "reason", *SMOKE, "mine.yaml", "--", "studies/smoke/results/S/sft-64/seed0/responses/chain.parquet")  # fmt: skip
    for name in ("order_traces", "preflight", "sft", "generate"):
        [line] = re.findall(
            rf"^ *(?:Shell command: )?(python scripts/{name}\.py .*?) 2> ", output, re.MULTILINE | re.DOTALL
        )
        words = shlex.split(line)
        assert words[words.index("--suffix") + 1] == suffix
        assert words[words.index("--system") + 1] == "{z}"


# Params that are command lines ready made, by functions that quote; everything else is quoted where it
# stands.
QUOTING = re.compile(
    r"flags\.line\(|what\(|how\(|(?:prompt|stop|answer|known|pool|source|study|tasks|then|examples|bases)_flags|launch|shlex\.(?:join|quote)\("
)


def test_every_path_and_value_that_enters_a_shell_line_is_quoted():
    bare = []
    for file in sorted((REPOSITORY / "workflow/rules").glob("*.smk")):
        for block in re.split(r"^ *(?=rule \w+:|use rule )", file.read_text(), flags=re.MULTILINE)[1:]:
            name, _, shell = block.partition("shell:")
            rule = re.match(r"(?:use )?rule (\w+)", name)[1]  # what uses a rule has its shell line
            shell = shell.split("\n\n")[0]  # Python may follow
            for field in re.findall(r"(?<!\{)\{([^{}]+)\}", shell):
                if field.endswith(":q") or field == "threads" or field.startswith("wildcards."):
                    continue  # wildcards have patterns without anything that a shell knows
                setting = rf"^ +{field.removeprefix('params.')}=((?:.|\n(?! +\w+=))*)"
                made = re.search(setting, name.partition("params:")[2], re.MULTILINE)
                if not made or not QUOTING.search(made[1]):
                    bare.append(f"{file.name}: {rule}: {{{field}}}")
    assert bare == []


def make(*arguments) -> str:
    """What make would run."""
    return run(["make", "-n", "-o", ".venv/complete", "-o", ".venv-vllm/complete", *arguments])


OF_A_STUDY = (
    "demo",
    "run",
    "plan",
    "fetch-check",
    "fetch",
    "calibrate",
    "canary",
    "status",
    "regrade",
    "page",
    "release",
)


@pytest.mark.parametrize("target", OF_A_STUDY)
def test_a_study_and_a_profile_are_named_alike_in_every_target(target):
    spelt = {
        make(target, f"STUDY={study}")
        for study in ("config/one-gpu.yaml my.yaml", "--configfile config/one-gpu.yaml my.yaml", "--configfile=config/one-gpu.yaml my.yaml")
    }  # fmt: skip
    [text] = spelt
    assert "--configfile config/one-gpu.yaml my.yaml" in text
    assert "Study: config/one-gpu.yaml my.yaml" in text
    assert "--configfile config.yaml" in make(target, "STUDY=")
    assert "--configfile config/miniature.yaml" in make(target)
    if target not in ("plan", "fetch-check", "fetch", "status"):
        assert "--profile slurm --profile mysite " in make(target, "PROFILE=slurm --profile mysite")


@pytest.mark.parametrize("target", [["plan"], ["plan", "BUDGET=9"], ["next"]])
def test_plans_take_the_prices_of_the_preset_that_is_named(target):
    commands = re.findall(r"scripts/(?:plan|propose|next)\.py .*", make(*target, "PRESET=measured"))
    assert commands
    assert all("--preset measured" in command for command in commands)
    assert "--preset paper" in make(*target)


def test_make_help_tells_what_every_target_is_for():
    text = run(["make", "help"])
    phony = re.search(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)[1].split()
    told = re.findall(r"^  (\S+) +\S", text, re.MULTILINE)
    assert sorted(told) == sorted(phony)
    assert len(told) == len(set(told))


def test_any_cell_is_a_target(tmp_path):
    plan = planned(
        snakemake(
            checkout(tmp_path),
            "-n",
            "--configfile",
            "config.yaml",
            "--",
            "results/qwen2.5-0.5b/sft-8k+rl/seed0/scores.json",
        )
    )
    assert (plan["sft"], plan["rl"], plan["score"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("rl", "gpus"),
    [({}, 8), ({"gpus": None}, 2), ({"gpus": 4}, 4)],
    ids=["its own", "the model's", "another"],
)
def test_rl_has_gpus_of_its_own_and_sft_and_generation_those_of_the_model(tmp_path, rl, gpus):
    folder = checkout(tmp_path)
    (folder / "gpus.yaml").write_text(yaml.safe_dump({"rl": rl}))
    target = "results/qwen2.5-3b/sft-8k+rl/seed0/scores.json"
    output = snakemake(folder, "-n", "-p", "--configfile", "config.yaml", "gpus.yaml", "--", target)
    launched = re.findall(r"launch\.py --gpus (\d+) .*?scripts/(\w+)\.py", output)
    tasks = len(check.load([])["grid"]["tasks"])
    assert sorted(launched) == sorted([("2", "sft"), (str(gpus), "rl"), *[("2", "generate")] * tasks])
    asked = {job["rule"]: job["gpus"] for job in jobs_of(folder, "gpus.yaml", target)}
    assert {rule: count for rule, count in asked.items() if count} == {"sft": 2, "rl": gpus, "generate": 2}


def test_training_without_deepspeed_has_a_process_a_card(tmp_path):
    """One process that saw two cards would train on twice the batch."""
    folder = checkout(tmp_path)
    lora = {"sft": {"recipes": {"lora": {"lora_rank": 16, "lr": 2.0e-4, "deepspeed": None}}}}
    (folder / "lora.yaml").write_text(yaml.safe_dump(lora))
    target = "results/qwen2.5-3b/sft-8k.lora/seed0/train.json"
    output = snakemake(folder, "-n", "-p", "--configfile", "config.yaml", "lora.yaml", "--", target)
    assert "python scripts/launch.py --gpus 2 --train scripts/sft.py" in output


def test_what_is_fetched_ahead_is_all_that_a_study_fetches(tmp_path):
    """With a judge, and tokenizers of models that the grid lacks."""
    folder = checkout(tmp_path)
    (folder / "judge.yaml").write_text(
        yaml.safe_dump({"report": {"judge": {"model": "qwen2.5-7b", "max_characters": 4000}}})
    )
    files = ["--configfile", "config.yaml", "config/one-gpu.yaml", "judge.yaml"]
    study, ahead = (
        {
            rule: count
            for rule, count in planned(snakemake(folder, "-n", *files, *target)).items()
            if "fetch_" in rule
        }
        for target in ([], ["--", "fetch"])
    )
    assert study == ahead
    assert study["fetch_model"] > 1
    asked = [key for key, *_ in fetch_check.sources(check.load([folder / file for file in files[2:]]))]
    assert sum(key.startswith("models.") for key in asked) == study["fetch_model"]


def test_a_local_file_is_fetched_again_when_it_holds_something_else_and_never_for_its_age(tmp_path):
    folder = checkout(tmp_path)
    traces, task = folder / "traces.jsonl", folder / "task.jsonl"
    traces.write_text(json.dumps({"problem": "1+1?", "generations": ["2"]}))
    task.write_text(json.dumps({"problem": "2+2?", "answer": "4"}))
    config = {
        "warm_start": False,
        "root": "studies/stub",
        "report": {"headline": ["mine"], "length": ["mine"], "calculations": []},
    }
    config["traces"] = {"source": "traces.jsonl", "rows": 2000, "correct": "any"}
    config["tasks"] = {"mine": {"source": "task.jsonl", "samples": 1}}
    config["grid"] = {"tasks": ["mine"], "cells": [{"models": ["S"], "runs": ["base"], "seeds": [0]}]}
    files = write(folder, config)
    snakemake(folder, *files, "--", "fetch")

    def plan():
        return planned(snakemake(folder, "-n", *files, "--", "fetch"))

    os.utime(task)  # as of a clone or a copy
    traces.rename(folder / "gone.jsonl")  # no longer needed
    assert plan() == {}
    os.rename(folder / "gone.jsonl", traces)
    task.write_text(json.dumps({"problem": "2+3?", "answer": "5"}))
    assert plan() == {"fetch_task": 1, "fetch": 1}
    snakemake(folder, *files, "--", "fetch")
    made = folder / "studies/stub/data/tasks/mine.parquet"
    assert records.read_parquet(made)["answer"].to_pylist() == ["5"]
    assert plan() == {}
    records.write_parquet(made, records.read_parquet(made), provenance={})  # as earlier versions left it
    task.write_text(json.dumps({"problem": "2+4?", "answer": "6"}))
    assert plan() == {}


def test_a_bad_config_stops_before_any_job_is_planned(tmp_path):
    folder = checkout(tmp_path)
    output = snakemake(folder, "-n", *write(folder, {"sft": {"learning_rate": 1e-5}}), ok=False)
    assert "sft: unknown key learning_rate" in output
    assert "Traceback" not in output
    assert "Job stats" not in output


def test_the_rules_pass_snakemakes_linter(tmp_path):
    folder = checkout(tmp_path)
    for flags in (["--configfile", "config.yaml"], MINIATURE):
        assert "Lints for" not in run([sys.executable, "-m", "snakemake", "--lint", *flags], folder)


def test_snakemake_plans_one_look_ahead_however_many_jobs_ended():
    """It planned one more with each, as long as any job waited."""
    from snakemake.scheduling.job_scheduler import JobScheduler

    assert {"_schedule_reevalutation", "schedule"} <= vars(JobScheduler).keys()
    assert "_open_jobs" in JobScheduler.schedule.__code__.co_names
    scheduler = SimpleNamespace(_open_jobs=threading.Semaphore(0))
    jobs.look_again_once(scheduler)

    def looks(after: int) -> int:
        for _ in range(after):
            scheduler._schedule_reevalutation(0.1)
        time.sleep(0.3)
        found = 0
        while scheduler._open_jobs.acquire(blocking=False):
            found += 1
        return found

    assert looks(after=50) == 1
    assert looks(after=2) == 1
    assert looks(after=0) == 0
