"""Draw one figure from the tables alone: SVG with hover texts, PNG, and what is drawn as CSV.

    python scripts/figure.py --figure valley --tables report/tables --headline math500 --length math500 \\
        --svg /tmp/valley.svg --png /tmp/valley.png --data /tmp/valley.csv

The figures themselves are functions in valley/figures/, see FIGURES below.
"""

from pathlib import Path

from valley import flags, records
from valley.analysis.measures import Tasks
from valley.figures import bars, forecast, repetition, runs, sizes, svg, tidy

FIGURES = {
    "valley": sizes.valley,
    "benchmarks": sizes.benchmarks,
    "efficiency": sizes.efficiency,
    "reflection": sizes.reflection,
    "arithmetic": sizes.arithmetic,
    "outcomes": bars.outcomes,
    "recipes": bars.recipes,
    "budget": runs.budget,
    "errors": runs.errors,
    "rl": runs.rl,
    "forecast": forecast.forecast,
    "repetition": repetition.repetition,
}


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--figure", required=True, choices=list(FIGURES))
    parser.add_argument("--tables", required=True, type=Path, help="folder of the tables")
    flags.add_tasks(parser)
    parser.add_argument("--svg", required=True, type=Path)
    parser.add_argument("--png", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    args = parser.parse_args()

    known = {name: args.tables / f"{name}.csv" for name in tidy.NEEDED}
    # A study that does not cross sizes and epochs has no such table, nor its figure.
    tables = {
        name: tidy.read_table(path) for name, path in known.items() if name != "repetition" or path.exists()
    }
    tasks = Tasks(args.headline, args.length, args.calculations)
    figure, data = FIGURES[args.figure](tables, tasks)
    svg.save(figure, args.svg, args.png)
    with records.whole(args.data) as temporary:
        data.to_csv(temporary, index=False)
    records.done(f"figure {args.figure}", args.svg)


if __name__ == "__main__":
    main()
