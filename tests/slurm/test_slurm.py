"""A small study on a real SLURM, and faults while it runs: nothing finished is lost or run again, scores come out the same.

    make test-slurm        # as root: installs and starts slurmctld, slurmd and munge from Debian's packages

Three runs share the faults, for a SLURM job costs some ten seconds before it does anything. Each starts from a copy of one
folder in which data and base model are made, and ends with the scores of a run that nothing disturbed.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import MINIATURE, REPOSITORY, checkout, planned, run, snakemake

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd and munge need root"),
]
ROOT = "studies/slurm"
STUDY = {
    "root": ROOT, "warm_start": False,
    "grid": {"tasks": ["chain"], "cells": [{"models": ["S"], "runs": ["base", "sft-16", "sft-64"], "seeds": [0]}]},
    "sizes": {"16": {"examples": 16, "epochs": 25, "batch": 1}, "64": {"examples": 64, "epochs": 30, "batch": 4}},
    "sft": {"save_every": 20, "recipes": {"bad": {"lr": 1.0e30, "max_grad_norm": 1.0e30}}},
}  # fmt: skip
FILES = [*MINIATURE, "config/smoke.yaml", "slurm.yaml"]
SLURM = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--profile", "tests/slurm/site", *FILES]


@pytest.fixture(scope="session", autouse=True)
def cluster():
    """A running SLURM; one that was up before stays up."""
    before = subprocess.run(["pgrep", "-x", "slurmctld"], capture_output=True).returncode == 0
    started = subprocess.run([REPOSITORY / "tests/slurm/start.sh"], capture_output=True, text=True)
    if started.returncode:
        pytest.skip(f"no SLURM can be started here: {started.stderr[-300:]}")
    yield
    if not before:
        subprocess.run([REPOSITORY / "tests/slurm/stop.sh"], check=True)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A checkout in which data, base model and preflights are made, and the scores of an undisturbed local run beside it."""
    folder = checkout(tmp_path_factory.mktemp("slurm") / "prepared")
    (folder / "slurm.yaml").write_text(yaml.safe_dump(STUDY))
    snakemake(folder, *FILES, "--until", "preflight")
    whole = folder.with_name("undisturbed")
    shutil.copytree(folder, whole, symlinks=True)
    snakemake(whole, *FILES)
    return folder, scores(whole)


@pytest.fixture
def study(prepared, tmp_path):
    """A copy of the prepared folder of a test's own."""
    shutil.copytree(prepared[0], tmp_path / "study", symlinks=True)
    yield tmp_path / "study"
    for job in jobs(tmp_path / "study"):
        subprocess.run(["scancel", "--full", job], check=False)


def scores(folder: Path) -> dict[str, bytes]:
    """The bytes of every cell's scores."""
    return {path.parts[-3]: path.read_bytes() for path in (folder / ROOT / "results").glob("*/*/seed0/scores.json")}


def jobs(folder: Path, text: str = "", states: str = "") -> list[str]:
    """Ids of the folder's SLURM jobs whose comment contains a text, in the given states."""
    command = ["squeue", "-h", "-o", "%A|%Z|%k", *(["-t", states] if states else [])]
    rows = [line.split("|", 2) for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines()]
    return [job for job, where, comment in rows if where == str(folder) and text in comment]


def start(folder: Path, *flags: str) -> subprocess.Popen:
    """Snakemake on SLURM in the background, in a process group of its own, Ctrl-C not ignored."""
    log = open(folder / "snakemake.log", "a")  # noqa: SIM115 - lives as long as the process
    return subprocess.Popen([*SLURM, *flags], cwd=folder, stdout=log, stderr=log, start_new_session=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip


def until(what: str, condition, seconds: float = 150):
    """Wait until `condition()` holds; its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.3)
    raise AssertionError(f"waited {seconds} s for {what}")


def cell(folder: Path, name: str) -> Path:
    return folder / ROOT / "results/S" / name / "seed0"


def training(folder: Path, name: str) -> str:
    """Wait until a cell trains, with a checkpoint to come back to; the SLURM job."""
    until(f"a checkpoint of {name}", lambda: list(cell(folder, name).glob("checkpoints/checkpoint-*/trainer_state.json")))
    return until("its job", lambda: jobs(folder, f"rule_sft_wildcards_S_{name}_", "R"))[0]


def trainers(folder: Path, name: str) -> list[int]:
    """The processes that train a cell."""
    found = subprocess.run(["pgrep", "-f", f"scripts/sft.py.*{ROOT}/results/S/{name}/"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split() if Path(os.readlink(f"/proc/{pid}/cwd")) == folder]


def send(folder: Path, name: str, number: signal.Signals):
    """A signal to the processes that train a cell, as soon as there are any."""
    for pid in until(f"a process that trains {name}", lambda: trainers(folder, name)):
        os.kill(pid, number)


def finish(process: subprocess.Popen, folder: Path, seconds: float = 420) -> int:
    """The exit code of a run; its log in the error when it takes too long."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError((folder / "snakemake.log").read_text()[-4000:]) from None


def record(folder: Path, name: str) -> dict:
    return json.loads((cell(folder, name) / "train.json").read_text())


def plan(folder: Path) -> dict[str, int]:
    return planned(run([*SLURM, "-n"], folder))


def test_a_killed_a_cancelled_and_a_doomed_job_and_a_controller_outage(study, prepared):
    """One run meets four faults: what a retry cures is resumed, what it cannot cure stops at once, the rest is done."""
    cells = [{"models": ["S"], "runs": ["base", "sft-16", "sft-64", "sft-16.bad"], "seeds": [0]}]
    (study / "slurm.yaml").write_text(yaml.safe_dump(STUDY | {"grid": {"tasks": ["chain"], "cells": cells}}))
    process = start(study)
    job = training(study, "sft-64")
    shown = run(["scontrol", "show", "job", job])
    assert re.search(r"Partition=cpu\b", shown)
    assert "TimeLimit=00:04:00" in shown
    assert "MinMemoryNode=1000M" in shown
    assert "rule_sft_wildcards_S_sft-64_0" in shown
    run(["scancel", job])
    training(study, "sft-16")
    send(study, "sft-16", signal.SIGKILL)
    until("a job after training", lambda: jobs(study, "rule_generate", "R"), 300)
    time.sleep(5)  # a controller that dies while it starts a job holds it: `scontrol release` (docs/slurm.md)
    lab = Path(os.environ.get("VALLEY_SLURM", "/tmp/valley-slurm"))
    os.kill(int((lab / "run/slurmctld.pid").read_text()), signal.SIGTERM)
    time.sleep(30)
    run([REPOSITORY / "tests/slurm/start.sh"])
    assert finish(process, study) == 1  # the doomed cell
    for name in ("sft-16", "sft-64"):
        assert "checkpoint-" in record(study, name)["resumed_from"]
    found = scores(study)
    assert {name: found[name] for name in prepared[1]} == prepared[1]

    # The doomed cell: its first failure is remembered, the retries stop on it, and all that is left is that cell.
    note = json.loads((cell(study, "sft-16.bad") / "failed.json").read_text())
    assert "diverged" in note["error"]
    log = (study / ROOT / "logs/sft/S.sft-16.bad.seed0.log").read_text()
    assert "stopped at once" in log
    said = (study / "snakemake.log").read_text()
    assert "S.sft-16.bad.seed0.log" in said
    assert "slurm_logs/rule_sft" in said
    left = plan(study)
    assert (left["sft"], left["generate"], left["grade"], left["score"]) == (1, 1, 1, 1)
    status = run([sys.executable, "scripts/status.py", *FILES], study)
    assert re.search(r"S sft-16.bad +seed 0 +failed: sft: .*stopped at once.*S.sft-16.bad.seed0.log", status)


def test_a_broken_node_a_preemption_and_a_time_limit(study, prepared):
    """SLURM itself takes jobs away: they are requeued or retried, and go on from their checkpoints."""
    process = start(study, "--default-resources", "slurm_partition=low", "runtime=5", "mem_mb=1000", "slurm_account=valley")
    job = training(study, "sft-64")
    training(study, "sft-16")
    send(study, "sft-16", signal.SIGSTOP)  # so that it is still there when its turn comes
    node = run(["squeue", "-h", "-j", job, "-o", "%N"]).strip()
    run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"])
    until("the requeued job to start", lambda: job in jobs(study, "rule_sft_wildcards_S_sft-64_", "R"))
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)  # unless it came back by itself

    job = training(study, "sft-16")
    send(study, "sft-16", signal.SIGSTOP)  # it hangs, until its time is over
    run(["scontrol", "update", f"job={job}", "TimeLimit=1"])
    until("the time limit", lambda: job not in jobs(study, "", "R"), 200)

    training(study, "sft-16")  # the retry
    hog = run(["sbatch", "--parsable", "-p", "high", "--nodes=2", "--exclusive", "--time=2", "--wrap=sleep 3"]).strip()
    until("the preempting job", lambda: hog not in run(["squeue", "-h", "-t", "PD,R", "-o", "%A"]).split(), 90)
    assert finish(process, study) == 0
    for name in ("sft-16", "sft-64"):
        assert "checkpoint-" in record(study, name)["resumed_from"]
    assert scores(study) == prepared[1]
    assert plan(study) == {}


def test_snakemake_itself_interrupted_terminated_and_killed(study, prepared):
    """After each the rerun plans exactly the rest; after a kill the orphans are cancelled and the folder unlocked first."""
    process = start(study)
    training(study, "sft-64")
    done = {path.parts[-3] for path in (study / ROOT / "results").glob("*/*/seed0/responses/chain.parquet")}
    process.send_signal(signal.SIGINT)
    assert finish(process, study) == 1
    until("its jobs to be cancelled", lambda: not jobs(study))
    left = plan(study)
    assert left["sft"] == 2 - len(list((study / ROOT / "results").glob("*/*/seed0/train.json")))
    assert left["generate"] == 3 - len(done)

    process = start(study)
    training(study, "sft-64")
    process.kill()  # neither lock nor marks are cleared, and its jobs run on
    process.wait()
    assert jobs(study)
    output = run([*SLURM], study, ok=False)
    assert "--unlock" in output
    for job in jobs(study):
        run(["scancel", "--full", job])
    until("the orphans to end", lambda: not jobs(study))
    run([*SLURM, "--unlock"], study)

    process = start(study)
    until("a job that runs", lambda: jobs(study, "", "R"))
    process.terminate()  # waits for what runs, submits no more
    assert finish(process, study) == 1
    finished = {path: path.stat().st_mtime_ns for path in (study / ROOT / "results").glob("*/*/seed0/train.json")}
    process = start(study)
    assert finish(process, study) == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())  # nothing finished ran again
    assert scores(study) == prepared[1]
    assert plan(study) == {}
