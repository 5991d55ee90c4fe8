"""Figures with a line a run: what a lower limit would have cost, whether errors add up, RL."""

import numpy
import pandas
from matplotlib.ticker import MaxNLocator

from valley import drawing, grid
from valley.drawing import tidy
from valley.grid import HEADLINE


def sft_runs(table: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of bases and SFT runs, the run as series; without RL runs."""
    return table[~table.run.str.contains("+rl", regex=False)].assign(series=lambda t: t.run)


def by_run(data: pandas.DataFrame, cells: pandas.DataFrame) -> pandas.DataFrame:
    """The rows by run: base, sizes, controls; models stay as they come."""
    examples = cells.drop_duplicates("run").set_index("run").examples
    place = {run: drawing.order(run, examples.get(run, 0)) for run in set(data.run)}
    ranks = {run: i for i, run in enumerate(sorted(place, key=place.get))}
    return data.sort_values("run", key=lambda runs: runs.map(ranks), kind="stable")


def budget(tables: dict, tasks):
    """Accuracy had the limit been lower, a line a run; intervals at the full limit, where they are those of
    the cell.
    """
    cells = tables["cells"]
    ends = cells.loc[cells.task == HEADLINE, ["model", "run", "seed", "problems_low", "problems_high"]]
    table = sft_runs(tables["budget"]).merge(ends, on=["model", "run", "seed"], how="left")
    last = table.limit == table.limit.max()
    table = table.assign(
        x=table.limit,
        problems_low=table.problems_low.where(last),
        problems_high=table.problems_high.where(last),
    )
    data = by_run(tidy(table, "accuracy", "accuracy", "problems_"), cells)
    if data.empty:
        return drawing.empty("accuracy at lower limits"), data
    models, looks, limits = drawing.in_order(data, tables), drawing.styles(cells), sorted(set(data.x))
    runs = list(dict.fromkeys(data.series))
    looks = {
        run: looks[run] | {"shift": 0.035 * (i - (len(runs) - 1) / 2)} for i, run in enumerate(runs)
    }  # or intervals hide others
    figure, axes = drawing.panels(models, ["accuracy"], height=2.1)
    for (model, _), ax in axes.items():
        rows = data[data.model == model]
        drawing.draw(ax, rows, looks, "accuracy within {x} tokens", numpy.log2, spread=0.03)
        ax.set_xticks(numpy.log2(limits), [f"{limit:,.0f}" for limit in limits])
        drawing.from_zero(ax, rows)
    drawing.label(axes, {"accuracy": "accuracy (avg@k)"}, "limit (tokens)")
    notes = [
        "A response longer than the limit counts as wrong: a lower bound, since a model that knew the limit might be briefer.",
        "Bars, at the full limit: confidence interval over problems. The points of one run share their responses.",
        drawing.seeds(data),
    ]
    drawing.finish(figure, drawing.legend(data, looks), notes)
    return figure, data


def errors(tables: dict, tasks):
    """Accuracy by calculations with the fit of p^k, accuracy by length, hazard of the first error, error rate
    by size.
    """
    cells, fits = tables["cells"], tables["accumulation"]
    sizes = cells[cells.stage.isin(["base", "sft"])].drop_duplicates("run").set_index("run")
    hazard = tables["hazard"]
    rate = sft_runs(fits)
    rate = rate.assign(x=rate.run.map(sizes.examples))
    data = drawing.join(
        tidy(few(tables["accuracy_by_steps"], cells).pipe(at, "calculations"), "steps", "accuracy", ""),
        curves(few(fits, cells), tables["accuracy_by_steps"]),
        tidy(few(tables["accuracy_by_length"], cells).pipe(at, "tokens"), "length", "accuracy", ""),
        tidy(few(hazard.assign(x=(hazard["first"] * hazard["last"]) ** 0.5), cells), "hazard", "hazard", ""),
        tidy(rate, "rate", "error_rate", "error_rate_"),
    )
    if data.empty:
        return drawing.empty("calculations in responses"), data
    data = by_run(data, cells)
    models, looks, axis = (
        drawing.in_order(data, tables),
        drawing.styles(cells),
        drawing.size_axis(data[data.measure == "rate"]),
    )
    measures = {
        "steps": "accuracy",
        "length": "accuracy",
        "hazard": "P(first error here)",
        "rate": "wrong calculations (share)",
    }
    said = {model: verdicts(by_run(fits[fits.model == model], cells)) for model in models}
    lines = max(text.count("\n") + 1 for text in said.values())
    figure, axes = drawing.panels(
        models, list(measures), "measures", 1.9, gap=0.72, title=0.35 + 0.15 * lines
    )
    for (model, measure), ax in axes.items():
        rows = data[(data.model == model) & (data.measure == measure)]
        points = rows[rows.kind == "point"]
        if measure == "rate":
            drawing.sized(ax, points, looks, "wrong calculations (share)", axis)
            ax.tick_params(axis="x", labelrotation=40)
        else:
            what = {
                "steps": "accuracy at {x} calculations",
                "length": "accuracy at {x} tokens",
                "hazard": "P(first error) at position {x}",
            }
            drawing.draw(ax, points, looks, what[measure], lines=measure != "steps")
            drawing.from_zero(ax, points)
        if measure == "steps":
            for (_, run), curve in rows[rows.kind == "curve"].groupby(["model", "run"], sort=False):
                fit = fits[(fits.model == model) & (fits.run == run)].verdict.iat[0]
                line = {"not rejected": "-", "fails": ":"}.get(fit, "--")
                ax.plot(curve.x, curve.value, color=looks[run]["color"], linestyle=line, linewidth=1.3)
            ax.text(0, 1.03, said[model], transform=ax.transAxes, fontsize=8.5, va="bottom", color="0.3")
            ax.set_title(model, loc="left", fontweight="bold", y=1.05 + 0.08 * (said[model].count("\n") + 1))
        if measure == "hazard" and len(points):
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.minorticks_off()
        elif measure in ("steps", "length"):
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if not len(points):
            drawing.remark(ax, "no data yet")
    drawing.label(
        axes,
        measures,
        {
            "steps": "calculations in the response",
            "length": "tokens of the response",
            "hazard": "position of the calculation",
            "rate": "training examples",
        },
        "measures",
    )
    calculated = ", ".join(tasks.calculations) or "no task"
    notes = [
        f"Responses that gave an answer, all seeds together; calculations: {calculated}; tokens: {', '.join(tasks.headline)}.",
        "Bars: confidence interval, over problems (hazard: over calculations).",
        "Curves left: the fit of p^k, solid where its test does not reject it, dotted where it fails, dashed where there is no test.",
        "Were errors independent, the hazard would be level.",
        "Lines for base, smallest, a middle and the largest size, and for short; the rest is in the tables.",
    ]
    drawing.finish(figure, drawing.legend(data, looks), notes)
    return figure, data


def at(table: pandas.DataFrame, column: str) -> pandas.DataFrame:
    """The table with the x axis taken from a column."""
    return table.assign(x=table[column])


def few(table: pandas.DataFrame, cells: pandas.DataFrame) -> pandas.DataFrame:
    """The rows of the base, the smallest, a middle and the largest size, and of short: more lines could not
    be told apart.
    """
    sft = cells[(cells.stage == "sft") & (cells.recipe == "protocol")].drop_duplicates(["model", "run"])
    kept = set(cells.model + cells.run.where(cells.recipe.eq("short") | cells.stage.eq("base")))
    for model, group in sft.sort_values("examples").groupby("model"):
        runs = group.run.tolist()
        kept |= {model + run for run in (runs[0], runs[(len(runs) - 1) // 2], runs[-1])}
    return sft_runs(table[(table.model + table.run).isin(kept)])


def curves(fits: pandas.DataFrame, steps: pandas.DataFrame) -> pandas.DataFrame:
    """The fitted p^k of each run over the numbers of calculations that its responses have."""
    found = []
    for fit in fits.dropna(subset="p").itertuples():
        seen = steps[(steps.model == fit.model) & (steps.run == fit.run)].calculations
        if len(seen):
            ks = numpy.linspace(max(0.0, seen.min() - 0.5), seen.max() + 0.5, 25)
            found.append(
                pandas.DataFrame(
                    {
                        "kind": "curve",
                        "measure": "steps",
                        "model": fit.model,
                        "series": fit.run,
                        "run": fit.run,
                        "x": ks,
                        "value": fit.p**ks,
                    }
                )
            )
    return drawing.join(*found).reindex(columns=drawing.COLUMNS)


def verdicts(fits: pandas.DataFrame) -> str:
    """The verdict on p^k, and for which runs: `fails: 8k, 16k`; a line each."""
    short = sft_runs(fits).run.str.removeprefix("sft-")
    lines = [
        f"p^k {verdict}: {', '.join(short[fits.verdict == verdict])}"
        for verdict in dict.fromkeys(fits.verdict.dropna())
    ]
    return "\n".join(lines)


def rl(tables: dict, tasks):
    """Held-out accuracy and length along RL, and the training reward, a line a start; a row of panels a
    model.
    """
    cells, curve = tables["cells"], tables["rl_curves"]
    headline = cells[cells.task == HEADLINE]
    run = headline[headline.stage == "rl"]
    whole = run.run.str.split("@").str[0]
    last = curve.groupby(["model", "run"]).step.max()
    ends = pandas.Series(
        [last.get(key) for key in zip(run.model, whole, strict=True)], run.index, dtype=float
    )
    run = run.assign(x=run.step.fillna(ends), series=whole.map(start))
    starts = headline[headline.stage != "rl"].assign(x=0.0)
    begun = run[["model", "start", "seed", "series"]].drop_duplicates()
    starts = starts.drop(columns="start").merge(
        begun, left_on=["model", "run", "seed"], right_on=["model", "start", "seed"]
    )
    table = (
        pandas.concat([starts, run]).sort_values(["model", "series", "seed", "x"], kind="stable")
        if len(run)
        else run
    )
    reward = curve.assign(
        x=curve.step,
        series=curve.run.map(start),
        seed=curve.seed.astype(str).str.removeprefix("seed").astype(float),
    )
    data = drawing.join(
        tidy(table, "accuracy", "accuracy", "problems_"),
        tidy(table, "length", "length", "length_"),
        tidy(reward, "reward", "reward", kind="line"),
    )
    if data.empty:
        return drawing.empty("RL runs"), data
    examples = cells.drop_duplicates("start").set_index("start").examples
    data = data.sort_values(
        "series", key=lambda s: s.map(lambda name: examples.get(name.split(",")[0], 0)), kind="stable"
    )
    models, looks = drawing.in_order(data, tables), looks_of_starts(data, cells)
    measures = {
        "accuracy": "held-out accuracy (avg@k)",
        "length": "length (tokens)",
        "reward": "training reward",
    }
    figure, axes = drawing.panels(models, list(measures), "measures", 2.2, gap=0.75)
    for (model, measure), ax in axes.items():
        rows = data[(data.model == model) & (data.measure == measure)]
        drawing.draw(ax, rows[rows.kind == "point"], looks, f"{measure} at step {{x}}")
        for (series, name, seed), line in rows[rows.kind == "line"].groupby(
            ["series", "run", "seed"], sort=False
        ):
            title = f"{drawing.TITLED}{model}, {name}, seed {seed:g}: training reward"
            ax.plot(
                line.x,
                line.value,
                color=looks[series]["color"],
                linestyle=looks[series]["linestyle"],
                linewidth=0.9,
                gid=title,
            )
        drawing.from_zero(ax, rows)
        band, zero = drawing.noise(tables, model, measure), rows[(rows.x == 0) & (rows.run == "base")]
        if len(zero):
            ax.axhline(zero.value.mean(), color=drawing.GREY, linestyle="--", linewidth=1, zorder=1.5)
            if band is not None:
                drawing.noise_band(ax.axhspan, zero.value.mean(), band)
        if not len(rows):
            drawing.remark(ax, "no data yet")
    drawing.label(axes, measures, "RL step", "measures")
    notes = [
        f"Accuracy: {', '.join(tasks.headline)}, by the headline verdict. Bars: confidence interval over problems; the reward has none.",
        "Dashed line: the base before RL.",
        drawing.seeds(data),
        drawing.band_note(figure, tables),
        "An end point in the tables is the mean of the last three points, never the best.",
    ]
    names = {series: f"from {series}" for series in looks}
    drawing.finish(figure, drawing.legend(data, looks, names), notes)
    return figure, data


def start(run: str) -> str:
    """What an RL run starts from, and its recipe where it has one: `sft-8k`, `sft-8k, RL 16k`."""
    parsed = grid.parse_run(run)
    return parsed.start + (f", RL {parsed.rl_recipe}" if parsed.rl_recipe else "")


def looks_of_starts(data: pandas.DataFrame, cells: pandas.DataFrame) -> dict[str, dict]:
    """The style of each start, solid; RL recipes dotted."""
    looks, found = drawing.styles(cells), {}
    for series in dict.fromkeys(data.series):
        name, _, recipe = series.partition(", ")
        found[series] = looks.get(name, looks["other"]) | {"linestyle": ":" if recipe else "-"}
    return found
