"""Sequences of steps in the forms they come in, as whole numbers with −1 where a cell is missing; answers in the same form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

MOST_LEVELS = 64
LIST = "a list of arrays (T, D) or (T, H, W), or an array (T, D), (N, T, D) or (N, T, H, W)"


@dataclass(frozen=True)
class StepsForm:
    """How X came: one sequence, a list or an array of several; the shape of a step; the frames that are to be given back."""

    alone: bool
    stacked: bool
    shape: tuple[int, ...]  # of a step: (D,) or (H, W)
    frames: tuple[pd.DataFrame | None, ...]

    def like(self, parts: list[np.ndarray]) -> Any:
        """Answers of the sequences, arrays (T, ...) whose last axes are their own, in the form of X."""
        if self.alone:
            return self._framed(0, parts[0])
        return np.stack(parts) if self.stacked else [self._framed(i, part) for i, part in enumerate(parts)]

    def shaped(self, parts: list[np.ndarray]) -> Any:
        """The same for arrays (T, D), or (T, D, K), whose cells are put back where they were in a step."""
        return self.like([part.reshape(len(part), *self.shape, *part.shape[2:]) for part in parts])

    def _framed(self, i: int, part: np.ndarray) -> Any:
        frame = self.frames[i]
        if frame is None or part.shape != frame.shape:
            return part
        return pd.DataFrame(part, frame.index, frame.columns)


def steps_of(
    X: Any, shape: tuple[int, ...] | None = None, name: str = "X"
) -> tuple[list[np.ndarray], StepsForm]:
    """Sequences as int16 (T, D), −1 where missing (NaN or None), and their form; ``shape`` of a step: that of the fit.

    >>> sequences, form = steps_of([[[0, 1], [1, None]]])
    >>> sequences[0].tolist(), form.shape
    ([[0, 1], [1, -1]], (2,))
    """
    if isinstance(X, str | bytes | dict) or np.isscalar(X) or X is None:
        raise TypeError(f"{name} must be {LIST}, got {type(X).__name__}")
    alone = isinstance(X, pd.DataFrame) or (isinstance(X, np.ndarray) and X.ndim == 2)
    stacked = isinstance(X, np.ndarray) and X.ndim in (3, 4)
    if isinstance(X, np.ndarray) and not (alone or stacked) and X.dtype != object:
        raise ValueError(f"{name} must be {LIST}, got an array of shape {X.shape}")
    items = [X] if alone else list(X)
    if not items:
        raise ValueError(f"{name} holds no sequence")
    read = [_numbers(item, f"{name}[{i}]" if len(items) > 1 else name) for i, item in enumerate(items)]
    shapes = {r.shape[1:] for r in read}
    if len(shapes) > 1:
        raise ValueError(f"all steps of {name} must have one shape, got {sorted(shapes)}")
    own = shapes.pop()
    if shape is not None and own != shape:
        raise ValueError(f"steps of {name} have the shape {own}, expected {shape}, that of the fit")
    frames = tuple(item if isinstance(item, pd.DataFrame) else None for item in items)
    return [r.reshape(len(r), -1) for r in read], StepsForm(alone, stacked, own, frames)


def _numbers(item: Any, name: str) -> np.ndarray:
    try:
        values = np.asarray(item, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold whole numbers, blanks NaN or None: {error}") from None
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(f"{name} must be of shape (T, D) or (T, H, W), none of them 0, got {values.shape}")
    gone = np.isnan(values)
    bad = ~gone & ((values != np.floor(values)) | (values < 0) | (values >= MOST_LEVELS))
    if bad.any():
        first = values[bad][0]
        raise ValueError(
            f"cells of {name} must be whole numbers, 0 to {MOST_LEVELS - 1}, got {first:g}: threshold or bin numbers, or take "
            "abduce.Series, which is for numbers"
        )
    return np.where(gone, -1, np.nan_to_num(values)).astype(np.int16)


@dataclass(frozen=True)
class StepCells:
    """Which cells vary.  Those that never did in training are what they were, but for a share of half a step in all."""

    shape: tuple[int, ...]  # of a step
    levels: np.ndarray  # (D,)
    active: np.ndarray  # places of the cells that the law is of, in the chain's order
    usual: np.ndarray  # (D,): the value of cells that do not vary
    rare: float  # the probability that one of them is something else

    @classmethod
    def of(
        cls, sequences: list[np.ndarray], shape: tuple[int, ...], levels: int | None, span: str, flip: bool
    ):
        """Cells of training sequences.  ``span``: "all", those that "vary", or the "range" from the first such to the last."""
        x = np.concatenate(sequences)
        most = np.maximum(x.max(0).astype(int) + 1, 2)
        if levels is not None:
            if most.max() > levels:
                raise ValueError(
                    f"levels={levels}, but X has the value {most.max() - 1}: levels must be {most.max()}"
                )
            most = np.full(len(most), levels)
        varies = np.flatnonzero((x != x[:1]).any(0))
        if not len(varies):
            raise ValueError("no cell of X ever changes: there is nothing to learn from")
        active = {
            "all": np.arange(x.shape[1]),
            "vary": varies,
            "range": np.arange(varies[0], varies[-1] + 1),
        }[span]
        return cls(shape, most, active[::-1].copy() if flip else active, x[0].astype(int), 0.5 / (len(x) + 1))

    @property
    def still(self) -> np.ndarray:
        """Places of the cells that the law is not of."""
        return np.setdiff1d(np.arange(len(self.levels)), self.active)

    def check(self, sequences: list[np.ndarray], name: str = "X") -> None:
        """Refuse values that no cell can have."""
        for x in sequences:
            high = x >= self.levels
            if high.any():
                t, d = np.argwhere(high)[0]
                raise ValueError(
                    f"{name} has the value {x[t, d]} in step {t}, cell {d}, which had 0 to {self.levels[d] - 1} in training: "
                    "fit with levels= to allow for more"
                )

    def still_log_p(self, x: np.ndarray) -> np.ndarray:
        """log p of the cells that do not vary, of each step of (T, D); blanks count nothing."""
        part, usual, levels = x[:, self.still], self.usual[self.still], self.levels[self.still]
        odd = np.log(self.rare / (levels - 1))
        return np.where(part < 0, 0.0, np.where(part == usual, np.log1p(-self.rare), odd)).sum(1)

    def whole(self, x: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Steps (T, D) with the active cells' ``values`` (T, A) put in, and blanks elsewhere as they usually are."""
        out = np.where(x < 0, self.usual, x)
        out[:, self.active] = values
        return out
