"""The second stage, with TRL: SFT by launch.py, without DeepSpeed and, where it is installed, under each of
its configurations; killed and continued, several examples in a row, and its rate.
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
from accept import MODEL
from acceptance import (
    DEEPSPEED,
    DEVICE,
    ON_CARD,
    PAPER,
    VARLEN_LACKS,
    call,
    command,
    maker_folder,
    narrowed,
    needs_deepspeed,
    needs_varlen,
    note,
    surroundings,
    told_gib,
)
from conftest import REPOSITORY
from test_smollm import instruct_model
from test_templates import FAMILIES, fetched

from valley import records, shapes, vram

pytestmark = [pytest.mark.slow, pytest.mark.gpu]
CONFIGS = sorted(
    str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "config/deepspeed").glob("*.json")
)
ZERO2 = "config/deepspeed/zero2.json"
STEPS = 6


def with_and_without(*configs: str):
    """A test without DeepSpeed, then under each configuration where it is installed."""
    marked = [pytest.param(path, marks=needs_deepspeed, id=Path(path).stem) for path in configs]
    return pytest.mark.parametrize("deepspeed", [pytest.param(None, id="without DeepSpeed"), *marked])


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


def sampled_base(folder):
    """The whole shape of the 0.5B model on a card; on CPU a narrow one with as many heads as its stream is
    wide, for vLLM's Qwen2 reads no width of a head in a config.
    """
    content = dict(shapes.published()[PAPER["models"][MODEL]["source"]])
    if not ON_CARD:
        content = narrowed(MODEL) | {"num_attention_heads": 2, "num_key_value_heads": 1}
    return published_base(folder, content)


def real_base(folder):
    """SmolLM2-135M-Instruct; on a card where it is there already."""
    maker = instruct_model(fetch=not ON_CARD)
    call("fetch_model", "--source", maker, "--template", maker / "template.jinja", "--end-token", "<|im_end|>", "--pad-token",
         "<|endoftext|>", "--out", folder / "base", launched=False)  # fmt: skip
    return folder / "base"


def start_and_subset(folder):
    """A narrow base and a subset of twelve short examples."""
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


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return start_and_subset(tmp_path_factory.mktemp("work"))


def flags(cell, work, *more) -> list:
    base, subset = work
    return ["--model", base, "--data", subset, "--out", cell / "model", "--record", cell / "train.json", "--seed", 0, "--lr", 1e-3,
            "--batch", 2, "--epochs", 1, "--max-length", 256, "--gradient-checkpointing", "True", *more]  # fmt: skip


def plain_loss(folder, work, *more) -> float:
    """The mean loss of the same training in fp32 by one process."""
    call("sft", *flags(folder / "fp32", work, "--precision", "fp32", *more))
    return records.read_json(folder / "fp32/train.json")["train_loss"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory, work):
    return plain_loss(tmp_path_factory.mktemp("plain"), work)


def trained(cell, work, *more, deepspeed=None, gpus: int = 1) -> dict:
    """The record of a training in bf16; its peak of memory is noted beside what was told of it."""
    call("sft", *flags(cell, work, "--precision", "bf16", *more), deepspeed=deepspeed, gpus=gpus)
    record = records.read_json(cell / "train.json")
    assert bool(record["gpus"]) == ON_CARD == bool(record["peak_gib"])
    told = told_gib(vram.of_training, records.read_json(work[0] / "config.json"), record)
    name = Path(deepspeed).stem if deepspeed else "plain"
    note(f"peak-{name}-{gpus}-{cell.name}", peak_gib=record["peak_gib"], told_gib=told)
    return record


@with_and_without(*CONFIGS)
def test_bf16_under_each_configuration_gives_the_loss_of_fp32(tmp_path, work, expected, deepspeed):
    record = trained(tmp_path / "narrow", work, deepspeed=deepspeed)
    assert record["steps"] == STEPS
    assert record["train_loss"] == pytest.approx(expected, rel=0.01)


def test_a_real_model_in_bf16_comes_to_the_loss_of_fp32(tmp_path, work):
    """Within 3 %: AdamW's first steps are as long as the rate whatever the gradient, so that rounding turns
    small ones around. Updates lost in bf16 weights would leave the loss where it starts, a quarter higher.
    """
    real, gentle = (real_base(tmp_path), work[1]), ["--lr", 1e-5]
    record = trained(tmp_path / "smollm", real, *gentle)
    assert record["train_loss"] == pytest.approx(plain_loss(tmp_path, real, *gentle), rel=0.03)
    assert record["train_loss"] < 6  # a text in its own language, where weights as they fall have 12


def test_examples_in_one_row_train_as_rows_of_their_own(tmp_path, work):
    """Attention is kept apart by positions, or the loss would be another: by a mask, and by varlen where its
    kernel is there.
    """
    ways = {"rows": [], "packed": ["--packing", True]}
    if not VARLEN_LACKS:
        ways["varlen"] = ["--packing", True, "--attention", "varlen"]
    found = {}
    for name, how in ways.items():
        more = ["--batch", 4, "--device-batch", 4, "--schedule", "constant", *how]
        found[name] = trained(tmp_path / name, work, *more)
    assert {name: record["attention"] for name, record in found.items()} == {
        name: "varlen" if name == "varlen" else "sdpa" for name in ways
    }
    for name in ("steps", "tokens_trained"):
        assert len({record[name] for record in found.values()}) == 1
    rows, *others = ([entry["loss"] for entry in record["loss"]] for record in found.values())
    for losses in others:
        assert losses == pytest.approx(rows, rel=2e-3)


@needs_varlen
def test_the_rate_of_packed_sft_by_varlen_beside_sdpa(tmp_path, monkeypatch):
    """Tokens a second of the trainer of sft.py, the first step left out, in this process: four examples of a
    quarter to the whole of 8k in each row of Qwen2.5-0.5B on a card; a narrow model on CPU.
    """
    import sft
    from transformers import TrainerCallback

    from valley import prompts, tokenised, training

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            if ON_CARD:
                torch.cuda.synchronize()
            ended.append(time.perf_counter())

    length, steps, rates, losses = (8192 if ON_CARD else 64), 4, {}, {}
    content = dict(shapes.published()[PAPER["models"][MODEL]["source"]]) if ON_CARD else narrowed(MODEL)
    base, subset = published_base(tmp_path, content), tmp_path / "subset.parquet"
    traces = [" 1 2" * (length * (1 + at % 4) // 8) for at in range(4 * steps)]
    records.write_parquet(subset, [{"problem": "Count.", "trace": trace, "solution": ""} for trace in traces])
    file, _ = tokenised.obtained(subset, base, "trace", None, "")
    for attention in ("sdpa", "varlen"):
        ended: list[float] = []
        more = ["--precision", "bf16", "--lr", 1e-5, "--batch", 4, "--device-batch", 4, "--packing", True]
        more += ["--max-length", length, "--attention", attention]
        asked = flags(tmp_path / attention, (base, subset), *more)
        monkeypatch.setattr("sys.argv", ["sft.py", *map(str, asked)])
        args = sft.parse()
        config = sft.make_config(args, tmp_path / attention, logging_steps=1)
        data, lengths = tokenised.examples(file, length), tokenised.row_tokens(file, length)
        model, tokenizer = training.start_model(args), prompts.load_tokenizer(base)
        trainer = sft.make_trainer(config, model, tokenizer, data, lengths)
        trainer.add_callback(Clock())
        trainer.train()
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert len(log) == len(ended) == steps
        rates[attention] = (log[-1]["num_tokens"] - log[0]["num_tokens"]) / (ended[-1] - ended[0])
        losses[attention] = [entry["loss"] for entry in log]
        del trainer, model
    note("packed-sft", row_tokens=int(lengths.sum()) // steps, **{f"{name}_tokens_per_second": rate for name, rate in rates.items()})  # fmt: skip
    assert losses["varlen"] == pytest.approx(losses["sdpa"], rel=2e-3)


@with_and_without(ZERO2)
def test_a_killed_training_is_continued_to_the_loss_of_an_undisturbed_one(
    tmp_path, work, expected, deepspeed
):
    cell = tmp_path / "cell"
    given = flags(cell, work, "--precision", "bf16", "--save-every", 2)
    job = subprocess.Popen(
        command("sft", *given, deepspeed=deepspeed),
        cwd=REPOSITORY,
        env=surroundings(),
        start_new_session=True,
    )
    while not (cell / "checkpoints/checkpoint-2/manifest.json").exists():
        assert job.poll() is None
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (cell / "train.json").exists()
    call("sft", *given, deepspeed=deepspeed)
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
    content = dict(shapes.published()[PAPER["models"][MODEL]["source"]]) if ON_CARD else narrowed(MODEL)
    base = published_base(tmp_path, content)
    rows = [{"problem": "Count.", "trace": " 1 2" * length, "solution": ""} for _ in range(many)]
    records.write_parquet(tmp_path / "subset.parquet", rows)
    seconds = {}
    for steps in (few, many):
        cell = tmp_path / str(steps)
        given = flags(
            cell, (base, tmp_path / "subset.parquet"), "--precision", "bf16", "--batch", 1, "--steps", steps
        )
        call(
            "sft", *given, "--max-length", length, deepspeed=PAPER["sft"]["deepspeed"] if DEEPSPEED else None
        )
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
    flops = 6 * shapes.described_shape(content).parameters * rate
    told = told_gib(vram.of_training, content, record)
    note(f"speed-{length}", tokens_per_second=rate, bare_tokens_per_second=bare, flops=flops, deepspeed=DEEPSPEED,
         peak_gib=record["peak_gib"], told_gib=told)  # fmt: skip
    assert rate > (0.3 if ON_CARD else 0.05) * bare
