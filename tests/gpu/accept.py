"""The acceptance of the GPU path on one card: stage after stage, each with its limit of time, then the
record.

    make test-gpu

What needs torch and transformers alone comes first. A stage that lacks a package is left out and said, tests
that were skipped are counted with their reasons; one that fails does not stop the next, and time that one
leaves the others have. The record is docs/gpu.md, and the measured numbers go into the preset `measured` of
workflow/reference/costs.yaml. Without a card this says so and lists the stages; `make test-slow` runs them on
CPU. Nothing here needs the network; the makers' tokenizers (test_models) are fetched where one is, or brought
in VALLEY_TEST_CACHE.
"""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import yaml  # noqa: E402

from valley import check, costs, environment, grid  # noqa: E402

# file, packages, seconds that it may take beside what the stages before it left: ten minutes in all, divided
# by estimate
STAGES = {
    "test_card": (("torch", "transformers"), 40),
    "test_sft_path": (("torch", "transformers", "trl", "deepspeed"), 200),
    "test_sampling_path": (("torch", "transformers", "trl", "deepspeed"), 250),
    "test_models": (("torch", "transformers", "trl", "deepspeed"), 110),
}
CUDA = """
import torch
assert torch.version.cuda, f"torch {torch.__version__} is a build for CPUs"
print(float((torch.ones(64, 64, device="cuda", dtype=torch.bfloat16) @ torch.ones(64, 64, device="cuda").bfloat16()).sum()))
"""


def measured(text: str, notes: dict[str, dict], billions: float) -> str:
    """costs.yaml with what a card measured in its preset `measured`; as it was where nothing was, or on a
    card that its table lacks. `billions`: parameters of the model that was measured.
    """
    name, cards = notes.get("card", {}).get("name", "").lower(), yaml.safe_load(text)["cards"]
    card = next((kind for key, kind in cards.items() if key in name), None)
    if card is None:
        return text
    values: dict[str, float] = {}
    longest = max(
        (name for name in notes if name.startswith("speed-")), default=None, key=lambda name: int(name[6:])
    )
    if longest:
        values["sft_mfu"] = round(notes[longest]["flops"] / card["peak_flops"], 4)
    if notes.get("rl", {}).get("vllm"):
        first = next(iter(cards.values()))  # for which presets hold
        rate = notes["rl"]["tokens_per_second"] * first["bandwidth"] / card["bandwidth"]
        values["rl_tokens"] = round(rate * billions)
    if not values:
        return text
    head, block = text.split("  measured:\n", 1)
    source = (
        f'source: "measured on {notes["card"]["name"]} (docs/gpu.md): {", ".join(values)}; the rest fitted"'
    )
    block = re.sub(r'source: ".*"', lambda _: source, block, count=1)
    for name, value in values.items():
        block = re.sub(rf"{name}: \S+", f"{name}: {value:g}", block, count=1)
    return f"{head}  measured:\n{block}"


def page(notes: dict[str, dict], results: dict[str, str]) -> str:
    """docs/gpu.md: hardware, what passed, what was measured."""
    card = notes.get("card", {})
    lines = ["# What was run on a card", "", "Written by `make test-gpu` (`tests/gpu/accept.py`).", ""]
    lines += [f"{card.get('name', 'unknown card')}, {card.get('memory_gib') or 0:.0f} GiB, torch {card.get('torch')}, "
              f"{time.strftime('%Y-%m-%d', time.gmtime())}.", "", "| stage | |", "|---|---|"]  # fmt: skip
    lines += [f"| {stage} | {result} |" for stage, result in results.items()]
    lines += ["", "| measured | |", "|---|---|"]
    for name, facts in sorted(notes.items()):
        told = ", ".join(
            f"{key} {value:,.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in facts.items()
        )
        lines.append(f"| {name} | {told} |")
    return "\n".join(lines) + "\n"


def tally(report: Path, passed: bool) -> str:
    """`passed` or `FAILED`, how many tests did, and why others were skipped, from pytest's report in XML."""
    cases = list(xml.etree.ElementTree.parse(report).iter("testcase")) if report.exists() else []
    skipped = [why.get("message", "") for case in cases for why in case.iter("skipped")]
    ran = len(cases) - len(skipped)
    result = "FAILED" if not passed else "passed" if ran else "nothing ran"
    reasons = "; ".join(sorted(set(skipped))).replace("|", "/").replace("\n", " ")
    return f"{result} ({ran} tests)" + (f", {len(skipped)} skipped: {reasons}" if skipped else "")


def stage_result(name: str, packages, limit: float, folder: Path) -> str:
    """What came of a stage, in a few words; what it says goes to the terminal. No process is left of one that
    takes too long, or it would hold the card.
    """
    if lacking := [package for package in packages if importlib.util.find_spec(package) is None]:
        return f"left out: no {', '.join(lacking)} in this environment"
    report = folder / f"{name}.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-o",
        "addopts=",
        "-q",
        "-rs",
        "-m",
        "gpu",
        f"--junitxml={report}",
        str(HERE / f"{name}.py"),
    ]
    job = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"VALLEY_ACCEPTANCE": str(folder)}, start_new_session=True
    )
    try:
        return tally(report, job.wait(limit) == 0)
    except subprocess.TimeoutExpired:
        return f"not done within {limit:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def unusable() -> str | None:
    """Why this environment's torch cannot use the card; None where it can."""
    tried = subprocess.run([sys.executable, "-c", CUDA], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else (tried.stderr.strip().splitlines() or ["it was killed"])[-1]


def main():
    if not environment.listed_cards():
        print(
            "test-gpu: no GPU on this machine (nvidia-smi lists none), so nothing was run. With one it runs:"
        )
        for name, (packages, limit) in STAGES.items():
            print(f"  {name:20} {limit:4} s at most, needs {', '.join(packages)}")
        print("The same code runs on CPU in `make test-slow`.")
        return
    if why := unusable():
        sys.exit(
            f"test-gpu: torch of {sys.prefix} cannot use the card that nvidia-smi lists: {why}. An environment of "
            "envs/gpu.lock can, with a driver of 580 or newer (docs/slurm.md)"
        )
    results, begun, allowed = {}, time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, (packages, limit) in STAGES.items():
            allowed += limit
            results[name] = stage_result(name, packages, begun + allowed - time.monotonic(), Path(folder))
        notes = {path.stem: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
    (ROOT / "docs/gpu.md").write_text(page(notes, results))
    file = ROOT / "workflow/reference/costs.yaml"
    file.write_text(measured(file.read_text(), notes, grid.billions(check.load([]), "qwen2.5-0.5b")))
    costs.load()
    for name, result in results.items():
        print(f"{name:20} {result}")
    print(
        f"test-gpu: {sum(r.startswith('passed') for r in results.values())} of {len(results)} stages passed → docs/gpu.md"
    )
    sys.exit(any(result.startswith(("FAILED", "not done")) for result in results.values()))


if __name__ == "__main__":
    main()
