"""The contract with own data: what a model folder, traces and tasks from local files must be, before anything
is made.

`faults` takes milliseconds and is asked whenever a study is planned: are the files there, with the columns
and rows that the config counts on? `look` opens them (scripts/check.py, `make check`): types row by row,
tokenizer and template of each family, tokens of the traces, and one example as it will be trained. What comes
from a hub is checked when it is fetched.
"""

import contextlib
import itertools
import os
import sys
from pathlib import Path

from valley import check, claims_language, golds, grid, intake, prompts, records, weights
from valley.places import Places

ROWS = 5000  # rows of traces that are looked at; fetch_traces looks at all
TOKENISED = 200  # of the correct ones, under each tokenizer
MAX_UNKNOWN = 0.01  # share of the tokens to be learned that stand for text the tokenizer does not know
MAX_EMPTY = 0.01  # share of the completions with next to no tokens
CHARACTERS_A_TOKEN = 40  # more than any tokenizer packs into a token over a whole text


def study(files: list[Path], over: dict | None = None, sources: bool = True) -> dict:
    """The config of a study that can work, its local sources looked at unless `sources` is false; ends the
    script with a sentence else.
    """
    try:
        config = check.load(files, over)
        check.check(config)
        check.refuse(faults(config) if sources else ())
    except check.ConfigError as error:
        sys.exit(f"error: {error}")
    return config


def local(source: str) -> Path | None:
    """The local file or folder that a source names, there or not; None for a hub id."""
    path = Path(os.path.expandvars(source)).expanduser()
    if source.startswith(("/", ".", "~", "$")) or path.suffix in intake.SUFFIXES or path.exists():
        return path
    return None


def mended(source: str, fetched: Path) -> str | None:
    """The hash of a local file that holds something else than when it was `fetched`; None where it holds the
    same, is not here, or nothing was noted of it then. Only what has another size or time is read.
    """
    file = intake.local_file(source)
    if file is None or not (file.is_file() and fetched.is_file()):
        return None
    before = noted_of(fetched)
    if not before or before["identity"] == records.identity(file):
        return None
    now = records.sha256(file)
    return now if now != before["sha256"] else None


def noted_of(fetched: Path) -> dict | None:
    """What was noted of a local file when it was fetched (intake.noted): {} where nothing is there or it
    cannot be read, None where an earlier version fetched it.
    """
    if fetched.is_file():
        with contextlib.suppress(SystemExit):  # said where it is used
            return records.parquet_provenance(fetched).get("read_from")
    return {}


def local_sources(config: dict) -> dict[str, tuple[Path, Path]]:
    """(local file, where it is fetched to) of the tasks, RL sets and traces that the study needs, by key of
    the config.
    """
    places, found = Places(config), {}
    for key, file in problem_files(config).items():
        kind, _, name = key.rpartition(".")
        found[key] = (file, places.task(name) if kind == "tasks" else places.rl_set(name))
    for name in grid.own_traces(config):
        file = local(config["pools"][name]["traces"]["source"])
        found[f"pools.{name}.traces"] = (file, places.fetched(name))
    if config["traces"]["source"] != "synthetic":
        found["traces"] = (local(config["traces"]["source"]), places.traces)
    return {key: (file, made) for key, (file, made) in found.items() if file}


def look_at_fetched(config: dict, say):
    """Say which local files were mended after they had been fetched, and what becomes of it."""
    for key, (file, made) in local_sources(config).items():
        if mended(str(file), made):
            say(
                f"{key} {file}: holds something else than when it was fetched. The next run fetches it again, and makes "
                "anew all that comes of it (make plan)"
            )
        elif noted_of(made) is None and file.is_file() and file.stat().st_mtime > made.stat().st_mtime:
            say(
                f"{key} {file}: is newer than what was fetched of it, by a version that noted no content. If it was mended, "
                f"have it fetched again: snakemake with the flags of the run and --forcerun {made}"
            )


def unset(path: Path) -> bool:
    """True where a path names a variable that is not set here: of another machine's, perhaps."""
    return "$" in str(path)


def models(config: dict) -> dict[str, Path]:
    """The local folders of the models that the study needs, by name."""
    fetched = [name for name in grid.models_needed(config) if not grid.is_pretrained_here(config, name)]
    found = {name: local(config["models"][name]["source"]) for name in fetched}
    return {name: path for name, path in found.items() if path}


def problem_files(config: dict) -> dict[str, Path]:
    """The local files of the tasks and RL sets that the study needs, by config key."""
    cells = grid.cells(config)
    sets = {grid.rl_settings(config, m, r)["problems"] for m, r, _ in cells if grid.parse_run(r).rl}
    tasks = {*config["grid"]["tasks"], *config["traces"]["decontaminate"]}
    sources = {f"tasks.{name}": config["tasks"][name] for name in sorted(tasks & config["tasks"].keys())}
    sources |= {
        f"rl.sets.{name}": config["rl"]["sets"][name]
        for name in sorted((sets | tasks) & config["rl"]["sets"].keys())
    }
    found = {
        key: local(entry["source"])
        for key, entry in sources.items()
        if entry["source"] not in ("synthetic", "arithmetic")
    }
    return {key: path for key, path in found.items() if path}


def sizes(config: dict) -> dict[str, int]:
    """Examples of each size that the grid trains on; `all` asks for none in particular."""
    used = {grid.parse_run(run).size for _, run, _ in grid.cells(config)} - {None}
    counts = {size: config["sizes"][size]["examples"] for size in sorted(used)}
    return {size: count for size, count in counts.items() if count != "all"}


def completions(config: dict) -> set[str]:
    """The columns that the grid's runs train."""
    runs = {(model, run) for model, run, _ in grid.cells(config) if grid.parse_run(run).size}
    return {grid.sft_settings(config, *cell).get("completion") or "trace" for cell in runs}


def too_few(config: dict, rows: int, what: str):
    """Sizes that so many rows cannot fill."""
    for size, count in sizes(config).items():
        if count > rows:
            yield f"sizes.{size}.examples: {count} is more than the {rows} {what}. Lower it, or add traces"


def folder_faults(key: str, folder: Path):
    """What a model folder lacks."""
    if not folder.is_dir():
        yield f"{key}: {folder} is no folder. Give the folder of the model, or its hub id with a revision"
        return
    if not (folder / "config.json").exists():
        yield f"{key}: {folder} holds no config.json, so it is no model in Hugging Face's format"
    if not weights.loaded_files(folder):
        yield f"{key}: {folder} holds no model.safetensors, whole or with an index. Convert the weights first"
    if lacking := prompts.no_tokenizer(folder):
        yield f"{key}: {lacking}"


def claims_of(config: dict) -> dict:
    """The claims that a study is held against; ConfigError where they are not in their language."""
    file = Places(config).claims
    return claims_language.load(file if file.exists() else check.ROOT / file)


def asked_claims(config: dict) -> dict:
    """The claims that a study is held against; ends the script with a sentence where they are not in their
    language.
    """
    try:
        return claims_of(config)
    except check.ConfigError as error:
        sys.exit(f"error: {error}")


def claims_faults(config: dict):
    """What is wrong with the claims of a study: asked before anything is trained, for its report would end in
    it.
    """
    try:
        claims_of(config)
    except check.ConfigError as error:
        yield f"report.claims: {error}"


def faults(config: dict):
    """What is wrong with the claims and the local sources of a study, at a glance; sources that were fetched
    already are past.
    """
    places = Places(config)
    yield from claims_faults(config)
    for name, folder in models(config).items():
        if not unset(folder) and not places.base(name, 0).exists():
            yield from folder_faults(f"models.{name}.source", folder)
    waiting = {key: file for key, (file, made) in local_sources(config).items() if not made.exists()}
    for key, file in waiting.items():
        if not unset(file) and not file.is_file():
            yield f"{key}.source: {file} is not there. Give an existing .parquet, .jsonl or .json file, or a hub id"
    file = waiting.get("traces")
    if file and file.is_file() and file.suffix == ".parquet":
        columns, rows = records.parquet_columns(file), records.parquet_rows(file)
        yield from column_faults(config, columns)
        yield from too_few(config, min(rows, config["traces"].get("limit", rows)), "rows of the traces")


def column_faults(config: dict, columns):
    """Columns that the study needs and the traces have not."""
    needed = dict.fromkeys(
        intake.TRACES, "Traces need problem and generations, a list of texts"
    ) | dict.fromkeys(
        completions(config) - {"trace"}, "A recipe of the grid trains it (sft.recipes.*.completion)"
    )
    if config["traces"]["correct"] != "any":
        rule = (
            f"traces.correct is {config['traces']['correct']}; set it to any where all generations are right"
        )
        needed["correctness_math_verify"] = rule
    for column, why in needed.items():
        if column not in columns:
            yield f"traces.source: there is no column {column}. {why}"


def usable(config: dict, row: dict) -> str | None:
    """A trace of a row that may be trained on; None where it has none."""
    chosen = intake.correct_ones(row, config["traces"]["correct"])
    cut = intake.cut_off(row)
    return next((row["generations"][i] for i in chosen if i not in cut), None)


def look_at_traces(config: dict, say) -> tuple[list[dict], list[str]]:
    """(rows of problem, trace and solution, faults): the first ROWS rows of a local file of traces, each type
    checked.
    """
    file, found, kept = local(config["traces"]["source"]), [], []
    chosen = intake.traces(file, intake.condition_of(config["traces"]), config["traces"].get("limit"))
    read = list(itertools.islice(chosen, ROWS + 1))
    whole, read = len(read) <= ROWS, read[:ROWS]
    columns = [column for column in read[0] if any(row[column] is not None for row in read)] if read else []
    if not read:
        return [], [f"traces.source: {file} holds no rows"]
    found += column_faults(config, columns)
    cut = without = 0
    for row in read:
        trace = usable(config, row)
        without += trace is None
        cut += bool(intake.cut_off(row))
        if trace is not None:
            kept.append({"problem": row["problem"], "trace": trace, "solution": row["solution"]})
    looked = "all" if whole else "the first"
    say(f"traces {file}: {looked} {len(read)} rows looked at, columns {', '.join(columns)}")
    say(f"  {len(kept)} rows have a correct trace ({without} none; {cut} a trace that was cut off)")
    different = len({row["problem"] for row in kept})
    if whole:
        found += too_few(config, different, "different problems with a correct trace")
    share = lambda texts, sign: sum(sign not in text for text in texts) / max(1, len(texts))  # noqa: E731
    traces = [row["trace"] for row in kept]
    if traces:
        say(
            f"  without {prompts.THOUGHT_END}: {share(traces, prompts.THOUGHT_END):.1%}, without \\boxed: "
            f"{share(traces, chr(92) + 'boxed'):.1%}, shortest {min(map(len, traces))} characters"
        )
    return kept, found


def family_tokenizer(config: dict, name: str, folder: Path):
    """The tokenizer of a model as fetch_model would leave it: with its family's template, end and pad."""
    family = config["families"][config["models"][name]["family"]]
    tokenizer = prompts.load_tokenizer(folder)
    tokenizer.add_special_tokens({"eos_token": family["end_token"], "pad_token": family["pad_token"]})
    tokenizer.chat_template = Path(family["template"]).read_text(encoding="utf-8")
    return tokenizer


def look_at_model(config: dict, name: str, folder: Path, say) -> tuple[object | None, list[str]]:
    """(its tokenizer or None, faults): a local model folder under the template and tokens of its family."""
    key, family = f"models.{name}", config["models"][name]["family"]
    found = list(folder_faults(f"{key}.source", folder))
    if found:
        return None, found
    settings, template = config["families"][family], Path(config["families"][family]["template"])
    vocabulary = prompts.load_tokenizer(folder).get_vocab()
    if not template.is_file():
        return None, [f"families.{family}.template: {template} is not there"]
    for kind in ("end_token", *(["stop_tokens"] if "stop_tokens" in settings else [])):
        for token in [settings[kind]] if kind == "end_token" else settings[kind]:
            if token not in vocabulary:
                found.append(f"families.{family}.{kind}: {token} is no token of {folder}")
    if found:
        return None, found
    tokenizer = family_tokenizer(config, name, folder)
    content = records.read_json(folder / "config.json")
    positions = content.get("text_config", content).get("max_position_embeddings")
    for problem in prompts.tokenizer_problems(tokenizer, positions, config["sft"]["max_length"]):
        found.append(f"{key}: {problem}")
    for problem in prompts.template_problems(tokenizer, "What is 1 + 1?", "<think>a</think>2"):
        found.append(f"families.{family}: {problem}")
    say(
        f"model {name} {folder}: {weights.stored_parameters(folder) / 1e9:.3g}B parameters, {len(vocabulary)} tokens"
    )
    return tokenizer, found


def look_at_tokens(config: dict, name: str, tokenizer, rows: list[dict], say) -> list[str]:
    """Faults of the traces under one tokenizer: unknown tokens, next to none; shows the first as it is
    trained.
    """
    system, suffix = config["prompt"]["system"], config["prompt"]["suffix"]
    made = prompts.training_rows(tokenizer, rows, "trace", system, suffix, None)
    strange = set(prompts.unknown_ids(tokenizer))
    taught = [[token for token in row["labels"] if token != -100][:-1] for row in made]
    tokens = sum(map(len, taught))
    unknown = sum(token in strange for row in taught for token in row) / max(1, tokens)
    empty = sum(
        nearly_empty(len(ids), len(row["trace"]), "trace") for ids, row in zip(taught, rows, strict=True)
    ) / len(rows)
    long = sum(len(row["input_ids"]) > config["traces"]["max_tokens"] for row in made) / len(made)
    say(
        f"  under the tokenizer of {name}: {tokens / len(rows):.0f} tokens a trace, shortest {min(map(len, taught))}, "
        f"{unknown:.1%} unknown, {long:.1%} longer than traces.max_tokens"
    )
    say(f"  the first as {name} is trained on it; what stands in ⟦…⟧ carries no loss:")
    first, start = made[0]["input_ids"], len(made[0]["input_ids"]) - len(taught[0]) - 1
    begin, end = tokenizer.decode(taught[0][:40]), tokenizer.decode(first[max(start, len(first) - 20) :])
    middle = f" … {len(taught[0]) - 60} more tokens … " if len(taught[0]) > 60 else None
    learned = f"{begin}{middle}{end}" if middle else tokenizer.decode(first[start:])
    for line in f"⟦{tokenizer.decode(first[:start])}⟧{learned}".split("\n"):
        say(f"    | {line}")
    return [f"traces.source under the tokenizer of {name}: {fault}" for fault in text_faults(unknown, empty)]


def nearly_empty(tokens: int, characters: int, completion: str) -> bool:
    """True for a completion with next to no tokens, its end token not counted."""
    return tokens < {"trace": 2, "solution": 1}[completion] or tokens < characters / CHARACTERS_A_TOKEN


def text_faults(unknown: float, empty: float):
    """Why completions with such shares of unknown tokens, and of completions with next to none, teach
    nothing.
    """
    if unknown > MAX_UNKNOWN:
        yield (
            f"{unknown:.1%} of the tokens to be learned are unknown to the tokenizer: the model would learn to write "
            "nonsense. Look at the traces, or take the tokenizer that belongs to the model"
        )
    if empty > MAX_EMPTY:
        yield (
            f"{empty:.1%} of the completions have next to no tokens: the tokenizer drops their text, or there is none"
        )


def look_at_problems(key: str, file: Path, entry: dict, say) -> list[str]:
    """Faults of a local file of problems that an entry of the config names, each row checked."""
    if not file.is_file():
        return [f"{key}.source: {file} is not there. Give an existing .jsonl, .json or .parquet file"]
    expected = entry.get("problems")
    read = intake.read_rows(file)
    rows = list(intake.each_checked(file, read, lambda row: row, intake.condition_of(entry)))
    say(f"{key} {file}: {len(rows)} problems")
    if expected not in (None, len(rows)):
        return [f"{key}.problems: {expected} are expected, {file} gives {len(rows)}"]
    rows = golds.task_rows(str(file), rows[: entry.get("limit")])
    if why := golds.unlisted(rows, entry.get("answers", ())):
        return [f"{key}.answers: in {file} {why}. Add it, or mend the file"]
    return [] if rows else [f"{key}.source: {file} gives no rows"]


def examined(config: dict, say) -> list[str]:
    """All faults of the claims and the local sources of a study; tells what it saw by `say(line)`."""
    found, tokenizers = [*claims_faults(config)], {}
    look_at_fetched(config, say)
    for name, folder in models(config).items():
        tokenizer, more = look_at_model(config, name, folder, say)
        found += more
        if tokenizer is not None:
            tokenizers[name] = tokenizer
    for key, file in problem_files(config).items():
        group, _, name = key.rpartition(".")
        entry = config["tasks"][name] if group == "tasks" else config["rl"]["sets"][name]
        found += look_at_problems(key, file, entry, say)
    file = local(config["traces"]["source"]) if config["traces"]["source"] != "synthetic" else None
    if file is None:
        return found
    if not file.is_file():
        return [
            *found,
            f"traces.source: {file} is not there. Give an existing .parquet, .jsonl or .json file",
        ]
    rows, more = look_at_traces(config, say)
    found += more
    for name, tokenizer in tokenizers.items() if rows else ():
        found += look_at_tokens(config, name, tokenizer, rows[:TOKENISED], say)
    return found
