"""Codes rows with a latent-variable model, by bits-back coding.

To code rows x, the sender

    pops  z with q(z|x)        gains  −log₂ q(z|x)       (the bits decide z: a free draw from the posterior)
    pushes x with p(x|z)       costs  −log₂ p(x|z)
    pushes z with p(z)         costs  −log₂ p(z)

so a row costs −ELBO bits on average.  The receiver pops z and x and pushes z back.  z lives on a
lattice that prior and posterior share, so its step cancels (see :mod:`abduce.compress.lattices`).  Where a
Gaussian likelihood has cells that stay correlated given z, x = mean + F u + noise, the factors u are latents
as well: popped from their exact posterior given x and z (one after another, each given those before), pushed
with N(0, I); given u the cells are independent.

Where there are no bits to pop yet, z is the point nearest the posterior mean on a lattice as coarse as the
posterior is wide, and is paid for.  Networks run in batches padded to a few fixed shapes, with rows at the same
places on both sides, and their outputs are rounded to a grid before use.

Source: Townsend, Bird & Barber 2019 (arXiv:1901.04866), whose buckets of equal prior mass are a lattice here,
so that any Gaussian prior, mixtures too, can be cut along with the posterior.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abduce.compress.batches import batch_rows
from abduce.compress.lattices import LatentLaw, coarse_steps, lattice_units
from abduce.compress.masses import LAPLACE, NORMAL, STUDENT_T, line_bits
from abduce.compress.symbols import Lattice, Stack, rounded, symbol_models
from abduce.distributions.continuous import Gaussian, Laplace, RoundedGaussian, StudentT
from abduce.distributions.likelihoods import Product
from abduce.distributions.posteriors import DiagonalNormal, FullNormal, MixtureNormal
from abduce.distributions.priors import StandardNormal, as_mixture
from abduce.inference.latent import LatentVariableModel


class Factors:
    """The factors u (n, rank) through which the Gaussian cells of a batch stay correlated, given z."""

    def __init__(self, part: Gaussian, n: int, seen: np.ndarray):
        assert part.factor is not None
        self.factor = rounded(part.factor[:n].numpy() if part.factor.ndim == 3 else part.factor.numpy())
        self.mean = rounded(part.mean[:n].numpy())
        self.scale = np.exp(rounded(np.log(part.scale[:n].numpy())))
        self.whitened = self.factor / self.scale[..., None] * seen[..., None]  # (n, d, rank)
        gram = self.whitened.swapaxes(1, 2) @ self.whitened
        # posterior precision P = L Lᵀ, so Lᵀ(u − mean) ~ N(0, I)
        self.root = rounded(np.linalg.cholesky(gram + np.eye(gram.shape[-1])))
        width = 1.0 / np.diagonal(self.root, axis1=1, axis2=2)
        self.unit = lattice_units(width.min(0))
        self.coarse = coarse_steps(width, self.unit)
        self.prior = LatentLaw.standard(n, self.unit)

    def posterior(self, x: np.ndarray) -> LatentLaw:
        """The factors' exact law given the cells (n, d)."""
        residual = (x - self.mean) / self.scale
        projected = self.whitened.swapaxes(1, 2) @ residual[..., None]
        mean = np.linalg.solve(self.root @ self.root.swapaxes(1, 2), projected)[..., 0]
        A = self.root.swapaxes(1, 2)
        return LatentLaw(None, mean[:, None], A[:, None], np.ones(mean.shape), self.unit)

    def cells(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and scale (n, d) of the cells given the factors' lattice points."""
        return rounded(self.mean + (self.factor @ (u / self.unit)[..., None])[..., 0]), self.scale


class LatentCodec:
    """Bits-back coding of codes (n, D); a :class:`~abduce.compress.batches.Codec`."""

    bits_back = True

    def __init__(self, model: LatentVariableModel, lattice: Lattice):
        self.model, self.lattice = model, lattice
        cells, k = len(lattice.size), model.latent_dim
        width = cells + sum(int(head.n_parameters) for head in model.heads.heads)  # pyright: ignore
        self._mixture: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        components = 1
        prior: Any = model.prior
        law: Any = as_mixture(prior)
        if law is not None:
            weights, means, roots = (t.double().numpy() for t in (law.weights, law.means, law.roots))
            self._mixture = np.log(weights)[None], means[None], rounded(np.linalg.inv(roots))[None]
            components = len(weights)
        elif not isinstance(prior, StandardNormal):
            raise ValueError(
                f"compress needs a prior of Gaussians (normal, mixture, vamp), this model has {type(prior).__name__}"
            )
        # rows of the padded shape in which the networks run
        self.rows = batch_rows(min(2**20 / width, 2**23 / (components * k * k)))
        self.appetite = 24 * (k + cells + 2)  # a pop takes at most 24 bits
        self.unit = np.ones(k, np.int64)
        typical = self._posterior(np.zeros((1, cells)), np.ones((1, cells), bool)).width()[0]
        self.unit = lattice_units(typical)
        self.coarse = coarse_steps(typical, self.unit)

    # -------------------------------------------------------------- the networks, in one padded shape

    def _padded(self, values: np.ndarray) -> torch.Tensor:
        # the shape follows from the number of rows alone, so both sides use the same
        rows = next((r for r in (16, 64, 256) if len(values) <= r < self.rows), self.rows)
        out = np.zeros((rows, values.shape[1]), values.dtype)
        out[: len(values)] = values
        return torch.from_numpy(out)

    def _posterior(self, x: np.ndarray, observed: np.ndarray) -> LatentLaw:
        """q(z|x) of n rows."""
        n = len(x)
        q = self.model.posterior(self._padded(x), None if observed.all() else self._padded(observed))
        if isinstance(q, FullNormal):
            q = q.mixture()
        if isinstance(q, DiagonalNormal):
            return LatentLaw(
                None, q.mean[:n, None].numpy(), None, np.exp(rounded(q.log_scale[:n].numpy())), self.unit
            )
        if not isinstance(q, MixtureNormal):
            raise ValueError(
                f"compress needs a posterior of Gaussians (diagonal, full), this model has {type(q).__name__}"
            )
        mean = (q.means[:n] + q.shift[:n, None]).numpy()
        A = rounded(q.chol[:n].mT.numpy())
        return LatentLaw(q.log_r[:n].numpy(), mean, A, np.exp(rounded(q.log_stretch[:n].numpy())), self.unit)

    def _prior(self, n: int) -> LatentLaw:
        """p(z), for n rows."""
        if self._mixture is None:
            return LatentLaw.standard(n, self.unit)
        log_r, mean, A = (np.broadcast_to(a, (n, *a.shape[1:])) for a in self._mixture)
        return LatentLaw(log_r, mean, A[:1], np.ones((n, len(self.unit))), self.unit, upper=False)

    def _law(self, z: np.ndarray) -> Product:
        return self.model.likelihood(self._padded(z / self.unit))

    def _gaussian(
        self, law: Product, observed: np.ndarray
    ) -> tuple[np.ndarray, Gaussian | RoundedGaussian, Factors | None] | None:
        """Find the Gaussian part: its cells' positions, itself, and its factors if its cells are
        correlated."""
        n, d = observed.shape
        for where, part in law.parts:
            if isinstance(part, Gaussian | RoundedGaussian):
                index = np.arange(d)[where if isinstance(where, slice) else where.numpy()]
                if isinstance(part, RoundedGaussian) or part.factor is None:
                    return index, part, None
                return index, part, Factors(part, n, observed[:, index])
        return None

    # -------------------------------------------------------------- one batch

    def push(self, stack: Stack, k: np.ndarray, observed: np.ndarray, plain: bool) -> None:
        n = len(k)
        x = self.lattice.values(k, observed)
        q = self._posterior(x, observed)
        z = q.centre(self.coarse) if plain else q.draw(stack, guard=True)
        law = self._law(z)
        gaussian, factors, u = None, None, np.zeros((n, 0), np.int64)
        if found := self._gaussian(law, observed):
            index, part, factors = found
            if factors is not None:
                own = factors.posterior(x[:, index])
                u = own.centre(factors.coarse) if plain else own.draw(stack, guard=True)
            gaussian = given(part, factors, u, n)
        s = k - self.lattice.low
        for cells in reversed(list(symbol_models(law.parts, gaussian, self.lattice, observed))):
            cells.model.push(stack, s[:, cells.index][cells.seen])
        if plain:
            if factors is not None:
                factors.prior.pay(stack, u, factors.coarse)
            self._prior(n).pay(stack, z, self.coarse)
        else:
            if factors is not None:
                factors.prior.give(stack, u)
            self._prior(n).give(stack, z, guard=True)

    def pop(self, stack: Stack, observed: np.ndarray, plain: bool) -> np.ndarray:
        n = len(observed)
        prior = self._prior(n)
        z = prior.receive(stack, self.coarse) if plain else prior.draw(stack)
        law = self._law(z)
        gaussian, factors, u, index = None, None, np.zeros((n, 0), np.int64), np.zeros(0, np.int64)
        if found := self._gaussian(law, observed):
            index, part, factors = found
            if factors is not None:
                u = factors.prior.receive(stack, factors.coarse) if plain else factors.prior.draw(stack)
            gaussian = given(part, factors, u, n)
        s = np.zeros(observed.shape, np.int64)
        for cells in symbol_models(law.parts, gaussian, self.lattice, observed):
            block = np.zeros(cells.seen.shape, np.int64)
            block[cells.seen] = cells.model.pop(stack)
            s[:, cells.index] = block
        k = np.where(observed, s + self.lattice.low, 0)
        if not plain:
            x = self.lattice.values(k, observed)
            if factors is not None:
                factors.posterior(x[:, index]).give(stack, u)
            self._posterior(x, observed).give(stack, z)
        return k

    # -------------------------------------------------------------- what the model promises

    def promised(self, k: np.ndarray, observed: np.ndarray, draws: int, seed: int) -> np.ndarray:
        """−ELBO in bits, cells on their lattice."""
        out = np.zeros(len(k))
        generator = torch.Generator().manual_seed(seed)
        for start in range(0, len(k), self.rows):
            ks, os = k[start : start + self.rows], observed[start : start + self.rows]
            x, seen = torch.from_numpy(self.lattice.values(ks, os)), torch.from_numpy(os)
            q = self.model.posterior(x, None if os.all() else seen)
            for _ in range(draws):
                out[start : start + len(ks)] += self._negative_elbo(ks, x, seen, q, generator) / draws
        return out

    def _negative_elbo(
        self, k: np.ndarray, x: Tensor, seen: Tensor, q: Any, generator: torch.Generator
    ) -> np.ndarray:
        """−ELBO of one draw from q, bits, (n,)."""
        noise = torch.randn(1, len(x), self.model.noise_dim, generator=generator, dtype=x.dtype)
        z = q.transport(noise)[0]
        nats = self.model.prior.log_prob(z) - q.log_prob(z)
        bits = np.zeros(len(k))
        for where, part in self.model.likelihood(z).parts:
            shape: np.ndarray | float = 0.0
            if isinstance(part, Gaussian | RoundedGaussian):
                law, loc = NORMAL, part.mean
            elif isinstance(part, Laplace):
                law, loc = LAPLACE, part.loc
            elif isinstance(part, StudentT):
                law, loc, shape = STUDENT_T, part.loc, part.df.numpy()
            else:
                nats = nats + part.log_prob(x[:, where], seen[:, where])
                continue
            if isinstance(part, Gaussian) and part.factor is not None:
                middle, root = part.factor_posterior(x[:, where], seen[:, where])
                noise = torch.randn(middle.shape, generator=generator, dtype=x.dtype)
                u = middle + (root @ noise.unsqueeze(-1)).squeeze(-1)
                log_det = torch.diagonal(root, dim1=-2, dim2=-1).log().sum(-1)
                nats = nats - 0.5 * u.square().sum(-1) + 0.5 * noise.square().sum(-1) + log_det
                loc = loc + (part.factor @ u.unsqueeze(-1)).squeeze(-1)
            index = np.arange(k.shape[1])[where if isinstance(where, slice) else where.numpy()]
            cells = k[:, index], index, seen.numpy()[:, index]
            bits += line_bits(law, *cells, loc.numpy(), part.scale.numpy(), self.lattice, shape)
        return bits - nats.numpy() / math.log(2.0)


def given(
    part: Gaussian | RoundedGaussian, factors: Factors | None, u: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale (n, d) of independent Gaussian cells, their factors given."""
    if factors is not None:
        return factors.cells(u)
    return rounded(part.mean[:n].numpy()), np.exp(rounded(np.log(part.scale[:n].numpy())))
