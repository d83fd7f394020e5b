"""Transition models: the distribution of the next state given a state and an action, p(s' | s, a).

All tensors may have any leading axes: states (..., S), actions (..., A), and give (..., S).  A model may be made of several
*members*, each a guess at the world that is held for a whole rollout, so that what is not known of the world (doubt) stays
apart from what is random in it (noise):

    p(s' | s, a) = 1/M Σ_m N(s'; μ_m(s, a), σ_m(s, a)²),      M = members

    mean       μ_m, or its average over members; differentiable
    moments    mean and standard deviation of the mixture: noise and doubt together
    draw       a next state with the noise of a member

Units are the states' own; log-probabilities are in nats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn


class Transition(nn.Module, ABC):
    """How states follow from states and actions; ``members`` is 1 where the model has no doubt of itself."""

    observation_size: int
    action_size: int
    members: int
    exact: ClassVar[bool] = False  # whether it answers any blanks of a trajectory by itself

    @property
    def family(self) -> str:
        """What kind of model it is."""
        return type(self).__name__

    @abstractmethod
    def moments(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the next state over members and noise, (..., S) each."""

    @abstractmethod
    def mean(self, state: Tensor, action: Tensor, member: Tensor | None = None) -> Tensor:
        """Mean of the next state (..., S), differentiable: of the members that ``member`` (...,) names, or on average."""

    @abstractmethod
    def draw(
        self, state: Tensor, action: Tensor, generator: Generator, member: Tensor | None = None
    ) -> Tensor:
        """Draw the next state (..., S) with noise: of the members that ``member`` (...,) names, or of one drawn for each."""

    @abstractmethod
    def jacobian(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of the average mean in the state (..., S, S) and in the action (..., S, A).

        :func:`derivatives` of ``self.mean`` where no formula is known.
        """

    @abstractmethod
    def log_prob(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """Log-density of the next state ``after`` under the mixture of members, nats, (...,)."""


def derivatives(
    function: Callable[[Tensor, Tensor], Tensor], state: Tensor, action: Tensor
) -> tuple[Tensor, Tensor]:
    """Differentiate a function of states (..., S) and actions (..., A): (..., R, S) and (..., R, A), by forward tangents.

    The function acts row by row, so that all rows' derivatives in one input come from one pass.

    >>> a, b = derivatives(lambda s, a: s.sin() * a, torch.zeros(5, 2), torch.ones(5, 1))
    >>> a[0], b.shape
    (tensor([[1., 0.],
            [0., 1.]]), torch.Size([5, 2, 1]))
    """
    size = state.shape[-1]
    joined = torch.cat([state, action], -1)
    tangents = torch.eye(joined.shape[-1], dtype=joined.dtype, device=joined.device)

    def along(tangent: Tensor) -> Tensor:
        def of(x: Tensor) -> Tensor:
            return function(x[..., :size], x[..., size:])

        return torch.func.jvp(of, (joined,), (tangent.expand_as(joined),))[1]

    slopes = torch.func.vmap(along, out_dims=-1)(tangents)
    return slopes[..., :size], slopes[..., size:]
