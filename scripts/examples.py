"""Pick stored responses for the page: disputes of graders, and a problem at three sizes.

    python scripts/examples.py --results results --cells S/base/0 S/sft-64/0 --out /tmp/examples.parquet

One row an example: `shown` says why it is there (`dispute`, `beside`), and the text comes in three
pieces, `before`, `error` and `after`, where `error` is the first wrong calculation, as far as it can be found
automatically. Long texts are cut to their head and tail. The choice is fixed: the first of each kind in the
order of the problems.
"""

from pathlib import Path

import pandas

from valley import flags, grid, records
from valley.analysis import responses

EACH = 3  # examples of a disagreement
PROBLEMS = 2  # problems shown side by side a model
COLUMNS = ["model", "run", "seed", "task", "id", "shown", "kind", "prompt", "before", "error", "after", "gold", "answer",
           "answer_paper", "tokens"]  # fmt: skip


def disputed(table: pandas.DataFrame) -> pandas.DataFrame:
    """EACH responses of every way in which the headline grader and the paper's differ."""
    differ = table[table.correct != table.correct_paper]
    kinds = [
        "headline only" if row.correct else f"paper only, by its {row.source_paper}"
        for row in differ.itertuples()
    ]
    return differ.assign(shown="dispute", kind=kinds).groupby(["kind", "task"], sort=False).head(EACH)


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
    parser.add_argument("--cells", required=True, nargs="*", help="model/run/seed of the cells to show")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    found, by_model = [], {}
    for cell in map(grid.parse_cell, args.cells):
        table = responses.load(args.results, cell)
        found.append(disputed(table))
        if cell.run == "base" or cell.parsed.is_protocol:
            by_model.setdefault(cell.model, {})[cell.run] = table
    for cells in by_model.values():
        if "base" in cells and len(cells) > 1:
            runs = list(cells)  # in the order of the command line: base, then by size
            found += beside({run: cells[run] for run in dict.fromkeys(["base", runs[1], runs[-1]])})
    # none yet where checkpoints along RL are all that is scored
    nothing = pandas.DataFrame(columns=COLUMNS)
    table = responses.in_pieces(pandas.concat(found, ignore_index=True)) if found else nothing
    with records.whole(args.out) as temporary:
        table[COLUMNS].to_parquet(temporary, index=False)
    records.done(f"{len(table)} examples", args.out)


if __name__ == "__main__":
    main()
