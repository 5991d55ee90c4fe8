"""What could this study decide? For each part of each claim the chance that it holds or fails, before any data.

    python scripts/power.py --configfile config/one-gpu.yaml --repetitions 100

Forges studies of this very design (models, runs, seeds, problems, samples) in which the paper's effects are true, and
others in which nothing happens, and holds the claims against them with the code that gives the verdicts. `--seeds`
tries another number of seeds than the grid's. What the paper has no numbers of is filled in (valley/analysis/forged.py).
"""

import collections
from pathlib import Path

import numpy
import pandas

from valley import check, flags, forged, grid, records, verdicts
from valley.quantities import Study, Tasks
from valley.recovery_new import recovery

REFERENCE = check.ROOT / "workflow/reference"
NOISE = (0.0, 0.015)  # standard deviations of a training's accuracy


def wanted(config: dict, seeds: int | None) -> list[grid.Cell]:
    """The grid's cells, or those with another number of seeds; a base that is given is evaluated as often as the grid asks."""
    cells = grid.cells(config)
    if seeds is None:
        return cells
    given = lambda cell: cell.run == "base" and not grid.is_pretrained_here(config, cell.model)  # noqa: E731
    more = [cell._replace(seed=seed) for cell in cells for seed in ([cell.seed] if given(cell) else range(seeds))]
    return list(dict.fromkeys(more))


def tallied(config: dict, cells: list, claims: dict, noise: float, effect: bool, repetitions: int, seed: int = 0) -> dict[tuple, collections.Counter]:
    """How often each verdict was given, by claim and part ("" is the claim), in so many forged studies."""
    paper = pandas.read_csv(REFERENCE / "paper_fig2.csv")
    examples = {size: grid.examples_of(config, size) for size in config["sizes"]}
    tasks, report, rng = forged.design(config), config["report"], numpy.random.default_rng(seed)
    truths = forged.paper_truths(cells, forged.paper_names(config, paper), examples, paper, effect)
    trained = frozenset(model for model in config["models"] if grid.is_pretrained_here(config, model))
    parameters = {model: entry["parameters"] for model, entry in config["models"].items() if "parameters" in entry}
    counts: dict = collections.defaultdict(collections.Counter)
    for _ in range(repetitions):
        made = forged.study(truths[0], tasks, tuple(report["headline"]), noise, rng, truths[1])
        kinds = Tasks(*(tuple(report[kind]) for kind in ("headline", "length", "calculations")))
        study = Study(made, cells, examples, kinds, trained)
        fits = pandas.DataFrame(columns=["model", "run", "deviation_low", "deviation_high"])
        known = verdicts.Known(fits, recovery(study, report["confidence"]), parameters)
        for row in verdicts.held(study, claims, known, report["confidence"])[0]:
            counts[row["claim"], row["part"]][row["verdict"].removesuffix(", but")] += 1
    return counts


def shares(counts: collections.Counter) -> str:
    """Shares of `holds` and `fails`; empty where a part says nothing of the study."""
    total = counts.total()
    return f"{counts['holds'] / total:4.2f} {counts['fails'] / total:4.2f}" if counts["not applicable"] < total else "   –    –"


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="as for snakemake")
    parser.add_argument("--repetitions", type=int, default=50, help="forged studies of each kind")
    parser.add_argument("--seeds", type=int, help="training seeds, where not the grid's")
    parser.add_argument("--brief", action="store_true", help="one line: what would be decided more often than not")
    args = parser.parse_args()

    config = check.load(args.configfile)
    cells = wanted(config, args.seeds)
    claims = verdicts.read(REFERENCE / "claims.yaml", check.ROOT / "workflow/schemas/claims.schema.yaml")
    kinds = [(noise, effect) for effect in (True, False) for noise in NOISE]
    if args.brief:
        counts = tallied(config, cells, claims, NOISE[1], True, args.repetitions)
        likely = [f"{claim} {part}" for (claim, part), count in counts.items() if part and 2 * count["holds"] > args.repetitions]
        print(f"power            were the paper right, {', '.join(likely) or 'no part of a claim'} would hold more often than not")
        return
    found = [tallied(config, cells, claims, noise, effect, args.repetitions) for noise, effect in kinds]
    print(f"{args.repetitions} forged studies of {len(cells)} cells each. Shares that hold and fail, training noise of 0 and 1.5 points")
    print(f"{'':26}{'rule':20}{'the paper is right':^22}{'nothing happens':^22}")
    for key in found[0]:
        if key[1]:
            rule = claims[key[0]]["parts"][key[1]]["rule"]
            print(f"{' '.join(key):26}{rule:20}" + "  ".join(shares(counts[key]) for counts in found))
    records.done(f"the odds of {len(found[0])} verdicts", "standard output")


if __name__ == "__main__":
    main()
