"""What actions there are: numbers in a box, or one of several categories.

A category is a row of zeros with a single one, (..., n), so that models of the world read both kinds alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from abduce.checks import check_count


@dataclass(frozen=True)
class Box:
    """Actions (..., A) between ``low`` and ``high`` (A,); an end that is infinite is none.

    >>> box = Box.of(-2.0, [1.0, 3.0])
    >>> box.clip(torch.tensor([-5.0, 5.0]))
    tensor([-2.,  3.])
    """

    low: Tensor
    high: Tensor
    choices: ClassVar[int] = 0  # actions are numbers

    @classmethod
    def of(cls, low: Any, high: Any) -> Box:
        """From numbers or sequences, in float64."""
        ends = (torch.as_tensor(x, dtype=torch.float64) for x in (low, high))
        low, high = (x.clone() for x in torch.broadcast_tensors(*(torch.atleast_1d(x) for x in ends)))
        if low.ndim != 1 or not bool((low < high).all()):
            raise ValueError(
                f"low must be below high, one number an action, got {low.tolist()} and {high.tolist()}"
            )
        return cls(low, high)

    @property
    def size(self) -> int:
        """Numbers in an action."""
        return len(self.low)

    @property
    def middle(self) -> Tensor:
        """Half way, (A,); zero where an end is infinite."""
        middle = 0.5 * (self.low + self.high)
        return torch.where(middle.isfinite(), middle, 0.0)

    @property
    def half(self) -> Tensor:
        """Half the width, (A,); one where an end is infinite."""
        half = 0.5 * (self.high - self.low)
        return torch.where(half.isfinite(), half, 1.0)

    @property
    def bounded(self) -> bool:
        """Whether any end is a number."""
        return bool(self.low.isfinite().any() or self.high.isfinite().any())

    def clip(self, action: Tensor) -> Tensor:
        """The nearest action inside."""
        return torch.minimum(torch.maximum(action, self.low.to(action)), self.high.to(action))

    def check(self, action: Tensor, name: str = "actions") -> None:
        """Refuse actions outside, beyond rounding."""
        slack = 1e-6 * self.half
        low, high = (self.low - slack).to(action), (self.high + slack).to(action)
        outside = ((action < low) | (action > high)).any(-1)
        if bool(outside.any()):
            worst = action[outside][0].tolist()
            raise ValueError(
                f"{name} must lie between {self.low.tolist()} and {self.high.tolist()}, "
                f"got {worst} among {int(outside.sum())} outside"
            )


@dataclass(frozen=True)
class Categories:
    """One of ``size`` actions, told to the model as a row of zeros with a single one.

    >>> Categories(3).rows(torch.tensor([2, 0]))
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """

    size: int

    def __post_init__(self) -> None:
        check_count("size", self.size)

    @property
    def choices(self) -> int:
        """How many there are to choose among."""
        return self.size

    def clip(self, action: Tensor) -> Tensor:
        """Rows as they are."""
        return action

    def check(self, action: Tensor, name: str = "actions") -> None:
        """Refuse rows that are not zeros with a single one."""
        wrong = ((action != 0) & (action != 1)).any(-1) | (action.sum(-1) != 1)
        if bool(wrong.any()):
            worst = action[wrong][0].tolist()
            raise ValueError(
                f"{name} must choose one of {self.size}, a row of zeros with a single one, got {worst}"
            )

    def rows(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows (..., size) of categories (...,)."""
        return torch.nn.functional.one_hot(index, self.size).to(dtype)
