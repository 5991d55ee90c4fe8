"""The third stage: generation, the judge and RL, by vLLM where an interpreter has it and by transformers;
and two jobs on one card.

On CPU vLLM's build for CPUs runs them (`make test-slow`), on a card the one of this environment.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
from acceptance import ON_CARD, PAPER, VLLM, call, command, narrowed, note, surroundings
from conftest import REPOSITORY
from test_models import SUFFIX, responses
from test_sft_path import published_base

from valley import records, vram

pytestmark = [pytest.mark.slow, pytest.mark.gpu]
MODEL = "qwen2.5-0.5b"
ENGINES = {"transformers": sys.executable, "vllm": VLLM}
needs_vllm = pytest.mark.skipif(not VLLM, reason="no interpreter with vLLM: VALLEY_VLLM_PYTHON names one")
PROBLEMS, SAMPLES, CHUNK = 12, 2, 4
# Of the mean |log-probability of vLLM − of the trainer| a token: rounding of one precision in two orders.
APART = {"bf16": 0.02, "fp32": 1e-4}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The whole shape of the 0.5B model on a card; on CPU a narrow one with as many heads as its stream is
    wide, for vLLM's Qwen2 reads no width of a head in a config.
    """
    content = dict(vram.published()[PAPER["models"][MODEL]["source"]])
    if not ON_CARD:
        content = narrowed(MODEL) | {"num_attention_heads": 2, "num_key_value_heads": 1}
    return published_base(tmp_path_factory.mktemp("base"), content)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Twelve problems."""
    file = tmp_path_factory.mktemp("task") / "sums.parquet"
    rows = [{"id": f"{n:02}", "problem": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(PROBLEMS)]
    records.write_parquet(file, rows)
    return file


@pytest.fixture(params=[pytest.param(name, marks=needs_vllm if name == "vllm" else ()) for name in ENGINES])
def engine(request):
    return request.param


def sampling(base, task, out, engine: str, seed: int = 3) -> list[str]:
    """The command that samples two responses a problem, four in a chunk."""
    return command("generate", "--model", base, "--task", task, "--out", out, "--samples", SAMPLES, "--temperature", 0.8, "--top-p",
                   0.95, "--max-new-tokens", 96, "--max-context", 256, "--chunk", CHUNK, "--seed", seed, "--engine", engine,
                   "--precision", "bf16", "--suffix", SUFFIX, python=ENGINES[engine])  # fmt: skip


def done(job: list[str]) -> str:
    """What a command says; fails where it does."""
    ran = subprocess.run(job, cwd=REPOSITORY, capture_output=True, text=True, env=surroundings(job[0]))
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-6000:]
    return ran.stdout + ran.stderr


def agreement(left: list[dict], right: list[dict]) -> float:
    """The share of two lists' rows that hold the same response; all else must be the same in each."""
    for a, b in zip(left, right, strict=True):
        assert [a[key] for key in ("id", "sample", "prompt", "seed")] == [
            b[key] for key in ("id", "sample", "prompt", "seed")
        ]
    return sum(a["response"] == b["response"] for a, b in zip(left, right, strict=True)) / len(left)


@needs_vllm
def test_greedy_responses_of_both_engines_are_the_same(tmp_path, base):
    found = {}
    for name, python in ENGINES.items():
        (folder := tmp_path / name).mkdir()
        rows = responses(folder, base, "qwen2.5", "fp32", name, python)
        found[name] = [row["response"] for row in rows]
    assert found["vllm"] == found["transformers"]
    assert len(set(found["vllm"])) > 1


def test_a_seed_gives_its_responses_again_also_where_the_job_was_killed_and_continued(
    tmp_path, base, task, engine
):
    """Chunks that a killed job has finished are kept, and those of one that was left alone are the same. A
    card may round otherwise from one batch to the next, so that few responses may differ there.
    """
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    done(sampling(base, task, whole, engine))
    job = subprocess.Popen(
        sampling(base, task, killed, engine), cwd=REPOSITORY, env=surroundings(ENGINES[engine]), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=(tmp_path / "log").open("w"),
    )  # fmt: skip
    while not (kept := sorted(tmp_path.glob("killed.parquet.chunks/*/0*.parquet"))):
        assert job.poll() is None, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.005)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not killed.exists()
    kept = {file: file.read_bytes() for file in tmp_path.glob("killed.parquet.chunks/*/0*.parquet")}
    assert 0 < len(kept) < PROBLEMS * SAMPLES / CHUNK

    said = done(sampling(base, task, killed, engine))
    chunks = PROBLEMS * SAMPLES // CHUNK
    assert sum(f"/{chunks} chunks" in line for line in said.splitlines()) == chunks - len(kept)
    rows, again = (records.read_parquet(file).to_pylist() for file in (whole, killed))
    assert len(rows) == PROBLEMS * SAMPLES
    equal = agreement(rows, again)
    note(f"repeat-{engine}", chunks_kept=len(kept), responses_equal=equal)
    assert equal >= (0.8 if ON_CARD else 1.0)
    assert any(a["response"] != b["response"] for a, b in zip(rows[::2], rows[1::2], strict=True))
    assert len({row["response"] for row in rows}) > PROBLEMS


@needs_vllm
def test_the_judge_by_vllm_says_what_it_says_by_transformers(tmp_path, base, task):
    """Weights as they fall name no category: what is compared are the words. A real model is asked in
    tests/test_judge.py.
    """
    records.write_parquet(
        tmp_path / "sums.parquet",
        [{"id": f"{n:02}", "sample": 0, "response": f"{n} + 1, wait, that is {n + 1}."} for n in range(PROBLEMS)],
    )  # fmt: skip
    found = {}
    for name, python in ENGINES.items():
        out = tmp_path / f"{name}.parquet"
        call("judge", "--model", base, "--responses", tmp_path / "sums.parquet", "--tasks", task, "--prompt",
             "workflow/reference/judge_prompt.txt", "--max-characters", 400, "--engine", name, "--max-context", 4096, "--chunk", 6,
             "--precision", "fp32", "--out", out, python=python)  # fmt: skip
        found[name] = records.read_parquet(out).to_pylist()
        assert records.parquet_provenance(out)["labels"]["unreadable"] == PROBLEMS
    assert found["vllm"] == found["transformers"]
    assert all(row["text"] for row in found["vllm"])


def rl(tmp_path, base, precision: str, sizes=(2, 2, 8), under: str | None = None):
    """Three steps of RL of two updates each, by vLLM where there is one: its record and its curve. The bonus
    on entropy moves weights that no response is rewarded for.
    """
    problems = tmp_path / "rl.parquet"
    rows = [{"problem": f"What is {n} + 4?", "answer": str(n + 4)} for n in range(8)]
    records.write_parquet(problems, rows)
    prompts, rollouts, tokens = sizes
    call("rl", "--model", base, "--problems", problems, "--out", tmp_path / "model", "--record", tmp_path / "train.json", "--curve",
         tmp_path / "curve.parquet", "--steps", 3, "--prompts", prompts, "--rollouts", rollouts, "--minibatch", prompts // 2,
         "--device-batch", 1, "--max-new-tokens", tokens, "--max-prompt", 256, "--lr", 5e-4, "--kl", 1e-4, "--entropy", 0.1,
         "--save-every", 1, "--precision", precision, "--gradient-checkpointing", "True", "--seed", 0, "--vllm", str(bool(VLLM)),
         deepspeed=PAPER["rl"]["deepspeed"], python=VLLM or sys.executable, under=under)  # fmt: skip
    record = records.read_json(tmp_path / "train.json")
    return record, records.read_parquet(tmp_path / "curve.parquet").to_pylist()


def policy_moved(curve: list[dict]) -> float:
    """How far log-probabilities have moved from the start's, root mean square a token: KL is half its square
    (TRL's estimator, to second order).
    """
    return (2 * curve[-1]["kl"]) ** 0.5


@pytest.mark.parametrize("precision", ["bf16"] if ON_CARD else ["bf16", "fp32"])
def test_rl_samples_by_the_weights_that_it_has_trained(tmp_path, base, precision):
    start = time.perf_counter()
    record, curve = rl(tmp_path, base, precision, (16, 8, 512) if ON_CARD else (2, 2, 8))
    assert [row["step"] for row in curve] == [1, 2, 3]
    assert record["columns_computed"] <= 1.15 * record["columns_of_tokens"]
    moved, told = policy_moved(curve), {}
    assert moved > 2 * APART[precision], "it has not moved enough for what follows to tell anything"
    if VLLM:
        told = {"sampler_gap": max(record["sampler_gap"]), "moved": moved}
        assert len(record["sampler_gap"]) == 3
        assert max(record["sampler_gap"]) <= APART[precision]
        assert not any("vLLM" in warning for warning in record["warnings"])
    note(f"rl-{precision}" if precision != "bf16" else "rl", vllm=bool(VLLM), seconds=time.perf_counter() - start,
         tokens=record["tokens_generated"], tokens_per_second=record["tokens_generated"] / record["seconds_training"], **told)  # fmt: skip


@needs_vllm
@pytest.mark.skipif(ON_CARD, reason="tried on CPU: on a card vLLM's weights are dropped while it sleeps")
def test_a_sampler_that_is_left_behind_is_told_by_its_probabilities(tmp_path, base):
    """The check above can fail: without the hand-over of weights the first step alone agrees."""
    record, curve = rl(tmp_path, base, "fp32", under="tests/faults/left_behind.py")
    first, *later = record["sampler_gap"]
    assert first <= APART["fp32"]
    assert min(later) > 100 * APART["fp32"]
    assert policy_moved(curve) > 100 * APART["fp32"]
    assert any("vLLM" in warning for warning in record["warnings"])


def test_two_jobs_take_turns_on_one_card():
    """The second waits until the first has ended, and says so. On CPU a number stands for a card."""
    hold = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(6)"
    script = REPOSITORY / ".acceptance_hold.py"
    script.write_text(hold)
    shown = surroundings() | ({} if ON_CARD else {"CUDA_VISIBLE_DEVICES": "0"})
    if ON_CARD:
        shown["CUDA_VISIBLE_DEVICES"] = shown.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    start = [sys.executable, "scripts/launch.py", "--gpus", "1", str(script)]
    try:
        first = subprocess.Popen(start, cwd=REPOSITORY, env=shown, stdout=subprocess.PIPE, text=True)
        taken = first.stdout.readline().strip()
        second = subprocess.run(start, cwd=REPOSITORY, env=shown, capture_output=True, text=True)
        assert first.poll() is not None
        assert second.stdout.strip() == taken
        assert "waiting for 1 of 1 GPUs to be free" in second.stderr
        first.wait()
    finally:
        script.unlink()
