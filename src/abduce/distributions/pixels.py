"""Likelihoods of pixels: mixtures of logistics cut into grey levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from abduce.distributions.cells import masked_sum, to_lattice, uniform_like
from abduce.distributions.continuous import Gaussian


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

    def moments(self) -> Tensor:
        return self.gaussian().mean.unsqueeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        gumbel = -torch.log(-torch.log(uniform_like(self.logits, generator)))
        k = (self.logits + gumbel).argmax(-2, keepdim=True)
        loc = torch.gather(self.loc, -2, k).squeeze(-2)
        scale = torch.gather(self.log_scale, -2, k).squeeze(-2).exp()
        x = loc + scale * torch.logit(uniform_like(loc, generator))
        return to_lattice(x, 1 / (self.levels - 1))

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
