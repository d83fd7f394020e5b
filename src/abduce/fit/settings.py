"""How to train: the settings of the one loop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Settings:
    """How to train.  ``epochs`` None: chosen from the data's size so that small tables take seconds."""

    epochs: int | None = None
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip: float = 5.0  # longest gradient, in units of the root of the number of cells: a loss sums over them
    validation: float = 0.1
    patience: int | None = 30  # checks of the held-out bound without a new best before the run stops
    partial: float = 1.0  # share of the steps that also teach the partial encoder
    linear_rate: float = 1.0  # learning rate of a linear path, relative to the networks'
    mask_rate: float = 1.0  # learning rate of a mask model, likewise
    masking: bool = True  # hide parts of rows and fit the encoder of what is left to the fuller posterior
    trim: float = 0.0  # share of the rows of a batch, the least plausible ones, that do not train the model
    device: str = "auto"
    seed: int = 0
    event_shape: tuple[int, ...] = ()
    optimizer: str = "adamw"  # or "sgd"
    schedule: str = "cosine"  # of the learning rate; or "linear", down to zero
    average: float = 0.0  # share of the run, at its end, whose weights are averaged
    finish: float = 0.0  # share of the epochs run that are added at the end for all rows, those held out too
    steps: int = 12_000  # to choose the epochs by, where they are not given

    def n_epochs(self, rows: int) -> int:
        """Epochs to run: about ``steps`` steps, between 10 and 600 epochs."""
        if self.epochs is not None:
            return self.epochs
        return int(min(600, max(10, self.steps / max(1, math.ceil(rows / self.batch_size)))))

    def split(self, n: int) -> tuple[Tensor, Tensor]:
        """Rows to train on and rows held out, by the seed; below 20 rows none are held out."""
        order = torch.randperm(n, generator=Generator().manual_seed(self.seed))
        held = int(self.validation * n) if n >= 20 else 0
        return order[held:], order[:held]
