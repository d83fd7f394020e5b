"""The planner of method "auto": many coloured sequences are tried, and the best made better by Gauss-Newton.

At first ``candidates`` sequences are rolled out, over the whole horizon, five and four sixths of it, a third each; the
cheapest ``survivors`` of each third take two steps of batched box-iLQR, and the best eighth of these go on over the whole
horizon, the better ones for longer, until ``kept`` are left.  The shorter ones are for plans that arrive early: of random
sequences hardly one stays where it should once it is there, so that over the whole horizon these would be the first to go.

A step later the best plan is rolled forward by its feedback gains, and beside it starts the best of ``fresh`` new sequences.
Where models are learned and worlds noisy, it is the gains that keep the planner from starting over at every step.  The horizon
should cover the whole manoeuvre.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from abduce.world.planners.ilqr import ILQR, IlqrState
from abduce.world.planners.noise import sequences
from abduce.world.planners.planner import Planner, Problem, moved_on, rolled_forward
from abduce.world.rollout import Plans

SHARES = (1.0, 5 / 6, 2 / 3)  # of the horizon over which sequences are tried
FIRST = 2  # steps of Gauss-Newton on all survivors
LEFT = 8  # one in so many of them goes on, and at least as many


class ScreenedState(NamedTuple):
    """Rows (K, B) in one axis of Gauss-Newton's state, the number K, the steps taken, and transitions evaluated that no
    step has told of yet, a start."""

    inner: IlqrState
    rows: int
    steps: int
    evaluated: int


@dataclass(frozen=True)
class Screened(Planner):
    """Screened starts, then Gauss-Newton."""

    iterations: int = 12
    later: int = 2
    candidates: int = 1000
    fresh: int = 64
    survivors: int = 96
    kept: int = 2
    halving: int = 4  # steps after which a quarter goes on
    inner: ILQR = field(default_factory=ILQR)

    def init(self, problem: Problem, generator: Generator) -> ScreenedState:
        found, evaluated = [], 0
        keep = max(LEFT, self.survivors // LEFT)
        for share in SHARES:
            short = replace(problem, horizon=max(1, round(share * problem.horizon)))
            actions = self.screen(short, self.candidates // len(SHARES), self.survivors, generator)
            rows = len(actions)
            many = short.repeated(rows)
            inner = self.inner.around(many, actions.flatten(0, 1))
            for _ in range(FIRST):
                inner, info = self.inner.step(many, inner, generator)
                evaluated += info["transitions"] * rows
            evaluated += self.candidates // len(SHARES) * short.horizon
            best = self._best(short, ScreenedState(inner, rows, 0, 0), min(keep, rows))
            found.append(moved_on(best.plans, problem.horizon, problem.box.middle, 0).actions)
        actions = torch.cat(found)
        rows = len(actions) // problem.batch
        inner = self.inner.around(problem.repeated(rows), actions)
        return ScreenedState(inner, rows, 0, evaluated)

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
            blank = plans.actions.new_zeros(*new.actions.shape, problem.start.shape[1])
            gains = blank[: problem.batch] if plans.gains is None else plans.gains
            plans = Plans(
                torch.cat([plans.actions, new.actions]),
                torch.cat([plans.states, new.states]),
                torch.cat([plans.cost, new.cost]),
                torch.cat([gains, blank]),
            )
            evaluated += self.fresh * problem.horizon
        damping = torch.full_like(plans.cost, self.inner.damping)
        damping[: problem.batch] = old.damping.clamp_max(self.inner.damping)
        scale = old.scale.repeat(1, rows)
        return ScreenedState(IlqrState(plans, damping, scale), rows, 0, evaluated)

    def step(
        self, problem: Problem, state: ScreenedState, generator: Generator
    ) -> tuple[ScreenedState, dict[str, Any]]:
        rows, inner = state.rows, state.inner
        if state.steps and state.steps % self.halving == 0 and rows > self.kept:
            rows = max(self.kept, rows // 4)
            inner = self._best(problem, state, rows)
        inner, info = self.inner.step(problem.repeated(rows), inner, generator)
        info["transitions"] = info["transitions"] * rows + state.evaluated
        info["cost"] = inner.plans.cost.view(rows, -1).amin(0)
        info["improved"] = info["improved"].view(rows, -1).any(0)
        info["rows"] = rows
        return ScreenedState(inner, rows, state.steps + 1, 0), info

    def _best(self, problem: Problem, state: ScreenedState, n: int) -> IlqrState:
        """The ``n`` cheapest plans of each start."""
        inner = state.inner
        cost = problem.repeated(state.rows).judged(inner.plans).view(state.rows, -1)
        index = cost.topk(n, dim=0, largest=False).indices
        index = (index * cost.shape[1] + torch.arange(cost.shape[1], device=cost.device)).flatten()
        return IlqrState(inner.plans.pick(index), inner.damping[index], inner.scale[:, index])

    def plans(self, problem: Problem, state: ScreenedState) -> Plans:
        return self._best(problem, state, 1).plans
