"""The figure `repetition`: accuracy over training examples and epochs, with diagonals of equally many traces
seen.
"""

import matplotlib.pyplot as plt
import numpy

from valley.analysis.measures import Tasks
from valley.figures import panels, tidy
from valley.figures.sizes import mean_of
from valley.figures.svg import TITLED

SHADE = plt.get_cmap("viridis")


def repetition(tables: dict, tasks: Tasks):
    """A square a run, coloured and labelled by its accuracy; one map a model."""
    table = tables["repetition"]
    table = table.assign(x=table.examples, series=table.epochs)
    data = tidy.rows(table, "accuracy", "accuracy")
    if data.empty:
        return panels.empty("runs of several sizes and epochs"), data
    models = tidy.in_order(data, tables)
    figure, axes = panels.lay_out(models, ["accuracy"], height=2.3)
    lowest, highest = data.value.min(), data.value.max()
    for (model, _), ax in axes.items():
        rows = data[data.model == model]
        for row in rows.itertuples():
            share = (row.value - lowest) / (highest - lowest) if highest > lowest else 0.5
            text = f"{model}, {row.run}: {row.x:,.0f} examples × {row.series:g} epochs: accuracy = {tidy.short(row.value)}"
            place = (numpy.log2(row.x), numpy.log2(row.series))
            ax.scatter(*place, s=620, marker="s", color=SHADE(share), zorder=3, gid=TITLED + text)
            ink = "black" if share > 0.6 else "white"
            ax.text(
                *place,
                f"{row.value:.2f}".removeprefix("0"),
                ha="center",
                va="center",
                color=ink,
                fontsize=8.5,
                zorder=4,
            )
        for seen in sorted({round(float(row.x * row.series)) for row in rows.itertuples()}):
            level = rows[(rows.x * rows.series).round() == seen]
            if len(level) > 1:
                ax.plot(
                    numpy.log2(level.x),
                    numpy.log2(level.series.astype(float)),
                    color="0.6",
                    linewidth=1,
                    zorder=1,
                )
        for axis, values in ((ax.xaxis, rows.x), (ax.yaxis, rows.series)):
            ticks = sorted(set(values.astype(float)))
            axis.set_ticks(
                numpy.log2(ticks), [f"{tick / 1000:g}k" if tick >= 1000 else f"{tick:g}" for tick in ticks]
            )
        ax.margins(0.2)
    panels.label(axes, {"accuracy": "epochs"}, "training examples")
    notes = [
        f"Accuracy: {mean_of(tasks.headline)}, mean over seeds, in each square.",
        "Lines join runs that have seen equally many traces.",
    ]
    panels.finish(figure, [], notes)
    return figure, data
