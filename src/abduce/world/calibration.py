"""Calibration of rollouts: by how much their spread is stretched, as held-out rollouts nearby say.

Models are fitted without some blocks of the data, and rollouts drawn from every step of these blocks, with the actions that
were taken.  For a cell at a horizon h let c be the draws' mean and l, u the ends of their 90 % interval.  A rollout's ratio is

    (truth − c) / (u − c)   above the mean,     (c − truth) / (c − l)   below it

and the factor of a rollout to come is the 90 % quantile of the ratios of the :data:`NEAR` held-out ones that are most alike in
where they began and where they were expected to end, so that the intervals of c + factor · (draw − c) held 90 % of what came
there.  It is asked locally since a model may be sure where it has seen much, and too sure where it has seen little; plans lead
to other places than those where most of the data are.  Between horizons factors are interpolated in log h.

Sources: Romano, Patterson & Candès 2019 (arXiv:1905.03222), intervals by held-out quantiles; Guan 2023 (arXiv:2106.08460),
quantiles of what lies near.
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
DRAWS = 100
MOST = 150  # rollouts of each fold
LEAST = 20  # rollouts that a factor needs
NEAR = 30  # of them that are asked
BOUNDS = (0.1, 50.0)
CELLS = 2**21  # distances at once
ALONE = "donot_use_mm_for_euclid_dist"  # whatever rollouts are asked beside it


@dataclass(frozen=True)
class Calibration:
    """Held-out rollouts (N,): their ``horizons`` in steps, ``places`` (N, 2S) where they began and were expected to end, and
    ``ratios`` (N, S).  Of none, factors are 1 everywhere.

    >>> far = Calibration(torch.tensor([1.0, 4.0]), torch.zeros(2, 2), torch.tensor([[1.0], [3.0]]))
    >>> far.factors(torch.zeros(1, 1), torch.zeros(1, 4, 1)).flatten()
    tensor([1.0000, 2.0000, 2.5850, 3.0000])
    """

    horizons: Tensor
    places: Tensor
    ratios: Tensor

    @classmethod
    def none(cls, size: int) -> Calibration:
        """No stretch."""
        return cls(torch.zeros(0).double(), torch.zeros(0, 2 * size).double(), torch.zeros(0, size).double())

    def factors(self, start: Tensor, paths: Tensor) -> Tensor:
        """Factors (B, H, S) of rollouts from ``start`` (B, S) that are expected to lead along ``paths`` (B, H, S)."""
        known = self.horizons.unique()
        if not len(known):
            return torch.ones_like(paths)
        h = torch.arange(1, paths.shape[1] + 1).to(known).log()
        right = torch.searchsorted(known.log(), h).clamp(0, len(known) - 1)
        left = torch.where(known[right].log() > h, right - 1, right).clamp_min(0)
        gap = (known[right] / known[left]).log()
        share = torch.where(gap > 0, (h - known[left].log()) / gap.clamp_min(1e-12), 1.0).clamp(0, 1)
        out = torch.zeros_like(paths)
        for k in range(len(known)):
            for end, weight in ((left, 1 - share), (right, share)):
                steps = (end == k) & (weight > 0)
                if bool(steps.any()):
                    asked = self._factors(float(known[k]), start, paths[:, steps])
                    out[:, steps] += weight[steps].unsqueeze(1).to(asked) * asked
        return out

    def _factors(self, horizon: float, start: Tensor, ends: Tensor) -> Tensor:
        """Factors (B, T, S) of rollouts of ``horizon`` steps that end at ``ends`` (B, T, S)."""
        of = self.horizons == horizon
        scale = self.places.std(0, correction=0)
        scale = torch.where(scale > 0, scale, 1.0)
        places, ratios = self.places[of] / scale, self.ratios[of]
        asked = torch.cat([start.unsqueeze(1).expand_as(ends), ends], -1).flatten(0, 1).to(places) / scale
        near, found = min(NEAR, len(places)), []
        # The rank is such that one more, alike, is below it with the probability LEVEL.
        rank = min(1.0, (LEVEL * (near + 1) - 1) / max(1, near - 1))
        for some in asked.split(max(1, CELLS // len(places))):
            index = torch.cdist(some, places, compute_mode=ALONE).topk(near, largest=False).indices
            found.append(torch.quantile(ratios[index], rank, dim=1))
        return torch.cat(found).clamp(*BOUNDS).view_as(ends).to(ends)

    def stretch(self, start: Tensor, paths: Tensor) -> Tensor:
        """Draws of paths (n, B, H, S) from ``start`` (B, S) with their spread about the mean made right."""
        centre = paths.mean(0)
        return centre + self.factors(start, centre) * (paths - centre)


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
    horizons, places, ratios = [], [], []
    for h in HORIZONS:
        found = [
            part
            for i, (model, blocks) in enumerate(held)
            if (part := _judged(model, blocks, h, seed + i)) is not None
        ]
        if sum(len(ratio) for _, ratio in found) < LEAST:
            break
        for place, ratio in found:
            horizons.append(torch.full((len(ratio),), float(h)).double())
            places.append(place.double())
            ratios.append(ratio.double())
    if not ratios:
        return Calibration.none(size)
    return Calibration(torch.cat(horizons), torch.cat(places), torch.cat(ratios))


def _judged(
    model: Transition, blocks: Sequence[Episode], steps: int, seed: int
) -> tuple[Tensor, Tensor] | None:
    """Where rollouts began and were expected to end, (N, 2S), and how far what came lay from there, in half-widths, (N, S)."""
    states, actions = windows(blocks, steps)
    if not len(states):
        return None
    found = drawn(model, states[:, 0], actions, DRAWS, Generator().manual_seed(seed))[0][:, :, -1]
    centre = found.mean(0)
    low, high = torch.quantile(found, torch.tensor([0.5 - LEVEL / 2, 0.5 + LEVEL / 2]).to(found), dim=0)
    tiny = 1e-9 * (1 + centre.abs())
    gap = states[:, -1] - centre
    up, down = (high - centre).clamp_min(tiny), (centre - low).clamp_min(tiny)
    return torch.cat([states[:, 0], centre], 1), torch.where(gap > 0, gap / up, -gap / down)


def coverage(
    draws: Callable[[Tensor, Tensor], Tensor],
    blocks: Sequence[Episode],
    steps: int,
    level: float = LEVEL,
    past: int = 1,
) -> Tensor:
    """Share of what came ``steps`` later that intervals of ``draws(start, actions)`` (n, N, H, S) held, cell by cell (S,).

    With ``past`` above 1 a start is so many successive observations (N, past, S).
    """
    states, actions = windows(blocks, steps + past - 1)
    start = states[:, 0] if past == 1 else states[:, :past]
    found = draws(start, actions[:, past - 1 :])[:, :, -1]
    low, high = torch.quantile(found, torch.tensor([0.5 - level / 2, 0.5 + level / 2]).to(found), dim=0)
    truth = states[:, -1]
    return ((truth >= low) & (truth <= high)).double().mean(0)
