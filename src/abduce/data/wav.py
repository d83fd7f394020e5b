"""WAV files, read and written in their own format: PCM of 8, 16, 24 and 32 bits, floats of 32 and 64.

A file is chunks, each four letters, a size and that many bytes.  Samples lie in ``data``; ``fmt `` says how.  What else a file
holds (titles, marks, a name of the encoder) is kept, byte by byte, when its samples are replaced.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from abduce.data.files import Clear, atomic, check_folder

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
OTHERS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x11: "IMA ADPCM", 0x55: "MP3"}
TYPES = {
    (PCM, 8): "u1",
    (PCM, 16): "<i2",
    (PCM, 24): "<i4",
    (PCM, 32): "<i4",
    (FLOAT, 32): "<f4",
    (FLOAT, 64): "<f8",
}
LARGEST = 0xFFFFFFFF - 8  # bytes of a file, whose size has 32 bits


@dataclass(frozen=True)
class Wav:
    """Samples (T,) or (T, channels) of a WAV file: uint8, int16, int32 (also of 24 bits: -2²³ to 2²³ - 1), float32, float64.

    ``before`` and ``after`` are the file's bytes around its samples.
    """

    samples: np.ndarray
    rate: int
    bits: int
    before: bytes = b""
    after: bytes = b""


def read_wav(path: str | Path) -> Wav:
    """Read a WAV file; FileNotFoundError if it is not there, ValueError if it is none or in a format that is not known."""
    path = Path(path)
    content = path.read_bytes()
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise Clear(
            f"{path} is no WAV file: it begins with {content[:4]!r}, not with b'RIFF'; convert it, for example by"
            f" ffmpeg -i {path.name} {path.stem}.wav"
        )
    form, place = None, 12
    while place + 8 <= len(content):
        name, size = struct.unpack("<4sI", content[place : place + 8])
        place += 8
        if name == b"fmt ":
            form = content[place : place + size]
        elif name == b"data":
            if form is None or len(form) < 16:
                raise Clear(f"{path} is damaged: its samples come before a format that can be read")
            return _samples(path, content, form, place, min(size, len(content) - place))
        place += size + size % 2
    raise Clear(f"{path} is damaged: a WAV file without samples")


def _samples(path: Path, content: bytes, form: bytes, place: int, size: int) -> Wav:
    kind, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", form[:16])
    if kind == EXTENSIBLE and len(form) >= 26:
        kind = struct.unpack("<H", form[24:26])[0]
    if (kind, bits) not in TYPES:
        named = {PCM: "PCM", FLOAT: "float"} | OTHERS
        raise Clear(
            f"{path} holds {named.get(kind, f'format {kind}')} of {bits} bits; expected PCM of 8, 16, 24 or 32 bits or"
            " floats of 32 or 64"
        )
    if not channels or not rate or frame != channels * bits // 8:
        raise Clear(f"{path} is damaged: {channels} channels, {rate} samples a second, {frame} bytes a frame")
    size -= size % frame
    raw = np.frombuffer(content, np.uint8, size, place)
    if bits == 24:
        wide = np.zeros((size // 3, 4), np.uint8)
        wide[:, 1:] = raw.reshape(-1, 3)
        samples = wide.reshape(-1).view("<i4") >> 8
    else:
        samples = raw.view(TYPES[kind, bits]).copy()
    samples = samples.reshape(-1, channels)[:, 0] if channels == 1 else samples.reshape(-1, channels)
    native = samples.astype(samples.dtype.newbyteorder("="))
    return Wav(native, rate, bits, content[:place], content[place + size :])


def write_wav(path: str | Path, wav: Wav) -> Path:
    """Write a WAV file atomically: nobody sees half a file.  The bytes around the samples stay as they are, if there are any.

    Raises FileNotFoundError where there is no folder, ValueError for samples that no WAV file holds.
    """
    path = Path(path)
    check_folder(path)
    samples = np.asarray(wav.samples)
    kind = FLOAT if samples.dtype.kind == "f" else PCM
    if (kind, wav.bits) not in TYPES or samples.ndim not in (1, 2) or not samples.size:
        raise ValueError(
            f"samples of type {samples.dtype}, {wav.bits} bits and shape {samples.shape} do not fit in a WAV file: expected"
            " some of uint8, int16, int32, float32 or float64, (T,) or (T, channels)"
        )
    data = _bytes(samples, TYPES[kind, wav.bits], wav.bits)
    before, after = wav.before, wav.after
    if not before:
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        before, after = _header(kind, channels, wav.rate, wav.bits, len(data)), b"\0" * (len(data) % 2)
    if len(before) + len(data) > LARGEST:
        raise ValueError(f"{len(data)} bytes of samples do not fit in a WAV file: write shorter pieces")
    return atomic(path, lambda file: file.write(before + data + after))


def plain_wav(samples: np.ndarray, rate: int, bits: int | None = None) -> Wav:
    """Samples that come from no file; ``bits`` are those of their type unless given.

    >>> plain_wav(np.zeros(3, np.int16), 8000).bits
    16
    """
    return Wav(samples, int(rate), bits or 8 * samples.dtype.itemsize)


def _bytes(samples: np.ndarray, kind: str, bits: int) -> bytes:
    flat = np.ascontiguousarray(samples.reshape(-1).astype(kind, copy=False))
    if bits == 24:
        return np.ascontiguousarray(flat.view(np.uint8).reshape(-1, 4)[:, :3]).tobytes()
    return flat.tobytes()


def _header(kind: int, channels: int, rate: int, bits: int, size: int) -> bytes:
    frame = channels * bits // 8
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, kind, channels, rate, rate * frame, frame, bits)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + size + size % 2, b"WAVE")
        + form
        + struct.pack("<4sI", b"data", size)
    )
