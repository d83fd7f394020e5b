"""Patterns of what is hidden from training: each row of a batch gets its own, in a few tensor operations.

An event of two or three dimensions is an image (H, W) or (H, W, C), whose pixels are hidden with all their channels; an event
of one dimension is a row of a table or a series.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from abduce.together import mine, total

PATTERNS = {"mcar": 0.5, "block": 0.2, "half": 0.2, "every_kth": 0.1}
COMPLETE = 0.25  # share of the rows that are left as they are


def hide(observed: Tensor, event_shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Draw for each row of a batch what stays visible.

    A row is left as it is with probability `COMPLETE`; else it gets one pattern, drawn with the weights in `PATTERNS`, of
    random size: cells at random at a rate uniform in (0, 1), a block, a half, or every k-th with k in 2..4.

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
    n = total(len(observed))
    image = len(event_shape) > 1
    height, width = tuple(event_shape[:2]) if image else (1, *event_shape)
    # Each pattern is drawn only for its share of the rows (a random one of the two whole numbers around it),
    # and the rows are then shuffled: a third of the work of drawing every pattern for every row.
    shift = float(torch.rand((), device=observed.device, generator=generator))
    complete = math.floor(round(COMPLETE * n, 9) + shift)
    parts = [torch.ones(complete, height, width, dtype=torch.bool, device=observed.device)]
    below = COMPLETE
    for name, weight in PATTERNS.items():
        above = below + (1 - COMPLETE) * weight / sum(PATTERNS.values())
        rows = math.floor(round(above * n, 9) + shift) - math.floor(round(below * n, 9) + shift)
        if rows:
            draw = _Draws(rows, observed.device, generator)
            parts.append(_DRAWN[name](draw, height, width, image).expand(rows, height, width))
        below = above
    order = torch.randperm(n, device=observed.device, generator=generator)
    flat = torch.cat(parts).flatten(1)[mine(order)]
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
