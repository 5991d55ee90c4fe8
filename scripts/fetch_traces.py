"""Bring the traces into the study's folder as one parquet file in the columns of OpenR1-Math-220k.

    python scripts/fetch_traces.py --source open-r1/OpenR1-Math-220k --revision e4e141e… --name all --out /tmp/traces.parquet
    python scripts/fetch_traces.py --source data/openr1_like.parquet --out /tmp/traces.parquet

`--source` is a hub id, pinned by `--revision`, or a local parquet file.
"""

import os
from pathlib import Path

from valley import flags, records

NEEDED = ["problem", "answer", "solution", "generations", "source"]
USEFUL = [*NEEDED, "uuid", "correctness_math_verify", "correctness_llama", "finish_reasons"]


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--source", required=True, help="hub id or local parquet file")
    parser.add_argument("--revision", default=None)
    parser.add_argument("--name", default=None, help="configuration of the hub data set")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    local = Path(os.path.expandvars(args.source)).expanduser()
    if local.suffix == ".parquet":
        table = records.read_parquet(local, None)
    else:
        if not args.revision:
            records.fail(
                args.source, "no revision pins its commit", "Give the 40-digit commit in the config, or a local parquet file"
            )
        os.environ["HF_HUB_OFFLINE"] = "0"
        from datasets import load_dataset

        table = load_dataset(args.source, args.name, revision=args.revision, split="train").with_format("arrow")[:]
    if missing := [column for column in NEEDED if column not in table.column_names]:
        records.fail(args.source, f"has no column {', '.join(missing)}", "Traces need the columns of OpenR1-Math-220k")
    table = table.select([column for column in USEFUL if column in table.column_names])
    records.write_parquet(args.out, table, provenance=records.provenance(args))
    records.done(f"{table.num_rows} problems with traces", args.out)


if __name__ == "__main__":
    main()
