"""The last stage, where there are two cards: SFT over both, engines side by side, one model over both.

On CPU two processes, or two engines, stand for them.
"""

import pytest
from acceptance import EAGER, ON_CARD, VLLM, call, needs_vllm, note
from test_models import SUFFIX
from test_sft_path import STEPS, ZERO2, plain_loss, sampled_base, start_and_subset, trained, with_and_without

from valley import environment, records

pytestmark = [pytest.mark.slow, pytest.mark.gpu]
pytestmark += [pytest.mark.skipif(ON_CARD and environment.gpus() < 2, reason="this process sees one card")]
ZERO3 = "config/deepspeed/zero3.json"
PROBLEMS = 16


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return start_and_subset(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory, work):
    return plain_loss(tmp_path_factory.mktemp("plain"), work)


@with_and_without(ZERO2, ZERO3)
def test_two_cards_come_to_the_loss_of_one(tmp_path, work, expected, deepspeed):
    if deepspeed and not ON_CARD:
        pytest.skip("tests/test_deepspeed.py tries ZeRO by several processes on CPU")
    record = trained(tmp_path / "narrow", work, deepspeed=deepspeed, gpus=2)
    assert (record["devices"], record["steps"]) == (2, STEPS)
    assert record["train_loss"] == pytest.approx(expected, rel=0.01)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """A base, a task, and the responses of one engine."""
    folder = tmp_path_factory.mktemp("sampled")
    base = sampled_base(folder)
    rows = [{"id": f"{n:02}", "problem": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(PROBLEMS)]
    records.write_parquet(folder / "task.parquet", rows)
    return base, folder / "task.parquet", sampling(folder, base, folder / "task.parquet", 1, 1)


def sampling(folder, base, task, gpus: int, over: int):
    """(record, responses) of generation on so many cards, engines over `over` each."""
    out = folder / f"{gpus}-{over}.parquet"
    call("generate", "--model", base, "--task", task, "--out", out, "--samples", 2, "--temperature", 0.8, "--top-p", 0.95,
         "--max-new-tokens", 48, "--max-context", 256, "--chunk", 8, "--seed", 3, "--engine", "vllm", "--precision", "bf16",
         "--suffix", SUFFIX, "--tensor-parallel", over, python=VLLM, under=EAGER, gpus=gpus)  # fmt: skip
    return records.parquet_provenance(out), [row["response"] for row in records.read_parquet(out).to_pylist()]


@needs_vllm
@pytest.mark.parametrize(
    "over", [1, pytest.param(2, marks=pytest.mark.skipif(not ON_CARD, reason="vLLM's CPU build: not tried"))]
)
def test_two_engines_or_one_over_two_cards_sample_what_one_does(tmp_path, sampled, over):
    """A card may round otherwise from one batch to the next, and two halves of a product otherwise than the
    whole, after which a response is another.
    """
    base, task, (one, alone) = sampled
    both, together = sampling(tmp_path, base, task, 2, over)
    assert (one["workers"], both["workers"]) == (1, 2 // over)
    equal = sum(a == b for a, b in zip(alone, together, strict=True)) / len(alone)
    note(f"two-cards-over-{over}", responses_equal=equal)
    assert equal >= (0.8 if over == 1 and ON_CARD else 0.2 if ON_CARD else 1.0)
    assert len(set(together)) > PROBLEMS
