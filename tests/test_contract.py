"""A study of one's own: what is wrong with its files is said before anything is made, and what is right is
shown.
"""

import json
import os
import shutil
import sys

import pytest
import yaml
from conftest import run, script
from test_order import SAMPLE, fast

from valley import check, contract, grid, prompts, records, weights

PROBLEMS = [{"id": n, "problem": f"{n}+1?", "answer": n + 1} for n in range(3)]


def rows(count: int = 9, **changes) -> list[dict]:
    made = [f"<think>\nAdd {n} and 1.\n</think>\n\\boxed{{{n + 1}}}" for n in range(count)]
    return [{"problem": f"{n}+1?", "generations": [text]} | changes for n, text in enumerate(made)]


@pytest.fixture
def own(tmp_path):
    """Files of one's own, and a function that makes a config of them and gives it with some keys changed."""
    model = tmp_path / "model"
    tokenizer = fast(r"\p{N}", [SAMPLE, "<think>\n</think>\\boxed{}"])
    tokenizer.save_pretrained(model)
    import numpy
    from safetensors.numpy import save_file

    save_file({"a": numpy.zeros((3, 4)), "b": numpy.zeros(5)}, model / "model.safetensors")
    records.write_json(model / "config.json", {"max_position_embeddings": 4096})
    template = tmp_path / "own.jinja"
    template.write_text("{% for turn in messages %}[{{ turn['role'] }}]{{ turn['content'] }}{% endfor %}"
                        "{% if add_generation_prompt %}[assistant]{% endif %}")  # fmt: skip
    traces, task = tmp_path / "traces.jsonl", tmp_path / "task.jsonl"
    traces.write_text("\n".join(map(json.dumps, rows())))
    task.write_text("\n".join(map(json.dumps, PROBLEMS)))

    def config(**changes) -> dict:
        made = {
            "root": str(tmp_path / "study"),
            "grid": {"tasks": ["mine"], "cells": [{"models": ["mine"], "runs": ["base", "sft-4"], "seeds": [0]}]},
            "models": {"mine": {"source": str(model), "family": "own", "gpus": 0}},
            "families": {"own": {"template": str(template), "end_token": "<eos>", "pad_token": "<pad>"}},
            "traces": {"source": str(traces), "revision": None, "name": None, "rows": 9, "correct": "any",
                       "tokenizers": ["mine"], "decontaminate": []},
            "sizes": {"4": {"examples": 4, "epochs": 1, "batch": 2}},
            "sft": {"max_length": 512},
            "tasks": {"mine": {"source": str(task), "problems": 3, "samples": 1}},
            "report": {"headline": ["mine"], "length": ["mine"], "calculations": []},
        }  # fmt: skip
        for path, value in changes.items():
            *folders, last = path.split("__")
            place = made
            for key in folders:
                place = place[key]
            place[last] = value
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(made))
        found = check.load([tmp_path / "own.yaml"])
        check.check(found)
        return found

    config.folder, config.model, config.traces, config.task = tmp_path, model, traces, task
    return config


def seen(config: dict) -> tuple[list[str], str]:
    """(faults, what was told) of a look at everything."""
    told = []
    return contract.examined(config, told.append), "\n".join(told)


def test_sound_data_are_shown_as_they_will_be_trained(own):
    config = own()
    found, told = seen(config)
    assert found == [] == list(contract.faults(config))
    assert "all 9 rows looked at, columns problem, generations" in told
    assert "9 rows have a correct trace" in told
    assert "0.0% unknown" in told
    example = told.split("carries no loss:\n")[1]
    lines = "\n".join(line.removeprefix("    | ") for line in example.split("\n"))
    suffix = config["prompt"]["suffix"]
    assert lines == f"⟦[user]0+1?{suffix}[assistant]⟧<think>\nAdd 0 and 1.\n</think>\n\\boxed{{1}}<eos>"


def claims_file(folder, **changes) -> str:
    """A file of one claim of one's own, with some keys of its part changed."""
    part = {"text": "p^k", "measure": "fit", "of": "smallest", "expect": {"below": 0.1}, "rule": "every",
            "models": "all"} | changes  # fmt: skip
    file = folder / "claims.yaml"
    file.write_text(yaml.safe_dump({"C1": {"claim": "It adds up.", "parts": {"fit": part}}}))
    return str(file)


def test_claims_that_could_not_be_judged_are_refused_before_anything_is_made(own):
    right = own(report__claims=claims_file(own.folder))
    assert list(contract.faults(right)) == []
    config = own(report__claims=claims_file(own.folder, rule="on average"))
    told, file = "C1.fit.rule: 'on average' cannot be asked of fit", own.folder / "own.yaml"
    assert [fault for fault in contract.faults(config) if told in fault]
    for name in ("check", "plan", "next", "power"):
        output = run([sys.executable, f"scripts/{name}.py", "--configfile", file], ok=False)
        assert told in output
        assert "Traceback" not in output
    (own.folder / "page.yaml").write_text("unfinished: true\n")
    for more in ([], [own.folder / "page.yaml"]):
        output = run(
            [sys.executable, "-m", "snakemake", "-n", "--cores", 1, "--configfile", file, *more], ok=False
        )
        assert told in output


def test_claims_that_are_not_there_are_named_and_those_that_a_release_brings_take_their_place(own):
    config = own(report__claims="gone.yaml")
    assert ["report.claims: " in fault and "gone.yaml" in fault for fault in contract.faults(config)] == [
        True
    ]
    report = own.folder / "study/report"
    report.mkdir(parents=True)
    shutil.move(claims_file(own.folder), report / "claims.yaml")
    assert list(contract.faults(config)) == []


def write(file, content: list[dict]):
    file.write_text("\n".join(map(json.dumps, content)))


@pytest.mark.parametrize(
    ("content", "changes", "told"),
    [
        (rows(3), {}, "sizes.4.examples: 4 is more than the 3 different problems with a correct trace"),
        (rows(9, problem="the same?"), {}, "more than the 1 different problems"),
        (rows(9), {"traces__correct": "math-verify"}, "there is no column correctness_math_verify"),
        (rows(9, finish_reasons=["length"]), {}, "more than the 0 different problems"),
        (rows(9, generations=["天地玄黃宇宙洪荒" * 9]), {"models__mine__source": "WORDS"}, "unknown to the tokenizer"),
        (rows(9, generations=["c"]), {}, "have next to no tokens"),
        (rows(9), {"families__own__end_token": "<end>"}, "families.own.end_token: <end> is no token of"),
        (rows(9), {"families__own__pad_token": "<eos>"}, "is the end token"),
        (rows(9), {"families__own__template": "gone.jinja"}, "families.own.template: gone.jinja is not there"),
        (rows(9), {"sft__max_length": 5000}, "max_length 5000 exceeds the 4096 positions"),
        (rows(9), {"tasks__mine__answers": ["1", "2"]}, "problem '2' has the answer '3', which is not listed"),
        (rows(9), {"tasks__mine__problems": 4}, "tasks.mine.problems: 4 are expected"),
    ],
)  # fmt: skip
def test_what_cannot_train_is_named_with_its_key(own, base, content, changes, told):
    write(own.traces, content)
    config = own(
        **{key: str(words(own, base)) if value == "WORDS" else value for key, value in changes.items()}
    )
    found, _ = seen(config)
    assert [fault for fault in found if told in fault], found


def words(own, base):
    """The folder of a model whose tokenizer knows no Chinese and writes its padding instead."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / file, own.model / file)
    return own.model


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"answer": "proof"}, "has no answer that could be compared"),
        ({"answer": ["1", "2"]}, "it has several answers and no rule"),
        ({"base": "two"}, "has `base` 'two', int is needed"),
        ({"id": 0}, "rows 1 and 4 have the same id '0'"),
    ],
)
def test_a_task_that_cannot_be_fetched_is_refused_before(own, row, told):
    write(own.task, [*PROBLEMS, {"id": 3, "problem": "3+1?", "answer": 4} | row])
    own(tasks__mine__problems=4)
    for command in (["check", "--configfile", own.folder / "own.yaml"],
                    ["fetch_task", "--source", own.task, "--out", own.folder / "task.parquet"]):  # fmt: skip
        output = script(*command, ok=False)
        assert told in output
        assert "Traceback" not in output


def test_planning_and_checking_a_study_whose_files_are_not_there_say_so(own):
    config = own(
        models__mine__source="./nowhere", traces__source="gone.jsonl", tasks__mine__source="gone.jsonl"
    )
    told = [
        "models.mine.source: nowhere is no folder",
        "traces.source: gone.jsonl is not there",
        "tasks.mine.source: gone.jsonl is not there",
    ]
    file, found = own.folder / "own.yaml", list(contract.faults(config))
    assert all(any(text in fault for fault in found) for text in told)
    for name in ("check", "plan", "fetch_check"):
        output = run([sys.executable, f"scripts/{name}.py", "--configfile", file], ok=False)
        assert [text for text in told if text not in output] == []
        assert "Traceback" not in output
    output = run([sys.executable, "-m", "snakemake", "-n", "--cores", 1, "--configfile", file], ok=False)
    assert [text for text in told if text not in output] == []


def test_what_was_fetched_is_not_asked_for_again(own):
    config = own(
        traces__source="gone.jsonl", models__mine__source="./nowhere", tasks__mine__source="gone.jsonl"
    )
    assert len(list(contract.faults(config))) == 3
    for made in ("models/mine/fetched/x", "data/traces.parquet", "data/tasks/mine.parquet"):
        records.write_json(own.folder / "study" / made, {})
    assert list(contract.faults(config)) == []


def test_a_file_that_was_mended_after_it_was_fetched_is_named(own):
    config, made = own(), own.folder / "study/data/tasks/mine.parquet"
    script("fetch_task", "--source", own.task, "--out", made)
    assert "fetched" not in seen(config)[1]
    write(own.task, [*PROBLEMS[:2], PROBLEMS[2] | {"answer": 4}])
    assert f"tasks.mine {own.task}: holds something else than when it was fetched" in seen(config)[1]
    records.write_parquet(made, records.read_parquet(made), provenance={})  # as earlier versions left it
    os.utime(own.task, (made.stat().st_mtime + 1,) * 2)
    assert (
        f"is newer than what was fetched of it, by a version that noted no content. If it was mended, have it fetched again: snakemake with the flags of the run and --forcerun {made}"
        in seen(config)[1]
    )


def test_columns_and_rows_of_a_parquet_are_counted_while_planning(own):
    file = own.folder / "t.parquet"
    records.write_parquet(file, rows(3))
    config = own(traces__source=str(file), traces__correct="math-verify")
    found = "\n".join(contract.faults(config))
    assert "there is no column correctness_math_verify" in found
    assert "sizes.4.examples: 4 is more than the 3 rows" in found


def test_traces_are_looked_at_as_where_and_limit_choose_them(own):
    write(own.traces, [row | {"topic": "ab"[n % 2]} for n, row in enumerate(rows(20))])
    found, told = seen(own(traces__where={"topic": "b"}, traces__limit=7))
    assert found == []
    assert "all 7 rows looked at" in told
    assert "⟦[user]1+1?" in told
    found, _ = seen(own(traces__limit=3))
    assert any("sizes.4.examples: 4 is more than the 3 different problems" in fault for fault in found)


def test_weights_that_a_folder_holds_twice_count_once(own, tmp_path):
    import numpy
    from safetensors.numpy import save_file

    assert weights.stored_parameters(own.model) == 17
    shutil.copyfile(own.model / "model.safetensors", own.model / "consolidated.safetensors")
    assert weights.stored_parameters(own.model) == 17
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    records.write_json(sharded / "model.safetensors.index.json", index)
    save_file({"a": numpy.zeros((3, 4))}, sharded / "model-1.safetensors")
    save_file({"b": numpy.zeros(5)}, sharded / "model-2.safetensors")
    save_file({"a": numpy.zeros((3, 4)), "b": numpy.zeros(5)}, sharded / "consolidated.safetensors")
    assert weights.stored_parameters(sharded) == 17
    (sharded / "model-2.safetensors").write_bytes(b"\xff" * 30)
    with pytest.raises(SystemExit, match="no readable safetensors"):
        weights.stored_parameters(sharded)


def test_a_tokenizer_without_tokenizer_json_is_told_how_to_write_it(own):
    (own.model / "tokenizer.json").rename(own.model / "tokenizer.model")
    with pytest.raises(SystemExit) as stop:
        prompts.load_tokenizer(own.model)
    for text in ("holds no tokenizer.json, only tokenizer.model", "save_pretrained"):
        assert text in str(stop.value)
        assert any(text in fault for fault in contract.faults(own()))
    output = script("fetch_model", "--source", own.model, "--template", own.folder / "own.jinja", "--end-token", "<eos>",
                    "--pad-token", "<pad>", "--out", own.folder / "out", ok=False)  # fmt: skip
    assert "holds no tokenizer.json" in output


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("traces: {seed: 1, seed: 2}\n", "line 1: the key seed is given twice"),
        ("sizes: {}\nroot: a\nsizes: {}\n", "line 3: the key sizes is given twice: first in line 1"),
        ("a: [", "line 1"),
        ("- a\n", "holds no keys"),
    ],
)
def test_a_config_file_that_does_not_say_one_thing_is_refused_with_its_line(tmp_path, content, told):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(grid.ConfigError) as error:
        check.read(tmp_path / "c.yaml")
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("grid: [1, 2", "broken.yaml line 1: "),
        ("gird: {tasks: [chain]}\n", "top level: unknown key gird. Allowed: "),
    ],
    ids=["unclosed", "misspelt"],
)
@pytest.mark.parametrize("name", ["check", "fetch_check", "next", "plan", "power", "propose", "status"])
def test_a_script_that_is_given_a_broken_config_says_so_and_nothing_else(tmp_path, name, content, told):
    (tmp_path / "broken.yaml").write_text(content)
    budget = ["--budget", 10] if name == "propose" else []
    output = script(name, "--configfile", tmp_path / "broken.yaml", *budget, ok=False)
    first, *faults = output.splitlines()
    assert first.startswith("error: ")
    assert all(line.startswith("  - ") for line in faults)
    assert told in output
    assert "cells" not in output.replace("cells.py", "")


def test_integers_are_read_as_yaml_1_2_writes_them(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "a: [010, 0o10, 0x1F, -7, +3, 0]\nb: {<<: &m {x: 1}, x: 2}\nc: 1:30\nd: 7ae5\n"
    )
    assert check.read(tmp_path / "c.yaml") == {
        "a": [10, 8, 31, -7, 3, 0],
        "b": {"x": 2},
        "c": "1:30",
        "d": "7ae5",
    }
    (tmp_path / "c.json").write_text('{"a": 1, "b": {"c": 2, "c": 3}}')
    with pytest.raises(grid.ConfigError, match="the key c is given twice"):
        check.read(tmp_path / "c.json")


def test_an_unquoted_number_as_a_name_is_told_to_be_quoted_and_a_seed_is_what_is_written(tmp_path):
    (tmp_path / "size.yaml").write_text("sizes:\n  32: {examples: 32, epochs: 1, batch: 1}\n")
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", 1, "--configfile", "config/miniature.yaml"]
    output = run([*command, tmp_path / "size.yaml"], ok=False)
    assert 'sizes: the key 32 is no text. A name stands in quotes where it is a number: "32"' in output
    assert "Traceback" not in output
    seeds = "root: studies/none\ngrid: {tasks: [chain], cells: [{models: [S], runs: [base], seeds: [010]}]}\n"
    (tmp_path / "seed.yaml").write_text(seeds)
    output = run([*command, tmp_path / "seed.yaml"])
    assert "seed10" in output
    assert "seed8" not in output
