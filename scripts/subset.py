"""Take the first n traces of the ordered pool, so that every subset contains the smaller ones.

    python scripts/subset.py --pool data/ordered/seed0.parquet --examples 128 --out /tmp/128.parquet --card /tmp/128.json

`--examples all` takes the whole pool (the paper's 220k: all that is left).
"""

import collections
import statistics
from pathlib import Path

from valley import flags, records


def card(rows: list[dict]) -> dict:
    """What a subset holds: count, quantiles of tokens and characters, share of each source."""
    quantiles = {}
    for column in ("tokens", "characters"):
        values = sorted(row[column] for row in rows)
        cuts = statistics.quantiles(values, n=20) if len(values) > 1 else values * 19
        quantiles[column] = {
            "mean": statistics.fmean(values),
            "p5": cuts[0],
            "p50": cuts[9],
            "p95": cuts[18],
            "max": values[-1],
        }
    return {"examples": len(rows), "sources": dict(collections.Counter(row["source"] for row in rows))} | quantiles


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--pool", required=True, type=Path)
    parser.add_argument("--examples", required=True, help="how many, or `all`")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--card", required=True, type=Path)
    args = parser.parse_args()

    pool = records.read_parquet(args.pool, ["problem", "answer", "solution", "source", "trace", "tokens", "characters"])
    wanted = pool.num_rows if args.examples == "all" else int(args.examples)
    if wanted > pool.num_rows:
        records.fail(args.pool, f"holds {pool.num_rows} traces, {wanted} are asked for", "Lower sizes.*.examples in the config")
    subset = pool.slice(0, wanted)
    records.write_parquet(args.out, subset, provenance=records.provenance(args))
    rows = subset.to_pylist()
    records.write_json(args.card, card(rows) | {"sha256": records.rows_sha256(rows)})
    records.done(f"subset of {wanted} traces", args.out)


if __name__ == "__main__":
    main()
