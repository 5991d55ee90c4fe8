"""The paper's own figures 2 to 5 and 7 in its layout, ours beside theirs; its figure 6, of texts, is set in
LaTeX.

Ours are filled marks and full lines, the paper's open marks and dotted lines: of figure 2 its values were
read off, of the others a few stand in its text (workflow/reference/paper_text.csv), and the rest of its
curves is not known as numbers. Accuracy is by the paper's grader. A figure is None where the study has
nothing of it.
"""

import math

import matplotlib.pyplot as plt
import pandas

from valley.analysis.measures import Tasks
from valley.figures import panels, sizes, tidy
from valley.figures.runs import along_rl
from valley.figures.style import GREY, LENGTHS, MARKERS, PALETTE, look
from valley.grid import HEADLINE

OURS = {"accuracy": look(PALETTE[0], "o"), "length": look(PALETTE[1], "s", "--")}
PAPERS = {
    "accuracy": look(PALETTE[0], "o", ":", 0.12, False),
    "length": look(PALETTE[1], "s", ":", 0.12, False),
}
SIDES = {"accuracy": "accuracy (avg@k)", "length": "length (tokens)"}
WIDE = 3  # models side by side where each has two axes
COLOURS = 10  # of the palette, that lines have before they are told apart by marks alone


def protocol(tables: dict) -> pandas.DataFrame:
    """Bases and SFT cells of the protocol, with their place on the axis of sizes."""
    table = tidy.sft_cells(tables)
    return table[table.recipe == "protocol"]


def of_text(tables: dict, figure: int, measure: str) -> pandas.DataFrame:
    """What the paper's text states for a figure, of the models that the study has."""
    text = tables["text"]
    found = text[(text.figure == figure) & (text.measure == measure)]
    return tidy.rows(found.assign(x=found.train_examples), measure, "value", series=f"paper {measure}")


def two_sided(data: pandas.DataFrame, tables: dict):
    """A panel a model with two axes, accuracy at the left and length at the right, ours and the paper's in
    both.
    """
    models, (place, ticks) = tidy.in_order(data, tables), tidy.axis_of(data)
    wide = min(WIDE, len(models))
    rows_of = math.ceil(len(models) / wide)
    figure, grid_of = plt.subplots(
        rows_of, wide, figsize=(3.6 * wide, 2.3 * rows_of), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(h_pad=0.12)  # inches: the note stands below
    for ax in grid_of.flat[len(models) :]:
        ax.remove()
    looks = OURS | {f"paper {name}": one for name, one in PAPERS.items()}
    for i, (model, ax) in enumerate(zip(models, grid_of.flat, strict=False)):
        ax.set_title(model, loc="left", fontweight="bold")
        twin = ax.twinx()
        twin.grid(visible=False)
        for side, measure in ((ax, "accuracy"), (twin, "length")):
            rows = data[(data.model == model) & (data.measure == measure)]
            for part in (rows[rows.x == 0], rows[rows.x > 0]):
                panels.draw(side, part, looks, measure, place, lines=len(part) > 1, spread=0.05)
            panels.from_zero(side, rows)
            side.tick_params(axis="y", colors=OURS[measure]["color"])
        if i % wide == 0:
            ax.set_ylabel(SIDES["accuracy"], color=OURS["accuracy"]["color"])
        if i % wide == wide - 1 or i == len(models) - 1:
            twin.set_ylabel(SIDES["length"], color=OURS["length"]["color"])
        ax.set_xticks(list(ticks), list(ticks.values()), rotation=40)
        ax.set_xlim(min(ticks) - 0.5, max(ticks) + 0.5)
    return figure, looks


def finish_sides(figure, data: pandas.DataFrame, looks: dict, notes: list[str]):
    """Legend and note of a figure with two axes."""
    names = {name: f"{name}, ours" for name in OURS} | {
        f"paper {name}": f"{name}, the paper's" for name in PAPERS
    }
    own = panels.seeds(data[~data.series.str.startswith("paper")])
    panels.finish(figure, panels.legend(data, looks, names), [*notes, own])


def figure_2(tables: dict, tasks: Tasks):
    """Accuracy and length against data size, a panel a model."""
    table = protocol(tables)
    table, known = table[table.task == HEADLINE], tables["paper"].assign(seed=None)
    known = known.assign(x=known.examples)
    data = tidy.join(
        tidy.rows(table, "accuracy", "accuracy_paper", "accuracy_paper_", series="accuracy"),
        tidy.rows(table, "length", "length", "length_", series="length"),
        tidy.rows(known, "accuracy", "paper", series="paper accuracy"),
        tidy.rows(known, "length", "paper_length", series="paper length"),
    )
    if table.empty:
        return None, data
    figure, looks = two_sided(data, tables)
    notes = [f"Accuracy: {sizes.mean_of(tasks.headline)}; length: {sizes.mean_of(tasks.length)}."]
    notes += ["Open marks, dotted: the paper's."] if data.series.str.startswith("paper").any() else []
    finish_sides(figure, data, looks, notes)
    return figure, data


def figure_3(tables: dict, tasks: Tasks):
    """The share of reflective responses against data size, a line a model."""
    table, told = protocol(tables), of_text(tables, 3, "reflection")
    table = table[table.task == HEADLINE]
    data = tidy.rows(table.assign(series=table.model), "reflection", "reflection", "reflection_")
    if data.empty:
        return None, data
    models, (place, ticks) = tidy.in_order(data, tables), tidy.axis_of(data)
    marks = ["o", *MARKERS]
    looks = {
        model: look(PALETTE[i % COLOURS], marks[i % len(marks)], shift=0.06 * (i - (len(models) - 1) / 2))
        for i, model in enumerate(models)
    }
    figure, axes = panels.lay_out(["reflective responses (share)"], [""], height=2.6)
    (ax,) = axes.values()
    panels.draw(ax, data, looks, "reflection", place, spread=0.02)
    for x, value in told[["x", "value"]].drop_duplicates().itertuples(index=False):
        ax.plot(place(x), value, "o", markerfacecolor="none", color="black", markersize=8)
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set(ylim=(-0.03, 1.03), xlabel="training examples")
    notes = [
        f"Responses to {sizes.mean_of(tasks.length)}.",
        "Open circles: the paper's text, for Qwen (below .05 before SFT, about .75 at 8k)."
        if len(told)
        else "",
    ]
    panels.finish(figure, panels.legend(data, looks), notes)
    return figure, tidy.join(data, told)


def figure_4(tables: dict, tasks: Tasks):
    """Lengths of reflective and of other responses against data size, a panel a model."""
    table = protocol(tables)
    table = table[table.task == HEADLINE]
    data = tidy.join(
        *(tidy.rows(table, "length", column, f"{column}_", series=s) for s, column in tidy.LENGTHS.items())
    )
    if data.empty:
        return None, data
    place, ticks = tidy.axis_of(data)
    figure, axes = panels.lay_out(tidy.in_order(data, tables), ["length"])
    for (model, _), ax in axes.items():
        rows = data[data.model == model]
        panels.draw(ax, rows, LENGTHS, "length", place, spread=0.05)
        panels.from_zero(ax, rows)
        ax.set_xticks(list(ticks), list(ticks.values()), rotation=40)
    panels.label(axes, {"length": SIDES["length"]}, "training examples")
    names = dict(zip(tidy.LENGTHS, ["reflective responses, ours", "the others, ours"], strict=True))
    notes = [
        f"Responses to {sizes.mean_of(tasks.length)}.",
        "The paper's text has some 2,000 tokens between the two (Qwen 1.5B and 3B); its curves are not known as numbers.",
    ]
    panels.finish(figure, panels.legend(data, LENGTHS, names), notes)
    return figure, data


def figure_5(tables: dict, tasks: Tasks):
    """Accuracy and length in arithmetic against data size, a panel a model."""
    table = protocol(tables)
    table = table[table.task.isin(tasks.calculations)]
    own = tidy.join(
        tidy.rows(table, "accuracy", "accuracy_paper", "accuracy_paper_", series="accuracy"),
        tidy.rows(table, "length", "length", "length_", series="length"),
    )
    data = tidy.join(own, of_text(tables, 5, "length"))
    if own.empty:
        return None, own
    data = data[data.model.isin(set(own.model))]
    figure, looks = two_sided(data, tables)
    notes = [f"Tasks: {', '.join(tasks.calculations)}."]
    notes += (
        ["Open marks: lengths that the paper's text states."]
        if data.series.str.startswith("paper").any()
        else []
    )
    finish_sides(figure, data, looks, notes)
    return figure, data


def figure_7(tables: dict, tasks: Tasks):
    """Held-out accuracy and length along RL, a column a model, a line a start."""
    cells, curve = tables["cells"], tables["rl_curves"]
    table = along_rl(cells, curve)
    data = tidy.join(
        tidy.rows(table, "accuracy", "accuracy_paper", "accuracy_paper_"),
        tidy.rows(table, "length", "length", "length_"),
    ).sort_values(["model", "measure", "x"], kind="stable")
    if data.empty:
        return None, data
    examples = cells.drop_duplicates("start").set_index("start").examples
    order = sorted(set(data.series), key=lambda name: examples.get(name.split(",")[0], 0))
    marks = ["o", *MARKERS]
    looks = {
        name: look(GREY if name == "base" else PALETTE[i % COLOURS], marks[i % len(marks)])
        for i, name in enumerate(order)
    }
    figure, axes = panels.lay_out(tidy.in_order(data, tables), ["accuracy", "length"])
    for (model, measure), ax in axes.items():
        rows = data[(data.model == model) & (data.measure == measure)]
        panels.draw(ax, rows, looks, measure)
        panels.from_zero(ax, rows)
    panels.label(axes, SIDES, "RL step")
    notes = [
        f"Accuracy: {sizes.mean_of(tasks.headline)}; length: {sizes.mean_of(tasks.length)}.",
        "The paper's curves are not known as numbers; what its text says of their ends is in the table of claims.",
    ]
    panels.finish(figure, panels.legend(data, looks, {name: f"RL from {name}" for name in order}), notes)
    return figure, data
