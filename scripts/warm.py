"""Run a script in a process that has already imported torch, transformers and TRL: seconds sooner.

    python scripts/warm.py scripts/sft.py --model … --out …        # as `python scripts/sft.py --model … \\
        --out …`

Importing TRL costs 5–10 s a process; a miniature study starts some 200, so imports would take as long as the
work. The first call starts a server that imports them once; each call then forks a child of it. The child
gets the caller's arguments, environment, working directory and standard streams; the caller passes signals on
and returns its exit code. The server belongs to one user, interpreter and set of start-up variables and ends
when idle. It serves CPU studies only (`warm_start: true` in the config): a process that has used a GPU cannot
fork.
"""

import array
import contextlib
import fcntl
import gc
import hashlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IDLE_SECONDS = 60
# Most of what any script imports; the trainers' and the miniature model's modules by name, for they load
# lazily.
PRELOADED = (
    "datasets", "deepspeed", "jinja2", "math_verify", "pandas", "pyarrow.parquet", "scipy.stats", "torch", "seaborn",
    "transformers.models.auto.modeling_auto", "transformers.models.qwen2.modeling_qwen2", "transformers.trainer",
    "trl.trainer.grpo_trainer", "trl.trainer.sft_trainer",
)  # fmt: skip
# What a library reads when it is loaded: a server started under other values cannot stand in.
START_UP = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "DS_ACCELERATOR",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "PYTHONPATH",
    "CUDA_VISIBLE_DEVICES",
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "LD_PRELOAD",
)


def socket_path() -> Path:
    """Where the server of this user, interpreter and environment listens (a folder only we can enter)."""
    identity = [sys.executable, Path(__file__).read_text(), *map(os.environ.get, START_UP)]
    folder = Path(tempfile.gettempdir()) / f"valley-warm-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        sys.exit(f"error: {folder}: belongs to somebody else or is open to others. Remove it")
    return folder / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}.sock"


def connect(path: Path) -> socket.socket:
    """A connection to the server, which is started when none listens."""
    for attempt in range(1200):
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(str(path))
            return link
        except OSError:
            link.close()
        if attempt == 0:
            with open(path.with_suffix(".log"), "ab") as log:
                subprocess.Popen(
                    [sys.executable, __file__, "--serve", str(path)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        time.sleep(0.1)
    sys.exit(f"error: {path}: no server came up in two minutes. See {path.with_suffix('.log')}")


def call(arguments: list[str]) -> int:
    """Have the server run `arguments` (a script and its flags) and return the exit code."""
    from valley import temporary  # not in the server, whose children must find modules as they are by then

    temporary.short_tmp()
    link = connect(socket_path())
    request = json.dumps(
        {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    ).encode()
    socket.send_fds(link, [len(request).to_bytes(8, "big")], [0, 1, 2])
    link.sendall(request)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: link.sendall(bytes([received])))
    answer = link.recv(1)
    if not answer:
        print("error: the warm server died; run the same command again", file=sys.stderr)
        return 1
    return answer[0]


def receive(link: socket.socket):
    """(request, three file descriptors) from a caller."""
    header, descriptors, _, _ = socket.recv_fds(link, 8, 3)
    body = b""
    while len(body) < int.from_bytes(header, "big"):
        body += link.recv(1 << 20)
    return json.loads(body), array.array("i", descriptors)


def child(request: dict, descriptors) -> int:
    """In the forked child: become the caller's process and run its script."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    code = 0
    try:
        # By its full path: workers that the script starts would look for a relative one in the server's first
        # folder.
        runpy.run_path(os.path.abspath(sys.argv[0]), run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code & 0xFF


def serve(path: Path):
    """Import, listen, fork a child for every call, pass signals to it and its exit code back; end when
    idle.
    """
    lock = open(path.with_suffix(".lock"), "w")  # noqa: SIM115 - held until this process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # another server is starting or running
    path.unlink(missing_ok=True)

    for name in PRELOADED:
        importlib.import_module(name)
    # What is imported stays: children then neither search it for garbage nor copy its pages in doing so.
    gc.collect()
    gc.freeze()

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(64)
    # The end of a child wakes the wait below: a look every so often costs each job half of that.
    woken, ended = socket.socketpair()
    for end in (woken, ended):
        end.setblocking(False)
    signal.set_wakeup_fd(ended.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, socket.socket] = {}  # pid → its caller
    last = time.monotonic()
    while children or time.monotonic() - last < IDLE_SECONDS:
        ready, _, _ = select.select([listener, woken, *children.values()], [], [], IDLE_SECONDS)
        last = time.monotonic() if ready else last
        for link in ready:
            if link is woken:
                woken.recv(64)
            elif link is listener:
                caller, _ = listener.accept()
                request, descriptors = receive(caller)
                pid = os.fork()
                if pid == 0:
                    for link in (listener, woken, ended):
                        link.close()
                    os._exit(child(request, descriptors))
                for descriptor in descriptors:
                    os.close(descriptor)
                children[pid] = caller
            else:  # a signal to pass on, or nothing: the caller is gone, and its work goes with it
                pid = next(p for p, caller in children.items() if caller is link)
                number = link.recv(1)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, number[0] if number else signal.SIGKILL)
                if not number:
                    os.waitpid(pid, 0)
                    children.pop(pid).close()
        for pid in list(children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                with contextlib.suppress(OSError):
                    children[pid].sendall(bytes([code if code >= 0 else 128 - code]))
                children.pop(pid).close()
    path.unlink(missing_ok=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    elif sys.argv[1:2] in (["--help"], ["-h"]):
        print(__doc__)
    elif len(sys.argv) < 2:
        sys.exit(__doc__)
    else:
        sys.exit(call(sys.argv[1:]))
