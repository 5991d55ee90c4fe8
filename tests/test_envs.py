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
