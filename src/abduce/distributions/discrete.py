"""Likelihoods of classes and counts: probabilities of whole numbers."""

from __future__ import annotations

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


class Bernoulli:
    """Bernoulli on logits: log p(x) = x·logit − softplus(logit), x in {0, 1}."""

    def __init__(self, logits: Tensor):
        self.logits = logits

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        if observed is None and self.logits.requires_grad and self.logits.shape[-x.ndim :] == x.shape:
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
