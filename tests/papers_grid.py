"""The paper's grid with made-up grades of the real size, as a released folder: what its report costs to make.

PYTHONPATH=scripts python tests/papers_grid.py /tmp/paper
time make figures FROM=/tmp/paper
"""

import json
import sys
from pathlib import Path

import forge
import numpy
import pandas
import score

from valley import grid, places, records


def main(out: Path):
    """Forge the grid and write grades, scores, curves, cards and problems below `out`."""
    report = forge.CONFIG["report"]
    asked = grid.cells(forge.CONFIG)
    made = forge.honest(numpy.random.default_rng(0), noise=0.015, rl=True)
    forge.on_disk({cell: answers for cell, answers in made.items() if cell in asked}, out)
    for cell in made:
        folder = places.folder(out / "results", cell)
        rows = records.read_parquet(folder / "grades.parquet").to_pylist()
        for row in rows:
            row["copied"] = False
        tasks = {
            task: score.score_task([row for row in rows if row["task"] == task], report["confidence"])
            for task in forge.forged.PAPER_DESIGN
        }
        found = score.score(tasks, report["headline"], report["length"], report["confidence"])
        records.write_json(folder / "scores.json", found)
        if cell.parsed.rl and cell.parsed.step is None:
            records.write_parquet(
                folder / "curve.parquet", [{"step": i, "reward": 0.2} for i in range(1, 101)]
            )
    for size, examples in forge.EXAMPLES.items():
        card = {
            "examples": examples,
            "tokens": {"mean": 6000.0},
            "leaks_removed": 0,
            "reflective": 0.9,
            "dropped": {},
        }
        records.write_json(out / f"data/subsets/{size}/seed0.json", card)
    for task, (count, _) in forge.forged.PAPER_DESIGN.items():
        problems = [{"id": f"{i:04}", "problem": f"What is {i}?", "answer": str(i)} for i in range(count)]
        records.write_parquet(out / f"data/tasks/{task}.parquet", problems)
    report_of_records(out / "report")


def report_of_records(folder: Path):
    """What a release's report holds that is made of records and responses, which this study has none of."""
    (folder / "cells").mkdir(parents=True)
    (folder / "tables").mkdir()
    pandas.DataFrame(columns=["shown", "task", "model", "run", "id"]).to_parquet(
        folder / "tables/examples.parquet"
    )
    cost = {"rule": "sft", "jobs": 54, "wall_seconds": 9e6, "work_seconds": 8.9e6, "start_up_share": 0.01}
    pandas.DataFrame([cost]).to_csv(folder / "tables/costs.csv", index=False)
    names = ("commits", "seeds", "hardware", "python", "versions", "locks")
    told = {
        "uncommitted_changes": False,
        "warnings": {},
        "finished": "never",
        "gpu_hours": {"training": 0.0, "generation": 0.0},
    }
    records.write_json(folder / "provenance.json", {name: [] for name in names} | told)
    (folder / "config.json").write_text(json.dumps(forge.CONFIG), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
