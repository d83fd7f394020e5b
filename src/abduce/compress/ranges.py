"""Range coding: symbols one after the other, first in first out, as an interval of whole numbers that gets ever narrower.

A symbol of width w out of a total takes log₂(total / w) bits.  What comes out first goes in first, so the law of a symbol may
depend on all before it, as :class:`~abduce.compress.stack.BitStack`, last in first out, does not allow.

Widths may sum up to 2³².  Source: Martin 1979 (Video & Data Recording Conference).
"""

from __future__ import annotations

from collections.abc import Sequence

_TOP = 56  # bits of the interval
_FULL, _LEAST = 1 << _TOP, 1 << (_TOP - 8)


class RangeEncoder:
    """Writes symbols.

    >>> coder = RangeEncoder()
    >>> [coder.code([3, 1], k) for k in (0, 0, 1, 0)]
    [0, 0, 1, 0]
    >>> reader = RangeDecoder(coder.to_bytes())
    >>> [reader.code([3, 1]) for _ in range(4)]
    [0, 0, 1, 0]
    """

    def __init__(self) -> None:
        self._out, self._low, self._range = bytearray(), 0, _FULL

    def code(self, widths: Sequence[int], which: int | None = None) -> int:
        """Write symbol ``which`` of those with these widths, whole numbers above 0, and return it."""
        assert which is not None
        self._narrow(sum(widths[:which]), widths[which], sum(widths))
        return which

    def uniform(self, size: int, value: int | None = None) -> int:
        """Write one of 0..size−1, all alike."""
        assert value is not None
        self._narrow(value, 1, size)
        return value

    def _narrow(self, start: int, width: int, total: int) -> None:
        unit = self._range // total
        self._low += unit * start
        self._range = unit * width
        if self._low >= _FULL:  # a carry goes through the bytes that are out
            self._low -= _FULL
            place = len(self._out) - 1
            while self._out[place] == 255:
                self._out[place] = 0
                place -= 1
            self._out[place] += 1
        while self._range < _LEAST:
            self._out.append(self._low >> (_TOP - 8))
            self._low = (self._low << 8) & (_FULL - 1)
            self._range <<= 8

    def to_bytes(self) -> bytes:
        """All that was written: the fewest bytes whose number, with zeros after them, lies in the interval."""
        for bits in range(_TOP - 8, -1, -8):
            low = -(-self._low >> bits) << bits
            if low < self._low + self._range:
                break
        whole = (int.from_bytes(self._out, "big") << _TOP) + low
        data = whole.to_bytes(len(self._out) + _TOP // 8, "big")
        return data[: len(self._out)] + data[len(self._out) :].rstrip(b"\0")


class RangeDecoder:
    """Reads the symbols that :class:`RangeEncoder` wrote, given the same widths; after the end it reads zeros."""

    def __init__(self, data: bytes):
        self._data, self._at, self._range = data, 0, _FULL
        self._value = 0
        for _ in range(_TOP // 8):
            self._value = self._value << 8 | self._byte()

    @property
    def beyond(self) -> int:
        """Bytes that were asked for after the end."""
        return max(0, self._at - len(self._data))

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def code(self, widths: Sequence[int], which: int | None = None) -> int:
        """Read which symbol of those with these widths is next."""
        unit = self._range // sum(widths)
        place = self._value // unit
        start = 0
        for k, width in enumerate(widths[:-1]):
            if place < start + width:
                self._narrow(start, width, unit)
                return k
            start += width
        self._narrow(start, widths[-1], unit)
        return len(widths) - 1

    def uniform(self, size: int, value: int | None = None) -> int:
        """Read one of 0..size−1, all alike."""
        unit = self._range // size
        place = min(self._value // unit, size - 1)
        self._narrow(place, 1, unit)
        return place

    def _narrow(self, start: int, width: int, unit: int) -> None:
        self._value -= unit * start
        self._range = unit * width
        while self._range < _LEAST:
            self._value = self._value << 8 | self._byte()
            self._range <<= 8
