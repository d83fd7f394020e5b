"""Dropout: units left out in training, each by chance, and the others larger in proportion.

    y = x · kept / (1 − p),   kept ~ Bernoulli(1 − p), one for each number

Processes that train together leave out what one process would: each draws for the rows of the whole batch, by torch's own
generator, which the training loop seeds alike in all of them, and takes its rows' part.

Source: Srivastava et al. 2014.

>>> float(Dropout(0.5).eval()(torch.ones(3)).sum())
3.0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from abduce.together import of_rows


class Dropout(nn.Module):
    """Leave out a share p of the numbers (..., rows, units), or of images (draws · rows, planes, H, W)."""

    def __init__(self, p: float, images: bool = False):
        super().__init__()
        self.p, self.images = p, images

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        # as convolutions keep them: the planes of a pixel together
        units = x.movedim(1, -1) if self.images else x
        of_a_row = units.shape[-3 if self.images else -1 :]
        shape = (x.numel() // of_a_row.numel(), *of_a_row)
        kept = of_rows(self._drawn, shape, 0, dtype=x.dtype, device=x.device).view(units.shape)
        return x * (kept.movedim(-1, 1) if self.images else kept)

    def _drawn(self, shape: Sequence[int], **how: Any) -> Tensor:
        return torch.empty(shape, **how).bernoulli_(1 - self.p).div_(1 - self.p)
