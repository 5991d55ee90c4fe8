"""Start a script on the GPUs of its job: pinned to cards that are free, one process a card where it trains.

    python scripts/launch.py --gpus 1 scripts/generate.py --model …
    python scripts/launch.py --gpus 8 --deepspeed config/deepspeed/zero3.json scripts/sft.py --model …
    python scripts/launch.py --gpus 2 --train scripts/sft.py --model …

On a workstation nobody assigns GPUs to jobs: this takes free ones, of those that CUDA_VISIBLE_DEVICES names
where it is set, by locks that vanish with the process, and shows the script only those. Under SLURM the cards
are given. Where there are fewer than asked for nothing starts. Training runs under `accelerate launch`, once
a node: a SLURM job of several nodes starts it on each by srun. Without DeepSpeed each process holds all
weights (DDP), as adapters are trained.
"""

import argparse
import fcntl
import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path

from valley import environment, records

# of the first node, where the processes of several nodes meet; plus the job id, so that jobs do not collide
PORT = 29500
LOCKS = Path(f"/tmp/valley-gpus-{os.getuid()}")  # one place a machine, whatever TMPDIR a job has
EXTENSIONS = Path(f"/tmp/valley-extensions-{os.getuid()}")  # compiled for this machine: nodes differ


def take_gpus(count: int, cards: dict[str, str], folder: Path) -> list[str]:
    """Lock `count` of the cards (name → UUID) and return their names; waits until so many are free.

    The locks are open files inherited by the script: they are released when its last process ends, however it
    ends.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        taken = {}
        for name, card in cards.items():
            lock = os.open(folder / f"{card}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken[name] = lock
            except BlockingIOError:
                os.close(lock)
            if len(taken) == count:
                for kept in taken.values():
                    os.set_inheritable(kept, True)
                return list(taken)
        for lock in taken.values():
            os.close(lock)
        print(f"waiting for {count} of {len(cards)} GPUs to be free", file=sys.stderr, flush=True)
        time.sleep(5)


def give_gpus(count: int, variables):
    """Show the script `count` cards that are its own: those of its SLURM job, or free ones of those it may
    see.

    Refuses when it sees fewer: it would run on the CPU and look as if all were well. Another try may get
    another node, so nothing remembers this failure.
    """
    if environment.on_cpu_by_choice() and variables.get("CUDA_VISIBLE_DEVICES") == "":
        return
    named, job = variables.get("CUDA_VISIBLE_DEVICES"), variables.get("SLURM_JOB_ID")
    seen = environment.cards()
    if len(seen) < count:
        given = "" if named is None else f" (CUDA_VISIBLE_DEVICES={named})"
        records.fail(
            f"SLURM job {job}" if job else "this machine",
            f"{count} GPUs are asked for, {len(seen)} are there{given}",
            "Another node may have them: `nvidia-smi` there tells"
            if job
            else "Lower models.*.gpus or rl.gpus in the config, or run on a cluster: --profile slurm",
        )
    if not environment.on_cpu_by_choice():
        variables["VALLEY_GPUS"] = str(count)
    if job and len(seen) == count:
        return
    if named is None:
        variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the driver's numbers, by which cards were chosen
    variables["CUDA_VISIBLE_DEVICES"] = ",".join(take_gpus(count, seen, LOCKS))


def unlocked_extensions(named: str | None) -> Path:
    """The folder in which DeepSpeed compiles its operators, free of locks that killed builds left behind.

    torch marks a build by a file and waits for that file to go, for ever where the process that made it was
    killed (torch.utils.file_baton). Here each launch holds a lock until its last process ends: one that holds
    it alone knows such a file for a dead one's. `named` is TORCH_EXTENSIONS_DIR, where the user has set it.
    """
    made_by = [f"{name}-{importlib.metadata.version(name)}" for name in ("torch", "deepspeed")]
    folder = Path(named) if named else EXTENSIONS / "-".join([sys.implementation.cache_tag, *made_by])
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = os.open(folder / "launches", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in folder.glob("*/lock"):
            print(f"{left} is of a build that was killed: removed", file=sys.stderr, flush=True)
            left.unlink()
    except BlockingIOError:
        pass  # another launch lives, and a build may be its own
    fcntl.flock(held, fcntl.LOCK_SH)
    os.set_inheritable(held, True)
    return folder


def training_command(gpus: int, deepspeed: str | None, script: list[str], variables) -> list[str]:
    """`accelerate launch` of a training script on this node, `gpus` processes on each of the job's nodes;
    more than one in all where there is no DeepSpeed.
    """
    nodes = int(variables.get("SLURM_JOB_NUM_NODES", 1))
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        str(gpus * nodes),
        "--num_machines",
        str(nodes),
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    if deepspeed:
        command += ["--use_deepspeed", "--deepspeed_config_file", deepspeed]
        command += ["--deepspeed_multinode_launcher", "standard"]
    else:
        command += ["--multi_gpu"]
    if deepspeed and "offload" in Path(deepspeed).stem:
        # its Adam runs on the host, on one thread unless told
        threads = max(1, len(os.sched_getaffinity(0)) // gpus)
        command += ["--num_cpu_threads_per_process", str(threads)]
    port = PORT + int(variables.get("SLURM_JOB_ID", os.getpid())) % 10_000
    if nodes > 1:
        hosts = subprocess.run(
            ["scontrol", "show", "hostnames", variables["SLURM_JOB_NODELIST"]],
            capture_output=True,
            text=True,
            check=True,
        )
        command += ["--machine_rank", variables["SLURM_NODEID"], "--main_process_ip", hosts.stdout.split()[0]]
    return [*command, "--main_process_port", str(port), *script]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, required=True, help="GPUs on each node")
    parser.add_argument("--train", action="store_true", help="the script trains, one process a GPU")
    parser.add_argument("--deepspeed", default=None, help="DeepSpeed configuration with which it trains")
    parser.add_argument("--on-node", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("script", nargs=argparse.REMAINDER)
    args = parser.parse_args()

    variables = os.environ
    several = int(variables.get("SLURM_JOB_NUM_NODES", 1)) > 1
    if several and not args.on_node:
        again = [sys.executable, __file__, "--on-node", *sys.argv[1:]]
        nodes = variables[
            "SLURM_JOB_NUM_NODES"
        ]  # --ntasks too: SLURM_NTASKS is 1 in the step that Snakemake runs in
        os.execvp(
            "srun",
            ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", *again],
        )

    if args.gpus:
        give_gpus(args.gpus, variables)
    command = [sys.executable, *args.script]
    if args.deepspeed:
        variables["TORCH_EXTENSIONS_DIR"] = str(unlocked_extensions(variables.get("TORCH_EXTENSIONS_DIR")))
    if args.deepspeed or (args.train and (several or args.gpus > 1)):
        command = training_command(args.gpus, args.deepspeed, args.script, variables)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
