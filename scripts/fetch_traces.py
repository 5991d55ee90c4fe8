"""Bring the traces into the study's folder as one parquet file in the columns of OpenR1-Math-220k.

    python scripts/fetch_traces.py --source open-r1/OpenR1-Math-220k --revision e4e141e… --name all \\
        --out /tmp/traces.parquet
    python scripts/fetch_traces.py --source data/openr1_like.parquet --out /tmp/traces.parquet

`--source` is a hub id, pinned by `--revision`, or a local parquet or JSON-lines file; each row is checked as
it is read, those that `--where` and `--limit` keep. `problem` and `generations` are needed, the others used
where they are there. Written piece by piece: the real one does not fit into memory. A broken download
continues from the hub's cache when started again.
"""

import itertools
import os
from pathlib import Path

from valley import flags, intake, records

BATCH = 500  # rows in memory at once, some 20 MB


def rows_of(source, revision=None, name=None, split=None, where=None, limit=None):
    """Yield the source's rows in canonical types (intake.checked_trace), as `where` and `limit` choose."""
    if local := intake.local_file(source):
        yield from intake.traces(local, where, limit)
        return
    if not revision:
        records.fail(
            source,
            "no revision pins its commit",
            "Give the 40-digit commit in the config, or a local parquet or jsonl file",
        )
    os.environ["HF_HUB_OFFLINE"] = "0"
    from datasets import load_dataset

    data = load_dataset(source, name, revision=revision, split=split or "train")
    if missing := [column for column in intake.TRACES if column not in data.column_names]:
        records.fail(source, f"has no column {', '.join(missing)}", f"It has: {', '.join(data.column_names)}")
    needed = dict.fromkeys((*intake.TRACES, *intake.ABSENT, *intake.LISTS, *(where or ())[:1]))
    wanted = [column for column in needed if column in data.column_names]
    batches = (table.to_pylist() for table in data.select_columns(wanted).with_format("arrow").iter(BATCH))
    rows = itertools.chain.from_iterable(batches)
    yield from itertools.islice(intake.each_checked(source, rows, intake.checked_trace, where), limit)


def main():
    parser = flags.parser(__doc__)
    flags.add_source(parser)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    import pyarrow

    chosen = (args.revision, args.name, args.split, args.where, args.limit)
    rows, schema, count = rows_of(args.source, *chosen), intake.traces_schema(), 0
    provenance = records.provenance(args) | intake.noted(args.source)
    with records.parquet_writer(args.out, schema, provenance) as writer:
        while batch := list(itertools.islice(rows, BATCH)):
            writer.write_batch(pyarrow.RecordBatch.from_pylist(batch, schema=schema))
            count += len(batch)
        if not count:
            todo = "Check `source`, `name`, `split` and `where` in the config"
            records.fail(args.source, "holds no rows", todo)
    records.done(f"{count} problems with traces, sha256 {records.sha256(args.out)[:16]}…", args.out)


if __name__ == "__main__":
    main()
