"""Do our base models score what the paper's did? Asked before any GPU trains.

    python scripts/calibrate.py --scores results/qwen2.5-1.5b/base/seed0/scores.json \\
        --reference workflow/reference/paper_fig2.csv \\
        --models qwen2.5-1.5b=Qwen2.5-1.5B-Instruct --headline aime24 amc23 math500 \\
        --out /tmp/calibration.csv

Compares by the paper's verdict (accuracy_paper) the plain mean of the headline tasks. Both sides sampled, so
the standard error is √2 times ours over samples. Stops when a base is more than three of them away, with the
causes to look for.
"""

import sys
from pathlib import Path

import pandas

from valley import flags, places, records
from valley.analysis.paper import calibration

CAUSES = (
    "another problem set (AIME 30 or 90, AMC 40 or 83: `tasks` in the config)", "another prompt or system turn (`prompt`)",
    "a chat template other than the maker's", "sampling that is not the paper's (temperature 0.6, top-p 0.95, 16,384 tokens)",
    "a truncated context (`generate.max_context`), see the share of truncated responses",
)  # fmt: skip


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--scores", required=True, type=Path, nargs="+", help="scores.json of base cells")
    parser.add_argument("--reference", required=True, type=Path)
    parser.add_argument("--models", required=True, nargs="+", help="our name=the paper's name")
    parser.add_argument("--headline", required=True, nargs="+", help="tasks whose mean is the accuracy")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    bases = {places.cell_of(path): records.read_json(path) for path in args.scores}
    table = calibration(bases, pandas.read_csv(args.reference), flags.pairs(args.models), args.headline)
    if table.empty:
        records.fail(args.reference, "knows none of these models", "Calibrate a study of the paper's models")
    print(table.round(3).to_string(index=False), file=sys.stderr)
    with records.whole(args.out) as temporary:
        table.to_csv(temporary, index=False)
    if not (far := table[table.distance > 3]).empty:
        records.fail(
            ", ".join(far.model),
            "differs from the paper's base by more than three standard errors",
            f"See {args.out}. Look for: " + "; ".join(CAUSES),
        )
    records.done(f"{len(table)} bases agree with the paper's", args.out)


if __name__ == "__main__":
    main()
