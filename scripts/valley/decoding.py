"""Sampling on CPU without copies: the tokens that transformers samples, in less time.

transformers appends to its cache by copying all of it at every token, and runs finished rows on to the end of
the longest. Here keys and values have room to grow, and finished rows leave. Random numbers are drawn for all
rows as before, so each row gets its own whoever has left.
"""

import torch
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values, (rows, heads, length, width), at the head of buffers that double when full."""

    buffers = ()

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, states = self.get_seq_length(), (key_states, value_states)
        end = start + key_states.shape[-2]
        if not self.buffers or end > self.buffers[0].shape[-2]:
            grown = [new.new_empty(*new.shape[:-2], 2 * end, new.shape[-1]) for new in states]
            for buffer, old in zip(grown, (self.keys, self.values), strict=True):
                if start:
                    buffer[..., :start, :] = old
            self.buffers = grown
        for buffer, new in zip(self.buffers, states, strict=True):
            buffer[..., start:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices):
        end = self.get_seq_length()
        self.buffers = [buffer[indices] for buffer in self.buffers]
        self.keys, self.values = (buffer[..., :end, :] for buffer in self.buffers)


def decode(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_inputs):
    """The decoding loop for `model.generate(…, custom_generate=decode)`: ids (rows, prompt + longest
    response), padded on the right.

    Equal to transformers' own to the last token, and leaves the random stream where that leaves it, as far as
    a row's numbers do not depend on how many rows are computed beside it (by `exact`'s kernels they do not).
    """
    cache, mask = model_inputs["past_key_values"], model_inputs.get("attention_mask")
    mask = torch.ones_like(input_ids) if mask is None else mask  # none is given where nothing is padded
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    rows, at = input_ids.shape
    ids = input_ids.new_full((rows, generation_config.max_length), int(generation_config._pad_token_tensor))
    ids[:, :at] = input_ids
    going, tokens, positions = torch.arange(rows), input_ids, (mask.cumsum(-1) - 1).clamp(min=0)
    while True:
        logits = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            logits_to_keep=1,
        ).logits[:, -1]
        scores = logits_processor(ids[going, :at], logits.float())
        if generation_config.do_sample:  # as torch.multinomial draws on CPU
            shares = torch.softmax(scores, -1)
            noise = shares.new_empty(rows, shares.shape[1]).exponential_()
            scores = shares / noise[going]
        tokens = scores.argmax(-1, keepdim=True)
        ids[going, at] = tokens[:, 0]
        at += 1
        left = ~stopping_criteria(ids[going, :at], None)
        if not left.any():
            return ids[:, :at]
        mask, positions = torch.nn.functional.pad(mask, (0, 1), value=1), positions[:, -1:] + 1
        if not left.all():
            cache.batch_select_indices(left)
            going, mask, positions, tokens = going[left], mask[left], positions[left], tokens[left]
