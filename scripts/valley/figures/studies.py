"""Figures of several studies: B − A of every cell of two, both against data size; each one's effects and the
combined.
"""

import matplotlib.pyplot as plt
import numpy
import pandas
from matplotlib.lines import Line2D

from valley.figures.style import GREY, MARKERS, PALETTE

KINDS = {
    "paired": (PALETTE[0], "paired problem by problem"),
    "unpaired": (PALETTE[1], "unpaired: other problems"),
    "one side": (PALETTE[2], "samples and training noise of both"),
}
MEASURES = {"": "headline accuracy", "length_": "response length (tokens)"}  # by how their columns begin


def forest(table: pandas.DataFrame, names: tuple[str, str]) -> plt.Figure:
    """B − A of every cell with its interval, headline accuracy and length: a dot where zero lies outside,
    else a tick.
    """
    table = table.iloc[::-1].reset_index(drop=True)
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 1.2 + 0.26 * len(table)), sharey=True)
    for ax, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        value, low, high = (f"{measure}{name}" for name in ("difference", "low", "high"))
        ax.axvline(0, color=GREY, linewidth=1)
        for kind, rows in table.groupby("interval"):
            color, beyond = KINDS[kind][0], (rows[low] > 0) | (rows[high] < 0)
            ax.hlines(rows.index, rows[low], rows[high], color=color, linewidth=2)
            for mark, chosen in (("o", rows[beyond]), ("|", rows[~beyond])):
                ax.plot(chosen[value], chosen.index, mark, color=color, markersize=6)
        ax.set(xlabel=f"{names[1]} − {names[0]}", title=title, ylim=(-0.7, len(table) - 0.3))
        ax.margins(x=0.08)
    axes[0].set_yticks(table.index, table.model + "  " + table.run)
    figure.tight_layout()
    return figure


def against_size(table: pandas.DataFrame, names: tuple[str, str]) -> plt.Figure:
    """Accuracy and length of A (dashed, hollow) and B (solid) against data size, a row a model."""
    models = list(dict.fromkeys(table.model))
    figure, axes = plt.subplots(len(models), 2, figsize=(7.4, 2.5 * len(models)), squeeze=False)
    for row, model in enumerate(models):
        mine = table[table.model == model].sort_values("examples")
        x = numpy.arange(len(mine))
        ticks = ["base" if size == 0 else f"{int(size):,}" for size in mine.examples]
        for ax, (measure, text) in zip(axes[row], MEASURES.items(), strict=True):
            a, b, low, high = (mine[f"{measure}{name}"].to_numpy(float) for name in ("a", "b", "low", "high"))
            ax.plot(x, a, "o--", color=PALETTE[1], markerfacecolor="none", label=names[0])
            ax.plot(x, b, "o-", color=PALETTE[0], markersize=4, label=names[1])
            ax.vlines(x + 0.08, a + low, a + high, color=PALETTE[0], alpha=0.5)
            ax.set_xticks(x, ticks, rotation=40)
            ax.set(ylabel=text, ylim=(0, 1.12 * numpy.nanmax([a, b, a + high, [0.05] * len(x)])), title=model)
    axes[0][0].legend(frameon=False)
    for ax in axes[-1]:
        ax.set_xlabel("training examples")
    figure.tight_layout()
    return figure


def over_studies(effects: pandas.DataFrame, combined: pandas.DataFrame, names: list[str]) -> plt.Figure:
    """The change of every run in every study, and combined as a diamond: thick for these studies, thin over
    studies.
    """
    shown = combined.iloc[::-1].reset_index(drop=True)
    looks = {name: (PALETTE[i % 10], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)}
    step = 0.7 / (len(names) + 1)
    figure, ax = plt.subplots(figsize=(7.4, 1.2 + 0.16 * (len(names) + 2) * len(shown)), layout="constrained")
    ax.axvline(0, color=GREY, linewidth=1)
    for at, row in shown.iterrows():
        mine = effects[(effects.model == row.model) & (effects.run == row.run)].set_index("study")
        for i, (name, (color, marker)) in enumerate(looks.items()):
            if name in mine.index:
                one, y = mine.loc[name], at + 0.35 - step * i
                ax.hlines(y, one.low, one.high, color=color, linewidth=1.4, alpha=0.6)
                ax.plot(one.change, y, marker, color=color, markersize=4.5)
        ax.hlines(at - 0.35, row.low, row.high, color="black", linewidth=0.8)
        ax.hlines(at - 0.35, row.these_low, row.these_high, color="black", linewidth=3)
        ax.plot(row.change, at - 0.35, "D", color="black", markersize=5)
    handles = [Line2D([], [], color=c, marker=m, label=name) for name, (c, m) in looks.items()]
    handles.append(Line2D([], [], color="black", marker="D", label="combined"))
    figure.legend(handles=handles, loc="outside upper left", ncol=min(4, len(handles)), frameon=False)
    ax.set_yticks(shown.index, shown.model + "  " + shown.run)
    ax.set(xlabel="headline accuracy minus the base's", ylim=(-0.6, len(shown) - 0.4))
    return figure
