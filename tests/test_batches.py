"""Examples of similar length side by side, and several in one row."""

import random
import sys

import numpy
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader
from conftest import run
from test_training import sft_flags, train, weights

from valley import batches, chain, records, tokenised


def made_up(count: int) -> numpy.ndarray:
    """Lengths as the paper's traces may have them: lognormal, mean 4.2k tokens, cap 16k."""
    sigma, rng = 0.7, numpy.random.default_rng(0)
    drawn = rng.lognormal(numpy.log(4200) - sigma**2 / 2, sigma, count)
    return numpy.minimum(drawn, 16_384).astype(int)


@pytest.mark.parametrize("batch", [64, 128])
def test_eight_cards_wait_less_than_a_third_at_the_batches_of_64k_and_more(batch):
    lengths, order = made_up(batch * 100), numpy.random.default_rng(1).permutation(batch * 100)
    assert batches.waited(order, lengths, 8) > 1.7
    assert batches.waited(batches.side_by_side(order, lengths, batch), lengths, 8) <= 1.3


def dealt(lengths, batch: int, rank: int, sort: bool) -> list[int]:
    """The examples that accelerate gives a rank of four in its second epoch, two at a time."""
    sampler = SeedableRandomSampler(range(len(lengths)), generator=torch.Generator(), data_seed=3)
    loader = torch.utils.data.DataLoader(range(len(lengths)), batch_size=2, sampler=sampler)
    loader = prepare_data_loader(loader, torch.device("cpu"), num_processes=4, process_index=rank)
    if sort:
        loader = batches.rearrange(loader, lengths, batch)
    loader.set_epoch(1)
    return [int(i) for part in loader.batch_sampler for i in part]


def test_every_global_batch_holds_the_same_examples_and_each_micro_step_similar_ones():
    lengths, found = made_up(96), {}
    for sort in (False, True):
        ranks = numpy.array([dealt(lengths, 32, rank, sort) for rank in range(4)]).reshape(4, -1, 2)
        found[sort] = ranks.transpose(1, 0, 2).reshape(-1)  # in the order of micro-steps
    for at in range(0, 96, 32):
        assert set(found[True][at : at + 32]) == set(found[False][at : at + 32])
    assert batches.waited(found[True], lengths, 4, 2) < batches.waited(found[False], lengths, 4, 2) - 0.1
    assert sorted(found[True]) == list(range(96))


def assert_same_weights(found: dict, expected: dict):
    """Within rounding, tensor by tensor."""
    for name, weight in expected.items():
        theirs, ours = (numpy.frombuffer(one, numpy.float32) for one in (found[name], weight))
        assert float(abs(theirs - ours).max()) < 1e-3


def test_examples_in_one_row_are_the_same_batch_and_train_the_same_model(tmp_path, base, subset):
    found = {}
    for packing in (False, True):
        folder = tmp_path / str(packing)
        folder.mkdir()
        flags = [
            "--packing",
            packing,
            "--batch",
            4,
            "--device-batch",
            4,
            "--epochs",
            1,
            "--schedule",
            "constant",
        ]
        record = train(folder, base, subset, *flags)
        assert (record["columns_computed"] == record["columns_of_tokens"]) == packing  # padding, or none
        assert record["columns_of_tokens"] == record["tokens_trained"]
        found[packing] = record["steps"], record["tokens_trained"], record["train_loss"], weights(folder)
    assert found[True][:2] == found[False][:2]
    assert found[True][2] == pytest.approx(found[False][2], abs=1e-5)
    assert_same_weights(found[True][3], found[False][3])


@pytest.mark.slow
def test_two_ranks_take_examples_of_similar_length_and_the_record_counts_what_they_waited(tmp_path, base):
    """Of make_trainer, started as a job is: the model is that of one rank, which has no order to keep."""
    problems = chain.draw_many(random.Random(0), 16, [2, 3, 6], test=False)
    made = [{"problem": p.text, "trace": chain.long_response(p), "solution": "7"} for p in problems]
    records.write_parquet(data := tmp_path / "subset.parquet", made)
    lengths = tokenised.row_tokens(tokenised.obtained(data, base, "trace", None, "")[0], 256)
    flags, alone = ("--batch", 16, "--device-batch", 1, "--epochs", 2), tmp_path / "alone"
    alone.mkdir()
    expected = train(alone, base, data, *flags)
    given = sft_flags(tmp_path, base, data, *flags)
    run(
        [sys.executable, "scripts/launch.py", "--gpus", 2, "--train", "scripts/sft.py", *given],
        CUDA_VISIBLE_DEVICES="",
        DS_ACCELERATOR="cpu",
    )
    record, order = records.read_json(tmp_path / "train.json"), numpy.arange(16)
    best = batches.waited(batches.side_by_side(order, lengths, 16), lengths, 2)
    assert batches.waited(order, lengths, 2) > best + 0.05
    assert record["columns_of_tokens"] == record["columns_computed"] == record["tokens_trained"]
    assert record["columns_waited"] == pytest.approx(best * record["columns_of_tokens"])
    assert (record["devices"], record["steps"]) == (2, expected["steps"])
    assert record["tokens_trained"] == expected["tokens_trained"]
    assert record["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)
    assert_same_weights(weights(tmp_path), weights(alone))
