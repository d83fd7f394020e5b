"""Where a training run was best, and the way back there from a fall.

A run has fallen when a figure is no longer a number, when a step cannot be computed any more, or when both the objective at a
check and what the epoch's steps minimised lie far below the best:

    max(value, −loss) < best − 3 (1 + |start| + |best|)

Both, because a warm-up or a small β may let the bound itself sink while training does what it should.  A run that ends has
fallen already at one unit, 1 + |start| + |best|, below its best.  Where the loss measures no progress the value is a ceiling
of log p (:mod:`abduce.fit.ceiling`), which alone counts, and at the end by a twentieth of a unit.  The run then goes on from
its best weights, with the optimiser's state of then, at a tenth of the learning rate, a few times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from abduce.fit.optimizer import Average, load_moments, moments
from abduce.inference.energy import Diverged

FAR = 3.0  # units below the best
SPOILT = 1.0  # units below the best where the run ends
CERTAIN = 0.05  # likewise, of a value that is a ceiling
TRIES = 4
SLOWER = 0.1


@dataclass
class Best:
    """The best place that a run has been at, all that is needed to go on from it, and how often it was gone back to.

    ``value`` is that of rows watched; where it is a ceiling, the latest place with the highest one is the best.
    """

    start: float = -math.inf  # value before training
    value: float = -math.inf
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    averaged: int = 0
    rate: float = 1.0  # of the learning rate, after the falls
    falls: int = 0

    def keep(self, value: float, epoch: int, step: nn.Module, optimizer: Any, average: Average) -> None:
        """Take the place where the run is now."""
        self.value, self.epoch = value, epoch
        self.weights, self.moments = _copy(step.state_dict()), _copy(moments(optimizer))
        self.average, self.averaged = _copy(average.state()), average.count

    def put_back(self, step: nn.Module, optimizer: Any, average: Average) -> None:
        """Put the run back to this place."""
        step.load_state_dict(self.weights)
        load_moments(optimizer, _copy(self.moments))
        average.load(_copy(self.average), self.averaged)

    def fallen(self, value: float, loss: float | None, due: bool, ends: bool) -> bool:
        """Whether a run has fallen, by the ``value`` and the mean ``loss`` of an epoch, None where the value is a ceiling.

        Only where a check was ``due`` is ``value`` that of the rows watched, which can be compared with the best; ``ends``
        says that no further epoch comes.
        """
        spoilt = CERTAIN if loss is None else SPOILT
        loss = -value if loss is None else loss
        if not (math.isfinite(value) and math.isfinite(loss)):
            return True
        if not due or not math.isfinite(self.value):
            return False
        start = self.start if math.isfinite(self.start) else self.value
        unit, reached = 1 + abs(start) + abs(self.value), max(value, -loss)
        return reached < self.value - (spoilt if ends else FAR) * unit

    def fall(self) -> bool:
        """Count a fall and slow down; False where it has been tried often enough."""
        self.falls += 1
        self.rate *= SLOWER
        return self.falls <= TRIES

    def progress(self) -> dict[str, Any]:
        """The numbers of this place, for a checkpoint: infinite ones are left out."""
        numbers = {
            name: getattr(self, name) for name in ("start", "value", "epoch", "averaged", "rate", "falls")
        }
        return {name: number for name, number in numbers.items() if math.isfinite(number)}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of this place, for a checkpoint."""
        return {f"best {name}": getattr(self, name) for name in ("weights", "moments", "average")}

    @classmethod
    def load(cls, progress: dict[str, Any], tensors: dict[str, dict[str, Tensor]]) -> Best:
        """Read back :meth:`progress` and :meth:`tensors`."""
        weights, moments, average = (
            tensors.get(f"best {name}", {}) for name in ("weights", "moments", "average")
        )
        return cls(**progress, weights=weights, moments=moments, average=average)


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def finite(parameters: list[nn.Parameter]) -> bool:
    """Whether every weight is a number."""
    return all(bool(torch.isfinite(p).all()) for p in parameters)


def is_fall(error: Exception, parameters: list[nn.Parameter]) -> bool:
    """Whether a step failed because training ran away, and not because of a fault of another kind."""
    ran_away = isinstance(error, Diverged | torch.linalg.LinAlgError)  # pyright: ignore[reportPrivateImportUsage]
    return ran_away or (isinstance(error, RuntimeError | ValueError) and not finite(parameters))
