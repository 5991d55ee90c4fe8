"""The acceptance of the GPU path on one card: stage after stage, each with its limit of time, then the
record.

    make test-gpu

What needs torch and transformers alone comes first. A stage that lacks a package or a card is left out and
said, tests that were skipped are counted with their reasons; one that fails does not stop the next, time that
one leaves the others have, and what passed in one whose time was up counts. The record is docs/gpu.md, and
the measured numbers go into the preset `measured` of workflow/reference/costs.yaml. Without a card this says
so and lists the stages; `make test-slow` runs them on CPU. Nothing here needs the network; the makers'
tokenizers (test_models) and SmolLM2-135M-Instruct are fetched where one is, or brought in VALLEY_TEST_CACHE.
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
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import yaml  # noqa: E402

from valley import check, costs, environment, tariff, vram  # noqa: E402

MODEL = "qwen2.5-0.5b"  # whose rates are measured, in its whole shape

# file, packages, cards, seconds that it may take beside what the stages before it left: on one card ten
# minutes in all, divided by estimate; with two the last has more
STAGES = {
    "test_card": (("torch", "transformers"), 1, 30),
    "test_sft_path": (("torch", "transformers", "trl"), 1, 210),
    "test_rl_path": (("torch", "transformers", "trl"), 1, 125),
    "test_sampling_path": (("torch", "transformers"), 1, 175),
    "test_models": (("torch", "transformers", "trl"), 1, 60),
    "test_two_cards": (("torch", "transformers", "trl"), 2, 240),
}
# Words in a card's name that tell a product apart from the one of the data sheet that costs.yaml has.
OTHERS = {"pcie", "nvl", "laptop", "max", "d"}
CUDA = """
import torch
assert torch.version.cuda, f"torch {torch.__version__} is a build for CPUs"
print(float((torch.ones(64, 64, device="cuda", dtype=torch.bfloat16) @ torch.ones(64, 64, device="cuda").bfloat16()).sum()))
"""


def kind_of(name: str, gib: float | None, cards: dict[str, dict]) -> str | None:
    """The key of costs.yaml's table that a card is, by its driver's name (word by word: a GH200 is no H200)
    and its memory; None for one that the table lacks, or of which it has another make.
    """
    words = set(re.split(r"\W+", name.lower()))
    if gib is None or words & OTHERS:
        return None
    fits = lambda kind: 0.9 < gib / kind["memory"] < 1.08  # noqa: E731
    return next((key for key, kind in cards.items() if key in words and fits(kind)), None)


def with_shares(notes: dict[str, dict]) -> dict[str, dict]:
    """The notes, those that have FLOP/s with their share of the peak (MFU) where the card's is known."""
    cards, card = costs.load()["cards"], notes.get("card", {})
    kind = kind_of(card.get("name", ""), card.get("memory_gib"), cards)
    mfu = lambda facts: {"mfu": facts["flops"] / cards[kind]["peak_flops"]} if "flops" in facts else {}  # noqa: E731
    return {name: facts | mfu(facts) for name, facts in notes.items()} if kind else notes


def step_seconds(rate: float, responses: int, mean: float, most: int, card: dict, config: dict) -> float:
    """Seconds of a step of vLLM beside its reading of memory, by the tokens a second at which a card of
    costs.yaml's table sampled so many responses of `mean` tokens, `most` at most: what they took is so long a
    step times the steps, and the reading (tariff.sampling_seconds). Not positive where the rate is more than
    the table's bandwidth allows.
    """
    constants = costs.load()
    device, in_hand = constants["device"], vram.in_hand(card["memory"] * vram.GIB, constants["device"])
    reading, with_steps = (
        tariff.sampling_seconds(config, constants, card | {"step": step}, MODEL, 1, responses, mean, most,
                                device["vllm_share"], in_hand["sequences"])
        for step in (0, 1)
    )  # fmt: skip
    return (responses * mean / rate - reading) / (with_steps - reading)


def values_of(notes: dict[str, dict], card: dict, config: dict) -> dict[str, float]:
    """What notes say of the constants of a preset that goes by the shape of the work, by name; `card` is the
    entry of costs.yaml's table that they were taken on.
    """
    values: dict[str, float] = {}
    speeds = [name for name in notes if name.startswith("speed-")]
    if speeds:
        values["sft_mfu"] = notes[max(speeds, key=lambda name: int(name[6:]))]["mfu"]
    if (rl := notes.get("rl", {})).get("vllm"):
        values |= {"rl_mfu": rl["mfu"], "rl_padding": rl["columns_per_token"]}
    if said := notes.get("generate"):
        sampled = said["responses"], said["mean_tokens"], said["tokens"]
        values["step"] = step_seconds(said["tokens_per_second"], *sampled, card, config)
        values["start"] = said["start_seconds"]
    return {name: value for name, value in values.items() if value > 0}


def measured(text: str, notes: dict[str, dict], config: dict) -> str:
    """costs.yaml with what a card measured in its preset `measured`; as it was where nothing was, or on a
    card that its table lacks. `notes` as `with_shares` gives them, of MODEL in `config`.
    """
    cards, card = yaml.safe_load(text)["cards"], notes.get("card", {})
    kind = kind_of(card.get("name", ""), card.get("memory_gib"), cards)
    values = values_of(notes, cards[kind], config) if kind else {}
    if not values:
        return text
    head, block = text.split("  measured:\n", 1)
    source = (
        f'source: "measured on {card["name"]} (docs/gpu.md): {", ".join(values)}; the rest as in `computed`"'
    )
    block = re.sub(r'source: ".*"', lambda _: source, block, count=1)
    for name, value in values.items():  # no exponent: YAML takes 5e-05 for a text
        block = re.sub(rf"(?m)^    {name}: \S+", f"    {name}: {value:.6f}", block, count=1)
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


def told(nodeid: str, outcome: str, why: str = ""):
    """Add to a stage's file that a test was started, passed, failed or skipped."""
    with open(os.environ["VALLEY_RESULTS"], "a", encoding="utf-8") as file:
        file.write(json.dumps([nodeid.rsplit("::", 1)[-1], outcome, why]) + "\n")


def pytest_runtest_logstart(nodeid):
    """pytest's, to which this module is a plugin in a stage: what is told at once outlives a timeout."""
    told(nodeid, "started")


def pytest_runtest_logreport(report):
    """The same of what came of a test, or of what it asked for before or clears up after."""
    if report.when == "call" or report.outcome != "passed":
        told(report.nodeid, report.outcome, report.longrepr[2] if report.skipped else "")


def tally(report: Path, over: str) -> str:
    """What came of a stage, `over` (empty: by pytest it passed), from the file that its tests told: how many
    passed, which did not, and why others were skipped.
    """
    lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
    last: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": [], "started": []}
    for test, (outcome, why) in {test: rest for test, *rest in map(json.loads, lines)}.items():
        last[outcome].append(why.removeprefix("Skipped: ") if outcome == "skipped" else test)
    passed = len(last["passed"])
    result = over or ("passed" if passed else "nothing ran")
    also = [
        f"; {word} {', '.join(last[key])}"
        for key, word in (("failed", "failed"), ("started", "stopped in"))
        if last[key]
    ]
    reasons = (
        f", {len(last['skipped'])} skipped: {'; '.join(sorted(set(last['skipped'])))}"
        if last["skipped"]
        else ""
    )
    return f"{result} ({passed} tests passed{''.join(also)}){reasons}".replace("|", "/").replace("\n", " ")


def stage_result(name: str, packages, cards: int, limit: float, folder: Path) -> str:
    """What came of a stage, in a few words; what it says goes to the terminal. No process is left of one that
    takes too long, or it would hold the card.
    """
    if lacking := [package for package in packages if importlib.util.find_spec(package) is None]:
        return f"left out: no {', '.join(lacking)} in this environment"
    if (seen := environment.gpus()) < cards and environment.listed_cards():
        return f"left out: {cards} cards are needed, {seen} seen"
    report = folder / f"{name}.jsonl"
    options = ["-o", "addopts=", "-p", Path(__file__).stem, "-q", "-rs", "-m", "gpu"]
    command = [sys.executable, "-m", "pytest", *options, str(HERE / f"{name}.py")]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    more = {"VALLEY_ACCEPTANCE": str(folder), "VALLEY_RESULTS": str(report), "PYTHONPATH": path}
    job = subprocess.Popen(command, cwd=ROOT, env=os.environ | more, start_new_session=True)
    try:
        return tally(report, "" if job.wait(limit) == 0 else "FAILED")
    except subprocess.TimeoutExpired:
        return tally(report, f"not done within {limit:.0f} s")
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
        for name, (packages, cards, limit) in STAGES.items():
            several = f" and {cards} cards" if cards > 1 else ""
            print(f"  {name:20} {limit:4} s at most, needs {', '.join(packages)}{several}")
        print("The same code runs on CPU in `make test-slow`.")
        return
    if why := unusable():
        sys.exit(
            f"test-gpu: torch of {sys.prefix} cannot use the card that nvidia-smi lists: {why}. "
            f"{environment.stack_for(environment.driver())}"
        )
    results, begun, allowed = {}, time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, (packages, cards, limit) in STAGES.items():
            allowed += limit
            left = begun + allowed - time.monotonic()
            results[name] = stage_result(name, packages, cards, left, Path(folder))
        notes = with_shares({path.stem: json.loads(path.read_text()) for path in Path(folder).glob("*.json")})
    (ROOT / "docs/gpu.md").write_text(page(notes, results))
    file = ROOT / "workflow/reference/costs.yaml"
    file.write_text(measured(file.read_text(), notes, check.load([])))
    costs.load()
    for name, result in results.items():
        print(f"{name:20} {result}")
    passed = sum(result.startswith("passed") for result in results.values())
    print(f"test-gpu: {passed} of {len(results)} stages passed → docs/gpu.md")
    sys.exit(any(result.startswith(("FAILED", "not done")) for result in results.values()))


if __name__ == "__main__":
    main()
