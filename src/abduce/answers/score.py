"""Scoring against a model's own samples: how realistic a row is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def realism(score: Callable[[Tensor, Tensor], Tensor], own: Tensor, x: Tensor, observed: Tensor) -> Tensor:
    """Share of the model's ``own`` samples (m, D) that are less plausible than each row of x, in [0, 1], shape ``(n,)``.

    ``score(x, observed)`` says how plausible rows are.  Like is compared with like: the samples are scored on the same cells
    that the row has observed, so rows are grouped by their pattern of blanks.
    """
    value = score(x, observed)
    patterns, which = torch.unique(observed, dim=0, return_inverse=True)
    out = torch.empty_like(value)
    for i, pattern in enumerate(patterns):
        own_value = score(own, pattern.expand(own.shape)).sort().values
        rows = which == i
        out[rows] = torch.searchsorted(own_value, value[rows].contiguous()).to(value.dtype) / len(own)
    return out
