"""Runs rl.py with a vLLM that keeps the weights it started with: TRL's hand-over of new ones does nothing.

python tests/faults/left_behind.py scripts/rl.py --model … --vllm True
"""

import runpy
import sys
from pathlib import Path

from trl.generation.vllm_generation import VLLMGeneration

VLLMGeneration.sync_weights = lambda self: None
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
