"""Mean energy: only push down at the data, where the model itself keeps low energy from spreading.

    loss(x) = E(x) + the family's own penalty

Architectures of constant volume (a bottleneck, k prototypes) and penalties that limit it (sparse codes, contraction,
denoising) cannot be low everywhere; anything else would become a constant.

Source: Ranzato et al. 2007, A Unified Energy-Based Framework for Unsupervised Learning (AISTATS).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from abduce.fit.loss import RowObjective
from abduce.inference.energy import Energy


@dataclass(frozen=True)
class MeanEnergy(RowObjective):
    """Minimise the mean of the model's ``training_loss(x, generator)``, or of its energy where it has no such loss."""

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
