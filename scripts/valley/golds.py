"""Gold answers and their rules: what is none, what a task's columns say of it, and the reviewed list of our
benchmarks.

`workflow/reference/golds.tsv` has a row for every problem of AIME24, AMC23 and MATH500 (30 + 40 + 500), each
read once beside its problem: do entries stand in order, how far off may a number be, which unit or base is
asked for. A row is found by its problem's text, so the same problem has the same rules wherever it comes
from.
"""

import csv
import hashlib
import math
import sys
from pathlib import Path

from valley import equality, intake, notation, records
from valley.equality import Rules

REVIEWED = Path(__file__).parents[2] / "workflow" / "reference" / "golds.tsv"
COLUMNS = {"order": bool, "tolerance": float, "unit": str, "base": int}
# What others call the end of a response: by itself, or by a limit.
ENDED = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed")
CUT = ("length", "max_tokens", "max_new_tokens", "max_length", "model_length", "abort")
NONE = {"nan", "proof", "notfound", "not found", "null", "n/a", "no answer", "unknown"}


def no_gold(answer) -> str | None:
    """Why a value of a task's answer column is no gold answer, None where it is one: text or a number that
    says something.
    """
    if answer is None or (isinstance(answer, float) and math.isnan(answer)):
        return "has no answer"
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return f"has an answer of type {type(answer).__name__}, text is needed"
    plain = str(answer).strip()
    if not plain:
        return "has no answer"
    return (
        f"has no answer that could be compared ({plain!r})"
        if plain.strip(" .\\{}$").casefold() in NONE
        else None
    )


def unlisted(rows: list[dict], answers: tuple[str, ...]) -> str | None:
    """Which row of a task has a gold answer that is none of those that the config lists for it; None where
    all are.
    """
    known = {word.casefold() for word in answers}
    odd = next((row for row in rows if known and str(row["answer"]).strip().casefold() not in known), None)
    return (
        odd
        and f"problem {odd.get('id') or odd['problem']!r} has the answer {odd['answer']!r}, which is not listed"
    )


def rules(row: dict) -> Rules:
    """The rules that a row of a task carries in COLUMNS; a missing column says nothing, nor does NaN, with
    which pandas fills what is empty. A unit may be named as answers name it: `cm`, `square inches`.
    """
    said = {name: row.get(name) if row.get(name) == row.get(name) else None for name in COLUMNS}
    named = notation.unit_named(said["unit"]) if isinstance(said["unit"], str) else None
    return Rules(**said | ({"unit": named} if named else {}))


def no_rule(row: dict) -> str | None:
    """Why a row's own rules cannot be used, None where they can."""
    for name, kind in COLUMNS.items():
        value = row.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        fits = (
            isinstance(value, bool)
            if kind is bool
            else isinstance(value, int | float if kind is float else kind)
        )
        if not fits or (kind is not bool and isinstance(value, bool)):
            return f"has `{name}` {value!r}, {kind.__name__} is needed"
        if name == "unit" and value.strip() and notation.unit_named(value) is None:
            return f"has `unit` {value!r}, which is no unit that answers are read with (`cm^2`, `dollars`, `square inches` are)"
    return None


def checked_response(row: dict) -> dict:
    """A response of others and its gold answer in canonical types; intake.Wrong where it cannot be graded."""
    answer = row.get("gold", row.get("answer"))
    if why := no_gold(answer) or no_rule(row):
        raise intake.Wrong(f"it {why}; every line needs `response` and `gold`")
    if not isinstance(row.get("response"), str):
        raise intake.Wrong("it has no text `response`; every line needs `response` and `gold`")
    made = {
        "answer": str(answer),
        "response": row["response"].encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
    }
    for column in ("id", "problem"):
        try:
            made[column] = intake.written(row.get(column)) or ""
        except intake.Wrong as error:
            raise intake.Wrong(f"{column} holds {error}") from None
    for column in ("sample", "tokens"):
        made[column] = row.get(column)
        if made[column] is not None and (not isinstance(made[column], int) or isinstance(made[column], bool)):
            raise intake.Wrong(f"{column} holds {intake.said(made[column])} where a whole number must be")
    finish = row.get("finish_reason") or "stop"
    if str(finish).casefold() not in (*ENDED, *CUT):
        known = f"known are {', '.join(ENDED)} and {', '.join(CUT)}"
        raise intake.Wrong(f"finish_reason holds {finish!r}: did the response end by itself? {known}")
    made["finish_reason"] = "stop" if str(finish).casefold() in ENDED else "length"
    return row | made


def problem_key(problem: str) -> str:
    """What finds a problem in the reviewed list: a hash of its text without white space."""
    return hashlib.sha256("".join(problem.split()).encode()).hexdigest()[:12]


def reviewed(path: Path = REVIEWED) -> dict[str, dict]:
    """The reviewed rules by key: `answer`, and what of COLUMNS is set."""
    read = {"order": {"yes": True, "no": False}.get, "tolerance": float, "unit": str, "base": int}
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {
        row["key"]: {"answer": row["answer"]} | {name: read[name](row[name]) for name in COLUMNS if row[name]}
        for row in rows
    }


def task_row(row: dict, known: dict[str, dict], source: str) -> dict:
    """A row of the task from a row of the source; intake.Wrong where it cannot be used."""
    answer = row.get("answer")
    if isinstance(answer, list):
        if len(answer) > 1 and not isinstance(row.get("order"), bool):
            raise intake.Wrong("it has several answers and no rule: give it a column `order`, true or false")
        why = next(filter(None, map(no_gold, answer)), None if answer else "has no answer")
        answer = ", ".join(map(str, answer))
    else:
        why = no_gold(answer)
    made = intake.checked_problem(row | {"answer": "?" if why else answer})
    if why := why or no_rule(row):
        raise intake.Wrong(f"row {made['id'] or '?'!r} {why}")
    found = known.get(problem_key(made["problem"]), {})
    if found and not equality.quick(equality.Pair("headline", found["answer"], made["answer"])):
        print(
            f"warning: {source}: {made['id']!r} has the answer {answer!r}, the reviewed list {found['answer']!r}",
            file=sys.stderr,
        )
    own = rules(row)
    return made | (own if any(rule is not None for rule in own) else rules(found))._asdict()


def task_rows(source: str, rows: list[dict]) -> list[dict]:
    """The rows of a task from the rows of its source, each with an id of its own; ends the script at one that
    cannot be used, as `make check` does before anything is fetched.
    """
    known, first = reviewed(), {}
    made = list(intake.each_checked(source, rows, lambda row: task_row(row, known, source)))
    for number, row in enumerate(made):
        row["id"] = str(number) if row["id"] is None else row["id"]
        if row["id"] in first:
            records.fail(
                source,
                f"rows {first[row['id']] + 1} and {number + 1} have the same id {row['id']!r}",
                "Give each problem an id of its own, or none at all",
            )
        first[row["id"]] = number
    return made


def task_schema():
    """The arrow schema of a task with rules: columns of their type even where no row has a rule."""
    import pyarrow

    types = {bool: pyarrow.bool_(), float: pyarrow.float64(), str: pyarrow.string(), int: pyarrow.int64()}
    texts = [(name, pyarrow.string()) for name in ("id", "problem", "answer", "level")]
    return pyarrow.schema([*texts, *((name, types[kind]) for name, kind in COLUMNS.items())])


def task(path: Path) -> list[dict]:
    """The rows of a task or a set of RL problems: problem, answer, and the columns of rules where it has
    them.
    """
    records.read_parquet(path, {"problem": "text", "answer": "text"})  # or an error that says what is missing
    return records.read_parquet(path).to_pylist()
