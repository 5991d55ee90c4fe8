"""The probes of all cells in one table, with a word on those that did not train.

    python scripts/probes.py --results results --cells S/base/0 S/sft-64/0 --tables report/tables

Reads every cell's probe.json and the table `cells`; writes `probes`, and prints what a probe is worth out of
sample beside what the other seeds of a run tell anyway (valley/analysis/probes.py).
"""

from pathlib import Path

import pandas

from valley import flags, grid, places, records
from valley.analysis import probes, tables


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--results", required=True, type=Path)
    parser.add_argument("--cells", required=True, nargs="+", help="model/run/seed")
    parser.add_argument("--tables", required=True, type=Path, help="folder of the tables, read and written")
    args = parser.parse_args()

    cells = list(map(grid.parse_cell, args.cells))
    told = lambda cell, file: records.read_json(places.folder(args.results, cell) / file)  # noqa: E731
    long = {
        cell
        for cell in cells
        if cell.parsed.stage == "sft" and told(cell, "train.json")["arguments"]["completion"] == "trace"
    }
    found = {cell: told(cell, "probe.json") for cell in cells}
    made = probes.probed(found, pandas.read_csv(args.tables / "cells.csv"), long)
    tables.write(args.tables, {"probes": made})
    without, using, count = probes.worth(made)
    if count:
        print(
            f"accuracy of a cell told by the run's other seeds: off by {100 * without:.1f} points; with its probe: "
            f"{100 * using:.1f} ({count} cells)"
        )
    flagged = (made.note != "").sum()
    records.done(f"probes of {len(made)} cells, {flagged} of which did not train", args.tables / "probes.csv")


if __name__ == "__main__":
    main()
