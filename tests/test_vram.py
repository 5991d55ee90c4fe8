"""vram.py: what a job needs of a card, held to what torch allocates for the same shapes, and what is
refused.
"""

import os
import re
import weakref
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import checkout, script, snakemake
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from valley import check, costs, flags, grid, shapes, varlen, vram

CONSTANTS = costs.load()
DEVICE = CONSTANTS["device"]
CARDS = {kind: card["memory"] for kind, card in CONSTANTS["cards"].items()}
PAPER = check.load([])
SMALL = {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
         "vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
MODELS = {"qwen2": "Qwen/Qwen2.5-3B-Instruct", "llama": "meta-llama/Llama-3.1-8B-Instruct", "gemma3_text": "google/gemma-3-1b-it"}  # fmt: skip


class Living(TorchDispatchMode):
    """The bytes of all tensors that operations made and that live, at their `peak`."""

    def __init__(self):
        super().__init__()
        self.there, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)}
        found = function(*args, **(kwargs or {}))
        for tensor in tree_iter(found):
            if isinstance(tensor, torch.Tensor) and (at := tensor.untyped_storage()._cdata) not in given:
                storage = tensor.untyped_storage()
                weakref.finalize(storage, self.there.pop, at, None)
                self.there[at] = storage.nbytes()
        self.peak = max(self.peak, sum(self.there.values()))
        return found


def job(rule: str, model: str, run: str, gpus: int | None = None) -> dict:
    """A planned job of the paper's grid."""
    cards = grid.training_gpus(PAPER, model, run if rule == "rl" else "base") if gpus is None else gpus
    return {"rule": rule, "gpus": cards, "wildcards": {"model": model, "run": run}}


def small(kind: str, layers: int, **other) -> dict:
    """The published config of a family at a small size; its layers attend to everything."""
    content = (
        shapes.published().get(MODELS.get(kind), {"model_type": kind, "hidden_act": "silu"})
        | SMALL
        | {"num_hidden_layers": layers, "max_window_layers": layers}
    )
    if kind == "gemma3_text":
        content |= {"layer_types": ["full_attention"] * layers, "sliding_window": 1 << 20}
    return content | other


def built(content: dict, dtype, device: str = "cpu", attention: str = "sdpa"):
    """The model of a config.json, with weights as they fall."""
    from transformers import AutoConfig, AutoModelForCausalLM

    given = {
        key: value for key, value in content.items() if key not in ("model_type", "sliding_window_pattern")
    }
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(content["model_type"], **given),
            dtype=dtype,
            attn_implementation=varlen.attention_for(SimpleNamespace(attention=attention, precision="bf16")),
        )


@pytest.mark.parametrize("model", PAPER["models"])
def test_the_published_shape_has_the_parameters_of_the_config_and_of_the_library(model):

    shape = vram.shape_of(PAPER, model)
    assert shape.parameters / 1e9 == pytest.approx(PAPER["models"][model]["parameters"], rel=1e-3)
    content = shapes.published()[PAPER["models"][model]["source"]]
    made = built(content, torch.bfloat16, "meta")
    assert shape.parameters == pytest.approx(sum(weight.numel() for weight in made.parameters()), rel=1e-3)


@pytest.mark.parametrize("kind", MODELS)
def test_states_are_the_bytes_that_torch_holds_after_a_step(kind):

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
    found, _ = vram.states(shapes.described_shape(content), {"precision": "fp32"}, 1, DEVICE)
    for part, tensors in held.items():
        assert found[part] == pytest.approx(sum(t.numel() * t.element_size() for t in tensors), rel=0.01), (
            part
        )


def peak(model, rows: int, tokens: int, laid: str, autocast: bool) -> float:
    """Bytes of activations and temporaries, at their peak, of a pass there and back through a model without
    its head: rows `plain`, `padded`, or `packed` in one.
    """
    from torch.distributed._tools.mem_tracker import MemTracker

    ids, more = torch.zeros(rows, tokens, dtype=torch.long), {}
    if laid == "padded":
        more = {"attention_mask": torch.ones_like(ids)}
        more["attention_mask"][1:, -3:] = 0
    if laid == "packed":
        ids, more = ids.reshape(1, -1), {"position_ids": torch.arange(tokens).repeat(rows)[None]}
    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = model.base_model(input_ids=ids, use_cache=False, **more).last_hidden_state.sum()
        out.backward()
    [(_, told)] = tracker.get_tracker_snapshot("peak").items()
    return sum(size for what, size in told.items() if str(what).rsplit(".", 1)[-1] in ("ACT", "TEMP"))


WINDOW = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "sliding_window": 128}


@pytest.mark.parametrize(
    ("kind", "laid", "how", "checkpointing", "attention"),
    [
        ("qwen2", "plain", "fp32", True, "sdpa"),
        ("qwen2", "plain", "autocast", True, "sdpa"),
        ("qwen2", "padded", "bf16", True, "sdpa"),
        ("qwen2", "packed", "bf16", True, "sdpa"),
        ("qwen2", "padded", "bf16", True, "varlen"),
        *(
            pytest.param(*more, marks=pytest.mark.slow)
            for more in (
                ("qwen2", "plain", "autocast", False, "sdpa"),
                ("qwen2", "packed", "bf16", False, "sdpa"),
                ("gemma3_text", "padded", "bf16", True, "sdpa"),
                ("qwen3", "plain", "bf16", False, "sdpa"),
                ("qwen2", "padded", "bf16", False, "varlen"),
                ("gemma3_text", "packed", "bf16", True, "varlen"),
            )
        ),
    ],
)
def test_masks_and_the_precision_of_a_pass_take_what_torch_allocates(
    kind, laid, how, checkpointing, attention
):
    """A mask of all pairs where rows are padded or packed or attention slides, but by varlen, which on CPU
    has one a sequence; fp32 between the layers under autocast. Gemma has three layers, one without a window.
    """

    rows, tokens = (1, 512) if laid == "plain" else (4, 256)
    content = small(kind, 3, **(WINDOW if kind == "gemma3_text" else {}))
    dtype = torch.bfloat16 if how == "bf16" else torch.float32
    model = built(content, dtype, attention=attention).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    settings = {"precision": "fp32" if how == "fp32" else "bf16", "gradient_checkpointing": checkpointing}
    settings |= {"packing": laid == "packed", "deepspeed": None if how == "autocast" else vram.ZERO3}
    settings |= {"attention": attention}
    headless = shapes.described_shape(content)._replace(vocab=0)
    told = sum(vram.activations(headless, settings, tokens, rows).values())
    if how == "autocast":  # copies of weights, which `states` counts: of the layer at work with checkpointing
        told += 2 * headless.parameters / (headless.layers if checkpointing else 1)
    seen = peak(model, rows, tokens, laid, how == "autocast")
    assert seen <= 1.02 * told
    assert told <= (1.25 if how == "bf16" else 1.35) * seen


def test_a_mask_is_there_where_rows_are_several_or_attention_slides():
    qwen, gemma = (
        shapes.described_shape(shapes.published()[MODELS[kind]]) for kind in ("qwen2", "gemma3_text")
    )
    bf16 = {"precision": "bf16"}
    assert (qwen.window, gemma.window) == (0, 512)  # Qwen has one, switched off
    assert vram.masks(qwen, bf16, 16384) == vram.masks(gemma, bf16, 512) == {}
    padded, packed = (vram.masks(qwen, bf16 | {"packing": it}, 4096, 8)["mask"] for it in (False, True))
    assert packed - padded == 3 * (8**2 - 8) * 4096**2
    [alone], [apart] = (vram.masks(gemma, bf16, 4096, rows).values() for rows in (1, 2))
    assert apart - 2 * alone == 2 * 4096**2


def test_by_varlen_no_mask_is_counted_and_padded_rows_are_laid_end_to_end_once_more():
    shape = shapes.described_shape(shapes.published()[MODELS["gemma3_text"]])
    settings = {"precision": "bf16", "attention": "varlen"}
    assert vram.masks(shape, settings, 16384) == {}
    assert vram.masks(shape, settings | {"packing": True}, 16384, 8) == {}
    (padded,) = vram.masks(shape, settings, 16384, 8).values()
    assert padded == 8 * 16384 * 2 * (4 + 1 + 1 + 4) * 256  # queries, keys, values and what comes out


def test_the_key_value_cache_is_what_the_library_keeps():

    for kind in MODELS:
        content = small(kind, 4)
        model = built(content, torch.bfloat16).eval()
        with torch.no_grad():
            kept = model(input_ids=torch.zeros(2, 30, dtype=torch.long), use_cache=True).past_key_values
        tensors = [tensor for layer in kept.layers for tensor in (layer.keys, layer.values)]
        seen = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        assert seen == 60 * shapes.described_shape(content).kv_token


@pytest.mark.parametrize("kind", shapes.DECODERS)
def test_an_architecture_that_is_described_has_the_librarys_number_of_parameters(kind):

    content = small(kind, 2, tie_word_embeddings=False)
    made = built(content, torch.bfloat16, "meta")
    seen = sum(weight.numel() for weight in made.parameters())
    assert shapes.described_shape(content).parameters == pytest.approx(seen, rel=2e-3)


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "qwen2_moe", "qwen3_moe"])
def test_another_architecture_is_of_unknown_memory_and_refuses_nothing(tmp_path, kind):
    from transformers import AutoConfig

    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    config = check.load([], {"models": {"own": {"source": str(tmp_path), "family": "qwen2.5", "gpus": 1}}})
    asked = job("generate", "own", "base", 1)
    assert vram.refusals(config, [asked], 1, CONSTANTS) == []
    assert vram.unknown(config, [asked]) == ["own"]


def test_adapters_are_counted_as_the_library_makes_them():
    """By LoRA on all linear layers, with AdamW: 16 bytes a weight of theirs."""
    from peft import LoraConfig, get_peft_model

    content, settings = small("qwen2", 2), {"precision": "fp32", "lora_rank": 8}
    model = built(content, torch.float32, "meta")
    made = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    count = sum(weight.numel() for weight in made.parameters() if weight.requires_grad)
    shape = shapes.described_shape(content)
    alone, _ = vram.states(shape, settings, 1, DEVICE)
    assert sum(alone.values()) - alone["weights"] == 16 * count
    shared, _ = vram.states(shape, settings, 2, DEVICE)
    assert sum(shared.values()) - sum(alone.values()) == 4 * count  # DDP's buckets of gradients


def test_buckets_of_gradients_are_copies_because_the_libraries_leave_it_so():
    from accelerate.utils import DistributedDataParallelKwargs

    assert DistributedDataParallelKwargs().gradient_as_bucket_view is False


def test_fp32_takes_twice_what_bf16_takes_of_an_engine_and_of_zeros_weights():
    def needs(rule: str, model: str, run: str, **other) -> dict:
        return vram.tightest(vram.moments(PAPER, job(rule, model, run, 1), 80, DEVICE, **other)).parts

    low, high = (needs("generate", "qwen2.5-7b", "base", precision=kind) for kind in ("bf16", "fp32"))
    assert {part: high[part] / low[part] for part in ("weights", "cache of one response")} == {
        "weights": 2,
        "cache of one response": 2,
    }
    [sentence] = vram.refusals(
        check.load([], {"generate": {"precision": "fp32"}}),
        [job("generate", "qwen2.5-7b", "base")],
        24,
        CONSTANTS,
    )
    assert "of them weights" in sentence
    low, high = (needs("sft", "qwen2.5-3b", "sft-8k", precision=kind) for kind in ("bf16", "fp32"))
    assert high["weights"] == 2 * low["weights"]
    backward = [vram.moments(PAPER, job("sft", "qwen2.5-3b", "sft-8k"), 80, DEVICE, deepspeed=it)[0].parts
                for it in (None, vram.ZERO3)]  # fmt: skip
    assert backward[0]["kept"] == 2 * backward[1]["kept"]  # fp32 between the layers under autocast


def test_rls_reference_is_spread_by_zero_three_alone_and_absent_without_a_kl_term():
    asked, size = job("rl", "qwen2.5-3b", "base+rl", 4), vram.shape_of(PAPER, "qwen2.5-3b").parameters

    def held(**other) -> float:
        return vram.moments(PAPER, asked, 80, DEVICE, **other)[0].parts.get("reference", 0)

    assert (held(), held(deepspeed=vram.ZERO3), held(kl=0.0)) == (2 * size, 2 * size / 4, 0)
    assert held(deepspeed=None) == 4 * size


def test_rls_passes_by_tokens_are_counted_by_rows_times_columns():
    asked = job("rl", "qwen2.5-1.5b", "base+rl", 8)

    def needs(**other) -> dict:
        return vram.moments(PAPER, asked, 80, DEVICE, **other)[0].parts

    alone, four = needs(), needs(device_tokens=4 * 9216)
    assert "mask" not in alone
    assert four == needs(device_batch=4)
    assert needs(device_tokens=9216)["kept"] == alone["kept"]
    assert needs(device_tokens=9216)["mask"] == needs(device_batch=2, max_new_tokens=3584)["mask"]
    assert needs(device_tokens=40_000)["kept"] > four["kept"]
    tight = check.load([], {"rl": {"device_tokens": 2**20}})
    [sentence] = vram.refusals(tight, [asked], 80, CONSTANTS)
    assert "backward needs" in sentence
    assert "What would fit: rl.device_tokens: null" in sentence


def test_a_vllm_that_samples_ahead_is_counted_beside_training():
    asked = job("rl", "qwen2.5-3b", "base+rl", 8)
    asleep, awake = (vram.moments(PAPER, asked, 80, DEVICE, rollouts_ahead=on) for on in (False, True))
    share = 0.5 * 80 * vram.GIB
    for before, after in zip(asleep[:2], awake[:2], strict=True):
        assert sum(after.parts.values()) - sum(before.parts.values()) == pytest.approx(share)
    assert asleep[2:] == awake[2:]
    assert vram.moments(PAPER, asked, 80, DEVICE, rollouts_ahead=True, vllm=False)[:2] == asleep[:2]
    tight = check.load([], {"rl": {"rollouts_ahead": True, "gpus": 2}})
    [sentence] = vram.refusals(tight, [job("rl", "qwen2.5-3b", "base+rl", 2)], 80, CONSTANTS)
    assert "What would fit: rl.rollouts_ahead: false" in sentence


def test_a_probe_is_counted_by_its_own_pass():
    """Weights, cache and the logits of a slice."""
    import probe

    assert vram.PROBED == probe.SLICE
    [found] = vram.moments(PAPER, job("probe", "qwen2.5-14b", "base", 1), 80, DEVICE)
    assert found.margin > 0
    [sentence] = vram.refusals(PAPER, [job("probe", "qwen2.5-14b", "base", 1)], 24, CONSTANTS)
    assert "probe of qwen2.5-14b" in sentence
    assert "What would fit: report.probe: 0; or cards of 45 GiB" in sentence


def test_a_probe_takes_what_torch_allocates():
    import probe

    tokens = 1024
    for vocab in (512, 20_000):
        content = small("qwen2", 3, vocab_size=vocab)
        model, shape = built(content, torch.bfloat16).eval(), shapes.described_shape(content)
        with torch.no_grad(), Living() as living:
            probe.measured(model, [{"input_ids": [5] * tokens, "labels": [5] * tokens}])
        settings = {"precision": "bf16", "max_length": tokens}
        parts = vram.of_probe(shape, settings, 1, 0, DEVICE)[0].parts
        said = sum(parts.values()) - parts["weights"]
        assert living.peak <= 1.02 * said <= 1.25 * living.peak


def test_the_head_of_trls_loss_takes_what_is_said_at_a_real_vocabulary():
    """Gradients of a 152k vocabulary in fp32 and in bf16; no logits of all tokens, which would be three times
    the rest here.
    """
    from torch.distributed._tools.mem_tracker import MemTracker
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    vocab, hidden, tokens = 151_936, 128, 64
    shape = shapes.described_shape(small("qwen2", 1, vocab_size=vocab, hidden_size=hidden))
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
    rows = vram.by_model(PAPER, jobs, CARDS["h100"], CONSTANTS)
    assert len(rows) == 9 + 3 + 9
    assert vram.refusals(PAPER, jobs, CARDS["h100"], CONSTANTS) == []
    margins = [row.moment.margin for row in rows]
    assert margins == sorted(margins)
    assert (rows[0].rule, rows[0].model) == ("rl", "qwen2.5-3b")
    first, second, third, fourth, *others = (f"{margin / vram.GIB:.0f}" for margin in margins)
    page = " ".join((check.ROOT / "docs/scale.md").read_text().split())
    told = f"RL of 3B {first} GiB left while it samples, of 1.5B {second}, of 0.5B {third}; SFT of 14B {fourth}; all else more than {others[0]}."
    assert told in page
    refused = {size: [row[:2] for row in vram.by_model(PAPER, jobs, size, CONSTANTS) if row.moment.margin < 0]
               for size in (40, CARDS["l40s"], CARDS["4090"])}  # fmt: skip
    large = {("sft", model) for model in ("qwen2.5-14b", "llama3.1-8b", "qwen2.5-7b", "llama3.2-3b")}
    assert {*refused[40]} == large
    assert refused[CARDS["l40s"]] == [("sft", "qwen2.5-14b")]
    small = {("sft", model) for model in ("qwen2.5-3b", "qwen2.5-1.5b", "llama3.2-1b")}
    assert {*refused[CARDS["4090"]]} == large | small | {("generate", "qwen2.5-14b"), ("rl", "qwen2.5-3b")}


@pytest.mark.parametrize("model", PAPER["models"])
def test_a_model_asks_for_the_fewest_cards_on_which_sft_leaves_a_third_of_one_free(model):
    """More would wait for each other; and no formula of the memory has been held to a card yet."""
    asked, size = job("sft", model, "sft-8k"), CARDS["h100"]
    needs = {n: vram.tightest(vram.moments(PAPER, asked, size, DEVICE, gpus=n)).needed for n in (1, 2, 4, 8)}
    assert asked["gpus"] == min(n for n, needed in needs.items() if needed < 2 / 3 * size * vram.GIB)


@pytest.mark.parametrize("model", ["qwen2.5-1.5b", "qwen2.5-3b", "llama3.2-1b", "llama3.2-3b"])
def test_a_small_card_is_told_the_number_of_cards_that_would_do(model):
    [sentence] = vram.refusals(PAPER, [job("sft", model, "sft-8k")], CARDS["4090"], CONSTANTS)
    told = re.search(rf"What would fit: models\.{model}\.gpus: (\d)", sentence)
    assert vram.refusals(PAPER, [job("sft", model, "sft-8k", int(told[1]))], CARDS["4090"], CONSTANTS) == []


def test_packing_many_long_examples_is_refused_for_its_mask():
    packed = {"sft": {"packing": True, "device_batch": 8}}
    asked = job("sft", "qwen2.5-1.5b", "sft-16k", 1)
    [sentence] = vram.refusals(check.load([], packed), [asked], CARDS["h100"], CONSTANTS)
    assert "of them mask" in sentence
    assert "What would fit: sft.device_batch: 1; or sft.attention: varlen;" in sentence
    flat = check.load([], {"sft": packed["sft"] | {"attention": "varlen"}})
    assert vram.refusals(flat, [asked], CARDS["h100"], CONSTANTS) == []
    full = check.load([], {"sft": packed["sft"] | {"precision": "fp32"}})
    assert "varlen" not in vram.refusals(full, [asked], CARDS["h100"], CONSTANTS)[0]
    alone = check.load([], packed | {"sft": {"packing": True, "device_batch": 1}})
    assert vram.refusals(alone, [asked], CARDS["h100"], CONSTANTS) == []


@pytest.mark.parametrize(
    ("asked", "card"),
    [
        (job("sft", "qwen2.5-3b", "sft-8k", 1), 45),
        (job("sft", "qwen2.5-7b", "sft-8k", 2), 45),
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
        if size := re.fullmatch(r"cards of (\d+) GiB", cure):
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
    asked = job("sft", "qwen2.5-1.5b", "sft-64k", 2)  # on one there is nothing that ZeRO-3 could spread

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


def test_a_model_whose_heads_cannot_be_shared_so_is_refused_with_what_could():
    """28 heads, 4 key-value heads and 18,944 units are no eighths and no sevenths."""
    shared = {"models": {"qwen2.5-7b": {"gpus": 8, "generate": {"tensor_parallel": 8}}}}
    told = r"models.qwen2.5-7b: tensor_parallel 8 does not divide its 28 attention heads.* to one of 1, 2, 4$"
    for config in (
        check.load([], shared),
        check.load([check.ROOT / "config/one-gpu.yaml"], shared | judge("qwen2.5-7b")),
    ):
        with pytest.raises(grid.ConfigError, match=told):
            check.check(config)
    assert [n for n in range(1, 9) if vram.shape_of(PAPER, "qwen2.5-7b").shared_by(n)] == [1, 2, 4]
    assert vram.shape_of(PAPER, "qwen2.5-14b").shared_by(8)
    [sentence] = vram.refusals(PAPER, [job("generate", "qwen2.5-7b", "base")], 8, CONSTANTS)
    assert "tensor_parallel: 4" in sentence
    assert "tensor_parallel: 8" not in sentence


def judge(model: str) -> dict:
    """A config's judge."""
    return {"report": {"judge": {"model": model, "max_characters": 1000}}}


def test_the_memory_of_this_machine_is_that_of_the_cards_that_a_job_may_see(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    listed = "GPU 0: display (UUID: GPU-aa)\nGPU 1: NVIDIA GeForce RTX 4090 (UUID: GPU-bb)\n  MIG 3g (UUID: MIG-cc)"
    smi.write_text(
        f"#!/bin/sh\ncase \"$1\" in *memory*) printf 'GPU-aa, 4096\\nGPU-bb, 24564\\n';; *) printf '{listed}\\n';; esac\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    for named, size in {
        "1": 24564 / 1024,
        "GPU-bb": 24564 / 1024,
        "0,1": 4,
        "MIG-cc": None,
        "-1": None,
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert vram.of_machine() == size, named
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert vram.of_machine() == 4


def test_an_engine_has_in_hand_what_vllm_takes_of_such_a_card():
    """More on large cards, as vLLM's own table has it, and in RL what rl.py and TRL ask for."""
    from valley import rollouts

    assert DEVICE["rl_sequences"] == rollouts.SEQUENCES
    asked = job("generate", "qwen2.5-7b", "base")
    small_card, large = (vram.moments(PAPER, asked, size, DEVICE)[0].parts["work"] for size in (45, 79.6))
    assert large > 2.5 * small_card
    other = vram.moments(PAPER, asked, 79.6, DEVICE, tensor_parallel=4)[0].parts
    assert other["weights"] == vram.shape_of(PAPER, "qwen2.5-7b").parameters / 2
    assert other["work"] < large


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
    """By the driver's own figure on this machine, whatever card the config names."""
    folder = checkout(tmp_path / "clone")
    smi = tmp_path / "bin/nvidia-smi"
    smi.parent.mkdir()
    listed = "GPU 0: NVIDIA (UUID: GPU-a0b1-22)"
    smi.write_text(
        f'#!/bin/sh\ncase "$1" in *memory*) echo "GPU-a0b1-22, 11264";; *) echo "{listed}";; esac\n'
    )
    smi.chmod(0o755)
    target = "studies/one-gpu/results/qwen2.5-1.5b/sft-8k/seed0/train.json"
    path = {"PATH": f"{smi.parent}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "0", "DS_ACCELERATOR": ""}
    told = snakemake(folder, "--configfile", "config/one-gpu.yaml", "--", target, ok=False, **path)
    assert "the cards cannot hold what this plan puts on them" in told
    assert "sft of qwen2.5-1.5b (sft-8k) on 1 card(s) of 11 GiB: " in told
    (folder / "a.yaml").write_text(yaml.safe_dump({"card": "4090"}))
    told = snakemake(folder, "--configfile", "config/one-gpu.yaml", "a.yaml", "--", target, ok=False, **path)
    assert "on 1 card(s) of 11 GiB" in told
    assert not (folder / "studies/one-gpu/models").exists()


def test_the_plan_shows_the_margins_and_refuses_a_card_that_is_too_small():
    target = "results/qwen2.5-14b/sft-8k/seed0/scores.json"
    output = script("plan", "--card", "4090", "--", target)
    [line] = re.findall(r"^sft qwen2\.5-14b +8 +([\d.]+) +(-[\d.]+) .*$", output, re.MULTILINE)
    assert float(line[0]) > 24
    assert "does not fit      sft of qwen2.5-14b (sft-8k) on 8 card(s) of 24 GiB" in output


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
        settings = {"precision": "bf16", "deepspeed": f"config/deepspeed/{zero}.json"}
        return vram.states(of, settings, cards, DEVICE)

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
