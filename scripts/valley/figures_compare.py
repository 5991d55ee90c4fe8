"""The figures of a comparison of two studies (compare.py): B − A of every cell, and both against data size."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy
import pandas
import seaborn

from valley import records

KINDS = {"paired": ("#0173b2", "paired problem by problem"), "unpaired": ("#de8f05", "unpaired: other problems"),
         "one side": ("#029e73", "samples and training noise of both")}  # fmt: skip
seaborn.set_theme(context="paper", style="whitegrid", palette="colorblind")


def forest(table: pandas.DataFrame, names: tuple[str, str]) -> plt.Figure:
    """B − A of every cell with its interval, headline accuracy and length: a dot where zero lies outside,
    else a tick.
    """
    table = table.iloc[::-1].reset_index(drop=True)
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 1.2 + 0.26 * len(table)), sharey=True)
    for ax, (value, low, high), title in zip(
        axes,
        (("difference", "low", "high"), ("length_difference", "length_low", "length_high")),
        ("headline accuracy", "response length (tokens)"),
        strict=True,
    ):
        ax.axvline(0, color="0.35", linewidth=1)
        for kind, rows in table.groupby("interval"):
            beyond = (rows[low] > 0) | (rows[high] < 0)
            ax.hlines(rows.index, rows[low], rows[high], color=KINDS[kind][0], linewidth=2)
            for mark, chosen in (("o", rows[beyond]), ("|", rows[~beyond])):
                ax.plot(chosen[value], chosen.index, mark, color=KINDS[kind][0], markersize=6)
        ax.set(xlabel=f"{names[1]} − {names[0]}", title=title, ylim=(-0.7, len(table) - 0.3))
        ax.margins(x=0.08)
    axes[0].set_yticks(table.index, table.model + "  " + table.run)
    figure.tight_layout()
    return figure


def by_size(table: pandas.DataFrame, names: tuple[str, str]) -> plt.Figure:
    """Accuracy and length of A (dashed, hollow) and B (solid) against data size, a row a model."""
    models = list(dict.fromkeys(table.model))
    figure, axes = plt.subplots(len(models), 2, figsize=(7.4, 2.5 * len(models)), squeeze=False)
    for row, model in enumerate(models):
        mine = table[table.model == model].sort_values("examples")
        x = numpy.arange(len(mine))
        for ax, measure, text in zip(
            axes[row], ("", "length_"), ("headline accuracy", "response length"), strict=True
        ):
            a, b, low, high = (mine[f"{measure}{name}"].to_numpy(float) for name in ("a", "b", "low", "high"))
            ax.plot(x, a, "o--", color="#de8f05", markerfacecolor="none", label=names[0])
            ax.plot(x, b, "o-", color="#0173b2", markersize=4, label=names[1])
            ax.vlines(x + 0.08, a + low, a + high, color="#0173b2", alpha=0.5)
            ax.set_xticks(
                x, ["base" if size == 0 else f"{int(size):,}" for size in mine.examples], rotation=40
            )
            ax.set(ylabel=text, ylim=(0, 1.12 * numpy.nanmax([a, b, a + high, [0.05] * len(x)])), title=model)
    axes[0][0].legend(frameon=False)
    for ax in axes[-1]:
        ax.set_xlabel("training examples")
    figure.tight_layout()
    return figure


def save(figure: plt.Figure, path: Path):
    """The figure as SVG, text as text; equal figures give equal bytes."""
    # Text stays text; ids differ between the figures of a page, not between runs.
    with (
        records.whole(path) as temporary,
        plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}),
    ):
        figure.savefig(temporary, format="svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
