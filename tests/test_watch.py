"""What a running study shows: cells done, what runs and how far, the time left; a failed job with the end of
its log.
"""

import os
import pty
import sys

import pytest
from conftest import REPOSITORY, run

sys.path.append(str(REPOSITORY / "workflow/plugins"))
import snakemake_logger_plugin_valley as watch


def test_the_line_counts_cells_and_foretells_by_the_jobs_that_are_done(tmp_path):
    log = tmp_path / "sft.log"
    log.write_text('step 8/512 {"loss": 2.5}\nstep 120/512 {"loss": 0.34, "reward": 1}\n')
    clock = watch.Clock({"sft": 4, "score": 4}, now=0.0)
    clock.start(1, "sft", {"model": "S", "run": "sft-64", "seed": "0"}, log, 0.0)
    assert clock.line(5.0) == "0/4 cells · 0/8 jobs · 5 s · sft S sft-64 seed 0 step 120/512 loss 0.34"
    clock.end(1, 10.0)
    clock.start(2, "score", {}, None, 10.0)
    assert "at least 30 s left" in clock.line(10.0)
    clock.end(2, 12.0)
    assert clock.line(12.0) == "1/4 cells · 2/8 jobs · 12 s · about 36 s left"  # three of 10 s, three of 2 s


def test_jobs_side_by_side_halve_what_is_left():
    clock = watch.Clock({"sft": 4}, now=0.0)
    for job in (1, 2):
        clock.start(job, "sft", {}, None, 0.0)
    for job in (1, 2):
        clock.end(job, 10.0)
    assert clock.left(10.0) == (10.0, True)


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (720, "12 min"), (12600, "3.5 h")])
def test_times_are_said_as_people_say_them(seconds, text):
    assert watch.spoken(seconds) == text


def test_the_foot_of_a_terminal_is_kept_out_of_what_scrolls_and_given_back(monkeypatch):
    leader, follower = pty.openpty()
    import termios

    termios.tcsetwinsize(follower, (24, 80))
    with open(follower, "w", closefd=False) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        foot = watch.Foot()
        foot.draw("x" * 200)
        shown = os.read(leader, 10_000).decode()
        foot.clear()
        cleared = os.read(leader, 10_000).decode()
    assert "\x1b[1;23r" in shown
    assert f"\x1b[24;1H\x1b[2K{'x' * 79}\x1b8" in shown  # a longer one would wrap and scroll
    assert cleared == "\x1b7\x1b[r\x1b[24;1H\x1b[2K\x1b8"


SNAKEFILE = """
rule all:
    input: "good", "bad"
rule good:
    output: "good"
    shell: "touch {output}"
rule bad:
    output: "bad"
    log: "bad.log"
    shell: "echo the disk is full > {log}; false"
"""


def test_elsewhere_a_failed_job_is_named_with_the_end_of_its_log(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", "--logger", "valley", "--cores", 1, "--keep-going"]
    output = run(command, tmp_path, ok=False, PYTHONPATH=str(REPOSITORY / "workflow/plugins"))
    assert "3 jobs" in output
    assert "failed: bad, see bad.log\nthe disk is full" in output
    assert "Traceback" not in output
    assert "\x1b" not in output
