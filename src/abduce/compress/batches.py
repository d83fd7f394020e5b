"""Batches: how rows go onto the entropy coder's stack, whatever the model that says what they cost.

A codec codes the cells of one batch of rows whose blanks are known.  Around it each batch carries, from the top of the
stack down, a symbol for its size (a power of two, but for the last) and for whether its latents are paid for, and flags for
the cells that are blank in some rows and not in others.

A codec that gets bits back pops before it pushes, and popping an empty stack gives constant symbols.  So the first rows
come without: their latents are paid for.  Then batches grow as far as the bits allow; a pop that would leave less than a
margin is taken back.  Nothing is borrowed: the size is ``len(bytes)``.

What was pushed is popped from a copy and compared before the next batch follows.  A codec may remember for this what its model
gave, but for batches 1, 2, 4, 8, .., for which it asks the model again, as whoever decodes will.
"""

from __future__ import annotations

import math
import zlib
from typing import Protocol

import numpy as np

from abduce.compress.container import CompressedDataError
from abduce.compress.lattice import Lattice
from abduce.compress.stack import FLAGS, MARGIN, TABLE, BitStack, ShortOfBits

SIZES = 10  # a batch has 2⁰ .. 2⁹ rows, but for the last
REST = 2 * SIZES  # says that a batch is the last, of any size


class Uncodable(Exception):
    """A model has no code for rows; the message says what it lacks."""


class Codec(Protocol):
    """Codes the cells of batches of rows under one model; both sides make the same one from what the header says."""

    lattice: Lattice
    rows: int  # rows of the largest batch
    bits_back: bool  # whether pushing pops first
    appetite: int  # bits that pushing a row pops at most

    def push(self, stack: BitStack, k: np.ndarray, observed: np.ndarray, plain: bool) -> None:
        """Push codes (n, D); with ``plain`` latents are paid for, else popped. ShortOfBits if the stack has too few."""
        ...

    def pop(self, stack: BitStack, observed: np.ndarray, plain: bool) -> np.ndarray:
        """Pop the codes (n, D) that were pushed last."""
        ...

    def forget(self) -> None:
        """Ask the model again from now on, for whatever it was asked last."""
        ...


def batch_rows(limit: float) -> int:
    """The largest batch, a power of two between 16 and 512, of at most ``limit`` rows where that is in between.

    >>> batch_rows(100.0), batch_rows(3.0)
    (64, 16)
    """
    return 2 ** int(np.clip(math.log2(limit), 4, SIZES - 1))


# ------------------------------------------------------------------ blanks


def observed_rates(observed: np.ndarray) -> bytes:
    """Share of observed cells in steps of 1/255: nothing if all are, one byte for all columns, or one for each."""
    if observed.all():
        return b""
    n, d = observed.shape

    def byte(share: np.ndarray) -> np.ndarray:
        open_ = np.clip(np.rint(share * 255), 1, 254)  # 0 and 255 are for never and always
        return np.where((share == 0) | (share == 1), share * 255, open_).astype(np.uint8)

    def bits(rate: np.ndarray, share: np.ndarray) -> float:
        p = np.clip(rate / 255, 1e-12, 1 - 1e-12)
        return float(-(share * np.log2(p) + (1 - share) * np.log2(1 - p)).sum() * n)

    share = observed.mean(0)
    each, one = byte(share), byte(observed.mean(keepdims=True).reshape(1))
    cost = 8 * len(zlib.compress(each.tobytes(), 9)) + bits(each, share)
    return (each if d > 1 and cost < bits(one, share) else one).tobytes()


class BlankPattern:
    """Which of D cells are always observed, and with which probability the open ones are, from ``observed_rates``."""

    def __init__(self, rates: bytes, cells: int):
        share = np.broadcast_to(np.frombuffer(rates or b"\xff", np.uint8), (cells,))
        self.always = share == 255
        self.open = (share > 0) & (share < 255)
        self.share = share / 255.0

    def push(self, stack: BitStack, observed: np.ndarray) -> None:
        """Push flags of the open cells of (n, D)."""
        stack.push(observed[:, self.open].ravel(), FLAGS, self._flags(len(observed)))

    def pop(self, stack: BitStack, n: int) -> np.ndarray:
        """Pop the mask (n, D)."""
        observed = np.broadcast_to(self.always, (n, len(self.always))).copy()
        observed[:, self.open] = stack.pop(FLAGS, self._flags(n)).reshape(n, -1)
        return observed

    def _flags(self, n: int) -> np.ndarray:
        return np.broadcast_to(self.share[self.open], (n, int(self.open.sum()))).ravel()


# ------------------------------------------------------------------ all rows


def encode(codec: Codec, blanks: BlankPattern, k: np.ndarray, observed: np.ndarray) -> BitStack:
    """Push all rows onto an empty stack; Uncodable if they do not come back."""
    stack, done, batches = BitStack(), 0, 0
    last, last_plain = 0.5, 0.5
    while done < len(k):
        left = len(k) - done
        size, plain = int(min(2 * last, codec.rows, left)), codec.bits_back and not done
        while True:
            if plain:
                size = 2 ** (int(min(2 * last_plain, codec.rows, left)).bit_length() - 1)
            elif size < left:
                size = 2 ** (size.bit_length() - 1)
            rows = slice(done, done + size)
            bits, before = stack.bits, stack.copy() if stack.bits < codec.appetite * size + MARGIN else stack
            try:
                codec.push(stack, k[rows], observed[rows], plain)
                break
            except ShortOfBits:
                stack, plain = before, size == 1
                size //= 2
        blanks.push(stack, observed[rows])
        _push_size(stack, size, plain)
        batches += 1
        if batches & (batches - 1) == 0:
            codec.forget()
        _confirm(stack.copy(), codec, blanks, k[rows], observed[rows], bits)
        if plain:
            last_plain = size
        last, done = max(size, 1), done + size
    return stack


def decode(stack: BitStack, codec: Codec, blanks: BlankPattern, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Pop all rows: codes (n, D) and mask. CompressedDataError if they don't come out even."""
    k = np.zeros((rows, len(blanks.always)), np.int64)
    observed = np.zeros(k.shape, bool)
    left = rows
    while left:
        codes, seen = _pop(stack, codec, blanks, left)
        batch = slice(left - len(codes), left)
        k[batch], observed[batch] = codes, seen
        left -= len(codes)
    if stack.bits:
        raise CompressedDataError("data does not decode: bits are left over")
    return k, observed


def _pop(stack: BitStack, codec: Codec, blanks: BlankPattern, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Pop the batch that was pushed last, of at most so many rows: codes and mask."""
    n, plain = _pop_size(stack)
    if not 0 < n <= min(most, codec.rows):
        raise CompressedDataError("data does not decode: it holds more rows than it says")
    observed = blanks.pop(stack, n)
    return codec.pop(stack, observed, plain), observed


def _confirm(
    stack: BitStack, codec: Codec, blanks: BlankPattern, k: np.ndarray, observed: np.ndarray, bits: int
) -> None:
    """Raise Uncodable unless popping gives the batch pushed last, with so many bits left."""
    found, seen = _pop(stack, codec, blanks, len(k))
    if stack.bits != bits or not (np.array_equal(found, k) and np.array_equal(seen, observed)):
        raise Uncodable("its code of these rows does not lead back to them")


def _push_size(stack: BitStack, n: int, plain: bool) -> None:
    exponent = n.bit_length() - 1
    power = n == 2**exponent
    if not power:
        stack.push(np.array([n]), TABLE, np.ones((1, 2**SIZES)))
    stack.push(np.array([2 * exponent + plain if power else REST]), TABLE, np.ones((1, REST + 1)))


def _pop_size(stack: BitStack) -> tuple[int, bool]:
    symbol = int(stack.pop(TABLE, np.ones((1, REST + 1)))[0])
    if symbol == REST:
        return int(stack.pop(TABLE, np.ones((1, 2**SIZES)))[0]), False
    return 2 ** (symbol // 2), bool(symbol % 2)
