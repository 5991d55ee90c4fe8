"""`attention: varlen`: the same numbers as sdpa's, on rows that are plain, padded and packed. On CPU its
kernel is replaced by torch's plain attention, sequence by sequence; tests/gpu/test_card.py has both.
"""

import sys
from types import SimpleNamespace

import pytest
import rl
import sft
import torch
from conftest import run, script
from safetensors.torch import load_file

from valley import flags, records, varlen

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
         "vocab_size": 40, "num_hidden_layers": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2}  # fmt: skip
WINDOW = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
KINDS = {
    "qwen2": {"max_window_layers": 2},
    "llama": {},
    # its scale is not that of the width of a head
    "gemma3_text": WINDOW | {"query_pre_attn_scalar": 30},
}


def model_of(kind: str, attention: str, **more):
    from transformers import AutoConfig, AutoModelForCausalLM

    name = varlen.attention_for(SimpleNamespace(attention=attention, precision="fp32"))
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SMALL | KINDS[kind] | more)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=name)
    assert model.config._attn_implementation == attention
    return model.train()


def laid(how: str) -> dict:
    """What a model is given: rows of 17, 3, 9 and 17 tokens, each longer than the window but one."""
    rng = torch.Generator().manual_seed(1)
    lengths = [17, 3, 9, 17]
    rows = [torch.randint(3, 40, (length,), generator=rng) for length in lengths]
    if how == "plain":
        return {"input_ids": torch.stack([rows[0], rows[3]])}
    if how.startswith("packed"):
        given = {"input_ids": torch.cat(rows)[None], "position_ids": torch.cat([torch.arange(n) for n in lengths])[None]}  # fmt: skip
        ends = torch.tensor([0, *lengths]).cumsum(0).int()
        told = dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), ends) | dict.fromkeys(
            ("max_length_q", "max_length_k"), 17
        )
        return given | (told if how == "packed, as TRL's collator tells" else {})
    before = [2, 5, 0, 1] if how == "padded on both sides" else [0] * 4
    ids, mask = torch.zeros(4, 20, dtype=torch.long), torch.zeros(4, 20, dtype=torch.long)
    for at, (row, first) in enumerate(zip(rows, before, strict=True)):
        ids[at, first : first + len(row)], mask[at, first : first + len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


LAYOUTS = [
    "plain",
    "padded on the right",
    "padded on both sides",
    "packed",
    "packed, as TRL's collator tells",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_logits_and_gradients_are_sdpas(kind, how, checkpointing):
    given, found = laid(how), {}
    real = given.get("attention_mask", torch.ones_like(given["input_ids"])).bool()
    for attention in ("sdpa", "varlen"):
        model = model_of(kind, attention)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        logits = model(**given, use_cache=False).logits[real]
        logits.logsumexp(-1).square().sum().backward()
        found[attention] = [logits.detach(), *(weight.grad for weight in model.parameters())]
    for theirs, ours in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("how", ["padded on the right", "packed"])
def test_nothing_as_large_as_all_pairs_is_given_to_the_layers(monkeypatch, how):
    """The mask that transformers makes is a truth value a token or none at all, also where layers slide."""
    seen = []

    def watched(module, query, key, value, attention_mask, **more):
        seen.append(None if attention_mask is None else tuple(attention_mask.shape))
        return attend(module, query, key, value, attention_mask, **more)

    attend = varlen.attend
    monkeypatch.setattr(varlen, "attend", watched)
    model_of("gemma3_text", "varlen")(**laid(how), use_cache=False)
    assert seen == [(4, 20) if how == "padded on the right" else None] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_responses_are_sampled_as_by_sdpa(kind):
    """By transformers, with its cache: one query a row beside keys that are padded on the left."""
    ids, mask = torch.zeros(2, 8, dtype=torch.long), torch.zeros(2, 8, dtype=torch.long)
    ids[0], ids[1, 5:], mask[0], mask[1, 5:] = torch.arange(3, 11), torch.arange(3, 6), 1, 1
    given = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    theirs, ours = (
        model_of(kind, attention, initializer_range=0.5).eval().generate(ids, **given)
        for attention in ("sdpa", "varlen")
    )
    assert ours.tolist() == theirs.tolist()


def test_under_autocast_the_kernel_is_given_half_precision(monkeypatch):
    """Rotary embeddings make queries and keys fp32 again, which FlashAttention does not take."""
    given, plain = [], varlen.by_sequence

    def watched(*parts, **more):
        given.append([part.dtype for part in parts[:3]])
        return plain(*parts, **more)

    monkeypatch.setattr(varlen, "by_sequence", watched)
    with torch.autocast("cpu", torch.bfloat16):
        model_of("qwen2", "varlen")(**laid("packed"))
    assert given == [[torch.bfloat16] * 3] * 2


@pytest.mark.parametrize(
    ("more", "causal"), [({"softcap": 30.0}, True), ({"s_aux": torch.ones(4)}, True), ({"dropout": 0.1}, True), ({}, False)]
)  # fmt: skip
def test_what_the_kernel_lacks_is_refused(more, causal):
    part = torch.ones(1, 4, 6, 8)
    with pytest.raises(ValueError, match=f"varlen has no {next(iter(more), 'is_causal')}, "):
        varlen.attend(SimpleNamespace(is_causal=causal), part, part, part, None, **more)
    varlen.attend(SimpleNamespace(is_causal=True), part, part, part, None)


@pytest.mark.parametrize(
    ("capability", "precision", "why"),
    [((7, 5), "bf16", "capability 8.0 or newer, and this one has 7.5"), ((9, 0), "fp32", "no fp32.*precision: bf16"),
     ((8, 0), "bf16", None)],
)  # fmt: skip
def test_a_card_or_precision_that_the_kernel_is_not_made_for_stops_before_the_model_is_loaded(
    monkeypatch, capability, precision, why
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    args = SimpleNamespace(attention="varlen", precision=precision)
    if why is None:
        assert varlen.attention_for(args) == "varlen"
        return
    with pytest.raises(SystemExit, match=why):
        varlen.attention_for(args)
    assert varlen.attention_for(SimpleNamespace(attention="sdpa", precision=precision)) == "sdpa"


def test_a_torch_whose_kernel_lacks_what_it_is_given_is_refused_on_a_card(monkeypatch):
    """As that of torch 2.10, of envs/gpu-cuda12.lock."""

    def of_before(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
        raise AssertionError("it was called")

    assert not varlen.kernel_lacks(varlen.kernel("cuda"))
    assert not varlen.kernel_lacks(varlen.by_sequence)
    args = SimpleNamespace(attention="varlen", precision="bf16")
    monkeypatch.setattr(varlen, "kernel", lambda device: of_before)
    assert varlen.attention_for(args) == "varlen"  # on CPU it is another
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit, match=r"lacks scale, window_size, enable_gqa.*envs/gpu.lock, or set"):
        varlen.attention_for(args)


def test_by_sdpa_the_work_is_what_it_was_before_there_was_another():
    files = ["--model", "m", "--problems", "p", "--out", "o", "--record", "r", "--curve", "c"]
    sizes = [
        "--lr",
        "1",
        "--steps",
        "1",
        "--prompts",
        "2",
        "--rollouts",
        "2",
        "--minibatch",
        "1",
        "--device-batch",
        "1",
    ]
    of = lambda *more: rl.settings(  # noqa: E731
        rl.parse([*files, *sizes, "--max-new-tokens", "9", "--save-every", "1", *more])
    )
    assert of("--attention", "varlen").keys() - of().keys() == {"attention"}
    arguments = {name: flag.default for name, flag in flags.SFT.items()} | dict.fromkeys(
        ("pieces", "cooldown", "trunk")
    )
    assert "attention" in sft.unsaid(SimpleNamespace(**arguments))
    assert "attention" not in sft.unsaid(SimpleNamespace(**arguments | {"attention": "varlen"}))


def weights_apart(folders) -> float:
    """The largest difference of any weight of one model from another's (DeepSpeed saves a tied head too)."""
    one, other = (load_file(folder / "model.safetensors") for folder in folders)
    assert one.keys() <= other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(
    "how",
    [
        [],
        ["--device-batch", 4],
        ["--device-batch", 4, "--packing", "True", "--gradient-checkpointing", "True"],
    ],
    ids=["one a pass", "padded", "packed"],
)
def test_sft_trains_the_weights_that_it_trains_by_sdpa(tmp_path, base, subset, how):
    told = {}
    for attention in ("sdpa", "varlen"):
        folder = tmp_path / attention
        script("sft", "--model", base, "--data", subset, "--out", folder / "model", "--record", folder / "train.json",
               "--lr", 1e-3, "--batch", 4, "--epochs", 2, "--max-length", 256, "--attention", attention, *how)  # fmt: skip
        told[attention] = records.read_json(folder / "train.json")
    assert [record["attention"] for record in told.values()] == ["sdpa", "varlen"]
    configs = [(tmp_path / name / "model/config.json").read_bytes() for name in told]
    assert configs[0] == configs[1], "what is trained is read as before"
    losses = [[entry["loss"] for entry in record["loss"]] for record in told.values()]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    made = [tmp_path / name / "model" for name in told]
    assert weights_apart(made) < 1e-5 < weights_apart([base, made[0]]) / 10


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_under_deepspeed_two_ranks_train_the_weights_that_they_train_by_sdpa(tmp_path, base, subset, zero):
    for attention in ("sdpa", "varlen"):
        folder = tmp_path / attention
        job = ["scripts/sft.py", "--model", base, "--data", subset, "--out", folder / "model", "--record", folder / "train.json",
               "--lr", 1e-3, "--batch", 4, "--epochs", 1, "--max-length", 256, "--attention", attention, "--device-batch", 2,
               "--packing", "True", "--gradient-checkpointing", "True", "--deepspeed", f"config/deepspeed/{zero}.json"]  # fmt: skip
        start = [sys.executable, "scripts/launch.py", "--gpus", 2, "--train"]
        run([*start, *job], CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu")
        assert records.read_json(folder / "train.json")["attention"] == attention
    made = [tmp_path / name / "model" for name in ("sdpa", "varlen")]
    assert weights_apart(made) < 1e-5 < weights_apart([base, made[0]]) / 10


@pytest.mark.parametrize("how", [["--device-batch", 2], ["--device-batch", 1, "--device-tokens", 200]])
def test_rl_trains_the_weights_that_it_trains_by_sdpa(tmp_path, base, how):
    """Sampling, old and reference probabilities and the update, all by it."""
    rows = [{"problem": f"{n}b+1c-2", "answer": "0"} for n in range(10, 30)]
    records.write_parquet(tmp_path / "rl.parquet", rows)
    told = {}
    for attention in ("sdpa", "varlen"):
        folder = tmp_path / attention
        script("rl", "--model", base, "--problems", tmp_path / "rl.parquet", "--out", folder / "model", "--record",
               folder / "train.json", "--curve", folder / "curve.parquet", "--lr", 1e-4, "--steps", 2, "--prompts", 4,
               "--rollouts", 4, "--minibatch", 2, "--max-new-tokens", 24, "--save-every", 2, "--entropy", 0.01, "--kl", 0.1,
               "--attention", attention, *how)  # fmt: skip
        told[attention] = records.read_json(folder / "train.json")
    assert [record["attention"] for record in told.values()] == ["sdpa", "varlen"]
    assert told["sdpa"]["tokens_generated"] == told["varlen"]["tokens_generated"]
    made = [tmp_path / name / "model" for name in told]
    assert weights_apart(made) < 1e-5 < weights_apart([base, made[0]]) / 10
