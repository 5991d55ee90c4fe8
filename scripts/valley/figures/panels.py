"""What figures are put together from: panels, points and bars with hover texts, axes, the legend and the
note.
"""

import math
import textwrap

import matplotlib.pyplot as plt
import numpy
import pandas
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from valley.figures import tidy
from valley.figures.style import GREY
from valley.figures.svg import TITLED

WIDTH = 10.4  # inches: 1,000 pixels in a browser
# Inches above a block of panels, below it, between its panels, below all.
TITLE, FOOT, BETWEEN, LAST = 0.32, 0.5, 0.16, 0.25
MANY = 6  # more models than this stand in a denser grid and share their scales
BAND = "noise between trainings"


def lay_out(
    models: list,
    measures: list,
    across="models",
    height=1.75,
    left=0.75,
    gap=0.56,
    title=TITLE,
    foot=FOOT,
    last=LAST,
):
    """A figure with a panel a model and measure: `across` stands side by side; `height` of one row.

    Models side by side wrap after three, or after five where they are many, their measures below each other.
    Returns the figure and {(model, measure): axes}.
    """
    if len(models) > MANY and across == "models":
        gap = 0.14
    wide = len(measures) if across == "measures" else models_wide(models)
    stacked = 1 if across == "measures" else len(measures)
    heights = height if isinstance(height, list) else [height] * len(models)
    blocks = heights if across == "measures" else heights[: math.ceil(len(models) / wide)]
    tops = numpy.cumsum([0] + [title + stacked * one + (stacked - 1) * BETWEEN + foot for one in blocks])
    width = min(4.4, (WIDTH - left + gap) / wide)
    size = (left + wide * width - gap + 0.12, tops[-1] + last)
    figure, axes = plt.figure(figsize=size), {}
    for i, model in enumerate(models):
        for j, measure in enumerate(measures):
            block, column, row = (i, j, 0) if across == "measures" else (i // wide, i % wide, j)
            bottom = tops[block] + title + row * (blocks[block] + BETWEEN) + blocks[block]
            place = (left + column * width, size[1] - bottom, width - gap, blocks[block])
            ax = axes[model, measure] = figure.add_axes(numpy.array(place) / (*size, *size))
            if (column if across == "measures" else row) == 0:
                ax.set_title(model, loc="left", fontweight="bold")
            ax.tick_params(labelbottom=row == stacked - 1)
    return figure, axes


def models_wide(models: list) -> int:
    """How many models stand side by side."""
    return 5 if len(models) > MANY else min(len(models), 3) if len(models) != 4 else 2


def empty(what: str) -> plt.Figure:
    """A figure that says what is missing."""
    figure = plt.figure(figsize=(6, 1.2))
    figure.text(0.5, 0.5, f"no data yet: {what}", ha="center", va="center")
    return figure


def remark(ax, text: str, height: float = 0.5):
    """A sentence in a panel, in its middle; one without data loses its scales."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    middle = {"transform": ax.transAxes, "ha": "center", "va": "center"}
    ax.text(0.5, height, text, **middle, fontsize=8.5, color="0.35", bbox=box)
    if not ax.lines:
        ax.set(xticks=[], yticks=[])


def draw(
    ax, rows: pandas.DataFrame, looks: dict, what: str, place=float, lines: bool = True, spread: float = 0.0
):
    """Points with intervals, and a line through the mean over seeds, for each series; `place` maps x to the
    axis.
    """
    beside = spread * tidy.abreast(rows)
    for series, group in rows.groupby("series", sort=False):
        look = looks[series]
        shift = look["shift"] if spread else 0.0
        at = group.x.map(place) + shift + beside[group.index]
        known = group.low.notna() & group.high.notna()
        spans = zip(at[known], group.low[known], group.high[known], strict=True)
        ends = [[(x, low), (x, high)] for x, low, high in spans]
        ax.add_collection(LineCollection(ends, color=look["color"], alpha=0.45, linewidth=1.1), autolim=False)
        if lines and look["linestyle"] != "none":
            mean = group.groupby("x").value.mean()
            line = {"color": look["color"], "linestyle": look["linestyle"], "linewidth": 1.3}
            ax.plot(mean.index.map(place) + shift, mean, **line)
        for x, row in zip(at, group.itertuples(), strict=True):
            dot(ax, x, row.value, look, tidy.hover(row, what))
    ax.autoscale_view(scaley=False)


def mark(look: dict, line: bool, size: float, width: float) -> dict:
    """How matplotlib draws the marker of a look, filled or open, with or without its line."""
    fill, color = look["fill"], look["color"]
    return {
        "color": color,
        "marker": look["marker"],
        "linestyle": look["linestyle"] if line else "none",
        "markersize": size,
        "markerfacecolor": color if fill else "none",
        "markeredgecolor": "white" if fill else color,
        "markeredgewidth": width,
    }


def dot(ax, x: float, y: float, look: dict, text: str, size: float = 4.5):
    """One point with its hover text; an artist of its own, so that the text cannot go to another."""
    looks = mark(look, False, size, 0.4 if look["fill"] else 1.1)
    ax.add_line(Line2D([x], [y], **looks, zorder=4, clip_on=False, gid=TITLED + text))


def bar(ax, left: float, y: float, width: float, text: str, **look):
    """One horizontal bar with its hover text."""
    edge = {"edgecolor": "white", "linewidth": 0.3, "clip_on": False}
    ax.add_patch(Rectangle((left, y - 0.4), width, 0.8, **edge, zorder=2, gid=TITLED + text, **look))


def from_zero(ax, rows: pandas.DataFrame):
    """The y axis from 0 to a little above what is drawn."""
    top = numpy.nanmax(rows[["value", "high"]].to_numpy(float)) if len(rows) else 1.0
    ax.set_ylim(-0.03 * (top or 1), 1.08 * (top or 1))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if top >= 50 else f"{value:.3g}")


def label(axes: dict, measures: dict[str, str], x: str | dict, across: str = "models"):
    """Axis labels, once a row and column; many models side by side share their scales too."""
    if across == "models" and len(axes) > MANY * len(measures):
        share_scales(axes)
    models, lowest = list(dict.fromkeys(model for model, _ in axes)), list(measures)[-1]
    wide = models_wide(models) if across == "models" else 1
    for (model, measure), ax in axes.items():
        at = models.index(model)
        if at % wide == 0:
            ax.set_ylabel(measures[measure])
        if at + wide >= len(models) and (across == "measures" or measure == lowest):
            ax.set_xlabel(x if isinstance(x, str) else x[measure])
        ax.yaxis.set_label_coords(-0.52 / (ax.get_position().width * ax.figure.get_figwidth()), 0.5)


def share_scales(axes: dict):
    """One scale a measure for all models, its numbers in the first column alone; names of sizes stand
    aslant.
    """
    wide = models_wide(dict(axes))
    for measure in dict.fromkeys(measure for _, measure in axes):
        same = [ax for (_, name), ax in axes.items() if name == measure]
        low, high = zip(*(ax.get_ylim() for ax in same if ax.lines), strict=True)
        for i, ax in enumerate(same):
            ax.set_ylim(min(low), max(high))
            ax.tick_params(axis="x", labelrotation=40)
            ax.tick_params(axis="y", labelleft=i % wide == 0)


def reference(ax, value: float, band: float | None = None, color: str = GREY):
    """A dashed line at the value of the base, and around it the noise band where it is known."""
    ax.axhline(value, color=color, linestyle="--", linewidth=1, zorder=1.5)
    if band is not None:
        noise_band(ax.axhspan, value, band)


def scales(models) -> str:
    """What the scales of panels are, for the note."""
    return (
        "Panels of a measure share one scale."
        if len(models) > MANY
        else "Each panel has a scale of its own, from 0."
    )


def noise_band(span, value: float, reach: float):
    """The grey band of what two trainings differ by; `span` is the axes' axhspan or axvspan."""
    span(value - reach, value + reach, color="0.5", alpha=0.15, linewidth=0, zorder=0, label=BAND)


def has_band(figure) -> bool:
    """True where a noise band is drawn in any panel."""
    return any(patch.get_label() == BAND for ax in figure.axes for patch in ax.patches)


def reach_of_noise(tables: dict, model: str, measure: str) -> float | None:
    """What two trainings of the same cell differ by at most, where the study has enough of them."""
    table = tables["replicates"]
    found = table[(table.model == model) & (table.measure == measure)] if len(table) else table
    return found.band.iat[0] if len(found) else None


def seeds(data: pandas.DataFrame) -> str:
    """What the dots are, for the note."""
    several = data[data.series != "paper"].seed.nunique() > 1
    single = "One training seed a cell: its spread is not shown."
    return "Dots: training seeds; lines: their mean." if several else single


def band_note(figure, tables: dict, measures=("accuracy", "length")) -> str:
    """What the grey band is, for the note; nothing where none is drawn."""
    if not has_band(figure):
        return ""
    known = [row for row in tables["replicates"].itertuples() if row.measure in measures]
    found = ", ".join(f"{row.model} {row.measure} ±{tidy.short(row.band)}" for row in known)
    return f"Grey band: two trainings of the same cell by the protocol differ by no more than this (over seeds; {found})."


def legend(data: pandas.DataFrame, looks: dict, names: dict | None = None) -> list:
    """Legend entries of the series of a figure."""
    names = {"protocol": "the paper's protocol", "paper": "the paper's values"} | (names or {})
    order = sorted(dict.fromkeys(data.series), key=lambda series: (series != "base", series == "paper"))
    return [
        Line2D([], [], **mark(looks[series], True, 6, 1.0), label=names.get(series, series))
        for series in order
        if series in looks
    ]


def finish(figure, handles: list, notes: list[str]):
    """The legend above the panels and the note below them."""
    width, height = figure.get_size_inches()
    if has_band(figure):
        handles = [*handles, Patch(facecolor="0.5", alpha=0.25, label=BAND)]
    if handles:
        longest = max(len(handle.get_label()) for handle in handles)
        columns = max(1, min(len(handles), int(width / (0.08 * longest + 0.6))))
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncol": columns}
        figure.legend(handles=handles, **place, fontsize=9, frameon=False, handlelength=2.8)
    text = textwrap.fill(" ".join(filter(None, notes)), int(width * 15.5))
    figure.text(0.1 / width, 0.05 / height, text, ha="left", va="top", fontsize=8.5, color="0.3")
