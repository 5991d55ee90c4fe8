"""Stored responses as a reader meets them: beside their grades, cut to head and tail, the first wrong
calculation apart.
"""

import re
from pathlib import Path

import pandas

from valley import calculations, places, records
from valley.grid import Cell

PART = re.compile(r"(\.part[0-9]+)?\.parquet$")  # ends the names of released responses
HEAD, TAIL, AROUND = 600, 400, 200  # characters


def cut(text: str, head: int, tail: int) -> str:
    """A text with its middle left out where it is longer than head + tail."""
    return text if len(text) <= head + tail + 20 else f"{text[:head]} […] {text[len(text) - tail :]}"


def pieces(text: str) -> dict[str, str]:
    """The text before, in and after its first wrong calculation, cut; all `before` where none is found."""
    span = calculations.first_error(text)
    if span is None:
        return {"before": cut(text, HEAD, TAIL), "error": "", "after": ""}
    start, end = span
    return {
        "before": cut(text[:start], HEAD, AROUND),
        "error": cut(text[start:end], AROUND, AROUND),
        "after": cut(text[end:], AROUND, TAIL),
    }


def in_pieces(table: pandas.DataFrame) -> pandas.DataFrame:
    """The rows with their prompts cut and their responses as `before`, `error` and `after`."""
    found = pandas.DataFrame(
        [pieces(text) for text in table.response], table.index, ["before", "error", "after"]
    )
    return table.assign(prompt=[cut(text, HEAD, TAIL) for text in table.prompt]).join(found)


def load(results: Path, cell: Cell) -> pandas.DataFrame:
    """Grades of a cell with the texts of its responses."""
    folder = places.folder(results, cell)
    grades = records.read_parquet(folder / "grades.parquet").to_pandas()
    columns = ["id", "sample", "prompt", "response"]
    texts = [
        records.read_parquet(folder / "responses" / f"{task}.parquet", columns).to_pandas().assign(task=task)
        for task in grades.task.unique()
    ]
    return grades.merge(pandas.concat(texts), on=["task", "id", "sample"]).assign(**cell._asdict())


def released(folder: Path) -> dict:
    """The responses of a cell of a release by task (arrow tables), parts joined in their order."""
    import pyarrow

    parts = {}
    for file in sorted(folder.glob("*.parquet"), key=lambda file: (len(file.name), file.name)):
        parts.setdefault(PART.sub("", file.name), []).append(records.read_parquet(file))
    return {task: pyarrow.concat_tables(tables) for task, tables in parts.items()}
