"""What `exact: true` costs: CPU seconds of pre-training steps under its kernels and under others, in turn.

    python tests/benchmarks/bench_exact.py --turns 2

`compatible` is the one branch of MKL that gives the same on processors of all makers, `avx2` its branch for
this processor up to AVX2, `free` whatever this processor has. Each runs `scripts/pretrain.py` for few and for
more steps; the difference is the steps' own time, without imports and probes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from valley import kernels  # noqa: E402

THREADS = {name: value for name, value in kernels.VARIABLES.items() if name.endswith("NUM_THREADS")}
MKL = {name: value for name, value in kernels.VARIABLES.items() if not name.startswith("OPENBLAS")}
SETTINGS = {
    "exact": kernels.variables(),
    "compatible": MKL,
    "avx2": MKL | {"MKL_CBWR": "AVX2"},
    "free": THREADS,
}
MODELS = {"S": ("64", "2", "4", "192"), "L": ("128", "3", "8", "384")}


def seconds(variables: dict[str, str], model: str, steps: int) -> float:
    """CPU seconds of a pre-training of so many steps, start to end."""
    flags = zip(("--hidden", "--layers", "--heads", "--ff"), MODELS[model], strict=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "scripts/pretrain.py",
            "--template",
            "templates/chain.jinja",
            "--out",
            folder,
        ]
        command += [*sum(flags, ()), "--steps", str(steps), "--lengths", "2", "3", "4", "5", "--seed", "100"]
        before = os.times()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=True, **quiet)
        after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs=2, default=(10, 110))
    args = parser.parse_args()
    few, more = args.steps
    for model in MODELS:
        for turn in range(args.turns):
            took = {name: seconds(of, model, more) - seconds(of, model, few) for name, of in SETTINGS.items()}
            said = ", ".join(f"{name} {s:.1f} s ({s / took['exact']:.2f})" for name, s in took.items())
            print(f"{model}, turn {turn + 1}, {more - few} steps: {said}", flush=True)


if __name__ == "__main__":
    main()
