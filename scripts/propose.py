"""A study for a budget: what answers a question within so many GPU-hours, and what it gives up against the
whole grid.

    python scripts/propose.py --budget 200 --gpus 8 --out proposed.yaml
    python scripts/propose.py --budget 12 --gpus 1 --question C1 --out proposed.yaml

Prints the designs that were tried, the best first, with the odds that it decides each part of each claim,
were the paper right, beside those of the whole grid; writes the best as a config file. `make plan BUDGET=200
GPUS=8` is this. Method: valley/analysis/budget.py.
"""

from pathlib import Path

import numpy
import pandas

from valley import check, claims_language, contract, costs, flags, grid, records, tariff
from valley.analysis import budget, claims, design, forged
from valley.analysis.measures import Tasks

REFERENCE = check.ROOT / "workflow/reference"


def with_larger(config: dict, larger: dict[str, str]) -> dict:
    """The config with the larger sets of problems in place of the headline's own."""
    names = lambda tasks: [larger.get(task, task) for task in tasks]  # noqa: E731
    return config | {
        "grid": config["grid"] | {"tasks": names(config["grid"]["tasks"])},
        "report": config["report"] | {"headline": names(config["report"]["headline"])},
    }


def known_of(config: dict) -> claims.Known:
    """What verdicts know of a config beside cells."""
    report = config["report"]
    return claims.Known(
        Tasks(report["headline"], report["length"], report["calculations"]),
        pandas.DataFrame(columns=["model", "run", "deviation_low", "deviation_high"]),
        pandas.DataFrame(columns=["model", "after", "by"]),
        {model: count for model in config["models"] if (count := grid.billions(config, model))},
        config["traces"]["source"] != "synthetic",
        bool(report["judge"]),
        confidence=report["confidence"],
    )


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="the grid it is cut out of")
    parser.add_argument("--budget", type=float, required=True, help="GPU-hours")
    parser.add_argument("--gpus", type=int, default=8, help="cards of 80 GB there are")
    parser.add_argument(
        "--question", nargs="*", default=[], help="claims to be decided, as C1 C3; all by default"
    )
    parser.add_argument(
        "--preset", choices=list(costs.load()["presets"]), default="paper", help="as for plan.py"
    )
    parser.add_argument("--out", type=Path, default=Path("proposed.yaml"))
    args = parser.parse_args()

    config = contract.study(args.configfile, sources=False)
    asked = claims_language.load(REFERENCE / "claims.yaml")
    if unknown := sorted(set(args.question) - set(asked)):
        records.fail("--question", f"no claim {', '.join(unknown)}", f"There are: {', '.join(asked)}")
    chosen = {name: claim for name, claim in asked.items() if name in args.question or not args.question}
    _, larger = design.larger_sets(config, False)
    configs = {False: config, True: with_larger(config, larger)}
    prices = {large: tariff.Prices(one, args.preset) for large, one in configs.items()}
    options = budget.designs(config, args.gpus, bool(larger))
    tried = budget.within(config, options, prices, args.budget)
    if not tried:
        records.fail(
            f"--budget {args.budget:g}",
            "no design fits",
            "The smallest base with its smallest size costs more",
        )

    examples = {size: grid.examples_of(config, size) for size in config["sizes"]}
    reference = pandas.read_csv(REFERENCE / "paper_fig2.csv")
    whole, rows = grid.cells(config), []
    answers = {}
    for large in {False, *(one.large for one, _ in tried)}:
        cells = dict.fromkeys(
            cell for one, _ in tried if one.large == large for cell in budget.cells_in(config, one)
        )
        cells |= {} if large else dict.fromkeys(whole)
        truths = forged.paper_truths(list(cells), forged.paper_names(config, reference), examples, reference)
        tasks, made = tuple(configs[large]["report"]["headline"]), forged.design(configs[large])
        answers[large] = [
            forged.forged_answers(
                truths[0], made, tasks, design.FORGED_NOISE, numpy.random.default_rng(seed), truths[1]
            )
            for seed in range(design.FORGED)
        ]
    for one, hours in tried:
        known = known_of(configs[one.large])
        odds = budget.odds_of(budget.cells_in(config, one), answers[one.large], chosen, known, examples)
        rows.append((sum(odds.values()), hours, one, odds))
    rows.sort(key=lambda row: (-row[0], row[1]))
    full = budget.odds_of(whole, answers[False], chosen, known_of(config), examples)

    print(
        f"{len(options):,} designs, {len(tried)} of them fill {args.budget:g} GPU-hours; verdicts to be expected, were the paper right:"
    )
    for worth, hours, one, _ in rows:
        print(f"{worth:6.1f} of {len(full)}  {hours:8,.1f} h  {budget.design_in_words(one)}")
    _, hours, best, odds = rows[0]
    paper = prices[False].hours(whole)
    print(
        f"\n{'odds of a verdict on':24}{'this study':>12}{'whole grid':>12}   ({hours:,.0f} of {paper:,.0f} GPU-hours)"
    )
    for key in full:
        print(f"{key:24}{odds.get(key, 0):12.2f}{full[key]:12.2f}")
    models = [model for model in dict.fromkeys(cell.model for cell in whole) if model not in best.models]
    sizes = [size for size in budget.protocol_sizes(config) if size not in best.sizes]
    lost = [
        f"models {', '.join(models)}" if models else "no model",
        f"sizes {', '.join(sizes)}" if sizes else "no size",
    ]
    print(f"\ngiven up: {'; '.join([*lost, *([] if best.rl else ['RL'])])}.")
    print("Rules of claims are for the models of a study: of fewer models fewer must agree.")
    if len(best.sizes) > 1 and sizes:
        print("Sizes beyond its largest can be forecast (make forecast).")
    made = budget.design_block(config, best, larger, args.gpus, f"studies/budget-{args.budget:g}")
    command = f"make plan BUDGET={args.budget:g} GPUS={args.gpus}" + (
        f' QUESTION="{" ".join(args.question)}"' if args.question else ""
    )
    with records.whole(args.out) as temporary:
        temporary.write_text(
            f"# {budget.design_in_words(best)}: {hours:,.0f} GPU-hours.\n# Proposed by `{command}`.\n\n"
            + design.dumped(made)
        )
    records.done(f"a study of {hours:,.0f} GPU-hours", args.out)


if __name__ == "__main__":
    main()
