"""make test-gpu: what it says without a card, and what it would write of one."""

import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, run

from valley import check, costs, environment, tariff, vram

sys.path.insert(0, str(REPOSITORY / "tests/gpu"))
import accept

PAPER = check.load([])
COSTS = (REPOSITORY / "workflow/reference/costs.yaml").read_text()


def test_without_a_card_it_says_so_in_one_line_and_lists_every_stage():
    if environment.listed_cards():
        pytest.skip("this machine has a card")
    first, *listed, last = run([sys.executable, "tests/gpu/accept.py"]).splitlines()
    assert "no GPU on this machine" in first
    assert [line.split()[0] for line in listed] == list(accept.STAGES)
    assert "make test-slow" in last
    files = {path.stem for path in Path("tests/gpu").glob("test_*.py")}
    assert set(accept.STAGES) == files
    for file in files:  # so that test-slow runs them on CPU
        assert "pytestmark = [pytest.mark.slow, pytest.mark.gpu]" in Path(f"tests/gpu/{file}.py").read_text()
    assert sum(limit for _, cards, limit in accept.STAGES.values() if cards == 1) <= 600


CARDS = {"h100": "NVIDIA H100 80GB HBM3", "a100": "NVIDIA A100-SXM4-80GB", "4090": "NVIDIA GeForce RTX 4090"}
MADE_UP = {"sft_mfu": 0.37, "rl_mfu": 0.21, "rl_padding": 1.08, "step": 0.0042, "start": 41.5}


def notes_of(kind: str, constants: dict[str, float], *stages: str) -> dict[str, dict]:
    """What the stages would note of a card with these constants: all of them, or those that are named."""
    known, card = costs.load(), costs.load()["cards"][kind]
    responses, mean, most = 1024, 500.0, 512
    in_hand = vram.in_hand(card["memory"] * vram.GIB, known["device"])["sequences"]
    took = tariff.sampling_seconds(PAPER, known, card | constants, accept.MODEL, 1, responses, mean, most,
                                   known["device"]["vllm_share"], in_hand)  # fmt: skip
    notes = {
        "speed-4096": {"flops": 1.0},
        "speed-16384": {"flops": constants["sft_mfu"] * card["peak_flops"]},
        "rl": {"vllm": True, "flops": constants["rl_mfu"] * card["peak_flops"], "columns_per_token": constants["rl_padding"]},
        "generate": {"tokens_per_second": responses * mean / took, "responses": responses, "tokens": most, "mean_tokens": mean,
                     "start_seconds": constants["start"]},
    }  # fmt: skip
    card_note = {"card": {"name": CARDS[kind], "memory_gib": card["memory"]}}
    return accept.with_shares(card_note | {name: notes[name] for name in stages or notes})


def preset_of(notes: dict[str, dict]) -> dict:
    """The preset `measured` that is written of such notes; no other part of the file may change."""
    made, before = yaml.safe_load(accept.measured(COSTS, notes, PAPER)), costs.load()
    found = made["presets"].pop("measured")
    before["presets"].pop("measured")
    assert made == before
    return found


@pytest.mark.parametrize("kind", CARDS)
def test_what_is_noted_of_a_card_with_known_constants_gives_these_constants_back(kind):
    preset = preset_of(notes_of(kind, MADE_UP))
    assert {name: preset[name] for name in MADE_UP} == pytest.approx(MADE_UP, abs=1e-6)
    assert (
        preset["source"]
        == f"measured on {CARDS[kind]} (docs/gpu.md): {', '.join(MADE_UP)}; the rest as in `computed`"
    )


def test_a_step_is_what_is_left_of_a_chunks_time_beside_reading_weights_and_cache():
    """By hand: 1,024 sequences in hand make 512 tokens each in 512 steps, half of them behind a token."""
    card, shape = costs.load()["cards"]["h100"], vram.shape_of(PAPER, accept.MODEL)
    read = 512 * 2 * 0.494e9 + 1024 * 512 * 256 * shape.kv_token
    took = 512 * 0.004 + read / 3.35e12
    found = accept.step_seconds(1024 * 512 / took, 1024, 512, 512, card, PAPER)
    assert found == pytest.approx(0.004, rel=1e-6)


@pytest.mark.parametrize(
    ("stage", "told", "moves", "rules"),
    [
        ("speed-16384", "sft_mfu", "sft_mfu", {"sft"}),
        ("rl", "rl_mfu, rl_padding", "rl_mfu", {"rl"}),
        ("rl", "rl_mfu, rl_padding", "rl_padding", {"rl"}),
        ("generate", "step, start", "step", {"generate", "rl"}),
        ("generate", "step, start", "start", {"generate", "rl", "sft"}),
    ],
)
def test_a_measured_value_moves_its_own_key_and_the_jobs_that_go_by_it(stage, told, moves, rules):
    before = costs.load()["presets"]["measured"]
    after = preset_of(notes_of("h100", before | {moves: MADE_UP[moves]}, stage))
    assert {name for name in before if before[name] != after[name]} == {moves, "source"}
    assert f": {told}; the rest" in after["source"]
    known, card = costs.load(), costs.load()["cards"]["h100"]
    jobs = {"sft": "sft-8k", "rl": "base+rl", "generate": "sft-8k"}
    wildcards = {"model": "qwen2.5-3b", "task": "aime24"}
    took = {
        rule: [tariff.computed_seconds({"rule": rule, "gpus": 8, "wildcards": wildcards | {"run": run}}, PAPER, known,
                                       costs.on_card(preset, card, card)) for preset in (before, after)]
        for rule, run in jobs.items()
    }  # fmt: skip
    assert {rule for rule, (here, there) in took.items() if here != there} == rules


def test_before_any_card_the_preset_is_the_computed_one_and_says_so():
    presets = costs.load()["presets"]
    if (REPOSITORY / "docs/gpu.md").exists():
        pytest.skip("a card has been measured")
    assert presets["measured"] | {"source": ""} == presets["computed"] | {"source": ""}
    assert "no card has been measured yet" in presets["measured"]["source"]


def test_an_unknown_card_rl_without_vllm_and_a_rate_beyond_the_bandwidth_measure_nothing():
    notes = {"card": {"name": "NVIDIA T1", "memory_gib": 80.0}, "speed-4096": {"flops": 1e14}}
    assert accept.with_shares(notes) == notes
    assert accept.measured(COSTS, notes, PAPER) == COSTS
    notes = notes_of("h100", MADE_UP, "rl")
    notes["rl"]["vllm"] = False
    assert accept.measured(COSTS, notes, PAPER) == COSTS
    notes = notes_of("h100", MADE_UP, "generate")
    notes["generate"] |= {
        "tokens_per_second": 1000 * notes["generate"]["tokens_per_second"],
        "start_seconds": 0,
    }
    assert accept.measured(COSTS, notes, PAPER) == COSTS


def test_the_record_shows_the_share_of_the_peak():
    assert "mfu 0.37" in accept.page(notes_of("a100", MADE_UP), {})


@pytest.mark.parametrize(
    ("name", "gib", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", 79.6, "h100"),
        ("NVIDIA H200", 140.4, "h200"),
        ("NVIDIA A100-SXM4-80GB", 80.0, "a100"),
        ("NVIDIA L40S", 45.0, "l40s"),
        ("NVIDIA GeForce RTX 4090", 24.0, "4090"),
        ("NVIDIA GH200 480GB", 95.6, None),
        ("NVIDIA H100 NVL", 93.6, None),
        ("NVIDIA H100 PCIe", 79.6, None),
        ("NVIDIA A100-SXM4-40GB", 40.0, None),
        ("NVIDIA GeForce RTX 5090", 31.8, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16.0, None),
        ("NVIDIA B200", 179.1, None),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 95.6, None),
    ],
)
def test_a_card_is_known_by_its_words_and_its_memory_and_another_make_of_it_is_unknown(name, gib, kind):
    assert accept.kind_of(name, gib, costs.load()["cards"]) == kind


def test_a_stage_without_its_packages_is_left_out_and_one_that_fails_is_named(tmp_path):
    assert accept.stage_result("test_card", ("no_such_package",), 1, 5, tmp_path) == (
        "left out: no no_such_package in this environment"
    )
    assert accept.stage_result("test_that_is_not_there", (), 1, 120, tmp_path) == "FAILED (0 tests passed)"
    told = accept.page({"card": {"name": "X", "memory_gib": 80.0, "torch": "2"}}, {"test_card": "FAILED"})
    assert re.search(r"\| test_card \| FAILED \|", told)
    assert "X, 80 GiB" in told


def test_a_stage_for_two_cards_is_left_out_on_one(tmp_path, monkeypatch):
    monkeypatch.setattr(accept.environment, "listed_cards", lambda: ["GPU-1"])
    told = accept.stage_result("test_two_cards", (), 2, 5, tmp_path)
    assert told == "left out: 2 cards are needed, 1 seen"


@pytest.mark.slow
def test_a_stage_says_what_was_skipped_and_what_failed_and_is_not_passed_where_nothing_ran(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(accept, "HERE", tmp_path)
    head = "import pytest\n\npytestmark = pytest.mark.gpu\n"
    skip = "\n@pytest.mark.skip(reason='no network')\ndef test_b():\n    pass\n"
    some = head + skip + "\ndef test_a():\n    pass\n"
    (tmp_path / "test_all.py").write_text(head + skip)
    (tmp_path / "test_some.py").write_text(some)
    (tmp_path / "test_bad.py").write_text(some + "\ndef test_c():\n    assert 0\n")
    told = [accept.stage_result(f"test_{name}", (), 1, 120, tmp_path) for name in ("all", "some", "bad")]
    assert told == [
        "nothing ran (0 tests passed), 1 skipped: no network",
        "passed (1 tests passed), 1 skipped: no network",
        "FAILED (1 tests passed; failed test_c), 1 skipped: no network",
    ]


@pytest.mark.slow
def test_of_a_stage_that_takes_too_long_no_process_is_left_and_what_passed_before_counts(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(accept, "HERE", tmp_path)
    (tmp_path / "test_long.py").write_text(
        "import subprocess\n\nimport pytest\n\npytestmark = pytest.mark.gpu\n\n\ndef test_a():\n    pass\n\n\ndef test_b():\n"
        f"    job = subprocess.Popen(['sleep', '600'])\n    open({str(tmp_path / 'pid')!r}, 'w').write(str(job.pid))\n"
        "    job.wait()\n"
    )
    told = accept.stage_result("test_long", (), 1, 10, tmp_path)
    assert told == "not done within 10 s (1 tests passed; stopped in test_b)"
    left = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    assert not left.exists() or left.read_text().split()[2] == "Z"  # dead, and nobody's child any more


@pytest.mark.slow
def test_an_environment_whose_torch_cannot_use_the_card_is_told_so():
    if environment.listed_cards():
        pytest.skip("this machine has a card")
    assert "CPU" in accept.unusable() or "NVIDIA" in accept.unusable()


def test_on_a_card_that_torch_cannot_use_the_stack_for_its_driver_is_named(tmp_path):
    (smi := tmp_path / "nvidia-smi").write_text(
        '#!/bin/sh\ncase "$1" in --list-gpus) echo "GPU 0: NVIDIA H100 (UUID: GPU-1)";; *) echo 570.86.15;; esac\n'
    )
    smi.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    said = run([sys.executable, "tests/gpu/accept.py"], ok=False, PATH=path, CUDA_VISIBLE_DEVICES="")
    assert "cannot use the card that nvidia-smi lists: " in said
    assert "Driver 570.86.15 runs envs/gpu-cuda12.lock: `make .venv/complete STACK=gpu-cuda12`" in said
