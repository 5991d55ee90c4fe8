"""Environments: the conda files hold exactly the pins of the locks, and the locks hold what the stacks ask
for.
"""

import re
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
