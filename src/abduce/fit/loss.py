"""What every objective for energies shares: the loss that it starts, and the refusal of pairs that are not legal.

An objective is a frozen dataclass with a method

    start(model, x, generator, kernel) -> Loss

which checks that it can train this energy on these rows x (n, D), and raises ``ValueError`` naming what is missing if not.
The :class:`Loss` is a module: its forward gives a number a row, (batch,), to be averaged and followed downhill; what it keeps
between steps (chains, a noise, a constant that is learnt) are its buffers and parameters, so ``state_dict`` resumes it.

| objective | needs |
|---|---|
| mean energy | a bounded volume of low energy |
| maximum likelihood | a differentiable log Z |
| contrastive divergence | a sampler |
| noise-contrastive estimation | a noise with a density, which is there for real and binary cells |
| minimum probability flow, pseudo-likelihood, ratio matching | binary cells |
| score matching | real cells and two derivatives; sliced the same; denoising one derivative |

Source: LeCun et al. 2006, A Tutorial on Energy-Based Learning, on which energies a loss can and cannot shape.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar, Protocol

from torch import Generator, Tensor, nn

from abduce.inference.energy import Energy
from abduce.inference.kernels import Kernel


class Loss(nn.Module, abc.ABC):
    """An objective bound to a model and to the data that it starts from."""

    comparable: ClassVar[bool] = True  # its value on held-out rows says how good the model is

    def __init__(self, model: Energy):
        super().__init__()
        self.model = model

    @abc.abstractmethod
    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Loss of each row, (batch, D) -> (batch,); its mean's gradient is the objective's."""


class RowLoss(Loss):
    """A loss that keeps nothing between steps: a function of the model, the rows and random numbers, ``(batch,)``."""

    def __init__(self, model: Energy, of: Callable[[Energy, Tensor, Generator | None], Tensor]):
        super().__init__(model)
        self.of = of

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return self.of(self.model, x, generator)


class EnergyObjective(Protocol):
    """What trains an energy."""

    def start(self, model: Energy, x: Tensor, generator: Generator, kernel: Kernel | None = None) -> Loss:
        """Check that the pair is legal, and give the loss."""
        ...


def require(legal: bool, objective: object, model: Energy, missing: str) -> None:
    """Refuse to train ``model`` by ``objective`` unless ``legal``; ``missing`` says what is needed and what to take."""
    if not legal:
        raise ValueError(
            f"{type(objective).__name__} cannot train {type(model).__name__}: it needs {missing}"
        )


def require_support(objective: object, model: Energy, support: str, instead: str) -> None:
    """Refuse unless every cell is ``support``."""
    missing = f"{support} cells, and this model's are {model.support}; take {instead}"
    require(model.support == support, objective, model, missing)


def check_rows(model: Energy, x: Tensor) -> None:
    """Refuse training data that are no rows of the model's cells."""
    if x.ndim != 2 or x.shape[1] != model.n_cells or len(x) == 0:
        raise ValueError(
            f"x must be rows of {model.n_cells} cells, (n, {model.n_cells}), got {tuple(x.shape)}"
        )
