"""Shapes of decoders, known by their config.json before anything is loaded: what memory follows from, and
on how many cards an engine can share a model.
"""

import functools
from pathlib import Path
from typing import NamedTuple

from valley import grid, records
from valley.places import Places

PUBLISHED = Path(__file__).resolve().parents[2] / "workflow/reference/shapes.yaml"
# Architectures that are described here, with gated feed-forwards and nothing else of weight: norms a layer
# (tests/test_vram.py builds each by the library and counts).
DECODERS = {
    "gemma3_text": 4,
    "granite": 2,
    "llama": 2,
    "mistral": 2,
    "qwen2": 2,
    "qwen3": 2,
    "smollm3": 2,
}


class Shape(NamedTuple):
    """A decoder: what of its config.json memory follows from. `window`: tokens of sliding attention, 0
    without.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    ff: int
    vocab: int
    tied: bool
    norms: int  # a layer
    window: int
    normed: bool = False  # queries and keys, as Qwen3's are

    @property
    def parameters(self) -> int:
        """Weights; biases and norms of queries and keys are too few to count."""
        attention = self.hidden * self.head * (2 * self.heads + 2 * self.kv_heads)
        layer = attention + 3 * self.hidden * self.ff + self.norms * self.hidden
        return self.layers * layer + self.hidden + self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def linear(self) -> int:
        """Sum of inputs and outputs of a model's linear layers but the head: adapters have as many weights a
        rank.
        """
        attention = (
            2 * self.hidden + 2 * self.head * self.heads + 2 * (self.hidden + self.head * self.kv_heads)
        )
        return self.layers * (attention + 3 * (self.hidden + self.ff))

    @property
    def kv_token(self) -> int:
        """Bytes of the key-value cache of a token, in bf16."""
        return 4 * self.layers * self.kv_heads * self.head

    def shared_by(self, cards: int) -> bool:
        """Whether vLLM can share it among `cards`: heads (vllm/config/model.py,
        `verify_with_parallel_config`) and feed-forward are split evenly, key-value heads split or repeated
        (`QKVParallelLinear`).
        """
        whole = self.heads % cards == 0 and self.ff % cards == 0
        return whole and (self.kv_heads % cards == 0 or cards % self.kv_heads == 0)


def described_shape(content: dict) -> Shape | None:
    """The shape that a config.json describes; None for an architecture that is not described here (a mixture
    of experts, GPT-2), or where it leaves a size to the library.
    """
    content = content.get("text_config", content)
    kind = content.get("model_type")
    needed = ("num_attention_heads", "num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
    if kind not in DECODERS or not all(key in content for key in needed):
        return None
    heads, gemma = content["num_attention_heads"], kind == "gemma3_text"
    # Qwen's window is there and switched off unless said otherwise
    windowed = (
        content.get("sliding_window") if content.get("use_sliding_window", "qwen" not in kind) else None
    )
    return Shape(
        layers=content["num_hidden_layers"],
        hidden=content["hidden_size"],
        heads=heads,
        kv_heads=content.get("num_key_value_heads") or heads,
        head=content.get("head_dim") or content["hidden_size"] // heads,
        ff=content["intermediate_size"],
        vocab=content["vocab_size"],
        tied=content.get("tie_word_embeddings", gemma),
        norms=DECODERS[kind],
        window=windowed or 0,
        normed=kind == "qwen3",
    )


@functools.cache
def published() -> dict[str, dict]:
    """What the makers' config.json say, by hub id."""
    import yaml

    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def shape_of(config: dict, model: str) -> Shape | None:
    """The shape of a model of the catalogue: of its folder where it is there, else as its maker published it;
    None where neither tells, and for models that are pre-trained here, which fit anywhere.
    """
    if grid.is_pretrained_here(config, model):
        return None
    source = config["models"][model]["source"]
    for folder in (Places(config).base(model, 0), Path(source)):
        if (folder / "config.json").is_file():
            return described_shape(records.read_json(folder / "config.json"))
    return described_shape(published()[source]) if source in published() else None
