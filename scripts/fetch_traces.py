"""Bring the traces into the study's folder as one parquet file in the columns of OpenR1-Math-220k.

    python scripts/fetch_traces.py --source open-r1/OpenR1-Math-220k --revision e4e141e… --name all \\
        --out /tmp/traces.parquet
    python scripts/fetch_traces.py --source data/openr1_like.parquet --out /tmp/traces.parquet

`--source` is a hub id, pinned by `--revision`, or a local parquet or JSON-lines file; each row is checked as
it is read. `problem` and `generations` are needed, the others used where they are there. Written piece by
piece: the real one does not fit into memory. A broken download continues from the hub's cache when started
again.
"""

import itertools
import os
from pathlib import Path

from valley import flags, intake, records

BATCH = 500  # rows in memory at once, some 20 MB


def rows_of(source: str, revision: str | None, name: str | None):
    """Yield the source's rows in canonical types (intake.checked_trace)."""
    if local := intake.local_file(source):
        yield from intake.traces(local)
        return
    if not revision:
        records.fail(
            source,
            "no revision pins its commit",
            "Give the 40-digit commit in the config, or a local parquet or jsonl file",
        )
    os.environ["HF_HUB_OFFLINE"] = "0"
    from datasets import load_dataset

    data = load_dataset(source, name, revision=revision, split="train")
    if missing := [column for column in intake.TRACES if column not in data.column_names]:
        records.fail(source, f"has no column {', '.join(missing)}", f"It has: {', '.join(data.column_names)}")
    wanted = [c for c in (*intake.TRACES, *intake.ABSENT, *intake.LISTS) if c in data.column_names]
    batches = (table.to_pylist() for table in data.select_columns(wanted).with_format("arrow").iter(BATCH))
    yield from intake.each_checked(source, itertools.chain.from_iterable(batches), intake.checked_trace)


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--source", required=True, help="hub id or local parquet or jsonl file")
    parser.add_argument("--revision", default=None)
    parser.add_argument("--name", default=None, help="configuration of the hub data set")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    import pyarrow

    rows, schema, count = rows_of(args.source, args.revision, args.name), intake.traces_schema(), 0
    with records.parquet_writer(args.out, schema, records.provenance(args)) as writer:
        while batch := list(itertools.islice(rows, BATCH)):
            writer.write_batch(pyarrow.RecordBatch.from_pylist(batch, schema=schema))
            count += len(batch)
        if not count:
            records.fail(args.source, "holds no rows", "Check `source` and `name` in the config")
    records.done(f"{count} problems with traces, sha256 {records.sha256(args.out)[:16]}…", args.out)


if __name__ == "__main__":
    main()
