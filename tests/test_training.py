"""SFT and GRPO with the real trainers on a tiny model."""

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pyarrow.parquet
import pytest
import rl
import sft
from conftest import REPOSITORY, run, script

from valley import (
    check,
    checkpoints,
    environment,
    equality,
    flags,
    grading,
    grid,
    manifests,
    plain_steps,
    prompts,
    records,
    training,
)


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


def test_one_process_that_sees_two_cards_stops_and_that_is_no_failure_of_the_work(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    args = SimpleNamespace(record=tmp_path / "train.json", out=tmp_path / "model")
    with pytest.raises(SystemExit, match=r"launch\.py --gpus 2 --train"), training.session(args, []):
        pass
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("LOCAL_RANK", "0")
    environment.check_one_card()  # one of several processes, each of which takes its own


SFT = ["--lr", 5e-3, "--batch", 2, "--device-batch", 2, "--max-length", 256, "--seed", 0]


def sft_flags(folder, base, subset, *flags):
    files = ["--model", base, "--data", subset, "--out", folder / "model", "--record", folder / "train.json"]
    return [str(flag) for flag in [*files, *SFT, *flags]]


def train(folder, base, subset, *flags, ok=True):
    output = script("sft", *sft_flags(folder, base, subset, *flags), ok=ok)
    return records.read_json(folder / "train.json") if ok else output


def test_the_plain_loss_of_cpu_studies_is_trls_with_its_gradients(tmp_path, base, subset):
    import torch
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from valley import tokenised

    file, _ = tokenised.obtained(subset, base, "trace", None, "")
    kept = {
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "use_cpu": True,
        "report_to": "none",
    }
    config = SFTConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        bf16=False,
        gradient_checkpointing=False,
        **kept,
    )
    model, found = AutoModelForCausalLM.from_pretrained(base), {}
    trainer = SFTTrainer(model=model, args=config, train_dataset=tokenised.examples(file, 64),
                         processing_class=prompts.load_tokenizer(base))  # fmt: skip
    lengths = lambda batch: {int((row != -100).sum()) for row in batch["labels"]}  # noqa: E731
    # Rows of one length would hide a wrong mask.
    batch = next(batch for batch in trainer.get_train_dataloader() if len(lengths(batch)) > 1)
    for name, loss in (
        ("TRL's", lambda: SFTTrainer.compute_loss(trainer, model, dict(batch))),
        ("ours", lambda: plain_steps.completion_loss(model, batch)),
    ):
        model.zero_grad()
        value = loss()
        value.backward()
        found[name] = [value.detach(), *(weight.grad.clone() for weight in model.parameters())]
    for theirs, ours in zip(found["TRL's"], found["ours"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


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
    assert record["peak_gib"] is None  # of a card: this is a CPU
    files = {file.name for file in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= files
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)


def test_the_peak_of_memory_is_the_largest_of_all_ranks_in_gib(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 << 30)
    ranks = SimpleNamespace(device="cpu", gather=lambda own: torch.stack([own, own / 3, own * 2]))
    assert training.peak_gib(ranks) == 6.0


def weights(folder):
    from safetensors import safe_open

    with safe_open(folder / "model" / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def killed(step, folder, base, subset, *flags):
    """Train, with a SIGKILL at the end of a step; what it printed."""
    return run(faulty("kill", step, folder, base, subset, *flags), ok=False)


def faulty(fault, step, folder, base, subset, *flags):
    """The command of a training to which something happens at the end of a step (tests/faults/at_step.py)."""
    command = [sys.executable, "scripts/warm.py", "tests/faults/at_step.py", fault, step, "scripts/sft.py"]
    return [str(part) for part in [*command, *sft_flags(folder, base, subset, *flags)]]


@pytest.mark.parametrize(("ahead", "over"), [(False, False), (True, True)])
def test_a_portion_that_samples_ahead_ends_with_time_left_for_what_it_has_in_hand(monkeypatch, ahead, over):
    """Steps of 20 s with 40 s left: another one fits, another one and what it leaves in hand do not."""
    ranks = SimpleNamespace(device="cpu", reduce=lambda value, how: value)
    portion = training.Portion(SimpleNamespace(accelerator=ranks), 100.0, 1, training.spare_steps(ahead))
    control, state = SimpleNamespace(should_save=False), SimpleNamespace(global_step=0, max_steps=9)
    for step, now in enumerate((20.0, 40.0, 60.0)):
        monkeypatch.setattr(training.time, "time", lambda now=now: now)
        state.global_step = step
        portion.on_train_begin(None, state, control) if not step else portion.on_step_end(
            None, state, control
        )
    assert portion.over is control.should_save is over


def test_an_interrupted_sft_resumes_to_the_same_weights_and_other_work_does_not_use_its_checkpoints(
    tmp_path, base, subset
):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    straight.mkdir()
    broken.mkdir()
    flags = ["--epochs", 3, "--save-every", 8]
    assert train(straight, base, subset, *flags)["resumed_from"] is None
    # Killed at step 12, when the checkpoint of step 8 is there.
    killed(12, broken, base, subset, *flags)
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


TIMES = {"seconds", "seconds_training", "seconds_lost", "segments", "steps_lost", "finished", "resumed_from"}


def test_a_run_killed_at_three_steps_and_resumed_has_the_record_of_an_undisturbed_one_and_its_times_sum(
    tmp_path, base, subset
):
    """Also for a checkpoint between two logged steps, and a kill before the first checkpoint."""
    cell, flags = tmp_path / "cell", ["--epochs", 3, "--save-every", 3]
    cell.mkdir()
    whole = train(cell, base, subset, *flags)
    before = weights(cell)
    shutil.rmtree(cell)
    cell.mkdir()
    for step in (2, 11, 20):
        killed(step, cell, base, subset, *flags)
    record = train(cell, base, subset, *flags)
    assert weights(cell) == before
    differing = {name for name in whole.keys() | record.keys() if whole.get(name) != record.get(name)}
    assert differing <= TIMES
    assert record["tokens_trained"] == 3 * record["tokens_per_epoch"]
    assert whole["segments"][0]["to"] == 24
    assert [(one["from"], one["to"]) for one in record["segments"]] == [(0, 1), (0, 10), (9, 19), (18, 24)]
    assert record["steps_lost"] == 1 + 1 + 1
    assert record["seconds"] == pytest.approx(sum(one["seconds"] for one in record["segments"]))
    assert 0 < record["seconds_lost"] < record["seconds"]
    assert whole["seconds_lost"] == 0


def now_is_the_end() -> dict:
    """The environment of a job whose time is up, as SLURM tells it."""
    return {"SLURM_JOB_END_TIME": str(int(time.time()))}


def test_sft_whose_time_is_up_ends_with_a_checkpoint_at_a_step_of_its_own_and_goes_on_from_it(
    tmp_path, base, subset
):
    """Without checkpoints by number of steps; the result is that of an undisturbed run, bit for bit."""
    whole, cell = tmp_path / "whole", tmp_path / "cell"
    whole.mkdir(), cell.mkdir()
    undisturbed = train(whole, base, subset, "--epochs", 3)
    for step in (1, 2):
        output = script("sft", *sft_flags(cell, base, subset, "--epochs", 3), ok=False, **now_is_the_end())
        assert (
            f"paused: {cell / 'model'}: step {step} of 24 is saved, the time of this job is nearly up"
            in output
        )
        assert not (cell / "failed.json").exists()  # nothing that a retry stops on
        assert not (cell / "model").exists()
    later = {"SLURM_JOB_END_TIME": str(int(time.time()) + 3600)}
    script("sft", *sft_flags(cell, base, subset, "--epochs", 3), **later)
    record = records.read_json(cell / "train.json")
    assert weights(cell) == weights(whole)
    assert [(one["from"], one["to"]) for one in record["segments"]] == [(0, 1), (1, 2), (2, 24)]
    assert record["steps_lost"] == 0
    assert record["tokens_trained"] == undisturbed["tokens_trained"]


def test_a_process_whose_time_is_up_says_so_by_its_exit_code_and_puts_its_slurm_job_back(
    tmp_path, monkeypatch
):
    """A stand-in for scontrol: that SLURM then starts the job again is tests/slurm's to show."""
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexit $(cat {tmp_path}/code)\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    waited = []
    monkeypatch.setattr(environment.time, "sleep", waited.append)
    for job, rank, code, asked, waits in (
        (None, 0, 0, 0, 0),
        ("7", 0, 0, 1, 1),
        ("7", 1, 0, 1, 2),
        ("7", 0, 1, 2, 2),
    ):
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        if job:
            monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("RANK", str(rank))
        (tmp_path / "code").write_text(str(code))
        with pytest.raises(SystemExit) as ended:
            environment.hand_over("step 3 of 9 is saved")
        assert ended.value.code == environment.CONTINUES
        said = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
        assert (said, len(waited)) == ("requeue 7\n" * asked, waits)


@pytest.mark.parametrize(
    ("told", "left"),
    [("2-01:00:05", 176405), ("1:00:05", 3605), ("4:05", 245), ("UNLIMITED", None), ("", None)],
)
def test_the_end_of_a_job_is_asked_of_slurms_that_do_not_tell_it(tmp_path, monkeypatch, told, left):
    command = tmp_path / "squeue"
    command.write_text(f'#!/bin/sh\n[ "$*" = "-h -j 7 -o %L" ] && echo "{told}"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    end = environment.job_end()
    assert end is None if left is None else abs(end - time.time() - left) < 5
    monkeypatch.delenv("SLURM_JOB_ID")
    assert environment.job_end() is None


def test_a_half_written_or_damaged_checkpoint_is_passed_over_aloud_for_the_newest_whole_one(
    tmp_path, base, subset
):
    flags = ["--epochs", 3, "--save-every", 4]
    straight, cell = tmp_path / "straight", tmp_path / "cell"
    straight.mkdir()
    cell.mkdir()
    train(straight, base, subset, *flags)
    killed(10, cell, base, subset, *flags)
    checkpoints = cell / "checkpoints"
    for step, harm in ((12, lambda made: (made / "trainer_state.json").unlink()),
                       (16, lambda made: (made / "optimizer.pt").write_bytes(b"cut"))):  # fmt: skip
        made = shutil.copytree(checkpoints / "checkpoint-8", checkpoints / f"checkpoint-{step}")
        harm(made)
    (checkpoints / "checkpoint-12/manifest.json").unlink()
    output = script("sft", *sft_flags(cell, base, subset, *flags))
    assert re.search(r"passed over \S+checkpoint-16: optimizer.pt has 3 bytes in place of [\d,]+", output)
    assert re.search(r"passed over \S+checkpoint-12: manifest.json is missing or cannot be read", output)
    assert re.search(r"continues from \S+checkpoint-8", output)
    assert weights(straight) == weights(cell)


def test_one_flipped_byte_in_a_checkpoints_small_files_is_found(tmp_path):
    made = tmp_path / "checkpoint-3"
    made.mkdir()
    (made / "scheduler.pt").write_bytes(b"abc")
    manifests.seal(made, step=3)
    assert manifests.flaw(made) is None
    (made / "scheduler.pt").write_bytes(b"abd")
    assert "scheduler.pt is not what was written" in manifests.flaw(made)


def test_checkpoints_of_another_number_of_processes_or_zero_stage_are_set_aside_and_taken_up_again(
    tmp_path, capsys
):
    folder, work = tmp_path / "checkpoints", ["data", "model"]
    two, one = {"processes": 2, "zero_stage": 3}, {"processes": 1, "zero_stage": 2}
    assert checkpoints.resume_point(folder, work, two) is None
    made = folder / "checkpoint-8"
    made.mkdir()
    manifests.seal(made, step=8)
    assert checkpoints.resume_point(folder, work, one) is None
    assert "by 2 processes, ZeRO stage 3, this run is 1 process, ZeRO stage 2" in capsys.readouterr().err
    assert len(list(tmp_path.glob("checkpoints.of-*/checkpoint-8"))) == 1
    assert checkpoints.resume_point(folder, work, two) == str(made)


def test_a_second_process_on_a_cell_waits_names_the_first_and_takes_over_what_it_finished(
    tmp_path, base, subset
):
    """As after a `kill -9` of Snakemake: the orphan trains on, the rerun starts a second trainer."""
    flags = sft_flags(tmp_path, base, subset, "--epochs", 12, "--save-every", 4)
    command = [sys.executable, "scripts/warm.py", "scripts/sft.py", *flags]
    first = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until(lambda: list(tmp_path.glob("checkpoints/checkpoint-*/manifest.json")))
    holder = records.read_json(tmp_path / "train.lock")["pid"]
    output = run(command)
    assert f"waits for process {holder} on " in output
    assert "nothing is left to do" in output
    assert first.wait(60) == 0
    assert records.read_json(tmp_path / "train.json")["segments"][0]["to"] == 96


@pytest.mark.parametrize("found", [{}, {"work": grid.fingerprint(["work"])}])
def test_all_processes_of_a_launch_go_by_what_the_first_found_when_its_wait_was_over(tmp_path, found):
    """The first left a finished training alone, the others began it, waited for the first and failed, and
    Snakemake removed what was finished.
    """
    told = ("import sys; from pathlib import Path; from valley import locks\n"
            f"with locks.guarded(Path('{tmp_path}/failed.json'), Path('{tmp_path}/lock'), ['work'], lambda: {found}) as todo:\n"
            "    print('todo', todo)")  # fmt: skip
    with open(tmp_path / "lock", "w") as before:
        fcntl.flock(before, fcntl.LOCK_EX)  # an orphan, which ends with the work done or not
        variables = os.environ | {"PYTHONPATH": "scripts", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
        ranks = [
            subprocess.Popen([sys.executable, "-c", told], cwd=REPOSITORY, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env=variables | {"RANK": str(rank)})
            for rank in range(2)
        ]  # fmt: skip
        while "waits for process" not in ranks[0].stderr.readline():
            pass
    assert [rank.communicate(timeout=60)[0] for rank in ranks] == [f"todo {not found}\n"] * 2


def until(condition, seconds=60):
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_checkpoints_by_the_clock_are_continued_and_their_minutes_are_no_part_of_the_work(
    tmp_path, base, subset
):
    """Every step is later than a millionth of a minute; another number of minutes goes on where the first was
    killed.
    """
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    straight.mkdir()
    broken.mkdir()
    train(straight, base, subset)
    killed(5, broken, base, subset, "--save-minutes", 1e-6)
    assert [path.name for path in (broken / "checkpoints").glob("checkpoint-*")] == ["checkpoint-4"]
    record = train(broken, base, subset, "--save-minutes", 60)
    assert record["resumed_from"].endswith("checkpoint-4")
    assert weights(straight) == weights(broken)


def test_numbers_that_went_bad_are_told_from_those_that_did_not():
    steps = lambda **values: [{"step": n + 1} | values for n in range(20)]  # noqa: E731
    fine = steps(
        reward=0.4, frac_reward_zero_std=0.5, **{"completions/mean_length": 90, "completions/min_length": 7}
    )
    assert training.warnings(fine) == []
    assert training.hopeless(fine, 20) is None
    assert training.warnings([{"step": 8, "loss": 0.7}, {"step": 16, "loss": 0.4}]) == []
    (said,) = training.warnings(
        [{"step": 8, "loss": 0.7}, {"step": 16, "loss": 9.4}, {"step": 24, "loss": 0.5}]
    )
    assert said == "the loss rose from 0.7 to 9.4 at step 16"
    (said,) = training.warnings(steps(reward=1.0, frac_reward_zero_std=1.0))
    assert said.startswith("20 steps in a row had the same reward within every group")
    assert training.warnings(steps(reward=0.1, sampler_gap=0.02)) == []
    (behind,) = training.warnings(steps(reward=0.1, sampler_gap=0.3))
    assert "vLLM's log-probabilities were 0.3 a token off the trainer's at step 1" in behind
    (said,) = training.warnings(steps(reward=0.1, **{"completions/min_length": 1}))
    assert said == "20 steps had empty responses, the first at step 1"
    assert (
        training.hopeless(steps(reward=1.0, frac_reward_zero_std=1.0), 40) is None
    )  # all right: nothing is wrong
    assert "nothing to learn from" in training.hopeless(steps(reward=0.0), 40)
    assert training.hopeless(steps(reward=0.0), 100) is None
    assert training.hopeless([*steps(reward=0.0), {"step": 21, "reward": 0.1}], 40) is None
    assert "was empty" in training.hopeless(steps(reward=0.0, **{"completions/mean_length": 1}), 100)
    assert training.hopeless([{"step": 8, "loss": float("nan")}], 20) == "the loss is no number"


def several_updates(steps: int, updates: int, **values) -> list[dict]:
    """TRL's log of RL with several updates a step: of its responses it tells with the first of them."""
    return [
        {"step": updates * step + update + 1, "loss": 0.0, "kl": float(update)}
        | (values if update == 0 else {})
        for step in range(steps)
        for update in range(updates)
    ]


def test_what_is_told_of_rl_with_several_updates_a_step_counts_steps():
    """With the paper's four it waited for twice as many rewards as a run logs."""
    nothing = several_updates(50, 4, reward=0.0, frac_reward_zero_std=1.0)
    assert "the first 50 steps was right" in training.hopeless(nothing, 100)
    assert training.hopeless(nothing[:-4], 100) is None
    (said,) = training.warnings(nothing, 4)
    assert said.startswith("50 steps in a row")
    late = [
        *nothing[:40],
        *[
            entry | {"step": entry["step"] + 40}
            for entry in several_updates(40, 4, reward=0.1, sampler_gap=0.3)
        ],
    ]
    assert any("at step 11," in said for said in training.warnings(late, 4))


def test_a_learning_curve_has_a_row_a_step_and_means_over_its_updates():
    rows = rl.curve_rows(several_updates(3, 4, reward=0.5, **{"completions/mean_length": 90}), 4)
    assert [(row["step"], row["reward"], row["length"], row["kl"]) for row in rows] == [
        (step, 0.5, 90, 1.5) for step in (1, 2, 3)
    ]


def test_rl_without_a_right_response_ends_and_says_why_and_one_that_stands_still_says_so_in_its_record(
    tmp_path, base
):
    records.write_parquet(
        tmp_path / "rl.parquet", [{"problem": f"{n}b+1", "answer": "9999"} for n in range(10, 42)]
    )
    flags = [*RL, "--steps", 44, "--prompts", 1, "--minibatch", 1, "--rollouts", 2, "--device-batch", 2]
    output = script("rl", "--model", base, "--problems", tmp_path / "rl.parquet", "--out", tmp_path / "model", "--record",
                    tmp_path / "train.json", "--curve", tmp_path / "curve.parquet", *flags, ok=False)  # fmt: skip
    assert "training was ended (no response of the first 22 steps was right" in output
    assert not (tmp_path / "model").exists()
    again = [*flags, "--steps", 12]
    script("rl", "--model", base, "--problems", tmp_path / "rl.parquet", "--out", tmp_path / "model", "--record",
           tmp_path / "train.json", "--curve", tmp_path / "curve.parquet", *again)  # fmt: skip
    (said,) = records.read_json(tmp_path / "train.json")["warnings"]
    assert said.startswith("12 steps in a row had the same reward within every group")


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


def test_rl_whose_time_is_up_ends_between_two_of_its_steps_and_keeps_no_checkpoint_that_nobody_asked_for(
    tmp_path, base
):
    problems = tmp_path / "problems.parquet"
    records.write_parquet(problems, [{"problem": f"{n}b+1", "answer": "0"} for n in range(10, 42)])

    def asked(name):
        cell = tmp_path / name
        return ["--model", base, "--problems", problems, "--out", cell / "model", "--record", cell / "train.json", "--curve",
                cell / "curve.parquet", *RL, "--steps", 4, "--minibatch", 2, "--device-batch", 16, "--save-every", 2]  # fmt: skip

    script("rl", *asked("whole"))
    output = script("rl", *asked("cell"), ok=False, **now_is_the_end())
    assert "step 2 of 8 is saved" in output  # updates; two make a step, whose responses they share
    script("rl", *asked("cell"))
    assert weights(tmp_path / "cell") == weights(tmp_path / "whole")
    curves = [
        pyarrow.parquet.read_table(tmp_path / f"{name}/curve.parquet").to_pylist()
        for name in ("cell", "whole")
    ]
    assert curves[0] == curves[1]
    kept = [
        sorted(path.name for path in tmp_path.glob(f"{name}/checkpoints/checkpoint-*"))
        for name in ("cell", "whole")
    ]
    assert kept[0] == kept[1] == ["checkpoint-4", "checkpoint-8"]


def test_the_reward_is_the_graders_headline_verdict():
    """What rl.py rewards and what grade.py calls correct are one function: a wrong reward would train for
    something else.
    """
    cases = [(r"\boxed{7}", 1), (r"\boxed{8}", 1), (r"\boxed{7}", 5), ("7", 1), ("The final answer is 7.", 1),
             (r"\boxed{\frac{14}{2}}", 1), (r"\boxed{9^{9^{9^9}}}", 1)]  # fmt: skip
    with equality.Comparer() as comparer:
        reward = rl.make_reward([1], comparer=comparer)
        completions = [[{"role": "assistant", "content": text}] for text, _ in cases]
        found = reward(completions, [[5, last] for _, last in cases], ["7"] * len(cases))
        triples = [(text, "stop" if last == 1 else "length", "7") for text, last in cases]
        assert found == [float(row["correct"]) for row in grading.grade(triples, comparer)]
    assert found == [1, 0, 0, 0, 1, 1, 0]


def test_the_reward_holds_problems_that_list_their_answers_to_these_words():
    texts = [r"\boxed{\text{B is a Knave}}", r"\boxed{knight}", r"\boxed{not a knave}"]
    with equality.Comparer() as comparer:
        found = {
            answers: rl.make_reward([1], comparer, answers=answers)(
                [[{"role": "assistant", "content": text}] for text in texts], [[5, 1]] * 3, ["knave"] * 3
            )
            for answers in ((), ("knight", "knave"))
        }
    assert found == {(): [0, 0, 0], ("knight", "knave"): [1, 0, 0]}


def test_only_rl_on_listed_answers_is_other_work_than_before_there_were_any():
    plain = [
        "--model",
        "m",
        "--problems",
        "rl/logic.parquet",
        "--out",
        "o",
        "--record",
        "r",
        "--curve",
        "c",
        *map(str, RL),
    ]
    before = rl.settings(rl.parse(plain))
    assert "answers" not in before
    assert rl.settings(rl.parse([*plain, "--answers", "logic=b,c"])).keys() - before.keys() == {"answers"}


def test_the_papers_rl_becomes_trls_fields_and_long_samples_keep_their_weight(tmp_path):
    """config.yaml on 8 GPUs: four updates of 2,048 responses a step, and no correction that drops long
    samples.
    """
    import torch

    config = check.load([])
    text = flags.line(grid.rl_settings(config, "qwen2.5-1.5b", "sft-8k+rl") | {"deepspeed": None}, flags.RL)
    files = ["--model", "m", "--problems", "p", "--out", "o", "--record", "r", "--curve", "c"]
    args = rl.parse([*files, *text.split()])
    batching = rl.trl_batching(args.prompts, args.rollouts, args.minibatch, 8, args.device_batch)
    updates = batching.pop("updates")
    made = rl.make_config(args, batching, updates, tmp_path, [1])
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
    assert (made.use_vllm, made.vllm_mode) == (True, "colocate")
    assert made.vllm_enable_sleep_mode == torch.cuda.is_available()  # vLLM's CPU build cannot sleep
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
    config = rl.make_config(args, batching, batching.pop("updates"), folder, [1])
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


def test_a_manifest_that_a_killed_process_half_wrote_is_no_part_of_its_checkpoint(tmp_path):
    """RL was killed while it made an old checkpoint one of weights alone; the next process died of the
    remains.
    """
    made = tmp_path / "checkpoint-2"
    made.mkdir()
    for name in ("model.safetensors", "optimizer.pt"):
        (made / name).write_text(name)
    manifests.seal(made, step=2)
    left = made / f".{manifests.MANIFEST}.{socket.gethostname()}-999999999.tmp"
    left.write_text("{")
    checkpoints.drop_states([made])
    assert sorted(path.name for path in made.iterdir()) == ["manifest.json", "model.safetensors"]
    assert manifests.flaw(made) is None
    left.write_text("{")
    manifests.seal(made, step=2)
    assert manifests.flaw(made) is None
