"""Ask a model of series about a whole panel, or about rows beyond it, in data units and bounded memory.

Series are taken some at a time; one longer than `LONG` steps is cut into stretches of `CORE` steps, each seen with `AROUND`
steps on either side, or more if its gaps are longer.  Only stretches that have blanks are asked about.  For rows before the
first or after the last, `BEHIND` steps next to them are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from abduce.answers.answer import Effort
from abduce.data.seen import Seen
from abduce.sequences.mixed import MixedPool
from abduce.sequences.panel import SeriesPanel
from abduce.sequences.paths import stretch
from abduce.sequences.scale import Scaler, Scaling

LONG = 3072
CORE = 1024
AROUND = 1024
BEHIND = 2048
CELLS = 2**21  # of series at once
POINTS = 15  # of a cell's distribution that its mean is taken over


class Part(NamedTuple):
    """An answer about ``rows`` of the series, and the places (rows, steps) in it that are asked for; they go to ``start``."""

    rows: Tensor
    start: int
    places: Tensor
    answer: Any


class Question:
    """Steps of series that a model is asked about: all of ``seen``, or those at ``places`` (N, n)."""

    def __init__(
        self, model: MixedPool, scaler: Scaler, seen: Seen, effort: Effort, places: Tensor | None = None
    ):
        self.model, self.scaler, self.seen, self.effort, self.places = model, scaler, seen, effort, places
        self._kept: list[
            Part
        ] = []  # answers about new rows, which may be asked for means, quantiles and paths

    def mean(self) -> np.ndarray:
        """Centres, (N, n, F); observed cells as they are.  Of counts that models see the roots of, means."""
        out = self._gathered(1, lambda answer: [answer.mean()])[0]
        roots = self.scaler.scaling.roots
        if roots.any() and self.model.spreads:  # the mean of squares is above the square of the mean
            points = self._gathered(POINTS, lambda answer: list(answer.points(POINTS)), POINTS)
            out[..., roots] = points[..., roots].mean(0)
        return out

    def quantiles(self, levels: list[float]) -> np.ndarray:
        """Quantiles, (levels, N, n, F)."""
        return self._gathered(len(levels), lambda answer: [answer.quantile(v) for v in levels])

    def draws(self, n: int, generator: Generator) -> np.ndarray:
        """Whole paths, (n, N, n, F)."""
        return self._gathered(n, lambda answer: list(answer.draws(n, generator)), n)

    def chances(self, c: int, levels: int) -> np.ndarray:
        """Chances of the classes of the column at place ``c`` behind the numbers, (N, n, levels)."""
        steps = self.seen.y.shape[1] if self.places is None else self.places.shape[1]
        codes = self.seen.y[..., self.seen.y.shape[2] - len(self.model.classes) + c].round().long()
        out = torch.nn.functional.one_hot(codes[:, :steps], levels).double().numpy()
        for rows, start, places, answer in self.parts():
            index = (torch.arange(len(rows)).unsqueeze(1), places)
            out[rows.numpy(), start : start + places.shape[1]] = answer.class_chances(c)[index].numpy()
        return out

    def parts(self, draws: int = 1) -> Iterator[Part]:
        """Answers, a part of the series at a time."""
        n, length, f = self.seen.y.shape
        if self.places is None and length > LONG:
            yield from self._stretches()
            return
        some = max(1, CELLS // max(1, length * f * draws))
        if self._kept and draws == 1:
            yield from self._kept
            return
        for start in range(0, n, some):
            rows = torch.arange(start, min(n, start + some))
            places = torch.arange(length).expand(len(rows), -1) if self.places is None else self.places[rows]
            part = Part(rows, 0, places, self.model.answer(self.seen.rows(rows), self.effort))
            if self.places is not None and some >= n:
                self._kept = [part]
            yield part

    def _stretches(self) -> Iterator[Part]:
        """Stretches with blanks of series that are too long to be asked about at once."""
        n, length, _ = self.seen.y.shape
        around = min(max(AROUND, 2 * longest_gap(self.seen.mask)), 8 * AROUND)
        for i in range(n):
            for start in range(0, length, CORE):
                stop = min(length, start + CORE)
                if bool(self.seen.mask[i, start:stop].all()):
                    continue
                early, late = max(0, start - around), min(length, stop + around)
                rows = torch.tensor([i])
                answer = self.model.answer(stretch(self.seen.rows(rows), early, late), self.effort)
                yield Part(rows, start, torch.arange(start - early, stop - early).unsqueeze(0), answer)

    def _gathered(self, count: int, ask: Callable[[Any], list[Tensor]], draws: int = 1) -> np.ndarray:
        """What is asked of each part, in data units, (count, N, n, F)."""
        n, length, f = self.seen.y.shape
        steps = length if self.places is None else self.places.shape[1]
        out = np.empty((count, n, steps, f))
        if self.places is None:  # what no part is about was all seen
            out[:] = self.scaler.back(self.seen.y.numpy())
        for rows, start, places, answer in self.parts(draws):
            index = (torch.arange(len(rows)).unsqueeze(1), places)
            for k, values in enumerate(ask(answer)):
                out[k, rows.numpy(), start : start + places.shape[1]] = self.scaler.back(
                    values[index].numpy(), rows.numpy()
                )
        return out


def each_stretch(
    model: Any, seen: Seen, ask: Callable[[Any], Tensor], like: Tensor, effort: Effort
) -> Tensor:
    """What is asked of a model's answers about all steps of series, as ``like`` (N, T, ...); long ones in stretches."""
    n, length, f = seen.y.shape
    out = torch.empty_like(like)
    core = length if length <= LONG else CORE
    some = max(1, CELLS // max(1, min(length, LONG) * f))
    for first in range(0, n, some):
        rows = torch.arange(first, min(n, first + some))
        for start in range(0, length, core):
            stop = min(length, start + core)
            early, late = max(0, start - AROUND), min(length, stop + AROUND)
            if core == length:
                early, late = 0, length
            answer = model.answer(stretch(seen.rows(rows), early, late), effort)
            out[rows, start:stop] = ask(answer)[:, start - early : stop - early]
    return out


def in_stretches(ask: Callable[[Seen], Tensor], seen: Seen) -> Tensor:
    """What is asked of series (N, T, 1) of which each cell tells little of those far away, (N, T); long ones in stretches."""
    length = seen.y.shape[1]
    if length <= LONG:
        return ask(seen)
    out = []
    for start in range(0, length, CORE):
        early, late = max(0, start - AROUND), min(length, start + CORE + AROUND)
        out.append(ask(stretch(seen, early, late))[:, start - early : start - early + CORE])
    return torch.cat(out, 1)


def about(model: MixedPool, scaling: Scaling, panel: SeriesPanel, effort: Effort) -> Question:
    """All steps of a panel."""
    scaler = scaling.fitted(panel.values, panel.mask)
    return Question(model, scaler, panel.seen(scaler.to(panel.values, panel.mask)), effort)


def beyond(
    model: MixedPool,
    scaling: Scaling,
    panel: SeriesPanel,
    places: np.ndarray,
    known: np.ndarray,
    effort: Effort,
) -> Question:
    """New rows at ``places`` (N, n) of each series, negative before its first, of which ``known`` (N, n, F) is known."""
    scaler = scaling.fitted(panel.values, panel.mask)
    given = np.isfinite(known)
    z, z_known = scaler.to(panel.values, panel.mask), scaler.to(known, given)
    length = panel.values.shape[1]
    back = bool(places.size and places[0, 0] < 0)
    begin = np.where(back, places[:, 0], np.maximum(0, panel.size - BEHIND))
    end = np.where(back, np.minimum(panel.size, BEHIND), places[:, -1] + 1)
    keep = int((end - begin).max())
    offset = begin if back else end - keep
    at = offset[:, None] + np.arange(keep)
    there = (at >= 0) & (at < length)
    rows = torch.arange(len(z)).unsqueeze(1)
    old = torch.from_numpy(at.clip(0, max(0, length - 1)))
    inside = torch.from_numpy(there).unsqueeze(2)
    y, mask = torch.where(inside, z[rows, old], 0.0), inside & torch.from_numpy(panel.mask)[rows, old]
    new = torch.from_numpy(places - offset[:, None])
    y[rows, new], mask[rows, new] = z_known, torch.from_numpy(given)
    time = torch.from_numpy(panel.start[:, None] + at)
    return Question(model, scaler, Seen(y, mask, time=time), effort, new)


def longest_gap(mask: Tensor) -> int:
    """Steps of the longest run in which nothing was seen of a feature, between cells that were."""
    at = torch.arange(mask.shape[1]).view(1, -1, 1)
    last = torch.where(mask, at, -1).cummax(1).values
    previous = torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], 1)
    gaps = torch.where(mask & (previous >= 0), at - previous - 1, 0)
    return int(gaps.max()) if gaps.numel() else 0
