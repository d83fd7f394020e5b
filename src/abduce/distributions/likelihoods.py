"""Likelihoods p(x|z): one plain distribution for each kind of cell, their product over a row, and the modules that make them.

Every distribution covers ``d`` independent cells of one family for parameters of shape ``(..., d)`` and answers these
questions, all in model space (reals standardised, categories as codes):

    log_prob(x, observed)    nats, summed over the observed cells: shape (...)
    moments()                what may be averaged over posterior draws: means, or class probabilities, (..., d, m)
    sample(generator)        a draw, (..., d)
    gaussian()               the Gaussian with the same means and variances, for linear observations of noisy or coarse data

``observed`` is a bool mask broadcast against ``x``; None means all cells are observed.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from abduce.data.fields import Field
from abduce.distributions.continuous import Gaussian


class Distribution(Protocol):
    """What answers and objectives ask of a likelihood."""

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor: ...
    def moments(self) -> Tensor: ...
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
        terms = (d.log_prob(x[..., c], None if observed is None else observed[..., c]) for c, d in self.parts)
        return functools.reduce(torch.add, terms)

    def condition(self, x: Tensor, observed: Tensor) -> Product:
        """The law of a row given its observed cells (and z): itself, where nothing but z ties the cells."""
        return self

    def moments(self) -> list[Tensor]:
        return [d.moments() for _, d in self.parts]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return _gather(self._cells, [d.sample(generator) for _, d in self.parts], self.n_cells)

    def gaussian(self) -> Gaussian:
        """The Gaussian with the same means and variances of cells."""
        parts = [d.gaussian() for _, d in self.parts]
        mean = _gather(self._cells, [g.mean for g in parts], self.n_cells)
        return Gaussian(mean, _gather(self._cells, [g.scale.expand_as(g.mean) for g in parts], self.n_cells))

    @property
    def _cells(self) -> list[Tensor | slice]:
        return [cells for cells, _ in self.parts]


def _gather(cells: Sequence[Tensor | slice], values: list[Tensor], n_cells: int) -> Tensor:
    """Put the values of every part at its cells, (..., D)."""
    if isinstance(cells[0], slice):
        return values[0]
    out = values[0].new_empty(*values[0].shape[:-1], n_cells)
    for index, value in zip(cells, values, strict=True):
        out[..., index] = value
    return out


@dataclass(frozen=True)
class Cells:
    """What a head is made for: cells of one kind and one lattice, by their fields, and what the data say of them.

    ``means`` and ``variances`` (n,) are those of the observed values in model space, None where there are no data yet;
    ``scale`` says where noise scales come from, ``components`` how many a mixture has.
    """

    fields: Sequence[Field]
    means: Tensor | None = None
    variances: Tensor | None = None
    scale: str = "network"
    components: int = 1
    shares: Sequence[Sequence[float]] | None = None

    @property
    def half(self) -> float:
        """Half the step of the lattice that pixels lie on, in model units; 0 for other kinds."""
        field = self.fields[0]
        return 1 / (2 * (field.denominator or 1) * field.scale) if field.kind == "pixel" else 0.0

    @property
    def sizes(self) -> list[int]:
        """Number of classes of each cell."""
        return [len(field.categories or ()) for field in self.fields]


class Head(nn.Module, abc.ABC):
    """Turns a decoder's output (..., n_parameters) into the distribution of cells of one kind: an interface.

    Made by ``Head(name, cells)``, the name of the likelihood and what the cells are.
    Parameters that do not depend on z (noise scales, thresholds, dispersions) live here.
    """

    fits: ClassVar[dict[str, tuple[str, ...]]]  # likelihoods by name, and the kinds of cells that each fits
    # those whose blanks can be drawn with a gradient (they have ``moved``), those whose blanks can be summed out (they
    # have ``class_log_probs``), and those of counts that stay in the family when thinned
    drawable: ClassVar[tuple[str, ...]] = ()
    summable: ClassVar[tuple[str, ...]] = ()
    thinnable: ClassVar[tuple[str, ...]] = ()
    # of one value from moments: the "mean", the nearest "whole" number or "grade", the likelier "bit" or "class"
    estimate: str = "mean"
    largest: Tensor | float = math.inf  # value that a cell can take
    offset: Tensor | None = None  # where the decoder's output starts without a linear path, if not anywhere
    # the narrowest distribution of cells of means b, None (or gives None) where noise may be as small as wanted
    narrowest: ClassVar[Callable[[Any, Tensor], Distribution | None] | None] = None
    n_parameters: int

    @abc.abstractmethod
    def forward(self, h: Tensor) -> Distribution: ...

    @abc.abstractmethod
    def start(self, W: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Start at a linear path W z + b of what is read of the cells, with noise variances ``noise``: exactly for Gaussian
        cells, to first order for the others.

        Sets what does not depend on z, and returns the linear map from z to the head's parameters: weight (n_parameters, k)
        and bias (n_parameters,).
        """

    def point(self, moments: Tensor) -> Tensor:
        """Turn averaged moments (..., d, m) into one value a cell, (..., d)."""
        if self.estimate == "class":
            return moments.argmax(-1).to(moments.dtype)
        if self.estimate == "grade":
            return (moments @ torch.arange(moments.shape[-1], dtype=moments.dtype)).round()
        mean = moments.squeeze(-1)
        if self.estimate == "bit":
            return (mean >= 0.5).to(moments.dtype)
        return mean.round() if self.estimate == "whole" else mean


class Likelihood(nn.Module):
    """p(x|z) of a whole row: splits a decoder's output among heads and returns their :class:`Product`."""

    heads: Any  # a list of Head

    def __init__(self, heads: Sequence[tuple[Sequence[int], Head]], n_cells: int):
        super().__init__()
        self.heads = nn.ModuleList([head for _, head in heads])
        self.n_cells = n_cells
        self.sizes = [head.n_parameters for _, head in heads]
        self.n_parameters = sum(self.sizes)
        self._cells: list[Tensor | slice] = [torch.tensor(list(at), dtype=torch.long) for at, _ in heads]
        if len(heads) == 1 and list(heads[0][0]) == list(range(n_cells)):
            self._cells = [slice(None)]

    def forward(self, h: Tensor) -> Product:
        pieces = h.split(self.sizes, -1) if len(self.sizes) > 1 else (h,)
        parts = zip(self._cells, self.heads, pieces, strict=True)
        return Product([(cells, head(piece)) for cells, head, piece in parts], self.n_cells)

    def cells(self) -> list[list[int]]:
        """The cells' positions of each head."""
        return [list(range(self.n_cells)) if isinstance(c, slice) else c.tolist() for c in self._cells]

    def limits(self) -> Tensor:
        """The largest value that each cell can take, (D,): infinity but for bounded counts."""
        pairs = zip(self.heads, self.cells(), strict=True)
        largest = [torch.as_tensor(head.largest).expand(len(cells)) for head, cells in pairs]
        return _gather(self._cells, largest, self.n_cells)

    def point(self, moments: list[Tensor]) -> Tensor:
        """Turn averaged moments into one value a cell: means of numbers and grades, modes of classes; shape (..., D)."""
        values = [head.point(m) for head, m in zip(self.heads, moments, strict=True)]
        return _gather(self._cells, values, self.n_cells)

    def chances(self, moments: list[Tensor], cell: int, levels: int) -> Tensor:
        """Probability of each of the ``levels`` of a class cell, (..., levels)."""
        for cells, m in zip(self.cells(), moments, strict=True):
            if cell in cells and levels:
                p = m[..., cells.index(cell), :]
                return torch.cat([1 - p, p], -1) if p.shape[-1] == 1 else p[..., :levels]
        raise ValueError(f"cell {cell} holds a number, not a class")

    @torch.no_grad()
    def widened(self, b: Tensor, noise: Tensor, places: Callable[[list[int]], Tensor]) -> Tensor:
        """The noise variances of a linear path, at least those of likelihoods that cannot be narrower: its posterior would be
        too sure.  ``places`` gives where the path has what is read of some cells."""
        noise = noise.clone()
        for head, at in zip(self.heads, map(places, self.cells()), strict=True):
            law = head.narrowest and head.narrowest(b[at])
            if law:
                noise[at] = noise[at].maximum(law.gaussian().variance())
        return noise

    @torch.no_grad()
    def start(
        self, W: Tensor, b: Tensor, noise: Tensor, places: Callable[[list[int]], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Start all heads at a linear path: weight (n_parameters, k) and bias of the linear map to their parameters."""
        at = map(places, self.cells())
        each = [head.start(W[i], b[i], noise[i]) for head, i in zip(self.heads, at, strict=True)]
        return torch.cat([weight for weight, _ in each]), torch.cat([bias for _, bias in each])

    def offset(self, start: Tensor) -> Tensor:
        """Where the decoder's output starts without a linear path: ``start`` but for cells whose means say more."""
        pieces = zip(self.heads, start.split(self.sizes), strict=True)
        return torch.cat([own if head.offset is None else head.offset for head, own in pieces])

    def extra_repr(self) -> str:
        return f"n_cells={self.n_cells}, n_parameters={self.n_parameters}"
