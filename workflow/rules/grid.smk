# What a name in a path stands for, and what a job of it needs.

import json
import math
import os
import shlex
from types import SimpleNamespace

CELLS = grid.cells(config)


wildcard_constraints:
    model="[A-Za-z0-9][A-Za-z0-9._-]*",
    run=r"(base|sft-[a-z0-9]+(\.[a-z0-9]+)?)(\+rl(\.[a-z0-9]+)?(@[0-9]+)?)?",
    seed="[0-9]+",
    order="[0-9]+",
    size="[a-z0-9]+",
    task="[A-Za-z0-9_-]+",
    problems="[A-Za-z0-9_-]+",


# Jobs of these runs go before all others: by `priority` in Snakemake, by a lower --nice in SLURM's queue, where jobs that
# became ready earlier wait already. The rest is set back little, for it also lets the jobs of others pass.
FIRST = grid.first_runs(config)
NICE = 100


def priority(stage):
    """A function of wildcards: the priority of a job, those of the first runs above all others, then by `stage`."""
    return lambda wildcards: stage + 10 * (wildcards.run in FIRST)


def nice(wildcards):
    """How a job stands in SLURM's queue among the study's own."""
    return f"--nice={0 if wildcards.run in FIRST else NICE}"


def at(path):
    """A path below the study's root."""
    return path if config["root"] == "." else f"{config['root']}/{path}"


def table(name):
    """The path of a table of the report."""
    return at(f"report/tables/{name}.csv")


def cell(model, run, seed, file):
    """The path of a file of a cell."""
    return at(f"results/{model}/{run}/seed{seed}/{file}")


def base_model(model, seed):
    """The folder of a base model: one a seed where it is made here, one in all where it is fetched."""
    return at(
        f"models/{model}/seed{seed}" if grid.is_pretrained_here(config, model) else f"models/{model}/fetched"
    )


def model_of(wildcards):
    """The folder of the model that a cell evaluates."""
    if wildcards.run == "base":
        return base_model(wildcards.model, wildcards.seed)
    return cell(wildcards.model, wildcards.run, wildcards.seed, "model")


def start_of(wildcards):
    """The folder of the model that an RL run starts from."""
    start = grid.parse_run(wildcards.run).start
    if start == "base":
        return base_model(wildcards.model, wildcards.seed)
    return cell(wildcards.model, start, wildcards.seed, "model")


def subset(run, seed, kind="parquet"):
    """The subset that an SFT run trains on, or (kind json) its card."""
    order = grid.order_seed(config, int(seed))
    return at(f"data/subsets/{grid.parse_run(run).size}/seed{order}.{kind}")


def subset_of(wildcards):
    """The subset of the run that wildcards name."""
    return subset(wildcards.run, wildcards.seed)


# The judge of reflection in place of a job's wildcards, for what depends on the model alone.
JUDGE = config["report"]["judge"]
JUDGING = SimpleNamespace(model=JUDGE["model"]) if JUDGE else None


def judged(model, run, seed):
    """The judge's labels of a cell; nothing without a judge."""
    return [cell(model, run, seed, "judged.parquet")] if JUDGE else []


def prompt_flags():
    """The flags of every script that renders prompts."""
    flags = {"--system": config["prompt"]["system"], "--suffix": config["prompt"]["suffix"]}
    return " ".join(f"{name} {shlex.quote(value)}" for name, value in flags.items() if value)


def problems_of(name):
    """The file of a task's problems, or of a set of RL problems."""
    return at(f"data/tasks/{name}.parquet" if name in config["tasks"] else f"data/rl/{name}.parquet")


def source_flags(entry):
    """--source, --revision and the like of a fetch rule, holding only what the config sets."""
    flags = {
        f"--{key}": entry.get(key) for key in ("source", "revision", "name", "split", "limit", "problems")
    }
    flags["--where"] = "".join(f"{column}={text}" for column, text in entry.get("where", {}).items())
    return " ".join(f"{name} {shlex.quote(str(value))}" for name, value in flags.items() if value)


def gpus(wildcards):
    """GPUs that generation of a model asks for."""
    return config["models"][wildcards.model].get("gpus", 0)


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
    """A function of a job's attempt: memory that grows when it is tried again."""
    return lambda wildcards, attempt: mb * attempt


# Training and generation run in the GPU stack where there are GPUs, all else in the CPU stack.
CPU_ENV = "../../envs/cpu.yaml"
MODEL_ENV = "../../envs/gpu.yaml" if config["generate"]["engine"] == "vllm" else CPU_ENV

# In CPU studies jobs are forked from one process that has imported torch; not within a SLURM job, which that process would
# outlive, and which could not be cancelled with it.
if config["warm_start"] and "SLURM_JOB_ID" not in os.environ:
    shell.prefix('python() {{ command python scripts/warm.py "$@"; }}; ')


def stop_flags(wildcards):
    """The flag of the tokens that end a response beside the family's end token."""
    tokens = config["families"][config["models"][wildcards.model]["family"]].get("stop_tokens", [])
    return f"--stop-tokens {' '.join(map(shlex.quote, tokens))}" if tokens else ""


def launched(count):
    """How a script is started on `count` GPUs; on CPU as it is."""
    return f"python scripts/launch.py --gpus {count}" if count else "python"


def launch(wildcards):
    """How generation is started."""
    return launched(gpus(wildcards))


def launch_training(settings):
    """A function of wildcards: how training with `settings` (sft or rl) is started, one process a GPU."""

    def line(wildcards):
        deepspeed = settings(config, wildcards.model, wildcards.run).get("deepspeed")
        count = training_gpus(wildcards)
        return launched(count) + (f" --deepspeed {deepspeed}" if deepspeed and count else "")

    return line


def sft_flags(wildcards):
    return grid.flags(grid.sft_settings(config, wildcards.model, wildcards.run), grid.SFT_FLAGS)


def preflight_flags(wildcards):
    names = ("completion", "max_length", "batch", "epochs", "steps")
    return grid.flags(grid.sft_settings(config, wildcards.model, wildcards.run), names)


def rl_flags(wildcards):
    return grid.flags(grid.rl_settings(config, wildcards.model, wildcards.run), grid.RL_FLAGS)


def rl_problems(wildcards):
    return at(f"data/rl/{grid.rl_settings(config, wildcards.model, wildcards.run)['problems']}.parquet")


def examples_flags():
    """--examples size=count of the sizes that the grid uses, for the data axis."""
    used = sorted({grid.parse_run(run).size for _, run, _ in CELLS} - {None})
    count = lambda size: config["sizes"][size]["examples"]
    return " ".join(f"{s}={config['traces']['rows'] if count(s) == 'all' else count(s)}" for s in used)


def paper_names():
    """our model=the paper's name of it, for the models of the grid that come from a hub."""
    used = dict.fromkeys(model for model, _, _ in CELLS)
    return [f"{name}={Path(config['models'][name]['source']).name}" for name in used]


def grid_names():
    """model/run/seed of every cell."""
    return ["/".join(map(str, name)) for name in CELLS]


def by_size(cells):
    """Cells with the base of each model first, then its SFT runs by size, controls after the protocol, RL last."""
    models = list(dict.fromkeys(model for model, _, _ in cells))
    count = lambda size: config["sizes"][size]["examples"] if size else 0
    number = lambda size: math.inf if count(size) == "all" else count(size)
    place = lambda run: (run.rl, run.recipe is not None, number(run.size))
    return sorted(cells, key=lambda name: (models.index(name[0]), *place(grid.parse_run(name[1]))))


def study_flags():
    """The flags of scripts that compare cells of the whole study."""
    return (
        f"--grid {' '.join(grid_names())} --examples {examples_flags()}"
        f" --confidence {config['report']['confidence']} {tasks_flags()}"
    )


def tasks_flags():
    """The flags of scripts that make tables: which tasks count for what."""
    chosen = {f"--{key}": config["report"][key] for key in ("headline", "length", "calculations")}
    return " ".join(f"{flag} {' '.join(tasks)}" for flag, tasks in chosen.items() if tasks)


def parameters():
    """model=parameters in billions, for the order of model sizes; of a model made here, roughly, from its shape."""
    made = (
        lambda shape: shape["layers"] * (4 * shape["hidden"] ** 2 + 3 * shape["hidden"] * shape["ff"]) / 1e9
    )
    count = lambda model: model.get("parameters") or (
        made(model["pretrain"]) if "pretrain" in model else None
    )
    used = {name: count(config["models"][name]) for name in dict.fromkeys(model for model, _, _ in CELLS)}
    return [f"{name}={number:.3g}" for name, number in used.items() if number]
