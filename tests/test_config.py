"""docs/config.md: what a change of each key makes again, tried on a finished study of stubs."""

import ast
import copy
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import MINIATURE, REPOSITORY, checkout, planned, snakemake
from test_plan import CHEAP, stubs

from valley import check, flags

REPORT = CHEAP | {"configuration", "all"}
# What follows from a rule, in a study of every stage.
AFTER = {
    "synthesize": {"order_traces", "rl", "generate"}, "pretrain": {"order_traces", "preflight", "sft", "rl", "generate"},
    "order_traces": {"subset"}, "subset": {"preflight", "sft"}, "preflight": {"sft"}, "sft": {"rl", "generate"},
    "rl": {"export_step", "generate"}, "export_step": {"generate"}, "generate": set(), "judge": set(), "arithmetic": {"generate"},
}  # fmt: skip
STUDY = {
    "warm_start": False, "root": "studies/stub",
    "grid": {"tasks": ["chain", "arithmetic"], "cells": [{"models": ["S"], "runs": ["base", "sft-128", "sft-128+rl"], "seeds": [1]}]},
    "tasks": {"arithmetic": {"problems": 8, "samples": 2}}, "rl": {"checkpoints": [20]}, "report": {"probe": 0},
}  # fmt: skip
# Another value of each key. None: what the study of stubs lacks (what is fetched), or what other tests of the
# plan try.
OTHER = {
    "root": None, "gres": "gpu:h100", "card": "a100", "warm_start": True, "exact": False, "verify_weights": "quick", "stall.first": 9, "stall.least": 9,
    "stall.factor": 9, "unfinished": None, "grid.tasks": None, "grid.cells": None, "grid.now": None,
    "models.*.source": None, "models.*.revision": None, "models.*.pretrain": {"steps": 1999}, "models.*.family": None,
    "models.*.gpus": 1, "models.*.parameters": 0.3, "models.*.sft": {"lr": 0.2}, "models.*.rl": {"lr": 0.2}, "models.*.generate": {"tensor_parallel": 2},
    "families.*.template": None, "families.*.end_token": None, "families.*.pad_token": None,
    "families.*.stop_tokens": ["<x>"], "families.*.think": None, "prompt.answer": None, "prompt.system": "Think.", "prompt.suffix": " Go.",
    **{f"traces.{key}": None for key in ("source", "revision", "name", "split", "where", "limit", "tokenizers", "decontaminate")},
    "traces.rows": 5000, "traces.correct": "any", "traces.think": "strip", "traces.max_tokens": 300, "traces.order": None, "traces.block": 32,
    "traces.seed": None, "synthetic.traces": 5000, "synthetic.task": 99, "synthetic.rl": 99, "synthetic.seed": 9,
    "synthetic.lengths": [2, 3], "synthetic.recheck": 0.3, "synthetic.slip": 0.2, "sizes.*.examples": 100, "sizes.*.epochs": 9, "sizes.*.batch": 2,
    "sft.lr": 0.1, "sft.schedule": "linear", "sft.warmup": 0.1, "sft.weight_decay": 0.1, "sft.max_grad_norm": 2.0,
    "sft.packing": True, "sft.attention": "varlen", "sft.precision": "bf16", "sft.epochs": None, "sft.steps": 9, "sft.batch": None, "sft.max_length": 99,
    "sft.completion": "solution", "sft.order": None, "sft.lora_rank": 4, "sft.lora_alpha": 8, "sft.pool": None, "sft.protocol": None, "sft.cooldown": 0.1, "pools": {"new": {"tokens": [0, 99]}}, "sft.recipes": {"new": {"lr": 1}}, "sft.device_batch": 1, "sft.gradient_checkpointing": True,
    "sft.deepspeed": "config/deepspeed/zero2.json", "sft.save_every": 7, "sft.save_minutes": 7, "preflight.max_truncated": 0.5,
    "rl.lr": 0.1, "rl.schedule": "cosine", "rl.warmup": 0.1, "rl.weight_decay": 0.1, "rl.max_grad_norm": 2.0,
    "rl.precision": "bf16", "rl.steps": 50, "rl.prompts": 24, "rl.rollouts": 16, "rl.minibatch": 6, "rl.max_prompt": 99,
    "rl.max_new_tokens": 99, "rl.temperature": 0.9, "rl.kl": 0.1, "rl.clip": 0.1, "rl.entropy": 0.1, "rl.loss": "grpo",
    "rl.vllm": True, "rl.rollouts_ahead": True, "rl.problems": None, "rl.sets": None, "rl.recipes": {"new": {"lr": 1}}, "rl.checkpoints": None,
    "rl.gpus": 2, "rl.device_batch": 48, "rl.device_tokens": 99_999, "rl.attention": "varlen", "rl.gradient_checkpointing": True, "rl.deepspeed": "config/deepspeed/zero2.json",
    "rl.save_every": 5, "generate.engine": "vllm", "generate.precision": "bf16", "generate.temperature": 0.3,
    "generate.top_p": 0.5, "generate.max_new_tokens": 99, "generate.max_context": 99, "generate.chunk": 3, "generate.tensor_parallel": 2, "generate.parallel_sampling": True, "generate.one_start": True,
    **{f"tasks.*.{key}": None for key in ("source", "revision", "name", "split", "where", "limit")},
    "tasks.*.problems": 9, "tasks.*.seed": 9, "tasks.*.samples": 3, "tasks.*.answers": ["one", "two"], "report.confidence": 0.9, "report.headline": ["arithmetic"],
    "report.length": ["arithmetic"], "report.calculations": ["arithmetic"], "report.judge": None, "report.probe": None, "report.others": ["elsewhere"], "report.claims": "workflow/reference/claims.yaml",
}  # fmt: skip
NAMES = {"models": "S", "families": "chain", "sizes": "128", "tasks": "arithmetic"}  # what * stands for


def rows() -> dict[str, str]:
    """Of each key, what the table of docs/config.md says is made again."""
    found = {}
    for line in (REPOSITORY / "docs/config.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for key in re.findall(r"`([\w.*]+)`", cells[0]) if line.startswith("| `") else []:
            found[key] = cells[2]
    return found


def changed(keys) -> dict:
    """A configuration of the changes of some keys."""
    config: dict = {}
    for key in keys:
        section, *rest = key.split(".")
        path = [section, *(NAMES[section] if part == "*" else part for part in rest)]
        here = config
        for part in path[:-1]:
            here = here.setdefault(part, {})
        here[path[-1]] = copy.deepcopy(OTHER[key])
    return config


def remade(said: str) -> set[str]:
    """The rules whose jobs a change plans, beyond the report: those that the table names and all that
    follows.
    """
    found, waiting = set(), [rule for rule in AFTER if re.search(rf"\b{rule}\b", said.split(":")[0])]
    while waiting:
        if (rule := waiting.pop()) not in found:
            found.add(rule)
            waiting += AFTER[rule]
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout whose scripts are stubs, with that study finished."""
    folder = stubs(checkout(tmp_path_factory.mktemp("config")))
    (folder / "stub.yaml").write_text(yaml.safe_dump(STUDY))
    snakemake(folder, *MINIATURE, "stub.yaml")
    return folder


def plan(folder, keys) -> dict[str, int]:
    (folder / "changed.yaml").write_text(yaml.safe_dump(changed(keys)))
    return planned(snakemake(folder, "-n", *MINIATURE, "stub.yaml", "changed.yaml"))


def test_the_table_names_every_key():
    schema, keys = yaml.safe_load(check.SCHEMA.read_text()), set()
    for name, part in schema["properties"].items():
        inner = part.get("properties")
        if name in NAMES:
            keys |= {f"{name}.*.{key}" for key in part["additionalProperties"]["properties"]}
        else:
            keys |= {f"{name}.{key}" for key in inner} if inner else {name}
    assert set(rows()) == keys == set(OTHER)


def test_settings_of_operation_are_those_of_the_flags():
    for section, table in {"sft": flags.SFT, "rl": flags.RL, "generate": flags.SAMPLING}.items():
        for name, flag in table.items():
            assert flag.operation == (rows()[f"{section}.{name}"] == "nothing"), f"{section}.{name}"


def kind(said: str) -> str:
    """What a row says, without its reason."""
    return re.split("[:,]", said)[0]


# Not beside others that are said alike: on GPUs, which those ask for, it wants another precision.
ALONE = {"sft.attention", "rl.attention"}
GROUPS = {
    said: [key for key in OTHER if kind(rows()[key]) == said and OTHER[key] is not None and key not in ALONE]
    for said in dict.fromkeys(map(kind, rows().values()))
}


@pytest.mark.parametrize("said", [said for said, keys in GROUPS.items() if keys])
def test_keys_that_make_the_same_again_plan_that_and_no_more(finished, said):
    """One dry run for what is said alike; each key by itself is tried below."""
    assert plan(finished, GROUPS[said]).keys() - REPORT == remade(said)


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key, other in OTHER.items() if other is not None])
def test_a_key_plans_what_the_table_says(finished, key):
    beside = {"rl.minibatch": ["rl.device_batch"], "rl.gpus": ["rl.device_batch"]}.get(
        key, []
    )  # it must divide
    assert plan(finished, [key, *beside]).keys() - REPORT == remade(kind(rows()[key]))


def test_order_of_keys_and_what_is_the_default_anyway_make_nothing_again(finished):
    text = (finished / "config/miniature.yaml").read_text()
    config = yaml.safe_load(text)
    turned = {
        key: dict(reversed(part.items())) if isinstance(part, dict) else part for key, part in config.items()
    }
    turned["sft"] |= {"packing": False, "weight_decay": 0.0}
    turned["rl"] |= {"temperature": 1.0}
    (finished / "turned.yaml").write_text(yaml.safe_dump(dict(reversed(turned.items())), sort_keys=False))
    assert planned(snakemake(finished, "-n", "--configfile", "turned.yaml", "stub.yaml")).keys() <= {
        "configuration",
        "page",
        "all",
    }


def as_of_earlier_versions(folder: Path):
    """Rewrite Snakemake's records to what versions recorded that told identity and operation not apart."""
    started = {"sft": "python", "rl": "python scripts/launch.py --gpus 8", "generate": "python"}
    for file in (folder / ".snakemake/metadata").rglob("*"):
        record = json.loads(file.read_text()) if file.is_file() else {}
        rule, params = record.get("rule"), record.get("params", [])
        if rule in started:
            more = "--chunk 256" if rule == "generate" else "--device-batch 16 --save-every 0"
            lines = [
                repr(f"{ast.literal_eval(text)} {more}") if text.startswith("'--") and " " in text else text
                for text in params
            ]
            record["params"] = sorted({*lines, repr(started[rule])})
        elif rule == "preflight":
            record["params"] = sorted({*params, "0.0"})
        if rule in {*started, "preflight"}:
            file.write_text(json.dumps(record))


def test_what_earlier_versions_made_stays_finished(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    as_of_earlier_versions(folder)
    assert plan(folder, []) == {}
    assert not plan(folder, GROUPS["nothing"]).keys() - REPORT
    assert plan(folder, ["sft.lr"]).keys() - REPORT == remade("sft")


def test_what_is_to_run_takes_the_settings_of_operation_that_hold_now(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    as_of_earlier_versions(folder)
    (folder / "changed.yaml").write_text(yaml.safe_dump({"sft": {"device_batch": 2}}))
    output = snakemake(folder, "-n", "-p", *MINIATURE, "stub.yaml", "changed.yaml", "--forcerun", "sft")
    [line] = re.findall(r"scripts/sft\.py (.*) 2> ", output)
    values = re.findall(r"--device-batch (\d+)", line)
    assert (values[0], values[-1]) == ("16", "2")  # of two, argparse takes the last
