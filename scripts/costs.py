"""What a study cost and what made it: times by rule; commits, versions, hardware, GPU-hours, seeds.

    python scripts/costs.py --benchmarks benchmarks --results results --models models --out /tmp/costs.csv \\
        --provenance /tmp/provenance.json

Wall time comes from Snakemake's benchmark files, work from the records that pretrain, sft, rl and generate
leave. Rules that leave no time in a record (their output must be equal byte for byte) count as start-up
entirely: an upper bound.
"""

import collections
from pathlib import Path

import pandas

from valley import flags, places, records
from valley.analysis import tables


def wall_times(folder: Path) -> pandas.DataFrame:
    """One row a job: rule and wall seconds, from `<folder>/<rule>/*.tsv` and `<folder>/<rule>.tsv`."""
    rows = []
    for file in sorted(folder.rglob("*.tsv")):
        rule = file.relative_to(folder).parts[0].removesuffix(".tsv")
        rows.append({"rule": rule, "wall": float(pandas.read_csv(file, sep="\t").s.sum())})
    return pandas.DataFrame(rows, columns=["rule", "wall"])


def work_times(results: Path, models: Path) -> dict[str, float]:
    """Seconds of work by rule, as the records state them."""
    work = collections.defaultdict(float)
    for file in models.glob("*/seed*/pretrain.json"):
        work["pretrain"] += records.read_json(file)["seconds"]
    for file in trainings(results):
        record = records.read_json(file)
        work[rule_of(file, record)] += record["seconds"]
    for file in results.glob("*/*/seed*/responses/*.parquet"):
        work["generate"] += records.parquet_provenance(file).get("seconds", 0.0)
    for file in results.glob("*/*/seed*/judged.parquet"):
        work["judge"] += records.parquet_provenance(file).get("seconds", 0.0)
    return work


def rule_of(file: Path, record: dict) -> str:
    """The rule that made the record of a training."""
    if file.parent.name == "trunk":
        return "trunk"
    return "branch" if record["arguments"].get("trunk") else places.cell_of(file).parsed.stage


def trainings(results: Path) -> list[Path]:
    """The records of all trainings: of cells, and of the trunks that lie in some of them."""
    return sorted([*results.glob("*/*/seed*/train.json"), *results.glob("*/*/seed*/trunk/train.json")])


def provenance(results: Path) -> dict:
    """What the records of all cells say of their making: every value that occurs, and the GPU-hours."""
    by_cell = {
        f"{places.cell_of(file)}{' (trunk)' if file.parent.name == 'trunk' else ''}": records.read_json(file)
        for file in trainings(results)
    }
    trained = list(by_cell.values())
    generated = [
        records.parquet_provenance(file) for file in sorted(results.glob("*/*/seed*/responses/*.parquet"))
    ]
    everything = [*trained, *generated]

    def hours(made, seconds="seconds"):
        return round(sum(r.get(seconds, 0) * len(r.get("gpus", [])) for r in made) / 3600, 2)

    versions = sorted(
        {f"{name} {version}" for record in everything for name, version in record.get("versions", {}).items()}
    )
    return {
        "commits": sorted(
            {record["git_commit"] or "unknown" for record in everything if "git_commit" in record}
        ),
        "uncommitted_changes": any(record.get("git_dirty") for record in everything),
        "python": sorted({record["python"] for record in everything if "python" in record}),
        "versions": versions,
        "hardware": sorted({hardware(record) for record in everything if "machine" in record}),
        "locks": sorted({record["lock_sha256"] for record in everything if record.get("lock_sha256")}),
        "gpu_hours": {
            "training": hours(trained),
            "generation": hours(generated),
            "lost": hours(everything, "seconds_lost"),
        },
        "warnings": {cell: record["warnings"] for cell, record in by_cell.items() if record.get("warnings")},
        "seeds": sorted({int(folder.name.removeprefix("seed")) for folder in results.glob("*/*/seed*")}),
        "finished": max((record["finished"] for record in everything if "finished" in record), default=None),
    }


def hardware(record: dict) -> str:
    """The machine of a record in words."""
    gpus = collections.Counter(record["gpus"])
    return ", ".join(
        [*(f"{n} × {name}" for name, n in gpus.items()), f"{record['cores']} cores {record['machine']}"]
    )


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--benchmarks", required=True, type=Path)
    parser.add_argument("--results", required=True, type=Path)
    parser.add_argument("--models", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--provenance", required=True, type=Path)
    args = parser.parse_args()

    work = work_times(args.results, args.models)
    table = (
        wall_times(args.benchmarks).groupby("rule").wall.agg(jobs="size", wall_seconds="sum").reset_index()
    )
    table["work_seconds"] = [
        min(work.get(rule, 0.0), wall) for rule, wall in zip(table.rule, table.wall_seconds, strict=True)
    ]
    total = pandas.DataFrame([{"rule": "all", **table[["jobs", "wall_seconds", "work_seconds"]].sum()}])
    table = pandas.concat([table.sort_values("wall_seconds", ascending=False), total], ignore_index=True)
    table["start_up_share"] = (1 - table.work_seconds / table.wall_seconds).round(3)
    tables.write(args.out.parent, {args.out.stem: table.round(2).astype({"jobs": int})})
    records.write_json(args.provenance, provenance(args.results))
    records.done(f"costs of {int(total.jobs[0])} jobs", args.out)


if __name__ == "__main__":
    main()
