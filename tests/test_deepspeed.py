"""SFT under the DeepSpeed configurations of the repository, on CPU (gloo) in place of GPUs: the same result
on any number.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from conftest import REPOSITORY, run
from test_training import RL, sft_flags, until, weights

from valley import records

CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
CONFIGS = sorted((REPOSITORY / "config/deepspeed").glob("*.json"))

needs_compiler = pytest.mark.skipif(
    not shutil.which("g++"), reason="DeepSpeed compiles its CPU optimiser with g++, not found"
)


def train(folder: Path, base, data, processes: int, zero: str | None, *flags):
    """Train with a global batch of eight on so many processes; the record and the weights."""
    folder.mkdir(parents=True)
    deepspeed = ["--deepspeed", f"config/deepspeed/{zero}.json"] if zero else []
    command = [sys.executable, "scripts/launch.py", "--gpus", processes, "--train", *deepspeed, "scripts/sft.py",
               *sft_flags(folder, base, data, "--batch", 8, "--device-batch", 1, "--epochs", 3, *deepspeed, *flags)]  # fmt: skip
    run(command, **CPU)
    return records.read_json(folder / "train.json"), weights(folder)


def command(folder: Path, base, data, processes: int, zero: str, *fault) -> list[str]:
    """A training that saves every second step, to which a fault may happen (tests/faults/at_step.py)."""
    deepspeed = ["--deepspeed", f"config/deepspeed/{zero}.json"]
    script = ["tests/faults/at_step.py", *fault, "scripts/sft.py"] if fault else ["scripts/sft.py"]
    flags = ["--batch", 8, "--device-batch", 1, "--epochs", 5, "--save-every", 2, *deepspeed]
    return [str(part) for part in [sys.executable, "scripts/launch.py", "--gpus", processes, *deepspeed, *script,
                                   *sft_flags(folder, base, data, *flags)]]  # fmt: skip


def processes_of(folder: Path) -> list[int]:
    """The processes whose command line names a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_ranks_end_with_their_launcher_and_a_hung_collective_ends_itself_and_both_are_continued(
    tmp_path, base, subset, zero
):
    """One rank stands still at step 5; the other waits for it in a collective, writes down where, and ends.
    Then the launcher is killed. Sharded checkpoints continue on as many processes, and on no other number.
    """
    straight, cell = tmp_path / "straight", tmp_path / "cell"
    run(command(straight, base, subset, 2, zero), **CPU)
    stall = {"VALLEY_STALL": json.dumps({"first": 60, "least": 6, "factor": 1})}
    output = run(command(cell, base, subset, 2, zero, "hang", 5), ok=False, **CPU, FAULT_RANK="1", **stall)
    assert "stalled: no step for" in output
    assert re.search(r"Where process \d stood is in", output)
    until(lambda: processes_of(cell) == [], 20)

    # The other number of processes sets them aside, says so, and starts anew; it is stopped.
    other = subprocess.Popen(command(cell, base, subset, 1, zero, "hang", 3), cwd=REPOSITORY, stderr=subprocess.PIPE,
                             text=True, env=os.environ | CPU)  # fmt: skip
    until(lambda: list(cell.glob("checkpoints/checkpoint-2/manifest.json")), 120)
    other.kill()
    until(lambda: processes_of(cell) == [], 20)
    stage = zero[-1]
    said = f"written by 2 processes, ZeRO stage {stage}, this run is 1 process, ZeRO stage {stage}"
    assert said in other.stderr.read()

    # As before they are taken up again. The launcher is killed while both ranks work.
    launcher = subprocess.Popen(command(cell, base, subset, 2, zero, "hang", 7), cwd=REPOSITORY, stderr=subprocess.PIPE,
                                text=True, env=os.environ | CPU | {"FAULT_RANK": "1"})  # fmt: skip
    until(lambda: list(cell.glob("checkpoints/checkpoint-6/manifest.json")), 120)
    assert len(processes_of(cell)) >= 3
    launcher.kill()
    until(lambda: processes_of(cell) == [], 20)
    assert re.search(r"continues from \S+checkpoint-4", launcher.stderr.read())

    record_before = records.read_json(straight / "train.json")
    run(command(cell, base, subset, 2, zero), **CPU)
    record = records.read_json(cell / "train.json")
    assert record["resumed_from"].endswith("checkpoint-6")
    assert [one["from"] for one in record["segments"]] == [0, 4, 6]
    for name in ("tokens_trained", "train_loss", "loss", "steps"):
        assert record[name] == record_before[name]
    assert weights(cell) == weights(straight)


def difference(left: dict, right: dict) -> float:
    """The largest difference between two models' weights; ZeRO-3 writes the tied output matrix a second
    time.
    """
    as_numbers = lambda weight: numpy.frombuffer(weight, numpy.float32)  # noqa: E731
    assert set(left) - set(right) <= {"lm_head.weight"}
    assert left.get("lm_head.weight", left["model.embed_tokens.weight"]) == left["model.embed_tokens.weight"]
    return max(float(abs(as_numbers(left[name]) - as_numbers(right[name])).max()) for name in right)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_deepspeeds_own_parser_accepts_every_configuration(path):
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    content = {key: value for key, value in json.loads(path.read_text()).items() if value != "auto"}
    zero = {key: value for key, value in content["zero_optimization"].items() if value != "auto"}
    filled = content | {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 8,
                        "gradient_clipping": 1.0, "bf16": {"enabled": True}, "zero_optimization": zero}  # fmt: skip
    parsed = DeepSpeedConfig(filled)
    assert parsed.zero_optimization_stage == int(path.stem[4])
    assert ("offload" in path.stem) == (parsed.zero_config.offload_optimizer is not None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--gradient-checkpointing", True],
        ["--lora-rank", 4, "--gradient-checkpointing", True],
    ],
    ids=["all weights", "checkpointing", "adapters"],
)
def test_two_processes_without_deepspeed_train_the_same_model_as_one(tmp_path, base, subset, flags):
    """One process that sees two cards trained on twice the batch, in half of the steps."""
    alone, expected = train(tmp_path / "alone", base, subset, 1, None, *flags)
    record, found = train(tmp_path / "two", base, subset, 2, None, *flags)
    assert (record["devices"], record["accumulate"], record["steps"]) == (2, 4, alone["steps"])
    assert record["tokens_trained"] == alone["tokens_trained"]
    assert record["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-3)
    assert difference(found, expected) < 1e-3


@pytest.mark.slow
def test_rl_by_two_processes_without_deepspeed_makes_the_same_number_of_steps_from_as_many_responses(
    tmp_path, base
):
    records.write_parquet(
        tmp_path / "rl.parquet", [{"problem": f"{n}b+1", "answer": "0"} for n in range(10, 42)]
    )
    found = []
    for processes in (1, 2):
        cell = tmp_path / str(processes)
        flags = ["--model", base, "--problems", tmp_path / "rl.parquet", "--out", cell / "model", "--record", cell / "train.json",
                 "--curve", cell / "curve.parquet", *RL, "--steps", 4, "--minibatch", 2, "--device-batch", 8]  # fmt: skip
        run(
            [sys.executable, "scripts/launch.py", "--gpus", processes, "--train", "scripts/rl.py", *flags],
            **CPU,
        )
        found.append(records.read_json(cell / "train.json"))
    for name in ("steps", "updates_per_step", "responses"):
        assert found[0][name] == found[1][name]
    assert [record["devices"] for record in found] == [1, 2]


@needs_compiler
@pytest.mark.slow
def test_two_processes_under_zero_train_the_same_model_as_one_without(tmp_path, base, subset):
    alone, expected = train(tmp_path / "alone", base, subset, 1, None)
    assert (alone["devices"], alone["accumulate"]) == (1, 8)
    for zero in ("zero2", "zero3"):
        record, found = train(tmp_path / zero, base, subset, 2, zero)
        assert (record["devices"], record["accumulate"], record["steps"]) == (2, 4, alone["steps"])
        assert record["parameters"] == alone["parameters"]
        assert record["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-3)
        assert difference(found, expected) < 1e-3


@needs_compiler
@pytest.mark.slow
def test_eight_processes_of_one_equal_one_process_of_eight(tmp_path, base, subset):
    """The paper's 8k cell: batch 8 on 8 GPUs without accumulation, or on one with eight."""
    eight, left = train(tmp_path / "eight", base, subset, 8, "zero2")
    one, right = train(tmp_path / "one", base, subset, 1, "zero2")
    assert (eight["accumulate"], one["accumulate"]) == (1, 8)
    assert difference(left, right) < 1e-3
