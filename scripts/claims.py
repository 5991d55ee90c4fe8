"""Hold the paper's claims against a study: holds, fails, undecided, grader-dependent or not applicable, and
why.

    python scripts/claims.py --claims workflow/reference/claims.yaml --tables report/tables \\
        --grid S/base/0 S/sft-64/0 \\
        --examples 64=64 --parameters S=0.000058 --cards data/subsets/64/seed0.json --headline chain \\
        --length chain

Reads `problems.parquet`, `accumulation` and `recovery` and writes `claims` (a row a claim and part) and
`claims_models` (a row a part and model: the quantity and its intervals). How a verdict comes about:
valley/analysis/claims.py.
"""

from pathlib import Path

import pandas

from valley import claims_language, flags, records
from valley.analysis import cells, claims, tables
from valley.analysis.measures import Tasks
from valley.grid import ConfigError


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--claims", required=True, type=Path)
    parser.add_argument(
        "--parameters", nargs="*", default=[], help="model=billions of parameters, for the order of sizes"
    )
    parser.add_argument("--cards", nargs="*", type=Path, default=[], help="cards of the subsets")
    parser.add_argument("--judged", action="store_true", help="a judge labelled the responses")
    parser.add_argument(
        "--leaking", nargs="*", default=[], help="tasks that were not taken out of the traces"
    )
    parser.add_argument("--leaks", type=Path, help="table of the problems that occur in the traces")
    flags.add_study(parser)
    args = parser.parse_args()

    try:
        asked = claims_language.load(args.claims)
    except ConfigError as error:
        records.fail(
            args.claims, str(error), f"The language: the head of {args.claims}, and {claims_language.SCHEMA}"
        )
    study = cells.load(args.tables, args.grid, flags.pairs(args.examples, int), args.trained_bases)
    tasks = Tasks(args.headline, args.length, args.calculations)
    reflective = any(records.read_json(card)["reflective"] > 0 for card in args.cards)
    points, fits = (pandas.read_csv(args.tables / f"{name}.csv") for name in ("recovery", "accumulation"))
    leaks = pandas.read_csv(args.leaks, dtype=str) if args.leaks else pandas.DataFrame(columns=["task", "id"])
    known = claims.Known(
        tasks,
        fits,
        points,
        flags.pairs(args.parameters, float),
        reflective,
        args.judged,
        tuple(args.leaking),
        frozenset(zip(leaks.task, leaks.id, strict=True)),
        args.confidence,
    )
    parts, models = claims.judged(study, asked, known)
    tables.write(args.tables, {"claims": parts, "claims_models": models})
    for row in parts[parts.part == ""].itertuples():
        print(f"{row.claim} {row.verdict}: {row.text}")
    records.done("verdicts on the claims", args.tables / "claims.csv")


if __name__ == "__main__":
    main()
