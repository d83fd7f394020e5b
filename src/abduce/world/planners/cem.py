"""Plans by the cross-entropy method: a distribution of plans that is fitted to the cheapest of its own draws.

    a ~ N(m, s²) with noise of a colour β, clipped into the box;    m, s ← (1 − α) mean and deviation of the elites + α the old

A part of the elites is kept for the next step, and after an advance, moved on by one step, for the next problem; the mean is a
candidate at the last.  Of categories each step has its own probabilities, fitted to the shares among the elites.

Source: Rubinstein 1999; Pinneri et al. 2020 (arXiv:2008.06389; colour, kept elites).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from abduce.world.actions import Box, Categories
from abduce.world.planners.noise import coloured
from abduce.world.planners.planner import Planner, Problem, shifted
from abduce.world.rollout import Plans

LEAST = 0.01  # deviation in half widths of the box, and probability of a category


class Elites(NamedTuple):
    """Mean and deviation (B, H, A) of plans, of categories their probabilities twice; the ``elites`` (E, B, H, A) of the last
    step, none at first, and the best plan (B, H, A) with its cost."""

    mean: Tensor
    deviation: Tensor
    elites: Tensor
    best: Tensor
    cost: Tensor


@dataclass(frozen=True)
class CEM(Planner):
    """``draws`` plans a step, of which the share ``elite`` is fitted; ``colour`` β of the noise, 0 for white."""

    iterations: int = 5
    later: int = 5
    draws: int = 200
    elite: float = 0.1
    keep: float = 0.3  # of the elites
    smooth: float = 0.1
    colour: float = 1.0

    def init(self, problem: Problem, generator: Generator) -> Elites:
        neutral = problem.neutral.clone()
        best = torch.full_like(neutral[:, 0, 0], torch.inf)
        if isinstance(problem.space, Categories):
            even = torch.full_like(neutral, 1 / problem.space.size)
            return Elites(even, even, neutral.new_zeros(0, *neutral.shape), neutral, best)
        spread = problem.space.half.to(neutral).expand_as(neutral)
        return Elites(neutral, spread, neutral.new_zeros(0, *neutral.shape), neutral, best)

    def advance(self, problem: Problem, state: Elites, generator: Generator) -> Elites:
        fresh = self.init(problem, generator)
        h, end = problem.horizon, problem.neutral[0, 0]
        elites, best = (shifted(x, h, end) for x in (state.elites, state.best))
        mean = shifted(state.mean, h, fresh.mean[0, 0])
        if isinstance(problem.space, Categories):  # what was sure may be wrong a step later
            mean = 0.5 * (mean + fresh.mean)
            return Elites(mean, mean, elites, best, fresh.cost)
        return Elites(mean, fresh.deviation, elites, best, fresh.cost)

    @torch.no_grad()
    def step(self, problem: Problem, state: Elites, generator: Generator) -> tuple[Elites, dict[str, Any]]:
        drawn = self._draw(problem, state, generator)
        held = state.elites[: round(self.keep * len(state.elites))]
        extra = [held] if torch.isfinite(state.cost).all() else [held, state.best.unsqueeze(0)]
        tried = torch.cat([drawn, *extra])
        cost = problem.score(tried).nan_to_num(nan=torch.inf)
        n = max(2, round(self.elite * self.draws))
        found = cost.topk(n, dim=0, largest=False)
        row = torch.arange(problem.batch, device=cost.device)
        elites = tried[found.indices, row]
        better = (found.values[0] < state.cost).view(-1, 1, 1)
        best = torch.where(better, elites[0], state.best)
        least = torch.minimum(found.values[0], state.cost)
        mean = (1 - self.smooth) * elites.mean(0) + self.smooth * state.mean
        if isinstance(problem.space, Categories):
            mean = mean.clamp_min(LEAST)
            mean = deviation = mean / mean.sum(-1, keepdim=True)
        else:
            deviation = (1 - self.smooth) * elites.std(0) + self.smooth * state.deviation
            deviation = torch.maximum(deviation, LEAST * problem.space.half.to(deviation))
        info = {"cost": least, "deviation": deviation, "transitions": len(tried) * problem.horizon}
        return Elites(mean, deviation, elites, best, least), info

    def _draw(self, problem: Problem, state: Elites, generator: Generator) -> Tensor:
        """Plans (draws, B, H, A) of the distribution; all starts have the same random numbers."""
        if isinstance(problem.space, Categories):
            return categories(state.mean, self.draws, generator)
        size, like = problem.space.size, state.mean
        noise = coloured(self.draws, problem.horizon, size, self.colour, generator).to(like)
        return problem.space.clip(state.mean + state.deviation * noise.unsqueeze(1))

    def plans(self, problem: Problem, state: Elites) -> Plans:
        if isinstance(problem.space, Box):
            tried = torch.stack([state.best, state.mean])
            which = problem.score(tried).argmin(0)
            best = tried[which, torch.arange(problem.batch, device=which.device)]
            return problem.plans(best)
        return problem.plans(state.best)


def categories(chances: Tensor, n: int, generator: Generator) -> Tensor:
    """Draw ``n`` plans (n, B, H, C) of categories from their probabilities (B, H, C), by the largest of Gumbel's numbers.

    All starts have the same random numbers.
    """
    shape = (n, 1, *chances.shape[1:])
    u = torch.rand(shape, generator=generator, dtype=torch.float64).to(chances).clamp(1e-7, 1 - 1e-7)
    index = (chances.log() - (-u.log()).log()).argmax(-1)
    return Categories(chances.shape[-1]).rows(index, chances.dtype)
