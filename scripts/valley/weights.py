"""What a model folder holds, by its files' headers: no weight is read."""

import json
import math
from pathlib import Path

from valley import records


def loaded_files(folder: Path) -> list[Path]:
    """The safetensors that transformers would load from a folder: `model.safetensors`, else those its index
    names.

    A maker may ship the same weights a second time (`consolidated.safetensors`): they are not among them.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists():
        return [whole]
    if index.exists():
        return [folder / name for name in sorted(set(records.read_json(index)["weight_map"].values()))]
    return []


def header(file: Path) -> dict:
    """The tensors of a safetensors file: name → dtype and shape."""
    try:
        with open(file, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            content = json.loads(stream.read(size)) if size < 100_000_000 else None
        return {name: tensor for name, tensor in content.items() if name != "__metadata__"}
    except (OSError, ValueError, AttributeError) as error:
        records.fail(file, f"is no readable safetensors file ({error})", "Fetch the model again")


def stored_parameters(folder: Path) -> int:
    """Number of parameters that a model folder stores; tied ones count once."""
    return sum(
        math.prod(tensor["shape"]) for file in loaded_files(folder) for tensor in header(file).values()
    )
