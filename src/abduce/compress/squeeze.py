"""General compressors: bytes in, the shortest of what they make of them out.

    raw, deflate -9, bz2 -9, LZMA2 as ``xz -9e`` runs it, without the file format around it

Of much data the extreme setting, a second or two a megabyte, runs only where it may matter: LZMA2 in its fast mode, with a
window as wide, and bz2 come first, and it runs for the layout that does best in fast mode (up to :data:`TWICE` bytes for the
best two), where that is within :data:`HOPE` times the shortest so far, or as near as the caller says.  Up to :data:`SMALL`
bytes all run.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from abduce.compress.container import CompressedDataError, Reader, varint

TINY = 2**14  # bytes up to which deflate, which needs least to say what it does, may win
SMALL = 2**18  # bytes up to which everything is tried
TWICE = 2**21
HOPE = 1.5  # how much longer than the shortest the fast mode may be for the extreme one to run
EXPANDS = 2**18  # no stream stands for more times its own bytes
FAST, EXTREME = 1, 9 | lzma.PRESET_EXTREME

RAW, DEFLATE, BZ2, LZMA2 = range(4)


def squeeze(data: bytes) -> bytes:
    """The shortest form of ``data``, which says itself what it is and how long.

    >>> squeeze(b"abc"), len(squeeze(b"abc" * 1000)) < 40, unsqueeze(Reader(squeeze(b"abc" * 1000))) == b"abc" * 1000
    (b'\\x0cabc', True, True)
    """
    return shortest([lambda: data])[1]


def shortest(
    layouts: Sequence[Callable[[], bytes]], beat: float = math.inf, hope: float = HOPE
) -> tuple[int, bytes]:
    """The shortest form of any of several layouts of the same data, and which it is; ``beat`` bytes are enough to lose."""
    best, which, hopes = b"", -1, []
    for place, layout in enumerate(layouts):
        data = layout()
        forms = [_framed(RAW, data, data)]
        if len(data) <= TINY:
            forms.append(_framed(DEFLATE, data, _deflated(data)))
        forms.append(_framed(BZ2, data, bz2.compress(data, _blocks(len(data)))))
        small = len(data) <= SMALL
        forms.append(_framed(LZMA2, data, _lzma2(data, EXTREME if small else FAST)))
        if not small:
            hopes.append((len(forms[-1]), place))
        for form in forms:
            if (which < 0 or len(form) < len(best)) and len(data) <= EXPANDS * len(form):
                best, which = form, place
    for rank, (length, place) in enumerate(sorted(hopes)[:2]):
        if length < hope * min(len(best), beat):
            data = layouts[place]()
            if rank and len(data) > TWICE:
                break
            form = _framed(LZMA2, data, _lzma2(data, EXTREME))
            if len(form) < len(best):
                best, which = form, place
    return which, best


def unsqueeze(reader: Reader, most: float = math.inf) -> bytes:
    """Read what :func:`squeeze` wrote; CompressedDataError if it is not that, or of more than ``most`` bytes."""
    head = reader.varint()
    length, method = divmod(head, 4)
    payload = reader.take(length) if method == RAW else reader.block()
    if length > most or length > EXPANDS * (len(payload) + 4):
        raise CompressedDataError("data does not decode: a part of it is longer than it can be")
    if method == RAW:
        return payload
    try:
        out = _inflated(method, payload, length)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise CompressedDataError(f"data does not decode: {error}") from None
    if len(out) != length:
        raise CompressedDataError("data does not decode: a part of it is shorter than it says")
    return out


def _framed(method: int, data: bytes, payload: bytes) -> bytes:
    return varint(4 * len(data) + method) + (payload if method == RAW else varint(len(payload)) + payload)


def _deflated(data: bytes) -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return engine.compress(data) + engine.flush()


def _lzma2(data: bytes, preset: int) -> bytes:
    return lzma.compress(data, lzma.FORMAT_RAW, filters=[{**_window(len(data)), "preset": preset}])


def _blocks(length: int) -> int:
    """The level of bz2 whose blocks hold all of ``length`` bytes: it makes what -9 would make, in less memory."""
    return min(9, 1 + length // 95_000)


def _window(length: int) -> dict[str, Any]:
    """LZMA2 with a window that holds all of ``length`` bytes, up to the 64 MiB of ``xz -9``."""
    size = 2 ** min(26, max(12, (length - 1).bit_length()))
    return {"id": lzma.FILTER_LZMA2, "dict_size": size}


def _inflated(method: int, payload: bytes, length: int) -> bytes:
    """At most ``length`` bytes of a stream, and no more memory than these and its window take."""
    if not length:
        return b""
    if method == DEFLATE:
        return zlib.decompressobj(-15).decompress(payload, length)
    if method == BZ2:
        return bz2.BZ2Decompressor().decompress(payload, length)
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, None, [_window(length)]).decompress(payload, length)
