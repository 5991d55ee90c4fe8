"""The first stage, by torch and transformers alone: a card multiplies, attends and holds what vram.py says it
does.
"""

import time

import accept
import pytest
import torch
from acceptance import DEVICE, ON_CARD, needs_varlen, note

from valley import costs, environment, shapes, varlen, vram

pytestmark = [pytest.mark.slow, pytest.mark.gpu]
MODELS = {"qwen2": "Qwen/Qwen2.5-3B-Instruct", "llama": "meta-llama/Llama-3.1-8B-Instruct", "gemma3_text": "google/gemma-3-1b-it"}  # fmt: skip
SMALL = {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
         "vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
LENGTHS = (4096, 16384) if ON_CARD else (512,)


def content_of(kind: str, layers: int) -> dict:
    """A family's published config with few layers that attend to everything: on a card as wide as published,
    on CPU small.
    """
    content = shapes.published()[MODELS[kind]] | {"num_hidden_layers": layers, "max_window_layers": layers}
    content |= {"vocab_size": 512} if ON_CARD else SMALL
    content |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "gemma3_text":
        content |= {"layer_types": ["full_attention"] * layers, "sliding_window": 1 << 20}
    return content


def built(content: dict):
    """The model of a config.json in bf16, with weights as they fall."""
    from transformers import AutoConfig, AutoModelForCausalLM

    given = {
        key: value for key, value in content.items() if key not in ("model_type", "sliding_window_pattern")
    }
    config = AutoConfig.for_model(content["model_type"], **given)
    with torch.device(DEVICE):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")


def there_and_back(model, tokens: int):
    ids = torch.zeros(1, tokens, dtype=torch.long, device=DEVICE)
    model.base_model(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()


def peak(model, tokens: int) -> float:
    """Bytes of activations and temporaries, at their peak, of a pass there and back through a model without
    its head.
    """
    if ON_CARD:
        there_and_back(model, tokens)  # gradients and workspaces are there from now on
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        there_and_back(model, tokens)
        return torch.cuda.max_memory_allocated() - before
    from torch.distributed._tools.mem_tracker import MemTracker

    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        there_and_back(model, tokens)
    [(_, told)] = tracker.get_tracker_snapshot("peak").items()
    return sum(size for what, size in told.items() if str(what).rsplit(".", 1)[-1] in ("ACT", "TEMP"))


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("checkpointing", [True, False])
def test_activations_are_what_torch_allocates_and_at_most_a_quarter_more(kind, checkpointing, tokens):
    content = content_of(kind, 3)
    model = built(content).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    headless = shapes.described_shape(content)._replace(vocab=0)  # the pass has no head
    settings = {"precision": "bf16", "gradient_checkpointing": checkpointing}
    told, seen = sum(vram.activations(headless, settings, tokens).values()), peak(model, tokens)
    # On a card gradients are added up, so that one more weight's is there; on CPU they are told apart.
    added = 2 * max(weight.numel() for weight in model.parameters()) if ON_CARD else 0
    note(f"memory-{kind}-{tokens}-{checkpointing}", told_mib=told / 2**20, seen_mib=seen / 2**20)
    assert seen <= told * 1.02 + added
    assert told <= seen * 1.25


def test_bf16_multiplies_as_fp32_does_and_at_what_rate():
    size = 8192 if ON_CARD else 256
    left, right = (torch.randn(size, size, device=DEVICE) for _ in range(2))
    low = left.bfloat16() @ right.bfloat16()
    assert (low.float() - left @ right).abs().max() < 0.02 * 4 * size**0.5
    times = 20
    start = time.perf_counter()
    for _ in range(times):
        low = left.bfloat16() @ right.bfloat16()
    float(low[0, 0])  # waits for the card
    rate = 2 * size**3 * times / (time.perf_counter() - start)
    name = torch.cuda.get_device_name() if ON_CARD else "CPU"
    note("card", name=name, cards=environment.gpus(), teraflops=rate / 1e12, memory_gib=vram.of_machine(), torch=torch.__version__)  # fmt: skip
    assert rate > (2e13 if ON_CARD else 1e7)


def test_attention_of_grouped_queries_runs_fused_and_equals_the_plain_one():
    """Causal, 16k tokens on a card: by the kernel that keeps no T × T, or this raises."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention as attend

    tokens, backend = (16384, SDPBackend.FLASH_ATTENTION) if ON_CARD else (256, SDPBackend.FLASH_ATTENTION)
    shapes = (14, 2, 2)
    dtype = torch.bfloat16
    query, key, value = (torch.randn(1, heads, tokens, 64, device=DEVICE, dtype=dtype) for heads in shapes)
    with sdpa_kernel(backend):
        fused = attend(query, key, value, is_causal=True, enable_gqa=True)
    some = min(tokens, 256)
    wide = [part[:, :, :some].repeat_interleave(7, 1).float() for part in (key, value)]
    with sdpa_kernel(SDPBackend.MATH):
        plain = attend(query[:, :, :some].float(), *wide, is_causal=True)
    assert (fused[:, :, :some].float() - plain).abs().max() < 0.05


def by_all_pairs(query, key, value, lengths: list[int], scale: float, before: int):
    """Causal attention over sequences of some `lengths` laid end to end, (tokens, heads, width), by a plain
    matrix of all pairs in fp32; a query sees `before` keys before its own (-1: all of its sequence's).
    """
    own = torch.arange(len(lengths), device=DEVICE).repeat_interleave(torch.tensor(lengths, device=DEVICE))
    places = torch.arange(len(own), device=DEVICE)
    behind = places[:, None] - places
    seen = (own[:, None] == own) & (behind >= 0) & ((behind <= before) if before >= 0 else True)
    wide = [part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value)]
    scores = torch.einsum("qhd,khd->hqk", query, wide[0]) * scale
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), wide[1])


def ends_of(lengths: list[int]):
    """Where each sequence begins, and the end of the last, as the kernel takes it."""
    return torch.tensor([0, *lengths], device=DEVICE).cumsum(0).to(torch.int32)


@pytest.mark.parametrize(
    ("heads", "groups", "wide", "before"), [(14, 2, 64, -1), (4, 1, 256, 31)], ids=["Qwen's", "Gemma's"]
)
@needs_varlen
def test_varlen_equals_the_plain_one_there_and_back_and_beside_a_cache(heads, groups, wide, before):
    """Grouped queries in packed sequences, with a window as Gemma's are; on CPU what stands for the kernel.
    In sampling the queries are the last tokens of each sequence.
    """
    lengths = [300, 1, 130, 593] if ON_CARD else [20, 1, 33, 42]
    kernel, ends, scale = varlen.kernel(DEVICE), ends_of(lengths), 0.9 * wide**-0.5
    parts = [torch.randn(sum(lengths), count, wide, device=DEVICE).bfloat16() for count in (heads, groups, groups)]  # fmt: skip
    towards = torch.randn(sum(lengths), heads, wide, device=DEVICE)
    more, found = {"scale": scale, "window_size": (before, 0), "enable_gqa": True}, []
    for dtype in (torch.bfloat16, torch.float32):
        given = [part.detach().to(dtype).requires_grad_() for part in parts]
        if dtype is torch.bfloat16:
            out = kernel(*given, ends, ends, max(lengths), max(lengths), **more)
        else:
            out = by_all_pairs(*given, lengths, scale, before)
        (out.float() * towards).sum().backward()
        found.append([out.detach().float(), *(part.grad.float() for part in given)])
    for ours, plain in zip(*found, strict=True):
        assert (ours - plain).abs().max() < 0.02 * plain.abs().max()
    last = torch.cat([end - torch.arange(1, 0, -1, device=DEVICE) for end in ends[1:]])
    query, ones = parts[0][last], ends_of([1] * len(lengths))
    sampled = kernel(query, *parts[1:], ones, ends, 1, max(lengths), **more)
    assert (sampled.float() - found[1][0][last]).abs().max() < 0.02 * found[1][0].abs().max()


@needs_varlen
def test_varlen_beside_sdpa_with_a_mask_and_without():
    """Milliseconds there and back through one layer of Qwen2.5-0.5B, 16k tokens on a card: as one sequence,
    and as four of a quarter, which sdpa keeps apart by a mask of all pairs.
    """
    from torch.nn.functional import scaled_dot_product_attention as attend

    tokens, kernel = (16384 if ON_CARD else 256), varlen.kernel(DEVICE)
    lengths = [tokens // 4] * 4
    own = torch.arange(4, device=DEVICE).repeat_interleave(tokens // 4)
    mask = (own[:, None] == own).tril_()[None, None]
    parts = [torch.randn(tokens, heads, 64, device=DEVICE, dtype=torch.bfloat16).requires_grad_() for heads in (14, 2, 2)]  # fmt: skip
    rows = lambda: [part.transpose(0, 1)[None] for part in parts]  # noqa: E731

    def by_mask():  # with one, transformers repeats key-value heads
        query, *others = rows()
        return attend(query, *(part.repeat_interleave(7, 1) for part in others), attn_mask=mask)

    def by_kernel(lengths):
        ends = ends_of(lengths)
        return kernel(*parts, ends, ends, lengths[0], lengths[0], window_size=(-1, 0), enable_gqa=True)

    ways = {
        "sdpa_one": lambda: attend(*rows(), is_causal=True, enable_gqa=True),
        "varlen_one": lambda: by_kernel([tokens]),
        "sdpa_four": by_mask,
        "varlen_four": lambda: by_kernel(lengths),
    }
    took, sums = {}, {}
    for name, way in ways.items():
        for turn in range(4):
            if turn == 1:  # the first warms up
                start = time.perf_counter()
            out = way()
            out.sum().backward()
            sums[name] = float(out.detach().float().abs().sum())  # waits for the card
        took[name] = (time.perf_counter() - start) / 3 * 1e3
    note(f"attention-{tokens}", **{f"{name}_ms": ms for name, ms in took.items()})
    for laid in ("one", "four"):
        assert sums[f"varlen_{laid}"] == pytest.approx(sums[f"sdpa_{laid}"], rel=0.01)
    assert sums["sdpa_one"] != pytest.approx(sums["sdpa_four"], rel=0.01), "the mask changes nothing"


def test_the_cards_memory_is_the_one_that_the_driver_tells_and_stands_beside_the_tables():
    """A card that the table lacks is no failure: its numbers are noted, without a share of a peak."""
    size = vram.of_machine()
    if not ON_CARD:
        assert size is None
        return
    name, cards = torch.cuda.get_device_name(), costs.load()["cards"]
    kind = accept.kind_of(name, size, cards)
    note("card-table", kind=kind or f"{name} is not in workflow/reference/costs.yaml",
         driver_gib=size, table_gb=cards[kind]["memory"] if kind else None)  # fmt: skip
    assert 0.9 < torch.cuda.get_device_properties(0).total_memory / vram.GIB / size <= 1.01
