"""Names of runs, expansion of the grid, and configs that cannot work."""

import copy
import io
import re
from pathlib import Path

import pandas
import pytest

from valley import check, flags, grid, shapes

CONFIGS = {
    "paper": [],
    "miniature": [Path("config/miniature.yaml")],
    "full": [Path("config/miniature.yaml"), Path("config/miniature-full.yaml")],
    "smoke": [Path("config/miniature.yaml"), Path("config/smoke.yaml")],
    "rehearsal": [Path("config/rehearsal.yaml")],
}


@pytest.fixture(params=CONFIGS)
def config(request):
    return check.load(CONFIGS[request.param])


def paper() -> dict:
    return copy.deepcopy(check.load([]))


def test_every_config_of_the_project_is_valid(config):
    check.check(config)


def test_a_run_splits_into_its_stages():
    assert grid.parse_run("base") == ("base", None, None, False, None, None)
    assert grid.parse_run("sft-8k.wide+rl@20") == ("sft-8k.wide", "8k", "wide", True, None, 20)
    assert grid.parse_run("sft-8k.wide+rl@20").whole == "sft-8k.wide+rl"


@pytest.mark.parametrize(
    ("study", "first"), [("paper", "sft-8k"), ("miniature", "sft-8"), ("rehearsal", None)]
)
def test_the_bases_and_the_smallest_size_go_first(study, first):
    config = check.load(CONFIGS[study])
    sizes = {run: config["sizes"][grid.parse_run(run).size]["examples"] for _, run, _ in grid.cells(config)
             if grid.parse_run(run).size and not grid.parse_run(run).recipe and not grid.parse_run(run).rl}  # fmt: skip
    assert grid.first_runs(config) == {"base", first or min(sizes, key=sizes.get)}


@pytest.mark.parametrize("name", ["", "sft", "sft-", "rl", "base+sft-8k", "sft-8k@20", "base+rl@", "../x"])
def test_what_is_no_run_is_refused(name):
    with pytest.raises(grid.ConfigError, match="not a run"):
        grid.parse_run(name)


def test_the_paper_grid_has_72_cells_and_the_checkpoints_of_9_rl_runs():
    cells = grid.cells(paper())
    assert sum("@" not in run for _, run, _ in cells) == 72
    assert sum("@" in run for _, run, _ in cells) == 9 * len(paper()["rl"]["checkpoints"])
    assert len(cells) == len(set(cells))


def test_later_settings_win_and_a_recipe_in_steps_drops_the_epochs():
    config = paper()
    config["models"]["qwen2.5-0.5b"]["sft"] = {"lr": 1e-4}
    config["sft"]["recipes"]["equal"] = {"steps": 500}
    assert grid.sft_settings(config, "qwen2.5-0.5b", "sft-8k")["lr"] == 1e-4
    assert grid.sft_settings(config, "qwen2.5-0.5b", "sft-8k.slow")["lr"] == 1.25e-5
    assert grid.sft_settings(config, "qwen2.5-1.5b", "sft-8k")["lr"] == 5e-5
    settings = grid.sft_settings(config, "qwen2.5-1.5b", "sft-8k.equal")
    assert settings["steps"] == 500
    assert "epochs" not in settings


def change(config: dict, path: str, value) -> dict:
    *folders, last = path.split("/")
    for key in folders:
        config = config[int(key) if isinstance(config, list) else key]
    config[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        ("gres", "gpu:h100:8", ["gres", "gpu:h100:8"]),
        ("gres", "gpu:8", ["gres", "gpu:8"]),
        ("root", "studies/my study", ["root", "my study", "letters, digits"]),
        ("root", "studies/x; touch y", ["root", "touch y", "letters, digits"]),
        ("root", "a'$(x)", ["root", "letters, digits"]),
        ("root", "../../etc/x", ["root", "no .. in it", "the whole path"]),
        (
            "models/a b; touch x",
            {"source": "x", "family": "gemma3"},
            ["models", "a b; touch x", "name of a model"],
        ),
        ("tasks/a b", {"source": "x", "samples": 1}, ["tasks", "a b", "name of a task"]),
        ("sizes/8K", {"examples": 1, "epochs": 1, "batch": 1}, ["sizes", "8K", "small letters"]),
        ("sizes/64", {}, ["sizes.64", "examples"]),
        ("sft/recipes/my-own", {"batch": 1}, ["sft.recipes", "my-own", "size or recipe"]),
        ("rl/recipes/my.own", {"lr": 1}, ["rl.recipes", "my.own", "size or recipe"]),
        ("rl/sets/a;b", {"source": "x"}, ["rl.sets", "a;b", "RL problems"]),
        ("families/a b", {"template": "t", "end_token": "e", "pad_token": "p"}, ["families", "a b"]),
        ("families/gemma3/template", "{x}.jinja", ["families.gemma3.template", "{x}", "braces"]),
        ("grid/cells/0/seeds", [10**20], ["grid.cells.0.seeds", "maximum"]),
        ("sft/learning_rate", 1e-5, ["sft", "learning_rate", "lr"]),
        ("sft/lr", -1, ["sft.lr", "-1"]),
        ("generate/engine", "vlm", ["generate.engine", "vlm", "vllm"]),
        ("traces/rows", 1000, ["sizes.8k.examples", "8000", "1000"]),
        ("grid/tasks", ["aime25"], ["grid.tasks", "aime25", "aime24"]),
        ("report/headline", ["gsm8k"], ["report.headline", "gsm8k", "math500"]),
        ("traces/decontaminate", ["gsm8k"], ["traces.decontaminate", "gsm8k", "math500"]),
        ("sft/device_batch", 3, ["batch 8", "device_batch 3"]),
        ("models/qwen2.5-7b/gpus", 3, ["batch 8", "3 device"]),
        ("rl/gpus", 3, ["rl.device_batch", "3 device", "rl.gpus"]),
        ("models/qwen2.5-3b/rl", {"gpus": 3}, ["rl.device_batch of qwen2.5-3b", "3 device"]),
        ("rl/device_tokens", 9215, ["rl.device_tokens of", "9215", "device_batch 1", "= 9216"]),
        ("rl/minibatch", 300, ["rl.minibatch", "300", "1024"]),
        ("rl/checkpoints", [15], ["rl.checkpoints", "15", "10"]),
        ("rl/problems", "gsm8k", ["rl.problems", "gsm8k", "math-3-5"]),
        ("models/qwen2.5-7b/family", "qwen3", ["models.qwen2.5-7b.family", "qwen3", "llama3"]),
        ("models/qwen2.5-7b/revision", "main", ["models.qwen2.5-7b.revision", "main"]),
        ("grid/cells/0/models", ["gpt2"], ["grid.cells[0].models", "gpt2", "qwen2.5-0.5b"]),
        ("grid/cells/0/runs", ["base", "sft-9k"], ["grid.cells[0].runs", "sft-9k", "8k"]),
        ("grid/cells/0/runs", ["base", "sft-8k.big"], ["grid.cells[0].runs", "sft-8k.big", "wide"]),
        ("grid/cells/1/runs", ["sft-64k+rl.fast"], ["grid.cells[1].runs", "sft-64k+rl.fast", "RL recipe"]),
        ("grid/cells/0/runs", ["sft-16k+rl"], ["sft-16k+rl", "its start 'sft-16k' is no run", "Add"]),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_key_value_and_what_is_allowed(path, value, names):
    config = paper()
    if path == "rl/problems":
        config["models"]["qwen2.5-0.5b"].pop("rl")
    change(config, path, value)
    with pytest.raises(grid.ConfigError) as error:
        check.check(config)
    assert [name for name in names if name not in str(error.value)] == [], str(error.value)


def with_rl(run: str, rl: dict) -> dict:
    """The paper's config with one RL run and other settings of RL."""
    config = paper()
    config["grid"]["cells"] = [{"models": ["qwen2.5-0.5b"], "runs": ["base", run], "seeds": [0]}]
    config["rl"] |= rl
    return config


@pytest.mark.parametrize(
    ("run", "rl", "kept"),
    [
        ("base+rl.brief", {"recipes": {"brief": {"steps": 40}}}, [10, 20, 30]),
        ("base+rl.rare", {"recipes": {"rare": {"save_every": 20}}}, [20, 40, 60, 80]),
        ("base+rl.long", {"recipes": {"long": {"steps": 200}}}, list(range(10, 100, 10))),
    ],
)
def test_an_rl_run_has_those_of_the_studys_checkpoints_that_it_keeps(run, rl, kept):
    config = with_rl(run, rl)
    check.check(config)
    assert [cell.parsed.step for cell in grid.cells(config) if cell.parsed.step] == kept


def test_passes_by_tokens_that_hold_the_longest_response_are_taken():
    check.check(with_rl("base+rl", {"device_tokens": 9216}))
    with pytest.raises(grid.ConfigError, match=r"device_batch 2 × .* = 18432"):
        check.check(with_rl("base+rl", {"device_tokens": 9216, "device_batch": 2}))


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_varlen_is_refused_on_gpus_in_fp32_and_for_heads_that_its_kernel_does_not_take(monkeypatch, stage):
    config = paper()
    config["grid"]["cells"] = [
        {"models": ["qwen2.5-0.5b"], "runs": ["base", "sft-8k", "base+rl"], "seeds": [0]}
    ]
    config[stage]["attention"] = "varlen"
    check.check(config)
    full = copy.deepcopy(config)
    full[stage]["precision"] = "fp32"
    with pytest.raises(grid.ConfigError, match=rf"{stage}\.attention of .*bf16 on GPUs.*precision is fp32"):
        check.check(full)
    full["models"]["qwen2.5-0.5b"]["gpus"] = full["rl"]["gpus"] = 0
    check.check(full)  # on CPU it is not FlashAttention
    shape = shapes.shape_of(config, "qwen2.5-0.5b")
    for width in (60, 264):
        monkeypatch.setattr(shapes, "shape_of", lambda *_, width=width: shape._replace(head=width))
        with pytest.raises(grid.ConfigError, match=rf"{stage}\.attention of .*multiple of 8.*are {width}"):
            check.check(config)


@pytest.mark.parametrize(
    ("run", "rl", "works"),
    [
        ("base+rl.brief@50", {"recipes": {"brief": {"steps": 40}}}, False),
        ("base+rl.long@150", {"recipes": {"long": {"steps": 200}}}, True),
        ("base+rl@15", {}, False),
        ("base+rl@20", {}, True),
        ("base+rl@100", {}, True),
    ],
)
def test_a_checkpoint_that_a_run_does_not_keep_is_refused_by_the_runs_own_settings(run, rl, works):
    if works:
        check.check(with_rl(run, rl))
        return
    with pytest.raises(grid.ConfigError, match="keeps no checkpoint"):
        check.check(with_rl(run, rl))


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        ("tasks/more", {"source": "synthetic", "samples": 1}, ["tasks: one has source: synthetic", "chain, more"]),
        ("tasks", {"chain": {"source": "x.jsonl", "samples": 1}}, ["tasks: one has", "none is defined"]),
        ("rl/sets/more", {"source": "synthetic"}, ["rl.sets: one has source: synthetic", "chain, more"]),
        ("traces/source", "x.jsonl", ["tasks.chain.source", "rl.sets.chain.source", "Set traces.source"]),
    ],
)  # fmt: skip
def test_synthetic_problems_that_nothing_makes_are_refused(path, value, names):
    config = check.load(CONFIGS["miniature"])
    check.check(config)
    change(config, path, value)
    with pytest.raises(grid.ConfigError) as error:
        check.check(config)
    assert [name for name in names if name not in str(error.value)] == [], str(error.value)


def with_names(model: str = "some-model", task: str = "some-task", recipe: str = "some") -> dict:
    """The paper's config with another model, task and recipe in its catalogues."""
    config = paper()
    config["models"][model] = config["models"]["qwen2.5-0.5b"]
    config["tasks"][task] = config["tasks"]["math500"]
    config["sft"]["recipes"][recipe] = {"batch": 64}
    return config


def refusal(config: dict) -> str:
    """Why a config is refused; nothing where it can work."""
    try:
        check.check(config)
    except grid.ConfigError as error:
        return str(error)
    return ""


ODD = "135 1.50 7. 007 -3 1e5 2E-3 inf -Infinity True FALSE true"
PLAIN = "none 0x1F 1_000 2024-01-01 1.5b e5 1e - S yes NAN infinite 1.2.3 na"


@pytest.mark.parametrize(("kind", "allowed"), [("model", grid.MODEL), ("task", grid.TASK)])
def test_a_name_is_refused_where_tables_would_be_read_with_something_else(kind, allowed):
    """As pandas itself reads each name."""
    from pandas._libs.parsers import STR_NA_VALUES

    names = [*ODD.split(), *PLAIN.split(), *STR_NA_VALUES]
    for name in filter(re.compile(allowed).fullmatch, names):
        (read,) = pandas.read_csv(io.StringIO(f"name\n{name}\n")).name
        said = f"{kind}s.{name}: tables would be read with" in refusal(with_names(**{kind: name}))
        assert said == (read != name), name


def test_a_recipe_may_be_called_as_a_number_and_not_as_a_missing_value():
    assert refusal(with_names(recipe="64")) == ""
    assert "sft.recipes.null: tables would be read with a missing" in refusal(with_names(recipe="null"))


@pytest.mark.parametrize(
    ("key", "name"),
    [("tasks", grid.HEADLINE), *(("sft.recipes", name) for name in ("base", "protocol", "paper"))],
)
def test_a_name_that_means_something_else_in_tables_and_figures_is_refused(key, name):
    kind = {"tasks": "task", "sft.recipes": "recipe"}[key]
    assert f"{key}.{name}: tables and figures call" in refusal(with_names(**{kind: name}))


def test_a_size_that_yaml_reads_as_a_number_is_told_of_its_quotes():
    config = paper()
    config["sizes"][64] = config["sizes"]["8k"]
    with pytest.raises(grid.ConfigError, match="in quotes where it is a number"):
        check.check(config)


@pytest.mark.parametrize("root", [".", "studies/x-1", "/scratch/müller/x.y", "x"])
def test_a_root_may_lie_anywhere(root):
    check.check(paper() | {"root": root})


def test_what_a_shell_would_read_otherwise_is_quoted():
    assert flags.line({"deepspeed": "a b/$x.json"}, flags.SFT) == "--deepspeed 'a b/$x.json'"


def test_flags_hold_only_what_is_set():
    assert (
        flags.line({"lr": 1e-5, "batch": None, "lengths": [2, 3]}, ("lr", "batch", "epochs", "lengths"))
        == "--lr 1e-05 --lengths 2 3"
    )
