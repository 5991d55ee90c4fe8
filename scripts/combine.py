"""Several labs' studies on one page: cells side by side, effects combined over studies with their spread, who
ran what.

    python scripts/combine.py --studies ../lab-a/release ../lab-b/release --out comparisons/labs

Studies are folders of studies or releases; models of one id on a hub are one model, whatever a study calls
them, and those without, made by a study or read from a folder, are known by their name. The paper counts as
one more study where the tasks are its own; its grader then counts. (`make pool` calls this; `pool.py` makes
pools of traces, so this script has the other word.) Writes `combined.html`, `studies.csv`, `cells.csv`,
`effects.csv` (each study's change from the base) and `combined.csv` (over studies: mean, interval, how far
studies differ, what one more would find). Two studies decide little: the interval of their mean has one
degree of freedom, and is as wide as that is.
"""

from pathlib import Path

import pandas

from valley import check, flags, records
from valley.analysis import combination, comparison
from valley.analysis.comparison import PAPER
from valley.figures import html, studies, svg

TEMPLATE = check.ROOT / "workflow/report/combine.html.jinja"
REFERENCE = check.ROOT / "workflow/reference/paper_fig2.csv"


def wide(cells: pandas.DataFrame, names: list[str]) -> pandas.DataFrame:
    """Accuracy of each cell, a column a study, and how far apart the studies are; the cells of most studies
    first.
    """
    table = cells.pivot_table(index=["model", "run"], columns="study", values="accuracy", sort=False)[names]
    apart = (table.max(axis=1) - table.min(axis=1)).where(table.notna().sum(axis=1) > 1)
    return table.assign(apart=apart).reset_index().rename_axis(columns=None)


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--studies", required=True, nargs="+", help="folders of studies or releases")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--out", type=Path, help="folder to write (comparisons/<the studies>)")
    args = parser.parse_args()

    given = [one for one in args.studies if one != PAPER]  # it counts anyway
    if not given or len(set(map(str, map(Path.resolve, map(Path, given))))) < len(given):
        records.fail(
            "--studies", f"names {'no study' if not given else 'a study twice'}", "Name different ones"
        )
    short = comparison.short_names(given)
    names = comparison.told_apart(short)
    reference = pandas.read_csv(REFERENCE)
    sides = [comparison.load(Path(one), name, "headline", {}) for one, name in zip(given, names, strict=True)]
    comparison.check_same_tasks(sides)
    sides = combination.aligned(sides)
    has_paper = bool(combination.papers(sides, reference))
    if has_paper:
        sides = [side._replace(grader="paper") for side in sides]
    tables = combination.tables_of(sides, reference, args.confidence)
    if tables["combined"].empty:
        records.fail(
            ", ".join(given),
            "have no run with its base in common",
            "Models are told by their id on a hub, or else by name, runs by name",
        )
    everyone = [combination.who(side) for side in sides] + [combination.PAPERS_OWN] * has_paper
    names = [one["study"] for one in everyone]
    out = args.out or Path("comparisons") / "-".join(short)
    for name, table in (tables | {"studies": pandas.DataFrame(everyone)}).items():
        with records.whole(out / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
    svg.save(studies.over_studies(tables["effects"], tables["combined"], names), out / "effects.svg")
    said = [
        f"{row.model} {row.run}: {row.these:+.3f} [{row.these_low:+.3f}, {row.these_high:+.3f}] of these {row.studies} studies, "
        f"{row.change:+.3f} [{row.low:+.3f}, {row.high:+.3f}] over studies, SD between them {row.between:.3f}"
        for row in tables["combined"].itertuples()
    ]
    rows = html.as_rows
    page = html.render(
        TEMPLATE,
        names=names,
        grader=sides[0].grader,
        headline=sides[0].headline,
        who=rows(pandas.DataFrame(everyone)),
        findings=[(side.name, side.finding) for side in sides],
        verdicts=rows(combination.verdicts_of(sides)),
        figure=html.inline(out / "effects.svg", "; ".join(said)),
        combined=rows(tables["combined"]),
        cells=rows(wide(tables["cells"], names)),
        single=rows(tables["effects"]),
        confidence=args.confidence,
        provenance=records.provenance(args),
    )
    with records.whole(out / "combined.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(*said, sep="\n")
    if not has_paper:
        print("The paper has none of these cells, or its tasks are others: it is not among the studies.")
    records.done(f"{len(said)} effects combined over {len(names)} studies", out)


if __name__ == "__main__":
    main()
