"""Random kills: rules, the warm server, Snakemake and whole process groups, until a study is done all the
same.

Every SIGKILL falls at a random moment; whatever was killed, the same command is given again. The scores are
those of a study that nothing disturbed, byte for byte, and nothing finished is made twice.
"""

import collections
import contextlib
import os
import random
import re
import signal
import subprocess
import sys

import psutil
import pytest
from conftest import SMOKE, checkout, planned, run, snakemake
from test_training import until

from valley import locks

KILLS = int(os.environ.get("VALLEY_KILLS", 100))
SEED = int(os.environ.get("VALLEY_KILLS_SEED", 0))
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *SMOKE]
# times one command may be given for one study; each time kills come a little later, on a slow machine too
RUNS = 60


def scores(folder):
    """The bytes of every cell's scores."""
    found = folder.glob("studies/smoke/results/*/*/*/scores.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def processes(folder, variables) -> dict[str, list[psutil.Process]]:
    """The processes of a study by kind: its Snakemake, the warm server of its TMPDIR, all others in its
    folder.
    """
    found = collections.defaultdict(list)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            command = process.cmdline()
            if "--serve" in command and any(variables["TMPDIR"] in part for part in command):
                forked = "--serve" in process.parent().cmdline()  # by the server, for a job
                found["job" if forked else "server"].append(process)
            elif process.cwd() == str(folder) and process.pid != os.getpid():
                found["snakemake" if "snakemake" in command and "--profile" in command else "job"].append(
                    process
                )
    return found


def strike(dice, folder, main, variables) -> str | None:
    """Kill something at random; what it was, None where there was nothing of that kind."""
    kind = dice.choices(["job", "server", "snakemake", "group"], [6, 1, 1, 1])[0]
    if kind == "group":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(main.pid, signal.SIGKILL)
            return kind
        return None
    there = processes(folder, variables)[kind]
    if not there:
        return None
    with contextlib.suppress(psutil.Error):
        dice.choice(there).kill()
        return kind
    return None


@pytest.mark.slow
def test_a_study_whose_processes_are_killed_at_random_ends_with_the_scores_of_an_undisturbed_one(
    smoke, tmp_path
):
    dice, count, studies = random.Random(SEED), collections.Counter(), 0
    expected = scores(smoke)
    while count.total() < KILLS:
        studies += 1
        folder = checkout(tmp_path / f"study{studies}")
        (folder.parent / f"t{studies}").mkdir()
        variables = os.environ | {"TMPDIR": str(folder.parent / f"t{studies}")}
        finished = {}
        for tries in range(RUNS):
            with open(folder / "output.txt", "a") as log:
                main = subprocess.Popen(
                    SNAKEMAKE, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=variables
                )
                while main.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        main.wait(dice.uniform(0.5, 6 + 2 * tries))
                    if (
                        main.poll() is None
                        and count.total() < KILLS
                        and (what := strike(dice, folder, main, variables))
                    ):
                        count[what] += 1
            now = scores(folder)
            assert {name: now.get(name) for name in finished} == finished, "finished work was lost or changed"
            finished = now
            if main.returncode == 0:
                break
            if (folder / ".snakemake/locks").exists():
                subprocess.run([*SNAKEMAKE, "--unlock"], cwd=folder, capture_output=True, env=variables)
        assert main.returncode == 0, (folder / "output.txt").read_text()[-3000:]
        assert scores(folder) == expected
        assert planned(snakemake(folder, "-n", *SMOKE)) == {}
        print(f"study {studies}: {tries + 1} commands; kills so far {dict(count)}", flush=True)
        for process in [one for kind in processes(folder, variables).values() for one in kind]:
            with contextlib.suppress(psutil.Error):
                process.kill()
    print(f"{count.total()} kills in {studies} studies, none lost, none different: {dict(count)}")


@pytest.mark.slow
def test_a_second_snakemake_on_a_folder_says_so_and_status_and_page_work_during_a_run(smoke, tmp_path):
    folder = checkout(tmp_path / "study")
    log = open(folder / "output.txt", "w")  # noqa: SIM115 - lives as long as the process
    first = subprocess.Popen(SNAKEMAKE, cwd=folder, stdout=log, stderr=log)
    results = folder / "studies/smoke/results/S"
    until(lambda: locks.held(results / "base+rl/seed0/train.lock"), 300)
    trainer = locks.holder(results / "base+rl/seed0/train.lock")["pid"]
    os.kill(trainer, signal.SIGSTOP)  # so that the study cannot come to its own report meanwhile
    until(lambda: list(results.glob("*/*/scores.json")), 300)
    said = snakemake(folder, *SMOKE, ok=False)
    assert "cannot be locked" in said
    make = [
        "make",
        "-o",
        ".venv/complete",
        f"BIN={os.path.dirname(sys.executable)}",
        f"STUDY={' '.join(SMOKE)}",
    ]
    assert "cells: " in run([*make, "status"], folder)
    run([*make, "page"], folder)
    assert first.poll() is None
    assert re.search(r"cells? (is|are) missing", (folder / "studies/smoke/report/page.html").read_text())
    os.kill(trainer, signal.SIGCONT)
    assert first.wait() == 0, (folder / "output.txt").read_text()[-3000:]
    assert scores(folder) == scores(smoke)
    assert "missing</strong>:" not in (folder / "studies/smoke/report/page.html").read_text()
