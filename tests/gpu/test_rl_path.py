"""The third stage: RL, by vLLM in the same process where an interpreter has it (asleep while weights are
trained, where there is a card), else by transformers.

On CPU vLLM's build for CPUs runs it (`make test-slow`), on a card the one of this environment.
"""

import sys
import time
from types import SimpleNamespace

import numpy
import pytest
import torch
from acceptance import DEEPSPEED, DEVICE, ON_CARD, PAPER, VLLM, call, needs_varlen, needs_vllm, note, told_gib
from datasets import Dataset
from test_rollouts import padded
from test_sft_path import sampled_base
from trl import GRPOConfig

from valley import prompts, records, rollouts, shapes, tariff, training, vram

pytestmark = [pytest.mark.slow, pytest.mark.gpu]
# Of the mean |log-probability of vLLM − of the trainer| a token: rounding of one precision in two orders.
APART = {"bf16": 0.02, "fp32": 1e-4}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return sampled_base(tmp_path_factory.mktemp("base"))


SIZES = (16, 8, 512, 8) if ON_CARD else (2, 2, 8, 1)


def rl(tmp_path, base, precision: str, sizes=(2, 2, 8, 1), under: str | None = None, ahead: bool = False):
    """Three steps of RL of two updates each, by vLLM where there is one: its record and its curve. The bonus
    on entropy moves weights that no response is rewarded for. `sizes`: prompts, rollouts, tokens, and
    responses of a micro-batch.
    """
    problems = tmp_path / "rl.parquet"
    rows = [{"problem": f"What is {n} + 4?", "answer": str(n + 4)} for n in range(8)]
    records.write_parquet(problems, rows)
    prompts, rollouts, tokens, each = sizes
    call("rl", "--model", base, "--problems", problems, "--out", tmp_path / "model", "--record", tmp_path / "train.json", "--curve",
         tmp_path / "curve.parquet", "--steps", 3, "--prompts", prompts, "--rollouts", rollouts, "--minibatch", prompts // 2,
         "--device-batch", each, "--max-new-tokens", tokens, "--max-prompt", 256, "--lr", 5e-4, "--kl", 1e-4, "--entropy", 0.1,
         "--save-every", 1, "--precision", precision, "--gradient-checkpointing", "True", "--seed", 0, "--vllm", str(bool(VLLM)),
         "--rollouts-ahead", ahead,
         deepspeed=PAPER["rl"]["deepspeed"] if DEEPSPEED else None, python=VLLM or sys.executable, under=under)  # fmt: skip
    record = records.read_json(tmp_path / "train.json")
    return record, records.read_parquet(tmp_path / "curve.parquet").to_pylist()


def policy_moved(curve: list[dict]) -> float:
    """How far log-probabilities have moved from the start's, root mean square a token: KL is half its square
    (TRL's estimator, to second order).
    """
    return (2 * curve[-1]["kl"]) ** 0.5


def later_rate(record: dict, curve: list[dict]) -> tuple[float, dict[str, float]]:
    """(tokens sampled a second, share of a step's seconds that each of its parts takes) of the steps after
    the first, which compiles and warms up.
    """
    updates, seconds = record["updates_per_step"], record["seconds_of_updates"]
    assert len(seconds) == record["steps"] * updates > updates > 1
    later = sum(seconds[updates:])
    tokens = sum(row["length"] for row in curve[1:]) * record["responses_per_step"]
    parts = {part: sum(record[f"seconds_of_{part}"][1:]) / later for part in rollouts.PARTS}
    return tokens / later, {f"share_of_{part}": share for part, share in parts.items()}


@pytest.mark.parametrize("precision", ["bf16"] if ON_CARD else ["bf16", "fp32"])
def test_rl_samples_by_the_weights_that_it_has_trained(tmp_path, base, precision):
    """On a card a micro-batch has about as many tokens as one of the paper's, which are longer."""
    start = time.perf_counter()
    record, curve = rl(tmp_path, base, precision, SIZES)
    assert [row["step"] for row in curve] == [1, 2, 3]
    assert record["columns_computed"] <= 1.15 * record["columns_of_tokens"]
    rate, shares = later_rate(record, curve)
    assert 0 < sum(shares.values()) < 1
    content = records.read_json(base / "config.json")
    told = told_gib(vram.of_rl, content, record)
    columns = record["columns_computed"] / record["columns_of_tokens"]
    forward = 2 * shapes.described_shape(content).parameters * columns * rate  # FLOPs, were the passes alone
    passes = 1 - shares["share_of_sampling"] - shares["share_of_grading"]
    note(f"rl-{precision}" if precision != "bf16" else "rl", vllm=bool(VLLM), seconds=time.perf_counter() - start,
         tokens=record["tokens_generated"], tokens_per_second=rate, **shares, moved=policy_moved(curve),
         columns_per_token=columns, flops=(tariff.ALONE + tariff.TOGETHER) * forward / passes,
         sampler_gap=max(record.get("sampler_gap", [0.0])), peak_gib=record["peak_gib"], told_gib=told)  # fmt: skip
    assert bool(record["peak_gib"]) == ON_CARD
    assert policy_moved(curve) > 2 * APART[precision], (
        "it has not moved enough for what follows to tell anything"
    )
    if VLLM:
        assert len(record["sampler_gap"]) == 3
        assert max(record["sampler_gap"]) <= APART[precision]
        assert not any("vLLM" in warning for warning in record["warnings"])


@needs_varlen
def test_a_padded_pass_of_rl_by_varlen_is_sdpas_and_at_what_rate(tmp_path, base):
    """Probabilities and gradients of responses of other lengths in one pass, prompts padded on the left, as
    RL's trainer takes them; on a card as many as share a pass of 34,816 columns (docs/measurements.md).
    """
    rows, longest = (8, 4096) if ON_CARD else (4, 40)
    rng = numpy.random.default_rng(0)
    sides = rng.integers(5, longest // 16 + 8, rows), rng.integers(longest // 8, longest, rows)
    ids, mask = (part.to(DEVICE) for part in padded(rng, *map(list, sides)))
    keep, found, rates = int(sides[1].max()), {}, {}
    config = GRPOConfig(str(tmp_path), use_cpu=not ON_CARD, bf16=True, report_to="none", save_strategy="no",
                        disable_tqdm=True, per_device_train_batch_size=2, num_generations=2)  # fmt: skip
    for attention in ("sdpa", "varlen"):
        asked = SimpleNamespace(model=base, precision="bf16", deepspeed=None, attention=attention)
        trainer = rollouts.trainer_class()(
            model=training.start_model(asked),
            args=config,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            processing_class=prompts.load_tokenizer(base),
            train_dataset=Dataset.from_list([{"prompt": "What?"}]),
        )
        model = trainer.model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        for _ in range(2):  # the first warms up
            model.zero_grad()
            start = time.perf_counter()
            with trainer.compute_loss_context_manager():
                logps, *_ = trainer._get_per_token_logps_and_entropies(model, ids, mask, keep)
            (logps * mask[:, -keep:]).sum().backward()
            grads = torch.cat([weight.grad.flatten() for weight in model.parameters()]).cpu()
            rates[attention] = int(mask.sum()) / (time.perf_counter() - start)
        found[attention] = logps.detach()[mask[:, -keep:].bool()].cpu(), grads
        del trainer, model
    note("padded-rl", **{f"{name}_tokens_per_second": rate for name, rate in rates.items()})
    (theirs, gradients), (ours, own) = found.values()
    assert float((ours - theirs).abs().mean()) <= APART["bf16"]
    assert float((own - gradients).norm() / gradients.norm()) < 0.05


def test_micro_batches_that_share_passes_train_the_same_weights_and_at_what_rate(tmp_path, base):
    """Two updates of 64 responses on a card, a pass each or several a pass by `rl.device_tokens`, sampled
    alike; the first update warms up.
    """
    update, longest = (64, 256) if ON_CARD else (8, 24)
    made, rates, passes = {}, {}, {}
    for name, most in (("alone", None), ("shared", 8 * longest)):
        config = GRPOConfig(str(tmp_path / name), use_cpu=not ON_CARD, bf16=True, report_to="none", save_strategy="no",
                            disable_tqdm=True, per_device_train_batch_size=1, gradient_accumulation_steps=update,
                            steps_per_generation=update, num_generations=8, max_steps=2, max_completion_length=longest,
                            learning_rate=1e-5, entropy_coef=0.1, loss_type="dapo", seed=0, logging_steps=1)  # fmt: skip
        trainer = rollouts.trainer_class(most)(
            model=training.start_model(
                SimpleNamespace(model=base, precision="fp32", deepspeed=None, attention="sdpa")
            ),
            args=config,
            reward_funcs=lambda completion_ids, **_: [float(sum(ids) % 7) for ids in completion_ids],
            processing_class=prompts.load_tokenizer(base),
            train_dataset=Dataset.from_list([{"prompt": f"What is {n}?"} for n in range(16)]),
        )
        trainer.train()
        facts = rollouts.facts_of(trainer)
        parts = sum(facts[f"seconds_of_{part}"][-1] for part in rollouts.PARTS)
        rates[name] = update / (facts["seconds_of_updates"][-1] - parts)
        passes[name], made[name] = facts["passes"], [w.detach().cpu() for w in trainer.model.parameters()]
        del trainer
    note("shared-passes", passes=passes["shared"] / passes["alone"],
         **{f"{name}_responses_per_second": rate for name, rate in rates.items()})  # fmt: skip
    assert passes["shared"] < passes["alone"] / 2
    start = [w.detach() for w in training.start_model(
        SimpleNamespace(model=base, precision="fp32", deepspeed=None, attention="sdpa")).parameters()]  # fmt: skip
    moved, apart = (
        sum(float((a - b).square().sum()) for a, b in zip(made["alone"], other, strict=True)) ** 0.5
        for other in (start, made["shared"])
    )
    assert moved > 0
    assert apart < 0.2 * moved


@needs_vllm
@pytest.mark.parametrize("precision", ["bf16"] if ON_CARD else ["fp32"])
def test_rl_that_samples_ahead_samples_by_the_weights_before_the_last_step(tmp_path, base, precision):
    """By vLLM in a thread of its own, awake while weights are trained: the policy has moved by a step when
    its responses are trained on, and not when the first ones are. Measured beside the test above.
    """
    record, curve = rl(tmp_path, base, precision, SIZES, ahead=True)
    rate, shares = later_rate(record, curve)
    first, *later = record["policy_drift"]
    note("rl-ahead", tokens_per_second=rate, **shares, policy_drift=max(later), peak_gib=record["peak_gib"])
    assert first <= APART[precision]
    assert len(later) == 2
    assert ON_CARD or min(later) > 10 * APART[precision]
    assert not any("vLLM" in warning for warning in record["warnings"])


@needs_vllm
@pytest.mark.skipif(ON_CARD, reason="tried on CPU: on a card vLLM's weights are dropped while it sleeps")
def test_a_sampler_that_is_left_behind_is_told_by_its_probabilities(tmp_path, base):
    """The check above can fail: without the hand-over of weights the first step alone agrees."""
    record, curve = rl(tmp_path, base, "fp32", under="tests/faults/left_behind.py")
    first, *later = record["sampler_gap"]
    assert first <= APART["fp32"]
    assert min(later) > 100 * APART["fp32"]
    assert policy_moved(curve) > 100 * APART["fp32"]
    assert any("vLLM" in warning for warning in record["warnings"])
