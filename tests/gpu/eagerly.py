"""Runs a script with a vLLM that compiles nothing: compiling takes longer than a check, and tells it nothing.

python tests/gpu/eagerly.py scripts/generate.py --model …
"""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from valley import engines

options = engines.vllm_options
engines.vllm_options = lambda: options() | {"enforce_eager": True}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
