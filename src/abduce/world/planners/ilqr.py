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
from abduce.world.products import apply, rows_last, solved, times
from abduce.world.rollout import Plans, corrected, total

LEAST, MOST = 1e-8, 1e6  # damping
ROWS = 2**12  # steps of plans around which dynamics and cost are expanded at once
SWEEPS = 4  # projected Newton steps of the box problem, where actions have several numbers


class IlqrState(NamedTuple):
    """Plans with gains, their ``damping`` μ (N,), and the mean curvature ``scale`` (A, N) it is relative to."""

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
            plans = plans._replace(
                gains=plans.actions.new_zeros(*plans.actions.shape, problem.start.shape[1])
            )
        damping = torch.full_like(plans.cost, self.damping)
        return IlqrState(plans, damping, torch.zeros_like(plans.actions[:, 0].T))

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
    """Along plans, a step first and the batch last: ``slopes`` F (H, S + 1, D, N) of the dynamics and ``cost`` C (H, D, D, N)
    in (state, 1, action) together, D = S + 1 + A, and the last state's ``end`` (S + 1, S + 1, N).

    The number 1 carries what is linear: x̃ᵀCx̃ is the cost's quadratic up to a constant and a factor of two.
    """

    slopes: Tensor
    cost: Tensor
    end: Tensor


def expand(problem: Problem, plans: Plans) -> Expansion:
    """Dynamics and cost around plans (N, H, A), many steps in one batch."""
    n, h, a = plans.actions.shape
    s = plans.states.shape[2]
    states = plans.states.transpose(0, 1)
    before, after = states[:-1].reshape(-1, s), states[1:].reshape(-1, s)
    action = plans.actions.transpose(0, 1).reshape(-1, a)
    moved = states.new_empty(s, s + a, h * n)
    gradient, curvature = moved.new_empty(s + a, h * n), moved.new_empty(s + a, s + a, h * n)
    for i in range(
        0, h * n, ROWS
    ):  # written in place: parts that are kept between large ones that are not tear memory
        rows = slice(i, i + ROWS)
        around = _around(problem, before[rows], action[rows], after[rows])
        moved[..., rows], gradient[..., rows], curvature[..., rows] = around
    d = s + 1 + a
    x = [i for i in range(d) if i != s]
    slopes = moved.new_zeros(h, s + 1, d, n)
    slopes[:, :s, x] = moved.view(s, s + a, h, n).permute(2, 0, 1, 3)
    slopes[:, s, s] = 1.0
    cost = moved.new_zeros(h, d, d, n)
    cost[:, :, x] = _bordered(curvature, gradient, s).view(d, s + a, h, n).permute(2, 0, 1, 3)
    cost[:, x, s] = gradient.view(s + a, h, n).transpose(0, 1)
    gradient, curvature = problem.cost.quadratic_end(states[-1])
    end = moved.new_zeros(s + 1, s + 1, n)
    end[:, :s] = _bordered(curvature, gradient, s)
    end[:s, s] = gradient
    return Expansion(slopes, cost, end)


def _around(problem: Problem, before: Tensor, action: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of the dynamics (S, S + A, N), and the cost's gradient (S + A, N) and curvature (S + A, S + A, N)."""
    moved = rows_last(torch.cat(problem.transition.jacobian(before, action), -1))
    return moved, *problem.cost.quadratic(before, action, after, moved)


def _bordered(curvature: Tensor, gradient: Tensor, at: int) -> Tensor:
    """The curvature with the gradient as one more row."""
    return torch.cat([curvature[:at], gradient.unsqueeze(0), curvature[at:]])


def backward(
    model: Expansion, actions: Tensor, box: Box, damping: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Changes k (N, H, A), gains K (N, H, A, S), and the mean of Q_aa's diagonal (A, N).

    ``scale`` is that mean as it was around the plan before, zero where there was none: then the cost's own curvature.
    """
    n = actions.shape[0]
    s, a = model.slopes.shape[1] - 1, actions.shape[2]
    own = model.cost[:, s + 1 :, s + 1 :].diagonal(dim1=1, dim2=2).mean(0).T
    own = torch.where(scale > 0, scale, own.clamp_min(torch.finfo(own.dtype).tiny))
    heavier = damping * own
    centre = actions.permute(1, 2, 0)
    low = box.low.to(actions).view(-1, 1) - centre
    high = box.high.to(actions).view(-1, 1) - centre
    value, solver = model.end, _single if a == 1 else _several
    laws, diagonals = [], []
    steps = zip(*(x.flip(0).unbind(0) for x in (model.slopes, model.cost, low, high)), strict=True)
    for slopes, cost, down, up in steps:
        q = times(slopes.transpose(0, 1), times(value, slopes)).add_(cost)
        state, action = q[:, : s + 1], q[:, s + 1 :]
        law = solver(action[s + 1 :], heavier, state[s + 1 :], down, up)  # (A, S + 1, N): gains, then change
        closed = state + times(action, law)
        value = closed[: s + 1] + times(law.transpose(0, 1), closed[s + 1 :])
        laws.append(law)
        diagonals.append(action[s + 1 :])
    scale = torch.stack(diagonals).mean(0).diagonal(dim1=0, dim2=1).T
    whole = torch.stack(laws[::-1]).permute(3, 0, 1, 2)  # (N, H, A, S + 1)
    return whole[..., s].contiguous(), whole[..., :s].contiguous(), scale.reshape(a, n)


def _single(q: Tensor, heavier: Tensor, cross: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The box problem of one action: the minimum, clipped; an action at its end has no gains."""
    law = cross / -(q[0] + heavier)
    free = law[:, -1]
    pull = torch.minimum(torch.maximum(free, low), high)
    law = law * (pull == free).unsqueeze(1)
    law[:, -1] = pull
    return law


def _several(q: Tensor, heavier: Tensor, cross: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The box problem of several actions: the minimum, or projected Newton steps on the free ones where it lies outside."""
    eye = torch.eye(len(q), dtype=q.dtype, device=q.device).unsqueeze(2)
    q = q + eye * heavier
    law = -solved(q, cross)
    pull = law[:, -1]
    if bool(((pull > low) & (pull < high)).all()):
        return law
    g = cross[:, -1]
    pull = torch.minimum(torch.maximum(pull, low), high)
    for _ in range(SWEEPS):
        slope = g + apply(q, pull)
        held = ((pull <= low) & (slope > 0)) | ((pull >= high) & (slope < 0))
        free = ~held
        inner = torch.where(free.unsqueeze(0) & free.unsqueeze(1), q, eye)
        move = solved(inner, (slope * free).unsqueeze(1))[:, 0]
        pull = torch.minimum(torch.maximum(pull - move, low), high)
    law = -solved(inner, cross * free.unsqueeze(1))
    law[:, -1] = pull
    return law
