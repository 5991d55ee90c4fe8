"""A TMPDIR that sockets fit in."""

import hashlib
import os
import tempfile
from pathlib import Path

LONGEST_TMP = 60  # bytes of TMPDIR


def short_tmp():
    """Where TMPDIR is too long for sockets in it, go by a link in /tmp that leads there.

    The path of a Unix socket has 107 bytes; pools of processes and the warm server need up to 40 of them
    below TMPDIR.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) <= LONGEST_TMP:
        return
    link = Path(f"/tmp/valley-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}")
    try:
        if not link.is_symlink():
            link.symlink_to(folder)
        if os.readlink(link) != folder or link.lstat().st_uid != os.getuid():
            raise FileExistsError(f"{link} is something else")
    except OSError as error:
        from valley import records  # slow to import, and every call of the warm server comes here

        what = f"is longer than {LONGEST_TMP} bytes, too long for sockets, and cannot be shortened ({error})"
        records.fail(f"TMPDIR {folder}", what, "Set a shorter one: export TMPDIR=/tmp")
    os.environ["TMPDIR"], tempfile.tempdir = str(link), None
