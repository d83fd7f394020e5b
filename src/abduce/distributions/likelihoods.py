"""Likelihoods p(x|z): one plain distribution for each kind of cell, and their product over a row.

Every distribution covers ``d`` cells of one family for parameters of shape ``(..., d)`` and answers four questions,
all in model space (reals standardised, categories as codes):

    log_prob(x, observed)    nats, summed over the observed cells: shape (...)
    moments()                what may be averaged over posterior draws: means, or class probabilities, (..., d, m)
    condition(x, observed)   the same family given the observed cells: only cells that stay correlated change
    sample(generator)        a draw, (..., d)

``observed`` is a bool mask broadcast against ``x``; None means all cells are observed.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from abduce.distributions.continuous import Gaussian


class Distribution(Protocol):
    """What tasks and objectives ask of a likelihood."""

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor: ...
    def moments(self) -> Tensor: ...
    def condition(self, x: Tensor, observed: Tensor) -> Distribution: ...
    def sample(self, generator: torch.Generator | None = None) -> Tensor: ...
    def gaussian(self) -> Gaussian: ...


class Product:
    """Product of distributions over disjoint sets of cells of one row.

    ``parts`` pairs the cells' positions (an index tensor, or ``slice(None)`` for all) with their distribution.
    """

    def __init__(self, parts: list[tuple[Tensor | slice, Distribution]], n_cells: int):
        self.parts = parts
        self.n_cells = n_cells

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log-probability of the observed cells of each row, nats, shape (...)."""
        terms = [d.log_prob(x[..., c], None if observed is None else observed[..., c]) for c, d in self.parts]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def condition(self, x: Tensor, observed: Tensor) -> Product:
        """The law of a row given its observed cells (and z)."""
        parts = [(c, d.condition(x[..., c], observed[..., c])) for c, d in self.parts]
        return Product(parts, self.n_cells)

    def moments(self) -> list[Tensor]:
        """One tensor of moments for each part."""
        return [d.moments() for _, d in self.parts]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw rows, (..., D)."""
        return self._gather([d.sample(generator) for _, d in self.parts])

    def gaussian(self) -> Gaussian:
        """The Gaussian with the same means and (co)variances of cells, for linear observations of noisy or coarse data."""
        parts = [d.gaussian() for _, d in self.parts]
        mean = self._gather([g.mean for g in parts])
        scale = self._gather([g.scale.expand_as(g.mean) for g in parts])
        with_factor = [
            (c, g.factor) for (c, _), g in zip(self.parts, parts, strict=True) if g.factor is not None
        ]
        if not with_factor:
            return Gaussian(mean, scale)
        cells, factor = with_factor[0]
        whole = factor.new_zeros(*factor.shape[:-2], self.n_cells, factor.shape[-1])
        whole[..., cells, :] = factor
        return Gaussian(mean, scale, whole)

    def _gather(self, values: list[Tensor]) -> Tensor:
        if len(values) == 1 and isinstance(self.parts[0][0], slice):
            return values[0]
        out = values[0].new_empty(*values[0].shape[:-1], self.n_cells)
        for (cells, _), value in zip(self.parts, values, strict=True):
            out[..., cells] = value
        return out
