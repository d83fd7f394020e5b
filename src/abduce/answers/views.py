"""Views of clean rows x through noise: linear maps, flips of binary cells, and counts of which a share was counted.

A view says, for latents z, how likely the seen values y are and what the clean row then looks like:

    Linear(σ, A)        y = A x + σ · noise, A any linear map, cells of y may be blank
    Flips(ε)            binary cells, each turned over with probability ε
    Thinned(ρ)          counts, each item counted with probability ρ: y ~ Binomial(x, ρ)

(Cells that are seen exactly or not at all are :class:`abduce.data.seen.Blanks`.)  For a linear view p(x|z) is taken at its
first two moments, N(m, C) with C = diag(s²).  With S = A C Aᵀ + diag(σ²) over the seen cells of y,

    log p(y|z) = log N(y; A m, S),      E[x | z, y] = m + C Aᵀ S⁻¹ (y − A m),

and a draw u ~ N(m, C) with v = A u + σ · noise gives a draw of x given y: u + C Aᵀ S⁻¹ (y − v).  Where no cell of x feeds two
of y (noise, means over blocks) S is diagonal.  Where it isn't (blur, bicubic), S would be factorised for every z; see
:meth:`Linear.hold`.

Sources: Wiener 1949, Kalman 1960 (the gain C Aᵀ S⁻¹); Journel & Huijbregts 1978, Doucet 2010 (draws by a correction).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from abduce.checks import check_share
from abduce.data.operators import IDENTITY, Operator
from abduce.data.seen import View
from abduce.distributions.cells import LOG_2PI
from abduce.distributions.continuous import Gaussian
from abduce.distributions.discrete import Bernoulli
from abduce.distributions.likelihoods import Distribution, Product
from abduce.gaussians.linear import LinearPath

LEAST_NOISE = 1e-3  # standard deviation, model units: what is seen is never believed beyond this


@dataclass(frozen=True, eq=False)
class Linear(View):
    """y = A x + noise, of standard deviation ``noise`` in model units: one number, or one for each cell of y.

    ``held`` is what :meth:`hold` keeps: variances of the cells of x, (rows, D), and the Cholesky factors of S, (rows, d, d).
    """

    name = "linear"
    noise: Tensor | float
    operator: Operator = IDENTITY
    held: tuple[Tensor, Tensor] | None = None

    def apply(self, x: Tensor) -> Tensor:
        """A x, (..., D) -> (..., d)."""
        return self.operator.apply(x)

    def spread(self, y: Tensor) -> Tensor:
        """Standard deviation of each cell of y, at least a thousandth, (d,)."""
        return torch.as_tensor(self.noise).to(y).expand(y.shape[-1]).clamp_min(LEAST_NOISE)

    def guess(self, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Spread what was seen over the cells that it came from, by how much of it did."""
        if self.operator == IDENTITY:
            return y, mask
        share = self.operator.each(torch.abs)
        known = share.adjoint(mask.to(y))
        x = share.adjoint(y * mask) / known.clamp_min(1e-12)
        return x, known > 0.5 * share.adjoint(torch.ones_like(y))

    def hold(self, likelihood: Product, seen: Tensor) -> Linear:
        """Hold the variances of p(x|z) at their means over the draws of z, one for each row, where S isn't diagonal.

        S is then factorised once a row, not once a row and draw, some hundred times the work.  Means still move with z, and
        everything that follows is exact for the model held so.  Nothing is changed where the scale is no function of z.
        """
        g = likelihood.gaussian()
        if self.operator.disjoint:
            return self
        variance = g.scale.square().expand_as(g.mean).mean(0)
        return replace(self, held=(variance, self._root(variance, seen)))

    def rows(self, index: Tensor) -> Linear:
        """The observation of some rows of a chunk."""
        return self if self.held is None else replace(self, held=tuple(t[index] for t in self.held))

    def log_prob(self, likelihood: Product, y: Tensor, mask: Tensor) -> Tensor:
        return self._law(likelihood.gaussian(), mask).log_prob(y, mask)

    def clean(self, likelihood: Product, y: Tensor, mask: Tensor) -> _Corrected:
        return _Corrected(self, likelihood.gaussian(), y, mask)

    def point(self, model: Any, moments: list[Tensor]) -> Tensor:
        return moments[0].squeeze(-1)

    def centre(self, clean: _Corrected) -> Tensor:
        return clean.moments()[0][0, ..., 0]

    def affine(self, y: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        return self.apply, self.spread(y)

    def path_posterior(self, path: LinearPath, y: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior of a linear path's latents given y, which is linear-Gaussian too: see :meth:`LinearPath.posterior`.

        Where the noise A diag(D) Aᵀ + diag(σ²) of y couples cells, each pattern of blanks is whitened by its Cholesky factor.
        """
        W, b = self.apply(path.W.mT).mT, self.apply(path.b)
        squared = self.spread(y).square()
        if self.operator.disjoint:
            noise = self.operator.each(torch.square).apply(path.noise) + squared
            return replace(path, W=W, b=b, noise=noise).posterior(y, seen)[:3]
        patterns, which = torch.unique(seen, dim=0, return_inverse=True)
        parts, order = [], []
        for i, pattern in enumerate(patterns):
            rows = (which == i).nonzero().squeeze(1)
            root = self._root(path.noise, pattern)
            white = torch.linalg.solve_triangular(root, W * pattern.unsqueeze(1), upper=False)
            residual = torch.where(pattern, y[rows] - b, 0.0)
            values = torch.linalg.solve_triangular(root, residual.mT, upper=False).mT
            plain = replace(path, W=white, b=torch.zeros_like(b), noise=torch.ones_like(b))
            log_r, means, chol, _ = plain.posterior(values, None)
            parts.append((log_r, means, chol.expand(len(rows), -1, -1, -1)))
            order.append(rows)
        back = torch.cat(order).argsort()
        log_r, means, chol = (torch.cat(column)[back] for column in zip(*parts, strict=True))
        return log_r, means, chol

    def _root(self, variance: Tensor, seen: Tensor) -> Tensor:
        """Cholesky factor of S over the seen cells, ones for the others, (..., d, d)."""
        A = self.apply(torch.eye(variance.shape[-1]).to(variance)).mT  # (d, D)
        S = (A * variance.unsqueeze(-2)) @ A.mT + torch.diag(self.spread(A.mT).square())
        blank = torch.diag_embed((~seen).to(S))
        return torch.linalg.cholesky(S * (seen.unsqueeze(-1) & seen.unsqueeze(-2)) + blank)

    def _law(self, g: Gaussian, seen: Tensor) -> _Diagonal | _Coupled:
        mean = self.apply(g.mean)
        if self.held is not None:
            return _Coupled(mean, self.held[1])
        if not self.operator.disjoint:
            return _Coupled(mean, self._root(g.scale.square().expand_as(g.mean), seen))
        variance = self.operator.each(torch.square).apply(g.scale.square()) + self.spread(mean).square()
        return _Diagonal(Gaussian(mean, variance.sqrt()))


class _Diagonal:
    """The law of y given z where cells of y are independent."""

    def __init__(self, law: Gaussian):
        self.law, self.mean = law, law.mean

    def log_prob(self, y: Tensor, seen: Tensor) -> Tensor:
        return self.law.log_prob(y, seen)

    def solve(self, residual: Tensor, seen: Tensor) -> Tensor:
        """S⁻¹ r over the seen cells, zero at the others."""
        return residual / self.law.scale.square() * seen


class _Coupled:
    """The law of y given z where A couples its cells: N(mean, S), S by its Cholesky factors, of each row or of each z too."""

    def __init__(self, mean: Tensor, root: Tensor):
        self.mean, self.root = mean, root

    def log_prob(self, y: Tensor, seen: Tensor) -> Tensor:
        half = self._with_columns(
            torch.where(seen, y - self.mean, 0.0),
            lambda root, r: torch.linalg.solve_triangular(root, r, upper=False),
        )
        log_det = 2 * torch.diagonal(self.root, dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (half.square().sum(-1) + log_det + LOG_2PI * seen.to(half).sum(-1))

    def solve(self, residual: Tensor, seen: Tensor) -> Tensor:
        """S⁻¹ r over the seen cells, zero at the others."""
        masked = torch.where(seen, residual, 0.0)
        return self._with_columns(masked, lambda root, r: torch.cholesky_solve(r, root))

    def _with_columns(self, r: Tensor, solve: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Solve for r (..., rows, d), all draws of a row as the columns of one system where they share its factor."""
        if r.ndim == self.root.ndim:  # (samples, rows, d) and (rows, d, d)
            return solve(self.root, r.permute(1, 2, 0)).permute(2, 0, 1)
        return solve(self.root, r.unsqueeze(-1)).squeeze(-1)


class _Corrected:
    """p(x | z, y) under a linear observation: the law of x given z, moved by what y says."""

    def __init__(self, observation: Linear, g: Gaussian, y: Tensor, seen: Tensor):
        self.observation, self.g, self.y, self.seen = observation, g, y, seen
        self.law = observation._law(g, seen)
        self.variance = g.scale.square() if observation.held is None else observation.held[0]

    def moments(self) -> list[Tensor]:
        mean = self.g.mean + self._gain(self.y - self.law.mean)
        return [mean.unsqueeze(-1)]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        u = Gaussian(self.g.mean, self.variance.sqrt()).sample(generator)
        v = self.observation.apply(u)
        noise = torch.randn(v.shape, generator=generator, dtype=v.dtype, device=v.device)
        return u + self._gain(self.y - v - self.observation.spread(v) * noise)

    def _gain(self, residual: Tensor) -> Tensor:
        """C Aᵀ S⁻¹ r, (..., d) -> (..., D)."""
        return self.variance * self.observation.operator.adjoint(self.law.solve(residual, self.seen))


class Flips(View):
    """Binary cells, each turned over with probability ``rate``; cells of other kinds are seen exactly."""

    name = "flips"
    kinds = frozenset({"binary"})

    def __init__(self, rate: float):
        if not isinstance(rate, Real) or not 0 <= rate < 0.5:
            raise ValueError(f"noise of binary data is a flip probability in [0, 0.5), got {rate!r}")
        self.rate = max(float(rate), 1e-9)

    def __repr__(self) -> str:
        return f"Flips({self.rate!r})"

    def field(self, y: Tensor, seen: Tensor) -> Tensor:
        """log p(y | x = 1) − log p(y | x = 0) of each cell: what an energy's field of the clean row is."""
        odds = float(torch.logit(torch.tensor(1 - self.rate, dtype=torch.float64)))
        return torch.where(seen, odds * (2 * y - 1), 0.0)

    def guess(self, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return y, mask

    def _noisy(self, part: Distribution) -> Distribution:
        if not isinstance(part, Bernoulli):
            return part
        p = torch.sigmoid(part.logits)
        return Bernoulli(torch.logit((1 - self.rate) * p + self.rate * (1 - p), eps=1e-12))

    def log_prob(self, likelihood: Product, y: Tensor, mask: Tensor) -> Tensor:
        parts = [(cells, self._noisy(part)) for cells, part in likelihood.parts]
        return Product(parts, likelihood.n_cells).log_prob(y, mask)

    def clean(self, likelihood: Product, y: Tensor, mask: Tensor) -> Product:
        field = self.field(y, mask)
        parts: list[tuple[Tensor | slice, Distribution]] = []
        for cells, part in likelihood.parts:
            turned = Bernoulli(part.logits + field[..., cells]) if isinstance(part, Bernoulli) else part
            parts.append((cells, turned))
        return Product(parts, likelihood.n_cells)

    def point(self, model: Any, moments: list[Tensor]) -> Tensor:
        return model.point(moments)

    def centre(self, clean: Product) -> Tensor:
        return clean.gaussian().mean[0]

    def hold(self, likelihood: Product, mask: Tensor) -> Flips:
        return self

    def rows(self, index: Tensor) -> Flips:
        return self


class Thinned(View):
    """Counts of which each item was counted with probability ``rate``, on its own: y ~ Binomial(x, rate).

    For a Poisson or negative binomial p(x | z) both p(y | z) and p(x | z, y) are of the same family.

    Source: Rényi 1956 (thinning); as molecular counts of which a share is captured, e.g. Wang et al. 2018 (SAVER).

    >>> Thinned(0.25)
    Thinned(0.25)
    """

    name = "thinned"
    kinds = frozenset({"count"})

    def __init__(self, rate: float):
        check_share("rate", rate)
        self.rate = float(rate)

    def __repr__(self) -> str:
        return f"Thinned({self.rate!r})"

    def guess(self, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return (y / self.rate).round(), mask

    def log_prob(self, likelihood: Product, y: Tensor, mask: Tensor) -> Tensor:
        counts: Any = likelihood.parts
        parts = [(cells, part.thinned(self.rate)) for cells, part in counts]
        return Product(parts, likelihood.n_cells).log_prob(y, mask)

    def clean(self, likelihood: Product, y: Tensor, mask: Tensor) -> Product:
        seen, rate = torch.where(mask, y, 0.0), self.rate * mask.to(y)  # of a blank cell no item was seen
        counts: Any = likelihood.parts
        parts: list[tuple[Tensor | slice, Distribution]] = []
        for cells, part in counts:
            least = seen[..., cells]
            parts.append((cells, _AtLeast(least, part.unseen(rate[..., cells], least))))
        return Product(parts, likelihood.n_cells)

    def point(self, model: Any, moments: list[Tensor]) -> Tensor:
        return model.point(moments)

    def centre(self, clean: Product) -> Tensor:
        return clean.gaussian().mean[0]

    def hold(self, likelihood: Product, mask: Tensor) -> Thinned:
        return self

    def rows(self, index: Tensor) -> Thinned:
        return self


class _AtLeast:
    """Counts x = ``least`` + a count whose law is ``rest``."""

    def __init__(self, least: Tensor, rest: Distribution):
        self.least, self.rest = least, rest

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.rest.log_prob(x - self.least, observed)

    def moments(self) -> Tensor:
        return self.least.unsqueeze(-1) + self.rest.moments()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.least + self.rest.sample(generator)

    def gaussian(self) -> Gaussian:
        rest = self.rest.gaussian()
        return Gaussian(self.least + rest.mean, rest.scale)
