"""Ask laws that take a `Seen` from today's estimators of energies; goes when :mod:`abduce.answers.complete` does so itself."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from abduce.answers.observation import Blanks, Flips, Observation
from abduce.data.seen import CELLS, Seen, Unanswerable
from abduce.estimators.energy_based import EnergyModel
from abduce.inference.importance import chunks

NUMBERS = 2**22  # in one chunk of draws


class AsksByLaw(EnergyModel):
    """The questions, of an energy whose law takes a `Seen`."""

    @property
    def _law(self) -> Any:
        return self.model_.law()

    def _free_energy(self, x: Tensor, observed: Tensor) -> Tensor:
        parts = [
            self._law.log_prob(Seen(xs, os))[: part.stop - part.start] for part, xs, os in chunks(x, observed)
        ]
        return -torch.cat(parts) if parts else x.new_zeros(0)

    def _means(self, y: Tensor, seen: Tensor, observation: Observation | None = None) -> Tensor:
        return self._law.mean(_seen(y, seen, observation))

    def _clean_draws(
        self, y: Tensor, seen: Tensor, observation: Observation, n: int, generator: torch.Generator
    ) -> Iterator[tuple[slice, Tensor]]:
        size = max(1, NUMBERS // (n * y.shape[1]))
        for i in range(0, len(y), size):
            rows = slice(i, min(i + size, len(y)))
            yield rows, self._law.draws(_seen(y[rows], seen[rows], observation), n, generator)

    def _evidence(self, y: Tensor, seen: Tensor, observation: Observation) -> Tensor | None:
        return self._law.log_prob(_seen(y, seen, observation))


def _seen(y: Tensor, mask: Tensor, observation: Observation | None) -> Seen:
    if isinstance(observation, Flips):
        view: Any = SimpleNamespace(name="flips", rate=observation.rate)
        return Seen(y, mask, view)
    if observation is not None and not isinstance(observation, Blanks):
        raise Unanswerable(f"latent classes do not answer what is seen through {type(observation).__name__}")
    return Seen(y, mask, CELLS)
