"""The figure `forecast`: what larger sizes would give, in marks of their own beside what was measured."""

from valley.analysis.measures import Tasks
from valley.figures import panels, sizes, tidy
from valley.figures.style import PALETTE, look, looks
from valley.grid import HEADLINE

LOOK = look(PALETTE[3], "D", ":", 0.15, fill=False)


def forecast(tables: dict, tasks: Tasks):
    """Accuracy against data size: bases and the protocol as measured, and the sizes that are forecast."""
    table, expected = tidy.sft_cells(tables), tables["forecast"]
    table = table[(table.task == HEADLINE) & table.series.isin(["base", "protocol"])]
    expected = expected.assign(x=expected.examples, series="forecast")
    data = tidy.join(
        tidy.rows(table, "accuracy", "accuracy", "problems_"),
        tidy.rows(expected, "accuracy", "forecast", ""),
    )
    if not len(expected):
        return panels.empty(
            "forecasts (two sizes of a model, and five whole curves of others that reach as far)"
        ), data.iloc[:0]  # nothing is drawn
    data = data[data.model.isin(set(expected.model))]
    models, found, axis = (
        tidy.in_order(data, tables),
        looks(tables["cells"]) | {"forecast": LOOK},
        tidy.axis_of(data),
    )
    figure, axes = panels.lay_out(models, ["accuracy"])
    for (model, _), ax in axes.items():
        sizes.panel(
            ax,
            data[data.model == model],
            found,
            "accuracy",
            axis,
            panels.reach_of_noise(tables, model, "accuracy"),
        )
    panels.label(axes, {"accuracy": "accuracy (avg@k)"}, "training examples")
    notes = [
        f"Accuracy: {sizes.mean_of(tasks.headline)}.",
        "Open diamonds: forecast, not measured, from the measured sizes and other models' curves; bars: 90 % intervals.",
        "Filled dots: measured; bars: confidence interval over problems.",
        panels.band_note(figure, tables, ("accuracy",)),
        panels.scales(models),
    ]
    panels.finish(figure, panels.legend(data, found, {"forecast": "forecast"}), notes)
    return figure, data
