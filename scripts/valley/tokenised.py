"""A subset as token ids, made once and mapped into memory by all who need it: preflight and every rank of
sft.

Beside the subset, `seed0.parquet`, lies the folder `seed0.tokens/` with an Arrow stream a tokenizer, prompt
and completion, and a note of what it holds. Who needs one that is not there makes it, others wait for it. It
is a cache and no file of the graph: deleted, it is made again, and a finished study does not miss it.

A row is the ids of prompt + completion + end token, uncut, and what preflight wants to know of it. A process
touches only the rows it works on: what it holds does not grow with the data.
"""

import hashlib
import sys
import time
from importlib.metadata import version
from pathlib import Path

from valley import grid, prompts, records, token_counts, workers

FORMAT = 1  # of the file; one more makes all of them anew
TOGETHER = 100  # rows tokenised and written together: some 400,000 tokens of real traces
WORTH_WORKERS = 1000  # rows that are tokenised sooner than a worker starts


def schema():
    """The columns of the file: the ids, and in each row the tokens of its prompt, the characters of its
    completion, how many of the completion's tokens stand for text that the tokenizer does not know, and
    whether the completion closes its thought and has a box.
    """
    import pyarrow

    counts = [(name, pyarrow.int32()) for name in ("prompt", "characters", "unknown")]
    signs = [(name, pyarrow.bool_()) for name in ("closed", "boxed")]
    return pyarrow.schema([("input_ids", pyarrow.list_(pyarrow.int32())), *counts, *signs])


def encoder(folder: Path, completion: str, system: str | None, suffix: str):
    """A function from rows (dicts of a subset) to a record batch of `schema()`."""
    import numpy
    import pyarrow

    tokenizer = prompts.load_tokenizer(folder)
    pieces_in, known = token_counts.pieces_of(tokenizer), {}
    strange = prompts.unknown_ids(tokenizer)

    def encode(rows: list[dict]):
        texts = [row[completion] for row in rows]
        asked = prompts.prompt_ids(tokenizer, [row["problem"] for row in rows], system, suffix)
        ends = token_counts.remembered_ids(tokenizer, texts, pieces_in, known)
        ids = [numpy.array(p + t, numpy.int32) for p, t in zip(asked, ends, strict=True)]
        before = list(map(len, asked))
        unknown = [sum(map(row[:-1].count, strange)) for row in ends]
        offsets = numpy.cumsum([0, *map(len, ids)], dtype=numpy.int32)
        columns = [
            pyarrow.ListArray.from_arrays(offsets, numpy.concatenate(ids)),
            pyarrow.array(before, pyarrow.int32()),
            pyarrow.array(map(len, texts), pyarrow.int32(), size=len(texts)),
            pyarrow.array(unknown, pyarrow.int32()),
            pyarrow.array([prompts.THOUGHT_END in text for text in texts]),
            pyarrow.array(["\\boxed" in text for text in texts]),
        ]
        return pyarrow.record_batch(columns, schema=schema())

    return encode


def texts_checked(rows: list[dict], before: int, data: Path, completion: str) -> list[dict]:
    """The rows of a subset; stops at one whose problem or completion is no text."""
    for number, row in enumerate(rows, before):
        for column in ("problem", completion):
            if not isinstance(row[column], str):
                records.fail(
                    data,
                    f"row {number}: {column} is {row[column]!r:.80}, no text",
                    "Make the subset again, from traces that `make check` accepts",
                )
    return rows


def tokenise(
    out: Path, data: Path, folder: Path, completion: str, system, suffix: str, processes: int
) -> dict:
    """Tokenise the subset `data` into the file `out`; what its note says of the content."""
    import pyarrow

    total, start = records.parquet_rows(data), time.perf_counter()
    columns = sorted({"problem", completion, *records.parquet_columns(data)})
    done, tokens, shown, rows_hash = 0, 0, start, records.RowsHash()

    def jobs():
        read = 0
        for batch in records.parquet_batches(data, columns, TOGETHER):
            rows = texts_checked(batch.to_pylist(), read, data, completion)
            read += len(rows)
            rows_hash.update(rows)
            yield len(rows), [{column: row[column] for column in ("problem", completion)} for row in rows]

    processes = processes if total > WORTH_WORKERS else 1
    encoded = workers.results(jobs(), processes, encoder, folder, completion, system, suffix)
    with records.whole(out) as temporary:
        with pyarrow.OSFile(str(temporary), "wb") as file, pyarrow.ipc.new_stream(file, schema()) as writer:
            for read, batch in encoded:
                writer.write_batch(batch)
                done, tokens = done + read, tokens + len(batch.column(0).values)
                if time.perf_counter() - shown >= 10:
                    shown = time.perf_counter()
                    rate = tokens / (shown - start)
                    print(f"tokenised {done}/{total} rows, {rate:.0f} tokens/s", file=sys.stderr, flush=True)
        sha256 = records.sha256(temporary)
    return {
        "sha256": sha256,
        "subset_sha256": rows_hash.hexdigest(),
        "examples": done,
        "tokens": tokens,
        "seconds": time.perf_counter() - start,
        "code": records.code_hashes(),
    }


def key(tokenizer, completion: str, system: str | None, suffix: str) -> str:
    """What the ids depend on beside the subset: tokenizer, template, prompt, completion, and who made
    them.
    """
    return grid.fingerprint(
        [
            FORMAT,
            version("tokenizers"),
            hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
            tokenizer.chat_template,
            [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token],
            [completion, system, suffix],
        ]
    )


def obtained(data: Path, folder: Path, completion: str, system, suffix: str, processes: int = 1):
    """The subset `data` as ids of the tokenizer in a model folder: (file, note).

    Tokenised where it is not yet, where another subset lies there by now, and where the file is damaged. The
    note holds the hashes of file and subset, rows, tokens and the code that made them.
    """
    import filelock

    records.parquet_columns(data)  # or its absence would be told by a library
    name = key(prompts.load_tokenizer(folder), completion, system, suffix)
    file = data.with_suffix(".tokens") / f"{name}.arrow"
    note, source = file.with_suffix(".json"), records.sha256(data)

    def known() -> dict | None:
        """The note, if it is of this subset and of the file that is there."""
        said = records.read_json(note) if note.exists() and file.exists() else {}
        return said if said.get("of") == source and said["sha256"] == records.sha256(file) else None

    said = known()
    if said is None:
        try:
            file.parent.mkdir(exist_ok=True)
        except OSError as error:
            todo = "Tokenised traces lie beside their subset: copy it to where you may write"
            records.fail(file.parent, f"cannot be written ({error})", todo)
        with filelock.FileLock(file.with_suffix(".lock")):
            said = known()  # made by another process meanwhile
            if said is None:
                said = tokenise(file, data, folder, completion, system, suffix, processes) | {"of": source}
                records.write_json(note, said)
    return file, said


def mapped(file: Path):
    """The rows of a tokenised subset as an arrow table mapped into memory."""
    import pyarrow

    return pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all()


def row_tokens(file: Path, max_length: int | None = None):
    """Tokens of every row, whole or cut at `max_length`, as a numpy array; reads no token."""
    import pyarrow.compute

    counted = pyarrow.compute.list_value_length(mapped(file)["input_ids"]).to_numpy()
    return counted if max_length is None else counted.clip(max=max_length)


def examples(file: Path, max_length: int):
    """A tokenised subset as a data set for TRL's SFTTrainer: `input_ids` and `labels` cut at `max_length`,
    the same as `prompts.training_rows` gives, made of each row when it is asked for.
    """
    from datasets import Dataset

    def labelled(rows: dict[str, list]) -> dict[str, list]:
        both = list(zip(rows["input_ids"], rows["prompt"], strict=True))
        return {
            "input_ids": [ids[:max_length] for ids, _ in both],
            "labels": [([-100] * prompt + ids[prompt:])[:max_length] for ids, prompt in both],
        }

    data = Dataset.from_file(str(file))
    data.set_transform(labelled)
    return data
