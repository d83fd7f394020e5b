"""What every objective for energies shares: the loss that it starts, and the refusal of pairs that are not legal.

An objective is a frozen dataclass whose ``start`` checks that it can train this energy on these rows x (n, D), and raises
``ValueError`` naming what is missing if not.  The :class:`Loss` that it gives is a module: its forward gives a number a row,
(batch,), to be averaged and followed downhill; what it keeps between steps (chains, a noise, a constant that is learnt) are
its buffers and parameters, so ``state_dict`` resumes it.

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
from dataclasses import dataclass
from typing import Any, ClassVar

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

    def states(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Where the chains are, (m, D), of a loss that is not comparable: see :mod:`abduce.fit.ceiling`."""
        raise NotImplementedError(f"{type(self).__name__} has no chains")


class RowLoss(Loss):
    """A loss that keeps nothing between steps: a function of the model, the rows and random numbers, ``(batch,)``."""

    def __init__(self, model: Energy, of: Callable[[Energy, Tensor, Generator | None], Tensor]):
        super().__init__(model)
        self.of = of

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return self.of(self.model, x, generator)


class EnergyObjective(abc.ABC):
    """What trains an energy."""

    def start(self, model: Energy, x: Tensor, generator: Generator, kernel: Kernel | None = None) -> Any:
        """Check that the pair is legal, and give the :class:`Loss`."""
        if x.ndim != 2 or x.shape[1] != model.n_cells or len(x) == 0:
            raise ValueError(
                f"x must be rows of {model.n_cells} cells, (n, {model.n_cells}), got {tuple(x.shape)}"
            )
        return self.bind(model, x, generator, kernel)

    @abc.abstractmethod
    def bind(self, model: Energy, x: Tensor, generator: Generator, kernel: Kernel | None) -> Loss:
        """``start`` for rows of the model's cells."""

    def illegal(self, model: Energy, missing: str) -> ValueError:
        """The refusal to train ``model``; ``missing`` says what is needed and what to take."""
        return ValueError(f"{type(self).__name__} cannot train {type(model).__name__}: it needs {missing}")

    def check_support(self, model: Energy, support: str, instead: str) -> None:
        """Refuse unless every cell is ``support``."""
        if model.support != support:
            raise self.illegal(
                model, f"{support} cells, and this model's are {model.support}; take {instead}"
            )


class RowObjective(EnergyObjective):
    """An objective whose loss keeps nothing between steps."""

    def bind(self, model: Energy, x: Tensor, generator: Generator, kernel: Kernel | None) -> Loss:
        self.check(model)
        return RowLoss(model, self.loss)

    @abc.abstractmethod
    def check(self, model: Energy) -> None:
        """Refuse a model that it cannot train."""

    @abc.abstractmethod
    def loss(self, model: Energy, x: Tensor, generator: Generator | None) -> Tensor:
        """Loss of each row, (batch, D) -> (batch,)."""


@dataclass(frozen=True)
class MeanEnergy(RowObjective):
    """Only push down at the data: minimise the mean of ``training_loss(x, generator)``, or of the energy where there is none.

    Architectures of constant volume (a bottleneck, k prototypes) and penalties that limit it (sparse codes, contraction,
    denoising) cannot be low everywhere; anything else would become a constant (Ranzato et al. 2007, A Unified Energy-Based
    Framework for Unsupervised Learning).
    """

    def check(self, model: Energy) -> None:
        if not model.bounded_volume:
            raise self.illegal(
                model,
                "a bounded volume of low energy (a bottleneck, a penalty or corruption), else the energy collapses to a "
                "constant; limit the code, or take ScoreMatching, NCE or ContrastiveDivergence",
            )

    def loss(self, model: Energy, x: Tensor, generator: Generator | None) -> Tensor:
        own = getattr(model, "training_loss", None)
        return model.energy(x) if own is None else own(x, generator)
