"""`exact: true`: the same numbers to the last bit on every x86-64 processor with AVX2, whoever made it.

Sums of floating-point numbers depend on their order, and libraries choose it by the processor. So the order
is fixed: torch's and oneDNN's kernels for AVX2 and one thread. MKL, in which torch's CPU build multiplies
matrices, has no such choice that holds on Intel's and other processors but its slowest
(`MKL_CBWR=COMPATIBLE`, without AVX). So matrix products go to OpenBLAS, whose kernels for Haswell can be
asked for anywhere; what else MKL does is little and stays on that branch. docs/measurements.md has what was
compared, and the time.

torch calls `sgemm_` and `cblas_sgemm_batch` by name, so a preloaded library that has them is asked first: a
few lines of C, compiled once an environment.
"""

import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VARIABLES = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
SOURCE = Path(__file__).with_name("matrix_products.c")
NAME = "libvalley-products"


def has_avx2(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Does Linux say that this processor has AVX2 and FMA? Elsewhere, and on other architectures, it does
    not.
    """
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return flags is not None and {"avx2", "fma"} <= set(flags[1].split())


def cannot(what: str):
    """Stop with what is missing and what to do."""
    sys.exit(f"error: exact: {what}; or set exact: false")


def library(environment: Path = Path(sys.prefix) / "lib") -> Path:
    """The compiled SOURCE, compiled where it is not there yet: in the environment's folder or, where that may
    not be written to (an image), in the user's cache.

    Ends the process, saying what to do, without OpenBLAS, a compiler, or a path that can be preloaded.
    """
    found = importlib.util.find_spec("scipy_openblas32")
    if found is None:
        cannot("scipy-openblas32 is not installed. Install envs/cpu.lock")
    openblas = Path(found.origin).parent / "lib" / "libscipy_openblas.so"
    made_of = hashlib.sha256(SOURCE.read_bytes() + bytes(openblas)).hexdigest()[:16]
    folder = environment if os.access(environment, os.W_OK) else Path.home() / ".cache" / "valley"
    compiled = folder / f"{NAME}-{made_of}.so"
    if compiled.exists():
        return compiled
    if re.search(r"[\s:]", str(compiled)):  # which part the names in LD_PRELOAD
        cannot(f"{folder} has a space or a colon in its path. Put the environment elsewhere")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        cannot("there is no C compiler (cc). Install one: apt install g++")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as half:
        made = Path(half) / compiled.name
        define = f'-DOPENBLAS="{openblas}"'
        command = [compiler, "-O2", "-shared", "-fPIC", define, SOURCE, "-o", made, "-ldl"]
        if subprocess.run(command, check=False).returncode:
            cannot(f"{compiler} could not compile {SOURCE.name}, for the reason above. Renew the compiler")
        os.replace(made, compiled)
    return compiled


def variables() -> dict[str, str]:
    """What the environment of every job holds: VARIABLES, and the library before others that are
    preloaded.
    """
    others = [name for name in os.environ.get("LD_PRELOAD", "").split(":") if name and NAME not in name]
    return VARIABLES | {"LD_PRELOAD": ":".join([str(library()), *others])}


def set_here():
    """Make this process, where it has not loaded torch yet, and all that it starts exact."""
    os.environ.update(variables())
    ctypes.CDLL(str(library()), mode=ctypes.RTLD_GLOBAL)


def are_set() -> bool:
    """Does this process have what makes it exact?"""
    return NAME in os.environ.get("LD_PRELOAD", "") and VARIABLES.items() <= os.environ.items()
