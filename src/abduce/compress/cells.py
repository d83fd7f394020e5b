"""From likelihoods to symbol models: what the entropy coder is told about the cells of a batch, given the latents.

A likelihood speaks of model values; a coder needs whole numbers with probabilities.  On a cell's lattice, symbol s has the
mass that the likelihood gives to the interval around its value (the first and the last symbol take the tails).  Binary cells
are flags, categories a table, Gaussians bins of one lattice step where it is fine enough; all others are coded by digits.

All is plain NumPy, over the observed cells of a batch, flattened; no loop runs over rows or columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, stdtr
from torch import Tensor

from abduce.compress import masses
from abduce.compress.batches import Uncodable
from abduce.compress.greys import GreySymbols
from abduce.compress.lattice import Lattice
from abduce.compress.stack import BitStack
from abduce.compress.symbols import (
    DigitSymbols,
    SymbolModel,
    binned_symbols,
    flag_symbols,
    rounded,
    table_symbols,
)
from abduce.distributions.continuous import ContinuousBernoulli, Gaussian, Laplace, StudentT
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
    def size(self) -> np.ndarray:
        """Number of symbols of each, (m,)."""
        return np.broadcast_to(self.lattice.size[self.index], self.seen.shape)[self.seen]

    def take(self, t: Tensor) -> np.ndarray:
        """Parameters (>= n, d), rounded, of each, (m,)."""
        return rounded(t[: len(self.seen)].numpy()[self.seen])

    def digits(self, law: masses.Masses) -> DigitSymbols:
        """Code them digit by digit."""
        return DigitSymbols(law, self.size)

    def on_line(
        self, cdf: Callable[[np.ndarray, slice], np.ndarray], loc: np.ndarray, scale: np.ndarray
    ) -> DigitSymbols:
        """Code them digit by digit under a law of location and scale (m,) in model space."""
        cell = np.broadcast_to(self.index, self.seen.shape)[self.seen]
        return self.digits(masses.line_masses(cdf, self.lattice, cell, loc, scale, self.size))

    def push(self, stack: BitStack, model: SymbolModel, s: np.ndarray) -> None:
        """Push their symbols, out of those of all cells (n, D)."""
        model.push(stack, s[:, self.index][self.seen])

    def pop(self, stack: BitStack, model: SymbolModel, s: np.ndarray) -> None:
        """Pop their symbols into those of all cells (n, D)."""
        block = np.zeros(self.seen.shape, np.int64)
        block[self.seen] = model.pop(stack)
        s[:, self.index] = block


def _laplace(part: Laplace, at: SeenCells) -> SymbolModel:
    scale = np.exp(at.take(part.scale.log()))
    return at.on_line(lambda t, _: masses.laplace(t), at.take(part.loc), scale)


def _student_t(part: StudentT, at: SeenCells) -> SymbolModel:
    df, scale = at.take(part.df), np.exp(at.take(part.scale.log()))
    return at.on_line(lambda t, some: stdtr(df[some, None], t), at.take(part.loc), scale)


def _negative_binomial(part: NegativeBinomial, at: SeenCells) -> SymbolModel:
    return at.digits(masses.count_masses(at.take(part.log_mean), at.take(part.log_dispersion), at.size))


def _beta_binomial(part: BetaBinomial, at: SeenCells) -> SymbolModel:
    a, b = (np.exp(at.take(shape.log())) for shape in part.shapes())
    return at.digits(masses.beta_binomial_masses(a, b, at.take(part.n.expand_as(part.logits))))


def _continuous_bernoulli(part: ContinuousBernoulli, at: SeenCells) -> SymbolModel:
    return at.digits(masses.continuous_bernoulli_masses(at.take(part.logits), round(1 / part.half) + 1))


def _logistic_mixture(part: DiscretizedLogisticMixture, at: SeenCells) -> SymbolModel:
    return GreySymbols(part, at.seen, int(at.lattice.size[at.index].max()))


# a likelihood, and the symbol model of its cells; Gaussian cells, some of which are bins and some digits, apart
SYMBOLS: dict[type, Callable[[Any, SeenCells], SymbolModel]] = {
    Bernoulli: lambda part, at: flag_symbols(at.take(part.logits)),
    Categorical: lambda part, at: table_symbols(at.take(part.log_probs.clamp_min(-60.0))),
    NegativeBinomial: _negative_binomial,
    Poisson: lambda part, at: at.digits(masses.poisson_masses(at.take(part.log_rate), at.size)),
    BetaBinomial: _beta_binomial,
    Laplace: _laplace,
    StudentT: _student_t,
    ContinuousBernoulli: _continuous_bernoulli,
    DiscretizedLogisticMixture: _logistic_mixture,
}


def gaussian_symbols(
    mean: np.ndarray, scale: np.ndarray, at: SeenCells
) -> Iterator[tuple[SeenCells, SymbolModel]]:
    """Symbol models of independent Gaussian cells, of mean and scale ``(n, d)`` in model space."""
    index, seen, lattice = at
    size = lattice.size[index]
    fine = ~lattice.log[index] & (size <= FINE)
    if fine.any():
        own, s = index[fine], seen[:, fine]
        unit, per = lattice.scale[own], lattice.denominator[own]
        middle = (mean[:, fine] * unit + lattice.loc[own]) * per - lattice.low[own]
        width = scale[:, fine] / (1.0 / (per * unit))
        yield SeenCells(own, s, lattice), binned_symbols(middle[s], width[s], int(size[fine].max()) - 1)
    if not fine.all():
        rest = SeenCells(index[~fine], seen[:, ~fine], lattice)
        yield rest, rest.on_line(lambda t, _: ndtr(t), mean[:, ~fine][rest.seen], scale[:, ~fine][rest.seen])


def symbol_models(
    parts: list[tuple[Tensor | slice, Distribution]], lattice: Lattice, observed: np.ndarray
) -> Iterator[tuple[SeenCells, SymbolModel]]:
    """Symbol models of the observed cells ``(n, D)`` of a batch, part by part of the likelihood.

    ``parts`` hold parameters of at least n rows, of which the first n are used.
    """
    n, d = observed.shape
    for where, part in parts:
        index = positions(where, d)
        at = SeenCells(index, observed[:, index], lattice)
        if isinstance(part, Gaussian):
            scale = np.exp(rounded(np.log(part.scale[:n].numpy())))
            yield from gaussian_symbols(rounded(part.mean[:n].numpy()), scale, at)
        elif type(part) in SYMBOLS:
            yield at, SYMBOLS[type(part)](part, at)
        else:
            raise Uncodable(f"cells of {type(part).__name__} have no code")
