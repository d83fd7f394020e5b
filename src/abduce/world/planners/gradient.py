"""Plans by gradients alone: the cost of a rollout, differentiated through it (the adjoint method).

    total(a) = Σ_t cost(s_t, a_t, s_{t+1}),   s_{t+1} = f(s_t, a_t)
    λ_t = ∂total/∂s_t runs backward:  λ_t = c_s + f_sᵀ λ_{t+1},     ∂total/∂a_t = c_a + f_aᵀ λ_{t+1}

Backpropagation through the rollout is this recursion.  Several starts of coloured noise go down at once by Adam on actions in
half widths of the box, clipped into it after each step; the best plan that any of them ever had is kept.  After an advance the
best is moved on by one step and all other rows are drawn afresh: without fresh starts a plan never leaves its valley.

Source: Bryson & Ho 1969; Kingma & Ba 2015 (Adam).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from abduce.world.planners.noise import sequences
from abduce.world.planners.planner import Planner, Problem, shifted
from abduce.world.rollout import Plans, drawn, follow, total

BETAS = (0.9, 0.99)


class Descent(NamedTuple):
    """``actions`` (K, B, H, A) as they are, Adam's two moments, the steps taken and
    planned, and the best (B, H, A) with its cost."""

    actions: Tensor
    moments: tuple[Tensor, Tensor]
    steps: int
    planned: int
    best: Tensor
    cost: Tensor
    evaluated: int


@dataclass(frozen=True)
class Gradient(Planner):
    """Adam on ``starts`` plans at once, the cheapest of ``candidates``; ``rate`` in half widths of the box, which falls to a
    tenth."""

    iterations: int = 60
    later: int = 20
    starts: int = 16
    candidates: int = 500
    fresh: int = 100
    rate: float = 0.1

    def init(self, problem: Problem, generator: Generator) -> Descent:
        return self._begin(problem, None, self.candidates, generator)

    def advance(self, problem: Problem, state: Descent, generator: Generator) -> Descent:
        on = shifted(state.best, problem.horizon, problem.box.middle)
        return self._begin(problem, on, self.fresh, generator)

    def _begin(
        self, problem: Problem, known: Tensor | None, candidates: int, generator: Generator
    ) -> Descent:
        """The cheapest sequences, and a plan that is known already."""
        n = max(1, self.starts - (known is not None))
        tried = sequences(max(candidates, n), problem.horizon, problem.box, problem.start, generator)
        cost = problem.score(tried).nan_to_num(nan=torch.inf)
        actions = tried[cost.topk(n, dim=0, largest=False).indices, 0]
        if known is not None:
            actions = torch.cat([known.unsqueeze(0), actions])
        zero = torch.zeros_like(actions)
        infinite = torch.full_like(cost[0], torch.inf)
        planned = self.iterations if known is None else self.later
        evaluated = len(tried) * problem.horizon
        return Descent(actions, (zero, zero), 0, max(planned, 1), actions[0], infinite, evaluated)

    def step(self, problem: Problem, state: Descent, generator: Generator) -> tuple[Descent, dict[str, Any]]:
        cost, gradient = adjoint(problem, state.actions)
        best, cheapest = _better(state.best, state.cost, state.actions, cost)
        half = problem.box.half.to(gradient)
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0) * half
        steps = state.steps + 1
        moments, move = adam(state.moments, gradient, steps)
        rate = self.rate * max(0.1, 1 - state.steps / state.planned)
        actions = problem.box.clip(state.actions - rate * half * move)
        info = {
            "cost": cheapest,
            "gradient": gradient.flatten(2).norm(dim=2).mean(0),
            "transitions": 2 * len(actions) * problem.horizon + state.evaluated,
        }
        return Descent(actions, moments, steps, state.planned, best, cheapest, 0), info

    def plans(self, problem: Problem, state: Descent) -> Plans:
        best, _ = _better(state.best, state.cost, state.actions, problem.score(state.actions))
        return problem.plans(best)


def adjoint(problem: Problem, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Cost (K, B) of plans (K, B, H, A) and its gradient in the actions, by backpropagation through their rollouts.

    With the problem's draws both are averages over rollouts with the same noise at every call.
    """
    with torch.enable_grad():
        leaf = actions.detach().requires_grad_()
        if problem.draws:
            states, taken = drawn(problem.transition, problem.start, leaf, problem.draws, problem.random)
            cost = total(problem.cost, states, taken).mean(0)
        else:
            cost = total(problem.cost, follow(problem.transition, problem.start, leaf), leaf)
        (gradient,) = torch.autograd.grad(cost.sum(), leaf)
    return cost.detach(), gradient


def adam(
    moments: tuple[Tensor, Tensor], gradient: Tensor, steps: int
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Moments after one more gradient, and the direction they give, of size about one; ``steps`` counts from 1."""
    first = BETAS[0] * moments[0] + (1 - BETAS[0]) * gradient
    second = BETAS[1] * moments[1] + (1 - BETAS[1]) * gradient.square()
    scale = (second / (1 - BETAS[1] ** steps)).sqrt() + torch.finfo(gradient.dtype).tiny ** 0.5
    return (first, second), first / (1 - BETAS[0] ** steps) / scale


def _better(best: Tensor, least: Tensor, actions: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest of a best (B, H, A) and other plans (K, B, H, A)."""
    value, index = cost.nan_to_num(nan=torch.inf).min(0)
    picked = actions[index, torch.arange(len(index), device=index.device)]
    return torch.where((value < least).view(-1, 1, 1), picked, best), torch.minimum(value, least)
