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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.nn.functional import all_gather

T = TypeVar("T")


class Place(NamedTuple):
    """Which process this is, of how many."""

    rank: int
    count: int


ALONE = Place(0, 1)
_place, _part = ALONE, 1  # where steps are taken now, and with how many rows of a batch


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
    """Tie this process to those that were launched with it, where that has not been done.

    A launcher on one machine keeps one list of addresses for all its attempts, those of processes that died among them: each
    attempt has a part of its own.  Of several machines each counts its own attempts, so that there the launcher has to do.
    """
    place = launched()
    if place.count == 1 or distributed.is_initialized():
        return
    told = os.environ
    if told.get("LOCAL_WORLD_SIZE") != told["WORLD_SIZE"]:
        distributed.init_process_group()
        return
    hosts = place.rank == 0 and told.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = TCPStore(told["MASTER_ADDR"], int(told["MASTER_PORT"]), is_master=hosts)
    own = PrefixStore(f"attempt {told.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    distributed.init_process_group(store=own, rank=place.rank, world_size=place.count)


@contextmanager
def within(place: Place, rows: int = 1) -> Iterator[None]:
    """Take steps as the process of this place, of so many rows; :data:`ALONE` works on all that it gets, whoever does the same."""
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
    draws = shape[axis] // _part
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
