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
    """Mixture of logistics cut into ``levels`` bins, for pixels in [−1, 1] that are whole steps of 2h, h = 1/(levels − 1).

    With bins that tile the real line,

        P(x) = Σ_k π_k [F_k(x + h) − F_k(x − h)],        F_k(t) = σ((t − m_k)/s_k),

    and the first and the last bin take the whole tail, so that the probabilities sum to one.  With ``stops``, the logits of
    the first and the last level beside 0 for all between, these two levels have masses of their own and the logistics are
    cut off where the bins between end:

        P(first), P(between), P(last) = softmax(low, 0, high)
        P(x | between) = Σ_k π_k [F_k(x + h) − F_k(x − h)] / [F_k(1 − h) − F_k(−1 + h)]

    Parameters have shape ``(..., components, d)``, stops ``(..., 2, d)``.

    Source: Salimans et al. 2017 (arXiv:1701.05517); masses where values stop as in Tobin 1958 and Cragg 1971.
    """

    def __init__(
        self, logits: Tensor, loc: Tensor, log_scale: Tensor, levels: int, stops: Tensor | None = None
    ):
        self.logits = logits
        self.loc = loc
        self.log_scale = log_scale
        self.levels = levels
        self.stops = stops
        self.half = 1 / (levels - 1)

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        if self.stops is None and self.logits.requires_grad and self.logits.dtype == torch.float32:
            cells = _LogMixtureMass.apply(self.logits, self.loc, self.log_scale, x, self.half)
        else:
            cells = self._log_mass(x)
        return masked_sum(cells, observed)

    def _log_mass(self, x: Tensor) -> Tensor:
        """Log-probability of the bin of each cell, (..., d), exact far into the tails."""
        half, precision = self.half, torch.exp(-self.log_scale)
        at = x.unsqueeze(-2)
        centred, width = (at - self.loc) * precision, half * precision
        first, last = at < -1 + 0.5 * half, at > 1 - 0.5 * half
        upper, lower = -F.softplus(-(centred + width)), -F.softplus(centred - width)
        inside = torch.log(-torch.expm1(-2 * width)) + upper + lower
        shares = torch.log_softmax(self.logits, -2)
        if self.stops is None:
            return torch.logsumexp(shares + torch.where(first, upper, torch.where(last, lower, inside)), -2)
        between = torch.logsumexp(shares + inside - self._log_room(), -2)
        low, middle, high = self.log_masses().unbind(-2)
        return torch.where(first.squeeze(-2), low, torch.where(last.squeeze(-2), high, middle + between))

    def log_masses(self) -> Tensor:
        """Log-probabilities of the first level, of all between and of the last, (..., 3, d); of stops."""
        assert self.stops is not None
        low, high = self.stops.unbind(-2)
        return torch.log_softmax(torch.stack([low, torch.zeros_like(low), high], -2), -2)

    def _log_room(self) -> Tensor:
        """Log mass of each logistic between the stops, (..., components, d)."""
        precision, end = torch.exp(-self.log_scale), 1 - self.half
        a, b = (-end - self.loc) * precision, (end - self.loc) * precision
        return log_between(a, b)

    def probabilities(self) -> Tensor:
        """The whole table of probabilities over levels, (..., d, levels)."""
        below = self._below()
        zero, one = (
            below.new_zeros(()).expand_as(below[..., :1]),
            below.new_ones(()).expand_as(below[..., :1]),
        )
        return torch.cat([below, one], -1) - torch.cat([zero, below], -1)

    def _below(self) -> Tensor:
        """Probability of a value below each cut between two levels, (..., d, levels − 1)."""
        end = 1 - self.half
        cuts = torch.linspace(-end, end, self.levels - 1, dtype=self.loc.dtype, device=self.loc.device)
        loc, sign = self._nearer()
        shares, precision = torch.softmax(self.logits, -2), torch.exp(-self.log_scale)
        if self.stops is not None:
            precision = precision * sign
        at = torch.sigmoid((cuts - loc.unsqueeze(-1)) * precision.unsqueeze(-1))
        if self.stops is None:
            return torch.einsum("...kd,...kdl->...dl", shares, at)
        first, last = at[..., 0], at[..., -1]
        weights = shares / torch.where(first == last, 1.0, last - first)
        between = torch.einsum("...kd,...kdl->...dl", weights, at) - (weights * first).sum(-2).unsqueeze(-1)
        low, middle, _ = self.log_masses().exp().unsqueeze(-1).unbind(-3)
        return low + middle * between

    def _nearer(self) -> tuple[Tensor, Tensor]:
        """The place of each logistic, and the sign that turns it to the nearer tail, where differences do not cancel.

        So far beyond a stop what is left of a logistic is an exponential law, whatever the place.
        """
        far = 1 + 30 * self.log_scale.exp()
        return torch.maximum(torch.minimum(self.loc, far), -far), torch.where(self.loc < 0, -1.0, 1.0).to(far)

    def moments(self) -> Tensor:
        if self.levels > 64:
            return self.gaussian().mean.unsqueeze(-1)
        return (1 - 2 * self.half * self._below().sum(-1)).unsqueeze(-1)  # Σ x P(x) summed by parts

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        k = _picked(self.logits, generator).unsqueeze(-2)
        place, turn = self._nearer()
        parts = (place, turn, self.log_scale.exp())
        loc, sign, scale = (torch.gather(part, -2, k).squeeze(-2) for part in parts)
        u = uniform_like(loc, generator)
        if self.stops is None:
            return to_lattice(loc + scale * torch.logit(u), self.half)
        end = 1 - self.half
        a, b = (torch.sigmoid((side * end - sign * loc) / scale) for side in (-1, 1))
        t = torch.logit(torch.lerp(a, b, u).clamp_min(torch.finfo(u.dtype).tiny))
        inner = end - self.half
        x = to_lattice((loc + sign * scale * t).clamp(-inner, inner), self.half)
        which = _picked(self.log_masses(), generator) - 1
        return torch.where(which == 0, x, which.to(x.dtype))

    def gaussian(self) -> Gaussian:
        """The Gaussian with the mixture's first two moments, in closed form: the bins count as their interval.

        With σ the logistic, s(t) = softplus(t) and G(t) = −Li₂(−eᵗ), the partial moments of a standard logistic are
        σ(t), t σ(t) − s(t) and t² σ(t) − 2 t s(t) + 2 G(t).
        """
        loc, sign = self._nearer()
        scale, shares, end = self.log_scale.exp(), torch.softmax(self.logits, -2), 1 - self.half
        a, b = ((side * end - sign * loc) / scale for side in (-1, 1))
        p, first, second = _partial(a, b)
        # of x = loc ± scale · t, where it lies between, and of its bin
        mean = p * loc + sign * scale * first
        square = p * (loc.square() + self.half**2 / 3) + scale * (2 * sign * loc * first + scale * second)
        if self.stops is None:
            lower, upper = torch.sigmoid(a), torch.sigmoid(-b)
            mean = (shares * (mean + sign * (upper - lower))).sum(-2)
            square = (shares * (square + upper + lower)).sum(-2)
        else:
            low, middle, high = self.log_masses().exp().unbind(-2)
            mean = middle * (shares * mean / p).sum(-2) + high - low
            square = middle * (shares * square / p).sum(-2) + high + low
        return Gaussian(mean, (square - mean.square()).clamp_min(1e-8).sqrt())


def _partial(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """∫ f, ∫ t f and ∫ t² f of the standard logistic density f from a to b."""
    out = []
    for t in (a, b):
        p, soft = torch.sigmoid(t), F.softplus(t)
        u = F.softplus(-t.abs())
        dilog = u + u.square() * (1 / 4 + u * (1 / 36 - u.square() * (1 / 3600 - u.square() / 211680)))
        dilog = torch.where(t > 0, 0.5 * t.square() + math.pi**2 / 6 - dilog, dilog)
        out.append((p, t * p - soft, t * (t * p - 2 * soft) + 2 * dilog))
    return tuple(high - low for low, high in zip(*out, strict=True))  # pyright: ignore[reportReturnType]


def log_between(a: Tensor, b: Tensor) -> Tensor:
    """log[σ(b) − σ(a)] = −softplus(−b) − softplus(a) + log(1 − e^{a−b}) for a < b: no cancellation anywhere."""
    return torch.log(-torch.expm1(a - b)) - F.softplus(-b) - F.softplus(a)


def _picked(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """A class drawn by its logits (..., K, d), (..., d)."""
    return (logits - torch.log(-torch.log(uniform_like(logits, generator)))).argmax(-2)
