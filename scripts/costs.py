"""What a study cost, by rule: jobs, wall time, and how much of it was starting up rather than work.

    python scripts/costs.py --benchmarks benchmarks --results results --models models --out /tmp/costs.csv

Wall time comes from Snakemake's benchmark files, work from the records that pretrain, sft, rl and generate leave. Rules
that leave no time in a record (their output must be equal byte for byte) count as start-up entirely: an upper bound.
"""

from pathlib import Path

import pandas

from valley import flags, records


def wall_times(folder: Path) -> pandas.DataFrame:
    """One row a job: rule and wall seconds, from `<folder>/<rule>/*.tsv` and `<folder>/<rule>.tsv`."""
    rows = []
    for file in sorted(folder.rglob("*.tsv")):
        rule = file.relative_to(folder).parts[0].removesuffix(".tsv")
        rows.append({"rule": rule, "wall": float(pandas.read_csv(file, sep="\t").s.sum())})
    return pandas.DataFrame(rows, columns=["rule", "wall"])


def work_times(results: Path, models: Path) -> dict[str, float]:
    """Seconds of work by rule, as the records state them."""
    work = {"pretrain": 0.0, "sft": 0.0, "rl": 0.0, "generate": 0.0, "judge": 0.0}
    for file in models.glob("*/seed*/pretrain.json"):
        work["pretrain"] += records.read_json(file)["seconds"]
    for file in results.glob("*/*/seed*/train.json"):
        work["rl" if "+rl" in file.parts[-3] else "sft"] += records.read_json(file)["seconds"]
    for file in results.glob("*/*/seed*/responses/*.parquet"):
        work["generate"] += records.parquet_provenance(file).get("seconds", 0.0)
    for file in results.glob("*/*/seed*/judged.parquet"):
        work["judge"] += records.parquet_provenance(file).get("seconds", 0.0)
    return work


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--benchmarks", required=True, type=Path)
    parser.add_argument("--results", required=True, type=Path)
    parser.add_argument("--models", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    work = work_times(args.results, args.models)
    table = wall_times(args.benchmarks).groupby("rule").wall.agg(jobs="size", wall_seconds="sum").reset_index()
    table["work_seconds"] = [min(work.get(rule, 0.0), wall) for rule, wall in zip(table.rule, table.wall_seconds, strict=True)]
    total = pandas.DataFrame([{"rule": "all", **table[["jobs", "wall_seconds", "work_seconds"]].sum()}])
    table = pandas.concat([table.sort_values("wall_seconds", ascending=False), total], ignore_index=True)
    table["start_up_share"] = (1 - table.work_seconds / table.wall_seconds).round(3)
    with records.whole(args.out) as temporary:
        table.round(2).astype({"jobs": int}).to_csv(temporary, index=False)
    records.done(f"costs of {int(total.jobs[0])} jobs", args.out)


if __name__ == "__main__":
    main()
