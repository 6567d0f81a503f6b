"""A private folder for the sockets of one run. Their paths must be short: the system allows 107
bytes or less, which some machines' temporary folders use up on their own."""

import os
import tempfile
from pathlib import Path

import zmq

from edgewise.errors import EdgewiseError

PREFIX = "edgewise-"
_NAMES = len(f"/{PREFIX}12345678/12345")  # of the folder, and of a socket in it


def socket_folder() -> Path:
    """A new folder that only this user may enter: in the temporary folder, else where paths are
    shorter. Raises EdgewiseError where they are too long everywhere."""
    longest = zmq.IPC_PATH_MAX_LEN - _NAMES
    usual = tempfile.gettempdir()
    for base in (usual, os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp"):
        if base and len(os.fsencode(base)) <= longest and os.access(base, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    raise EdgewiseError(
        f"the temporary folder {usual} has a path too long for sockets, and there is no other to "
        f"write to; set TMPDIR to a folder whose path has at most {longest} bytes"
    )
