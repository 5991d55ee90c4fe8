"""make test-gpu: what it says without a card, and what it would write of one."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, run

from valley import costs, environment

sys.path.insert(0, str(REPOSITORY / "tests/gpu"))
import accept

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


@pytest.mark.parametrize(
    ("card", "gib", "factor"),
    [("NVIDIA H100 80GB HBM3", 79.6, 1.0), ("NVIDIA A100-SXM4-80GB", 80.0, 3.35 / 2.04)],
)
def test_what_a_card_measures_becomes_the_preset_and_what_it_does_not_stays(card, gib, factor):
    flops = 3.0e14 if "H100" in card else 1.0e14
    notes = {"card": {"name": card, "memory_gib": gib}, "speed-4096": {"flops": 1.0}, "speed-16384": {"flops": flops},
             "rl": {"vllm": True, "tokens_per_second": 5000.0}}  # fmt: skip
    notes = accept.with_shares(notes)
    preset = yaml.safe_load(accept.measured(COSTS, notes, 0.494))["presets"]["measured"]
    before = costs.load()["presets"]
    peak = costs.load()["cards"]["h100" if "H100" in card else "a100"]["peak_flops"]
    assert preset["sft_mfu"] == pytest.approx(flops / peak, abs=1e-4)
    assert f"mfu {flops / peak:.4g}" in accept.page(notes, {})
    assert preset["rl_tokens"] == pytest.approx(5000 * 0.494 * factor, rel=1e-3)
    assert preset["generate_tokens"] == before["measured"]["generate_tokens"]
    assert card in preset["source"]
    again = notes | {"generate": {"vllm": True, "tokens_per_second": 20_000.0}}
    both = yaml.safe_load(accept.measured(COSTS, again, 0.494))["presets"]
    assert both["measured"]["generate_tokens"] == pytest.approx(20_000 * 0.494 * factor, rel=1e-3)
    assert both["paper"] == before["paper"]


def test_an_unknown_card_and_rl_without_vllm_measure_nothing():
    notes = {"card": {"name": "NVIDIA T1", "memory_gib": 80.0}, "speed-4096": {"flops": 1e14}}
    assert accept.with_shares(notes) == notes
    assert accept.measured(COSTS, notes, 0.5) == COSTS
    notes = {
        "card": {"name": "NVIDIA H100", "memory_gib": 80.0},
        "rl": {"vllm": False, "tokens_per_second": 1.0},
    }
    assert accept.measured(COSTS, notes, 0.5) == COSTS


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
