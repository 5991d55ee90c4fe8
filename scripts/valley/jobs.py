"""The jobs of Snakemake's own dry run, as plain values: what is left to run, and what waits for what; and
what spares Snakemake work.
"""

import contextlib
import functools
import gc
import inspect
import threading
from pathlib import Path


def gpus_of(resources) -> int:
    """GPUs that a job asks for, by the resource `gpu` or, on sites that ask so, by `gres` (gpu:h100:4)."""
    given = str(resources.get("gres") or "")
    return int(given.rpartition(":")[2]) if given else resources.get("gpu") or 0


@contextlib.contextmanager
def hurried():
    """What takes Snakemake half of its time in a graph of many jobs, left out meanwhile: the collector of
    cycles, which walks over all that was made, and looking at the same functions' signatures for every job.
    """
    look = inspect.signature
    inspect.signature = functools.cache(look)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor is it looked through later
        gc.enable()
        inspect.signature = look


def look_again_once(scheduler):
    """Have a scheduler of Snakemake plan one look ahead at the jobs that are ready, not one after each look.

    To limit the jobs that start in a timespan (max-jobs-per-timespan) it looks again a timespan after every
    look, so that each job that ends adds one look a timespan as long as any job waits.
    """
    ahead = threading.Lock()

    def look():
        ahead.release()
        scheduler._open_jobs.release()

    def look_again(delay: float):
        if ahead.acquire(blocking=False):
            threading.Timer(delay, look).start()

    scheduler._schedule_reevalutation = look_again


def planned(
    configfiles: list[Path], folder: Path, targets: list[str], settings: dict | None = None
) -> list[dict]:
    """The jobs of a dry run: rule, wildcards, GPUs, priority, and the places of those each waits for.

    `settings` are those that a profile sets in the config.
    """
    from snakemake.api import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
    from snakemake.settings.enums import Quietness, RerunTrigger

    files = [folder / "config.yaml", *(path.resolve() for path in configfiles)]
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api, hurried():
        workflow = api.workflow(
            ResourceSettings(cores=1),
            ConfigSettings(configfiles=files, config=settings or {}),
            snakefile=folder / "Snakefile",
            workdir=folder,
        )
        # As in the profiles.
        triggers = frozenset({RerunTrigger.MTIME, RerunTrigger.INPUT, RerunTrigger.PARAMS})
        workflow.dag(DAGSettings(targets=set(targets), rerun_triggers=triggers, force_incomplete=True))
        # The API has no public way to the jobs but a dry run, which would describe each of them for nobody.
        flow = workflow._workflow
        flow._prepare_dag(forceall=False, ignore_incomplete=False, lock_warn_only=True)
        flow._build_dag()
        dag = flow.dag
        dag.update_priority()
        # In an order of their own: Snakemake's changes from call to call, and with it a simulation's ties.
        jobs = sorted(
            dag.needrun_jobs(exclude_finished=False),
            key=lambda job: (job.rule.name, sorted(job.wildcards.items())),
        )
        place = {job: i for i, job in enumerate(jobs)}
        return [
            {
                "rule": job.rule.name,
                "wildcards": dict(job.wildcards.items()),
                "gpus": gpus_of(job.resources),
                "priority": job.priority,
                "waits_for": [place[need] for need in dag.dependencies[job] if need in place],
            }
            for job in jobs
        ]
