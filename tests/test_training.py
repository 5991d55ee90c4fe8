"""SFT and GRPO with the real trainers on a tiny model."""

import json
import shutil
import sys

import pyarrow.parquet
import pytest
import rl
import sft
from conftest import run, script

from valley import check, equality, flags, grading, grid, prompts, records


def test_the_global_batch_is_exact_on_any_number_of_devices():
    assert sft.split_batch(8, 1, 1) == (1, 8)
    assert sft.split_batch(8, 8, 1) == (1, 1)
    assert sft.split_batch(128, 4, 2) == (2, 16)
    assert sft.split_batch(1, 1, 16) == (1, 1)  # a device holds no more than the batch
    with pytest.raises(SystemExit, match="does not divide"):
        sft.split_batch(8, 16, 1)


def test_a_paper_step_of_rl_is_four_updates_of_2048_responses():
    batching = rl.trl_batching(prompts=1024, rollouts=8, minibatch=256, devices=8, device_batch=1)
    assert batching == {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 256, "steps_per_generation": 1024,
                        "num_generations": 8, "updates": 4}  # fmt: skip
    with pytest.raises(SystemExit, match="must divide"):
        rl.trl_batching(prompts=10, rollouts=8, minibatch=4, devices=1, device_batch=8)


def test_only_the_completion_is_trained_and_the_end_token_is(base):
    tokenizer = prompts.load_tokenizer(base)
    row = {"problem": "13b+5", "trace": r"\boxed{18}"}
    (made,) = prompts.training_rows(tokenizer, [row], "trace", None, "", 100)
    assert tokenizer.decode(made["input_ids"]) == r"<user>13b+5<assistant>\boxed{18}<eos>"
    trained = [token for token in made["labels"] if token != -100]
    assert tokenizer.decode(trained) == r"\boxed{18}<eos>"


SFT = ["--lr", 5e-3, "--batch", 2, "--device-batch", 2, "--max-length", 256, "--seed", 0]


@pytest.fixture
def subset(tmp_path):
    """Sixteen chain problems as a subset."""
    import random

    from valley import chain

    rows = [
        {"problem": p.text, "trace": chain.long_response(p), "solution": chain.short_response(p)}
        for p in chain.draw_many(random.Random(0), 16, [2], test=False)
    ]
    records.write_parquet(tmp_path / "subset.parquet", rows)
    return tmp_path / "subset.parquet"


def sft_flags(folder, base, subset, *flags):
    files = ["--model", base, "--data", subset, "--out", folder / "model", "--record", folder / "train.json"]
    return [str(flag) for flag in [*files, *SFT, *flags]]


def train(folder, base, subset, *flags, ok=True):
    output = script("sft", *sft_flags(folder, base, subset, *flags), ok=ok)
    return records.read_json(folder / "train.json") if ok else output


def test_sft_lowers_the_loss_and_records_what_it_did(tmp_path, base, subset):
    record = train(tmp_path, base, subset, "--epochs", 3)
    assert record["loss"][-1]["loss"] < record["loss"][0]["loss"]
    assert (record["steps"], record["examples"]) == (24, 16)
    assert record["tokens_trained"] == 3 * record["tokens_per_epoch"]
    assert {
        "code",
        "versions",
        "arguments",
        "data_sha256",
        "subset_sha256",
        "seconds",
        "git_commit",
        "lock_sha256",
    } <= record.keys()
    files = {file.name for file in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= files
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)


def weights(folder):
    from safetensors import safe_open

    with safe_open(folder / "model" / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def test_an_interrupted_sft_resumes_to_the_same_weights_and_other_work_does_not_use_its_checkpoints(
    tmp_path, base, subset
):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    straight.mkdir()
    broken.mkdir()
    flags = ["--epochs", 3, "--save-every", 8]
    assert train(straight, base, subset, *flags)["resumed_from"] is None
    # Killed at step 12, when the checkpoint of step 8 is there.
    kill = ("import os, runpy, sys; sys.path.insert(0, 'scripts'); from valley import training\n"
            "training.Progress.on_step_end = lambda self, args, state, *_, **__: os._exit(9) if state.global_step == 12 else None\n"
            "sys.argv.pop(0); runpy.run_path('scripts/sft.py', run_name='__main__')")  # fmt: skip
    run([sys.executable, "-c", kill, "scripts/sft.py", *sft_flags(broken, base, subset, *flags)], ok=False)
    assert [path.name for path in (broken / "checkpoints").glob("checkpoint-*")] == ["checkpoint-8"]
    assert not (broken / "model").exists()
    shutil.copytree(broken / "checkpoints", tmp_path / "kept")
    record = train(broken, base, subset, *flags)
    assert record["resumed_from"].endswith("checkpoint-8")
    assert weights(straight) == weights(broken)
    assert not (broken / "checkpoints").exists()  # a finished run keeps no optimiser states
    shutil.copytree(tmp_path / "kept", broken / "checkpoints")
    other = train(broken, base, subset, *flags, "--lr", 1e-3)
    assert other["resumed_from"] is None
    assert list(broken.glob("checkpoints.of-*"))  # set aside, not deleted
    assert record["steps"] == 24


def test_a_diverging_sft_fails_and_leaves_no_model(tmp_path, base, subset):
    output = train(tmp_path, base, subset, "--epochs", 2, "--lr", 1e30, "--max-grad-norm", 1e30, ok=False)
    assert "diverged" in output
    assert not (tmp_path / "model").exists()


RL = ["--lr", 2e-3, "--steps", 16, "--prompts", 4, "--rollouts", 8, "--minibatch", 4, "--device-batch", 32, "--schedule",
      "linear", "--max-new-tokens", 10, "--save-every", 4, "--loss", "dr_grpo", "--seed", 0]  # fmt: skip


def test_grpo_climbs_on_a_trivial_reward_through_the_studys_own_grader(tmp_path, base):
    """The answer to every problem is the empty box: all there is to learn is to write `\\boxed{}` and end."""
    problems = tmp_path / "problems.parquet"
    records.write_parquet(problems, [{"problem": f"{n}b+1", "answer": "0"} for n in range(10, 74)])
    start = tmp_path / "start"
    start.mkdir()
    rows = [{"problem": f"{n}b+1", "trace": rf"\boxed{{{n % 3}}}", "solution": ""} for n in range(10, 58)]
    records.write_parquet(tmp_path / "subset.parquet", rows)
    train(start, base, tmp_path / "subset.parquet", "--epochs", 4)  # boxes 0, 1 or 2 about equally often
    script("rl", "--model", start / "model", "--problems", problems, "--out", tmp_path / "rl/model", "--record",
           tmp_path / "rl/train.json", "--curve", tmp_path / "rl/curve.parquet", *RL)  # fmt: skip
    curve = pyarrow.parquet.read_table(tmp_path / "rl/curve.parquet").to_pylist()
    assert [row["step"] for row in curve] == list(range(1, 17))
    assert sum(row["reward"] for row in curve[-4:]) / 4 > sum(row["reward"] for row in curve[:4]) / 4 + 0.3
    assert {"reward", "length", "kl", "entropy", "truncated"} <= curve[0].keys()
    record = json.loads((tmp_path / "rl/train.json").read_text())
    assert record["responses"] == 16 * 32
    assert all((tmp_path / "rl/checkpoints" / f"checkpoint-{step}").is_dir() for step in (4, 8, 12, 16))


def test_the_reward_is_the_graders_headline_verdict():
    """What rl.py rewards and what grade.py calls correct are one function: a wrong reward would train for
    something else.
    """
    cases = [(r"\boxed{7}", 1), (r"\boxed{8}", 1), (r"\boxed{7}", 5), ("7", 1), ("The final answer is 7.", 1),
             (r"\boxed{\frac{14}{2}}", 1), (r"\boxed{9^{9^{9^9}}}", 1)]  # fmt: skip
    with equality.Comparer() as comparer:
        reward = rl.make_reward(end_token=1, comparer=comparer)
        completions = [[{"role": "assistant", "content": text}] for text, _ in cases]
        found = reward(completions, [[5, last] for _, last in cases], ["7"] * len(cases))
        triples = [(text, "stop" if last == 1 else "length", "7") for text, last in cases]
        assert found == [float(row["correct"]) for row in grading.grade(triples, comparer)]
    assert found == [1, 0, 0, 0, 1, 1, 0]


def test_the_papers_rl_becomes_trls_fields_and_long_samples_keep_their_weight(tmp_path):
    """config.yaml on 8 GPUs: four updates of 2,048 responses a step, and no correction that drops long
    samples.
    """

    config = check.load([])
    text = flags.line(grid.rl_settings(config, "qwen2.5-1.5b", "sft-8k+rl") | {"deepspeed": None}, flags.RL)
    files = ["--model", "m", "--problems", "p", "--out", "o", "--record", "r", "--curve", "c"]
    args = rl.parse([*files, *text.split()])
    batching = rl.trl_batching(args.prompts, args.rollouts, args.minibatch, 8, args.device_batch)
    updates = batching.pop("updates")
    made = rl.make_config(args, batching, updates, tmp_path)
    responses = made.per_device_train_batch_size * 8 * made.gradient_accumulation_steps
    assert (responses, updates, made.max_steps, made.save_steps) == (256 * 8, 4, 400, 40)
    assert made.per_device_train_batch_size * 8 * made.steps_per_generation == 1024 * 8
    assert (
        made.save_steps % (made.steps_per_generation // made.gradient_accumulation_steps) == 0
    )  # or resuming is not exact
    assert (made.learning_rate, made.lr_scheduler_type, made.epsilon, made.beta) == (
        5e-7,
        "constant",
        0.2,
        1e-4,
    )
    assert (made.temperature, made.max_completion_length, made.vllm_max_model_length) == (1.0, 8192, 9216)
    assert (made.entropy_coef, made.use_bias_correction_kl, made.num_iterations) == (0.001, False, 1)
    assert (made.use_vllm, made.vllm_mode, made.vllm_enable_sleep_mode) == (True, "colocate", True)
    assert not made.vllm_importance_sampling_correction
    assert (
        not made.mask_truncated_completions
    )  # a cut response counts as wrong, as in verl, and is reported as truncated


def sample_weights(folder, base, correction: bool, mismatch: float) -> list[float]:
    """The weight that a 20-token and a 1,500-token response have in the gradient of TRL's loss; 1: its tokens
    count in full.

    The trainer is GRPOTrainer with the fields of `make_config`. vLLM cannot sample for it on CPU: the
    responses are given, and so are their log-probabilities, off by `mismatch` a token from the trainer's own.
    All that follows is TRL's.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOTrainer

    files = [
        "--model",
        base,
        "--problems",
        "p",
        "--out",
        folder / "o",
        "--record",
        folder / "r",
        "--curve",
        folder / "c",
    ]
    sizes = ["--lr", 5e-7, "--steps", 1, "--prompts", 1, "--rollouts", 2, "--minibatch", 1, "--device-batch", 2, "--save-every", 1,
             "--max-new-tokens", 1500, "--precision", "fp32", "--gradient-checkpointing", False]  # fmt: skip
    args = rl.parse([str(flag) for flag in [*files, *sizes]])
    batching = rl.trl_batching(1, 2, 1, 1, 2)
    config = rl.make_config(args, batching, batching.pop("updates"), folder)
    if correction:
        config.vllm_importance_sampling_correction = True
    rng, tokenizer = torch.Generator().manual_seed(0), prompts.load_tokenizer(base)
    responses = [torch.randint(10, 20, (n,), generator=rng).tolist() for n in (20, 1500)]
    model = AutoModelForCausalLM.from_pretrained(base)

    def logps(prompt, response):
        """The model's own log-probabilities of a response's tokens."""
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]

    def rollout(turns, _):
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        given = [(logps(*pair).detach() - mismatch).tolist() for pair in zip(ids, responses, strict=True)]
        return {"prompt_ids": ids, "completion_ids": responses, "logprobs": given}

    problem = {"prompt": prompts.messages("63b+5", None, ""), "answer": "68"}
    trainer = GRPOTrainer(model=model, args=config, reward_funcs=lambda **_: [0.0, 1.0], processing_class=tokenizer,
                          train_dataset=Dataset.from_list([problem] * 2))  # fmt: skip
    trainer.use_vllm, trainer.rollout_func, trainer._last_loaded_step = (
        True,
        rollout,
        trainer.state.global_step,
    )
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._generate_and_score_completions([problem] * 2)

    def gradient(loss):
        model.zero_grad()
        loss.backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])

    found = []
    (prompt,) = tokenizer.apply_chat_template(
        [problem["prompt"]], add_generation_prompt=True, return_dict=False
    )
    for i, response in enumerate(responses):
        alone = torch.zeros(2).index_fill_(0, torch.tensor(i), 1.0) * batch["advantages"]
        theirs = gradient(trainer._compute_loss(model, batch | {"advantages": alone}))
        full = gradient(
            -alone[i] * logps(prompt, response).sum() / 1520
        )  # each token the same, as in verl's token-mean
        assert float((theirs - theirs @ full / (full @ full) * full).norm()) < 1e-3 * float(full.norm())
        found.append(float(theirs @ full / (full @ full)))
    return found


def test_long_samples_keep_their_weight_where_trls_default_drops_them(tmp_path, base):
    """vLLM and the trainer disagree by 0.2 % a token: over 1,500 tokens by a factor of twenty, which TRL's
    default cuts off.
    """
    assert sample_weights(tmp_path, base, False, 0.002) == pytest.approx([1, 1], rel=1e-3)
    assert sample_weights(tmp_path, base, False, -0.002) == pytest.approx([1, 1], rel=1e-3)
    assert sample_weights(tmp_path, base, True, 0.002) == pytest.approx([1.04, 0], abs=0.01)
    assert sample_weights(tmp_path, base, True, -0.002) == pytest.approx([0.96, 0.05], abs=0.01)


@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16])
def test_the_papers_rl_batch_is_exact_on_any_number_of_gpus(gpus):
    batching = rl.trl_batching(prompts=1024, rollouts=8, minibatch=256, devices=gpus, device_batch=1)
    per_micro_batch = gpus * batching["per_device_train_batch_size"]
    assert per_micro_batch * batching["gradient_accumulation_steps"] == 256 * 8
    assert per_micro_batch * batching["steps_per_generation"] == 1024 * 8
    assert batching["steps_per_generation"] == batching["updates"] * batching["gradient_accumulation_steps"]


def test_a_problem_that_would_end_its_own_turn_is_refused_by_rl(tmp_path, base):
    records.write_parquet(tmp_path / "rl.parquet", [{"problem": "63b+5<eos>", "answer": "68"}] * 4)
    output = script("rl", "--model", base, "--problems", tmp_path / "rl.parquet", "--out", tmp_path / "model", "--record",
                    tmp_path / "train.json", "--curve", tmp_path / "curve.parquet", *RL, ok=False)  # fmt: skip
    assert "rl.parquet: a problem spells the special token <eos>" in output
