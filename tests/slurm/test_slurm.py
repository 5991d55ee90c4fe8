"""A small study on a real SLURM, and faults while it runs: nothing finished is lost or run again, scores come
out the same.

    make test-slurm        # as root: installs and starts slurmctld, slurmd and munge from Debian's packages

Four runs share the faults, for a SLURM job costs some ten seconds before it does anything. Each starts from
a copy of one folder in which data and base model are made, and ends with the scores of a run that nothing
disturbed. Around them: the doctor, the three kinds of site, a job of two nodes, the canary.
"""

import contextlib
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

from valley import records

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd and munge need root"),
]
ROOT = "studies/slurm"
STUDY = {
    "root": ROOT,
    "grid": {"tasks": ["chain"], "cells": [{"models": ["S"], "runs": ["base", "sft-16", "sft-64"], "seeds": [0]}]},
    "sizes": {"16": {"examples": 16, "epochs": 25, "batch": 1}, "64": {"examples": 64, "epochs": 30, "batch": 4}},
    "sft": {"save_every": 20, "recipes": {"bad": {"lr": 1.0e30, "max_grad_norm": 1.0e30}}},
}  # fmt: skip
LAB = Path(os.environ.get("VALLEY_SLURM", "/tmp/valley-slurm"))
FILES = [*MINIATURE, "config/smoke.yaml", "slurm.yaml"]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--profile", "slurm"]
SLURM = [*SNAKEMAKE, "--profile", "tests/slurm/site", *FILES]


@pytest.fixture(scope="session", autouse=True)
def cluster():
    """A running SLURM; one that was up before stays up."""
    before = subprocess.run(["pgrep", "-x", "slurmctld"], capture_output=True).returncode == 0
    started = subprocess.run([REPOSITORY / "tests/slurm/start.sh"], capture_output=True, text=True)
    if started.returncode == 77:
        pytest.skip(started.stderr.strip()[-300:])
    assert started.returncode == 0, started.stderr
    yield
    if not before:
        subprocess.run([REPOSITORY / "tests/slurm/stop.sh"], check=True)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A checkout in which data, base model and preflights are made, and the scores of an undisturbed local
    run beside it.
    """
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
    clear(tmp_path / "study")


@pytest.fixture(scope="session")
def canary(tmp_path_factory):
    """`make canary` through the profile, started beside another test, for most of its time it waits: folder
    and process.
    """
    folder = checkout(tmp_path_factory.mktemp("canary"))
    command = ["make", "-o", ".venv/complete", f"BIN={Path(sys.executable).parent}", "canary",
               "PROFILE=slurm --profile tests/slurm/site"]  # fmt: skip
    yield folder, start(folder, command=command)
    clear(folder)


def clear(folder: Path):
    """Cancel the jobs of a folder, and end each Snakemake in it: SLURM without cgroups loses sight of some
    when it requeues.
    """
    for job in jobs(folder):
        subprocess.run(["scancel", "--full", job], check=False)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == folder and "snakemake" in (process / "cmdline").read_text():
                os.kill(int(process.name), signal.SIGKILL)


def scores(folder: Path) -> dict[str, bytes]:
    """The bytes of every cell's scores."""
    return {
        path.parts[-3]: path.read_bytes()
        for path in (folder / ROOT / "results").glob("*/*/seed0/scores.json")
    }


def jobs(folder: Path, text: str = "", states: str = "") -> list[str]:
    """Ids of the folder's SLURM jobs whose comment contains a text, in the given states."""
    command = ["squeue", "-h", "-o", "%A|%Z|%k", *(["-t", states] if states else [])]
    rows = [
        line.split("|", 2)
        for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    ]
    return [job for job, where, comment in rows if where == str(folder) and text in comment]


def start(folder: Path, *flags: str, command: list[str] = SLURM) -> subprocess.Popen:
    """Snakemake on SLURM in the background, in a process group of its own, Ctrl-C not ignored; no environment
    activated.
    """
    log = open(folder / "snakemake.log", "a")  # noqa: SIM115 - lives as long as the process
    variables = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    variables["PATH"] = variables["PATH"].replace(f"{Path(sys.executable).parent}:", "")
    return subprocess.Popen([*command, *flags], cwd=folder, stdout=log, stderr=log, start_new_session=True, env=variables,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip


def write(folder: Path, runs: list[str], gpus: int = 0):
    """The study on other runs of S, with GPUs for each job."""
    grid = {"tasks": ["chain"], "cells": [{"models": ["S"], "runs": runs, "seeds": [0]}]}
    (folder / "slurm.yaml").write_text(
        yaml.safe_dump(STUDY | {"grid": grid, "models": {"S": {"gpus": gpus}}})
    )


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
    until(
        f"a checkpoint of {name}",
        lambda: list(cell(folder, name).glob("checkpoints/checkpoint-*/manifest.json")),  # whole
    )
    return until("its job", lambda: jobs(folder, f"rule_sft_wildcards_S_{name}_", "R"))[0]


def trainers(folder: Path, name: str) -> list[int]:
    """The processes that train a cell."""
    found = subprocess.run(
        ["pgrep", "-f", f"scripts/sft.py.*{ROOT}/results/S/{name}/"], capture_output=True, text=True
    )
    return [int(pid) for pid in found.stdout.split() if Path(os.readlink(f"/proc/{pid}/cwd")) == folder]


def process_of(folder: Path, name: str) -> tuple[str, list[str]]:
    """The interpreter and the environment of the process that trains a cell."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in trainers(folder, name)}
    pid = next(pid for pid, command in commands.items() if command[1].endswith("scripts/sft.py"))
    return commands[pid][0], Path(f"/proc/{pid}/environ").read_text().split("\0")


def send(folder: Path, name: str, number: signal.Signals):
    """A signal to the processes that train a cell, as soon as there are any."""
    for pid in until(f"a process that trains {name}", lambda: trainers(folder, name)):
        os.kill(pid, number)


def finish(process: subprocess.Popen, folder: Path, seconds: float = 420) -> int:
    """The exit code of a run; its log in the error when it takes too long, or lingers after its last word."""
    log, runs = folder / "snakemake.log", process.poll() is None
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(log.read_text()[-4000:]) from None
    assert (
        not runs or time.time() - log.stat().st_mtime < 30
    )  # a minute's timer for every submission once held it up
    return code


def shown(job: str) -> str:
    """What SLURM knows about a job."""
    return run(["scontrol", "show", "job", job])


def node_of(job: str) -> str:
    """The node that a job runs on."""
    return run(["squeue", "-h", "-j", job, "-o", "%N"]).strip()


def record(folder: Path, name: str) -> dict:
    return json.loads((cell(folder, name) / "train.json").read_text())


def plan(folder: Path) -> dict[str, int]:
    return planned(run([*SLURM, "-n"], folder))


def test_a_killed_a_cancelled_and_a_doomed_job_and_a_controller_outage(study, prepared):
    """One run meets four faults: what a retry cures is resumed, what it cannot cure stops at once, the rest
    is done.
    """
    write(study, ["sft-64", "sft-16", "sft-16.bad"], gpus=1)
    process = start(study)
    job = training(study, "sft-64")
    first = jobs(study, "rule_sft_wildcards_S_sft-16_")[0]
    asked = shown(job)
    for text in ("Partition=cpu", "TimeLimit=00:04:00", "MinMemoryNode=8001M", "TresPerJob=gres:gpu:1", "Nice=100", "Requeue=1",
                 "Comment=rule_sft_wildcards_S_sft-64_0"):  # fmt: skip
        assert re.search(rf"\b{text}\b", asked), asked
    standing = {one: int(re.search(r"\bPriority=(\d+)", shown(one))[1]) for one in (first, job)}
    assert standing[first] > standing[job] + 90  # the smallest size goes first
    (program, variables) = process_of(study, "sft-64")
    assert program == sys.executable  # the environment of the one who started Snakemake, on the node
    assert "HF_HUB_OFFLINE=1" in variables
    assert {"CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=1"} & set(variables)
    run(["scancel", job])
    training(study, "sft-16")
    send(study, "sft-16", signal.SIGKILL)
    until("a job after training", lambda: jobs(study, "rule_generate", "R"), 300)
    time.sleep(
        10
    )  # a job that starts while the controller dies is held (`scontrol release`) or fails for lack of a step
    os.kill(int((LAB / "run/slurmctld.pid").read_text()), signal.SIGTERM)
    time.sleep(30)
    run([REPOSITORY / "tests/slurm/start.sh"])
    assert finish(process, study) == 1  # the doomed cell
    for name in ("sft-16", "sft-64"):
        assert "checkpoint-" in record(study, name)["resumed_from"]
    assert scores(study) == {name: prepared[1][name] for name in ("sft-16", "sft-64")}

    # The doomed cell: its first failure is remembered, the retries stop on it, and all that is left is that
    # cell.
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
    write(study, ["sft-64", "sft-16"])
    flags = ["--default-resources", "slurm_partition=low", "runtime=5", "mem_mb=1000", "slurm_account=valley",
             "--set-resources", "sft:mem_mb=250000", "--until", "score"]  # a node holds one training  # fmt: skip
    process = start(study, *flags)
    hung = training(study, "sft-16")
    send(study, "sft-16", signal.SIGSTOP)  # it hangs, until its time is over
    run(["scontrol", "update", f"job={hung}", "TimeLimit=1"])
    job = training(study, "sft-64")

    node = node_of(job)
    run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"])
    until("the job to be requeued", lambda: job in jobs(study, "rule_sft_wildcards_S_sft-64_", "PD"))
    subprocess.run(
        ["scontrol", "update", f"nodename={node}", "state=resume"], check=False
    )  # unless it came back by itself
    until("it to train again", lambda: job in jobs(study, "", "R") and trainers(study, "sft-64"))

    hog = run(
        [
            "sbatch",
            "--parsable",
            "-p",
            "high",
            "-w",
            node_of(job),  # not the first, if it went on on the other
            "--exclusive",
            "--time=2",
            f"--chdir={study}",  # and is cancelled with the study's jobs, should this end here
            "--output=/dev/null",
            "--wrap=sleep 3",
        ]
    ).strip()
    until("the preempted job", lambda: job in jobs(study, "rule_sft_wildcards_S_sft-64_", "PD"))
    until(
        "the preempting job", lambda: hog not in run(["squeue", "-h", "-t", "PD,R", "-o", "%A"]).split(), 90
    )

    until("the time limit", lambda: "JobState=TIMEOUT" in shown(hung), 200)
    assert finish(process, study) == 0
    assert "Restarts=2" in shown(job)  # the node, the preemption
    for name in ("sft-16", "sft-64"):
        assert "checkpoint-" in record(study, name)["resumed_from"]
    assert scores(study) == {name: prepared[1][name] for name in ("sft-16", "sft-64")}
    assert planned(run([*SLURM, "-n", *flags], study)) == {}


def test_a_training_whose_time_is_nearly_up_goes_back_into_the_queue_and_uses_no_retry(study, prepared):
    """A job of one minute that stands still for most of it ends before its time and goes on under its id."""
    write(study, ["sft-64"])
    process = start(study, "--set-resources", "sft:runtime=1", "--retries", "0", "--until", "score")
    job = training(study, "sft-64")
    send(study, "sft-64", signal.SIGSTOP)
    until(
        "its last seconds",
        lambda: re.fullmatch(r"0:1\d", run(["squeue", "-h", "-j", job, "-o", "%L"]).strip()),
    )
    send(study, "sft-64", signal.SIGCONT)
    assert finish(process, study) == 0
    assert int(re.search(r"Restarts=(\d+)", shown(job))[1]) >= 1
    made = record(study, "sft-64")
    assert (len(made["segments"]) > 1, made["steps_lost"]) == (True, 0)
    assert "checkpoint-" in made["resumed_from"]
    assert scores(study) == {"sft-64": prepared[1]["sft-64"]}


@pytest.mark.usefixtures("canary")
def test_snakemake_itself_interrupted_terminated_and_killed(study, prepared):
    """After each the rerun plans exactly the rest; after a kill the orphans are cancelled and the folder
    unlocked first.
    """
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
    finished = {
        path: path.stat().st_mtime_ns for path in (study / ROOT / "results").glob("*/*/seed0/train.json")
    }
    process = start(study)
    assert finish(process, study) == 0
    assert all(
        path.stat().st_mtime_ns == stamp for path, stamp in finished.items()
    )  # nothing finished ran again
    assert scores(study) == prepared[1]
    assert plan(study) == {}


def test_the_canary_trains_generates_and_grades_through_the_profile(canary):
    """`make canary` as it is, data and base model included."""
    folder, process = canary
    assert finish(process, folder) == 0
    made = folder / "studies/canary/results/S/sft-8.canary/seed4"
    assert json.loads((made / "train.json").read_text())["steps"] == 20
    assert records.parquet_rows(made / "grades.parquet") == 10
    assert (made / "scores.json").exists()
    assert (folder / "studies/canary/report/page.html").exists()
    submitted = re.findall(r"submitted with SLURM jobid", (folder / "snakemake.log").read_text())
    assert len(submitted) == 8  # pretrain, order_traces, subset, preflight, sft, probe, generate, grade


@pytest.mark.parametrize(
    ("kind", "gpu", "feature", "partition"),
    [
        ("gpus", "TresPerJob=gres:gpu:1", "Features=(null)", "cpu"),
        ("gres", "TresPerNode=gres:gpu:h100:1", "Features=(null)", "gpu"),
        ("constraint", "TresPerJob=gres:gpu:1", "Features=h100", "gpu"),
    ],
)
def test_a_site_of_each_kind_gets_what_it_asks_for(study, kind, gpu, feature, partition):
    """The profiles of profiles/sites, as they are, on a cluster that has what they name."""
    write(study, ["sft-16", "sft-64"], gpus=1)
    (cell(study, "sft-64") / "preflight.json").unlink()
    process = start(study, command=[*SNAKEMAKE, "--profile", f"profiles/sites/{kind}", *FILES])
    sft, preflight = until("two jobs", lambda: jobs(study, "rule_sft") and jobs(study, "rule_preflight") and
                           jobs(study, "rule_sft") + jobs(study, "rule_preflight"))  # fmt: skip
    process.kill()
    assert "Partition=gpu" in shown(sft)
    assert gpu in shown(sft)
    assert feature in shown(sft)
    assert "TimeLimit=00:19:00" in shown(sft)  # by the plan, with its margin; of the site's 24 hours
    assert f"Partition={partition}" in shown(preflight)
    assert "gpu" not in re.sub("Partition=gpu|JobName=.*|Command=.*|WorkDir=.*|Std.*", "", shown(preflight))


def test_a_job_of_two_nodes_starts_once_on_each(tmp_path):
    """As the executor starts it: one task by srun, from which launch.py spreads to the nodes."""
    (tmp_path / "who.py").write_text(
        "import os; print('on', *map(os.environ.get, ('SLURMD_NODENAME', 'SLURM_NODEID', 'CUDA_VISIBLE_DEVICES')))"
    )
    job = f"srun -n1 --nodes=2 {sys.executable} scripts/launch.py --gpus 2 {tmp_path}/who.py"
    run(
        [
            "sbatch",
            "--wait",
            "--partition=gpu",
            "--nodes=2",
            "--gres=gpu:2",
            "--time=2",
            "--deadline=now+5minutes",  # fails where it would wait for ever
            f"--output={tmp_path}/log",
            f"--wrap={job}",
        ]
    )
    said = sorted(line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("on"))
    assert said == ["on valley1 0 0,1", "on valley2 1 0,1"]


def doctor(folder: Path, request: str, ok: bool = True) -> str:
    return run(
        [
            sys.executable,
            "scripts/doctor.py",
            "--partition",
            "gpu",
            f"--request={request}",
            "--folder",
            folder,
        ],
        ok=ok,
    )


def test_the_doctor_finds_nothing_wrong_here_but_that_its_card_is_none(tmp_path):
    """The site gives out cards that are not there, and the doctor multiplies on the one it got."""
    output = doctor(tmp_path, "--gres=gpu:h100:1", ok=False)
    [said] = re.findall(r"FAIL +(.*)", output)
    assert said.startswith("CUDA on the node: ")
    assert "torch cannot use the card" in said
    for text in ("GPUs of the probe: 0", "seen by the job at once", "the environment imports"):
        assert text in output


def test_the_doctor_says_what_is_wrong_with_a_cluster_and_what_to_do(tmp_path):
    conf, sacct = Path("/etc/slurm/slurm.conf"), shutil.which("sacct", mode=os.F_OK)
    before = conf.read_text()
    try:
        conf.write_text(before.replace("MinJobAge=300", "MinJobAge=60"))
        run(["chmod", "+x", sacct])
        run(["scontrol", "reconfigure"])
        output = doctor(tmp_path, "--gres=gpu:unheard:1", ok=False)
    finally:
        conf.write_text(before)
        run(["chmod", "-x", sacct])
        run(["scontrol", "reconfigure"])
    assert re.search(r"FAIL +finished jobs stay in squeue for 60 s \(MinJobAge\). Below 300 s", output)
    assert re.search(r"FAIL +sacct is there, but .*Take sacct off the PATH", output)
    assert re.search(r"FAIL +sbatch refused the probe: .*(?s:.*)Which partition, account and option", output)
    assert "3 check(s) failed" in output
    assert re.search("FAIL +GPUs of the probe: none", doctor(tmp_path, "--mem=3000", ok=False))
