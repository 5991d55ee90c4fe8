"""GPUs: who gets which, how training is started, and what a machine without any says."""

import shutil
import subprocess
import sys
import time

import launch
import pytest
from conftest import REPOSITORY, checkout, planned, run, snakemake

from valley import environment


def test_jobs_side_by_side_get_different_gpus_and_give_them_back(tmp_path):
    holder = ("import sys, time; sys.path.insert(0, 'scripts'); import launch; from pathlib import Path\n"
              f"print(launch.take_gpus(2, 3, Path('{tmp_path}')), flush=True); time.sleep(60)")  # fmt: skip
    first = subprocess.Popen(
        [sys.executable, "-c", holder], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline().strip() == "[0, 1]"
    assert launch.take_gpus(1, 3, tmp_path) == [2]
    first.kill()
    first.wait()
    time.sleep(0.1)
    assert launch.take_gpus(2, 3, tmp_path) == [0, 1]


def test_given_gpus_are_left_as_they_are(tmp_path):
    script = tmp_path / "show.py"
    script.write_text("import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], sys.argv[1:])")
    command = [sys.executable, "scripts/launch.py", "--gpus", 2, script, "--out", "x"]
    assert run(command, CUDA_VISIBLE_DEVICES="4,6").strip() == "4,6 ['--out', 'x']"


def test_a_machine_without_enough_gpus_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if environment.gpus():
        pytest.skip("this machine has GPUs")
    output = run([sys.executable, "scripts/launch.py", "--gpus", 2, "scripts/sft.py"], ok=False)
    assert "2 GPUs are asked for, 0 are there" in output
    assert "Traceback" not in output


def test_the_papers_grid_on_a_machine_without_gpus_stops_before_its_first_job(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folder = checkout(tmp_path)
    output = snakemake(
        folder, "--configfile", "config.yaml", "--", "results/qwen2.5-0.5b/base/seed0/scores.json", ok=False
    )
    assert "asks for 1 GPU(s), this machine has 0" in output
    assert not (folder / "data").exists()
    assert not (folder / "models").exists()


def test_training_starts_one_process_a_gpu_on_every_node(monkeypatch):
    script = ["scripts/sft.py", "--batch", "8"]
    command = " ".join(
        launch.training_command(8, "config/deepspeed/zero3.json", script, {"SLURM_JOB_ID": "12"})
    )
    assert "--num_processes 8 --num_machines 1" in command
    assert "--deepspeed_config_file config/deepspeed/zero3.json" in command
    assert command.endswith("--main_process_port 29512 scripts/sft.py --batch 8")
    monkeypatch.setattr(
        launch.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "node7\nnode8\n")
    )
    two = {
        "SLURM_JOB_ID": "12",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_NODEID": "1",
    }
    command = " ".join(launch.training_command(8, "zero3.json", script, two))
    assert "--num_processes 16 --num_machines 2" in command
    assert "--machine_rank 1 --main_process_ip node7" in command


def test_without_slurm_the_plan_works_and_a_run_says_what_is_missing(tmp_path):
    """The profile plans anywhere; only submitting needs sbatch."""
    if shutil.which("scontrol") and subprocess.run(["scontrol", "ping"], capture_output=True).returncode == 0:
        pytest.skip("a SLURM is up here")
    folder = checkout(tmp_path)
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm"]
    start = time.monotonic()
    assert planned(run([*command, "-n"], folder))["generate"] > 500  # the paper's grid
    assert time.monotonic() - start < 15 * 2  # 15 s alone; the tests run side by side
    output = run([*command, "--", "results/qwen2.5-0.5b/base/seed0/scores.json"], folder, ok=False)
    assert "SLURM's" in output
    assert "login node of a SLURM cluster" in output
    assert not (folder / "data").exists()


@pytest.mark.parametrize("kind", ["gpus", "gres", "constraint"])
def test_the_profile_of_each_kind_of_site_plans(kind, tmp_path):
    """What they ask SLURM for is tested on a real one, by `make test-slurm`."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        "slurm",
        "--profile",
        f"profiles/sites/{kind}",
        "-n",
    ]
    assert (
        planned(run([*command, "--", "results/qwen2.5-0.5b/sft-8k/seed0/scores.json"], checkout(tmp_path)))[
            "sft"
        ]
        == 1
    )


def test_the_doctor_without_slurm_says_what_is_missing_and_where_to_go(tmp_path):
    output = run([sys.executable, "scripts/doctor.py", "--partition", "gpu"], ok=False, PATH=str(tmp_path))
    assert output.count("FAIL") == 4
    assert "FAIL  sbatch is missing. Run this on the cluster's login node" in output
    assert "this cluster: 4 check(s) failed" in output
