"""Tasks that end their process or fail, and the processes at work for another one, as /proc shows them."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")


def workers_of(pid: int) -> list[int]:
    """Processes that work for this one, oldest first: forked from the one that it has for that."""
    return [worker for child in _children(pid) if _is_origin(child) for worker in _children(child)]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []


def _is_origin(pid: int) -> bool:
    try:
        return b"multiprocessing.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


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
