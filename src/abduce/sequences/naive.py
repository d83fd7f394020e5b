"""What needs no model: straight lines between observed cells, the last one beyond them; and the same a season apart.

With a period P, a cell is interpolated between the observed cells before and after it at its own phase, P steps, 2 P steps ...
away: with P = 1 that is linear interpolation in time and the last value, with a season's length the seasonal naive forecast.
Both are hard to beat where little is known, and a pool that has them among its members does not lose to them.

    centre = x_b + (x_a − x_b) d_b / (d_a + d_b),     variance = σ² b + floor,     b = d_a d_b / (d_a + d_b)

with d steps to the cell before and after, as of a random walk; at an open end b = d.  Some series move more than others: σ² is
each series' own, Σ e² / b over its observed cells, e what it misses of them, pulled toward that of all.

Source: Hyndman & Athanasopoulos 2021, sections 3.2 and 5.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from abduce.answers.answer import EFFORT, Effort
from abduce.checks import check_count
from abduce.data.seen import Seen
from abduce.models.model import filled
from abduce.sequences.paths import Paths, SequenceModel

FLOOR = 1e-4  # least variance, of series of unit variance
USUAL = 10.0  # observed cells that the steps of all series count as in one's own


class Interpolation(SequenceModel):
    """Interpolation over cells ``period`` steps apart; ``step`` (F,) is the variance that a walk gains from one to the next.

    >>> model = Interpolation(1, 1)
    >>> y, mask = torch.tensor([[[1.0], [0.0], [3.0], [0.0]]]).double(), torch.tensor([[[True], [False], [True], [False]]])
    >>> model.answer(Seen(y, mask)).mean().flatten().tolist()
    [1.0, 2.0, 3.0, 3.0]
    """

    step: Tensor

    def __init__(self, features: int, period: int):
        super().__init__(features)
        check_count("period", period)
        self.period, self.config = period, {"features": features, "period": period}
        self.register_buffer("step", torch.ones(features, dtype=torch.float64))

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Paths:
        self.check(seen)
        centre, bridge = self.interpolated(seen)
        moved, count = missed(seen, centre, bridge)
        step = (USUAL * self.step + moved) / (USUAL + count)
        return Paths(seen, centre, (step.unsqueeze(1) * bridge + FLOOR).sqrt())

    def interpolated(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Centre and b of each cell (N, T, F), from the other observed cells of its phase; NaN where there are none."""
        before, after = self._around(seen, False), self._around(seen, True)
        (x_b, d_b), (x_a, d_a) = before, after
        total = d_b + d_a
        both = torch.isfinite(total)
        inside = x_b + (x_a - x_b) * torch.where(both, d_b / total, 0.0)
        centre = torch.where(both, inside, torch.where(torch.isfinite(d_b), x_b, x_a))
        bridge = torch.where(both, d_b * d_a / total, torch.minimum(d_b, d_a))
        return torch.where(torch.isfinite(bridge), centre, torch.nan), bridge

    def _around(self, seen: Seen, after: bool) -> tuple[Tensor, Tensor]:
        """The value of the nearest other observed cell of the same phase before (or after) each, and how many periods away."""
        n, length, f = seen.y.shape
        cycles = -(-length // self.period)
        pad = cycles * self.period - length

        def shaped(values: Tensor, fill: float) -> Tensor:
            padded = torch.nn.functional.pad(values, (0, 0, 0, pad), value=fill)
            padded = padded.view(n, cycles, self.period, f)
            return padded.flip(1) if after else padded

        y, mask = (
            shaped(torch.where(seen.mask, seen.y, 0.0), 0.0),
            shaped(seen.mask.to(torch.uint8), 0).bool(),
        )
        at = torch.arange(cycles).view(1, cycles, 1, 1)
        last = torch.where(mask, at, -1).cummax(1).values
        last = torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], 1)  # another cell, not itself
        value = torch.gather(y, 1, last.clamp_min(0))
        away = torch.where(last >= 0, (at - last).to(y), torch.inf)

        def back(values: Tensor) -> Tensor:
            values = values.flip(1) if after else values
            return values.reshape(n, cycles * self.period, f)[:, :length]

        return back(torch.where(last >= 0, value, 0.0)), back(away)


def missed(seen: Seen, centre: Tensor, bridge: Tensor) -> tuple[Tensor, Tensor]:
    """Σ e² / b over the observed cells of each series, and how many these are, (N, F)."""
    known = seen.mask & torch.isfinite(centre)
    return torch.where(known, (seen.y - centre).square() / bridge, 0.0).sum(1), known.sum(1)


def fit_interpolation(seen: Seen, period: int) -> Interpolation:
    """Its steps' variance from how far observed cells lie from what their neighbours say."""
    model = Interpolation(seen.y.shape[2], period)
    moved, count = missed(seen, *model.interpolated(seen))
    return filled(model, step=((moved.sum(0) + 1.0) / (count.sum(0) + 1.0)).clamp_min(FLOOR))
