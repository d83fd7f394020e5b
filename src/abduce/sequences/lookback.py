"""Forecasts by what came after contexts like the last one: the conditional mean of windows of a series, in closed form.

A window is a context of C steps and the H steps after it, less the mean of the context's last steps, so that it is its shape
that counts and not its level.  Over windows w with weights,

    m = mean(w),   S = cov(w) + ν cov(all series) + ridge,       E[after | context c] = m_h + S_hc S_cc⁻¹ (c − m_c)

Windows of the season's phase that the forecast starts at may count more, and late ones too.  One choice of C, weights and ν is
seldom best, nor the same one for all series: several (`Setting`) are weighed, for each series by what those learnt from its
earlier windows miss of its last ones, v_s, which their moments say without a forecast being made,

    forecast = Σ_s w_s forecast_s,       w_s ∝ v_s^(−k/2),       variance at each step = Σ_s w_s (v_s + their disagreement²)

so that each series has a spread of its own.

Features are forecast one by one.  Backcasts are forecasts of the series turned round.

Sources: Hoerl & Kennard 1970 (ridge); Zeng et al. 2023, arXiv 2205.13504 (linear maps of a centred context); Bates & Granger
1969 (averages of forecasts).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from abduce.answers.answer import EFFORT, Effort
from abduce.checks import check_count
from abduce.data.seen import Seen
from abduce.sequences.paths import Paths, SequenceModel

BUDGET = 2**22  # numbers of the windows at once
ENOUGH = 3  # contexts that a row must be long
LEAST = 0.5  # share of its steps that must have been seen
MOST = 1200  # steps of a series that its own windows are taken from: the last ones
LATE = 0.25  # share of the windows that judge settings
PICKY = 8.0  # k
ALIKE = 10.0  # how many times more windows of the forecast's own phase count as judges
FEW = 16.0  # weight of earlier windows that judging takes


class Setting(NamedTuple):
    """One way to take windows: ``context`` steps, of which the last ``level`` make the level; ``phase``, how many times more a
    window of the forecast's own phase counts; ``half`` its weight's half-life in steps (0: none); ``pooled`` ν; ``ridge``."""

    context: int
    level: int
    phase: float = 1.0
    half: float = 0.0
    pooled: float = 0.01
    ridge: float = 1e-4

    @property
    def weighing(self) -> tuple[int, float]:
        """What settings share that can be read off the same sums."""
        return self.level, self.half


class Lookback(SequenceModel):
    """Averages over ``settings``, of the season's ``period``; windows are each series' own.

    >>> wave = torch.sin(torch.arange(60).double() * torch.pi / 6).view(1, 60, 1)
    >>> mask = (torch.arange(60) < 48).view(1, 60, 1)
    >>> model = Lookback(1, 12, [Setting(12, 12)])
    >>> bool((model.answer(Seen(wave, mask)).mean() - wave).abs().max() < 0.02)
    True
    """

    between = False

    def __init__(self, features: int, period: int, settings: Sequence[Sequence[float]]):
        super().__init__(features)
        check_count("period", period)
        self.period = period
        self.settings = [Setting(int(s[0]), int(s[1]), *(float(v) for v in s[2:])) for s in settings]
        for setting in self.settings:
            check_count("context", setting.context)
            check_count("level", setting.level)
        self.config = {"features": features, "period": period, "settings": [list(s) for s in self.settings]}

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Paths:
        self.check(seen)
        ahead = self._ended(seen)
        flipped = Seen(seen.y.flip(1), seen.mask.flip(1))
        behind = [value.flip(1) for value in self._ended(flipped)]
        known = torch.isfinite(ahead[0])
        centre, deviation = (torch.where(known, a, b) for a, b in zip(ahead, behind, strict=True))
        return Paths(seen, centre, deviation)

    def _ended(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Centre and deviation of the cells after each feature's last observed one, NaN elsewhere."""
        n, length, f = seen.y.shape
        out = torch.full((n * f, length), torch.nan, dtype=torch.float64)
        spread = torch.full_like(out, torch.nan)
        rows = History.of(seen)
        contexts = torch.tensor([s.context for s in self.settings])
        able = (rows.size < length) & (rows.steps >= ENOUGH * contexts.min())
        if bool(able.any()):
            some = rows.some(able)
            horizon = length - int(some.size.min())
            said, error, missed = self.forecasts(some, horizon)
            usable = (some.steps >= ENOUGH * contexts.unsqueeze(1)).to(said)
            missed = missed / torch.where(usable > 0, missed, torch.inf).amin(0)
            share = (usable * missed.clamp_min(1.0) ** (-PICKY / 2)).unsqueeze(2)
            share = share / share.sum(0)
            mean = (share * said).sum(0)
            wide = (share * (error.square() + (said - mean).square())).sum(0).sqrt()
            place = torch.arange(horizon) + some.size.unsqueeze(1)
            inside = place < length
            row = able.nonzero().expand(-1, horizon)
            out[row[inside], place[inside]], spread[row[inside], place[inside]] = mean[inside], wide[inside]
        return tuple(v.view(n, f, length).transpose(1, 2) for v in (out, spread))  # pyright: ignore[reportReturnType]

    def forecasts(self, rows: History, horizon: int) -> tuple[Tensor, Tensor, Tensor]:
        """What each setting says of the steps after each row, and their standard errors, (settings, R, horizon); and what it
        misses of each row's last windows, learnt from those before, mean squares (settings, R)."""
        x, size = rows.x, rows.size
        said = torch.empty(len(self.settings), len(x), horizon, dtype=torch.float64)
        error, missed = torch.empty_like(said), said.new_ones(said.shape[:2])
        for weighing in dict.fromkeys(s.weighing for s in self.settings):
            which = [i for i, s in enumerate(self.settings) if s.weighing == weighing]
            reach = max(self.settings[i].context for i in which)
            step = min(horizon, max(1, x.shape[1] - reach - 8), max(4 * self.period, 64))
            some = max(1, BUDGET // (x.shape[1] * (reach + step)))
            for start in range(0, len(x), some):
                part = slice(start, start + some)
                early, late = _sums(x[part], size[part], reach, step, *weighing, self.period)
                phases = {self.settings[i].phase for i in which}
                central = {p: early.plus(late).central(p) for p in phases}
                before = {p: early.central(p) for p in phases}
                judges = late.central(ALIKE)
                able = (early.weight[:, 0] >= FEW) & (late.weight[:, 0] > 0)
                for i in which:
                    s = self.settings[i]
                    rule = _regression(*central[s.phase], s, reach)
                    found = _missed(_regression(*before[s.phase], s, reach), judges, s, reach)
                    found = torch.where(able.unsqueeze(1), found, rule[2].square())
                    missed[i, part] = torch.where(able, found.mean(1), 1.0)
                    said[i, part], error[i, part] = _chained(x[part], (*rule[:2], found.sqrt()), s, horizon)
        return said, error, missed


class History(NamedTuple):
    """Rows (R, L) that end where each feature of each series was last seen, blanks filled; ``size`` (R,) steps up to there,
    and ``steps`` (R,) of them from the first that was seen on, 0 of a row of which less than `LEAST` of these was seen."""

    x: Tensor
    size: Tensor
    steps: Tensor

    @classmethod
    def of(cls, seen: Seen, most: int = MOST) -> History:
        """The rows of series (N, T, F), a feature each, of at most their last ``most`` steps; those never seen have size 0."""
        n, length, f = seen.y.shape
        m = seen.mask.transpose(1, 2).reshape(n * f, length)
        y = torch.where(m, seen.y.transpose(1, 2).reshape(n * f, length), 0.0)
        at = torch.arange(length)
        size = torch.where(m, at + 1, 0).amax(1)
        steps = (size - torch.where(m, at, length).amin(1)).clamp_min(0)
        steps = torch.where(m.sum(1) >= LEAST * steps, steps, 0)
        keep = min(int(size.max()), most) if len(size) else 0
        place = size.unsqueeze(1) - keep + torch.arange(keep)
        y, m = torch.gather(y, 1, place.clamp_min(0)), torch.gather(m, 1, place.clamp_min(0)) & (place >= 0)
        return cls(_joined_up(y, m), size, steps)

    def some(self, which: Tensor) -> History:
        """Some of the rows."""
        return History(*(part[which] for part in self))


def _joined_up(y: Tensor, m: Tensor) -> Tensor:
    """Rows (R, L) with straight lines over the blanks; the first observed value before it."""
    at = torch.arange(y.shape[1]).expand_as(y)
    last = torch.where(m, at, -1).cummax(1).values
    following = torch.where(m, at, y.shape[1]).flip(1).cummin(1).values.flip(1)
    first = torch.where(last >= 0, last, following.clamp_max(y.shape[1] - 1))
    second = torch.where(following < y.shape[1], following, first)
    low, high = torch.gather(y, 1, first), torch.gather(y, 1, second)
    share = (at - first) / (second - first).clamp_min(1)
    return torch.where(m, y, low + (high - low) * share.clamp(0, 1))


class WeighedSums(NamedTuple):
    """Weight (R, 1), Σ w x (R, width) and Σ w x xᵀ (R, width, width) of the windows x of rows, and ``alike`` of those of the
    phase that the forecast starts at."""

    weight: Tensor
    first: Tensor
    second: Tensor
    alike: tuple[Tensor, Tensor, Tensor]

    def plus(self, other: WeighedSums) -> WeighedSums:
        """Of both."""
        alike: Any = tuple(a + b for a, b in zip(self.alike, other.alike, strict=True))
        return WeighedSums(
            self.weight + other.weight, self.first + other.first, self.second + other.second, alike
        )

    def central(self, phase: float) -> tuple[Tensor, Tensor]:
        """Mean (R, width) and covariance (R, width, width) where windows of the phase count so many times."""
        weight, first, second = (
            (a + (phase - 1) * b for a, b in zip(self[:3], self.alike, strict=True))
            if phase > 1
            else self[:3]
        )
        weight = weight.clamp_min(1e-9)
        mean = first / weight
        return mean, second / weight.unsqueeze(2) - mean.unsqueeze(2) * mean.unsqueeze(1)


def _sums(
    x: Tensor, size: Tensor, reach: int, step: int, level: int, half: float, period: int
) -> tuple[WeighedSums, WeighedSums]:
    """Sums over the earlier windows of rows, and over their last ones."""
    width, length = reach + step, x.shape[1]
    if length <= width:  # too short for one window: repeat the first value before it
        x = torch.cat([x[:, :1].expand(-1, width + 1 - length), x], 1)
        size, length = size + width + 1 - length, width + 1
    windows = x.unfold(1, width, 1)
    count = windows.shape[1]
    origin = torch.arange(count) + reach - length  # steps from the forecast's own origin, never above −step
    weight = 0.5 ** (-origin / half) if half > 0 else torch.ones(count)
    # windows that begin before the row does say nothing, unless there are no others
    inside = torch.arange(count) >= (length - size.clamp_max(length)).unsqueeze(1)
    weight = weight.to(x) * torch.where(inside.any(1, keepdim=True), inside, True)
    alike = torch.remainder(origin, period) == 0

    def summed(windows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centred = windows - windows[..., reach - level : reach].mean(2, keepdim=True)
        pulled = centred * weight.unsqueeze(2)
        return weight.sum(1, keepdim=True), pulled.sum(1), pulled.mT @ centred

    def both(part: slice) -> WeighedSums:
        w, v, same = windows[:, part], weight[:, part], alike[part]
        return WeighedSums(*summed(w, v), summed(w[:, same], v[:, same]))

    border = count - int(LATE * count)
    return both(slice(0, border)), both(slice(border, count))


def _regression(
    mean: Tensor, covariance: Tensor, setting: Setting, reach: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (R, C, H), offsets (R, H) and standard errors (R, H) of a setting, from moments of a context of ``reach``."""
    start, c = reach - setting.context, setting.context
    m, s = mean[:, start:], covariance[:, start:, start:]
    s = s + setting.pooled * s.mean(0, keepdim=True)
    # relative to the size of what varies, so that units do not matter
    ridge = setting.ridge * s.diagonal(dim1=1, dim2=2).mean(1) + 1e-12
    inner = s[:, :c, :c] + ridge[:, None, None] * torch.eye(c, dtype=s.dtype)
    root = torch.linalg.cholesky(inner)
    weights = torch.cholesky_solve(s[:, :c, c:], root)
    explained = (s[:, :c, c:] * weights).sum(1)
    left = (s.diagonal(dim1=1, dim2=2)[:, c:] - explained).clamp_min(1e-12) / (1 + setting.pooled)
    offset = m[:, c:] - (m[:, None, :c] @ weights).squeeze(1)
    return weights, offset, left.sqrt()


def _missed(
    rule: tuple[Tensor, Tensor, Tensor], judges: tuple[Tensor, Tensor], setting: Setting, reach: int
) -> Tensor:
    """Mean squared errors (R, H) of a rule over windows with these means and covariances."""
    weights, offset, _ = rule
    start, c = reach - setting.context, setting.context
    m, s = judges[0][:, start:], judges[1][:, start:, start:]
    left = s.diagonal(dim1=1, dim2=2)[:, c:] - 2 * (weights * s[:, :c, c:]).sum(1)
    left = left + (weights * (s[:, :c, :c] @ weights)).sum(1)
    bias = m[:, c:] - (m[:, None, :c] @ weights).squeeze(1) - offset
    return left.clamp_min(0.0) + bias.square() + 1e-12


def _chained(
    x: Tensor, rule: tuple[Tensor, Tensor, Tensor], setting: Setting, horizon: int
) -> tuple[Tensor, Tensor]:
    """Forecasts (R, horizon) from the end of rows, and their standard errors; beyond the rule's own reach it is used again."""
    weights, offset, error = rule
    c, step = weights.shape[1], weights.shape[2]
    if x.shape[1] < c:
        x = torch.cat([x[:, :1].expand(-1, c - x.shape[1]), x], 1)
    said, wide = [], []
    # a rule of few windows, used again and again, may grow without bound: no further off than the row is wide
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    low, high = 2 * low - high, 2 * high - low
    for turn in range(-(-horizon // step)):
        level = x[:, -setting.level :].mean(1, keepdim=True)
        new = offset + ((x[:, -c:] - level).unsqueeze(1) @ weights).squeeze(1) + level
        new = torch.minimum(torch.maximum(new, low), high)
        said.append(new)
        wide.append(error * (1 + turn) ** 0.5)
        x = torch.cat([x, new], 1)
    return torch.cat(said, 1)[:, :horizon], torch.cat(wide, 1)[:, :horizon]


def settings_for(period: int, horizon: int, length: int) -> list[Setting]:
    """The settings that are tried, for series of about ``length`` steps: the season's and the horizon's multiples."""
    if period > 2 * horizon:  # a year of weeks: its shape counts, and what came last
        contexts, level = [2 * horizon, period, 3 * period // 2], 1
    elif period > 1:
        contexts, level = [2 * period, 4 * period, 7 * period], period
    else:
        contexts, level = [2 * horizon, 4 * horizon, 8 * horizon], 1
    most = max(2, (length - horizon) // 3)
    return [
        Setting(c, min(level, c), ALIKE if period > 1 else 1.0, half, nu, ridge)
        for half in (0.0, max(length / 4, 2.0 * horizon))
        for c in sorted({min(c, most) for c in contexts})
        for nu, ridge in ((0.005, 1e-4), (0.02, 0.03))
    ]
