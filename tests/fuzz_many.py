"""Put ten thousand damaged files to each reader, and keep those that give neither the right answer nor a clear error.

    python tests/fuzz_many.py [NAME ...]        ABDUCE_FUZZ says another number

Files are changed by atheris (libFuzzer), which looks for other paths through the code of this library; without it by seeded
random changes.  Each target has a process of its own, which may end: the bytes that were last are then found in out/fuzz/.
"""

from __future__ import annotations

import faulthandler
import hashlib
import inspect
import os
import random
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from fuzz_for_tests import SECONDS, TARGETS, damaged, put

OUT = Path("out/fuzz")


def _kept(name: str, data: bytes) -> None:
    """Put bytes to a target, and keep those of a defect, one of each kind; where the process ends, those that were last."""
    (OUT / name / "last").write_bytes(data)
    faulthandler.dump_traceback_later(
        3 * SECONDS, exit=True
    )  # nothing else stops what hangs outside of Python
    try:
        put(name, data)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        kind = hashlib.sha256(f"{type(error)}{frames[-1].filename}{frames[-1].lineno}".encode()).hexdigest()[
            :8
        ]
        if not (OUT / name / kind).exists():
            (OUT / name / kind).write_bytes(data)
            (OUT / name / f"{kind}.txt").write_text("".join(traceback.format_exception(error))[-4000:])
    faulthandler.cancel_dump_traceback_later()
    (OUT / name / "last").unlink()


def _many(name: str, runs: int) -> None:
    """Put so many inputs to a target, in this process, which may end here."""
    (OUT / name).mkdir(parents=True, exist_ok=True)
    seeds = TARGETS[name].seeds()
    for seed in seeds:
        assert put(name, seed), "a file that is whole is read"
    try:
        import atheris  # pyright: ignore[reportMissingImports]
    except ImportError:
        print(f"{name}: no atheris here, so by seeded random changes that know nothing of paths", flush=True)
        chance = random.Random(name)
        for _ in range(runs):
            _kept(name, damaged(name, chance.choice(seeds), chance))
        return
    with tempfile.TemporaryDirectory() as corpus:
        for k, seed in enumerate(seeds):
            (Path(corpus) / str(k)).write_bytes(seed)
        _follow(atheris)
        limits = [
            f"-runs={runs}",
            "-seed=1",
            "-timeout=0",
            "-rss_limit_mb=6000",
            f"-max_len={2 * max(map(len, seeds))}",
            "-verbosity=0",
        ]
        atheris.Setup(
            [sys.argv[0], *limits, f"-artifact_prefix={OUT / name}/", corpus],
            lambda data: _kept(name, data),
            custom_mutator=lambda data, size, seed: _either(atheris, name, seeds, data, size, seed),
        )
        atheris.Fuzz()


def _follow(atheris: Any) -> None:
    """Have the paths through the readers of this library followed."""
    for name, module in list(sys.modules.items()):
        if not name.startswith(
            ("abduce.data.", "abduce.compress.", "abduce.fit.checkpoint", "abduce.estimators.folder")
        ):
            continue
        own = [value for value in vars(module).values() if getattr(value, "__module__", None) == name]
        methods = [value for kind in own if isinstance(kind, type) for value in vars(kind).values()]
        for function in filter(inspect.isfunction, [*own, *methods]):
            atheris.instrument_func(function)


def _either(atheris: Any, name: str, seeds: list[bytes], data: bytes, size: int, seed: int) -> bytes:
    """A change of libFuzzer's, or one of ours, to what there is or to a file that is whole."""
    chance = random.Random(seed)
    start = data if chance.random() < 0.5 else chance.choice(seeds)
    return atheris.Mutate(data, size) if seed % 2 else damaged(name, start, chance)[:size]


def main() -> int:
    """Put inputs to the targets named, each in a process of its own; how many have a defect."""
    runs = int(os.environ.get("ABDUCE_FUZZ", "10000"))
    if sys.argv[1:2] == ["--one"]:
        _many(sys.argv[2], runs)
        return 0
    wrong = 0
    for name in sys.argv[1:] or TARGETS:
        place = OUT / name
        for old in place.glob("*"):
            old.unlink()
        end = subprocess.run([sys.executable, "-X", "faulthandler", __file__, "--one", name], check=False)
        found = sorted(path.name for path in place.glob("*") if path.suffix != ".txt")
        wrong += bool(found or end.returncode)
        print(
            f"{name}: {runs} inputs, status {end.returncode}, defects in {place}: {', '.join(found) or 'none'}",
            flush=True,
        )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
