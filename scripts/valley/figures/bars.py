"""Figures of bars: how responses end and what became of the problems the base solved; the data or the
recipe?
"""

import pandas
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from valley.analysis.measures import Tasks
from valley.figures import panels, tidy
from valley.figures.style import GREY, OUTCOMES, look, looks
from valley.grid import HEADLINE

BAR, THIN = 0.24, 0.15  # inches, the latter where models are many


def outcomes(tables: dict, tasks: Tasks):
    """Stacked shares of outcome classes a run; their change against base; what became of what the base
    solved.
    """
    cells = tables["cells"]
    whole = cells[(cells.task == HEADLINE) & cells.step.isna()]
    classes = [f"share {name}" for name in OUTCOMES]
    shares = whole.melt(["model", "run", "seed", "examples"], classes, "series", "share")
    shares["series"] = shares.series.str.removeprefix("share ")
    drop = tidy.of_runs(tables["drop"], lambda run: run.step is None).assign(series=lambda t: t.outcome)
    points = whole.assign(series="accuracy", x=0.0)
    data = tidy.join(
        means(shares, "share", "share"),
        tidy.rows(points, "share", "accuracy", "problems_"),
        means(drop[drop.run != "base"], "change", "change"),
        tidy.rows(points[points.run != "base"], "change", "change", "change_"),
        means(drop, "of_solved", "of_solved"),
    )
    if data.empty:
        return panels.empty("how responses end"), data
    models = tidy.in_order(data, tables)
    places = {model: places_of(tidy.ranked(data[data.model == model].run, whole)) for model in models}
    measures = {
        "share": "share of responses",
        "change": "change against base (share)",
        "of_solved": "share of what the base solved",
    }
    many = len(models) > panels.MANY
    heights = [(THIN if many else BAR) * len(place) + 0.1 for place in places.values()]
    below = {"foot": 0.12, "last": 0.62} if many else {"foot": 0.62}
    figure, axes = panels.lay_out(models, list(measures), "measures", heights, left=1.25, gap=0.3, **below)
    for (model, measure), ax in axes.items():
        rows, place = data[(data.model == model) & (data.measure == measure)], places[model]
        last = not many or model == models[-1]
        ax.set(ylim=(-len(place) + 0.4, 0.6), xlabel=measures[measure] if last else "")
        ax.tick_params(axis="x", labelbottom=last)
        ax.set_yticks(list(place.values()), list(place) if measure == "share" else [""] * len(place))
        ax.grid(axis="y", visible=False)
        stack(ax, rows[rows.kind == "bar"], place, measures[measure])
        what = "accuracy" if measure == "share" else "change of accuracy"
        beside(ax, rows[rows.kind == "point"], place, what)
        if measure != "change":
            ax.set_xlim(0, 1)
        elif len(rows):
            ax.axvline(0, color=GREY, linewidth=0.8)
            ax.autoscale_view(scaley=False)
        if not len(rows):
            panels.remark(ax, "no data yet: no base" if measure != "share" else "no data yet")
    if many:
        changes = [ax for (_, measure), ax in axes.items() if measure == "change"]
        low, high = zip(*(ax.get_xlim() for ax in changes if ax.lines), strict=True)
        for ax in changes:
            ax.set_xlim(min(low), max(high))
            ax.xaxis.set_major_locator(MaxNLocator(5))
    notes = ["Bars: mean over seeds. Dots: accuracy of each seed with its confidence interval over problems; the change is paired problem by problem.",
             "Right: how responses to the problems that the base solved end, weighted by how often it solved them; the base's own row is "
             "below 1 where it solves them only at times. Truncated and looping responses reached the limit.",
             "This says how a drop comes about, not why."]  # fmt: skip
    panels.finish(
        figure, [Patch(edgecolor="white", **fill, label=name) for name, fill in OUTCOMES.items()], notes
    )
    return figure, data


def means(table: pandas.DataFrame, measure, value: str) -> pandas.DataFrame:
    """Means over seeds as rows of bars."""
    mean = table.groupby(["model", "run", "series"], sort=False, as_index=False)[value].mean()
    return tidy.rows(mean, measure, value, kind="bar", x=0.0)


def places_of(runs: list[str]) -> dict[str, int]:
    """Where the bar of each run stands, the first one on top."""
    return {run: -i for i, run in enumerate(runs)}


def stack(ax, rows: pandas.DataFrame, place: dict, what: str):
    """Stacked horizontal bars, what is negative to the left."""
    for run, group in rows.groupby("run", sort=False):
        ends = {True: 0.0, False: 0.0}
        group = group.set_index("series").reindex(list(OUTCOMES)).dropna(subset="value").reset_index()
        for row in group.itertuples():
            left, text = ends[row.value < 0], tidy.hover(row, what)
            panels.bar(ax, left, place[run], row.value, text, **OUTCOMES[row.series])
            ends[row.value < 0] += row.value


def beside(ax, rows: pandas.DataFrame, place: dict, what: str):
    """The seeds of each bar as dots with intervals, one below the other."""
    seeds = sorted(set(rows.seed.dropna()))
    for row in rows.itertuples():
        y = place[row.run] + (0.5 / len(seeds)) * ((len(seeds) - 1) / 2 - seeds.index(row.seed))
        if pandas.notna(row.low) and pandas.notna(row.high):
            ax.plot([row.low, row.high], [y, y], color="black", linewidth=0.8, zorder=3)
        panels.dot(ax, row.value, y, look("black"), tidy.hover(row, what), 4)


def recipes(tables: dict, tasks: Tasks):
    """Change against base: each control recipe beside the protocol at the same size, and long minus short."""
    cells = tables["cells"]
    sft = cells[(cells.task == HEADLINE) & (cells.stage == "sft")]
    controlled = sft[sft.recipe != "protocol"][["model", "examples"]].drop_duplicates()
    table = sft.merge(controlled, on=["model", "examples"]).assign(series=lambda t: t.recipe, x=0.0)
    points = {
        "change": tidy.rows(table, "change", "change", "change_"),
        "long minus short": long_minus_short(tables["recipes"]),
    }
    data = tidy.join(*(means(rows, measure, "value") for measure, rows in points.items()), *points.values())
    if data.empty:
        return panels.empty("a control recipe with a base of its seed"), data
    models = tidy.in_order(data, tables)
    examples = sft.drop_duplicates("run").set_index("run").examples
    rank = lambda run: (examples.get(run.split(" − ")[0], 0), " − " in run, "." in run, run)  # noqa: E731
    places = {model: places_of(sorted(set(data[data.model == model].run), key=rank)) for model in models}
    most = max(map(len, places.values()))
    figure, axes = panels.lay_out(models, ["change"], height=BAR * most + 0.2, left=1.75, gap=1.75)
    found = looks(cells)
    for (model, _), ax in axes.items():
        rows, place = data[data.model == model], places[model]
        for row in rows[rows.kind == "bar"].itertuples():
            long = row.measure == "long minus short"
            text = tidy.hover(row, "long minus short" if long else "change against base")
            fill = {"facecolor": found[row.series]["color"], "hatch": "///" if long else ""}
            panels.bar(ax, 0, place[row.run], row.value, text, **fill)
        beside(ax, rows[rows.kind == "point"], place, "change of accuracy")
        ax.axvline(0, color=GREY, linewidth=0.9)
        ax.autoscale_view(scaley=False)
        band, limits = panels.reach_of_noise(tables, model, "accuracy"), ax.get_xlim()
        if band is not None:
            panels.noise_band(ax.axvspan, 0, band)
            ax.set_xlim(limits)
        ax.set_yticks(list(place.values()), list(place))
        ax.set_ylim(-most + 0.4, 0.6)
        ax.grid(axis="y", visible=False)
    panels.label(axes, {"change": ""}, "change of accuracy")
    hatched = "Hatched: accuracy of long minus that of short chains of thought on the same problems."
    notes = [
        "Against the base of the same seed. Bars: mean over seeds. Dots: each seed with its confidence interval over problems, paired.",
        hatched if "long minus short" in set(data.measure) else "",
        panels.band_note(figure, tables, ["accuracy"]),
    ]
    panels.finish(figure, [], notes)
    return figure, data


def long_minus_short(table: pandas.DataFrame) -> pandas.DataFrame:
    """Accuracy of the protocol minus that of `.short` seed by seed, paired problem by problem (table
    `recipes`).
    """
    table = table[(table.recipe == "short") & (table.seed.astype(str) != "all")].dropna(subset="to_protocol")
    found = {
        "run": table.run.str.removesuffix(".short") + " − " + table.run.str.removeprefix("sft-"),
        "series": "short",
        "value": -table.to_protocol,
        "low": -table.to_protocol_high,
        "high": -table.to_protocol_low,
    }
    rows = pandas.DataFrame({"model": table.model, "seed": table.seed.astype(int)} | found)
    return tidy.rows(rows, "long minus short", "value", "", x=0.0)
