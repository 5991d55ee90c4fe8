"""Draw one figure from the tables alone: SVG, PNG and the data behind it as CSV.

    python scripts/figure.py --figure valley --cells report/tables/cells.csv \\
        --curves report/tables/rl_curves.csv --svg /tmp/valley.svg --png /tmp/valley.png --data /tmp/valley.csv

`valley`: accuracy and length against data size, a panel a model (paper, figures 1 and 2). `outcomes`: how responses end.
`rl`: held-out accuracy and length along RL (paper, figure 7).
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy
import pandas
import seaborn

from aggregate import HEADLINE
from valley import flags, grading, records

seaborn.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.1)
# Text stays text in the SVG, and ids do not change from run to run.
plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "valley", "savefig.bbox": "tight", "figure.dpi": 100}
COLOURS = dict(zip(grading.OUTCOMES, ["#029e73", "#d55e00", "#949494", "#de8f05", "#cc78bc"], strict=True))


def jitter(table: pandas.DataFrame) -> pandas.Series:
    """The data axis with the seeds of one point side by side, so that dots do not hide one another."""
    seeds = sorted(table.seed.unique())
    offset = {seed: (i - (len(seeds) - 1) / 2) * 0.06 for i, seed in enumerate(seeds)}
    return table.examples * (2 ** table.seed.map(offset))


def valley(cells: pandas.DataFrame, _curves) -> tuple[plt.Figure, pandas.DataFrame]:
    """Accuracy (top) and length (bottom) against data size, a column a model; base dashed, seeds as dots, recipes by colour."""
    data = cells[(cells.task == HEADLINE) & cells.stage.isin(["base", "sft"])]
    models = list(dict.fromkeys(data.model))
    recipes = sorted(set(data[data.stage == "sft"].recipe), key=lambda name: (name != "protocol", name))
    colours = dict(zip(recipes, seaborn.color_palette("colorblind"), strict=False))
    figure, axes = plt.subplots(2, len(models), figsize=(4.2 * len(models), 6), squeeze=False, sharex="col", sharey="row")
    for column, model in enumerate(models):
        mine = data[data.model == model]
        for row, measure in enumerate(["accuracy", "length"]):
            ax = axes[row][column]
            base = mine[mine.stage == "base"]
            if len(base):
                ax.axhline(base[measure].mean(), linestyle="--", color="0.35", label="base")
                ax.axhspan(base[measure].min(), base[measure].max(), color="0.35", alpha=0.08, linewidth=0)
            for recipe in recipes:
                points = mine[(mine.stage == "sft") & (mine.recipe == recipe)]
                means = points.groupby("examples")[measure].mean()
                label = "the paper's protocol" if recipe == "protocol" else recipe
                ax.plot(means.index, means, color=colours[recipe], marker="o" if len(means) == 1 else None, label=label)
                ax.scatter(jitter(points), points[measure], color=colours[recipe], s=16, alpha=0.75, linewidth=0, zorder=3)
                if measure == "accuracy":
                    bars = [points.accuracy - points.problems_low, points.problems_high - points.accuracy]
                    ax.errorbar(
                        jitter(points), points.accuracy, yerr=bars, fmt="none", color=colours[recipe], alpha=0.3, linewidth=1
                    )
            ax.set_xscale("log", base=2)
            ticks = sorted(mine[mine.stage == "sft"].examples.unique())
            ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            ax.minorticks_off()
            ax.set_ylabel(
                {"accuracy": "accuracy (avg@k)", "length": "response length (tokens)"}[measure] if column == 0 else ""
            )
        axes[0][column].set(title=model, ylim=(-0.02, 1.02 if data.accuracy.max() > 0.5 else None))
        axes[1][column].set(xlabel="training examples", ylim=(0, None))
    figure.tight_layout()
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=len(labels), frameon=False)
    note = "dots: training seeds, bars: 95 % over problems, grey band: range of the bases"
    figure.text(0.5, 0.0, note, ha="center", va="top", fontsize="x-small", color="0.4")
    return figure, data


def outcomes(cells: pandas.DataFrame, _curves) -> tuple[plt.Figure, pandas.DataFrame]:
    """Stacked shares of the outcome classes, a bar a run (mean over seeds), a panel a model."""
    shares = [f"share {name}" for name in grading.OUTCOMES]
    data = (
        cells[(cells.task == HEADLINE) & cells.step.isna()].groupby(["model", "run"], sort=False)[shares].mean().reset_index()
    )
    models = list(dict.fromkeys(data.model))
    most = data.groupby("model").size().max()
    figure, axes = plt.subplots(1, len(models), figsize=(4.6 * len(models), 1 + 0.34 * most), squeeze=False, sharex=True)
    for ax, model in zip(axes[0], models, strict=True):
        mine = data[data.model == model].iloc[::-1]
        left = numpy.zeros(len(mine))
        for name in grading.OUTCOMES:
            ax.barh(
                mine.run, mine[f"share {name}"], left=left, color=COLOURS[name], label=name, edgecolor="white", linewidth=0.4
            )
            left += mine[f"share {name}"].to_numpy()
        ax.set(title=model, xlim=(0, 1), xlabel="share of responses")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=len(labels), fontsize="small", frameon=False
    )
    figure.tight_layout()
    return figure, data


def rl(cells: pandas.DataFrame, curves: pandas.DataFrame) -> tuple[plt.Figure, pandas.DataFrame]:
    """Held-out accuracy and length along RL, and the training reward, a line a start; a row of panels a model."""
    held_out = cells[(cells.task == HEADLINE) & (cells.stage == "rl")].copy()
    last = curves.groupby(["model", "run"]).step.max()
    held_out["step"] = [row.step if pandas.notna(row.step) else last[(row.model, row.run)] for row in held_out.itertuples()]
    starts = cells[(cells.task == HEADLINE) & (cells.stage != "rl")].assign(step=0, start=lambda t: t.run)
    starts = starts[
        starts.set_index(["model", "start", "seed"]).index.isin(held_out.set_index(["model", "start", "seed"]).index)
    ]
    data = pandas.concat([starts, held_out])[
        ["model", "start", "seed", "step", "accuracy", "problems_low", "problems_high", "length"]
    ]
    rewards = curves.assign(start=curves.run.str.split("+").str[0])
    models = list(dict.fromkeys(data.model))
    palette = dict(zip(dict.fromkeys(data.start), seaborn.color_palette("colorblind"), strict=False))
    figure, axes = plt.subplots(len(models), 3, figsize=(12, 3.2 * len(models)), squeeze=False)
    for row, model in enumerate(models):
        mine = data[data.model == model].sort_values("step")
        common = {"hue": "start", "palette": palette, "legend": False}
        seaborn.lineplot(
            mine, x="step", y="accuracy", marker="o", errorbar=None, ax=axes[row][0], **common | {"legend": "brief"}
        )
        for start, group in mine.groupby("start"):
            bars = [group.accuracy - group.problems_low, group.problems_high - group.accuracy]
            axes[row][0].errorbar(
                group.step, group.accuracy, yerr=bars, fmt="none", color=palette[start], alpha=0.4, linewidth=1
            )
        seaborn.lineplot(mine, x="step", y="length", marker="o", errorbar=None, ax=axes[row][1], **common)
        seaborn.lineplot(
            rewards[rewards.model == model], x="step", y="reward", errorbar=None, linewidth=1, ax=axes[row][2], **common
        )
        axes[row][0].set(title=f"{model}: held-out accuracy", ylim=(-0.02, None))
        axes[row][1].set(title="response length (tokens)", ylim=(0, None))
        axes[row][2].set(title="training reward", ylim=(-0.02, 1.02))
    figure.tight_layout()
    return figure, data


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--figure", required=True, choices=["valley", "outcomes", "rl"])
    parser.add_argument("--cells", required=True, type=Path)
    parser.add_argument("--curves", required=True, type=Path)
    parser.add_argument("--svg", required=True, type=Path)
    parser.add_argument("--png", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    args = parser.parse_args()

    draw = {"valley": valley, "outcomes": outcomes, "rl": rl}[args.figure]
    figure, data = draw(pandas.read_csv(args.cells), pandas.read_csv(args.curves))
    for path, kind in ((args.svg, "svg"), (args.png, "png")):
        with records.whole(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    with records.whole(args.data) as temporary:
        data.to_csv(temporary, index=False)
    records.done(f"figure {args.figure}", args.svg)


if __name__ == "__main__":
    main()
