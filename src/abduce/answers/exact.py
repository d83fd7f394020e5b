"""Answers of a distribution whose marginals, conditionals and draws are exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from abduce.answers.answer import CHUNK, Answer, joined
from abduce.data.seen import Seen
from abduce.inference.energy import Law
from abduce.inference.importance import pad


class Exact(Answer):
    """What ``law`` says of rows.

    ``represent`` makes features of complete rows; ``levels`` (D,) are the classes of each cell, 0 for a number.

    Evidence runs in padded chunks of one shape, so that a row's value does not depend on its neighbours to the last bit; laws
    that are ``rowwise`` get all rows at once.
    Means take rows by the thousand, so that those with the same blanks share a factorisation; there neighbours show in the
    last bits at most.
    """

    kind = "exact"

    def __init__(self, law: Law, seen: Seen, represent: Callable[[Tensor], Tensor], levels: tuple[int, ...]):
        self.law: Any = law  # one of classes has chances, one of Gaussians points
        self.seen, self.represent, self.levels = seen, represent, levels

    @property
    def log_evidence(self) -> Tensor:
        if self.law.rowwise and self.seen.exact:
            return self.law.log_prob(self.seen).double()
        return joined([self.law.log_prob(part)[:n] for part, n in padded_chunks(self.seen)]).double()

    @property
    def ess(self) -> Tensor:
        return torch.full((len(self.seen.y),), math.inf, dtype=torch.float64)

    def mean(self) -> Tensor:
        mean = self.law.mean(self.seen)
        if 2 not in self.levels:
            return mean
        bits = torch.tensor(self.levels) == 2  # laws give the probability of 1
        return torch.where(bits, (mean > 0.5).to(mean), mean)

    def draws(self, n: int, generator: torch.Generator, what: str = "rows") -> Tensor:
        return self.law.draws(self.seen, n, generator)

    def chances(self, cell: int) -> Tensor:
        if not self.levels[cell]:
            raise ValueError(f"cell {cell} holds a number, not a class")
        return self.law.chances(self.seen, cell)

    def latents(self) -> Tensor:
        known = self.seen.exact and bool(self.seen.mask.all())  # no blank and no noise: nothing to infer
        whole = self.seen if known else Seen.whole(self.mean())
        return joined([self.represent(part.y)[:n].detach() for part, n in padded_chunks(whole)])

    def points(self, count: int) -> Tensor:
        return self.law.points(self.seen, count)


def padded_chunks(seen: Seen) -> list[tuple[Seen, int]]:
    """Rows in chunks of exactly CHUNK rows, the last one padded, with the number that count."""
    if len(seen.y) == CHUNK:
        return [(seen, CHUNK)]  # itself: what was worked out for its rows is known by them
    out = []
    for start in range(0, len(seen.y), CHUNK):
        y, mask = seen.y[start : start + CHUNK], seen.mask[start : start + CHUNK]
        padded = pad(y, mask, CHUNK)
        out.append((Seen(*padded, seen.view), len(y)))
    return out
