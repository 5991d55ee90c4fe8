"""What the tests share: a checkout of their own, and scripts run as a user would run them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from valley import environment

# The same as the Snakefile's, so that all tests share one warm process. The acceptance of a card (accept.py)
# computes on it, in an environment that may lack the library of `exact`.
environment.prepare(warm_start=True, exact="VALLEY_ACCEPTANCE" not in os.environ)
os.environ["OMP_NUM_THREADS"] = "1"  # as for each job, also where `exact` cannot be had
for name in (
    "MAKEFLAGS",
    "MAKELEVEL",
    "MFLAGS",
):  # of `make test`: a make that a test starts is no part of it
    os.environ.pop(name, None)

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("VALLEY_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
MINIATURE = ["--configfile", "config/miniature.yaml"]
SMOKE = [*MINIATURE, "config/smoke.yaml"]
TOKEN = "hf_" + "NoFileMayHold" + "ThisToken" + "0123456789ab"  # in pieces: this file may


def reference(*names: str) -> Path:
    """A file of the reference data (real benchmarks, labelled responses, traces), or a skip that says how to
    get it.
    """
    path = DATA.joinpath(*names)
    if not path.exists():
        pytest.skip(
            f"lacks {'/'.join(names)} of the reference data, which the repository does not hold: docs/grading.md "
            "(Reference data) says where each file is from; set VALLEY_TEST_DATA to the folder"
        )
    return path


def lines(path: Path) -> list[dict]:
    """The rows of a .jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def own(name: str) -> list[dict]:
    """A set of our own: `pairs`, `responses` or `traces` of tests/fixtures/grading."""
    return lines(REPOSITORY / "tests" / "fixtures" / "grading" / f"{name}.jsonl")


def checkout(folder: Path) -> Path:
    """A copy of the project's own files in `folder`, so that a test disturbs nothing and finds nothing left
    from before.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    names = listed.stdout.split("\n") if listed.returncode == 0 else []
    for name in filter(None, names):
        source = REPOSITORY / name
        if source.exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name, follow_symlinks=False)
    return folder


def run(command: list, folder: Path = REPOSITORY, ok: bool = True, **variables) -> str:
    """Standard output and error of a command; a test fails when the exit code is not as expected (`ok`)."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | variables,
    )
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, text[-6000:]
    return text


def snakemake(folder: Path, *arguments, ok: bool = True, **variables) -> str:
    """Run Snakemake in a checkout with the local profile."""
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *arguments]
    return run(command, folder, ok, **variables)


def script(name: str, *arguments, ok: bool = True, **variables) -> str:
    """Run a script of the project from the warm process, as rules of CPU studies do."""
    return run([sys.executable, "scripts/warm.py", f"scripts/{name}.py", *arguments], ok=ok, **variables)


def planned(output: str) -> dict[str, int]:
    """Jobs a rule from the table of a dry run; empty when nothing is to be done."""
    if "Nothing to be done" in output:
        return {}
    table = output.split("Job stats:")[1].split("total")[0].splitlines()
    pairs = [line.split() for line in table if len(line.split()) == 2]
    return {rule: int(count) for rule, count in pairs if count.isdigit()}


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """A checkout in which the smoke study has run to its page, by somebody with a token of the hub, and with
    kernels and threads of his own choice in his environment and profile.
    """
    folder = checkout(tmp_path_factory.mktemp("smoke"))
    own = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "AVX2", "OMP_NUM_THREADS": "2"}
    output = snakemake(folder, *SMOKE, "--set-threads", "sft=2", "rl=2", HF_TOKEN=TOKEN, **own)
    (folder / "output.txt").write_text(output)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A tiny untrained base model of the miniature, made by pretrain.py."""
    folder = tmp_path_factory.mktemp("base") / "S"
    script("pretrain", "--out", folder, "--template", "templates/chain.jinja", "--hidden", 32, "--layers", 1, "--heads", 1,
           "--ff", 64, "--steps", 20, "--lengths", 2, "--seed", 0)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory):
    """The files of synthesize.py: traces.parquet, task.parquet, rl.parquet."""
    folder = tmp_path_factory.mktemp("data")
    script("synthesize", "--traces-out", folder / "traces.parquet", "--traces", 64, "--task-out", folder / "task.parquet",
           "--task", 12, "--rl-out", folder / "rl.parquet", "--rl", 32, "--lengths", 2, 3, "--seed", 0)  # fmt: skip
    return folder


@pytest.fixture
def subset(tmp_path):
    """Sixteen chain problems as a subset."""
    import random

    from valley import chain, records

    problems = chain.draw_many(random.Random(0), 16, [2], test=False)
    rows = [
        {"problem": p.text, "trace": chain.long_response(p), "solution": chain.short_response(p)}
        for p in problems
    ]
    records.write_parquet(tmp_path / "subset.parquet", rows)
    return tmp_path / "subset.parquet"
