"""Codes rows with a latent-variable model, by bits-back coding.

To code rows x, the sender

    pops  z with q(z|x)        gains  −log₂ q(z|x)       (the bits decide z: a free draw from the posterior)
    pushes x with p(x|z)       costs  −log₂ p(x|z)
    pushes z with p(z)         costs  −log₂ p(z)

so a row costs −ELBO bits on average.  The receiver pops z and x and pushes z back.  z lives on a
lattice that prior and posterior share, so its step cancels (see :mod:`abduce.compress.latents`).

Where there are no bits to pop yet, z is the point nearest the posterior mean on a lattice as coarse as the
posterior is wide, and is paid for.  Networks run in batches padded to a few fixed shapes, with rows at the same
places on both sides, and their outputs are rounded to a grid before use.

Source: Townsend, Bird & Barber 2019 (arXiv:1901.04866), whose buckets of equal prior mass are a lattice here,
so that any Gaussian prior, mixtures too, can be cut along with the posterior.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from abduce.compress.batches import Uncodable, batch_rows
from abduce.compress.cells import SeenCells, symbol_models
from abduce.compress.latents import LatentGrid, LatentLaw
from abduce.compress.lattice import Lattice
from abduce.compress.stack import BitStack
from abduce.compress.symbols import SymbolModel, rounded
from abduce.distributions.posteriors import DiagonalNormal, FullNormal, MixtureNormal
from abduce.distributions.priors import StandardNormal, as_mixture
from abduce.inference.latent import LatentVariableModel


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
        # rows of the padded shape in which the networks run
        self.rows = batch_rows(min(2**20 / width, 2**23 / (prior.components * k * k)))
        self.appetite = 24 * (k + cells + 2)  # a pop takes at most 24 bits
        _, _, A, width = self._parameters(np.zeros((1, cells)), np.ones((1, cells), bool))
        if A is not None:  # width of each latent given those before it, least over the components
            width = width / np.abs(np.diagonal(A, axis1=-2, axis2=-1)).max(1)
        self.grid = LatentGrid.of(width)

    # -------------------------------------------------------------- the networks, in one padded shape

    def _padded(self, values: np.ndarray) -> torch.Tensor:
        # the shape follows from the number of rows alone, so both sides use the same
        rows = next((r for r in (16, 64, 256) if len(values) <= r < self.rows), self.rows)
        out = np.zeros((rows, values.shape[1]), values.dtype)
        out[: len(values)] = values
        return torch.from_numpy(out)

    def _parameters(
        self, x: np.ndarray, observed: np.ndarray
    ) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None, np.ndarray]:
        """log_r, mean, A and scale of q(z|x) of n rows, as a ``LatentLaw`` takes them."""
        n = len(x)
        q = self.model.posterior(self._padded(x), None if observed.all() else self._padded(observed))
        if isinstance(q, FullNormal):
            q = q.mixture()
        if isinstance(q, DiagonalNormal):
            return None, q.mean[:n, None].numpy(), None, np.exp(rounded(q.log_scale[:n].numpy()))
        if not isinstance(q, MixtureNormal):
            raise Uncodable(
                f"its posterior would have to be of Gaussians (diagonal, full), it is {type(q).__name__}"
            )
        mean = (q.means[:n] + q.shift[:n, None]).numpy()
        A = q.chol[:n].mT if q.ties is None else q.ties[:n, None] @ q.chol[:n].mT
        A = rounded(A.numpy())
        return q.log_r[:n].numpy(), mean, A, np.exp(rounded(q.log_stretch[:n].numpy()))

    def _posterior(self, x: np.ndarray, observed: np.ndarray) -> LatentLaw:
        return LatentLaw(*self._parameters(x, observed), self.grid)

    def _prior(self, n: int) -> LatentLaw:
        """p(z), for n rows."""
        scale = np.ones((n, len(self.grid.unit)))
        if self._mixture is None:
            return LatentLaw(None, np.zeros((n, 1, scale.shape[1])), None, scale, self.grid)
        log_r, mean, A = self._mixture
        log_r, mean = (np.broadcast_to(a, (n, *a.shape[1:])) for a in (log_r, mean))
        return LatentLaw(log_r, mean, A, scale, self.grid, upper=False)

    def _symbols(self, z: np.ndarray, observed: np.ndarray) -> Iterator[tuple[SeenCells, SymbolModel]]:
        """p(x|z) of the observed cells, part by part."""
        parts = self.model.likelihood(self._padded(z / self.grid.unit)).parts
        return symbol_models(parts, self.lattice, observed)

    # -------------------------------------------------------------- one batch

    def push(self, stack: BitStack, k: np.ndarray, observed: np.ndarray, plain: bool) -> None:
        z = self._posterior(self.lattice.values(k, observed), observed).choose(stack, plain)
        for cells, model in reversed(list(self._symbols(z, observed))):
            cells.push(stack, model, k - self.lattice.low)
        self._prior(len(k)).push(stack, z, plain, guard=True)

    def pop(self, stack: BitStack, observed: np.ndarray, plain: bool) -> np.ndarray:
        z = self._prior(len(observed)).pop(stack, plain)
        s = np.zeros(observed.shape, np.int64)
        for cells, model in self._symbols(z, observed):
            cells.pop(stack, model, s)
        k = np.where(observed, s + self.lattice.low, 0)
        if not plain:
            self._posterior(self.lattice.values(k, observed), observed).push(stack, z)
        return k
