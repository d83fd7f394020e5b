"""Series of numbers and classes: the pool of numbers sees indicators of the classes, columns of classes have their own chains.

What enters the models of a panel (N, T, F) are the cells of `Entries`, (N, T, G + C):

    numbers | indicators of the levels of classes, 0 or 1 | positions of the classes' levels

The pool answers about the first G, numbers given what was seen of the classes; each of the last C has a
:class:`~abduce.sequences.classes.ClassColumn`.  Whole paths draw the classes first, and then the numbers given these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from abduce.answers.answer import EFFORT, Effort
from abduce.data.seen import Seen
from abduce.sequences.classes import ClassColumn
from abduce.sequences.fit import Trials
from abduce.sequences.hidden import cuts, evenly, like_blanks
from abduce.sequences.panel import SeriesPanel
from abduce.sequences.paths import Paths, SequenceModel, stretch
from abduce.sequences.pool import SequencePool

INDICATORS = 8  # levels of a column, and of all
ALL_INDICATORS = 32
OFTEN = 3  # cells that have a level, below which it has no indicator
JUDGED = 200_000  # cells of series that are hidden from
RECENT = 8192  # steps of longer series
CONTEXT = 1024  # steps before a cut
POOLED_CELLS = 2**20  # cells of copies of series that are asked about at once


@dataclass(frozen=True)
class Entries:
    """Which columns of a panel are ``numbers`` and ``classes``, and the ``indicators``, pairs (column of classes, level)."""

    numbers: tuple[int, ...]
    classes: tuple[int, ...] = ()
    indicators: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, panel: SeriesPanel) -> Entries:
        """For training data: indicators of levels that were seen often, but for the most frequent of each column."""
        classes = panel.form.classes
        numbers = tuple(j for j in range(panel.values.shape[2]) if j not in classes)
        found: list[tuple[int, int, int]] = []
        for j in classes:
            codes = panel.values[..., j][panel.mask[..., j]].astype(np.int64)
            count = np.bincount(codes, minlength=len(panel.form.kinds[j].levels))
            order = np.argsort(-count, kind="stable")
            often = [int(k) for k in order[1 : INDICATORS + 1] if count[k] >= OFTEN]
            found += [(int(count[k]), j, k) for k in often]
        kept = sorted(sorted(found, key=lambda part: -part[0])[:ALL_INDICATORS], key=lambda part: part[1:])
        indicators = tuple((j, k) for _, j, k in kept)
        if not numbers and not indicators:  # the pool has something to be a pool of
            indicators = ((classes[0], 0),)
        return cls(numbers, tuple(classes), indicators)

    @property
    def pooled(self) -> int:
        """Cells of a step that the pool sees, G."""
        return len(self.numbers) + len(self.indicators)

    def places(self, column: int) -> list[int]:
        """Where the indicators of a column of classes are among the cells."""
        return [len(self.numbers) + i for i, (j, _) in enumerate(self.indicators) if j == column]

    @property
    def fixed(self) -> np.ndarray:
        """Which cells (G + C,) are none of numbers, and have one scale in all series."""
        return np.arange(self.pooled + len(self.classes)) >= len(self.numbers)

    def to(self, values: np.ndarray) -> np.ndarray:
        """Cells (..., G + C) of those of a panel (..., F), NaN where blank."""
        if not self.classes:
            return values
        told = [np.where(np.isnan(values[..., j]), np.nan, values[..., j] == k) for j, k in self.indicators]
        parts = [values[..., list(self.numbers)], values[..., list(self.classes)]]
        if told:
            parts.insert(1, np.stack(told, -1))
        return np.concatenate(parts, -1)

    def back(self, cells: np.ndarray) -> np.ndarray:
        """Cells of a panel (..., F) of those of the models."""
        if not self.classes:
            return cells
        out = np.empty((*cells.shape[:-1], len(self.numbers) + len(self.classes)))
        out[..., list(self.numbers)] = cells[..., : len(self.numbers)]
        out[..., list(self.classes)] = cells[..., self.pooled :]
        return out

    def spread(self, panel: SeriesPanel) -> SeriesPanel:
        """The panel with the cells that enter models."""
        if not self.classes:
            return panel
        values = self.to(panel.values)
        return replace(panel, values=values, mask=np.isfinite(values))


class MixedPool(SequenceModel):
    """``pool`` of the first cells of each step, and the ``columns`` of classes behind them."""

    spreads = True

    def __init__(self, pool: SequencePool, columns: Sequence[ClassColumn] = ()):
        super().__init__(pool.n_cells + len(columns))
        self.pool, self.columns = pool, torch.nn.ModuleList(columns)

    @property
    def classes(self) -> list[ClassColumn]:
        """The columns."""
        return list(self.columns)  # pyright: ignore[reportReturnType]

    def numbers(self, seen: Seen) -> Seen:
        """What the pool sees of series."""
        g = self.pool.n_cells
        return seen._replace(y=seen.y[..., :g], mask=seen.mask[..., :g])

    def column(self, seen: Seen, c: int) -> Seen:
        """What the column at place ``c`` sees of them, (N, T, 1)."""
        return _cell(seen, self.pool.n_cells + c)

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Paths:
        self.check(seen)
        numbers: Paths = self.pool.answer(self.numbers(seen), effort)
        return MixedPaths(self, seen, numbers, effort) if self.classes else numbers


class MixedPaths(Paths):
    """The answer about numbers and classes: positions of levels are the most probable ones, or those at quantiles of their
    order."""

    def __init__(self, model: MixedPool, seen: Seen, numbers: Paths, effort: Effort):
        super().__init__(seen, numbers.centre, numbers.deviation, None, self._paths, "pooled")
        self.model, self.numbers, self.effort = model, numbers, effort
        self._chances: list[Tensor] | None = None

    def class_chances(self, c: int) -> Tensor:
        """Chances of the levels of the column at place ``c``, (N, T, K): ones and zeros where it was seen."""
        if self._chances is None:
            model = self.model
            self._chances = []
            for i, column in enumerate(model.classes):
                part = model.column(self.seen, i)
                if bool(part.mask.all()):
                    told = torch.zeros(*part.y.shape[:2], column.levels, dtype=torch.float64)
                else:
                    told = column.chances(part, self.numbers.centre)
                one = torch.nn.functional.one_hot(
                    torch.where(part.mask, part.y, 0.0)[..., 0].round().long(), column.levels
                )
                self._chances.append(torch.where(part.mask, one.double(), told))
        return self._chances[c]

    def mean(self) -> Tensor:
        codes = [self.class_chances(c).argmax(2) for c in range(len(self.model.classes))]
        return self._joined(self.numbers.mean(), codes)

    def quantile(self, level: float) -> Tensor:
        """Numbers that each blank cell lies below with this probability; of classes the first with at least that below or at
        it."""
        numbers: object = self.numbers
        codes = [self._at(c, level) for c in range(len(self.model.classes))]
        return self._joined(numbers.quantile(level), codes)  # pyright: ignore[reportAttributeAccessIssue]

    def points(self, count: int) -> Tensor:
        levels = [(i + 0.5) / count for i in range(count)]
        return torch.stack([self._joined(p, [self._at(c, v) for c in range(len(self.model.classes))])
                            for p, v in zip(self.numbers.points(count), levels, strict=True)])  # fmt: skip

    def _at(self, c: int, level: float) -> Tensor:
        below = self.class_chances(c).cumsum(2)
        return (below < level - 1e-12).sum(2).clamp_max(below.shape[2] - 1)

    def _joined(self, numbers: Tensor, codes: Sequence[Tensor]) -> Tensor:
        return torch.cat([numbers, torch.stack([c.to(numbers) for c in codes], -1)], -1)

    def _paths(self, n: int, generator: Generator) -> Tensor:
        model, seen = self.model, self.seen
        parts = [model.column(seen, c) for c in range(len(model.classes))]
        if all(bool(part.mask.all()) for part in parts):
            codes = [part.y[..., 0].expand(n, -1, -1) for part in parts]
            return self._joined(self.numbers.draws(n, generator), codes)
        codes = [
            column.draws(part, self.numbers.centre, n, generator)
            for column, part in zip(model.classes, parts, strict=True)
        ]
        return self._joined(self._numbers_given(codes, generator), codes)

    def _numbers_given(self, codes: Sequence[Tensor], generator: Generator) -> Tensor:
        """Numbers drawn given whole series of classes (n, N, T) each, (n, N, T, G)."""
        plain = self.model.numbers(self.seen)
        n, rows, steps = codes[0].shape
        y = plain.y.expand(n, -1, -1, -1).clone()
        mask = plain.mask.expand(n, -1, -1, -1).clone()
        for column, drawn in zip(self.model.classes, codes, strict=True):
            for i, (place, level) in enumerate(zip(column.places, column.told, strict=True)):
                y[..., place] = ((drawn == level).double() - column.loc[i]) / column.scale[i]
                mask[..., place] = True
        y, mask = y.flatten(0, 1), mask.flatten(0, 1)
        time = None if plain.time is None else plain.time.repeat(n, 1)
        out = []
        for some in torch.arange(n * rows).split(max(1, POOLED_CELLS // max(1, steps * y.shape[2]))):
            asked = Seen(y[some], mask[some], time=None if time is None else time[some])
            out.append(self.model.pool.answer(asked, self.effort).draws(1, generator)[0])
        return torch.cat(out).view(n, rows, steps, -1)


def fit_mixed(
    pool: SequencePool, trials: Trials, seen: Seen, levels: Sequence[int], entries: Entries,
    scale: tuple[np.ndarray, np.ndarray], seed: int,
) -> MixedPool:  # fmt: skip
    """Columns of classes beside a fitted pool, of series (N, T, G + C); ``scale`` (loc, scale) of the cells, (G + C,) each."""
    seasons: Any = pool.parts[pool.order]
    period = seasons.seasons.periods[0] if seasons.seasons.periods else 1
    out = []
    for c, (j, k) in enumerate(zip(entries.classes, levels, strict=True)):
        at = entries.places(j)
        column = ClassColumn(k, period, at, [entries.indicators[i - len(entries.numbers)][1] for i in at])
        for name, values in zip(("loc", "scale"), scale, strict=True):
            getattr(column, name).copy_(torch.from_numpy(values[at]))
        out.append(column.fit(_cell(seen, pool.n_cells + c)))
    model = MixedPool(pool, out)
    for c, column in enumerate(out):
        _weigh(model, column, c, seen, trials, seed)
    return model


def _cell(seen: Seen, place: int) -> Seen:
    """One cell of each step."""
    at = slice(place, place + 1)
    return seen._replace(y=seen.y[..., at], mask=seen.mask[..., at])


def _weigh(model: MixedPool, column: ClassColumn, c: int, seen: Seen, trials: Trials, seed: int) -> None:
    """Weigh the members of a column by cells hidden from them, within series and at the end of some that are cut off."""
    length = seen.y.shape[1]
    own = model.column(seen, c)
    hidden = trials.hidden[..., column.places[:1]] if column.places else like_blanks(own.mask, seed)
    rows = hidden.flatten(1).any(1).nonzero().squeeze(1)
    rows = rows[evenly(len(rows), JUDGED // length)]
    early = max(0, length - RECENT)
    inside = stretch(seen.rows(rows), early, length)
    hide = hidden[rows, early:]
    cut = cuts(seen, trials.horizon, CONTEXT, JUDGED * seen.y.shape[2])
    future = cut.future[..., [model.pool.n_cells + c]]
    judged, fitted = [], []
    for pool, kept, which, learnt in (
        (trials.inside, inside._replace(mask=inside.mask & ~_telling(model, column, c, hide)), hide, ~hidden),
        (trials.early, cut.seen, future, ~cut.late.unsqueeze(2)),
    ):
        if not bool(which.any()):
            continue
        unknowing = ClassColumn(**column.config)
        unknowing.load_state_dict(column.state_dict())
        fitted.append(unknowing.fit(own._replace(mask=own.mask & learnt)))
        centre = pool.answer(model.numbers(kept)).centre if column.places else None
        part = model.column(kept, c)
        judged.append((part, part.y, which, centre))
    column.weigh(judged, fitted)


def _telling(model: MixedPool, column: ClassColumn, c: int, hidden: Tensor) -> Tensor:
    """Hidden cells (N, T, 1) of a column, in all places that tell of it, (N, T, G + C)."""
    out = torch.zeros(*hidden.shape[:2], model.n_cells, dtype=torch.bool)
    for place in [*column.places, model.pool.n_cells + c]:
        out[..., place] = hidden[..., 0]
    return out
