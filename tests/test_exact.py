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

from valley import environment, kernels, records

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
    if not kernels.has_avx2():
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
    other = dict.fromkeys(kernels.VARIABLES, "other") | {"LD_PRELOAD": "/lib/theirs.so"}
    monkeypatch.setattr(os, "environ", os.environ | other)
    monkeypatch.setattr(kernels, "has_avx2", lambda: has)
    environment.prepare(warm_start=False, exact=True)
    assert kernels.are_set() is has
    ours = kernels.VARIABLES | {"LD_PRELOAD": f"{kernels.library()}:/lib/theirs.so"}
    assert {name: os.environ[name] for name in ours} == (ours if has else other)
    assert kernels.variables() == ours  # said twice, the library stands there once
    assert ("lacks AVX2" in capsys.readouterr().err) is not has


PRODUCTS = """
import ctypes, scipy_openblas32, torch
openblas = ctypes.CDLL(f"{scipy_openblas32.get_lib_dir()}/libscipy_openblas.so")
ROWS, AS_IT_IS, SIZE = 101, 111, 96
one, other = torch.randn(2, 5, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
expected = torch.empty_like(one)
for a, b, c in zip(one, other, expected):
    scale = ctypes.c_float(1), ctypes.c_float(0)
    a, b, c = (ctypes.c_void_p(matrix.data_ptr()) for matrix in (a, b, c))
    openblas.scipy_cblas_sgemm(
        ROWS, AS_IT_IS, AS_IT_IS, SIZE, SIZE, SIZE, scale[0], a, SIZE, b, SIZE, scale[1], c, SIZE
    )
print(torch.equal(one[0] @ other[0], expected[0]), torch.equal(one @ other, expected))
openblas.scipy_openblas_get_corename.restype = ctypes.c_char_p
print(openblas.scipy_openblas_get_corename().decode())
"""


@pytest.mark.parametrize("theirs", [False, True])
def test_torch_multiplies_with_openblas_and_its_kernels_for_haswell(theirs):
    if not kernels.has_avx2():
        pytest.skip("this processor has no AVX2, which `exact` needs")
    asked = {"OPENBLAS_CORETYPE": "Prescott"}  # what some environment asks for
    variables = asked | kernels.variables() | ({"LD_PRELOAD": ""} if theirs else {})
    assert run([sys.executable, "-c", PRODUCTS], **variables).split() == [str(not theirs)] * 2 + ["Haswell"]


def test_exact_compiles_its_library_once_in_the_environment_or_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = kernels.library(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [kernels.library().name]
    monkeypatch.setattr(kernels.subprocess, "run", None)
    assert kernels.library(tmp_path) == made
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kernels.library(tmp_path / "not to be written to").parent == tmp_path / ".cache" / "valley"


def test_exact_says_what_it_lacks(monkeypatch, tmp_path):
    (tmp_path / "two words").mkdir()
    with pytest.raises(SystemExit, match="two words has a space or a colon in its path"):
        kernels.library(tmp_path / "two words")
    monkeypatch.setattr(kernels.shutil, "which", lambda name: "false")
    with pytest.raises(SystemExit, match=r"could not compile matrix_products.c"):
        kernels.library(tmp_path)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"no C compiler .*apt install g\+\+; or set exact: false"):
        kernels.library(tmp_path)
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="scipy-openblas32 is not installed"):
        kernels.library(tmp_path)


@pytest.mark.parametrize(
    ("flags", "has"), [("sse avx2 fma", True), ("avx avx2", False), ("avx fma avx2x", False)]
)
def test_avx2_is_read_from_what_linux_says(tmp_path, flags, has):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t: avx2 fma\n")
    assert kernels.has_avx2(tmp_path / "cpuinfo") is has
    assert not kernels.has_avx2(tmp_path / "none")
