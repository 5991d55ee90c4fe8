"""Is this cluster ready for a study? Checks what broke others' first runs, and says what to change.

    python scripts/doctor.py --partition gpu --request="--gres=gpu:h100:1 --account=myproject"

Submits one probe job of a minute, with a GPU asked for by `--request`; changes nothing else. Run it on the
login node, in the root of the clone.
"""

import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from valley import environment, flags, records

PROBE = r"""
import importlib, os, pathlib, socket, subprocess, sys
print("host", socket.gethostname())
print("gpus", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
for name in ("torch", "transformers", "trl", "pyarrow"):
    try:
        importlib.import_module(name); print("import", name, "ok")
    except Exception as error:
        print("import", name, type(error).__name__, error)
try:
    import torch
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(ask, capture_output=True, text=True).stdout.split()[:1]
    print("driver", *driver)
    ones = torch.ones(64, 64, dtype=torch.bfloat16, device="cuda")
    print("cuda", "ok" if (ones @ ones)[0, 0].item() == 64 else "gives a wrong product", torch.cuda.get_device_name(),
          "driver", *driver, "torch built for CUDA", torch.version.cuda)
except Exception as error:
    print("cuda", type(error).__name__, *str(error).split())
try:
    socket.create_connection(("huggingface.co", 443), timeout=3).close(); print("network yes")
except OSError:
    print("network no")
print("written", pathlib.Path("{seen}").exists())
pathlib.Path("{answer}").write_text("seen")
"""


def output(*command: str, seconds: int = 30) -> tuple[int, str]:
    """Exit code and text of a command; 127 when it is not there, 124 when it does not answer in time."""
    if not shutil.which(command[0]):
        return 127, f"{command[0]} is not there"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} gives no answer within {seconds} s"
    return done.returncode, (done.stdout + done.stderr).strip()


def commands() -> list[tuple[bool, str, str]]:
    """(fine, what was seen, what to do) for the commands and the controller's settings."""
    found = []
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        there = shutil.which(name) is not None
        found.append(
            (there, f"{name} {'is there' if there else 'is missing'}", "Run this on the cluster's login node")
        )
    if not all(fine for fine, *_ in found):
        return found
    code, text = output("scontrol", "show", "config")
    if code:
        return [
            *found,
            (False, f"the controller does not answer: {text}", "Wait for it, or ask the cluster's staff"),
        ]
    age = re.search(r"^MinJobAge\s*=\s*(\d+)", text, re.MULTILINE)
    seconds = int(age[1]) if age else 0
    found.append(
        (
            seconds >= 300,
            f"finished jobs stay in squeue for {seconds} s (MinJobAge)",
            "Below 300 s a finished job may be gone before it is seen: ask for more, or set `slurm-status-command: sacct` and "
            "never use scancel on jobs of a study",
        )
    )
    preempted = re.search(r"^PreemptMode\s*=\s*(\S+)", text, re.MULTILINE)
    mode = preempted[1] if preempted else "unknown"
    found.append(
        (
            mode != "CANCEL",
            f"preempted jobs: {mode}",
            "A cancelled job is waited for without end: choose a partition that requeues",
        )
    )
    stored = re.search(r"^AccountingStorageType\s*=\s*(\S+)", text, re.MULTILINE)
    useless = (
        shutil.which("sacct") is not None
        and stored is not None
        and stored[1] in ("accounting_storage/none", "(null)")
    )
    found.append(
        (
            not useless,
            "sacct is there, but this cluster keeps no accounts" if useless else "sacct does no harm",
            "Take sacct off the PATH: Snakemake turns to it when the controller is away, and waits without end",
        )
    )
    return found


def probe(partition: str, request: list[str], folder: Path, wait: int) -> list[tuple[bool, str, str]]:
    """Submit the probe job, wait for it, and judge what it saw."""
    folder.mkdir(parents=True, exist_ok=True)
    seen, answer, log = folder / "seen", folder / "answer", folder / "probe.log"
    for file in (seen, answer, log):
        file.unlink(missing_ok=True)
    script = folder / "probe.py"
    script.write_text(PROBE.replace("{seen}", str(seen)).replace("{answer}", str(answer)))
    command = [
        "sbatch",
        "--parsable",
        f"--partition={partition}",
        "--time=5",
        "--mem=4000",
        f"--output={log}",
        *request,
        f"--wrap={shlex.join([sys.executable, str(script)])}",
    ]
    seen.write_text("written on the login node just before submitting")
    code, job = output(*command)
    if code:
        todo = "Which partition, account and option for GPUs does this site want? PARTITION and REQUEST here, then the profile"
        return [(False, f"sbatch refused the probe: {job}", todo)]
    end = time.monotonic() + wait
    while time.monotonic() < end and not answer.exists():
        time.sleep(2)
    late = time.monotonic()
    while not log.exists() and time.monotonic() - late < 60:
        time.sleep(1)
    text = log.read_text() if log.exists() else ""
    if not answer.exists():
        output("scancel", job)
        return [
            (
                False,
                f"the probe job {job} did not end within {wait} s: {output('squeue', '-h', '-j', job)[1] or text[-300:]}",
                "Is the partition full, or the option for GPUs one this site rejects?",
            )
        ]
    given = re.search(r"^gpus (\S+)$", text, re.MULTILINE)
    missing = re.findall(r"^import (?!.* ok$)(.*)$", text, re.MULTILINE)
    told = re.search(r"^cuda (.*)$", text, re.MULTILINE)
    driver = re.search(r"^driver (\d\S*)$", text, re.MULTILINE)
    cuda = told[1] if told else "the probe ended before it was asked"
    return [
        (
            given is None or cuda.startswith("ok"),
            f"CUDA on the node: {cuda.removeprefix('ok ')}"
            if given
            else "CUDA was not asked: the probe had no GPU",
            f"torch cannot use the card. {environment.stack_for(driver[1] if driver else None)}",
        ),
        (
            not request or given is not None,
            f"GPUs of the probe: {given[1] if given else 'none'}",
            "Ask for them the way this site wants (profiles/sites has three ways), here by REQUEST",
        ),
        (
            "written True" in text,
            "a file written here is seen by the job at once"
            if "written True" in text
            else "the job does not see a file written here",
            "The clone must lie on a file system that all nodes share; raise latency-wait",
        ),
        (
            not missing,
            "the environment imports on the node" if not missing else f"cannot import {missing[0]}",
            "Make the environment on the shared file system, or set `sdm`",
        ),
        (
            True,
            f"compute nodes {'reach' if 'network yes' in text else 'do not reach'} the network; only `snakemake fetch` needs it",
            "",
        ),
    ]


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--partition", required=True)
    parser.add_argument(
        "--request", default="--gpus=1", help="how a GPU is asked for here, with what else sbatch wants"
    )
    parser.add_argument("--wait", type=int, default=300, help="seconds for the probe job")
    parser.add_argument("--folder", type=Path, default=Path("logs/doctor"))
    args = parser.parse_args()

    found = commands()
    if len(found) > 5:  # the commands are there and the controller answers
        found += probe(args.partition, shlex.split(args.request), args.folder, args.wait)
    for fine, seen, todo in found:
        print(f"{'ok' if fine else 'FAIL':5} {seen}" + ("" if fine else f". {todo}"))
    if not all(fine for fine, *_ in found):
        records.fail(
            "this cluster", f"{sum(not fine for fine, *_ in found)} check(s) failed", "See the lines above"
        )
    print("ready: try `make canary` next")


if __name__ == "__main__":
    main()
