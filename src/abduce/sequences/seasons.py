"""Seasons: the periods that series repeat with, found in the data, and what each phase of them adds.

    season(t) = Σ_P profile_P[t mod P]

Candidates are peaks of the autocorrelation, and what calendars suggest for the spacing of the steps.  A period is kept if the
profile of half of the cycles explains a share of the other half, after each cycle's own mean is taken off, so that neither
trends nor chance make seasons.  Profiles are means by phase, shrunk toward the mean by as much as chance makes them differ.

Source: Hyndman & Athanasopoulos 2021, chapter 3 (decomposition); the search is our own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from abduce.checks import check_count
from abduce.data.seen import Seen

SHRINK = (0.1, 100.0)  # pseudo-observations of a phase, least and most
ALIKE, SURE = 0.5, 0.9  # least correlation of the profiles of two halves, of many phases and of few
LEAST = 0.03  # share of the variance about each cycle's mean that a period must explain in cycles not used for its profile
MOST = 2  # periods
COMMON = (
    4,
    7,
    12,
    24,
    48,
    52,
    96,
    168,
)  # steps of days, weeks and years, which blanks may hide from the autocorrelation
MANY = 8  # series that are halved instead of cycles
SERIES = 64  # series that are asked for their periods
CELLS = 2_000_000


class Seasons(nn.Module):
    """Profiles by phase of ``periods``, (P, F) each; with ``own`` each series has its own, worked out when it is seen.

    >>> model = Seasons(1, [2], False)
    >>> _ = model.profile_0.copy_(torch.tensor([[-1.0], [1.0]]))
    >>> seen = Seen(torch.zeros(1, 3, 1), torch.ones(1, 3, 1).bool(), time=torch.arange(3.0).unsqueeze(0))
    >>> model.of(seen).flatten().tolist()
    [-1.0, 1.0, -1.0]
    """

    def __init__(self, features: int, periods: Sequence[int], own: bool):
        super().__init__()
        for period in periods:
            check_count("period", period)
        self.periods, self.own = [int(p) for p in periods], own
        self.config = {"features": features, "periods": self.periods, "own": own}
        for i, period in enumerate(self.periods):
            self.register_buffer(f"profile_{i}", torch.zeros(period, features, dtype=torch.float64))

    def of(self, seen: Seen) -> Tensor:
        """The season of each step of series, (N, T, F)."""
        if self.own:
            return self._split(seen)[0]
        out = torch.zeros_like(seen.y)
        for i, period in enumerate(self.periods):
            out += self.get_buffer(f"profile_{i}")[phases(seen, period)]
        return out

    def fit(self, seen: Seen) -> Seasons:
        """Take the profiles of series, all as one."""
        if not self.own:
            for i, profile in enumerate(self._split(seen)[1]):
                self.get_buffer(f"profile_{i}").copy_(profile[0])
        return self

    def _split(self, seen: Seen) -> tuple[Tensor, list[Tensor]]:
        """Seasons (N, T, F), and the profiles (G, P, F) behind them, of each series or of all; longer ones of what is left."""
        n = len(seen.y)
        left, out, profiles = seen.y, torch.zeros_like(seen.y), []
        group = torch.arange(n) if self.own else torch.zeros(n, dtype=torch.long)
        for period in self.periods:
            level = _cycle_means(left, seen.mask, phases(seen, period), period)
            phase = phases(seen, period)
            count, total = _by_phase(left - level, seen.mask, phase, period, group)
            profile = _shrunk(left - level, seen.mask, phase, group, count, total)
            season = profile[group.unsqueeze(1), phase]
            out, left = out + season, left - season
            profiles.append(profile)
        return out, profiles


def running_mean(y: Tensor, width: int) -> Tensor:
    """Mean of series (N, T, F) over the ``width`` steps round each, of fewer at the ends.

    >>> running_mean(torch.tensor([[[0.0], [3.0], [6.0]]]), 3).flatten()
    tensor([1.5000, 3.0000, 4.5000])
    """
    if width < 2:
        return y
    total = torch.nn.functional.pad(y.cumsum(1), (0, 0, 1, 0))
    at = torch.arange(y.shape[1])
    first, last = (at - width // 2).clamp_min(0), (at + (width + 1) // 2).clamp_max(y.shape[1])
    return (total[:, last] - total[:, first]) / (last - first).unsqueeze(1)


def find_periods(seen: Seen, suggested: Sequence[int] = (), own: bool = True) -> list[int]:
    """Periods of series (N, T, F), the one that explains most first; none of more than a third of their length.

    Where series are of one process, not ``own``, many short ones tell as much as a long one: then up to half of the length.
    """
    n, length, f = seen.y.shape
    keep = torch.linspace(0, n - 1, min(n, SERIES)).round().long().unique()
    some = seen.rows(keep)
    width = max(1, min(f, CELLS // max(1, len(keep) * length)))
    features = torch.linspace(0, f - 1, width).round().long().unique()
    y, mask = some.y[..., features], some.mask[..., features]
    some = some._replace(y=torch.where(mask, y, 0.0), mask=mask)
    lengths = (mask.any(2).sum(1)).double().median()
    longest = int(min(lengths, length) // (2 if len(keep) >= MANY and not own else 3))
    candidates = sorted({p for p in (*suggested, *COMMON, *_peaks(some, longest)) if 2 <= p <= longest})
    found: list[int] = []
    left = some
    while candidates and len(found) < MOST:
        shares = [_explained(left, p, own) for p in candidates]
        if max(shares) < LEAST:
            break
        # the shortest of those that explain nearly as much: multiples of a period repeat too
        best = next(i for i, share in enumerate(shares) if share >= 0.95 * max(shares))
        period = candidates.pop(best)
        found.append(period)
        seasons = Seasons(some.y.shape[2], [period], own).fit(left)
        left = left._replace(y=left.y - seasons.of(left))
    return found


def phases(seen: Seen, period: int) -> Tensor:
    """Phase of each step in a period, (N, T)."""
    if seen.time is None:
        return torch.remainder(torch.arange(seen.y.shape[1]), period).expand(len(seen.y), -1)
    return torch.remainder(seen.time.round().long(), period)


def _by_phase(y: Tensor, mask: Tensor, phase: Tensor, period: int, group: Tensor) -> tuple[Tensor, Tensor]:
    """How many observed cells each phase of each group has, and their sum, (G, P, F)."""
    groups = int(group.max()) + 1 if len(group) else 1
    key = (group.unsqueeze(1) * period + phase).flatten()
    m = mask.to(y).flatten(0, 1)
    zeros = y.new_zeros(groups * period, y.shape[2])
    count = zeros.index_add(0, key, m)
    total = zeros.index_add(0, key, torch.where(mask, y, 0.0).flatten(0, 1))
    return count.view(groups, period, -1), total.view(groups, period, -1)


def _shrunk(y: Tensor, mask: Tensor, phase: Tensor, group: Tensor, count: Tensor, total: Tensor) -> Tensor:
    """Means by phase (G, P, F) less their own mean, each shrunk by noise over what phases differ by."""
    raw = total / count.clamp_min(1)
    error = torch.where(mask, y - raw[group.unsqueeze(1), phase], 0.0).square().sum(1)
    noise = raw.new_zeros(len(raw), raw.shape[2]).index_add(0, group, error)
    noise = noise / (count.sum(1) - (count > 0).sum(1)).clamp_min(1)
    differ = raw.var(1, correction=0) - noise / count.mean(1).clamp_min(1)
    pseudo = (noise / differ.clamp_min(1e-12)).clamp(*SHRINK).unsqueeze(1)
    profile = total / (count + pseudo)
    return profile - profile.mean(1, keepdim=True)


def _cycle_means(y: Tensor, mask: Tensor, phase: Tensor, period: int) -> Tensor:
    """Mean of what is observed in each cell's cycle, whatever phase a series starts at; the series' mean in empty ones."""
    n, length, f = y.shape
    cycle = torch.div(torch.arange(length), period, rounding_mode="floor")
    cycles = int(cycle[-1]) + 1 if length else 1
    m = mask.to(y)
    count = y.new_zeros(n, cycles, f).index_add(1, cycle, m)
    total = y.new_zeros(n, cycles, f).index_add(1, cycle, torch.where(mask, y, 0.0))
    overall = total.sum(1, keepdim=True) / count.sum(1, keepdim=True).clamp_min(1)
    # a cycle with few observed cells leans on the series' mean: at night alone, its mean is no level
    lean = 0.25 * period
    return ((total + lean * overall) / (count + lean))[:, cycle]


def _peaks(seen: Seen, longest: int, most: int = 6) -> list[int]:
    """Lags at which the autocorrelation of observed cells peaks, the highest first."""
    if longest < 2:
        return []
    m = seen.mask.to(seen.y)
    count = m.sum(1, keepdim=True).clamp_min(1)
    centred = (seen.y - (seen.y * m).sum(1, keepdim=True) / count) * m
    size = 2 * seen.y.shape[1]
    spectrum = torch.fft.rfft(centred, size, dim=1)
    weight = torch.fft.rfft(m, size, dim=1)
    together = torch.fft.irfft(spectrum.abs().square(), size, dim=1)
    pairs = torch.fft.irfft(weight.abs().square(), size, dim=1)
    power = (centred.square().sum(1) / count.squeeze(1)).clamp_min(1e-12)
    value = (together / pairs.clamp_min(1.0) / power.unsqueeze(1)).mean((0, 2))[: longest + 2].numpy()
    inner = np.arange(2, len(value) - 1)
    peaks = inner[
        (value[inner] > value[inner - 1]) & (value[inner] >= value[inner + 1]) & (value[inner] > 0.1)
    ]
    return peaks[np.argsort(-value[peaks])][:most].tolist()


def _explained(seen: Seen, period: int, own: bool) -> float:
    """Share of the variance about each cycle's level that the profile of the other half of the cycles explains.

    0 where the profiles of the two halves are not alike.
    """
    n, length, _ = seen.y.shape
    cycles = length // period
    together = n >= MANY and not own
    if cycles < (1 if together else 3):
        return 0.0
    phase = torch.remainder(torch.arange(length), period).expand(n, -1)
    left = (seen.y - _cycle_means(seen.y, seen.mask, phase, period))[:, : cycles * period]
    m = seen.mask[:, : cycles * period].to(left).reshape(n, cycles, period, -1)
    y = left.reshape(n, cycles, period, -1) * m
    if together:
        y, m = y.reshape(1, n * cycles, period, -1), m.reshape(1, n * cycles, period, -1)
    sums = [(y[:, i::2].sum(1), m[:, i::2].sum(1)) for i in (0, 1)]
    profiles = [total / (count + 1.0) for total, count in sums]
    explained = whole = 0.0
    for i, other in ((0, profiles[1]), (1, profiles[0])):
        part, seen_part = y[:, i::2], m[:, i::2]
        explained += float((part.square() - ((part - other.unsqueeze(1)) * seen_part).square()).sum())
        whole += float(part.square().sum())
    a, b = (p - p.mean(1, keepdim=True) for p in profiles)
    alike = float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt().clamp_min(1e-12))
    least = min(max(2.5 / (len(y) * period * y.shape[3]) ** 0.5, ALIKE), SURE)
    return explained / whole if whole > 0 and alike >= least else 0.0
