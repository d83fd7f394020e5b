"""Symbol models: the laws of whole numbers 0..size−1 by which the entropy coder codes.

    flag_symbols      Bernoulli
    table_symbols     table of probabilities
    binned_symbols    Gaussian cut into bins of one lattice step
    DigitSymbols      any law F: the interval [0, size) is cut into at most 16 parts, again and again, and each digit is
                      coded by its exact share F(end) − F(start) of the mass that is left (the chain rule), so a pixel of
                      256 levels costs 2 x 16 evaluations of F, and a range of 10¹⁵ is as exact as one of ten

The parameters that come out of a network are rounded to a grid before use: sums in floating point differ in their last bits
with the number of threads, the batch or the machine, and one differing bit would make most symbols decode wrong.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from abduce.compress.masses import Masses
from abduce.compress.stack import FLAGS, TABLE, BitStack, bins

GRID = 2.0**14  # network outputs are rounded to multiples of 1/GRID
PROBABILITY = 2.0**24  # and probabilities to multiples of 1/PROBABILITY, the coder's own precision
SINGLE = 32  # up to this many symbols make one digit
RADIX = 16
ENTRIES = 2**18  # table entries made at once: bounds memory


class SymbolModel(Protocol):
    """The law of m symbols, each 0..size−1."""

    def push(self, stack: BitStack, k: np.ndarray) -> None: ...
    def pop(self, stack: BitStack) -> np.ndarray: ...


def rounded(x: Any) -> np.ndarray:
    """Round to the grid on which parameters are used."""
    return np.rint(np.asarray(x, np.float64) * GRID) / GRID


def normalized(joint: np.ndarray) -> np.ndarray:
    """Log-probabilities (m, K) from logarithms up to a constant of each row."""
    joint = joint - joint.max(1, keepdims=True)
    return joint - np.log(np.exp(joint).sum(1, keepdims=True))


class PlainSymbols:
    """Symbols of one of the entropy coder's own families."""

    def __init__(self, family: Any, *parameters: np.ndarray):
        self.family, self.parameters = family, parameters

    def push(self, stack: BitStack, k: np.ndarray) -> None:
        stack.push(k, self.family, *self.parameters)

    def pop(self, stack: BitStack) -> np.ndarray:
        return stack.pop(self.family, *self.parameters)


def flag_symbols(logits: np.ndarray) -> PlainSymbols:
    """Bernoulli symbols from logits (m,)."""
    p = 1.0 / (1.0 + np.exp(-np.clip(rounded(logits), -40.0, 40.0)))
    return PlainSymbols(FLAGS, np.rint(p * PROBABILITY) / PROBABILITY)


def table_symbols(log_probs: np.ndarray) -> PlainSymbols:
    """Symbols with a table of log-probabilities ``(m, K)``."""
    return PlainSymbols(TABLE, np.rint(np.exp(rounded(np.maximum(log_probs, -60.0))) * PROBABILITY))


def binned_symbols(mean: np.ndarray, scale: np.ndarray, top: int) -> PlainSymbols:
    """Symbols 0..top of Gaussians in lattice units (m,); the first and the last take the tails."""
    top, scale = max(top, 1), np.maximum(scale, 2.0**-10)
    return PlainSymbols(bins(0, top), np.clip(mean, -30.0 * scale, top + 30.0 * scale), scale)


class DigitSymbols:
    """Symbols 0..size−1 coded digit by digit; ``masses(edges, part)`` gives the mass between edges ``(m, j + 1)``."""

    def __init__(self, masses: Masses, size: np.ndarray):
        self.masses = masses
        self.size = size
        top = int(size.max(initial=2))
        self.levels = 1 if top <= SINGLE else -(-(top - 1).bit_length() // 4)
        radix = max(2, round(top ** (1 / self.levels)) - 1)
        while radix**self.levels < top:
            radix += 1
        self.radix = radix

    def _chunks(self) -> list[slice]:
        step = max(1, ENTRIES // self.radix)
        return [slice(i, min(i + step, len(self.size))) for i in range(0, len(self.size), step)]

    def _table(self, start: np.ndarray, width: int, part: slice) -> np.ndarray:
        size = self.size[part, None]
        edges = np.minimum(start[:, None] + width * np.arange(self.radix + 1), size)
        mass = np.maximum(self.masses(edges, part), 0.0)
        total = mass.sum(1, keepdims=True)
        # where all the mass has underflown, any law will do that both sides share
        tiny = 1e-30
        return np.rint((mass + tiny) / (total + self.radix * tiny) * PROBABILITY)

    def push(self, stack: BitStack, k: np.ndarray) -> None:
        for part in reversed(self._chunks()):
            pushes = []
            start = np.zeros(part.stop - part.start, np.int64)
            for level in reversed(range(self.levels)):
                width = self.radix**level
                digit = (k[part] - start) // width
                pushes.append((digit, self._table(start, width, part)))
                start = start + digit * width
            for digit, table in reversed(pushes):
                stack.push(digit, TABLE, table)

    def pop(self, stack: BitStack) -> np.ndarray:
        out = np.zeros(len(self.size), np.int64)
        for part in self._chunks():
            for level in reversed(range(self.levels)):
                width = self.radix**level
                out[part] += stack.pop(TABLE, self._table(out[part], width, part)) * width
        return out
