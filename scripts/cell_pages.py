"""A page for every cell: what it is, what made it, how it went, and a sample of its responses beside the
base's.

    python scripts/cell_pages.py --study . --config report/config.json --cells S/base/0 S/sft-64/0 \\
        --template workflow/report/cell.html.jinja \\
        --out /tmp/cells

The page of a study leads here from every dot. Each page is a file of its own that needs no network, so that
the study's page stays small; responses are a fixed sample: the first ones of every task and outcome, in the
order of the problems.
"""

from pathlib import Path

import numpy
import pandas

from valley import flags, grading, grid, places, records
from valley.analysis import responses
from valley.analysis.cells import base_among
from valley.figures import html
from valley.grid import Cell

EACH = 5  # responses of a task and outcome
BINS = 24  # of the histogram of lengths
SHOWN = ["task", "id", "sample", "outcome", *grading.GRADERS.values(), "gold", "answer", "answer_paper",
         "tokens", "finish_reason", "prompt", "before", "error", "after"]  # fmt: skip


def shown(table: pandas.DataFrame) -> list[dict]:
    """Responses as the page shows them; an answer that no grader found is None."""
    table = responses.in_pieces(table)[SHOWN].astype(object)
    return table.where(table.notna(), None).to_dict("records")


def sample(table: pandas.DataFrame, base: pandas.DataFrame | None) -> list[dict]:
    """Responses to show: EACH of every task and outcome, each with the base's first response to the problem
    (`beside`).
    """
    chosen = table.groupby(["task", "outcome"], sort=False).head(EACH).sort_values(["task", "id", "sample"])
    rows = shown(chosen)
    if base is None:
        return [row | {"beside": None} for row in rows]
    wanted = base.merge(chosen[["task", "id"]].drop_duplicates(), on=["task", "id"])
    by_problem = {(row["task"], row["id"]): row for row in shown(wanted.drop_duplicates(["task", "id"]))}
    return [row | {"beside": by_problem.get((row["task"], row["id"]))} for row in rows]


def lengths(grades: pandas.DataFrame) -> list[dict]:
    """Bars of the histogram of lengths: {from, to, count} by equal widths from 0 to the longest response."""
    counts, edges = numpy.histogram(grades.tokens, BINS, (0, max(1, grades.tokens.max())))
    return [
        {"from": int(low), "to": int(high), "count": int(n)}
        for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def shares(grades: pandas.DataFrame) -> list[dict]:
    """How responses end, a row a task: {task, outcome: share, …}."""
    table = pandas.crosstab(grades.task, grades.outcome, normalize="index").reindex(
        columns=list(grading.OUTCOMES), fill_value=0.0
    )
    return table.reset_index().to_dict("records")


def curve(folder: Path, trained: dict | None) -> tuple[str, list[tuple[float, float]]]:
    """(what it is, its points over steps) of training: the reward of RL, the loss of SFT, nothing of a
    base.
    """
    if (file := folder / "curve.parquet").exists():
        table = pandas.read_parquet(file)
        return "reward", list(zip(table.step.astype(float), table.reward.astype(float), strict=True))
    return "loss", [(row["step"], row["loss"]) for row in (trained or {}).get("loss", []) if "loss" in row]


def made(results: Path, cell: Cell) -> dict[str, dict]:
    """What made the cell, by stage: training, where it is trained, and the generation of each task."""
    folder = places.folder(results, cell)
    train = folder / "train.json"
    found = {"training": records.read_json(train)} if train.exists() else {}
    for file in sorted((folder / "responses").glob("*.parquet")):
        found[f"responses to {file.stem}"] = records.parquet_provenance(file)
    return found


def cell_page(study: Path, config: dict, cell: Cell, bases: dict, template: Path) -> str:
    """The page of a cell. `bases` holds the responses of the bases, by cell."""
    results, parsed = study / "results", cell.parsed
    folder = places.folder(results, cell)
    table = responses.load(results, cell)
    card = places.Places(config | {"root": study}).subset_of(cell, "json") if parsed.size else None
    stages = made(results, cell)
    kind, points = curve(folder, stages.get("training"))
    trained = [cell.model] if grid.is_pretrained_here(config, cell.model) else []
    base = base_among(bases, cell, trained)
    return html.render(
        template,
        cell=cell,
        scores=records.read_json(folder / "scores.json"),
        stages=stages,
        curve=html.small_curve(points, f"{kind} over {len(points)} steps") if points else "",
        curve_of=kind,
        lengths=lengths(table),
        shares=shares(table),
        card=records.read_json(card) if card and card.exists() else None,
        probe=records.read_json(folder / "probe.json") if (folder / "probe.json").exists() else None,
        responses=sample(table, bases[base] if base and base != cell else None),
        of=len(table),
        base=base,
        outcomes=list(grading.OUTCOMES),
        graders=grading.GRADERS,
    )


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--study", required=True, type=Path, help="root of the study")
    parser.add_argument("--config", required=True, type=Path, help="its configuration (report/config.json)")
    parser.add_argument("--cells", required=True, nargs="*", help="model/run/seed")
    parser.add_argument("--template", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    cells, config = [grid.parse_cell(name) for name in args.cells], records.read_json(args.config)
    bases = {cell: responses.load(args.study / "results", cell) for cell in cells if cell.run == "base"}
    with records.whole(args.out) as folder:
        folder.mkdir()  # empty where checkpoints along RL are all that is scored
        for cell in cells:
            file = folder / Path(places.page_of(cell)).relative_to("cells")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(cell_page(args.study, config, cell, bases, args.template), encoding="utf-8")
    records.done(f"pages of {len(cells)} cells", args.out)


if __name__ == "__main__":
    main()
