"""Gauss-Newton on plans (iterative LQR) with actions in a box.

Around a plan the dynamics are made linear and the cost a convex quadratic, whose best change is found by dynamic programming
backward in time: with F_t = [A_t B_t], and q_t, C_t the cost's gradient and curvature in (s_t, a_t),

    Q_t = C_t + F_tᵀ V_{t+1} F_t,    k_t = argmin_k ½ kᵀ(Q_aa + μ D) k + Q_aᵀk   with a_t + k inside the box,
    K_t = −(Q_aa + μ D)⁻¹ Q_as  for the actions that are free, 0 for those at an end

The plan is rolled forward by a_t + α k_t + K_t (s_t − s⁰_t) for several α at once; the cheapest is taken if it is cheaper than
the plan.  μ (Levenberg's damping, in units of the mean of Q_aa) falls after a success and rises after a failure.  On linear
dynamics with a quadratic cost one step with μ = 0 is Riccati's solution.

Sources: Li & Todorov 2004; Tassa, Mansard & Todorov 2014 (boxes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from abduce.world.actions import Box
from abduce.world.planners.planner import Planner, Problem, rolled_forward
from abduce.world.rollout import Plans, corrected, total

LEAST, MOST = 1e-8, 1e6  # damping
SWEEPS = 4  # projected Newton steps of the box problem, where actions have several numbers


class IlqrState(NamedTuple):
    """Plans with gains, their ``damping`` μ (N,), and the mean curvature ``scale`` (N, A) it is relative to."""

    plans: Plans
    damping: Tensor
    scale: Tensor


@dataclass(frozen=True)
class ILQR(Planner):
    """Gauss-Newton from the middle of the box; ``lengths`` are the shares α of a step that are tried."""

    iterations: int = 30
    later: int = 5
    damping: float = 1e-2
    lengths: tuple[float, ...] = (1.0, 0.5, 0.2, 0.05)

    def init(self, problem: Problem, generator: Generator) -> IlqrState:
        return self.around(problem, problem.box.clip(problem.neutral))

    def around(self, problem: Problem, actions: Tensor) -> IlqrState:
        """Start from actions (N, H, A)."""
        return self.carried(problem, problem.plans(actions))

    def carried(self, problem: Problem, plans: Plans) -> IlqrState:
        """Start from plans."""
        if plans.gains is None:
            plans = plans._replace(gains=plans.actions.new_zeros(*plans.actions.shape, problem.start.shape[1]))
        damping = torch.full_like(plans.cost, self.damping)
        return IlqrState(plans, damping, torch.zeros_like(plans.actions[:, 0]))

    def advance(self, problem: Problem, state: IlqrState, generator: Generator) -> IlqrState:
        return IlqrState(rolled_forward(problem, state.plans), state.damping, state.scale)

    def plans(self, problem: Problem, state: IlqrState) -> Plans:
        return state.plans

    @torch.no_grad()
    def step(
        self, problem: Problem, state: IlqrState, generator: Generator
    ) -> tuple[IlqrState, dict[str, Any]]:
        plans, box = state.plans, problem.box
        model = expand(problem, plans)
        pull, gains, scale = backward(model, plans.actions, box, state.damping, state.scale)
        tried = plans._replace(gains=gains)
        lengths = torch.tensor(self.lengths).to(pull).view(-1, 1, 1, 1)
        start = problem.start.expand(len(lengths), -1, -1)
        actions, states = corrected(problem.transition, start, tried, box, lengths * pull)
        cost, best = total(problem.cost, states, actions).min(0)
        better = cost < plans.cost
        row = torch.arange(len(cost), device=cost.device)
        wide = better.view(-1, 1, 1)
        after = Plans(
            torch.where(wide, actions[best, row], plans.actions),
            torch.where(wide, states[best, row], plans.states),
            torch.where(better, cost, plans.cost),
            gains,
        )
        damping = torch.where(better, state.damping / 3, state.damping * 5)
        if self.damping > 0:
            damping = damping.clamp(LEAST, MOST)
        size = problem.start.shape[1] + pull.shape[2]
        info = {
            "cost": after.cost,
            "improved": better,
            "damping": damping,
            "transitions": problem.horizon * (len(self.lengths) + size),
        }
        return IlqrState(after, damping, scale), info


class Expansion(NamedTuple):
    """Along plans, a step first: slopes F (H, N, S, S + A) of the dynamics, gradient (H, N, S + A) and curvature of the cost,
    and gradient (N, S) and curvature of the last state's."""

    slopes: Tensor
    gradient: Tensor
    curvature: Tensor
    end_gradient: Tensor
    end_curvature: Tensor


def expand(problem: Problem, plans: Plans) -> Expansion:
    """Dynamics and cost around plans (N, H, A), all steps in one batch."""
    n, h, a = plans.actions.shape
    s = plans.states.shape[2]
    states = plans.states.transpose(0, 1)
    before, after = states[:-1].reshape(-1, s), states[1:].reshape(-1, s)
    action = plans.actions.transpose(0, 1).reshape(-1, a)
    slopes = torch.cat(problem.transition.jacobian(before, action), -1)
    gradient, curvature = problem.cost.quadratic(before, action, after, slopes)
    return Expansion(
        slopes.view(h, n, s, s + a),
        gradient.view(h, n, s + a),
        curvature.view(h, n, s + a, s + a),
        *problem.cost.quadratic_end(states[-1]),
    )


def backward(
    model: Expansion, actions: Tensor, box: Box, damping: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Changes k (N, H, A), gains K (N, H, A, S), and the mean of Q_aa's diagonal (N, A).

    ``scale`` is that mean as it was around the plan before, zero where there was none: then the cost's own curvature.
    """
    h, n, s, _ = model.slopes.shape
    a = actions.shape[2]
    own = model.curvature[:, :, s:, s:].diagonal(dim1=2, dim2=3).mean(0)
    own = torch.where(scale > 0, scale, own.clamp_min(torch.finfo(own.dtype).tiny))
    heavier = damping.view(-1, 1) * own
    low = (box.low.to(actions) - actions).transpose(0, 1)
    high = (box.high.to(actions) - actions).transpose(0, 1)
    v, value = model.end_gradient.unsqueeze(2), model.end_curvature
    pulls, gains, diagonals = [], [], []
    for t in range(h - 1, -1, -1):
        slopes = model.slopes[t]
        q = torch.baddbmm(model.curvature[t], slopes.mT, value @ slopes)
        g = torch.baddbmm(model.gradient[t].unsqueeze(2), slopes.mT, v)
        right = q[:, :, s:]
        diagonal = right[:, s:].diagonal(dim1=1, dim2=2)
        solver = _single if a == 1 else _several
        pull, gain = solver(right[:, s:], heavier, g[:, s:], q[:, s:, :s], low[t], high[t])
        closed = torch.baddbmm(q[:, :, :s], right, gain)
        moved = torch.baddbmm(g, right, pull)
        value = torch.baddbmm(closed[:, :s], gain.mT, closed[:, s:])
        v = torch.baddbmm(moved[:, :s], gain.mT, moved[:, s:])
        pulls.append(pull.squeeze(2))
        gains.append(gain)
        diagonals.append(diagonal)
    scale = torch.stack(diagonals).mean(0)
    return torch.stack(pulls[::-1], 1), torch.stack(gains[::-1], 1), scale


def _single(
    q: Tensor, heavier: Tensor, g: Tensor, cross: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """The box problem of one action: the minimum, clipped."""
    inverse = -1 / (q + heavier.unsqueeze(2))
    free = inverse * g
    pull = torch.minimum(torch.maximum(free, low.unsqueeze(2)), high.unsqueeze(2))
    return pull, (inverse * (pull == free)) * cross


def _several(
    q: Tensor, heavier: Tensor, g: Tensor, cross: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """The box problem of several actions, by projected Newton steps on those that are free."""
    q, g = q + torch.diag_embed(heavier), g.squeeze(2)
    eye = torch.eye(q.shape[1], dtype=q.dtype, device=q.device)
    pull = torch.minimum(torch.maximum(torch.zeros_like(g), low), high)
    for _ in range(SWEEPS):
        slope = g + (q @ pull.unsqueeze(2)).squeeze(2)
        held = ((pull <= low) & (slope > 0)) | ((pull >= high) & (slope < 0))
        free = ~held
        inner = torch.where(free.unsqueeze(1) & free.unsqueeze(2), q, eye)
        move = torch.linalg.solve_ex(inner, (slope * free).unsqueeze(2)).result.squeeze(2)
        pull = torch.minimum(torch.maximum(pull - move, low), high)
    gain = -torch.linalg.solve_ex(inner, cross * free.unsqueeze(2)).result
    return pull.unsqueeze(2), gain
