"""Generation in chunks: what a killed job has finished stays on disk, the next one makes what is missing.

Work is cut into chunks of `args.chunk` prompts; each becomes a file under `<out>.chunks/` as it finishes,
with seeds of its own, so a job that was killed and continued ends with the same responses. Used by
generate.py and judge.py.
"""

import argparse
import math
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

from valley import engines, grid, locks, pulse, records, thoughts

# Arguments that say how responses are made and not which: they tell no work from other work.
ASIDE = ("tensor_parallel", "parallel_sampling", "then")
BYTES_A_TOKEN = 4  # of text, on disk at most; twice, for chunks stay until the whole file is there


class Response(NamedTuple):
    """What an engine said to one prompt."""

    ids: list[int]  # of the prompt
    out: list[int]
    text: str
    seed: int
    finish_reason: str  # stop (an end token) or length


def decoded(tokenizer, rows: list, tags=thoughts.THINK) -> list[str]:
    """The texts of token ids, without special tokens but for the tags of a thought: `tags` and those that
    thoughts.py knows.

    Where they are special tokens of a tokenizer they would vanish, and what the thought holds be graded.
    """
    special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    tags = {tag for pair in (tags, *thoughts.THOUGHTS) for tag in pair}
    if not tags & set(special.values()):
        return tokenizer.batch_decode(rows, skip_special_tokens=True)
    dropped = {i for i, name in special.items() if name not in tags}
    kept = [[int(i) for i in row if int(i) not in dropped] for row in rows]
    return tokenizer.batch_decode(kept, skip_special_tokens=False)


def cut(items: list[tuple], size: int) -> list[list[tuple]]:
    """(what, prompt ids) in lists of `size`: similar prompt lengths together, longest first.

    Longest first finds out-of-memory errors at once; similar lengths need little padding.
    """
    todo = sorted(items, key=lambda item: -len(item[1]))
    return [todo[i : i + size] for i in range(0, len(todo), size)]


class Work(NamedTuple):
    """Prompts of one file cut into chunks, and where they are written."""

    args: argparse.Namespace  # those of the file, whichever job makes it
    chunks: list[list[tuple]]
    files: list[Path]
    identity: str

    def todo(self) -> list[int]:
        """The numbers of the chunks that are not there."""
        return [number for number, file in enumerate(self.files) if not file.exists()]


def work_on(args, items: list[tuple], sources: list, gpus: list[str]) -> Work:
    """The work of `args` on items, (what, prompt ids).

    `sources` with the arguments is what tells it from other work, whose chunks (of another model, task or
    parameter) must not be continued: they lie under another name.
    """
    if len(gpus) > 1:  # work smaller than a chunk a GPU is spread over all; vLLM's seeds do not depend on it
        args.chunk = min(args.chunk, math.ceil(len(items) / len(gpus)))
    identity = grid.fingerprint(
        [records.settings(args, "out", *ASIDE), records.identity(args.model), *sources]
    )
    chunks = cut(items, args.chunk)
    made = folder(args.out) / identity
    return Work(args, chunks, [made / f"{number:05}.parquet" for number in range(len(chunks))], identity)


def generated(
    args, tokenizer, items: list[tuple], sources: list, row, keys: list[str], schema=None, ahead=()
) -> tuple:
    """(table, record) of the rows that `row(what, response)` makes of all items, (what, prompt ids), sorted
    by `keys`. The chunks are removed by `finish`.

    Of `ahead`, further (args, items, sources), the same engine makes the chunks, which their own jobs find.
    """
    gpus = engines.visible_gpus(args.tensor_parallel) if args.engine == "vllm" else []
    works = [work_on(*one, gpus) for one in [(args, items, sources), *ahead]]
    todo = [
        (
            (at, number),
            [ids for _, ids in work.chunks[number]],
            work.args.seed * 1_000_003 + number * work.args.chunk,
            work.args.max_new_tokens,
        )
        for at, work in enumerate(works)
        for number in work.todo()
    ]
    most = sum(len(batch) * limit for _, batch, _, limit in todo)
    records.room(args.out.parent, 2 * BYTES_A_TOKEN * most, "generation")
    own, chunks = works[0], sum(len(work.chunks) for work in works)
    before = pulse.earlier(own.files[0].parent)
    beat = pulse.Pulse(
        own.files[0].parent,
        f"generation of {args.out}",
        chunks - len(todo),
        segment=len(before),
        **{"from": chunks - len(todo)},
    )
    ends = engines.end_ids(args, tokenizer)
    start, produced = time.perf_counter(), 0
    with beat:
        for (at, number), responses, sampling in (
            engines.generate(args, tokenizer, todo, gpus) if todo else []
        ):
            texts = decoded(tokenizer, [out for out, _ in responses], getattr(args, "think", thoughts.THINK))
            rows = [
                row(what, Response(ids, out, text, seed, "stop" if out and out[-1] in ends else "length"))
                for (what, ids), (out, seed), text in zip(
                    works[at].chunks[number], responses, texts, strict=True
                )
            ]
            tokens = sum(len(out) for out, _ in responses)
            records.write_parquet(
                works[at].files[number], rows, schema, provenance={"sampling": sampling, "tokens": tokens}
            )
            produced += tokens
            beat.beat(beat.step + 1, seconds_useful=round(beat.seconds(), 3))
            speed = produced / (time.perf_counter() - start)
            print(f"{beat.step}/{chunks} chunks, {speed:.0f} tokens/s", file=sys.stderr, flush=True)

    import pyarrow

    here = {"from": chunks - len(todo), "to": chunks, "seconds": beat.seconds()}
    useful = sum(segment.get("seconds_useful", 0.0) for segment in before) + here["seconds"]
    table = pyarrow.concat_tables([records.read_parquet(file) for file in own.files])
    told = [records.parquet_provenance(file) for file in own.files]
    record = records.provenance(args) | pulse.account([*before, here], useful)
    sampled = [one.get("sampling") or {} for one in told]
    together = sum(
        "parallel_sampling" in one for one in sampled
    )  # the others of a job that was killed may not
    record |= {
        "tokens_generated": sum(one.get("tokens", 0) for one in told),
        "identity": own.identity,
        "sampling": {key: value for key, value in sampled[0].items() if key != "parallel_sampling"},
        "workers": max(1, min(len(gpus), len(todo))),
        **({"chunks_sampled_in_parallel": together} if together else {}),
    }
    return table.sort_by([(key, "ascending") for key in keys]), record


def generation(args, work: list):
    """The frame of a script that generates, as `training.session` is of one that trains."""
    found = lambda: records.parquet_provenance(args.out) if args.out.exists() else {}  # noqa: E731
    lock = args.out.with_name(f".{args.out.name}.lock")
    return locks.guarded(args.out.with_suffix(".failed.json"), lock, work, found)


def folder(out):
    """Where the chunks of a file lie."""
    return out.with_name(f"{out.name}.chunks")


def finish(out, record: dict):
    """Remove the chunks of this work: all of it is in the file now."""
    shutil.rmtree(folder(out) / record["identity"])
    if not any(folder(out).iterdir()):
        folder(out).rmdir()
