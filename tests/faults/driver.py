"""Runs a script again and again, each time killed at another boundary of the file system, then continued.

    LD_PRELOAD=stops.so python tests/faults/driver.py '{"script": …, "arguments": […], "folder": …, "every":
    7}' LD_PRELOAD=stops.so python tests/faults/driver.py '{…, "random": 20, "seed": 0}'

Imports once and forks for every run. Arguments may hold {cell}, the folder of a run's own. Prints a JSON line
with the number of boundaries of an undisturbed run, and where it was killed, and what differed in the end
(nothing, one hopes). With `random`, that many kills fall at random moments instead, up to three on one run
before it may end.
"""

import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import random
import runpy
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import pyarrow.parquet

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

stops = ctypes.CDLL(os.environ["LD_PRELOAD"])


def attempt(script: str, arguments: list[str], cell: Path, kill_at: int, seconds=None) -> tuple[int, int]:
    """(exit status or -signal, boundaries passed) of a run in a forked process, killed at a boundary unless
    0, or after so many seconds.
    """
    pipe = os.pipe()
    pid = os.fork()
    if pid == 0:
        log = os.open(cell.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 0
        sys.argv = [str(SCRIPTS / f"{script}.py"), *(a.replace("{cell}", str(cell)) for a in arguments)]
        stops.arm(kill_at, str(cell).encode())
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            code = 1 if stop.code else 0
            print(stop.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            code = 2
        count = stops.passed()
        stops.arm(-1, b"")
        os.write(pipe[1], str(count).encode())
        os._exit(code)
    os.close(pipe[1])
    process = os.pidfd_open(pid)
    timer = threading.Timer(seconds or 0, signal.pidfd_send_signal, (process, signal.SIGKILL))
    if seconds:
        timer.start()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    timer.cancel()
    if seconds:
        timer.join()
    os.close(process)
    status = os.waitpid(pid, 0)[1]
    told = os.read(pipe[0], 100)
    os.close(pipe[0])
    return os.waitstatus_to_exitcode(status), int(told or 0)


def result(cell: Path) -> dict[str, str]:
    """The hash of each file of the models and responses a run made, and what its record says apart from times
    and places.
    """
    made = {}
    for path in cell.glob("made.parquet"):  # its rows: the record beside them says when and how long
        rows = pyarrow.parquet.read_table(path).to_pylist()
        made[path.name] = hashlib.sha256(repr(rows).encode()).hexdigest()
    for path in sorted(cell.rglob("*.safetensors")):
        if "checkpoints" not in path.parts or "checkpoint-" in str(path.parent.name):
            made[str(path.relative_to(cell))] = hashlib.sha256(path.read_bytes()).hexdigest()
    with contextlib.suppress(OSError):
        record = json.loads((cell / "train.json").read_text())
        for name in (
            "loss",
            "train_loss",
            "tokens_trained",
            "tokens_generated",
            "reward",
            "steps",
            "warnings",
        ):
            if name in record:
                made[name] = json.dumps(record[name])
    return made


def main():
    asked = json.loads(sys.argv[1])
    folder, arguments = Path(asked["folder"]), asked["arguments"]
    for name in asked["imports"]:
        importlib.import_module(name)

    def fresh(name):
        cell = folder / name / "cell"
        shutil.rmtree(cell.parent, ignore_errors=True)
        cell.parent.mkdir(parents=True)
        if asked.get("start"):
            shutil.copytree(asked["start"], cell)
        else:
            cell.mkdir()
        return cell

    def forget(cell):
        """Remove the outputs, as Snakemake does for a failed job."""
        shutil.rmtree(cell / "model", ignore_errors=True)
        for name in ("train.json", "made.parquet"):
            (cell / name).unlink(missing_ok=True)

    whole = fresh("whole")
    began = time.monotonic()
    code, boundaries = attempt(asked["script"], arguments, whole, 0)
    took = time.monotonic() - began
    assert code == 0, whole.with_suffix(".log").read_text()
    expected = result(whole)
    assert expected
    if asked.get("random"):
        dice, kills, differ = random.Random(asked["seed"]), [], []
        while len(kills) < asked["random"]:
            cell = fresh("broken")
            for _ in range(min(3, asked["random"] - len(kills))):
                after = dice.uniform(0.01, took)
                if attempt(asked["script"], arguments, cell, 0, after)[0] != -signal.SIGKILL:
                    break
                kills.append(after)
                forget(cell)
            forget(cell)
            code, _ = attempt(asked["script"], arguments, cell, 0)
            if code or result(cell) != expected:
                differ.append([kills[-3:], code, cell.with_suffix(".log").read_text()[-1500:]])
        print(json.dumps({"boundaries": boundaries, "kills": kills, "differ": differ}))
        return
    chosen = (
        range(1, boundaries + 1)
        if asked["every"] == 1
        else [*range(2, boundaries + 1, asked["every"]), boundaries - 10]  # and while checkpoints are removed
    )
    kills, differ = [], []
    for k in chosen:
        cell = fresh("broken")
        killed, _ = attempt(asked["script"], arguments, cell, k)
        if killed != -signal.SIGKILL:  # it ended before that boundary
            continue
        kills.append(k)
        forget(cell)
        code, _ = attempt(asked["script"], arguments, cell, 0)
        if code or result(cell) != expected:
            differ.append([k, code, cell.with_suffix(".log").read_text()[-1500:]])
            shutil.copytree(cell.parent, folder / f"differs-{k}", dirs_exist_ok=True)
    print(json.dumps({"boundaries": boundaries, "kills": kills, "differ": differ}))


if __name__ == "__main__":
    main()
