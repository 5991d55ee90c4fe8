"""Take the first n traces of the ordered pool, so that every subset contains the smaller ones.

    python scripts/subset.py --pool data/ordered/seed0.parquet --examples 128 --out /tmp/128.parquet \\
        --card /tmp/128.json

`--examples all` takes the whole pool (the paper's 220k: all that is left); with `--last-after N` they are the
last of the order, which no subset of up to N traces holds. The card says what the subset
holds, what the pool had dropped, and `leaks_removed`: how many contaminated rows lay in this prefix of the
order before they were left out; `reflective`: the share of traces with one of the paper's reflection keywords
(where it is 0, reflection cannot be measured). Traces are copied batch by batch, never held.
"""

import collections
import itertools
import statistics
from pathlib import Path

from valley import flags, records, reflection

CONTENT = ["problem", "answer", "solution", "source", "trace", "tokens", "characters"]
COUNTED = ["source", "tokens", "characters", "leaks_before"]
BATCH = 1000  # rows copied at once: some 12 MB


def card(counted) -> dict:
    """What a subset holds: count, quantiles of tokens and characters, share of each source, leaks left out
    before its end.

    `counted` is an arrow table of the COUNTED columns.
    """
    quantiles = {}
    for column in ("tokens", "characters"):
        values = sorted(counted[column].to_pylist())
        cuts = statistics.quantiles(values, n=20) if len(values) > 1 else values * 19
        quantiles[column] = {
            "mean": statistics.fmean(values),
            "p5": cuts[0],
            "p50": cuts[9],
            "p95": cuts[18],
            "max": values[-1],
        }
    return {
        "examples": counted.num_rows,
        "sources": dict(collections.Counter(counted["source"].to_pylist())),
        "leaks_removed": counted["leaks_before"][-1].as_py(),
    } | quantiles


def rows_of(batches, start: int, wanted: int):
    """`wanted` rows of record batches from row `start` on."""
    for batch in batches:
        if start < batch.num_rows:
            piece = batch.slice(start, wanted)
            yield piece
            wanted -= piece.num_rows
            if not wanted:
                return
        start = max(0, start - batch.num_rows)


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--pool", required=True, type=Path)
    parser.add_argument("--examples", required=True, help="how many, or `all`")
    parser.add_argument(
        "--last-after",
        type=int,
        metavar="N",
        help="the last ones in place of the first, and none of the first N",
    )
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--card", required=True, type=Path)
    args = parser.parse_args()

    counted = records.read_parquet(args.pool, COUNTED)
    wanted = counted.num_rows if args.examples == "all" else int(args.examples)
    start = 0 if args.last_after is None else counted.num_rows - wanted
    if wanted > counted.num_rows or start < (args.last_after or 0):
        beside = f" beside the first {args.last_after}" if args.last_after else ""
        todo = "Lower sizes.*.examples in the config" + (" or report.probe" if beside else "")
        records.fail(args.pool, f"holds {counted.num_rows} traces, {wanted} are asked for{beside}", todo)
    dropped = records.parquet_provenance(args.pool)["card"][
        "dropped"
    ]  # the pool's card, as the pool itself carries it
    batches = rows_of(records.parquet_batches(args.pool, CONTENT, BATCH), start, wanted)
    head = next(batches)
    with records.parquet_writer(args.out, head.schema.remove_metadata(), records.provenance(args)) as writer:
        writer.write_batch(head)
        for batch in batches:
            writer.write_batch(batch)
    written = records.parquet_batches(args.out, CONTENT, BATCH)  # hashed as it is read for training
    reflective = []  # can the keywords measure anything here?

    def rows():
        for row in itertools.chain.from_iterable(batch.to_pylist() for batch in written):
            reflective.append(reflection.is_reflective(row["trace"]))
            yield row

    digest = records.rows_sha256(rows())
    told = {"dropped": dropped, "sha256": digest, "reflective": statistics.fmean(reflective)}
    records.write_json(args.card, card(counted.slice(start, wanted)) | told)
    records.done(f"subset of {wanted} traces", args.out)


if __name__ == "__main__":
    main()
