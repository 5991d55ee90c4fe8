"""The judge half of the reflection measure: labels read strictly, crossed with the keywords, one job a cell
and none when off.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import score
import yaml
from conftest import DATA, MINIATURE, REPOSITORY, checkout, planned, run, script, snakemake
from hypothesis import given
from hypothesis import strategies as st
from test_smollm import smollm  # noqa: F401
from test_statistics import graded

from valley import check, costs, grid, records, reflection

PROMPT = REPOSITORY / "workflow/reference/judge_prompt.txt"
JUDGE = {"model": "L", "max_characters": 300}


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("2", 2), (" 0\n", 0), ("**1**", 1), ("Category: 3", 3), ("label: 2.", 2), ('"1"', 1),
        ("", None), ("4", None), ("12", None), ("-1", None), ("1.5", None), ("2 or 1", None), ("reflection", None),
        ("The response fits category 2", None), ("2: reflection", None), ("1 2", None), ("two", None), ("²", None),
    ],
)  # fmt: skip
def test_a_label_is_one_digit_and_anything_else_is_unreadable(answer, label):
    assert reflection.read_label(answer) == label


@given(st.text(max_size=3000), st.integers(200, 2500))
def test_a_response_is_shown_whole_or_by_head_and_tail_within_the_limit(text, longest):
    shown = reflection.shortened(text, longest)
    assert len(shown) <= longest
    if len(text) <= longest:
        assert shown == text
    else:
        head, mark, tail = shown.partition("\n[… ")
        assert mark
        assert text.startswith(head)
        assert text.endswith(tail.rpartition(" …]\n")[2])
        assert len(head) > longest / 3


def test_what_a_response_spells_is_never_taken_for_the_prompt():
    asked = reflection.question("P {problem} R {response} {other}", "{response}", "{problem} \\boxed{1}", 500)
    assert asked == "P {response} R {problem} \\boxed{1} {other}"
    assert {"problem", "response"} == set(reflection.PLACE.findall(PROMPT.read_text()))


RESPONSES = [
    ("wait, let me double-check", 2),
    ("let me recheck", 1),
    ("I doubt that", 2),
    ("7", None),
    ("recheck", None),
    ("x", 0),
]


def cell(folder, judged=RESPONSES):
    """A cell of one task on disk: responses, task and labels of them."""
    texts = [text for text, _ in RESPONSES]
    rows = [
        {"id": f"q{i // 2}", "sample": i % 2, "response": text, "tokens": 3, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    records.write_parquet(folder / "math.parquet", rows)
    records.write_parquet(
        folder / "task.parquet", [{"id": f"q{i}", "problem": "3+4", "answer": "7"} for i in range(3)]
    )
    labels = [
        {"task": "math", "id": f"q{i // 2}", "sample": i % 2, "label": label}
        for i, (_, label) in enumerate(judged)
    ]
    records.write_parquet(folder / "judged.parquet", labels)
    return ["--responses", folder / "math.parquet", "--tasks", folder / "task.parquet", "--samples", 2]


def test_with_a_judge_a_response_is_reflective_only_if_keywords_and_judge_say_so(tmp_path):
    flags = cell(tmp_path)
    script("grade", *flags, "--judged", tmp_path / "judged.parquet", "--out", tmp_path / "both.parquet")
    script("grade", *flags, "--judged", "--out", tmp_path / "keywords.parquet")
    both, alone = (
        records.read_parquet(tmp_path / f"{name}.parquet").to_pylist() for name in ("both", "keywords")
    )
    assert [row["reflective"] for row in both] == [True, False, False, False, False, False]
    assert (
        [row["reflective"] for row in alone]
        == [row["keywords"] for row in both]
        == [True, True, False, False, True, False]
    )
    assert [row["judged"] for row in both] == [
        "reflection",
        "no reflection",
        "reflection",
        "unreadable",
        "unreadable",
        "off topic",
    ]
    other = [{**row, "seconds": 0, "reflective": 0, "judged": 0} for row in both]
    assert other == [
        {**row, "seconds": 0, "reflective": 0, "judged": 0} for row in alone
    ]  # no verdict depends on the judge

    for name in ("both", "keywords"):
        script("score", "--grades", tmp_path / f"{name}.parquet", "--headline", "math", "--length", "math", "--out",
               tmp_path / f"{name}.json")  # fmt: skip
    with_judge, without = (records.read_json(tmp_path / f"{name}.json") for name in ("both", "keywords"))
    assert (with_judge["reflection_measure"], without["reflection_measure"]) == (
        "keywords and judge",
        "keywords",
    )
    assert (with_judge["reflection"], without["reflection"]) == (pytest.approx(1 / 6), pytest.approx(3 / 6))
    crossing = with_judge["tasks"]["math"]["crossing"]
    assert crossing["keywords"] == pytest.approx(
        {"off topic": 0, "no reflection": 1 / 6, "reflection": 1 / 6, "only code": 0, "unreadable": 1 / 6}
    )
    assert crossing["no keywords"] == pytest.approx(
        {"off topic": 1 / 6, "no reflection": 0, "reflection": 1 / 6, "only code": 0, "unreadable": 1 / 6}
    )
    assert without["tasks"]["math"]["crossing"] == {}


def test_labels_of_other_responses_are_refused(tmp_path):
    flags = [
        *cell(tmp_path, RESPONSES[:-1]),
        "--judged",
        tmp_path / "judged.parquet",
        "--out",
        tmp_path / "grades.parquet",
    ]
    assert "the judge's labels are of other responses, ('q2', 1) first" in script("grade", *flags, ok=False)
    assert not (tmp_path / "grades.parquet").exists()


def test_an_unjudged_task_keeps_the_keywords_alone():
    assert score.score_task(graded([[1, 0], [0, 1]]), 0.95)["reflection_measure"] == "keywords"


@pytest.fixture(scope="module")
def responses(tmp_path_factory, base, synthetic):
    """Real responses of the tiny model."""
    out = tmp_path_factory.mktemp("responses") / "chain.parquet"
    script("generate", "--model", base, "--task", synthetic / "task.parquet", "--engine", "transformers", "--samples", 2,
           "--temperature", 0.6, "--top-p", 0.95, "--max-new-tokens", 40, "--max-context", 64, "--out", out)  # fmt: skip
    return out


def judge_flags(model, responses, task, out, engine="transformers", chunk=4, context=1024):
    return ["--model", model, "--responses", responses, "--tasks", task, "--prompt", PROMPT, "--max-characters", 200, "--engine",
            engine, "--max-context", context, "--chunk", chunk, "--out", out]  # fmt: skip


@pytest.fixture
def short_prompt(tmp_path, monkeypatch):
    """A prompt that fits a model of 1,024 positions that knows single characters only."""
    (tmp_path / "prompt.txt").write_text("{problem}={response}")
    monkeypatch.setattr(sys.modules[__name__], "PROMPT", tmp_path / "prompt.txt")


def test_a_judge_that_cannot_answer_is_counted_unreadable_and_its_words_are_kept(
    tmp_path, base, synthetic, responses, short_prompt
):
    out = tmp_path / "judged.parquet"
    output = script("judge", *judge_flags(base, responses, synthetic / "task.parquet", out))
    rows = records.read_parquet(out).to_pylist()
    assert len(rows) == 24
    assert {(row["task"], row["sample"]) for row in rows} == {("chain", 0), ("chain", 1)}
    assert all(
        row["label"] is None or (row["text"].strip(), row["finish_reason"]) == (str(row["label"]), "stop")
        for row in rows
    )
    unread = sum(row["label"] is None for row in rows)
    assert unread > 12
    assert f"{unread} unreadable" in output
    record = records.parquet_provenance(out)
    assert record["prompt_sha256"] == records.sha256(PROMPT)
    assert record["labels"]["unreadable"] == unread
    assert record["arguments"]["temperature"] == 0
    assert "do_sample" not in record["sampling"] or not record["sampling"]["do_sample"]
    assert {"code", "versions", "git_commit", "seconds"} <= record.keys()


def test_a_judge_killed_half_way_continues_and_ends_with_the_same_labels(
    tmp_path, base, synthetic, responses, short_prompt
):
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    script("judge", *judge_flags(base, responses, synthetic / "task.parquet", whole, chunk=1))
    command = [sys.executable, "scripts/warm.py", "scripts/judge.py",
               *map(str, judge_flags(base, responses, synthetic / "task.parquet", killed, chunk=1))]  # fmt: skip
    job = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(list(tmp_path.glob("killed.parquet.chunks/*/0*.parquet"))) < 3:
        assert job.poll() is None, "finished before it could be killed"
        time.sleep(0.01)
    job.kill()
    job.wait()
    assert not killed.exists()
    time.sleep(0.3)  # the server ends the forked child, too
    kept = len(list(tmp_path.glob("killed.parquet.chunks/*/0*.parquet")))
    output = script("judge", *judge_flags(base, responses, synthetic / "task.parquet", killed, chunk=1))
    assert sum("/24 chunks" in line for line in output.splitlines()) == 24 - kept
    assert records.read_parquet(whole).to_pylist() == records.read_parquet(killed).to_pylist()
    assert not list(tmp_path.glob("*.parts"))


def test_a_question_too_long_for_the_judge_is_refused_with_what_to_do(tmp_path, base, synthetic, responses):
    flags = judge_flags(base, responses, synthetic / "task.parquet", tmp_path / "judged.parquet", context=100)
    assert "Lower report.judge.max_characters" in script("judge", *flags, ok=False)


PYTHON = os.environ.get("VALLEY_VLLM_PYTHON", str(REPOSITORY / ".venv-vllm/bin/python"))


@pytest.mark.slow
@pytest.mark.skipif(not Path(PYTHON).exists(), reason="no environment with vLLM: make test-slow sets one up")
def test_vllm_and_transformers_give_the_same_labels(tmp_path, synthetic, responses, short_prompt):
    model, here, there = tmp_path / "S", tmp_path / "here.parquet", tmp_path / "there.parquet"
    script("pretrain", "--out", model, "--template", "templates/chain.jinja", "--hidden", 64, "--layers", 2, "--heads", 2,
           "--ff", 128, "--steps", 100, "--lengths", 2, "--seed", 0)  # fmt: skip
    script("judge", *judge_flags(model, responses, synthetic / "task.parquet", here))
    flags = judge_flags(model, responses, synthetic / "task.parquet", there, engine="vllm")
    run([PYTHON, "scripts/judge.py", *flags], CUDA_VISIBLE_DEVICES="")
    assert records.read_parquet(here).to_pylist() == records.read_parquet(there).to_pylist()
    assert records.parquet_provenance(there)["sampling"]["temperature"] == 0


# What a real instruct model is asked to tell apart; of the texts only the second and third go back on what
# they wrote.
CASES = [
    "3 + 4 = 7, so the answer is \\boxed{7}.",
    "3 + 4 = 8. Wait, let me double-check: 3 + 4 = 7, not 8. So \\boxed{7}.",
    "Maybe I should multiply: 12. Hmm, that is wrong, the question asks for a sum. Let me go back. \\boxed{7}",
    "la la la la la la la la la la la la la la la la la la",
]


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}: set VALLEY_TEST_DATA")
def test_a_real_instruct_model_is_asked_in_its_own_template_and_every_answer_is_a_category_or_counted(
    tmp_path,
    smollm,  # noqa: F811
):
    rows = [{"id": "q", "sample": i, "response": text} for i, text in enumerate(CASES)]
    records.write_parquet(tmp_path / "math.parquet", rows)
    records.write_parquet(tmp_path / "task.parquet", [{"id": "q", "problem": "What is 3+4?", "answer": "7"}])
    out = tmp_path / "judged.parquet"
    print(script("judge", *judge_flags(smollm, tmp_path / "math.parquet", tmp_path / "task.parquet", out)))
    made = records.read_parquet(out).to_pylist()
    print(made)
    assert [row["label"] for row in made] == [
        reflection.read_label(row["text"]) if row["finish_reason"] == "stop" else None for row in made
    ]
    assert all(
        row["text"].strip() for row in made
    )  # it says something: the template ended in the assistant's turn
    assert all(row["prompt_tokens"] > 200 for row in made)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}: set VALLEY_TEST_DATA")
@pytest.mark.skipif(not Path(PYTHON).exists(), reason="no environment with vLLM: make test-slow sets one up")
def test_a_real_instruct_model_gives_the_same_labels_by_vllm(tmp_path, smollm):  # noqa: F811
    rows = [{"id": "q", "sample": i, "response": text} for i, text in enumerate(CASES)]
    records.write_parquet(tmp_path / "math.parquet", rows)
    records.write_parquet(tmp_path / "task.parquet", [{"id": "q", "problem": "What is 3+4?", "answer": "7"}])
    made = {}
    for engine, python in {"transformers": sys.executable, "vllm": PYTHON}.items():
        out = tmp_path / f"{engine}.parquet"
        flags = judge_flags(smollm, tmp_path / "math.parquet", tmp_path / "task.parquet", out, engine)
        run([python, "scripts/judge.py", *flags, "--precision", "fp32"], CUDA_VISIBLE_DEVICES="")
        made[engine] = records.read_parquet(out).to_pylist()
    print(made["vllm"])
    assert made["vllm"] == made["transformers"]
    assert all(row["text"].strip() for row in made["vllm"])


def stub_config(judge) -> dict:
    """A small grid whose scripts are stubs."""
    cells = [{"models": ["S"], "runs": ["base", "sft-128", "sft-128+rl"], "seeds": [0]}]
    config = {"warm_start": False, "root": "studies/stub", "grid": {"tasks": ["chain", "arithmetic"], "cells": cells},
              "report": {"length": ["chain"]}}  # fmt: skip
    return config if judge == "unset" else config | {"report": {"length": ["chain"], "judge": judge}}


def plan(folder, judge, *flags):
    """What a dry run plans for all scores."""
    (folder / "stub.yaml").write_text(yaml.safe_dump(stub_config(judge)))
    return planned(snakemake(folder, *(flags or ["-n"]), *MINIATURE, "stub.yaml", "--", "regrade"))


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A checkout whose scripts are stubs, with all scores of that grid, never judged."""
    folder = checkout(tmp_path_factory.mktemp("stub"))
    for path in (folder / "scripts").glob("*.py"):
        shutil.copyfile(REPOSITORY / "tests/fixtures/stub.py", path)
    (folder / "stub.yaml").write_text(yaml.safe_dump(stub_config("unset")))
    snakemake(folder, *MINIATURE, "stub.yaml", "--", "regrade")
    return folder


def test_without_a_judge_nothing_is_planned_and_with_one_each_cell_is_judged_once_and_graded_again(
    scored, tmp_path
):
    folder = tmp_path / "copy"
    shutil.copytree(scored, folder, symlinks=True)
    config = check.load([Path("config/miniature.yaml"), folder / "stub.yaml"])
    cells = len(grid.cells(config))
    assert plan(folder, "unset") == {}
    assert plan(folder, None) == {}
    on = {"judge": cells, "grade": cells, "score": cells, "pretrain": 1, "regrade": 1}
    assert plan(folder, JUDGE) == on  # the judge itself is a model that was not there yet
    plan(folder, JUDGE, "--cores", "2")
    assert plan(folder, JUDGE) == {}
    assert plan(folder, JUDGE | {"max_characters": 400}) == {
        name: on[name] for name in ("judge", "grade", "score", "regrade")
    }
    prompt = folder / "workflow/reference/judge_prompt.txt"
    prompt.write_text(prompt.read_text() + "\n")
    assert plan(folder, JUDGE) == {name: on[name] for name in ("judge", "grade", "score", "regrade")}
    assert plan(folder, None) == {
        "grade": cells,
        "score": cells,
        "regrade": 1,
    }  # keywords alone again; no label is lost


def test_labels_moved_into_a_fresh_clone_are_made_anew_for_another_prompt_only(scored, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(scored, folder, symlinks=True)
    plan(folder, JUDGE, "--cores", "2")
    prompt = folder / "workflow/reference/judge_prompt.txt"
    for labels in (folder / "studies/stub/results").rglob("judged.parquet"):
        made = labels.stat()
        records.write_parquet(labels, [{"label": 1}], provenance={"prompt_sha256": records.sha256(prompt)})
        os.utime(labels, ns=(made.st_atime_ns, made.st_mtime_ns))
    shutil.rmtree(folder / ".snakemake")
    for file in (prompt, folder / "templates/chain.jinja"):
        file.touch()
    assert plan(folder, JUDGE) == {}
    prompt.write_text(prompt.read_text() + "\n")
    assert "judge" in plan(folder, JUDGE)


def test_editing_the_judge_plans_nothing_for_it_may_need_a_gpu(scored, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(scored, folder, symlinks=True)
    plan(folder, JUDGE, "--cores", "2")
    (folder / "scripts/judge.py").write_text((folder / "scripts/judge.py").read_text() + "\n# edited\n")
    assert plan(folder, JUDGE) == {}


def test_a_judge_runs_on_its_own_gpus_with_its_own_stop_tokens(tmp_path):
    folder = checkout(tmp_path)
    (folder / "judge.yaml").write_text(
        yaml.safe_dump({"report": {"judge": {"model": "llama3.2-3b", "max_characters": 9000}}})
    )
    target = "results/qwen2.5-0.5b/base/seed0/judged.parquet"
    output = snakemake(folder, "-n", "-p", "--configfile", "config.yaml", "judge.yaml", "--", target)
    line = next(line for line in output.splitlines() if "scripts/judge.py" in line)
    assert "launch.py --gpus 2 scripts/judge.py --model models/llama3.2-3b/fetched" in line
    assert (
        "--responses results/qwen2.5-0.5b/base/seed0/responses/math500.parquet --tasks data/tasks/math500.parquet"
        in line
    )
    assert "--stop-tokens '<|end_of_text|>' '<|eom_id|>'" in line
    for flag in ("--engine vllm", "--max-context 18432", "--chunk 1024", "--precision bf16"):
        assert flag in line
    assert planned(output)["judge"] == 1


def test_the_plan_of_costs_knows_a_judge_by_its_own_size_and_what_it_reads():
    config, constants = check.load([]), costs.load()
    preset = constants["presets"]["paper"]
    job = {"rule": "judge", "gpus": 4, "wildcards": {"model": "qwen2.5-0.5b", "run": "sft-8k", "seed": "0"}}
    config["report"]["judge"] = {"model": "llama3.2-3b", "max_characters": 10000}
    read = 500 * 4 * 10000 / constants["characters_a_token"]
    work = 2 * 3.213e9 * read / (preset["peak_flops"] * preset["sft_mfu"])
    assert costs.modelled_seconds(job, config, constants, preset) == pytest.approx(4 * preset["start"] + work)


def test_a_judge_that_no_catalogue_knows_is_refused():
    config = check.load([])
    config["report"]["judge"] = {"model": "gpt-4o-mini", "max_characters": 9000}
    with pytest.raises(grid.ConfigError, match=r"report\.judge\.model: unknown model 'gpt-4o-mini'"):
        check.check(config)
