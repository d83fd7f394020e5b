"""ObservationHistory: what was observed on the last k steps as one state, where one observation does not tell it all.

    s_t = (o_t, o_t − o_{t−1}, ..., o_{t−k+2} − o_{t−k+1})

Differences of successive observations hold velocities that are not seen.  With k = 1 the state is the observation.  Of the
next state only the observation is foreseen by a model that learns; the differences follow from it (`Remembering`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from abduce.world.costs import Cost
from abduce.world.episodes import Episode
from abduce.world.transitions import Transition


@dataclass(frozen=True)
class ObservationHistory:
    """The last ``steps`` observations of ``size`` numbers each.

    >>> ObservationHistory(2, 1).states(torch.tensor([[0.0], [1.0], [3.0]]))
    tensor([[1., 1.],
            [3., 2.]])
    """

    steps: int
    size: int

    def states(self, observations: Tensor) -> Tensor:
        """States (..., T − k + 1, k S) of observations (..., T, S) in order of time."""
        count = observations.shape[-2] - self.steps + 1
        parts = [observations[..., self.steps - 1 - j :, :][..., :count, :] for j in range(self.steps)]
        return torch.cat([parts[0], *(a - b for a, b in itertools.pairwise(parts))], -1)

    def observed(self, states: Tensor) -> Tensor:
        """The last observation of states."""
        return states[..., : self.size]

    def episodes(self, found: Sequence[Episode]) -> list[Episode]:
        """Episodes of states, without the first k − 1 steps; those that are then too short are left out."""
        if self.steps == 1:
            return list(found)
        out = []
        for e in found:
            if len(e) >= self.steps + 1:
                states = self.states(torch.from_numpy(e.observations)).numpy()
                out.append(replace(e, observations=states, actions=e.actions[self.steps - 1 :]))
        if not out:
            longest = max(len(e) for e in found)
            raise ValueError(
                f"history={self.steps} needs an episode of at least {self.steps + 1} actions, the longest has {longest}"
            )
        return out

    def tied(self, transition: Transition) -> Transition:
        """A transition of states whose differences follow from observations; a linear one has learnt that."""
        return transition if self.steps == 1 or transition.exact else Remembering(transition, self.size)

    def start(self, past: np.ndarray) -> np.ndarray:
        """Observations (..., n, S) as the k that a state takes: the last of them, the first again where there are too few."""
        lack = self.steps - past.shape[-2]
        if lack > 0:
            past = np.concatenate([np.repeat(past[..., :1, :], lack, -2), past], -2)
        return past[..., past.shape[-2] - self.steps :, :]

    def cost(self, cost: Cost) -> Cost:
        """A cost of observations as one of states."""
        if self.steps == 1:
            return cost
        n = self.size

        def three(function):
            return function and (lambda s, a, after: function(s[..., :n], a, after[..., :n]))

        def one(function):
            return function and (lambda s: function(s[..., :n]))

        return Cost(
            three(cost.function),
            one(cost.terminal),
            three(cost.residuals),
            one(cost.terminal_residuals),
        )


class Remembering(Transition):
    """A transition of states that remember: ``inner`` foresees the next observation of ``size`` numbers, the rest follows.

        s' = (o', o' − o, the differences before, without the oldest)

    Foreseen apart from each other, observation and differences would drift apart over a rollout, and states be reached that
    none ever saw.  Log-densities are the inner model's, of all numbers of the state.
    """

    def __init__(self, inner: Transition, size: int):
        super().__init__()
        self.inner, self.size = inner, size
        self.observation_size, self.action_size = inner.observation_size, inner.action_size
        self.members = inner.members

    @property
    def family(self) -> str:
        return self.inner.family

    def _after(self, state: Tensor, foreseen: Tensor) -> Tensor:
        """The next state of what the inner model foresees of it, (..., S)."""
        n = self.size
        observed, state = foreseen[..., :n], state.expand_as(foreseen)
        return torch.cat([observed, observed - state[..., :n], state[..., n:-n]], -1)

    def mean(self, state: Tensor, action: Tensor, member: Tensor | None = None) -> Tensor:
        return self._after(state, self.inner.mean(state, action, member))

    def draw(
        self, state: Tensor, action: Tensor, generator: Generator, member: Tensor | None = None
    ) -> Tensor:
        return self._after(state, self.inner.draw(state, action, generator, member))

    def moments(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self.inner.moments(state, action)
        n = self.size
        known = torch.zeros_like(spread[..., 2 * n :])
        return self._after(state, mean), torch.cat([spread[..., :n], spread[..., :n], known], -1)

    def jacobian(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        n = self.size
        by_state, by_action = (slope[..., :n, :] for slope in self.inner.jacobian(state, action))
        same = torch.eye(self.observation_size).to(by_state).expand(*by_state.shape[:-2], -1, -1)
        still = by_action.new_zeros(*by_action.shape[:-2], self.observation_size - 2 * n, self.action_size)
        return (
            torch.cat([by_state, by_state - same[..., :n, :], same[..., n:-n, :]], -2),
            torch.cat([by_action, by_action, still], -2),
        )

    def log_prob(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return self.inner.log_prob(state, action, after)
