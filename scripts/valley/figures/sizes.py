"""Figures over data size: `valley` (paper, figures 1 and 2), `benchmarks` (11 and 12), `efficiency`,
`reflection` (3, 4, 8 and 10), `arithmetic` (5).

What no cell has yet is a gap, or a sentence in the panel.
"""

import pandas

from valley.analysis.measures import Tasks
from valley.figures import panels, tidy
from valley.figures.style import looks
from valley.grid import HEADLINE

MEASURES = {"accuracy": "accuracy (avg@k)", "length": "length (tokens)"}
OVER_PROBLEMS = "Bars: confidence interval over problems, those of one training."


def mean_of(tasks: list[str]) -> str:
    """`math500`, or `mean of aime24, amc23, math500`."""
    return tasks[0] if len(tasks) == 1 else f"mean of {', '.join(tasks)}"


def panel(ax, rows: pandas.DataFrame, looks: dict, what: str, axis, band: float | None = None):
    """A panel over data sizes: the base as dots and a dashed line, the noise band around it, the other runs
    as lines.
    """
    place, ticks = axis
    base = rows[rows.x == 0]
    for series, value in base[base.series != "paper"].groupby("series", sort=False).value.mean().items():
        panels.reference(ax, value, band if series == "base" else None, looks[series]["color"])
    panels.draw(ax, base, looks, what, place, lines=False, spread=0.07)
    panels.draw(ax, rows[rows.x > 0], looks, what, place, spread=0.07)
    ax.set_xticks(list(ticks), list(ticks.values()))
    if ticks:
        ax.set_xlim(min(ticks) - 0.5, max(ticks) + 0.5)
    panels.from_zero(ax, rows)


def by_size(data: pandas.DataFrame, measures: dict[str, str], tables: dict, across: str = "models"):
    """A figure over data sizes; `measures` names each panel's axis. Returns figure, axes and the looks of
    series.
    """
    models, found, axis = tidy.in_order(data, tables), looks(tables["cells"]), tidy.axis_of(data)
    figure, axes = panels.lay_out(models, list(measures), across, gap=0.8 if across == "measures" else 0.56)
    for (model, measure), ax in axes.items():
        rows = data[(data.model == model) & (data.measure == measure)]
        panel(ax, rows, found, measure, axis, panels.reach_of_noise(tables, model, measure))
        if across == "measures":
            ax.tick_params(axis="x", labelrotation=40)
        if not len(rows):
            panels.remark(ax, "no data yet")
        elif set(rows.series) == {"paper"}:
            panels.remark(ax, "no cell of ours yet", 0.12)
    panels.label(axes, measures, "training examples", across)
    return figure, axes, found


def valley(tables: dict, tasks: Tasks):
    """Accuracy and length against data size, a column a model, with the paper's values."""
    table, paper = tidy.sft_cells(tables), tables["paper"].assign(series="paper")
    table = table[table.task == HEADLINE]
    paper = paper.assign(x=paper.examples)
    data = tidy.join(
        tidy.rows(table, "accuracy", "accuracy", "problems_"),
        tidy.rows(paper, "accuracy", "paper"),
        tidy.rows(table, "length", "length", "length_"),
        tidy.rows(paper, "length", "paper_length"),
    )
    if data.empty:
        return panels.empty("accuracy and length of bases and SFT runs"), data
    figure, _, found = by_size(data, MEASURES, tables)
    notes = [
        f"Accuracy: {mean_of(tasks.headline)}; length: {mean_of(tasks.length)}.",
        OVER_PROBLEMS,
        panels.seeds(data),
        panels.band_note(figure, tables),
        panels.scales(set(data.model)),
    ]
    if "paper" in set(data.series):
        notes.append(
            "Open circles: the paper's values by the paper's grader, published without error bars; "
            "ours by the headline grader."
        )
    panels.finish(figure, panels.legend(data, found), notes)
    return figure, data


def benchmarks(tables: dict, tasks: Tasks):
    """Accuracy and length of each task against data size, the protocol alone."""
    table = tidy.sft_cells(tables)
    table = table[(table.task != HEADLINE) & (table.recipe == "protocol")]
    table = table.assign(series=table.task)
    data = tidy.join(
        tidy.rows(table, "accuracy", "accuracy", "problems_"), tidy.rows(table, "length", "length", "length_")
    )
    if data.empty:
        return panels.empty("accuracy and length of each task"), data
    figure, _, found = by_size(data, MEASURES, tables)
    headline = f"The headline is the {mean_of(tasks.headline)}." if len(tasks.headline) > 1 else ""
    notes = [
        "Dashed lines: the base.",
        OVER_PROBLEMS,
        panels.seeds(data),
        panels.scales(set(data.model)),
        headline,
    ]
    panels.finish(figure, panels.legend(data, found), notes)
    return figure, data


def efficiency(tables: dict, tasks: Tasks):
    """Accuracy per 1,000 tokens against data size."""
    table = tidy.sft_cells(tables)
    table = table[table.task == HEADLINE]
    thousands = table.length.where(table.length > 0) / 1000
    table = table.assign(spent_low=table.problems_low / thousands, spent_high=table.problems_high / thousands)
    measure = "accuracy per 1,000 tokens"
    data = tidy.rows(table, measure, "token_efficiency", "spent_")
    if data.empty:
        return panels.empty(measure), data
    figure, _, found = by_size(data, {measure: measure}, tables)
    notes = [
        f"Accuracy: {mean_of(tasks.headline)}; tokens: {mean_of(tasks.length)}.",
        "Bars: confidence interval of the accuracy over problems, at the mean length that was measured.",
        panels.seeds(data),
        panels.scales(set(data.model)),
    ]
    panels.finish(figure, panels.legend(data, found), notes)
    return figure, data


def what_reflects(tables: dict) -> str:
    """What makes a response reflective in a study, in words."""
    told = tables["cells"].get("reflection_measure", pandas.Series(dtype=object))
    judged = " and the judge agrees" if told.astype(str).str.contains("judge").any() else ""
    return f"one of the paper's keywords occurs{judged}"


def reflection(tables: dict, tasks: Tasks):
    """Share of reflective responses, and lengths of these and of the others, against data size."""
    table = tidy.sft_cells(tables)
    table = table[table.task == HEADLINE]
    protocol = table[table.recipe == "protocol"]
    data = tidy.join(
        tidy.rows(table, "share", "reflection", "reflection_"),
        *(
            tidy.rows(protocol, "length", column, f"{column}_", series=s)
            for s, column in tidy.LENGTHS.items()
        ),
    )
    if data.empty:
        return panels.empty("reflection"), data
    measures = {"share": "reflective responses (share)", "length": "length (tokens)"}
    figure, axes, found = by_size(data, measures, tables)
    for (model, measure), ax in axes.items():
        shares = data[(data.model == model) & (data.measure == measure)].value
        if measure == "share" and len(shares):
            if shares.max() == 0:
                panels.remark(ax, "no response is reflective")
            ax.set_ylim(-0.03, 1.03 if shares.max() > 0.5 or shares.max() == 0 else None)
    notes = [
        f"Responses to {mean_of(tasks.length)}; reflective: {what_reflects(tables)}.",
        OVER_PROBLEMS,
        panels.seeds(data),
        "Lengths: the protocol alone.",
    ]
    names = dict(zip(tidy.LENGTHS, ["length of reflective responses", "length of the others"], strict=True))
    panels.finish(figure, panels.legend(data, found, names), notes)
    return figure, data


def arithmetic(tables: dict, tasks: Tasks):
    """Accuracy, length, calculations and errors a calculation against data size, on the tasks whose
    calculations count.
    """
    table = tidy.sft_cells(tables)
    table = table[table.task.isin(tasks.calculations) & (table.recipe == "protocol")]
    table = table.assign(series=table.task)
    data = tidy.join(
        tidy.rows(table, "accuracy", "accuracy", "problems_"),
        tidy.rows(table, "length", "length", "length_"),
        tidy.rows(table, "calculations", "calculations"),
        tidy.rows(table, "error rate", "calculation_errors", "calculation_errors_"),
    )
    if data.empty:
        return panels.empty("tasks whose calculations are counted"), data
    made = {"calculations": "calculations a response", "error rate": "wrong calculations (share)"}
    across = "models" if data.model.nunique() > panels.MANY else "measures"
    figure, _, found = by_size(data, MEASURES | made, tables, across)
    notes = [
        "Dashed lines: the base.",
        OVER_PROBLEMS + " Calculations made: no interval.",
        panels.seeds(data),
        "Only calculations written as an equation are counted. " + panels.scales(set(data.model)),
    ]
    panels.finish(figure, panels.legend(data, found), notes)
    return figure, data
