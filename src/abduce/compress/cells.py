"""From likelihoods to symbol models: what the entropy coder is told about the cells of a batch, given the latents.

A likelihood speaks of model values; a coder needs whole numbers with probabilities.  On a cell's lattice, symbol s has the
mass that the likelihood gives to the interval around its value (the first and the last symbol take the tails).  Binary cells
are flags, categories a table, Gaussians bins of one lattice step where it is fine enough; all others are coded by digits.

All is plain NumPy, over the observed cells of a batch, flattened; no loop runs over rows or columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from abduce.compress import masses
from abduce.compress.lattice import Lattice
from abduce.compress.stack import BitStack
from abduce.compress.symbols import (
    BinnedGaussian,
    DigitSymbols,
    FlagSymbols,
    SymbolModel,
    TableSymbols,
    rounded,
)
from abduce.distributions.continuous import (
    ContinuousBernoulli,
    Gaussian,
    Laplace,
    RoundedGaussian,
    StudentT,
)
from abduce.distributions.discrete import Bernoulli, BetaBinomial, Categorical, NegativeBinomial, Poisson
from abduce.distributions.likelihoods import Distribution
from abduce.distributions.pixels import DiscretizedLogisticMixture

FINE = 2**16  # a Gaussian over more symbols than this would waste the coder's precision: digits instead


def positions(where: Tensor | slice, n: int) -> np.ndarray:
    """Which of n cells a part of a likelihood has, (d,)."""
    return np.arange(n)[where if isinstance(where, slice) else where.numpy()]


class SeenCells(NamedTuple):
    """The observed ones, m in all, of a part's cells in a batch."""

    index: np.ndarray  # positions of the part's cells (d,)
    seen: np.ndarray  # where they are observed (n, d)
    lattice: Lattice

    @property
    def cell(self) -> np.ndarray:
        """Position of each observed cell, (m,)."""
        return np.broadcast_to(self.index, self.seen.shape)[self.seen]

    @property
    def size(self) -> np.ndarray:
        """Number of symbols of each, (m,)."""
        return np.broadcast_to(self.lattice.size[self.index], self.seen.shape)[self.seen]

    def take(self, t: Tensor) -> np.ndarray:
        """Parameters (>= n, d), rounded, of each, (m,)."""
        return rounded(t[: len(self.seen)].numpy()[self.seen])

    def take_each(self, t: Tensor) -> np.ndarray:
        """Parameters (>= n, components, d), rounded, of each, (components, m)."""
        return np.stack([rounded(c.numpy()[self.seen]) for c in t[: len(self.seen)].unbind(-2)])

    def digits(self, law: masses.Masses) -> DigitSymbols:
        """Code them digit by digit."""
        return DigitSymbols(law, self.size)

    def on_line(
        self, law: masses.Standard, loc: np.ndarray, scale: np.ndarray, shape: np.ndarray | None = None
    ) -> DigitSymbols:
        """Code them digit by digit under a law of location and scale (m,) in model space."""
        return self.digits(masses.line_masses(law, self.lattice, self.cell, loc, scale, self.size, shape))


def _beta_binomial(part: BetaBinomial, at: SeenCells) -> SymbolModel:
    a, b = (np.exp(at.take(shape.log())) for shape in part.shapes())
    return at.digits(masses.beta_binomial_masses(a, b, at.take(part.n.expand_as(part.logits))))


def _logistic_mixture(part: DiscretizedLogisticMixture, at: SeenCells) -> SymbolModel:
    parameters = (at.take_each(t) for t in (part.logits, part.loc, part.log_scale))
    return at.digits(masses.mixture_masses(*parameters, part.levels))


# a family of likelihoods, and how its cells are coded; Gaussian cells, which may be correlated, apart
SYMBOLS: dict[type, Callable[[Any, SeenCells], SymbolModel]] = {
    Bernoulli: lambda part, at: FlagSymbols(at.take(part.logits)),
    Categorical: lambda part, at: TableSymbols(at.take(part.log_probs.clamp_min(-60.0))),
    NegativeBinomial: lambda part, at: at.digits(
        masses.count_masses(at.take(part.log_mean), at.take(part.log_dispersion), at.size)
    ),
    Poisson: lambda part, at: at.digits(masses.poisson_masses(at.take(part.log_rate), at.size)),
    BetaBinomial: _beta_binomial,
    Laplace: lambda part, at: at.on_line(
        masses.LAPLACE, at.take(part.loc), np.exp(at.take(part.scale.log()))
    ),
    StudentT: lambda part, at: at.on_line(
        masses.STUDENT_T, at.take(part.loc), np.exp(at.take(part.scale.log())), at.take(part.df)
    ),
    ContinuousBernoulli: lambda part, at: at.digits(
        masses.continuous_bernoulli_masses(at.take(part.logits), round(1 / part.half) + 1)
    ),
    DiscretizedLogisticMixture: _logistic_mixture,
}

# those of location and scale on the real line: their standard law, location, scale and shape
LINES: dict[type, Callable[[Any], tuple[masses.Standard, Tensor, Tensor, np.ndarray | float]]] = {
    Gaussian: lambda part: (masses.NORMAL, part.mean, part.scale, 0.0),
    RoundedGaussian: lambda part: (masses.NORMAL, part.mean, part.scale, 0.0),
    Laplace: lambda part: (masses.LAPLACE, part.loc, part.scale, 0.0),
    StudentT: lambda part: (masses.STUDENT_T, part.loc, part.scale, part.df.numpy()),
}


@dataclass(frozen=True)
class CodedCells:
    """Positions of cells ``(d,)``, where they are observed ``(n, d)``, and the law of the observed ones."""

    index: np.ndarray
    seen: np.ndarray
    model: SymbolModel

    def push(self, stack: BitStack, s: np.ndarray) -> None:
        """Push these cells' symbols, out of all of them (n, D)."""
        self.model.push(stack, s[:, self.index][self.seen])

    def pop_into(self, s: np.ndarray, stack: BitStack) -> None:
        """Pop these cells' symbols into all of them (n, D)."""
        block = np.zeros(self.seen.shape, np.int64)
        block[self.seen] = self.model.pop(stack)
        s[:, self.index] = block


def gaussian_parameters(part: Gaussian | RoundedGaussian, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale of the first n rows of Gaussian cells, rounded, (n, d)."""
    return rounded(part.mean[:n].numpy()), np.exp(rounded(np.log(part.scale[:n].numpy())))


def gaussian_symbols(
    mean: np.ndarray, scale: np.ndarray, lattice: Lattice, index: np.ndarray, seen: np.ndarray
) -> Iterator[CodedCells]:
    """Symbol models of independent Gaussian cells ``index`` (d,), of mean and scale ``(n, d)`` in model space."""
    size = lattice.size[index]
    fine = ~lattice.log[index] & (size <= FINE)
    if fine.any():
        own, s = index[fine], seen[:, fine]
        unit, loc, low = lattice.scale[own], lattice.loc[own], lattice.low[own]
        step = 1.0 / (lattice.denominator[own] * unit)
        middle = (mean[:, fine] * unit + loc) * lattice.denominator[own] - low
        top = int(size[fine].max()) - 1
        yield CodedCells(own, s, BinnedGaussian(middle[s], (scale[:, fine] / step)[s], top))
    if not fine.all():
        at = SeenCells(index[~fine], seen[:, ~fine], lattice)
        model = at.on_line(masses.NORMAL, mean[:, ~fine][at.seen], scale[:, ~fine][at.seen])
        yield CodedCells(at.index, at.seen, model)


def symbol_models(
    parts: list[tuple[Tensor | slice, Distribution]],
    lattice: Lattice,
    observed: np.ndarray,
    given: tuple[Distribution, np.ndarray, np.ndarray] | None = None,
) -> Iterator[CodedCells]:
    """Symbol models of the observed cells ``(n, D)`` of a batch, part by part of the likelihood.

    ``parts`` hold parameters of at least n rows, of which the first n are used; ``given`` is a Gaussian part whose mean and
    scale ``(n, d)`` are these, what its cells are correlated through being taken in already.
    """
    n, d = observed.shape
    for where, part in parts:
        index = positions(where, d)
        at = SeenCells(index, observed[:, index], lattice)
        if given is not None and part is given[0]:
            yield from gaussian_symbols(*given[1:], lattice, at.index, at.seen)
        elif isinstance(part, Gaussian | RoundedGaussian):
            yield from gaussian_symbols(*gaussian_parameters(part, n), lattice, at.index, at.seen)
        elif type(part) in SYMBOLS:
            yield CodedCells(at.index, at.seen, SYMBOLS[type(part)](part, at))
        else:
            raise TypeError(f"no symbol model for cells of {type(part).__name__}")
