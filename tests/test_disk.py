"""A disk that is full or read-only: one sentence, nothing half-written under a final name, and the run
continues.
"""

import contextlib
import errno
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY, script
from test_training import sft_flags, train, until, weights

from valley import checkpoints, records


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk):
    """A file that leaves no byte free."""
    file = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(file, bytes(4096)):
            pass
    os.close(file)
    return disk / "filler"


def test_a_disk_that_fills_up_while_training_stops_it_in_one_sentence_and_the_run_continues(
    tmp_path,
    base,
    subset,
    small_disk,
):
    straight, cell = tmp_path / "straight", small_disk / "cell"
    straight.mkdir()
    cell.mkdir()
    flags = ["--epochs", 12, "--save-every", 4]
    train(straight, base, subset, *flags)
    command = [sys.executable, "scripts/warm.py", "scripts/sft.py", *sft_flags(cell, base, subset, *flags)]
    first = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until(lambda: list(cell.glob("checkpoints/checkpoint-*/manifest.json")))
    filler = fill(small_disk)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 1
    assert f"error: {cell}: the disk cannot be written: No space left on device" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert {path.name for path in cell.iterdir()} <= {"checkpoints", "train.lock"}
    assert [made for made in checkpoints.of(cell / "checkpoints") if checkpoints.unfit(made) is None]
    filler.unlink()
    record = train(cell, base, subset, *flags)
    assert "checkpoint-" in record["resumed_from"]
    assert weights(straight) == weights(cell)


def test_training_that_would_not_fit_on_its_disk_is_refused_before_it_starts_and_not_remembered(
    tmp_path,
    base,
    subset,
    small_disk,
):
    cell = small_disk / "cell"
    filler = fill(small_disk)
    os.truncate(filler, os.path.getsize(filler) - 200_000)
    output = script("sft", *sft_flags(cell, base, subset, "--save-every", 4), ok=False)
    assert "training with 2 checkpoints at a time needs 0.00 GB" in output.splitlines()[-1]
    assert not (cell / "failed.json").exists()


def test_a_read_only_disk_is_said_in_one_sentence(base, subset, small_disk):
    (small_disk / "cell").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    output = script("sft", *sft_flags(small_disk / "cell", base, subset), ok=False)
    assert "the disk cannot be written: Read-only file system" in output.splitlines()[-1]
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        Exception("I/O error: No space left on device (os error 28)"),
    ],
)
def test_what_libraries_make_of_a_full_disk_is_known_for_one(error, tmp_path):
    assert "the disk cannot be written" in records.disk_fault(error, tmp_path)
    assert records.disk_fault(ValueError("shapes differ"), tmp_path) is None
