"""The grid: what the names of cells mean, which cells a config asks for, and whether the config can work at
all.

A *cell* is model × run × seed. A *run* composes stages and is written as the path shows it:

    base    sft-8k    sft-8k.wide    sft-8k+rl    base+rl    base+rl@20

`base` or `sft-<size>[.<recipe>]` starts it, `+rl[.<recipe>]` continues it, `@<step>` is a checkpoint along
RL. Used by the Snakefile (to expand the grid) and by the report (to know what is missing); it imports nothing
heavy.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

RUN = re.compile(
    r"(?P<start>base|sft-(?P<size>[a-z0-9]+)(\.(?P<recipe>[a-z0-9]+))?)"
    r"(?P<rl>\+rl(\.(?P<rl_recipe>[a-z0-9]+))?(@(?P<step>[0-9]+))?)?"
)
# Settings that become flags of a script, in the order of its command line.
PRETRAIN_FLAGS = ("hidden", "layers", "heads", "ff", "steps", "target", "batch", "lr")
SFT_FLAGS = ("lr", "schedule", "warmup", "weight_decay", "max_grad_norm", "epochs", "steps", "batch", "device_batch",
             "max_length", "completion", "packing", "precision", "gradient_checkpointing", "deepspeed", "save_every")  # fmt: skip
RL_FLAGS = ("lr", "schedule", "warmup", "weight_decay", "max_grad_norm", "steps", "prompts", "rollouts", "minibatch",
            "device_batch", "max_new_tokens", "temperature", "kl", "clip", "entropy", "loss", "precision",
            "gradient_checkpointing", "deepspeed", "save_every", "max_prompt", "vllm")  # fmt: skip


HEADLINE = "headline"  # the mean over the headline tasks, as a task of its own in the tables
RL_END = 3  # checkpoints whose mean is the end of an RL run, the run itself the last; never the best one


class ConfigError(ValueError):
    """A config that cannot work; the message names every bad key, its value and what is allowed."""


class Run(NamedTuple):
    """The parts of a run's name; absent parts are None."""

    start: str  # `base` or `sft-8k.wide`
    size: str | None  # `8k`
    recipe: str | None  # `wide`
    rl: bool
    rl_recipe: str | None
    step: int | None  # RL checkpoint

    @property
    def whole(self) -> str:
        """The run without its checkpoint: the run that trains the weights."""
        return self.start + (f"+rl{f'.{self.rl_recipe}' if self.rl_recipe else ''}" if self.rl else "")


def parse_run(run: str) -> Run:
    """Split a run's name into its parts; ConfigError when it is not one."""
    match = RUN.fullmatch(run)
    if not match:
        raise ConfigError(
            f"run {run!r}: not a run. Write base, sft-<size>[.<recipe>], either with +rl[.<recipe>][@<step>]"
        )
    step = match["step"]
    return Run(
        match["start"],
        match["size"],
        match["recipe"],
        bool(match["rl"]),
        match["rl_recipe"],
        step and int(step),
    )


def cells(config: dict) -> list[tuple[str, str, int]]:
    """All (model, run, seed) that `grid.cells` asks for, each once, with the RL checkpoints that
    `rl.checkpoints` adds.
    """
    found: dict[tuple[str, str, int], None] = {}
    for block in config["grid"]["cells"]:
        for model in block["models"]:
            for run in block["runs"]:
                parsed = parse_run(run)
                steps = config["rl"]["checkpoints"] if parsed.rl and parsed.step is None else []
                for seed in block["seeds"]:
                    for name in [*(f"{run}@{step}" for step in steps), run]:
                        found.setdefault((model, name, seed))
    return list(found)


def first_runs(config: dict) -> set[str]:
    """The runs whose jobs go before all others: the bases, and plain SFT on the smallest size that the grid
    trains.

    They tell soonest, and cheapest, whether a study works: what the base can do, and what training does to
    it.
    """
    count = {
        size: config["traces"]["rows"] if entry["examples"] == "all" else entry["examples"]
        for size, entry in config["sizes"].items()
    }
    plain = [
        run
        for _, run, _ in cells(config)
        if parse_run(run).size and not parse_run(run).recipe and not parse_run(run).rl
    ]
    return {"base", *sorted(plain, key=lambda run: count[parse_run(run).size])[:1]}


def is_pretrained_here(config: dict, model: str) -> bool:
    """True for a model that the `pretrain` rule makes; its base then depends on the seed."""
    return config["models"][model]["source"] == "pretrain"


def order_seed(config: dict, seed: int) -> int:
    """The seed of the data order behind a training seed: the same for all, or one each (`traces.order`)."""
    return seed if config["traces"]["order"] == "per-seed" else config["traces"]["seed"]


def sft_settings(config: dict, model: str, run: str) -> dict:
    """The SFT settings of a run: protocol, then size, then the model's own, then the recipe; later ones win."""
    parsed = parse_run(run)
    size = config["sizes"][parsed.size]
    recipe = config["sft"]["recipes"][parsed.recipe] if parsed.recipe else {}
    settings = {k: v for k, v in config["sft"].items() if k != "recipes"}
    settings |= (
        {k: v for k, v in size.items() if k != "examples"} | config["models"][model].get("sft", {}) | recipe
    )
    if "steps" in recipe:  # a recipe in steps replaces the epochs of the size
        settings.pop("epochs", None)
    return settings


def rl_settings(config: dict, model: str, run: str) -> dict:
    """The RL settings of a run: protocol, then the model's own, then the recipe; later ones win."""
    recipe = parse_run(run).rl_recipe
    settings = {k: v for k, v in config["rl"].items() if k not in ("recipes", "sets", "checkpoints")}
    return (
        settings | config["models"][model].get("rl", {}) | (config["rl"]["recipes"][recipe] if recipe else {})
    )


def training_gpus(config: dict, model: str, run: str) -> int:
    """GPUs that training of a run asks for: the model's; RL may have its own number (`rl.gpus`)."""
    own = rl_settings(config, model, run).get("gpus") if parse_run(run).rl else None
    return config["models"][model].get("gpus", 0) if own is None else own


def flags(settings: dict, names: tuple[str, ...]) -> str:
    """Settings as one command-line string, holding only what is set: a new key then changes no existing job."""
    text = lambda value: " ".join(map(str, value)) if isinstance(value, list) else value  # noqa: E731
    return " ".join(
        f"--{n.replace('_', '-')} {text(settings[n])}" for n in names if settings.get(n) is not None
    )


def check(config: dict, schema: Path):
    """Raise ConfigError unless the config fits the schema and every name, size and batch in it can work."""
    problems = [*schema_problems(config, schema)]
    if not problems:  # the other checks rely on the shape
        problems += [*grid_problems(config), *size_problems(config), *rl_problems(config)]
    if problems:
        raise ConfigError(
            "the configuration cannot work:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )


def schema_problems(config: dict, schema: Path):
    """Violations of the JSON schema, as sentences that name the key, the bad value and what is allowed."""
    import jsonschema
    import yaml

    validator = jsonschema.Draft202012Validator(yaml.safe_load(schema.read_text()))
    for error in sorted(validator.iter_errors(config), key=lambda e: list(map(str, e.absolute_path))):
        error = jsonschema.exceptions.best_match([error])
        where = ".".join(map(str, error.absolute_path)) or "top level"
        if error.validator == "additionalProperties":
            allowed = sorted(error.schema.get("properties", {}))
            unknown = sorted(set(error.instance) - set(allowed))
            yield f"{where}: unknown key {', '.join(unknown)}. Allowed: {', '.join(allowed)}"
        else:
            yield f"{where}: {error.message}"


def one_of(names) -> str:
    return ", ".join(sorted(map(str, names))) or "none is defined"


def grid_problems(config: dict):
    """Names in the grid, and in the lists that the data depend on, that nothing defines."""
    models, tasks = config["models"], config["tasks"]
    known = {"grid.tasks": set(tasks), "traces.decontaminate": {*tasks, *config["rl"]["sets"]}}
    for key, listed in (
        ("grid.tasks", config["grid"]["tasks"]),
        ("traces.decontaminate", config["traces"]["decontaminate"]),
    ):
        for task in listed:
            if task not in known[key]:
                yield f"{key}: unknown task {task!r}. Allowed: {one_of(known[key])}"
    for key in ("headline", "length", "calculations"):
        for task in config["report"][key]:
            if task not in config["grid"]["tasks"]:
                yield f"report.{key}: {task!r} is no task of the grid. Allowed: {one_of(config['grid']['tasks'])}"
    judge = config["report"]["judge"]
    if judge and judge["model"] not in models:
        yield f"report.judge.model: unknown model {judge['model']!r}. Allowed: {one_of(models)}"
    for model in config["traces"]["tokenizers"]:
        if model not in models:
            yield f"traces.tokenizers: unknown model {model!r}. Allowed: {one_of(models)}"
    for name, model in models.items():
        if model["family"] not in config["families"]:
            yield f"models.{name}.family: unknown family {model['family']!r}. Allowed: {one_of(config['families'])}"
        if model["source"] == "pretrain" and "pretrain" not in model:
            yield f"models.{name}: source is pretrain, but there is no pretrain block that gives its size"
    for i, block in enumerate(config["grid"]["cells"]):
        here = f"grid.cells[{i}]"
        for model in block["models"]:
            if model not in models:
                yield f"{here}.models: unknown model {model!r}. Allowed: {one_of(models)}"
        for run in block["runs"]:
            try:
                parsed = parse_run(run)
            except ConfigError as error:
                yield f"{here}.runs: {error}"
                continue
            if parsed.size and parsed.size not in config["sizes"]:
                yield f"{here}.runs: {run!r} names no size. Allowed: {one_of(config['sizes'])}"
            if parsed.recipe and parsed.recipe not in config["sft"]["recipes"]:
                yield f"{here}.runs: {run!r} names no SFT recipe. Allowed: {one_of(config['sft']['recipes'])}"
            if parsed.rl_recipe and parsed.rl_recipe not in config["rl"]["recipes"]:
                yield f"{here}.runs: {run!r} names no RL recipe. Allowed: {one_of(config['rl']['recipes'])}"
            steps = config["rl"]["steps"]
            if parsed.step is not None and not 0 < parsed.step <= steps:
                yield f"{here}.runs: {run!r} is no checkpoint of a run of {steps} steps"


def size_problems(config: dict):
    """Sizes that the pool cannot give, and batches that do not divide."""
    rows = config["traces"]["rows"]
    used = {parse_run(run).size for _, run, _ in _valid_cells(config)} - {None}
    for name in sorted(used & set(config["sizes"])):
        examples = config["sizes"][name]["examples"]
        if examples != "all" and examples > rows:
            yield f"sizes.{name}.examples: {examples} is more than the pool of traces.rows = {rows}"
    for model, run, _ in _valid_cells(config):
        if parse_run(run).size:
            settings = sft_settings(config, model, run)
            gpus = max(1, training_gpus(config, model, parse_run(run).start))
            batch, device = settings["batch"], settings.get("device_batch", 1)
            device = min(device, max(1, batch // gpus))  # as sft.py does
            if batch % (gpus * device):
                yield (
                    f"{model}/{run}: batch {batch} does not divide over {gpus} device(s) × device_batch {device}. "
                    f"Choose gpus and device_batch whose product divides {batch}"
                )


def rl_problems(config: dict):
    """RL starts that the grid does not train, problem sets nothing defines, and batches that do not divide."""
    rl, wanted = config["rl"], _valid_cells(config)
    for model, run, seed in wanted:
        parsed = parse_run(run)
        if not parsed.rl:
            continue
        if (model, parsed.start, seed) not in wanted:
            yield (
                f"{model}/{run} seed {seed}: its start {parsed.start!r} is no run of the grid for this model and seed. "
                f"Add {parsed.start!r} to the same block's runs"
            )
        settings = rl_settings(config, model, run)
        if settings.get("problems") not in rl["sets"]:
            yield f"rl.problems of {model}: unknown set {settings.get('problems')!r}. Allowed: {one_of(rl['sets'])}"
        gpus = max(1, training_gpus(config, model, run))
        if settings["prompts"] % settings["minibatch"]:
            yield f"rl.minibatch: {settings['minibatch']} does not divide rl.prompts = {settings['prompts']}"
        elif settings["minibatch"] * settings["rollouts"] % (gpus * settings["device_batch"]):
            yield (
                f"rl.device_batch of {model}: {settings['device_batch']} × {gpus} device(s) does not divide "
                f"{settings['minibatch']} prompts × {settings['rollouts']} rollouts. Change it, or rl.gpus"
            )
    for step in rl["checkpoints"]:
        if step % rl["save_every"] or step >= rl["steps"]:
            yield (
                f"rl.checkpoints: {step} is not kept by a run of {rl['steps']} steps that saves every "
                f"{rl['save_every']} (its last step is the run itself)"
            )


def _valid_cells(config: dict) -> list[tuple[str, str, int]]:
    """The cells whose names all mean something; the others are reported by `grid_problems`."""
    try:
        wanted = cells(config)
    except ConfigError:
        return []
    return [
        (model, run, seed)
        for model, run, seed in wanted
        if model in config["models"]
        and (parse_run(run).size is None or parse_run(run).size in config["sizes"])
        and (parse_run(run).recipe is None or parse_run(run).recipe in config["sft"]["recipes"])
        and (parse_run(run).rl_recipe is None or parse_run(run).rl_recipe in config["rl"]["recipes"])
    ]


def fingerprint(content) -> str:
    """Short hash of any JSON content, for params and for resume decisions."""
    import hashlib

    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
