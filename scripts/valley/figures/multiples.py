"""The valley as small multiples for a page: a panel a model and task, drawn as plain SVG that a script can
choose from.

Every dot leads to the page of its cell and tells its value; colours are the page's, so that they follow light
and dark. All panels of a task share their axes. What the panels show is what the figure `valley` shows.
"""

import itertools
import math

import pandas
from markupsafe import Markup

from valley import places
from valley.figures import tidy
from valley.grid import HEADLINE, Cell

WIDTH, LEFT, RIGHT = 300, 42, 6  # units of the SVG, about pixels
ROWS = {"accuracy": (12, 104), "length": (122, 188)}  # top and bottom of the two plots
NAMES = {"accuracy": "accuracy", "length": "tokens"}
# Outlines of markers around (0, 0): the base and the protocol, then recipes by name.
CIRCLE = Markup('<circle r="3.4"/>')
OUTLINES = [
    "M-3-3h6v6h-6z",
    "M0-4l4 7h-8z",
    "M0-4.2l3.6 4.2-3.6 4.2-3.6-4.2z",
    "M0 4l4-7h-8z",
    "M-3-3l6 6m0-6l-6 6",
]
SPREAD = 3.2  # units between the seeds of a dot


def multiples(tables: dict, series: list[str]) -> list[dict]:
    """Panels in the order of the study: {model, task, svg, said}, `said` being the finding as a screen reader
    says it.

    `tables` holds `cells`, `paper` and `replicates`; `series` are the recipes in the order of their classes.
    """
    cells, paper = tidy.sft_cells(tables), tables["paper"].assign(series="paper", task=HEADLINE)
    paper = paper.assign(x=paper.examples)
    found = []
    for task in dict.fromkeys(cells.task):
        own, theirs = cells[cells.task == task], paper[paper.task == task]
        data = tidy.join(
            tidy.rows(theirs, "accuracy", "paper"),
            tidy.rows(theirs, "length", "paper_length"),
            tidy.rows(own, "accuracy", "accuracy", "problems_"),
            tidy.rows(own, "length", "length", "length_"),
        )
        axis = tidy.axis_of(data)
        tops = {
            measure: nice(data[data.measure == measure][["value", "high"]].max().max()) for measure in ROWS
        }
        for model in tidy.in_order(data, tables):
            rows = data[data.model == model]
            said = in_words(rows)
            svg = small_panel(rows, axis, tops, series, bands(tables["replicates"], model, task), said)
            found.append({"model": model, "task": task, "svg": svg, "said": said})
    return found


def bands(replicates: pandas.DataFrame, model: str, task: str) -> dict[str, float]:
    """What two trainings of a cell differ by, by measure; known for the headline alone."""
    rows = replicates[replicates.model == model] if task == HEADLINE else replicates.iloc[:0]
    return dict(zip(rows.measure, rows.band, strict=True))


def nice(top: float) -> float:
    """The end of an axis from 0 that holds `top`: 1, 2, 2.5 or 5 times a power of ten."""
    if not top > 0:
        return 1.0
    power = 10 ** math.floor(math.log10(top))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= top * 0.999)


def in_words(rows: pandas.DataFrame) -> str:
    """What a panel shows, in words: base, smallest and largest size by the protocol, and how long responses
    are there.
    """
    own = rows[rows.series.isin(["base", "protocol"])]
    said = []
    for measure in ROWS:
        means = own[own.measure == measure].groupby(["x", "run"]).value.mean()
        ends = dict.fromkeys([0, min(1, len(means) - 1), len(means) - 1]) if len(means) else []
        points = ", ".join(f"{means.index[i][1]} {tidy.short(means.iloc[i])}" for i in ends)
        said.append(f"{NAMES[measure]} {points or 'not known yet'}")
    return "; ".join(said)


def small_panel(
    rows: pandas.DataFrame, axis, tops: dict[str, float], series: list[str], bands: dict, said: str
) -> Markup:
    """One panel: accuracy above length, over data sizes."""
    place, ticks = axis
    low, high = (min(ticks) - 0.5, max(ticks) + 0.5) if ticks else (0, 1)
    across = lambda x: LEFT + (place(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)  # noqa: E731
    parts = []
    for measure, (top, bottom) in ROWS.items():
        up = lambda y, a=top, b=bottom, m=measure: b - min(max(y / tops[m], 0), 1) * (b - a)  # noqa: E731
        parts += scale(tops[measure], up, NAMES[measure], top)
        parts += drawn(rows[rows.measure == measure], measure, across, up, series, bands.get(measure))
    names = [
        Markup('<text x="{:.1f}" y="203" text-anchor="middle">{}</text>').format(
            LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT), name
        )
        for x, name in ticks.items()
    ]
    return Markup('<svg class="multiple" viewBox="0 0 {} 208" role="group" aria-label="{}">{}</svg>').format(
        WIDTH, said, Markup("").join([*parts, *names])
    )


def scale(top: float, up, unit: str, above: int) -> list[Markup]:
    """Lines and numbers of one y axis, and what it counts."""
    lines = [
        Markup(
            '<path class="rule" d="M{} {:.1f}H{}"/><text x="{}" y="{:.1f}" text-anchor="end">{}</text>'
        ).format(LEFT, up(y), WIDTH - RIGHT, LEFT - 4, up(y) + 3.5, tidy.short(y))
        for y in (0.0, top / 2, top)
    ]
    return [*lines, Markup('<text x="{}" y="{}">{}</text>').format(LEFT, above - 4, unit)]


def drawn(
    rows: pandas.DataFrame, measure: str, across, up, series: list[str], band: float | None
) -> list[Markup]:
    """The marks of one plot: band and line of the base, then every series as line, intervals and dots."""
    found = []
    base = rows[rows.series == "base"]
    if len(base):
        level, ends = base.value.mean(), (LEFT, WIDTH - RIGHT)
        if band is not None:
            above, below = up(level + band), up(level - band)
            shape = '<rect class="band" x="{}" y="{:.1f}" width="{}" height="{:.1f}"/>'
            found.append(Markup(shape).format(LEFT, above, ends[1] - LEFT, below - above))
        found.append(Markup('<path class="line s-base" d="M{} {y:.1f}H{}"/>').format(*ends, y=up(level)))
    aside = SPREAD * tidy.abreast(rows)
    for name, group in rows.groupby("series", sort=False):
        style = f"s-{name}" if name in ("base", "paper", "protocol") else f"r-{series.index(name)}"
        mark = CIRCLE if style.startswith("s-") else outline(series.index(name))
        if name not in ("base", "paper"):
            means = group.groupby("x").value.mean()
            points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in means.items())
            found.append(Markup('<polyline class="line {}" points="{}"/>').format(style, points))
        for row in group.itertuples():
            x = across(row.x) + aside[row.Index]
            if pandas.notna(row.low) and pandas.notna(row.high):
                span = '<path class="span {}" d="M{x:.1f} {:.1f}V{:.1f}"/>'
                found.append(Markup(span).format(style, up(row.low), up(row.high), x=x))
            found.append(leading_dot(row, measure, x, up(row.value), style, mark))
    return found


def outline(index: int) -> Markup:
    """The marker of a recipe."""
    return Markup('<path d="{}"/>').format(OUTLINES[index % len(OUTLINES)])


def leading_dot(row, measure: str, x: float, y: float, style: str, mark: Markup) -> Markup:
    """A dot that tells its value and, where it is a cell's, leads to the cell's page."""
    mark = Markup('<title>{}</title><g class="dot {}" transform="translate({:.1f} {:.1f})">{}</g>').format(
        tidy.hover(row, measure), style, x, y, mark
    )
    if style == "s-paper":
        return Markup("<g>{}</g>").format(mark)
    return Markup('<a href="{}">{}</a>').format(places.page_of(Cell(row.model, row.run, int(row.seed))), mark)


def keys(tables: dict, series: list[str]) -> list[tuple[str, Markup]]:
    """(what it is, its mark) of every series that the panels draw."""
    names = {"s-base": "base", "s-protocol": "the paper's protocol"}
    names |= {f"r-{i}": name for i, name in enumerate(series)}
    names |= {"s-paper": "the paper's values"} if len(tables["paper"]) else {}
    shapes = itertools.chain([CIRCLE, CIRCLE], map(outline, range(len(series))), [CIRCLE])
    return [
        (
            name,
            Markup('<svg viewBox="-6 -6 12 12" aria-hidden="true"><g class="dot {}">{}</g></svg>').format(
                key, shape
            ),
        )
        for (key, name), shape in zip(names.items(), shapes, strict=False)
    ]
