"""Between which sizes is a model back at its base, and is it the data or the recipe? No claim of the paper
asks these.

    python scripts/recovery.py --tables report/tables --grid S/base/0 S/sft-64/0 --examples 64=64 \\
        --headline chain \\
        --length chain

Reads `problems.parquet`. Writes `recovery` (between which sizes a model gets back to its base) and `recipes`:
every SFT run beside the base and, for a control, beside the paper's protocol at the same size; for `short`
the latter is, sign turned, the effect of long chains of thought. Intervals: valley/analysis/estimates.py.
"""

from valley import flags, records
from valley.analysis import cells, recovery, tables
from valley.analysis.measures import Tasks


def main():
    parser = flags.parser(__doc__)
    flags.add_study(parser)
    args = parser.parse_args()
    study = cells.load(args.tables, args.grid, flags.pairs(args.examples, int), args.trained_bases)
    tasks = Tasks(args.headline, args.length, args.calculations)
    made = {
        "recovery": recovery.recovery(study, tasks, args.confidence),
        "recipes": recovery.recipes(study, tasks, args.confidence),
    }
    tables.write(args.tables, made)
    records.done("recovery points and recipes", args.tables)


if __name__ == "__main__":
    main()
