"""What a running study shows beside its scripts' closing lines: one live line at the foot of a terminal;
elsewhere the same line every ten seconds.

    PYTHONPATH=workflow/plugins snakemake --logger valley --profile profiles/local

The line says how many cells are scored, what runs and how far it is by its own log, and how long the rest
will take: mean seconds of the finished jobs of each rule, times what is left, over the jobs that ran at a
time so far; "at least" while some rule has not finished a job. The Makefile's targets use it. Snakemake's
whole log is in .snakemake/log as ever.

The foot is the last line of the screen, kept out of what scrolls, as apt does: scripts write to the same
terminal. (The plugin `rich` draws a panel over what they write, and knows neither cells nor the time left.)
"""

import collections
import os
import re
import sys
import threading
import time
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

STEP = re.compile(rb'step (\d+)/(\d+)(?: \{"(loss|reward)": (-?[\d.]+))?')  # valley/training.py: Progress
TAIL = 2000  # bytes of a log that are looked at
SHOWN = 2  # running jobs on the line
QUIET = ("Assuming unrestricted", "Using profile", "Config file", "host:", "Select jobs", "Execute ", "Complete log", "Building DAG",
         "Provided cores", "Rules claiming", "Job stats", "Elapsed time", "Using shell", "Finished jobid", "Nothing to be done")  # fmt: skip


def called(rule: str, wildcards: dict) -> str:
    """A job in words: `sft S sft-64 seed 0`."""
    return " ".join(
        [rule, *(f"seed {value}" if name == "seed" else str(value) for name, value in wildcards.items())]
    )


def progress(log: Path) -> str:
    """How far a job is, by the last step in its log: `step 120/512 loss 0.34`; nothing where it says none."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        steps = STEP.findall(file.read())
    if not steps:
        return ""
    step, of, name, value = (part.decode() for part in steps[-1])
    return f" step {step}/{of}" + (f" {name} {value}" if name else "")


def spoken(seconds: float) -> str:
    """A duration: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Clock:
    """What has run, what runs and what is left, from Snakemake's events. Times in seconds of a clock that
    only grows.
    """

    def __init__(self, counts: dict[str, int], now: float):
        self.counts, self.began = counts, now
        self.took: dict[str, list[float]] = collections.defaultdict(list)
        self.running: dict[int, tuple[str, dict, Path | None, float]] = {}

    def start(self, job: int, rule: str, wildcards: dict, log: Path | None, now: float):
        self.running[job] = (rule, wildcards, log, now)

    def end(self, job: int, now: float):
        if job in self.running:
            rule, _, _, since = self.running.pop(job)
            self.took[rule].append(now - since)

    def done(self, rule: str | None = None) -> tuple[int, int]:
        """(finished, all) jobs of a rule, or of the whole run."""
        if rule:
            return len(self.took[rule]), self.counts.get(rule, 0)
        return sum(map(len, self.took.values())), sum(self.counts.values())

    def left(self, now: float) -> tuple[float, bool]:
        """Seconds until all is done, and whether each rule that is left has a time to go by."""
        worked, known = 0.0, True
        for rule, count in self.counts.items():
            rest = count - len(self.took[rule])
            if rest > 0:
                known &= bool(self.took[rule])
                worked += rest * (sum(self.took[rule]) / len(self.took[rule]) if self.took[rule] else 0.0)
        since = [now - began for _, _, _, began in self.running.values()]
        abreast = (sum(map(sum, self.took.values())) + sum(since)) / max(1e-9, now - self.began)
        return max(0.0, worked - sum(since)) / max(1.0, abreast), known

    def line(self, now: float) -> str:
        """The live line."""
        (cells, of), (jobs, all_jobs) = self.done("score"), self.done()
        rest, known = self.left(now)
        told = [f"{cells}/{of} cells" if of else "", f"{jobs}/{all_jobs} jobs", spoken(now - self.began)]
        if known or rest >= 1:
            told.append(f"{'about' if known else 'at least'} {spoken(rest)} left")
        longest = sorted(self.running.values(), key=lambda job: job[3])[:SHOWN]
        told += [called(rule, names) + (progress(log) if log else "") for rule, names, log, _ in longest]
        return " · ".join(filter(None, told))


class Foot:
    """The last line of a terminal, by the control sequences of ECMA-48 and DEC's VT100 (scrolling region,
    saved cursor).
    """

    def __init__(self):
        self.size = os.terminal_size((0, 0))

    def draw(self, text: str):
        """Show a line there, cut to the terminal's width."""
        size, keep = os.get_terminal_size(sys.stderr.fileno()), ""
        if size != self.size:  # the region has to be told again; a line is scrolled free of what stands there
            keep, self.size = f"\n\x1b[1A\x1b7\x1b[1;{size.lines - 1}r\x1b8", size
        self.write(f"{keep}\x1b7\x1b[{size.lines};1H\x1b[2K{text[: size.columns - 1]}\x1b8")

    def clear(self):
        """Give the line back."""
        self.write(f"\x1b7\x1b[r\x1b[{self.size.lines};1H\x1b[2K\x1b8")

    def write(self, text: str):
        sys.stderr.write(text)  # at once: between two writes somebody else's could fall
        sys.stderr.flush()


class LogHandler(LogHandlerBase):
    """Snakemake's interface to the above."""

    writes_to_stream = has_filter = has_formatter = True
    writes_to_file = needs_rulegraph = False

    def __post_init__(self):
        self.clock, self.ended = None, threading.Event()
        self.foot = Foot() if sys.stderr.isatty() and not self.common_settings.dryrun else None
        self.shower = threading.Thread(target=self.show, daemon=True)

    def show(self):
        """Show the line again and again until the run ends."""
        while not self.ended.wait(0.5 if self.foot else 10):
            line = self.clock.line(time.monotonic())
            self.foot.draw(line) if self.foot else self.say(line)

    def say(self, text: str):
        print(text, file=sys.stderr, flush=True)

    def emit(self, record):
        event, now = getattr(record, "event", None), time.monotonic()
        if event == LogEvent.RUN_INFO and self.clock is None:
            self.clock = Clock({rule: n for rule, n in record.stats.items() if rule != "total"}, now)
            self.say(f"{self.clock.done()[1]} jobs, {self.clock.done('score')[1]} cells")
            self.shower.start()
        elif event == LogEvent.JOB_INFO and self.clock:
            log = Path(record.log[0]) if record.log else None
            self.clock.start(record.jobid, record.rule_name, dict(record.wildcards or {}), log, now)
        elif event == LogEvent.JOB_FINISHED and self.clock:
            self.clock.end(record.job_id, now)
        elif event == LogEvent.JOB_ERROR and self.clock:
            self.failed(record.jobid)
        elif event in (LogEvent.ERROR, None) and not record.getMessage().startswith(QUIET):
            self.say(record.getMessage())

    def failed(self, job: int):
        """Name a failed job and show the end of its log."""
        rule, wildcards, log, _ = self.clock.running.pop(job, ("a job", {}, None, 0.0))
        self.say(f"failed: {called(rule, wildcards)}" + (f", see {log}" if log else ""))
        if log and log.is_file():
            self.say(log.read_text(errors="replace")[-TAIL:].rstrip())

    def close(self):
        if not self.ended.is_set():
            self.ended.set()
            if self.shower.ident:
                self.shower.join()
            if self.foot and self.clock:
                self.foot.clear()
        super().close()
