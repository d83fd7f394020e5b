"""Commands in processes of their own that are killed at a seeded moment, forked from one that has imported what they need."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from abduce.fit import checkpoint

IMPORTED = [
    "pytest",
    "pandas",
    "torch",
    "sklearn.decomposition",
    "sklearn.mixture",
    "constriction",
    "rich.progress",
    "rich.table",
    "abduce.cli.models",
    "abduce.cli.questions",
    "abduce.bulk.streaming",
    "abduce.compress.codec",
    "abduce.data.readers",
    "abduce.data.shards",
    "abduce.estimators.load",
    "abduce.estimators.methods",
    "torch._dynamo",  # which the first optimiser imports
]


class Moment(NamedTuple):
    """When a command is killed: ``seconds`` after it began, before an ``event`` of those that concern files in a folder, or
    once a file has so many ``size`` bytes of a longer one."""

    seconds: float | None = None
    event: int = -1
    size: int | None = None


class End(NamedTuple):
    """How a command ended: its status, negative where it was killed; ``seconds`` and ``events`` until then."""

    status: int
    seconds: float
    events: int


def run(command: Sequence[str], folder: Path, moment: Moment = Moment()) -> End:  # noqa: B008 - it is frozen
    """Run a command to its end, or until it is killed; events are those of files in ``folder``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    began, told = context.Event(), context.Value("q", 0, lock=False)
    process = context.Process(target=_commanded, args=(command, str(folder), moment, began, told))
    process.start()
    assert began.wait(120)
    start = time.perf_counter()
    process.join(moment.seconds)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode is not None
    return End(process.exitcode, time.perf_counter() - start, told.value)


def _commanded(command: Sequence[str], folder: str, moment: Moment, began: Any, told: Any) -> None:
    from abduce import cli

    def heard(event: str, arguments: tuple) -> None:
        # of what is removed in a folder, and of names that are exchanged, the folder is not told
        if event in ("ctypes.dlsym", "os.remove", "os.rmdir") or any(
            isinstance(a, str | Path) and folder in str(a) for a in arguments
        ):
            told.value += 1
            if told.value == moment.event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.argv = ["abduce", *command]
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    sys.addaudithook(heard)
    if moment.size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (moment.size, moment.size))
    began.set()
    cli.main()


def content(path: Path) -> dict[str, bytes] | None:
    """What is at a path, a file or a folder: bytes by name; None for nothing."""
    if path.is_dir():
        return {
            p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()
        }
    return {"": path.read_bytes()} if path.exists() else None


def timeless(kept: dict[str, bytes] | None) -> dict[str, bytes] | None:
    """The same without what tells how long a fit took, and the checksum of that; the checksum was right."""
    if kept is None or "model.json" not in kept:
        return kept
    body = json.loads(kept["model.json"])
    digest = body.pop("sha256")
    assert digest == checkpoint._digest(checkpoint._canonical(body))
    for epoch in body["fitted"]["history_"]:
        epoch.pop("seconds")
    return {**kept, "model.json": checkpoint._canonical(body)}
