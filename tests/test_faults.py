"""A kill at every boundary of the file system while training saves and while a step is published: what is
continued ends as if nothing had happened.

The kills are SIGKILLs by a preloaded library (tests/faults/stops.c), before an open, write, rename, removal
or sync of the run's own files; `make test` takes some of them, `make test-slow` all. There the same driver
also kills each long script at random moments.
"""

import json
import os
import shutil
import sys

import pytest
from conftest import REPOSITORY, run, script
from test_scripts import generate_flags
from test_training import RL, SFT, train

from valley import records

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="the library that kills is compiled with gcc")
SMALL_RL = [
    *RL,
    "--steps",
    4,
    "--prompts",
    2,
    "--minibatch",
    2,
    "--rollouts",
    4,
    "--device-batch",
    8,
    "--save-every",
    2,
]
TRAINERS = ["trl.trainer.grpo_trainer", "trl.trainer.sft_trainer", "transformers.models.qwen2.modeling_qwen2"]


@pytest.fixture(scope="session")
def stops(tmp_path_factory):
    """The library that kills its process at a boundary, compiled."""
    library = tmp_path_factory.mktemp("stops") / "stops.so"
    run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, REPOSITORY / "tests/faults/stops.c", "-ldl"])
    return library


def kills(stops, folder, name, arguments, every, start=None, imports=TRAINERS, **more):
    """What tests/faults/driver.py found: boundaries, where or when it killed, what differed."""
    asked = {"script": name, "arguments": [str(a) for a in arguments], "folder": str(folder), "every": every,
             "start": str(start) if start else None, "imports": imports, **more}  # fmt: skip
    said = run([sys.executable, "tests/faults/driver.py", json.dumps(asked)], LD_PRELOAD=str(stops))
    return json.loads(said.splitlines()[-1])


def sft_arguments(base, subset):
    return ["--model", base, "--data", subset, "--out", "{cell}/model", "--record", "{cell}/train.json", *SFT,
            "--epochs", 1, "--save-every", 3]  # fmt: skip


@pytest.fixture(scope="session")
def start(tmp_path_factory, base):
    """A model that answers every problem with a box of 0, 1 or 2: RL on it is rewarded now and then."""
    folder = tmp_path_factory.mktemp("start")
    rows = [{"problem": f"{n}b+1", "trace": rf"\boxed{{{n % 3}}}", "solution": ""} for n in range(10, 58)]
    records.write_parquet(folder / "subset.parquet", rows)
    records.write_parquet(
        folder / "rl.parquet", [{"problem": f"{n}b+1", "answer": "0"} for n in range(10, 74)]
    )
    train(folder, base, folder / "subset.parquet", "--epochs", 4)
    return folder


def rl_arguments(start):
    return ["--model", start / "model", "--problems", start / "rl.parquet", "--out", "{cell}/model", "--record",
            "{cell}/train.json", "--curve", "{cell}/curve.parquet", *SMALL_RL]  # fmt: skip


@pytest.mark.parametrize("every", [107, pytest.param(1, marks=pytest.mark.slow)])
def test_sft_killed_at_a_boundary_of_its_files_ends_as_undisturbed(tmp_path, base, subset, stops, every):
    found = kills(stops, tmp_path, "sft", sft_arguments(base, subset), every)
    print(
        f"SFT: {len(found['kills'])} kills at {found['boundaries']} boundaries, {len(found['differ'])} differ"
    )
    assert found["boundaries"] > 50
    assert len(found["kills"]) >= min(2, found["boundaries"] // every)
    assert found["differ"] == []


@pytest.mark.parametrize("every", [135, pytest.param(1, marks=pytest.mark.slow)])
def test_rl_killed_at_a_boundary_of_its_files_ends_as_undisturbed(tmp_path, start, stops, every):
    found = kills(stops, tmp_path, "rl", rl_arguments(start), every)
    print(
        f"RL: {len(found['kills'])} kills at {found['boundaries']} boundaries, {len(found['differ'])} differ"
    )
    assert found["boundaries"] > 50
    assert found["kills"]
    assert found["differ"] == []


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_publishing_a_step_killed_at_a_boundary_of_its_files_ends_as_undisturbed(
    tmp_path, start, stops, every
):
    cell = tmp_path / "made"
    script("rl", *(str(a).replace("{cell}", str(cell)) for a in rl_arguments(start)))
    trained = tmp_path / "trained"
    trained.mkdir()
    for name in ("checkpoints", "train.json"):
        shutil.move(cell / name, trained / f"rl-{name}")
    arguments = ["--checkpoints", "{cell}/rl-checkpoints", "--record", "{cell}/rl-train.json", "--step", 2, "--out", "{cell}/model"]  # fmt: skip
    found = kills(stops, tmp_path, "export_step", arguments, every, trained, ["transformers"])
    print(f"export: {len(found['kills'])} kills at {found['boundaries']} boundaries")
    assert found["kills"]
    assert found["differ"] == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "share"), [("sft", 35), ("rl", 15), ("generate", 35), ("order_traces", 15)])
def test_a_script_killed_at_random_moments_ends_as_undisturbed(
    tmp_path, base, subset, start, synthetic, stops, name, share
):
    made = {
        "sft": lambda: sft_arguments(base, subset),
        "rl": lambda: rl_arguments(start),
        "generate": lambda: generate_flags(base, synthetic, "{cell}/made.parquet"),
        "order_traces": lambda: [
            "--traces", synthetic / "traces.parquet", "--tokenizers", base, "--out", "{cell}/made.parquet", "--card",
            "{cell}/card.json", "--max-tokens", 500, "--correct", "math-verify", "--seed", 0],
    }  # fmt: skip
    share = share * int(os.environ.get("VALLEY_KILLS", 100)) // 100
    more = {"random": share, "seed": int(os.environ.get("VALLEY_KILLS_SEED", 0))}
    found = kills(stops, tmp_path, name, made[name](), 0, **more)
    print(f"{name}: {len(found['kills'])} random kills, {len(found['differ'])} differ")
    assert len(found["kills"]) == share
    assert found["differ"] == []
