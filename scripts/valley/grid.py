"""The grid: what the names of cells mean, which cells a config asks for, and the settings of each.

A *cell* is model × run × seed. A *run* composes stages and is written as the path shows it:

    base    sft-8k    sft-8k.wide    sft-8k+rl    base+rl    base+rl@20

`base` or `sft-<size>[.<recipe>]` starts it, `+rl[.<recipe>]` continues it, `@<step>` is a checkpoint along
RL. No other module takes a run's name apart. Used by the Snakefile and by every table; it imports nothing
heavy.
"""

import functools
import hashlib
import json
import re
from typing import NamedTuple

# The patterns of names in paths, for Snakemake's wildcards and for this module.
MODEL = r"[A-Za-z0-9][A-Za-z0-9._-]*"
TASK = r"[A-Za-z0-9_-]+"
SIZE = RECIPE = POOL = r"[a-z0-9]+"
SUBSET = rf"{SIZE}(\.{POOL})?"
SFT_RUN = rf"sft-{SIZE}(\.{RECIPE})?"
SFT_RUN_OF = rf"sft-{SIZE}\.({{}})"  # of the recipes that are filled in, a|b
RL_RUN = rf"(base|{SFT_RUN})\+rl(\.{RECIPE})?"
ANY_RUN = rf"(base|{SFT_RUN}|{RL_RUN}(@[0-9]+)?)"
RUN = re.compile(
    rf"(?P<start>base|sft-(?P<size>{SIZE})(\.(?P<recipe>{RECIPE}))?)"
    rf"(?P<rl>\+rl(\.(?P<rl_recipe>{RECIPE}))?(@(?P<step>[0-9]+))?)?"
)

HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")  # no path that begins with / . ~ or $
ALONG = "@"  # ends what stands for every checkpoint of an RL run
HEADLINE = "headline"  # the mean over the headline tasks, as a task of its own in the tables
TRUNK = "trunk"  # the protocol of a recipe whose sizes are branches of one run (valley/trunk.py)
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

    @property
    def stage(self) -> str:
        """What made the weights: `base`, `sft` or `rl`."""
        return "rl" if self.rl else "sft" if self.size else "base"

    @property
    def is_protocol(self) -> bool:
        """True for SFT by the study's protocol: a size without a control recipe."""
        return self.stage == "sft" and self.recipe is None

    @property
    def is_control(self) -> bool:
        """True where SFT or RL departs from the protocol by a recipe."""
        return bool(self.recipe or self.rl_recipe)


class Cell(NamedTuple):
    """The address of a cell, written `model/run/seed` on command lines."""

    model: str
    run: str
    seed: int

    def __str__(self) -> str:
        return f"{self.model}/{self.run}/{self.seed}"

    @property
    def parsed(self) -> Run:
        """The parts of its run."""
        return parse_run(self.run)

    def sibling(self, run: str) -> "Cell":
        """The cell of the same model and seed with another run."""
        return self._replace(run=run)


def parse_cell(text: str) -> Cell:
    """The cell that `model/run/seed` names; ConfigError when it names none."""
    match = re.fullmatch(rf"(?P<model>{MODEL})/(?P<run>{ANY_RUN})/(?P<seed>[0-9]+)", text)
    if not match:
        raise ConfigError(f"cell {text!r}: not a cell. Write model/run/seed, as S/sft-64/0")
    return Cell(match["model"], match["run"], int(match["seed"]))


@functools.cache
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


def continued(start: str) -> str:
    """The name of the RL run that continues an SFT run or a base by the protocol."""
    return f"{start}+rl"


def along(runs: list[str], whole: str) -> list[str]:
    """The checkpoints among `runs` of the run `whole`, by step, the run itself the last."""
    steps = [run for run in runs if parse_run(run).whole == whole]
    return sorted(steps, key=lambda run: (parse_run(run).step is None, parse_run(run).step))


def cells(config: dict) -> list[Cell]:
    """All cells that `grid.cells` asks for, each once, and the checkpoints that `rl.checkpoints` adds."""
    found: dict[Cell, None] = {}
    for block in config["grid"]["cells"]:
        for model in block["models"]:
            for run in block["runs"]:
                parsed = parse_run(run)
                steps = kept_steps(config, model, run) if parsed.rl and parsed.step is None else []
                for seed in block["seeds"]:
                    for name in [*(f"{run}@{step}" for step in steps), run]:
                        found.setdefault(Cell(model, name, seed))
    return list(found)


def kept_steps(config: dict, model: str, run: str) -> list[int]:
    """Those of `rl.checkpoints` that an RL run keeps, which may have fewer steps than the study's or save
    less often; all where its names mean nothing.
    """
    recipe, steps = parse_run(run).rl_recipe, config["rl"]["checkpoints"]
    if model not in config["models"] or (recipe and recipe not in config["rl"]["recipes"]):
        return steps
    return [step for step in steps if is_kept(rl_settings(config, model, run), step)]


def is_kept(settings: dict, step: int) -> bool:
    """Whether an RL run of these settings keeps the weights of a step before its last."""
    return 0 < step < settings["steps"] and step % settings["save_every"] == 0


def first_runs(config: dict) -> set[str]:
    """The runs whose jobs go before all others: the bases, and plain SFT on the smallest size that the grid
    trains.

    They tell soonest, and cheapest, whether a study works: what the base can do, and what training does to
    it.
    """
    plain = [cell for cell in cells(config) if cell.parsed.is_protocol]
    smallest = min(plain, key=lambda cell: examples_of(config, cell.parsed.size), default=None)
    return {"base", *([smallest.run] if smallest else [])}


def starts_of_rl(config: dict) -> set[Cell]:
    """The cells that RL of the grid starts from."""
    return {cell._replace(run=cell.parsed.start) for cell in cells(config) if cell.parsed.rl}


def examples_of(config: dict, size: str | None) -> int:
    """Training examples of a size, `all` being what the source has; 0 for None, the size of a base."""
    if size is None:
        return 0
    examples = config["sizes"][size]["examples"]
    return config["traces"]["rows"] if examples == "all" else examples


def billions(config: dict, model: str) -> float | None:
    """Billions of parameters of a model of the catalogue; of one that is pre-trained here, roughly, from its
    shape.
    """
    entry = config["models"][model]
    if shape := entry.get("pretrain"):
        return shape["layers"] * (4 * shape["hidden"] ** 2 + 3 * shape["hidden"] * shape["ff"]) / 1e9
    return entry.get("parameters")


def is_pretrained_here(config: dict, model: str) -> bool:
    """True for a model that the `pretrain` rule makes; its base then depends on the seed."""
    return config["models"][model]["source"] == "pretrain"


def models_needed(config: dict) -> list[str]:
    """The models that a study needs: of its grid, those whose tokenizers bound the traces, the judge."""
    wanted, judge = cells(config), config["report"]["judge"]
    found = {cell.model for cell in wanted} | ({judge["model"]} if judge else set())
    if any(cell.parsed.size for cell in wanted):
        found |= set(config["traces"]["tokenizers"])
    return sorted(found)


def hub_id(config: dict, model: str) -> str | None:
    """The id of a model on a hub, which means the same to everybody; None of one that is made here or comes
    from a folder, as what no commit pins does (fetch_model.py).
    """
    entry = config["models"][model]
    pinned = entry.get("revision") and not is_pretrained_here(config, model)
    return entry["source"] if pinned and HUB_ID.fullmatch(entry["source"]) else None


def order_seed(config: dict, seed: int) -> int:
    """The seed of the data order behind a training seed: the same for all, or one each (`traces.order`)."""
    return seed if config["traces"]["order"] == "per-seed" else config["traces"]["seed"]


def sft_settings(config: dict, model: str, run: str) -> dict:
    """The SFT settings of a run: protocol, then size, then the model's own, then the recipe; later ones
    win.
    """
    parsed = parse_run(run)
    size = config["sizes"][parsed.size]
    recipe = config["sft"]["recipes"][parsed.recipe] if parsed.recipe else {}
    settings = {k: v for k, v in config["sft"].items() if k != "recipes"}
    settings |= (
        {k: v for k, v in size.items() if k != "examples"} | config["models"][model].get("sft", {}) | recipe
    )
    if is_trunk(config, run):  # one rate for all sizes
        settings["schedule"] = "constant_with_warmup"
    if "steps" in recipe:  # a recipe in steps replaces the epochs of the size
        settings.pop("epochs", None)
    return settings


def is_trunk(config: dict, run: str) -> bool:
    """True for a run whose SFT is a branch of a trunk: its recipe's protocol is `trunk`."""
    recipe = parse_run(run).recipe
    return bool(recipe) and config["sft"]["recipes"].get(recipe, {}).get("protocol") == TRUNK


def trunk(config: dict, model: str, run: str, seed: int | None = None) -> list[str]:
    """The runs of the trunk that a run branches off, smallest size first: those of its recipe in the grid,
    for this model and seed (None: for any).
    """
    recipe = parse_run(run).recipe
    blocks = [
        b for b in config["grid"]["cells"] if model in b["models"] and (seed is None or seed in b["seeds"])
    ]
    starts = {parse_run(name).start for block in blocks for name in block["runs"]}
    runs = [start for start in starts if parse_run(start).recipe == recipe]
    return sorted(runs, key=lambda start: examples_of(config, parse_run(start).size))


def trunks(config: dict) -> dict[tuple[str, str, int], list[str]]:
    """The runs of each trunk of the grid by model, recipe and seed."""
    found = {(c.model, c.parsed.recipe, c.seed): c.run for c in cells(config) if is_trunk(config, c.run)}
    return {(model, by, seed): trunk(config, model, run, seed) for (model, by, seed), run in found.items()}


def trunk_pieces(config: dict, model: str, runs: list[str]) -> list[tuple[int | str, float]]:
    """Of a trunk's runs, smallest first: the traces of the size (`all` as it stands in the config), and how
    often those are seen that it adds to the size before.
    """
    return [
        (config["sizes"][parse_run(run).size]["examples"], sft_settings(config, model, run)["epochs"])
        for run in runs
    ]


def seen(config: dict, model: str, runs: list[str]) -> list[float]:
    """Examples that each piece of a trunk sees, repetitions counted."""
    ends = [examples_of(config, parse_run(run).size) for run in runs]
    passes = [count for _, count in trunk_pieces(config, model, runs)]
    return [(end - start) * count for start, end, count in zip([0, *ends], ends, passes, strict=False)]


def pool_of(config: dict, model: str, run: str) -> str | None:
    """The named pool that an SFT run draws its examples from (`pool` of its settings); None: all traces."""
    return sft_settings(config, model, run).get("pool")


def pools_used(config: dict) -> list[str]:
    """The named pools that the grid draws from, and those that they are mixed of."""
    named = {pool_of(config, c.model, c.run) for c in cells(config) if c.parsed.stage == "sft"} - {None}
    return sorted(named.union(*(config["pools"][name].get("mix", {}) for name in named)))


def own_traces(config: dict) -> list[str]:
    """The pools in use whose traces come from a source of their own."""
    return [name for name in pools_used(config) if "traces" in config["pools"][name]]


def passes(config: dict, model: str, run: str) -> float:
    """How often an SFT run sees each example: its epochs, or what its steps come to."""
    settings = sft_settings(config, model, run)
    if "steps" not in settings:
        return settings["epochs"]
    return settings["steps"] * settings["batch"] / examples_of(config, parse_run(run).size)


def crosses_epochs(config: dict) -> bool:
    """True where the grid trains a model on several sizes, and on one of them for several numbers of epochs
    by recipe.
    """
    found: dict[str, dict[str, set]] = {}
    for model, run in dict.fromkeys((cell.model, cell.run) for cell in cells(config)):
        parsed = parse_run(run)
        if parsed.stage == "sft" and set(config["sft"]["recipes"].get(parsed.recipe, {})) == {"epochs"}:
            found.setdefault(model, {}).setdefault(parsed.size, set()).add(passes(config, model, run))
    return any(len(sizes) > 1 and max(map(len, sizes.values())) > 1 for sizes in found.values())


def rl_settings(config: dict, model: str, run: str) -> dict:
    """The RL settings of a run: protocol, then the model's own, then the recipe; later ones win."""
    recipe = parse_run(run).rl_recipe
    settings = {k: v for k, v in config["rl"].items() if k not in ("recipes", "sets", "checkpoints")}
    return (
        settings | config["models"][model].get("rl", {}) | (config["rl"]["recipes"][recipe] if recipe else {})
    )


def generate_settings(config: dict, model: str) -> dict:
    """The settings of generation of a model, or of the judge where it is one: the study's, then the model's
    own.
    """
    return config["generate"] | config["models"][model].get("generate", {})


def training_gpus(config: dict, model: str, run: str) -> int:
    """GPUs that training of a run asks for: the model's; RL may have its own number (`rl.gpus`)."""
    own = rl_settings(config, model, run).get("gpus") if parse_run(run).rl else None
    return config["models"][model].get("gpus", 0) if own is None else own


def fingerprint(content) -> str:
    """Short hash of any JSON content, for params and for resume decisions."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
