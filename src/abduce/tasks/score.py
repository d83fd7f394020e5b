"""Scoring: how plausible a row is, in nats, and against the model's own samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from abduce.inference.importance import log_prob
from abduce.models.latent import LatentVariableModel


def realism(
    model: LatentVariableModel,
    x: Tensor,
    observed: Tensor,
    log_jacobian: Callable[[Tensor, Tensor], Tensor],
    references: int = 1000,
    samples: int = 128,
    seed: int = 0,
) -> Tensor:
    """Share of the model's own samples that are less plausible than each row, in [0, 1], shape ``(n,)``.

    Like is compared with like: the samples are scored on the same cells that the row has observed, so rows are grouped by
    their pattern of blanks.  ``log_jacobian(x, observed)`` takes densities from model space to the data's units.
    """
    generator = torch.Generator(device=x.device).manual_seed(seed)
    with torch.no_grad():
        own = model.sample(references, generator)
    value = log_prob(model, x, observed, samples, seed).value + log_jacobian(x, observed)
    patterns, which = torch.unique(observed, dim=0, return_inverse=True)
    out = torch.empty_like(value)
    for i, pattern in enumerate(patterns):
        same = pattern.expand_as(own)
        own_value = (log_prob(model, own, same, samples, seed).value + log_jacobian(own, same)).sort().values
        rows = which == i
        out[rows] = torch.searchsorted(own_value, value[rows].contiguous()).to(value.dtype) / references
    return out
