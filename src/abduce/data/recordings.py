"""Recordings: samples over time in one or more channels, from a WAV file or an array, and the gaps in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from abduce.data.wav import Wav, plain_wav, read_wav


class Recording:
    """A recording as it came, and its samples as numbers (T, channels), those that are missing marked.

    Parameters
    ----------
    X : path, or array (T,) or (T, channels)
        A WAV file, or samples: integers, or floats with NaN where a sample is missing.
    rate : int or None
        Samples a second; None: as the file says.
    gaps : sequence of (start, stop) or None
        Stretches that are missing, whatever is there.
    unit : {"seconds", "samples"}
        Of ``gaps``.
    usual : int or None
        The rate of arrays that come without.
    bits : int or None
        Of each sample of an array; None: as its type has.
    """

    def __init__(
        self,
        X: Any,
        rate: Any = None,
        gaps: Any = None,
        unit: str = "seconds",
        usual: int | None = None,
        bits: int | None = None,
    ):
        self.name = "the recording"
        if isinstance(X, str | Path):
            self.wav, self.name = read_wav(X), str(X)
            if rate is not None and rate != self.wav.rate:
                raise ValueError(
                    f"rate is {rate!r}, but {X} has {self.wav.rate} samples a second: leave it out"
                )
        else:
            self.wav = plain_wav(_array(X), _rate(usual if rate is None else rate), bits)
        samples = self.wav.samples
        self.values = np.array(samples, dtype=float).reshape(len(samples), -1)
        if np.isinf(self.values).any():
            where = int(np.argwhere(np.isinf(self.values))[0, 0])
            raise ValueError(f"{self.name} has an infinite sample at {where}: mark what is missing by NaN")
        self.missing = np.isnan(self.values)
        for start, stop in stretches(gaps, len(samples), self.wav.rate, unit):
            self.missing[start:stop] = True
        self.values[self.missing] = np.nan
        silent = np.atleast_1d(self.missing.all(0))
        if silent.any():
            which = "" if len(silent) == 1 else f" in channel {int(np.argmax(silent))}"
            raise ValueError(
                f"nothing of {self.name} was seen{which}: a fill needs some samples around the gap"
            )

    @property
    def rate(self) -> int:
        """Samples a second."""
        return self.wav.rate

    def put(self, values: np.ndarray) -> np.ndarray:
        """The recording with values (T, channels) where samples are missing; all others as they were, to the bit."""
        out = np.array(self.wav.samples)
        flat = out.reshape(self.values.shape)
        flat[self.missing] = self.typed(values)[self.missing]
        return out

    def typed(self, values: np.ndarray) -> np.ndarray:
        """Values in the type of the samples: rounded and cut off at its ends, of integers."""
        kind = self.wav.samples.dtype
        if kind.kind == "f":
            return values.astype(kind)
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        if self.wav.bits == 24:
            low, high = -(1 << 23), (1 << 23) - 1
        return np.nan_to_num(np.rint(values)).clip(low, high).astype(kind)

    def shaped(self, values: np.ndarray) -> np.ndarray:
        """Values (n, channels) as (n,) where the samples are (T,)."""
        return values[:, 0] if self.wav.samples.ndim == 1 else values

    def file(self, samples: np.ndarray) -> Wav:
        """Samples as a file of this one's format, with all else that it holds if there are as many."""
        if len(samples) == len(self.wav.samples):
            return replace(self.wav, samples=samples)
        return plain_wav(samples, self.rate, self.wav.bits)


def recordings(X: Any, rate: Any, gaps: Any, unit: str) -> list[Recording]:
    """A recording, or each of a list of them; ``gaps`` go with one alone."""
    if isinstance(X, list | tuple) and len(X) and not isinstance(X[0], Real):
        if gaps is not None:
            raise ValueError("gaps go with one recording: of a list mark what is missing by NaN")
        return [Recording(x, rate) for x in X]
    return [Recording(X, rate, gaps, unit)]


def stretches(gaps: Any, length: int, rate: int, unit: str) -> list[tuple[int, int]]:
    """Gaps as pairs (first sample, one beyond the last), in order, those that overlap or touch merged.

    >>> stretches([(0.5, 0.7), (0.6, 0.8)], 1000, 1000, "seconds")
    [(500, 800)]
    """
    if gaps is None:
        return []
    if unit not in ("seconds", "samples"):
        raise ValueError(f"unit must be 'seconds' or 'samples', got {unit!r}")
    if isinstance(gaps, tuple) and len(gaps) == 2 and isinstance(gaps[0], Real):
        gaps = [gaps]
    found: list[tuple[int, int]] = []
    for start, stop in sorted(_pairs(gaps)):
        scale = rate if unit == "seconds" else 1
        first, last = round(start * scale), round(stop * scale)
        shown = f"gap {start:g}:{stop:g} ({unit})"
        if stop < start:
            raise ValueError(f"{shown} starts after its end: give (start, stop)")
        if first == last:
            raise ValueError(f"{shown} has length zero: it holds no sample")
        if first < 0 or last > length:
            whole = length / scale
            raise ValueError(f"{shown} lies outside of the recording, which has 0:{whole:g}")
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found


def _pairs(gaps: Iterable[Sequence[float]]) -> list[tuple[float, float]]:
    try:
        pairs = [(float(start), float(stop)) for start, stop in gaps]
    except (TypeError, ValueError):
        raise ValueError(f"gaps must be pairs (start, stop), got {gaps!r}") from None
    if not np.isfinite(pairs).all():
        raise ValueError(f"gaps must be finite, got {gaps!r}")
    return pairs


def _array(X: Any) -> np.ndarray:
    samples = np.asarray(X)
    good = samples.dtype in (np.uint8, np.int16, np.int32) or samples.dtype.kind == "f"
    if not good:
        raise TypeError(
            f"a recording must be a WAV file or an array of uint8, int16, int32 or floats, got {samples.dtype}"
        )
    if samples.ndim not in (1, 2) or not samples.size:
        raise ValueError(f"a recording must have shape (T,) or (T, channels), got {samples.shape}")
    if samples.ndim == 2 and samples.shape[1] > max(64, samples.shape[0]):
        raise ValueError(f"a recording must have shape (T, channels), got {samples.shape}: transpose it")
    if samples.dtype.kind == "f" and samples.dtype.itemsize not in (4, 8):
        samples = samples.astype(np.float32 if samples.dtype.itemsize < 4 else np.float64)
    return samples


def _rate(rate: Any) -> int:
    if not isinstance(rate, Integral) or isinstance(rate, bool) or rate < 1:
        raise ValueError(f"rate must be a whole number of samples a second, as in rate=44100, got {rate!r}")
    return int(rate)
