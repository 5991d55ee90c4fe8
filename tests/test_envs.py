"""Environments: the conda files hold exactly the pins of the locks, and the locks hold what the stacks ask
for.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import run

from valley import environment, records

ENVS = Path("envs")
GPU = tuple(environment.DRIVERS)  # the stacks for cards


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", text, flags=re.M))


@pytest.mark.parametrize("name", ["cpu", *GPU])
def test_the_conda_environment_is_its_lock_and_only_python_comes_from_conda(name):
    dependencies = yaml.safe_load((ENVS / f"{name}.yaml").read_text())["dependencies"]
    from_pip = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    assert pins("\n".join(from_pip)) == pins((ENVS / f"{name}.lock").read_text())
    assert {entry.split("=")[0] for entry in dependencies if isinstance(entry, str)} == {"python", "pip"}


@pytest.mark.parametrize("name", ["cpu", *GPU, "vllm-cpu"])
def test_the_lock_pins_what_the_stack_asks_for_and_names_no_host_or_path(name):
    lock = (ENVS / f"{name}.lock").read_text()
    asked = pins((ENVS / f"{name}.in").read_text())
    assert asked.items() <= pins(lock).items()
    assert not re.search(r"https?://|file:|/", lock.replace("# ", ""))
    assert "+cpu" not in lock


@pytest.mark.parametrize("name", ["cpu", *GPU, "vllm-cpu"])
def test_a_lock_is_nothing_but_exact_pins_each_package_once_without_conditions(name):
    """So it reads alike on every Python; whether the index has the pins is asked of it (below, slow)."""
    lines = [line for line in (ENVS / f"{name}.lock").read_text().splitlines() if not line.startswith("#")]
    assert [
        line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][A-Za-z0-9.]*", line)
    ] == []
    assert len({re.sub(r"[._-]+", "-", line.split("==")[0]) for line in lines}) == len(lines)


def test_each_gpu_stack_is_of_one_cuda_and_differs_from_the_other_in_what_that_asks_for():
    """A torch for CUDA 12 beside a library for 13 would be found on the card alone; what is not of CUDA is
    alike, so that a study moves from one to the other.
    """
    of_cuda = re.compile(r"nvidia-(?!cutlass|ml-py|cudnn-frontend).*")
    asked = {}
    for name, cuda in zip(GPU, ("13", "12"), strict=True):
        lock = pins((ENVS / f"{name}.lock").read_text())
        suffixes = {package.rpartition("-cu")[2] for package in lock if re.fullmatch(r"nvidia-.*-cu\d+", package)
                    and of_cuda.fullmatch(package)}  # fmt: skip
        assert suffixes == {cuda}
        assert lock["cuda-bindings"].startswith(f"{cuda}.")
        asked[name] = (ENVS / f"{name}.in").read_text().splitlines()
    apart = set(asked["gpu"]) ^ set(asked["gpu-cuda12"])
    assert {line.split("==")[0] for line in apart if not line.startswith("#")} == {"torch", "vllm"}


@pytest.mark.parametrize("name", GPU)
def test_the_page_on_clusters_names_the_drivers_and_versions_of_each_gpu_stack(name):
    [row] = re.findall(rf"\| `envs/{name}\.lock` \|(.*)\|$", Path("docs/slurm.md").read_text(), flags=re.M)
    driver, cuda, *versions, glibc = [cell.strip() for cell in row.split("|")]
    lock = pins((ENVS / f"{name}.lock").read_text())
    assert str(environment.DRIVERS[name]) in driver
    runtime = lock.get("nvidia-cuda-runtime") or lock["nvidia-cuda-runtime-cu12"]
    assert runtime.startswith(f"{cuda}.")
    assert [cell.split(",")[0] for cell in versions] == [lock["torch"], lock["vllm"], lock["trl"]]
    [oldest] = re.findall(rf'"{name}": "manylinux_(\d+)_(\d+)"', (ENVS / "lock.py").read_text())
    assert glibc.split()[0] == ".".join(oldest)


def in_folder(site: Path, name: str) -> Path:
    """What pip leaves in site-packages of a GPU stack of this name, as far as it is told by it."""
    for package in ("vllm", "nvidia-cuda-runtime-cu12"):
        if version := pins((ENVS / f"{name}.lock").read_text()).get(package):
            (folder := site / f"{package.replace('-', '_')}-{version}.dist-info").mkdir(parents=True)
            (folder / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
    (site / "vllm").mkdir()
    return site


@pytest.mark.parametrize("name", GPU)
def test_a_record_names_the_lock_of_the_gpu_stack_that_it_was_made_in(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, "path", [str(in_folder(tmp_path, name))])
    assert records.own_stack() == name


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("580.65.06", "Driver 580.65.06 runs envs/gpu.lock: `make .venv/complete STACK=gpu`"),
        ("579.9", "Driver 579.9 runs envs/gpu-cuda12.lock: `make .venv/complete STACK=gpu-cuda12`"),
        ("570.86.15", "Driver 570.86.15 runs envs/gpu-cuda12.lock: `make .venv/complete STACK=gpu-cuda12`"),
        (
            "470.1",
            "470.1 is too old: one runs envs/gpu.lock from 580 on and envs/gpu-cuda12.lock from 525 on",
        ),
        (None, "No driver answers; one runs envs/gpu.lock from 580 on and envs/gpu-cuda12.lock from 525 on"),
    ],
)
def test_a_driver_is_told_the_newest_stack_that_it_runs(tmp_path, monkeypatch, version, said):
    (smi := tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho {version or 'NVIDIA-SMI has failed'}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert environment.stack_for(environment.driver()).endswith(said)


@pytest.fixture(params=GPU)
def stack(request) -> str:
    """The name of a GPU stack."""
    return request.param


@pytest.fixture
def venv(tmp_path, stack):
    """The Makefile with an environment of a GPU stack by its side, older than every lock."""
    shutil.copy("Makefile", tmp_path)
    shutil.copytree(ENVS, tmp_path / "envs")
    in_folder(tmp_path / ".venv/lib/python3.11/site-packages", stack)
    (stamp := tmp_path / ".venv/complete").touch()
    os.utime(stamp, (0, 0))
    return tmp_path


def installed(folder: Path, *arguments, **variables) -> list[str]:
    """The locks that make would install."""
    return re.findall(r"-r envs/(\S+)\.lock", run(["make", "-n", *arguments], folder, **variables))


@pytest.mark.parametrize("target", ["plan", "run", "test-gpu"])
@pytest.mark.parametrize("whole", [True, False])
def test_make_never_replaces_a_gpu_stack_unasked(venv, stack, target, whole):
    """A pull that touched envs/cpu.lock made `make plan` wipe it and install the CPU stack."""
    if not whole:
        (venv / ".venv/complete").unlink()
    said = run(["make", target, "PYTHON=false"], venv, ok=False, STACK="cpu")
    assert f"`make .venv/complete STACK={stack}` sets it up anew, `touch .venv/complete` keeps it" in said
    assert (venv / ".venv/lib/python3.11/site-packages/vllm").is_dir()
    (venv / ".venv/complete").touch()
    assert installed(venv, target) == []


def test_make_sets_up_the_stack_that_is_asked_for_and_the_cpu_one_unasked(venv, stack):
    assert installed(venv, ".venv/complete", f"STACK={stack}") == [stack]
    (venv / ".venv/complete").touch()
    assert installed(venv, ".venv/complete", f"STACK={stack}") == []
    for other in {"cpu", *GPU} - {stack}:
        assert installed(venv, ".venv/complete", f"STACK={other}") == [other]
    shutil.rmtree(venv / ".venv/lib")
    assert installed(venv, "plan") == []
    assert installed(venv, ".venv/complete", f"STACK={stack}") == [stack]
    os.utime(venv / ".venv/complete", (0, 0))
    assert installed(venv, "plan") == ["cpu"]
    shutil.rmtree(venv / ".venv")
    assert installed(venv, "plan") == ["cpu"]


def imported() -> set[str]:
    """The packages that our scripts and Snakemake's plugins import, as their own names."""
    files = [*Path("scripts").rglob("*.py"), *Path("workflow/plugins").rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    ours = {"valley", *(file.stem for file in files)}
    return {name.split(".")[0] for name in names} - ours - sys.stdlib_module_names


@pytest.mark.parametrize(("name", "lacks"), [("cpu", {"vllm"}), *((name, set()) for name in GPU)])
def test_the_lock_of_a_stack_holds_all_that_our_code_imports(name, lacks):
    """On a cluster one environment runs every rule: the GPU stack had nothing to draw with, which showed when
    all was trained.
    """
    from importlib.metadata import packages_distributions

    plain = lambda package: package.lower().replace("_", "-")  # noqa: E731
    known, locked = packages_distributions(), set(map(plain, pins((ENVS / f"{name}.lock").read_text())))
    missing = {each for each in imported() if plain(known.get(each, [each])[0]) not in locked}
    assert missing == lacks


@pytest.fixture
def uv(tmp_path) -> str:
    """The folder of uv: this machine's, or one installed for the test; skips where the index has none."""
    if found := shutil.which("uv"):
        return str(Path(found).parent)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "uv"], check=True)
    command = [tmp_path / "uv/bin/python", "-m", "pip", "install", "--quiet", "uv"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("uv cannot be installed from the package index")
    return str(tmp_path / "uv/bin")


@pytest.mark.slow
def test_the_index_would_install_the_gpu_locks_with_hashes_on_each_python(uv):
    """No package is downloaded; a pin without a wheel or without a hash for one of them would be refused."""
    path = {"PATH": f"{uv}{os.pathsep}{os.environ['PATH']}"}
    said = subprocess.run(
        [sys.executable, "envs/lock.py", "--check"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | path,
    )
    count = {name: len(pins((ENVS / f"{name}.lock").read_text())) for name in GPU}
    assert said.stdout.splitlines() == [
        f"{name}.lock on Python {version}: Would install {count[name]} packages"
        for name in GPU
        for version in ("3.11", "3.12")
    ]


@pytest.mark.parametrize("name", ["valley.def", "Dockerfile"])
def test_an_image_installs_a_lock_whole_and_nothing_else_by_pip_on_the_python_of_the_locks(name):
    said = "\n".join(line for line in (ENVS / name).read_text().splitlines() if not line.startswith("#"))
    [place] = re.findall(r"envs/(?:\$\{STACK\}|\{\{ STACK \}\})\.lock (\S+)", said)
    assert re.findall(r"pip install (.*)", said) == [f"--no-cache-dir --disable-pip-version-check -r {place}"]
    [python] = re.findall(r"(?:From:|FROM) python:(\d+\.\d+)", said)
    for stack in ("cpu", *GPU):
        assert f"python={python}" in (ENVS / f"{stack}.yaml").read_text()
