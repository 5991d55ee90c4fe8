"""One process a piece of work: a lock that ends with the process that holds it, and names it.

After a `kill -9` of Snakemake its trainer or generator lives on, and the same command starts a second one.
Two writers would continue from what the other removes. So the second waits, says for whom, and takes over
what is left: nothing, where the first finished the work.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from valley import grid, records
from valley.environment import process_rank, say

SPEAK = 60  # seconds between two lines of a process that waits for another
SAME = ("MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_RESTART_COUNT")


def launch() -> str:
    """What the processes of one launch have in common and no other launch has."""
    return ":".join(os.environ.get(name, "") for name in SAME)


def holder(file: Path) -> dict:
    """Who holds a lock, or held it last: pid, host, since; empty where nobody did."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}


def held(file: Path) -> bool:
    """Whether a process holds a lock now."""
    try:
        with open(file) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # nobody ever did, or it cannot be told here
    return False


@contextlib.contextmanager
def alone(file: Path, finished: Callable[[], bool]):
    """Hold the lock `file`; waits for a process that holds it. Yields True where that one left nothing to do.

    `finished` tells it, and is asked only after waiting: what lies there from before is made again. Of
    several processes of one launch the first holds the lock; the others wait until it does, and go by what
    it found.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if process_rank() > 0:
        while holder(file).get("launch") != launch():
            time.sleep(0.2)
        yield holder(file)["done"]
        return
    waited = 0
    with open(file, "a+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited % SPEAK == 0:
                    other = holder(file)
                    say(
                        f"waits for process {other.get('pid')} on {other.get('host')}, which has been at the same work "
                        f"since {other.get('since')} ({file}); ending that process loses what it has not saved"
                    )
                waited += 1
                time.sleep(1)
        done = bool(waited) and finished()
        told = {"pid": os.getpid(), "host": socket.gethostname(), "launch": launch(), "done": done,
                "since": time.strftime("%Y-%m-%d %H:%M:%S")}  # fmt: skip
        lock.truncate(0)
        lock.write(json.dumps(told))
        lock.flush()
        if done:
            say("that process finished it: nothing is left to do")
        yield done


@contextlib.contextmanager
def guarded(note: Path, lock: Path, work: list, found: Callable[[], dict]):
    """The frame of a long script: alone at its work, and not again at what failed for good. Yields whether
    anything is left to do.

    `note` remembers a failure (records.failing_once). `work` is JSON content that names arguments and inputs,
    and `found` gives the record of the result that is there, whose `work` tells whether a process that was
    waited for made it.
    """
    with (
        records.failing_once(note, work),
        alone(lock, lambda: found().get("work") == grid.fingerprint(work)) as done,
    ):
        yield not done
