# What a name in a path stands for, and what a job of it needs.

import ast
import functools
import importlib.util
import json
import os
import re
import shlex
from types import SimpleNamespace

from snakemake.io import IOFile

CELLS = grid.cells(config)
PLACES = Places(config)
COSTS = costs.load()
TASKS = config["grid"]["tasks"]


wildcard_constraints:
    model=grid.MODEL,
    run=grid.ANY_RUN,
    seed="[0-9]+",
    order="[0-9]+",
    size=grid.SUBSET,
    pool=grid.POOL,
    task=grid.TASK,
    problems=grid.TASK,
    figure="[a-z_]+",


# Jobs of these runs go before all others: by `priority` in Snakemake, by a lower --nice in SLURM's queue, where jobs that
# became ready earlier wait already. The rest is set back little, for it also lets the jobs of others pass.
FIRST = grid.first_runs(config)
NICE = 100
# RL takes longest, and what it starts from is trained before the rest, or it is waited for at the end.
RL_STARTS = grid.starts_of_rl(config)


def priority(stage):
    """A function of wildcards: the priority of a job, those of the first runs above all others, then by `stage`."""
    return lambda wildcards: stage + 10 * (wildcards.run in FIRST)


def nice(wildcards):
    """How a job stands in SLURM's queue among the study's own."""
    return f"--nice={0 if wildcards.run in FIRST else NICE}"


def at(path):
    """A path below the study's root."""
    return str(PLACES.root / path)


def imports(script):
    """The modules that a script is made of, as its own import statements tell: inputs of each cheap rule."""
    return [f"scripts/{file}" for file in sources.files(script)]


def by_content(path, same):
    """An input that is configuration: it counts by its content, whatever the clock says of a clone or a copy.

    `same` tells that what was made from it holds this very content. A file that is no job's output may be `ancient`.
    """
    if same:
        return ancient(path)
    if os.access(path, os.W_OK):  # else its age decides
        Path(path).touch()
    return path


def template_of(wildcards):
    """The chat template of a model's family; the one that its base was made with is saved in the base."""
    template = config["families"][config["models"][wildcards.model]["family"]]["template"]
    saved = Path(base_model(wildcards.model, wildcards.get("seed"))) / "chat_template.jinja"
    if not saved.exists() or not Path(template).exists():
        return template
    return by_content(template, saved.read_bytes() == Path(template).read_bytes())


def table(name):
    """The path of a table of the report."""
    return str(PLACES.tables / f"{name}.csv")


def cell(model, run, seed, file):
    """The path of a file of a cell."""
    return str(PLACES.of(grid.Cell(model, run, seed), file))


def cell_of(wildcards):
    """The cell that wildcards name."""
    return grid.Cell(wildcards.model, wildcards.run, wildcards.seed)


def base_model(model, seed):
    """The folder of a base model: one a seed where it is made here, one in all where it is fetched."""
    return str(PLACES.base(model, seed))


def model_of(wildcards):
    """The folder of the model that a cell evaluates."""
    return str(PLACES.model(cell_of(wildcards)))


def start_of(wildcards):
    """The folder of the model that an RL run starts from."""
    return str(PLACES.start(cell_of(wildcards)))


def subset_of(wildcards):
    """The subset that a run trains on."""
    return str(PLACES.subset_of(cell_of(wildcards)))


def pool_inputs(wildcards):
    """What a named pool is taken from: other pools where it is a mix; the tokenizers where solutions are counted."""
    pool, order = config["pools"][wildcards.pool], wildcards.order
    if "mix" in pool:
        return {"pools": [str(PLACES.pool(order, name=part)) for part in pool["mix"]]}
    found = {"pools": [str(PLACES.ordered(order, wildcards.pool))]}
    if "traces" in pool and config["report"]["probe"]:
        found["study"] = str(PLACES.pool(order))  # whose end is held out, and whose problems may be here too
    if pool.get("completion", "trace") != "trace":
        found["tokenizers"] = [base_model(model, order) for model in config["traces"]["tokenizers"]]
    return found


def pool_flags(wildcards, input):
    """The flags of scripts/pool.py."""
    pool = config["pools"][wildcards.pool]
    if "mix" in pool:
        return f"--shares {' '.join(map(str, pool['mix'].values()))}"
    given = flags.line(pool, flags.POOL)
    if tokenizers := input.get("tokenizers"):
        limit = config["traces"]["max_tokens"]
        given += f" --tokenizers {shlex.join(tokenizers)} --max-tokens {limit} {prompt_flags(wildcards)}"
    return given


# The judge of reflection in place of a job's wildcards, for what depends on the model alone.
JUDGE = config["report"]["judge"]
JUDGE_PROMPT = "workflow/reference/judge_prompt.txt"
JUDGING = SimpleNamespace(model=JUDGE["model"]) if JUDGE else None


def judged(model, run, seed):
    """The judge's labels of a cell; nothing without a judge."""
    return [cell(model, run, seed, "judged.parquet")] if JUDGE else []


def judge_prompt_of(wildcards):
    """The judge's prompt; labels hold the hash of the one that they were asked with."""
    labels = Path(cell(wildcards.model, wildcards.run, wildcards.seed, "judged.parquet"))
    try:
        asked = records.parquet_provenance(labels).get("prompt_sha256")
    except SystemExit:  # no labels yet. Snakemake takes an error here for a rule that does not apply
        asked = None
    return by_content(JUDGE_PROMPT, asked == records.sha256(JUDGE_PROMPT)) if asked else JUDGE_PROMPT


def prompt_flags(wildcards):
    """The flags of every script that renders prompts."""
    given = {"--system": config["prompt"]["system"], "--suffix": config["prompt"]["suffix"]}
    return " ".join(f"{name} {shlex.quote(value)}" for name, value in given.items() if value)


def think_flags(wildcards):
    """The flag of a family's own tags of a thought, where the config sets them."""
    tags = config["families"][config["models"][wildcards.model]["family"]].get("think")
    return f"--think {' '.join(map(shlex.quote, tags))}" if tags else ""


def answer_flags(wildcards, problems):
    """The flags of how answers to `problems` (name: entry of the config) are read; nothing for mathematics in a box behind
    <think> tags.
    """
    form = config["prompt"].get("answer", "box")
    listed = [
        shlex.quote(f"{name}={','.join(entry['answers'])}")
        for name, entry in problems.items()
        if "answers" in entry
    ]
    given = [f"--answer {shlex.quote(form)}" if form != "box" else "", think_flags(wildcards)]
    return " ".join(filter(None, [*given, flag("--answers", listed).strip()]))


def rl_answer_flags(wildcards):
    """The flags of how answers to the problems of an RL run are read."""
    name = grid.rl_settings(config, wildcards.model, wildcards.run)["problems"]
    return answer_flags(wildcards, {name: config["rl"]["sets"][name]})


def problems_of(name):
    """The file of a task's problems, or of a set of RL problems."""
    return str(PLACES.problems(name))


def source_flags(entry, made=None):
    """--source, --revision and the like of a fetch rule, holding only what the config sets; and the hash of a local file
    of rows that was mended after `made` had been fetched from it. As a declared input it would make everything anew wherever a
    clone or a copy is younger, or the file is gone.
    """
    given = {
        f"--{key}": entry.get(key) for key in ("source", "revision", "name", "split", "limit", "problems")
    }
    given["--where"] = "".join(f"{column}={text}" for column, text in entry.get("where", {}).items())
    line = " ".join(f"{name} {shlex.quote(str(value))}" for name, value in given.items() if value)
    if made is None:
        return line
    if now := contract.mended(entry["source"], Path(made)):
        return f"{line} --sha256 {now}"
    lines = [value for value in recorded(str(made)) if isinstance(value, str)]
    return next((old for old in lines if old.partition(" --sha256 ")[0] == line), line)


def gpus(wildcards):
    """GPUs that generation of a model asks for."""
    return config["models"][wildcards.model].get("gpus", 0)


def one_gpu(wildcards):
    """One GPU where generation of a model asks for any: what a probe asks for."""
    return min(1, gpus(wildcards))


def training_gpus(wildcards):
    """GPUs that SFT or RL of a run asks for."""
    return grid.training_gpus(config, wildcards.model, wildcards.run)


def gpu_resource(count):
    """A function of wildcards: the GPUs of a job as the resource `gpu` (locally; sbatch --gpus); none where the site asks by --gres."""
    return lambda wildcards: None if config["gres"] else count(wildcards)


def gres_resource(count):
    """A function of wildcards: the GPUs of a job as sbatch --gres on sites that ask so (`gres` in the config); else none."""
    return lambda wildcards: (
        f"{config['gres']}:{count(wildcards)}" if config["gres"] and count(wildcards) else None
    )


def memory(mb):
    """A function of a job: its memory, which grows by half each time that SLURM ended it for want of memory.

    `mb` may be a function of the wildcards and threads.
    """

    def wanted(wildcards, threads, rulename):
        folder = Path(".snakemake/slurm_logs") / f"rule_{rulename}" / "_".join(wildcards)
        first = mb(wildcards, threads) if callable(mb) else mb
        return round(first * 1.5 ** environment.ends_without_memory(folder))

    return wanted


@functools.cache
def measured_seconds():
    """What finished jobs took, read once a start of Snakemake."""
    return costs.measured_seconds(PLACES.benchmarks)


def time_asked(count):
    """The minutes that a job asks for, as a function of the job, so that SLURM can start it in a gap (costs.minutes_to_ask).

    `count` gives its GPUs. Without any it asks for the default of the profile, which Snakemake has no public way to; where
    that is none or an expression, all jobs do.
    """
    default = workflow.resource_settings._parsed_default_resources.get("runtime")
    if default is None or default.is_evaluable() or default.value is None:
        return default and default._evaluator

    def minutes(wildcards, attempt, rulename):
        job = {"rule": rulename, "wildcards": dict(wildcards.items()), "gpus": count(wildcards)}
        if not job["gpus"] or not workflow.is_main_process:  # within a job all has been asked for
            return default.value
        if rulename == "generate":
            job["tasks"] = costs.sampled_by(wildcards.task, config)
        job["seconds"], _ = costs.seconds(job, config, COSTS, COSTS["presets"]["paper"], measured_seconds())
        return costs.minutes_to_ask(job, attempt, default.value, COSTS)

    return minutes


def jobs_without_end():
    """The planned jobs whose modelled time is more than they can get (costs.endless), as short texts."""
    preset = COSTS["presets"]["paper"]
    found, requeue = [], bool(getattr(workflow.executor_settings, "requeue", False))
    for job in workflow.dag.needrun_jobs():
        planned = {
            "rule": job.rule.name,
            "wildcards": dict(job.wildcards.items()),
            "gpus": jobs.gpus_of(job.resources),
        }
        if not planned["gpus"] or not isinstance(minutes := job.resources.get("runtime"), int):
            continue
        planned["seconds"], _ = costs.seconds(planned, config, COSTS, preset, measured_seconds())
        given = lambda rule, minutes=minutes: minutes  # noqa: E731
        for _, hours, gets in costs.endless([planned], config, given, 1 + job.restart_times, requeue):
            found.append(f"{job.rule.name} {'.'.join(job.wildcards)}: {hours:,.0f} h of {gets:,.0f} h")
    return found


def jobs_without_room():
    """A sentence for each rule and model of the plan that its cards cannot hold, and what would fit. The cards are, where
    jobs run on this machine, its own, else those of `card`; nothing is said where neither tells.
    """
    kind = config["card"]
    if kind is None and not workflow.local_exec:
        return []
    asked = [
        {"rule": job.rule.name, "wildcards": dict(job.wildcards.items()), "gpus": jobs.gpus_of(job.resources)}
        for job in workflow.dag.needrun_jobs()
    ]
    if not any(job["gpus"] for job in asked):
        return []
    size = vram.of_machine() if workflow.local_exec else None  # whatever card the config names
    if size is None and kind:
        size = costs.card(COSTS, kind)["memory"]
    return vram.refusals(config, asked, size, COSTS) if size else []


def needs_vllm(job):
    """Whether a planned job samples by vLLM."""
    name, wildcards = job.rule.name, job.wildcards
    if name == "rl":
        return grid.rl_settings(config, wildcards.model, wildcards.run)["vllm"]
    model = {"judge": JUDGING, "generate": wildcards}.get(name)
    return model is not None and sampling(model)["engine"] == "vllm"


def jobs_without_vllm():
    """The rules of the plan that sample by vLLM, where jobs run in this interpreter's environment and it has none."""
    if workflow.deployment_settings.deployment_method or importlib.util.find_spec("vllm"):
        return []
    return sorted({job.rule.name for job in workflow.dag.needrun_jobs() if needs_vllm(job)})


def sft_memory(wildcards, threads):
    """Memory that SFT of a run asks for: it follows ranks, weights and tokens (costs.host_megabytes)."""
    ranks = max(1, training_gpus(wildcards))
    return costs.host_megabytes(config, COSTS, wildcards.model, wildcards.run, ranks)


def preflight_memory(wildcards, threads):
    """Memory that preflight asks for: its own, its workers', and room for the file that it writes."""
    tokens = costs.tokens_of_subset(config, COSTS, wildcards.run) * COSTS["token_bytes"] / 1e6
    return COSTS["host"]["preflight"] + threads * COSTS["host"]["worker"] + tokens


# Training and generation run in the GPU stack where there are GPUs, all else in the CPU stack.
CPU_ENV = "../../envs/cpu.yaml"
MODEL_ENV = "../../envs/gpu.yaml" if config["generate"]["engine"] == "vllm" else CPU_ENV

# What Snakemake puts before the command of every job. It sets the variables of threads by a rule's `threads`, which a profile may
# change: where numbers are to be the same everywhere, so are the threads.
prefix = "set -euo pipefail; "  # as Snakemake has it without a prefix of ours
if config["exact"] and kernels.has_avx2():
    exact = (f"{name}={shlex.quote(value)}" for name, value in kernels.variables().items())
    prefix += f"export {' '.join(exact)}; "
# In CPU studies jobs are forked from one process that has imported torch; not within a SLURM job, which that process would
# outlive, and which could not be cancelled with it.
if config["warm_start"] and "SLURM_JOB_ID" not in os.environ:
    prefix += 'python() {{ command python scripts/warm.py "$@"; }}; '
shell.prefix(prefix)


def stop_flags(wildcards):
    """The flag of the tokens that end a response beside the family's end token."""
    tokens = config["families"][config["models"][wildcards.model]["family"]].get("stop_tokens", [])
    return f"--stop-tokens {' '.join(map(shlex.quote, tokens))}" if tokens else ""


def launched(count):
    """How a script is started on `count` GPUs; on CPU as it is."""
    return f"python scripts/launch.py --gpus {count}" if count else "python"


def launch(wildcards, resources):
    """How generation is started: of operation, as `resources` tells (see `how`)."""
    return launched(gpus(wildcards))


def launch_training(settings):
    """A function of wildcards: how training with `settings` (sft or rl) is started, one process a GPU."""

    def line(wildcards, resources):
        deepspeed = settings(config, wildcards.model, wildcards.run).get("deepspeed")
        count = training_gpus(wildcards)
        if not count:
            return launched(count)
        return launched(count) + (f" --deepspeed {shlex.quote(deepspeed)}" if deepspeed else " --train")

    return line


# What a job makes is in its params, which Snakemake records and compares; how it is run is not: functions that ask for
# `resources` give params that are not recorded. Earlier versions recorded both in one line, beside how the script was
# started. Where such a line says the same, it stands for the new one, and nothing that is finished is made again.


def recorded(output):
    """The params that Snakemake recorded when it made a file, as values; none for what it has no record of."""
    return [ast.literal_eval(text) for text in workflow.persistence.params(IOFile(output)) or []]


def as_recorded(output, line, table):
    """A command line of what a job makes: as it was recorded where that says the same, else as it is now."""
    lines = [value for value in recorded(output) if isinstance(value, str)]
    same = (old for old in lines if old and flags.meaning(old, table) == flags.meaning(line, table))
    return next(same, line)


def started_before(file):
    """A function of wildcards: how a script was started, where an earlier version recorded it; else nothing."""

    def line(wildcards):
        lines = [value for value in recorded(file.format(**wildcards)) if isinstance(value, str)]
        return next((old for old in lines if re.fullmatch(r"python( scripts/launch\.py .*)?", old)), "")

    return line


def bound_before(file):
    """A function of wildcards: a number of operation, where an earlier version recorded it; else nothing."""
    return lambda wildcards: next(
        (old for old in recorded(file.format(**wildcards)) if isinstance(old, int | float)), ""
    )


SFT_RECORD = RL_RECORD = cell("{model}", "{run}", "{seed}", "train.json")
TRUNK_RECORD = cell("{model}", "{run}", "{seed}", "trunk/train.json")
PREFLIGHT_RECORD = cell("{model}", "{run}", "{seed}", "preflight.json")
RESPONSES = cell("{model}", "{run}", "{seed}", "responses/{task}.parquet")
LABELS = cell("{model}", "{run}", "{seed}", "judged.parquet")


def what(file, settings, table):
    """A function of wildcards: the flags of what the job of `file` makes."""

    def line(wildcards):
        return as_recorded(file.format(**wildcards), flags.what(settings(wildcards), table), table)

    return line


def how(settings, table):
    """A function of wildcards: the flags of how a job is run, not recorded; given last, they count."""
    return lambda wildcards, resources: flags.how(settings(wildcards), table)


def sft_settings(wildcards):
    return grid.sft_settings(config, wildcards.model, wildcards.run)


def trunk_settings(wildcards):
    """The settings of a trunk and its branches beside their pieces, which tell how often each example is seen."""
    return {key: value for key, value in sft_settings(wildcards).items() if key != "epochs"}


def trunk_runs(wildcards):
    """The runs of the trunk of a cell, smallest size first."""
    runs = grid.trunk(config, wildcards.model, wildcards.run, int(wildcards.seed))
    if wildcards.run not in runs:
        known = ", ".join(runs) or "none"
        raise WorkflowError(
            f"{wildcards.model}/{wildcards.run}: its trunk has the sizes of the grid alone: {known}"
        )
    return runs


def trunk_of(wildcards):
    """The record of the trunk that a cell branches off."""
    return cell(wildcards.model, trunk_runs(wildcards)[-1], wildcards.seed, "trunk/train.json")


def pieces_of(wildcards):
    """What a trunk is made of up to the size of a run, as sft.py takes it."""
    runs = trunk_runs(wildcards)
    upto = runs[: runs.index(wildcards.run) + 1]
    return " ".join(
        f"{examples}:{passes:g}" for examples, passes in grid.trunk_pieces(config, wildcards.model, upto)
    )


def rl_settings(wildcards):
    return grid.rl_settings(config, wildcards.model, wildcards.run)


def sampling(wildcards):
    return grid.generate_settings(config, wildcards.model)


def together(wildcards):
    """Whether one start of the engine serves all tasks of a cell: that of the first task's job."""
    return config["generate"]["one_start"] and wildcards.task in TASKS


def then_flags(wildcards, resources):
    """The flags of the tasks whose chunks the job of the first task makes as well: of operation (see `how`)."""
    if not together(wildcards) or wildcards.task != TASKS[0]:
        return ""
    lines = [
        [
            at(f"data/tasks/{task}.parquet"),
            config["tasks"][task]["samples"],
            RESPONSES.format(**{**wildcards, "task": task}),
        ]
        for task in TASKS[1:]
    ]
    return " ".join(f"--then {shlex.join(map(str, line))}" for line in lines)


def first_task(wildcards):
    """What the job of a further task waits for, that the first one has made its chunks: the first one's responses. What is
    made waited for what Snakemake recorded, and is not made again because `one_start` has changed.
    """
    first, own = (RESPONSES.format(**{**wildcards, "task": task}) for task in (TASKS[0], wildcards.task))
    known = workflow.persistence.input(IOFile(own))
    waits = own != first and (together(wildcards) if known is None else first in known)
    return [first] if waits else []


def judge_sampling(wildcards):
    return grid.generate_settings(config, JUDGE["model"])


def rl_problems(wildcards):
    return str(PLACES.rl_set(grid.rl_settings(config, wildcards.model, wildcards.run)["problems"]))


def examples_flags():
    """--examples size=count of the sizes that the grid uses, for the data axis."""
    used = sorted({cell.parsed.size for cell in CELLS} - {None})
    return " ".join(f"{size}={grid.examples_of(config, size)}" for size in used)


def paper_names():
    """our model=the paper's name of it, for the models of the grid that come from a hub."""
    used = dict.fromkeys(model for model, _, _ in CELLS)
    return [f"{name}={Path(config['models'][name]['source']).name}" for name in used]


def grid_names():
    """model/run/seed of every cell."""
    return list(map(str, CELLS))


def by_size(cells):
    """Cells with the base of each model first, then its SFT runs by size, controls after the protocol, RL last."""
    models = list(dict.fromkeys(cell.model for cell in cells))

    def place(cell):
        run = cell.parsed
        return models.index(cell.model), run.rl, run.recipe is not None, grid.examples_of(config, run.size)

    return sorted(cells, key=place)


def study_flags():
    """The flags of scripts that compare cells of the whole study."""
    return (
        f"--grid {' '.join(grid_names())} --examples {examples_flags()}"
        f" --confidence {config['report']['confidence']} {tasks_flags()}{bases_flags()}"
    )


def bases_flags():
    """The flag of scripts that set cells beside their base: of which models it is trained here, one a seed."""
    return flag("--trained-bases", [m for m in used_models() if grid.is_pretrained_here(config, m)])


def flag(name, values):
    """A flag with its values; nothing where there are none."""
    return f" {name} {' '.join(values)}" if values else ""


def used_models():
    """The models of the grid."""
    return list(dict.fromkeys(cell.model for cell in CELLS))


def leaking():
    """Headline tasks whose problems are not taken out of the traces; synthetic ones never hold any."""
    clean = set(config["traces"]["decontaminate"])
    return (
        []
        if config["traces"]["source"] == "synthetic"
        else [t for t in config["report"]["headline"] if t not in clean]
    )


def known_flags():
    """What claims.py must know of a study beside its cells."""
    return ("--judged" if config["report"]["judge"] else "") + flag("--leaking", leaking())


def tasks_flags():
    """The flags of scripts that make tables: which tasks count for what."""
    chosen = {f"--{key}": config["report"][key] for key in ("headline", "length", "calculations")}
    return " ".join(f"{flag} {' '.join(tasks)}" for flag, tasks in chosen.items() if tasks)


def parameters():
    """model=parameters in billions, for the order of model sizes."""
    counts = {name: grid.billions(config, name) for name in dict.fromkeys(cell.model for cell in CELLS)}
    return [f"{name}={count:.3g}" for name, count in counts.items() if count]
