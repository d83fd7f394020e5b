"""Tasks that end their process or fail, and the processes at work for another one, as /proc shows them."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")


def workers_of(pid: int) -> list[int]:
    """Processes that a process spawned which do work, oldest first."""
    found = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return []
    for child in children:
        try:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
        except OSError:
            continue
    return found


def dying(folder: str, at: int, times: int, files: Sequence[int]) -> int:
    """Write files; file ``at`` kills its process so often."""
    for k in files:
        if k == at:
            deaths = len(list(Path(folder).glob("death-*")))
            if deaths < times:
                Path(folder, f"death-{deaths}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        Path(folder, f"file-{k}").touch()
    return len(files)


def failing(files: Sequence[int]) -> int:
    raise OSError(28, "No space left on device", f"{files[0]}.csv")
