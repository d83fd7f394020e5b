"""Blanks of trajectories in worlds of any form: the most probable trajectory, and a Gaussian around it.

    −log p = Σ_t ½ |(s_{t+1} − f(s_t, a_t)) / σ|² + Σ_t ½ |(a_t − m) / c|² + ½ |(s_0 − m₀) / c₀|²  + constant

over the cells that are blank, by Gauss-Newton with Levenberg's damping, from several starts at once.  σ begins large and is
annealed to the model's, so that states may first go where they must and the dynamics draw them together (collocation);
actions stay in their box.  A linear world answers itself, exactly.

That is what most probably happened, and noise may explain it.  A plan cannot count on noise: for plans σ is annealed further
down, until the means alone lead from what is seen to what is seen; rollouts of smooth random actions, those that came nearest,
are starts besides, since no path through a wall leads to one through its door; and ½ (w · excess)² is added for each state
that lies farther from where the episodes have been (:mod:`~abduce.world.visited`) than the nearer of the whole states seen
before and after it.

Memory is (starts, T S, (T + 1) S + T A) numbers; where that is much there are fewer starts.

Source: Betts 2010 (collocation); MacKay 1992 (the Gaussian at a mode).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.world.actions import Box
from abduce.world.linear_gaussian import LinearGaussian, Trajectories
from abduce.world.planners.noise import sequences
from abduce.world.rollout import follow
from abduce.world.transitions import Transition
from abduce.world.visited import Visited

SCALES = (1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)  # by which σ is greater, one after the other
TIGHT = (0.3, 0.1, 0.03)  # the scales that follow for plans
STAY = 10.0  # w, the weight of staying where episodes have been
LEAST = 1e-4  # σ in units of the states' usual deviation, at least
MOST_CELLS = 2**26  # numbers that are held at once


@dataclass(frozen=True)
class Smoothing:
    """``starts`` at once, ``iterations`` at each scale of σ, Levenberg's first ``damping``; for plans ``rolled`` starts more,
    the best of ``tried`` rollouts."""

    starts: int = 8
    iterations: int = 15
    damping: float = 1e-2
    rolled: int = 32
    tried: int = 4096


class _Normal(NamedTuple):
    """Gradient (K, V), curvature (K, V, V) and value (K,) of −log p."""

    gradient: Tensor
    curvature: Tensor
    value: Tensor


def smooth(
    transition: Transition,
    linear: LinearGaussian,
    box: Box,
    states: Tensor,
    actions: Tensor,
    seed: int,
    settings: Smoothing = Smoothing(),
    visited: Visited | None = None,
) -> Trajectories:
    """Fill blanks (NaN) of states (1, T+1, S) and actions (1, T, A).

    ``linear`` says where to begin, and what the first state and actions are like before anything is seen.  With
    ``visited``, where episodes have been, what is filled in is a plan.
    """
    problem = _Blanks(transition, linear, box, states[0].double(), actions[0].double(), visited)
    generator = Generator().manual_seed(seed)
    x = problem.begin(settings.starts, generator)
    for scale in SCALES:
        x = problem.climb(x, scale, settings)
    last = 1.0
    if visited is not None:
        first, last = len(x), TIGHT[-1]
        x = torch.cat([x, problem.rolled(settings, generator)])
        for scale in TIGHT:
            x = problem.climb(x, scale, settings)
            x = x[problem.value(x, scale).argsort()[: max(first, len(x) // 3)]]
    found = problem.normal(x, last)
    best = found.value.nan_to_num(torch.inf).argmin()
    x, curvature = x[best], found.curvature[best]
    size = int(problem.free.sum())
    root = torch.linalg.cholesky(curvature + 1e-9 * curvature.diagonal().mean() * torch.eye(size).double())
    spread = torch.cholesky_inverse(root).diagonal().clamp_min(0.0).sqrt()
    deviation = torch.zeros_like(problem.seen).masked_scatter(problem.free, spread)
    log_p = problem.constant(last) - found.value[best] + 0.5 * size * math.log(2 * math.pi)
    log_p = log_p - root.diagonal().log().sum()
    n = states.shape[1] * states.shape[2]

    def shaped(v: Tensor) -> tuple[Tensor, Tensor]:
        lead = v.shape[:-1]
        return v[..., :n].view(*lead, 1, *states.shape[1:]), v[..., n:].view(*lead, 1, *actions.shape[1:])

    def draw(count: int, random: Generator) -> tuple[Tensor, Tensor]:
        noise = torch.randn(count, size, generator=random, dtype=torch.float64)
        moved = torch.linalg.solve_triangular(root.mT, noise.mT, upper=True).mT
        some = x.repeat(count, 1)
        some[:, problem.free] += moved
        s, a = shaped(problem.inside(some))
        return s, a

    s, a = shaped(x)
    s_deviation, a_deviation = shaped(deviation)
    return Trajectories(s, a, s_deviation, a_deviation, log_p.unsqueeze(0), draw)


class _Blanks:
    """One trajectory as a vector of cells (V,): states, then actions; ``free`` are those that are blank."""

    def __init__(
        self,
        transition: Transition,
        linear: LinearGaussian,
        box: Box,
        states: Tensor,
        actions: Tensor,
        visited: Visited | None = None,
    ):
        self.transition, self.box, self.visited = transition, box, visited
        (steps, self.s), self.a = states.shape, actions.shape[1]
        self.t = steps - 1
        self.seen = torch.cat([states.flatten(), actions.flatten()])
        self.free = self.seen.isnan()
        first = linear.fill(states[None], actions[None])
        self.filled = torch.cat([first.states.flatten(), box.clip(first.actions).flatten()])
        self.usual = usual = linear.first_covariance.diagonal().sqrt()
        _, deviation = transition.moments(*(v.flatten(0, -2) for v in self._parts(self.filled[None], True)))
        self.sigma = torch.maximum(deviation.double().mean(0), LEAST * usual)
        self.centre = torch.cat(
            [
                linear.first_mean,
                linear.first_mean.new_zeros(self.t * self.s),
                linear.action_mean.repeat(self.t),
            ]
        )
        self.wide = linear.action_covariance.diagonal().sqrt()
        rate = torch.cat([1 / usual, usual.new_zeros(self.t * self.s), (1 / self.wide).repeat(self.t)])
        self.rate = rate.square()  # of the priors
        self.due = _between(states, visited) if visited is not None else states.new_zeros(steps)

    def _parts(self, x: Tensor, before: bool = False) -> tuple[Tensor, Tensor]:
        """States (K, T+1, S), or without the last, and actions (K, T, A)."""
        n = (self.t + 1) * self.s
        states = x[:, :n].view(len(x), self.t + 1, self.s)
        return states[:, : -1 if before else None], x[:, n:].view(len(x), self.t, self.a)

    def begin(self, starts: int, generator: Generator) -> Tensor:
        """First trajectories: the linear world's, and the same with smooth noise on what is blank of the actions."""
        starts = self._bounded(starts)
        x = self.filled.repeat(starts, 1)
        n = (self.t + 1) * self.s
        tried = sequences(4 * starts, self.t, self.box, x, generator)[::4, 0].flatten(1)
        x[1:, n:] = torch.where(self.free[n:], tried[1:], x[1:, n:])
        return self.inside(x)

    def _bounded(self, starts: int) -> int:
        """So many starts, or as many as memory is to hold."""
        return max(1, min(starts, MOST_CELLS // (self.t * self.s * len(self.seen))))

    @torch.no_grad()
    def rolled(self, settings: Smoothing, generator: Generator) -> Tensor:
        """Of rollouts under smooth noise on blank actions those that come nearest to the states seen."""
        n, kept = (self.t + 1) * self.s, self._bounded(settings.rolled)
        tried = max(kept, min(settings.tried, MOST_CELLS // (4 * len(self.seen))))
        noise = sequences(tried, self.t, self.box, self.filled, generator)[:, 0].flatten(1)
        x = self.filled.repeat(tried, 1)
        x[:, n:] = torch.where(self.free[n:], noise, x[:, n:])
        states, acts = self._parts(x)
        like = next(self.transition.buffers())
        went = follow(self.transition, states[:, 0].to(like), acts.to(like)).double()
        missed = torch.where(self.free[:n], 0.0, ((went - states) / self.usual).flatten(1)).square().sum(1)
        x[:, :n] = torch.where(self.free[:n], went.flatten(1), x[:, :n])
        return x[missed.argsort()[:kept]]

    def inside(self, x: Tensor) -> Tensor:
        """Blank actions brought into their box."""
        n = (self.t + 1) * self.s
        acts = self.box.clip(x[:, n:].view(len(x), self.t, self.a)).flatten(1)
        return torch.cat([x[:, :n], torch.where(self.free[n:], acts, x[:, n:])], 1)

    def held(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Which blank cells are actions at an end of their box that would go beyond it, (K, blanks)."""
        n = (self.t + 1) * self.s
        open_ = x.new_full((n,), torch.inf)
        low = torch.cat([-open_, self.box.low.repeat(self.t)])[self.free]
        high = torch.cat([open_, self.box.high.repeat(self.t)])[self.free]
        now = x[:, self.free]
        return ((now <= low) & (gradient > 0)) | ((now >= high) & (gradient < 0))

    def gaps(self, x: Tensor, scale: float) -> Tensor:
        """Where the dynamics are not obeyed, in units of σ, (K, T, S)."""
        states, acts = self._parts(x)
        return (states[:, 1:] - self.transition.mean(states[:, :-1], acts).double()) / self._spread(scale)

    def _spread(self, scale: float) -> Tensor:
        """σ at a scale, (S,)."""
        return torch.maximum(self.sigma * scale, LEAST * self.usual)

    def constant(self, scale: float) -> Tensor:
        """Log of the densities' norms."""
        sizes = torch.cat([self.usual, self.wide.repeat(self.t), self._spread(scale).repeat(self.t)])
        return -(sizes.log() + 0.5 * math.log(2 * math.pi)).sum()

    def strayed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """w times how much farther each state is from where the episodes have been than it has to be, (K, T + 1), 0 where all
        of it was seen; and its slope in the state, (K, T + 1, S)."""
        assert self.visited is not None
        excess, slope = self.visited.excess(self._parts(x)[0])
        excess = (excess - self.due).clamp_min(0.0)
        slope = torch.where(excess.unsqueeze(-1) > 0, slope, 0.0)
        blank = self.free[: (self.t + 1) * self.s].view(self.t + 1, self.s).any(1)
        return STAY * torch.where(blank, excess, 0.0), STAY * torch.where(blank.unsqueeze(1), slope, 0.0)

    def value(self, x: Tensor, scale: float) -> Tensor:
        """−log p (K,) up to a constant."""
        prior = (self.rate * (x - self.centre).square()).sum(1)
        if self.visited is not None:
            prior = prior + self.strayed(x)[0].square().sum(1)
        return 0.5 * (self.gaps(x, scale).square().sum((1, 2)) + prior)

    def normal(self, x: Tensor, scale: float) -> _Normal:
        """Gauss-Newton's expansion in the blank cells."""
        k, t, s = len(x), self.t, self.s
        before, acts = self._parts(x, True)
        a_slope, b_slope = (v.double() for v in self.transition.jacobian(before, acts))
        rows = torch.zeros(k, t, s, len(self.seen), dtype=torch.float64)
        step = torch.arange(t)
        for j in range(s):
            rows[:, step, :, step * s + j] -= a_slope[:, :, :, j].transpose(0, 1)
            rows[:, step, j, (step + 1) * s + j] += 1.0
        n = (t + 1) * s
        for j in range(self.a):
            rows[:, step, :, n + step * self.a + j] -= b_slope[:, :, :, j].transpose(0, 1)
        rows = (rows / self._spread(scale).unsqueeze(1)).flatten(1, 2)[:, :, self.free]
        gap = self.gaps(x, scale)
        prior = self.rate * (x - self.centre)
        gradient = (rows.mT @ gap.flatten(1).unsqueeze(2)).squeeze(2) + prior[:, self.free]
        curvature = rows.mT @ rows + torch.diag(self.rate[self.free])
        if self.visited is not None:
            away, in_state = self.strayed(x)
            slope = x.new_zeros(k, t + 1, len(self.seen))  # in the cells
            for j in range(s):
                slope[:, torch.arange(t + 1), torch.arange(t + 1) * s + j] = in_state[..., j]
            slope = slope[..., self.free]
            gradient = gradient + (slope.mT @ away.unsqueeze(2)).squeeze(2)
            curvature = curvature + slope.mT @ slope
        return _Normal(gradient, curvature, self.value(x, scale))

    def climb(self, x: Tensor, scale: float, settings: Smoothing) -> Tensor:
        """Steps of Gauss-Newton at one scale of σ."""
        damping = torch.full((len(x), 1, 1), settings.damping, dtype=torch.float64)
        for _ in range(settings.iterations):
            at = self.normal(x, scale)
            size = at.curvature.diagonal(dim1=1, dim2=2)
            loose = ~self.held(x, at.gradient)
            both = loose.unsqueeze(1) & loose.unsqueeze(2)
            curvature = torch.where(both, at.curvature, 0.0) + damping * torch.diag_embed(size + 1e-12)
            curvature = curvature + torch.diag_embed(torch.where(loose, 0.0, size + 1.0))
            gradient = torch.where(loose, at.gradient, 0.0)
            move, failed = torch.linalg.solve_ex(curvature, gradient.unsqueeze(2))
            tried = x.clone()
            tried[:, self.free] -= move.squeeze(2).nan_to_num()
            tried = self.inside(tried)
            better = (self.value(tried, scale) < at.value) & (failed == 0)
            x = torch.where(better.unsqueeze(1), tried, x)
            damping = torch.where(better.view(-1, 1, 1), damping / 4, damping * 4).clamp(1e-9, 1e9)
        return x


def _between(states: Tensor, visited: Visited) -> Tensor:
    """How far from what was visited states (T+1, S) lie anyhow, (T+1,): as the whole one seen before each or the one after,
    whichever is nearer to it; beyond the last, as that."""
    steps = torch.arange(len(states))
    whole = (~states.isnan().any(1)).nonzero().squeeze(1)
    if not len(whole):
        return states.new_zeros(len(states))
    away = visited.excess(states[whole])[0]
    after = torch.searchsorted(whole, steps)
    left, right = (after - (whole[after.clamp_max(len(whole) - 1)] != steps).long()), after
    last = len(whole) - 1
    return torch.minimum(away[left.clamp(0, last)], away[right.clamp(0, last)])
