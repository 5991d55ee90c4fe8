"""GPUs: who gets which, how training is started, and what a machine without any says."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import launch
import pytest
import yaml
from conftest import REPOSITORY, SMOKE, checkout, planned, run, script, snakemake

from valley import environment, records

CARDS = {"2": "GPU-c", "5": "GPU-f", "7": "GPU-h"}


def test_jobs_side_by_side_get_different_gpus_and_give_them_back(tmp_path):
    holder = ("import sys, time; sys.path.insert(0, 'scripts'); import launch; from pathlib import Path\n"
              f"print(launch.take_gpus(2, {CARDS}, Path('{tmp_path}')), flush=True); time.sleep(60)")  # fmt: skip
    first = subprocess.Popen(
        [sys.executable, "-c", holder], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline().strip() == "['2', '5']"
    assert launch.take_gpus(1, CARDS, tmp_path) == ["7"]
    first.kill()
    first.wait()
    time.sleep(0.1)
    assert launch.take_gpus(2, CARDS, tmp_path) == ["2", "5"]


def test_given_gpus_are_left_as_they_are(tmp_path):
    script = tmp_path / "show.py"
    script.write_text("import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], sys.argv[1:])")
    command = [sys.executable, "scripts/launch.py", "--gpus", 2, script, "--out", "x"]
    assert run(command, CUDA_VISIBLE_DEVICES="4,6").strip() == "4,6 ['--out', 'x']"


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A machine whose nvidia-smi lists four cards, one of them cut into two MIG slices, and that has no CPU
    in place of a card.
    """
    lines = [f"GPU {i}: NVIDIA H100 80GB HBM3 (UUID: GPU-{letter}0b1-22)" for i, letter in enumerate("acde")]
    lines += [f"  MIG 1g.10gb     Device  {i}: (UUID: MIG-{i}f-33)" for i in range(2)]
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}:{os.environ['PATH']}")
    for name in ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    script = tmp_path / "show.py"
    script.write_text(
        "import os; print('cards', os.environ['CUDA_VISIBLE_DEVICES'], os.environ.get('VALLEY_GPUS'))"
    )
    return script


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        (None, ["0", "1", "2", "3"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,3", ["2", "3"]),
        ("0,-1,1", ["0"]),  # as CUDA reads it: what follows a name that is none is not there
        ("3,4", ["3"]),
        ("1,1", ["1"]),
        ("GPU-c0b1-22, GPU-d", ["GPU-c0b1-22", "GPU-d"]),
        ("GPU-z", []),
        ("MIG-1f-33", ["MIG-1f-33"]),
        ("G,M", []),
    ],
)
def test_the_cards_of_a_job_are_counted_as_cuda_counts_them(driver, monkeypatch, named, seen):
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert list(environment.cards()) == seen
    assert environment.gpus() == len(seen)


@pytest.mark.parametrize("job", [None, "17"])
@pytest.mark.parametrize("named", ["NoDevFiles", "-1", "0,1,2", "4,5,6,7"])
def test_a_job_that_sees_fewer_cards_than_it_asked_for_does_not_start(driver, monkeypatch, named, job):
    """It trained on, on the CPU, and its record said nothing of it."""
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    output = run(
        [sys.executable, "scripts/launch.py", "--gpus", 4, driver], ok=False, CUDA_VISIBLE_DEVICES=named
    )
    assert "4 GPUs are asked for" in output
    assert f"(CUDA_VISIBLE_DEVICES={named})" in output
    assert ("SLURM job 17" in output) == bool(job)
    assert "cards" not in output


def test_a_slurm_job_without_a_card_does_not_start_and_one_with_its_cards_keeps_them(driver, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    command = [sys.executable, "scripts/launch.py", "--gpus", 2, driver]
    assert run(command, CUDA_VISIBLE_DEVICES="1,2").strip() == "cards 1,2 2"
    (driver.parent / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert "SLURM job 17: 2 GPUs are asked for, 0 are there" in run(command, ok=False)


def test_jobs_under_a_users_own_list_of_cards_get_different_ones(driver, monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "LOCKS", tmp_path / "locks")
    got = []
    for _ in range(2):
        variables = {"CUDA_VISIBLE_DEVICES": "2,3"}
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
        launch.give_gpus(1, variables)
        got.append(variables["CUDA_VISIBLE_DEVICES"])
    assert got == ["2", "3"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    launch.give_gpus(
        2, variables := {}
    )  # another who names none: the same cards are taken, whatever they are called
    assert variables["CUDA_VISIBLE_DEVICES"] == "0,1"
    monkeypatch.setattr(launch.time, "sleep", lambda _: (_ for _ in ()).throw(TimeoutError))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-d0b1-22")
    with pytest.raises(TimeoutError):  # it waits
        launch.give_gpus(1, {"CUDA_VISIBLE_DEVICES": "GPU-d0b1-22"})


@pytest.mark.parametrize("name", ["sft", "rl", "generate", "judge", "probe"])
def test_a_script_started_on_cards_that_torch_does_not_see_stops(tmp_path, name):
    """It worked on, on the CPU, and ended well."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch sees a card here")
    made, none = tmp_path / "made", tmp_path / "none.parquet"
    sampling = ["--engine", "transformers", "--max-context", 9]
    training = ["--out", made, "--record", tmp_path / "train.json", "--lr", 1]
    given = {
        "sft": ["--data", none, *training, "--batch", 1, "--max-length", 9],
        "rl": ["--problems", none, *training, "--curve", tmp_path / "curve.parquet", "--steps", 1, "--prompts", 1,
               "--rollouts", 1, "--minibatch", 1, "--max-new-tokens", 9, "--save-every", 1, "--device-batch", 1],
        "generate": ["--task", none, "--out", made, "--samples", 1, "--max-new-tokens", 9, "--temperature", 1, "--top-p", 1, *sampling],
        "judge": ["--responses", none, "--tasks", none, "--prompt", none, "--max-characters", 9, "--out", made, *sampling],
        "probe": ["--data", none, "--out", made, "--max-length", 9],
    }  # fmt: skip
    output = script(name, "--model", tmp_path, *given[name], ok=False, VALLEY_GPUS="1")
    assert "torch sees 0 of 1 GPUs" in output
    assert list(tmp_path.iterdir()) == []  # nothing remembers it: another try may cure it


def test_vllm_reports_nothing_to_its_makers(monkeypatch):
    from valley import engines

    monkeypatch.setattr(os, "environ", {})
    engines.vllm_options()
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"


def long_folder(tmp_path, length: int):
    folder = tmp_path / ("t" * (length - len(str(tmp_path)) - 1))
    folder.mkdir()
    return folder


@pytest.mark.parametrize("length", [85, 120])
def test_a_long_tmpdir_does_not_stop_the_graders_pool(tmp_path, length):
    """The path of a socket has 107 bytes, and the pool's server listens below TMPDIR."""
    folder = long_folder(tmp_path, length)
    task, responses = tmp_path / "task.parquet", tmp_path / "chain.parquet"
    records.write_parquet(task, [{"id": "q", "problem": "7/7", "answer": "1"}])
    row = {"id": "q", "sample": 0, "response": r"\boxed{\frac{7}{7}}", "tokens": 3, "finish_reason": "stop"}
    records.write_parquet(responses, [row])
    flags = ["--responses", responses, "--tasks", task, "--samples", 1, "--out", tmp_path / "grades.parquet"]
    run([sys.executable, "scripts/grade.py", *flags], TMPDIR=str(folder))
    assert records.read_parquet(tmp_path / "grades.parquet")["correct"].to_pylist() == [True]


def test_a_long_tmpdir_is_used_by_a_short_name_and_the_warm_server_can_listen_there(tmp_path):
    """At 109 characters every job waited two minutes for a server that could not come up."""
    folder = long_folder(tmp_path, 120)
    told = (
        "import socket, sys, warm\n"
        "def bound(path):\n"
        "    socket.socket(socket.AF_UNIX).bind(str(path)), sys.exit(f'bound {path.resolve()}')\n"
        "warm.connect = bound\n"
        "warm.call([])"
    )
    output = run([sys.executable, "-c", told], ok=False, TMPDIR=str(folder), PYTHONPATH="scripts")
    assert f"bound {folder}/valley-warm-" in output
    assert len(list(folder.glob("valley-warm-*/*.sock"))) == 1


def test_a_tmpdir_that_cannot_be_shortened_says_so_at_once(tmp_path):
    folder = long_folder(tmp_path, 120)
    link = Path(f"/tmp/valley-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}")
    link.symlink_to(tmp_path)  # somebody else's
    told = "from valley import temporary; temporary.short_tmp()"
    output = run([sys.executable, "-c", told], ok=False, TMPDIR=str(folder), PYTHONPATH="scripts")
    link.unlink()
    assert "cannot be shortened" in output
    assert "export TMPDIR=/tmp" in output
    assert "Traceback" not in output


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


@pytest.mark.parametrize(
    ("over", "rules"),
    [({"generate": {"engine": "vllm"}}, "generate of"), ({"rl": {"vllm": True}}, "rl of")],
)
def test_an_environment_without_vllm_says_so_before_the_first_job(tmp_path, over, rules):
    """It failed in the first generation, when all before it was trained."""
    if importlib.util.find_spec("vllm"):
        pytest.skip("this environment has vLLM")
    folder = checkout(tmp_path)
    (folder / "own.yaml").write_text(yaml.safe_dump(over))
    cell = "studies/smoke/results/S/base+rl/seed0/scores.json"
    output = snakemake(folder, *SMOKE, "own.yaml", "--", cell, ok=False)
    assert f"{rules} this plan sample(s) by vLLM" in output
    assert not (folder / "studies").exists()


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


@pytest.mark.parametrize("kind", ["profiles/sites/gpus", "profiles/sites/gres", "tests/slurm/site"])
def test_the_profile_of_each_kind_of_site_plans(kind, tmp_path):
    """What they ask SLURM for is tested on a real one, by `make test-slurm`; the last has an expression for
    the time of a job.
    """
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        "slurm",
        "--profile",
        kind,
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


def slow(folder, name: str) -> Path:
    """A folder for PATH in which a command of SLURM gives no answer."""
    (folder / name).write_text("#!/bin/sh\nexec sleep 60\n")
    (folder / name).chmod(0o755)
    return folder


def test_a_controller_that_gives_no_answer_is_said(tmp_path, monkeypatch, capsys):
    import doctor
    import status

    monkeypatch.setenv("PATH", f"{slow(tmp_path, 'squeue')}:{os.environ['PATH']}")
    monkeypatch.setattr(status, "PATIENCE", 0.2)
    assert status.queue(tmp_path) == {}
    said = "warning: SLURM's queue does not answer (nothing within 0.2 s): its jobs are not shown\n"
    assert capsys.readouterr().err == said
    assert doctor.output("squeue", seconds=0.2) == (124, "squeue gives no answer within 0.2 s")
    (tmp_path / "squeue").write_text("#!/bin/sh\necho slurm_load_jobs error >&2\nexit 1\n")
    assert status.queue(tmp_path) == {}
    assert "does not answer (slurm_load_jobs error)" in capsys.readouterr().err


@pytest.fixture
def probed(tmp_path, monkeypatch):
    """A function: what the doctor finds where its probe is this program, run by a stand-in for sbatch."""
    import doctor

    (python := tmp_path / "my clone" / "python").parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    # What sbatch does with --wrap, at once and here.
    (tmp_path / "sbatch").write_text(
        '#!/bin/sh\nfor word in "$@"; do case "$word" in --wrap=*) wrap="${word#--wrap=}";; --output=*) log="${word#--output=}";; esac; done\n'
        'sh -c "$wrap" > "$log" 2>&1\necho 7\n'
    )
    for command in (python, tmp_path / "sbatch"):
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(doctor.time, "sleep", lambda seconds: None)

    def found(program: str):
        monkeypatch.setattr(doctor, "PROBE", program)
        return doctor.probe("gpu", [], tmp_path / "my clone/logs", 2)

    return found


ANSWERS = 'import pathlib; pathlib.Path("{answer}").write_text("seen")\n'


def test_the_doctors_probe_runs_where_a_path_has_a_space(probed):
    found = probed(ANSWERS + 'print("written", pathlib.Path("{seen}").exists())')
    assert (True, "a file written here is seen by the job at once") in [seen[:2] for seen in found]


def test_the_doctor_names_the_stack_that_the_nodes_driver_runs_where_torch_cannot_use_the_card(probed):
    too_old = "RuntimeError The NVIDIA driver on your system is too old (found version 12080)"
    [fine, seen, todo] = probed(f"{ANSWERS}print('gpus 0\\ndriver 570.86.15\\ncuda {too_old}')")[0]
    assert (fine, seen) == (False, f"CUDA on the node: {too_old}")
    assert todo.endswith("Driver 570.86.15 runs envs/gpu-cuda12.lock: `make .venv/complete STACK=gpu-cuda12`")


def test_the_doctors_probe_multiplies_on_a_card_and_says_why_it_cannot(tmp_path):
    import doctor

    (probe := tmp_path / "probe.py").write_text(
        doctor.PROBE.replace("{seen}", str(tmp_path)).replace("{answer}", str(tmp_path / "answer"))
    )
    said = run([sys.executable, probe], CUDA_VISIBLE_DEVICES="")
    assert re.search(r"^cuda \w*(Error|Exception) \S", said, re.MULTILINE)
    assert (tmp_path / "answer").exists()


def test_an_optimiser_on_the_host_gets_its_share_of_the_cores_and_no_other_does(monkeypatch):
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda _: set(range(16)))
    command = launch.training_command(4, "config/deepspeed/zero2-offload.json", ["sft.py"], {})
    assert command[command.index("--num_cpu_threads_per_process") + 1] == "4"
    assert "--num_cpu_threads_per_process" not in launch.training_command(4, "zero2.json", ["sft.py"], {})


def test_a_lock_that_a_killed_build_left_is_removed_and_one_of_a_build_that_may_live_is_not(tmp_path):
    """torch waits for such a file for ever: every training under DeepSpeed stood still after one kill."""
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    show = tmp_path / "show.py"
    show.write_text(
        "import sys, launch; print(launch.unlocked_extensions(sys.argv[1]), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, show, tmp_path]
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts")}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
    ) as first:
        assert first.stdout.readline().strip() == str(tmp_path)
        assert not lock.exists()
        lock.touch()  # the first launch builds now
        subprocess.run(command, stdin=subprocess.DEVNULL, env=variables, check=True)
        assert lock.exists()
        first.communicate()
    subprocess.run(command, stdin=subprocess.DEVNULL, env=variables, check=True)
    assert not lock.exists()
