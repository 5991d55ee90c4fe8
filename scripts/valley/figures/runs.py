"""Figures with a line a run: what a lower limit would have cost, whether errors add up, RL."""

import numpy
import pandas
from matplotlib.ticker import MaxNLocator

from valley import grid
from valley.analysis.measures import Tasks
from valley.figures import panels, sizes, tidy
from valley.figures.style import looks
from valley.figures.svg import TITLED
from valley.grid import HEADLINE

FITS = {"not rejected": "-", "fails": ":"}  # lines of p^k by what its test says; dashed without a test


def sft_runs(table: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of bases and SFT runs, the run as series; without RL runs."""
    return tidy.of_runs(table, lambda run: not run.rl).assign(series=lambda t: t.run)


def by_run(data: pandas.DataFrame, cells: pandas.DataFrame) -> pandas.DataFrame:
    """The rows by run: base, sizes, controls; models stay as they come."""
    ranks = {run: i for i, run in enumerate(tidy.ranked(data.run, cells))}
    return data.sort_values("run", key=lambda runs: runs.map(ranks), kind="stable")


def budget(tables: dict, tasks: Tasks):
    """Accuracy had the limit been lower, a line a run; intervals at the full limit, where they are those of
    the cell.
    """
    cells = tables["cells"]
    ends = ["problems_low", "problems_high"]
    known = cells.loc[cells.task == HEADLINE, ["model", "run", "seed", *ends]]
    table = sft_runs(tables["budget"]).merge(known, on=["model", "run", "seed"], how="left")
    table[ends] = table[ends].where(table.limit == table.limit.max())
    data = by_run(tidy.rows(table.assign(x=table.limit), "accuracy", "accuracy", "problems_"), cells)
    if data.empty:
        return panels.empty("accuracy at lower limits"), data
    models, found, limits = tidy.in_order(data, tables), looks(cells), sorted(set(data.x))
    runs = list(dict.fromkeys(data.series))
    # Side by side, or intervals hide others.
    found = {run: found[run] | {"shift": 0.035 * (i - (len(runs) - 1) / 2)} for i, run in enumerate(runs)}
    figure, axes = panels.lay_out(models, ["accuracy"], height=2.1)
    for (model, _), ax in axes.items():
        rows = data[data.model == model]
        panels.draw(ax, rows, found, "accuracy within {x} tokens", numpy.log2, spread=0.03)
        ax.set_xticks(numpy.log2(limits), [f"{limit:,.0f}" for limit in limits])
        panels.from_zero(ax, rows)
    panels.label(axes, {"accuracy": "accuracy (avg@k)"}, "limit (tokens)")
    notes = [
        "A response longer than the limit counts as wrong: a lower bound, since a model that knew the limit might be briefer.",
        "Bars, at the full limit: confidence interval over problems. The points of one run share their responses.",
        panels.seeds(data),
    ]
    panels.finish(figure, panels.legend(data, found), notes)
    return figure, data


def errors(tables: dict, tasks: Tasks):
    """Accuracy by calculations with the fit of p^k, accuracy by length, hazard of the first error, error rate
    by size.
    """
    cells, fits, steps = tables["cells"], tables["accumulation"], tables["accuracy_by_steps"]
    lengths, hazard = tables["accuracy_by_length"], tables["hazard"]
    trained = cells[cells.stage.isin(["base", "sft"])].drop_duplicates("run").set_index("run").examples
    middle = (hazard["first"] * hazard["last"]) ** 0.5
    rate = sft_runs(fits)
    data = tidy.join(
        tidy.rows(few(steps.assign(x=steps.calculations), cells), "steps", "accuracy", ""),
        curves(few(fits, cells), steps),
        tidy.rows(few(lengths.assign(x=lengths.tokens), cells), "length", "accuracy", ""),
        tidy.rows(few(hazard.assign(x=middle), cells), "hazard", "hazard", ""),
        tidy.rows(rate.assign(x=rate.run.map(trained)), "rate", "error_rate", "error_rate_"),
    )
    if data.empty:
        return panels.empty("calculations in responses"), data
    data = by_run(data, cells)
    models, found = tidy.in_order(data, tables), looks(cells)
    axis = tidy.axis_of(data[data.measure == "rate"])
    measures = {"steps": "accuracy", "length": "accuracy", "hazard": "P(first error here)",
                "rate": "wrong calculations (share)"}  # fmt: skip
    across = {"steps": "calculations in the response", "length": "tokens of the response",
              "hazard": "position of the calculation", "rate": "training examples"}  # fmt: skip
    what = {"steps": "accuracy at {x} calculations", "length": "accuracy at {x} tokens",
            "hazard": "P(first error) at position {x}"}  # fmt: skip
    said = {model: of_fits(by_run(fits[fits.model == model], cells)) for model in models}
    lines = max(text.count("\n") + 1 for text in said.values())
    height, foot = (1.1, 0.36) if len(models) > panels.MANY else (1.9, panels.FOOT)
    size = {"height": height, "foot": foot, "title": 0.35 + 0.15 * lines}
    figure, axes = panels.lay_out(models, list(measures), "measures", gap=0.72, **size)
    for (model, measure), ax in axes.items():
        rows = data[(data.model == model) & (data.measure == measure)]
        points = rows[rows.kind == "point"]
        if measure == "rate":
            sizes.panel(ax, points, found, "wrong calculations (share)", axis)
            ax.tick_params(axis="x", labelrotation=40)
        else:
            panels.draw(ax, points, found, what[measure], lines=measure != "steps")
            panels.from_zero(ax, points)
        if measure == "steps":
            for run, curve in rows[rows.kind == "curve"].groupby("run", sort=False):
                fit = fits[(fits.model == model) & (fits.run == run)].verdict.iat[0]
                ax.plot(curve.x, curve.value, FITS.get(fit, "--"), color=found[run]["color"], linewidth=1.3)
            ax.text(0, 1.03, said[model], transform=ax.transAxes, fontsize=8.5, va="bottom", color="0.3")
            ax.set_title(
                model, loc="left", fontweight="bold", y=1.05 + 0.152 / height * (said[model].count("\n") + 1)
            )
        if measure == "hazard" and len(points):
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.minorticks_off()
        elif measure in ("steps", "length"):
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if not len(points):
            panels.remark(ax, "no data yet")
    panels.label(axes, measures, across, "measures")
    calculated = ", ".join(tasks.calculations) or "no task"
    notes = [
        f"Responses that gave an answer, all seeds together; calculations: {calculated}; tokens: {', '.join(tasks.headline)}.",
        "Bars: confidence interval, over problems (hazard: over calculations).",
        "Curves left: the fit of p^k, solid where its test does not reject it, dotted where it fails, dashed where there is no test.",
        "Were errors independent, the hazard would be level.",
        "Lines for base, smallest, a middle and the largest size, and for short; the rest is in the tables.",
    ]
    panels.finish(figure, panels.legend(data, found), notes)
    return figure, data


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
            named = {
                "kind": "curve",
                "measure": "steps",
                "model": fit.model,
                "series": fit.run,
                "run": fit.run,
            }
            found.append(pandas.DataFrame(named | {"x": ks, "value": fit.p**ks}))
    return tidy.join(*found).reindex(columns=tidy.COLUMNS)


def of_fits(fits: pandas.DataFrame) -> str:
    """What the test says of p^k, and for which runs: `fails: 8k, 16k`; a line each."""
    shown = sft_runs(fits)
    return "\n".join(
        f"p^k {found}: {', '.join(runs.run.str.removeprefix('sft-'))}"
        for found, runs in shown.groupby("verdict", sort=False)
    )


def along_rl(cells: pandas.DataFrame, curve: pandas.DataFrame) -> pandas.DataFrame:
    """The headline rows along RL: `x` is the step, 0 for what RL started from, `series` names the start."""
    headline = cells[cells.task == HEADLINE]
    run = headline[headline.stage == "rl"]
    whole = run.run.map(lambda name: grid.parse_run(name).whole)
    last = curve.groupby(["model", "run"]).step.max()
    ends = [last.get(key) for key in zip(run.model, whole, strict=True)]
    run = run.assign(x=run.step.fillna(pandas.Series(ends, run.index, dtype=float)), series=whole.map(start))
    starts = headline[headline.stage != "rl"].drop(columns="start").assign(x=0.0)
    begun = run[["model", "start", "seed", "series"]].drop_duplicates()
    starts = starts.merge(begun, left_on=["model", "run", "seed"], right_on=["model", "start", "seed"])
    table = pandas.concat([starts, run]) if len(run) else run
    return table.sort_values(["model", "series", "seed", "x"], kind="stable")


def rl(tables: dict, tasks: Tasks):
    """Held-out accuracy and length along RL, and the training reward, a line a start; a row of panels a
    model.
    """
    cells, curve = tables["cells"], tables["rl_curves"]
    table = along_rl(cells, curve)
    reward = curve.assign(x=curve.step, series=curve.run.map(start), seed=curve.seed.astype(float))
    data = tidy.join(
        tidy.rows(table, "accuracy", "accuracy", "problems_"),
        tidy.rows(table, "length", "length", "length_"),
        tidy.rows(reward, "reward", "reward", kind="line"),
    )
    if data.empty:
        return panels.empty("RL runs"), data
    examples = cells.drop_duplicates("start").set_index("start").examples
    size = lambda series: series.map(lambda name: examples.get(name.split(",")[0], 0))  # noqa: E731
    data = data.sort_values("series", key=size, kind="stable")
    models, found = tidy.in_order(data, tables), looks_of_starts(data, cells)
    measures = {
        "accuracy": "held-out accuracy (avg@k)",
        "length": "length (tokens)",
        "reward": "training reward",
    }
    figure, axes = panels.lay_out(models, list(measures), "measures", 2.2, gap=0.75)
    for (model, measure), ax in axes.items():
        rows = data[(data.model == model) & (data.measure == measure)]
        panels.draw(ax, rows[rows.kind == "point"], found, f"{measure} at step {{x}}")
        lines = rows[rows.kind == "line"].groupby(["series", "run", "seed"], sort=False)
        for (series, name, seed), line in lines:
            look = {
                "color": found[series]["color"],
                "linestyle": found[series]["linestyle"],
                "linewidth": 0.9,
            }
            text = f"{TITLED}{model}, {name}, seed {seed:g}: training reward"
            ax.plot(line.x, line.value, **look, gid=text)
        panels.from_zero(ax, rows)
        zero = rows[(rows.x == 0) & (rows.run == "base")]
        if len(zero):
            panels.reference(ax, zero.value.mean(), panels.reach_of_noise(tables, model, measure))
        if not len(rows):
            panels.remark(ax, "no data yet")
    panels.label(axes, measures, "RL step", "measures")
    notes = [
        f"Accuracy: {', '.join(tasks.headline)}, by the headline grader. Bars: confidence interval over problems; the reward has none.",
        "Dashed line: the base before RL.",
        panels.seeds(data),
        panels.band_note(figure, tables),
        "An end point in the tables is the mean of the last three points, never the best.",
    ]
    names = {series: f"from {series}" for series in found}
    panels.finish(figure, panels.legend(data, found, names), notes)
    return figure, data


def start(run: str) -> str:
    """What an RL run starts from, and its recipe where it has one: `sft-8k`, `sft-8k, RL 16k`."""
    parsed = grid.parse_run(run)
    return parsed.start + (f", RL {parsed.rl_recipe}" if parsed.rl_recipe else "")


def looks_of_starts(data: pandas.DataFrame, cells: pandas.DataFrame) -> dict[str, dict]:
    """The look of each start, solid; RL recipes dotted."""
    known, found = looks(cells), {}
    for series in dict.fromkeys(data.series):
        name, _, recipe = series.partition(", ")
        found[series] = known[name] | {"linestyle": ":" if recipe else "-"}
    return found
