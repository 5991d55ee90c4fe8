"""What to buy next: the cells, seeds, samples or problems that would decide most claims for the fewest
GPU-hours.

    python scripts/next.py --configfile config.yaml --hours 100 --out next.yaml

Of each part of each claim: its verdict now, and what would decide it. Then, step by step within `--hours`,
what brings the most verdicts a GPU-hour, with the odds before and after; written as a config block: the whole
grid, further seeds in it, and `grid.now`, the cells to run. Run it as `snakemake … --configfile config.yaml
next.yaml`, and ask again. `--looks` is how often the verdicts will be looked at: each look then has its share
of what the confidence leaves (Bonferroni). How the odds come about, and what they take to be true of missing
cells: valley/analysis/design.py.
"""

from pathlib import Path

import numpy
import pandas

from valley import check, contract, costs, flags, grid, records, tariff
from valley.analysis import cells, claims, design, forged
from valley.analysis.cells import Study
from valley.analysis.measures import COLUMNS, Tasks
from valley.analysis.recovery import recovery
from valley.places import Places, all_grades, cell_of

REFERENCE = check.ROOT / "workflow/reference"
GOAL = 0.8  # odds that are worth waiting for


def answered(places: Places, wanted: set[grid.Cell]) -> dict:
    """What the finished cells answered: from the table `problems`, and from grades that are not in it yet."""
    table = places.tables / "problems.parquet"
    found = {}
    if table.exists():
        known = records.read_parquet(table).to_pandas()
        if lacking := [name for name in COLUMNS if name not in known]:
            records.fail(
                table, f"has no column {', '.join(lacking)}: other code made it", "make page makes it anew"
            )
        found = cells.answers(known)
    paths = [path for path in all_grades(places.root) if cell_of(path) in wanted - set(found)]
    if paths:
        found |= cells.answers(cells.by_problem(cells.load_grades(paths)))
    return {cell: made for cell, made in found.items() if cell in wanted}


def whole_grids(config: dict, forecasts: Path) -> list[dict]:
    """Answers of every cell of the grid, forged several times: the paper's effects, but what is forecast as
    forecast.
    """
    reference = pandas.read_csv(REFERENCE / "paper_fig2.csv")
    wanted = grid.cells(config)
    examples = {size: grid.examples_of(config, size) for size in config["sizes"]}
    headline, others = forged.paper_truths(wanted, forged.paper_names(config, reference), examples, reference)
    if forecasts.exists():
        for row in pandas.read_csv(forecasts).itertuples():
            for cell in wanted:
                seed = pandas.isna(row.seed) or row.seed == cell.seed
                if (cell.model, cell.run) == (row.model, row.run) and seed:
                    headline[cell] = headline[cell]._replace(accuracy=row.forecast)
    tasks = tuple(config["report"]["headline"])
    chances = map(numpy.random.default_rng, range(design.FORGED))
    made = forged.design(config)
    return [forged.forged_answers(headline, made, tasks, design.FORGED_NOISE, rng, others) for rng in chances]


def outlook(config: dict, looks: int) -> tuple[Study, list[design.Part], list[str], float]:
    """(the study as it is, its parts, those not foreseen, the confidence of a look)."""
    places, report, wanted = Places(config), config["report"], grid.cells(config)
    examples = {size: grid.examples_of(config, size) for size in config["sizes"]}
    trained = [model for model in config["models"] if grid.is_pretrained_here(config, model)]
    study = Study(answered(places, set(wanted)), wanted, examples, trained)
    grids = whole_grids(config, places.tables / "forecast.csv")
    confidence = 1 - (1 - report["confidence"]) / looks
    tasks = Tasks(report["headline"], report["length"], report["calculations"])
    known = claims.Known(
        tasks,
        pandas.DataFrame(columns=["model", "run", "deviation_low", "deviation_high"]),
        recovery(study, tasks, confidence),
        {model: count for model in config["models"] if (count := grid.billions(config, model))},
        config["traces"]["source"] != "synthetic",
        bool(report["judge"]),
        confidence=confidence,
    )
    asked = contract.asked_claims(config)
    made = [Study(one, wanted, examples, trained) for one in grids]
    parts, unforeseen = design.outlook(study, made, asked, known)
    return study, parts, unforeseen, confidence


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="as for snakemake")
    parser.add_argument("--hours", type=float, default=100, help="GPU-hours there are")
    parser.add_argument("--looks", type=int, default=1, help="how often verdicts will be looked at, in all")
    parser.add_argument(
        "--preset", choices=list(costs.load()["presets"]), default="paper", help="as for plan.py"
    )
    parser.add_argument("--out", type=Path, default=Path("next.yaml"), help="the config block")
    args = parser.parse_args()

    config = contract.study(args.configfile, sources=False)
    study, parts, unforeseen, confidence = outlook(config, args.looks)
    measured = costs.measured_seconds(Places(config).benchmarks)
    price = design.pricing(config, study, tariff.Prices(config, args.preset, measured))
    started = any(cell.run != "base" for cell in study.cells)
    problems, larger = design.larger_sets(config, started)
    odds = design.Odds(confidence)

    print(
        f"{len(study.cells)} of {len(study.wanted)} cells are there; the others take {design.rest(study, price):,.0f} GPU-hours\n"
    )
    print(f"{'part':24}{'now':12}{'decided by':>12}{'with odds':>10}  what")
    for part in parts:
        if part.verdict != "undecided":
            print(f"{part.key:24}{part.verdict:12}")
            continue
        bought, hours, reached = design.toward(part, price, odds, problems, GOAL)
        print(
            f"{part.key:24}{part.verdict:12}{hours:10,.1f} h{reached:10.2f}  {design.purchase_in_words(bought)}"
        )
    if unforeseen:
        print(f"not foreseen here, for what its responses would hold is not forged: {', '.join(unforeseen)}")

    bought, steps = design.choose(parts, args.hours, price, odds, problems)
    print(f"\nwithin {args.hours:g} GPU-hours, what brings most for its hours first:")
    for step in steps:
        print(
            f"{step.hours:10,.1f} h  {step.verdicts:5.2f} verdicts  {design.purchase_in_words(step.bought)}"
        )
        print(f"{'':12}" + ", ".join(f"{key} {a:.2f} → {b:.2f}" for key, (a, b) in step.odds.items()))
    if not steps:
        print("nothing: no purchase that fits would decide anything more")
        return
    with records.whole(args.out) as temporary:
        temporary.write_text(design.block_text(config, study, bought, larger, confidence), encoding="utf-8")
    records.done(f"a block of {price(bought):,.1f} GPU-hours", args.out)


if __name__ == "__main__":
    main()
