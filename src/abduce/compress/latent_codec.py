"""Codes rows with a latent-variable model, by bits-back coding.

To code rows x, the sender

    pops  z with q(z|x)        gains  −log₂ q(z|x)       (the bits decide z: a free draw from the posterior)
    pushes x with p(x|z)       costs  −log₂ p(x|z)
    pushes z with p(z)         costs  −log₂ p(z)

so a row costs −ELBO bits on average.  The receiver pops z and x and pushes z back.  z lives on a
lattice that prior and posterior share, so its step cancels (see :mod:`abduce.compress.latents`).

Where there are no bits to pop yet, z is the point nearest the posterior mean on a lattice as coarse as the
posterior is wide, and is paid for.  Networks run on pieces of a batch, padded to one of two fixed shapes, with rows at the
same places on both sides, and their outputs are rounded to a grid before use.

Source: Townsend, Bird & Barber 2019 (arXiv:1901.04866), whose buckets of equal prior mass are a lattice here,
so that any Gaussian prior, mixtures too, can be cut along with the posterior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from abduce.compress.batches import Uncodable, batch_rows
from abduce.compress.cells import SeenCells, symbol_models
from abduce.compress.latents import LatentGrid, LatentLaw
from abduce.compress.lattice import Lattice
from abduce.compress.stack import BitStack
from abduce.compress.steady import in_threads
from abduce.compress.symbols import SymbolModel, rounded
from abduce.distributions.likelihoods import Product
from abduce.distributions.posteriors import DiagonalNormal, FullNormal, MixtureNormal
from abduce.distributions.priors import StandardNormal, as_mixture
from abduce.inference.latent import LatentVariableModel

FEWEST = 16  # rows of the smaller shape


class LatentCodec:
    """Bits-back coding of codes (n, D); a :class:`~abduce.compress.batches.Codec`."""

    bits_back = True

    def __init__(self, model: LatentVariableModel, lattice: Lattice):
        self.model, self.lattice = model, lattice
        cells, k = len(lattice.size), model.latent_dim
        width = cells + sum(int(head.n_parameters) for head in model.heads.heads)  # pyright: ignore
        self._mixture: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        prior: Any = model.prior
        law: Any = as_mixture(prior)
        if law is not None:
            weights, means, roots = (t.double().numpy() for t in (law.weights, law.means, law.roots))
            self._mixture = np.log(weights)[None], means[None], rounded(np.linalg.inv(roots))[None]
        elif not isinstance(prior, StandardNormal):
            raise Uncodable(
                f"its prior would have to be of Gaussians (normal, mixture, vamp), it is {type(prior).__name__}"
            )
        self.rows = batch_rows(min(2**20 / width, 2**23 / (prior.components * k * k)))
        self.piece = min(self.rows, batch_rows(2**19 / width))
        self.appetite = 24 * (k + cells + 2)  # a pop takes at most 24 bits
        _, _, A, width, _ = self._parameters([np.zeros((1, cells)), None])
        if A is not None:  # width of each latent given those before it, least over the components
            width = width / np.abs(np.diagonal(A, axis1=-2, axis2=-1)).max(1)
        self.grid = LatentGrid.of(width)
        self.forget()

    def forget(self) -> None:
        self._asked = Remembered(self._law), Remembered(self._likelihoods)

    # -------------------------------------------------------------- the networks, in two padded shapes

    def _pieces(self, *arrays: np.ndarray | None) -> list[list[np.ndarray | None]]:
        """The same rows of each array: which go together follows from their number alone, so both sides do the same."""
        n = next(len(a) for a in arrays if a is not None)
        starts = range(0, max(n, 1), self.piece)
        return [[None if a is None else a[i : i + self.piece] for a in arrays] for i in starts]

    def _padded(self, values: np.ndarray) -> torch.Tensor:
        rows = FEWEST if len(values) <= FEWEST else self.piece
        out = np.zeros((rows, values.shape[1]), values.dtype)
        out[: len(values)] = values
        return torch.from_numpy(out)

    def _law(self, x: np.ndarray, observed: np.ndarray) -> LatentLaw:
        """q(z|x) of n rows."""
        pieces = self._pieces(x, None if observed.all() else observed)
        found = zip(*in_threads(self._parameters, pieces), strict=True)
        log_r, mean, A, scale, ties = map(_joined, found)
        return LatentLaw(log_r, mean, A, scale, self.grid, ties=ties)

    def _parameters(self, piece: list[Any]) -> tuple[Any, ...]:
        """log_r, mean, A, scale and ties of q(z|x) of a piece of the rows, as a ``LatentLaw`` takes them."""
        x, observed = piece
        n = len(x)
        q = self.model.posterior(self._padded(x), None if observed is None else self._padded(observed))
        if isinstance(q, FullNormal):
            q = q.mixture()
        if isinstance(q, DiagonalNormal):
            return None, q.mean[:n, None].numpy(), None, np.exp(rounded(q.log_scale[:n].numpy())), None
        if not isinstance(q, MixtureNormal):
            raise Uncodable(
                f"its posterior would have to be of Gaussians (diagonal, full), it is {type(q).__name__}"
            )
        mean = (q.means[:n] + q.shift[:n, None]).numpy()
        A, ties = (None if t is None else rounded(t[:n].numpy()) for t in (q.chol.mT, q.ties))
        if observed is not None and A is not None:  # where all is observed, in this piece alone
            A = np.broadcast_to(A, (n, *A.shape[1:]))
        return q.log_r[:n].numpy(), mean, A, np.exp(rounded(q.log_stretch[:n].numpy())), ties

    def _prior(self, n: int) -> LatentLaw:
        """p(z), for n rows."""
        scale = np.ones((n, len(self.grid.unit)))
        if self._mixture is None:
            return LatentLaw(None, np.zeros((n, 1, scale.shape[1])), None, scale, self.grid)
        log_r, mean, A = self._mixture
        log_r, mean = (np.broadcast_to(a, (n, *a.shape[1:])) for a in (log_r, mean))
        return LatentLaw(log_r, mean, A, scale, self.grid, upper=False)

    def _symbols(
        self, z: np.ndarray, observed: np.ndarray
    ) -> Iterator[tuple[slice, Iterator[tuple[SeenCells, SymbolModel]]]]:
        """p(x|z) of the observed cells, piece by piece of the rows, and of each part by part."""
        for i, law in enumerate(self._asked[1](z)):
            rows = slice(i * self.piece, (i + 1) * self.piece)
            yield rows, symbol_models(law.parts, self.lattice, observed[rows])

    def _likelihoods(self, z: np.ndarray) -> list[Product]:
        """p(x|z) of each piece of the rows."""
        pieces: list[Any] = [piece for (piece,) in self._pieces(z / self.grid.unit)]
        return in_threads(lambda piece: self.model.likelihood(self._padded(piece)), pieces)

    # -------------------------------------------------------------- one batch

    def push(self, stack: BitStack, k: np.ndarray, observed: np.ndarray, plain: bool) -> None:
        z = self._asked[0](self.lattice.values(k, observed), observed).choose(stack, plain)
        for rows, parts in reversed(list(self._symbols(z, observed))):
            for cells, model in reversed(list(parts)):
                cells.push(stack, model, k[rows] - self.lattice.low)
        self._prior(len(k)).push(stack, z, plain, guard=True)

    def pop(self, stack: BitStack, observed: np.ndarray, plain: bool) -> np.ndarray:
        z = self._prior(len(observed)).pop(stack, plain)
        s = np.zeros(observed.shape, np.int64)
        for rows, parts in self._symbols(z, observed):
            for cells, model in parts:
                cells.pop(stack, model, s[rows])
        k = np.where(observed, s + self.lattice.low, 0)
        if not plain:
            self._asked[0](self.lattice.values(k, observed), observed).push(stack, z)
        return k


class Remembered:
    """A function of arrays that keeps what it gave last, and gives it again for the same arrays."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.last, self.value = function, (), None

    def __call__(self, *arrays: np.ndarray) -> Any:
        if len(self.last) != len(arrays) or not all(map(np.array_equal, self.last, arrays)):
            self.last, self.value = arrays, self.function(*arrays)
        return self.value


def _joined(pieces: Sequence[np.ndarray | None]) -> Any:
    """Arrays of pieces of the rows as one; those that hold for all rows, of length 1, are one already."""
    known = [a for a in pieces if a is not None]
    if not known or all(len(a) == 1 for a in known):
        return pieces[0]
    return np.concatenate(known)
