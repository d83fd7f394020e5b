"""The answer: what a model infers of clean rows from what was seen of them.

A model is asked once, and every question reduces its reply: a score is the evidence, a fill the mean, an interval a quantile
of draws, a class its chances, an embedding the latents.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from abduce.data.seen import Seen

CELLS_AT_ONCE = 2**22  # numbers in one block of draws
ROWS_AT_ONCE = 4096
CHUNK = 64  # rows of a chunk of fixed shape, see :mod:`abduce.inference.importance`


@dataclass(frozen=True)
class Effort:
    """How much work an answer may spend on each row, and the seed of its random numbers.

    ``samples`` importance draws; ``rounds`` times that a first guess of noisy rows is cleaned and encoded again; HMC moves
    ``hmc_particles`` where too few draws carry the weight, ``hmc_steps`` of ``leapfrogs``; ``particles`` are annealed.
    """

    samples: int = 100
    rounds: int = 8
    hmc_particles: int = 32
    hmc_steps: int = 20
    leapfrogs: int = 5
    particles: int = 64
    seed: int = 0


EFFORT = Effort()


class Answer(abc.ABC):
    """The posterior over clean rows given what was seen, for the rows of one `Seen`.

    ``kind`` says what the evidence is: "exact", "estimate" (by sampling), "unnormalised" (log p up to a constant: log Z is not
    known), or "pooled" (of several models; evidence and means may then weigh them differently).
    """

    kind: ClassVar[str] | str

    @property
    @abc.abstractmethod
    def log_evidence(self) -> Tensor:
        """log p(seen), nats, in model space, float64 (rows,)."""

    @property
    @abc.abstractmethod
    def ess(self) -> Tensor:
        """Effective number of draws behind each row, infinite where exact, (rows,)."""

    @abc.abstractmethod
    def mean(self) -> Tensor:
        """Best clean rows (rows, D): numbers at their posterior mean, classes at their likeliest code."""

    @abc.abstractmethod
    def draws(self, n: int, generator: torch.Generator, what: str = "rows") -> Tensor:
        """Draw clean rows (n, rows, D).

        ``what`` counts of them: whole "rows"; each cell's own distribution, "cells", which may cost less; or the "numbers"
        alone, when classes may come back as they were given.
        """

    @abc.abstractmethod
    def chances(self, cell: int) -> Tensor:
        """Probability of each level of a class cell, (rows, levels)."""

    @abc.abstractmethod
    def latents(self) -> Tensor:
        """What the model makes of each row: posterior mean of latents, a code, responsibilities; (rows, features)."""

    @abc.abstractmethod
    def points(self, count: int) -> Tensor:
        """Equally likely points that stand for each cell's own distribution, (count, rows, D)."""


class Answering(Protocol):
    """Whatever can be asked."""

    n_cells: int

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Answer: ...


def blocks(model: Answering, seen: Seen, effort: Effort, draws: int = 1) -> Iterator[tuple[slice, Answer]]:
    """Ask about rows a block at a time, as many as ``draws`` of them fit into memory; the slice says which rows they are.

    Blocks are whole chunks, so that the rows of a chunk are the same however many rows there are.
    """
    width = max(1, model.n_cells * draws)
    size = min(ROWS_AT_ONCE, max(CHUNK, CELLS_AT_ONCE // width // CHUNK * CHUNK))
    for start in range(0, len(seen.y), size):
        part = slice(start, min(len(seen.y), start + size))
        yield part, model.answer(seen.rows(part), effort)


def gather(
    model: Answering, seen: Seen, effort: Effort, ask: Callable[[Answer], Tensor], empty: tuple[int, ...] = ()
) -> Tensor:
    """One reduction of the answers about all rows, joined along the rows; ``empty`` is a row's shape where there are none."""
    parts = [ask(answer) for _, answer in blocks(model, seen, effort)]
    return joined(parts, *empty)


def joined(parts: list[Tensor], *empty: int) -> Tensor:
    """Parts of rows in one; ``empty`` is a row's shape where there are none."""
    return torch.cat(parts) if parts else torch.zeros(0, *empty, dtype=torch.float64)
