"""What to read the scores beside: replicates, the paper's values, the training data; and the table for a
paper.

    python scripts/context.py --tables report/tables --reference workflow/reference/paper_fig2.csv --names S=pretrain \\
        --cards data/subsets/64/seed0.json

Reads `cells.csv` and `summary.csv` of the folder. Writes `replicates` (how far two trainings of the same cell
differ), `paper` (the paper's values, ours beside them), `subsets` (the cards of the training data) and
`accuracy.tex`.
"""

from pathlib import Path

import pandas

from aggregate import write
from valley import flags, records
from valley.grid import HEADLINE

PAIRS = 5  # fewer replicates give no idea of their spread
OURS = {
    "ours": "accuracy_paper",
    "ours_low": "accuracy_paper_low",
    "ours_high": "accuracy_paper_high",
    "length": "length",
}


def replicates(cells: pandas.DataFrame, confidence: float) -> pandas.DataFrame:
    """How far two trainings of the same cell differ: a row a model and measure, where it has PAIRS pairs of
    seeds or more.

    `sd` of one run, pooled over the runs with several seeds; `band`: what the difference of two such runs
    stays within.
    """
    from scipy import stats

    found = []
    table = cells[(cells.task == HEADLINE) & cells.step.isna()]
    for model, group in table.groupby("model", sort=False):
        runs = [run for _, run in group.groupby("run") if len(run) > 1]
        pairs = sum(len(run) * (len(run) - 1) // 2 for run in runs)
        if pairs < PAIRS:
            continue
        freedom = sum(len(run) - 1 for run in runs)
        for measure in ("accuracy", "length"):
            sd = (sum((len(run) - 1) * run[measure].var() for run in runs) / freedom) ** 0.5
            band = stats.t.ppf(0.5 + confidence / 2, freedom) * 2**0.5 * sd
            found.append({"model": model, "measure": measure, "pairs": pairs, "sd": sd, "band": band})
    return pandas.DataFrame(found, columns=["model", "measure", "pairs", "sd", "band"])


def beside_paper(
    cells: pandas.DataFrame, reference: pandas.DataFrame, names: dict[str, str]
) -> pandas.DataFrame:
    """The paper's values of our models, ours of the first seed beside them by the paper's verdict; a row a
    size.

    `examples` is ours where the two agree within a tenth (220k is all that is left of the traces, there and
    here).
    """
    found = []
    ours = cells[(cells.task == HEADLINE) & cells.stage.isin(["base", "sft"]) & (cells.recipe == "protocol")]
    for model, name in names.items():
        mine = ours[ours.model == model]
        for row in reference[reference.model.str.lower() == name.lower()].itertuples():
            near = (
                mine[(mine.examples - row.train_examples).abs() <= row.train_examples / 10]
                .sort_values("seed")
                .head(1)
            )
            found.append(
                {
                    "model": model,
                    "run": near.run.item() if len(near) else None,
                    "examples": near.examples.item() if len(near) else row.train_examples,
                    "paper": row.accuracy_pct / 100,
                    "paper_length": row.response_tokens,
                    "source": row.source,
                    **{key: near[column].item() if len(near) else None for key, column in OURS.items()},
                }
            )
    table = pandas.DataFrame(
        found, columns=["model", "run", "examples", "paper", "paper_length", "source", *OURS]
    )
    return table.assign(difference=table.ours.astype(float) - table.paper)


def subsets(cards: list[Path]) -> pandas.DataFrame:
    """What the training sets hold, a row a subset: its card, flat."""
    rows = []
    for path in cards:
        card = records.read_json(path)
        rows.append(
            {
                "size": path.parent.name,
                "order": path.stem,
                "examples": card["examples"],
                "tokens": card["tokens"]["mean"],
                "leaks_removed": card["leaks_removed"],
                "leak_share": card["leaks_removed"] / card["examples"],
                "reflective": card["reflective"],
                **{f"pool: {why}": count for why, count in card["dropped"].items()},
            }
        )
    return pandas.DataFrame(rows, columns=None if rows else ["size"]).sort_values(
        "examples" if rows else "size"
    )


def latex(table: pandas.DataFrame) -> str:
    """Accuracy in percent by model and run as a LaTeX table (booktabs): the mean, and in brackets the lowest
    and highest seed.

    With one seed the brackets hold the interval over problems.
    """
    rows = table[(table.task == HEADLINE) & table.stage.isin(["base", "sft"])]
    text = []
    for row in rows.itertuples():
        low, high = (row.lowest, row.highest) if row.seeds > 1 else (row.problems_low, row.problems_high)
        text.append(f"{100 * row.accuracy:.1f} {{\\scriptsize [{100 * low:.1f}, {100 * high:.1f}]}}")
    order = rows.sort_values("examples", kind="stable").run.unique()
    wide = rows.assign(text=text).pivot(index="model", columns="run", values="text")[order].fillna("--")
    return wide.rename_axis(index=None, columns=None).to_latex(column_format="l" + "r" * len(order))


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--tables", required=True, type=Path, help="folder of the tables, read and written")
    parser.add_argument("--reference", required=True, type=Path, help="the paper's values")
    parser.add_argument("--names", nargs="*", default=[], help="our model=the paper's name of it")
    parser.add_argument("--cards", nargs="*", type=Path, default=[], help="cards of the subsets")
    parser.add_argument("--confidence", type=float, default=0.95)
    args = parser.parse_args()

    cells = pandas.read_csv(args.tables / "cells.csv")
    names = dict(pair.split("=") for pair in args.names)
    tables = {
        "replicates": replicates(cells, args.confidence),
        "paper": beside_paper(cells, pandas.read_csv(args.reference), names),
        "subsets": subsets(args.cards),
    }
    for name, table in tables.items():
        write(table, args.tables / f"{name}.csv")
    with records.whole(args.tables / "accuracy.tex") as temporary:
        temporary.write_text(latex(pandas.read_csv(args.tables / "summary.csv")), encoding="utf-8")
    records.done(f"{len(tables) + 1} tables beside the scores", args.tables)


if __name__ == "__main__":
    main()
