"""How well a symbol leads on to what is seen after it, by a law with a short context: what keeps the beam where it should be.

    β_t(a, b) = Σ_c p₂(c | a, b) β_{t+1}(b, c)      over symbols c that may stand there

exactly, with two symbols of context where A³ numbers are few, with one where A² are, and with many symbols, as of words, only
in the last blank before known ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from abduce.sequences.text.gaps import BLANK, Stretch
from abduce.sequences.text.kneser_ney import KneserNey

CUBE = 1_500_000  # entries of the table with two symbols of context
SQUARE = 4_000_000  # and with one


class Lookahead:
    """Weights of next symbols by what comes after them, for stretches of one form."""

    def __init__(self, law: KneserNey, asked: Sequence[Stretch]):
        self.law, self.asked, self.size = law, asked, law.size
        self.blanks = np.array([x == BLANK for x in asked[0].x])
        a = self.size
        self.depth = 2 if law.order >= 2 and a**3 <= CUBE else 1 if law.order >= 1 and a**2 <= SQUARE else 0
        self.tables = self._tables() if self.depth else []

    def of(self, t: int, owner: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Weights (states, A) of the symbols at step t, of states of stretches ``owner`` after symbols ``last``."""
        if self.depth == 2:
            known = np.minimum(last, self.size)  # the edge is as good as any symbol that is not known
            return self.tables[t][owner, known]
        if self.depth == 1:
            return self.tables[t][owner]
        return self._only_next(t)[owner]

    def _short(self, depth: int) -> np.ndarray:
        """p of next symbols by the law of a short context, a floor for all: (A + 1, A + 1, A + 1) or (A + 1, A + 1)."""
        a, counts = self.size + 1, self.law.counts
        contexts = counts.start(a**depth)
        for place in range(depth):
            symbol = np.arange(a**depth) // a ** (depth - 1 - place) % a
            contexts = counts.step(contexts, symbol)
        contexts[depth + 1 :] = -1
        return self.law.next(contexts).reshape((a,) * (depth + 1))

    def _tables(self) -> list[np.ndarray]:
        """β after each step, for all symbols there and before: (stretches, A + 1, A) or (stretches, A), at most one."""
        short, n, out = _short_law(self.law, self.depth, self._short), len(self.asked), []
        shape = (n,) + (self.size + 1,) * self.depth
        beta = np.ones(shape)
        for t in range(len(self.blanks) - 1, -1, -1):
            out.append(beta[..., :-1])
            if self.blanks[t]:
                ahead = beta * self._allowed(t)
                beta = (
                    np.einsum("abc,nbc->nab", short, ahead, optimize=True)
                    if self.depth == 2
                    else ahead @ short.T
                )
            else:
                x = np.array([stretch.x[t] for stretch in self.asked])
                if self.depth == 2:
                    beta = short[:, :, x].transpose(2, 0, 1) * beta[np.arange(n), :, x][:, None, :]
                else:
                    beta = short[:, x].T * beta[np.arange(n), x][:, None]
            beta = beta / beta.reshape(n, -1).max(1).reshape((n,) + (1,) * self.depth)
        return out[::-1]

    def _allowed(self, t: int) -> np.ndarray:
        """Which symbols may stand in the blank at step t, broadcast over contexts; no others than those that are known."""
        blank = int(self.blanks[:t].sum())
        some = [stretch.allowed[blank] for stretch in self.asked]
        full = np.ones(self.size, bool)
        rows = np.stack([np.append(full if s is None else s, False) for s in some])
        return rows[:, None, :] if self.depth == 2 else rows

    def _only_next(self, t: int) -> np.ndarray:
        """p of the known symbol after each symbol in the last blank, ones elsewhere: (stretches, A)."""
        n = len(self.asked)
        if t + 1 >= len(self.blanks) or self.blanks[t + 1] or not self.law.order:
            return np.ones((n, self.size))
        x = np.repeat([stretch.x[t + 1] for stretch in self.asked], self.size)
        counts = self.law.counts
        contexts = counts.step(counts.start(len(x)), np.tile(np.arange(self.size), n))
        return self.law.one(contexts, x).reshape(n, self.size)


def _short_law(law: KneserNey, depth: int, make) -> np.ndarray:
    """The short law, made once for each law."""
    kept = vars(law).setdefault("_short_laws", {})
    if depth not in kept:
        kept[depth] = make(depth)
    return kept[depth]
