"""SFT under the DeepSpeed configurations of the repository, on CPU (gloo) in place of GPUs: the same result
on any number.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy
import pytest
from conftest import REPOSITORY, run
from test_training import sft_flags, weights

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
    command = [sys.executable, "scripts/launch.py", "--gpus", processes, *deepspeed, "scripts/sft.py",
               *sft_flags(folder, base, data, "--batch", 8, "--device-batch", 1, "--epochs", 3, *deepspeed, *flags)]  # fmt: skip
    run(command, **CPU)
    return records.read_json(folder / "train.json"), weights(folder)


def difference(left: dict, right: dict) -> float:
    """The largest difference between two models' weights; ZeRO-3 writes the tied output matrix a second time."""
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
