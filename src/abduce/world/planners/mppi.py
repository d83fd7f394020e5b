"""Plans by importance weights (model predictive path integrals): the posterior mean of actions given that they are cheap.

    p(a | cheap) ∝ p(a) exp(−cost(a) / λ),       draws a ~ q = N(m, σ² C) with C the covariance of noise of a colour
    log_w = −cost(a) / λ + log p(a) − log q(a),  m ← Σ_s w_s a_s / Σ_s w_s

These are the weights of :mod:`abduce.inference.weights`, read by the same reductions; their effective sample size is told.
Where dynamics are linear without noise and the cost quadratic, the posterior mean is Riccati's plan for every λ.

λ is a number, or the one at which the effective size is a given share of the draws.  The prior is N(middle, prior² C), or
even over all actions (infinite), or it moves with the plan (p = q), as is usual in receding horizons.  Where there is a box
the world gets draws clipped into it, and weights are those of draws as they were.  Of categories each step has its own
probabilities, and p is even.

Source: Kappen 2005; Williams et al. 2017 (arXiv:1707.02342).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from abduce.inference.weights import effective_sample_size, expectation
from abduce.world.actions import Box, Categories
from abduce.world.planners.cem import LEAST, categories
from abduce.world.planners.noise import root
from abduce.world.planners.planner import Planner, Problem, shifted
from abduce.world.rollout import Plans

HALVINGS = 25  # of the interval in which log λ is sought


class PathIntegral(NamedTuple):
    """The proposal's mean (B, H, A), of categories their probabilities."""

    mean: Tensor


@dataclass(frozen=True)
class MPPI(Planner):
    """``draws`` plans a step with noise of ``deviation`` half widths of the box; ``temperature`` λ in units of cost."""

    iterations: int = 10
    later: int = 1
    draws: int = 500
    deviation: float = 0.5
    colour: float = 1.0
    temperature: float | None = None
    share: float = 0.05  # of draws in effect, where no temperature is given
    prior: float | None = (
        None  # deviation in half widths, maybe infinite; None: the prior moves with the plan
    )

    def init(self, problem: Problem, generator: Generator) -> PathIntegral:
        if isinstance(problem.space, Categories):
            return PathIntegral(torch.full_like(problem.neutral, 1 / problem.space.size))
        return PathIntegral(problem.neutral.clone())

    def advance(self, problem: Problem, state: PathIntegral, generator: Generator) -> PathIntegral:
        first = self.init(problem, generator).mean
        mean = shifted(state.mean, problem.horizon, first[0, 0])
        return PathIntegral(0.5 * (mean + first) if isinstance(problem.space, Categories) else mean)

    @torch.no_grad()
    def step(
        self, problem: Problem, state: PathIntegral, generator: Generator
    ) -> tuple[PathIntegral, dict[str, Any]]:
        drawn, taken, log_ratio = self._draw(problem, state.mean, generator)
        cost = problem.score(taken).nan_to_num(nan=torch.inf, posinf=torch.finfo(taken.dtype).max ** 0.5)
        if self.temperature is None:
            heat = tempered(cost, log_ratio, self.share * len(cost))
        else:
            heat = torch.full_like(cost[0], self.temperature)
        log_w = log_ratio - cost / heat
        mean = expectation(log_w, drawn)
        if isinstance(problem.space, Categories):
            mean = mean.clamp_min(LEAST)
            mean = mean / mean.sum(-1, keepdim=True)
        info = {
            "cost": cost.amin(0),
            "log_w": log_w,
            "ess": effective_sample_size(log_w),
            "temperature": heat,
            "transitions": len(cost) * problem.horizon,
        }
        return PathIntegral(mean), info

    def _draw(self, problem: Problem, mean: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draws (S, B, H, A), what the world gets of them, and log p − log q (S, B); starts share random numbers."""
        if isinstance(problem.space, Categories):
            drawn = categories(mean, self.draws, generator)
            log_q = (drawn * mean.log()).sum((2, 3))
            return drawn, drawn, -log_q
        box, h = problem.space, problem.horizon
        lower = root(h, self.colour).to(mean)
        shape = (self.draws, 1, h, box.size)
        white = torch.randn(shape, generator=generator, dtype=torch.float64).to(mean)
        half = box.half.to(mean)
        drawn = mean + self.deviation * half * (lower @ white)
        if self.prior is None:
            log_ratio = mean.new_zeros(self.draws, problem.batch)
        else:
            away = (drawn - box.middle.to(mean)) / (self.prior * half)
            away = torch.linalg.solve_triangular(lower, away, upper=False)
            log_ratio = 0.5 * (white.square().sum((2, 3)) - away.square().sum((2, 3)))
        return drawn, box.clip(drawn), log_ratio

    def plans(self, problem: Problem, state: PathIntegral) -> Plans:
        if isinstance(problem.space, Box):
            return problem.plans(problem.space.clip(state.mean))
        likely = state.mean.argmax(-1)
        return problem.plans(problem.space.rows(likely, state.mean.dtype))


def tempered(cost: Tensor, log_ratio: Tensor, size: float) -> Tensor:
    """The temperatures (B,) at which weights exp(log_ratio − cost / λ) of draws (S, B) have the effective size, by halving."""
    spread = (cost.nan_to_num() - cost.amin(0)).median(0).values.clamp_min(torch.finfo(cost.dtype).tiny * 1e8)
    low, high = spread.log() - 14.0, spread.log() + 7.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        few = effective_sample_size(log_ratio - cost / middle.exp()) < size
        low, high = torch.where(few, middle, low), torch.where(few, high, middle)
    return high.exp()
