"""Put a study on one page: verdicts, figures, examples, tables, what it cost and where it comes from.

    python scripts/page.py --study miniature --report report --figures valley outcomes \\
        --captions workflow/report \\
        --template workflow/report/page.html.jinja --claims workflow/reference/claims.yaml \\
        --grid S/base/0 S/sft-64/0 --miniature --out /tmp/page.html

Reads only what lies under `--report` (tables, figures, provenance.json, config.json) and what the claims
expect, so a released folder is enough. The page is one HTML file that needs no network: panels to choose
from, figures as inline SVG whose points tell their values, tables that sort. Its dots lead to the pages of
cells beside it (cell_pages.py).
"""

import json
from pathlib import Path

import pandas
import yaml

from valley import chain, flags, grid, places, records
from valley.analysis.measures import ACCURACIES
from valley.figures import html, multiples, tidy, verdicts
from valley.grid import HEADLINE, Cell

PAPERS_CLAIMS = Path(__file__).resolve().parents[1] / "workflow/reference/claims.yaml"
PARQUET = ("examples",)  # tables with texts that no CSV should hold


def read(folder: Path) -> dict[str, list[dict]]:
    """All tables of a report as rows; NaN is None, and counts stay counts where one is missing."""
    files = [*folder.glob("*.csv"), *(folder / f"{name}.parquet" for name in PARQUET)]
    tables = {
        file.stem: pandas.read_csv(file, dtype_backend="numpy_nullable")
        if file.suffix == ".csv"
        else records.read_parquet(file).to_pandas()
        for file in files
        if file.exists()
    }
    return {
        name: table.astype(object).where(table.notna(), None).to_dict("records")
        for name, table in tables.items()
    }


def pick(rows: list[dict], *columns: str, **wanted) -> list[dict]:
    """The rows that hold the wanted values, with these columns in this order."""
    return [
        {name: row.get(name) for name in columns}
        for row in rows
        if all(row.get(k) == v for k, v in wanted.items())
    ]


def graders(cells: list[dict]) -> list[dict]:
    """What each grader says of each run, mean over seeds: accuracies, disputes, what the last number adds."""
    columns = [
        "accuracy",
        *ACCURACIES,
        "boxed",
        "paper_only",
        "headline_only",
        "last_number",
        "timeout",
        "copied",
    ]
    table = pandas.DataFrame(pick(cells, "model", "run", "step", "seed", *columns, task=HEADLINE))
    table = table[table.step.isna()].astype(dict.fromkeys(columns, float))
    return table.groupby(["model", "run"], sort=False)[columns].mean().reset_index().to_dict("records")


def checkpoints(rows: list[dict]) -> set[str]:
    """The runs among these rows that are checkpoints along RL."""
    return {row["run"] for row in rows if grid.parse_run(row["run"]).step is not None}


def drop(rows: list[dict]) -> list[dict]:
    """The split of each run's drop, mean over seeds, and what became of the problems its base solved."""
    table = pandas.DataFrame(rows)
    table = table[~table.run.isin(checkpoints(rows))].astype({"change": float, "of_solved": float})
    wide = table.pivot_table(
        index=["model", "run"], columns="outcome", values=["change", "of_solved"], sort=False
    )
    wide.columns = [f"{'Δ ' if kind == 'change' else 'solved → '}{outcome}" for kind, outcome in wide.columns]
    return wide.reset_index().to_dict("records")


def missing(grid: list[str], cells: list[dict]) -> list[str]:
    """Cells the grid asks for that have no scores yet."""
    there = {f"{row['model']}/{row['run']}/{row['seed']}" for row in cells}
    return [cell for cell in grid if cell not in there]


def claims(parts: list[dict], models: list[dict], asked: dict) -> list[dict]:
    """The claims with their parts, these with their rows a model, and all of them drawn against what is
    `asked`.
    """
    for part in parts:
        of = asked.get(part["claim"], {}).get("parts", {}).get(part["part"], {})
        part["expect"] = of.get("expect")
        part["models"] = [
            row for row in models if (row["claim"], row["part"]) == (part["claim"], part["part"])
        ]
        part["columns"] = [name for name in (part["models"] or [{}])[0] if name not in ("claim", "part")]
        for row, drawn in zip(
            part["models"], verdicts.each_against_threshold(part["models"], part["expect"]), strict=True
        ):
            row["forest"] = drawn
    whole = [part for part in parts if not part["part"]]
    for claim in whole:
        claim["parts"] = [p for p in parts if p["claim"] == claim["claim"] and p["part"]]
        claim["forest"] = verdicts.against_threshold([(p["models"], p["expect"]) for p in claim["parts"]])
        same = [part for part in claim["parts"] if part["verdict"] == claim["verdict"] and part["why"]]
        claim["decide"] = claim.get("but") or (f"{same[0]['part']}: {same[0]['why']}" if same else "")
    return whole


def back(row: dict, sizes: dict[float, str]) -> str:
    """Where a model gets back to its base, as its panel's head says it; `sizes` are names by examples."""
    if not row["after"]:
        return "never below its base"
    return "does not recover" if row["by"] == float("inf") else f"recovers by {sizes[row['by']]}"


def panels(
    tables: dict[str, pandas.DataFrame], series: list[str], finding: str, recovery: list[dict]
) -> list[dict]:
    """The panels of the first screen, each with its sentence: the finding on the headline, else what it
    shows; those of the headline with where the model recovers.
    """
    sentences = dict(text.split(", ", 1) for text in finding.split("; ") if ", " in text)
    trained = tidy.sft_cells(tables)
    trained = trained[trained.run != "base"]
    sizes = dict(zip(trained.examples, (grid.parse_run(run).size for run in trained.run), strict=True))
    backs = {row["model"]: back(row, sizes) for row in recovery}
    found = multiples.multiples(tables, series)
    for panel in found:
        of_headline = panel["task"] == HEADLINE
        panel["sentence"] = (of_headline and sentences.get(panel["model"])) or panel["said"]
        panel["back"] = backs.get(panel["model"], "") if of_headline else ""
    return found


def duration(seconds: float) -> str:
    """A time for people: hours, or minutes below two hours."""
    return f"{seconds / 3600:,.0f} hours" if seconds >= 7200 else f"{max(1, round(seconds / 60))} minutes"


def spent(costs: list[dict]) -> float:
    """Wall seconds of all jobs, by the table `costs`, which sums them in a row `all`, too."""
    return sum(row["wall_seconds"] or 0 for row in costs if row["rule"] != "all")


def one_training(cells: list[dict]) -> bool:
    """True where no run that was trained has two seeds."""
    trained = {(row["model"], row["run"], row["seed"]) for row in cells if row["stage"] != "base"}
    return len({(model, run) for model, run, _ in trained}) == len(trained)


def figure(svg: Path, captions: Path) -> tuple:
    """(name, the SVG with what it shows in words, the caption, the same as in Snakemake's report) of a
    figure.
    """
    caption = " ".join((captions / f"{svg.stem}.rst").read_text(encoding="utf-8").split())
    said = html.alt(pandas.read_csv(svg.with_suffix(".csv")))
    return svg.stem, html.inline(svg, said), caption


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--study", required=True, help="name of the study")
    parser.add_argument(
        "--report", required=True, type=Path, help="folder of tables/, figures/, provenance.json, config.json"
    )
    parser.add_argument("--figures", required=True, nargs="+", help="names, in the order of the page")
    parser.add_argument("--captions", required=True, type=Path)
    parser.add_argument("--template", required=True, type=Path)
    parser.add_argument(
        "--grid", required=True, nargs="+", help="model/run/seed of every cell that the grid asks for"
    )
    parser.add_argument("--miniature", action="store_true", help="say what a miniature can and cannot show")
    parser.add_argument("--claims", required=True, type=Path, help="what the claims expect (claims.yaml)")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    folder = args.report / "tables"
    config = (args.report / "config.json").read_text(encoding="utf-8")
    own = Path(json.loads(config)["report"]["claims"])  # by the study's name for it, also in a release
    tables, finding = read(folder), (args.report / "finding.txt").read_text(encoding="utf-8").strip()
    frames = {name: tidy.read_table(folder / f"{name}.csv") for name in ("cells", "paper", "replicates")}
    series = sorted(set(tidy.sft_cells(frames).recipe.dropna()) - {"protocol"})
    drawn = panels(frames, series, finding, tables["recovery"])
    cells = [Cell(row["model"], row["run"], row["seed"]) for row in tables["cells"] if row["step"] is None]
    page = html.render(
        args.template,
        study=args.study,
        miniature=chain if args.miniature else None,
        t=tables,
        pick=pick,
        panels=drawn,
        models=list(dict.fromkeys(panel["model"] for panel in drawn)),
        tasks=list(dict.fromkeys(panel["task"] for panel in drawn)),
        legend=multiples.keys(frames, series),
        pages={(cell.model, cell.run): places.page_of(cell) for cell in reversed(cells)},
        figures=[figure(args.report / f"figures/{name}.svg", args.captions) for name in args.figures],
        claims=claims(
            tables["claims"], tables["claims_models"], yaml.safe_load(args.claims.read_text(encoding="utf-8"))
        ),
        claims_of=None if own.resolve() == PAPERS_CLAIMS else own,
        one_training=one_training(tables["cells"]),
        graders=graders(tables["cells"]),
        disputes=any(row["paper_only"] or row["headline_only"] for row in tables["cells"]),
        drop=drop(tables["drop"]),
        checkpoints=checkpoints(tables["cells"]),
        missing=missing(args.grid, tables["cells"]),
        spent=duration(spent(tables["costs"])),
        grid=args.grid,
        provenance=records.read_json(args.report / "provenance.json"),
        config=config,
        page=records.provenance(args),
    )
    with records.whole(args.out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    records.done(f"page of {len(tables['cells'])} rows", args.out)


if __name__ == "__main__":
    main()
