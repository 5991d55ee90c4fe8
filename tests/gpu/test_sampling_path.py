"""The third stage: generation and RL, by vLLM where this Python has it, else by transformers; and two jobs on
one card.
"""

import importlib.util
import subprocess
import sys
import time

import pytest
from acceptance import ON_CARD, PAPER, call, note, surroundings
from conftest import REPOSITORY
from test_models import responses
from test_sft_path import published_base

from valley import records, vram

pytestmark = [pytest.mark.slow, pytest.mark.gpu]
VLLM = ON_CARD and importlib.util.find_spec("vllm") is not None
MODEL = "qwen2.5-0.5b"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The whole shape of the 0.5B model on a card, a narrow one on CPU."""
    from acceptance import narrowed

    content = dict(vram.published()[PAPER["models"][MODEL]["source"]]) if ON_CARD else narrowed(MODEL)
    return published_base(tmp_path_factory.mktemp("base"), content)


def test_greedy_responses_are_the_same_again_and_by_the_other_engine(tmp_path, base):
    engines = ["transformers", *(["vllm"] if VLLM else [])]
    once = {}
    for engine in engines:
        (folder := tmp_path / engine).mkdir()
        (again := tmp_path / f"{engine}-again").mkdir()
        once[engine] = [row["response"] for row in responses(folder, base, "qwen2.5", "fp32", engine)]
        assert [row["response"] for row in responses(again, base, "qwen2.5", "fp32", engine)] == once[engine]
    assert len(set(map(tuple, once.values()))) == 1
    note("generation", engines=engines)


def test_a_step_of_rl_samples_rewards_and_moves_the_weights(tmp_path, base):
    problems = tmp_path / "rl.parquet"
    records.write_parquet(
        problems, [{"problem": f"What is {n} + 4?", "answer": str(n + 4)} for n in range(8)]
    )
    sizes = (16, 8, 512) if ON_CARD else (2, 2, 8)
    prompts, rollouts, tokens = sizes
    start = time.perf_counter()
    call("rl", "--model", base, "--problems", problems, "--out", tmp_path / "model", "--record", tmp_path / "train.json", "--curve",
         tmp_path / "curve.parquet", "--steps", 2, "--prompts", prompts, "--rollouts", rollouts, "--minibatch", prompts // 2,
         "--device-batch", 1, "--max-new-tokens", tokens, "--max-prompt", 256, "--lr", 1e-4, "--kl", 1e-4, "--save-every", 1,
         "--precision", "bf16", "--gradient-checkpointing", "True", "--seed", 0, "--vllm", str(VLLM),
         deepspeed=PAPER["rl"]["deepspeed"])  # fmt: skip
    record = records.read_json(tmp_path / "train.json")
    curve = records.read_parquet(tmp_path / "curve.parquet").to_pylist()
    assert [row["step"] for row in curve] == [1, 2]
    assert record["columns_computed"] <= 1.15 * record["columns_of_tokens"]
    note("rl", vllm=VLLM, seconds=time.perf_counter() - start, tokens=record["tokens_generated"],
         tokens_per_second=record["tokens_generated"] / record["seconds_training"])  # fmt: skip


def test_two_jobs_take_turns_on_one_card():
    """The second waits until the first has ended, and says so. On CPU a number stands for a card."""
    hold = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(6)"
    script = REPOSITORY / ".acceptance_hold.py"
    script.write_text(hold)
    shown = surroundings() | ({} if ON_CARD else {"CUDA_VISIBLE_DEVICES": "0"})
    if ON_CARD:
        shown["CUDA_VISIBLE_DEVICES"] = shown.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    start = [sys.executable, "scripts/launch.py", "--gpus", "1", str(script)]
    try:
        first = subprocess.Popen(start, cwd=REPOSITORY, env=shown, stdout=subprocess.PIPE, text=True)
        taken = first.stdout.readline().strip()
        second = subprocess.run(start, cwd=REPOSITORY, env=shown, capture_output=True, text=True)
        assert first.poll() is not None
        assert second.stdout.strip() == taken
        assert "waiting for 1 of 1 GPUs to be free" in second.stderr
        first.wait()
    finally:
        script.unlink()
