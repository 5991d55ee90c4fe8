"""Two studies side by side: mine against yours or the paper, before against after a change.

    python scripts/compare.py --a studies/miniature --b ../other/studies/miniature
    python scripts/compare.py --a paper --b .

A and B are folders of studies (their report/ is read; a released folder will do) or `paper`. For every cell
that both have: A, B and B − A, paired problem by problem where both answered the same problems, else unpaired
and labelled so; seed by seed and over the seeds that both have. Against the paper the paper's grader counts,
and each cell is `replicated`, `not`, or one `cannot tell`, from samples and training noise on both sides.
Prints the headline accuracies and writes `compare.csv` (all of it), `compare.html` and the figures in it;
between two studies also `graders.csv`: what every grader gives, and how many problems B rates otherwise.
"""

from pathlib import Path

import pandas

from valley import flags, grid, records
from valley.analysis import comparison
from valley.analysis.comparison import ACCURACY, KEYS, LENGTH
from valley.figures import html, studies, svg
from valley.grid import HEADLINE

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "workflow/report/compare.html.jinja"


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--a", required=True, help="folder of a study, or `paper`")
    parser.add_argument("--b", required=True, help="folder of a study, or `paper`")
    parser.add_argument(
        "--rename", nargs="*", default=[], help="old=new: models of B that A has under another name"
    )
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument(
        "--reference",
        type=Path,
        default=ROOT / "workflow/reference/paper_fig2.csv",
        help="the paper's values",
    )
    parser.add_argument("--out", type=Path, help="folder to write (comparisons/<A>-<B>)")
    args = parser.parse_args()

    given = (args.a, args.b)
    if given == (comparison.PAPER,) * 2:
        records.fail("paper", "is on both sides", "Name a study on one of them")
    grader = "paper" if comparison.PAPER in given else "headline"
    short = comparison.short_names(given)
    names = tuple(comparison.told_apart(short))
    renames = ({}, flags.pairs(args.rename))
    loaded = [
        None if side == comparison.PAPER else comparison.load(Path(side), name, grader, rename)
        for side, name, rename in zip(given, names, renames, strict=True)
    ]
    a, b = loaded
    if a and b:
        comparison.check_same_tasks([a, b])
        rows = [
            row
            for name in a.cells
            if name in b.cells
            for row in comparison.cell_rows(a, b, name, args.confidence)
        ]
        missing = [
            [" ".join(n) for n in one.cells if n not in other.cells] for one, other in ((a, b), (b, a))
        ]
    else:
        rows, own, lacking = comparison.paper_rows(
            a or b, pandas.read_csv(args.reference), b is None, args.confidence
        )
        missing = [own, lacking] if a else [lacking, own]
    if not rows:
        records.fail(
            f"{args.a}, {args.b}", "have no cell in common", "Models may have other names: see --rename"
        )

    table = pandas.DataFrame(
        rows, columns=[*KEYS, "seeds", "problems", "interval", *ACCURACY, *LENGTH, "replication"]
    )
    whole = table[(table.task == HEADLINE) & (table.seed == "all")]
    out = args.out or Path("comparisons") / "-".join(short)
    with records.whole(out / "compare.csv") as temporary:
        table.to_csv(temporary, index=False)
    cells = whole[[grid.parse_run(run).step is None for run in whole.run]]
    sized = cells.assign(examples=[comparison.data_size(a or b, run) for run in cells.run]).dropna(
        subset="examples"
    )
    graded = pandas.DataFrame(comparison.by_grader(a, b) if a and b else [])
    if len(graded):
        with records.whole(out / "graders.csv") as temporary:
            graded.to_csv(temporary, index=False)
    moved = graded[(graded.raised > 0) | (graded.lowered > 0)] if len(graded) else graded
    figures = {"differences": studies.forest(cells, names)}
    figures |= {"sizes": studies.against_size(sized, names) if len(sized) else None}
    for name, figure in figures.items():
        if figure:
            svg.save(figure, out / f"{name}.svg")
    said = comparison.counts(table, args.confidence)
    values = {
        "names": names,
        "given": given,
        "sides": loaded,
        "counts": said,
        "missing": missing,
        "figures": {
            n: figure and html.inline(out / f"{n}.svg", " ".join(said)) for n, figure in figures.items()
        },
        "kinds": studies.KINDS,
        "headline": HEADLINE,
        "whole": html.as_rows(whole),
        "rest": html.as_rows(table.drop(whole.index)),
        "graded": len(graded),
        "moved": html.as_rows(moved),
        "provenance": records.provenance(args),
    }
    page = html.render(TEMPLATE, **values)
    with records.whole(out / "compare.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    columns = [
        "model",
        "run",
        "seeds",
        "interval",
        "a",
        "b",
        "difference",
        "low",
        "high",
        "length_a",
        "length_b",
        *(["replication"] if comparison.PAPER in given else []),
    ]
    print(f"A: {args.a}   B: {args.b}   headline accuracy, difference B − A")
    print(whole[columns].round(3).to_string(index=False))
    if len(graded):
        print(f"Rated otherwise: {len(moved)} of {len(graded)} (cell, task, grader) with the same problems")
    if len(moved):
        print(moved.round(3).to_string(index=False))
    print(
        *said,
        *(f"Only {name}: {', '.join(cells)}" for name, cells in zip(names, missing, strict=True) if cells),
        sep="\n",
    )
    records.done(f"comparison of {len(whole)} cells", out)


if __name__ == "__main__":
    main()
