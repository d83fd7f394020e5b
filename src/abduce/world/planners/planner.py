"""What planners share: the problem, the interface, and the loop around it.

A planner is a kernel: ``init`` guesses plans for a problem, ``step`` makes them cheaper, ``advance`` carries them over to a
problem that starts one step later (a receding horizon), ``plans`` reads the best.  All are batched over starts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from abduce.checks import check_count
from abduce.world.actions import Box, Categories
from abduce.world.costs import Cost
from abduce.world.rollout import CELLS, Plans, corrected, drawn, follow, priced, total
from abduce.world.transitions import Transition


@dataclass(frozen=True)
class Problem:
    """From each ``start`` (B, S), the ``horizon`` actions of least cost.

    With ``draws`` the cost is the average over that many rollouts with noise and doubt, else that of the mean rollout; draws
    have the random numbers of ``seed``, the same at every call.
    """

    transition: Transition
    cost: Cost
    start: Tensor
    horizon: int
    space: Box | Categories
    draws: int = 0
    seed: int = 0

    @classmethod
    def of(
        cls,
        transition: Transition,
        cost: Any,
        start: Tensor,
        horizon: int,
        space: Box | Categories,
        draws: int = 0,
        seed: int = 0,
    ) -> Problem:
        """A problem of which everything has been checked."""
        check_count("horizon", horizon)
        if start.ndim != 2 or start.shape[1] != transition.observation_size:
            raise ValueError(
                f"start must have shape (batch, {transition.observation_size}), got {tuple(start.shape)}"
            )
        if not bool(start.isfinite().all()):
            raise ValueError("start must be finite numbers; fill blanks first")
        if space.size != transition.action_size:
            raise ValueError(
                f"actions must have the model's {transition.action_size} numbers, got {space.size}"
            )
        problem = cls(transition, Cost.of(cost), start, horizon, space, draws, seed)
        problem.score(problem.neutral[None, :, :1])  # the cost is refused here, before any work
        return problem

    @property
    def batch(self) -> int:
        """The number of starts."""
        return len(self.start)

    @property
    def box(self) -> Box:
        """The box of actions, for planners that need one."""
        if not isinstance(self.space, Box):
            raise ValueError(
                f"planners by gradients need actions that are numbers; these are {self.space.size} categories: "
                f"use method='cem' or 'mppi'"
            )
        return self.space

    @property
    def neutral(self) -> Tensor:
        """Plans (B, H, A) of the middle action; of categories, of the first."""
        one = self.space.middle if isinstance(self.space, Box) else torch.eye(self.space.size)[0]
        return one.to(self.start).expand(self.batch, self.horizon, -1)

    def repeated(self, n: int) -> Problem:
        """The problem with all its starts ``n`` times over: rows (n, B) in one axis."""
        return replace(self, start=self.start.repeat(n, 1))

    @torch.no_grad()
    def score(self, actions: Tensor) -> Tensor:
        """What plans (K, B, H, A) cost on the mean or on average over draws, (K, B)."""
        if not self.draws:
            return priced(self.transition, self.cost, self.start, actions)
        each = self.batch * self.horizon * self.draws * self.start.shape[1]
        generator, found = self.random, []
        for some in actions.split(max(1, CELLS // each)):
            some = some.expand(-1, self.batch, -1, -1)
            states, taken = drawn(self.transition, self.start, some, self.draws, generator)
            found.append(total(self.cost, states, taken).mean(0))
        return torch.cat(found)

    @torch.no_grad()
    def judged(self, plans: Plans) -> Tensor:
        """What plans of the starts cost, (B,): followed by their gains where they have some and there are draws."""
        if not self.draws:
            return plans.cost
        box = self.space if isinstance(self.space, Box) else None
        states, taken = drawn(self.transition, self.start, plans.actions, self.draws, self.random, plans, box)
        return total(self.cost, states, taken).mean(0)

    @property
    def random(self) -> Generator:
        """Random numbers of draws, from their beginning."""
        return Generator(self.start.device).manual_seed(self.seed)

    @torch.no_grad()
    def plans(self, actions: Tensor) -> Plans:
        """Actions (B, H, A) with the states and cost expected."""
        states = follow(self.transition, self.start, actions)
        cost = total(self.cost, states, actions) if not self.draws else self.score(actions[None])[0]
        return Plans(actions, states, cost)


class Planner(ABC):
    """A kernel over plans; ``iterations`` steps are taken at first, ``later`` after an advance."""

    iterations: int
    later: int

    @abstractmethod
    def init(self, problem: Problem, generator: Generator) -> Any:
        """First plans."""

    @abstractmethod
    def advance(self, problem: Problem, state: Any, generator: Generator) -> Any:
        """First plans, from the state of a problem whose second step is this one's start."""

    @abstractmethod
    def step(self, problem: Problem, state: Any, generator: Generator) -> tuple[Any, dict[str, Any]]:
        """Cheaper plans, and what is told of them: at least ``cost`` (B,) and ``transitions``, evaluated for each start."""

    @abstractmethod
    def plans(self, problem: Problem, state: Any) -> Plans:
        """The best plan of each start."""


def solve(
    planner: Planner, problem: Problem, generator: Generator, state: Any = None
) -> tuple[Plans, Any, list[dict[str, Any]]]:
    """Plan from nothing, or from the state of one step earlier: plans, the planner's state, and what each step told."""
    if state is None:
        state, steps = planner.init(problem, generator), planner.iterations
    else:
        state, steps = planner.advance(problem, state, generator), planner.later
    told = []
    for _ in range(steps):
        state, info = planner.step(problem, state, generator)
        told.append(info)
    return planner.plans(problem, state), state, told


def shifted(x: Tensor, horizon: int, end: Tensor) -> Tensor:
    """Plans (..., H, A) without their first action, cut or lengthened to the horizon by the action ``end`` (A,)."""
    x = x[..., 1 : horizon + 1, :]
    short = horizon - x.shape[-2]
    return torch.cat([x, end.to(x).expand(*x.shape[:-2], short, -1)], -2)


def moved_on(plans: Plans, horizon: int, fill: Tensor, steps: int = 1) -> Plans:
    """Plans without their first ``steps``, cut or lengthened to ``horizon`` by the action ``fill`` (A,); the cost is old."""
    actions, gains, states = plans.actions[:, steps:], plans.gains, plans.states[:, steps:]
    short = horizon - actions.shape[1]
    if short > 0:
        actions = torch.cat([actions, fill.to(actions).expand(len(actions), short, -1)], 1)
        states = torch.cat([states, states[:, -1:].expand(-1, short, -1)], 1)
    if gains is not None:
        gains = gains[:, steps:]
        if short > 0:
            gains = torch.cat([gains, torch.zeros_like(gains[:, :1]).expand(-1, short, -1, -1)], 1)
        gains = gains[:, :horizon]
    return Plans(actions[:, :horizon], states[:, : horizon + 1], plans.cost, gains)


@torch.no_grad()
def rolled_forward(problem: Problem, plans: Plans) -> Plans:
    """Plans of one step earlier for the problem as it is now, turned by their gains toward the states they meant to visit."""
    box = problem.box
    plans = moved_on(plans, problem.horizon, box.middle)
    if plans.gains is None:
        return problem.plans(plans.actions)
    actions, states = corrected(problem.transition, problem.start, plans, box)
    return Plans(actions, states, total(problem.cost, states, actions), plans.gains)
