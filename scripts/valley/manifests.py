"""Folders that prove they are whole: a manifest of every file, written last.

A model, an exported step or a checkpoint is many files, and a process can end between any two.
`manifest.json` lists them with their sizes and hashes and is the last to appear, so a folder without it is
half-written, and one that differs from it is damaged. Checkpoints hash their small files only (an optimiser
state of 100 GB is written every half hour); models hash all, and `check_model` compares before weights are
used. The hashes are plain SHA-256, as `sha256sum` gives them.
"""

import concurrent.futures
import hashlib
import json
import os
import time
from pathlib import Path

from valley import records
from valley.environment import process_rank, say

MANIFEST = "manifest.json"
SMALL = 16 << 20  # bytes up to which a checkpoint's file is hashed


def contents(folder: Path) -> list[Path]:
    """Every file below a folder but its own manifest, also one that a killed process half wrote, in name
    order.
    """
    own = {folder / MANIFEST, *folder.glob(f".{MANIFEST}.*")}
    return sorted(path for path in folder.rglob("*") if path.is_file() and path not in own)


def hashes(paths: list[Path]) -> list[str]:
    """SHA-256 of each file, several at a time: hashing releases the interpreter's lock."""

    def one(path):
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, paths))


def settle(path: Path) -> int:
    """Have a file or folder on disk rather than in memory only; its size in bytes, as the disk has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def seal(folder: Path, everything: bool = False, **facts) -> dict:
    """Write the manifest of a folder that is finished, `facts` (JSON content) in it; what was written.

    Small files are hashed, with `everything` all. Each file is on disk before the manifest is: after a power
    loss it vouches for nothing that is not there.
    """
    found = contents(folder)
    sizes = {path: settle(path) for path in found}
    hashed = [path for path in found if everything or sizes[path] <= SMALL]
    sums = dict(zip(hashed, hashes(hashed), strict=True))
    listed = {
        str(path.relative_to(folder)): {"bytes": sizes[path]}
        | ({"sha256": sums[path]} if path in sums else {})
        for path in found
    }
    manifest = facts | {"files": listed}
    records.write_json(folder / MANIFEST, manifest)
    settle(folder / MANIFEST)
    settle(folder)
    return manifest


def manifest_of(folder: Path) -> dict | None:
    """The manifest of a folder; None where there is none that can be read."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sound = all(isinstance(told["bytes"], int) for told in found["files"].values())
        return found if sound else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def flaw(folder: Path, full: bool = True) -> str | None:
    """What is wrong with a sealed folder, in a few words that name the file; None where nothing is.

    With `full` hashes are compared, else sizes only. Files that the manifest does not list do no harm.
    """
    if (manifest := manifest_of(folder)) is None:
        return (
            f"{MANIFEST} is missing or cannot be read: its writing was cut off"
            if folder.is_dir()
            else "it is not there"
        )
    compared = []
    for name, told in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != told["bytes"]:
            return f"{name} has {size:,} bytes in place of {told['bytes']:,}"
        if full and "sha256" in told:
            compared.append((name, path, told["sha256"]))
    for (name, _, wanted), found in zip(compared, hashes([path for _, path, _ in compared]), strict=True):
        if found != wanted:
            return f"{name} is not what was written (SHA-256 {found[:16]}…, {wanted[:16]}… in {MANIFEST})"
    return None


def tensor_flaw(path: Path) -> str | None:
    """What is wrong with the header of a safetensors file or its length, in a few words; None where nothing
    is.

    Costs two reads of some kilobytes, whatever the file's size. The format: eight bytes of header length, a
    JSON header with the offsets of every tensor, the tensors without a gap.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            return f"{path.name} is cut short, or no safetensors file ({size:,} bytes)"
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return f"{path.name} has no readable header"
    if size != expected:
        return f"{path.name} has {size:,} bytes where its header tells of {expected:,}"
    return None


def weights_hashes(folder: Path) -> dict[str, str]:
    """The hash of each weights file of a sealed model, for the record of what made it."""
    listed = manifest_of(folder)["files"]
    return {name: told["sha256"] for name, told in listed.items() if name.endswith(".safetensors")}


def check_model(folder: Path):
    """Stop unless the weights of a model folder are those that were written; said in one line with its cost.

    Headers and sizes always; hashes too, unless VALLEY_WEIGHTS is `quick` (`verify_weights` in the config).
    Of several processes that load the same weights the first does it. A model without a manifest (put there
    by hand) is checked by its headers alone.
    """
    if process_rank() > 0:
        return
    folder = Path(folder)
    weights = sorted(folder.glob("*.safetensors"))
    todo = "Remove the folder and run again to make it anew"
    if not weights:
        records.fail(folder, "holds no safetensors weights", todo)
    for path in weights:
        if found := tensor_flaw(path):
            records.fail(folder, found, todo)
    if manifest_of(folder) is None:
        say(f"{folder} has no {MANIFEST}: its headers are right, its content is not known")
        return
    full, start = os.environ.get("VALLEY_WEIGHTS", "full") == "full", time.perf_counter()
    if found := flaw(folder, full):
        records.fail(folder, found, todo)
    if full:
        size, seconds = sum(path.stat().st_size for path in weights) / 1e6, time.perf_counter() - start
        say(f"weights of {folder} are what was written: {size:,.1f} MB in {seconds:.2f} s")
