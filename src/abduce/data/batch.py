"""A batch of rows in model space: what objectives, models and tasks are handed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Hold B rows of D cells.

    Parameters
    ----------
    values : (B, D) float tensor of model values; unobserved cells are 0.
    observed : (B, D) bool tensor, None where every cell was observed.
    weight : (B,) float tensor, None where every row counts once.

    >>> batch = Batch(torch.zeros(3, 2))
    >>> len(batch), batch.mask.all().item()
    (3, True)
    """

    values: Tensor
    observed: Tensor | None = None
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise ValueError(f"values must have shape (B, D), got {tuple(self.values.shape)}")
        if self.observed is not None:
            if self.observed.shape != self.values.shape:
                raise ValueError(
                    f"observed has shape {tuple(self.observed.shape)}, expected that of values, "
                    f"{tuple(self.values.shape)}"
                )
            if self.observed.dtype != torch.bool:
                raise TypeError(f"observed must be bool, got {self.observed.dtype}")
        if self.weight is not None and self.weight.shape != self.values.shape[:1]:
            raise ValueError(f"weight has shape {tuple(self.weight.shape)}, expected ({len(self.values)},)")

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, rows: Any) -> Batch:
        """Take some rows, by a slice or an index tensor."""
        return Batch(
            self.values[rows],
            None if self.observed is None else self.observed[rows],
            None if self.weight is None else self.weight[rows],
        )

    @property
    def mask(self) -> Tensor:
        """Return `observed`, all True if there is none."""
        if self.observed is None:
            return torch.ones_like(self.values, dtype=torch.bool)
        return self.observed

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Batch:
        """Move to a device, and cast values and weights."""
        return Batch(
            self.values.to(device=device, dtype=dtype),
            None if self.observed is None else self.observed.to(device=device),
            None if self.weight is None else self.weight.to(device=device, dtype=dtype),
        )
