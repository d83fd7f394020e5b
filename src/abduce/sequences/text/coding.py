"""Texts as few bytes: range coding by a law that learns as it reads, or a general compressor where that is shorter.

The bytes: magic "ABDT", format version, CRC-32 of the rest; then how (1 byte), CRC-32 of the texts' UTF-8, how many texts + 1,
or 0 for one that came by itself, the length of each, and what the coder wrote.  How is one of

    0   general: lengths in bytes, UTF-8 as the shortest of raw, deflate, bz2 and LZMA2
    1   by the fitted law: 4 bytes that say which; lengths in symbols
    2   by a law that has read nothing before; its order; lengths in symbols
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

from abduce.compress.container import CompressedDataError, Reader, varint
from abduce.compress.ranges import RangeDecoder, RangeEncoder
from abduce.compress.squeeze import squeeze, unsqueeze
from abduce.sequences.text.follower import Chooser, Follower
from abduce.sequences.text.kneser_ney import KneserNey
from abduce.sequences.text.vocabulary import CODE_POINTS, Spelling, Vocabulary

MAGIC, VERSION = b"ABDT", 1
GENERAL, FITTED, FRESH = range(3)
_BEYOND = 16  # bytes after its end that a decoder may ask for
_CLEARLY = 0.9  # the fitted law is not tried against a fresh one where it is this much shorter than general compressors


class Coder:
    """Codes texts with a law and its vocabulary, which both grow with what is read."""

    def __init__(self, law: KneserNey, vocabulary: Vocabulary):
        self.follower = Follower(law)
        self.vocabulary = vocabulary
        self.symbols = dict(enumerate(vocabulary.symbols))
        self.numbers = {symbol: k for k, symbol in self.symbols.items()}
        self.speller = None if vocabulary.spelling is None else _Speller(vocabulary.spelling)

    def encode(self, texts: Sequence[str]) -> tuple[list[int], bytes]:
        """Lengths of texts in symbols, and the bytes."""
        coder, lengths = RangeEncoder(), []
        for text in texts:
            self.follower.begin()
            parts = self.vocabulary.split(text)
            lengths.append(len(parts))
            for symbol in parts:
                number = self.numbers.get(symbol, -1)
                self.follower.code(coder, number)
                self._take_in(symbol, number, coder)
        return lengths, coder.to_bytes()

    def decode(self, data: bytes, lengths: Sequence[int]) -> list[str]:
        """The texts; CompressedDataError if the data end before they do."""
        coder, out = RangeDecoder(data), []
        for length in lengths:
            self.follower.begin()
            parts: list[str] = []
            for _ in range(length):
                number = self.follower.code(coder)
                symbol = self.symbols[number] if number >= 0 else ""
                parts.append(self._take_in(symbol, number, coder))
                if coder.beyond > _BEYOND:
                    raise CompressedDataError("data does not decode: it ends before its texts do")
            out.append("".join(parts))
        return out

    def _take_in(self, symbol: str, number: int, coder: RangeEncoder | RangeDecoder) -> str:
        """Learn a symbol; one that is not known is spelled first."""
        if number >= 0:
            self.follower.learn(number)
            return symbol
        if self.speller is not None:
            symbol = self.speller.code(coder, symbol)
        else:
            symbol = chr(coder.uniform(CODE_POINTS, ord(symbol) if symbol else None))
        number = self.follower.learn(None)
        self.symbols[number] = symbol
        self.numbers[symbol] = number
        return symbol


class _Speller:
    """Codes words character by character, up to their end."""

    def __init__(self, spelling: Spelling):
        self.follower, self.end = Follower(spelling.law), spelling.end
        self.symbols = dict(enumerate(spelling.characters.symbols))
        self.numbers = {c: k for k, c in self.symbols.items()}

    def code(self, coder: Chooser, word: str) -> str:
        """Code a word; to decode give an empty one."""
        self.follower.begin()
        read, writing = "", bool(word)
        while True:
            here = word[len(read) : len(read) + 1]
            given = None if not writing else self.numbers.get(here, -1) if here else self.end
            number = self.follower.code(coder, given)
            if number == self.end:
                self.follower.learn(number)
                return read
            if number < 0:
                here = chr(coder.uniform(CODE_POINTS, ord(here) if here else None))
                number = self.follower.learn(None)
                self.symbols[number], self.numbers[here] = here, number
            else:
                self.follower.learn(number)
            read += self.symbols[number]
            if len(read) > CODE_POINTS:
                raise CompressedDataError("data does not decode: a word has no end")


def pack(
    texts: Sequence[str], alone: bool, law: KneserNey | None, vocabulary: Vocabulary, mark: bytes, order: int
) -> bytes:
    """Texts in the shortest form; without a law by one that has read nothing, of this order."""
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    joined = b"".join(raw)
    check = struct.pack("<I", zlib.crc32(joined))
    head = varint(0 if alone else len(texts) + 1)
    forms = [bytes([GENERAL]) + check + head + b"".join(varint(len(r)) for r in raw) + squeeze(joined)]
    if law is not None:
        lengths, data = Coder(law, vocabulary).encode(texts)
        forms.append(bytes([FITTED]) + check + mark[:4] + head + b"".join(map(varint, lengths)) + data)
    if law is None or len(forms[-1]) > _CLEARLY * len(forms[0]):
        lengths, data = Coder(KneserNey.blank(order), Vocabulary.of([], "char")).encode(texts)
        forms.append(bytes([FRESH]) + check + bytes([order]) + head + b"".join(map(varint, lengths)) + data)
    body = min(forms, key=len)
    return MAGIC + bytes([VERSION]) + struct.pack("<I", zlib.crc32(body)) + body


def unpack(data: bytes, law: KneserNey | None, vocabulary: Vocabulary, mark: bytes) -> tuple[list[str], bool]:
    """Texts of :func:`pack`, and whether one came by itself; CompressedDataError if they are not, or of another model."""
    if not data.startswith(MAGIC):
        raise CompressedDataError(
            f"data was not written by Text.compress: it starts with {data[:4]!r}, expected {MAGIC!r}"
        )
    reader = Reader(data[len(MAGIC) :])
    if (version := reader.take(1)[0]) != VERSION:
        raise CompressedDataError(f"data has format version {version}; this abduce reads version {VERSION}")
    expected = struct.unpack("<I", reader.take(4))[0]
    if zlib.crc32(data[len(MAGIC) + 5 :]) != expected:
        raise CompressedDataError("data is truncated, or was changed after it was written (checksum differs)")
    how, check = reader.take(1)[0], struct.unpack("<I", reader.take(4))[0]
    if how == FITTED and (own := reader.take(4)) != mark[:4]:
        prints = (
            f"its fingerprint is {own.hex()}, this model's is {mark[:4].hex() or 'none: it is not fitted'}"
        )
        raise CompressedDataError(f"data was compressed with another model: {prints}")
    order = reader.take(1)[0] if how == FRESH else 0
    count = reader.varint()
    lengths = [reader.varint() for _ in range(max(1, count - 1) if count != 1 else 0)]
    if how == GENERAL:
        joined = unsqueeze(reader, sum(lengths))
        ends = np.cumsum([0, *lengths])
        raw = [joined[ends[k] : ends[k + 1]] for k in range(len(lengths))]
        texts = [r.decode("utf-8", "surrogatepass") for r in raw]
    elif how == FITTED and law is not None:
        texts = Coder(law, vocabulary).decode(reader.rest(), lengths)
    else:
        texts = Coder(KneserNey.blank(order), Vocabulary.of([], "char")).decode(reader.rest(), lengths)
    if zlib.crc32(b"".join(text.encode("utf-8", "surrogatepass") for text in texts)) != check:
        raise CompressedDataError("data does not decode to the texts that were compressed (checksum differs)")
    return texts, count == 0
