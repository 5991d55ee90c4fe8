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

ENVS = Path("envs")


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", text, flags=re.M))


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_conda_environment_is_its_lock_and_only_python_comes_from_conda(name):
    dependencies = yaml.safe_load((ENVS / f"{name}.yaml").read_text())["dependencies"]
    from_pip = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    assert pins("\n".join(from_pip)) == pins((ENVS / f"{name}.lock").read_text())
    assert {entry.split("=")[0] for entry in dependencies if isinstance(entry, str)} == {"python", "pip"}


@pytest.mark.parametrize("name", ["cpu", "gpu", "vllm-cpu"])
def test_the_lock_pins_what_the_stack_asks_for_and_names_no_host_or_path(name):
    lock = (ENVS / f"{name}.lock").read_text()
    asked = pins((ENVS / f"{name}.in").read_text())
    assert asked.items() <= pins(lock).items()
    assert not re.search(r"https?://|file:|/", lock.replace("# ", ""))
    assert "+cpu" not in lock


@pytest.mark.parametrize("name", ["cpu", "gpu", "vllm-cpu"])
def test_a_lock_is_nothing_but_exact_pins_each_package_once_without_conditions(name):
    """So it reads alike on every Python; whether the index has the pins is asked of it (below, slow)."""
    lines = [line for line in (ENVS / f"{name}.lock").read_text().splitlines() if not line.startswith("#")]
    assert [
        line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][A-Za-z0-9.]*", line)
    ] == []
    assert len({re.sub(r"[._-]+", "-", line.split("==")[0]) for line in lines}) == len(lines)


@pytest.fixture
def venv(tmp_path):
    """The Makefile with an environment of the GPU stack by its side, older than every lock."""
    shutil.copy("Makefile", tmp_path)
    shutil.copytree(ENVS, tmp_path / "envs")
    (tmp_path / ".venv/lib/python3.11/site-packages/vllm").mkdir(parents=True)
    (stamp := tmp_path / ".venv/complete").touch()
    os.utime(stamp, (0, 0))
    return tmp_path


def installed(folder: Path, *arguments, **variables) -> list[str]:
    """The locks that make would install."""
    return re.findall(r"-r envs/(\S+)\.lock", run(["make", "-n", *arguments], folder, **variables))


@pytest.mark.parametrize("target", ["plan", "run", "test-gpu"])
@pytest.mark.parametrize("whole", [True, False])
def test_make_never_replaces_the_gpu_stack_unasked(venv, target, whole):
    """A pull that touched envs/cpu.lock made `make plan` wipe it and install the CPU stack."""
    if not whole:
        (venv / ".venv/complete").unlink()
    said = run(["make", target, "PYTHON=false"], venv, ok=False, STACK="cpu")
    assert "`make .venv/complete STACK=gpu` sets it up anew, `touch .venv/complete` keeps it" in said
    assert (venv / ".venv/lib/python3.11/site-packages/vllm").is_dir()
    (venv / ".venv/complete").touch()
    assert installed(venv, target) == []


def test_make_sets_up_the_stack_that_is_asked_for_and_the_cpu_one_unasked(venv):
    assert installed(venv, ".venv/complete", "STACK=gpu") == ["gpu"]
    (venv / ".venv/complete").touch()
    assert installed(venv, ".venv/complete", "STACK=gpu") == []
    assert installed(venv, ".venv/complete", "STACK=cpu") == ["cpu"]
    shutil.rmtree(venv / ".venv/lib")
    assert installed(venv, "plan") == []
    assert installed(venv, ".venv/complete", "STACK=gpu") == ["gpu"]
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


@pytest.mark.parametrize(("name", "lacks"), [("cpu", {"vllm"}), ("gpu", set())])
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
def test_the_index_would_install_the_gpu_lock_with_hashes_on_each_python(uv):
    """No package is downloaded; a pin without a wheel or without a hash for one of them would be refused."""
    path = {"PATH": f"{uv}{os.pathsep}{os.environ['PATH']}"}
    said = subprocess.run(
        [sys.executable, "envs/lock.py", "--check"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | path,
    )
    count = len(pins((ENVS / "gpu.lock").read_text()))
    assert said.stdout.splitlines() == [
        f"gpu.lock on Python {version}: Would install {count} packages" for version in ("3.11", "3.12")
    ]


@pytest.mark.parametrize("name", ["valley.def", "Dockerfile"])
def test_an_image_installs_a_lock_whole_and_nothing_else_by_pip_on_the_python_of_the_locks(name):
    said = "\n".join(line for line in (ENVS / name).read_text().splitlines() if not line.startswith("#"))
    [place] = re.findall(r"envs/(?:\$\{STACK\}|\{\{ STACK \}\})\.lock (\S+)", said)
    assert re.findall(r"pip install (.*)", said) == [f"--no-cache-dir --disable-pip-version-check -r {place}"]
    [python] = re.findall(r"(?:From:|FROM) python:(\d+\.\d+)", said)
    for stack in ("cpu", "gpu"):
        assert f"python={python}" in (ENVS / f"{stack}.yaml").read_text()
