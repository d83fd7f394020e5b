"""The compressed file: a small header that refuses what it can't read, and what the model has no word for.

    4  magic "ABDC"             1  format version          varint  length of the body
    body:   4  CRC-32 of the rest of the body
            8  fingerprint of the model     varint  rows     4  CRC-32 of the decoded rows     1  flags
            if blanks: a rate of observed cells, one byte for all columns or one for each
            if codes outside the training range: which fields, and their ranges
            if a frame carries more than its cells (index, left-out columns): those, losslessly
            the rest: the entropy coder's stack

The schema is not repeated: the fingerprint says which model, and the model knows it.
"""

from __future__ import annotations

import io
import json
import lzma
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from abduce.data.schema import Schema

MAGIC = b"ABDC"
VERSION = 1
BLANKS, BLANKS_BY_COLUMN, RANGES, EXTRAS = 1, 2, 4, 8


class CompressedDataError(ValueError):
    """Compressed data that can't be read: not ours, of another version or model, truncated or changed."""


def varint(value: int) -> bytes:
    """Write a whole number >= 0, seven bits a byte.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


class Reader:
    """Reads numbers and bytes off a buffer; CompressedDataError at its end."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        """Read n bytes."""
        if n > len(self.data) - self.at:
            raise CompressedDataError("data is truncated: it ends before its header does")
        self.at += n
        return self.data[self.at - n : self.at]

    def varint(self) -> int:
        """Read what :func:`varint` wrote."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 70:
                raise CompressedDataError("data was changed: a number in its header never ends")

    def rest(self) -> bytes:
        """Read all that is left."""
        return self.take(len(self.data) - self.at)


@dataclass
class Container:
    """What a compressed file holds; ``rates`` are bytes 0..255 (share of cells observed), one or one a
    cell."""

    fingerprint: bytes
    rows: int
    check: int
    payload: bytes
    rates: bytes = b""
    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    extras: bytes = b""

    def to_bytes(self) -> bytes:
        """Write the file."""
        flags = (BLANKS * bool(self.rates)) | (BLANKS_BY_COLUMN * (len(self.rates) > 1))
        flags |= (RANGES * bool(self.ranges)) | (EXTRAS * bool(self.extras))
        body = self.fingerprint[:8] + varint(self.rows) + struct.pack("<IB", self.check, flags)
        if self.rates:
            body += self.rates if len(self.rates) == 1 else _block(zlib.compress(self.rates, 9))
        if self.ranges:
            body += varint(len(self.ranges))
            for place, (low, size) in self.ranges.items():
                body += varint(place) + varint(low * 2 if low >= 0 else -low * 2 - 1) + varint(size)
        if self.extras:
            body += _block(self.extras)
        body += self.payload
        body = struct.pack("<I", zlib.crc32(body)) + body
        return MAGIC + bytes([VERSION]) + varint(len(body)) + body

    @classmethod
    def from_bytes(cls, data: bytes, fingerprint: bytes, n_cells: int) -> Container:
        """Read the file; CompressedDataError if it is not ours, of another version or model, truncated or
        changed."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data must be bytes, got {type(data).__name__}")
        data = bytes(data)
        if not data.startswith(MAGIC):
            if MAGIC.startswith(data):
                raise CompressedDataError(
                    f"data is truncated: {len(data)} bytes, too few for any compressed data"
                )
            raise CompressedDataError(
                f"data was not written by compress: it starts with {data[:4]!r}, expected {MAGIC!r}"
            )
        reader = Reader(data[len(MAGIC) :])
        version = reader.take(1)[0]
        if version != VERSION:
            age = "newer" if version > VERSION else "older"
            raise CompressedDataError(
                f"data has the {age} format version {version}; this abduce reads version {VERSION}"
            )
        length = reader.varint()
        body = reader.rest()
        if len(body) < length:
            raise CompressedDataError(
                f"data is truncated: {len(body)} of {length} bytes are left after the header"
            )
        if len(body) > length:
            raise CompressedDataError(f"data was changed: {len(body) - length} bytes follow its end")
        reader = Reader(body)
        if struct.unpack("<I", reader.take(4))[0] != zlib.crc32(body[4:]):
            raise CompressedDataError("data was changed after it was written (checksum differs)")
        if (own := reader.take(8)) != fingerprint[:8]:
            raise CompressedDataError(
                f"data was compressed with another model: its fingerprint is {own.hex()}, this model's is"
                f" {fingerprint[:8].hex()}"
            )
        rows = reader.varint()
        check, flags = struct.unpack("<IB", reader.take(5))
        out = cls(fingerprint, rows, check, b"")
        if flags & BLANKS_BY_COLUMN:
            out.rates = zlib.decompress(reader.take(reader.varint()))
        elif flags & BLANKS:
            out.rates = reader.take(1)
        if len(out.rates) not in (0, 1, n_cells):
            raise CompressedDataError(
                f"data has blanks for {len(out.rates)} columns, the model has {n_cells}"
            )
        for _ in range(reader.varint() if flags & RANGES else 0):
            place, low, size = reader.varint(), reader.varint(), reader.varint()
            out.ranges[place] = (-(low + 1) // 2 if low & 1 else low // 2, size)
        if flags & EXTRAS:
            out.extras = reader.take(reader.varint())
        out.payload = reader.rest()
        return out


def _block(data: bytes) -> bytes:
    return varint(len(data)) + data


# ------------------------------------------------------------------ what a container has beside its cells


def carry(schema: Schema, X: Any, restored: Any) -> tuple[bytes, list[int]]:
    """Find what X has beyond ``restored``, which came back from its cells alone.

    Gives these extras as bytes (none if X came back whole) and the fields that had to be carried as they are,
    whose cells need no coding.
    """
    if schema.container != "frame":
        array = np.asarray(X)
        return (b"" if array.dtype == restored.dtype else _pack({"dtype": array.dtype.str}, None)), []
    head: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    fields = {f.name: j for j, f in enumerate(schema.fields)}
    carried: list[int] = []
    for place, label in enumerate(schema.order):
        own, back = X[label].reset_index(drop=True), restored[label]
        if same(own, back):
            continue
        if str(label) in fields and same(own, _cast(back, str(own.dtype))):
            head.setdefault("cast", {})[str(place)] = str(own.dtype)
            continue
        columns[f"c{place}"] = own
        if str(label) in fields:
            carried.append(fields[str(label)])
    index = X.index
    if isinstance(index, pd.RangeIndex):
        if (index.start, index.step) != (0, 1) or index.name is not None:
            head["range"] = [index.start, index.stop, index.step]
            head["names"] = [index.name]
    else:
        head["names"] = list(index.names)
        head["multi"] = isinstance(index, pd.MultiIndex)
        for level in range(index.nlevels):
            columns[f"i{level}"] = pd.Series(index.get_level_values(level)).reset_index(drop=True)
    if columns:
        head["dtypes"] = {name: str(column.dtype) for name, column in columns.items()}
        lists = {name: values for name, column in columns.items() if (values := _as_list(column)) is not None}
        head["lists"] = lists
        columns = {name: column for name, column in columns.items() if name not in lists}
    if not head:
        return b"", []
    return _pack(head, pd.DataFrame(columns) if columns else None), carried


def put_back(restored: Any, extras: bytes) -> Any:
    """Give ``restored`` what :func:`carry` found missing."""
    if not extras:
        return restored
    head, columns = _unpack(extras)
    if not isinstance(restored, pd.DataFrame):
        return restored.astype(np.dtype(head["dtype"]))
    out = restored.copy()
    for place, dtype in head.get("cast", {}).items():
        label = out.columns[int(place)]
        out[label] = _cast(out[label], dtype)
    levels = []
    for name, dtype in head.get("dtypes", {}).items():
        lists = head["lists"]
        column = pd.Series(lists[name], dtype=dtype) if name in lists else _cast(columns[name], dtype)
        if name[0] == "c":
            out[out.columns[int(name[1:])]] = column
        else:
            levels.append(column)
    if "range" in head:
        out.index = pd.RangeIndex(*head["range"], name=head["names"][0])
    elif head.get("multi"):
        out.index = pd.MultiIndex.from_arrays(levels, names=head["names"])
    elif levels:
        out.index = pd.Index(levels[0]).rename(head["names"][0])
    return out


def check_whole(X: Any, back: Any) -> None:
    """Raise ValueError, naming what, if ``back`` is not X again."""
    if isinstance(back, pd.DataFrame):
        for label in back.columns:
            if not same(X[label].reset_index(drop=True), back[label].reset_index(drop=True)):
                raise ValueError(
                    f"X: column {label!r} (dtype {X[label].dtype}) has values that can't be stored losslessly"
                )
        if not X.index.equals(back.index) or list(X.index.names) != list(back.index.names):
            raise ValueError(f"X: its index ({type(X.index).__name__}) can't be stored losslessly")
        if list(X.columns) != list(back.columns):
            raise ValueError("X must have its columns in the order seen in training")
    else:
        array = np.asarray(X)
        if array.dtype != back.dtype or not np.array_equal(array, back, equal_nan=array.dtype.kind == "f"):
            raise ValueError(f"X of dtype {array.dtype} has values that can't be stored losslessly")


def same(a: Any, b: Any) -> bool:
    """Tell whether two columns have equal values, blanks and dtype (a blank is a blank, be it None or
    NaN)."""
    if a.dtype != b.dtype or len(a) != len(b):
        return False
    blank = a.isna().to_numpy()
    if not np.array_equal(blank, b.isna().to_numpy()):
        return False
    left, right = a[~blank], b[~blank]
    if left.dtype == object and [type(v) for v in left] != [type(v) for v in right]:
        return False
    return bool(np.array_equal(left.to_numpy(), right.to_numpy()))


def _as_list(column: pd.Series) -> list | None:
    """Write a column of text or whole numbers as a list for JSON, which takes less room than Parquet; None
    for others."""
    if column.dtype.kind in "iu" and isinstance(column.dtype, np.dtype):
        return column.tolist()
    values = [None if blank else v for v, blank in zip(column.tolist(), column.isna(), strict=True)]
    text = isinstance(column.dtype, pd.StringDtype) or column.dtype == object
    return values if text and all(v is None or type(v) is str for v in values) else None


def _cast(column: Any, dtype: str) -> Any:
    if str(column.dtype) == dtype:
        return column
    try:
        return column.astype(dtype)
    except (TypeError, ValueError):
        return column


def _pack(head: dict[str, Any], columns: pd.DataFrame | None) -> bytes:
    try:
        text = json.dumps(head, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"X: the names of its index can't be stored: {error}") from None
    data = _block(text)
    if columns is not None:
        buffer = io.BytesIO()
        try:
            columns.to_parquet(buffer, index=False, compression=None)
        except (TypeError, ValueError) as error:  # pyarrow's errors are among these
            raise ValueError(
                f"X: columns left out of the model, or its index, can't be stored: {error}"
            ) from None
        data += buffer.getvalue()
    thin, thick = zlib.compress(data, 9), lzma.compress(data, lzma.FORMAT_ALONE, preset=9)
    return b"z" + thin if len(thin) <= len(thick) else b"x" + thick


def _unpack(extras: bytes) -> tuple[dict[str, Any], Any]:
    data = (
        zlib.decompress(extras[1:]) if extras[:1] == b"z" else lzma.decompress(extras[1:], lzma.FORMAT_ALONE)
    )
    reader = Reader(data)
    head = json.loads(reader.take(reader.varint()))
    rest = reader.rest()
    return head, pd.read_parquet(io.BytesIO(rest)) if rest else None
