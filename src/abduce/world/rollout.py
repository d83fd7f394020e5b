"""Rollouts: where actions lead from a start, on average or by chance, and what that costs.

Plans are actions (..., H, A), and states (..., H + 1, S) begin with the start.  Where feedback gains (..., H, A, S) stand
beside a plan, its actions follow the states that really come:

    a_t = clip(a⁰_t + K_t (s_t − s⁰_t))

In draws each rollout keeps its member of the model throughout, so that doubt about the world does not average out like noise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.world.actions import Box
from abduce.world.costs import Cost
from abduce.world.transitions import Transition

CELLS = 2**22  # numbers of states that are held at once


class Plans(NamedTuple):
    """Plans from a batch of starts: ``actions`` (B, H, A), the ``states`` (B, H + 1, S) expected, their ``cost`` (B,), and the
    feedback ``gains`` (B, H, A, S) of planners that have them."""

    actions: Tensor
    states: Tensor
    cost: Tensor
    gains: Tensor | None = None

    def pick(self, index: Tensor) -> Plans:
        """Of all fields the rows ``index``."""
        gains = None if self.gains is None else self.gains[index]
        return Plans(self.actions[index], self.states[index], self.cost[index], gains)


class _Trail:
    """Rows of a rollout, (..., steps, n) in the end.  Where nothing is differentiated they are written in place: small ones
    that are kept between large ones that are not would tear the memory of long rollouts to pieces."""

    def __init__(self, steps: int):
        self.steps, self.count = steps, 0
        self.rows: list[Tensor] = []
        self.room: Tensor | None = None

    def add(self, row: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.rows.append(row)
            return row
        if self.room is None:
            self.room = row.new_empty(*row.shape[:-1], self.steps, row.shape[-1])
        if row.shape != self.room[..., 0, :].shape:
            raise ValueError(
                f"a step gave {tuple(row.shape)} after one of {tuple(self.room[..., 0, :].shape)}"
            )
        self.room[..., self.count, :] = row
        self.count += 1
        return row

    def whole(self) -> Tensor:
        return torch.stack(self.rows, -2) if self.room is None else self.room


def follow(transition: Transition, start: Tensor, actions: Tensor, member: Tensor | None = None) -> Tensor:
    """States (..., H + 1, S) by the mean, of ``member`` (...,) or on average; differentiable in start and actions.

    ``start`` (..., S) may have fewer leading axes than ``actions`` (..., H, A).
    """
    states = _Trail(actions.shape[-2] + 1)
    state = states.add(start.expand(*actions.shape[:-2], start.shape[-1]))
    for action in actions.unbind(-2):
        state = states.add(transition.mean(state, action, member))
    return states.whole()


def corrected(
    transition: Transition, start: Tensor, plans: Plans, box: Box, pull: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Roll plans forward from other starts (..., B, S) by their gains, on the mean: actions and states.

    ``pull`` (..., B, H, A) is added to the plan's actions.
    """
    assert plans.gains is not None
    low, high = box.low.to(start), box.high.to(start)
    centre = plans.actions if pull is None else plans.actions + pull
    centre = centre.expand(*start.shape[:-1], *plans.actions.shape[-2:])
    states, actions = _Trail(centre.shape[-2] + 1), _Trail(centre.shape[-2])
    state = states.add(start)
    before, gains = plans.states.unbind(-2), plans.gains.unbind(-3)
    for t, base in enumerate(centre.unbind(-2)):
        turn = (gains[t] @ (state - before[t]).unsqueeze(-1)).squeeze(-1)
        action = actions.add(torch.minimum(torch.maximum(base + turn, low), high))
        state = states.add(transition.mean(state, action))
    return actions.whole(), states.whole()


def drawn(
    transition: Transition,
    start: Tensor,
    actions: Tensor,
    draws: int,
    generator: Generator,
    plans: Plans | None = None,
    box: Box | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw rollouts from starts (..., S) with noise and doubt: states (draws, ..., H + 1, S) and actions (draws, ..., H, A).

    With ``plans`` that have gains, actions are turned toward their states.
    """
    state = start.expand(draws, *actions.shape[:-2], start.shape[-1])
    member = torch.arange(draws, device=start.device) % transition.members
    member = member.view(draws, *[1] * (state.ndim - 2)).expand(state.shape[:-1])
    states, taken = _Trail(actions.shape[-2] + 1), _Trail(actions.shape[-2])
    states.add(state)
    for t, action in enumerate(actions.unbind(-2)):
        action = action.expand(*state.shape[:-1], action.shape[-1])
        if plans is not None and plans.gains is not None:
            away = (state - plans.states[..., t, :]).unsqueeze(-1)
            action = action + (plans.gains[..., t, :, :] @ away).squeeze(-1)
            action = action if box is None else box.clip(action)
        taken.add(action)
        state = states.add(transition.draw(state, action, generator, member))
    return states.whole(), taken.whole()


def total(cost: Cost, states: Tensor, actions: Tensor) -> Tensor:
    """Cost of rollouts, summed over steps, with that of the last state: (...,); infinite where states left the numbers."""
    step = cost(states[..., :-1, :], actions, states[..., 1:, :]).sum(-1)
    return step + cost.end(states[..., -1, :])


def priced(transition: Transition, cost: Cost, start: Tensor, actions: Tensor) -> Tensor:
    """Cost of many plans (K, B, H, A) from starts (B, S) on the mean, (K, B), in bounded memory."""
    k, b, h = torch.broadcast_shapes(actions.shape[:3], (1, len(start), 1))
    chunk = max(1, CELLS // (b * h * (start.shape[-1] + actions.shape[-1])))
    found = []
    for some in actions.split(chunk):
        some = some.expand(len(some), b, h, actions.shape[-1])
        found.append(total(cost, follow(transition, start, some), some))
    return torch.cat(found).view(k, b)
