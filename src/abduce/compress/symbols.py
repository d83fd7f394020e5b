"""Symbol models: what the entropy coder is told about each cell, given the latents.

A likelihood speaks of model values; a coder needs whole numbers with probabilities.  Every cell that is not a
code of categories lives on a lattice, value = (low + s) / denominator for s = 0..size−1, and s has the mass
that the likelihood gives to the interval around it (the first and the last symbol take the tails):

    binary                 Bernoulli
    categorical, ordinal   table of probabilities
    Gaussian, fine         Gaussian cut into bins of one lattice step
    all others             digits: the interval [0, size) is cut into at most 16 parts, again and again, and
                           each digit is coded by its exact share F(end) − F(start) of the mass that is left (the chain
                           rule), so a pixel of 256 levels costs 2 x 16 evaluations of F, and a range of 10¹⁵
                           is as exact as one of ten

Where a step's part of the law is so narrow that its density is flat, digits are uniform.  The parameters that
come out of the network are rounded to a grid before use: sums in floating point differ in their last bits
with the number of threads, the batch or the machine, and one differing bit would make most symbols decode
wrong.

All is plain NumPy, over the observed cells of a batch, flattened; no loop runs over rows or columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from abduce.compress.masses import (
    LAPLACE,
    NORMAL,
    STUDENT_T,
    Masses,
    beta_binomial_masses,
    continuous_bernoulli_masses,
    count_masses,
    line_masses,
    mixture_masses,
    poisson_masses,
)
from abduce.data.schema import Schema
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

GRID = 2.0**14  # network outputs are rounded to multiples of 1/GRID
PROBABILITY = 2.0**24  # and probabilities to multiples of 1/PROBABILITY, the coder's own precision
FINE = 2**16  # a Gaussian over more symbols than this would waste the coder's precision: digits instead
SINGLE = 32  # up to this many symbols make one digit
RADIX = 16
ENTRIES = 2**18  # table entries made at once: bounds memory


class Stack(Protocol):
    """The entropy coder: a stack of bits onto which symbols are pushed, and from which they are popped in
    reverse."""

    @property
    def bits(self) -> int: ...
    def push_flags(self, k: np.ndarray, p: np.ndarray) -> None: ...
    def pop_flags(self, p: np.ndarray) -> np.ndarray: ...
    def push_table(self, k: np.ndarray, table: np.ndarray) -> None: ...
    def pop_table(self, table: np.ndarray) -> np.ndarray: ...
    def push_gaussian(
        self, k: np.ndarray, mean: np.ndarray, scale: np.ndarray, low: int, high: int
    ) -> None: ...
    def pop_gaussian(self, mean: np.ndarray, scale: np.ndarray, low: int, high: int) -> np.ndarray: ...


class SymbolModel(Protocol):
    """The law of m symbols, each 0..size−1."""

    def push(self, stack: Stack, k: np.ndarray) -> None: ...
    def pop(self, stack: Stack) -> np.ndarray: ...


def rounded(x: Any) -> np.ndarray:
    """Round to the grid on which parameters are used."""
    return np.rint(np.asarray(x, np.float64) * GRID) / GRID


# ------------------------------------------------------------------ the lattice of a schema


@dataclass(frozen=True)
class Lattice:
    """Where each of the D cells' values lie: codes k = low + s, value k / denominator; all arrays
    ``(D,)``."""

    raw: np.ndarray  # cells whose model value is the code itself (classes, counts)
    log: np.ndarray  # cells modelled by their logarithm
    denominator: np.ndarray
    loc: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, schema: Schema, low: np.ndarray, size: np.ndarray) -> Lattice:
        """Spread a schema's fields, and the ranges ``(fields,)`` of their codes, over its cells."""

        def spread(values: Any, dtype: Any = np.float64) -> np.ndarray:
            return np.array(np.broadcast_to(np.array(values, dtype), (schema.n_cells,)))

        columns = schema.fields
        return cls(
            spread([f.coded or f.kind == "count" for f in columns], bool),
            spread([f.kind == "positive" for f in columns], bool),
            spread([f.denominator or 1 for f in columns]),
            spread([f.loc for f in columns]),
            spread([f.scale for f in columns]),
            spread(low, np.int64),
            spread(size, np.int64),
        )

    def cell(self, j: int) -> Lattice:
        """The lattice of one cell alone."""
        return Lattice(*(getattr(self, f.name)[j : j + 1] for f in fields(self)))

    def values(self, k: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """Turn codes (n, D) into model values; unobserved cells are 0."""
        v = np.where(observed, k, self.low) / self.denominator
        if self.log.any():
            v = np.where(self.log, np.log(np.where(self.log, np.maximum(v, 1e-300), 1.0)), v)
        v = np.where(self.raw, v, (v - self.loc) / self.scale)
        return np.where(observed, v, 0.0)

    def edges(self, cells: np.ndarray, e: np.ndarray) -> np.ndarray:
        """Model values of the lower edges of symbols ``e`` (m, j) of cells (m,), of the real line's kinds."""
        at = cells[:, None]
        v = (self.low[at] + e - 0.5) / self.denominator[at]
        log = self.log[at]
        if log.any():
            v = np.where(log, np.log(np.where(log, np.maximum(v, 1e-300), 1.0)), v)
        return (v - self.loc[at]) / self.scale[at]


def default_ranges(schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Range of codes of each field as seen in training: lowest code and number of codes, ``(fields,)``."""
    low, high = np.array([f.ends for f in schema.fields], np.int64).T
    return low, high - low + 1


# ------------------------------------------------------------------ symbol models


class Flags:
    """Bernoulli symbols from logits."""

    def __init__(self, logits: np.ndarray):
        p = 1.0 / (1.0 + np.exp(-np.clip(rounded(logits), -40.0, 40.0)))
        self.p = np.rint(p * PROBABILITY) / PROBABILITY

    def push(self, stack: Stack, k: np.ndarray) -> None:
        stack.push_flags(k, self.p)

    def pop(self, stack: Stack) -> np.ndarray:
        return stack.pop_flags(self.p)


class Table:
    """Symbols with a table of log-probabilities ``(m, K)``."""

    def __init__(self, log_probs: np.ndarray):
        self.table = np.rint(np.exp(rounded(np.maximum(log_probs, -60.0))) * PROBABILITY)

    def push(self, stack: Stack, k: np.ndarray) -> None:
        stack.push_table(k, self.table)

    def pop(self, stack: Stack) -> np.ndarray:
        return stack.pop_table(self.table)


class Bins:
    """A Gaussian in lattice units over symbols 0..top; the first and the last take the tails."""

    def __init__(self, mean: np.ndarray, scale: np.ndarray, top: int):
        self.top = max(top, 1)
        self.scale = np.maximum(scale, 2.0**-10)
        self.mean = np.clip(mean, -30.0 * self.scale, self.top + 30.0 * self.scale)

    def push(self, stack: Stack, k: np.ndarray) -> None:
        stack.push_gaussian(k, self.mean, self.scale, 0, self.top)

    def pop(self, stack: Stack) -> np.ndarray:
        return stack.pop_gaussian(self.mean, self.scale, 0, self.top)


class Digits:
    """Symbols 0..size−1 coded digit by digit; ``masses(edges, part)`` gives the mass between edges ``(m, j +
    1)``."""

    def __init__(self, masses: Masses, size: np.ndarray):
        self.masses = masses
        self.size = size
        top = int(size.max(initial=2))
        self.levels = 1 if top <= SINGLE else -(-(top - 1).bit_length() // 4)
        radix = max(2, round(top ** (1 / self.levels)) - 1)
        while radix**self.levels < top:
            radix += 1
        self.radix = radix

    def _chunks(self) -> list[slice]:
        step = max(1, ENTRIES // self.radix)
        return [slice(i, min(i + step, len(self.size))) for i in range(0, len(self.size), step)]

    def _table(self, start: np.ndarray, width: int, part: slice) -> np.ndarray:
        size = self.size[part, None]
        edges = np.minimum(start[:, None] + width * np.arange(self.radix + 1), size)
        mass = np.maximum(self.masses(edges, part), 0.0)
        total = mass.sum(1, keepdims=True)
        # where all the mass has underflown, any law will do that both sides share
        tiny = 1e-30
        return np.rint((mass + tiny) / (total + self.radix * tiny) * PROBABILITY)

    def push(self, stack: Stack, k: np.ndarray) -> None:
        for part in reversed(self._chunks()):
            pushes = []
            start = np.zeros(part.stop - part.start, np.int64)
            for level in reversed(range(self.levels)):
                width = self.radix**level
                digit = (k[part] - start) // width
                pushes.append((digit, self._table(start, width, part)))
                start = start + digit * width
            for digit, table in reversed(pushes):
                stack.push_table(digit, table)

    def pop(self, stack: Stack) -> np.ndarray:
        out = np.zeros(len(self.size), np.int64)
        for part in self._chunks():
            for level in reversed(range(self.levels)):
                width = self.radix**level
                out[part] += stack.pop_table(self._table(out[part], width, part)) * width
        return out


# ------------------------------------------------------------------ from likelihoods to symbol models


@dataclass(frozen=True)
class Cells:
    """Positions of a part's cells ``(d,)``, where they are observed ``(n, d)``, and the law of the observed
    ones."""

    index: np.ndarray
    seen: np.ndarray
    model: SymbolModel


def gaussian_symbols(
    mean: np.ndarray, scale: np.ndarray, lattice: Lattice, index: np.ndarray, seen: np.ndarray
) -> Iterator[Cells]:
    """Give the symbol models of independent Gaussian cells ``index`` (d,), of mean and scale ``(n, d)`` in model space."""
    size = lattice.size[index]
    fine = ~lattice.log[index] & (size <= FINE)
    if fine.any():
        own, s = index[fine], seen[:, fine]
        step = 1.0 / (lattice.denominator[own] * lattice.scale[own])
        middle = (mean[:, fine] * lattice.scale[own] + lattice.loc[own]) * lattice.denominator[
            own
        ] - lattice.low[own]
        yield Cells(own, s, Bins(middle[s], (scale[:, fine] / step)[s], int(lattice.size[own].max()) - 1))
    if not fine.all():
        own, s = index[~fine], seen[:, ~fine]
        cell, sizes = np.broadcast_to(own, s.shape)[s], np.broadcast_to(size[~fine], s.shape)[s]
        law = line_masses(NORMAL, lattice, cell, mean[:, ~fine][s], scale[:, ~fine][s], sizes)
        yield Cells(own, s, Digits(law, sizes))


def symbol_models(
    parts: list[tuple[Tensor | slice, Distribution]],
    gaussian: tuple[np.ndarray, np.ndarray] | None,
    lattice: Lattice,
    observed: np.ndarray,
) -> Iterator[Cells]:
    """Give the symbol models of the observed cells ``(n, D)`` of a batch, part by part of the likelihood.

    ``parts`` hold parameters of at least n rows, of which the first n are used; ``gaussian`` is the mean and
    scale ``(n, d)`` of the first Gaussian part, whatever it is correlated through taken in already.
    """
    n, d = observed.shape
    for where, part in parts:
        index = np.arange(d)[where if isinstance(where, slice) else where.numpy()]
        seen = observed[:, index]
        size = lattice.size[index]

        def take(t: Tensor, seen: np.ndarray = seen) -> np.ndarray:
            return rounded(t[:n].numpy()[seen])

        def spread(t: Tensor, seen: np.ndarray = seen) -> np.ndarray:  # (n, components, d) to (components, m)
            return np.stack([rounded(c.numpy()[seen]) for c in t[:n].unbind(-2)])

        if isinstance(part, Gaussian | RoundedGaussian):
            if gaussian is None:
                gaussian = rounded(part.mean[:n].numpy()), np.exp(rounded(np.log(part.scale[:n].numpy())))
            (mean, scale), gaussian = gaussian, None
            yield from gaussian_symbols(mean, scale, lattice, index, seen)
            continue
        sizes = np.broadcast_to(size, seen.shape)[seen]
        if isinstance(part, Bernoulli):
            yield Cells(index, seen, Flags(take(part.logits)))
        elif isinstance(part, Categorical):
            yield Cells(index, seen, Table(take(part.log_probs.clamp_min(-60.0))))
        elif isinstance(part, NegativeBinomial):
            law = count_masses(take(part.log_mean), take(part.log_dispersion), sizes)
            yield Cells(index, seen, Digits(law, sizes))
        elif isinstance(part, Laplace | StudentT):
            cell = np.broadcast_to(index, seen.shape)[seen]
            loc, scale = take(part.loc), np.exp(take(part.scale.log()))
            if isinstance(part, Laplace):
                law = line_masses(LAPLACE, lattice, cell, loc, scale, sizes)
            else:
                law = line_masses(STUDENT_T, lattice, cell, loc, scale, sizes, take(part.df))
            yield Cells(index, seen, Digits(law, sizes))
        elif isinstance(part, Poisson):
            yield Cells(index, seen, Digits(poisson_masses(take(part.log_rate), sizes), sizes))
        elif isinstance(part, BetaBinomial):
            a, b = (np.exp(take(shape.log())) for shape in part.shapes())
            law = beta_binomial_masses(a, b, take(part.n.expand_as(part.logits)))
            yield Cells(index, seen, Digits(law, sizes))
        elif isinstance(part, ContinuousBernoulli):
            law = continuous_bernoulli_masses(take(part.logits), round(1 / part.half) + 1)
            yield Cells(index, seen, Digits(law, sizes))
        elif isinstance(part, DiscretizedLogisticMixture):
            law = mixture_masses(spread(part.logits), spread(part.loc), spread(part.log_scale), part.levels)
            yield Cells(index, seen, Digits(law, sizes))
        else:
            raise TypeError(f"no symbol model for cells of {type(part).__name__}")
