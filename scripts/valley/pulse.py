"""The pulse of a long job: how far it is, on disk, and its end when it makes no step any more.

A collective that hangs on eight cards burns 576 GPU-hours in three days, and nobody sees it. A `Pulse` is
told of every step. It keeps `progress.json` (step, seconds, a bound), which `make status` reads and from
which the next process learns what a kill cost; and when no step comes within the bound it writes down where
every thread of this process stands, says so in the log and ends the process, so that a retry continues from
what is saved.

The bound follows the job's own pace: `factor` times the longest time between two steps so far, never below
`least` seconds; `first` before there is one (loading, compiling, the first chunk). The config's `stall` holds
the three; they reach jobs as VALLEY_STALL.
"""

import contextlib
import faulthandler
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from valley import records
from valley.environment import process_rank

PROGRESS = "progress.json"
PADDED = 512  # bytes of progress.json, always the same: it is written in place, a step at a time
DEFAULTS = {"first": 14400.0, "least": 1800.0, "factor": 5.0}  # seconds, seconds, times the longest step
GRACE = 3.0  # seconds in which the other processes of a job write down where they stand
LATE = 30.0  # seconds after which faulthandler's own thread ends a process whose interpreter is stuck
STALLED = 75  # exit code (EX_TEMPFAIL): a retry can help


def bounds() -> dict[str, float]:
    """`first`, `least` (seconds) and `factor`, from VALLEY_STALL where it is set."""
    return DEFAULTS | json.loads(os.environ.get("VALLEY_STALL", "{}"))


def progress_of(folder: Path) -> dict | None:
    """The progress of the job that writes, or wrote, in a folder; None where none is readable."""
    try:
        found = json.loads((folder / PROGRESS).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"step", "seconds", "at", "bound"} <= found.keys() else None


def silence(folder: Path) -> str | None:
    """That the job in a folder makes no step any more, in a few words; None where it does, or none is
    there.
    """
    found = progress_of(folder)
    if found is None or (since := time.time() - found["at"]) <= found["bound"]:
        return None
    return (
        f"no step for {since:.0f} s (bound {found['bound']:.0f} s) after step {found['step']}, "
        f"process {found.get('pid')} on {found.get('host')}"
    )


def earlier(folder: Path) -> list[dict]:
    """The segments of the processes that worked in a folder before, oldest first: `from`, `to` (steps),
    `seconds` and what else they told.

    They lie in segments.json; what the last process had come to by its last sign of life is read from its
    progress.json, once.
    """
    file = folder / "segments.json"
    segments = records.read_json(file)["segments"] if file.exists() else []
    if (last := progress_of(folder)) and last.get("segment") == len(segments):
        told = {name: last[name] for name in last if name.startswith("seconds")}
        segments.append({"from": last["from"], "to": last["step"]} | told)
        records.write_json(file, {"segments": segments})
    return segments


def account(segments: list[dict], useful: float) -> dict:
    """What work in one or more segments took, for its record: seconds are summed over all, lost ones too.

    `useful` seconds led to the result; the rest went between what was last saved and a kill, as did the steps
    that were made twice.
    """
    made = sum(segment["to"] - segment["from"] for segment in segments)
    total = sum(segment["seconds"] for segment in segments)
    return {
        "seconds": total,
        "segments": segments,
        "steps_lost": made - (segments[-1]["to"] - segments[0]["from"]),
        "seconds_lost": max(0.0, total - useful),
    }


class Pulse:
    """While a job runs (a context manager): told of its steps by `beat`, ends the process when none comes.

    `folder` is where the first process keeps progress.json, and where the stacks of a stall go; `facts` are
    kept in it as they are. `what` names the job in its last words.
    """

    def __init__(self, folder: Path, what: str, step: int = 0, begun: float | None = None, **facts):
        self.folder, self.what, self.step, self.facts = Path(folder), what, step, facts
        self.rank = process_rank()
        self.begun = time.perf_counter() if begun is None else begun
        self.limits, self.longest, self.beats = bounds(), 0.0, 0
        self.last, self.at = time.monotonic(), time.time()
        self.over, self.writing = threading.Event(), threading.Lock()

    def bound(self) -> float:
        """Seconds within which the next step has to come."""
        if self.beats < 2:
            return self.limits["first"]
        return max(self.limits["least"], self.limits["factor"] * self.longest)

    def seconds(self) -> float:
        """Seconds since the job began."""
        return time.perf_counter() - self.begun

    def beat(self, step: int, **facts):
        """A step was made; `facts` replace those of the same name."""
        now = time.monotonic()
        if self.beats:
            self.longest = max(self.longest, now - self.last)
        self.beats += 1
        self.last, self.at, self.step = now, time.time(), step
        self.facts |= facts
        self.write()

    def write(self):
        """Progress on disk, in place: one write of fixed length, microseconds even when steps take
        milliseconds.
        """
        if self.rank:
            return
        told = self.facts | {"step": self.step, "seconds": round(self.seconds(), 3), "at": self.at,
                             "bound": self.bound(), "pid": os.getpid(), "host": socket.gethostname()}  # fmt: skip
        with self.writing:
            os.pwrite(self.descriptor, json.dumps(told).encode().ljust(PADDED), 0)

    def watch(self):
        """The thread that looks every second whether a step is overdue."""
        while not self.over.wait(1.0):
            since = time.monotonic() - self.last
            if since > self.bound():
                self.end(since)
            self.arm(since)
            with contextlib.suppress(OSError):  # a full disk is the job's to report
                self.write()

    def arm(self, since: float = 0.0):
        """Set the timer that ends a call which never gives the interpreter back: its thread needs none."""
        faulthandler.dump_traceback_later(self.bound() - since + LATE, exit=True)

    def end(self, since: float):
        """Write down where every thread stands, say so, and end this process."""
        stacks = self.folder.with_name(f"stalled.{socket.gethostname()}.{os.getpid()}.txt")
        with contextlib.suppress(OSError), open(stacks, "w") as file:
            print(f"{self.what}: no step for {since:.0f} s after step {self.step}", file=file, flush=True)
            faulthandler.dump_traceback(file)
        faulthandler.dump_traceback(sys.stderr)
        for child in multiprocessing.active_children():  # workers of generation write theirs to the log
            os.kill(child.pid, signal.SIGUSR1)
        print(
            f"error: {self.what}: stalled: no step for {since:.0f} s after step {self.step} (bound {self.bound():.0f} s). "
            f"Where process {self.rank} stood is in {stacks}; it ends, and a retry continues from what is saved. "
            "Where a step is that slow by nature, raise `stall` in the config",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(GRACE)
        os._exit(STALLED)

    def __enter__(self):
        if not self.rank:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(self.folder / PROGRESS, os.O_RDWR | os.O_CREAT, 0o644)
            self.write()
        self.arm()  # the thread's first look is a second away, and such a call can come before it
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        faulthandler.cancel_dump_traceback_later()
        if not self.rank:
            os.close(self.descriptor)
