"""The interface of every model: an energy in nats, low on the data and higher elsewhere."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn


class Energy(nn.Module, abc.ABC):
    """A function E(x) in nats with p(x) ∝ exp(−E(x)).

    ``x`` has shape ``(batch, cells)`` in model space, ``observed`` is a bool mask of the same shape (None: all observed);
    the energy of a row with blanks is that of its observed cells, the others summed or integrated out.
    """

    @abc.abstractmethod
    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Energy of each row, nats, shape ``(batch,)``."""

    @abc.abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``(n, cells)`` exactly."""
