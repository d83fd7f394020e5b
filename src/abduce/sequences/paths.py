"""The interface of models of series, and their answer: what each blank cell of a series is expected to be, and how surely.

A series is a row of `Seen` whose values are (steps, features); its model has no fixed number of steps.  A future is a run of
blanks at the end, a past one at the start.  Members of a pool may have no opinion about some cells, marked by NaN: who looks
back says nothing of gaps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from abduce.answers.answer import EFFORT, Answer, Effort
from abduce.data.layout import Layout
from abduce.data.seen import Seen, Unanswerable
from abduce.models.model import Model

Draw = Callable[[int, Generator], Tensor]


class SequenceModel(Model):
    """A model of series of ``n_cells`` features; ``answer`` takes y (N, T, F) with its mask and time (N, T)."""

    views = frozenset({"blanks"})
    memory: int | None = None  # steps beyond which what was seen hardly tells it anything; None: all tell
    between: bool = True  # whether it has an opinion of cells between observed steps
    spreads: bool = False  # whether the distributions of its cells are held against hidden ones

    def __init__(self, features: int):
        super().__init__()
        self.n_cells, self.layout = features, Layout((features,), (0,) * features)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw steps (n, F) that follow one another, from nothing."""
        blank = torch.zeros(1, n, self.n_cells, dtype=torch.float64)
        time = torch.arange(n, dtype=torch.float64).unsqueeze(0)
        seen = Seen(blank, torch.zeros_like(blank, dtype=torch.bool), time=time)
        return self.answer(seen, EFFORT).draws(1, generator)[0, 0]


def stretch(seen: Seen, start: int, stop: int) -> Seen:
    """Some steps of series."""
    time = None if seen.time is None else seen.time[:, start:stop]
    return seen._replace(y=seen.y[:, start:stop], mask=seen.mask[:, start:stop], time=time)


@dataclass
class Paths(Answer):
    """``centre`` and ``deviation`` (N, T, F) of each cell given all that was seen.

    ``step_log_prob`` (N, T) are log p of what was seen of each step given the steps before, nats, where the model has them;
    ``draw(n, generator)`` gives whole series (n, N, T, F), without it cells are drawn each on its own.  ``left_out`` are mean
    and variance (N, T, F) of each observed cell given all the others.
    """

    seen: Seen
    centre: Tensor
    deviation: Tensor
    step_log_prob: Tensor | None = None
    draw: Draw | None = None
    kind: str = "exact"
    left_out: tuple[Tensor, Tensor] | None = None

    @property
    def log_evidence(self) -> Tensor:
        if self.step_log_prob is None:
            raise Unanswerable("the model has no log p of what was seen of a series")
        return self.step_log_prob.sum(1)

    @property
    def ess(self) -> Tensor:
        return torch.full((len(self.seen.y),), math.inf, dtype=torch.float64)

    def mean(self) -> Tensor:
        return torch.where(self.seen.mask, self.seen.y, self.centre)

    def draws(self, n: int, generator: Generator, what: str = "rows") -> Tensor:
        if what == "rows" and self.draw is not None:
            return self.draw(n, generator)
        noise = torch.randn(n, *self.centre.shape, generator=generator, dtype=torch.float64)
        return torch.where(self.seen.mask, self.seen.y, self.centre + self.deviation * noise)

    def points(self, count: int) -> Tensor:
        grid = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
        return torch.where(
            self.seen.mask, self.seen.y, self.centre + self.deviation * grid[:, None, None, None]
        )

    def latents(self) -> Tensor:
        return self.centre.flatten(1)

    def chances(self, cell: int) -> Tensor:
        raise ValueError(f"cell {cell} holds a number, not a class")


class Seasonal(SequenceModel):
    """``model`` of what is left of series without their ``seasons``, a :class:`~abduce.sequences.seasons.Seasons`."""

    def __init__(self, model: SequenceModel, seasons: Any):
        super().__init__(model.n_cells)
        self.model, self.seasons, self.memory, self.between = model, seasons, model.memory, model.between

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Paths:
        season = self.seasons.of(seen)
        inner: Any = self.model.answer(seen._replace(y=seen.y - season), effort)

        def draw(n: int, generator: Generator) -> Tensor:
            return torch.where(seen.mask, seen.y, inner.draws(n, generator) + season)

        left = None if inner.left_out is None else (inner.left_out[0] + season, inner.left_out[1])
        return Paths(
            seen, inner.centre + season, inner.deviation, inner.step_log_prob, draw, inner.kind, left
        )
