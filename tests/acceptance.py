"""What the tests of tests/gpu share: the same commands on a card, where this machine has one, and on CPU
where it has none.

They start scripts by launch.py as a study does. On a card sizes are real; on CPU they are as small as the
check allows.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY

from valley import check, environment, vram

ON_CARD = bool(environment.listed_cards())
DEVICE = "cuda" if ON_CARD else "cpu"
OURS = (
    "DS_ACCELERATOR",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    *environment.EXACT,
)  # of CPU studies
CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
PAPER = check.load([])


def surroundings() -> dict[str, str]:
    """The variables of a job: on a card what a user has, without what the tests set for CPU studies."""
    if not ON_CARD:
        return os.environ | CPU | {"HF_HUB_OFFLINE": "1"}
    kept = {name: value for name, value in os.environ.items() if name not in (*OURS, "OMP_NUM_THREADS")}
    return kept | {"HF_HUB_OFFLINE": "1"}


def command(script: str, *arguments, deepspeed: str | None = None, launched: bool = True) -> list[str]:
    """The command line of a script: by launch.py, on one card or CPU, as the rules start it."""
    start = [sys.executable]
    if launched:
        start += ["scripts/launch.py", "--gpus", "1", *(["--deepspeed", deepspeed] if deepspeed else [])]
    more = ["--deepspeed", deepspeed] if deepspeed else []
    return [*start, f"scripts/{script}.py", *map(str, [*arguments, *more])]


def call(*arguments, ok: bool = True, **options) -> str:
    """What a script says (standard output and error); fails where its exit code is not the expected one."""
    done = subprocess.run(
        command(*arguments, **options), cwd=REPOSITORY, capture_output=True, text=True, env=surroundings()
    )
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, text[-6000:]
    return text


def note(stage: str, **facts):
    """Keep what a stage measured, for the record that accept.py writes."""
    print(f"{stage}: {json.dumps(facts)}")
    if folder := os.environ.get("VALLEY_ACCEPTANCE"):
        (Path(folder) / f"{stage}.json").write_text(json.dumps(facts))


def narrowed(model: str, layers: int = 2, hidden: int = 128) -> dict:
    """The published config of a model of the paper with few layers and a narrow stream; heads and their
    width, vocabulary, positions, windows and ties are as published.
    """
    content = dict(vram.published()[PAPER["models"][model]["source"]])
    shape = vram.described_shape(content)
    content |= {"num_hidden_layers": layers, "max_window_layers": layers, "head_dim": shape.head}
    return content | {"hidden_size": hidden, "intermediate_size": 2 * hidden}


def maker_folder(folder: Path, tokenizer: Path, content: dict) -> Path:
    """A model as its maker publishes it: config.json, weights as they fall (bf16), the maker's tokenizer."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(tokenizer, folder)
    given = {key: value for key, value in content.items() if key != "model_type"}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(content["model_type"], **given), dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    return folder
