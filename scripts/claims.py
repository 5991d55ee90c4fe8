"""Hold the paper's claims against a study: holds, fails, undecided, grader-dependent or not applicable, and why.

    python scripts/claims.py --claims workflow/reference/claims.yaml --tables report/tables --grid S/base/0 S/sft-64/0 \\
        --examples 64=64 --parameters S=0.000058 --cards data/subsets/64/seed0.json --headline chain --length chain

Reads `problems.parquet`, `accumulation` and `recovery` and writes `claims` (a row a part of a claim) and `claims_models` (a
row a part and model: the quantity, its interval, what would decide). How a verdict comes about: valley/analysis/claims.py.
"""

from pathlib import Path

import pandas
import yaml

from valley import flags, records
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
    flags.add_study(parser)
    args = parser.parse_args()

    study = cells.load(args.tables, args.grid, flags.pairs(args.examples, int))
    tasks = Tasks(args.headline, args.length, args.calculations)
    reflective = any(records.read_json(card)["reflective"] > 0 for card in args.cards)
    points, fits = (pandas.read_csv(args.tables / f"{name}.csv") for name in ("recovery", "accumulation"))
    asked = yaml.safe_load(args.claims.read_text(encoding="utf-8"))
    known = (study, tasks, fits, points, flags.pairs(args.parameters, float), reflective, args.confidence)
    try:
        parts, models = claims.decide_all(asked, *known)
    except ConfigError as error:
        records.fail(
            args.claims, str(error), f"Or base, smallest, largest, each size; see the head of {args.claims}"
        )
    tables.write(args.tables, {"claims": parts, "claims_models": models})
    for row in parts[parts.part == ""].itertuples():
        print(f"{row.claim} {row.verdict}: {row.text}")
    records.done("verdicts on the claims", args.tables / "claims.csv")


if __name__ == "__main__":
    main()
