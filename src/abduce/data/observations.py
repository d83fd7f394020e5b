"""What was done to clean data before we saw it, in the data's own units, and the way into model space.

    Noise(sigma)        Gaussian noise                        Quantise(step)            rounded to steps
    Blur(width)         blurred images                        Downsample(factor)        smaller images
    LinearMap(matrix)   any linear measurement of a row       Blanks()                  cells missing
    Flips(rate)         binary cells turned over              Thinned(rate)             counts of which a share was counted

All but the last three are one observation, y = A x + noise; blanks (NaN) may go with any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from abduce.data.operators import (
    BORDERS,
    IDENTITY,
    KERNELS,
    Dense,
    Operator,
    convolution,
    gaussian_blur,
    shrink,
)
from abduce.data.schema import Schema
from abduce.data.seen import Seen, View

# the view of y = A x + noise, from noise and A in model units
Linear = Callable[[Tensor | float, Operator], View]


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of standard deviation ``sigma``, in the data's units: one number, or one for each column of a table.

    >>> Noise(0.1)
    Noise(sigma=0.1)
    """

    sigma: float | Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Quantise:
    """Values known only to steps of width ``step``, as scanners, old cameras and rounding leave them.

    Taken as noise of variance step²/12, that of a uniform error within a step, and Gaussian: an approximation, good where
    steps are no wider than what the model leaves open of a cell.  Anything else that was rounded takes step / √12 as noise.

    Source: Bennett 1948.

    >>> Quantise(4).noise == 4 / 12**0.5
    True
    """

    step: float

    @property
    def noise(self) -> float:
        """Standard deviation of the error, step / √12."""
        return _number("step", self.step, above=True) / 12**0.5


@dataclass(frozen=True)
class Blur:
    """Images blurred by a Gaussian of standard deviation ``width`` pixels, or by a small kernel, then noise.

    Parameters
    ----------
    width : float, or 2-D array with odd sides
        An array is convolved with, its middle the pixel's own weight: motion, a defocused disc, any point spread function.
    noise : float
        Standard deviation of Gaussian noise after the blur.
    border : "reflect" or "zero"
        What lies outside the image: its mirror about the outer pixels' centres, or zeros (in the data's units).
    """

    width: float | np.ndarray
    noise: float = 0.0
    border: str = "reflect"


@dataclass(frozen=True)
class Downsample:
    """Images made smaller by a whole ``factor``, then noise of standard deviation ``noise``.

    ``kernel`` is "box", the mean over blocks of pixels, or "bicubic", antialiased as in Pillow and
    ``torch.nn.functional.interpolate(..., mode="bicubic", antialias=True)``.
    """

    factor: int
    kernel: str = "box"
    noise: float = 0.0


@dataclass(frozen=True)
class LinearMap:
    """y = ``matrix`` x + noise for rows x of numbers: sums, differences, projections, compressed sensing.

    ``matrix`` has shape (d, D) for D columns, or D pixels of an image, channels last, in C order; what was seen is (n, d).
    ``noise`` is one standard deviation, or one for each of the d measurements.
    """

    matrix: np.ndarray
    noise: float | Sequence[float] | np.ndarray = 0.0


def translate(
    schema: Schema, Y: Any, observation: Any, linear: Linear, encode: Callable[[Any], Seen]
) -> Seen:
    """What was seen of clean rows in model space, through the view that an observation in data units is there.

    ``observation`` is one of the above, or a `View` that needs no units (blanks, flips, thinned counts), which stays as it is.
    ``linear`` makes the view of all the others, from the noise's standard deviation and the operator A.  ``encode`` gives
    values and mask of Y in model space where Y are rows like any other.

    ValueError or TypeError where an argument is out of range, the data are of kinds that it does not fit, or Y has the
    wrong shape.
    """
    if isinstance(observation, View) and observation.kinds:
        if not observation.kinds.issuperset(f.kind for f in schema.fields):
            raise ValueError(
                f"{type(observation).__name__} takes all-{', '.join(observation.kinds)} data; "
                "this model has other kinds too"
            )
        return encode(Y)._replace(view=observation)
    if not isinstance(observation, Noise | Quantise | Blur | Downsample | LinearMap):
        names = "Blanks, Flips, Thinned, Noise, Quantise, Blur, Downsample or LinearMap"
        raise TypeError(f"observation must be {names} of abduce, got {observation!r}")
    loc, scale = _line(schema, type(observation).__name__)
    if isinstance(observation, LinearMap):
        return _measured(schema, Y, observation, linear)
    if isinstance(observation, Noise | Quantise):
        y, seen = _array(schema.modelled(Y), schema.shape)
        return Seen((y - loc) / scale, seen, linear(_levels(observation, schema) / scale, IDENTITY))
    if schema.container != "image":
        raise ValueError(
            f"{type(observation).__name__} needs a model of images, this one was fitted to a {schema.container}"
        )
    operator, shape = _of_images(schema, observation)
    noise = _number("noise", observation.noise) / float(scale[0])
    y, seen = _array(Y, shape)
    # y = A (loc + scale · m) + noise, all pixels of one loc and scale
    return Seen((y - operator.apply(loc)) / scale[0], seen, linear(noise, operator))


def _of_images(schema: Schema, observation: Blur | Downsample) -> tuple[Operator, tuple[int, ...]]:
    """The operator on a model's images, and the shape of what it gives."""
    h, w = schema.shape[:2]
    if isinstance(observation, Downsample):
        factor = observation.factor
        if not isinstance(factor, Integral) or factor < 1 or h % factor or w % factor:
            raise ValueError(f"factor must be a positive int that divides both {h} and {w}, got {factor!r}")
        _one_of("kernel", observation.kernel, KERNELS)
        small = (h // int(factor), w // int(factor), *schema.shape[2:])
        return shrink(schema.shape, int(factor), observation.kernel), small
    _one_of("border", observation.border, BORDERS)
    if isinstance(observation.width, Real):
        width = _number("width", observation.width, above=True)
        return gaussian_blur(schema.shape, width, observation.border), schema.shape
    return convolution(schema.shape, np.asarray(observation.width), observation.border), schema.shape


def _measured(schema: Schema, Y: Any, observation: LinearMap, linear: Linear) -> Seen:
    matrix = np.asarray(observation.matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != schema.n_cells or not np.isfinite(matrix).all():
        raise ValueError(f"matrix must be finite and of shape (d, {schema.n_cells}), got {matrix.shape}")
    loc, scale = _line(schema, "LinearMap")
    y, seen = _array(Y, matrix.shape[:1])
    A = torch.from_numpy(matrix)
    unit = (A * scale).square().sum(1).sqrt().clamp_min(1e-12)  # measurements of about unit size
    noise = _each("noise", observation.noise, len(matrix), "measurements") / unit
    return Seen((y - A @ loc) / unit, seen, linear(noise, Dense(A * scale / unit.unsqueeze(1))))


def _line(schema: Schema, name: str) -> tuple[Tensor, Tensor]:
    """Data value = loc + scale · model value, (D,) each; ValueError where some cells lie on no line."""
    bent = [f for f in schema.fields if f.line is None]
    binary = {f.kind for f in schema.fields} == {"binary"}
    if bent and binary:
        raise ValueError(
            f"column {bent[0].name!r} has categories that are no numbers, {bent[0].categories}: take Flips or Blanks"
        )
    wrong = {f.kind for f in bent} | {f.kind for f in schema.fields if f.coded and not binary}
    if wrong:
        raise ValueError(
            f"{name} takes real, pixel or all-binary data, this model also has kinds {sorted(wrong)}"
        )
    lines = torch.tensor([f.line for f in schema.fields], dtype=torch.float64).expand(schema.n_cells, 2)
    return lines[:, 0].clone(), lines[:, 1].clone()


def _array(Y: Any, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Y as numbers (n, d) with zeros at its blanks, and the mask of what was seen."""
    try:
        frame = isinstance(Y, pd.DataFrame)  # NA is no float
        array = Y.to_numpy(np.float64, na_value=np.nan) if frame else np.asarray(Y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"X must hold numbers under an observation with noise: {error}") from None
    if array.shape[1:] != tuple(shape):
        if len(shape) == 1 and array.ndim == 2:  # a table
            raise ValueError(f"X has {array.shape[1]} features, but {shape[0]} features are expected")
        raise ValueError(f"X must have shape (n, {', '.join(map(str, shape))}), got {array.shape}")
    if np.isinf(array).any():
        raise ValueError("X contains infinity")
    y = torch.from_numpy(
        np.array(array.reshape(len(array), math.prod(shape)))
    )  # a copy: frames may be read-only
    return y.nan_to_num(), ~torch.isnan(y)


def _levels(observation: Noise | Quantise, schema: Schema) -> Tensor:
    """Standard deviation of each cell's noise in data units, (D,)."""
    if isinstance(observation, Quantise):
        return torch.full((schema.n_cells,), observation.noise, dtype=torch.float64)
    if schema.container == "image":
        return torch.full((schema.n_cells,), _number("noise", observation.sigma), dtype=torch.float64)
    return _each("noise", observation.sigma, schema.n_cells, "columns")


def _each(name: str, given: Any, count: int, of_what: str) -> Tensor:
    """One number >= 0, or one for each of ``count``."""
    values = np.asarray(given, dtype=np.float64)
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError(f"{name} must be finite and >= 0, got {given!r}")
    if values.ndim and values.shape != (count,):
        raise ValueError(
            f"{name} must be one number or one for each of {count} {of_what}, got {values.shape}"
        )
    return torch.from_numpy(np.broadcast_to(values, (count,)).copy())


def _number(name: str, given: Any, above: bool = False) -> float:
    """One number >= 0, or above it."""
    value = float(given) if isinstance(given, Real) else float("nan")
    if not np.isfinite(value) or value < 0 or (above and value == 0):
        raise ValueError(f"{name} must be finite and {'above 0' if above else '>= 0'}, got {given!r}")
    return value


def _one_of(name: str, given: Any, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {given!r}")
