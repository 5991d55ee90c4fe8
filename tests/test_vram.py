"""vram.py: what a job needs of a card, held to what torch allocates for the same shapes, and what is
refused.
"""

import os
import re

import pytest
import yaml
from conftest import checkout, script, snakemake

from valley import check, costs, flags, grid, vram

CONSTANTS = costs.load()
DEVICE = CONSTANTS["device"]
PAPER = check.load([])
SMALL = {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
         "vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
MODELS = {"qwen2": "Qwen/Qwen2.5-3B-Instruct", "llama": "meta-llama/Llama-3.1-8B-Instruct", "gemma3_text": "google/gemma-3-1b-it"}  # fmt: skip


def job(rule: str, model: str, run: str, gpus: int | None = None) -> dict:
    """A planned job of the paper's grid."""
    cards = grid.training_gpus(PAPER, model, run if rule == "rl" else "base") if gpus is None else gpus
    return {"rule": rule, "gpus": cards, "wildcards": {"model": model, "run": run}}


def small(kind: str, layers: int, **other) -> dict:
    """The published config of a family at a small size; its layers attend to everything."""
    content = (
        vram.published()[MODELS[kind]] | SMALL | {"num_hidden_layers": layers, "max_window_layers": layers}
    )
    if kind == "gemma3_text":
        content |= {"layer_types": ["full_attention"] * layers, "sliding_window": 1 << 20}
    return content | other


def built(content: dict, dtype, device: str = "cpu"):
    """The model of a config.json, with weights as they fall."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    given = {
        key: value for key, value in content.items() if key not in ("model_type", "sliding_window_pattern")
    }
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(content["model_type"], **given), dtype=dtype, attn_implementation="sdpa"
        )


@pytest.mark.parametrize("model", PAPER["models"])
def test_the_published_shape_has_the_parameters_of_the_config_and_of_the_library(model):
    import torch

    shape = vram.shape_of(PAPER, model)
    assert shape.parameters / 1e9 == pytest.approx(PAPER["models"][model]["parameters"], rel=1e-3)
    content = vram.published()[PAPER["models"][model]["source"]]
    made = built(content, torch.bfloat16, "meta")
    assert shape.parameters == pytest.approx(sum(weight.numel() for weight in made.parameters()), rel=1e-3)


@pytest.mark.parametrize("kind", MODELS)
def test_states_are_the_bytes_that_torch_holds_after_a_step(kind):
    import torch

    content = small(kind, 2, tie_word_embeddings=False)
    model = built(content, torch.float32)
    optimiser = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.arange(64)[None], labels=torch.arange(64)[None]).loss.backward()
    optimiser.step()
    held = {
        "weights": list(model.parameters()),
        "gradients": [weight.grad for weight in model.parameters()],
        "optimiser": [v for state in optimiser.state.values() for v in state.values() if v.ndim],
    }
    found, _ = vram.states(vram.described_shape(content), {"precision": "fp32"}, 1, DEVICE)
    for part, tensors in held.items():
        assert found[part] == pytest.approx(sum(t.numel() * t.element_size() for t in tensors), rel=0.01), (
            part
        )


def test_sliding_attention_keeps_a_mask_of_all_pairs():
    shape = vram.described_shape(vram.published()["google/gemma-3-1b-it"])
    assert shape.window == 512
    settings = {"precision": "bf16", "gradient_checkpointing": True}
    plain, windowed = (
        sum(vram.activations(of, settings, 16384).values()) for of in (shape._replace(window=0), shape)
    )
    assert windowed - plain == 3 * 16384**2
    assert (
        vram.described_shape(vram.published()["Qwen/Qwen2.5-3B-Instruct"]).window == 0
    )  # it has one, switched off


def test_the_head_of_trls_loss_takes_what_is_said_at_a_real_vocabulary():
    """Gradients of a 152k vocabulary in fp32 and in bf16; no logits of all tokens, which would be three times
    the rest here.
    """
    import torch
    from torch.distributed._tools.mem_tracker import MemTracker
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    vocab, hidden, tokens = 151_936, 128, 64
    shape = vram.described_shape(small("qwen2", 1, vocab_size=vocab, hidden_size=hidden))
    states = torch.randn(tokens, hidden, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(vocab, hidden, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(vocab, (tokens,))
    tracker = MemTracker()
    with tracker:
        ChunkedLogProbFunction.apply(states, weight, None, targets, 1.0, 32768)[0].sum().backward()
    [(_, told)] = tracker.get_tracker_snapshot("peak").items()
    seen = max(told.values()) - 2 * vocab * hidden  # without the weights themselves
    settings = {"precision": "bf16", "gradient_checkpointing": True}
    said = vram.activations(shape._replace(ff=0, heads=0, kv_heads=0), settings, tokens)["layer or head"]
    tiles = (
        6 * 4 * tokens * 32768
    )  # on CPU a tile is gone over in fp32, out of place; a card has a kernel for it
    assert seen - tiles <= said <= 1.25 * seen


def test_the_papers_grid_fits_the_papers_cards_and_says_by_how_much():
    jobs = [
        job(cell.parsed.stage, *cell[:2])
        for cell in grid.cells(PAPER)
        if cell.parsed.stage != "base" and cell.parsed.step is None
    ] + [job("generate", model, "base") for model in PAPER["models"]]
    rows = vram.by_model(PAPER, jobs, 80, CONSTANTS)
    assert len(rows) == 9 + 3 + 9
    assert vram.refusals(PAPER, jobs, 80, CONSTANTS) == []
    margins = [row.moment.margin for row in rows]
    assert margins == sorted(margins)
    assert (rows[0].rule, rows[0].model) == ("rl", "qwen2.5-3b")


@pytest.mark.parametrize(
    ("asked", "card"),
    [
        (job("sft", "qwen2.5-3b", "sft-8k", 1), 48),
        (job("sft", "qwen2.5-7b", "sft-8k", 2), 48),
        (job("sft", "qwen2.5-1.5b", "sft-8k", 1), 24),
        (job("rl", "qwen2.5-3b", "base+rl", 1), 80),
    ],
)
def test_what_cannot_fit_is_refused_and_each_cure_that_is_named_fits(asked, card):
    [sentence] = vram.refusals(PAPER, [asked], card, CONSTANTS)
    model = asked["wildcards"]["model"]
    assert f"{asked['rule']} of {model}" in sentence
    named = sentence.split("What would fit: ")[1].split("; or ")
    assert named
    for cure in named:
        if size := re.fullmatch(r"cards of (\d+) GB", cure):
            assert vram.refusals(PAPER, [asked], int(size[1]), CONSTANTS) == []
            continue
        content = cure.split(" with ")
        key, value = content[0].split(": ")
        *_, last = key.split(".")
        other = {last: int(value) if value.isdigit() else value} | (
            {"deepspeed": content[1]} if content[1:] else {}
        )
        assert vram.tightest(vram.moments(PAPER, asked, card, DEVICE, **other)).margin >= 0, cure
    less = vram.tightest(vram.moments(PAPER, asked, card, DEVICE)).margin
    assert less < 0


def test_more_tokens_more_rows_and_more_layers_need_more_and_offload_less():
    asked = job("sft", "qwen2.5-1.5b", "sft-64k")

    def needs(**other):
        backward, _ = vram.moments(PAPER, asked, 80, DEVICE, **other)
        return backward.needed

    assert needs(max_length=32768) > needs() < needs(device_batch=2)
    assert needs(deepspeed=vram.OFFLOAD) < needs(deepspeed=vram.ZERO3) < needs()
    assert needs(gradient_checkpointing=False) > 2 * needs()
    assert needs(deepspeed=None, lora_rank=16) < needs(deepspeed=None)


def test_a_model_that_one_card_cannot_hold_is_generated_by_several_together():
    asked = job("generate", "qwen2.5-14b", "base")
    [sentence] = vram.refusals(PAPER, [asked], 24, CONSTANTS)
    assert "What would fit: models.qwen2.5-14b.generate.tensor_parallel: 2" in sentence
    together = check.load([], {"models": {"qwen2.5-14b": {"generate": {"tensor_parallel": 2}}}})
    assert vram.refusals(together, [asked], 24, CONSTANTS) == []
    check.check(together)
    for over in ({"gpus": 3}, {"gpus": 1}):
        entry = {"models": {"qwen2.5-14b": {"generate": {"tensor_parallel": 2}} | over}}
        with pytest.raises(grid.ConfigError, match=r"models.qwen2.5-14b: tensor_parallel 2 does not divide"):
            check.check(check.load([], entry))


def test_an_engine_takes_as_many_cards_as_share_a_model(monkeypatch):
    from valley import engines

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,GPU-a,3")
    assert engines.visible_gpus() == ["0", "1", "GPU-a", "3"]
    assert engines.visible_gpus(2) == ["0,1", "GPU-a,3"]
    with pytest.raises(SystemExit, match="does not divide the 4 cards"):
        engines.visible_gpus(3)


def test_a_study_on_cpu_and_a_model_of_unknown_shape_are_not_refused():
    config = check.load([check.ROOT / "config/miniature.yaml"])
    assert vram.refusals(config, [job("sft", "S", "sft-8", 0)], 1, CONSTANTS) == []
    config = check.load([], {"models": {"own": {"source": "nobody/nothing", "family": "qwen2.5", "gpus": 1}}})
    asked = job("generate", "own", "base", 1)
    assert vram.refusals(config, [asked], 1, CONSTANTS) == []
    assert vram.unknown(config, [asked]) == ["own"]


def test_a_local_model_is_read_where_it_lies(tmp_path, base):
    config = check.load([], {"models": {"own": {"source": str(base), "family": "qwen2.5", "gpus": 1}}})
    assert vram.shape_of(config, "own").hidden == 32


def test_the_share_of_vllm_in_rl_is_the_one_that_rl_asks_for():
    import rl

    text = flags.line(grid.rl_settings(PAPER, "qwen2.5-3b", "base+rl") | {"deepspeed": None}, flags.RL)
    files = [word for name in ("model", "problems", "out", "record", "curve") for word in (f"--{name}", name)]
    args = rl.parse([*files, *text.split()])
    assert rl.make_config(args, {}, 1, "x", [0]).vllm_gpu_memory_utilization == DEVICE["rl_share"]


def test_a_run_on_cards_that_are_too_small_is_refused_before_its_first_job(tmp_path):
    """By the driver's own figure on this machine, and by the config's card where it names one."""
    folder = checkout(tmp_path / "clone")
    smi = tmp_path / "bin/nvidia-smi"
    smi.parent.mkdir()
    listed = "GPU 0: NVIDIA (UUID: GPU-a0b1-22)"
    smi.write_text(f'#!/bin/sh\ncase "$1" in *memory*) echo 11264;; *) echo "{listed}";; esac\n')
    smi.chmod(0o755)
    target = "studies/one-gpu/results/qwen2.5-1.5b/sft-8k/seed0/train.json"
    path = {"PATH": f"{smi.parent}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "0", "DS_ACCELERATOR": ""}
    told = snakemake(folder, "--configfile", "config/one-gpu.yaml", "--", target, ok=False, **path)
    assert "the cards cannot hold what this plan puts on them" in told
    assert "sft of qwen2.5-1.5b (sft-8k) on 1 card(s) of 11 GB: " in told
    (folder / "a.yaml").write_text(yaml.safe_dump({"card": "4090"}))
    told = snakemake(folder, "--configfile", "config/one-gpu.yaml", "a.yaml", "--", target, ok=False, **path)
    assert "on 1 card(s) of 24 GB" in told
    assert not (folder / "studies/one-gpu/models").exists()


def test_the_plan_shows_the_margins_and_refuses_a_card_that_is_too_small():
    target = "results/qwen2.5-14b/sft-8k/seed0/scores.json"
    output = script("plan", "--card", "4090", "--", target)
    [line] = re.findall(r"^sft qwen2\.5-14b +8 +([\d.]+) +(-[\d.]+) .*$", output, re.MULTILINE)
    assert float(line[0]) > 24
    assert "does not fit      sft of qwen2.5-14b (sft-8k) on 8 card(s) of 24 GB" in output


# What deepspeed's own estimate has too much, of bytes a parameter of a card's share: it keeps gradients in
# fp32 for the whole training.
FP32_GRADIENTS = 4


@pytest.mark.slow
@pytest.mark.parametrize("cards", [1, 2, 4, 8])
@pytest.mark.parametrize("model", PAPER["models"])
def test_states_are_those_of_deepspeeds_own_estimates_but_for_what_is_named(model, cards):
    """`estimate_zero2_model_states_mem_needs` and `estimate_zero3_…`, functions of DeepSpeed, count weights
    (2 bytes), gradients (2, and 4 in fp32), master copy and moments (12). Named differences:

    - gradients in fp32 are there in the optimiser's step alone, where AdamW takes as much again, not while
      activations are: `states` has them in its second moment;
    - of stage 3's shares DeepSpeed counts 18 bytes a parameter, as of stage 2's, where the weights in bf16
      are shared out too: 20;
    - DeepSpeed counts no buckets (stage 2), and of the weights that stage 3 holds whole at once the largest
      layer alone, 4 bytes a weight; here they are `live` of them, 2 bytes each, as its configuration
      (`stage3_max_live_parameters`) permits, and the head where it is not tied;
    - under stage 3 the step goes over a billion weights at a time (`sub_group_size`), so that no more of them
      are in fp32 at once; DeepSpeed counts all.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as stage_three
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as stage_two

    of = vram.shape_of(PAPER, model)
    size, share = of.parameters, of.parameters / cards
    buckets = DEVICE["buckets"] * vram.GIB

    def found(zero: str) -> tuple[dict, dict]:
        return vram.states(of, {"deepspeed": f"config/deepspeed/{zero}.json"}, cards, DEVICE)

    computing, stepping = found("zero2")
    _, theirs = stage_two(size, cards, cpu_offload=False)
    assert sum(computing.values()) - buckets + FP32_GRADIENTS * share == pytest.approx(theirs, rel=1e-6)
    assert sum(stepping.values()) == pytest.approx(theirs + 4 * share, rel=1e-6)

    computing, _ = found("zero2-offload")
    _, theirs = stage_two(size, cards, cpu_offload=True)
    assert sum(computing.values()) - buckets == pytest.approx(theirs, rel=1e-6)

    computing, _ = found("zero3")
    largest = of.vocab * of.hidden  # of one module, as DeepSpeed looks for it: the embedding
    _, theirs, whole = stage_three(size, largest, cards, cpu_offload=False, cpu_offload_params=False)
    live = computing["weights"] - 2 * share
    ours = sum(computing.values()) - live - 2 * share + FP32_GRADIENTS * share
    assert ours == pytest.approx(theirs - whole, rel=1e-6)
    assert whole <= live


@pytest.mark.slow
def test_deepspeed_holds_weights_whole_and_steps_over_as_many_at_once_as_is_assumed():
    """Its defaults, which config/deepspeed/zero3.json leaves as they are."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    ours = vram.zero_of(vram.ZERO3)
    given = {key: value for key, value in ours.items() if value != "auto"}
    set_up = DeepSpeedZeroConfig(**given)
    assert set_up.max_live_parameters == DEVICE["live"] * 1e9
    assert set_up.sub_group_size == 1e9
