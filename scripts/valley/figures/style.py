"""How all figures look: the theme, and the colour, marker and line of every series."""

import collections

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy
import pandas
import seaborn

from valley import grading
from valley.figures import tidy
from valley.grid import HEADLINE

seaborn.set_theme(context="paper", style="whitegrid", font_scale=1.05)
# Text stays text in the SVG; all sizes are legible where the figure is shown 1,000 pixels wide.
plt.rcParams |= {
    "svg.fonttype": "none", "font.sans-serif": ["Arial", "DejaVu Sans"], "figure.dpi": 100, "hatch.linewidth": 0.6,
    "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "grid.color": "0.88", "grid.linewidth": 0.7, "axes.edgecolor": "0.75", "axes.linewidth": 0.8,
}  # fmt: skip
GREY = "0.25"
PALETTE = seaborn.color_palette("colorblind").as_hex()
RECIPES = [1, 2, 3, 4, 6, 8]  # of the palette; the others mean something else
MARKERS = ["s", "^", "D", "v", "p", "h", "<", ">"]
SHADES = matplotlib.colors.LinearSegmentedColormap.from_list("sizes", ["#74c4f0", PALETTE[0], "#2d0a55"])
DASHES = [":", "-.", (0, (5, 1, 1, 1, 1, 1)), "--"]
FILLS = zip(
    ["#029e73", "#d55e00", "#949494", "#de8f05", "#cc78bc"], ["", "///", "..", "xxx", "\\\\\\"], strict=True
)
OUTCOMES = {
    name: {"facecolor": colour, "hatch": hatch}
    for name, (colour, hatch) in zip(grading.OUTCOMES, FILLS, strict=True)
}


def look(color, marker="o", linestyle="-", shift=0.0, fill=True) -> dict:
    """How a series is drawn; `shift` moves it sideways on an axis of sizes, in doublings."""
    return {"color": color, "marker": marker, "linestyle": linestyle, "shift": shift, "fill": fill}


LENGTHS = dict(zip(tidy.LENGTHS, [look(PALETTE[5], "D"), look(PALETTE[9], "v", "--")], strict=True))


def looks(cells: pandas.DataFrame) -> dict[str, dict]:
    """The look of every recipe, run and task of a study: the same in all its figures."""
    found = collections.defaultdict(lambda: look("0.5"))  # a run whose cell is not there yet
    found |= {
        "base": look(GREY, "o", "--"),
        "protocol": look(PALETTE[0], "o"),
        "paper": look("black", "o", "none", 0.2, False),
        **LENGTHS,
    }
    for i, name in enumerate(sorted(set(cells.recipe.dropna()) - {"protocol"})):
        shift = 0.22 * (i // 2 + 1) * (-1) ** (i + 1)
        found[name] = look(PALETTE[RECIPES[i % len(RECIPES)]], MARKERS[i % len(MARKERS)], ":", shift)
    sft = cells[cells.stage == "sft"]
    sizes = sorted(set(sft.examples))
    shades = [matplotlib.colors.to_hex(shade) for shade in SHADES(numpy.linspace(0, 1, len(sizes)))]
    for run, recipe, size in sft[["run", "recipe", "examples"]].drop_duplicates().itertuples(index=False):
        order = sizes.index(size)
        own = look(shades[order], MARKERS[order % len(MARKERS)])
        controls = {"linestyle": DASHES[order % len(DASHES)], "shift": 0.0}
        found[run] = own if recipe == "protocol" else found[recipe] | controls
    tasks = [task for task in dict.fromkeys(cells.task) if task != HEADLINE]
    for i, task in enumerate(tasks):
        shift = 0.08 * (i - (len(tasks) - 1) / 2)
        marker, line = ["o", *MARKERS][i % 9], ["-", "--", "-.", ":"][i % 4]
        found.setdefault(task, look(PALETTE[i % 10], marker, line, shift))
    return found
