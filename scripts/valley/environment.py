"""What a process inherits or finds: the variables of every job, GPUs, SLURM, its parent."""

import ctypes
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from valley import kernels, plain, records, temporary

CONTINUES = 85  # exit code: what is left is done by starting again
SECONDS_TO_GO = 120  # within which SLURM ends a job that it puts back into its queue
# The GPU stacks of envs/, the better first, and the oldest driver of each: NVIDIA's table of minor version
# compatibility (docs.nvidia.com/deploy/cuda-compatibility) has 580 for CUDA 13 and 525 for CUDA 12.
DRIVERS = {"gpu": 580, "gpu-cuda12": 525}


def listed_cards() -> list[str]:
    """The UUIDs of this machine's NVIDIA GPUs, in the driver's order, then those of MIG slices; none without
    a driver.
    """
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return sorted(re.findall(r"\(UUID: ((?:GPU|MIG)-[^)]+)\)", listed.stdout), key=lambda card: card[:3])


def driver() -> str | None:
    """The version of this machine's NVIDIA driver (570.86.15); None where none answers."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return said.split()[0] if re.match(r"\d", said) else None


def stack_for(version: str | None) -> str:
    """Which GPU stack a driver of this version runs, in a sentence."""
    known = " and ".join(f"envs/{name}.lock from {oldest} on" for name, oldest in DRIVERS.items())
    if version is None:
        return f"No driver answers; one runs {known}"
    for name, oldest in DRIVERS.items():
        if int(version.split(".")[0]) >= oldest:
            return f"Driver {version} runs envs/{name}.lock: `make .venv/complete STACK={name}`"
    return f"Driver {version} is too old: one runs {known}"


def on_cpu_by_choice() -> bool:
    """True where DeepSpeed is told to take CPUs for cards: as in the tests, and in CPU studies."""
    return os.environ.get("DS_ACCELERATOR") == "cpu"


def cards() -> dict[str, str]:
    """The GPUs that a process started here sees: name as CUDA_VISIBLE_DEVICES writes it → UUID.

    As CUDA reads that variable: the first name that is no card (-1, NoDevFiles, a number too large) ends the
    list. Where CPUs stand for cards, numbers stand for themselves.
    """
    there = listed_cards()
    whole = [card for card in there if card.startswith("GPU-")]
    named, seen = os.environ.get("CUDA_VISIBLE_DEVICES"), {}
    for name in map(str.strip, named.split(",")) if named is not None else map(str, range(len(whole))):
        if name.isdecimal():
            card = name if on_cpu_by_choice() else dict(enumerate(whole)).get(int(name))
        else:
            card = next(
                (card for card in there if name[:4] in ("GPU-", "MIG-") and card.startswith(name)), None
            )
        if card is None or card in seen.values():
            break
        seen[name] = card
    return seen


def process_rank() -> int:
    """This process's rank among those that train together; 0 alone."""
    return int(os.environ.get("RANK", 0))


def say(text: str):
    """A line in the log."""
    print(plain.visible(text), file=sys.stderr, flush=True)


def gpus() -> int:
    """How many GPUs a process started here sees."""
    return len(cards())


def check_torch():
    """Stop a script that launch.py started on GPUs when torch sees fewer: it would train on, on the CPU."""
    given = int(os.environ.get("VALLEY_GPUS", 0))
    if not given:
        return
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < given:
        records.fail(
            "this process",
            f"torch sees {seen} of {given} GPUs",
            "Its build does not fit the driver, or a card is broken: `python -c 'import torch; torch.zeros(1).cuda()'` says why",
        )


def check_one_card():
    """Stop a training by one process that sees several GPUs: the library would multiply the batch by them.

    Nothing remembers it as a failure of the work: started as it should be, it trains.
    """
    import torch

    if "LOCAL_RANK" not in os.environ and (seen := torch.cuda.device_count()) > 1:
        records.fail(
            "this process",
            f"sees {seen} GPUs, and one process trains on one",
            f"Start it by scripts/launch.py --gpus {seen} --train, or show it one: CUDA_VISIBLE_DEVICES=0",
        )


def slurm_problem() -> str | None:
    """Why nothing can be submitted to SLURM from here; None where its controller answers."""
    if lacking := [name for name in ("sbatch", "squeue", "scontrol") if not shutil.which(name)]:
        return f"SLURM's {lacking[0]} is not there"
    ping = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, check=False)
    return (
        None
        if ping.returncode == 0
        else f"SLURM's controller does not answer ({(ping.stdout + ping.stderr).strip()[:200]})"
    )


def job_end() -> float | None:
    """When SLURM will end this job (Unix time): as newer versions tell each job, else as the controller
    answers; None outside a job, without a limit, and where nobody says.
    """
    if told := os.environ.get("SLURM_JOB_END_TIME"):
        return float(told)
    if not (job := os.environ.get("SLURM_JOB_ID")) or not shutil.which("squeue"):
        return None
    asked = ["squeue", "-h", "-j", job, "-o", "%L"]
    left = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    if not (match := re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", left)):
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return time.time() + ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def hand_over(said: str):
    """End this process with work left that a later one continues: `said` is its last line, CONTINUES its exit
    code.

    Within SLURM the job goes back into the queue under its own id, as a preempted one does, so that this is
    no failure and uses up no retry; where SLURM refuses, a retry continues.
    """
    say(f"paused: {said}")
    job, requeued = os.environ.get("SLURM_JOB_ID"), False
    if process_rank() == 0 and job and shutil.which("scontrol"):
        requeued = subprocess.run(["scontrol", "requeue", job], check=False).returncode == 0
    if requeued or process_rank() > 0:  # the job is ended with all its processes, the first one last
        time.sleep(SECONDS_TO_GO)
    sys.exit(CONTINUES)


def ends_without_memory(folder: Path) -> int:
    """How many of the SLURM logs in a folder tell that the kernel ended the job for want of memory; four at
    most.
    """
    logs = sorted(folder.glob("*.log"))
    return min(4, sum("oom_kill" in log.read_text(encoding="utf-8", errors="replace") for log in logs))


def prepare(warm_start: bool, exact: bool):
    """Set what jobs need: this interpreter first on PATH, a TMPDIR that sockets fit in, no hub, quiet
    libraries; for CPU studies a thrifty allocator, and where `exact` is asked for kernels that round alike on
    all machines that have them.
    """
    temporary.short_tmp()
    # Jobs find the interpreter that runs Snakemake, whether or not its environment is activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["HF_HUB_OFFLINE"] = "1"  # only the fetch scripts go out, and say so themselves
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if warm_start:
        os.environ["DS_ACCELERATOR"] = "cpu"  # or DeepSpeed warns in every process that it found no GPU
        # Freed memory stays with the process: it saves up to a third of a GRPO step on CPU.
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 << 30))
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(8 << 30))
    if exact and kernels.has_avx2():
        kernels.set_here()
    elif exact:  # they would end in an illegal instruction
        say("exact: this processor lacks AVX2 or FMA, so that its numbers will be its own")


def operate(config: dict):
    """Hand on to jobs how they are to be run; none of it makes them other jobs."""
    os.environ["VALLEY_STALL"] = json.dumps(config["stall"])
    os.environ["VALLEY_WEIGHTS"] = config["verify_weights"]


def end_with_parent():
    """In a worker: end when its parent does, or it would wait for work for ever."""
    threading.Thread(
        target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True
    ).start()


def end_with_launcher():
    """In a process that `accelerate launch` started: be killed when the launcher dies, however it dies.

    Its other end is not told of by the kernel otherwise, and a rank that waits in a collective holds its GPU.
    Linux's parent-death signal works even while the interpreter is inside a library.
    """
    if "LOCAL_RANK" not in os.environ or not sys.platform.startswith("linux"):
        return
    parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None, use_errno=True).prctl(parent_death_signal, int(signal.SIGKILL))
    if os.getppid() == 1:  # it died before that
        os._exit(1)
