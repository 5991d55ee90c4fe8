"""Draw one figure from the tables alone: SVG with hover texts, PNG, and what is drawn as CSV.

    python scripts/figure.py --figure valley --tables report/tables --headline math500 --length math500 \\
        --svg /tmp/valley.svg --png /tmp/valley.png --data /tmp/valley.csv

Here are the figures over data size: `valley` (paper, figures 1 and 2), `benchmarks` (11 and 12),
`efficiency`, `reflection` (3, 4, 8 and 10), `arithmetic` (5). The others: valley/figures_runs.py (`budget`,
`errors`, `rl`), valley/figures_bars.py (`outcomes`, `recipes`). Each takes the tables and the tasks, and
returns the figure and its tidy data (valley/drawing.py). What no cell has yet is a gap, or a sentence in the
panel.
"""

from pathlib import Path

import pandas

from valley import drawing, figures_bars, figures_runs, flags, records
from valley.drawing import tidy
from valley.grid import HEADLINE

TABLES = list(drawing.NEEDED)
OVER_PROBLEMS = "Bars: confidence interval over problems, those of one training."


def sft_cells(tables: dict) -> pandas.DataFrame:
    """Bases and SFT cells with their place on the axis of sizes; the series is the recipe."""
    cells = tables["cells"]
    cells = cells[cells.stage.isin(["base", "sft"])]
    return cells.assign(x=cells.examples, series=cells.recipe.where(cells.stage == "sft", "base"))


def mean_of(tasks: list[str]) -> str:
    """`math500`, or `mean of aime24, amc23, math500`."""
    return tasks[0] if len(tasks) == 1 else f"mean of {', '.join(tasks)}"


def valley(tables: dict, tasks):
    """Accuracy and length against data size, a column a model, with the paper's values."""
    table, paper = sft_cells(tables), tables["paper"].assign(series="paper")
    table = table[table.task == HEADLINE]
    paper = paper.assign(x=paper.examples)
    data = drawing.join(
        tidy(table, "accuracy", "accuracy", "problems_"),
        tidy(paper, "accuracy", "paper"),
        tidy(table, "length", "length", "length_"),
        tidy(paper, "length", "paper_length"),
    )
    if data.empty:
        return drawing.empty("accuracy and length of bases and SFT runs"), data
    measures = {"accuracy": "accuracy (avg@k)", "length": "length (tokens)"}
    figure, _ = drawing.by_size(data, measures, tables)
    notes = [
        f"Accuracy: {mean_of(tasks.headline)}; length: {mean_of(tasks.length)}.",
        OVER_PROBLEMS,
        drawing.seeds(data),
        drawing.band_note(figure, tables),
        "Each panel has a scale of its own, from 0.",
    ]
    if "paper" in set(data.series):
        notes.append(
            "Open circles: the paper's values by the paper's grader, published without error bars; ours by the headline verdict."
        )
    drawing.finish(figure, drawing.legend(data, drawing.styles(tables["cells"])), notes)
    return figure, data


def benchmarks(tables: dict, tasks):
    """Accuracy and length of each task against data size, the protocol alone."""
    table = sft_cells(tables)
    table = table[(table.task != HEADLINE) & (table.recipe == "protocol")]
    table = table.assign(series=table.task)
    data = drawing.join(
        tidy(table, "accuracy", "accuracy", "problems_"), tidy(table, "length", "length", "length_")
    )
    if data.empty:
        return drawing.empty("accuracy and length of each task"), data
    figure, _ = drawing.by_size(data, {"accuracy": "accuracy (avg@k)", "length": "length (tokens)"}, tables)
    notes = [
        "Dashed lines: the base.",
        OVER_PROBLEMS,
        drawing.seeds(data),
        "Each panel has a scale of its own, from 0.",
        f"The headline is the {mean_of(tasks.headline)}." if len(tasks.headline) > 1 else "",
    ]
    drawing.finish(figure, drawing.legend(data, drawing.styles(tables["cells"])), notes)
    return figure, data


def efficiency(tables: dict, tasks):
    """Accuracy per 1,000 tokens against data size."""
    table = sft_cells(tables)
    table = table[table.task == HEADLINE]
    thousands = table.length.where(table.length > 0) / 1000
    table = table.assign(spent_low=table.problems_low / thousands, spent_high=table.problems_high / thousands)
    data = tidy(table, "accuracy per 1,000 tokens", "token_efficiency", "spent_")
    if data.empty:
        return drawing.empty("accuracy per 1,000 tokens"), data
    figure, _ = drawing.by_size(data, {"accuracy per 1,000 tokens": "accuracy per 1,000 tokens"}, tables)
    notes = [
        f"Accuracy: {mean_of(tasks.headline)}; tokens: {mean_of(tasks.length)}.",
        "Bars: confidence interval of the accuracy over problems, at the mean length that was measured.",
        drawing.seeds(data),
        "Each panel has a scale of its own, from 0.",
    ]
    drawing.finish(figure, drawing.legend(data, drawing.styles(tables["cells"])), notes)
    return figure, data


def reflection(tables: dict, tasks):
    """Share of reflective responses, and lengths of these and of the others, against data size."""
    table = sft_cells(tables)
    table = table[table.task == HEADLINE]
    protocol = table[table.recipe == "protocol"]
    data = drawing.join(
        tidy(table, "share", "reflection", "reflection_"),
        tidy(protocol, "length", "length_reflective", "length_reflective_", series="reflective"),
        tidy(protocol, "length", "length_other", "length_other_", series="other"),
    )
    if data.empty:
        return drawing.empty("reflection"), data
    figure, axes = drawing.by_size(
        data, {"share": "reflective responses (share)", "length": "length (tokens)"}, tables
    )
    for (model, measure), ax in axes.items():
        shares = data[(data.model == model) & (data.measure == "share")]
        if measure == "share" and len(shares):
            if shares.value.max() == 0:
                drawing.remark(ax, "no response is reflective")
            ax.set_ylim(-0.03, 1.03 if shares.value.max() > 0.5 or shares.value.max() == 0 else None)
    notes = [
        f"Responses to {mean_of(tasks.length)}; reflective: one of the paper's keywords occurs.",
        OVER_PROBLEMS,
        drawing.seeds(data),
        "Lengths: the protocol alone.",
    ]
    names = {"reflective": "length of reflective responses", "other": "length of the others"}
    drawing.finish(figure, drawing.legend(data, drawing.styles(tables["cells"]), names), notes)
    return figure, data


def arithmetic(tables: dict, tasks):
    """Accuracy, length, calculations and errors a calculation against data size, on the tasks whose
    calculations count.
    """
    table = sft_cells(tables)
    table = table[table.task.isin(tasks.calculations) & (table.recipe == "protocol")]
    table = table.assign(series=table.task)
    data = drawing.join(
        tidy(table, "accuracy", "accuracy", "problems_"),
        tidy(table, "length", "length", "length_"),
        tidy(table, "calculations", "calculations"),
        tidy(table, "error rate", "calculation_errors", "calculation_errors_"),
    )
    if data.empty:
        return drawing.empty("tasks whose calculations are counted"), data
    measures = {"accuracy": "accuracy (avg@k)", "length": "length (tokens)", "calculations": "calculations a response",
                "error rate": "wrong calculations (share)"}  # fmt: skip
    figure, _ = drawing.by_size(data, measures, tables, across="measures")
    notes = [
        "Dashed lines: the base.",
        OVER_PROBLEMS + " Calculations made: no interval.",
        drawing.seeds(data),
        "Only calculations written as an equation are counted. Each panel has a scale of its own, from 0.",
    ]
    drawing.finish(figure, drawing.legend(data, drawing.styles(tables["cells"])), notes)
    return figure, data


FIGURES = {
    "valley": valley,
    "benchmarks": benchmarks,
    "efficiency": efficiency,
    "reflection": reflection,
    "arithmetic": arithmetic,
    "outcomes": figures_bars.outcomes,
    "recipes": figures_bars.recipes,
    "budget": figures_runs.budget,
    "errors": figures_runs.errors,
    "rl": figures_runs.rl,
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

    tables = {name: drawing.read(args.tables / f"{name}.csv") for name in TABLES}
    figure, data = FIGURES[args.figure](tables, args)
    drawing.save(figure, args.figure, args.svg, args.png)
    with records.whole(args.data) as temporary:
        data.to_csv(temporary, index=False)
    records.done(f"figure {args.figure}", args.svg)


if __name__ == "__main__":
    main()
