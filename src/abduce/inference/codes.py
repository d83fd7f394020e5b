"""Codes: latents turned and stretched so that distances between codes are distances between what they decode to.

Latents have no scale of their own: stretch one, and let the decoder undo it, and the model is the same.  With J(z) the
derivative of what z decodes to,

    c = A (z − m),        ‖A δ‖² = E_z ‖J(z) δ‖²        to first order the squared distance that a move δ makes in the data

A is (E JᵀJ)^½ but for a rotation, which is that of the codes' principal axes, the widest first; each points where the largest
of its loadings on the data is positive.  Of a linear decoder with orthogonal columns they are PCA's scores.

Source: the pull-back metric of a decoder, Arvanitidis, Hansen & Hauberg 2018 (arXiv:1710.11379), its mean in place of paths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

DECODED = 2000  # rows decoded on either side to take derivatives
STEP = 1e-3
LEAST = 1e-12  # share of the largest squared stretch below which a direction moves nothing


class CodeAxes(NamedTuple):
    """The map A (k, k) from latents to codes, the map back, and the latents m (k,) whose code is 0."""

    there: Tensor
    back: Tensor  # directions that move nothing stay at the centre
    centre: Tensor

    def codes(self, z: Tensor) -> Tensor:
        """The codes (n, k) of latents."""
        return (z - self.centre) @ self.there.T

    def latents(self, codes: Tensor) -> Tensor:
        """The latents (n, k) of codes."""
        return self.centre + codes @ self.back.T


@torch.no_grad()
def code_axes(decode: Callable[[Tensor], Tensor], z: Tensor) -> CodeAxes:
    """The axes of codes, from latents of rows.

    ``decode`` takes latents (n, k) to means of the cells (n, D), ``z`` are latents of rows, in double precision.

    >>> W = torch.tensor([[3.0, 0.0], [0.0, 0.5], [4.0, 0.0]]).double()
    >>> A = code_axes(lambda z: z @ W.T, torch.randn(500, 2, generator=torch.Generator().manual_seed(0)).double()).there
    >>> (A.T @ A - W.T @ W).abs().max() < 1e-6
    tensor(True)
    """
    n, k = z.shape
    centre, unit = z.mean(0), z.std(0, correction=0)
    unit = torch.where(unit > 0, unit, 1.0)
    rows = torch.linspace(0, n - 1, min(n, max(8, DECODED // k))).round().long()
    steps = torch.diag(STEP * unit)
    slopes = torch.stack([(decode(at + steps) - decode(at - steps)) / (2 * STEP) for at in z[rows]])
    stretch, axes = torch.linalg.eigh((slopes @ slopes.mT).mean(0))
    root = torch.where(stretch > LEAST * stretch[-1], stretch, 0.0).sqrt().unsqueeze(-1) * axes.T
    codes = (z - centre) / unit @ root.T
    turned = torch.linalg.eigh(codes.T @ codes).eigenvectors.flip(-1).T @ root
    back = torch.linalg.pinv(turned, rtol=LEAST**0.5)
    loadings = back.T @ slopes.mean(0)
    largest = loadings.gather(1, loadings.abs().argmax(1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0)
    return CodeAxes(sign * turned / unit, unit.unsqueeze(-1) * back * sign.T, centre)
