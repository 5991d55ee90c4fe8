"""How much better is one cell than another on the same problems? The paired difference of two cells' scores.

    python scripts/difference.py --left results/S/sft-64/seed0/scores.json --right results/S/base/seed0/scores.json \\
        --headline chain

Prints one line a task and one for the headline mean: left minus right with its interval over problems. Both
cells must have been scored on the same problems. A difference of accuracies seen through the spread of each
cell alone is far less certain than this: hard problems are hard for both.
"""

from pathlib import Path

import numpy

from valley import flags, records, statistics
from valley.grid import HEADLINE


def rates(left: dict, right: dict, where: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Accuracy of both sides problem by problem, in the same order; an error where they answered different
    problems.
    """
    if odd := sorted(set(left["solved"]) ^ set(right["solved"])):
        records.fail(
            where,
            f"the two cells have not answered the same problems, {odd[0]!r} first",
            "Score both on one task",
        )
    order = list(left["solved"])
    return tuple(
        numpy.array([side["solved"][problem] for problem in order]) / side["samples"]
        for side in (left, right)
    )


def between(left: dict, right: dict, headline: list[str], confidence: float, where: str) -> dict[str, tuple]:
    """(difference, low, high) of two scores for every task they share, and for the mean of the headline
    tasks.
    """
    shared = [task for task in left["tasks"] if task in right["tasks"]]
    pairs = {task: rates(left["tasks"][task], right["tasks"][task], f"{where} ({task})") for task in shared}
    found = {task: statistics.paired_difference([pair], confidence) for task, pair in pairs.items()}
    if all(task in pairs for task in headline):
        joint = statistics.paired_difference([pairs[task] for task in headline], confidence)
        found = {HEADLINE: joint if len(headline) > 1 else found[headline[0]]} | found
    return found


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--left", required=True, type=Path, help="scores.json of one cell")
    parser.add_argument("--right", required=True, type=Path, help="scores.json of the other")
    parser.add_argument("--headline", nargs="+", default=[], help="tasks whose mean is the headline accuracy")
    parser.add_argument("--confidence", type=float, default=0.95)
    args = parser.parse_args()
    left, right = records.read_json(args.left), records.read_json(args.right)
    for task, (change, low, high) in between(
        left, right, args.headline, args.confidence, f"{args.left}, {args.right}"
    ).items():
        print(f"{task}: {change:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
