"""Set a study beside the paper: its figures 2 to 7 and tables with ours, and a report as reproducibility
challenges ask.

    python scripts/paper.py --report studies/miniature/report --out /tmp/paper

Reads the tables, provenance.json and config.json of a report, so a released folder will do. Writes
`figure2.pdf` … (figure 6, two responses side by side, as `figure6.tex`), a `.tex` a table, and
`reproduction.tex`, which holds it all: its first page is the report in the form of the ML Reproducibility
Challenge. What no table knows (what was easy, what was difficult, what the authors said) is left to the
author, in red. Figures that the study has no data for are named.
"""

from pathlib import Path

import pandas

from valley import check, flags, records
from valley.analysis import reproduction
from valley.analysis.measures import Tasks
from valley.figures import latex, paper, svg, tidy

ROOT = check.ROOT
REFERENCE = ROOT / "workflow/reference/paper_text.csv"
TEMPLATE = ROOT / "workflow/report/reproduction.tex.jinja"
FIGURES = {
    2: (paper.figure_2, "accuracy and response length by data size"),
    3: (paper.figure_3, "share of reflective responses"),
    4: (paper.figure_4, "length of reflective and of other responses"),
    5: (paper.figure_5, "arithmetic: accuracy and length"),
    6: (None, "the same problem before and after SFT on the smallest size, first wrong calculation in bold"),
    7: (paper.figure_7, "RL from different starts"),
}
READ = ("cells", "paper", "replicates", "rl_curves")


def draw(report: Path, tables: dict, tasks: Tasks, out: Path) -> list[int]:
    """Write each figure that the study has data for; their numbers."""
    made = []
    for number, (of, _) in FIGURES.items():
        figure = of(tables, tasks)[0] if of else None
        if figure:
            svg.save_pdf(figure, out / f"figure{number}.pdf")
        examples = report / "tables/examples.parquet"
        pair = (
            reproduction.before_and_after(pandas.read_parquet(examples))
            if examples.exists() and not of
            else []
        )
        if pair:
            (out / f"figure{number}.tex").write_text(latex.columns(pair), encoding="utf-8")
        made += [number] if figure or pair else []
    return made


def write_tables(tables: dict, config: dict, papers: dict, out: Path) -> list[dict]:
    """Write the tables as LaTeX: {name, caption, long} of each."""
    made = []

    def write(name: str, caption: str, table: pandas.DataFrame, letters: str, long: bool = False):
        (out / f"{name}.tex").write_text(
            latex.booktabs(table, letters, *([caption, name] if long else [])), encoding="utf-8"
        )
        made.append({"name": name, "caption": caption, "long": long})

    settings = reproduction.settings_table(config, papers)
    write("settings", "Epochs and global batch by data size, the paper's and ours.", settings, "lrrrr")
    for measure, unit in (("accuracy", "in percent, by the paper's grader"), ("length", "in tokens")):
        table = reproduction.wide(
            reproduction.values_beside(tables["cells"], tables["paper"], measure), measure
        )
        ends = "Brackets: lowest and highest seed, or the interval over problems of one."
        write(
            measure,
            f"Mean {measure} {unit}, ours and the paper's. {ends}",
            table,
            "ll" + "r" * (len(table.columns) - 2),
        )
    parts = reproduction.parts(tables["claims"])
    write("claims", "Claims part by part.", parts, r"lp{2.6cm}p{6.2cm}p{1.9cm}p{4.2cm}", long=True)
    if departures := reproduction.departures(config, papers):
        caption = "In what the study departs from the paper's protocol, or from our reading of it."
        shown = pandas.DataFrame(departures).map(reproduction.setting_text)
        write("departures", caption, shown, r"llp{6cm}p{6cm}", long=True)
    return made


def main():
    parser = flags.parser(__doc__)
    parser.add_argument(
        "--report", required=True, type=Path, help="folder of tables/, provenance.json, config.json"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    args = parser.parse_args()

    config, papers = records.read_json(args.report / "config.json"), check.load([])
    folder = args.report / "tables"
    tables = {name: tidy.read_table(folder / f"{name}.csv") for name in READ}
    if tables["cells"].empty:
        records.fail(folder / "cells.csv", "holds no cell", "Score some cells first: make run, make page")
    tables |= {name: pandas.read_csv(folder / f"{name}.csv") for name in ("claims", "costs")}
    tables["text"] = reproduction.of_models(pandas.read_csv(REFERENCE), config, set(tables["cells"].model))
    tasks = Tasks(*(config["report"][key] for key in ("headline", "length", "calculations")))
    with records.whole_folder(args.out, "reproduction.tex") as out:
        out.mkdir()
        figures = draw(args.report, tables, tasks, out)
        made = write_tables(tables, config, papers, out)
        told = reproduction.report(
            tables, config, papers, records.read_json(args.report / "provenance.json"),
            (args.report / "finding.txt").read_text(encoding="utf-8").strip(),
        )  # fmt: skip
        text = latex.document(
            TEMPLATE,
            study=Path(config["root"]).name or "paper",
            tables=made,
            figures=[{"number": number, "caption": FIGURES[number][1]} for number in figures],
            missing=[f"figure {n}, {said}" for n, (_, said) in FIGURES.items() if n not in figures],
            **told,
        )
        (out / "reproduction.tex").write_text(text, encoding="utf-8")
    lacking = len(FIGURES) - len(figures)
    print(f"Compile it: cd {args.out} && pdflatex reproduction.tex")
    records.done(f"{len(figures)} figures ({lacking} lack data), {len(made)} tables, 1 report", args.out)


if __name__ == "__main__":
    main()
