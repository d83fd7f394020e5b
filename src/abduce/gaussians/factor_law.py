"""A mixture of factor analysers, Gaussians of a few factors and noise; apart, as full covariances take 4 times as long.

    p(x) = Σ_k π_k N(x; μ_k, W_k W_kᵀ + Ψ_k),      Ψ_k diagonal, W_k (D, q)

Given cells o of a row, each component's factors z have a Gaussian posterior,

    P_k = I + W_oᵀ Ψ_o⁻¹ W_o,   m_k = P_k⁻¹ W_oᵀ Ψ_o⁻¹ (x_o − μ_o),
    log N(x_o) = −½ [rᵀ Ψ_o⁻¹ r − hᵀ P_k⁻¹ h + log det P_k + log det Ψ_o + |o| log 2π],   h = W_oᵀ Ψ_o⁻¹ r,

and a blank cell j the mean μ_j + W_j m_k and the variance Ψ_j + W_j P_k⁻¹ W_jᵀ.  A pattern of blanks costs D q² + q³, not D³.
Where factors are no fewer than half the cells, scores and means are found from precisions instead.

Sources: Ghahramani & Hinton 1996 (mixtures of factor analysers); Rubin & Thayer 1982.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.data.seen import Seen
from abduce.distributions.cells import LOG_2PI
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.mixture import (
    Given,
    Mixture,
    alike,
    choose,
    choose_evenly,
    patterns_of,
    slices,
    standard_normal,
)
from abduce.gaussians.precisions import Precisions, apart, may_have

KEPT = 2**20  # numbers that a law may keep beside its own
FEW = 32  # patterns of blanks up to which rows are taken pattern by pattern


class Factors(NamedTuple):
    """Posterior of the factors of a chunk of rows under each component.

    log π_k N(x_o) (B, K), means m (B, K, q), and the Cholesky factors of P (U, K, q, q) of the U patterns of blanks, with
    ``which`` (B,) of them each row has.
    """

    log_joint: Tensor
    mean: Tensor
    root: Tensor
    which: Tensor

    @property
    def shares(self) -> Tensor:
        """p(k | x_o), (B, K)."""
        return torch.softmax(self.log_joint, 1)


class FactorMixtureLaw(Mixture):
    """Mixture of K Gaussians over D cells whose covariances are q factors and noise.

    ``log_weights`` (K,) up to a constant, ``means`` (K, D), ``loadings`` (K, D, q), ``noise`` variances (K, D) above zero.

    >>> law = FactorMixtureLaw(torch.zeros(1), torch.zeros(1, 2), torch.ones(1, 2, 1), torch.full((1, 2), 0.25))
    >>> law.mean(Seen(torch.tensor([[1.0, torch.nan]]), torch.tensor([[True, False]])))
    tensor([[1.0000, 0.8000]])
    """

    def __init__(self, log_weights: Tensor, means: Tensor, loadings: Tensor, noise: Tensor):
        k, d = means.shape
        if log_weights.shape != (k,) or loadings.shape[:2] != (k, d) or noise.shape != (k, d):
            raise ValueError(
                f"log_weights, loadings and noise must have shapes ({k},), ({k}, {d}, q) and ({k}, {d}) for means of "
                f"shape ({k}, {d}), got {tuple(log_weights.shape)}, {tuple(loadings.shape)} and {tuple(noise.shape)}"
            )
        if not bool((noise > 0).all()):
            raise ValueError(f"noise must be above zero, got {float(noise.min())}")
        self.log_weights = torch.log_softmax(log_weights, 0)
        self.means, self.loadings, self.noise = means, loadings, noise
        self._kept: tuple[Tensor, ...] | None = None

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What it is made of."""
        return self.log_weights, self.means, self.loadings, self.noise

    def cells(self, some: Tensor) -> FactorMixtureLaw:
        """The law of some cells, marked in (D,)."""
        return FactorMixtureLaw(
            self.log_weights, self.means[:, some], self.loadings[:, some], self.noise[:, some]
        )

    def among(self, some: Tensor, mean: Tensor, noise: Tensor) -> FactorMixtureLaw:
        """This law as that of the cells marked in (D,), among others that are independent: ``mean`` and ``noise`` (D,)."""
        k, _, q = self.loadings.shape
        means, noises = mean.repeat(k, 1), noise.repeat(k, 1)
        loadings = self.loadings.new_zeros(k, len(some), q)
        means[:, some], loadings[:, some], noises[:, some] = self.means, self.loadings, self.noise
        return FactorMixtureLaw(self.log_weights, means, loadings, noises)

    @property
    def covariances(self) -> Tensor:
        """W Wᵀ + Ψ of each component, (K, D, D)."""
        return self.loadings @ self.loadings.mT + torch.diag_embed(self.noise)

    def dense(self) -> GaussianMixtureLaw:
        """The same law with covariances written out."""
        return GaussianMixtureLaw(self.log_weights, self.means, self.covariances)

    # ------------------------------------------------------------------ rows given what was seen of them

    def factors(self, seen: Seen) -> Factors:
        """The factors' posterior under each component, for rows that fit into memory at once."""
        x, mask = seen.y, seen.mask
        q = self.loadings.shape[2]
        precision, scaled, outer, constants, _ = self._products()
        patterns, which = patterns_of(mask)
        if (
            FEW < len(patterns) > len(mask) // 2
        ):  # nearly all different: each row by itself, without a copy for each
            patterns, which = mask, torch.arange(len(mask))
        pattern = patterns.to(x)
        gram = (pattern @ outer).transpose(0, 1).unflatten(2, (q, q))  # (U, K, q, q)
        root = torch.linalg.cholesky(gram + torch.eye(q, dtype=x.dtype, device=x.device))
        log_det = 2 * torch.diagonal(root, dim1=-2, dim2=-1).log().sum(-1)
        constant = pattern @ constants + log_det
        residual = torch.where(mask, x, 0.0).unsqueeze(0) - mask.to(x) * self.means.unsqueeze(1)  # (K, B, D)
        h = residual @ scaled  # (K, B, q)
        if len(root) == 1:
            half = torch.linalg.solve_triangular(root[0], h.mT, upper=False)  # (K, q, B)
            mean = torch.linalg.solve_triangular(root[0].mT, half, upper=True).permute(2, 0, 1)
            explained = half.square().sum(1).mT
        elif len(root) <= FEW:  # then rows with the same blanks are solved for together
            mean, explained = x.new_empty(len(x), *h.shape[::2]), x.new_empty(len(x), len(h))
            for u, rows in alike(torch.arange(len(x)), which):
                half = torch.linalg.solve_triangular(root[u], h[:, rows].mT, upper=False)  # (K, q, b)
                back = torch.linalg.solve_triangular(root[u].mT, half, upper=True)
                mean[rows], explained[rows] = back.permute(2, 0, 1), half.square().sum(1).mT
        else:
            own = root if len(root) == len(x) and patterns is mask else root[which]
            half = torch.linalg.solve_triangular(own, h.transpose(0, 1).unsqueeze(-1), upper=False)
            mean = torch.linalg.solve_triangular(own.mT, half, upper=True).squeeze(-1)
            explained = half.square().sum((-2, -1))
        quadratic = (residual.square() @ precision.unsqueeze(-1)).squeeze(-1).mT
        log_joint = self.log_weights - 0.5 * (quadratic - explained + constant[which])
        return Factors(log_joint, mean, root, which)

    def _products(self) -> tuple[Tensor, ...]:
        """Ψ⁻¹ (K, D), Ψ⁻¹ W (K, D, q), Wᵀ Ψ⁻¹ W of each cell by itself (K, D, q²), log 2π Ψ (D, K) and Wᵀ (K q, D); kept
        where they are little, as they take longer than one row."""
        if self._kept is not None:
            return self._kept
        precision = 1 / self.noise
        scaled = self.loadings * precision.unsqueeze(-1)
        outer = (scaled.unsqueeze(-1) * self.loadings.unsqueeze(-2)).flatten(2)
        found = precision, scaled, outer, (self.noise.log() + LOG_2PI).mT, self.loadings.mT.flatten(0, 1)
        self._kept = found if outer.numel() <= KEPT else None
        return found

    def chunks(self, seen: Seen) -> Iterator[tuple[slice, Factors]]:
        """Posteriors of the factors, a chunk of rows at a time."""
        k, d, q = self.loadings.shape
        for rows in slices(len(seen.y), k * max(q * q, d)):
            yield rows, self.factors(seen.rows(rows))

    def given(self, seen: Seen, singly: bool = False) -> Iterator[Given]:
        if not seen.exact:
            yield from self.dense().given(seen)
            return
        y = seen.y.to(self.means)
        shared, blocks = apart(self._precisions, y, seen.mask, singly)
        for block in blocks:
            yield block.given(y)
        for rows, f in self.chunks(seen.rows(shared)):

            def regress(shares: Tensor, f: Factors = f) -> Tensor:
                weighted = shares.unsqueeze(-1) * f.mean
                return weighted.flatten(1) @ self._products()[-1] + shares @ self.means

            yield Given(shared[rows], f.log_joint, regress)

    @property
    def rowwise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._precisions is not None

    @cached_property
    def _precisions(self) -> Precisions | None:
        _, d, q = self.loadings.shape
        if 2 * q < d or not may_have(self.means):
            return None
        covariances = self.covariances
        return Precisions.of(self.log_weights, self.means, covariances, torch.linalg.cholesky(covariances))

    def points(self, seen: Seen, count: int) -> Tensor:
        """``count`` points that stand for the law of each cell given the row, (count, rows, D), equally likely.

        Components are chosen systematically by their shares, each point at another quantile of its Gaussian.
        """
        out = seen.y.repeat(count, 1, 1)
        shared, blocks = apart(self._precisions, seen.y.to(self.means), seen.mask)
        for block in blocks:
            chosen, nodes = choose_evenly(torch.softmax(block.log_joint, 1), count)
            row, of, place = self._pairs(chosen)
            spread = torch.cholesky_inverse(block.roots[row, of])
            deviation = torch.diagonal(spread, dim1=-2, dim2=-1).sqrt()
            values = block.means[row, of][place] + nodes[:, None] * deviation[place]  # (R, count, m)
            some = out[:, block.rows]
            cells = block.cells.expand(count, -1, -1)
            out[:, block.rows] = some.scatter_(2, cells, values.transpose(0, 1).to(out))
        for rows, f in self.chunks(seen.rows(shared)):
            chosen, nodes = choose_evenly(f.shares, count)
            row, of, place = self._pairs(chosen)
            mean, deviation = self.means.new_empty(2, len(row), out.shape[2])
            if len(row) <= FEW:  # of a row or two: at once
                W = self.loadings[of]
                mean = self.means[of] + (W @ f.mean[row, of].unsqueeze(-1)).squeeze(-1)
                half = torch.linalg.solve_triangular(f.root[f.which[row], of], W.mT, upper=False)
                deviation = (self.noise[of] + half.square().sum(1)).sqrt()
            for c, own in alike(torch.arange(len(row)), of) if len(row) > FEW else ():
                mean[own] = self.means[c] + f.mean[row[own], c] @ self.loadings[c].mT
                half = torch.linalg.solve_triangular(
                    f.root[f.which[row[own]], c], self.loadings[c].mT, upper=False
                )
                deviation[own] = (self.noise[c] + half.square().sum(1)).sqrt()
            found = mean[place] + nodes[:, None] * deviation[place]  # (B, count, D)
            out[:, shared[rows]] = found.transpose(0, 1).to(out)
        return torch.where(seen.mask, seen.y, out)

    def _pairs(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and their components that any of the choices (B, count) is of, few of all: rows (P,), components (P,), and
        which pair each choice is, (B, count)."""
        k = len(self.means)
        pairs, place = torch.unique(chosen + k * torch.arange(len(chosen)).unsqueeze(1), return_inverse=True)
        return pairs // k, pairs % k, place

    def moments(self, seen: Seen) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Law of each cell given the row, a mixture of Gaussians: shares (B, K), means and variances (B, K, D).

        A chunk of rows at a time; the slice says which.  For cells that are observed they are what the factors make of them.
        """
        for rows, f in self.chunks(seen):
            mean = self.means + torch.einsum("bkq,kdq->bkd", f.mean, self.loadings)
            half = torch.linalg.solve_triangular(f.root, self.loadings.mT, upper=False)  # (U, K, q, D)
            variance = self.noise + half.square().sum(2)
            yield rows, f.shares, mean, variance[f.which]

    # ------------------------------------------------------------------ draws

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.loadings.shape[2], generator=generator, dtype=self.means.dtype)
        e = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        out = torch.empty_like(e)
        for c in k.unique().tolist():
            own = k == c
            out[own] = self._drawn(c, z[own], e[own])
        return out

    def _drawn(self, c: int, z: Tensor, e: Tensor) -> Tensor:
        """Rows of a component with these factors and this noise, standard normal."""
        return self.means[c] + z @ self.loadings[c].mT + self.noise[c].sqrt() * e

    def draws(self, seen: Seen, n: int, generator: Generator | None = None, shared: bool = False) -> Tensor:
        if not seen.exact:
            return self.dense().draws(seen, n, generator, shared)
        x, (_, d, q) = seen.y, self.loadings.shape
        out = x.new_empty(n, len(x), d)
        if shared and generator is None:
            generator = Generator().manual_seed(int(torch.randint(2**31 - 1, ())))
        begin = generator.get_state() if shared and generator is not None else None
        for rows, f in self.chunks(seen):
            if begin is not None and generator is not None:  # every chunk meets the same numbers
                generator.set_state(begin)
            count = len(f.log_joint)
            own = 1 if shared else count
            chosen = choose(f.shares, n, generator, shared).mT  # (B, n)
            noise = standard_normal((own, n, q), x, generator).expand(count, n, q)
            each = standard_normal((own, n, d), x, generator).expand(count, n, d)
            # the draws of one row and component share a factor; a step solves for all draws with that component
            for c in chosen.unique().tolist():
                b, s = (chosen == c).nonzero(as_tuple=True)
                root = f.root[f.which[b], c].mT
                pulled = torch.linalg.solve_triangular(root, noise[b, s].unsqueeze(-1), upper=True)
                out[s, rows.start + b] = self._drawn(c, f.mean[b, c] + pulled.squeeze(-1), each[b, s])
        return torch.where(seen.mask, x, out)
