"""Put what others need to check a study, or to redraw its page, into one folder, without weights.

    python scripts/release.py --study . --cells S/base/0 S/sft-64/0 --cards data/subsets/64/seed0.json \\
        --claims workflow/reference/claims.yaml --licences workflow/reference/licences.yaml --out release

The folder is a study of its own without models and training data: `make figures FROM=<folder>` rebuilds its
page from scores and grades in under a minute, on any machine; the claims that the study holds itself to are
in `report/claims.yaml`. Responses
(`responses/<model>/<run>/seed<seed>`) and problems (`tasks/`) lie beside the study's places, so that
redrawing never looks for them, and `make verify FROM=<folder>` grades them again. `SHA256SUMS` covers every
file, `README.md` is the data card with the licences.
"""

import math
import shutil
from pathlib import Path

import yaml

from valley import flags, grid, places, records

CELL = ("scores.json", "grades.parquet", "train.json", "curve.parquet", "trunk/train.json")
CONFIGS = ("cells", "summary", "problems", "claims", "claims_models")  # tables that the hub's viewer shows
LIMIT = 5 * 10**9  # bytes a file: above that the hub wants its large-file extension
REPORT = ("config.json", "provenance.json", "finding.txt", "page.html", "cells", "tables", "figures")


def copies(study: Path, cells: list[str], cards: list[Path]) -> list[Path]:
    """The files of a release, as paths below the study: those of CELL that a cell has, the cards, the
    report.
    """
    found = []
    for cell in map(grid.parse_cell, cells):
        folder = places.folder(study / "results", cell)
        found += [folder / name for name in CELL if (folder / name).exists()]
    report = [study / "report" / name for name in REPORT]
    found += [
        *cards,
        *(
            file
            for top in report
            for file in (sorted(top.rglob("*")) if top.is_dir() else [top])
            if file.is_file() and not file.name.startswith(".")
        ),
    ]
    return [file.relative_to(study) for file in found]


def write_responses(source: Path, out: Path, limit: int = LIMIT) -> list[Path]:
    """Copy a file of responses to `out`, as `<name>.part<n>.parquet` where it is larger than `limit` bytes.

    Rows are shared out evenly, so that parts are near the limit in size, not held to it exactly.
    """
    import pyarrow.parquet

    out.parent.mkdir(parents=True, exist_ok=True)
    parts = math.ceil(source.stat().st_size / limit)
    if parts <= 1:
        return [Path(shutil.copyfile(source, out))]
    with pyarrow.parquet.ParquetFile(source) as file:
        share = math.ceil(file.metadata.num_rows / parts)
        made = []
        for batch in file.iter_batches(batch_size=share):
            made.append(out.with_suffix(f".part{len(made)}.parquet"))
            records.write_parquet(made[-1], pyarrow.Table.from_batches([batch]))
    return made


def traces_of(config: dict, model: str, run: str) -> list[dict]:
    """The traces that an SFT run draws from: the study's, its pool's own, or those of the pools it mixes."""
    name = grid.pool_of(config, model, run)
    pools = [config["pools"][part] for part in config["pools"][name].get("mix", [name])] if name else [{}]
    return [pool.get("traces", config["traces"]) for pool in pools]


def sources(config: dict, cells: list[str]) -> list[str]:
    """The hub repositories that the cells derive from, that of the judge of their responses among them."""
    names = {(cell.model, cell.parsed) for cell in map(grid.parse_cell, cells)}
    entries = [
        *(config["models"][model] for model, _ in names),
        *(config["tasks"][task] for task in config["grid"]["tasks"]),
    ]
    entries += [entry for model, run in names if run.size for entry in traces_of(config, model, run.start)]
    trained = [grid.rl_settings(config, model, run.whole)["problems"] for model, run in names if run.rl]
    entries += [config["rl"]["sets"][problems] for problems in trained]
    entries += [config["models"][judge["model"]]] if (judge := config["report"]["judge"]) else []
    return sorted({entry["source"] for entry in entries} - {"pretrain", "synthetic", "arithmetic"})


def readme(config: dict, provenance: dict, finding: str, cells: list[str], licences: dict) -> str:
    """The data card: what this is, how to use it, what made it, under which licences."""
    unknown = "unknown here: look it up before you publish"
    lines = [f"- {source}: {licences.get(source, unknown)}" for source in sources(config, cells)]
    head = {
        "pretty_name": "A Valley study",
        "license": "other",
        "tags": ["reproduction", "chain-of-thought", "evaluation"],
        "configs": [{"config_name": name, "data_files": f"report/tables/{name}.parquet"} for name in CONFIGS],
    }
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
            "# A Valley study, released",
            "",
            finding,
            "",
            f"{len(cells)} cells: responses, grades and scores of every cell, the problems, training records, the cards of the training "
            "data, the report with its tables and figures. No weights, no training data.",
            "",
            "Rebuild the page in a checkout of Valley: `make figures FROM=<this folder>`. Grade the responses again and compare all "
            "numbers: `make verify FROM=<this folder>`. Check the files: `sha256sum -c SHA256SUMS`.",
            "",
            "## Where it comes from",
            "",
            f"Commit {', '.join(provenance['commits'])}; seeds {', '.join(map(str, provenance['seeds']))}; "
            f"{'; '.join(provenance['hardware'])}; {', '.join(provenance['versions'])}.",
            "",
            "## Columns",
            "",
            "`results/<model>/<run>/seed<seed>/grades.parquet` has a row a response: extracted answers, what each grader says, outcome class, tokens, "
            "finish reason. `scores.json` has avg@k and its intervals. Both are described in Valley's docs/grading.md and docs/report.md.",
            "",
            "## Licences of what this derives from",
            "",
            *(lines or ["Nothing: models and problems were made by Valley itself."]),
            "",
            "Tasks, responses, grades and examples quote problems, gold answers and model outputs: their licences apply to these.",
            "",
        ]
    )


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--study", required=True, type=Path, help="root of the study")
    parser.add_argument("--cells", required=True, nargs="+", help="model/run/seed")
    parser.add_argument("--cards", nargs="*", type=Path, default=[], help="cards of the subsets")
    parser.add_argument("--tasks", nargs="*", type=Path, default=[], help="the problems of the tasks")
    parser.add_argument("--claims", required=True, type=Path, help="the claims of the study")
    parser.add_argument("--licences", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    files = copies(args.study, args.cells, args.cards)
    report = args.study / "report"
    card = readme(
        records.read_json(report / "config.json"),
        records.read_json(report / "provenance.json"),
        (report / "finding.txt").read_text(encoding="utf-8").strip(),
        args.cells,
        yaml.safe_load(args.licences.read_text(encoding="utf-8")),
    )
    with records.whole_folder(args.out, "SHA256SUMS", "report/config.json") as folder:
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(args.study / file, folder / file)
        shutil.copyfile(args.claims, folder / "report/claims.yaml")
        for cell in map(grid.parse_cell, args.cells):
            ours, theirs = (
                places.folder(top, cell) for top in (args.study / "results", folder / "responses")
            )
            for file in sorted(ours.glob("responses/*.parquet")):
                write_responses(file, theirs / file.name)
            if (ours / "judged.parquet").exists():
                (theirs / "labels").mkdir()
                shutil.copyfile(ours / "judged.parquet", theirs / "labels/judged.parquet")
        (folder / "tasks").mkdir()
        for task in args.tasks:
            shutil.copyfile(task, folder / "tasks" / task.name)
        (folder / "README.md").write_text(card, encoding="utf-8")
        sums = [
            f"{records.sha256(file)}  {file.relative_to(folder)}"
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        ]
        (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf-8")
    print(f"To publish it: hf upload <you>/<name> {args.out} --repo-type dataset")
    records.done(f"release of {len(files)} files", args.out)


if __name__ == "__main__":
    main()
