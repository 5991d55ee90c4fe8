"""What the tests of tests/gpu share: the same commands on a card, where this machine has one, and on CPU
where it has none.

They start scripts by launch.py as a study does. On a card sizes are real; on CPU they are as small as the
check allows.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from valley import check, costs, environment, kernels, shapes, varlen, vram

ON_CARD = bool(environment.listed_cards())
DEVICE = "cuda" if ON_CARD else "cpu"
OURS = (
    "DS_ACCELERATOR",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    *kernels.VARIABLES,
    "LD_PRELOAD",
)  # of CPU studies
CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
PAPER = check.load([])


def with_vllm() -> str | None:
    """The interpreter that has vLLM: this one, that of VALLEY_VLLM_PYTHON, or that of `make test-slow`; None
    where there is none. On a card no build for CPUs is taken for it.
    """
    if importlib.util.find_spec("vllm"):
        return sys.executable
    named = os.environ.get("VALLEY_VLLM_PYTHON", "" if ON_CARD else str(REPOSITORY / ".venv-vllm/bin/python"))
    return named if Path(named).is_file() else None


VLLM = with_vllm()
needs_vllm = pytest.mark.skipif(not VLLM, reason="no interpreter with vLLM: VALLEY_VLLM_PYTHON names one")
DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
VARLEN_LACKS = varlen.kernel_lacks(varlen.kernel(DEVICE))
needs_varlen = pytest.mark.skipif(bool(VARLEN_LACKS), reason=f"torch's kernel of varlen lacks {VARLEN_LACKS}")
needs_deepspeed = pytest.mark.skipif(not DEEPSPEED, reason="no deepspeed in this environment")
EAGER = "tests/gpu/eagerly.py"  # runs a script whose speed nothing is told of (`under` of `command`)


def surroundings(python: str = sys.executable) -> dict[str, str]:
    """The variables of a job: on a card what a user has, without what the tests set for CPU studies. On CPU
    vLLM goes without one limit of `exact`, oneDNN's: its kernels ask the processor whether it has AMX and
    abort where oneDNN denies it. Without torch's limit training beside vLLM in one process ended in a
    corrupted heap (AVX-512, AMX; torch 2.13, vLLM 0.31).
    """
    if not ON_CARD:
        without = "ONEDNN_MAX_CPU_ISA" if python == VLLM != sys.executable else None
        kept = {name: value for name, value in os.environ.items() if name != without}
        return kept | CPU | {"HF_HUB_OFFLINE": "1"}
    kept = {name: value for name, value in os.environ.items() if name not in (*OURS, "OMP_NUM_THREADS")}
    return kept | {"HF_HUB_OFFLINE": "1"}


def command(
    script: str,
    *arguments,
    deepspeed: str | None = None,
    launched: bool = True,
    python: str = sys.executable,
    under: str | None = None,
    gpus: int = 1,
) -> list[str]:
    """The command line of a script: by launch.py, on so many cards or CPUs, as the rules start it, with
    `python`; `under` is a script that runs it (tests/faults, EAGER).
    """
    start = [python]
    if launched:
        start += ["scripts/launch.py", "--gpus", str(gpus), *(["--train"] if script in ("sft", "rl") else [])]
        start += ["--deepspeed", deepspeed] if deepspeed else []
    more = ["--deepspeed", deepspeed] if deepspeed else []
    start += [under] if under else []
    return [*start, f"scripts/{script}.py", *map(str, [*arguments, *more])]


def call(*arguments, ok: bool = True, **options) -> str:
    """What a script says (standard output and error); fails where its exit code is not the expected one."""
    job, variables = command(*arguments, **options), {}
    if not ON_CARD and options.get("gpus", 1) > 1:  # numbers stand for cards
        variables = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(options["gpus"])))}
    around = surroundings(job[0]) | variables
    done = subprocess.run(job, cwd=REPOSITORY, capture_output=True, text=True, env=around)
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, text[-6000:]
    return text


def note(stage: str, **facts):
    """Keep what a stage measured, for the record that accept.py writes."""
    print(f"{stage}: {json.dumps(facts)}")
    if folder := os.environ.get("VALLEY_ACCEPTANCE"):
        (Path(folder) / f"{stage}.json").write_text(json.dumps(facts))


def told_gib(stage, content: dict, record: dict) -> float:
    """What valley/vram.py says that a training takes of a card when it takes most, in GiB: `stage` is
    vram.of_training or vram.of_rl, `content` the config.json of its model, `record` its train.json.
    """
    card = (vram.of_machine() or 0.0) * vram.GIB  # on which vLLM's share follows
    shape, device = shapes.described_shape(content), costs.load()["device"]
    moments = stage(shape, record["arguments"], record["devices"], card, device)
    return max(moment.needed for moment in moments if moment.name != "vLLM's share") / vram.GIB


def narrowed(model: str, layers: int = 2, hidden: int = 128) -> dict:
    """The published config of a model of the paper with few layers and a narrow stream; heads and their
    width, vocabulary, positions, windows and ties are as published.
    """
    content = dict(shapes.published()[PAPER["models"][model]["source"]])
    shape = shapes.described_shape(content)
    if content["model_type"] == "llama":  # its config takes no other
        hidden = -(-hidden // shape.heads) * shape.heads
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
