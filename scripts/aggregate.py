"""Collect the scores of all cells into tables, and the finding in a sentence.

    python scripts/aggregate.py --scores results/*/*/seed*/scores.json --tables report/tables \\
        --examples 8k=8000 \\
        --headline math500 --reference workflow/reference/paper_fig2.csv --finding /tmp/finding.txt

`cells` has a row a cell and task, with its change against the base, paired problem by problem
(`problems.parquet`, which analyse.py makes); `summary` one a model and run over seeds. Beside them what to
read the scores against: `replicates` (how far two trainings of the same cell differ), `paper` (the paper's
values, ours beside them), `subsets` (the training data), `rl_curves`, `crossings` (keywords × judge) and, for
a paper, `accuracy.tex`.

A cell is known by its path `…/<model>/<run>/seed<seed>/scores.json`. The end point of an RL run is the mean
of its last three evaluated checkpoints, never the best one. Every CSV has a parquet twin.
"""

from pathlib import Path

import pandas

from valley import flags, places, records
from valley.analysis import summary, tables
from valley.analysis.cells import Study, answers
from valley.analysis.paper import beside_paper
from valley.grid import HEADLINE


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--scores", required=True, type=Path, nargs="+")
    parser.add_argument("--curves", type=Path, nargs="*", default=[], help="learning curves of RL runs")
    parser.add_argument("--cards", type=Path, nargs="*", default=[], help="cards of the subsets")
    parser.add_argument("--examples", nargs="*", default=[], help="size=count, the data axis")
    parser.add_argument(
        "--headline", nargs="+", required=True, help="tasks whose mean is the headline accuracy"
    )
    parser.add_argument("--reference", required=True, type=Path, help="the paper's values")
    parser.add_argument("--names", nargs="*", default=[], help="our model=the paper's name of it")
    flags.add_bases(parser)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--tables", required=True, type=Path, help="folder of the tables, read and written")
    parser.add_argument("--finding", required=True, type=Path)
    args = parser.parse_args()

    examples = flags.pairs(args.examples, int)
    scores = {places.cell_of(path): records.read_json(path) for path in args.scores}
    problems = records.read_parquet(args.tables / "problems.parquet").to_pandas()
    cells = pandas.DataFrame(
        [row for cell, found in scores.items() for row in summary.cell_rows(cell, found, examples)]
    )
    study = Study(answers(problems), scores, examples, args.trained_bases)
    cells = summary.add_changes(cells, study, args.headline, args.confidence)
    cells = summary.add_tokens(
        cells, {places.cell_of(path): path.with_name("train.json") for path in args.scores}
    )
    over_seeds = summary.summary(cells, args.confidence, args.trained_bases)
    made = {
        "cells": cells,
        "summary": over_seeds,
        "rl_curves": summary.curves({places.cell_of(path): path for path in args.curves}),
        "crossings": summary.crossings(scores),
        "replicates": summary.replicates(cells, args.confidence, args.trained_bases),
        "paper": beside_paper(cells, pandas.read_csv(args.reference), flags.pairs(args.names)),
        "subsets": summary.subsets(args.cards),
    }
    tables.write(args.tables, made)
    for path, text in (
        (args.tables / "accuracy.tex", summary.latex(over_seeds)),
        (args.finding, summary.finding(over_seeds[over_seeds.task == HEADLINE]) + "\n"),
    ):
        with records.whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    records.done(f"{len(made) + 1} tables of {len(scores)} cells", args.tables)


if __name__ == "__main__":
    main()
