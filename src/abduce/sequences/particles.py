"""Particles through a state space whose dynamics bend: the filter, and paths drawn backward from it.

A step's state s_t is its last p latents, z_t newest first.  Of each particle the next latent is drawn from the linear path's
own optimum, moved by a network: with μ = E[z_t | s_{t−1}], ψ the look ahead of :mod:`abduce.sequences.twist`, and M the cells
that were seen,

    V = (Q⁻¹ + M R⁻¹ + Λ_zz)⁻¹,   z_t = μ + V (M R⁻¹ (y_t − μ − g(μ)) + η_z − (Λ s̃)_z) + V^½ (d + exp(c) ε),   s̃ = [μ, lags]
    w_t = p(z_t | s_{t−1}) p(y_t | z_t) ψ_t(s_t) / (q(z_t) ψ_{t−1}(s_{t−1}))

A blank cell is no part of any weight.  Where the model is linear all weights are equal, and log p is exact.

Paths are drawn backward: given what was drawn of later steps, a path goes on to one of several particles, its own ancestor
among them, in proportion to how likely these later steps follow from it.  This leaves the distribution of paths given the
series as it is (a conditional importance step), mends the ancestry's loss of variety, and costs a few particles a path
instead of all.  With p lags a particle's history enters the next p steps, all of which are weighed.

Sources: Doucet, Godsill & Andrieu 2000 (optimal proposals); Godsill, Doucet & West 2004 (backward simulation); Bunch & Godsill
2013 (of a few particles); Andrieu, Lee & Vihola 2018 (conditional importance sampling).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from abduce.distributions.cells import LOG_2PI
from abduce.inference.weights import effective_sample_size, normalized, resample
from abduce.sequences.twist import Twist

TRIED = 4  # particles that a path may go on to, beside its own ancestor


class Bending(Protocol):
    """What a filter asks of a model; states (..., S) hold latents (..., F), the newest first."""

    def mean(self, states: Tensor) -> Tensor:
        """μ, the mean of the next latent, (..., F)."""
        ...

    def cells(self, z: Tensor) -> Tensor:
        """z + g(z), the mean of what is seen, (..., F)."""
        ...

    def moved(self, states: Tensor, gap: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """d and c of the proposal, (..., F) each."""
        ...

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """A root of Q (F, F), R (F,), and a root of the first state's covariance (S, S)."""
        ...


class Resampling(Protocol):
    """Says when to resample: an objective, :class:`~abduce.fit.bounds.FIVO`."""

    def due(self, log_w: Tensor) -> Tensor:
        """Of log weights (samples, batch) which series', (batch,)."""
        ...


class Filtered(NamedTuple):
    """A filter's run: what each step added to log weights, ``log_w`` (T, K, B), after which steps particles were resampled,
    ``resampled`` (T, B), the log weights as they stood, ``total`` (T, B, K), ``states`` (T, B, K, S), and where each particle
    came from, ``ancestor`` (T, B, K), at the step before."""

    log_w: Tensor
    resampled: Tensor
    total: Tensor
    states: Tensor
    ancestor: Tensor

    @property
    def ess(self) -> Tensor:
        """Effective number of particles at the poorest step of each series, (B,)."""
        size = effective_sample_size(self.total.permute(2, 0, 1).flatten(1))
        return size.view(self.total.shape[:2]).amin(0)


def run(
    model: Bending,
    y: Tensor,
    mask: Tensor,
    twist: Twist,
    samples: int,
    due: Resampling,
    generator: Generator,
    alike: bool = False,
) -> Filtered:
    """Filter series y (B, T, F) with their mask; with ``alike`` all series get the same random numbers, so that what is said
    of one does not depend on which come along."""
    b, steps, f = y.shape
    root, spread, first = model.parts()
    weight = mask / spread
    told = torch.where(mask, y, 0.0)
    eye = torch.eye(f, dtype=y.dtype)
    inverse = torch.linalg.solve_triangular(root, eye, upper=False)
    # all steps' proposals at once: precision, its lower root C, and V^½ = C^{−T}
    tight = inverse.mT @ inverse + torch.diag_embed(weight) + twist.precision[:, :, :f, :f].transpose(0, 1)
    lower = torch.linalg.cholesky(tight)
    half = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False).mT
    narrow = lower.diagonal(dim1=2, dim2=3).log().sum(2) + inverse.diagonal().log().sum()
    # log p(z) − log q(z) has ½ log|Q⁻¹| − log|C|; what else is the same for all particles is log p's constant of each step
    usual = -0.5 * (mask * (LOG_2PI + spread.log())).sum(2)
    usual = usual + 2 * inverse.diagonal().log().sum() - narrow
    rows = torch.arange(b).unsqueeze(1)
    own = torch.arange(samples).expand(b, samples)

    def noise(size: int) -> Tensor:
        shape = (1 if alike else b, samples, size)
        return torch.randn(shape, generator=generator, dtype=y.dtype).expand(b, samples, size)

    def likely(t: int, z: Tensor) -> Tensor:
        gap = told[:, t].unsqueeze(1) - model.cells(z)
        return -0.5 * (gap.square() * weight[:, t].unsqueeze(1)).sum(2)

    states, here = _first(model, told, weight, twist, first, noise)
    added = here + likely(0, states[..., :f]) - 0.5 * (mask[:, 0] * (LOG_2PI + spread.log())).sum(1, True)
    ahead = twist.log(0, states)
    total = added = added + ahead
    log_w, resampled, totals, kept, ancestors = [added], [], [total], [states], [own]
    for t in range(1, steps):
        chosen = due.due(total.detach().T)
        resampled.append(chosen)
        index = own
        if alike or bool(chosen.any()):  # whether others are resampled must not move a series' random numbers
            drawn = resample(total.detach().T, samples, generator, shared=alike).T
            index = torch.where(chosen.unsqueeze(1), drawn, own)
            states, ahead = states[rows, index], ahead[rows, index]
            total = torch.where(chosen.unsqueeze(1), 0.0, total)
        mu, lags = model.mean(states), states[..., :-f]
        gap = (told[:, t].unsqueeze(1) - model.cells(mu)) * mask[:, t].unsqueeze(1)
        guess = torch.cat([mu, lags], 2)
        pull = gap * weight[:, t].unsqueeze(1) + twist.pull[t, :, :f].unsqueeze(1)
        pull = pull - guess @ twist.precision[t, :, :, :f]
        d, c = model.moved(states, gap, mask[:, t].unsqueeze(1).expand_as(gap))
        epsilon = noise(f)
        step = (pull @ half[:, t] + d + c.exp() * epsilon) @ half[:, t].mT
        states = torch.cat([mu + step, lags], 2)
        moved = -0.5 * (step @ inverse.mT).square().sum(2) + 0.5 * epsilon.square().sum(2) + c.sum(2)
        later = twist.log(t, states)
        added = moved + likely(t, mu + step) + usual[:, t].unsqueeze(1) + later - ahead
        ahead, total = later, total + added
        for values, value in zip(
            (log_w, totals, kept, ancestors), (added, total, states, index), strict=True
        ):
            values.append(value)
    resampled.append(torch.zeros(b, dtype=torch.bool))
    whole = (torch.stack(v) for v in (log_w, resampled, totals, kept, ancestors))
    log_w, resampled, totals, kept, ancestors = whole
    return Filtered(log_w.transpose(1, 2), resampled, totals, kept, ancestors)


def _first(model: Bending, told, weight, twist: Twist, root: Tensor, noise) -> tuple[Tensor, Tensor]:
    """First states (B, K, S) from the linear path's posterior, and their log p − log q (B, K)."""
    f, s = told.shape[2], len(root)
    tight = twist.precision[0].clone()
    offset = model.cells(told.new_zeros(1, f))
    pull = torch.cat([weight[:, 0] * (told[:, 0] - offset), told.new_zeros(len(told), s - f)], 1)
    pull = (pull + twist.pull[0]) @ root
    seen = torch.nn.functional.pad(weight[:, 0], (0, s - f))
    inner = torch.eye(s, dtype=told.dtype) + root.mT @ (tight + torch.diag_embed(seen)) @ root
    lower = torch.linalg.cholesky(inner)
    centre = torch.cholesky_solve(pull.unsqueeze(2), lower).mT
    epsilon = noise(s)
    u = centre + torch.linalg.solve_triangular(lower.mT, epsilon.mT, upper=True).mT
    log = 0.5 * (epsilon.square() - u.square()).sum(2)
    return u @ root.mT, log - lower.diagonal(dim1=1, dim2=2).log().sum(1, True)


@torch.no_grad()
def backward(
    model: Bending, found: Filtered, twist: Twist, n: int, generator: Generator, alike: bool = False
) -> Tensor:
    """Draw ``n`` paths of latents given whole series, (n, B, T, F)."""
    steps, b, k, s = found.states.shape
    root = model.parts()[0]
    f = len(root)
    rows = torch.arange(b).unsqueeze(1)
    inverse = torch.linalg.solve_triangular(root, torch.eye(f, dtype=root.dtype), upper=False)
    at = resample(found.total[-1].T, n, generator, shared=alike).T
    at = at[:, torch.randperm(n, generator=generator)]
    drawn = [found.states[-1][rows, at][..., :f]]
    for t in range(steps - 2, -1, -1):
        at = found.ancestor[t + 1][rows, at].unsqueeze(2)  # (B, n, 1)
        shape = (1 if alike else b, n * TRIED)
        chance = normalized(found.total[t].T).cumsum(0).T.contiguous()
        u = torch.rand(shape, generator=generator, dtype=chance.dtype).expand(b, -1).contiguous()
        others = torch.searchsorted(chance, u).clamp_max(k - 1).view(b, n, TRIED)
        tried = torch.cat([at, others], 2)  # (B, n, TRIED + 1)
        states = found.states[t][rows, tried.flatten(1)].view(b, n, TRIED + 1, s)
        later = torch.cat(drawn[-1 : -(s // f) - 1 : -1], 2)  # z_{t+1}, z_{t+2}, … each (B, n, F)
        weight = _follows(model, states, later, inverse)
        weight = weight - twist.log(t, found.states[t]).gather(1, tried.flatten(1)).view(weight.shape)
        dice = torch.rand((1 if alike else b, n, TRIED + 1), generator=generator, dtype=weight.dtype)
        picked = (weight - (-dice.log()).log()).argmax(2, keepdim=True)  # Gumbel's maximum
        at = tried.gather(2, picked).squeeze(2)
        drawn.append(found.states[t][rows, at][..., :f])
    return torch.stack(drawn[::-1], 2).transpose(0, 1)


def _follows(model: Bending, states: Tensor, later: Tensor, inverse: Tensor) -> Tensor:
    """log p of the next latents ``later`` (B, n, j F), the nearest first, from states (B, n, m, S), (B, n, m)."""
    b, n, m, s = states.shape
    f = len(inverse)
    count = later.shape[2] // f
    backward_in_time = later.view(b, n, count, f).flip(2).reshape(b, n, 1, count * f).expand(-1, -1, m, -1)
    line = torch.cat([backward_in_time, states], 3)  # the last of them first, then the state
    pasts = line.unfold(3, s, f)[
        :, :, :, 1 : count + 1
    ]  # (B, n, m, j, S): the states before each, last first
    goals = line[..., : count * f].view(b, n, m, count, f)
    return -0.5 * ((goals - model.mean(pasts)) @ inverse.mT).square().sum((3, 4))
