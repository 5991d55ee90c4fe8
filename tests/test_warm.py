"""The warm process stands in for a plain interpreter: same output, same exit code, signals and kills passed
on.
"""

import os
import signal
import subprocess
import sys
import time

import warm as served
from conftest import run

from valley import kernels

PROBE = """
import os, sys, time
print("out", os.getcwd(), os.environ.get("PROBE"), sys.argv[1:], flush=True)
print("err", file=sys.stderr, flush=True)
if sys.argv[1:] == ["sleep"]:
    open("started", "w").close()
    time.sleep(30)
    open("finished", "w").close()
if sys.argv[1:] == ["fail"]:
    sys.exit("error: said so")
if sys.argv[1:] == ["raise"]:
    raise ValueError("broken")
sys.exit(int((sys.argv[1:] or ["0"])[0]))
"""


def warm(folder, *arguments, ok=True):
    (folder / "probe.py").write_text(PROBE)
    warm_script = os.path.abspath("scripts/warm.py")
    return run([sys.executable, warm_script, "probe.py", *arguments], folder, ok, PROBE="yes")


def test_output_folder_environment_and_arguments_are_the_callers(tmp_path):
    output = warm(tmp_path)
    assert f"out {tmp_path} yes []" in output
    assert "err" in output


def test_a_server_with_other_kernels_never_stands_in():
    assert {*kernels.VARIABLES, "LD_PRELOAD"} <= {*served.START_UP}


def test_exit_codes_and_errors_come_back(tmp_path):
    assert "error: said so" in warm(tmp_path, "fail", ok=False)
    assert "ValueError: broken" in warm(tmp_path, "raise", ok=False)
    warm(tmp_path, "3", ok=False)


def start(tmp_path):
    warm(tmp_path)  # the server is up
    job = subprocess.Popen([sys.executable, os.path.abspath("scripts/warm.py"), "probe.py", "sleep"], cwd=tmp_path,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    return job


def test_a_signal_ends_the_script_and_shows_in_the_exit_code(tmp_path):
    job = start(tmp_path)
    job.send_signal(signal.SIGTERM)
    assert job.wait(10) == 128 + signal.SIGTERM
    assert not (tmp_path / "finished").exists()


def test_a_killed_caller_takes_its_script_along(tmp_path):
    job = start(tmp_path)
    job.kill()
    job.wait()
    time.sleep(0.5)
    left = subprocess.run(["pgrep", "-f", f"probe.py sleep.*{tmp_path}"], capture_output=True).stdout
    assert not left
    assert not (tmp_path / "finished").exists()


def test_a_scripts_own_workers_find_it_wherever_the_server_was_started(tmp_path):
    """The server's folder may belong to another checkout, or be gone."""
    (tmp_path / "pool.py").write_text(
        "import concurrent.futures, multiprocessing\n"
        "def double(number):\n    return 2 * number\n"
        "if __name__ == '__main__':\n"
        "    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('forkserver')) as pool:\n"
        "        print('doubled', *pool.map(double, [1, 2]))\n"
    )
    assert "doubled 2 4" in run([sys.executable, os.path.abspath("scripts/warm.py"), "pool.py"], tmp_path)
