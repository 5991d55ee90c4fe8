"""RL's forward passes without padding, its vLLM's options, and what it keeps on disk."""

import functools
import json
import sys
import time
from itertools import chain

import numpy
import pytest
import torch
from conftest import run
from safetensors.torch import load_file

from valley import checkpoints, manifests, records, rollouts


def padded(rng, prompts: list[int], completions: list[int]):
    """(ids, mask): prompts padded on the left, completions on the right, as TRL lays them out."""
    before, after = max(prompts), max(completions)
    mask = torch.zeros(len(prompts), before + after, dtype=torch.long)
    for row, prompt, completion in zip(mask, prompts, completions, strict=True):
        row[before - prompt : before + completion] = 1
    return torch.tensor(rng.integers(3, 20, mask.shape)) * mask, mask


def trainer_of(base, folder, device_tokens: int | None = None, **settings):
    """A real trainer on the tiny model, with a reward for short responses."""
    from datasets import Dataset
    from trl import GRPOConfig

    from valley import prompts

    settings = {"save_strategy": "no"} | settings
    config = GRPOConfig(str(folder), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
                        model_init_kwargs={"dtype": "float32"}, **settings)  # fmt: skip
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": f"1{n}b+1"}]} for n in range(4)])
    return rollouts.trainer_class(device_tokens)(
        model=str(base),
        args=config,
        reward_funcs=lambda completion_ids, **_: [-float(len(ids)) for ids in completion_ids],
        processing_class=prompts.load_tokenizer(base),
        train_dataset=data,
    )


@pytest.fixture(scope="module")
def trainer(base, tmp_path_factory):
    """One of an RL of four responses."""
    return trainer_of(base, tmp_path_factory.mktemp("rl"), per_device_train_batch_size=4, num_generations=4)


@pytest.mark.parametrize("rows_at_once", [1, 2, 4])
def test_a_pass_without_the_padding_gives_the_same_probabilities_and_gradients(trainer, rows_at_once):
    ids, mask = padded(numpy.random.default_rng(0), [3, 9, 5, 4], [30, 2, 11, 1])
    keep, model, weight = 30, trainer.model, mask[:, -30:]
    plain = super(type(trainer), trainer)._get_per_token_logps_and_entropies
    found = {}
    trainer.columns = (0, 0)
    for name, passes in (("whole", plain), ("trimmed", trainer._get_per_token_logps_and_entropies)):
        model.zero_grad()
        logps, entropies, _ = passes(model, ids, mask, keep, rows_at_once, compute_entropy=True)
        assert logps.shape == entropies.shape == weight.shape
        (logps * weight * torch.arange(1, 31)).sum().backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters()])
        found[name] = (logps * weight, entropies * weight, grads)
    for whole, trimmed in zip(found["whole"], found["trimmed"], strict=True):
        assert float((whole - trimmed).abs().max()) <= 1e-5 * max(1.0, float(whole.abs().max()))
    computed, real = trainer.columns
    assert real == int(mask.sum())
    assert computed == {1: real, 2: 2 * 39 + 2 * 16, 4: 4 * 39}[rows_at_once]


def test_an_update_begins_with_its_longest_responses_and_no_other_updates_are_among_them():
    def batch(*lengths):
        mask = torch.arange(9) < torch.tensor(lengths)[:, None]
        return {"prompt_mask": torch.ones(len(lengths), 2), "completion_mask": mask, "of": lengths}

    found = rollouts.longest_first([batch(*n) for n in ((1, 1), (0, 9), (3, 2), (8, 8), (9, 9), (4, 5))], 3)
    assert [one["of"] for one in found] == [(0, 9), (3, 2), (1, 1), (9, 9), (8, 8), (4, 5)]


@pytest.mark.parametrize("loss", ["dapo", "dr_grpo", "grpo", "bnpo"])
def test_an_update_is_the_same_in_any_order_of_its_micro_batches(base, tmp_path, monkeypatch, loss):
    """Two steps of two updates of two micro-batches, sampled alike: the same weights but for rounding."""
    made, ordered, groups = {}, rollouts.longest_first, []

    def watched(batches, update):
        found = ordered(batches, update)
        groups.append((len(batches), update, [*map(id, found)] == [*map(id, batches)]))
        return found

    for name, order in (("longest first", watched), ("as they came", lambda batches, _: batches)):
        monkeypatch.setattr(rollouts, "longest_first", order)
        trainer = trainer_of(
            base, tmp_path / name, per_device_train_batch_size=2, gradient_accumulation_steps=2, steps_per_generation=4,
            num_generations=4, max_steps=4, max_completion_length=24, learning_rate=1e-3, loss_type=loss, entropy_coef=0.01,
            seed=0, temperature=2.0)  # fmt: skip
        trainer.train()
        made[name] = torch.cat([weights.detach().flatten() for weights in trainer.model.parameters()])
        facts = rollouts.facts_of(trainer)
        assert facts["columns_waited"] == facts["columns_computed"] > facts["columns_of_tokens"]
        assert len(trainer.loads) == 8
    assert {group[:2] for group in groups} == {(4, 2)}
    assert not all(unmoved for *_, unmoved in groups), "nothing was put in order"
    assert float((made["longest first"] - made["as they came"]).abs().max()) < 1e-5


def watch(trainer) -> list:
    """Of each pass with gradients, in order, the responses whose loss it makes."""
    seen, compute = [], trainer.compute_loss

    def watched(model, inputs, **options):
        of_pass = [inputs] if isinstance(inputs, dict) else inputs
        seen.append([row.tolist() for batch in of_pass for row in batch["completion_ids"]])
        return compute(model, inputs, **options)

    trainer.compute_loss = watched
    return seen


@pytest.mark.parametrize("loss", ["dapo", "dr_grpo", "grpo", "bnpo"])
@pytest.mark.parametrize("rows", [1, 2])
def test_an_update_is_the_same_where_its_micro_batches_share_passes_by_tokens(base, tmp_path, loss, rows):
    """Two steps of two updates with KL and entropy terms, sampled alike: the same weights, log and rows."""
    made, used, facts, logs = {}, {}, {}, {}
    for tokens in (None, most := 110 * rows):
        trainer = trainer_of(
            base, tmp_path / str(tokens), tokens, per_device_train_batch_size=rows, gradient_accumulation_steps=8 // rows,
            steps_per_generation=16 // rows, num_generations=4, max_steps=4, max_completion_length=24, learning_rate=1e-3,
            loss_type=loss, entropy_coef=0.01, beta=0.1, seed=0, temperature=2.0, logging_steps=1)  # fmt: skip
        used[tokens] = watch(trainer)
        trainer.train()
        made[tokens] = torch.cat([weights.detach().flatten() for weights in trainer.model.parameters()])
        facts[tokens], logs[tokens] = rollouts.facts_of(trainer), trainer.state.log_history
        assert len(trainer.loads) == facts[tokens]["passes"] == len(used[tokens])
        assert tokens is None or max(trainer.loads) <= tokens
    assert facts[most]["passes"] < facts[None]["passes"] == 4 * 8 // rows
    assert [len(facts[tokens]["seconds_of_updates"]) for tokens in facts] == [4, 4]
    assert [*chain(*used[most])] == [*chain(*used[None])], "a response was left out, or used twice"
    assert float((made[most] - made[None]).abs().max()) < 1e-5
    for key in ("loss", "kl", "entropy", "grad_norm", "reward"):
        told = [[entry[key] for entry in logs[tokens] if key in entry] for tokens in logs]
        assert told[0] == pytest.approx(told[1], abs=1e-4)


@pytest.mark.parametrize(
    ("part", "method"),
    [("sampling", "_generate_single_turn"), ("scoring", "_get_per_token_logps_and_entropies"), ("grading", None)],
)  # fmt: skip
def test_what_takes_longer_is_told_of_its_own_part_of_a_step_alone(base, tmp_path, part, method):
    """Of two updates a step, so that the probabilities before the step are asked for; a pass with gradients
    is none of these parts.
    """
    late = 0.5
    trainer = trainer_of(base, tmp_path, per_device_train_batch_size=4, steps_per_generation=2, num_generations=4, max_steps=2,
                         max_completion_length=4, logging_steps=1)  # fmt: skip

    def slowed(do, *args, **options):
        if part != "scoring" or not torch.is_grad_enabled():
            time.sleep(late)
        return do(*args, **options)

    if method:
        setattr(trainer, method, functools.partial(slowed, getattr(trainer, method)))
    else:
        trainer.reward_funcs = [functools.partial(slowed, trainer.reward_funcs[0])]
        trainer.reward_func_names = ["reward"]
    trainer.train()
    told = {of: rollouts.facts_of(trainer)[f"seconds_of_{of}"] for of in rollouts.PARTS}
    assert {of for of, seconds in told.items() if min(seconds) >= late} == {part}
    assert all(len(seconds) == 1 for seconds in told.values())


def test_each_micro_batch_is_in_one_pass_and_no_pass_that_several_share_is_wider_than_asked():
    rng = numpy.random.default_rng(0)
    for _ in range(200):
        count, rows, most = int(rng.integers(1, 30)), int(rng.integers(1, 4)), int(rng.integers(20, 900))
        widths = numpy.stack([rng.integers(1, 40, count), rng.integers(1, 200, count)], 1)
        sizes = rollouts.shared_passes(widths.tolist(), rows, most)
        found = rollouts.in_slots([*range(count)], sizes)
        assert len(found) == count
        assert None not in (found[0], found[-1])  # there TRL samples, and here it adds gradients up
        assert [*chain(*filter(None, found))] == [*range(count)]
        for batches in filter(None, found):
            assert len(batches) == 1 or len(batches) * rows * widths[batches].max(0).sum() <= most


def test_probabilities_without_gradients_are_the_same_by_tokens_in_the_order_of_their_rows(base, tmp_path):
    ids, mask = padded(numpy.random.default_rng(0), [3, 9, 5, 4, 8], [30, 2, 11, 1, 29])
    found = {}
    for tokens in (None, 40):
        trainer = trainer_of(base, tmp_path, tokens, per_device_train_batch_size=1, num_generations=2,
                             gradient_accumulation_steps=2)  # fmt: skip
        with torch.no_grad():
            logps, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 30, 1)
        found[tokens] = logps * mask[:, -30:]
    assert float((found[None] - found[40]).abs().max()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "zero", [[], *(["--deepspeed", f"config/deepspeed/zero{stage}.json"] for stage in (2, 3))]
)
def test_two_ranks_that_share_passes_by_tokens_train_the_same_model(tmp_path, base, zero):
    """Responses of other lengths on each: as many passes on both, or they would wait for each other for
    ever.
    """
    records.write_parquet(
        tmp_path / "rl.parquet", [{"problem": f"{n}b+1c-2", "answer": "0"} for n in range(10, 30)]
    )
    made, told = {}, {}
    for tokens in (None, 200):
        folder = tmp_path / str(tokens)
        flags = ["--model", base, "--problems", tmp_path / "rl.parquet", "--out", folder / "model", "--record",
                 folder / "train.json", "--curve", folder / "curve.parquet", "--lr", 1e-4, "--steps", 2, "--prompts", 8,
                 "--rollouts", 4, "--minibatch", 4, "--device-batch", 1, "--max-new-tokens", 24, "--save-every", 2,
                 "--entropy", 0.01, "--kl", 0.1, *zero, *(["--device-tokens", tokens] if tokens else [])]  # fmt: skip
        ranks = [sys.executable, "scripts/launch.py", "--gpus", 2, "--train", "scripts/rl.py", *flags]
        run(ranks, CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu")
        told[tokens] = records.read_json(folder / "train.json")
        made[tokens] = load_file(folder / "model/model.safetensors")
    assert told[200]["device_tokens"] == 200
    assert "device_tokens" not in told[None]
    assert told[200]["passes"] < 16 < told[None]["passes"] == 4 * 8
    assert told[200]["columns_of_tokens"] == told[None]["columns_of_tokens"]
    for name, weight in made[None].items():
        assert float((made[200][name] - weight).abs().max()) < 1e-5


@pytest.mark.slow
def test_the_record_counts_what_two_ranks_wait_for_each_other(tmp_path, base):
    records.write_parquet(
        tmp_path / "rl.parquet", [{"problem": f"{n}b+1c-2", "answer": "0"} for n in range(10, 30)]
    )
    flags = ["--model", base, "--problems", tmp_path / "rl.parquet", "--out", tmp_path / "model", "--record",
             tmp_path / "train.json", "--curve", tmp_path / "curve.parquet", "--lr", 1e-4, "--steps", 2, "--prompts", 8,
             "--rollouts", 4, "--minibatch", 4, "--device-batch", 1, "--max-new-tokens", 24, "--save-every", 2]  # fmt: skip
    ranks = [sys.executable, "scripts/launch.py", "--gpus", 2, "--train", "scripts/rl.py", *flags]
    run(ranks, CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu")
    record = records.read_json(tmp_path / "train.json")
    assert record["columns_of_tokens"] == record["columns_computed"] < record["columns_waited"]


def test_padding_stays_below_a_seventh_where_responses_are_as_long_as_the_papers():
    """Lengths from a lognormal, mean 4.2k, cap 16k: TRL's own layout computes three times the columns."""
    rng = numpy.random.default_rng(0)
    sigma = 0.8
    lengths = numpy.minimum(rng.lognormal(numpy.log(4200) - sigma**2 / 2, sigma, 256).astype(int) + 1, 16_384)
    ids, mask = padded(rng, rng.integers(50, 400, 256).tolist(), lengths.tolist())
    spans = [rollouts.span(row[None], int(lengths.max())) for row in mask]
    real = int(mask.sum())
    assert sum(last - first for first, last in spans) / real <= 1.15
    assert mask.numel() / real > 2.5
    assert ids.shape == mask.shape


def test_by_tokens_an_update_of_the_papers_lengths_takes_less_than_half_the_passes():
    """256 responses of each of 8 cards, one a pass before; -s prints the counts."""
    rng, sigma = numpy.random.default_rng(0), 0.8
    drawn = rng.lognormal(numpy.log(4200) - sigma**2 / 2, sigma, (8, 256)).astype(int) + 1
    sides = numpy.stack([rng.integers(50, 400, drawn.shape), numpy.minimum(drawn, 16_384)], -1)  # 8 cards
    ranked = numpy.argsort(-sides.sum(-1, keepdims=True), 1, kind="stable")
    sides = numpy.take_along_axis(sides, ranked, 1)
    tokens = int(sides.sum())
    waited = {None: sides.sum(-1).max(0).sum() * 8 / tokens}
    for most in (17_408, 34_816, 69_632):
        sizes = rollouts.shared_passes(sides.max(0).tolist(), 1, most)
        parts = numpy.split(sides, numpy.cumsum(sizes)[:-1], axis=1)
        loads = numpy.array([part.shape[1] * part.max(1).sum(-1) for part in parts])  # (passes, cards)
        waited[most] = loads.max(1).sum() * 8 / tokens
        assert loads.max() <= most
        print(f"{most}: {len(sizes)} passes in place of 256, {loads.sum() / tokens:.3f} columns a token, "
              f"{waited[most]:.3f} with what cards wait, in place of {waited[None]:.3f}")  # fmt: skip
        assert len(sizes) < 256 * 17_408 / most / 2
        assert loads.sum() / tokens < 1.12
        assert waited[most] < 1.25


def test_a_row_without_a_token_keeps_a_column_of_prompt_and_completion():
    assert rollouts.span(torch.zeros(1, 7, dtype=torch.long), 3) == (3, 5)
    assert rollouts.span(torch.tensor([[0, 1, 1, 0, 0]]), 2) == (1, 4)


def test_vllm_is_asked_for_no_more_sequences_than_it_starts_with_and_seeded_by_the_cell():
    asked = {"max_num_seqs": 8192, "seed": 0, "max_num_batched_tokens": 4096}
    made = rollouts.engine_options(asked, "bf16", seed=0, rank=0, devices=1)
    assert made["max_num_seqs"] <= made["max_num_batched_tokens"] == 4096
    assert made["dtype"] == "bfloat16"
    few = rollouts.engine_options(asked | {"max_num_seqs": 8}, "fp32", 0, 0, 1)
    assert (few["max_num_seqs"], few["dtype"]) == (8, "float32")
    seeds = [
        rollouts.engine_options(asked, "bf16", seed, rank, 8)["seed"]
        for seed in range(3)
        for rank in range(8)
    ]
    assert len(set(seeds)) == 24


def checkpoint(folder, step: int):
    """A whole checkpoint of weights and states."""
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    from safetensors.numpy import save_file

    save_file({"w": numpy.zeros(4, numpy.float32)}, made / "model.safetensors")
    (made / "optimizer.pt").write_bytes(b"states")
    manifests.seal(made, step=step)
    return made


def test_only_the_newest_checkpoint_keeps_its_states_and_weights_outlive_a_damaged_one(tmp_path):
    from types import SimpleNamespace

    from valley.pulse import Pulse

    with Pulse(tmp_path, "test", 0, 0.0, segment=0) as beat:
        keeper = checkpoints.Keeper(beat, 0.0, None)
        for step in (10, 20, 30):
            made = checkpoint(tmp_path, step)
            keeper.on_save(
                SimpleNamespace(output_dir=str(tmp_path), save_steps=10),
                SimpleNamespace(global_step=step),
                None,
            )
    assert [(folder / "optimizer.pt").exists() for folder in checkpoints.of(tmp_path)] == [False, False, True]
    assert all(manifests.flaw(folder) is None for folder in checkpoints.of(tmp_path))
    assert checkpoints.newest(tmp_path) == made
    (made / "optimizer.pt").write_bytes(b"stAtes")
    assert checkpoints.newest(tmp_path) is None
    assert [checkpoints.step_of(folder) for folder in checkpoints.of(tmp_path)] == [10, 20]
    assert json.loads((tmp_path / "checkpoint-10/manifest.json").read_text())["weights_only"]
