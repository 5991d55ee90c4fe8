"""Few examples many times, or many once: the map of accuracy over both, and its sentence.

    python scripts/repetition.py --tables report/tables --config report/config.json \\
        --grid S/base/0 S/sft-64.e4/0 \\
        --examples 64=64 --headline chain --length chain

Reads `problems.parquet` and writes `repetition` (a row a model and SFT run: examples, epochs, traces seen,
accuracy) and `repetition_matched` (few against many examples where equally many traces were seen, with
intervals).
"""

from pathlib import Path

from valley import flags, records
from valley.analysis import cells, repetition, tables
from valley.analysis.measures import Tasks


def main():
    parser = flags.parser(__doc__)
    parser.add_argument(
        "--config", required=True, type=Path, help="the study's configuration (report/config.json)"
    )
    flags.add_study(parser)
    args = parser.parse_args()
    study = cells.load(args.tables, args.grid, flags.pairs(args.examples, int), args.trained_bases)
    tasks = Tasks(args.headline, args.length, args.calculations)
    table = repetition.over_both(study, records.read_json(args.config), tasks, args.confidence)
    pairs = repetition.matched(study, table, tasks, args.confidence)
    tables.write(args.tables, {"repetition": table, "repetition_matched": pairs})
    print(repetition.in_a_sentence(pairs))
    records.done(f"a map of {len(table)} runs", args.tables)


if __name__ == "__main__":
    main()
