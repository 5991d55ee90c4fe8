"""A job that makes no step any more says so, in status and in its log, and ends; its retry goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import status
from conftest import REPOSITORY, run
from test_training import faulty, train, until, weights

from valley import locks, pulse, records

IMPATIENT = {"VALLEY_STALL": json.dumps({"first": 30, "least": 2, "factor": 1})}
FLAGS = ["--epochs", 3, "--save-every", 4]


@pytest.mark.parametrize("fault", ["hang", pytest.param("stick", marks=pytest.mark.slow)])
def test_a_training_that_stands_still_writes_down_where_ends_itself_and_its_retry_continues(
    tmp_path, base, subset, fault
):
    """`stick`: it keeps the interpreter's lock, so that no Python of its own can end it."""
    straight, cell = tmp_path / "straight", tmp_path / "cell"
    straight.mkdir()
    cell.mkdir()
    train(straight, base, subset, *FLAGS)
    output = run(faulty(fault, 10, cell, base, subset, *FLAGS), ok=False, **IMPATIENT)
    assert "in on_step_end" in output  # where it stood
    if fault == "hang":
        assert "stalled: no step for" in output.splitlines()[-1]
        (stacks,) = cell.glob("stalled.*.txt")
        assert "at_step.py" in stacks.read_text()
    assert not (cell / "failed.json").exists()
    record = train(cell, base, subset, *FLAGS)
    assert record["resumed_from"].endswith("checkpoint-8")
    assert weights(straight) == weights(cell)


def test_status_names_a_process_that_holds_a_cell_and_makes_no_step_but_no_dead_one(tmp_path, base, subset):
    """Stopped from outside it cannot speak for itself."""
    command = faulty("hang", 10, tmp_path, base, subset, *FLAGS)
    hung = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, env=os.environ | IMPATIENT)
    until(lambda: (pulse.progress_of(tmp_path / "checkpoints") or {}).get("step") == 9)
    pid = locks.holder(tmp_path / "train.lock")["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert status.stalls(tmp_path) == []
    time.sleep(2.5)
    (said,) = status.stalls(tmp_path)
    assert said.startswith("stalled: training: no step for ")
    assert f"after step 9, process {pid} on" in said
    os.kill(pid, signal.SIGKILL)
    hung.wait()
    until(lambda: status.stalls(tmp_path) == [])


def test_the_bound_follows_the_pace_of_the_job(tmp_path, monkeypatch):
    monkeypatch.setenv("VALLEY_STALL", json.dumps({"first": 100, "least": 1, "factor": 4}))
    with pulse.Pulse(tmp_path, "a job") as beat:
        assert beat.bound() == 100
        for step in (1, 2):
            time.sleep(0.6 if step == 2 else 0)
            beat.beat(step)
        assert 2.4 <= beat.bound() < 6
        told = pulse.progress_of(tmp_path)
        assert (told["step"], told["bound"]) == (2, pytest.approx(beat.bound()))
    time.sleep(0.1)
    assert (tmp_path / pulse.PROGRESS).stat().st_size == pulse.PADDED


def test_a_call_that_keeps_the_interpreter_from_the_first_moment_is_ended(tmp_path):
    """Before the watching thread has looked once."""
    code = (
        "import ctypes, sys; sys.path.insert(0, 'scripts'); from valley import pulse\n"
        "pulse.LATE = 0.5\n"
        "with pulse.Pulse(sys.argv[1], 'a job'): ctypes.PyDLL(None).sleep(60)"
    )
    begun = time.monotonic()
    output = run(
        [sys.executable, "-c", code, tmp_path],
        ok=False,
        VALLEY_STALL='{"first": 0.5, "least": 1, "factor": 1}',
    )
    assert "Timeout" in output
    assert time.monotonic() - begun < 40


def test_a_generation_that_stands_still_ends_itself(tmp_path, base, synthetic):
    hang = ("import runpy, sys, time; sys.path.insert(0, 'scripts'); from valley import engines\n"
            "engines.ENGINES['transformers'] = lambda args, tokenizer: ((lambda batch, seed, limit: time.sleep(3600)), dict)\n"
            "sys.argv.pop(0); runpy.run_path('scripts/generate.py', run_name='__main__')")  # fmt: skip
    flags = ["--model", base, "--task", synthetic / "task.parquet", "--out", tmp_path / "chain.parquet", "--samples", 1,
             "--temperature", 0.6, "--top-p", 0.95, "--max-new-tokens", 8, "--max-context", 512, "--engine", "transformers"]  # fmt: skip
    stall = {"VALLEY_STALL": json.dumps({"first": 2, "least": 2, "factor": 1})}
    output = run([sys.executable, "-c", hang, "scripts/generate.py", *flags], ok=False, **stall)
    assert "error: generation of" in output.splitlines()[-1]
    assert "stalled: no step for" in output.splitlines()[-1]
    assert not (tmp_path / "chain.parquet").exists()
    assert records.read_json(next(tmp_path.glob("*.chunks/*/progress.json")))["step"] == 0
