"""Patterns of what is hidden.

Every function returns a *keep* mask, True where a cell stays observed. The NumPy functions make test cases of
one pattern for all rows; `hide` is what training uses: each row of a batch gets its own pattern, in a few
tensor operations.

An event of two or three dimensions is an image (H, W) or (H, W, C), whose pixels are hidden with all their
channels; an event of one dimension is a row of a table or a series.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

SIDES = ("top", "bottom", "left", "right")
PATTERNS = {"mcar": 0.5, "block": 0.2, "half": 0.2, "every_kth": 0.1}


def mcar(shape: tuple[int, ...], rate: float, rng: np.random.Generator) -> np.ndarray:
    """Hide each cell with probability `rate`, missing completely at random; `shape` is (n, *event).

    >>> bool(mcar((2, 3), 0.0, np.random.default_rng(0)).all())
    True
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be between 0 and 1, got {rate}")
    return rng.random(shape) >= rate


def block(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> np.ndarray:
    """Hide a block of about `share` of each row's cells: a rectangle of an image, a run of a table's columns.

    >>> block((1, 4), 0.5, np.random.default_rng(0)).sum(axis=1)
    array([2])
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    n, event = shape[0], _event(shape)
    if len(event) == 1:
        return ~_run(n, event[0], round(share * event[0]), rng.random(n))
    height, width = event[:2]
    side = math.sqrt(share)
    rows = _run(n, height, round(side * height), rng.random(n))
    columns = _run(n, width, round(side * width), rng.random(n))
    return _with_channels(~(rows[:, :, None] & columns[:, None, :]), event)


def half(shape: tuple[int, ...], rng: np.random.Generator, side: str | None = None) -> np.ndarray:
    """Hide half of each row.

    Images: `side` names the half that is hidden (top, bottom, left, right), None draws one for each row.
    Tables: a random run of half the columns, wrapping round the end; `side` must be None.

    >>> half((1, 2, 2), np.random.default_rng(0), side="bottom")[0]
    array([[ True,  True],
           [False, False]])
    """
    n, event = shape[0], _event(shape)
    if len(event) == 1:
        if side is not None:
            raise ValueError(f"side is for images; rows of shape {event} have no {side!r}")
        d = event[0]
        start = rng.integers(0, d, n)
        return (np.arange(d) - start[:, None]) % d >= d // 2
    if side is not None and side not in SIDES:
        raise ValueError(f"side must be one of {', '.join(SIDES)} or None, got {side!r}")
    which = np.full(n, SIDES.index(side)) if side else rng.integers(0, 4, n)
    height, width = event[:2]
    row, column = np.arange(height)[:, None], np.arange(width)[None, :]
    halves = np.stack(
        np.broadcast_arrays(row < height // 2, row >= height // 2, column < width // 2, column >= width // 2)
    )
    return _with_channels(~halves[which], event)


def every_kth(shape: tuple[int, ...], k: int, offset: int = 0) -> np.ndarray:
    """Keep every k-th cell only (of each axis of an image), beginning at `offset`.

    >>> every_kth((1, 5), 2)
    array([[ True, False,  True, False,  True]])
    """
    if k < 1 or not 0 <= offset < k:
        raise ValueError(f"k must be at least 1 and offset in 0..k-1, got k={k}, offset={offset}")
    n, event = shape[0], _event(shape)
    if len(event) == 1:
        return np.broadcast_to(np.arange(event[0]) % k == offset, shape).copy()
    rows, columns = (np.arange(size) % k == offset for size in event[:2])
    grid = np.broadcast_to(rows[:, None] & columns[None, :], (n, *event[:2]))
    return _with_channels(grid, event).copy()


def _event(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"shape must be (n, D), (n, H, W) or (n, H, W, C), got {shape}")
    return tuple(shape[1:])


def _run(n: int, size: int, length: int, where: np.ndarray) -> np.ndarray:
    """Mark in each of n rows one run of `length` cells; `where` (n,) in [0, 1) places it."""
    start = np.floor(where * (size - length + 1)).astype(int)[:, None]
    place = np.arange(size)
    return (place >= start) & (place < start + length)


def _with_channels(mask: np.ndarray, event: tuple[int, ...]) -> np.ndarray:
    if len(event) == 2:
        return mask
    return np.broadcast_to(mask[..., None], (*mask.shape, event[2])).copy()


# ---------------------------------------------------------------- training


def hide(
    observed: Tensor,
    event_shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    complete_share: float = 0.25,
    patterns: Mapping[str, float] | None = None,
) -> Tensor:
    """Draw for each row of a batch what stays visible.

    A row is left as it is with probability `complete_share`; else it gets one pattern, drawn with the weights
    in `patterns` (default `PATTERNS`), of random size: cells at random at a rate uniform in (0, 1), a block,
    a half, or every k-th with k in 2..4.

    Parameters
    ----------
    observed : (B, D) bool, the cells there are.
    event_shape : (D,), (H, W) or (H, W, C) with product D.
    generator : on the device of `observed`.

    Returns
    -------
    Tensor
        The keep mask (B, D), a subset of `observed`.

    Examples
    --------
    >>> keep = hide(torch.ones(8, 4, dtype=torch.bool), (4,), torch.Generator().manual_seed(0))
    >>> keep.shape
    torch.Size([8, 4])
    """
    if observed.ndim != 2 or observed.shape[1] != math.prod(event_shape):
        raise ValueError(
            f"observed has shape {tuple(observed.shape)}, expected (B, {math.prod(event_shape)})"
        )
    if not 0 <= complete_share <= 1:
        raise ValueError(f"complete_share must be between 0 and 1, got {complete_share}")
    weights = dict(PATTERNS if patterns is None else patterns)
    if unknown := set(weights) - set(PATTERNS):
        raise ValueError(f"patterns: unknown {sorted(unknown)}; expected some of {sorted(PATTERNS)}")
    total = sum(weights.values())
    if total <= 0 or min(weights.values()) < 0:
        raise ValueError(f"patterns must have weights at least 0 and one above, got {weights}")
    n = observed.shape[0]
    image = len(event_shape) > 1
    height, width = tuple(event_shape[:2]) if image else (1, *event_shape)
    # Each pattern is drawn only for its share of the rows (a random one of the two whole numbers around it),
    # and the rows are then shuffled: a third of the work of drawing every pattern for every row.
    shift = float(torch.rand((), device=observed.device, generator=generator))
    complete = math.floor(round(complete_share * n, 9) + shift)
    parts = [torch.ones(complete, height, width, dtype=torch.bool, device=observed.device)]
    below = complete_share
    for name, weight in weights.items():
        above = below + (1 - complete_share) * weight / total
        rows = math.floor(round(above * n, 9) + shift) - math.floor(round(below * n, 9) + shift)
        if rows:
            draw = _Draws(rows, observed.device, generator)
            parts.append(_DRAWN[name](draw, height, width, image).expand(rows, height, width))
        below = above
    order = torch.randperm(n, device=observed.device, generator=generator)
    flat = torch.cat(parts).flatten(1)[order]
    if len(event_shape) == 3:
        flat = flat.repeat_interleave(event_shape[2], dim=1)
    return flat & observed


class _Draws:
    """Draw uniform numbers of shape (B, 1, 1), or (B, *size)."""

    def __init__(self, rows: int, device: torch.device, generator: torch.Generator | None) -> None:
        self.rows, self.device, self.generator = rows, device, generator

    def __call__(self, *size: int) -> Tensor:
        shape = (self.rows, *(size or (1, 1)))
        return torch.rand(shape, device=self.device, generator=self.generator)

    def range(self, size: int, axis: int) -> Tensor:
        """Number the cells of an axis, shaped to broadcast."""
        place = torch.arange(size, device=self.device)
        return place[None, :, None] if axis == 0 else place[None, None, :]


def _draw_mcar(draw: _Draws, height: int, width: int, image: bool) -> Tensor:
    # Eight cells share one random 64-bit number, a byte each: the draws are most of the cost of a mask.
    words = -(-draw.rows * height * width // 8)
    bits = torch.randint(-(2**63), 2**63 - 1, (words,), device=draw.device, generator=draw.generator)
    level = bits.view(torch.uint8)[: draw.rows * height * width].reshape(draw.rows, height, width)
    return level >= torch.floor(draw() * 257)


def _span(draw: _Draws, size: int, axis: int, smallest: float, largest: float) -> Tensor:
    length = torch.round((smallest + (largest - smallest) * draw()) * size).clamp(1, size)
    start = torch.floor(draw() * (size - length + 1))
    place = draw.range(size, axis)
    return (place >= start) & (place < start + length)


def _draw_block(draw: _Draws, height: int, width: int, image: bool) -> Tensor:
    if not image:
        return ~_span(draw, width, 1, 0.1, 0.7)
    return ~(_span(draw, height, 0, 0.25, 0.8) & _span(draw, width, 1, 0.25, 0.8))


def _draw_half(draw: _Draws, height: int, width: int, image: bool) -> Tensor:
    column = draw.range(width, 1)
    if not image:  # a run of half the columns, wrapping round the end
        start = torch.floor(draw() * width)
        return torch.remainder(column - start, width) >= width // 2
    row, side = draw.range(height, 0), torch.floor(draw() * 4)
    first, last = row < height // 2, column < width // 2
    hidden = torch.where(side < 2, first ^ (side == 1), last ^ (side == 3))
    return ~hidden


def _draw_every_kth(draw: _Draws, height: int, width: int, image: bool) -> Tensor:
    k = 2 + torch.floor(draw() * 3)
    offset = torch.floor(draw() * k)
    kept = torch.remainder(draw.range(width, 1), k) == offset
    if image:
        kept = kept & (torch.remainder(draw.range(height, 0), k) == torch.floor(draw() * k))
    return kept.expand(-1, height, width)


_DRAWN = {"mcar": _draw_mcar, "block": _draw_block, "half": _draw_half, "every_kth": _draw_every_kth}
