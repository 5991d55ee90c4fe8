"""The second stage, with TRL and DeepSpeed: SFT by launch.py under each configuration, killed and continued,
and its rate.
"""

import functools
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import torch
from acceptance import DEVICE, ON_CARD, PAPER, call, command, maker_folder, narrowed, note, surroundings
from conftest import REPOSITORY
from test_templates import FAMILIES, fetched

from valley import records, vram

pytestmark = [pytest.mark.slow, pytest.mark.gpu]
CONFIGS = [
    None,
    *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "config/deepspeed").glob("*.json")),
]
MODEL = "qwen2.5-0.5b"
STEPS = 6


@functools.cache
def tokenizer_folder() -> Path:
    """The tokenizer of Qwen's maker; where it is not there and cannot be fetched one of bytes, of as many
    tokens, with those that the family names: what is tested here counts on no maker's.
    """
    try:
        return fetched(FAMILIES["qwen2.5"]["package"])
    except pytest.skip.Exception:
        folder = Path(tempfile.mkdtemp(prefix="valley-tokenizer-"))
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    family, size = PAPER["families"]["qwen2.5"], FAMILIES["qwen2.5"]["end"]
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"t{n}" for n in range(size))][:size]
    plain = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, []))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    named = {"eos_token": family["end_token"], "pad_token": family["pad_token"]}
    more = ["<|im_start|>", *family["stop_tokens"]]
    PreTrainedTokenizerFast(tokenizer_object=plain, extra_special_tokens=more, **named).save_pretrained(
        folder
    )
    return folder


def published_base(folder, content):
    """A base of Qwen's family as fetch_model.py publishes it."""
    entry = PAPER["families"]["qwen2.5"]
    maker = maker_folder(folder / "maker", tokenizer_folder(), content)
    call("fetch_model", "--source", maker, "--template", entry["template"], "--end-token", entry["end_token"], "--pad-token",
         entry["pad_token"], "--out", folder / "base", launched=False)  # fmt: skip
    return folder / "base"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A narrow base and a subset of twelve short examples."""
    folder = tmp_path_factory.mktemp("work")
    rows = [
        {
            "problem": f"What is {n} + {n}?",
            "trace": f"<think>{n} twice.</think> \\boxed{{{2 * n}}}",
            "solution": "",
        }
        for n in range(12)
    ]
    records.write_parquet(folder / "subset.parquet", rows)
    return published_base(folder, narrowed(MODEL)), folder / "subset.parquet"


def flags(cell, work, *more) -> list:
    base, subset = work
    return ["--model", base, "--data", subset, "--out", cell / "model", "--record", cell / "train.json", "--seed", 0, "--lr", 1e-3,
            "--batch", 2, "--epochs", 1, "--max-length", 256, "--gradient-checkpointing", "True", *more]  # fmt: skip


@pytest.fixture(scope="module")
def expected(tmp_path_factory, work):
    """The mean loss of the same training in fp32 by one process."""
    cell = tmp_path_factory.mktemp("fp32") / "cell"
    call("sft", *flags(cell, work, "--precision", "fp32"))
    return records.read_json(cell / "train.json")["train_loss"]


@pytest.mark.parametrize("deepspeed", CONFIGS)
def test_bf16_under_each_configuration_gives_the_loss_of_fp32(tmp_path, work, expected, deepspeed):
    cell = tmp_path / "cell"
    call("sft", *flags(cell, work, "--precision", "bf16"), deepspeed=deepspeed)
    record = records.read_json(cell / "train.json")
    assert record["steps"] == STEPS
    assert record["train_loss"] == pytest.approx(expected, rel=0.01)
    assert bool(record["gpus"]) == ON_CARD


def test_a_killed_training_is_continued_to_the_loss_of_an_undisturbed_one(tmp_path, work, expected):
    zero2, cell = "config/deepspeed/zero2.json", tmp_path / "cell"
    given = flags(cell, work, "--precision", "bf16", "--save-every", 2)
    job = subprocess.Popen(
        command("sft", *given, deepspeed=zero2), cwd=REPOSITORY, env=surroundings(), start_new_session=True
    )
    while not (cell / "checkpoints/checkpoint-2/manifest.json").exists():
        assert job.poll() is None
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (cell / "train.json").exists()
    call("sft", *given, deepspeed=zero2)
    record = records.read_json(cell / "train.json")
    assert record["resumed_from"].rsplit("-", 1)[1] in ("2", "4")
    assert record["train_loss"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("length", [4096, 16384] if ON_CARD else [256])
def test_the_rate_of_sft_beside_a_bare_loop(tmp_path, length):
    """The whole shape of Qwen2.5-0.5B on a card, as the study trains it; on CPU a narrow one, for the code
    alone. What more steps take more, so that starting counts for nothing.
    """
    from transformers import AutoModelForCausalLM
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    few, many = (8, 40) if ON_CARD else (2, 8)
    content = dict(vram.published()[PAPER["models"][MODEL]["source"]]) if ON_CARD else narrowed(MODEL)
    base = published_base(tmp_path, content)
    rows = [{"problem": "Count.", "trace": " 1 2" * length, "solution": ""} for _ in range(many)]
    records.write_parquet(tmp_path / "subset.parquet", rows)
    seconds = {}
    for steps in (few, many):
        cell = tmp_path / str(steps)
        given = flags(
            cell, (base, tmp_path / "subset.parquet"), "--precision", "bf16", "--batch", 1, "--steps", steps
        )
        call("sft", *given, "--max-length", length, deepspeed=PAPER["sft"]["deepspeed"])
        record = records.read_json(cell / "train.json")
        assert record["tokens_trained"] == steps * length
        seconds[steps] = record["seconds_training"]
    rate = (many - few) * length / (seconds[many] - seconds[few])

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).to(DEVICE).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=ON_CARD)
    ids = torch.randint(1000, (1, length), device=DEVICE)
    head = model.get_output_embeddings().weight
    for step in range(1 + many - few):
        if step == 1:
            start = time.perf_counter()
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        logs, *_ = ChunkedLogProbFunction.apply(states, head, None, ids[0], 1.0, 32768)
        (-logs.mean()).backward()
        optimiser.step()
        optimiser.zero_grad()
        float(logs[0])  # waits for the card
    bare = (many - few) * length / (time.perf_counter() - start)
    flops = 6 * vram.described_shape(content).parameters * rate
    note(f"speed-{length}", tokens_per_second=rate, bare_tokens_per_second=bare, flops=flops)
    assert rate > (0.3 if ON_CARD else 0.05) * bare
