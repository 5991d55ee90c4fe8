"""What could this study decide? For each part of each claim the chance that it holds or fails, before any
data.

    python scripts/power.py --configfile config/one-gpu.yaml --repetitions 100

Forges studies of this very design (models, runs, seeds, problems, samples) in which the paper's effects are
true, and others in which nothing happens, and holds the claims against them with the code that gives the
verdicts. `--seeds` tries another number of seeds than the grid's. What the paper has no numbers of is filled
in (valley/analysis/forged.py). With `--pilot`, the table `cells` of a finished study, what is true is not the
paper but that pilot: each forged study draws its seeds from those of the pilot, and the table says how often
each verdict is the most frequent one.

    python scripts/power.py --configfile config/miniature.yaml --pilot workflow/reference/miniature_pilot.csv
"""

import collections
from pathlib import Path

import numpy
import pandas

from valley import check, contract, flags, grid, records
from valley.analysis import claims, forged
from valley.analysis.cells import Study
from valley.analysis.measures import Tasks
from valley.analysis.recovery import recovery

REFERENCE = check.ROOT / "workflow/reference"
MOST_BRIEF = 2000  # cells: with more, twenty repetitions take longer than the plan that they stand under
NOISE = (0.0, 0.015)  # standard deviations of a training's accuracy


def wanted(config: dict, seeds: int | None) -> list[grid.Cell]:
    """The grid's cells, or those with another number of seeds, a given base as often as the grid asks."""
    cells = grid.cells(config)
    if seeds is None:
        return cells
    more: dict[grid.Cell, None] = {}
    for cell in cells:
        given = cell.run == "base" and not grid.is_pretrained_here(config, cell.model)
        more |= dict.fromkeys([cell] if given else [cell._replace(seed=seed) for seed in range(seeds)])
    return list(more)


def tallied(
    config: dict,
    cells: list[grid.Cell],
    asked: dict,
    noise: float,
    effect: bool,
    repetitions: int,
    pilot=None,
) -> dict[tuple[str, str], collections.Counter]:
    """How often each verdict was given, by claim and part ("" is the claim), in so many forged studies."""
    paper = pandas.read_csv(REFERENCE / "paper_fig2.csv")
    examples = {size: grid.examples_of(config, size) for size in config["sizes"]}
    report, rng = config["report"], numpy.random.default_rng(0)
    tasks = Tasks(report["headline"], report["length"], report["calculations"])
    names = forged.paper_names(config, paper)
    if pilot is None:
        headline, others = forged.paper_truths(cells, names, examples, paper, effect)
    bases = [model for model in config["models"] if grid.is_pretrained_here(config, model)]
    parameters = {model: billions for model in config["models"] if (billions := grid.billions(config, model))}
    fits = pandas.DataFrame(columns=["model", "run", "deviation_low", "deviation_high"])
    counts: dict = collections.defaultdict(collections.Counter)
    for _ in range(repetitions):
        if pilot is not None:
            headline, others = forged.pilot_truths(cells, pilot, rng, effect), None
        answers = forged.forged_answers(
            headline,
            forged.design(config),
            tuple(tasks.headline),
            noise,
            rng,
            others,
            forged.PILOT_ALIKE if pilot is not None else 0.0,
        )
        study = Study(answers, cells, examples, bases)
        points = recovery(study, tasks, report["confidence"])
        known = claims.Known(
            tasks, fits, points, parameters, judged=bool(report["judge"]), confidence=report["confidence"]
        )
        for row in claims.judged(study, asked, known)[0].itertuples():
            counts[row.claim, row.part][row.verdict.removesuffix(", but")] += 1
    return counts


def shares(counts: collections.Counter) -> str:
    """Shares of `holds` and `fails`; dashes where a part says nothing of the study."""
    total = counts.total()
    if counts["not applicable"] == total:
        return "   –    –"
    return f"{counts['holds'] / total:4.2f} {counts['fails'] / total:4.2f}"


def print_of_pilot(config: dict, cells: list[grid.Cell], asked: dict, pilot, repetitions: int):
    """How often each verdict is given where the pilot is right, and where nothing happens."""
    found = [tallied(config, cells, asked, 0.0, effect, repetitions, pilot) for effect in (True, False)]
    print(
        f"{repetitions} studies of {len(cells)} cells, of each kind: shares in which a part holds, and fails\n"
    )
    print(f"{'':26}{'the pilot is right':>20}{'the same in':>13}{'nothing happens':>18}")
    for key in found[0]:
        there, nothing = found[0][key], found[1][key]
        name = f"{key[0]} {key[1]}" if key[1] else key[0]
        same = there.most_common(1)[0][1] / repetitions
        print(f"{name:26}{shares(there):>20}{same:13.2f}{shares(nothing):>18}")


def print_of_paper(config: dict, cells: list[grid.Cell], asked: dict, repetitions: int):
    """How often each part holds and fails, were the paper right and were there nothing, by the noise of
    training.
    """
    kinds = [(noise, effect) for effect in (True, False) for noise in NOISE]
    found = [tallied(config, cells, asked, *kind, repetitions) for kind in kinds]
    print(
        f"{repetitions} forged studies of {len(cells)} cells, of each kind: shares in which a part holds, and "
        f"fails,\nwith a training noise of {' and '.join(f'{100 * noise:g}' for noise in NOISE)} points\n"
    )
    print(f"{'':26}{'rule':18}{'the paper is right':>22}{'nothing happens':>24}")
    for claim, part in found[0]:
        if part:
            odds = "   ".join(shares(counts[claim, part]) for counts in found)
            print(f"{f'{claim} {part}':26}{asked[claim]['parts'][part]['rule']:18}   {odds}")


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="as for snakemake")
    parser.add_argument("--repetitions", type=int, default=50, help="forged studies of each kind")
    parser.add_argument("--seeds", type=int, help="training seeds, where not the grid's")
    parser.add_argument(
        "--pilot",
        type=Path,
        help="table cells.csv of a pilot, where it and not the paper says what is true",
    )
    parser.add_argument(
        "--brief", action="store_true", help="only what is likely to hold, were the paper right"
    )
    args = parser.parse_args()

    config = contract.study(args.configfile, sources=False)
    cells, asked = wanted(config, args.seeds), contract.asked_claims(config)
    # Responses are not forged, so the fit of p^k is not judged here.
    for claim in asked.values():
        claim["parts"] = {key: part for key, part in claim["parts"].items() if part["measure"] != "fit"}
    if args.pilot:
        try:
            pilot = forged.pilot_rows(pandas.read_csv(args.pilot))
        except (ValueError, KeyError, AttributeError) as error:
            records.fail(args.pilot, str(error), "Name the table report/tables/cells.csv of a pilot")
        cells = [cell for cell in cells if cell.run in set(pilot.run)]  # of other runs it knows nothing
        print_of_pilot(config, cells, asked, pilot, args.repetitions)
    elif args.brief and len(cells) > MOST_BRIEF:
        print(
            f"power            not simulated for {len(cells):,} cells: make power does it, some seconds for each 1,000 cells and repetition"
        )
    elif args.brief:
        counts = tallied(config, cells, asked, NOISE[-1], True, args.repetitions)
        said = {name: [] for name in ("likely", "unlikely")}
        for (claim, part), count in counts.items():
            if part and asked[claim]["parts"][part].get("counts", True) and not count["not applicable"]:
                likely = 2 * count["holds"] > args.repetitions
                said["likely" if likely else "unlikely"].append(f"{claim} {part}")
        print(
            f"power            were the paper right, these would likely hold: {', '.join(said['likely']) or 'none'}"
        )
        print(f"                 and these likely stay undecided: {', '.join(said['unlikely']) or 'none'}")
    else:
        print_of_paper(config, cells, asked, args.repetitions)


if __name__ == "__main__":
    main()
