"""Choose, filter, deduplicate, decontaminate and order the traces: the pool whose prefixes are the subsets.

One correct trace a problem, never one that was cut off; a row goes when prompt + trace + end token exceed the
limit under any of the tokenizers (so that all models train on identical rows), when the same problem came
before, or when it overlaps a task of the frozen `decontaminate` list. Contaminated rows take part in the
order before they are left out, and the column `leaks_before` counts them: how many a subset would have held,
for leaks nested in subsets grow with size and would mimic recovery.

    python scripts/order_traces.py --traces data/traces.parquet --tokenizers models/S/seed0 \\
        --out /tmp/pool.parquet \\
        --card /tmp/pool.json --max-tokens 16384 --correct math-verify --seed 0

The traces are streamed, never held: what is kept goes into buckets on disk (beside the pool, as large as it)
by its place in the order, and each bucket is sorted on its own. Choice and place of a row depend on the seed
and its number alone. The counts of what was dropped and why go into the card and, with the provenance, into
the pool.
"""

import collections
import contextlib
import hashlib
import random
import shutil
import sys
import time
from pathlib import Path

from valley import flags, intake, overlaps, records, token_counts

NEEDED_FLAG = {"math-verify": "correctness_math_verify", "math-verify-else-llama": "correctness_math_verify"}
BATCH = 128  # rows read at once: some 10 MB of traces
BUCKETS = 32  # of some 100 MB each for 220,000 traces
ROW_GROUP = 1000


def correct_traces(row: dict, rule: str) -> list[str]:
    """The generations of a row that count as correct under `rule`.

    `math-verify`: the dataset's Math-Verify flag; `math-verify-else-llama`: the Llama judge's where no
    Math-Verify flag is true; `any`: all of them.
    """
    return [row["generations"][i] for i in intake.correct_ones(row, rule)]


def check_flags(path: Path, rule: str):
    """Stop where the rule asks for flags and not one row has any: all traces would be wrong."""
    column = NEEDED_FLAG.get(rule)
    if column is None:
        return
    if column in records.parquet_columns(path) and any(
        batch[column].null_count < batch.num_rows for batch in records.parquet_batches(path, [column], 10_000)
    ):
        return
    records.fail(
        path,
        f"no row has {column}, by which traces.correct: {rule} tells the correct ones",
        "Set traces.correct: any where all are, or add the column",
    )


def place_of(number: int, seed: int, block: int, drawn: float) -> float:
    """The place (0–1) of a row: `drawn`, or that of its block of so many rows, whose rows stay in order."""
    if block == 1:
        return drawn
    first, within = divmod(number, block)
    return random.Random(f"{seed}:block {first}").random() + within * 2**-40  # less than between two blocks


def sifted(batches, forbidden: dict[str, set], rule: str, think: str, seed: int, tally: dict, block: int = 1):
    """Yield (rows read, those correct, new and clean) of each batch, with `trace` and `place` in the order
    (0–1).

    Counts go into `tally`: `cut_off`, correct generations that ended at a limit; `dropped` by reason,
    `contaminated` by task (a row may overlap several), `leaks`: the places of the contaminated rows, whose
    length is not looked at.
    """
    seen = set()  # digests: the problems themselves would take ten times the memory
    before = 0
    for batch in batches:
        kept = []
        for number, row in enumerate(batch.to_pylist(), before):
            rng = random.Random(
                f"{seed}:{number}"
            )  # of its own, so that no row changes another's choice or place
            choice, drawn = rng.random(), rng.random()
            place = place_of(number, seed, block, drawn)
            chosen, cut = intake.correct_ones(row, rule), intake.cut_off(row)
            traces = [row["generations"][i] for i in chosen if i not in cut]
            if cut:
                tally["cut_off"] += len(cut.intersection(chosen))
            key = hashlib.blake2b(overlaps.evened(row["problem"]).encode(), digest_size=16).digest()
            if not traces:
                tally["dropped"]["cut off" if chosen else "no correct trace"] += 1
                continue
            if key in seen:
                tally["dropped"]["duplicate problem"] += 1
                continue
            seen.add(key)
            found = overlaps.ngrams(row["problem"]) if forbidden else set()
            if leaks := [task for task, theirs in forbidden.items() if not theirs.isdisjoint(found)]:
                tally["dropped"]["contaminated"] += 1
                tally["contaminated"].update(leaks)
                tally["leaks"].append(place)
                continue
            trace = traces[int(choice * len(traces))]
            if think == "strip":
                trace = trace.replace("<think>", "").replace("</think>", "").strip()
            row = {column: row.get(column) for column in ("problem", "answer", "solution", "source")}
            row["source"] = row["source"] or "unknown"
            kept.append(row | {"trace": trace, "characters": len(trace), "place": place})
        before += batch.num_rows
        yield batch.num_rows, kept


@contextlib.contextmanager
def bucket_folder(out: Path):
    """An empty folder beside `out` that is gone afterwards; what a killed run left there goes first."""
    folder = out.with_name(f".{out.name}.buckets")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def scatter(measured, folder: Path, schema, total: int, tally: dict):
    """Write the rows within the limit into the buckets of `folder` by their place, showing progress."""
    import pyarrow

    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    start = shown = time.perf_counter()
    done = 0
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(pyarrow.ipc.new_stream(str(folder / f"{number:02}"), schema, options=options))
            for number in range(BUCKETS)
        ]
        for read, rows, tokens in measured:
            buckets = collections.defaultdict(list)
            for row, count in zip(rows, tokens, strict=True):
                if count is not None:
                    buckets[int(row["place"] * BUCKETS)].append(row | {"tokens": count})
            for number, chosen in buckets.items():
                writers[number].write_batch(pyarrow.RecordBatch.from_pylist(chosen, schema=schema))
            fitting = sum(map(len, buckets.values()))
            tally["kept"] += fitting
            tally["dropped"]["too long"] += len(rows) - fitting
            done += read
            if time.perf_counter() - shown >= 10:
                shown = time.perf_counter()
                print(
                    f"{done}/{total} rows, {done / (shown - start):.0f} rows/s", file=sys.stderr, flush=True
                )


def gather(folder: Path, leaks: list[float]):
    """Yield the buckets of `folder` in order, each sorted by place, `leaks_before` in place of the place."""
    import numpy
    import pyarrow

    leaks = numpy.sort(numpy.array(leaks, dtype=float))
    for bucket in sorted(folder.iterdir()):
        with pyarrow.memory_map(str(bucket)) as file:
            table = pyarrow.ipc.open_stream(file).read_all().sort_by("place")
        before = numpy.searchsorted(leaks, table["place"].to_numpy())
        yield table.drop_columns("place").append_column(
            "leaks_before", pyarrow.array(before, pyarrow.int64())
        )
        bucket.unlink()  # the disk need not hold both


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--traces", required=True, type=Path)
    parser.add_argument(
        "--tokenizers", required=True, type=Path, nargs="+", help="model folders whose limit counts"
    )
    parser.add_argument(
        "--decontaminate", type=Path, nargs="*", default=[], help="task files whose problems must not occur"
    )
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--card", required=True, type=Path)
    parser.add_argument("--max-tokens", required=True, type=int, help="prompt + trace + end token")
    parser.add_argument("--correct", choices=["math-verify", "math-verify-else-llama", "any"], required=True)
    parser.add_argument(
        "--think", choices=["keep", "strip"], default="keep", help="the traces' <think> and </think> tags"
    )
    parser.add_argument(
        "--seed", type=int, required=True, help="drives which correct trace is taken, and the order"
    )
    parser.add_argument("--block", type=int, default=1, help="rows that stay together, in their order")
    parser.add_argument("--workers", type=int, default=1, help="processes that count tokens")
    flags.add_prompt(parser)
    args = parser.parse_args()

    import pyarrow

    start = time.perf_counter()
    total = records.parquet_rows(args.traces)
    check_flags(args.traces, args.correct)
    reasons = ["no correct trace", "duplicate problem", "contaminated", "too long"]
    tally = {
        "kept": 0,
        "dropped": dict.fromkeys(reasons, 0),
        "contaminated": collections.Counter(),
        "leaks": [],
        "cut_off": 0,
    }
    ends = {"finish_reasons", "is_reasoning_complete"} & set(records.parquet_columns(args.traces))
    if ends:
        tally["dropped"]["cut off"] = 0
    tally["contaminated"].update({task.stem: 0 for task in args.decontaminate})
    text = [(column, pyarrow.string()) for column in ("problem", "answer", "solution", "source", "trace")]
    columns = [*text, ("tokens", pyarrow.int64()), ("characters", pyarrow.int64())]
    batches = records.parquet_batches(
        args.traces, list(intake.TRACES), BATCH, (*intake.ABSENT, *intake.LISTS)
    )
    forbidden = overlaps.forbidden_ngrams(args.decontaminate)
    clean = sifted(batches, forbidden, args.correct, args.think, args.seed, tally, args.block)
    with bucket_folder(args.out) as folder:
        measured = token_counts.counted(
            clean, args.workers, args.tokenizers, args.system, args.suffix, args.max_tokens
        )
        schema = pyarrow.schema([*columns, ("place", pyarrow.float64())])
        scatter(measured, folder, schema, total, tally)
        kept, dropped = tally["kept"], tally["dropped"]
        if not kept:
            records.fail(
                args.traces,
                f"no trace is left ({dropped})",
                "Loosen traces.max_tokens, correct or decontaminate",
            )
        card = {
            "rows": total,
            "kept": kept,
            "dropped": dropped,
            "contaminated": dict(tally["contaminated"]),
            "seed": args.seed,
            "ngram": overlaps.NGRAM,
        } | ({"cut_off": tally["cut_off"]} if ends else {})
        schema = pyarrow.schema([*columns, ("leaks_before", pyarrow.int64())])
        with records.parquet_writer(args.out, schema, records.provenance(args) | {"card": card}) as writer:
            for table in gather(folder, tally["leaks"]):
                writer.write_table(table, row_group_size=ROW_GROUP)
    records.write_json(args.card, card)
    records.done(
        f"pool of {kept} traces from {total}, dropped {dropped}", args.out, time.perf_counter() - start
    )


if __name__ == "__main__":
    main()
