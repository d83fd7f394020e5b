"""Who writes the files of a run over many: this process, several of this machine, or the actors of a Ray cluster.

A writer is copied once to each process; then blocks of consecutive files are handed out as processes become free, so that what
waits is a list of names.  A file depends on nothing but the model and the rows, so answers are those of one process, to the
bit; a process that dies, or is killed for memory, is replaced and its block done again.

    plain             here, one block after the other
    processes         ``workers`` of them, spawned
    ray               ``workers`` actors, on the machines of RAY_ADDRESS, or here where there is none
    ray://host:port   the cluster there; all machines must see DATA and the folder of the answers by the same names
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, NamedTuple

ATTEMPTS = 3  # times that a block is begun before the run gives up on it
ENGINES = ("plain", "processes", "ray")

Write = Callable[[Sequence[int]], int]  # writes files by their number; what it counted
Done = tuple["Block", int]


class Block(NamedTuple):
    """Consecutive files of a run, by number and by name."""

    files: tuple[int, ...]
    names: tuple[str, ...]


def check_engine(engine: str | None, workers: int | None) -> tuple[str, int]:
    """The engine meant, and how many processes it has; where nothing is said as many as there are cores, of a cluster 0, which
    is all that it has.  ValueError for what there is not.

    >>> check_engine(None, None), check_engine(None, 4), check_engine("ray://head:10001", None)
    (('plain', 1), ('processes', 4), ('ray://head:10001', 0))
    """
    if engine is not None and engine not in ENGINES and not engine.startswith("ray://"):
        raise ValueError(
            f"engine must be {', '.join(map(repr, ENGINES))} or an address 'ray://HOST:PORT', got {engine!r}"
        )
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if engine is None:
        engine = "plain" if workers in (None, 1) else "processes"
    if engine == "plain":
        if workers not in (None, 1):
            raise ValueError(f"engine 'plain' is one process, got workers {workers}; 'processes' has several")
        return engine, 1
    return engine, workers or (0 if engine.startswith("ray") else os.cpu_count() or 1)


def run_blocks(
    write: Write, blocks: Sequence[Block], engine: str = "plain", workers: int = 1
) -> Iterator[Done]:
    """Let ``write`` write all blocks, in any order; each with what it counted, as they are done."""
    if not blocks:
        return
    if engine == "plain":
        for block in blocks:
            yield block, write(block.files)
        return
    payload = pickle.dumps(write)
    if engine == "processes":
        yield from _by_processes(payload, blocks, min(workers, len(blocks)))
    else:
        yield from _by_ray(payload, blocks, workers, engine)


# ---------------------------------------------------------------- processes of this machine

_write: Write | None = None


def _arm(payload: bytes) -> None:
    """Take the writer, in a new process; Ctrl-C is the first process's to heed, and without that one none goes on."""
    global _write
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(parent_process(),), daemon=True).start()
    _one_thread()
    _write = pickle.loads(payload)


def _leave_with(parent: Any) -> None:
    """End when the process that began this one has ended, however it did: a pool's processes would wait for ever."""
    wait([parent.sentinel])
    os._exit(1)


def _written(files: Sequence[int]) -> int:
    assert _write is not None
    return _write(files)


def _one_thread() -> None:
    """Processes beside one another with threads of their own would stand in each other's way."""
    import torch

    torch.set_num_threads(1)


def _by_processes(payload: bytes, blocks: Sequence[Block], workers: int) -> Iterator[Done]:
    left = list(blocks)
    for _ in range(ATTEMPTS):
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _arm, (payload,))
        try:
            jobs: dict[Future[int], Block] = {pool.submit(_written, b.files): b for b in left}
            for job in as_completed(jobs):
                try:
                    counted = job.result()
                except BrokenProcessPool:
                    continue
                left.remove(jobs[job])
                yield jobs[job], counted
        except BaseException:
            for process in list(
                (pool._processes or {}).values()
            ):  # what they write is under names of its own
                process.kill()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if not left:
            return
    raise _gave_up(left)


# ---------------------------------------------------------------- Ray


def _by_ray(payload: bytes, blocks: Sequence[Block], workers: int, engine: str) -> Iterator[Done]:
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray import exceptions  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("engine 'ray' needs Ray: pip install 'abduce[ray]'") from None

    class Actor:
        """A process of the cluster, with a writer of its own."""

        def __init__(self, writer: bytes):
            _one_thread()
            self.write = pickle.loads(writer)

        def written(self, files: Sequence[int]) -> int:
            return self.write(files)

    started = not ray.is_initialized()
    if started:
        address = engine if engine.startswith("ray://") else None
        ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    try:
        shared = ray.put(payload)  # one copy a machine
        # a restart by Ray would not find what is shared again
        begin = ray.remote(num_cpus=1, max_restarts=0)(Actor).remote
        waiting, running, deaths = list(reversed(blocks)), {}, dict.fromkeys(blocks, 0)

        def hand_out(actor: Any) -> None:
            if waiting:
                block = waiting.pop()
                running[actor.written.remote(block.files)] = actor, block

        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))  # an actor more would wait for ever
        for _ in range(min(workers or cores, cores)):
            hand_out(begin(shared))
        while running:
            (job,), _ = ray.wait(list(running))
            actor, block = running.pop(job)
            try:
                counted = ray.get(job)
            except exceptions.RayTaskError as error:
                raise error.cause from None
            except exceptions.RayError as error:
                deaths[block] += 1
                if deaths[block] == ATTEMPTS:
                    raise _gave_up([block]) from error
                waiting.append(block)
                hand_out(begin(shared))
                continue
            hand_out(actor)
            yield block, counted
    finally:
        if started:
            ray.shutdown()


def _gave_up(blocks: Sequence[Block]) -> RuntimeError:
    names = [name for block in blocks for name in block.names]
    shown = ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)
    return RuntimeError(
        f"processes died {ATTEMPTS} times while they wrote the answers about {shown}: most often memory is short, and fewer"
        " workers need less; --resume goes on with what is missing"
    )
