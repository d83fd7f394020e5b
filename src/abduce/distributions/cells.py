"""What the distributions share: sums over observed cells, standard normals, the lattice of pixels."""

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
    """Round to the nearest grey level in [−1, 1], levels 2·half apart; numbers on no lattice (half 0) stay as they are."""
    return x if not half else torch.round((x.clamp(-1, 1) + 1) / (2 * half)) * (2 * half) - 1


def standard_log_prob(noise: Tensor) -> Tensor:
    """log N(noise; 0, I) over the last axis, nats."""
    return -0.5 * (noise.square().sum(-1) + noise.shape[-1] * LOG_2PI)


def put(whole: Tensor, cells: list[int], values: Tensor) -> Tensor:
    """A copy of ``whole`` (..., d) with ``values`` in the place of some cells; leading axes broadcast."""
    index = torch.tensor(cells, device=values.device)
    return whole.expand(*values.shape[:-1], -1).index_copy(-1, index, values)
