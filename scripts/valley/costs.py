"""What jobs cost: GPU-seconds by a stated model or from what finished jobs took, wall time on N GPUs, disk.

The model and its constants, with their sources, stand in workflow/reference/costs.yaml (`load`).
"""

import collections
import functools
import heapq
import math
from pathlib import Path

from valley import check, grid, intake, records
from valley.places import Places

GIGA = 1e9
PROBLEMS = 100  # of a task whose number is not known yet, as forged.design has it
TRAINING = ("sft", "trunk", "branch")  # the rules that fine-tune


def load() -> dict:
    """The constants of the model, presets among them."""
    import yaml

    return yaml.safe_load((check.ROOT / "workflow/reference/costs.yaml").read_text(encoding="utf-8"))


def on_card(preset: dict, card: dict, of: dict) -> dict:
    """A preset on another card than it holds for, with what the card is: training by the peaks, sampling by
    the memory's bandwidths.
    """
    faster = card["bandwidth"] / of["bandwidth"]
    rates = {
        name: round(preset[name] * faster) for name in ("rl_tokens", "generate_tokens") if name in preset
    }
    return preset | {name: card[name] for name in ("peak_flops", "bandwidth", "memory")} | rates


def card(constants: dict, kind: str) -> dict:
    """A kind of card, an error where `cards` has none of that name."""
    if kind not in constants["cards"]:
        known = ", ".join(constants["cards"])
        records.fail(
            f"card {kind}", "is unknown", f"Choose from {known}, or add it to workflow/reference/costs.yaml"
        )
    return constants["cards"][kind]


def seconds(
    job: dict, config: dict, costs: dict, preset: dict, measured: dict, model=None
) -> tuple[float, bool]:
    """Seconds of a job on all its GPUs together, and whether a finished job of its rule and cell tells; else
    by `model`, modelled_seconds or one like it.
    """
    found = measured.get((job["rule"], f"{job['wildcards'].get('model')}.{job['wildcards'].get('run')}"))
    if found is not None:
        return found * max(1, job["gpus"]), True
    return (model or modelled_seconds)(job, config, costs, preset), False


def job_hours(job: dict) -> float:
    """Hours that a job takes on the cards that it asks for."""
    return job["seconds"] / max(1, job["gpus"]) / 3600


def minutes_to_ask(job: dict, attempt: int, most: float, constants: dict) -> int:
    """Minutes that a job asks SLURM for: what it takes by the plan with a margin (`asked`), as much again at
    each further attempt, but no more than `most`, what the site gives.

    A short job starts in a gap before a reservation, a long one waits for its end. What was guessed too low
    costs little: a training goes on in a further portion, generation keeps its chunks.
    """
    asked = constants["asked"]
    return math.ceil(min(most, attempt * (asked["minutes"] + asked["margin"] * job_hours(job) * 60)))


def portions(job: dict, minutes: float) -> int:
    """In how many portions of so many minutes a training runs that ends each before its time is up."""
    return math.ceil(job_hours(job) * 60 / minutes)


def endless(
    jobs: list[dict], config: dict, limit, tries: int, requeue: bool
) -> list[tuple[dict, float, float]]:
    """Jobs that cannot end: (job, hours it takes, hours it gets), the longest first.

    `limit` gives the minutes of a rule's jobs. What is done is kept when they are over, so each try counts;
    where SLURM may `requeue` jobs a training has as many portions as it needs, and cannot end only where one
    of its steps takes longer than a portion, in which it comes to no checkpoint.
    """
    found = []
    for job in jobs:
        hours, given = job_hours(job), limit(job["rule"]) * tries / 60
        if requeue and job["rule"] in (*TRAINING, "rl"):
            hours, given = hours / steps_of(job, config), limit(job["rule"]) / 60
        if hours > given:
            found.append((job, hours, given))
    return sorted(found, key=lambda entry: -entry[1])


def steps_of(job: dict, config: dict) -> float:
    """Steps of a training, at least one."""
    model, run = job["wildcards"]["model"], job["wildcards"]["run"]
    if job["rule"] == "rl":
        return max(1, grid.rl_settings(config, model, run)["steps"])
    settings, examples = (
        grid.sft_settings(config, model, run),
        grid.examples_of(config, grid.parse_run(run).size),
    )
    steps = settings["steps"] if "steps" in settings else settings["epochs"] * examples / settings["batch"]
    return max(1, steps)


def billions(config: dict, model: str) -> float:
    """Billions of parameters of a model, an error where the catalogue does not say."""
    if (count := grid.billions(config, model)) is None:
        records.fail(f"models.{model}", "has no `parameters`", "Give their number in billions in the config")
    return count


def tokens_of_sft(config: dict, costs: dict, model: str, run: str) -> float:
    """Tokens that an SFT run trains on."""
    settings, size = grid.sft_settings(config, model, run), grid.parse_run(run).size
    examples = grid.examples_of(config, size)
    seen = settings["steps"] * settings["batch"] if "steps" in settings else settings["epochs"] * examples
    return seen * tokens_of_example(costs, settings)


def tokens_of_example(costs: dict, settings: dict) -> float:
    """Tokens of an example as it is trained on, on average."""
    long = settings.get("completion", "trace") == "trace"
    return min(costs["trace_tokens"] if long else costs["lengths"]["base"], settings["max_length"])


def tokens_of_trunk(config: dict, costs: dict, model: str, run: str, runs: list[str]) -> tuple[float, float]:
    """Tokens that a trunk of `runs`, smallest first, trains on up to the size of one of them, and those of
    its branch.
    """
    settings = grid.sft_settings(config, model, run)
    along = sum(grid.seen(config, model, runs[: runs.index(run) + 1])) * tokens_of_example(costs, settings)
    return along, along * settings["cooldown"]


def trunk_savings(config: dict, costs: dict) -> list[tuple[str, float, float]]:
    """(recipe, FLOPs of its trunks and branches, FLOPs of the same sizes each trained by the protocol),
    finished or not.
    """
    found = collections.defaultdict(lambda: [0.0, 0.0])
    for (model, recipe, _), runs in grid.trunks(config).items():
        along, _ = tokens_of_trunk(config, costs, model, runs[-1], runs)
        falling = sum(tokens_of_trunk(config, costs, model, run, runs)[1] for run in runs)
        alone = [f"sft-{grid.parse_run(run).size}" for run in runs]
        apart = sum(tokens_of_sft(config, costs, model, run) for run in alone)
        for i, tokens in enumerate((along + falling, apart)):
            found[recipe][i] += 6 * billions(config, model) * GIGA * tokens
    return [(recipe, *both) for recipe, both in found.items()]


def tokens_of_subset(config: dict, costs: dict, run: str) -> float:
    """Tokens of the subset that a run trains on, as it is tokenised: whole, each example once."""
    return grid.examples_of(config, grid.parse_run(run).size) * costs["trace_tokens"]


def tokenised_gigabytes(config: dict, costs: dict, cells: list[tuple]) -> float:
    """Disk of the tokenised subsets: one a family, size, order of the data and column that is trained."""
    runs = {}
    for model, run, seed in cells:
        if (size := grid.parse_run(run).size) and not grid.parse_run(run).rl:
            settings = grid.sft_settings(config, model, run)
            kind = (config["models"][model]["family"], size, settings.get("completion"), settings.get("pool"))
            runs[*kind, grid.order_seed(config, seed)] = run
    return sum(tokens_of_subset(config, costs, run) for run in runs.values()) * costs["token_bytes"] / GIGA


def host_megabytes(config: dict, costs: dict, model: str, run: str, ranks: int) -> int:
    """Memory of the host that SFT asks for: what each rank holds, weights on their way to the cards, and room
    for the tokenised subset, which all ranks map.

    Under ZeRO-3 a rank loads one file of the weights at a time, and the first one gathers them all to save
    them; offloaded optimiser states lie on the host whole.
    """
    host, settings = costs["host"], grid.sft_settings(config, model, run)
    weights = (grid.billions(config, model) or 0) * costs["bytes_a_parameter"] * 1000
    zero = settings.get("deepspeed") or ""
    loading = min(weights, host["weights_file"]) if "zero3" in zero else weights
    total = ranks * (host["rank"] + loading) + weights
    if "offload" in zero:
        total += weights / costs["bytes_a_parameter"] * costs["state_bytes_a_parameter"]
    return round(total + tokens_of_subset(config, costs, run) * costs["token_bytes"] / 1e6)


def response_length(costs: dict, run: str) -> int:
    """Mean tokens of a response, by the last stage of the run."""
    return costs["lengths"][grid.parse_run(run).stage]


def rl_length(costs: dict, settings: dict, run: str) -> float:
    """Mean tokens of a response along an RL run, from those of its start to those of its end."""
    mean = (response_length(costs, grid.parse_run(run).start) + costs["lengths"]["rl"]) / 2
    return min(mean, settings["max_new_tokens"])


def problems(config: dict, task: str) -> int | None:
    """Problems of a task: what the config says, else the rows of its file, fetched or local; None where
    neither tells, as of one on a hub.
    """
    entry = config["tasks"][task]
    if entry["source"] == "synthetic":
        return config.get("synthetic", {}).get("task")
    given = entry.get("problems") or (400 if entry["source"] == "arithmetic" else None)  # as its rule has it
    if given is None:
        fetched, own = Places(config).task(task), intake.local_file(entry["source"])
        if fetched.exists():
            return counted_rows(fetched)
        given = counted_rows(own, *entry.get("where", {}).items()) if own and own.is_file() else None
    return min(filter(None, (given, entry.get("limit"))), default=None)


@functools.cache
def counted_rows(file: Path, where: tuple[str, str] | None = None) -> int | None:
    """Rows of a file whose column contains a text (column, text), all without; None where it cannot be read,
    of which fetching says why. Read once: a plan asks for every cell.
    """
    column, text = where or (None, "")
    try:
        if where is None and file.suffix == ".parquet":
            return records.parquet_rows(file)
        rows = intake.read_rows(file, also=(column,) if column else None)
        rows = intake.each_checked(file, rows, lambda row: row)
        return sum(column is None or text in str(row.get(column, "")) for row in rows)
    except SystemExit:
        return None


def responses(config: dict, task: str) -> int:
    """Responses that a cell gives to a task."""
    return config["tasks"][task]["samples"] * (problems(config, task) or PROBLEMS)


def sampled_by(task: str, config: dict, served: bool = False) -> list[str]:
    """The tasks whose responses the job of a task samples: its own, or with `generate.one_start` the first of
    a cell all and those that are `served`, for they wait for it, none.
    """
    tasks = config["grid"]["tasks"]
    if not config["generate"]["one_start"] or task not in tasks:
        return [task]
    if task == tasks[0]:
        return tasks
    return [] if served else [task]


def modelled_seconds(job: dict, config: dict, costs: dict, preset: dict) -> float:
    """Seconds of a job by the cost model (see costs.yaml), on all its GPUs together where it has any; of
    generation, of its `tasks` (else of its own).
    """
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
    if rule in TRAINING:
        if rule == "sft":
            tokens = tokens_of_sft(config, costs, model, run)
        else:
            seed = wildcards.get("seed")
            runs = grid.trunk(config, model, run, None if seed is None else int(seed))
            along, falling = tokens_of_trunk(config, costs, model, run, runs)
            tokens = along if rule == "trunk" else falling
        return start + 6 * size * GIGA * tokens / (preset["peak_flops"] * preset["sft_mfu"])
    if rule == "probe":  # one pass forward over the held-out traces
        flops = 2 * size * GIGA * config["report"]["probe"] * costs["trace_tokens"]
        return start + flops / (preset["peak_flops"] * preset["sft_mfu"])
    if rule == "rl":
        settings = grid.rl_settings(config, model, run)
        count = settings["steps"] * settings["prompts"] * settings["rollouts"]
        return start + count * rl_length(costs, settings, run) * size / preset["rl_tokens"]
    tasks = job.get("tasks", [wildcards["task"]])
    if not tasks:  # it puts together what is there
        return job["gpus"] * costs["cpu_seconds"]["default"]
    count = sum(responses(config, task) for task in tasks)
    return start + count * response_length(costs, run) * size / preset["generate_tokens"]


def measured_seconds(benchmarks: Path) -> dict[tuple, float]:
    """Mean wall seconds of finished jobs by (rule, `model.run`), from their benchmark files."""
    import pandas

    times = collections.defaultdict(list)
    for file in benchmarks.rglob("*.tsv"):
        rule = file.relative_to(benchmarks).parts[0].removesuffix(".tsv")
        seconds = float(pandas.read_csv(file, sep="\t").s.iloc[-1])
        times[rule, file.stem.split(".seed")[0]].append(seconds)
    return {key: sum(values) / len(values) for key, values in times.items()}


def wall_seconds(jobs: list[dict], gpus: int, cores: int) -> float:
    """Seconds until all jobs are done, simulated: by priority, as soon as GPUs or a core are free."""
    left = [len(job["waits_for"]) for job in jobs]
    followers = collections.defaultdict(list)
    for i, job in enumerate(jobs):
        for need in job["waits_for"]:
            followers[need].append(i)
    # One queue for each kind and number of what jobs ask for: a job that has to wait is looked at once.
    ready, running = collections.defaultdict(list), []
    now, free = 0.0, {"gpu": gpus, "core": cores}

    def wait(i: int) -> None:
        kind, need = ("gpu", min(jobs[i]["gpus"], gpus)) if jobs[i]["gpus"] else ("core", 1)
        heapq.heappush(ready[kind, need], (-jobs[i]["priority"], i))

    for i in range(len(jobs)):
        if not left[i]:
            wait(i)
    while True:
        while fitting := [asked for asked, queue in ready.items() if queue and asked[1] <= free[asked[0]]]:
            kind, need = min(fitting, key=lambda asked: ready[asked][0])
            _, i = heapq.heappop(ready[kind, need])
            free[kind] -= need
            heapq.heappush(running, (now + jobs[i]["seconds"] / need, i, kind, need))
        if not running:
            return now
        now, done, kind, need = heapq.heappop(running)
        free[kind] += need
        for follower in followers[done]:
            left[follower] -= 1
            if not left[follower]:
                wait(follower)


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
    """Gigabytes at the end and at the peak: weights, responses, data; and states of runs in progress."""
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
    if config["traces"]["source"] != "synthetic":
        end += costs["data_gigabytes"] + tokenised_gigabytes(config, costs, cells)
    end += costs["state_bytes_a_parameter"] * sum(
        len(runs) * billions(config, model) for (model, _, _), runs in grid.trunks(config).items()
    )
    states = [billions(config, job["wildcards"]["model"]) for job in jobs if job["rule"] in (*TRAINING, "rl")]
    widest = max((job["gpus"] for job in jobs), default=0)
    at_once = sorted(states, reverse=True)[: max(1, gpus // max(1, widest))]
    # the one before goes only when the next is whole, in RL its states alone
    return end, end + 2 * sum(at_once) * costs["state_bytes_a_parameter"]
