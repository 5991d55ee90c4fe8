"""Take a named pool from the ordered traces: some of them, or a mix of other pools, in the same order.

What is kept of one pool: those of a length (`--length 0 0.3333` is the shortest third, by tokens), of so many
tokens, of some values of the column `source`; with `--completion solution` the short reasoning takes the
place of the trace, and its tokens are counted. Of several pools a mix: `--shares 0.2 0.8` takes the next row
of the pool that is furthest behind its share, and no problem twice. Pools of the same traces then give the
same problems as the traces themselves, prefix by prefix, so that a mix differs from its parts in the
reasoning alone.

    python scripts/pool.py --pools data/ordered/seed0.parquet --length 0 0.3333 --out /tmp/pool.parquet \\
        --card /tmp/pool.json
    python scripts/pool.py --pools long.parquet brief.parquet --shares 0.2 0.8 --out /tmp/pool.parquet \\
        --card /tmp/pool.json

A third is one of all the traces, so it does not move with a size. `--leave` keeps away from the last traces
of the order, on which models are probed: a pool of the study's traces leaves out its own last ones; one of
another source, which may hold the same problems anywhere, those of the study's order (`--leave-of`).
"""

import hashlib
import sys
from pathlib import Path

from valley import flags, overlaps, records

COLUMNS = ["problem", "answer", "solution", "source", "trace", "tokens", "characters", "leaks_before"]
BATCH = 1000  # rows held at once, of each pool that is mixed


def kept_rows(counted, length: list[float] | None, tokens: list[int] | None, sources: list[str] | None):
    """Which rows of a pool are kept, as a numpy array of truths; `counted` has the columns tokens and source.

    A length is a share of the rows by tokens: from its first quantile on and below its second, the longest
    included in what ends at 1.
    """
    import numpy

    count = counted["tokens"].to_numpy()
    kept = numpy.ones(len(count), bool)
    if length:
        low, high = numpy.quantile(count, length)
        kept &= (count >= low) & ((count < high) | (length[1] == 1))
    if tokens:
        kept &= (count >= tokens[0]) & (count < tokens[1])
    if sources:
        kept &= numpy.isin(counted["source"].to_numpy(), sources)
    return kept


def taken(path: Path, kept, completion: str):
    """Yield the kept rows of a pool as lists, a batch at a time; rows without the completion are left out."""
    before = 0
    for batch in records.parquet_batches(path, COLUMNS, BATCH):
        rows = [row for row, keep in zip(batch.to_pylist(), kept[before:], strict=False) if keep]
        before += batch.num_rows
        if completion != "trace":
            rows = [row | {"trace": row[completion]} for row in rows if (row[completion] or "").strip()]
        yield len(rows), [row | {"characters": len(row["trace"])} for row in rows]


def mixed(pools: list, shares: list[float]):
    """Yield rows of several pools (iterators of rows): the next of the one furthest behind its share, each
    problem once; ends where that one has no more.
    """
    seen, given = set(), [0] * len(pools)
    while True:
        behind = [share * (sum(given) + 1) - count for share, count in zip(shares, given, strict=True)]
        which = behind.index(max(behind))
        for row in pools[which]:
            key = hashlib.blake2b(row["problem"].encode(), digest_size=16).digest()
            if key not in seen:
                break
        else:
            return
        seen.add(key)
        given[which] += 1
        yield row


def left_out(path: Path, last: int, of: Path | None):
    """Which rows of a pool are held back for probes, as a numpy array of truths: its `last` ones, or wherever
    they stand those whose problem is among the last ones of the order `of`.
    """
    import numpy

    if not last or of is None:
        count = records.parquet_rows(path)
        return numpy.arange(count) >= count - last
    held = records.read_parquet(of, ["problem"])["problem"][-last:].to_pylist()
    probed = set(map(overlaps.evened, held))
    problems = records.read_parquet(path, ["problem"])["problem"]
    return numpy.array([overlaps.evened(problem.as_py()) in probed for problem in problems], bool)


def in_batches(rows):
    """Lists of up to BATCH rows."""
    held = []
    for row in rows:
        held.append(row)
        if len(held) == BATCH:
            yield held
            held = []
    if held:
        yield held


def plain(args):
    """Yield the rows of one pool that are kept, in lists."""
    from valley import token_counts

    (path,) = args.pools
    counted = records.read_parquet(path, ["tokens", "source"])
    kept = kept_rows(counted, args.length, args.tokens, args.sources)
    kept &= ~left_out(path, args.leave, args.leave_of)
    batches = taken(path, kept, args.completion)
    if args.completion == "trace":
        yield from (rows for _, rows in batches)
        return
    limit = args.max_tokens
    for _, rows, tokens in token_counts.counted(
        batches, args.workers, args.tokenizers, args.system, args.suffix, limit
    ):
        yield [row | {"tokens": n} for row, n in zip(rows, tokens, strict=True) if n is not None]


def mix(args):
    """Yield the rows of a mix, in lists."""
    pools = [
        (row for batch in records.parquet_batches(path, COLUMNS, BATCH) for row in batch.to_pylist())
        for path in args.pools
    ]
    yield from in_batches(mixed(pools, args.shares))


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--pools", required=True, type=Path, nargs="+", help="one, or those that are mixed")
    parser.add_argument("--shares", type=float, nargs="+", help="of each pool that is mixed")
    flags.add(parser, flags.POOL)
    parser.add_argument("--leave", type=int, default=0, help="so many of the last rows are not taken")
    parser.add_argument("--leave-of", type=Path, help="the order whose last problems these are; else its own")
    parser.add_argument(
        "--tokenizers", type=Path, nargs="+", default=[], help="count the tokens of solutions"
    )
    parser.add_argument("--max-tokens", type=int, default=sys.maxsize, help="longer solutions are left out")
    parser.add_argument("--workers", type=int, default=1, help="processes that count tokens")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--card", required=True, type=Path)
    flags.add_prompt(parser)
    args = parser.parse_args()
    if args.completion != "trace" and not args.tokenizers:
        parser.error("--completion solution needs --tokenizers")
    if len(args.shares or [1]) != len(args.pools):
        parser.error("--shares has one number a pool")

    import pyarrow

    text = [(name, pyarrow.string()) for name in COLUMNS[:5]]
    schema = pyarrow.schema([*text, *((name, pyarrow.int64()) for name in COLUMNS[5:])])
    dropped = records.parquet_provenance(args.pools[0])["card"]["dropped"]
    card = {"rows": sum(map(records.parquet_rows, args.pools)), "dropped": dropped}
    provenance = records.provenance(args) | {"card": card}
    count = leaks = 0
    with records.parquet_writer(args.out, schema, provenance) as writer:
        for rows in (mix if args.shares else plain)(args):
            for row in rows:  # of several orders the counts go on, never back
                leaks = row["leaks_before"] = max(leaks, row["leaks_before"])
            writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema=schema))
            count += len(rows)
        if not count:
            records.fail(args.pools[0], "the pool keeps no trace of it", "Loosen it (pools in the config)")
    records.write_json(args.card, card | {"kept": count})
    records.done(f"pool of {count} traces from {card['rows']}", args.out)


if __name__ == "__main__":
    main()
