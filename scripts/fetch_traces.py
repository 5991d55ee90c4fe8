"""Bring the traces into the study's folder as one parquet file in the columns of OpenR1-Math-220k.

    python scripts/fetch_traces.py --source open-r1/OpenR1-Math-220k --revision e4e141e… --name all --out /tmp/traces.parquet
    python scripts/fetch_traces.py --source data/openr1_like.parquet --out /tmp/traces.parquet

`--source` is a hub id, pinned by `--revision`, or a local parquet file. Written piece by piece: the real one
does not fit into memory. A broken download continues from the hub's cache when started again.
"""

import os
from pathlib import Path

from valley import flags, records

NEEDED = ["problem", "answer", "solution", "generations", "source"]
USEFUL = ("uuid", "correctness_math_verify", "correctness_llama", "finish_reasons")
BATCH = 500  # rows in memory at once, some 20 MB


def batches_of(source: str, revision: str | None, name: str | None):
    """Yield the source's rows as record batches of the columns that are needed and those that are useful."""
    local = Path(os.path.expandvars(source)).expanduser()
    if local.suffix == ".parquet":
        yield from records.parquet_batches(local, NEEDED, BATCH, USEFUL)
        return
    if not revision:
        records.fail(
            source,
            "no revision pins its commit",
            "Give the 40-digit commit in the config, or a local parquet file",
        )
    os.environ["HF_HUB_OFFLINE"] = "0"
    from datasets import load_dataset

    data = load_dataset(source, name, revision=revision, split="train")
    if missing := [column for column in NEEDED if column not in data.column_names]:
        records.fail(
            source, f"has no column {', '.join(missing)}", "Traces need the columns of OpenR1-Math-220k"
        )
    data = data.select_columns([column for column in [*NEEDED, *USEFUL] if column in data.column_names])
    for table in data.with_format("arrow").iter(BATCH):
        yield from table.to_batches()


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--source", required=True, help="hub id or local parquet file")
    parser.add_argument("--revision", default=None)
    parser.add_argument("--name", default=None, help="configuration of the hub data set")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    batches = batches_of(args.source, args.revision, args.name)
    first = next(batches, None)
    if first is None:
        records.fail(args.source, "holds no rows", "Check `source` and `name` in the config")
    rows = first.num_rows
    with records.parquet_writer(args.out, first.schema, records.provenance(args)) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    records.done(f"{rows} problems with traces, sha256 {records.sha256(args.out)[:16]}…", args.out)


if __name__ == "__main__":
    main()
