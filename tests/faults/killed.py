"""Runs a training script that gets a SIGKILL at the end of a step, before the step is counted or saved.

python tests/faults/killed.py 12 scripts/sft.py --model …
"""

import os
import runpy
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from valley import training

at = int(sys.argv[1])


def on_step_end(self, args, state, control, **_):
    if state.global_step == at:
        os.kill(os.getpid(), signal.SIGKILL)


training.Progress.on_step_end = on_step_end
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
