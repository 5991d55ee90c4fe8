"""How much better is one cell than another on the same problems? The paired difference of two cells'
accuracy.

    python scripts/compare_cells.py --left results/S/sft-64/seed0/grades.parquet \\
        --right results/S/base/seed0/grades.parquet --headline chain

Prints one line a task and one for the headline mean: left minus right with its interval over problems. Both
cells must have answered the same problems. A difference of accuracies seen through the spread of each cell
alone is far less certain than this: hard problems are hard for both.
"""

from pathlib import Path

from valley import flags, places, records
from valley.analysis import cells
from valley.analysis.cells import Study
from valley.analysis.estimates import changes


def cell_of(path: Path):
    """The cell that a file of grades is of; ends the script where its folder names none."""
    try:
        return places.cell_of(path)
    except ValueError as error:
        records.fail(path, str(error), "Name a cell's file in the folder of its study or release")


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--left", required=True, type=Path, help="grades.parquet of one cell")
    parser.add_argument("--right", required=True, type=Path, help="grades.parquet of the other")
    parser.add_argument("--headline", nargs="+", default=[], help="tasks whose mean is the headline accuracy")
    parser.add_argument("--confidence", type=float, default=0.95)
    args = parser.parse_args()
    left, right = cell_of(args.left), cell_of(args.right)
    if left == right:
        records.fail(left, "stands on both sides", "Two studies are compared by compare.py")
    problems = cells.by_problem(cells.load_grades([args.left, args.right]))
    answered = Study(cells.answers(problems), [left, right], {}).cells
    for task, ends in changes(answered[left], answered[right], args.headline, args.confidence).items():
        change, low, high = ends
        print(f"{task}: {change:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
