"""Columns of whole numbers as bytes, whichever way is the shortest of

    the general compressors   of all columns, one after another or row by row, in the narrowest integers of each column, of
                              all of them, or as wide as they came; wide ones also byte by byte
    order-0                   of all columns, each with its own frequencies
    each by itself            a column, or its differences, by its frequencies or in one stream with the others, whichever
                              is the shorter for this column

The number of columns and their lengths are not among the bytes: who reads them must know.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from abduce.compress.container import CompressedDataError, Reader, block, signed
from abduce.compress.order0 import Alphabet, alphabet, decode_columns, encode_columns
from abduce.compress.squeeze import SMALL, shortest, squeeze, unsqueeze

WIDTHS = ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<i8")
ROWS, COLUMNS, PLANES = range(3)
SAME, COUNTED, STREAMED = 4, 8, 16  # flags beside the layout
DIFFERENCES, ORDER0 = 8, 16  # flags of a column beside its width
SLIGHT = 1.2  # how much longer than it may be what is left of columns by themselves may be before all is tried on it
MANY = 2**24  # cells beyond which columns are not looked at one by one


class _Column(NamedTuple):
    """How one column is written: WIDTHS[width] of its values, or of their differences, or by its frequencies."""

    width: int
    differences: bool = False
    order0: bool = False

    @property
    def byte(self) -> int:
        return self.width + DIFFERENCES * self.differences + ORDER0 * self.order0


def pack(columns: Sequence[np.ndarray], beat: float = math.inf) -> bytes:
    """Columns (n_j,) of integers, each as wide as it came, in the shortest form; ``beat`` bytes are enough to lose.

    >>> columns = [np.arange(1000, 2000), np.zeros(1000, np.uint8)]
    >>> data = pack(columns)
    >>> len(data) < 40, all(map(np.array_equal, unpack(Reader(data), [1000, 1000]), columns))
    (True, True)
    """
    if not any(map(len, columns)):
        return b""
    came = [_Column(_width(c.dtype.newbyteorder("=").itemsize)) for c in columns]
    values = [c.astype(np.int64) for c in columns]
    found = [_streamed(values, came, beat)]
    if sum(map(len, values)) <= MANY:
        alphabets = [alphabet(v) for v in values]
        beat = min(beat, len(found[0]))
        found += _counted(values, alphabets, [_Column(0, order0=True)] * len(values), beat)
        found += _each(values, alphabets, beat)
    return min(found, key=len)


def unpack(reader: Reader, lengths: Sequence[int]) -> list[np.ndarray]:
    """Columns of these lengths as int64; CompressedDataError if the rest of ``reader`` is not what :func:`pack` wrote."""
    if not any(lengths):
        return [np.zeros(0, np.int64) for _ in lengths]
    head = reader.take(1)[0]
    layout = head & 3
    described = reader.take(1) * len(lengths) if head & SAME else unsqueeze(reader, len(lengths))
    if len(described) != len(lengths) or layout > PLANES:
        raise CompressedDataError("data does not decode: it describes other columns than it has")
    plan = [_Column(min(b & 7, len(WIDTHS) - 1), bool(b & DIFFERENCES), bool(b & ORDER0)) for b in described]
    firsts = [reader.signed() if c.differences and n else 0 for c, n in zip(plan, lengths, strict=True)]
    plan = [c if n else c._replace(differences=False) for c, n in zip(plan, lengths, strict=True)]
    lengths = [n - c.differences for c, n in zip(plan, lengths, strict=True)]
    out: list[np.ndarray] = [np.zeros(0, np.int64)] * len(plan)
    for order0, flag in ((True, COUNTED), (False, STREAMED)):
        which = [j for j, c in enumerate(plan) if c.order0 == order0]
        if which and head & flag:
            sizes = [lengths[j] for j in which]
            if order0:
                parts = decode_columns(Reader(reader.block()), sizes)
            else:
                widths = [np.dtype(WIDTHS[plan[j].width]) for j in which]
                total = sum(n * w.itemsize for n, w in zip(sizes, widths, strict=True))
                parts = _read(unsqueeze(reader, total), layout, widths, sizes)
            for j, part in zip(which, parts, strict=True):
                out[j] = part
    for j, column in enumerate(plan):
        if len(out[j]) != lengths[j]:
            raise CompressedDataError("data does not decode: a column of it is missing")
        if column.differences:
            start = np.array([firsts[j] % 2**64], np.uint64)
            out[j] = np.concatenate([start, out[j].view(np.uint64)]).cumsum(dtype=np.uint64).view(np.int64)
    return out


# ---------------------------------------------------------------- widths


def _width(itemsize: int) -> int:
    """The width that holds all of the bits of integers as they came."""
    return {1: 1, 2: 3, 4: 5, 8: 6}[itemsize]


def _narrowest(values: np.ndarray) -> int:
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    return _holding(low, high)


def _holding(low: int, high: int) -> int:
    fits = (w for w, d in enumerate(WIDTHS) if np.iinfo(d).min <= low and high <= np.iinfo(d).max)
    return next(fits, len(WIDTHS) - 1)


# ---------------------------------------------------------------- general compressors


def _streamed(values: list[np.ndarray], came: list[_Column], beat: float) -> bytes:
    """All columns in one stream, in the layout and the widths that take the least."""
    own = [_Column(_narrowest(v)) for v in values]
    full = [v for v in values if len(v)]
    common = _holding(
        min((int(v.min()) for v in full), default=0), max((int(v.max()) for v in full), default=0)
    )
    plans = [own, [_Column(common)] * len(values)]
    small = sum(len(v) * _size(c) for v, c in zip(values, came, strict=True)) <= SMALL
    if small or sum(map(_size, own)) > sum(map(_size, came)) / 2:
        plans.append(came)
    level = len({len(v) for v in values}) == 1
    kinds: list[tuple[int, list[_Column]]] = []
    for plan in plans:
        orders = [COLUMNS] if len(values) == 1 or not level else [ROWS, COLUMNS]
        orders += [PLANES] if any(c.width > 1 for c in plan) else []
        kinds += [(order, plan) for order in orders if (order, plan) not in kinds]

    def layout(order: int, plan: list[_Column]) -> Callable[[], bytes]:
        return lambda: _written(values, order, plan)

    which, stream = shortest([layout(*kind) for kind in kinds], beat)
    order, plan = kinds[which] if kinds else (COLUMNS, own)
    return _head(order, plan, False) + stream


def _size(column: _Column) -> int:
    return np.dtype(WIDTHS[column.width]).itemsize


def _head(layout: int, plan: Sequence[_Column], counted: bool) -> bytes:
    described = bytes(column.byte for column in plan)
    streamed = any(not c.order0 for c in plan)
    flags = layout | COUNTED * counted | STREAMED * streamed
    if len(set(described)) == 1:
        return bytes([flags | SAME]) + described[:1]
    return bytes([flags]) + squeeze(described)


def _written(values: Sequence[np.ndarray], layout: int, plan: Sequence[_Column]) -> bytes:
    if layout == ROWS:
        dtype = np.dtype([(f"c{j}", WIDTHS[c.width]) for j, c in enumerate(plan)])
        if len({c.width for c in plan}) == 1:
            return np.stack(values, 1).astype(WIDTHS[plan[0].width]).tobytes() if plan else b""
        table = np.empty(len(values[0]), dtype)
        for j, column in enumerate(values):
            table[f"c{j}"] = column.astype(WIDTHS[plan[j].width])
        return table.tobytes()
    parts = (v.astype(WIDTHS[c.width]) for v, c in zip(values, plan, strict=True))
    if layout == PLANES:
        return b"".join(p.view(np.uint8).reshape(len(p), -1).T.tobytes() for p in parts if len(p))
    return b"".join(p.tobytes() for p in parts)


def _read(data: bytes, layout: int, widths: list[np.dtype], lengths: list[int]) -> list[np.ndarray]:
    if len(data) != sum(n * w.itemsize for n, w in zip(lengths, widths, strict=True)):
        raise CompressedDataError("data does not decode: its columns have another length than they say")
    if layout == ROWS:
        if len(set(lengths)) != 1:
            raise CompressedDataError("data does not decode: rows of columns of several lengths")
        if len(set(widths)) == 1:
            square = np.frombuffer(data, widths[0]).reshape(lengths[0], -1)
            return list(np.ascontiguousarray(square.T, np.int64))
        table = np.frombuffer(data, np.dtype([(f"c{j}", w) for j, w in enumerate(widths)]))
        return [table[f"c{j}"].astype(np.int64) for j in range(len(widths))]
    out, at = [], 0
    for n, width in zip(lengths, widths, strict=True):
        part = np.frombuffer(data, np.uint8, n * width.itemsize, at)
        if layout == PLANES:
            part = np.ascontiguousarray(part.reshape(width.itemsize, n).T)
        out.append(np.frombuffer(part.tobytes(), width).astype(np.int64))
        at += n * width.itemsize
    return out


# ---------------------------------------------------------------- frequencies, and each column by itself


def _counted(
    values: list[np.ndarray], alphabets: list[tuple[Alphabet, float]], plan: list[_Column], beat: float
) -> list[bytes]:
    """All columns by their frequencies, in alphabets of their own or, if that takes less, in those between common ends;
    nothing where the cells alone take more than ``beat`` bytes."""
    if not plan or not all(math.isfinite(bits) for _, bits in alphabets):
        return []
    tried = [alphabets]
    full = [v for v in values if len(v)]
    if len(full) > 1:
        ends = min(int(v.min()) for v in full), max(int(v.max()) for v in full)
        if ends[1] - ends[0] < 2**12:
            tried.append([alphabet(v, ends) for v in values])
    best = min(tried, key=lambda found: sum(bits for _, bits in found) + 8 * _listing(found))
    if sum(bits for _, bits in best) > 8 * beat:
        return []
    coded = encode_columns(values, [symbols for symbols, _ in best])
    return [_head(COLUMNS, plan, True) + block(coded)] if coded else []


def _listing(found: list[tuple[Alphabet, float]]) -> int:
    """About how many bytes it takes to say which alphabets these are."""
    plain = bytes(a.alpha for a, _ in found)
    ends = b"".join(
        a.low.to_bytes(8, "little", signed=True)[:2] + a.size.to_bytes(4, "little")[:2] for a, _ in found
    )
    return len(zlib.compress(plain + ends, 9))


def _each(values: list[np.ndarray], alphabets: list[tuple[Alphabet, float]], beat: float) -> list[bytes]:
    """Every column in the way that is the shortest for itself, those without frequencies in one stream; nothing where the
    frequencies alone take more than ``beat`` bytes."""
    plan: list[_Column] = []
    forms: list[np.ndarray] = []
    used: list[Alphabet] = []
    taken = 0.0
    for column, (own, bits) in zip(values, alphabets, strict=True):
        ways = [
            (bits / 8, _Column(0, False, True), column, own),
            (_deflated(column), _Column(_narrowest(column)), column, own),
        ]
        if len(column) > 2:
            steps = np.diff(column)
            symbols, bits = alphabet(steps)
            ways.append((bits / 8 + 4, _Column(0, True, True), steps, symbols))
            ways.append((_deflated(steps) + 4, _Column(_narrowest(steps), True), steps, own))
        size, way, form, symbols = min(ways, key=lambda way: way[0])
        plan.append(way)
        forms.append(form)
        if way.order0:
            used.append(symbols)
            taken += size
    if taken > beat:
        return []
    if len({(c.order0, c.differences) for c in plan}) == 1 and not plan[0].differences:
        return []  # as one of the others
    counted = [f for f, c in zip(forms, plan, strict=True) if c.order0]
    coded = encode_columns(counted, used) if counted else b""
    if counted and not coded:
        return []
    firsts = b"".join(signed(int(v[0])) for v, c in zip(values, plan, strict=True) if c.differences)
    streamed = [(f, c) for f, c in zip(forms, plan, strict=True) if not c.order0]
    out = _head(COLUMNS, plan, bool(counted)) + firsts + (block(coded) if counted else b"")
    if streamed:
        parts, widths = zip(*streamed, strict=True)
        out += shortest([lambda: _written(parts, COLUMNS, widths)], beat - taken, SLIGHT)[1]
    return [out]


def _deflated(values: np.ndarray) -> int:
    return (
        len(
            zlib.compress(
                values.astype(WIDTHS[_narrowest(values)]).tobytes(), 1 if len(values) > 2**14 else 6
            )
        )
        - 6
    )
