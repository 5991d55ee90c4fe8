"""Two studies side by side: mine against the paper, mine against yours, before against after a change of the
code.

    python scripts/compare.py --a studies/miniature --b ../other/studies/miniature
    python scripts/compare.py --a paper --b .

A and B are folders of studies (their report/ is read; a released folder will do) or `paper`. For every cell
that both have: A, B and B − A, paired problem by problem where both answered the same problems, else unpaired
and labelled so; seed by seed and over the seeds that both have. Against the paper the paper's verdict counts
and its values carry no error. Prints the headline accuracies and writes `compare.csv` (all of it),
`compare.html` and the figures in it.
"""

import re
from pathlib import Path

import jinja2
import numpy
import pandas

from valley import flags, records, sides, statistics
from valley.figures import studies, svg
from valley.figures.html import inline, number
from valley.grid import HEADLINE

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "workflow/report/compare.html.jinja"
KEYS = ["model", "run", "seed", "task"]
ACCURACY = ["a", "b", "difference", "low", "high", "seeds_low", "seeds_high"]
LENGTH = ["length_a", "length_b", "length_difference", "length_low", "length_high"]


def cell_rows(a: sides.Side, b: sides.Side, name: tuple[str, str], confidence: float) -> list[dict]:
    """Rows of one cell of two studies: tasks and headline mean, over seeds and, where there are several, seed
    by seed.
    """
    left, right = a.cells[name], b.cells[name]
    common = sorted(left.keys() & right.keys())
    groups = {"all": (common or sorted(left), common or sorted(right))}
    groups |= {str(seed): ([seed], [seed]) for seed in common} if len(common) > 1 else {}
    found, by_seed = [], {}
    for seed, (from_a, from_b) in groups.items():
        one, other = (
            sides.pooled([cells[s] for s in chosen]) for cells, chosen in ((left, from_a), (right, from_b))
        )
        shared = [task for task in one["tasks"] if task in other["tasks"]]
        same = {task for task in shared if sides.same_problems(a, b, one, other, task)}
        lengths = {task: [task] for task in shared} | (
            {HEADLINE: a.length} if set(a.length) <= set(shared) else {}
        )
        for task, (kind, *ends) in sides.change(one, other, a.headline, same, confidence).items():
            tasks = a.headline if task == HEADLINE else [task]
            row = {
                "model": name[0],
                "run": name[1],
                "seed": seed,
                "task": task,
                "interval": kind,
                "problems": sum(len(other["tasks"][t]["solved"]) for t in tasks),
                "a": sides.rate(one, tasks),
                "b": sides.rate(other, tasks),
                **dict(zip(("difference", "low", "high"), ends, strict=True)),
            }
            if task in lengths:
                means = [
                    numpy.mean([sides.tokens(cell, t).mean() for t in lengths[task]]) for cell in (one, other)
                ]
                change = sides.longer(one, other, lengths[task], same, confidence)
                row |= dict(zip(LENGTH, (*means, *change), strict=True))
            said = lambda seeds: " ".join(map(str, seeds))  # noqa: E731
            row["seeds"] = said(from_a) if from_a == from_b else f"{said(from_a)} | {said(from_b)}"
            by_seed.setdefault(task, []).extend([row["difference"]] if seed != "all" else [])
            found.append(row)
    for row in found:
        if row["seed"] == "all":
            row["seeds_low"], row["seeds_high"] = over_seeds(by_seed[row["task"]], confidence)
    return found


def over_seeds(differences: list[float], confidence: float) -> tuple[float | None, float | None]:
    """t interval of the differences by seed; none where they are equal without being zero, for that is no
    spread to go by.
    """
    if len(set(differences)) > 1:
        return statistics.over_seeds(differences, confidence)
    return (0.0, 0.0) if len(differences) > 1 and not any(differences) else (None, None)


def paper_rows(study: sides.Side, reference: pandas.DataFrame, paper_is_b: bool, confidence: float):
    """(rows, cells that only the study has, values that only the paper has)."""
    values, lacking = sides.paper_cells(study, reference)
    found = []
    for name, row in values.items():
        seeds = study.cells[name]
        cell = sides.pooled(list(seeds.values()))
        if not set(study.headline) <= set(cell["tasks"]):
            continue
        ours = sides.accuracy(cell, study.headline, confidence)
        parts = [sides.mean_of(sides.tokens(cell, task), confidence) for task in study.length]
        means = [part[0] for part in parts]
        length = (float(numpy.mean(means)), *statistics.join(means, [part[1:] for part in parts]))
        theirs = (row["accuracy_pct"] / 100, float(row["response_tokens"]))
        pairs = [
            sides.minus(*((paper,) * 3, own) if paper_is_b else (own, (paper,) * 3))
            for own, paper in zip((ours, length), theirs, strict=True)
        ]
        a, b = ((ours[0], length[0]), theirs) if paper_is_b else (theirs, (ours[0], length[0]))
        found.append(
            {
                "model": name[0],
                "run": name[1],
                "seed": "all",
                "task": HEADLINE,
                "interval": "one side",
                "problems": sum(len(cell["tasks"][task]["solved"]) for task in study.headline),
                "a": a[0],
                "b": b[0],
                **dict(zip(("difference", "low", "high"), pairs[0], strict=True)),
                "length_a": a[1],
                "length_b": b[1],
                **dict(zip(("length_difference", "length_low", "length_high"), pairs[1], strict=True)),
                "seeds": " ".join(map(str, sorted(seeds))),
            }
        )
    return found, [" ".join(name) for name in study.cells if name not in values], lacking


def counts(table: pandas.DataFrame, confidence: float) -> list[str]:
    """How many intervals exclude zero, and how many would if nothing differed."""
    whole = table[(table.task == HEADLINE) & (table.seed == "all")]
    said = []
    for what, rows, low, high in (
        ("Headline accuracy of a cell, over problems", whole, "low", "high"),
        ("Headline accuracy of a cell, over training seeds", whole, "seeds_low", "seeds_high"),
        ("Length of a cell, over problems", whole, "length_low", "length_high"),
        ("Accuracy by task, single seeds too, over problems", table[table.task != HEADLINE], "low", "high"),
    ):
        known = rows[rows[low].notna()]
        if len(known):
            beyond = int(((known[low] > 0) | (known[high] < 0)).sum())
            said.append(
                f"{what}: {beyond} of {len(known)} intervals exclude zero; were nothing different, about "
                f"{len(known) * (1 - confidence):.1f} of {len(known)} would by chance."
            )
    return said


def plain(table: pandas.DataFrame) -> list[dict]:
    """Rows of a table, None for what is missing."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


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
    if given == (sides.PAPER,) * 2:
        records.fail("paper", "is on both sides", "Name a study on one of them")
    verdict = "correct_paper" if sides.PAPER in given else "correct"
    short = [
        side if side == sides.PAPER else re.sub(r"\W+", "-", Path(side).resolve().name) for side in given
    ]
    names = tuple(short) if short[0] != short[1] else (f"A {short[0]}", f"B {short[1]}")
    renames = ({}, dict(pair.split("=") for pair in args.rename))
    loaded = [
        None if side == sides.PAPER else sides.load(Path(side), name, verdict, rename)
        for side, name, rename in zip(given, names, renames, strict=True)
    ]
    a, b = loaded
    if a and b:
        for what in ("headline", "length"):
            if set(getattr(a, what)) != set(getattr(b, what)):
                records.fail(
                    f"{args.a}, {args.b}",
                    f"their {what} tasks differ ({', '.join(getattr(a, what))} and "
                    f"{', '.join(getattr(b, what))})",
                    f"Give both one report.{what} and make their tables again",
                )
        rows = [row for name in a.cells if name in b.cells for row in cell_rows(a, b, name, args.confidence)]
        missing = [
            [" ".join(n) for n in one.cells if n not in other.cells] for one, other in ((a, b), (b, a))
        ]
    else:
        rows, own, lacking = paper_rows(a or b, pandas.read_csv(args.reference), b is None, args.confidence)
        missing = [own, lacking] if a else [lacking, own]
    if not rows:
        records.fail(
            f"{args.a}, {args.b}", "have no cell in common", "Models may have other names: see --rename"
        )

    table = pandas.DataFrame(rows, columns=[*KEYS, "seeds", "problems", "interval", *ACCURACY, *LENGTH])
    whole = table[(table.task == HEADLINE) & (table.seed == "all")]
    out = args.out or Path("comparisons") / "-".join(short)
    with records.whole(out / "compare.csv") as temporary:
        table.to_csv(temporary, index=False)
    cells = whole[~whole.run.str.contains("@")]
    sized = cells.assign(examples=[sides.data_size(a or b, run) for run in cells.run]).dropna(
        subset="examples"
    )
    figures = {"differences": studies.forest(cells, names)}
    figures |= {"sizes": studies.against_size(sized, names) if len(sized) else None}
    for name, figure in figures.items():
        if figure:
            svg.save(figure, out / f"{name}.svg")
    said = counts(table, args.confidence)
    page = {
        "names": names,
        "given": given,
        "sides": loaded,
        "counts": said,
        "missing": missing,
        "figures": {name: figure and inline(out / f"{name}.svg") for name, figure in figures.items()},
        "kinds": studies.KINDS,
        "headline": HEADLINE,
        "whole": plain(whole),
        "rest": plain(table.drop(whole.index)),
        "provenance": records.provenance(args),
    }
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": number}
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page)
    with records.whole(out / "compare.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
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
    ]
    print(f"A: {args.a}   B: {args.b}   headline accuracy, difference B − A")
    print(whole[columns].round(3).to_string(index=False))
    print(
        *said,
        *(f"Only {name}: {', '.join(cells)}" for name, cells in zip(names, missing, strict=True) if cells),
        sep="\n",
    )
    records.done(f"comparison of {len(whole)} cells", out)


if __name__ == "__main__":
    main()
