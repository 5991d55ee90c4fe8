"""How all figures look: colours and markers, panels, points and bars with hover texts, the note below,
saving.

A figure is drawn from one tidy table, and that table is its CSV: a row for each point, bar and curve, with
`kind`, `measure` (which panel), `model`, `series` (which colour), `run`, `seed`, `x`, `value`, `low`, `high`.
What is NaN is not drawn. A hover text travels as the gid of its artist, which matplotlib writes as an id into
the SVG; `save` turns it into a `<title>`, which browsers show.
"""

import collections
import io
import math
import re
import textwrap
import xml.etree.ElementTree as xml

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy
import pandas
import seaborn
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import Bbox

from valley import grading, grid, records
from valley.grid import HEADLINE

seaborn.set_theme(context="paper", style="whitegrid", font_scale=1.05)
# Text stays text in the SVG; all sizes are legible where the figure is shown 1,000 pixels wide.
plt.rcParams |= {
    "svg.fonttype": "none",
    "figure.dpi": 100,
    "hatch.linewidth": 0.6,
    "axes.titlesize": 10,
    "grid.color": "0.88",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "0.75",
    "axes.linewidth": 0.8,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}
COLUMNS = ["kind", "measure", "model", "series", "run", "seed", "x", "value", "low", "high"]
WIDTH = 10.4  # inches: 1,000 pixels in a browser
TITLE, FOOT, BETWEEN, LAST = (
    0.32,
    0.5,
    0.16,
    0.25,
)  # inches above a block of panels, below it, between its panels, below all
GREY = "0.25"
TITLED = "title "  # begins the id of what has a hover text
SVG = "http://www.w3.org/2000/svg"
PALETTE = seaborn.color_palette("colorblind").as_hex()
RECIPES = [1, 2, 3, 4, 6, 8]  # of the palette; the others mean something else
MARKERS = ["s", "^", "D", "v", "p", "h", "<", ">"]
SHADES = matplotlib.colors.LinearSegmentedColormap.from_list("sizes", ["#74c4f0", PALETTE[0], "#2d0a55"])
BAND = "noise between trainings"
DASHES = [":", "-.", (0, (5, 1, 1, 1, 1, 1)), "--"]
# The columns that figures read: a table of nothing may come without any.
NEEDED = {
    "cells": [
        "model",
        "run",
        "seed",
        "stage",
        "start",
        "recipe",
        "step",
        "examples",
        "task",
        "accuracy",
        "length",
        "reflection",
        "token_efficiency",
        "calculations",
        "change",
        *(f"share {name}" for name in grading.OUTCOMES),
        *(
            f"{name}_{end}"
            for name in (
                "problems",
                "length",
                "reflection",
                "change",
                "calculation_errors",
                "length_reflective",
                "length_other",
            )
            for end in ("low", "high")
        ),
        "calculation_errors",
        "length_reflective",
        "length_other",
    ],
    "replicates": ["model", "measure", "band"],
    "paper": ["model", "run", "examples", "paper", "paper_length"],
    "rl_curves": ["model", "run", "seed", "step", "reward"],
    "drop": ["model", "run", "seed", "outcome", "change", "of_solved"],
    "budget": ["model", "run", "seed", "limit", "accuracy"],
    "accuracy_by_length": ["model", "run", "tokens", "accuracy", "low", "high"],
    "accuracy_by_steps": ["model", "run", "calculations", "accuracy", "low", "high"],
    "accumulation": ["model", "run", "p", "verdict", "error_rate", "error_rate_low", "error_rate_high"],
    "recipes": ["model", "run", "recipe", "seed", "to_protocol", "to_protocol_low", "to_protocol_high"],
    "hazard": ["model", "run", "first", "last", "hazard", "low", "high"],
}
OUTCOMES = {
    name: {"facecolor": colour, "hatch": hatch}
    for name, colour, hatch in zip(
        grading.OUTCOMES,
        ["#029e73", "#d55e00", "#949494", "#de8f05", "#cc78bc"],
        ["", "///", "..", "xxx", "\\\\\\"],
        strict=True,
    )
}


def style(color, marker="o", linestyle="-", shift=0.0, fill=True) -> dict:
    """How a series is drawn; `shift` moves it sideways on an axis of sizes, in doublings."""
    return {"color": color, "marker": marker, "linestyle": linestyle, "shift": shift, "fill": fill}


def styles(cells: pandas.DataFrame) -> dict[str, dict]:
    """The style of every recipe, run and task of a study: the same in all its figures."""
    found = collections.defaultdict(lambda: style("0.5"))  # a run whose cell is not there yet
    found |= {
        "base": style(GREY, "o", "--"),
        "protocol": style(PALETTE[0], "o"),
        "paper": style("black", "o", "none", 0.2, False),
        "reflective": style(PALETTE[5], "D"),
        "other": style(PALETTE[9], "v", "--"),
    }
    recipes = sorted(set(cells.recipe.dropna()) - {"protocol"})
    for i, name in enumerate(recipes):
        shift = 0.11 * (i // 2 + 1) * (-1) ** (i + 1)
        found[name] = style(PALETTE[RECIPES[i % len(RECIPES)]], MARKERS[i % len(MARKERS)], ":", shift)
    sft = cells[cells.stage == "sft"]
    sizes = sorted(set(sft.examples))
    shades = dict(zip(sizes, SHADES(numpy.linspace(0, 1, len(sizes))), strict=True))
    for run, recipe, size in sft[["run", "recipe", "examples"]].drop_duplicates().itertuples(index=False):
        order = sizes.index(size)
        own = {
            "color": matplotlib.colors.to_hex(shades[size]),
            "marker": MARKERS[order % len(MARKERS)],
            "linestyle": "-",
        }
        controls = {"linestyle": DASHES[order % len(DASHES)]}
        found[run] = style("") | (own if recipe == "protocol" else found[recipe] | controls) | {"shift": 0.0}
    tasks = [task for task in dict.fromkeys(cells.task) if task != HEADLINE]
    for i, task in enumerate(tasks):
        shift = 0.08 * (i - (len(tasks) - 1) / 2)
        found.setdefault(
            task, style(PALETTE[i % 10], ["o", *MARKERS][i % 9], ["-", "--", "-.", ":"][i % 4], shift)
        )
    return found


def order(run: str, examples: float) -> tuple:
    """Sorts runs: base, sizes, controls, RL."""
    parsed = grid.parse_run(run)
    return parsed.rl, parsed.recipe is not None, examples, run


def tidy(
    table: pandas.DataFrame, measure: str, value: str, ends: str | None = None, **fixed
) -> pandas.DataFrame:
    """Rows to be drawn from columns of a table: `value` and the interval `<ends>low`, `<ends>high`; `fixed`
    sets the rest.
    """
    low, high = (table[f"{ends}low"], table[f"{ends}high"]) if ends is not None else (None, None)
    columns = {"kind": "point", "measure": measure, "value": table[value], "low": low, "high": high} | fixed
    rows = (
        table.assign(**columns)
        .reindex(columns=COLUMNS)
        .astype(dict.fromkeys(("x", "value", "low", "high"), float))
    )
    return rows[rows.value.notna() & rows.x.notna()]


def in_order(data: pandas.DataFrame, tables: dict) -> list[str]:
    """The models of a figure in the order of the study."""
    return [
        model for model in dict.fromkeys([*tables["cells"].model, *data.model]) if model in set(data.model)
    ]


def join(*parts: pandas.DataFrame) -> pandas.DataFrame:
    """Tidy rows of several measures as one table."""
    filled = [part for part in parts if len(part)]
    return pandas.concat(filled, ignore_index=True) if filled else pandas.DataFrame(columns=COLUMNS)


def number(value: float) -> str:
    """A value as a reader wants it: 8,170 or 0.203."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def hover(row, what: str) -> str:
    """The hover text of a row: what it is (`{x}` in it stands for where), its value and interval."""
    seed = (
        ""
        if pandas.isna(row.seed)
        else f", seed {row.seed:g}"
        if isinstance(row.seed, float)
        else f", seed {row.seed}"
    )
    run = "paper" if row.series == "paper" else row.run
    several = f", {row.series}" if row.series in (*OUTCOMES, "reflective", "other") else ""
    interval = (
        f" [{number(row.low)}, {number(row.high)}]"
        if pandas.notna(row.low) and pandas.notna(row.high)
        else ""
    )
    return (
        f"{row.model}, {run}{seed}{several}: {what.format(x=number(row.x))} = {number(row.value)}{interval}"
    )


def panels(
    models: list, measures: list, across="models", height=1.75, left=0.75, gap=0.56, title=TITLE, foot=FOOT
):
    """A figure with a panel a model and measure: `across` says what stands side by side; `height` is one a
    model, or all's.

    Models side by side wrap after three, their measures below each other. Returns the figure and {(model,
    measure): axes}.
    """
    count = len(models)
    wide = len(measures) if across == "measures" else min(count, 3) if count != 4 else 2
    stacked = 1 if across == "measures" else len(measures)
    heights = height if isinstance(height, list) else [height] * count
    blocks = heights if across == "measures" else heights[: math.ceil(count / wide)]
    tops = numpy.cumsum([0] + [title + stacked * one + (stacked - 1) * BETWEEN + foot for one in blocks])
    width = min(4.4, (WIDTH - left + gap) / wide)
    size = (left + wide * width - gap + 0.12, tops[-1] + LAST)
    figure, axes = plt.figure(figsize=size), {}
    for i, model in enumerate(models):
        for j, measure in enumerate(measures):
            block, column, row = (i, j, 0) if across == "measures" else (i // wide, i % wide, j)
            bottom = tops[block] + title + row * (blocks[block] + BETWEEN) + blocks[block]
            place = [
                (left + column * width) / size[0],
                1 - bottom / size[1],
                (width - gap) / size[0],
                blocks[block] / size[1],
            ]
            ax = axes[model, measure] = figure.add_axes(place)
            if (across == "measures" and column == 0) or (across == "models" and row == 0):
                ax.set_title(model, loc="left", fontweight="bold")
            ax.tick_params(labelbottom=row == stacked - 1)
    return figure, axes


def empty(what: str) -> plt.Figure:
    """A figure that says what is missing."""
    figure = plt.figure(figsize=(6, 1.2))
    figure.text(0.5, 0.5, f"no data yet: {what}", ha="center", va="center")
    return figure


def remark(ax, text: str, height: float = 0.5):
    """A sentence in a panel, in its middle; one without data loses its scales."""
    ax.text(
        0.5,
        height,
        text,
        transform=ax.transAxes,
        ha="center",
        va="center",
        fontsize=8.5,
        color="0.35",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )
    if not ax.lines:
        ax.set(xticks=[], yticks=[])


def draw(
    ax, rows: pandas.DataFrame, looks: dict, what: str, place=float, lines: bool = True, spread: float = 0.0
):
    """Points with intervals, and a line through the mean over seeds, for each series; `place` maps x to the
    axis.
    """
    seeds = sorted(set(rows.seed.dropna()))
    beside = {seed: spread * (i - (len(seeds) - 1) / 2) for i, seed in enumerate(seeds)}
    for series, group in rows.groupby("series", sort=False):
        look = looks[series]
        shift = look["shift"] if spread else 0.0
        at = group.x.map(place) + shift + group.seed.map(beside).astype(float).fillna(0.0)
        known = group.low.notna() & group.high.notna()
        ends = [
            [(x, low), (x, high)]
            for x, low, high in zip(at[known], group.low[known], group.high[known], strict=True)
        ]
        ax.add_collection(LineCollection(ends, color=look["color"], alpha=0.45, linewidth=1.1), autolim=False)
        if lines and look["linestyle"] != "none":
            mean = group.groupby("x").value.mean()
            ax.plot(
                mean.index.map(place) + shift,
                mean,
                color=look["color"],
                linestyle=look["linestyle"],
                linewidth=1.3,
            )
        for x, row in zip(at, group.itertuples(), strict=True):
            dot(ax, x, row.value, look, hover(row, what))
    ax.autoscale_view(scaley=False)


def dot(ax, x: float, y: float, look: dict, text: str, size: float = 4.5):
    """One point with its hover text; an artist of its own, so that the text cannot go to another."""
    face = look["color"] if look["fill"] else "none"
    ax.add_line(
        Line2D(
            [x],
            [y],
            marker=look["marker"],
            color=look["color"],
            markerfacecolor=face,
            markersize=size,
            markeredgewidth=0.4 if look["fill"] else 1.1,
            markeredgecolor="white" if look["fill"] else look["color"],
            linestyle="none",
            zorder=4,
            gid=TITLED + text,
        )
    )


def bar(ax, left: float, y: float, width: float, text: str, **look):
    """One horizontal bar with its hover text."""
    ax.add_patch(
        Rectangle(
            (left, y - 0.4), width, 0.8, edgecolor="white", linewidth=0.3, zorder=2, gid=TITLED + text, **look
        )
    )


def from_zero(ax, rows: pandas.DataFrame):
    """The y axis from 0 to a little above what is drawn."""
    top = numpy.nanmax(rows[["value", "high"]].to_numpy(float)) if len(rows) else 1.0
    ax.set_ylim(-0.03 * (top or 1), 1.08 * (top or 1))
    ax.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if top >= 50 else f"{value:.3g}")


def size_axis(data: pandas.DataFrame):
    """(place, ticks) of an axis of data sizes: doublings, with the base one doubling left of the smallest."""
    sizes = data[data.x > 0].sort_values("x")
    left = math.log2(sizes.x.iat[0]) - 1 if len(sizes) else 0.0
    ticks = {left: "base"} if (data.x == 0).any() else {}
    for x, run in zip(sizes.x, sizes.run, strict=True):
        name = grid.parse_run(run).size if isinstance(run, str) else f"{x / 1000:.0f}k"
        ticks[math.log2(x)] = f"{int(name):,}" if name.isdigit() else name
    return lambda x: math.log2(x) if x > 0 else left, ticks


def sized(ax, rows: pandas.DataFrame, looks: dict, what: str, axis, band: float | None = None):
    """A panel over data sizes: the base as dots and a dashed line, the noise band around it, the other runs
    as lines.
    """
    place, ticks = axis
    base = rows[rows.x == 0]
    for series, value in base[base.series != "paper"].groupby("series", sort=False).value.mean().items():
        ax.axhline(value, color=looks[series]["color"], linestyle="--", linewidth=1, zorder=1.5)
        if band is not None and series == "base":
            noise_band(ax.axhspan, value, band)
    draw(ax, base, looks, what, place, lines=False, spread=0.07)
    draw(ax, rows[rows.x > 0], looks, what, place, spread=0.07)
    ax.set_xticks(list(ticks), list(ticks.values()))
    if ticks:
        ax.set_xlim(min(ticks) - 0.5, max(ticks) + 0.5)
    from_zero(ax, rows)


def by_size(data: pandas.DataFrame, measures: dict[str, str], tables: dict, across: str = "models"):
    """A figure over data sizes; `measures` names each panel's axis. Returns figure and axes."""
    models, looks, axis = in_order(data, tables), styles(tables["cells"]), size_axis(data)
    figure, axes = panels(models, list(measures), across, gap=0.8 if across == "measures" else 0.56)
    for (model, measure), ax in axes.items():
        rows = data[(data.model == model) & (data.measure == measure)]
        sized(ax, rows, looks, measure, axis, noise(tables, model, measure))
        if across == "measures":
            ax.tick_params(axis="x", labelrotation=40)
        if not len(rows):
            remark(ax, "no data yet")
        elif set(rows.series) == {"paper"}:
            remark(ax, "no cell of ours yet", 0.12)
    label(axes, measures, "training examples", across)
    return figure, axes


def label(axes: dict, measures: dict[str, str], x: str | dict, across: str = "models"):
    """Axis labels, once a row and column."""
    models, last = list(dict.fromkeys(model for model, _ in axes)), list(measures)[-1]
    wide = min(len(models), 3) if len(models) != 4 else 2
    for (model, measure), ax in axes.items():
        at = models.index(model)
        if across == "measures" or at % wide == 0:
            ax.set_ylabel(measures[measure])
        if (across == "measures" and at == len(models) - 1) or (
            measure == last and across == "models" and at + wide >= len(models)
        ):
            ax.set_xlabel(x if isinstance(x, str) else x[measure])
        ax.yaxis.set_label_coords(-0.52 / (ax.get_position().width * ax.figure.get_figwidth()), 0.5)


def noise_band(span, value: float, reach: float):
    """The grey band of what two trainings differ by; `span` is the axes' axhspan or axvspan."""
    span(value - reach, value + reach, color="0.5", alpha=0.15, linewidth=0, zorder=0, label=BAND)


def noise(tables: dict, model: str, measure: str) -> float | None:
    """What two trainings of the same cell differ by at most, where the study has enough of them."""
    table = tables["replicates"]
    found = table[(table.model == model) & (table.measure == measure)] if len(table) else table
    return found.band.iat[0] if len(found) else None


def seeds(data: pandas.DataFrame) -> str:
    """What the dots are, for the note."""
    several = data[data.series != "paper"].seed.nunique() > 1
    return (
        "Dots: training seeds; lines: their mean."
        if several
        else "One training seed a cell: its spread is not shown."
    )


def band_note(figure, tables: dict, measures=("accuracy", "length")) -> str:
    """What the grey band is, for the note; nothing where none is drawn."""
    if not any(patch.get_label() == BAND for ax in figure.axes for patch in ax.patches):
        return ""
    found = [
        f"{row.model} {row.measure} ±{number(row.band)}"
        for row in tables["replicates"].itertuples()
        if row.measure in measures
    ]
    return f"Grey band: two trainings of the same cell differ by no more than this (over seeds; {', '.join(found)})."


def entry(look: dict, name: str):
    """The legend entry of a series."""
    face = look["color"] if look["fill"] else "none"
    return Line2D(
        [],
        [],
        color=look["color"],
        marker=look["marker"],
        linestyle=look["linestyle"],
        markerfacecolor=face,
        markeredgecolor="white" if look["fill"] else look["color"],
        markersize=6,
        label=name,
    )


def finish(figure, handles: list, notes: list[str]):
    """The legend above the panels and the note below them."""
    width, height = figure.get_size_inches()
    if any(patch.get_label() == BAND for ax in figure.axes for patch in ax.patches):
        handles = [*handles, Patch(facecolor="0.5", alpha=0.25, label=BAND)]
    if handles:
        longest = max(len(handle.get_label()) for handle in handles)
        columns = max(1, min(len(handles), int(width / (0.08 * longest + 0.6))))
        figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncol=columns,
            fontsize=9,
            frameon=False,
            handlelength=2.8,
        )
    text = textwrap.fill(" ".join(filter(None, notes)), int(width * 15.5))
    figure.text(0.1 / width, 0.05 / height, text, ha="left", va="top", fontsize=8.5, color="0.3")


def legend(data: pandas.DataFrame, looks: dict, names: dict | None = None) -> list:
    """Legend entries of the series of a figure."""
    names = {"protocol": "the paper's protocol", "paper": "the paper's values"} | (names or {})
    order = sorted(dict.fromkeys(data.series), key=lambda series: (series != "base", series == "paper"))
    return [entry(looks[series], names.get(series, series)) for series in order if series in looks]


def with_titles(svg: str) -> str:
    """The SVG with a `<title>` in each element that has a hover text; ids that nothing refers to are dropped.

    What is left can stand in one page with other figures: no rule of style and no id that another figure has
    too.
    """
    for prefix, uri in (("", SVG), ("xlink", "http://www.w3.org/1999/xlink")):
        xml.register_namespace(prefix, uri)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    root = xml.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        name = element.get("id", "")
        if name.startswith(TITLED):
            title = xml.Element(f"{{{SVG}}}title")
            title.text = name.removeprefix(TITLED)
            element.insert(0, title)
            element.set("class", "hover")
        if name and name not in used:
            del element.attrib["id"]
    # From the removed rule of style, which would have held for a whole page.
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    return xml.tostring(root, encoding="unicode") + "\n"


def extent(figure) -> Bbox:
    """What is to be saved, in inches: the panels with their margins, the legend above and the note below."""
    renderer = figure.canvas.get_renderer()
    parts = [part.get_window_extent(renderer) for part in (*figure.legends, *figure.texts)]
    return Bbox.union([figure.bbox, *parts]).transformed(figure.dpi_scale_trans.inverted()).padded(0.08)


def save(figure, name: str, svg, png):
    """Write the figure as SVG with hover texts and as PNG; equal figures give equal bytes."""
    buffer, box = io.StringIO(), extent(figure)
    with plt.rc_context({"svg.hashsalt": name}):  # ids differ between the figures of a page, not between runs
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches=box)
    with records.whole(svg) as temporary:
        temporary.write_text(with_titles(buffer.getvalue()), encoding="utf-8")
    with records.whole(png) as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches=box)
    plt.close(figure)


def read(path) -> pandas.DataFrame:
    """A table of the report; one without rows may be without columns too."""
    text = path.read_text(encoding="utf-8")
    table = pandas.read_csv(io.StringIO(text)) if text.strip() else pandas.DataFrame()
    table = table.reindex(
        columns=[*table.columns, *(name for name in NEEDED[path.stem] if name not in table)]
    )
    return table if len(table) else table.astype(object)  # the type of no text is not known otherwise
