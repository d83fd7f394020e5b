"""What the distributions share: sums over observed cells, random numbers in a tensor's shape, the lattice of pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def masked_sum(cells: Tensor, observed: Tensor | None) -> Tensor:
    """Sum log-probabilities over observed cells; an unobserved cell adds exactly nothing."""
    return cells.sum(-1) if observed is None else torch.where(observed, cells, cells.new_zeros(())).sum(-1)


def uniform_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in (0, 1), never 0 or 1, in the shape of ``x``."""
    eps = torch.finfo(x.dtype).eps
    return torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device).clamp(eps, 1 - eps)


def normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers in the shape of ``x``."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def to_lattice(x: Tensor, half: float) -> Tensor:
    """Round to the nearest grey level in [−1, 1], levels 2·half apart."""
    return torch.round((x.clamp(-1, 1) + 1) / (2 * half)) * (2 * half) - 1
