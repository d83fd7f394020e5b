"""Counts of n-grams, exact: every n-gram has a number of its own, no two share one.

An n-gram of order k is a symbol after k others, its *context*.  Numbers are places in sorted keys

    key = number of the context · width + symbol,

and the context is itself an n-gram of order k − 1, so a lookup of order k goes through all below it.  What counts is

    order K, the longest      how often the n-gram occurs
    orders k < K              how many different symbols stand before it (Kneser & Ney 1995), and how often it begins a text

Symbols are 0..A−1; A is any other symbol, and A + 1 the edge before a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Stream(NamedTuple):
    """Texts one after the other: symbols (n,), how many symbols before each belong to its text, at most K, and which count."""

    x: np.ndarray
    past: np.ndarray
    counted: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[np.ndarray], order: int, edge: int | None) -> Stream:
        """Lay texts (n_i,) one after the other, each behind the symbol ``edge``, unless it is None."""
        led = [x if edge is None else np.concatenate([[edge], x]) for x in texts]
        sizes = np.array([len(x) for x in led], dtype=np.int64)
        starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
        x = np.concatenate([np.zeros(0, np.int64), *led]).astype(np.int64)
        place = np.arange(len(x)) - starts
        counted = np.ones(len(x), bool) if edge is None else place > 0
        return cls(x, np.minimum(place, order), counted)


class Level(NamedTuple):
    """All n-grams of one order: sorted keys and counts (n,); of its contexts (m,) where their n-grams start (m + 1,),
    the sum of the counts, and how many n-grams have count 1, 2, and more (m, 3)."""

    keys: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    total: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, counts: np.ndarray, contexts: int, width: int) -> Level:
        """Sum up what belongs to each context."""
        context = keys // width
        starts = np.searchsorted(context, np.arange(contexts + 1))
        total = np.bincount(context, counts, contexts).astype(np.int64)
        spread = np.stack([np.bincount(context[few], minlength=contexts) for few in _fewness(counts)], axis=1)
        return cls(keys, counts, starts, total, spread)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Numbers of n-grams (n,), −1 where there is none; negative keys are none."""
        if not len(self.keys):
            return np.full(keys.shape, -1)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, place, -1)


class Counted(NamedTuple):
    """What one order knew of each position (n,): count of its n-gram, sum of its context's counts, their spread (n, 3)."""

    count: np.ndarray
    total: np.ndarray
    spread: np.ndarray


def _fewness(counts: np.ndarray) -> tuple[np.ndarray, ...]:
    return counts == 1, counts == 2, counts > 2


class NgramCounts:
    """Counts of all n-grams of orders 0..K of a stream of ``size`` symbols.

    >>> stream = Stream.of([np.array([0, 1, 0, 1, 1])], 1, None)
    >>> counts = NgramCounts.count(stream, order=1, size=2)
    >>> [level.counts.tolist() for level in counts.levels]  # after nothing: 0, 1; then 01, 10, 11
    [[2, 2], [2, 1, 1]]
    """

    def __init__(self, levels: list[Level], size: int):
        self.levels, self.size = levels, size

    @property
    def order(self) -> int:
        return len(self.levels) - 1

    @property
    def width(self) -> int:
        """Symbols, any other one, and the edge."""
        return self.size + 2

    @classmethod
    def count(cls, stream: Stream, order: int, size: int) -> NgramCounts:
        """Count a stream."""
        width = size + 2
        keys, numbers, behind = [], [], []
        context = np.zeros(len(stream.x), np.int64)
        for k in range(order + 1):
            there = np.flatnonzero(stream.past >= k)
            key = context[there] * width + stream.x[there]
            rank = np.argsort(key)
            new = np.concatenate([[True], np.diff(key[rank]) != 0])[: len(rank)]
            number = np.full(len(stream.x), -1)
            number[there[rank]] = np.cumsum(new) - 1
            some = there[rank[new]]  # a position of each n-gram: what is the n-gram without its first symbol?
            behind.append(numbers[-1][some] if k else some)
            keys.append(key[rank[new]])
            numbers.append(number)
            context = np.concatenate([[-1], number[:-1]])[: len(number)]
        counts = []
        for k in range(order + 1):
            ends = stream.counted & (stream.past == k)
            own = np.bincount(numbers[k][ends], minlength=len(keys[k]))
            more = np.bincount(behind[k + 1], minlength=len(keys[k])) if k < order else 0
            counts.append(own + more)
        return cls.of(keys, counts, size)

    @classmethod
    def of(cls, keys: Sequence[np.ndarray], counts: Sequence[np.ndarray], size: int) -> NgramCounts:
        """Put together what :attr:`levels` hold of keys and counts."""
        contexts = [1, *(len(k) for k in keys[:-1])]
        each = zip(keys, counts, contexts, strict=True)
        return cls([Level.of(k, c.astype(np.int64), m, size + 2) for k, c, m in each], size)

    def shorter(self) -> list[np.ndarray]:
        """Of each n-gram of orders 1, 2, .. the number of what it is without its first symbol, an n-gram one order below."""
        out: list[np.ndarray] = []
        for below, level in zip(self.levels, self.levels[1:], strict=False):
            context, x = np.divmod(level.keys, self.width)
            out.append(below.find((out[-1][context] if out else np.zeros_like(context)) * self.width + x))
        return out

    def merged(self, other: NgramCounts) -> NgramCounts:
        """The counts of both streams, as if they had been counted as one."""
        keys: list[np.ndarray] = []
        now = [np.zeros(1, np.int64)] * 2  # the number here of each context of both
        counts = []
        for mine, theirs in zip(self.levels, other.levels, strict=True):
            parts = [
                own[level.keys // self.width] * self.width + level.keys % self.width
                for own, level in zip(now, (mine, theirs), strict=True)
            ]
            keys.append(np.unique(np.concatenate(parts)))
            now = [np.searchsorted(keys[-1], part) for part in parts]
            counts.append(np.zeros(len(keys[-1]), np.int64))
            for part, level in zip(now, (mine, theirs), strict=True):
                counts[-1][part] += level.counts
            # below the last order count those that begin a text; symbols before are counted again, in what both have
            if len(keys) <= self.order:
                for part, of in zip(now, (self, other), strict=True):
                    before = np.bincount(of.shorter()[len(keys) - 1], minlength=len(part))
                    counts[-1][part] -= before
        both = NgramCounts.of(keys, counts, self.size)
        for count, behind in zip(counts, both.shorter(), strict=False):
            count += np.bincount(behind, minlength=len(count))
        return NgramCounts.of(keys, counts, self.size)

    def start(self, n: int) -> np.ndarray:
        """Contexts without any symbol, (K + 1, n): the number of each order's context, −1 where there is none."""
        out = np.full((self.order + 1, n), -1)
        out[0] = 0
        return out

    def step(self, contexts: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Contexts (K + 1, n) after one more symbol (n,)."""
        out = np.zeros_like(contexts)
        for k in range(self.order):
            out[k + 1] = self.levels[k].find(self.keys(contexts[k], x))
        return out

    def keys(self, context: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Keys of symbols after contexts (n,), −1 where the context is not known."""
        return np.where(context < 0, -1, context * self.width + x)

    def counted(self, stream: Stream) -> list[Counted]:
        """What these counts know of a stream, order by order."""
        out, context = [], np.zeros(len(stream.x), np.int64)
        for level in self.levels:
            number = level.find(self.keys(context, stream.x))
            out.append(self.about(level, context, number, stream.counted))
            context = np.concatenate([[-1], number[:-1]])[: len(number)]
            context[stream.past <= len(out) - 1] = -1
        return out

    def about(self, level: Level, context: np.ndarray, number: np.ndarray, where: np.ndarray) -> Counted:
        """Counts of n-grams by their context's number and their own, nothing where that is −1."""
        context, number = context[where], number[where]
        known = context >= 0
        count = np.where(number >= 0, level.counts[number], 0) if len(level.counts) else np.zeros_like(number)
        total = np.where(known, level.total[context], 0) if len(level.total) else np.zeros_like(number)
        if not len(level.spread):
            return Counted(count, total, np.zeros((len(number), 3), np.int64))
        return Counted(count, total, np.where(known[:, None], level.spread[context], 0))
