"""One trunk for all sizes: what it and its branches train on, what they cost, and that no claim takes them for the paper's."""

import pytest
from test_training import train, weights

from valley import records

PIECES = ["--pieces", "4:2", "16:1"]  # 2 × 4 and 12 traces, two a batch: branches leave at steps 4 and 10
SLOW = ["--lr", 1e-3, "--warmup", 0.5]


def halves(subset, folder, count: int):
    """The first rows of a subset as a subset of their own."""
    records.write_parquet(folder / f"first{count}.parquet", records.read_parquet(subset).slice(0, count))
    return folder / f"first{count}.parquet"


@pytest.fixture
def grown(tmp_path, base, subset):
    """A trunk over two sizes, trained."""
    train(tmp_path / "trunk", base, subset, *PIECES, *SLOW)
    return tmp_path / "trunk"


def branch(folder, base, subset, of=None, cooldown=0.5, ok=True):
    """The branch of the smaller size, from a trunk or, with none, trained from its start."""
    trunk_flags = ["--trunk", of / "train.json"] if of else []
    return train(folder, base, subset, "--pieces", "4:2", *SLOW, "--cooldown", cooldown, *trunk_flags, ok=ok)


def test_a_branch_is_the_run_of_its_size_from_the_beginning_in_a_fraction_of_the_steps(
    tmp_path, base, subset, grown
):
    small = halves(subset, tmp_path, 4)
    from_trunk = branch(tmp_path / "branch", base, small, grown)
    alone = branch(tmp_path / "alone", base, small)
    assert weights(tmp_path / "branch") == weights(tmp_path / "alone")
    assert from_trunk["steps"] == alone["steps"] == 6
    assert from_trunk["tokens_trained"] == alone["tokens_trained"]
    assert from_trunk["segments"][0]["from"] == 4
    assert (from_trunk["steps_lost"], from_trunk["examples"]) == (0, 4)
    kept = sorted(folder.name for folder in (grown / "checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-10", "checkpoint-4"]  # the branch took nothing of its trunk's
    assert not (tmp_path / "branch/checkpoints").exists()
