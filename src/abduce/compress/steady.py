"""Models that give the same bits each time: float64, no gradients, evaluation mode, each operation on one thread.

Several processors share the work by rows instead (:func:`in_threads`): which rows go together depends on their number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import nn

from abduce.nets.whole import whole_numbers

Part = TypeVar("Part")
Made = TypeVar("Made")

_threads: ContextVar[int] = ContextVar("threads", default=1)  # those torch had before


@contextmanager
def steady(model: Any) -> Iterator[None]:
    """Run models the same way each time."""
    network = model if isinstance(model, nn.Module) else nn.Module()  # a law has no parameters and no modes
    if any(p.dtype != torch.float64 for p in network.parameters()):
        raise TypeError("compress needs a model in float64: call model.double()")
    threads, training = torch.get_num_threads(), network.training
    before = _threads.set(threads)
    torch.set_num_threads(1)
    network.eval()
    try:
        with torch.no_grad(), whole_numbers(network):
            yield
    finally:
        torch.set_num_threads(threads)
        _threads.reset(before)
        network.train(training)


def in_threads(function: Callable[[Part], Made], parts: Iterable[Part]) -> list[Made]:
    """What a function without gradients makes of each part, in as many threads as torch had before :func:`steady`."""
    parts = list(parts)
    workers = min(_threads.get(), len(parts))
    if workers < 2:
        return [function(part) for part in parts]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(torch.no_grad()(function), parts))
