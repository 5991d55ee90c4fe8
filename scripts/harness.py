"""Put a released folder's scores and responses into the files of lm-evaluation-harness, for its tools and
those around it.

    python scripts/harness.py --release studies/miniature/release --out /tmp/harness

A folder a cell, `<model>__<run>__<seed>`, with `results_<date>.json` and a `samples_<task>_<date>.jsonl` a
task (texts as they are, not compressed: several times the parquet). Nothing is graded again; metrics are the
released grades: `exact_match` by the headline grader, `exact_match_boxed` and `exact_match_paper` by the
others, each avg@k.
"""

import json
import sys
from pathlib import Path

from valley import flags, places, records
from valley.analysis import harness, responses


def export_cell(release: Path, grades: Path, source: str, out: Path) -> int:
    """Write one cell; how many responses it has."""
    cell = places.cell_of(grades)
    released = responses.released(places.folder(release / "responses", cell))
    if not released:
        records.fail(grades, "has no responses beside it", "Name a folder that `make release` made")
    table, lines, told = records.read_parquet(grades).to_pandas(), {}, {}
    for task, rows in released.items():
        problems = records.read_parquet(release / "tasks" / f"{task}.parquet").to_pylist()
        told[task] = json.loads((rows.schema.metadata or {}).get(b"valley", b"{}"))
        found = harness.samples(table[table.task == task], rows.to_pandas(), problems, told[task])
        if sum(len(line["resps"][0]) for line in found) != rows.num_rows:
            records.fail(grades, f"does not fit the responses to {task}", "Release the study again")
        lines[task] = found
    folder, date = out / harness.folder_of(cell), harness.date_of(told)
    records.write_json(folder / f"results_{date}.json", harness.whole_results(cell, lines, told, source))
    for task, found in lines.items():
        with open(folder / f"samples_{task}_{date}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in found)
    return len(table)


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--release", required=True, type=Path, help="a folder that `make release` made")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    args = parser.parse_args()

    every = sorted(places.all_grades(args.release))
    if not every:
        records.fail(args.release, "holds no grades", "Name a folder that `make release` made")
    models = records.read_json(args.release / "report/config.json")["models"]
    count = 0
    with records.whole_folder(args.out, "*/results_*.json", '"model_source": "valley"') as out:
        out.mkdir()
        for number, grades in enumerate(every, 1):
            count += export_cell(args.release, grades, models[places.cell_of(grades).model]["source"], out)
            if not number % 20:
                print(f"{number} of {len(every)} cells", file=sys.stderr, flush=True)
    records.done(f"{len(every)} cells, {count} responses in the harness's schema", args.out)


if __name__ == "__main__":
    main()
