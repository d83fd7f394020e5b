"""A world whose equations are known: the next state is a function of state and action, with noise of a given size or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from abduce.checks import check_count
from abduce.distributions.cells import LOG_2PI
from abduce.world.transitions import Transition, derivatives


class Equations(Transition):
    """s' = f(s, a) + σ ε with ε standard normal; ``noise`` σ is a number or one a cell, in the units of states.

    ``function`` takes rows (..., S) and (..., A) and gives (..., S), in operations of torch.

    >>> pushed = Equations(lambda s, a: s + 0.1 * a, 1, 1)
    >>> pushed.mean(torch.ones(2, 1), torch.ones(2, 1)).T, pushed.jacobian(torch.ones(1), torch.ones(1))
    (tensor([[1.1000, 1.1000]]), (tensor([[1.]]), tensor([[0.1000]])))
    """

    members = 1
    noise: Tensor

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        observation_size: int,
        action_size: int,
        noise: float | Sequence[float] | Tensor = 0.0,
    ):
        super().__init__()
        check_count("observation_size", observation_size)
        check_count("action_size", action_size)
        spread = torch.as_tensor(noise, dtype=torch.float64)
        if not bool((spread >= 0).all()) or spread.shape not in ((), (observation_size,)):
            raise ValueError(f"noise must be a number >= 0 or one for each cell of a state, got {noise!r}")
        self.function, self.observation_size, self.action_size = function, observation_size, action_size
        self.register_buffer("noise", spread.expand(observation_size).clone())

    def mean(self, state: Tensor, action: Tensor, member: Tensor | None = None) -> Tensor:
        return self.function(state, action)

    def moments(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.function(state, action)
        return mean, self.noise.to(mean).expand_as(mean)

    def draw(
        self, state: Tensor, action: Tensor, generator: Generator, member: Tensor | None = None
    ) -> Tensor:
        mean = self.function(state, action)
        shock = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + self.noise.to(mean) * shock

    def jacobian(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return derivatives(self.function, state, action)

    def log_prob(self, state: Tensor, action: Tensor, after: Tensor) -> Any:
        mean, spread = self.moments(state, action)
        z = (after - mean) / spread
        return -(0.5 * z.square() + spread.log() + 0.5 * LOG_2PI).sum(-1)
