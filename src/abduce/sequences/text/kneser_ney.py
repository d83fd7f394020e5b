"""The law of the next symbol given those before it: asked for one symbol, for all, or while it learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from abduce.sequences.text.counts import Counted, NgramCounts, Stream
from abduce.sequences.text.discounts import fit_discounts, interpolated, parts, usual

HELD_OUT = 0.1  # share of the symbols that discounts are fitted on
FEWEST = 50  # symbols held out below which the usual discounts stay


class KneserNey:
    """Interpolated modified Kneser-Ney over symbols 0..A−1 and A, any other: p(x | up to K before it) sums to one over these.

    Parameters
    ----------
    counts : NgramCounts
    discounts : array (K + 1, 3, 3)
    edges : bool
        Whether texts have a beginning, whose symbol is A + 1, or are cut out of longer ones.
    """

    def __init__(self, counts: NgramCounts, discounts: np.ndarray, edges: bool):
        self.counts, self.discounts, self.edges = counts, discounts, edges
        self._rows: list[_Row] | None = None

    @classmethod
    def fit(cls, texts: Sequence[np.ndarray], order: int, size: int, edges: bool) -> KneserNey:
        """Count texts (n_i,) of symbols; discounts are fitted to their last tenth, counted from the rest."""
        edge = size + 1 if edges else None
        early, late = _cut(texts, HELD_OUT)
        discounts = usual(order)
        if sum(map(len, late)) >= FEWEST:
            known = NgramCounts.count(Stream.of(early, order, edge), order, size)
            discounts = fit_discounts(known.counted(Stream.of(late, order, edge)), size)
        return cls(NgramCounts.count(Stream.of(texts, order, edge), order, size), discounts, edges)

    def having_read(self, texts: Sequence[np.ndarray]) -> KneserNey:
        """The law of somebody who has read pieces of text (n_i,) too, each cut out of a longer one; discounts stay."""
        known = NgramCounts.count(Stream.of(texts, self.order, None), self.order, self.size)
        return KneserNey(self.counts.merged(known), self.discounts, self.edges)

    @classmethod
    def blank(cls, order: int) -> KneserNey:
        """The law of somebody who has read nothing."""
        return cls.fit([], order, 0, edges=False)

    @property
    def size(self) -> int:
        return self.counts.size

    @property
    def order(self) -> int:
        return self.counts.order

    @property
    def edge(self) -> int | None:
        return self.size + 1 if self.edges else None

    # ------------------------------------------------------------------ what was written

    def stream(self, texts: Sequence[np.ndarray]) -> Stream:
        """Texts of symbols as one stream."""
        return Stream.of(texts, self.order, self.edge)

    def log_prob(self, stream: Stream) -> np.ndarray:
        """log p of each symbol of texts (n,) given those before it, nats; other symbols' is that they are not known."""
        return np.log(interpolated(self.counts.counted(stream), self.discounts, 1 / (self.size + 1)))

    def adaptive_log_prob(self, stream: Stream) -> np.ndarray:
        """The same from counts that take in every symbol once it is read; new symbols are A + 2, A + 3, .. as they come.

        All positions at once.  A count before a position is how often its n-gram came earlier, the place among its equals; the
        spread of a context changes where a count goes from one to two, or to three: sums over earlier positions again.
        """
        x = stream.x
        at = np.flatnonzero(x >= self.size + 2)
        first = np.zeros(len(x), bool)
        first[at[np.unique(x[at], return_index=True)[1]]] = True
        known = self.size + np.cumsum(first) - first
        counted = self._growing(stream)
        return np.log(interpolated(counted, self.discounts, 1 / (known[stream.counted] + 1)))

    def _growing(self, stream: Stream) -> list[Counted]:
        x = stream.x
        wide = max(self.counts.width, int(x.max(initial=0)) + 1)
        context, numbers, contexts = np.zeros(len(x), np.int64), [], []
        for k, level in enumerate(self.counts.levels):
            there = (context >= 0) & (stream.past >= k)
            old = (
                there
                & (context < (len(self.counts.levels[k - 1].keys) if k else 1))
                & (x < self.counts.width)
            )
            number = level.find(np.where(old, self.counts.keys(context, x), -1))
            new = there & (number < 0)
            number[new] = len(level.keys) + np.unique(context[new] * wide + x[new], return_inverse=True)[1]
            contexts.append(np.where(there, context, -1))
            numbers.append(number)
            context = np.concatenate([[-1], number[:-1]])[: len(number)]
        out: list[Counted] = []
        longer = np.zeros(len(x), bool)
        for k in range(self.order, -1, -1):
            level, number, context = self.counts.levels[k], numbers[k], contexts[k]
            adds = (stream.counted & (stream.past == k)) | longer
            start = np.where((number >= 0) & (number < len(level.keys)), _of(level.counts, number), 0)
            count = start + _before(number, adds)
            ahead = context >= 0
            held = ahead & (context < len(level.total))
            total = np.where(held, _of(level.total, context), 0) + _before(context, adds)
            spread = np.stack(
                [
                    np.where(held, _of(level.spread[:, j], context), 0)
                    + _before(
                        context, (adds & (count == j)).astype(int) - (adds & (count == j + 1) & (j < 2))
                    )
                    for j in range(3)
                ],
                axis=1,
            )
            counted = stream.counted
            total, spread = np.where(ahead, total, 0), np.where(ahead[:, None], spread, 0)
            out.append(Counted(count[counted], total[counted], spread[counted]))
            longer = adds & (count == 0)  # a longer n-gram that is new is one more symbol before the shorter
        return out[::-1]

    # ------------------------------------------------------------------ what may be written

    def contexts(self, x: np.ndarray) -> np.ndarray:
        """The contexts (K + 1, 1) that symbols (n,), the last ones of a text, make."""
        out = self.counts.start(1)
        for symbol in x[-self.order - 1 :]:
            out = self.counts.step(out, np.array([symbol]))
        return out

    def next(self, contexts: np.ndarray) -> np.ndarray:
        """p of every next symbol after contexts (K + 1, n): (n, A + 1), the last that it is not known."""
        n, width = contexts.shape[1], self.counts.width
        p = np.full((n, width), 1 / (self.size + 1))
        flat = p.reshape(-1)
        for level, row, context in zip(self.counts.levels, self.rows, contexts, strict=True):
            at = np.flatnonzero(context >= 0)
            own = context[at]
            p[at] *= row.left[own][:, None]
            first, last = level.starts[own], level.starts[own + 1]
            size = last - first
            child = np.repeat(first - (np.cumsum(size) - size), size) + np.arange(size.sum())
            flat[np.repeat(at * width, size) + level.keys[child] % width] += row.mass[child]
        return p[:, :-1]

    def one(self, contexts: np.ndarray, x: np.ndarray) -> np.ndarray:
        """p of one next symbol (n,) after each of contexts (K + 1, n)."""
        p = np.full(len(x), 1 / (self.size + 1))
        for level, row, context in zip(self.counts.levels, self.rows, contexts, strict=True):
            number = level.find(self.counts.keys(context, x))
            p = p * np.where(context >= 0, _of(row.left, context), 1.0) + np.where(
                number >= 0, _of(row.mass, number), 0.0
            )
        return p

    def draw(self, before: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """Go on with ``n`` known symbols after others."""
        led = before if self.edge is None else np.concatenate([[self.edge], before])
        contexts, out = self.contexts(led), np.empty(n, np.int64)
        for t, u in enumerate(rng.random(n)):
            run = np.cumsum(self.next(contexts)[0, :-1])
            out[t] = min(np.searchsorted(run, u * run[-1], side="right"), self.size - 1)
            contexts = self.counts.step(contexts, out[t : t + 1])
        return out

    @property
    def rows(self) -> list[_Row]:
        """Of each order, what its n-grams give and what its contexts leave."""
        if self._rows is None:
            made = []
            for level, own in zip(self.counts.levels, self.discounts, strict=True):
                context = level.keys // self.counts.width
                of = Counted(level.counts, level.total[context], level.spread[context])
                mass = parts(of, own)[0]
                each = Counted(np.zeros(len(level.total), np.int64), level.total, level.spread)
                made.append(_Row(mass, parts(each, own)[1]))
            self._rows = made
        return self._rows


class _Row(NamedTuple):
    mass: np.ndarray
    left: np.ndarray


def _of(values: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Values at numbers, whatever stands where a number is none or too large."""
    if not len(values):
        return np.zeros(len(number), values.dtype)
    return values[np.clip(number, 0, len(values) - 1)]


def _before(group: np.ndarray, adds: np.ndarray) -> np.ndarray:
    """Of each position (n,) the sum of what earlier positions of its group add."""
    rank = np.argsort(group, kind="stable")
    added = adds[rank].astype(np.int64)
    run = np.cumsum(added) - added
    new = np.concatenate([[True], np.diff(group[rank]) != 0])[: len(rank)]
    start = np.maximum.accumulate(np.where(new, np.arange(len(rank)), 0))
    out = np.empty(len(rank), np.int64)
    out[rank] = run - run[start]
    return out


def _cut(texts: Sequence[np.ndarray], share: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Texts up to a share of their symbols before the end, and from there on."""
    left = sum(map(len, texts)) - int(sum(map(len, texts)) * share)
    early, late = [], []
    for x in texts:
        here = max(0, min(left, len(x)))
        early.append(x[:here])
        late.append(x[here:])
        left -= here
    return [x for x in early if len(x)], [x for x in late if len(x)]
