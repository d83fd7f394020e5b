"""Grey levels under a mixture of logistics, coded by yes or no: the two stops first, then halves of what is left.

    with stops      is it the first level?  is it the last?  then halves of what lies between
    without         halves of all levels

The chance of a yes is the share of the mass that is left (the chain rule), so a pixel of 256 levels costs one evaluation of
the distribution function for each half, eight in all, and one that lies at a stop costs none.  All pixels are asked the same
question at once.  Each level has at least :data:`FLOOR` of the mass that halves share, so none is impossible; all symbols
beyond the levels, where a table has such, have :data:`BEYOND` together.

Parameters are rounded to the coder's grid before use, and all is float64: both sides get the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from abduce.compress.stack import FLAGS, BitStack
from abduce.compress.symbols import PROBABILITY, rounded
from abduce.distributions.pixels import DiscretizedLogisticMixture

FLOOR = 2.0**-26
BEYOND = 2.0**-24
MOST = 40.0  # nats: logits are clipped to so many either way

# asks pixels ``at`` (m,) a question of chances (m,), which ``test`` answers of symbols (m,); gives the answers (m,)
Ask = Callable[[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]], np.ndarray]


class GreySymbols:
    """Symbols 0..size−1 of the observed pixels of n rows; those beyond the law's levels have next to no mass.

    ``part`` holds parameters of at least n rows, of which the first n are used; ``seen`` (n, d) says which are observed.
    """

    def __init__(self, part: DiscretizedLogisticMixture, seen: np.ndarray, size: int):
        self.part, self.rows, self.columns = part, *np.nonzero(seen)
        self.size = max(size, part.levels)

    def push(self, stack: BitStack, k: np.ndarray) -> None:
        pushes = []

        def ask(at: np.ndarray, chance: np.ndarray, test: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
            yes = test(k[at])
            pushes.append((yes, chance))
            return yes

        self._walk(ask)
        for yes, chance in reversed(pushes):
            stack.push(yes, FLAGS, chance)

    def pop(self, stack: BitStack) -> np.ndarray:
        return self._walk(lambda at, chance, _: stack.pop(FLAGS, chance).astype(bool))

    def _walk(self, ask: Ask) -> np.ndarray:
        """Ask until every symbol is known, (m,)."""
        at = np.arange(len(self.rows))
        out, start = np.zeros(len(at), np.int64), 0
        if self.part.stops is not None:
            last, start = self.part.levels - 1, 1
            low, high = np.exp(np.clip(self._parameters(self.part.stops, at), -MOST, MOST))
            between = ~ask(at, _share(low, 1.0 + high), lambda k: k == 0)
            at, high = at[between], high[between]
            yes = ask(at, _share(high, 1.0), lambda k: k == last)
            out[at[yes]] = last
            at = at[~yes]
        out[at] = self._halves(ask, at, start)
        return out

    def _halves(self, ask: Ask, at: np.ndarray, start: int) -> np.ndarray:
        """Symbols (m,) of pixels between the stops, or of all without, which are ``start`` at least."""
        logits, loc, log_scale = (
            self._parameters(t, at) for t in (self.part.logits, self.part.loc, self.part.log_scale)
        )
        law = GreyLaw(logits, loc, log_scale, self.part.levels, start)
        symbol = np.full(len(at), start)
        below, above = np.zeros(len(at)), np.ones(len(at))
        bits = (self.size - start - 1).bit_length()
        for level in reversed(range(bits)):
            middle = symbol + 2**level
            cut = law.below(middle)
            left = np.maximum(cut - below, 0.0) + self._floor(symbol, level, bits)
            right = np.maximum(above - cut, 0.0) + self._floor(middle, level, bits)
            upper = ask(at, _share(right, left), lambda k, middle=middle: k >= middle)
            symbol = np.where(upper, middle, symbol)
            below, above = np.where(upper, cut, below), np.where(upper, above, cut)
        return symbol

    def _floor(self, start: np.ndarray, level: int, bits: int) -> np.ndarray:
        """The least mass of 2^level symbols from ``start`` (m,), of 2^bits in all."""
        inside = np.clip(self.part.levels - start, 0, 2**level)
        return FLOOR * inside + BEYOND * 2.0 ** (level - bits) * (inside < 2**level)

    def _parameters(self, t: Tensor, at: np.ndarray) -> np.ndarray:
        """Parameters (>= n, j, d) of some of the pixels, rounded, (j, m)."""
        return rounded(t.numpy()[self.rows[at], :, self.columns[at]].T)


class GreyLaw:
    """Distribution function of grey levels under a mixture of logistics, parameters (components, m), cut off where ``start``
    is 1 below the first step and above the last: P(level < e | it is between)."""

    def __init__(
        self, logits: np.ndarray, loc: np.ndarray, log_scale: np.ndarray, levels: int, start: int = 0
    ):
        weights = np.exp(logits - logits.max(0))
        self.weights = weights / weights.sum(0)
        precision = np.exp(-log_scale)
        if start:
            # what is left of a logistic so far beyond a stop is an exponential law, whatever the place
            far = 1 + 30 / precision
            loc = np.clip(loc, -far, far)
        # the cut below level e lies at −1 + (2 e − 1) / (levels − 1): its standardised place is linear in e
        self.slope = 2.0 / (levels - 1) * precision
        self.place = (-1.0 - 1.0 / (levels - 1) - loc) * precision
        self.ends, self.lowest = (start, levels - start), np.zeros(loc.shape[1])
        if start:
            # measured from the nearer tail, where differences of two shares do not cancel
            sign = np.where(loc < 0, -1.0, 1.0)
            self.slope, self.place = sign * self.slope, sign * self.place
            first, final = (_logistic(self.slope * e + self.place) for e in self.ends)
            self.weights = self.weights / (final - first)
            self.lowest = (self.weights * first).sum(0)

    def below(self, e: np.ndarray) -> np.ndarray:
        """P(level < e) of levels e (m,)."""
        at = self.slope * e
        at += self.place
        at = _logistic(at)
        at *= self.weights
        first, final = self.ends
        return np.where(e <= first, 0.0, np.where(e >= final, 1.0, at.sum(0) - self.lowest))


def _share(yes: np.ndarray, no: np.ndarray | float) -> np.ndarray:
    """The chance of a yes, in the coder's precision, neither 0 nor 1."""
    return np.clip(np.rint(yes / (yes + no) * PROBABILITY), 1, PROBABILITY - 1) / PROBABILITY


def _logistic(t: np.ndarray) -> np.ndarray:
    """σ(t), in place of t."""
    np.negative(t, out=t)
    with np.errstate(over="ignore"):  # 1 / (1 + ∞) = 0 is meant
        np.exp(t, out=t)
    t += 1.0
    return np.divide(1.0, t, out=t)
