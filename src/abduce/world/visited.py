"""Where the episodes of a fit have been, and how far from there a state is.

    excess(s) = max(0, min_i |s − s_i| / r − 1),        r the 75 % quantile of min_j≠i |s_i − s_j|

Distances are in the deviations that the states had.  A model says something of any state; of those that no episode came near,
within a wall say, it has only guessed, and a plan that leads through them relies on the guess.  Staying near what was seen is
how plans in learnt worlds are kept honest.  Source: Kidambi et al. 2020 (arXiv:2005.05951), whose unknown states are far ones
here.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Generator, Tensor

MOST = 4096  # states that are kept
FAR = 1e100  # beyond it states are taken for as far
USUAL = 0.75  # share of the states kept whose nearest other is within the radius


class Visited:
    """States (N, S) that were visited, at most :data:`MOST` of those given.

    >>> seen = Visited(torch.linspace(0, 1, 11).view(-1, 1))
    >>> excess, slope = seen.excess(torch.tensor([[0.5], [1.1], [1.2]]))
    >>> excess.round(decimals=2).tolist()
    [0.0, 0.0, 1.0]
    """

    def __init__(self, states: Tensor):
        self.points = states.double()

    @classmethod
    def of(cls, states: Tensor, seed: int) -> Visited:
        """Of many states some, at random, each once; those with blanks are left out."""
        known = torch.unique(states[~states.isnan().any(1)], dim=0)
        if len(known) > MOST:
            known = known[torch.randperm(len(known), generator=Generator().manual_seed(seed))[:MOST]]
        return cls(known)

    @cached_property
    def _scale(self) -> Tensor:
        spread = self.points.std(0, correction=0)
        return torch.where(spread > 0, spread, 1.0)

    @cached_property
    def _tree(self) -> KDTree:
        return KDTree((self.points / self._scale).numpy())

    @cached_property
    def radius(self) -> float:
        """The distance within which most states have another, in deviations."""
        if len(self.points) < 2:
            return 1.0
        away = self._tree.query((self.points / self._scale).numpy(), k=2)[0][:, 1]
        return max(float(np.quantile(away, USUAL)), 1e-6)

    def excess(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """By how many radii states (..., S) are farther than one from what was visited, (...), and its slope (..., S)."""
        if not len(self.points):
            return states.new_zeros(states.shape[:-1]), torch.zeros_like(states)
        scaled = states.double().clamp(-FAR, FAR) / self._scale
        distance, index = self._tree.query(scaled.reshape(-1, states.shape[-1]).numpy())
        away = torch.from_numpy(distance).view(states.shape[:-1])
        near = (self.points / self._scale)[torch.from_numpy(index)].view(states.shape)
        excess = (away / self.radius - 1).clamp_min(0.0)
        slope = (scaled - near) / (away.clamp_min(1e-12) * self.radius).unsqueeze(-1) / self._scale
        return excess, torch.where(excess.unsqueeze(-1) > 0, slope, 0.0)
