"""Calibration of rollouts: by how much their spread is stretched at each horizon, as held-out rollouts say.

Models are fitted without some blocks of the data, and rollouts drawn from every step of these blocks, with the actions that
were taken.  At a horizon h and for a cell, let c be the draws' mean and l, u the ends of their 90 % interval.  The factor is
the 90 % quantile, over held-out rollouts, of

    (truth − c) / (u − c)   above the mean,     (c − truth) / (c − l)   below it

so that the intervals of c + factor · (draw − c) held 90 % of what came.  Between horizons factors are interpolated in log h.

Sources: Romano, Patterson & Candès 2019 (arXiv:1905.03222), intervals by held-out quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from abduce.world.episodes import Episode
from abduce.world.rollout import drawn
from abduce.world.transitions import Transition

HORIZONS = (1, 2, 5, 10, 25)
LEVEL = 0.9
DRAWS = 60
MOST = 300  # rollouts of each fold
LEAST = 20  # rollouts that a factor needs
BOUNDS = (0.1, 50.0)


@dataclass(frozen=True)
class Calibration:
    """``factors`` (K, S) at ``horizons`` (K,), steps; none are 1 everywhere.

    >>> Calibration(torch.tensor([1.0, 4.0]), torch.tensor([[1.0], [3.0]])).at(4).flatten()
    tensor([1.0000, 2.0000, 2.5850, 3.0000])
    """

    horizons: Tensor
    factors: Tensor

    @classmethod
    def none(cls, size: int) -> Calibration:
        """No stretch."""
        return cls(torch.ones(1).double(), torch.ones(1, size).double())

    def at(self, steps: int) -> Tensor:
        """Factors of steps 1 to ``steps``, (steps, S)."""
        h = torch.arange(1, steps + 1, dtype=self.factors.dtype).log()
        known = self.horizons.to(h).log()
        right = torch.searchsorted(known, h).clamp(0, len(known) - 1)
        left = (right - 1).clamp_min(0)
        gap = (known[right] - known[left]).clamp_min(1e-12)
        share = ((h - known[left]) / gap).clamp(0, 1).unsqueeze(1)
        share = torch.where((right == left).unsqueeze(1), 1.0, share)
        return self.factors[left] * (1 - share) + self.factors[right] * share

    def stretch(self, paths: Tensor) -> Tensor:
        """Draws of paths (n, ..., H, S) with their spread about the mean made right."""
        centre = paths.mean(0)
        return centre + self.at(paths.shape[-2]).to(paths) * (paths - centre)


def windows(blocks: Sequence[Episode], steps: int, most: int = MOST) -> tuple[Tensor, Tensor]:
    """States (N, steps+1, S) and actions (N, steps, A) from every step of episodes on, evenly thinned, blanks left out."""
    states, actions = [], []
    for block in blocks:
        if len(block) >= steps:
            o, a = torch.from_numpy(block.observations), torch.from_numpy(block.actions)
            states.append(o.unfold(0, steps + 1, 1).mT)
            actions.append(a.unfold(0, steps, 1).mT)
    if not states:
        return torch.zeros(0, steps + 1, 1), torch.zeros(0, steps, 1)
    s, a = torch.cat(states), torch.cat(actions)
    whole = ~(s.isnan().any(2).any(1) | a.isnan().any(2).any(1))
    s, a = s[whole], a[whole]
    some = torch.linspace(0, len(s) - 1, min(len(s), most)).round().long()
    return s[some], a[some]


def calibrate(held: Sequence[tuple[Transition, Sequence[Episode]]], size: int, seed: int) -> Calibration:
    """From models and the blocks that each has not seen."""
    horizons, factors = [], []
    for h in HORIZONS:
        ratios = [
            ratio for i, (model, blocks) in enumerate(held) for ratio in _ratios(model, blocks, h, seed + i)
        ]
        if sum(map(len, ratios)) < LEAST:
            break
        horizons.append(float(h))
        factors.append(torch.quantile(torch.cat(ratios), LEVEL, dim=0).clamp(*BOUNDS))
    if not factors:
        return Calibration.none(size)
    return Calibration(torch.tensor(horizons).double(), torch.stack(factors).double())


def _ratios(model: Transition, blocks: Sequence[Episode], steps: int, seed: int) -> list[Tensor]:
    """How far what came lay from the mean, in half-widths, (N, S)."""
    states, actions = windows(blocks, steps)
    if not len(states):
        return []
    found = drawn(model, states[:, 0], actions, DRAWS, Generator().manual_seed(seed))[0][:, :, -1]
    centre = found.mean(0)
    low, high = torch.quantile(found, torch.tensor([0.5 - LEVEL / 2, 0.5 + LEVEL / 2]).to(found), dim=0)
    tiny = 1e-9 * (1 + centre.abs())
    gap = states[:, -1] - centre
    return [
        torch.where(gap > 0, gap / (high - centre).clamp_min(tiny), -gap / (centre - low).clamp_min(tiny))
    ]


def coverage(
    draws: Callable[[Tensor, Tensor], Tensor], blocks: Sequence[Episode], steps: int, level: float = LEVEL
) -> Tensor:
    """Share of what came ``steps`` later that intervals of ``draws(start, actions)`` (n, N, H, S) held, cell by cell (S,)."""
    states, actions = windows(blocks, steps)
    found = draws(states[:, 0], actions)[:, :, -1]
    low, high = torch.quantile(found, torch.tensor([0.5 - level / 2, 0.5 + level / 2]).to(found), dim=0)
    truth = states[:, -1]
    return ((truth >= low) & (truth <= high)).double().mean(0)
