"""RL that samples a step ahead, and which problems each generation takes."""

import sys

import pytest
import torch
from conftest import run
from test_rollouts import trainer_of

from valley import ahead, records, rollouts, rounds

STEPS = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 12, "learning_rate": 1e-2, "seed": 0,
             "temperature": 2.0, "logging_steps": 1}  # fmt: skip


@pytest.fixture
def one_off(monkeypatch):
    """The trainers that `trainer_of` makes sample ahead."""
    plain = rollouts.trainer_class
    monkeypatch.setattr(rollouts, "trainer_class", lambda *given: ahead.one_step_off(plain(*given)))


def watched(trainer) -> list[dict]:
    """Of each generation: what is trained on, and the weights at that time."""
    seen, make = [], trainer._generate_and_score_completions

    def watch(inputs):
        found = make(inputs)
        weights = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
        seen.append({"found": found, "weights": weights, "prompts": [row["prompt"] for row in inputs]})
        return found

    trainer._generate_and_score_completions = watch
    return seen


def logps_by(trainer, weights: dict, found: dict):
    """Log-probabilities of responses by other weights than the trainer has."""
    own = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.model.load_state_dict(weights)
    ids, mask = (torch.cat([found[f"{of}_{what}"] for of in rollouts.SIDES], 1) for what in ("ids", "mask"))
    with torch.no_grad():
        logps, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, found["completion_ids"].shape[1], len(ids)
        )
    trainer.model.load_state_dict(own)
    return logps * found["completion_mask"]


def test_a_steps_responses_and_the_ratio_of_its_loss_are_of_the_weights_before_the_last_step(
    base, tmp_path, one_off
):
    """Over three epochs of four problems; the first step has those that it begins with."""
    trainer = trainer_of(base, tmp_path, max_steps=10, **STEPS)
    seen = watched(trainer)
    trainer.train()
    assert len(seen) == 10, "it sampled for a step that never came"
    for step, of in enumerate(seen):
        told = of["found"]["old_per_token_logps"] * of["found"]["completion_mask"]
        apart = [
            float((logps_by(trainer, seen[at]["weights"], of["found"]) - told).abs().max())
            for at in range(10)
        ]
        assert apart[max(0, step - 1)] < 1e-5
        if step > 1:
            assert min(apart[: step - 1] + apart[step:]) > 1e-3
    facts = rollouts.facts_of(trainer)
    assert len(facts["policy_drift"]) == 10
    assert facts["policy_drift"][0] < 1e-6 < 1e-3 < min(facts["policy_drift"][2:])
    assert "sampler_gap" not in facts


def test_where_nothing_is_learned_sampling_ahead_changes_nothing(base, tmp_path, monkeypatch):
    """Then the weights of a step before are the same: so are problems and, sampled greedily, responses."""
    plain, told = rollouts.trainer_class, {}
    for name, of in (("plain", lambda kind: kind), ("ahead", ahead.one_step_off)):
        monkeypatch.setattr(rollouts, "trainer_class", lambda *given, of=of: of(plain(*given)))
        trainer = trainer_of(base, tmp_path / name, max_steps=6, **STEPS | {"learning_rate": 0.0, "top_k": 1})
        seen = watched(trainer)
        trainer.train()
        told[name] = [[of["prompts"], of["found"]["completion_ids"].tolist()] for of in seen]
    assert told["plain"] == told["ahead"]


def test_an_error_of_sampling_ahead_ends_the_training(base, tmp_path, one_off):
    trainer = trainer_of(base, tmp_path, max_steps=3, **STEPS)
    trainer.rows_of = lambda generation: [3] * 4
    with pytest.raises(RuntimeError, match="other problems came than were sampled ahead"):
        trainer.train()


def test_a_run_that_continues_takes_the_problems_of_an_undisturbed_one_in_later_epochs_too(base, tmp_path):
    taken = {}
    for name in ("undisturbed", "continued"):
        folder = tmp_path / "run"
        trainer = trainer_of(
            base, folder, max_steps=11, **STEPS | {"save_strategy": "steps", "save_steps": 6}
        )
        seen = watched(trainer)
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-6") if name == "continued" else None)
        taken[name] = [of["prompts"][0] for of in seen]
    assert taken["continued"] == taken["undisturbed"][6:]
    epochs = [[str(one) for one in taken["undisturbed"][at : at + 4]] for at in (0, 4)]
    assert epochs[0] != epochs[1], "nothing was shuffled anew, so that this tells nothing"
    assert [len(set(epoch)) for epoch in epochs] == [4, 4]


def test_an_undisturbed_run_takes_its_problems_as_trls_own_sampler_draws_them():
    from trl.trainer.utils import RepeatSampler

    def sampler():
        return RepeatSampler(range(7), mini_repeat_count=2, batch_size=3, repeat_count=2, seed=5)

    theirs = sampler()
    for epoch in range(3):
        drawn = [*theirs]
        assert [*rounds.OfGenerations(sampler(), lambda epoch=epoch: epoch)] == drawn
        assert [*dict.fromkeys(drawn)] == rounds.order_of(7, 5, epoch)[:6]


def test_the_problems_of_a_generation_are_those_of_its_epoch_without_what_is_left_over():
    orders = [rounds.order_of(7, 3, epoch) for epoch in range(3)]
    found = [rounds.problems_of(generation, 7, 3, 3) for generation in range(6)]
    assert found == [order[at : at + 3] for order in orders for at in (0, 3)]
    assert len({*map(tuple, orders)}) == 3


@pytest.mark.slow
def test_two_ranks_sample_their_own_parts_ahead(tmp_path, base):
    """By rl.py, to its record: what it trains on is other work than the same without."""
    problems, told = tmp_path / "rl.parquet", {}
    records.write_parquet(problems, [{"problem": f"{n}b+1c-2", "answer": "0"} for n in range(10)])
    for asked in ("False", "True"):
        cell = tmp_path / asked
        flags = ["--model", base, "--problems", problems, "--out", cell / "model", "--record", cell / "train.json", "--curve",
                 cell / "curve.parquet", "--lr", 1e-3, "--steps", 6, "--prompts", 4, "--rollouts", 2, "--minibatch", 2,
                 "--device-batch", 1, "--max-new-tokens", 12, "--save-every", 6, "--rollouts-ahead", asked]  # fmt: skip
        ranks = [sys.executable, "scripts/launch.py", "--gpus", 2, "--train", "scripts/rl.py", *flags]
        run(ranks, CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu")
        told[asked] = records.read_json(cell / "train.json")
    assert told["True"]["rollouts_ahead"] is True
    assert len(told["True"]["policy_drift"]) == 6
    assert "rollouts_ahead" not in told["False"]
    assert told["True"]["work"] != told["False"]["work"]
