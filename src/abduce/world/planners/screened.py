"""The planner of method "auto": many coloured sequences are tried, and the best made better by Gauss-Newton.

At first ``candidates`` sequences are rolled out and the best ``survivors`` of each start go on to batched box-iLQR; as they
come down the better half goes on, and again, until ``kept`` are left.  A step later the best plan is rolled forward by its
feedback gains, and beside it starts the best of ``fresh`` new sequences.

Where models are learned and worlds noisy, the plan rolled forward by its gains is what keeps the planner from starting over
at every step.  The horizon should cover the whole manoeuvre.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from abduce.world.planners.ilqr import ILQR, IlqrState
from abduce.world.planners.noise import sequences
from abduce.world.planners.planner import Planner, Problem, rolled_forward
from abduce.world.rollout import Plans


class ScreenedState(NamedTuple):
    """Rows (K, B) in one axis of Gauss-Newton's state, the number K, and the steps taken since the last halving."""

    inner: IlqrState
    rows: int
    since: int
    evaluated: int  # transitions a start, before the first step


@dataclass(frozen=True)
class Screened(Planner):
    """Screened starts, then Gauss-Newton."""

    iterations: int = 25
    later: int = 4
    candidates: int = 1000
    fresh: int = 100
    survivors: int = 32
    kept: int = 2
    halving: int = 4  # steps after which the worse half is left
    inner: ILQR = field(default_factory=ILQR)

    def init(self, problem: Problem, generator: Generator) -> ScreenedState:
        actions = self.screen(problem, self.candidates, self.survivors, generator)
        rows = len(actions)
        inner = self.inner.around(problem.repeated(rows), actions.flatten(0, 1))
        return ScreenedState(inner, rows, 0, self.candidates * problem.horizon)

    def screen(self, problem: Problem, candidates: int, kept: int, generator: Generator) -> Tensor:
        """The cheapest of coloured sequences for each start, (kept, B, H, A)."""
        tried = sequences(candidates, problem.horizon, problem.box, problem.start, generator)
        cost = problem.score(tried).nan_to_num(nan=torch.inf)
        best = cost.topk(min(kept, candidates), dim=0, largest=False).indices
        return tried[best, 0]

    def advance(self, problem: Problem, state: ScreenedState, generator: Generator) -> ScreenedState:
        old = self._best(problem, state, 1)
        plans = rolled_forward(problem, old.plans)
        rows, evaluated = 1, problem.horizon
        if self.fresh and self.kept > 1:
            actions = self.screen(problem, self.fresh, self.kept - 1, generator)
            rows += len(actions)
            new = problem.repeated(len(actions)).plans(actions.flatten(0, 1))
            gains = plans.gains.new_zeros(len(new.actions), *plans.gains.shape[1:])
            plans = Plans(*(torch.cat(pair) for pair in zip(plans, new._replace(gains=gains), strict=True)))
            evaluated += self.fresh * problem.horizon
        damping = torch.full_like(plans.cost, self.inner.damping)
        damping[: problem.batch] = old.damping.clamp_max(self.inner.damping)
        scale = old.scale.repeat(1, rows)
        return ScreenedState(IlqrState(plans, damping, scale), rows, 0, evaluated)

    def step(
        self, problem: Problem, state: ScreenedState, generator: Generator
    ) -> tuple[ScreenedState, dict[str, Any]]:
        rows, since, inner = state.rows, state.since, state.inner
        if since >= self.halving and rows > self.kept:
            rows, since = max(self.kept, rows // 2), 0
            inner = self._best(problem, state, rows)
        inner, info = self.inner.step(problem.repeated(rows), inner, generator)
        info["transitions"] = info["transitions"] * rows + state.evaluated
        info["cost"] = inner.plans.cost.view(rows, -1).amin(0)
        info["improved"] = info["improved"].view(rows, -1).any(0)
        info["rows"] = rows
        return ScreenedState(inner, rows, since + 1, 0), info

    def _best(self, problem: Problem, state: ScreenedState, n: int) -> IlqrState:
        """The ``n`` cheapest plans of each start."""
        inner = state.inner
        cost = problem.repeated(state.rows).judged(inner.plans).view(state.rows, -1)
        index = cost.topk(n, dim=0, largest=False).indices
        index = (index * cost.shape[1] + torch.arange(cost.shape[1], device=cost.device)).flatten()
        return IlqrState(inner.plans.pick(index), inner.damping[index], inner.scale[:, index])

    def plans(self, problem: Problem, state: ScreenedState) -> Plans:
        return self._best(problem, state, 1).plans
