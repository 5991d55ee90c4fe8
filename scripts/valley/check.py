"""Configs: load them as Snakemake does, and refuse those that cannot work, before anything is planned.

The schema (workflow/schemas/config.schema.yaml) says what keys there are and what shape their values have;
the rest of this module checks what a schema cannot: names that must exist, sizes the pool must give, batches
that must divide. Every fault of a config is named at once, with its key, its value and what is allowed.
"""

import fnmatch
import json
import re
from pathlib import Path

import yaml

from valley import records, shapes
from valley.grid import (
    HEADLINE,
    TRUNK,
    ConfigError,
    cells,
    examples_of,
    generate_settings,
    is_kept,
    parse_run,
    rl_settings,
    sft_settings,
    training_gpus,
    trunk_pieces,
    trunks,
)

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
# Names that tables are read back with as something else (pandas.read_csv): as numbers and truth values …
NUMBERS = re.compile(r"-?([0-9]+\.?[0-9]*(e-?[0-9]+)?|inf|infinity)|true|false", re.IGNORECASE)
MISSING = {"NA", "NULL", "NaN", "None", "nan", "null", "-NaN", "-nan"}  # … and as no value
# Names that tables and figures have for something else: own rows would be taken for it without a word.
RESERVED = {
    "tasks": {HEADLINE: "the mean over the headline tasks"},
    "sft.recipes": {
        "base": "models before training",
        "protocol": "SFT without a recipe",
        "paper": "the paper's values",
    },
}


class Loader(yaml.SafeLoader):
    """YAML as its version 1.2 reads integers (010 is ten, 1:30 and 1_000 are texts), keys given twice
    refused.
    """


Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:int"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10),
)


def mapping(loader: Loader, node) -> dict:
    """A mapping none of whose keys is written twice; what `<<` merges in may be written over."""
    first: dict = {}
    for key, _ in node.value:
        if key.value in first and key.tag != "tag:yaml.org,2002:merge":
            raise yaml.constructor.ConstructorError(
                "while reading a mapping",
                node.start_mark,
                f"the key {key.value} is given twice: first in line {first[key.value]}",
                key.start_mark,
            )
        first[key.value] = key.start_mark.line + 1
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


Loader.add_constructor("tag:yaml.org,2002:map", mapping)


def once(pairs: list[tuple]) -> dict:
    """A JSON object none of whose keys is given twice."""
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"the key {twice[0]} is given twice")
    return dict(pairs)


def read(file: Path) -> dict:
    """A config file, YAML or JSON; ConfigError names the line that cannot be read."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
        if Path(file).suffix == ".json":
            content = json.loads(text, object_pairs_hook=once)
        else:
            content = yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{where}: {error.problem}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {error}") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{file}: holds no keys at its top level")
    return content or {}


def load(files: list[Path], over: dict | None = None) -> dict:
    """config.yaml with further files merged in, then `over`, as Snakemake does it: mappings merge, lists are
    replaced.
    """
    from snakemake.utils import update_config

    config: dict = {}
    for content in [*map(read, [ROOT / "config.yaml", *files]), over or {}]:
        update_config(config, content)
    return config


def check(config: dict):
    """Raise ConfigError unless the config fits the schema and every name, size and batch in it can work."""
    faults = [*key_faults(config)] or [*schema_faults(config)]
    if not faults:  # the other checks rely on the shape
        names = [*name_faults(config)]
        faults += [*names, *pool_faults(config), *([] if names else trunk_faults(config))]
        faults += [*size_faults(config), *rl_faults(config), *synthetic_faults(config)]
    refuse(faults)


def refuse(faults):
    """Raise ConfigError with all faults when there are any."""
    if faults := list(faults):
        raise ConfigError("the configuration cannot work:\n" + "\n".join(f"  - {fault}" for fault in faults))


def key_faults(content, where: str = ""):
    """Keys that are no text: an unquoted 32 is a number, and no name."""
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str):
                yield f'{where or "top level"}: the key {key!r} is no text. A name stands in quotes where it is a number: "{key}"'
            yield from key_faults(value, f"{where}.{key}".lstrip("."))
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield from key_faults(value, f"{where}[{i}]")


def of_study(file: Path, *parts: str) -> dict:
    """The configuration of a finished study (report/config.json), in which `parts` (`report.length`,
    `models.*.source`) are there and what the schema says of them. The rest may be another version's.
    """
    wrong, config = "is no configuration of a study", records.read_json(file)
    for part in parts:
        if gone := lacking(config, part.split(".")):
            records.fail(file, f"{wrong}: it has no {gone}", "Make the study's report again")
    for error in schema_errors(config):
        where = ".".join(map(str, error.absolute_path))
        if any(fnmatch.fnmatch(where, part) for part in parts):
            records.fail(file, f"{wrong}: {where}: {error.message}", "Make the study's report again")
    return config


def lacking(content, keys: list[str]) -> str | None:
    """The first path below `content` that is not there, of those that `keys` name; `*` stands for every
    key.
    """
    if not keys:
        return None
    if not isinstance(content, dict):
        return keys[0]
    for name in content if keys[0] == "*" else keys[:1]:
        if name not in content:
            return name
        if gone := lacking(content[name], keys[1:]):
            return f"{name}.{gone}"
    return None


def schema_errors(config: dict) -> list:
    """Violations of the JSON schema in the order of their keys (jsonschema.ValidationError)."""
    import jsonschema

    validator = jsonschema.Draft202012Validator(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
    return sorted(validator.iter_errors(config), key=lambda e: list(map(str, e.absolute_path)))


def schema_faults(config: dict):
    """Violations of the JSON schema, as sentences that name the key, the bad value and what is allowed."""
    import jsonschema

    for error in schema_errors(config):
        error = jsonschema.exceptions.best_match([error])
        where = ".".join(map(str, error.absolute_path)) or "top level"
        if error.validator == "additionalProperties":
            allowed = sorted(error.schema.get("properties", {}))
            unknown = sorted(set(error.instance) - set(allowed))
            yield f"{where}: unknown key {', '.join(unknown)}. Allowed: {', '.join(allowed)}"
        elif error.validator in ("pattern", "type") and "description" in error.schema:
            yield f"{where}: {error.instance!r} {error.schema['description']}"
        else:
            yield f"{where}: {error.message}"


def one_of(names) -> str:
    return ", ".join(sorted(map(str, names))) or "none is defined"


def taken_names(config: dict):
    """Names that stand in columns of tables, where they mean something else already, or from where they would
    come back as no names.

    A recipe's column is of texts all the same, since it holds the protocol's too.
    """
    for key, names, kind in (
        ("models", config["models"], "model"),
        ("tasks", config["tasks"], "task"),
        ("sft.recipes", config["sft"]["recipes"], "recipe"),
    ):
        for name, meant in RESERVED.get(key, {}).items():
            if name in names:
                yield f"{key}.{name}: tables and figures call {meant} {name!r}. Give the {kind} another name, as my{name}"
        for name in names:
            what = "a missing value" if name in MISSING else "a number or truth value"
            if name in MISSING or (kind != "recipe" and NUMBERS.fullmatch(name)):
                good = f"{kind}{'' if kind == 'recipe' else '-'}{name.lower()}"
                yield f"{key}.{name}: tables would be read with {what} in place of this name. Write more of a name, as {good}"


def name_faults(config: dict):
    """Names that tables or figures would take for something else; names in the grid, and in the lists that
    the data depend on, that nothing defines.
    """
    models, tasks = config["models"], config["tasks"]
    yield from taken_names(config)
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
    sources = {f"tasks.{name}": entry for name, entry in tasks.items()}
    sources |= {f"rl.sets.{name}": entry for name, entry in config["rl"]["sets"].items()}
    for key, entry in sources.items():
        words = [word.casefold() for word in entry.get("answers", [])]
        if twice := sorted({word for word in words if words.count(word) > 1}):
            yield f"{key}.answers: {twice[0]!r} is there twice, for small and capital letters are one. Write it once"
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
    asked = {f"{model}/{run}/{seed}" for model, run, seed in _valid_cells(config)}
    for cell in config["grid"].get("now", []):
        if cell not in asked:
            yield f"grid.now: {cell!r} is no cell of the grid. Write model/run/seed of one of grid.cells"


def pool_faults(config: dict):
    """Pools that nothing defines, that keep nothing, or that cannot be mixed, and settings that exclude each
    other.
    """
    pools, cells_of = config["pools"], _valid_cells(config)
    for name, pool in pools.items():
        for key in ("length", "tokens"):
            if key in pool and not pool[key][0] < pool[key][1]:
                yield f"pools.{name}.{key}: {pool[key]} holds nothing. Write [from, to]"
        if "mix" not in pool:
            continue
        if more := sorted(pool.keys() - {"mix"}):
            yield f"pools.{name}: a mix has no {', '.join(more)}. Set it in the pools that are mixed"
        for part in pool["mix"]:
            if part not in pools or "mix" in pools[part]:
                plain = one_of(other for other in pools if "mix" not in pools[other])
                yield f"pools.{name}.mix: {part!r} is no pool that can be mixed. Allowed: {plain}"
        if abs(sum(pool["mix"].values()) - 1) > 1e-6:
            yield f"pools.{name}.mix: the shares come to {sum(pool['mix'].values()):g}. They must come to 1"
    for model, run in dict.fromkeys((model, run) for model, run, _ in cells_of if run.startswith("sft-")):
        settings = sft_settings(config, model, run)
        if (pool := settings.get("pool")) is not None and pool not in pools:
            yield f"{model}/{run}: unknown pool {pool!r}. Allowed: {one_of(pools)}"
        if settings.get("lora_rank") and settings.get("deepspeed"):
            yield f"{model}/{run}: lora_rank trains without DeepSpeed. Set deepspeed: null beside it"
        if settings.get("order", "random") != "random" and settings.get("packing"):
            yield f"{model}/{run}: packed rows have no order by length. Set packing: false, or order: random"


def trunk_faults(config: dict):
    """Trunks that would pass for the paper's protocol, or whose sizes do not lie on one run."""
    named = {"sft": config["sft"]} | {
        f"models.{name}.sft": m.get("sft", {}) for name, m in config["models"].items()
    }
    for where, settings in named.items():
        if settings.get("protocol") == TRUNK:
            yield (
                f"{where}.protocol: cells of a trunk may not have the names of the paper's. Set it in a recipe, as "
                "sft.recipes.trunk: {protocol: trunk, batch: 64}, and name the runs sft-<size>.trunk"
            )
    wrong = set()
    for name, recipe in config["sft"]["recipes"].items():
        if recipe.get("protocol") != TRUNK:
            continue
        if more := sorted(recipe.keys() & {"steps", "schedule", "order"}):
            wrong.add(name)
            yield f"sft.recipes.{name}: a trunk has its own {', '.join(more)}. Leave it out"
        if "batch" not in recipe:
            wrong.add(name)
            yield f"sft.recipes.{name}: a trunk has one batch for all sizes. Set batch"
    valid = {run for _, run, _ in _valid_cells(config)}
    faults: dict[str, None] = {}
    for (model, recipe, _), runs in trunks(config).items():
        if recipe in wrong or not set(runs) <= valid:
            continue
        settings = sft_settings(config, model, runs[0])
        if settings.get("packing") or settings.get("order", "random") != "random":
            faults[
                f"{model}/{runs[0]}: a trunk has an order of its own. Set packing: false and order: random"
            ] = None
        ends = [0, *(examples_of(config, parse_run(run).size) for run in runs)]
        for run, (examples, passes), start, end in zip(
            runs, trunk_pieces(config, model, runs), ends, ends[1:], strict=False
        ):
            here = f"{model}/{run}: the trunk of {recipe}"
            if passes != int(passes):
                faults[f"{here} sees what a size adds a whole number of times, not {passes}. Set epochs"] = (
                    None
                )
            elif end == start:
                faults[f"{here} has another size of {end} examples. Leave one out"] = None
            elif examples != "all" and (end - start) * passes % settings.get("batch", 1):
                faults[
                    f"{here}: batch {settings['batch']} does not divide the {end - start} × {passes:g} examples that "
                    "this size adds. Choose one that does"
                ] = None
    yield from faults


def size_faults(config: dict):
    """Sizes that the pool cannot give, and batches that do not divide."""
    rows = config["traces"]["rows"]
    used = {parse_run(run).size for _, run, _ in _valid_cells(config)} - {None}
    for name in sorted(used & set(config["sizes"])):
        examples = config["sizes"][name]["examples"]
        if examples != "all" and examples > rows:
            yield f"sizes.{name}.examples: {examples} is more than the pool of traces.rows = {rows}"
        elif config["report"]["probe"] and examples_of(config, name) + config["report"]["probe"] > rows:
            yield (
                f"report.probe: size {name} takes {examples} of {rows} traces, which leaves no {config['report']['probe']} "
                "that it is not trained on. Set report.probe: 0, or a smaller size"
            )
    sampled = dict.fromkeys(model for model, _, _ in _valid_cells(config))
    judge = (config["report"]["judge"] or {}).get("model")
    for model in sampled | ({judge: None} if judge in config["models"] else {}):
        settings, gpus = generate_settings(config, model), config["models"][model].get("gpus", 0)
        over = settings.get("tensor_parallel", 1)
        if settings["engine"] != "vllm" or over == 1:
            continue
        if gpus % over:
            yield (
                f"models.{model}: tensor_parallel {over} does not divide its {gpus} gpus. An engine takes as many cards: "
                f"set models.{model}.gpus to a multiple of {over}, or models.{model}.generate.tensor_parallel"
            )
        elif gpus and (shape := shapes.shape_of(config, model)) and not shape.shared_by(over):
            able = [str(n) for n in range(1, gpus + 1) if gpus % n == 0 and shape.shared_by(n)]
            yield (
                f"models.{model}: tensor_parallel {over} does not divide its {shape.heads} attention heads, {shape.kv_heads} "
                f"key-value heads and {shape.ff} feed-forward units, and vLLM refuses it. On its {gpus} gpus set "
                f"models.{model}.generate.tensor_parallel to one of {', '.join(able)}"
            )
    for model, run, _ in _valid_cells(config):
        if parse_run(run).size:
            settings = sft_settings(config, model, run)
            gpus = training_gpus(config, model, parse_run(run).start)
            if why := without_kernel(config, model, settings, gpus):
                yield f"sft.attention of {model}/{run}: {why}"
            gpus = max(1, gpus)
            batch, device = settings["batch"], settings.get("device_batch", 1)
            device = min(device, max(1, batch // gpus))  # as sft.py does
            if batch % (gpus * device):
                yield (
                    f"{model}/{run}: batch {batch} does not divide over {gpus} device(s) × device_batch {device}. "
                    f"Choose gpus and device_batch whose product divides {batch}"
                )


def without_kernel(config: dict, model: str, settings: dict, gpus: int) -> str | None:
    """Why a training on so many GPUs cannot attend by `varlen`: FlashAttention computes in bf16, over heads
    as wide as a multiple of 8 up to 256 (torch's `mha_varlen_fwd`). On CPU it is not FlashAttention.
    """
    if settings.get("attention") != "varlen" or not gpus:
        return None
    if (precision := settings.get("precision", "fp32")) != "bf16":
        return f"varlen computes in bf16 on GPUs, and precision is {precision}. Set precision: bf16, or sdpa"
    shape = shapes.shape_of(config, model)
    if shape and (shape.head % 8 or shape.head > 256):
        return f"varlen takes heads as wide as a multiple of 8 up to 256, and its are {shape.head}. Set sdpa"
    return None


def rl_faults(config: dict):
    """RL starts that the grid does not train, problem sets nothing defines, and batches that do not
    divide.
    """
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
        if parsed.step not in (None, settings["steps"]) and not is_kept(settings, parsed.step):
            yield (
                f"{model}/{run}: a run of {settings['steps']} steps that saves every {settings['save_every']} keeps no "
                f"checkpoint {parsed.step}"
            )
        if settings.get("problems") not in rl["sets"]:
            yield f"rl.problems of {model}: unknown set {settings.get('problems')!r}. Allowed: {one_of(rl['sets'])}"
        gpus = training_gpus(config, model, run)
        if why := without_kernel(config, model, settings, gpus):
            yield f"rl.attention of {model}/{run}: {why}"
        gpus = max(1, gpus)
        if settings["prompts"] % settings["minibatch"]:
            yield f"rl.minibatch: {settings['minibatch']} does not divide rl.prompts = {settings['prompts']}"
        elif settings["minibatch"] * settings["rollouts"] % (gpus * settings["device_batch"]):
            yield (
                f"rl.device_batch of {model}: {settings['device_batch']} × {gpus} device(s) does not divide "
                f"{settings['minibatch']} prompts × {settings['rollouts']} rollouts. Change it, or rl.gpus"
            )
        if why := too_few_tokens(settings):
            yield f"rl.device_tokens of {model}/{run}: {why}"
    for step in rl["checkpoints"]:
        if not is_kept(rl, step):
            yield (
                f"rl.checkpoints: {step} is not kept by a run of {rl['steps']} steps that saves every "
                f"{rl['save_every']} (its last step is the run itself)"
            )


def too_few_tokens(settings: dict) -> str | None:
    """Why RL's passes by tokens are too small: one must hold the longest responses of a micro-batch, which
    is never split.
    """
    asked, rows = settings.get("device_tokens"), settings["device_batch"]
    prompt = settings.get("max_prompt", 1024)
    least = rows * (prompt + settings["max_new_tokens"])
    if asked is None or asked >= least:
        return None
    return (
        f"{asked} does not hold device_batch {rows} × (max_prompt {prompt} + max_new_tokens "
        f"{settings['max_new_tokens']}) = {least}. Set at least that, a smaller rl.device_batch, or null"
    )


def synthetic_faults(config: dict):
    """Synthetic problems that nothing makes: one task and one RL set are made, beside synthetic traces."""
    made, wanted = config["traces"]["source"] == "synthetic", _valid_cells(config)
    trained = {
        rl_settings(config, model, run).get("problems") for model, run, _ in wanted if parse_run(run).rl
    }
    tested = {*config["grid"]["tasks"], *config["traces"]["decontaminate"]}
    for key, entries, used in (
        ("tasks", config["tasks"], tested),
        ("rl.sets", config["rl"]["sets"], trained),
    ):
        named = {name for name, entry in entries.items() if entry["source"] == "synthetic"}
        if made and len(named) != 1:
            yield f"{key}: one has source: synthetic where traces have, and here {one_of(named)}. Give others a file"
        for name in sorted(named & used) if not made else ():
            yield f"{key}.{name}.source: synthetic problems come with synthetic traces. Set traces.source, or give a file"


def _valid_cells(config: dict) -> list[tuple[str, str, int]]:
    """The cells whose names all mean something; the others are reported by `name_faults`."""
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
