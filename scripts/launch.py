"""Start a script on the GPUs of its job: pinned to cards that are free, one process a card where it trains.

    python scripts/launch.py --gpus 1 scripts/generate.py --model …
    python scripts/launch.py --gpus 8 --deepspeed config/deepspeed/zero3.json scripts/sft.py --model …

On a workstation nobody assigns GPUs to jobs: this takes free ones, by locks that vanish with the process, and
shows the script only those (CUDA_VISIBLE_DEVICES). Under SLURM, or where CUDA_VISIBLE_DEVICES is set, the
cards are given. Training runs under `accelerate launch`, once a node: a SLURM job of several nodes starts it
on each by srun.
"""

import argparse
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from valley import environment, records

# of the first node, where the processes of several nodes meet; plus the job id, so that jobs do not collide
PORT = 29500


def take_gpus(count: int, present: int, folder: Path) -> list[int]:
    """Lock `count` of the machine's `present` GPUs and return their indices; waits until so many are free.

    The locks are open files inherited by the script: they are released when its last process ends, however it
    ends.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        taken = {}
        for index in range(present):
            lock = os.open(folder / f"gpu{index}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken[index] = lock
            except BlockingIOError:
                os.close(lock)
            if len(taken) == count:
                for kept in taken.values():
                    os.set_inheritable(kept, True)
                return list(taken)
        for lock in taken.values():
            os.close(lock)
        print(f"waiting for {count} of {present} GPUs to be free", file=sys.stderr, flush=True)
        time.sleep(5)


def training_command(gpus: int, deepspeed: str, script: list[str], variables) -> list[str]:
    """`accelerate launch` of a training script on this node, `gpus` processes on each of the job's nodes."""
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
        "--use_deepspeed",
        "--deepspeed_config_file",
        deepspeed,
        "--deepspeed_multinode_launcher",
        "standard",
    ]
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
    parser.add_argument(
        "--deepspeed", default=None, help="DeepSpeed configuration: the script trains, one process a GPU"
    )
    parser.add_argument("--on-node", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("script", nargs=argparse.REMAINDER)
    args = parser.parse_args()

    variables = os.environ
    if int(variables.get("SLURM_JOB_NUM_NODES", 1)) > 1 and not args.on_node:
        again = [sys.executable, __file__, "--on-node", *sys.argv[1:]]
        nodes = variables[
            "SLURM_JOB_NUM_NODES"
        ]  # --ntasks too: SLURM_NTASKS is 1 in the step that Snakemake runs in
        os.execvp(
            "srun",
            ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", *again],
        )

    if "CUDA_VISIBLE_DEVICES" not in variables and "SLURM_JOB_ID" not in variables and args.gpus:
        present = environment.gpus()
        if present < args.gpus:
            records.fail(
                "this machine",
                f"{args.gpus} GPUs are asked for, {present} are there",
                "Lower models.*.gpus or rl.gpus in the config, or run on a cluster: --profile slurm",
            )
        chosen = take_gpus(args.gpus, present, Path(tempfile.gettempdir()) / f"valley-gpus-{os.getuid()}")
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, chosen))
    command = [sys.executable, *args.script]
    if args.deepspeed:
        command = training_command(args.gpus, args.deepspeed, args.script, variables)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
