"""Attention without a mask of all pairs, for SFT and RL: `attention: varlen`.

transformers' `sdpa` builds a truth value for every pair of tokens as soon as rows are several (padded, or
packed in one) or attention slides, and with a mask torch leaves its flash kernel. torch's wheel has the same
kernel for sequences of any lengths laid end to end, `torch.nn.attention.varlen`: no package, no compiler, no
download. It is registered here with transformers as the attention `varlen`:

- rows that are padded: their tokens are laid end to end by the 2-D mask, and what comes out is put back;
- rows packed in one: their ends are those that TRL's collator hands over, else they follow from positions;
- rows without either: a sequence each.

A sliding window, grouped queries and the scale are the kernel's own arguments. What it lacks (a cap on
scores, sinks, dropout) is refused. The unpadding is transformers' own, made for the package flash-attn.

The kernel is CUDA's alone. On CPU `by_sequence` takes the same arguments and goes through the sequences by
torch's plain attention: slower than `sdpa`, and there to be held against it (tests/test_varlen.py).
"""

import inspect
import itertools

from valley import records

NAME = "varlen"
GIVEN = "scale", "window_size", "enable_gqa"  # to the kernel, which has them in torch 2.13 and not in 2.10


def attention_for(args) -> str:
    """The attention of `args` by its name, as `from_pretrained` takes it; `varlen` is one from here on."""
    if args.attention == NAME:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import flash_attention_mask

        check_kernel(args.precision)
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, flash_attention_mask)
    return args.attention


def check_kernel(precision: str):
    """Stop on a card, in a precision or with a torch that FlashAttention is not made for or not whole in:
    bf16 (or fp16), on cards of capability 8.0 and newer. Another node may have another card, and another
    environment another torch, so that those are no failures of the work.
    """
    import torch

    if not torch.cuda.is_available():
        return
    if precision != "bf16":
        records.fail(
            "attention: varlen", f"its kernel has no {precision}", "Set precision: bf16, or attention: sdpa"
        )
    if found := kernel_lacks(kernel("cuda")):
        what = f"its kernel in torch {torch.__version__} lacks {found}"
        records.fail_for_now(
            "attention: varlen", what, "Take the environment of envs/gpu.lock, or set attention: sdpa"
        )
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        what = f"its kernel needs a card of capability 8.0 or newer, and this one has {major}.{minor}"
        records.fail_for_now(
            "attention: varlen", what, "Take an A100, a 3090 or newer, or set attention: sdpa"
        )


def attend(
    module,
    query,
    key,
    value,
    attention_mask,
    dropout=0.0,
    scaling=None,
    sliding_window=None,
    position_ids=None,
    cu_seq_lens_q=None,
    cu_seq_lens_k=None,
    max_length_q=None,
    max_length_k=None,
    **more,
):
    """transformers' attention interface: (rows, heads, tokens, width) each, `attention_mask` (rows, keys) or
    None; gives (rows, tokens, heads, width) and, in place of weights, None.

    Causal. With fewer queries than keys, as in sampling, the last tokens are the queries.
    """
    import torch
    from transformers.modeling_flash_attention_utils import (
        _is_packed_sequence,
        _pad_input,
        _prepare_from_posids,
        _unpad_input,
        _upad_input,
    )

    lacking = {"softcap": more.get("softcap"), "s_aux": more.get("s_aux"), "dropout": dropout or None}
    lacking |= {"is_causal": None if getattr(module, "is_causal", True) else False}
    if found := {name: value for name, value in lacking.items() if value is not None}:
        raise ValueError(f"attention: varlen has no {', '.join(found)}, which this model asks for. Set sdpa")
    rows, _, tokens, _ = query.shape
    kind = query.device.type  # the kernel is none that autocast knows of
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    query, key, value = (part.transpose(1, 2).to(dtype) for part in (query, key, value))
    keys = key.shape[1]
    if attention_mask is not None:
        query, key, value, places, ends, longest = _upad_input(
            query, key, value, attention_mask, tokens, _unpad_input
        )
    elif cu_seq_lens_q is not None:
        ends, longest = (cu_seq_lens_q, cu_seq_lens_k), (max_length_q, max_length_k)
    elif _is_packed_sequence(position_ids, rows):
        query, key, value, ends, longest = _prepare_from_posids(query, key, value, position_ids)
    else:
        ends = [
            torch.arange(rows + 1, dtype=torch.int32, device=query.device) * each for each in (tokens, keys)
        ]
        longest = tokens, keys
    longest = [int(length) for length in longest]
    # transformers counts the token itself into the window, the kernel those before it
    before = sliding_window - 1 if sliding_window and sliding_window < longest[1] else -1
    out = kernel(kind)(
        *(part.reshape(-1, *part.shape[-2:]) for part in (query, key, value)),
        *ends,
        *longest,
        scale=scaling,
        window_size=(before, 0),
        enable_gqa=key.shape[-2] != query.shape[-2],
    )
    if attention_mask is not None:
        return _pad_input(out, places, rows, tokens), None
    return out.unflatten(0, (rows, tokens)), None


def kernel(device: str):
    """The function that attends over sequences end to end on a type of device: torch's, or on CPU ours."""
    if device == "cpu":
        return by_sequence
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def kernel_lacks(kernel) -> str:
    """The arguments of GIVEN that a kernel does not take, in words; empty where it takes all."""
    return ", ".join(name for name in GIVEN if name not in inspect.signature(kernel).parameters)


def by_sequence(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, 0), enable_gqa=False
):
    """What torch's `varlen_attn` gives, with its arguments, sequence by sequence and in any precision.

    `query`, `key`, `value`: (tokens of all sequences, heads, width). `cu_seq_q`, `cu_seq_k`: where each
    sequence begins, and the end of the last. `window_size`: keys that are seen before a query's own place
    (-1: all) and behind it, which is none. Where a sequence has more keys than queries both end together.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    assert window_size[1] == 0, "causal attention alone"
    found = []
    spans = zip(*(itertools.pairwise(ends.tolist()) for ends in (cu_seq_q, cu_seq_k)), strict=True)
    for (first_q, end_q), (first_k, end_k) in spans:
        queries, keys = end_q - first_q, end_k - first_k
        assert queries <= max_q
        assert keys <= max_k
        places = torch.arange(keys)
        behind = places[keys - queries :, None] - places
        seen = (behind >= 0) & ((behind <= window_size[0]) if window_size[0] >= 0 else True)
        own = query[first_q:end_q], key[first_k:end_k], value[first_k:end_k]
        heads_first = (part.transpose(0, 1)[None] for part in own)
        out = scaled_dot_product_attention(*heads_first, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
        found.append(out[0].transpose(0, 1))
    return torch.cat(found)
