"""Forecasts by one linear rule for all series and features, in closed form from the moments of all windows of the past.

A window is a context of C steps and the H after it, less the mean of the context's last ``level`` steps.  Over all windows,

    m = mean,  S = cov,       E[after | context c] = m_h + S_hc (S_cc + ridge)⁻¹ (c − m_c)

Rules are chosen by what they make of the last windows when learnt from those before, which their moments say without a
forecast being made; those kept are learnt again from all and averaged.  Where series differ in kind, a
:class:`~abduce.sequences.lookback.Lookback` of each one's own windows does better.

Sources: Zeng et al. 2023, arXiv 2205.13504 (linear maps of a centred context); Toner & Darlow 2024, arXiv 2403.14587 (their
closed form); Bates & Granger 1969 (averages of forecasts).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from abduce.answers.answer import EFFORT, Effort
from abduce.checks import check_count
from abduce.data.seen import Seen
from abduce.gaussians.em import heed
from abduce.models.model import filled
from abduce.sequences.lookback import History
from abduce.sequences.paths import Paths, SequenceModel

BUDGET = 2**23  # numbers of windows at once
KEPT = 8
ROWS = 16  # features of series that a rule is learnt from, at most
WINDOWS = 50_000  # of a row, about: of more steps some begin none
LATE = 0.25  # share of the steps whose windows choose among rules
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)


class Rule(NamedTuple):
    """One way to take windows: ``context`` steps, the last ``level`` of which make the level; ``ridge`` relative to S_cc."""

    context: int
    level: int
    ridge: float


class SharedLookback(SequenceModel):
    """``rules`` for ``horizon`` steps ahead; ``weights_i`` (C, H), ``offset_i`` (H,) and ``error_i`` (H,) of each."""

    between = False

    def __init__(self, features: int, horizon: int, rules: Sequence[Sequence[float]]):
        super().__init__(features)
        check_count("horizon", horizon)
        self.horizon = horizon
        self.rules = [Rule(int(r[0]), int(r[1]), float(r[2])) for r in rules]
        for rule in self.rules:
            check_count("context", rule.context)
            check_count("level", rule.level)
        self.config = {"features": features, "horizon": horizon, "rules": [list(r) for r in self.rules]}
        for i, rule in enumerate(self.rules):
            for name, shape in _shapes(rule, horizon).items():
                self.register_buffer(f"{name}_{i}", torch.zeros(shape, dtype=torch.float64))

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Paths:
        self.check(seen)
        n, length, f = seen.y.shape
        centre = torch.full((n * f, length), torch.nan, dtype=torch.float64)
        deviation = torch.full_like(centre, torch.nan)
        rows = History.of(seen)
        able = (rows.size < length) & (rows.steps >= max(r.context for r in self.rules))
        if bool(able.any()):
            some = rows.some(able)
            ahead = length - int(some.size.min())
            said, error = self._chained(some.x, ahead)
            place = torch.arange(ahead) + some.size.unsqueeze(1)
            inside = place < length
            row = able.nonzero().expand(-1, ahead)
            centre[row[inside], place[inside]], deviation[row[inside], place[inside]] = (
                said[inside],
                error[inside],
            )
        centre, deviation = (v.view(n, f, length).transpose(1, 2) for v in (centre, deviation))
        return Paths(seen, centre, deviation)

    def _chained(self, x: Tensor, ahead: int) -> tuple[Tensor, Tensor]:
        """Mean forecasts and errors (R, ahead) from the end of rows; further than the horizon, from forecasts on."""
        said, errors = [], []
        for turn in range(-(-ahead // self.horizon)):
            means, wide = [], []
            for i, rule in enumerate(self.rules):
                level = x[:, -rule.level :].mean(1, keepdim=True)
                moved = (x[:, -rule.context :] - level) @ self.get_buffer(f"weights_{i}")
                means.append(moved + self.get_buffer(f"offset_{i}") + level)
                wide.append(self.get_buffer(f"error_{i}"))
            mean = torch.stack(means).mean(0)
            said.append(mean)
            errors.append((torch.stack(wide).mean(0) * (1 + turn) ** 0.5).expand_as(mean))
            x = torch.cat([x, mean], 1)
        return torch.cat(said, 1)[:, :ahead], torch.cat(errors, 1)[:, :ahead]


class WindowMoments(NamedTuple):
    """Weight, Σ w and Σ w wᵀ of windows."""

    count: float
    first: Tensor
    second: Tensor

    def plus(self, other: WindowMoments) -> WindowMoments:
        """Of both."""
        return WindowMoments(self.count + other.count, self.first + other.first, self.second + other.second)


def fit_shared_lookback(seen: Seen, horizon: int, rules: Sequence[Rule]) -> SharedLookback | None:
    """Fit to series (N, T, F) that are mostly seen; None where there are too few windows."""
    x, size = _rows(seen)
    if len(x) > ROWS:  # one rule for all: some tell it
        some = torch.linspace(0, len(x) - 1, ROWS).round().long()
        x, size = x[some], size[some]
    ranked: list[tuple[float, Rule, tuple[Tensor, ...]]] = []
    for context, level in dict.fromkeys((r.context, r.level) for r in rules):
        heed()
        width = context + horizon
        if sum(max(0, int(s) - width + 1) for s in size) < 4 * width:
            continue
        early, late = (_moments(x, size, context, horizon, level, part) for part in (False, True))
        for rule in (r for r in rules if (r.context, r.level) == (context, level)):
            missed = _missed(solved(early, rule), late, rule) if late.count > 0 and early.count > 0 else 0.0
            ranked.append((missed, rule, solved(early.plus(late), rule)))
    if not ranked:
        return None
    best = sorted(ranked, key=lambda r: r[0])[:KEPT]
    model = SharedLookback(seen.y.shape[2], horizon, [rule for _, rule, _ in best])
    names: dict[str, Any] = {}
    for i, (_, _, parts) in enumerate(best):
        names |= {
            f"{name}_{i}": part for name, part in zip(("weights", "offset", "error"), parts, strict=True)
        }
    return filled(model, **names)


def rules_for(period: int, horizon: int, length: int) -> list[Rule]:
    """What is tried for series of so many steps."""
    usual = [7 * period, 14 * period] if period > 1 else [4 * horizon, 8 * horizon]
    contexts = [c for c in usual if c + horizon <= length // 2] or [max(2, length // 4)]
    return [
        Rule(c, level, ridge)
        for c in contexts
        for level in sorted({min(max(period, 1), c), c})
        for ridge in RIDGES
    ]


def solved(moments: WindowMoments, rule: Rule) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, offset and standard error of a rule."""
    c = rule.context
    mean, covariance = _central(moments)
    inner = covariance[:c, :c] + (rule.ridge * covariance.diagonal()[:c].mean() + 1e-12) * torch.eye(
        c, dtype=mean.dtype
    )
    weights = torch.cholesky_solve(covariance[:c, c:], torch.linalg.cholesky(inner))
    left = (
        covariance.diagonal()[c:]
        - 2 * (weights * covariance[:c, c:]).sum(0)
        + (weights * (covariance[:c, :c] @ weights)).sum(0)
    )
    return weights, mean[c:] - mean[:c] @ weights, left.clamp_min(1e-12).sqrt()


def _missed(parts: tuple[Tensor, ...], moments: WindowMoments, rule: Rule) -> float:
    """Mean squared error of a rule over windows with these moments."""
    weights, offset, _ = parts
    c = rule.context
    mean, covariance = _central(moments)
    left = (
        covariance.diagonal()[c:]
        - 2 * (weights * covariance[:c, c:]).sum(0)
        + (weights * (covariance[:c, :c] @ weights)).sum(0)
    )
    bias = mean[c:] - mean[:c] @ weights - offset
    return float((left + bias.square()).mean())


def _central(moments: WindowMoments) -> tuple[Tensor, Tensor]:
    mean = moments.first / moments.count
    return mean, moments.second / moments.count - torch.outer(mean, mean)


def _rows(seen: Seen) -> tuple[Tensor, Tensor]:
    """All features of all series as rows that begin where they were first seen, and how many steps each has."""
    whole = seen.y.shape[1]
    flipped = Seen(
        seen.y.flip(1), seen.mask.flip(1)
    )  # a history ends where it was last seen: turned round, where it begins
    rows = History.of(flipped, whole)
    return rows.x.flip(1), rows.steps.minimum(torch.tensor(rows.x.shape[1]))


def _moments(x: Tensor, size: Tensor, context: int, horizon: int, level: int, late: bool) -> WindowMoments:
    """Of all windows of rows whose forecasts end in the late part, or before it."""
    width = context + horizon
    count, first = 0.0, x.new_zeros(width)
    second = x.new_zeros(width, width)
    for windows in _windows(x, size, context, horizon, late):
        w = windows - windows[:, context - level : context].mean(1, keepdim=True)
        count += len(w)
        first += w.sum(0)
        second += w.mT @ w
    return WindowMoments(count, first, second)


def _windows(x: Tensor, size: Tensor, context: int, horizon: int, late: bool) -> Iterator[Tensor]:
    width = context + horizon
    some = max(1, BUDGET // width)
    for row, steps in zip(x, size.tolist(), strict=True):
        if steps < width:
            continue
        windows = row[:steps].unfold(0, width, 1)
        border = max(0, int(steps * (1 - LATE)) - width + 1)
        part = (windows[border:] if late else windows[:border])[:: max(1, steps // WINDOWS)]
        for start in range(0, len(part), some):
            yield part[start : start + some]


def _shapes(rule: Rule, horizon: int) -> dict[str, tuple[int, ...]]:
    return {"weights": (rule.context, horizon), "offset": (horizon,), "error": (horizon,)}
