"""Columns of whole numbers coded by their own frequencies, order-0, learned as they go.

    bits of a column = −log₂ Γ(Kα)/Γ(n + Kα) Π_k Γ(n_k + α)/Γ(α)

is what a code pays that gives symbol k the probability (times seen so far + α) / (cells so far + Kα): no histogram is sent.
Here frequencies are brought up to date after every 1/PACE of the cells so far, which is one by one at first, so that no loop
runs over rows.  Symbols are all whole numbers between a column's ends, or those that occur, which are then listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from abduce.compress.container import CompressedDataError, Reader, signed, varint
from abduce.compress.squeeze import squeeze, unsqueeze
from abduce.compress.stack import BitStack, shared

ALPHAS = (0.5, 0.125, 1 / 32)
MOST = 2**16  # symbols of one column
PACES = (64, 32, 16, 8)
WORK = 2**28  # table entries that may be made
CALLS = 60_000  # tables


class Alphabet(NamedTuple):
    """The symbols of one column: ``size`` of them from ``low``, or the ``levels``; ALPHAS[alpha] is added to each count."""

    low: int
    size: int
    alpha: int
    levels: np.ndarray | None = None

    def codes(self, values: np.ndarray) -> np.ndarray:
        """0..size−1 of each value."""
        return values - self.low if self.levels is None else np.searchsorted(self.levels, values)

    def values(self, codes: np.ndarray) -> np.ndarray:
        return codes + self.low if self.levels is None else self.levels[codes]


def alphabet(values: np.ndarray, ends: tuple[int, int] | None = None) -> tuple[Alphabet, float]:
    """The cheaper alphabet of a column, and the bits that its cells and their levels take; infinite if it has too many.

    ``ends`` are the least and the greatest symbol, if not the column's own.
    """
    if not len(values):
        return Alphabet(0, 1, 0), 0.0
    levels, counts = np.unique(values, return_counts=True)
    low, high = ends or (int(levels[0]), int(levels[-1]))
    found = []
    if high - low < MOST:
        found.append((Alphabet(low, high - low + 1, 0), 0.0))
    if len(levels) <= MOST and len(levels) < high - low + 1:
        gaps = np.diff(levels).astype(np.uint64).astype(np.float64)
        listed = 8 * float(np.maximum(1, np.ceil(np.log2(gaps + 1) / 7)).sum()) if len(gaps) else 0.0
        found.append((Alphabet(int(levels[0]), len(levels), 0, levels), listed))
    best, least = Alphabet(low, 1, 0), np.inf
    for symbols, listed in found:
        for place, alpha in enumerate(ALPHAS):
            bits = listed + _bits(counts, symbols.size, alpha)
            if bits < least:
                best, least = symbols._replace(alpha=place), bits
    return best, least


def _bits(counts: np.ndarray, size: int, alpha: float) -> float:
    n, total = counts.sum(), size * alpha
    nats = gammaln(n + total) - gammaln(total) - (gammaln(counts + alpha) - gammaln(alpha)).sum()
    return float(nats / np.log(2))


def encode_columns(columns: Sequence[np.ndarray], symbols: Sequence[Alphabet]) -> bytes:
    """Columns (n,) int64 of any lengths in their alphabets; b"" where their tables would take too long to make."""
    for pace in PACES:
        calls = [sum(1 for _ in _parts(len(c), pace)) for c in columns]
        if sum(calls) <= CALLS and sum(m * s.size for m, s in zip(calls, symbols, strict=True)) <= WORK:
            break
    else:
        return b""
    stack = BitStack()
    for column, own in reversed(list(zip(columns, symbols, strict=True))):
        if own.size == 1:
            continue
        codes = own.codes(column)
        counts = np.bincount(codes, minlength=own.size) + ALPHAS[own.alpha]
        for part in reversed(list(_parts(len(codes), pace))):
            counts -= np.bincount(codes[part], minlength=own.size)
            stack.push_all(codes[part], shared(counts))
    return _heads(symbols) + bytes([pace]) + stack.to_bytes()


def decode_columns(reader: Reader, lengths: Sequence[int]) -> list[np.ndarray]:
    """Columns of these lengths that :func:`encode_columns` wrote."""
    symbols = _alphabets(reader, len(lengths))
    pace = max(1, reader.take(1)[0])
    stack, out = BitStack(reader.rest()), []
    for own, n in zip(symbols, lengths, strict=True):
        codes = np.zeros(n, np.int64)
        if own.size > 1:
            counts = np.full(own.size, ALPHAS[own.alpha])
            for part in _parts(n, pace):
                codes[part] = stack.pop_all(shared(counts), part.stop - part.start)
                counts += np.bincount(codes[part], minlength=own.size)
        out.append(own.values(codes))
    if stack.bits:
        raise CompressedDataError("data does not decode: bits are left over")
    return out


def _parts(n: int, pace: int) -> Iterator[slice]:
    done = 0
    while done < n:
        step = min(max(1, done // pace), n - done)
        yield slice(done, done + step)
        done += step


def _heads(symbols: Sequence[Alphabet]) -> bytes:
    """Alphabets, kind by kind of what is said of them, so that what columns share takes little room."""
    out = bytes(own.alpha + 4 * (own.levels is not None) for own in symbols)
    out += b"".join(signed(own.low) for own in symbols) + b"".join(varint(own.size - 1) for own in symbols)
    for own in symbols:
        if own.levels is not None:
            out += b"".join(varint(int(gap)) for gap in np.diff(own.levels).astype(np.uint64))
    return squeeze(out)


def _alphabets(reader: Reader, n: int) -> list[Alphabet]:
    head = Reader(unsqueeze(reader))
    flags = head.take(n)
    lows = [head.signed() for _ in range(n)]
    sizes = [head.varint() + 1 for _ in range(n)]
    out = []
    for flag, low, size in zip(flags, lows, sizes, strict=True):
        if flag & 3 >= len(ALPHAS) or size > MOST or not -(2**63) <= low < 2**63:
            raise CompressedDataError("data does not decode: a column has an impossible alphabet")
        levels = None
        if flag & 4:
            gaps = np.array([low % 2**64, *(head.varint() % 2**64 for _ in range(size - 1))], np.uint64)
            levels = np.cumsum(gaps, dtype=np.uint64).view(np.int64)
        out.append(Alphabet(low, size, flag & 3, levels))
    return out
