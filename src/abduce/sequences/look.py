"""A panel as its models see it: answers in the panel's own cells, and what is odd, what lasts and what repeats in it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from abduce.answers.answer import Effort
from abduce.distributions.cells import LOG_2PI
from abduce.sequences.asking import Question, each_stretch, in_stretches
from abduce.sequences.mixed import Entries, MixedPool
from abduce.sequences.panel import Form, SeriesPanel
from abduce.sequences.scale import Scaling
from abduce.sequences.seasons import running_mean


class PanelQuestion(NamedTuple):
    """A question to the models, and its answers in a panel's cells; what is drawn of whole numbers is whole."""

    question: Question
    entries: Entries
    form: Form

    def mean(self) -> np.ndarray:
        """Centres of numbers and the most probable classes, (N, n, F)."""
        return self.entries.back(self.question.mean())

    def quantiles(self, levels: list[float]) -> np.ndarray:
        """Quantiles, (levels, N, n, F)."""
        return self._whole(self.question.quantiles(levels))

    def draws(self, n: int, generator: torch.Generator) -> np.ndarray:
        """Whole paths, (n, N, n, F)."""
        return self._whole(self.question.draws(n, generator))

    def chances(self, place: int) -> np.ndarray:
        """Chances of the classes of the column at ``place``, (N, n, K)."""
        c = self.entries.classes.index(place)
        return self.question.chances(c, len(self.form.kinds[place].levels))

    def _whole(self, cells: np.ndarray) -> np.ndarray:
        values = self.entries.back(cells)
        whole = [j for j, kind in enumerate(self.form.kinds) if kind.kind == "whole"]
        values[..., whole] = np.rint(values[..., whole])
        return values


class Look:
    """Series of a ``panel`` in model units, and what the pool's lead, an autoregression, and the chains say of them."""

    def __init__(
        self, model: MixedPool, entries: Entries, scaling: Scaling, panel: SeriesPanel, effort: Effort
    ):
        self.model, self.entries, self.panel, self.effort = model, entries, panel, effort
        wide = entries.spread(panel)
        self.scaler = scaling.fitted(wide.values, wide.mask)
        self.seen = wide.seen(self.scaler.to(wide.values, wide.mask))
        self.inner = model.numbers(self.seen)
        self.lead: Any = model.pool.parts[model.pool.order]

    def by_step(self) -> np.ndarray:
        """−log p of what was seen of each step given those before, nats in the data's units, (N, T)."""
        y, mask = self.seen.y.numpy(), self.seen.mask.numpy()
        like = self.seen.y[..., 0]
        log_p = each_stretch(self.lead, self.inner, lambda a: a.step_log_prob, like, self.effort).numpy()
        log_p = log_p + self.scaler.log_slope(y, mask)[..., : len(self.entries.numbers)].sum(2)
        for c, chains in enumerate(self.model.classes):
            log_p = log_p + in_stretches(chains.step_log_prob, self.model.column(self.seen, c)).numpy()
        return -log_p

    def by_cell(self) -> np.ndarray:
        """−log p of each cell given all others, before it and after, (N, T, F); of a class given those of its column."""

        def cells(answer: Any) -> Tensor:
            mean, variance = answer.left_out
            return 0.5 * ((answer.seen.y - mean).square() / variance + variance.log() + LOG_2PI)

        surprise = each_stretch(self.lead, self.inner, cells, self.inner.y, self.effort).numpy()
        slope = self.scaler.log_slope(self.seen.y.numpy(), self.seen.mask.numpy())
        parts = [surprise - slope[..., : self.entries.pooled]]
        for c, chains in enumerate(self.model.classes):
            column = self.model.column(self.seen, c)
            parts.append(in_stretches(chains.surprise, column).unsqueeze(2).numpy())
        return self.entries.back(np.concatenate(parts, 2))

    def clean(self) -> np.ndarray:
        """What lasts of numbers, and classes as they are, (N, T, F)."""
        out = self.panel.values.copy()
        out[..., list(self.entries.numbers)] = self._in_units(self._lasting())
        return out

    def parts(self) -> dict[str, np.ndarray]:
        """``level``, ``season`` and ``rest`` of numbers, (N, T, F), which sum to what was seen; NaN of classes."""
        seasons = self.lead.seasons
        season = seasons.of(self.inner)
        level = running_mean(self._lasting() - season, seasons.periods[0] if seasons.periods else 1)
        numbers = list(self.entries.numbers)
        found = {"level": self._in_units(level)}
        found["season"] = self.scaler.additive(self._padded(season), self._padded(level))[..., : len(numbers)]
        seen = np.where(self.panel.mask, self.panel.values, np.nan)[..., numbers]
        found["rest"] = seen - found["level"] - found["season"]
        out = {name: np.full(self.panel.values.shape, np.nan) for name in found}
        for name, part in found.items():
            out[name][..., numbers] = part
        return out

    def _lasting(self) -> Tensor:
        """What lasts of the pool's cells, (N, T, G), in model units."""
        return each_stretch(self.lead, self.inner, lambda a: a.centre, self.inner.y, self.effort)

    def _padded(self, pooled: Tensor) -> np.ndarray:
        """The pool's cells (N, T, G) with those of classes behind them."""
        return torch.cat([pooled, self.seen.y[..., self.entries.pooled :]], 2).numpy()

    def _in_units(self, pooled: Tensor) -> np.ndarray:
        """Numbers among the pool's cells, in the data's units."""
        return self.scaler.back(self._padded(pooled))[..., : len(self.entries.numbers)]
