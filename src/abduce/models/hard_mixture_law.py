"""The probability that k-means stands for: a mixture in which only the nearest centre counts.

    p(y) = exp(−β min_k ‖y − w_k‖²) / Z,        Z = (π/β)^{D/2} Σ_k P_k,

P_k the mass that N(w_k, I/2β) puts on the Voronoi cell of w_k.  It is bounded by the soft mixture

    q̃(y) = Σ_k exp(−β ‖y − w_k‖²),        exp(−β min_k ‖y − w_k‖²) = q̃(y) ρ(y),        ρ = max_k r_k(y) in [1/K, 1],

with r_k the responsibilities of the soft mixture for the whole row.  So draws by rejection from q̃ are exact and accepted
with probability at least 1/K, and integrals by importance sampling from q̃ have weights in [1/K, 1].  Observed cells are
clamped: the conditional of q̃ given them is a mixture too, N(w_k, I/2β) on the blanks, weights ∝ exp(−β ‖y_obs − w_k,obs‖²).

log Z is a quasi-random average with an interval from independent scramblings.  Marginals and conditional means of rows
with blanks average over ``draws`` scrambled Sobol points, the same for all rows: deterministic, of small error (for 64 cells,
half of them blank, and 64 centres about 0.01-0.02 nats where the wells overlap, 0.001 where they do not).

Source: the bound is the textbook rejection method (von Neumann 1951); Owen 1997 (scrambled nets).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor
from torch.quasirandom import SobolEngine

from abduce.data.seen import Seen, Unanswerable
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.law import ANY
from abduce.gaussians.mixture import slices
from abduce.inference.energy import LogZ

SCRAMBLINGS = 16
QUANTILE = 1.753  # of Student's t with 15 degrees of freedom, 5 % above


class HardMixtureLaw:
    """p(y) ∝ exp(−β min_k ‖y − w_k‖²) with centres w (K, D) and an inverse temperature β > 0.

    ``n_draws`` Sobol points serve each marginal and conditional mean; ``points`` in all serve log Z.

    >>> law = HardMixtureLaw(torch.tensor([[0.0, 0.0]]), beta=0.5)
    >>> round(law.log_z().value, 4)  # one centre: a Gaussian of unit variance
    1.8379
    """

    views = ANY
    rowwise = False
    n_draws, points, seed = 512, 2**17, 0

    def __init__(self, centres: Tensor, beta: float):
        if centres.ndim != 2:
            raise ValueError(f"centres must have shape (K, D), got {tuple(centres.shape)}")
        if not beta > 0:
            raise ValueError(f"beta must be positive, got {beta}")
        self.centres, self.beta = centres, float(beta)
        self._squares = centres.square().sum(1)
        self._scale = 1 / math.sqrt(2 * self.beta)
        self._log_cell = 0.5 * math.log(math.pi / self.beta)  # log ∫ exp(−β t²) dt

    def log_z(self) -> LogZ:
        """log ∫ exp(−β min_k ‖y − w_k‖²) dy, nats; exact for one centre."""
        return self._log_z

    def log_prob(self, seen: Seen) -> Tensor:
        """log p of the observed cells, nats, (rows,); estimated for rows with blanks (see above)."""
        if not seen.exact:
            raise Unanswerable(f"log p of rows seen through {seen.view!r} is not known for a hard mixture")
        x, mask = seen.y, seen.mask
        nearest = torch.cdist(x, self.centres).amin(1).square()
        out = -self.beta * nearest - self._log_z.value
        blank = (~mask.all(1)).nonzero().flatten()
        for rows, y, soft in self._soft_draws(x[blank], mask[blank]):
            share = torch.logsumexp(self.log_acceptance(y), 0) - math.log(self.n_draws)
            empty = self._log_cell * (~mask[blank[rows]]).to(x.dtype).sum(1)
            out[blank[rows]] = torch.logsumexp(soft, 1) + empty + share - self._log_z.value
        return out

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        nothing = Seen.nothing(n, self.centres.shape[1]).to(self.centres.dtype)
        return self.draws(nothing, 1, generator)[0]

    def mean(self, seen: Seen) -> Tensor:
        """E[x | seen], (rows, D), by weighted draws (see above); observed cells as they are."""
        x, mask = seen.y, seen.mask
        out = x.new_empty(len(x), self.centres.shape[1])
        if seen.exact:
            for rows, y, soft in self._soft_draws(x, mask):
                out[rows] = self._weighted_mean(y, torch.softmax(soft, 1) @ self.centres)
            return torch.where(mask, x, out)
        for rows in slices(len(x), self.n_draws * max(self.centres.shape)):
            part = seen.rows(rows)
            generator = Generator(device=x.device).manual_seed(self.seed)
            draws = self._soft.draws(part, self.n_draws, generator, shared=True)
            out[rows] = self._weighted_mean(draws, self._soft.mean(part))
        return out

    def draws(self, seen: Seen, n: int, generator: Generator | None = None, shared: bool = False) -> Tensor:
        """Draw whole rows from p(x | seen) by rejection from the soft mixture, exactly: (n, rows, D).

        With ``shared`` each row has the same random numbers, as far as rejection goes on.
        """
        rows = len(seen.y)
        if shared:
            source = torch.default_generator if generator is None else generator
            start, parts = source.get_state(), []
            for i in range(rows):  # how many numbers a row takes depends on the row
                source.set_state(start)
                parts.append(self.draws(seen.rows(slice(i, i + 1)), n, generator))
            return torch.cat(parts, 1) if parts else self.centres.new_empty(n, 0, self.centres.shape[1])
        propose = self._proposed(seen, generator)
        out = seen.y.new_empty(n * rows, self.centres.shape[1])
        pending = torch.arange(len(out), device=out.device)
        while len(pending):  # on average K rounds at most
            y = propose(pending % rows)
            u = torch.rand(len(y), generator=generator, dtype=out.dtype, device=out.device)
            accept = u.log() < self.log_acceptance(y)
            out[pending[accept]] = y[accept]
            pending = pending[~accept]
        return out.view(n, rows, -1)

    def _proposed(self, seen: Seen, generator: Generator | None) -> Callable[[Tensor], Tensor]:
        """A function that draws from the soft mixture given what was seen of some rows (m,): (m, D)."""
        if not seen.exact:
            return lambda row: self._soft.draws(seen.rows(row), 1, generator)[0]
        x, mask = seen.y, seen.mask
        cumulative = torch.softmax(self._log_soft(x, mask), 1).cumsum(1)
        factory: dict[str, Any] = {"generator": generator, "dtype": x.dtype, "device": x.device}

        def propose(row: Tensor) -> Tensor:
            k = self._pick(cumulative[row], torch.rand(len(row), 1, **factory))[:, 0]
            y = self.centres[k] + self._scale * torch.randn(len(row), x.shape[1], **factory)
            return torch.where(mask[row], x[row], y)

        return propose

    @cached_property
    def _soft(self) -> GaussianMixtureLaw:
        """The soft mixture, Σ_k N(w_k, I/2β) of equal weights."""
        k, d = self.centres.shape
        round_ = self._scale**2 * torch.eye(d).to(self.centres)
        return GaussianMixtureLaw(self.centres.new_zeros(k), self.centres, round_.expand(k, -1, -1))

    def log_acceptance(self, y: Tensor) -> Tensor:
        """log ρ(y), the largest responsibility of the soft mixture for whole rows, (..., D) -> (...); in [−log K, 0]."""
        score = self.beta * (2 * y @ self.centres.mT - self._squares)  # ‖y‖² is common to all k
        return score.amax(-1) - torch.logsumexp(score, -1)

    @cached_property
    def _log_z(self) -> LogZ:
        """The soft mixture's log Z plus log E[ρ], the latter from scrambled nets around every centre."""
        k, d = self.centres.shape
        if k == 1:
            return LogZ.exact(d * self._log_cell)
        # the balance of a Sobol sequence holds for powers of two
        each = 2 ** int(math.log2(max(32, self.points // (SCRAMBLINGS * k))))
        shares = []
        for i in range(SCRAMBLINGS):
            noise = self._scale * _normal(self._sobol(d, each, self.seed + i))
            y = self.centres.unsqueeze(1) + noise
            shares.append(torch.stack([self.log_acceptance(part).exp().mean() for part in y]).mean())
        share = torch.stack(shares).double()
        value = d * self._log_cell + math.log(k) + float(share.mean().log())
        error = float(share.std() / share.mean()) / math.sqrt(SCRAMBLINGS)
        found = {"method": "importance sampling with weights in [1/K, 1]", "standard_error": error}
        found |= {"acceptance": float(share.mean()), "draws": SCRAMBLINGS * each * k}
        return LogZ(value, value - QUANTILE * error, value + QUANTILE * error, "estimate", found)

    def _log_soft(self, x: Tensor, observed: Tensor) -> Tensor:
        """−β ‖x_obs − w_k,obs‖², (batch, K)."""
        seen = observed.to(x.dtype)
        x = torch.where(observed, x, 0.0)
        distance = x.square().sum(1, keepdim=True) - 2 * x @ self.centres.mT + seen @ self.centres.square().mT
        return -self.beta * distance.clamp_min(0)

    def _soft_draws(self, x: Tensor, observed: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Chunks of rows: their place, quasi-random draws of q̃ given the observed cells, and −β ‖x_obs − w_k,obs‖²."""
        points = self._sobol(
            self.centres.shape[1] + 1, self.n_draws, self.seed
        )  # one coordinate picks the centre
        noise = self._scale * _normal(points[:, 1:]).unsqueeze(1)
        for rows in slices(len(x), self.n_draws * max(self.centres.shape)):
            soft = self._log_soft(x[rows], observed[rows])
            cumulative = torch.softmax(soft, 1).cumsum(1)
            pick = self._pick(cumulative, points[:, 0].expand(len(soft), -1).contiguous())
            yield rows, torch.where(observed[rows], x[rows], self.centres[pick.mT] + noise), soft

    def _weighted_mean(self, y: Tensor, exact: Tensor) -> Tensor:
        """Average draws of the soft mixture (draws, batch, D) under their weights ρ.

        ``exact`` (batch, D), the soft mixture's own mean, is a control variate: only what the weights change is sampled.
        """
        change = torch.softmax(self.log_acceptance(y), 0) - 1 / len(y)
        return exact + torch.einsum("sb,sbd->bd", change, y)

    def _pick(self, cumulative: Tensor, u: Tensor) -> Tensor:
        """The centres at which cumulative weights (n, K) pass u (n, m): (n, m)."""
        found = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)
        return found.clamp_max(len(self.centres) - 1)

    def _sobol(self, dimension: int, n: int, seed: int) -> Tensor:
        """Scrambled Sobol points, (n, dimension)."""
        points = SobolEngine(dimension, scramble=True, seed=seed).draw(n, dtype=torch.float64)
        return points.to(self.centres)


def _normal(u: Tensor) -> Tensor:
    """Standard normal quantiles, away from the ends of the unit interval."""
    return torch.special.ndtri(u.double().clamp(1e-10, 1 - 1e-10)).to(u.dtype)
