"""Likelihoods of classes and counts: probabilities of whole numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from abduce.distributions.cells import masked_sum, uniform_like
from abduce.distributions.continuous import Gaussian


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


def _log_mass(logits: Tensor, x: Tensor, observed: Tensor | None) -> Tensor:
    """Σ x·logit − softplus(logit) over the last axis, without a gradient: few passes over few buffers.

    softplus(l) = (l + |l|)/2 + log(1 + e^{−|l|}), and the logarithm of a product of 32 such factors, each in [1, 2],
    stands for 32 logarithms.  (x − ½) l − ½ |l| is formed cell by cell: sums over all cells would cancel, and lose digits.
    """
    size = torch.abs(logits)
    linear = torch.mul(x - 0.5, logits).sub_(size, alpha=0.5)
    factors = size.neg_().exp_().add_(1.0)
    if observed is not None:  # a hidden cell adds exactly nothing
        linear = torch.where(observed, linear, 0.0)
        factors = torch.where(observed, factors, 1.0)
    whole = factors.shape[-1] - factors.shape[-1] % 32
    logs = factors[..., :whole].unflatten(-1, (-1, 32)).prod(-1).log_()
    blocks = linear[..., :whole].unflatten(-1, (-1, 32)).sum(-1) - logs
    last = linear[..., whole:].sum(-1) - factors[..., whole:].prod(-1).log_()
    return (blocks.sum(-1, dtype=torch.float64) + last).to(logits.dtype)


class Bernoulli:
    """Bernoulli on logits: log p(x) = x·logit − softplus(logit), x in {0, 1}."""

    def __init__(self, logits: Tensor):
        self.logits = logits

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        if observed is None and self.logits.requires_grad and self.logits.shape[-x.ndim :] == x.shape:
            return _BernoulliMass.apply(self.logits, x)
        if not (torch.is_grad_enabled() and self.logits.requires_grad):
            return _log_mass(self.logits, x, observed)
        return masked_sum(x * self.logits - F.softplus(self.logits), observed)

    def moments(self) -> Tensor:
        return torch.sigmoid(self.logits).unsqueeze(-1)

    def class_log_probs(self, cell: int) -> Tensor:
        """Log-probabilities of the two values of a cell, (..., 2)."""
        logit = self.logits[..., cell]
        return torch.stack([F.logsigmoid(-logit), F.logsigmoid(logit)], -1)

    def tilted(self, cell: int, log_factor: Tensor) -> Bernoulli:
        """The distribution with the two values of a cell reweighted by exp(``log_factor``)."""
        logits = self.logits.clone()
        logits[..., cell] += log_factor[1] - log_factor[0]
        return Bernoulli(logits)

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

    def moments(self) -> Tensor:
        return self.log_probs.exp()

    def class_log_probs(self, cell: int) -> Tensor:
        """Log-probabilities of the classes of a cell, (..., K)."""
        return self.log_probs[..., cell, :]

    def tilted(self, cell: int, log_factor: Tensor) -> Categorical:
        log_probs = self.log_probs.clone()
        factor = log_factor[: log_probs.shape[-1]]
        log_probs[..., cell, :] = torch.log_softmax(log_probs[..., cell, :] + factor, -1)
        return Categorical(log_probs)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        gumbel = -torch.log(-torch.log(uniform_like(self.log_probs, generator)))
        return (self.log_probs + gumbel).argmax(-1).to(self.log_probs.dtype)

    def gaussian(self) -> Gaussian:
        p = self.log_probs.exp()
        codes = torch.arange(p.shape[-1], dtype=p.dtype, device=p.device)
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

    def moments(self) -> Tensor:
        return self.log_mean.exp().unsqueeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        r = self.log_dispersion.exp()
        rate = torch._standard_gamma(r.contiguous(), generator=generator)  # pyright: ignore[reportPrivateImportUsage]
        rate = rate * torch.exp(self.log_mean) / r
        return torch.poisson(rate, generator=generator)

    def thinned(self, rate: float) -> NegativeBinomial:
        """How many items are seen, each with probability ``rate``."""
        return NegativeBinomial(self.log_mean + math.log(rate), self.log_dispersion)

    def unseen(self, rate: Tensor, seen: Tensor) -> NegativeBinomial:
        """How many items are left when ``seen`` of them were seen, each with probability ``rate``, (..., d) both.

        Mean (1 − rate) μ (r + seen) / (r + rate μ), dispersion r + seen: the items' gamma rate is Γ(r + seen, r/μ + rate).
        """
        r, mean = self.log_dispersion.exp(), self.log_mean.exp()
        dispersion = (r + seen).log()
        log_mean = self.log_mean + torch.log1p(-rate) + dispersion - torch.log(r + rate * mean)
        return NegativeBinomial(log_mean, dispersion)

    def gaussian(self) -> Gaussian:
        mean = self.log_mean.exp()
        return Gaussian(mean, (mean + mean.square() / self.log_dispersion.exp()).sqrt())


class Poisson:
    """Poisson counts, log p(x) = x log μ − μ − log x!: variance equal to the mean.

    For counts of independent events at a rate that z explains whole; what is left over of the variance calls for the
    negative binomial.

    >>> round(Poisson(torch.zeros(1)).log_prob(torch.tensor([1.0])).item(), 4)  # e⁻¹
    -1.0

    Source: Poisson 1837; as the likelihood of a factor model, e.g. Canny 2004 (GaP).
    """

    def __init__(self, log_rate: Tensor):
        self.log_rate = log_rate

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return masked_sum(x * self.log_rate - self.log_rate.exp() - torch.lgamma(x + 1), observed)

    def moments(self) -> Tensor:
        return self.log_rate.exp().unsqueeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.poisson(self.log_rate.exp(), generator=generator)

    def thinned(self, rate: float) -> Poisson:
        return Poisson(self.log_rate + math.log(rate))

    def unseen(self, rate: Tensor, seen: Tensor) -> Poisson:
        """How many items are left when ``seen`` of them were seen, each with probability ``rate``: no matter how many."""
        return Poisson(self.log_rate + torch.log1p(-rate))

    def gaussian(self) -> Gaussian:
        rate = self.log_rate.exp()
        return Gaussian(rate, rate.sqrt())


class BetaBinomial:
    """Beta-binomial counts k = 0..n: binomial with a success probability drawn from Beta(pc, (1 − p)c),

        P(k) = C(n, k) B(k + pc, n − k + (1 − p)c) / B(pc, (1 − p)c),   p = σ(logits), c the concentration.

    Mean np, variance np(1 − p)(n + c)/(1 + c): binomial for c → ∞, uniform for p = ½ and c = 2, heaped at both ends for
    small c.  For counts with a known largest value; a count beyond n has probability zero.  With ``pixels`` the counts are
    grey levels spread over [−1, 1], x = 2k/n − 1, and values beyond the ends count as the ends.

    Source: Skellam 1948; Johnson, Kemp & Kotz 2005, Univariate Discrete Distributions, section 6.9.
    """

    def __init__(self, logits: Tensor, log_concentration: Tensor, n: Tensor, pixels: bool = False):
        self.logits = logits
        self.log_concentration = log_concentration.expand_as(logits)
        self.n, self.pixels = n, pixels

    def shapes(self) -> tuple[Tensor, Tensor]:
        """The beta law's two shapes, (..., d) each."""
        tiny = torch.finfo(self.logits.dtype).tiny
        a = torch.exp(F.logsigmoid(self.logits) + self.log_concentration).clamp_min(tiny)
        return a, torch.exp(F.logsigmoid(-self.logits) + self.log_concentration).clamp_min(tiny)

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        k = torch.round(0.5 * (x.clamp(-1, 1) + 1) * self.n if self.pixels else x)
        possible = (k >= 0) & (k <= self.n)
        k = torch.where(possible, k, k.new_zeros(()))
        rest, (a, b) = self.n - k, self.shapes()
        cells = (
            torch.lgamma(self.n + 1) - torch.lgamma(k + 1) - torch.lgamma(rest + 1)
            + torch.lgamma(k + a) - torch.lgamma(a) + torch.lgamma(rest + b) - torch.lgamma(b)
            + torch.lgamma(a + b) - torch.lgamma(self.n + a + b)
        )  # fmt: skip
        return masked_sum(torch.where(possible, cells, cells.new_full((), -torch.inf)), observed)

    def moments(self) -> Tensor:
        return self.gaussian().mean.unsqueeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        a, b = (torch._standard_gamma(s.contiguous(), generator=generator) for s in self.shapes())  # pyright: ignore[reportPrivateImportUsage]
        # two small shapes can both draw 0: all or nothing then, which is what such laws are
        either = (uniform_like(a, generator) < torch.sigmoid(self.logits)).to(a.dtype)
        p = torch.where(a + b > 0, a / (a + b).clamp_min(torch.finfo(a.dtype).tiny), either)
        k = torch.binomial(self.n.to(p.dtype).expand_as(p).contiguous(), p, generator=generator)
        return 2 * k / self.n - 1 if self.pixels else k

    def gaussian(self) -> Gaussian:
        p, c = torch.sigmoid(self.logits), self.log_concentration.exp()
        scale = (self.n * p * (1 - p) * (self.n + c) / (1 + c)).clamp_min(1e-8).sqrt()
        return Gaussian(2 * p - 1, 2 / self.n * scale) if self.pixels else Gaussian(self.n * p, scale)
