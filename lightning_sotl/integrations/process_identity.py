"""Which process runs a trial, and whether it still lives: for sweeps that are started again."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_PROC = Path("/proc")


def own_identity() -> str:
    """Return a name of this process that no other one on this host ever has.

    A process id comes again, also after a reboot, so where the system tells it (Linux) the name
    holds when the process and the system were started.

    Example:
        >>> is_gone(own_identity())
        False
    """
    return "|".join([socket.gethostname(), str(os.getpid()), _started(os.getpid())])


def is_gone(identity: str) -> bool:
    """Return whether the process of that name was on this host and has ended.

    Of a process on another host nothing is known from here: then it is not said to be gone.
    """
    host, pid, started = identity.split("|")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's process has that id now, or had it then
    return started != _started(int(pid))


def _started(pid: int) -> str:
    """Return when the system and the process have started; "" where the system does not tell."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        # The name of the program stands in brackets and may hold spaces and brackets.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, ticks = fields[0], fields[19]
    return "" if state == "Z" else f"{boot}/{ticks}"
