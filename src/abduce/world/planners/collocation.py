"""Plans by collocation: states are free too, and the dynamics a constraint that is met at the end.

    c_t = f(s_t, a_t) − s_{t+1},    L(s, a; λ, ρ) = Σ_t cost(s_t, a_t, s_{t+1}) + terminal(s_H) + Σ_t λ_tᵀc_t + ½ ρ |c_t|²

Adam goes down L in states and actions; every few steps λ ← λ + ρ c, and ρ rises (augmented Lagrangian).  In the end λ is the
adjoint of the rollout, and L's gradient is zero where the plan is optimal.  What counts is where actions really lead: at the
last they are rolled out and made better by a few Gauss-Newton steps.

Several starts of each problem go down at once: states begin along rollouts of coloured noise, from the spread of which the
units of states are taken.  Source: Hargraves & Paris 1987; Hestenes 1969.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from abduce.world.planners.gradient import adam
from abduce.world.planners.ilqr import ILQR
from abduce.world.planners.noise import sequences
from abduce.world.planners.planner import Planner, Problem, shifted
from abduce.world.rollout import Plans, follow, total


class Collocated(NamedTuple):
    """Actions (N, H, A) and states after them (N, H, S) of N = K B rows, multipliers λ (N, H, S), the units of states (S,),
    Adam's moments of both, and the steps taken."""

    actions: Tensor
    states: Tensor
    multipliers: Tensor
    unit: Tensor
    moments: tuple[Tensor, Tensor]
    steps: int
    evaluated: int


@dataclass(frozen=True)
class Collocation(Planner):
    """Adam on states and actions; ``rate`` in half widths of the box and units of states, ``penalty`` ρ in units of cost."""

    iterations: int = 200
    later: int = 40
    starts: int = 8
    candidates: int = 200
    rate: float = 0.05
    penalty: float = 1.0
    growth: float = 1.5  # of the penalty, every ``period`` steps
    most: float = 1e4
    period: int = 10
    polish: int = 3
    inner: ILQR = field(default_factory=ILQR)

    def init(self, problem: Problem, generator: Generator) -> Collocated:
        tried = sequences(self.candidates, problem.horizon, problem.box, problem.start, generator)
        cost = problem.score(tried).nan_to_num(nan=torch.inf)
        actions = tried[cost.topk(min(self.starts, len(tried)), dim=0, largest=False).indices, 0]
        return self._around(problem, actions.flatten(0, 1), self.candidates * problem.horizon)

    def advance(self, problem: Problem, state: Collocated, generator: Generator) -> Collocated:
        old = shifted(state.actions, problem.horizon, problem.box.middle)
        actions = self._cheapest(problem, old)
        fresh = self.init(problem, generator)
        joined = torch.cat([actions, fresh.actions[: -problem.batch]])
        return self._around(problem, joined, fresh.evaluated)

    def _around(self, problem: Problem, actions: Tensor, evaluated: int) -> Collocated:
        """States on the rollouts of actions (N, H, A)."""
        with torch.no_grad():
            n = len(actions) // problem.batch
            states = follow(problem.transition, problem.repeated(n).start, actions)[:, 1:]
            unit = states.flatten(0, 1).std(0).nan_to_num(1.0).clamp_min(1e-3)
        none = torch.zeros_like(torch.cat([actions, states], 2))
        return Collocated(actions, states, torch.zeros_like(states), unit, (none, none), 0, evaluated)

    def step(
        self, problem: Problem, state: Collocated, generator: Generator
    ) -> tuple[Collocated, dict[str, Any]]:
        rows = problem.repeated(len(state.actions) // problem.batch)
        weight = min(self.penalty * self.growth ** (state.steps // self.period), self.most)
        value, gaps, gradients = lagrangian(
            rows, state.actions, state.states, state.multipliers, weight, state.unit
        )
        steps = state.steps + 1
        moments, move = adam(state.moments, torch.cat(gradients, 2), steps)
        half, a = problem.box.half.to(state.actions), state.actions.shape[2]
        actions = problem.box.clip(state.actions - self.rate * half * move[..., :a])
        states = state.states - self.rate * state.unit * move[..., a:]
        multipliers = state.multipliers
        if steps % self.period == 0:
            multipliers = multipliers + weight * gaps / state.unit.square()
        info = {
            "cost": value.view(-1, problem.batch).amin(0),
            "gap": (gaps / state.unit).square().mean((1, 2)).sqrt().view(-1, problem.batch).amin(0),
            "transitions": 2 * len(actions) // problem.batch * problem.horizon + state.evaluated,
        }
        return Collocated(actions, states, multipliers, state.unit, moments, steps, 0), info

    def plans(self, problem: Problem, state: Collocated) -> Plans:
        inner = self.inner.around(problem, self._cheapest(problem, state.actions))
        for _ in range(self.polish):
            inner, _ = self.inner.step(problem, inner, problem.random)
        return inner.plans

    def _cheapest(self, problem: Problem, actions: Tensor) -> Tensor:
        """Of plans (K B, H, A) each start's best, by where they really lead, (B, H, A)."""
        plans = actions.view(-1, problem.batch, *actions.shape[1:])
        best = problem.score(plans).nan_to_num(nan=torch.inf).argmin(0)
        return plans[best, torch.arange(problem.batch, device=best.device)]


def lagrangian(
    problem: Problem, actions: Tensor, states: Tensor, multipliers: Tensor, weight: float, unit: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """L (N,), the gaps c (N, H, S), and L's gradient in actions (N, H, A) and states (N, H, S) after the start."""
    with torch.enable_grad():
        actions, states = actions.detach().requires_grad_(), states.detach().requires_grad_()
        whole = torch.cat([problem.start.unsqueeze(1), states], 1)
        gaps = problem.transition.mean(whole[:, :-1], actions) - states
        value = total(problem.cost, whole, actions) + (multipliers * gaps).sum((1, 2))
        value = value + 0.5 * weight * (gaps / unit).square().sum((1, 2))
        by_action, by_state = torch.autograd.grad(value.sum(), (actions, states))
    return value.detach(), gaps.detach(), (by_action, by_state)
