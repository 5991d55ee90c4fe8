"""Sampling on CPU: the tokens of transformers' own loop, whoever finishes first."""

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from valley.decoding import decode

PAD, END = 0, 1
SMALL = {
    "vocab_size": 30, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "pad_token_id": PAD, "eos_token_id": END,
}  # fmt: skip
PROMPTS = [[5, 6], [7, 8, 9, 10, 11, 3], [4], [2, 3, 4, 5], [9, 9, 2], [6, 5, 4, 3, 2], [8], [10, 11]]


def qwen():
    return Qwen2ForCausalLM(Qwen2Config(**SMALL, initializer_range=0.5))


def gemma_whose_window_is_shorter_than_its_responses():
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SMALL,
            initializer_range=0.1,
            head_dim=16,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
        )
    )


@pytest.mark.parametrize("made", [qwen, gemma_whose_window_is_shorter_than_its_responses])
@pytest.mark.parametrize(
    "sampling",
    [
        {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 0},
        {"do_sample": True, "temperature": 1.0, "top_k": 0},
        {"do_sample": False},
    ],
    ids=["top-p", "plain", "greedy"],
)
@pytest.mark.parametrize(
    "prompts",
    [PROMPTS, [[*prompt, 7, 7, 7][:4] for prompt in PROMPTS if len(prompt) > 1]],
    ids=["padded", "equal"],
)
def test_the_loop_gives_transformers_tokens_and_leaves_its_random_stream(made, sampling, prompts):
    torch.manual_seed(3)
    model = made().eval()
    model.generation_config = GenerationConfig(
        max_new_tokens=40, pad_token_id=PAD, eos_token_id=[END, 2], **sampling
    )
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = {"attention_mask": (ids != PAD).long()} if prompts is PROMPTS else {}

    def responses(**loop):
        torch.manual_seed(7)
        found = model.generate(ids, **mask, **loop)
        return found[:, longest:].tolist(), torch.rand(1).item()

    theirs = responses()
    assert responses(custom_generate=decode) == theirs
    ended = [next((at for at, token in enumerate(row) if token in (END, 2)), 40) for row in theirs[0]]
    if sampling["do_sample"] and mask:
        assert len(set(ended)) > 3, "rows must end at different times to try what it is for"
