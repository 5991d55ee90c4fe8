"""Runs a training script to which something happens at the end of a step, before the step is counted or
saved.

python tests/faults/at_step.py kill 12 scripts/sft.py --model …     # a SIGKILL
python tests/faults/at_step.py hang 12 scripts/sft.py --model …     # it waits for ever
python tests/faults/at_step.py stick 12 scripts/sft.py --model …    # it waits and keeps the interpreter's
lock

Of several processes to the first alone, or to that of FAULT_RANK.
"""

import ctypes
import os
import runpy
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from valley import training

FAULTS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(3600),
    "stick": lambda: ctypes.PyDLL(None).sleep(3600),
}
fault, at = FAULTS[sys.argv[1]], int(sys.argv[2])


def on_step_end(self, args, state, control, **_):
    if state.global_step == at and os.environ.get("RANK", "0") == os.environ.get("FAULT_RANK", "0"):
        fault()


training.Progress.on_step_end = on_step_end
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
