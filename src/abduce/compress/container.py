"""The compressed file: a small header that refuses what it can't read, and the entropy coder's bits.

    4  magic "ABDC"             1  format version          varint  length of the body
    body:   4  CRC-32 of the rest of the body
            8  fingerprint of the model     varint  rows     1  flags
            coded by the model:
                4  CRC-32 of the decoded codes
                if blanks: a rate of observed cells, one byte for all columns or one for each
                if codes outside the training range: which fields, and their ranges
                if the table has more than its codes (see extras): that, losslessly
                the rest: the entropy coder's stack
            plain, without the model:
                the rest: all of the table, as extras have it
            zeros, where a file has too few bytes for its rows

The schema is not repeated: the fingerprint says which model, and the model knows it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

MAGIC = b"ABDC"
VERSION = 2
BLANKS, BLANKS_BY_COLUMN, RANGES, EXTRAS, PLAIN = 1, 2, 4, 8, 16
ROWS = (
    2**16
)  # no file holds more rows to a byte, so that what it says of itself bounds the memory it takes to read


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


def signed(value: int) -> bytes:
    """Write any whole number: 0, −1, 1, −2, .. as 0, 1, 2, 3, .."""
    return varint(value * 2 if value >= 0 else -value * 2 - 1)


def block(data: bytes) -> bytes:
    """Write bytes behind their number."""
    return varint(len(data)) + data


class Reader:
    """Reads numbers and bytes off a buffer; CompressedDataError at its end."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
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

    def signed(self) -> int:
        """Read what :func:`signed` wrote."""
        value = self.varint()
        return -(value + 1) // 2 if value & 1 else value // 2

    def block(self) -> bytes:
        return self.take(self.varint())

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)


@dataclass
class Packed:
    """What a compressed file holds; ``rates`` are bytes 0..255 (share of cells observed), one or one a cell.

    A ``plain`` one was coded without the model, and has nothing but ``extras``.
    """

    fingerprint: bytes
    rows: int
    check: int = 0
    payload: bytes = b""
    rates: bytes = b""
    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    extras: bytes = b""
    plain: bool = False

    def to_bytes(self) -> bytes:
        body = self.fingerprint[:8] + varint(self.rows)
        if self.plain:
            body += bytes([PLAIN]) + self.extras
        else:
            flags = (BLANKS * bool(self.rates)) | (BLANKS_BY_COLUMN * (len(self.rates) > 1))
            flags |= (RANGES * bool(self.ranges)) | (EXTRAS * bool(self.extras))
            body += struct.pack("<BI", flags, self.check)
            if self.rates:
                body += self.rates if len(self.rates) == 1 else block(zlib.compress(self.rates, 9))
            if self.ranges:
                body += varint(len(self.ranges))
                for place, (low, size) in self.ranges.items():
                    body += varint(place) + signed(low) + varint(size)
            body += (block(self.extras) if self.extras else b"") + self.payload
        body += bytes(max(0, -(-self.rows // ROWS) - len(body)))
        body = struct.pack("<I", zlib.crc32(body)) + body
        return MAGIC + bytes([VERSION]) + varint(len(body)) + body

    @classmethod
    def from_bytes(cls, data: bytes, fingerprint: bytes, n_cells: int) -> Packed:
        """Read the file; CompressedDataError if it is not ours, of another version or model, truncated or changed."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data must be bytes, got {type(data).__name__}")
        data = bytes(data)
        if not data.startswith(MAGIC):
            other = f"data was not written by compress: it starts with {data[:4]!r}, expected {MAGIC!r}"
            short = f"data is truncated: {len(data)} bytes, too few for any compressed data"
            raise CompressedDataError(short if MAGIC.startswith(data) else other)
        reader = Reader(data[len(MAGIC) :])
        version = reader.take(1)[0]
        if version != VERSION:
            age = f"{'newer' if version > VERSION else 'older'} format version {version}"
            raise CompressedDataError(f"data has the {age}; this abduce reads version {VERSION}")
        length = reader.varint()
        body = reader.rest()
        if len(body) < length:
            left = f"{len(body)} of {length} bytes"
            raise CompressedDataError(f"data is truncated: {left} are left after the header")
        if len(body) > length:
            raise CompressedDataError(f"data was changed: {len(body) - length} bytes follow its end")
        reader = Reader(body)
        if struct.unpack("<I", reader.take(4))[0] != zlib.crc32(body[4:]):
            raise CompressedDataError("data was changed after it was written (checksum differs)")
        if (own := reader.take(8)) != fingerprint[:8]:
            prints = f"its fingerprint is {own.hex()}, this model's is {fingerprint[:8].hex()}"
            raise CompressedDataError(f"data was compressed with another model: {prints}")
        rows = reader.varint()
        if rows > ROWS * len(body):
            raise CompressedDataError(f"data does not decode: {len(body)} bytes cannot hold {rows} rows")
        flags = reader.take(1)[0]
        if flags & PLAIN:
            return cls(fingerprint, rows, extras=reader.rest(), plain=True)
        out = cls(fingerprint, rows, struct.unpack("<I", reader.take(4))[0])
        if flags & BLANKS_BY_COLUMN:
            try:
                out.rates = zlib.decompressobj().decompress(reader.block(), n_cells + 1)
            except zlib.error as error:
                raise CompressedDataError(f"data does not decode: {error}") from None
        elif flags & BLANKS:
            out.rates = reader.take(1)
        if len(out.rates) not in (0, 1, n_cells):
            blank = f"blanks for {len(out.rates)} columns"
            raise CompressedDataError(f"data has {blank}, the model has {n_cells}")
        for _ in range(reader.varint() if flags & RANGES else 0):
            place, low, size = reader.varint(), reader.signed(), reader.varint()
            out.ranges[place] = low, size
        if flags & EXTRAS:
            out.extras = reader.block()
        out.payload = reader.rest()
        return out
