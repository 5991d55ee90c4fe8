"""Hold a released folder to itself: grade its responses again, make its numbers again, name what differs.

    python scripts/verify.py --release released --sample 1000

A sample of whole problems (all, when there are at most SMALL responses) is graded anew; scores, tables,
verdicts and what figures draw are made from these grades and the released ones of the other problems, in a
copy that is thrown away. Every difference is a line: file, row, column, released value, value made again.
Rows of tables count from 1, below the head. Nothing found: exit 0; differences: exit 1. Pictures are not
compared, their data are. Tables that need weights or training data are named as not made again.
"""

import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas

from valley import flags, places, records
from valley.analysis.responses import released
from valley.check import ROOT

SMALL = 20_000  # responses that are all graded again unless a sample is asked for
OF_THE_MACHINE = {"seconds"}  # that comparing answers by algebra took
COMPARED = ("results/*/*/seed*/grades.parquet", "results/*/*/seed*/scores.json", "report/tables/*",
            "report/figures/*.csv", "report/finding.txt")  # fmt: skip


def same(one, other) -> bool:
    """Whether two values of a table are equal; missing equals missing, floats to 12 digits."""
    if pandas.isna(one) or pandas.isna(other):
        return bool(pandas.isna(one) and pandas.isna(other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-12)
    return one == other


def differences(name: str, released: pandas.DataFrame, again: pandas.DataFrame) -> list[str]:
    """A line for each value that differs between two tables of the same rows, or one where shapes differ."""
    if list(released) != list(again):
        return [
            f"{name}: columns {', '.join(map(str, released))} released, {', '.join(map(str, again))} again"
        ]
    if len(released) != len(again):
        return [f"{name}: {len(released)} rows released, {len(again)} again"]
    return [
        f"{name} row {number}, column {column}: {one} released, {other} again"
        for column in released
        if column not in OF_THE_MACHINE
        for number, (one, other) in enumerate(zip(released[column], again[column], strict=True), 1)
        if not same(one, other)
    ]


def flat(value, name: str = "") -> dict:
    """The leaves of nested dicts and lists, by their path; provenance left out."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            path: leaf
            for key, inner in items
            if key != "provenance"
            for path, leaf in flat(inner, f"{name}.{key}" if name else str(key)).items()
        }
    return {name: value}


def read(path: Path) -> pandas.DataFrame:
    """A table as it stands in a file: parquet by its types, JSON as a row of leaves, text as one value."""
    if path.suffix == ".parquet":
        return records.read_parquet(path).to_pandas()
    if path.suffix == ".json":
        return pandas.DataFrame([flat(records.read_json(path))])
    if path.suffix == ".csv":
        return pandas.read_csv(path, dtype=str, keep_default_na=False)
    return pandas.DataFrame({"text": path.read_text(encoding="utf-8").splitlines()})


def run(arguments: list):
    """Run Python with these arguments; what it says is shown only when it fails."""
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def script(name: str, *arguments):
    """Run a script of this checkout."""
    run([ROOT / "scripts" / name, *arguments])


def key(row: dict) -> tuple:
    """What names a response within its cell."""
    return row["task"], row["id"], row["sample"]


def kept(path: Path, table, chosen: set[tuple[str, str]], task: str | None = None) -> Path:
    """`path`, where the rows of an arrow table are written whose (task, id) is one of `chosen`; `task` is
    that of a table that names none. Problems of several tasks may have the same ids.
    """
    ids = table["id"].to_pylist()
    tasks = [task] * len(ids) if task else table["task"].to_pylist()
    records.write_parquet(path, table.filter([pair in chosen for pair in zip(tasks, ids, strict=True)]))
    return path


def grade_again(release: Path, grades: Path, share: float, chance: random.Random, scratch: Path):
    """(grades of a cell as an arrow table, a share of its problems graded again; how many responses were)."""
    folder = release / "responses" / grades.parent.relative_to(release / "results")
    told, before = records.parquet_provenance(grades)["arguments"], records.read_parquet(grades)
    responses, tasks, samples, chosen = [], [], [], set()
    for task, table in released(folder).items():
        ids = sorted(set(table["id"].to_pylist()))
        chosen |= {(task, name) for name in chance.sample(ids, math.ceil(share * len(ids)))}
        problems = records.read_parquet(release / "tasks" / f"{task}.parquet")
        responses.append(kept(scratch / "responses" / f"{task}.parquet", table, chosen, task))
        tasks.append(kept(scratch / "tasks" / f"{task}.parquet", problems, chosen, task))
        samples.append(table.num_rows // len(ids))
    if not responses:
        records.fail(folder, "has no responses to grade again", "Release the study again from where they are")
    labels = [folder / "labels/judged.parquet"] if (folder / "labels/judged.parquet").exists() else []
    if labels and share < 1:
        labels = [kept(scratch / "judged.parquet", records.read_parquet(labels[0]), chosen)]
    script(
        "grade.py",
        "--responses",
        *responses,
        "--tasks",
        *tasks,
        "--samples",
        *samples,
        "--judged",
        *labels,
        "--calculations",
        *told["calculations"],
        "--answer",
        told["answer"],
        "--answers",
        *(f"{task}={','.join(words)}" for task, words in told.get("answers", [])),
        "--think",
        *told["think"],
        "--out",
        scratch / "grades.parquet",
    )
    new = {key(row): row for row in records.read_parquet(scratch / "grades.parquet").to_pylist()}
    if missing := sorted(new.keys() - set(map(key, before.to_pylist()))):
        records.fail(grades, f"lacks the grade of response {missing[0]}", "Release the study again")
    merged = [new.get(key(row), row) for row in before.to_pylist()]
    return type(before).from_pylist(merged, schema=before.schema), len(new)


def make_again(release: Path, copy: Path, share: float, chance: random.Random) -> int:
    """Make grades, scores, tables and figures of a release again in `copy`; how many responses were
    graded.
    """
    config, graded = records.read_json(release / "report/config.json"), 0
    shutil.copytree(release, copy, ignore=shutil.ignore_patterns("responses", "tasks", ".snakemake"))
    for grades in sorted(places.all_grades(release)):
        ours = copy / grades.relative_to(release)
        with tempfile.TemporaryDirectory() as scratch:
            again, count = grade_again(release, grades, share, chance, Path(scratch))
        graded += count
        records.write_parquet(ours, again, provenance=records.parquet_provenance(grades))
        reported = config["report"]
        script(
            "score.py",
            "--grades",
            ours,
            "--headline",
            *reported["headline"],
            "--length",
            *reported["length"],
            "--confidence",
            reported["confidence"],
            "--out",
            ours.with_name("scores.json"),
        )
    run(
        [
            "-m",
            "snakemake",
            "--profile",
            ROOT / "profiles/local",
            "--directory",
            ROOT,
            "--nolock",
            "--snakefile",
            ROOT / "Snakefile",
            "--configfile",
            release / "report/config.json",
            "--config",
            f"root={copy.resolve()}",
            "unfinished=True",
            "warm_start=True",
            "--forcerun",
            "aggregate",
            "analyse",
            "--",
            "all",
        ]
    )
    return graded


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--release", required=True, type=Path)
    parser.add_argument("--sample", type=int, help=f"responses to grade again; all up to {SMALL} without it")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the choice of problems")
    args = parser.parse_args()

    rows = sum(map(records.parquet_rows, places.all_grades(args.release)))
    if not rows:
        records.fail(args.release, "holds no grades", "Name a folder that `make release` made")
    share = min(1.0, (args.sample or SMALL) / rows)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "study"
        began = time.time()
        graded = make_again(args.release, copy, share, random.Random(args.seed))
        found, kept_files = [], []
        for pattern in COMPARED:
            for file in sorted(args.release.glob(pattern)):
                name, again = file.relative_to(args.release), copy / file.relative_to(args.release)
                found += differences(str(name), read(file), read(again))
                if again.stat().st_mtime < began:
                    kept_files.append(str(name))
    print(*found, sep="\n", end="\n" if found else "")
    print(
        f"{graded} of {rows} responses graded again (seed {args.seed}); differences: {len(found) or 'none'}"
    )
    if kept_files:
        print(f"Not made again, for they need what a release lacks: {', '.join(kept_files)}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
