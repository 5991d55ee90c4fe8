"""Figures of bars: how responses end and what became of the problems the base solved; the data or the recipe?"""

import pandas

from valley import drawing
from valley.drawing import tidy
from valley.grid import HEADLINE

BAR = 0.24  # inches


def outcomes(tables: dict, tasks):
    """Stacked shares of outcome classes a run; their change against base; what became of what the base
    solved.
    """
    cells, drop = tables["cells"], tables["drop"]
    whole = cells[(cells.task == HEADLINE) & cells.step.isna()]
    shares = whole.melt(
        ["model", "run", "seed", "examples"],
        [f"share {name}" for name in drawing.OUTCOMES],
        "series",
        "share",
    )
    shares["series"] = shares.series.str.removeprefix("share ")
    drop = drop[~drop.run.str.contains("@")].assign(series=drop.outcome)
    changed = drop[drop.run != "base"]
    points = whole.assign(series="accuracy", x=0.0)
    data = drawing.join(
        bars(shares, "share", "share"),
        tidy(points, "share", "accuracy", "problems_"),
        bars(changed, "change", "change"),
        tidy(points[points.run != "base"], "change", "change", "change_"),
        bars(drop, "of_solved", "of_solved"),
    )
    if data.empty:
        return drawing.empty("how responses end"), data
    models = drawing.in_order(data, tables)
    examples = whole.drop_duplicates("run").set_index("run").examples
    runs = {
        model: sorted(
            set(data[data.model == model].run), key=lambda run: drawing.order(run, examples.get(run, 0))
        )
        for model in models
    }
    measures = {
        "share": "share of responses",
        "change": "change against base (share)",
        "of_solved": "share of what the base solved",
    }
    heights = [BAR * len(runs[model]) + 0.1 for model in models]
    figure, axes = drawing.panels(models, list(measures), "measures", heights, left=1.25, gap=0.3, foot=0.62)
    for (model, measure), ax in axes.items():
        rows = data[(data.model == model) & (data.measure == measure)]
        place = {run: -i for i, run in enumerate(runs[model])}
        ax.set(ylim=(-len(place) + 0.4, 0.6), xlabel=measures[measure])
        ax.set_yticks(list(place.values()), list(place) if measure == "share" else [""] * len(place))
        ax.grid(axis="y", visible=False)
        stack(ax, rows[rows.kind == "bar"], place, measures[measure])
        beside(
            ax, rows[rows.kind == "point"], place, "accuracy" if measure == "share" else "change of accuracy"
        )
        if measure != "change":
            ax.set_xlim(0, 1)
        elif len(rows):
            ax.axvline(0, color=drawing.GREY, linewidth=0.8)
            ax.autoscale_view(scaley=False)
        if not len(rows):
            drawing.remark(ax, "no data yet: no base" if measure != "share" else "no data yet")
    notes = ["Bars: mean over seeds. Dots: accuracy of each seed with its confidence interval over problems; the change is paired problem by problem.",
             "Right: how responses to the problems that the base solved end, weighted by how often it solved them; the base's own row is "
             "below 1 where it solves them only at times. Truncated and looping responses reached the limit.",
             "This says how a drop comes about, not why."]  # fmt: skip
    handles = [
        drawing.Patch(edgecolor="white", **look, label=name) for name, look in drawing.OUTCOMES.items()
    ]
    drawing.finish(figure, handles, notes)
    return figure, data


def bars(table: pandas.DataFrame, measure: str, value: str) -> pandas.DataFrame:
    """Means over seeds as rows of bars."""
    mean = table.groupby(["model", "run", "series"], sort=False, as_index=False)[value].mean()
    return tidy(mean, measure, value, kind="bar", x=0.0)


def stack(ax, rows: pandas.DataFrame, place: dict, what: str):
    """Stacked horizontal bars, what is negative to the left."""
    for run, group in rows.groupby("run", sort=False):
        ends = {True: 0.0, False: 0.0}
        group = group.set_index("series").reindex(list(drawing.OUTCOMES)).dropna(subset="value").reset_index()
        for row in group.itertuples():
            drawing.bar(
                ax,
                ends[row.value < 0],
                place[run],
                row.value,
                drawing.hover(row, what),
                **drawing.OUTCOMES[row.series],
            )
            ends[row.value < 0] += row.value


def beside(ax, rows: pandas.DataFrame, place: dict, what: str):
    """The seeds of each bar as dots with intervals, one below the other."""
    seeds = sorted(set(rows.seed.dropna()))
    for row in rows.itertuples():
        y = place[row.run] + (0.5 / len(seeds)) * ((len(seeds) - 1) / 2 - seeds.index(row.seed))
        if pandas.notna(row.low) and pandas.notna(row.high):
            ax.plot([row.low, row.high], [y, y], color="black", linewidth=0.8, zorder=3)
        drawing.dot(ax, row.value, y, drawing.style("black"), drawing.hover(row, what), 4)


def recipes(tables: dict, tasks):
    """Change against base: each control recipe beside the protocol at the same size, and long minus short."""
    cells = tables["cells"]
    sft = cells[(cells.task == HEADLINE) & (cells.stage == "sft")]
    controlled = sft[sft.recipe != "protocol"][["model", "examples"]].drop_duplicates()
    table = sft.merge(controlled, on=["model", "examples"]).assign(series=lambda t: t.recipe, x=0.0)
    data = drawing.join(tidy(table, "change", "change", "change_"), long_minus_short(tables["recipes"]))
    means = (
        data.assign(x=0.0)
        .groupby(["measure", "model", "run", "series"], sort=False, as_index=False)
        .value.mean()
    )
    data = drawing.join(tidy(means, means.measure, "value", kind="bar", x=0.0), data)
    if data.empty:
        return drawing.empty("a control recipe with a base of its seed"), data
    models = drawing.in_order(data, tables)
    examples = sft.drop_duplicates("run").set_index("run").examples
    rank = lambda run: (examples.get(run.split(" − ")[0], 0), " − " in run, "." in run, run)  # noqa: E731
    runs = {model: sorted(set(data[data.model == model].run), key=rank) for model in models}
    most = max(map(len, runs.values()))
    figure, axes = drawing.panels(models, ["change"], height=BAR * most + 0.2, left=1.75, gap=1.75)
    looks = drawing.styles(cells)
    for (model, _), ax in axes.items():
        rows, place = data[data.model == model], {run: -i for i, run in enumerate(runs[model])}
        for row in rows[rows.kind == "bar"].itertuples():
            long = row.measure == "long minus short"
            text = drawing.hover(row, "long minus short" if long else "change against base")
            drawing.bar(
                ax,
                0,
                place[row.run],
                row.value,
                text,
                facecolor=looks[row.series]["color"],
                hatch="///" if long else "",
            )
        beside(ax, rows[rows.kind == "point"], place, "change of accuracy")
        ax.axvline(0, color=drawing.GREY, linewidth=0.9)
        ax.autoscale_view(scaley=False)
        band, limits = drawing.noise(tables, model, "accuracy"), ax.get_xlim()
        if band is not None:
            drawing.noise_band(ax.axvspan, 0, band)
            ax.set_xlim(limits)
        ax.set_yticks(list(place.values()), list(place))
        ax.set_ylim(-most + 0.4, 0.6)
        ax.grid(axis="y", visible=False)
    drawing.label(axes, {"change": ""}, "change of accuracy")
    notes = [
        "Against the base of the same seed. Bars: mean over seeds. Dots: each seed with its confidence interval over problems, paired.",
        "Hatched: accuracy of long minus that of short chains of thought on the same problems."
        if "long minus short" in set(data.measure)
        else "",
        drawing.band_note(figure, tables, ["accuracy"]),
    ]
    drawing.finish(figure, [], notes)
    return figure, data


def long_minus_short(table: pandas.DataFrame) -> pandas.DataFrame:
    """Accuracy of the protocol minus that of `.short` seed by seed, paired problem by problem (table
    `recipes`).
    """
    short = table[(table.recipe == "short") & (table.seed.astype(str) != "all")].dropna(subset="to_protocol")
    protocol = short.run.str.removesuffix(".short")
    found = {
        "run": protocol + " − " + short.run.str.removeprefix("sft-"),
        "series": "short",
        "value": -short.to_protocol,
        "low": -short.to_protocol_high,
        "high": -short.to_protocol_low,
    }
    rows = pandas.DataFrame({"model": short.model, "seed": short.seed.astype(int)} | found)
    return tidy(rows, "long minus short", "value", "", x=0.0)
