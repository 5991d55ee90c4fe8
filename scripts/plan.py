"""What is left to run, and what it will take: jobs, GPU-hours, wall time on N GPUs, disk.

    python scripts/plan.py --configfile config/one-gpu.yaml --gpus 8

The jobs are those of Snakemake's own dry run. A job costs what finished jobs of the same rule and model took
(their benchmark files), else what a stated model says (workflow/reference/costs.yaml, presets `paper` and
`measured`). Wall time is a simulation: each job starts, by priority, as soon as what it needs is done and its
GPUs are free.
"""

import collections
import heapq
from pathlib import Path

import status
import yaml

from valley import flags, grid, records

ROOT = Path(__file__).resolve().parents[1]
GIGA = 1e9


def snakemake_jobs(configfiles: list[Path], folder: Path, targets: list[str]) -> list[dict]:
    """The jobs of a dry run in order: rule, wildcards, GPUs, priority, and the positions of the jobs each
    waits for.
    """
    from snakemake.api import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
    from snakemake.settings.enums import Quietness, RerunTrigger

    files = [folder / "config.yaml", *(path.resolve() for path in configfiles)]
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            ResourceSettings(cores=1),
            ConfigSettings(configfiles=files),
            snakefile=folder / "Snakefile",
            workdir=folder,
        )
        triggers = frozenset(
            {RerunTrigger.MTIME, RerunTrigger.INPUT, RerunTrigger.PARAMS}
        )  # as in the profiles
        workflow.dag(DAGSettings(targets=set(targets), rerun_triggers=triggers)).execute_workflow(
            executor="dryrun"
        )
        dag = workflow._workflow.dag  # the API has no public way to the jobs
        jobs = list(dag.needrun_jobs(exclude_finished=False))
        place = {job: i for i, job in enumerate(jobs)}
        return [
            {
                "rule": job.rule.name,
                "wildcards": dict(job.wildcards.items()),
                "gpus": job.resources.get("gpu", 0),
                "priority": job.priority,
                "waits_for": [place[need] for need in dag.dependencies[job] if need in place],
            }
            for job in jobs
        ]


def billions(config: dict, model: str) -> float:
    """Billions of parameters of a model of the catalogue; of one that is pre-trained here from its shape."""
    entry = config["models"][model]
    shape = entry.get("pretrain")
    if shape:
        return shape["layers"] * (4 * shape["hidden"] ** 2 + 3 * shape["hidden"] * shape["ff"]) / GIGA
    if "parameters" not in entry:
        records.fail(f"models.{model}", "has no `parameters`", "Give their number in billions in the config")
    return entry["parameters"]


def tokens_of_sft(config: dict, costs: dict, model: str, run: str) -> float:
    """Tokens that an SFT run trains on."""
    settings, size = grid.sft_settings(config, model, run), config["sizes"][grid.parse_run(run).size]
    examples = config["traces"]["rows"] if size["examples"] == "all" else size["examples"]
    seen = settings["steps"] * settings["batch"] if "steps" in settings else settings["epochs"] * examples
    length = (
        costs["trace_tokens"] if settings.get("completion", "trace") == "trace" else costs["lengths"]["base"]
    )
    return seen * min(length, settings["max_length"])


def response_length(costs: dict, run: str) -> int:
    """Mean tokens of a response, by the last stage of the run."""
    return costs["lengths"]["rl" if "+rl" in run else "base" if run == "base" else "sft"]


def modelled_seconds(job: dict, config: dict, costs: dict, preset: dict) -> float:
    """Seconds of a job by the cost model (see costs.yaml), on all its GPUs together where it has any."""
    rule, wildcards = job["rule"], job["wildcards"]
    if not job["gpus"]:
        return costs["cpu_seconds"].get(rule, costs["cpu_seconds"]["default"])
    model, run = wildcards["model"], wildcards["run"]
    if rule == "judge":  # reads every response of the length tasks once, in one pass forward
        judge = config["report"]["judge"]
        length = min(response_length(costs, run), judge["max_characters"] / costs["characters_a_token"])
        tokens = length * sum(responses(config, task) for task in config["report"]["length"])
        flops = 2 * billions(config, judge["model"]) * GIGA * tokens
        return preset["start"] * job["gpus"] + flops / (preset["peak_flops"] * preset["sft_mfu"])
    size, start = billions(config, model), preset["start"] * job["gpus"]
    if rule == "sft":
        return start + 6 * size * GIGA * tokens_of_sft(config, costs, model, run) / (
            preset["peak_flops"] * preset["sft_mfu"]
        )
    if rule == "rl":
        settings = grid.rl_settings(config, model, run)
        tokens = settings["steps"] * settings["prompts"] * settings["rollouts"]
        length = (response_length(costs, grid.parse_run(run).start) + costs["lengths"]["rl"]) / 2
        return start + tokens * min(length, settings["max_new_tokens"]) * size / preset["rl_tokens"]
    return (
        start
        + responses(config, wildcards["task"])
        * response_length(costs, run)
        * size
        / preset["generate_tokens"]
    )


def responses(config: dict, task: str) -> int:
    """Responses a cell gives to a task, by the numbers in the config."""
    entry = config["tasks"][task]
    synthetic = config.get("synthetic", {}).get("task", 0)
    return entry["samples"] * (entry.get("limit") or entry.get("problems") or synthetic)


def measured_seconds(root: Path) -> dict[tuple, float]:
    """Mean wall seconds of finished jobs by (rule, `model.run`), from their benchmark files."""
    import pandas

    times = collections.defaultdict(list)
    for file in (root / "benchmarks").rglob("*.tsv"):
        rule = file.relative_to(root / "benchmarks").parts[0].removesuffix(".tsv")
        seconds = float(pandas.read_csv(file, sep="\t").s.iloc[-1])
        times[rule, file.stem.split(".seed")[0]].append(seconds)
    return {key: sum(values) / len(values) for key, values in times.items()}


def wall_seconds(jobs: list[dict], gpus: int, cores: int) -> float:
    """Seconds until all jobs are done, by simulation: jobs start by priority when their GPUs, or a core, are
    free.
    """
    left = [len(job["waits_for"]) for job in jobs]
    followers = collections.defaultdict(list)
    for i, job in enumerate(jobs):
        for need in job["waits_for"]:
            followers[need].append(i)
    ready = [(-job["priority"], i) for i, job in enumerate(jobs) if not left[i]]
    heapq.heapify(ready)
    running, now, free = [], 0.0, {"gpu": gpus, "core": cores}
    while ready or running:
        skipped = []
        while ready:
            entry = heapq.heappop(ready)
            job = jobs[entry[1]]
            kind, need = ("gpu", min(job["gpus"], gpus)) if job["gpus"] else ("core", 1)
            if free[kind] < need:
                skipped.append(entry)
                continue
            free[kind] -= need
            heapq.heappush(
                running, (now + job["seconds"] / max(1, need if kind == "gpu" else 1), entry[1], kind, need)
            )
        for entry in skipped:
            heapq.heappush(ready, entry)
        now, done, kind, need = heapq.heappop(running)
        free[kind] += need
        for follower in followers[done]:
            left[follower] -= 1
            if not left[follower]:
                heapq.heappush(ready, (-jobs[follower]["priority"], follower))
    return now


def critical_seconds(jobs: list[dict]) -> float:
    """Seconds of the longest chain of jobs, were there GPUs without end."""
    ends: dict[int, float] = {}

    def end(i: int) -> float:
        if i not in ends:
            job = jobs[i]
            ends[i] = max(map(end, job["waits_for"]), default=0.0) + job["seconds"] / max(1, job["gpus"])
        return ends[i]

    return max(map(end, range(len(jobs))), default=0.0)


def disk(config: dict, costs: dict, cells: list[tuple], jobs: list[dict], gpus: int) -> tuple[float, float]:
    """Gigabytes (at the end, at the peak): weights of all trained cells, responses, data; and states of runs
    in progress.
    """
    trained = [(model, run) for model, run, _ in cells if run != "base"]
    models = {model for model, _, _ in cells}
    weights = sum(billions(config, model) for model, _ in trained) + sum(
        billions(config, model) for model in models
    )
    tokens = sum(
        responses(config, task) * response_length(costs, run)
        for _, run, _ in cells
        for task in config["grid"]["tasks"]
    )
    end = weights * costs["bytes_a_parameter"] + tokens * costs["response_bytes_a_token"] / GIGA
    end += costs["data_gigabytes"] if config["traces"]["source"] != "synthetic" else 0
    states = [billions(config, job["wildcards"]["model"]) for job in jobs if job["rule"] in ("sft", "rl")]
    at_once = sorted(states, reverse=True)[
        : max(1, gpus // max([job["gpus"] for job in jobs] or [1], default=1))
    ]
    return end, end + sum(at_once) * costs["state_bytes_a_parameter"]


def table(jobs: list[dict], keys) -> list[tuple[str, int, float]]:
    """(name, jobs, GPU-hours) by what `keys` says of a job, the costliest first."""
    count, hours = collections.Counter(), collections.Counter()
    for job in jobs:
        count[keys(job)] += 1
        hours[keys(job)] += job["seconds"] / 3600 if job["gpus"] else 0.0
    return sorted(((name, count[name], hours[name]) for name in count), key=lambda row: (-row[2], row[0]))


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="as for snakemake")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs that run jobs side by side")
    parser.add_argument("--cores", type=int, default=8, help="CPU jobs side by side")
    parser.add_argument("--preset", choices=["paper", "measured"], default="paper")
    parser.add_argument(
        "targets", nargs="*", default=[], help="as for snakemake; all of the study by default"
    )
    args = parser.parse_args()

    config = status.load_config(args.configfile)
    costs = yaml.safe_load((ROOT / "workflow/reference/costs.yaml").read_text())
    preset, measured, cells = (
        costs["presets"][args.preset],
        measured_seconds(Path(config["root"])),
        grid.cells(config),
    )
    jobs = snakemake_jobs(args.configfile, ROOT, args.targets)
    known = 0
    for job in jobs:
        found = measured.get((job["rule"], f"{job['wildcards'].get('model')}.{job['wildcards'].get('run')}"))
        known += found is not None
        job["seconds"] = (
            found * max(1, job["gpus"]) if found is not None else modelled_seconds(job, config, costs, preset)
        )

    done = sum(
        (Path(config["root"]) / "results" / m / r / f"seed{s}" / "scores.json").exists() for m, r, s in cells
    )
    print(
        f"{config['root'] if config['root'] != '.' else 'the paper'}: {len(cells)} cells, {done} done; {len(jobs)} jobs to run\n"
    )
    for title, keys in (
        ("rule", lambda job: job["rule"]),
        ("model", lambda job: job["wildcards"].get("model", "-")),
    ):
        print(f"{title:16}{'jobs':>8}{'GPU-hours':>12}")
        for name, count, hours in table(jobs, keys):
            print(f"{name:16}{count:8,}{hours:12,.1f}")
        print()
    hours = sum(job["seconds"] for job in jobs if job["gpus"]) / 3600
    end, peak = disk(config, costs, cells, jobs, args.gpus)
    print(f"GPU-hours        {hours:,.0f}")
    print(f"wall time        {wall_seconds(jobs, args.gpus, args.cores) / 3600:,.1f} h on {args.gpus} GPUs")
    print(f"critical path    {critical_seconds(jobs) / 3600:,.1f} h, however many GPUs")
    print(f"disk             {end:,.0f} GB at the end, {peak:,.0f} GB at the peak\n")
    print(
        f"{known} jobs cost what finished jobs of their rule and cell took; the rest by preset `{args.preset}`: {preset['source']}."
    )
    print(
        f"Assumed: {100 * preset['sft_mfu']:.0f} % of {preset['peak_flops']:.3g} FLOP/s in SFT, {preset['rl_tokens']:,} tokens a GPU-second in RL "
        f"and {preset['generate_tokens']:,} in generation at 1B parameters, {costs['trace_tokens']:,} tokens a trace, responses of "
        + ", ".join(f"{length:,} ({stage})" for stage, length in costs["lengths"].items())
        + " tokens."
    )


if __name__ == "__main__":
    main()
