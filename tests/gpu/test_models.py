"""Every model of config.yaml in its published shape, with its maker's tokenizer and our template, through all
that makes a cell of it: preflight, SFT under each DeepSpeed configuration, a step of RL from the one that the
study gives it, the export of that step, and generation from what was exported.

Two layers and a stream of 128 (acceptance.narrowed): heads, vocabulary, rope, ties and windows are the
makers'. Tokenizers are those of tests/test_templates.py, one a family. On a card, where the stage has 80 s
for two models, SFT runs under the study's own configuration alone and transformers generate.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from acceptance import DEEPSPEED, ON_CARD, PAPER, VLLM, call, maker_folder, narrowed, needs_vllm
from safetensors.torch import load_file
from test_sft_path import CONFIGS
from test_templates import FAMILIES, fetched

from valley import grid, prompts, records

pytestmark = [pytest.mark.slow, pytest.mark.gpu]
SUFFIX = PAPER["prompt"]["suffix"]
LENGTH = 1024
BF16 = 2**-8  # what rounding takes of a number; a first step that is lost moves the mean loss by 3 %


def reasoning(family: str) -> str:
    """A trace, for Gemma longer than its window of 512 tokens; on CPU seconds follow the tokens."""
    turns = 30 if ON_CARD or family == "gemma3" else 8
    return "<think>" + " Half of 12 is 6, wait, 6 and 1 make 7." * turns + "</think> It is \\boxed{7}."


def start_of(tmp_path, family: str, content: dict):
    """A base as fetch_model.py publishes it, from a maker's folder."""
    entry = PAPER["families"][family]
    maker = maker_folder(tmp_path / "maker", fetched(FAMILIES[family]["package"]), content)
    call("fetch_model", "--source", maker, "--template", entry["template"], "--end-token", entry["end_token"], "--pad-token",
         entry["pad_token"], "--out", tmp_path / "base", launched=False)  # fmt: skip
    return tmp_path / "base"


def trained(tmp_path, base, family: str, configurations: list[str | None], precision: str) -> list[tuple]:
    """The model after preflight and two steps of SFT, and its record, under each DeepSpeed configuration."""
    rows = [{"problem": f"What is {n} + {n}?", "trace": reasoning(family), "solution": "7"} for n in range(2)]
    records.write_parquet(tmp_path / "subset.parquet", rows)
    given = ["--model", base, "--data", tmp_path / "subset.parquet", "--max-length", LENGTH, "--batch", 1, "--epochs", 1,
             "--suffix", SUFFIX]  # fmt: skip
    call("preflight", *given, "--max-truncated", 0, "--out", tmp_path / "preflight.json", launched=False)
    found = []
    for deepspeed in configurations:
        cell = tmp_path / (Path(deepspeed).stem if deepspeed else "cell")
        call("sft", *given, "--lr", 1e-3, "--warmup", 0, "--precision", precision, "--gradient-checkpointing", "True", "--out", cell / "model",
             "--record", cell / "train.json", "--seed", 0, deepspeed=deepspeed)  # fmt: skip
        found.append((cell / "model", records.read_json(cell / "train.json")))
    return found


def responses(
    tmp_path, model, family: str, precision: str, engine="transformers", python: str = sys.executable
):
    """Greedy responses of a model to two problems, one of them longer than Gemma's window of 512 tokens."""
    asked = ["What is 1 + 1?", f"What is {'1 + ' * 320}1?"]
    tasks = [{"id": str(n), "problem": problem, "answer": "2"} for n, problem in enumerate(asked)]
    records.write_parquet(tmp_path / "task.parquet", tasks)
    out = tmp_path / f"{engine}.parquet"
    stop = PAPER["families"][family]["stop_tokens"]
    call("generate", "--model", model, "--task", tmp_path / "task.parquet", "--out", out, "--samples", 1, "--temperature", 0,
         "--top-p", 1, "--max-new-tokens", 12, "--max-context", 1024, "--seed", 0, "--engine", engine, "--precision", precision,
         "--suffix", SUFFIX, "--stop-tokens", *stop, python=python)  # fmt: skip
    return records.read_parquet(out).to_pylist()


def configurations(own: str) -> list[str | None]:
    """The DeepSpeed configurations to train under, the study's own first; none where it is not installed."""
    if not DEEPSPEED:
        return [None]
    return [own] if ON_CARD else [own, *(path for path in CONFIGS if path != own)]


def moved(before, after) -> set[str]:
    """Names of the weights that two folders of safetensors hold differently."""
    left, right = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    return {
        name for name in right if name in left and not torch.equal(left[name].float(), right[name].float())
    }


# On a card two with much to go wrong, for want of time; all shapes go through on CPU.
@pytest.mark.parametrize("name", ["llama3.1-8b", "gemma3-1b"] if ON_CARD else PAPER["models"])
def test_a_model_of_the_paper_goes_through_every_stage(tmp_path, name):
    family, content = PAPER["models"][name]["family"], narrowed(name)
    base, own = start_of(tmp_path, family, content), grid.sft_settings(PAPER, name, "sft-8k")["deepspeed"]
    (model, record), *others = trained(tmp_path, base, family, configurations(own), "bf16")
    assert record["steps"] == 2
    assert record["train_loss"] > 0
    changed = moved(base, model)
    for folder, other in others:
        assert other["train_loss"] == pytest.approx(record["train_loss"], rel=BF16), folder
        assert moved(base, folder) == changed, folder

    saved = records.read_json(model / "config.json")
    for key in (
        "model_type",
        "vocab_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "tie_word_embeddings",
    ):
        assert saved[key] == content[key], key
    if family == "llama3":  # the makers' stretch of the positions
        assert saved["rope_parameters"]["rope_type"] == "llama3"
        assert saved["rope_parameters"]["factor"] == content["rope_scaling"]["factor"]
    if family == "gemma3":
        assert (
            saved["sliding_window"]
            == 512
            < len(prompts.load_tokenizer(model)(reasoning(family))["input_ids"])
        )
    assert ("lm_head.weight" in changed) == (not content["tie_word_embeddings"])
    assert any("layers.1" in weight for weight in changed)

    report = records.read_json(tmp_path / "preflight.json")
    tokenizer = prompts.load_tokenizer(model)
    bos = FAMILIES[family]["bos"]
    assert report["sample"]["ids"].count(bos) == (bos is not None)
    problems = tmp_path / "rl.parquet"
    records.write_parquet(problems, [{"problem": "What is 3 + 4?", "answer": "7"}] * 4)
    rl = grid.rl_settings(PAPER, name, "base+rl")
    out = tmp_path / "rl"
    call("rl", "--model", model, "--problems", problems, "--out", out / "model", "--record", out / "train.json", "--curve",
         out / "curve.parquet", "--steps", 1, "--prompts", 2, "--rollouts", 2, "--minibatch", 1, "--device-batch", 1,
         "--max-new-tokens", 8, "--lr", 1e-3, "--kl", 0.1, "--entropy", 0.1, "--save-every", 1, "--precision", "bf16", "--seed", 0,
         "--gradient-checkpointing", "True", "--stop-tokens", *PAPER["families"][family]["stop_tokens"], deepspeed=rl["deepspeed"] if DEEPSPEED else None)  # fmt: skip
    [step] = records.read_parquet(out / "curve.parquet").to_pylist()
    assert 0 < step["length"] <= 8
    assert step["kl"] >= 0
    assert records.read_json(out / "train.json")["responses"] == 4

    exported = tmp_path / "step"
    call("export_step", "--checkpoints", out / "checkpoints", "--record", out / "train.json", "--step", 1, "--out", exported,
         launched=False)  # fmt: skip
    assert moved(model, exported), "RL changed nothing, so that the start could be taken for its step"
    assert not moved(out / "model", exported)
    by_vllm = VLLM and not ON_CARD and family != "qwen2.5"  # see the next test
    engine, python = ("vllm", VLLM) if by_vllm else ("transformers", sys.executable)
    rows = responses(tmp_path, exported, family, "bf16", engine, python)
    assert all(row["tokens"] for row in rows)
    assert max(row["prompt_tokens"] for row in rows) > 512
    assert all(row["prompt"].count(tokenizer.bos_token or "\0") == (bos is not None) for row in rows)


@pytest.mark.skipif(ON_CARD, reason="tried on CPU, where there is time")
@needs_vllm
@pytest.mark.parametrize("name", ["llama3.2-3b", "llama3.1-8b", "gemma3-1b"])
def test_vllm_answers_as_transformers_in_the_makers_shapes(tmp_path, name):
    """Of Qwen test_sampling_path.py asks the same: vLLM's Qwen2 derives the width of a head from the stream,
    so that it takes no narrow stream with as many heads as published.
    """
    family = PAPER["models"][name]["family"]
    base = start_of(tmp_path, family, narrowed(name))
    found = {}
    for engine, python in (("transformers", sys.executable), ("vllm", VLLM)):
        found[engine] = responses(tmp_path, base, family, "fp32", engine, python)
    keys = ("prompt", "prompt_tokens", "response", "tokens", "finish_reason")
    ours, theirs = ([[row[key] for key in keys] for row in found[engine]] for engine in found)
    assert ours == theirs


@pytest.mark.skipif(ON_CARD, reason="tried on CPU, where there is time")
def test_a_cap_on_logits_is_part_of_what_is_trained(tmp_path):
    """Gemma 3 of 1B has none, its config has the key: with one the loss of sft.py is another, that of the
    capped model.
    """
    from transformers import AutoModelForCausalLM

    losses = {}
    for cap in (None, 0.05):
        folder = tmp_path / str(cap)
        folder.mkdir()
        base = start_of(folder, "gemma3", narrowed("gemma3-1b", layers=1) | {"final_logit_softcapping": cap})
        [(_, record)] = trained(folder, base, "gemma3", [None], "fp32")
        losses[cap] = record["loss"][0]["loss"]
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        logits = model(input_ids=torch.arange(8)[None]).logits
        assert cap is None or logits.abs().max() <= cap
    flat = torch.log(torch.tensor(float(narrowed("gemma3-1b")["vocab_size"]))).item()
    assert abs(losses[0.05] - flat) < 0.1 < abs(losses[None] - losses[0.05])


@pytest.mark.skipif(ON_CARD, reason="tried on CPU, where there is time")
def test_a_model_with_eyes_is_refused_in_a_sentence(tmp_path):
    """Gemma 3 from 4B up is one; none of the paper's is. SFT of it ended in a traceback."""
    import shutil

    from transformers import AutoModelForImageTextToText, Gemma3Config

    entry = PAPER["families"]["gemma3"]
    text = {k: v for k, v in narrowed("gemma3-1b").items() if k not in ("architectures", "model_type")}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    maker = tmp_path / "maker"
    shutil.copytree(fetched("gemma3"), maker)
    config = Gemma3Config(
        text_config=text | {"vocab_size": 262208}, vision_config=vision, mm_tokens_per_image=1
    )
    AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).save_pretrained(maker)
    assert json.loads((maker / "config.json").read_text())["architectures"] == [
        "Gemma3ForConditionalGeneration"
    ]
    told = call("fetch_model", "--source", maker, "--template", entry["template"], "--end-token", entry["end_token"],
                "--pad-token", entry["pad_token"], "--out", tmp_path / "base", launched=False, ok=False)  # fmt: skip
    assert "reads pictures too (Gemma3ForConditionalGeneration)" in told
    assert "Traceback" not in told
    assert not (tmp_path / "base").exists()
