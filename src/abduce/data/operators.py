"""Linear maps of a row, y = A x: what a camera, a screen or a measurement makes of it.

    Identity                        y = x
    Separable(rows, columns, C)     each channel of an image, Y_c = R X_c Cᵀ: averaging, bicubic shrinking, Gaussian blur
    Dense(matrix, channels)         any matrix, of a row or of each channel

Kernels reach over an image's border: "reflect" mirrors the image about the centres of its outer pixels (c b | a b c), "zero"
has zeros there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

BORDERS = ("reflect", "zero")
KERNELS = ("box", "bicubic")
Entrywise = Callable[[Tensor], Tensor]


class Operator(Protocol):
    """A linear map from rows (..., D) to what is seen of them (..., d)."""

    @property
    def disjoint(self) -> bool:
        """Whether no cell of x feeds two cells of y: A diag(s²) Aᵀ is then diagonal."""
        ...

    def apply(self, x: Tensor) -> Tensor:
        """A x, (..., D) -> (..., d)."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y, (..., d) -> (..., D)."""
        ...

    def each(self, f: Entrywise) -> Operator:
        """The map of the entries f(A), for an f with f(a b) = f(a) f(b): squares, absolute values."""
        ...


@dataclass(frozen=True)
class Identity:
    """y = x."""

    disjoint = True

    def apply(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def each(self, f: Entrywise) -> Identity:
        return self


IDENTITY = Identity()


@dataclass(frozen=True, eq=False)
class Scaled:
    """An operator on rows whose cells are first multiplied by ``scale`` (D,): y = A diag(scale) x."""

    operator: Operator
    scale: Tensor

    @property
    def disjoint(self) -> bool:
        return self.operator.disjoint

    def apply(self, x: Tensor) -> Tensor:
        return self.operator.apply(x * self.scale.to(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.operator.adjoint(y) * self.scale.to(y)

    def each(self, f: Entrywise) -> Scaled:
        return Scaled(self.operator.each(f), f(self.scale))


@dataclass(frozen=True, eq=False)
class Separable:
    """Y_c = R X_c Cᵀ for each channel c of an image: ``rows`` R (h, H), ``columns`` C (w, W).

    >>> half = box(2, 4)
    >>> Separable(half, half).apply(torch.arange(16.0)).tolist()
    [2.5, 4.5, 10.5, 12.5]
    """

    rows: Tensor
    columns: Tensor
    channels: int = 1

    @property
    def disjoint(self) -> bool:
        return _disjoint(self.rows) and _disjoint(self.columns)

    def apply(self, x: Tensor) -> Tensor:
        return self._map(x, self.rows, self.columns)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._map(y, self.rows.mT, self.columns.mT)

    def each(self, f: Entrywise) -> Separable:
        return Separable(f(self.rows), f(self.columns), self.channels)

    def _map(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        x = x.unflatten(-1, (rows.shape[1], columns.shape[1], self.channels))
        return torch.einsum("ih,...hwc,jw->...ijc", rows.to(x), x, columns.to(x)).flatten(-3)


@dataclass(frozen=True, eq=False)
class Dense:
    """y = M x, ``matrix`` (d, D), for a row, or for the pixels of each channel of an image."""

    matrix: Tensor
    channels: int = 1

    @property
    def disjoint(self) -> bool:
        return _disjoint(self.matrix)

    def apply(self, x: Tensor) -> Tensor:
        return self._map(x, self.matrix)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._map(y, self.matrix.mT)

    def each(self, f: Entrywise) -> Dense:
        return Dense(f(self.matrix), self.channels)

    def _map(self, x: Tensor, matrix: Tensor) -> Tensor:
        x = x.unflatten(-1, (-1, self.channels))
        return torch.einsum("ip,...pc->...ic", matrix.to(x), x).flatten(-2)


def _disjoint(matrix: Tensor) -> bool:
    return bool(((matrix != 0).sum(0) <= 1).all())


# ---------------------------------------------------------------- images


def shrink(shape: Sequence[int], factor: int, kernel: str = "box") -> Operator:
    """Shrink images (H, W[, C]) by ``factor``, which divides both sides.

    "box" is the mean over blocks; "bicubic" Keys' cubic (a = −½) stretched by ``factor``, which antialiases, as
    ``torch.nn.functional.interpolate(mode="bicubic", antialias=True)`` and Pillow have it.

    Source: Keys 1981.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {list(KERNELS)}, got {kernel!r}")
    if factor == 1:
        return IDENTITY
    h, w, c = (*shape, 1)[:3]
    line = box if kernel == "box" else bicubic
    return Separable(line(factor, h), line(factor, w), c)


def gaussian_blur(shape: Sequence[int], width: float, border: str = "reflect") -> Separable:
    """Blur images (H, W[, C]) by a Gaussian of standard deviation ``width`` pixels, cut at four of them."""
    if not width > 0 or not math.isfinite(width):
        raise ValueError(f"width must be finite and above 0, got {width!r}")
    reach = max(1, math.ceil(4 * width))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    weights /= weights.sum()
    h, w, c = (*shape, 1)[:3]
    return Separable(smoothing(weights, h, border), smoothing(weights, w, border), c)


def convolution(shape: Sequence[int], kernel: np.ndarray, border: str = "reflect") -> Dense:
    """Convolve images (H, W[, C]) with a small ``kernel`` of odd sides: y_ij = Σ_ab k_ab x_{i−a, j−b}, (0, 0) its centre."""
    kernel = np.asarray(kernel, dtype=np.float64)
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"a kernel must be 2-D with odd sides, got shape {kernel.shape}")
    if not np.isfinite(kernel).all():
        raise ValueError("a kernel must be finite")
    h, w, c = (*shape, 1)[:3]
    a, b = kernel.shape[0] // 2, kernel.shape[1] // 2
    down, right = _sources(h, a, border), _sources(w, b, border)
    matrix = np.zeros((h, w, h + 1, w + 1))  # the last row and column of the sources are the zeros outside
    i, j = np.arange(h)[:, None], np.arange(w)[None, :]
    for p in range(kernel.shape[0]):
        for q in range(kernel.shape[1]):
            y, x = down[2 * a - p : 2 * a - p + h, None], right[2 * b - q : 2 * b - q + w]
            np.add.at(matrix, (i, j, y, x), kernel[p, q])
    return Dense(torch.from_numpy(matrix[:, :, :h, :w].reshape(h * w, h * w)), c)


def box(factor: int, size: int) -> Tensor:
    """Mean over blocks of a line, (size / factor, size)."""
    return torch.eye(size // factor, dtype=torch.float64).repeat_interleave(factor, 1) / factor


def bicubic(factor: int, size: int) -> Tensor:
    """Antialiased bicubic shrinking of a line, (size / factor, size): weights k(t), t in pixels of the smaller line, where

        k(t) = 3/2 |t|³ − 5/2 t² + 1 for |t| < 1,      −1/2 |t|³ + 5/2 t² − 4 |t| + 2 for |t| < 2,

    cut at the ends and scaled to a sum of one.
    """
    centres = torch.arange(size // factor, dtype=torch.float64) + 0.5
    t = ((torch.arange(size, dtype=torch.float64) + 0.5) / factor - centres.unsqueeze(1)).abs()
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weights = torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)


def smoothing(weights: np.ndarray, size: int, border: str) -> Tensor:
    """Weighted mean of a line's neighbours, ``weights`` symmetric and of odd length, (size, size)."""
    reach = len(weights) // 2
    sources = _sources(size, reach, border)
    matrix = np.zeros((size, size + 1))
    for k, weight in enumerate(weights):
        np.add.at(matrix, (np.arange(size), sources[k : k + size]), weight)
    return torch.from_numpy(matrix[:, :size].copy())


def _sources(size: int, reach: int, border: str) -> np.ndarray:
    """Which pixel each place −reach .. size + reach − 1 of a line shows; ``size`` where it is none."""
    if border not in BORDERS:
        raise ValueError(f"border must be one of {list(BORDERS)}, got {border!r}")
    if border == "reflect":
        return np.pad(np.arange(size), reach, mode="reflect")
    return np.pad(np.arange(size), reach, constant_values=size)
