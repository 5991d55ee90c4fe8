"""The acceptance of the GPU path on one card: stage after stage, each with its limit of time, then the
record.

    make test-gpu

What needs torch and transformers alone comes first. A stage that lacks a package is left out and said; one
that fails does not stop the next. The record is docs/gpu.md, and the measured numbers go into the preset
`measured` of workflow/reference/costs.yaml. Without a card this says so and lists the stages; `make
test-slow` runs them on CPU.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import yaml  # noqa: E402

from valley import check, costs, environment, grid  # noqa: E402

# file, packages, seconds that it may take: ten minutes in all, divided by estimate
STAGES = {
    "test_card": (("torch", "transformers"), 40),
    "test_sft_path": (("torch", "transformers", "trl", "deepspeed"), 260),
    "test_models": (("torch", "transformers", "trl", "deepspeed"), 170),
    "test_sampling_path": (("torch", "transformers", "trl", "deepspeed"), 130),
}


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


def stage_result(name: str, packages, limit: int, folder: Path) -> str:
    """`passed`, or why not, in a few words; what the stage says goes to the terminal."""
    if lacking := [package for package in packages if importlib.util.find_spec(package) is None]:
        return f"left out: no {', '.join(lacking)} in this environment"
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
        str(HERE / f"{name}.py"),
    ]
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=limit, env=os.environ | {"VALLEY_ACCEPTANCE": str(folder)}
        )
    except subprocess.TimeoutExpired:
        return f"not done within {limit} s"
    return "passed" if done.returncode == 0 else "FAILED"


def main():
    if not environment.listed_cards():
        print(
            "test-gpu: no GPU on this machine (nvidia-smi lists none), so nothing was run. With one it runs:"
        )
        for name, (packages, limit) in STAGES.items():
            print(f"  {name:20} {limit:4} s at most, needs {', '.join(packages)}")
        print("The same code runs on CPU in `make test-slow`.")
        return
    with tempfile.TemporaryDirectory() as folder:
        results = {name: stage_result(name, *needs, Path(folder)) for name, needs in STAGES.items()}
        notes = {path.stem: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
    (ROOT / "docs/gpu.md").write_text(page(notes, results))
    file = ROOT / "workflow/reference/costs.yaml"
    file.write_text(measured(file.read_text(), notes, grid.billions(check.load([]), "qwen2.5-0.5b")))
    costs.load()
    for name, result in results.items():
        print(f"{name:20} {result}")
    print(
        f"test-gpu: {sum(r == 'passed' for r in results.values())} of {len(results)} stages passed → docs/gpu.md"
    )
    sys.exit(any(result == "FAILED" or result.startswith("not done") for result in results.values()))


if __name__ == "__main__":
    main()
