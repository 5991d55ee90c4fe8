"""`exact: true`: one set of kernels and one thread, so that every x86-64 processor with AVX2 makes the same
weights and the same responses.

`tests/fixtures/exact.json` holds their hashes. What it holds belongs to envs/cpu.lock: another torch may sum
in another order.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY, run, script

from valley import environment, records

HASHES = REPOSITORY / "tests/fixtures/exact.json"
# Of what their makers sold with AVX2, as qemu has them: Intel's first, one without AVX-512, AMD's before
# AVX-512.
PROCESSORS = ("Haswell", "Skylake-Client", "EPYC-Rome")
SFT = ("--lr", 2e-3, "--epochs", 2, "--batch", 4, "--device-batch", 4, "--max-length", 256, "--seed", 0)
SAMPLING = ("--samples", 1, "--engine", "transformers", "--max-new-tokens", 24, "--max-context", 256, "--chunk", 12,
            "--precision", "fp32", "--temperature", 0.6, "--top-p", 0.95, "--seed", 0)  # fmt: skip


def weights(model) -> str:
    """SHA-256 of a model's weights."""
    return records.sha256(model / "model.safetensors")


def hashes(folder, base, subset, synthetic, call) -> dict[str, str]:
    """SHA-256 of what one cell makes of a base: its weights, and its responses' texts. `call` runs a script
    with its flags.
    """
    model, responses = folder / "model", folder / "responses.parquet"
    call("sft", "--model", base, "--data", subset, "--out", model, "--record", folder / "train.json", *SFT)
    call("generate", "--model", model, "--task", synthetic / "task.parquet", "--out", responses, *SAMPLING)
    said = [row["response"] for row in records.read_parquet(responses, ["id", "response"]).to_pylist()]
    return {"sft": weights(model), "responses": hashlib.sha256(json.dumps(said).encode()).hexdigest()}


@pytest.fixture
def expected():
    if not environment.has_avx2():
        pytest.skip("this processor has no AVX2, which `exact` needs")
    made = records.read_json(HASHES)
    if made.pop("lock_sha256") != records.sha256(REPOSITORY / "envs/cpu.lock"):
        pytest.fail(f"{HASHES} is of another envs/cpu.lock: make it again, on two processors")
    return made


def test_a_cell_is_the_same_to_the_last_bit_on_every_processor(tmp_path, base, subset, synthetic, expected):
    found = {"pretrain": weights(base), **hashes(tmp_path, base, subset, synthetic, script)}
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_cell_is_the_same_on_an_emulated_processor(processor, tmp_path, base, subset, synthetic, expected):
    qemu = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if not qemu:
        pytest.skip("lacks qemu-x86_64 (Debian: qemu-user)")
    version = subprocess.run([qemu, "--version"], capture_output=True, text=True).stdout
    if tuple(map(int, re.search(r"version (\d+)\.(\d+)", version).groups())) < (7, 2):
        pytest.skip("qemu emulates AVX2 from version 7.2 on")

    def emulated(name, *arguments):
        run([qemu, "-cpu", processor, sys.executable, f"scripts/{name}.py", *arguments])

    assert hashes(tmp_path, base, subset, synthetic, emulated).items() <= expected.items()


@pytest.mark.parametrize("has", [True, False])
def test_exact_overrides_the_environment_and_is_left_out_where_it_would_crash(has, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", os.environ | dict.fromkeys(environment.EXACT, "other"))
    monkeypatch.setattr(environment, "has_avx2", lambda: has)
    environment.prepare(warm_start=False, exact=True)
    found = {name: os.environ[name] for name in environment.EXACT}
    assert found == (environment.EXACT if has else dict.fromkeys(environment.EXACT, "other"))
    assert ("lacks AVX2" in capsys.readouterr().err) is not has


@pytest.mark.parametrize(
    ("flags", "has"), [("sse avx2 fma", True), ("avx avx2", False), ("avx fma avx2x", False)]
)
def test_avx2_is_read_from_what_linux_says(tmp_path, flags, has):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t: avx2 fma\n")
    assert environment.has_avx2(tmp_path / "cpuinfo") is has
    assert not environment.has_avx2(tmp_path / "none")
