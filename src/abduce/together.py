"""Processes that train one model together: each works on its rows of every batch, and all take the same step.

A launcher (``torchrun``, ``fabric run``, Ray Train) starts the processes and tells each by the environment which one it is.
Every process holds all rows and all weights.  Of a batch of B rows process r of W takes those from r B/W to (r + 1) B/W, and
what follows is what one process would have done, up to the order in which floats are added:

    random numbers of rows    each process draws those of the whole batch and takes its rows' (:func:`of_rows`)
    figures of the batch      rows that depend on each other are gathered, with their gradients (:func:`gathered`)
    gradients                 the mean over processes, so that all take the same step (:func:`average`)

The first two only happen :func:`within` a step of training: elsewhere, and where a process is alone, each function gives back
what it got.

>>> of_rows(torch.rand, (3, 2), 0).shape, launched().count
(torch.Size([3, 2]), 1)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.constants import default_pg_timeout
from torch.distributed.nn.functional import all_gather

T = TypeVar("T")


class Place(NamedTuple):
    """Which process this is, of how many."""

    rank: int
    count: int


ALONE = Place(0, 1)
_place, _part = ALONE, 0  # where steps are taken now, and with how many rows of a batch


def launched() -> Place:
    """This process's place among those that a launcher started to train together."""
    if not distributed.is_available():
        return ALONE
    if distributed.is_initialized():
        return Place(distributed.get_rank(), distributed.get_world_size())
    if not distributed.is_torchelastic_launched():
        return ALONE
    return Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def meet() -> None:
    """Tie this process to those that were launched with it, where that has not been done."""
    place = launched()
    if place.count == 1 or distributed.is_initialized():
        return
    told = os.environ
    hosts = place.rank == 0 and told.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = TCPStore(
        told["MASTER_ADDR"], int(told["MASTER_PORT"]), is_master=hosts, timeout=default_pg_timeout
    )
    distributed.init_process_group(
        store=PrefixStore(_attempt(store, place), store), rank=place.rank, world_size=place.count
    )


def _attempt(store: Store, place: Place) -> str:
    """A name for this attempt to meet, the same for all that live: what those that died have written is under another one.

    A launcher keeps its store for all its attempts, and those of several machines count theirs each for itself.  So the first
    process makes up a name, all answer it by names of their own, and it is taken by those that it has heard.
    """
    own = uuid4().hex
    if place.rank == 0:
        store.set("attempt", own)
        answers = [f"{own} {rank}" for rank in range(1, place.count)]
        store.wait(answers)
        store.set(f"{own} heard", " ".join(store.get(answer).decode() for answer in answers))
        return own
    end = time.monotonic() + default_pg_timeout.total_seconds()
    while time.monotonic() < end:
        # of a first process that is dead, perhaps, until there is another
        attempt = store.get("attempt").decode()
        store.set(f"{attempt} {place.rank}", own)
        heard = f"{attempt} heard"
        if store.check([heard]) and own in store.get(heard).decode().split():
            return attempt
        time.sleep(0.05)
    raise RuntimeError(
        f"process {place.rank} of {place.count} was not heard by the first one for {default_pg_timeout}"
    )


@contextmanager
def within(place: Place, rows: int = 0) -> Iterator[None]:
    """Take steps as the process of this place, on so many ``rows`` of a batch: 0 where random numbers are for one draw of it.

    As :data:`ALONE` it works on all that it gets, whoever does the same.
    """
    global _place, _part
    before = _place, _part
    _place, _part = place, rows
    try:
        yield
    finally:
        _place, _part = before


def of_rows(draw: Callable[..., Tensor], shape: Sequence[int], axis: int, **how: Any) -> Tensor:
    """``draw(shape, **how)``, random numbers for the rows along an axis: this process's part of those for the whole batch.

    The axis may hold several draws of all rows, one draw after the other.
    """
    if _place.count == 1:
        return draw(list(shape), **how)
    whole = list(shape)
    whole[axis] *= _place.count
    draws = shape[axis] // _part if _part else 1
    return mine(draw(whole, **how).unflatten(axis, (draws, -1)), axis + 1).flatten(axis, axis + 1)


def total(rows: int) -> int:
    """How many rows the whole batch has where this process has ``rows``."""
    return rows * _place.count


def mine(batch: Tensor, axis: int = 0) -> Tensor:
    """This process's rows of a whole batch."""
    return batch if _place.count == 1 else batch.chunk(_place.count, axis)[_place.rank]


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, one after the other along the first axis; gradients find their way back."""
    return rows if _place.count == 1 else torch.cat(all_gather(rows))


@torch.no_grad()
def average(tensors: list[Tensor], place: Place) -> None:
    """Put the mean over processes in the place of each tensor."""
    if place.count > 1:
        # begun all at once, they wait for the network once
        for job in [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
            job.wait()  # pyright: ignore[reportOptionalMemberAccess]
        for tensor in tensors:
            tensor /= place.count


@torch.no_grad()
def share(tensors: Iterable[Tensor], place: Place) -> None:
    """Put the first process's numbers in the place of each tensor."""
    if place.count > 1:
        for tensor in tensors:
            box = tensor.contiguous()
            distributed.broadcast(box, 0)
            tensor.copy_(box)


def agreed(found: T, place: Place) -> T:
    """What the first process found, for all of them: what they do by it is then the same."""
    if place.count == 1:
        return found
    box = [found]
    distributed.broadcast_object_list(box, 0)
    return box[0]


def unlike(found: Any, place: Place) -> list[int]:
    """Which processes found something else than the first one did; all of them know."""
    if place.count == 1:
        return []
    alike: list[Any] = [None] * place.count
    distributed.all_gather_object(alike, agreed(found, place) == found)
    return [rank for rank, same in enumerate(alike) if not same]
