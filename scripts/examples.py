"""Pick stored responses for the page: every outcome, every dispute of graders, a problem at three sizes.

    python scripts/examples.py --results results --cells S/base/0 S/sft-64/0 --out /tmp/examples.parquet

One row an example: `shown` says why it is there (`outcome`, `dispute`, `beside`), and the text comes in three
pieces, `before`, `error` and `after`, where `error` is the first wrong calculation, as far as it can be found
automatically. Long texts are cut to their head and tail. The choice is fixed: the first of each kind in the
order of the problems.
"""

from pathlib import Path

import pandas

from valley import calculations, flags, grid, places, records
from valley.grid import Cell

EACH = 3  # examples of an outcome or a disagreement
PROBLEMS = 2  # problems shown side by side a model
HEAD, TAIL, AROUND = 600, 400, 200  # characters
COLUMNS = ["model", "run", "seed", "task", "id", "shown", "kind", "prompt", "before", "error", "after", "gold", "answer",
           "answer_paper", "tokens"]  # fmt: skip


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


def load(results: Path, cell: Cell) -> pandas.DataFrame:
    """Grades of a cell with the texts of its responses."""
    folder = places.folder(results, cell)
    grades = records.read_parquet(folder / "grades.parquet").to_pandas()
    texts = [
        records.read_parquet(folder / "responses" / f"{task}.parquet", ["id", "sample", "prompt", "response"])
        .to_pandas()
        .assign(task=task)
        for task in grades.task.unique()
    ]
    table = grades.merge(pandas.concat(texts), on=["task", "id", "sample"])
    return table.assign(**cell._asdict())


def of_each_kind(table: pandas.DataFrame) -> pandas.DataFrame:
    """EACH responses of every outcome, and of every way in which headline and paper verdict differ."""
    outcomes = table.assign(shown="outcome", kind=table.outcome)
    differ = table[table.correct != table.correct_paper]
    kinds = [
        "headline only" if row.correct else f"paper only, by its {row.source_paper}"
        for row in differ.itertuples()
    ]
    both = pandas.concat([outcomes, differ.assign(shown="dispute", kind=kinds)])
    return both.groupby(["shown", "kind", "task"], sort=False).head(EACH)


def beside(cells: dict[str, pandas.DataFrame]) -> list[pandas.DataFrame]:
    """The first sample of PROBLEMS problems in base, smallest and largest size (in this order), one model.

    Problems that the base solves and the smallest size does not come first: they show what went wrong.
    """
    first = {run: table[table["sample"] == 0].set_index(["task", "id"]) for run, table in cells.items()}
    base, smallest = list(first.values())[:2]
    lost = base.correct & ~smallest.correct.reindex(base.index).fillna(False).astype(bool)
    chosen = lost.sort_values(ascending=False, kind="stable").index[:PROBLEMS]
    return [
        t.loc[t.index.intersection(chosen)].reset_index().assign(shown="beside", kind="beside")
        for t in first.values()
    ]


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--results", required=True, type=Path)
    parser.add_argument("--cells", required=True, nargs="+", help="model/run/seed of the cells to show")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    found, by_model = [], {}
    for cell in map(grid.parse_cell, args.cells):
        table = load(args.results, cell)
        found.append(of_each_kind(table))
        run = grid.parse_run(cell[1])
        if not run.rl and not run.recipe:
            by_model.setdefault(cell[0], {})[cell[1]] = table
    for cells in by_model.values():
        if "base" in cells and len(cells) > 1:
            runs = list(cells)  # in the order of the command line: base, then by size
            found += beside({run: cells[run] for run in dict.fromkeys(["base", runs[1], runs[-1]])})
    table = pandas.concat(found, ignore_index=True)
    table = table.join(
        pandas.DataFrame([pieces(text) for text in table.response], columns=["before", "error", "after"])
    )
    table["prompt"] = [cut(text, HEAD, TAIL) for text in table.prompt]
    with records.whole(args.out) as temporary:
        table[COLUMNS].to_parquet(temporary, index=False)
    records.done(f"{len(table)} examples", args.out)


if __name__ == "__main__":
    main()
