"""Put a study on one page: the finding, the figures, the tables, what it cost and where it comes from.

    python scripts/page.py --study studies/miniature --template workflow/report/page.html.jinja --cells report/tables/cells.csv \\
        --summary report/tables/summary.csv --costs report/tables/costs.csv --finding report/finding.txt \\
        --figures report/figures/*.svg --results results --out /tmp/page.html

The page is one HTML file without scripts or network: figures are inline SVG, it opens from a disk or an e-mail.
"""

import re
from pathlib import Path

import jinja2
import markupsafe
import pandas

from aggregate import HEADLINE
from valley import flags, records

CAPTIONS = {
    "valley": "Accuracy and response length against the number of training examples. Dots are training seeds with their 95 % "
    "interval over problems, lines the mean over seeds, the dashed line the base and the grey band the range of the bases.",
    "outcomes": "How responses end, mean over seeds. Truncated and looping responses reached the token limit.",
    "rl": "Held-out accuracy along RL by start (an end point is the mean of the last three checkpoints, never the best), "
    "response length, and the reward on the training problems.",
}


def inline(svg: Path) -> markupsafe.Markup:
    """The SVG as an element of the page, without XML header and fixed size."""
    text = svg.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    return markupsafe.Markup(re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*"', r"\1", text, count=2))


def number(value) -> str:
    """A table cell: three decimals below ten and none above, thousands grouped, nothing for a missing value."""
    if value is None or (isinstance(value, float) and pandas.isna(value)):
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def long_minus_short(cells: pandas.DataFrame) -> list[dict]:
    """Accuracy of a run minus that of its `.short` control on the same problems and seeds: the effect of long chains of thought.

    One entry a model and size: mean difference over seeds, its extremes, the number of seeds.
    """
    sft = cells[(cells.task == HEADLINE) & (cells.stage == "sft")]
    keys = ["model", "examples", "seed"]
    pairs = sft[sft.recipe == "protocol"].merge(sft[sft.recipe == "short"], on=keys, suffixes=("", "_short"))
    pairs["difference"] = pairs.accuracy - pairs.accuracy_short
    grouped = pairs.groupby(["model", "examples"], sort=False).difference.agg(["mean", "min", "max", "size"])
    return grouped.reset_index().to_dict("records")


def graders(cells: pandas.DataFrame) -> list[dict]:
    """What each grader says of each run, mean over seeds: accuracies, rates of disagreement, what the last number adds."""
    columns = ["accuracy", "accuracy_boxed", "accuracy_paper", "boxed", "paper_only", "headline_only", "last_number", "timeout"]
    table = cells[(cells.task == HEADLINE) & cells.step.isna()].groupby(["model", "run"], sort=False)[columns].mean()
    return table.reset_index().to_dict("records")


def shown(cells: pandas.DataFrame) -> list[tuple[str, str, int]]:
    """The cells whose responses the page shows: base, smallest and largest SFT run of each model, first seed."""
    found = []
    sft = cells[(cells.task == HEADLINE) & cells.step.isna() & (cells.recipe == "protocol") & (cells.stage != "rl")]
    for model, group in sft.groupby("model", sort=False):
        runs = group.sort_values("examples").run.unique()
        found += [(model, run, group.seed.min()) for run in dict.fromkeys([runs[0], *runs[1:2], runs[-1]])]
    return found


def examples(results: Path, model: str, run: str, seed: int, each: int = 2) -> list[dict]:
    """A few stored responses of one cell: of every outcome class, and of every way in which the graders disagree."""
    found = []
    folder = results / model / run / f"seed{seed}"
    grades = records.read_parquet(folder / "grades.parquet").to_pandas()
    grades["kind"] = grades.outcome
    differ = grades[grades.correct != grades.correct_paper].copy()
    differ["kind"] = [
        "headline only" if row.correct else f"paper only, by its {row.source_paper}" for row in differ.itertuples()
    ]
    for (kind, task), rows in pandas.concat([grades, differ]).groupby(["kind", "task"]):
        texts = records.read_parquet(folder / "responses" / f"{task}.parquet", ["id", "sample", "prompt", "response"])
        for row in rows.head(each).merge(texts.to_pandas(), on=["id", "sample"]).itertuples():
            text = row.response if len(row.response) < 1200 else f"{row.response[:600]} […] {row.response[-500:]}"
            found.append(
                {"model": model, "run": run, "kind": kind, "prompt": row.prompt, "text": text, "gold": row.gold,
                 "answer": row.answer, "answer_paper": row.answer_paper, "differs": row.correct != row.correct_paper}
            )  # fmt: skip
    return found


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--study", required=True, type=Path, help="root of the study")
    parser.add_argument("--miniature", action="store_true", help="say what a miniature can and cannot show")
    parser.add_argument("--template", required=True, type=Path)
    parser.add_argument("--cells", required=True, type=Path)
    parser.add_argument("--summary", required=True, type=Path)
    parser.add_argument("--costs", required=True, type=Path)
    parser.add_argument("--finding", required=True, type=Path)
    parser.add_argument("--figures", required=True, type=Path, nargs="+")
    parser.add_argument("--results", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    cells, summary = pandas.read_csv(args.cells), pandas.read_csv(args.summary)
    headline = summary[summary.task == HEADLINE]
    columns = [
        "model",
        "run",
        "examples",
        "seeds",
        "accuracy",
        "lowest",
        "highest",
        "change",
        "above_base",
        "length",
        "boxed",
        "truncated",
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = number
    html = environment.from_string(args.template.read_text(encoding="utf-8")).render(
        study=args.study.name or "paper", miniature=args.miniature, finding=args.finding.read_text(encoding="utf-8").strip(),
        figures=[(path.stem, inline(path), CAPTIONS.get(path.stem, "")) for path in args.figures],
        summary=headline[columns].astype(object).to_dict("records"), columns=columns,
        costs=pandas.read_csv(args.costs).astype(object).to_dict("records"),
        differences=long_minus_short(cells),
        graders=graders(cells), examples=[e for cell in shown(cells) for e in examples(args.results, *cell)], cells=cells[["model", "run", "seed"]].drop_duplicates().shape[0],
        provenance=records.provenance(args),
    )  # fmt: skip
    with records.whole(args.out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    records.done(f"page of {len(cells)} rows", args.out)


if __name__ == "__main__":
    main()
