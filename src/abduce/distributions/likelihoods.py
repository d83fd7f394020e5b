"""Likelihoods p(x|z): one plain distribution for each kind of cell, and their product over a row.

Every distribution covers ``d`` cells of one family for parameters of shape ``(..., d)`` and answers four questions,
all in model space (reals standardised, categories as codes):

    log_prob(x, observed)    nats, summed over the observed cells: shape (...)
    moments()                what may be averaged over posterior draws: means, or class probabilities, (..., d, m)
    condition(x, observed)   the same family given the observed cells: only cells that stay correlated change
    sample(generator)        a draw, (..., d)

``observed`` is a bool mask broadcast against ``x``; None means all cells are observed.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LOG_2PI = math.log(2 * math.pi)


class Distribution(Protocol):
    """What tasks and objectives ask of a likelihood."""

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor: ...
    def moments(self) -> Tensor: ...
    def condition(self, x: Tensor, observed: Tensor) -> Distribution: ...
    def sample(self, generator: torch.Generator | None = None) -> Tensor: ...
    def gaussian(self) -> Gaussian: ...


def masked_sum(cells: Tensor, observed: Tensor | None) -> Tensor:
    """Sum log-probabilities over observed cells; an unobserved cell adds exactly nothing."""
    return cells.sum(-1) if observed is None else torch.where(observed, cells, cells.new_zeros(())).sum(-1)


def uniform_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in (0, 1), never 0 or 1, in the shape of ``x``."""
    eps = torch.finfo(x.dtype).eps
    return torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device).clamp(eps, 1 - eps)


def normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers in the shape of ``x``."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


class Gaussian:
    """Gaussian N(x; mean, diag(scale²) + F Fᵀ), its cells correlated through a low-rank factor F ``(..., d, rank)``.

    Without a factor the cells are independent.  With one, the density of the observed cells and the law of the others
    given them are exact (Woodbury): with S = diag(scale²) and P = I + Fᵀ S⁻¹ F over observed cells,

        log N = −½ [rᵀS⁻¹r − ‖chol(P)⁻¹ Fᵀ S⁻¹ r‖² + log det P + Σ log(2π scale²)],     r = x − mean
        u | x_obs ~ N(P⁻¹ Fᵀ S⁻¹ r, P⁻¹),     x = mean + F u + scale · noise.

    Source: factor analysis, e.g. Ghahramani & Hinton 1996.
    """

    def __init__(self, mean: Tensor, scale: Tensor, factor: Tensor | None = None):
        self.mean = mean
        self.scale = scale
        self.factor = factor

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        standard = (x - self.mean) / self.scale
        cells = -0.5 * (standard.square() + LOG_2PI) - torch.log(self.scale)
        total = masked_sum(cells, observed)
        if self.factor is None:
            return total
        chol, projected = self._precision(standard, observed)
        half = torch.linalg.solve_triangular(chol, projected.unsqueeze(-1), upper=False).squeeze(-1)
        log_det = torch.diagonal(chol, dim1=-2, dim2=-1).log().sum(-1)
        return total + 0.5 * half.square().sum(-1) - log_det

    def _precision(self, standard: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cholesky factor of P and the projection Fᵀ S⁻¹ r over observed cells."""
        assert self.factor is not None
        scaled = self.factor / self.scale.unsqueeze(-1)
        if observed is not None:
            scaled = scaled * observed.unsqueeze(-1)
        gram = scaled.mT @ scaled
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        projected = (scaled.mT @ standard.unsqueeze(-1)).squeeze(-1)
        return torch.linalg.cholesky(gram + identity), projected

    def factor_posterior(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean ``(..., rank)`` and a square root R (R Rᵀ = P⁻¹) of the factors' law given the observed cells."""
        chol, projected = self._precision((x - self.mean) / self.scale, observed)
        mean = torch.cholesky_solve(projected.unsqueeze(-1), chol).squeeze(-1)
        identity = torch.eye(chol.shape[-1], dtype=chol.dtype, device=chol.device).expand_as(chol)
        return mean, torch.linalg.solve_triangular(chol.mT, identity, upper=True)

    def condition(self, x: Tensor, observed: Tensor) -> Gaussian:
        if self.factor is None:
            return self
        mean, root = self.factor_posterior(x, observed)
        return Gaussian(
            self.mean + (self.factor @ mean.unsqueeze(-1)).squeeze(-1), self.scale, self.factor @ root
        )

    def moments(self) -> Tensor:
        return self.mean.unsqueeze(-1)

    def variance(self) -> Tensor:
        """Marginal variance of each cell, (..., d)."""
        total = self.scale.square()
        return total if self.factor is None else total + self.factor.square().sum(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        x = self.mean + self.scale * normal_like(self.mean, generator)
        if self.factor is not None:
            shape = (*self.mean.shape[:-1], self.factor.shape[-1])
            u = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
            x = x + (self.factor @ u.unsqueeze(-1)).squeeze(-1)
        return x

    def gaussian(self) -> Gaussian:
        return self


class RoundedGaussian:
    """Gaussian cells known to have been rounded to a lattice of step 2·half: pixels of few grey values.

        P(x) = Φ((x + half − mean)/scale) − Φ((x − half − mean)/scale),

    the probability of the rounding interval; a density would grow without bound on values that repeat.
    """

    factor = None

    def __init__(self, mean: Tensor, scale: Tensor, half: float):
        self.mean, self.scale, self.half = mean, scale, half

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        # from the nearer tail, where the difference of two tail probabilities does not cancel
        distance = (x - self.mean).abs()
        unit = 1 / (math.sqrt(2) * self.scale)
        mass = 0.5 * (torch.erfc((distance - self.half) * unit) - torch.erfc((distance + self.half) * unit))
        return masked_sum(mass.clamp_min(torch.finfo(mass.dtype).tiny).log(), observed)

    def condition(self, x: Tensor, observed: Tensor) -> RoundedGaussian:
        return self

    def moments(self) -> Tensor:
        return self.mean.unsqueeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        x = self.mean + self.scale * normal_like(self.mean, generator)
        return torch.round((x.clamp(-1, 1) + 1) / (2 * self.half)) * (2 * self.half) - 1

    def gaussian(self) -> Gaussian:
        return Gaussian(self.mean, self.scale)


class _BernoulliMass(torch.autograd.Function):
    """Σ x·logit − softplus(logit) over the last axis, for training: fewer passes than autograd makes.

    softplus(l) = relu(l) − log max(σ(l), 1 − σ(l)), and the logarithm of a product of 32 such factors, each in [½, 1],
    stands for 32 logarithms.  The gradient is x − σ(l).
    """

    @staticmethod
    def forward(ctx, logits, x):
        p = torch.sigmoid(logits)
        larger = torch.sub(1.0, p)
        torch.maximum(p, larger, out=larger)
        whole = larger.shape[-1] - larger.shape[-1] % 32
        value = larger[..., :whole].unflatten(-1, (-1, 32)).prod(-1).log_().sum(-1)
        value += larger[..., whole:].prod(-1).log_()
        value += torch.sub(torch.mul(x, logits, out=larger), torch.relu(logits), out=larger).sum(-1)
        ctx.save_for_backward(torch.sub(x, p, out=p))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensors
        return slope * grad.unsqueeze(-1), None


class Bernoulli:
    """Bernoulli on logits: log p(x) = x·logit − softplus(logit), x in {0, 1}."""

    def __init__(self, logits: Tensor):
        self.logits = logits

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        if observed is None and self.logits.requires_grad and x.shape == self.logits.shape:
            return _BernoulliMass.apply(self.logits, x)
        return masked_sum(x * self.logits - F.softplus(self.logits), observed)

    def condition(self, x: Tensor, observed: Tensor) -> Bernoulli:
        return self

    def moments(self) -> Tensor:
        return torch.sigmoid(self.logits).unsqueeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return (uniform_like(self.logits, generator) < torch.sigmoid(self.logits)).to(self.logits.dtype)

    def gaussian(self) -> Gaussian:
        p = torch.sigmoid(self.logits)
        return Gaussian(p, (p * (1 - p)).clamp_min(1e-8).sqrt())


class Categorical:
    """Categorical over codes 0..K−1 from log-probabilities ``(..., d, K)``; also carries ordinal cells.

    Cells with fewer than K classes are padded with log-probability −inf.
    """

    def __init__(self, log_probs: Tensor):
        self.log_probs = log_probs

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        index = x.long().unsqueeze(-1)
        shape = torch.broadcast_shapes(index.shape[:-1], self.log_probs.shape[:-1])
        cells = torch.gather(self.log_probs.expand(*shape, -1), -1, index.expand(*shape, 1)).squeeze(-1)
        return masked_sum(cells, observed)

    def condition(self, x: Tensor, observed: Tensor) -> Categorical:
        return self

    def moments(self) -> Tensor:
        return self.log_probs.exp()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        gumbel = -torch.log(-torch.log(uniform_like(self.log_probs, generator)))
        return (self.log_probs + gumbel).argmax(-1).to(self.log_probs.dtype)

    def gaussian(self) -> Gaussian:
        codes = torch.arange(
            self.log_probs.shape[-1], dtype=self.log_probs.dtype, device=self.log_probs.device
        )
        p = self.log_probs.exp()
        mean = (p * codes).sum(-1)
        return Gaussian(mean, ((p * codes.square()).sum(-1) - mean.square()).clamp_min(1e-8).sqrt())


class NegativeBinomial:
    """Negative binomial counts with mean μ and dispersion r: variance μ + μ²/r (r → ∞ is Poisson)."""

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor):
        self.log_mean = log_mean
        self.log_dispersion = log_dispersion.expand_as(log_mean)

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        r = self.log_dispersion.exp()
        log_total = torch.logaddexp(self.log_mean, self.log_dispersion)
        cells = (
            torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
            + r * (self.log_dispersion - log_total) + x * (self.log_mean - log_total)
        )  # fmt: skip
        return masked_sum(cells, observed)

    def condition(self, x: Tensor, observed: Tensor) -> NegativeBinomial:
        return self

    def moments(self) -> Tensor:
        return self.log_mean.exp().unsqueeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        r = self.log_dispersion.exp()
        rate = torch._standard_gamma(r.contiguous(), generator=generator)  # pyright: ignore[reportPrivateImportUsage]
        rate = rate * torch.exp(self.log_mean) / r
        return torch.poisson(rate, generator=generator)

    def gaussian(self) -> Gaussian:
        mean = self.log_mean.exp()
        return Gaussian(mean, (mean + mean.square() / self.log_dispersion.exp()).sqrt())


class _LogMixtureMass(torch.autograd.Function):
    """log Σ_k π_k [σ(a_k) − σ(b_k)] of each cell with its gradient by hand, for training.

    Works with probabilities instead of their logarithms: about a tenth of the passes that autograd makes over tensors
    of the size (rows, components, cells).  Masses below 1e-12 are counted as 1e-12 (and pass no gradient beyond that).
    """

    @staticmethod
    def forward(ctx, logits, loc, log_scale, x, half):
        pi = torch.softmax(logits, -2)
        precision = torch.exp(-log_scale)
        x = x.unsqueeze(-2)
        centred = (x - loc).mul_(precision)
        # measure from the nearer tail, where the difference of two sigmoids does not cancel
        sign = torch.where(centred > 0, -1.0, 1.0)
        centred.mul_(sign)
        upper = torch.addcmul(centred, precision, torch.ones_like(precision), value=half).sigmoid_()
        lower = torch.addcmul(centred, precision, torch.ones_like(precision), value=-half).sigmoid_()
        edge = torch.where(x > 1 - 0.5 * half, 1.0, torch.where(x < -1 + 0.5 * half, -1.0, 0.0)) * sign
        upper.masked_fill_(edge > 0, 1.0)  # the first and the last bin are open
        lower.masked_fill_(edge < 0, 0.0)
        bins = upper - lower
        mass = (pi * bins).sum(-2).clamp_min_(1e-12)
        ctx.save_for_backward(pi, precision, sign, centred, upper, lower, bins, mass)
        ctx.half = half
        return mass.log()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        pi, precision, sign, centred, upper, lower, bins, mass = ctx.saved_tensors
        share = pi * (grad / mass).unsqueeze(-2)
        d_logits = torch.addcmul(share * bins, pi, grad.unsqueeze(-2), value=-1)
        du = upper.mul(1 - upper)  # the logistic density at each edge; zero at an edge that is open
        dl = lower.mul(1 - lower)
        slope = (du - dl).mul_(share)
        d_loc = -(precision * sign).mul_(slope)
        # d/d log_scale of (x ± half − loc)·precision is minus itself
        d_log_scale = -(centred * slope + ctx.half * precision * (du + dl).mul_(share))
        return d_logits, d_loc, d_log_scale, None, None


class DiscretizedLogisticMixture:
    """Mixture of logistics cut into ``levels`` bins that tile the real line, for pixels in [−1, 1].

    With half a bin h = 1/(levels − 1), P(x) = Σ_k π_k [σ((x + h − m_k)/s_k) − σ((x − h − m_k)/s_k)]; the first and
    the last bin take the whole tail, so the probabilities sum to one.  Parameters have shape ``(..., components, d)``.

    Source: Salimans et al. 2017 (arXiv:1701.05517).
    """

    def __init__(self, logits: Tensor, loc: Tensor, log_scale: Tensor, levels: int):
        self.logits = logits
        self.loc = loc
        self.log_scale = log_scale
        self.levels = levels

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        half = 1.0 / (self.levels - 1)
        if self.logits.requires_grad and self.logits.dtype == torch.float32:
            cells = _LogMixtureMass.apply(self.logits, self.loc, self.log_scale, x, half)
        else:
            cells = self._log_mass(x, half)
        return masked_sum(cells, observed)

    def _log_mass(self, x: Tensor, half: float) -> Tensor:
        """Log-probability of the bin of each cell, (..., d), exact far into the tails."""
        x = x.unsqueeze(-2)
        precision = torch.exp(-self.log_scale)
        centred = (x - self.loc) * precision
        width = half * precision
        upper, lower = -F.softplus(-(centred + width)), -F.softplus(centred - width)
        # log[σ(a) − σ(b)] = −softplus(−a) − softplus(b) + log(1 − e^{b−a}): no cancellation anywhere
        inside = torch.log(-torch.expm1(-2 * width)) + upper + lower
        edge = half * 0.5
        log_bin = torch.where(x < -1 + edge, upper, torch.where(x > 1 - edge, lower, inside))
        return torch.logsumexp(log_bin + torch.log_softmax(self.logits, -2), -2)

    def probabilities(self) -> Tensor:
        """The whole table of probabilities over levels, (..., d, levels)."""
        edges = torch.linspace(-1, 1, self.levels, dtype=self.loc.dtype, device=self.loc.device)
        cuts = 0.5 * (edges[1:] + edges[:-1])
        standard = (cuts - self.loc.unsqueeze(-1)) * torch.exp(-self.log_scale).unsqueeze(-1)
        cdf = (torch.softmax(self.logits, -2).unsqueeze(-1) * torch.sigmoid(standard)).sum(-3)
        zero, one = cdf.new_zeros(()).expand_as(cdf[..., :1]), cdf.new_ones(()).expand_as(cdf[..., :1])
        return torch.cat([cdf, one], -1) - torch.cat([zero, cdf], -1)

    def condition(self, x: Tensor, observed: Tensor) -> DiscretizedLogisticMixture:
        return self

    def moments(self) -> Tensor:
        return self.gaussian().mean.unsqueeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        gumbel = -torch.log(-torch.log(uniform_like(self.logits, generator)))
        k = (self.logits + gumbel).argmax(-2, keepdim=True)
        loc = torch.gather(self.loc, -2, k).squeeze(-2)
        scale = torch.gather(self.log_scale, -2, k).squeeze(-2).exp()
        x = loc + scale * torch.logit(uniform_like(loc, generator))
        return torch.round((x.clamp(-1, 1) + 1) * (0.5 * (self.levels - 1))) * (2 / (self.levels - 1)) - 1

    def gaussian(self) -> Gaussian:
        """The Gaussian with the mixture's first two moments, exact over the bins for up to 64 levels."""
        if self.levels <= 64:
            p = self.probabilities()
            x = torch.linspace(-1, 1, self.levels, dtype=p.dtype, device=p.device)
            mean = (p * x).sum(-1)
            variance = (p * x.square()).sum(-1) - mean.square()
        else:  # clamped components: close to exact where the bins are fine
            pi, loc = torch.softmax(self.logits, -2), self.loc.clamp(-1, 1)
            spread = (math.pi / math.sqrt(3) * self.log_scale.exp()).clamp_max(1.0)
            mean = (pi * loc).sum(-2)
            variance = (pi * (loc.square() + spread.square())).sum(-2) - mean.square()
        return Gaussian(mean, variance.clamp_min(1e-8).sqrt())


class Product:
    """Product of distributions over disjoint sets of cells of one row.

    ``parts`` pairs the cells' positions (an index tensor, or ``slice(None)`` for all) with their distribution.
    """

    def __init__(self, parts: list[tuple[Tensor | slice, Distribution]], n_cells: int):
        self.parts = parts
        self.n_cells = n_cells

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log-probability of the observed cells of each row, nats, shape (...)."""
        terms = [d.log_prob(x[..., c], None if observed is None else observed[..., c]) for c, d in self.parts]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def condition(self, x: Tensor, observed: Tensor) -> Product:
        """The law of a row given its observed cells (and z)."""
        parts = [(c, d.condition(x[..., c], observed[..., c])) for c, d in self.parts]
        return Product(parts, self.n_cells)

    def moments(self) -> list[Tensor]:
        """One tensor of moments for each part."""
        return [d.moments() for _, d in self.parts]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw rows, (..., D)."""
        return self._gather([d.sample(generator) for _, d in self.parts])

    def gaussian(self) -> Gaussian:
        """The Gaussian with the same means and (co)variances of cells, for linear observations of noisy or coarse data."""
        parts = [d.gaussian() for _, d in self.parts]
        mean = self._gather([g.mean for g in parts])
        scale = self._gather([g.scale.expand_as(g.mean) for g in parts])
        with_factor = [
            (c, g.factor) for (c, _), g in zip(self.parts, parts, strict=True) if g.factor is not None
        ]
        if not with_factor:
            return Gaussian(mean, scale)
        cells, factor = with_factor[0]
        whole = factor.new_zeros(*factor.shape[:-2], self.n_cells, factor.shape[-1])
        whole[..., cells, :] = factor
        return Gaussian(mean, scale, whole)

    def _gather(self, values: list[Tensor]) -> Tensor:
        if len(values) == 1 and isinstance(self.parts[0][0], slice):
            return values[0]
        out = values[0].new_empty(*values[0].shape[:-1], self.n_cells)
        for (cells, _), value in zip(self.parts, values, strict=True):
            out[..., cells] = value
        return out
