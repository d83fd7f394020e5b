"""Who does the work that many files make: this process, several of this machine, or the actors of a Ray cluster.

The work is a ``task``, a function that can be pickled, asked for blocks of consecutive parts: files to write answers about, or
groups of rows to sum over.  It is copied once to each process, which keeps it from round to round; then blocks are handed out
as processes become free, so that what waits is a list of numbers.  What comes of a block depends on nothing but the task, so
that answers are those of one process, to the bit; a process that dies, or is killed for memory, is replaced and its block done
again.

    plain             here, one block after the other
    processes         ``workers`` of them, spawned
    ray               ``workers`` actors, on the machines of RAY_ADDRESS, or here where there is none
    ray://host:port   the cluster there; all machines must see the files by the same names

>>> with hired(sum, ALONE) as crew:
...     list(crew.in_order([Block((1, 2), ()), Block((3,), ())], 10))
[13, 13]
"""

from __future__ import annotations

import abc
import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from abduce.checks import check_count

ATTEMPTS = 3  # times that a block is begun before it is given up
ENGINES = ("plain", "processes", "ray")
BLOCKS = 8  # a process, but for the last ones
LAST = 2  # blocks a process that what is left is at the least, so that none waits long for the last
MANY = 64  # processes of a cluster, for all that is known

Task = Callable[..., Any]  # the parts of a block, and what a round says; what came of it


class Block(NamedTuple):
    """Consecutive parts of some work by their numbers, and the names of the files that they lie in."""

    parts: tuple[int, ...]
    names: tuple[str, ...]


Done = tuple[Block, Any]


class Engine(NamedTuple):
    """Who works: the name of an engine, and how many processes it has; 0 is all that a cluster has."""

    name: str
    workers: int

    @classmethod
    def of(cls, engine: str | None, workers: int | None) -> Engine:
        """The engine meant; where nothing is said as many processes as there are cores.  ValueError for what there is not.

        >>> Engine.of(None, None), Engine.of(None, 4)
        (Engine(name='plain', workers=1), Engine(name='processes', workers=4))
        """
        if engine is not None and engine not in ENGINES and not str(engine).startswith("ray://"):
            raise ValueError(
                f"engine must be {', '.join(map(repr, ENGINES))} or an address 'ray://HOST:PORT', got {engine!r}"
            )
        if engine is not None and engine.startswith("ray") and find_spec("ray") is None:
            raise ValueError("engine 'ray' needs Ray: pip install 'abduce[ray]'")
        if workers is not None:
            check_count("workers", workers)
        if engine is None:
            engine = "plain" if workers in (None, 1) else "processes"
        if engine == "plain":
            if workers not in (None, 1):
                raise ValueError(
                    f"engine 'plain' is one process, got workers {workers}; 'processes' has several"
                )
            return cls(engine, 1)
        return cls(engine, workers or (0 if engine.startswith("ray") else os.cpu_count() or 1))

    def enough(self, size: int, left: int, least: int = 1) -> int:
        """How large the next block should be, of work of some ``size`` of which so much is ``left``; ``least`` at least.

        All of it here; else several blocks a process, and towards the end smaller ones, so that all have done at once.

        >>> several = Engine("processes", 2)
        >>> [several.enough(160, left) for left in (160, 40, 20, 8, 1)], ALONE.enough(160, 160)
        ([10, 10, 5, 2, 1], 160)
        """
        if self.name == "plain":
            return size
        workers = self.workers or MANY
        return max(least, min(size // (BLOCKS * workers), left // (LAST * workers)))


ALONE = Engine("plain", 1)  # this process


class Crew(abc.ABC):
    """Processes that have a task, and do blocks of it in rounds."""

    @abc.abstractmethod
    def each(self, blocks: Sequence[Block], *more: Any) -> Iterator[Done]:
        """Do all blocks, in any order, told ``more``; each with what came of it, as they are done."""

    def in_order(self, blocks: Sequence[Block], *more: Any) -> Iterator[Any]:
        """What came of each block, in the order of the blocks, whichever is done first."""
        early: dict[Block, Any] = {}
        done = self.each(blocks, *more)
        for block in blocks:
            while block not in early:
                other, found = next(done)
                early[other] = found
            yield early.pop(block)

    @abc.abstractmethod
    def leave(self) -> None:
        """End the processes; what they have not done is not done."""


@contextmanager
def hired(task: Task, engine: Engine, hint: str = "") -> Iterator[Crew]:
    """A crew for a task, that leaves in the end; the ``hint`` says what to do where processes die again and again."""
    match engine.name:
        case "plain":
            crew: Crew = Here(task)
        case "processes":
            crew = Processes(task, engine.workers, hint)
        case _:
            crew = Actors(task, engine, hint)
    try:
        yield crew
    finally:
        crew.leave()


class Here(Crew):
    """This process, one block after the other."""

    def __init__(self, task: Task):
        self.task = task

    def each(self, blocks: Sequence[Block], *more: Any) -> Iterator[Done]:
        for block in blocks:
            yield block, self.task(block.parts, *more)

    def leave(self) -> None:
        pass


# ---------------------------------------------------------------- processes of this machine

_task: Task | None = None


def _arm(payload: bytes) -> None:
    """Take the task, in a new process; Ctrl-C is the first process's to heed, and without that one none goes on."""
    global _task
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(parent_process(),), daemon=True).start()
    _one_thread()
    _task = pickle.loads(payload)


def _leave_with(parent: Any) -> None:
    """End when the process that began this one has ended, however it did: a pool's processes would wait for ever."""
    wait([parent.sentinel])
    os._exit(1)


def _done(parts: tuple[int, ...], more: bytes) -> bytes:
    """Do a block; tensors go as bytes, else torch would hand over memory that dies with its process."""
    assert _task is not None
    return pickle.dumps(_task(parts, *pickle.loads(more)))


def _one_thread() -> None:
    """Processes beside one another with threads of their own would stand in each other's way."""
    import torch

    torch.set_num_threads(1)


class Processes(Crew):
    """Processes of this machine, spawned when there is work; new ones where one has died."""

    def __init__(self, task: Task, workers: int, hint: str):
        self.payload, self.workers, self.hint = pickle.dumps(task), workers, hint
        self.pool: ProcessPoolExecutor | None = None
        self.busy = False

    def each(self, blocks: Sequence[Block], *more: Any) -> Iterator[Done]:
        left, said = list(blocks), pickle.dumps(more)
        self.busy = True
        for _ in range(ATTEMPTS if left else 0):
            for job, block in self._submitted(left, said):
                try:
                    found = job.result()
                except BrokenProcessPool:
                    continue
                left.remove(block)
                yield block, pickle.loads(found)
            if not left:
                break
            self.leave()
        if left:
            raise _gave_up(left, self.hint)
        self.busy = False

    def _submitted(self, blocks: list[Block], said: bytes) -> Iterator[tuple[Future[bytes], Block]]:
        """Jobs as they end, one way or the other."""
        if self.pool is None:
            count = min(self.workers, len(blocks))
            self.pool = ProcessPoolExecutor(count, get_context("spawn"), _arm, (self.payload,))
        jobs: dict[Future[bytes], Block] = {}
        try:
            for block in blocks:
                jobs[self.pool.submit(_done, block.parts, said)] = block
        except BrokenProcessPool:  # one died meanwhile
            pass
        for job in as_completed(jobs):
            yield job, jobs[job]

    def leave(self) -> None:
        if self.pool is None:
            return
        if self.busy:  # what they write is under names of its own
            for process in list((self.pool._processes or {}).values()):
                process.kill()
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.pool = None


# ---------------------------------------------------------------- Ray


class Worker:
    """What a process of a cluster holds: a task of its own."""

    def __init__(self, task: bytes, place: str):
        if os.path.isdir(place):  # names of files mean what they mean where the run began
            os.chdir(place)
        _one_thread()
        self.task = pickle.loads(task)

    def done(self, parts: tuple[int, ...], more: bytes) -> Any:
        """Do a block."""
        return self.task(parts, *pickle.loads(more))


class Actors(Crew):
    """Actors of a Ray cluster, one a core at most; it is started here where none runs, and then ended."""

    def __init__(self, task: Task, engine: Engine, hint: str):
        import ray  # pyright: ignore[reportMissingImports]

        self.ray: Any = ray
        self.hint = hint
        self.started = not ray.is_initialized()
        if self.started:
            address = engine.name if engine.name.startswith("ray://") else None
            ray.init(
                address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR
            )
        self.payload = ray.put(pickle.dumps(task))  # one copy a machine
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))  # an actor more would wait for ever
        self.count = min(engine.workers or cores, cores)
        self.actors: list[Any] = []

    def _begun(self) -> Any:
        """One actor more; a restart by Ray would not find what is shared again."""
        actor = self.ray.remote(num_cpus=1, max_restarts=0)(Worker).remote(self.payload, os.getcwd())
        self.actors.append(actor)
        return actor

    def each(self, blocks: Sequence[Block], *more: Any) -> Iterator[Done]:
        from ray import exceptions  # pyright: ignore[reportMissingImports]

        said = self.ray.put(pickle.dumps(more))
        waiting, running, deaths = list(reversed(blocks)), {}, dict.fromkeys(blocks, 0)

        def hand_out(actor: Any) -> None:
            if waiting:
                block = waiting.pop()
                running[actor.done.remote(block.parts, said)] = actor, block

        while len(self.actors) < min(self.count, len(blocks)):
            self._begun()
        for actor in self.actors:
            hand_out(actor)
        while running:
            (job,), _ = self.ray.wait(list(running))
            actor, block = running.pop(job)
            try:
                found = self.ray.get(job)
            except exceptions.RayTaskError as error:
                raise error.cause from None
            except exceptions.RayError as error:
                deaths[block] += 1
                if deaths[block] == ATTEMPTS:
                    raise _gave_up([block], self.hint) from error
                waiting.append(block)
                self.actors.remove(actor)
                hand_out(self._begun())
                continue
            hand_out(actor)
            yield block, found

    def leave(self) -> None:
        for actor in self.actors:
            self.ray.kill(actor)
        self.actors = []
        if self.started:
            self.ray.shutdown()


def _gave_up(blocks: Sequence[Block], hint: str) -> RuntimeError:
    names = list(dict.fromkeys(name for block in blocks for name in block.names))
    shown = ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)
    return RuntimeError(
        f"processes died {ATTEMPTS} times at work on {shown}: most often memory is short, and fewer workers need less{hint}"
    )
