"""Files that others wrote, read at the door: parquet, JSON lines or one JSON array, each row held to what it
must be.

What is behind the door (order_traces, training, grading) takes types for granted. A value that is something
else would be iterated, or be true, all the same: `"False"` is true, a text is a list of characters. So a row
with a wrong type stops here, with its number and what it holds; what can only mean one thing is put right (27
as an answer is the text 27, a null among the generations is none of them).
"""

import itertools
import json
import math
import os
from pathlib import Path

from valley import records

SUFFIXES = (".parquet", ".jsonl", ".json")
TRACES = ("problem", "generations")  # what traces cannot do without
ABSENT = ("answer", "solution", "source", "uuid")  # null where the file has none
LISTS = ("correctness_math_verify", "correctness_llama", "is_reasoning_complete", "finish_reasons")
SPOKEN = {list: "a list", dict: "an object", str: "a text", bool: "a truth value", type(None): "nothing"}


class Wrong(ValueError):
    """A value that is not what its column must hold."""


def local_file(source: str) -> Path | None:
    """The file that a source of the config names; None for a hub id. A name that ends as files do is one."""
    path = Path(os.path.expandvars(source)).expanduser()
    if path.suffix in SUFFIXES or path.is_file():
        return path
    return None


def noted(source: str) -> dict:
    """What is noted of a local file in the provenance of what is fetched from it (contract.mended); nothing
    of a hub's data, which a commit pins.
    """
    file = local_file(source)
    if file is None or not file.is_file():
        return {}
    return {"read_from": {"identity": records.identity(file), "sha256": records.sha256(file)}}


def said(value) -> str:
    """A wrong value in a message: what it is and how it begins."""
    return f"{SPOKEN.get(type(value), 'a ' + type(value).__name__)} ({value!r:.60})"


def text(value) -> str:
    """A text that can be written as UTF-8; Wrong for everything else."""
    if not isinstance(value, str):
        raise Wrong(f"{said(value)} where a text must be")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Wrong(f"a text that is no Unicode, with half a surrogate pair: {value!r:.60}") from None
    return value


def written(value) -> str | None:
    """A text, or a number as its text (27 → "27", 27.0 → "27.0"); None for a null."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise Wrong(f"{value} where a text or a number must be")
        return str(value)
    return None if value is None else text(value)


def yes_or_no(value) -> bool | None:
    """True or false, also as 1 and 0; None for a null."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise Wrong(f"{said(value)} where true or false must be")


def listed(value, of) -> list | None:
    """A list whose items are what `of` says; None for a null."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise Wrong(f"{said(value)} where a list must be")
    return [of(item) for item in value]


def one_generation(value) -> str | None:
    """The text of one generation; None for a null, which is none."""
    return None if value is None else text(value)


def checked_trace(row: dict) -> dict:
    """A row of traces in canonical types; Wrong names the column."""
    made = {}
    for column in (*TRACES, *ABSENT, *LISTS):
        value = row.get(column)
        try:
            if column == "problem":
                made[column] = text(value)
                if not value.strip():
                    raise Wrong("an empty text")
            elif column == "generations":
                made[column] = listed(value, one_generation) or []
            elif column in ABSENT:
                made[column] = written(value)
            else:
                made[column] = listed(value, one_generation if column == "finish_reasons" else yes_or_no)
        except Wrong as error:
            raise Wrong(f"{column} holds {error}") from None
    return made


def checked_problem(row: dict) -> dict:
    """id (None where the row has none), problem, answer and level of a row; Wrong where one cannot be."""
    identity = next((row[key] for key in ("id", "unique_id", "uuid") if row.get(key) is not None), None)
    made = {}
    for column, value in (("id", identity), ("level", row.get("level"))):
        try:
            made[column] = written(value)
        except Wrong as error:
            raise Wrong(f"{column} holds {error}") from None
    for column in ("problem", "answer"):
        value = row.get(column)
        if value is None or not str(value).strip():
            raise Wrong(f"row {made['id'] or '?'!r} has no {column}")
    try:
        problem = text(row["problem"])
    except Wrong as error:
        raise Wrong(f"problem holds {error}") from None
    return {"id": made["id"], "problem": problem, "answer": str(row["answer"]), "level": made["level"]}


def kept(row: dict, where: tuple[str, str] | None) -> bool:
    """Whether a row is one of those that a source of the config is to give (`where`: column, text in it)."""
    return where is None or where[1] in str(row.get(where[0], ""))


def condition_of(entry: dict) -> tuple[str, str] | None:
    """`where` of a source of the config, as `kept` takes it."""
    return next(iter(entry.get("where", {}).items()), None)


def each_checked(path, rows, check, where: tuple[str, str] | None = None):
    """Yield `check(row)` of every row that is `kept`; stops at one that is wrong, with its number (from 1) in
    the file.
    """
    for number, row in enumerate(rows, 1):
        try:
            if not isinstance(row, dict):
                raise Wrong(f"it is {said(row)}, no object of columns")
            if kept(row, where):
                yield check(row)
        except Wrong as error:
            records.fail(f"{path} row {number}", str(error), "Mend the file, or leave the row out")


def json_rows(path: Path):
    """Yield the rows of a file of JSON lines, or of one JSON array of objects."""
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            begins = file.read(1)
            while begins.isspace():
                begins = file.read(1)
            file.seek(0)
            if begins == "[":
                yield from json.load(file)
                return
            for number, line in enumerate(file, 1):  # not splitlines: U+2028 may stand within a text
                if line.strip():
                    try:
                        yield json.loads(line)
                    except ValueError as error:
                        what = f"is no JSON ({error})"
                        records.fail(f"{path} line {number}", what, "One object a line: mend it")
    except FileNotFoundError:
        records.fail(path, "does not exist", "Give an existing .jsonl, .json or .parquet file, or a hub id")
    except (OSError, ValueError) as error:
        records.fail(path, f"cannot be read as JSON ({error})", "Mend the file")


def read_rows(path: Path, wanted: tuple = (), also: tuple | None = None, size: int = 500):
    """Yield the rows of a local file as dicts, with the columns `wanted` and, where they are there, `also`
    (None: all).
    """
    if path.suffix != ".parquet":
        yield from json_rows(path)
        return
    there = records.parquet_columns(path)
    optional = tuple(column for column in (there if also is None else also) if column not in wanted)
    for batch in records.parquet_batches(path, list(wanted), size, optional):
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError as error:
            records.fail(path, f"holds bytes that are no UTF-8 ({error})", "Mend the file")


def traces_schema():
    """The types of traces behind the door."""
    import pyarrow

    string, flags = pyarrow.string(), pyarrow.list_(pyarrow.bool_())
    kinds = {"generations": pyarrow.list_(string), "finish_reasons": pyarrow.list_(string)}
    kinds |= {column: flags for column in LISTS if column not in kinds}
    return pyarrow.schema([(column, kinds.get(column, string)) for column in (*TRACES, *ABSENT, *LISTS)])


def traces(path: Path, where: tuple[str, str] | None = None, limit: int | None = None):
    """Yield the rows of a local file of traces in canonical types: the first `limit` that are `kept`."""
    read = read_rows(path, TRACES, tuple(dict.fromkeys((*ABSENT, *LISTS, *(where or ())[:1]))))
    if path.suffix != ".parquet":
        read = complete(path, read, TRACES)
    yield from itertools.islice(each_checked(path, read, checked_trace, where), limit)


def complete(path: Path, read, wanted: tuple):
    """Rows of JSON whose first one has the columns that are needed; stops where it has not."""
    for number, row in enumerate(read):
        if number == 0 and isinstance(row, dict) and (missing := sorted(set(wanted) - row.keys())):
            records.fail(path, f"has no column {', '.join(missing)}", f"It has: {', '.join(row)}")
        yield row


def marks(row: dict, column: str) -> list:
    """What a column says of each generation of a row; nothing where it is not there or is of another
    number.
    """
    said = row.get(column) or []
    return said if len(said) == len(row["generations"]) else [None] * len(row["generations"])


def correct_ones(row: dict, rule: str) -> list[int]:
    """Which generations of a row count as correct under `rule` (see order_traces.correct_traces); an empty
    one never does.
    """
    there = [i for i, trace in enumerate(row["generations"]) if trace]
    if rule == "any":
        return there
    verified, by_llama = (
        [i for i in there if marks(row, column)[i]]
        for column in ("correctness_math_verify", "correctness_llama")
    )
    return verified if verified or rule == "math-verify" else by_llama


def cut_off(row: dict) -> set[int]:
    """The generations that ended at a limit: a model trained on them learns to stop in the middle of a
    thought.
    """
    reasons, whole = marks(row, "finish_reasons"), marks(row, "is_reasoning_complete")
    return {i for i, why in enumerate(reasons) if why == "length" or whole[i] is False}
