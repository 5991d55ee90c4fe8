"""What a process inherits or finds: the variables of every job, GPUs, SLURM, its parent."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path


def gpus() -> int:
    """NVIDIA GPUs of this machine, those that CUDA_VISIBLE_DEVICES names where it is set; 0 without a driver."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return len([name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()])
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


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


def ends_without_memory(folder: Path) -> int:
    """How many of the SLURM logs in a folder tell that the kernel ended the job for want of memory; four at most."""
    logs = sorted(folder.glob("*.log"))
    return min(4, sum("oom_kill" in log.read_text(encoding="utf-8", errors="replace") for log in logs))


def prepare(warm_start: bool):
    """Set what jobs need: this interpreter first on PATH, no hub, quiet libraries; for CPU studies a thrifty
    allocator.
    """
    # Jobs find the interpreter that runs Snakemake, whether or not its environment is activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["HF_HUB_OFFLINE"] = "1"  # only the fetch scripts go out, and say so themselves
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if warm_start:
        os.environ["DS_ACCELERATOR"] = "cpu"  # or DeepSpeed warns in every process that it found no GPU
        # Freed memory stays with the process: it saves up to a third of a GRPO step on CPU.
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 << 30))
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(8 << 30))


def end_with_parent():
    """In a worker: end when its parent does, or it would wait for work for ever."""
    threading.Thread(
        target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True
    ).start()
